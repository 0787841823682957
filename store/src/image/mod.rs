//! Importing backing images: raw files and qcow2 in this process, other formats through `qemu-img`.
//!
//! The way of an image's bytes: `input → (qcow2 | raw | convert) → source → copy → layer`. An image is a sealed
//! root layer with a name; nothing on disk is its own.
//!
//! An image file comes from anywhere, and its reader may be root. So its format is told by its content
//! ([`format`]), no file that it names is opened but under a policy ([`input`]), and everything about a qcow2 file that
//! a reader could get wrong is checked before it is read ([`qcow2`]). An image is imported right or refused.
//!
//! Who has a store mounted lets another process read the image, and gets its content through a pipe ([`send`]).

mod convert;
mod copy;
mod failure;
mod format;
mod import;
mod input;
mod qcow2;
mod raw;
mod source;
mod stream;
#[cfg(test)]
mod tests;
mod view;

pub(crate) use convert::Workshop;
pub(crate) use copy::BlockSink;
pub(crate) use import::{Content, OpenImage};
pub(crate) use stream::Received;
pub use stream::{Reader, Surroundings, send};
pub(crate) use view::copy_view;

/// How an image is imported.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Refuse content with another SHA-256 (64 hex digits).
    pub sha256: Option<String>,
    /// Directories that backing files may lie in, besides the image's own.
    pub allow_backing_in: Vec<std::path::PathBuf>,
}

/// Told how an import goes; says when to stop.
pub trait Progress: Send + Sync {
    /// `done` of `total` bytes of the virtual content were read, hashed and stored.
    fn advance(&self, done: u64, total: u64);
    /// Asked now and then; `true` ends the import with `Interrupted` and leaves nothing behind.
    fn cancelled(&self) -> bool {
        false
    }
}
