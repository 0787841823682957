//! Space put by for metadata: a preallocated file that is given up when the disk is full, so that deleting, catalog
//! commits and labels work then too, and made again once there is room.

use super::durable;
use super::gauge::{DiskSpace, space_of};
use crate::error::{Error, Result};
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Name of the file.
pub(crate) const FILE: &str = "reserve";

/// Bytes put by on a disk that is big enough.
const RESERVE_BYTES: u64 = 64 << 20;

/// Of a smaller disk, this part.
const RESERVE_PART: u64 = 16;

/// Free bytes that a catalog commit or an open of the catalog may need, but at most half of the reserve. sled can't be
/// asked again after ENOSPC, so below this the reserve is given up beforehand.
const ROOM_BYTES: u64 = 16 << 20;

/// The reserve of one disk.
pub(crate) struct Reserve {
    path: PathBuf,
    /// Bytes held now.
    held: Mutex<u64>,
}

impl Reserve {
    /// The reserve of the disk in `dir`, as it is: [`Reserve::restore`] makes it.
    pub fn new(dir: &Path) -> Self {
        let path = dir.join(FILE);
        let held = path.metadata().map_or(0, |m| (m.blocks() * 512).min(m.len()));
        Self { path, held: Mutex::new(held) }
    }

    /// Bytes put by now.
    pub fn held(&self) -> u64 {
        *self.held.lock()
    }

    /// Bytes that are put by when there is room.
    pub fn wanted(space: DiskSpace) -> u64 {
        (space.total / RESERVE_PART).min(RESERVE_BYTES) & !4095
    }

    /// Makes the reserve if it is not whole and twice its size is free; a file system that can't allocate has none.
    pub fn restore(&self) -> Result<()> {
        let mut held = self.held.lock();
        let space = space_of(&self.path.with_file_name(""))?;
        let wanted = Self::wanted(space);
        if *held >= wanted || space.available < 2 * wanted {
            return Ok(());
        }
        let file = self.open()?;
        if fallocate(&file, FallocateFlags::empty(), 0, wanted).is_err() {
            *held = 0;
            return file.set_len(0).map_err(|e| Error::io("emptying", &self.path, e));
        }
        file.sync_all().map_err(|e| Error::io("syncing", &self.path, e))?;
        durable::sync_dir(&self.path.with_file_name(""))?;
        *held = wanted;
        Ok(())
    }

    /// Gives the space back to the file system; says whether there was any.
    pub fn release(&self) -> Result<bool> {
        let mut held = self.held.lock();
        if *held == 0 {
            return Ok(false);
        }
        let file = self.open()?;
        file.set_len(0).map_err(|e| Error::io("emptying", &self.path, e))?;
        // ext4 hands freed blocks out only after its own commit.
        file.sync_all().map_err(|e| Error::io("syncing", &self.path, e))?;
        tracing::warn!(bytes = *held, "the disk is full: its metadata reserve is in use");
        *held = 0;
        Ok(true)
    }

    /// Gives the reserve up if so little is free that sled could fail.
    pub fn make_room(&self) -> Result<()> {
        let space = space_of(&self.path.with_file_name(""))?;
        if space.available < ROOM_BYTES.min(Self::wanted(space) / 2) {
            self.release()?;
        }
        Ok(())
    }

    /// Does `op`; when the disk is too full for it, gives the reserve up and tries once more.
    pub fn with<T>(&self, op: impl Fn() -> Result<T>) -> Result<T> {
        match op() {
            Err(e) if e.errno() == Errno::NOSPC && self.release()? => op(),
            done => done,
        }
    }

    fn open(&self) -> Result<File> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path)
            .map_err(|e| Error::io("opening", &self.path, e))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn is_given_up_once_when_the_disk_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(dir.path());
        reserve.restore().unwrap();
        let held = reserve.held();
        assert!(held > 0, "the test needs a file system with fallocate and room");
        assert_eq!(Reserve::new(dir.path()).held(), held);

        let full = || Err::<(), _>(Error::io("writing", "x", Errno::NOSPC));
        let tries = Cell::new(0);
        let done = reserve.with(|| {
            tries.set(tries.get() + 1);
            if tries.get() == 1 { full() } else { Ok(()) }
        });
        assert!(done.is_ok());
        assert_eq!((tries.get(), reserve.held()), (2, 0));

        // Without a reserve the error is the caller's, at once.
        tries.set(0);
        let done = reserve.with(|| {
            tries.set(tries.get() + 1);
            full()
        });
        assert_eq!((done.unwrap_err().errno(), tries.get()), (Errno::NOSPC, 1));
        reserve.restore().unwrap();
        assert_eq!(reserve.held(), held);
    }
}
