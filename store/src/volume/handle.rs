//! Who has a volume open, and what becomes of them when the volume is reverted.
//!
//! A [`Handle`] counts as "open". A revert holds the door shut from looking at the count to its commit, so that nobody opens
//! in between; then the `Volume` object is stale for ever, and whoever looks the volume up again gets a new one.

use super::Volume;
use crate::error::{Error, Noun, Result};
use parking_lot::{RwLock, RwLockWriteGuard};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

/// An open file: keeps its volume from being reverted without force.
pub struct Handle {
    volume: Arc<Volume>,
}

/// What a volume knows of its handles.
#[derive(Default)]
pub(super) struct Access {
    count: AtomicUsize,
    stale: AtomicBool,
    /// Shared to open, alone while a revert decides.
    door: RwLock<()>,
}

/// Nobody can open the volume while this is held.
pub(crate) struct Shut<'a> {
    volume: &'a Volume,
    _door: RwLockWriteGuard<'a, ()>,
}

impl Volume {
    /// Counts as open from here on. `Stale` if the volume was reverted since this object was got: get it again.
    pub fn handle(self: &Arc<Self>) -> Result<Handle> {
        let _door = self.access.door.read();
        self.check_stale()?;
        self.access.count.fetch_add(1, SeqCst);
        Ok(Handle { volume: Arc::clone(self) })
    }

    /// How many handles there are.
    #[must_use]
    pub fn handles(&self) -> usize {
        self.access.count.load(SeqCst)
    }

    /// Whether it was reverted: everything but `name`, `id` and `stat` answers `Stale` from then on.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.access.stale.load(SeqCst)
    }

    pub(crate) fn check_stale(&self) -> Result<()> {
        if self.is_stale() { Err(Error::Stale { volume: self.shown_name() }) } else { Ok(()) }
    }

    /// Lets nobody open it any more, for now; `Busy` if somebody has it open and `force` is unset.
    pub(crate) fn shut(&self, force: bool) -> Result<Shut<'_>> {
        let door = self.access.door.write();
        if self.handles() > 0 && !force {
            return Err(Error::Busy { noun: Noun::Volume, name: self.shown_name() });
        }
        Ok(Shut { volume: self, _door: door })
    }
}

impl Shut<'_> {
    /// The volume is something else from now on: who has this object is answered `Stale`.
    pub fn make_stale(&self) {
        self.volume.access.stale.store(true, SeqCst);
    }
}

impl Deref for Handle {
    type Target = Arc<Volume>;

    fn deref(&self) -> &Arc<Volume> {
        &self.volume
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.volume.access.count.fetch_sub(1, SeqCst);
    }
}
