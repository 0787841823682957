//! What is done about sums in a whole store: making them in the background, verifying everything, and remembering what
//! was found damaged.
//!
//! Below it are the layers with their sums; above it the store and its upkeep.

mod damage;
mod direct;
mod integrity;
mod run;
mod summing;

pub use damage::BadBlock;
pub(crate) use damage::Damage;
pub use integrity::Integrity;
pub(crate) use run::run;
pub use run::{Mismatch, ScrubOptions, ScrubReport};
pub(crate) use summing::Summing;
