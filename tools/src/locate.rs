//! Finds the store that a command is about, and what its arguments name.
//!
//! In this order: a path argument that lies in a mount, `--store` or `OUTCROP_STORE` (the store's directory, or a
//! path in its mount), the mount that the working directory lies in.

use crate::failure::{Failure, exit};
use crate::mountinfo::{self, Entry};
use anyhow::{Context as _, Result};
use outcrop_store::Name;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The file that makes a directory a store.
const IDENTITY: &str = "outcrop.json";

/// What an argument names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A name.
    Name(Name),
    /// The root of a mount, or the store itself.
    Root {
        /// The store.
        store: PathBuf,
    },
    /// A volume's file in a mount.
    Volume {
        /// The store.
        store: PathBuf,
        /// The file's name.
        name: Name,
    },
    /// A path under `.snapshots`.
    Snapshot {
        /// The path.
        path: PathBuf,
    },
}

/// A name as people write it: in the shown form; bytes that are not UTF-8 stand for themselves.
pub fn name(argument: &OsStr) -> Result<Name> {
    Ok(match argument.to_str() {
        Some(text) => Name::parse(text)?,
        None => Name::new(argument.as_bytes())?,
    })
}

/// An argument that may be a name or a path: what has a slash, or is `.` or `..`, is a path.
pub fn target(argument: &OsStr) -> Result<Target> {
    let bytes = argument.as_bytes();
    if !bytes.contains(&b'/') && bytes != b"." && bytes != b".." {
        return Ok(Target::Name(name(argument)?));
    }
    let path = absolute(Path::new(argument))?;
    let entries = mountinfo::read().context("reading /proc/self/mountinfo")?;
    place(&entries, &path)
}

/// What an absolute path is in the mounts there are.
fn place(entries: &[Entry], path: &Path) -> Result<Target> {
    let Some(entry) = mountinfo::containing(entries, path).filter(|entry| entry.is_outcrop()) else {
        return if path.join(IDENTITY).is_file() {
            Ok(Target::Root { store: path.to_owned() })
        } else {
            Err(Failure::new(format!("{} is neither a store nor in a mount of one", path.display()))
                .hint("what has a '/' is taken for a path, as no name can have one; 'findmnt -t fuse.outcrop' shows what is mounted")
                .into())
        };
    };
    let inside: Vec<_> = path.strip_prefix(&entry.target).map(|inside| inside.iter().collect()).unwrap_or_default();
    match inside.as_slice() {
        [] => Ok(Target::Root { store: entry.source.clone() }),
        [first, ..] if *first == OsStr::new(".snapshots") => Ok(Target::Snapshot { path: path.to_owned() }),
        [file] => Ok(Target::Volume { store: entry.source.clone(), name: Name::new(file.as_bytes())? }),
        _ => Err(Failure::new(format!("{} can't be a volume: a mount has no directories but .snapshots", path.display())).into()),
    }
}

/// The store that `--store` (or `OUTCROP_STORE`) names, or the working directory is in.
pub fn store(option: Option<&Path>) -> Result<PathBuf> {
    if let Some(option) = option {
        let path = absolute(option)?;
        let entries = mountinfo::read().context("reading /proc/self/mountinfo")?;
        return match mountinfo::containing(&entries, &path) {
            Some(entry) if entry.is_outcrop() => Ok(entry.source.clone()),
            // Whether it is a store is for opening it to say.
            _ => Ok(path),
        };
    }
    let here = std::env::current_dir().context("finding the working directory")?;
    let entries = mountinfo::read().context("reading /proc/self/mountinfo")?;
    match mountinfo::containing(&entries, &here) {
        Some(entry) if entry.is_outcrop() => Ok(entry.source.clone()),
        _ if here.join(IDENTITY).is_file() => Ok(here),
        _ => Err(Failure::new("which store? The working directory is not in a mount")
            .hint("give --store STORE (its directory, or a path in its mount), or set OUTCROP_STORE")
            .code(exit::USAGE)
            .into()),
    }
}

/// An absolute path without links in its directories. The last component is not looked at: it may be missing, and it may be
/// a dead mount that answers nothing.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).with_context(|| format!("finding {}", path.display()))?;
    let whole = std::fs::canonicalize(&path);
    if let Ok(whole) = whole {
        return Ok(whole);
    }
    let Some((parent, last)) = path.parent().zip(path.file_name()) else { return Ok(path) };
    match std::fs::canonicalize(parent) {
        Ok(parent) => Ok(parent.join(last)),
        Err(_) => Ok(path),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        let entry = |target: &str, fs_type: &str, source: &str| Entry {
            device: (0, 1),
            target: target.into(),
            fs_type: fs_type.into(),
            source: source.into(),
        };
        vec![
            entry("/", "ext4", "/dev/sda1"),
            entry("/mnt/vol", "fuse.outcrop", "/srv/store"),
            entry("/mnt/old", "tmpfs", "tmpfs"),
        ]
    }

    #[test]
    fn a_path_in_a_mount_names_its_store() {
        let of = |path: &str| place(&entries(), Path::new(path));
        let store = PathBuf::from("/srv/store");
        assert_eq!(of("/mnt/vol").unwrap(), Target::Root { store: store.clone() });
        assert_eq!(of("/mnt/vol/db").unwrap(), Target::Volume { store, name: Name::new("db").unwrap() });
        assert!(matches!(of("/mnt/vol/.snapshots/monday/db").unwrap(), Target::Snapshot { .. }));
        assert!(of("/mnt/vol/a/b").is_err());
        assert!(of("/mnt/old/db").unwrap_err().to_string().contains("neither a store nor in a mount"));
    }

    #[test]
    fn names_are_in_the_shown_form() {
        assert_eq!(target(OsStr::new("db")).unwrap(), Target::Name(Name::new("db").unwrap()));
        assert_eq!(name(OsStr::new("a\\x0ab")).unwrap().as_bytes(), b"a\nb");
        assert_eq!(name(OsStr::from_bytes(b"\xff")).unwrap().as_bytes(), b"\xff");
        for bad in ["", ".snapshots", &"x".repeat(256), "a\\q"] {
            assert!(name(OsStr::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_missing_path_still_has_an_absolute_form() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        assert_eq!(absolute(&real.join("link/nothing")).unwrap(), real.join("nothing"));
        assert_eq!(absolute(&real.join("no/such/dir")).unwrap(), real.join("no/such/dir"));
    }
}
