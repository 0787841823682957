//! Backups of volumes to object storage: chunk → pack → tree → manifest, and back.
//!
//! The place of the crate in the workspace, with nothing in it yet: no command offers backups. It will depend on
//! `outcrop-store`, and see a volume through one small trait.
