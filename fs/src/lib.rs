//! The mount: the volumes of a [`Store`](outcrop_store::Store) as files of a FUSE file system.
//!
//! Three parts, from the kernel inwards:
//!
//! * [`Mount`] makes the mount, takes it away, and names who holds it ([`mount`]).
//! * The glue knows the `fuser` crate and nothing else does: it turns a request into a call of the tree, and sees that
//!   each is answered once, in time, whatever the disk does (`glue`, `pool`).
//! * The tree knows inodes, handles and names, and no kernel: tests call it directly (`tree`).
//!
//! Place on the write path: this is its beginning, `fs → volume → chain → layer → disk`.

mod glue;
pub mod meter;
pub mod mount;
mod options;
mod pool;
mod tree;

pub use mount::{Holder, Mount, MountError, UnmountMode};
pub use options::{MountOptions, OptionError, OtherOption};
