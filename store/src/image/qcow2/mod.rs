//! qcow2: read by imago, which is told nothing that was not checked here before.
//!
//! imago 0.2.6 reads what it reads as qemu does, but it trusts the file. Each of these is checked on headers and
//! tables that are parsed here, for every file of the chain, before imago sees it:
//!
//! * **encryption** (`crypt_method`): imago gives the ciphertext as if it were the content;
//! * **truncation**: bytes past the end of a file read zeros, in qemu too. Every mapping must lie inside its file;
//! * **dirty and corrupt bits**: mappings may be stale; `qemu-img check -r all` is the next step;
//! * **incompatible features**: unknown ones are refused; zstd and extended L2 entries go through `qemu-img`;
//! * **sizes**: a few bytes can declare 2^60; nothing is ever allocated by a declared size;
//! * **names of other files**: followed only as [`Policy`](super::input::Policy) allows. imago opens none itself;
//! * **loops and depth** of backing chains;
//! * a **feature name table** that is no multiple of 48 bytes, which makes imago panic.
//!
//! Internal snapshots are ignored: what is read is the active state. A panic in imago becomes a refusal.

mod chain;
mod compressed;
mod header;
mod reader;
mod tables;

pub(super) use chain::Chain;
#[cfg(test)]
pub(super) use chain::DEPTH_MAX;
pub(super) use reader::Qcow2Source;

/// The first bytes of every version.
pub(super) const MAGIC: &[u8; 4] = b"QFI\xfb";
