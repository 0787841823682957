//! How much data a disk still takes: the floor that keeps deleting and metadata possible.

use crate::error::{Error, Result};
use rustix::fs::statvfs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// The most bytes given out between two looks at the disk.
const BUDGET_MAX: u64 = 16 << 20;

/// Watches the free space of one disk. Data writes ask it before they allocate.
pub(crate) struct Gauge {
    path: PathBuf,
    floor: u64,
    /// Bytes that may be taken before the disk is asked again.
    budget: AtomicI64,
}

/// What `statvfs` tells of a disk, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DiskSpace {
    pub total: u64,
    /// Free in all.
    pub free: u64,
    /// Free for those who aren't root.
    pub available: u64,
}

impl Gauge {
    /// A gauge for the disk in `path`. The floor is `floor_bytes`, but at most 1/16 of the disk.
    pub fn new(path: &Path, floor_bytes: u64) -> Result<Self> {
        let space = space_of(path)?;
        Ok(Self { path: path.to_owned(), floor: floor_bytes.min(space.total / 16), budget: AtomicI64::new(0) })
    }

    /// Bytes that data may not use.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// The disk's present space.
    pub fn space(&self) -> Result<DiskSpace> {
        space_of(&self.path)
    }

    /// Takes room for `bytes` of new data, or says `DiskFull`.
    pub fn take(&self, bytes: u64) -> Result<()> {
        let wanted = i64::try_from(bytes).unwrap_or(i64::MAX);
        if self.budget.fetch_sub(wanted, Relaxed) >= wanted {
            return Ok(());
        }
        let space = self.space()?;
        let usable = space.available.saturating_sub(self.floor);
        if usable < bytes {
            self.budget.store(0, Relaxed);
            return Err(Error::DiskFull { path: self.path.clone(), free: space.available, floor: self.floor });
        }
        // A quarter of what is left at most, so that several writers together stay above the floor.
        let budget = ((usable - bytes) / 4).min(BUDGET_MAX);
        self.budget.store(i64::try_from(budget).unwrap_or(0), Relaxed);
        Ok(())
    }
}

/// Space of the file system that holds `path`.
pub(crate) fn space_of(path: &Path) -> Result<DiskSpace> {
    let stat = statvfs(path).map_err(|e| Error::io("asking for the free space of", path, e))?;
    Ok(DiskSpace {
        total: stat.f_blocks * stat.f_frsize,
        free: stat.f_bfree * stat.f_frsize,
        available: stat.f_bavail * stat.f_frsize,
    })
}
