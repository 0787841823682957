//! Changes of small files and directories that are on the disk, in the cache's and the directory's sense, on return.
//!
//! A file is replaced by writing `<name>.tmp`, syncing it, renaming it over the old one and syncing the directory, so
//! that a crash leaves the old or the new content, and perhaps a `*.tmp` that the next open removes.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// How an unfinished replacement ends.
const TMP: &str = ".tmp";

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::io("syncing directory", dir, e))
}

/// Makes a file's content durable.
pub(crate) fn sync_file(path: &Path) -> Result<()> {
    File::open(path).and_then(|f| f.sync_all()).map_err(|e| Error::io("syncing", path, e))
}

/// Replaces one file: the old or the new content whatever happens, the new one on return.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    replace_all(&[(path.to_owned(), content.to_vec())])
}

/// Replaces files of one directory, each of them atomically (but not all of them together), with one sync of the directory.
pub(crate) fn replace_all(files: &[(PathBuf, Vec<u8>)]) -> Result<()> {
    for (path, content) in files {
        let tmp = tmp_of(path);
        let written = File::create(&tmp).and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        });
        if let Err(e) = written {
            // Best effort: a full disk must get its space back, and the next open removes what stays.
            for (path, _) in files {
                let _ = fs::remove_file(tmp_of(path));
            }
            return Err(Error::io("writing", &tmp, e));
        }
    }
    for (path, _) in files {
        fs::rename(tmp_of(path), path).map_err(|e| Error::io("replacing", path, e))?;
    }
    match files.first() {
        Some((path, _)) => sync_dir(parent(path)),
        None => Ok(()),
    }
}

/// Makes a directory if it is missing: there on return, durably. Says whether it was missing. Only its owner may enter it:
/// what is in a store is as secret as the volumes.
pub(crate) fn make_dir(dir: &Path) -> Result<bool> {
    let made = match fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => true,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => false,
        Err(e) => return Err(Error::io("making directory", dir, e)),
    };
    // Synced even if it was there: the maker may have died before this line.
    sync_dir(parent(dir))?;
    Ok(made)
}

/// Removes files of one directory, missing or not: gone on return, durably.
pub(crate) fn remove_all(paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io("removing", path, e)),
            _ => {}
        }
    }
    match paths.first() {
        Some(path) => sync_dir(parent(path)),
        None => Ok(()),
    }
}

/// Removes a directory with all in it, missing or not: gone on return, durably. Says whether it was there.
pub(crate) fn remove_tree(dir: &Path) -> Result<bool> {
    match fs::remove_dir_all(dir) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io("removing", dir, e)),
    }
    sync_dir(parent(dir))?;
    Ok(true)
}

/// Moves a file or directory within its file system: durable on return, on both sides.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|e| Error::io("moving", from, e))?;
    sync_dir(parent(to))?;
    sync_dir(parent(from))
}

/// Removes what unfinished replacements left in `dir`; gives their names.
pub(crate) fn remove_unfinished(dir: &Path) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for name in names_in(dir)? {
        if name.ends_with(TMP) {
            let path = dir.join(&name);
            fs::remove_file(&path).map_err(|e| Error::io("removing", &path, e))?;
            removed.push(name);
        }
    }
    Ok(removed)
}

/// The names in a directory, sorted. Names that aren't text are shown with replacement characters: the store makes none.
pub(crate) fn names_in(dir: &Path) -> Result<Vec<String>> {
    let failed = |e| Error::io("listing", dir, e);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn tmp_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TMP);
    name.into()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;

    #[test]
    fn replaces_and_leaves_nothing_unfinished() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.json");
        replace(&file, b"old").unwrap();
        replace(&file, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        fs::write(dir.path().join("b.json.tmp"), b"half").unwrap();
        assert_eq!(remove_unfinished(dir.path()).unwrap(), ["b.json.tmp"]);
        assert_eq!(names_in(dir.path()).unwrap(), ["a.json"]);
    }

    #[test]
    fn a_failed_replacement_keeps_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.json");
        replace(&file, b"old").unwrap();
        fs::create_dir(dir.path().join("a.json.tmp")).unwrap();
        assert!(replace(&file, b"new").is_err());
        assert_eq!(fs::read(&file).unwrap(), b"old");
    }
}
