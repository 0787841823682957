//! Whether a directory can be the mount point, and what a killed daemon left there.

use super::table::{self, Entry};
use super::{MountError, system};
use rustix::io::Errno;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

/// How long something that is mounted there has to say whether it lives.
const ALIVE_LIMIT: Duration = Duration::from_secs(5);
/// Dead mounts that are detached, one over the other, before it is given up.
const DEAD_MAX: usize = 16;

/// Checks a mount point, and detaches dead mounts on it. Gives its absolute path, without symbolic links.
pub(super) fn prepare(path: &Path, store: &Path) -> Result<PathBuf, MountError> {
    let bad = |reason| MountError::BadMountPoint { path: path.to_owned(), reason };
    let io = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => bad("it does not exist; make the directory first"),
        io::ErrorKind::NotADirectory => bad("it is not a directory"),
        _ => MountError::io("looking at mount point", path, error),
    };
    // Nothing is asked of the directory itself yet: a dead mount would refuse, and one that hangs would keep us.
    let absolute = std::path::absolute(path).map_err(io)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(bad("it is the root of all; choose another directory"));
    };
    clear(&parent.canonicalize().map_err(io)?.join(name))?;
    // It may have been a symbolic link to one.
    let path = absolute.canonicalize().map_err(io)?;
    clear(&path)?;
    if !path.metadata().map_err(io)?.is_dir() {
        return Err(bad("it is not a directory"));
    }
    // Before emptiness: a store is not empty either, and this says more.
    if is_inside(&path, store).map_err(io)? || is_inside(store, &path).map_err(io)? {
        return Err(MountError::InsideEachOther { path, store: store.to_owned() });
    }
    if path.read_dir().map_err(io)?.next().is_some() {
        return Err(bad("it is not empty"));
    }
    Ok(path)
}

/// Sees that nothing is mounted at `path`: what is dead is detached, what lives is an error.
fn clear(path: &Path) -> Result<(), MountError> {
    for _ in 0..DEAD_MAX {
        let Some(entry) = table::mounted_at(path).map_err(|e| MountError::io("reading", "/proc/self/mountinfo", e))? else {
            return Ok(());
        };
        if !is_dead(path) {
            return Err(already_mounted(entry));
        }
        tracing::warn!(path = %path.display(), kind = entry.kind, "a dead mount that its daemon left is detached");
        system::detach(path)?;
    }
    Err(MountError::BadMountPoint { path: path.to_owned(), reason: "too many dead mounts lie on it; run 'umount -l' on it" })
}

fn already_mounted(entry: Entry) -> MountError {
    MountError::AlreadyMounted { mounted: format!("{} (type {})", entry.source.display(), entry.kind), path: entry.path }
}

/// Whether a mount has lost its daemon. One that does not answer in time is not dead: somebody may still serve it.
fn is_dead(path: &Path) -> bool {
    let (answer, answered) = channel();
    let path = path.to_owned();
    let spawned = std::thread::Builder::new().name("outcrop-probe".to_owned()).spawn(move || {
        let _ = answer.send(rustix::fs::stat(&path).err());
    });
    spawned.is_ok() && answered.recv_timeout(ALIVE_LIMIT) == Ok(Some(Errno::NOTCONN))
}

/// Whether `inner` is `outer` or lies in it, by what directories they are, so that bind mounts and links don't hide it.
fn is_inside(inner: &Path, outer: &Path) -> io::Result<bool> {
    let outer = outer.metadata()?;
    let same = |dir: &Path| dir.metadata().is_ok_and(|dir| dir.dev() == outer.dev() && dir.ino() == outer.ino());
    Ok(inner.canonicalize()?.ancestors().any(same))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_can_not_be_a_mount_point() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let inside = store.join("inside");
        let file = dir.path().join("file");
        let full = dir.path().join("full");
        let empty = dir.path().join("empty");
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::create_dir_all(full.join("x")).unwrap();
        std::fs::create_dir(&empty).unwrap();
        std::fs::write(&file, "").unwrap();
        let told = |path: &Path| prepare(path, &store).unwrap_err().to_string();
        assert!(told(&dir.path().join("missing")).contains("does not exist"));
        assert!(told(&file).contains("not a directory"));
        assert!(told(&file.join("below")).contains("not a directory"));
        assert!(told(&full).contains("not empty"));
        assert!(told(Path::new("/")).contains("choose another"));
        assert!(told(Path::new("/proc")).contains("mount point already"));
        for bad in [store.as_path(), inside.as_path(), dir.path()] {
            assert!(told(bad).contains("one inside the other"), "{}", bad.display());
        }
        std::os::unix::fs::symlink(&empty, dir.path().join("link")).unwrap();
        let canonical = empty.canonicalize().unwrap();
        assert_eq!(prepare(&empty, &store).unwrap(), canonical);
        assert_eq!(prepare(&dir.path().join("link"), &store).unwrap(), canonical);
    }
}
