//! What was deleted, or left by a revert, and can be restored for a while.

use super::{Context, RemovedInfo, Store};
use crate::error::Result;
use crate::name::Name;
use std::sync::Arc;

impl Store {
    /// What can be restored, the latest last.
    #[must_use]
    pub fn removed(&self) -> Vec<RemovedInfo> {
        todo!()
    }

    /// What the command that last took `volume` (without `set`), the snapshot `set` of all volumes (without `volume`), or the
    /// file `set/volume` away can give back, by the names that they had then. `NotFound` if there is nothing.
    pub fn removed_by_name(&self, volume: Option<&Name>, set: Option<&Name>) -> Result<Vec<RemovedInfo>> {
        let _ = (volume, set);
        todo!()
    }

    /// Restores things by their serials, all in one change: durable on return. A snapshot gets its name back, or set
    /// `new_name`; a volume its head, under its name or `new_name`; a revert is undone, and what the volume holds now is
    /// kept for undo in turn. `Exists` where the name is taken, `Busy` while something to be restored, or a volume
    /// whose revert is undone, is open. Gives what was restored, as it was listed.
    pub fn undo(&self, serials: &[u64], new_name: Option<&Name>) -> Result<Vec<RemovedInfo>> {
        let _ = (serials, new_name);
        todo!()
    }

    /// Gives things up for good, by their serials, all in one change: durable on return.
    pub fn forget_removed(&self, serials: &[u64]) -> Result<()> {
        let _ = serials;
        todo!()
    }
}

/// Gives up what has been kept long enough, all in one change; how many there were.
pub(crate) fn expire(context: &Arc<Context>) -> Result<usize> {
    let _ = context;
    Ok(0)
}

/// Gives up the oldest, until `bytes` of disk may come back or nothing is left; whether there was any.
pub(crate) fn reclaim(context: &Arc<Context>, bytes: u64) -> Result<bool> {
    let _ = (context, bytes);
    Ok(false)
}
