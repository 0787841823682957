//! What the end-to-end suites share: the program, stores and mounts that clean up after themselves, loop
//! devices, a crash workload with its oracle, seeds.
//!
//! Nothing here knows the store's files: the suites see Outcrop as a person does, through the command line
//! and the mount. Every guard undoes what it did when dropped, also on a panic; what a killed run leaves,
//! `tests/tidy` removes.

pub mod content;
pub mod disk;
pub mod ioctl;
pub mod metrics;
pub mod need;
pub mod oracle;
pub mod program;
pub mod run;
pub mod scratch;
pub mod seed;
pub mod store;
pub mod wait;
pub mod workload;

pub use content::{assert_same_bytes, assert_same_file, read_direct};
pub use disk::{FileSystem, LoopDisk, LoopMount};
pub use metrics::Metrics;
pub use program::outcrop;
pub use run::{fails, run, sh};
pub use scratch::Scratch;
pub use seed::{Rng, seconds};
pub use store::TestStore;
pub use wait::wait_until;
