//! `VOLUME[@SNAPSHOT]`: what is read from, as one argument.

use super::{same_store, volume_of};
use crate::failure::Failure;
use crate::locate::{self, Target};
use crate::mountinfo;
use anyhow::{Context as _, Result};
use outcrop_store::Name;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A volume, or a snapshot of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The volume, by its present name or the one that it had then.
    pub volume: Name,
    /// The snapshot; the volume itself when not given.
    pub snapshot: Option<Name>,
    /// The snapshot was given as a file, whose name `volume` is, whatever volume has that name now.
    pub is_file: bool,
}

/// What an argument names, and the store that it is in: `db`, `db@monday`, a file's path in a mount, or a snapshot's. The last
/// `@` of a name divides; one that belongs to a name is written `\x40`.
pub fn find(store: Option<&Path>, argument: &OsStr) -> Result<(PathBuf, Source)> {
    let bytes = argument.as_bytes();
    if bytes.contains(&b'/') {
        return match locate::target(argument)? {
            Target::Snapshot { path } => in_mount(store, &path),
            _ => volume_of(store, argument).map(|(store, volume)| (store, Source { volume, snapshot: None, is_file: false })),
        };
    }
    let Some(at) = bytes.iter().rposition(|&byte| byte == b'@') else {
        return volume_of(store, argument).map(|(store, volume)| (store, Source { volume, snapshot: None, is_file: false }));
    };
    let part = |bytes: &[u8]| locate::name(OsStr::from_bytes(bytes));
    let source = Source { volume: part(&bytes[..at])?, snapshot: Some(part(&bytes[at + 1..])?), is_file: false };
    Ok((locate::store(store)?, source))
}

/// A snapshot by its path: `MOUNT/.snapshots/NAME/VOLUME`.
fn in_mount(store: Option<&Path>, path: &Path) -> Result<(PathBuf, Source)> {
    let entries = mountinfo::read().context("reading /proc/self/mountinfo")?;
    let entry = mountinfo::containing(&entries, path).filter(|entry| entry.is_outcrop());
    let inside: Vec<_> = entry.and_then(|entry| path.strip_prefix(&entry.target).ok()).into_iter().flat_map(Path::iter).collect();
    match (entry, inside.as_slice()) {
        (Some(entry), [_, set, volume]) => {
            same_store(store, &entry.source)?;
            let source =
                Source { volume: Name::new(volume.as_bytes())?, snapshot: Some(Name::new(set.as_bytes())?), is_file: true };
            Ok((entry.source.clone(), source))
        }
        _ => Err(Failure::new(format!("{} is not a volume's snapshot", path.display()))
            .hint("give VOLUME@SNAPSHOT, or the path .snapshots/SNAPSHOT/VOLUME in the mount")
            .code(crate::failure::exit::USAGE)
            .into()),
    }
}
