//! What an import reads from: a virtual disk, front to back.

use crate::error::{Error, Result};
use std::path::Path;

/// A virtual disk that is read in order.
pub(super) trait Source {
    /// Virtual size in bytes: any number but 0, at most `MAX_VOLUME_SIZE`.
    fn size(&self) -> u64;

    /// What lies at byte `offset` (below the size), and how far it goes.
    fn extent(&mut self, offset: u64) -> Result<Extent>;

    /// Fills `buf` from byte `offset`; holes read zeros. The range lies inside the size, and may span extents.
    fn read(&mut self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// Asked when all was read: fails if a file changed meanwhile, since then the copy is of no one moment.
    fn check_unchanged(&self) -> Result<()>;
}

/// A range of a virtual disk, from the offset asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Whether it has to be read.
    pub(super) kind: ExtentKind,
    /// Bytes: at least 1, never past the end of the disk.
    pub(super) length: u64,
}

/// Whether an extent has to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExtentKind {
    /// Reads zeros.
    Hole,
    /// May hold anything, zeros included.
    Data,
}

/// A file that can't be read as what it says it is.
pub(super) fn bad(path: &Path, reason: impl Into<String>) -> Error {
    Error::BadImage { path: path.to_owned(), reason: reason.into() }
}
