//! What a merge asks of the records, and what it makes of them.

use super::records::{Change, Member, Removed, RemovedRecord, SnapshotRecord, VolumeRecord};
use super::state::State;
use crate::ids::LayerId;
use crate::name::Name;

impl State {
    /// Who has this layer as its own, in the shown form; else who needs it, if anybody does.
    pub fn named_as(&self, layer: LayerId) -> Option<String> {
        let volume = self.volumes.values().find(|volume| volume.head == Some(layer));
        let shown = |name: Option<&Name>, id: &dyn ToString| name.map_or_else(|| id.to_string(), Name::to_string);
        let volume = volume.map(|volume| format!("volume '{}'", shown(volume.name.as_ref(), &volume.id)));
        let snapshot = self.snapshots.values().find(|snapshot| snapshot.layer == layer);
        let snapshot = snapshot.map(|snapshot| format!("snapshot '{}/{}'", snapshot.set, snapshot.taken_as));
        volume.or(snapshot).or_else(|| self.needed_by(layer).into_iter().next())
    }

    /// The changes that make every name of a sealed layer one of `to`, whose view is the same.
    pub fn renamed_layer(&self, layer: LayerId, to: LayerId) -> Vec<Change> {
        let snapshots = self.snapshots.values().filter(|snapshot| snapshot.layer == layer);
        let removed = self.removed.values().filter(|removed| removed.layer == layer);
        let snapshots = snapshots.map(|snapshot| Change::PutSnapshot(SnapshotRecord { layer: to, ..snapshot.clone() }));
        let removed = removed.map(|removed| {
            let what = match removed.what.clone() {
                Removed::Snapshot(snapshot) => Removed::Snapshot(SnapshotRecord { layer: to, ..snapshot }),
                Removed::Volume(volume) => Removed::Volume(VolumeRecord { head: Some(to), ..volume }),
                Removed::Revert(volume) => Removed::Revert(VolumeRecord { head: Some(to), ..volume }),
            };
            Change::PutRemoved(RemovedRecord { layer: to, what, ..removed.clone() })
        });
        snapshots.chain(removed).collect()
    }

    /// A change of a member that leaves its record as it is: the layers that its label tells of have changed.
    pub fn touched(&self, member: Member) -> Option<Change> {
        match member {
            Member::Volume(id) => self.volumes.get(&id).cloned().map(Change::PutVolume),
            Member::Image(id) => self.images.get(&id).cloned().map(Change::PutImage),
        }
    }
}
