//! The records that keep what an operation takes away, and the serials of what it makes.

use super::{Context, Keep};
use crate::catalog::records::{Change, Removed, RemovedRecord, SnapshotRecord, VolumeRecord};
use crate::catalog::state::State;
use crate::disk::now_ns;
use crate::ids::LayerId;

/// Gives out serials: none twice in one operation.
pub(super) struct Serials(u64);

impl Serials {
    /// Those that come after all that were given out.
    pub fn after(state: &State) -> Self {
        Self(state.next_serial)
    }

    /// The next one.
    pub fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0 - 1
    }
}

/// What one operation takes away.
pub(super) struct Keeper {
    /// When it is done, and until when it can be undone; none if nothing is kept.
    times: Option<(u64, u64)>,
    group: Option<u64>,
}

impl Keeper {
    /// As `keep` and the store's options say.
    pub fn new(context: &Context, keep: Keep) -> Self {
        let undo_ns = u64::try_from(context.options.undo.as_nanos()).unwrap_or(u64::MAX);
        let now = now_ns();
        let keeps = keep == Keep::ForUndo && undo_ns > 0;
        Self { times: keeps.then(|| (now, now.saturating_add(undo_ns))), group: None }
    }

    /// Whether anything is kept.
    pub fn keeps(&self) -> bool {
        self.times.is_some()
    }

    /// The change that keeps a deleted snapshot, if any.
    pub fn snapshot(&mut self, snapshot: &SnapshotRecord, serials: &mut Serials) -> Option<Change> {
        self.put(Removed::Snapshot(snapshot.clone()), snapshot.volume, snapshot.layer, serials)
    }

    /// The change that keeps the head of a deleted volume, if any.
    pub fn head(&mut self, volume: &VolumeRecord, serials: &mut Serials) -> Option<Change> {
        self.put(Removed::Volume(volume.clone()), volume.id, volume.head?, serials)
    }

    /// The change that keeps the head that a reverted volume had, if any.
    pub fn reverted(&mut self, volume: &VolumeRecord, serials: &mut Serials) -> Option<Change> {
        self.put(Removed::Revert(volume.clone()), volume.id, volume.head?, serials)
    }

    fn put(&mut self, what: Removed, volume: crate::ids::VolumeId, layer: LayerId, serials: &mut Serials) -> Option<Change> {
        let (removed_ns, until_ns) = self.times?;
        let serial = serials.next();
        let group = *self.group.get_or_insert(serial);
        Some(Change::PutRemoved(RemovedRecord { serial, group, volume, what, layer, removed_ns, until_ns }))
    }
}

/// The layers that changes drop.
pub(super) fn dropped_by(changes: &[Change]) -> Vec<LayerId> {
    let dropped = |change: &Change| if let Change::DropLayer(id) = change { Some(*id) } else { None };
    changes.iter().filter_map(dropped).collect()
}
