//! Exports: from the store, here or in a daemon, to a file that this process writes with its own rights.
//!
//! The store's end reads (`outcrop_store::export`); this end writes: a daemon that runs as root writes no file for anybody. Between
//! the two, when a daemon has the store, are [`frames`] over the control socket. The file's [`destination`] is a temporary one
//! until it is whole and synced.

pub mod ask;
pub mod destination;
pub mod frames;
mod receive;
mod run;
mod watched;

pub use run::run;
