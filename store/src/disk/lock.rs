//! One process at a time: an exclusive lock on `<store>/lock`, which the kernel gives back when the holder dies.
//!
//! The file holds the holder's pid for people and for messages; only the lock itself is believed.

use crate::error::{Error, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Name of the file.
pub(crate) const FILE: &str = "lock";

/// Held as long as this lives.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock of the store in `dir`, or says who has it.
    pub fn take(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| refused(dir, &path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(Error::Locked { path: dir.to_owned(), pid });
            }
            Err(TryLockError::Error(e)) => return Err(Error::io("locking", &path, e)),
        }
        // In place and always of one length: on a full disk the block is there already. Without it the lock holds as well.
        let _ = file.write_all_at(format!("{:<15}\n", std::process::id()).as_bytes(), 0);
        Ok(Self { file })
    }
}

impl Lock {
    /// Gives the lock up before the file is closed: who holds a volume of a closed store holds its disk, too.
    pub fn release(&self) {
        let _ = self.file.unlock();
    }
}

impl Drop for Lock {
    /// Said aloud: closing alone would leave the lock with a child that another thread is just starting.
    fn drop(&mut self) {
        self.release();
    }
}

/// Why the first write to a directory failed, in words.
fn refused(dir: &Path, path: &Path, e: io::Error) -> Error {
    let reason = match e.kind() {
        io::ErrorKind::PermissionDenied => "this user may not write in it",
        io::ErrorKind::ReadOnlyFilesystem => "its file system is mounted read-only",
        _ => return Error::io("opening", path, e),
    };
    Error::NotAStore { path: dir.to_owned(), reason: reason.to_owned() }
}
