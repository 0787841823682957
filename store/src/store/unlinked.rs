//! Heads that a commit has taken from their volumes and that can be restored: each is sealed as soon as nobody has it open.
//!
//! Until then whoever has the deleted volume open goes on reading and writing. A crash: the next open of the store seals it.

use super::context::Context;
use super::open::seal;
use super::{EventKind, undo};
use crate::error::Result;
use crate::ids::{LayerId, VolumeId};
use crate::volume::Volume;
use parking_lot::Mutex;
use std::sync::Arc;

/// The heads that are still to be sealed.
#[derive(Default)]
pub(crate) struct Unlinked {
    entries: Mutex<Vec<Entry>>,
    /// Held while some are sealed, so that whoever has it finds in `entries` all that are not.
    sealing: Mutex<()>,
}

struct Entry {
    layer: LayerId,
    /// None if nobody had it open when it was deleted.
    volume: Option<Arc<Volume>>,
}

impl Entry {
    /// Whether somebody has it open. (`1`: what this list has.)
    fn is_used(&self) -> bool {
        self.volume.as_ref().is_some_and(|volume| !volume.is_stale() && Arc::strong_count(volume) > 1)
    }
}

impl Context {
    /// Takes a volume whose head a commit has taken away out of the open ones; whoever has it goes on using it. `kept` is the
    /// head if it can be restored: then it is sealed when the last of them is done.
    pub fn unlink(&self, id: VolumeId, kept: Option<LayerId>) {
        let volume = self.forget(id);
        if let Some(layer) = kept {
            self.unlinked.entries.lock().push(Entry { layer, volume });
            self.wake_flusher();
        }
    }

    /// The deleted volumes that are open and can be restored.
    pub fn unlinked_volumes(&self) -> Vec<Arc<Volume>> {
        self.unlinked.entries.lock().iter().filter_map(|entry| entry.volume.clone()).collect()
    }

    /// Whether a layer that can be restored is the head of a deleted volume that somebody has open.
    pub fn is_unlinked_open(&self, layer: LayerId) -> bool {
        self.unlinked.entries.lock().iter().any(|entry| entry.layer == layer && entry.is_used())
    }

    /// Seals what nobody has open any more.
    pub fn seal_unlinked(&self) {
        let _sealing = self.unlinked.sealing.lock();
        let unused: Vec<Entry> = self.unlinked.entries.lock().extract_if(.., |entry| !entry.is_used()).collect();
        for entry in unused {
            if let Err(error) = self.seal_entry(&entry) {
                let layer = entry.layer;
                let message = format!("deleted layer {layer} could not be sealed ({error}); the next open tries again");
                self.event(EventKind::Damage, message);
            }
        }
    }

    /// Seals a layer that is to be restored; `Busy` while somebody has a handle of it.
    pub fn seal_for_undo(&self, layer: LayerId) -> Result<()> {
        let _sealing = self.unlinked.sealing.lock();
        let mut entries = self.unlinked.entries.lock();
        let Some(index) = entries.iter().position(|entry| entry.layer == layer) else { return Ok(()) };
        if let Some(volume) = &entries[index].volume {
            let shut = volume.shut(false)?;
            shut.make_stale();
        }
        let entry = entries.swap_remove(index);
        drop(entries);
        self.seal_entry(&entry)
    }

    fn seal_entry(&self, entry: &Entry) -> Result<()> {
        if !undo::is_kept(self, entry.layer) {
            // Given up meanwhile: its files go when nobody has them open.
            return Ok(());
        }
        if let Some(volume) = &entry.volume {
            volume.close()?;
        }
        seal(self, entry.layer, true).map(drop)
    }

    /// The store is closing: no more changes to deleted volumes that somebody has open. The next open seals them.
    pub fn close_unlinked(&self) -> Result<()> {
        let entries = std::mem::take(&mut *self.unlinked.entries.lock());
        let mut result = Ok(());
        for volume in entries.into_iter().filter_map(|entry| entry.volume) {
            result = result.and(volume.close());
        }
        result
    }
}
