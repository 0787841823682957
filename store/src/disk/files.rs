//! Layer files, opened on demand under a limit.
//!
//! A [`Slot`] is one file. It opens at first use and may be closed when others need the descriptor, unless it is
//! pinned: a file with unflushed writes is never closed, since the kernel reports a failed write-back only to
//! descriptors that were open.

use crate::error::{Error, Result};
use parking_lot::{Mutex, RwLock};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};

/// The layer files of a disk that are open.
pub(crate) struct FileCache {
    limit: usize,
    open: AtomicUsize,
    clock: AtomicU64,
    slots: Mutex<Vec<Weak<Slot>>>,
}

/// One file.
pub(crate) struct Slot {
    path: PathBuf,
    cache: Arc<FileCache>,
    file: RwLock<Option<Arc<File>>>,
    used: AtomicU64,
    pinned: AtomicBool,
    /// Whether the cache knows of it.
    listed: AtomicBool,
}

impl FileCache {
    /// At most `limit` unpinned files stay open (at least 16).
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.max(16),
            open: AtomicUsize::new(0),
            clock: AtomicU64::new(0),
            slots: Mutex::new(Vec::new()),
        })
    }

    /// A slot for `path`; nothing is opened yet.
    pub fn slot(self: &Arc<Self>, path: PathBuf) -> Arc<Slot> {
        Arc::new(Slot {
            path,
            cache: Arc::clone(self),
            file: RwLock::new(None),
            used: AtomicU64::new(0),
            pinned: AtomicBool::new(false),
            listed: AtomicBool::new(false),
        })
    }

    /// Closes the longest unused files, an eighth of the limit at once, so that it is rarely done.
    fn make_room(&self) {
        let mut slots = self.slots.lock();
        let mut idle: Vec<(u64, Arc<Slot>)> = Vec::new();
        slots.retain(|weak| {
            let Some(slot) = weak.upgrade() else { return false };
            let is_open = slot.file.try_read().is_some_and(|file| file.is_some());
            if is_open && !slot.pinned.load(Relaxed) {
                idle.push((slot.used.load(Relaxed), slot));
            }
            true
        });
        idle.sort_unstable_by_key(|(used, _)| *used);
        for (_, slot) in idle.iter().take((self.limit / 8).max(1)) {
            // Whoever is opening or using the slot this moment keeps it; and who pins it and then finds it open relies
            // on that, so the pin is looked at again under the lock.
            if let Some(mut file) = slot.file.try_write()
                && !slot.pinned.load(Relaxed)
                && file.take().is_some()
            {
                self.open.fetch_sub(1, Relaxed);
            }
        }
        drop(slots);
    }
}

impl Slot {
    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, opened for reading and writing if it isn't open.
    pub fn get(self: &Arc<Self>) -> Result<Arc<File>> {
        if let Some(file) = self.file.read().as_ref() {
            self.touch();
            return Ok(Arc::clone(file));
        }
        if self.cache.open.load(Relaxed) >= self.cache.limit {
            self.cache.make_room();
        }
        let mut guard = self.file.write();
        if let Some(file) = guard.as_ref() {
            return Ok(Arc::clone(file));
        }
        let file = OpenOptions::new().read(true).write(true).open(&self.path).map_err(|e| Error::io("opening", &self.path, e))?;
        let file = Arc::new(file);
        *guard = Some(Arc::clone(&file));
        drop(guard);
        self.touch();
        self.cache.open.fetch_add(1, Relaxed);
        if !self.listed.swap(true, Relaxed) {
            self.cache.slots.lock().push(Arc::downgrade(self));
        }
        Ok(file)
    }

    /// The file if it is open and no wait is needed.
    pub fn try_get(&self) -> Option<Arc<File>> {
        let guard = self.file.try_read()?;
        let file = guard.as_ref().map(Arc::clone)?;
        self.touch();
        Some(file)
    }

    /// Closes the file, if it is open: it was removed.
    pub fn forget(&self) {
        if self.file.write().take().is_some() {
            self.cache.open.fetch_sub(1, Relaxed);
        }
    }

    /// Keeps the file open from now on.
    pub fn pin(&self) {
        // A plain load first: the line stays shared between threads that write all the time.
        if !self.pinned.load(Relaxed) {
            self.pinned.store(true, Relaxed);
        }
    }

    /// Lets the file be closed again: only when everything written to it is synced.
    pub fn unpin(&self) {
        self.pinned.store(false, Relaxed);
    }

    fn touch(&self) {
        self.used.store(self.cache.clock.fetch_add(1, Relaxed), Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.file.get_mut().is_some() {
            self.cache.open.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;

    #[test]
    fn stays_under_its_limit_but_keeps_pinned_files() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FileCache::new(16);
        let slots: Vec<_> = (0..100).map(|i| cache.slot(dir.path().join(format!("f{i}")))).collect();
        slots.iter().for_each(|slot| drop(File::create(slot.path()).unwrap()));
        slots[0].get().unwrap();
        slots[0].pin();
        for slot in &slots {
            slot.get().unwrap();
            assert!(cache.open.load(Relaxed) <= 17, "{} open", cache.open.load(Relaxed));
        }
        assert!(slots[0].try_get().is_some());
        assert!(slots[1].try_get().is_none());
        drop(slots);
        assert_eq!(cache.open.load(Relaxed), 0);
    }

    #[test]
    fn a_file_that_is_pinned_is_not_closed_by_who_looked_before() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FileCache::new(16);
        let path = dir.path().join("f");
        drop(File::create(&path).unwrap());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    cache.make_room();
                }
            });
            for _ in 0..5_000 {
                let slot = cache.slot(path.clone());
                slot.get().unwrap();
                slot.pin();
                let first = slot.get().unwrap();
                std::thread::yield_now();
                let same = (0..50).all(|_| slot.get().is_ok_and(|now| Arc::ptr_eq(&first, &now)));
                if !same {
                    stop.store(true, Relaxed);
                }
                assert!(same, "it was opened again: the first descriptor's errors are lost");
            }
            stop.store(true, Relaxed);
        });
    }
}
