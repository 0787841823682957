//! Finding by serial what may have got another name: a mount knows what it has looked up by number.

use super::Store;
use crate::ids::VolumeId;
use crate::name::Name;

/// A file under `.snapshots`, as far as the catalog alone tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    /// The directory.
    pub set: Name,
    /// The file.
    pub volume_name: Name,
    /// The volume that it is of.
    pub volume: VolumeId,
    /// As in [`super::SnapshotInfo`].
    pub serial: u64,
}

impl Store {
    /// The present name of the directory under `.snapshots` with this serial; `last_known` is tried first. Does not touch the disk.
    #[must_use]
    pub fn set_at(&self, serial: u64, last_known: &Name) -> Option<Name> {
        let state = self.context().ok()?.catalog.read();
        match state.sets.get(last_known) {
            Some(set) if set.serial == serial => Some(last_known.clone()),
            _ => state.sets.values().find(|set| set.serial == serial).map(|set| set.name.clone()),
        }
    }

    /// The directory and the file name of the snapshot with this serial, likewise.
    #[must_use]
    pub fn snapshot_at(&self, serial: u64, last_known: (&Name, &Name)) -> Option<(Name, Name)> {
        let state = self.context().ok()?.catalog.read();
        let known = state.snapshot_named(last_known.0, last_known.1).filter(|snapshot| snapshot.serial == serial);
        let found = known.or_else(|| state.snapshots.values().find(|snapshot| snapshot.serial == serial));
        found.map(|snapshot| (snapshot.set.clone(), snapshot.taken_as.clone()))
    }

    /// The files in a directory under `.snapshots`. Does not touch the disk.
    #[must_use]
    pub fn snapshot_files(&self, set: &Name) -> Vec<SnapshotFile> {
        let Ok(context) = self.context() else { return Vec::new() };
        let state = context.catalog.read();
        let file = |snapshot: &crate::catalog::records::SnapshotRecord| SnapshotFile {
            set: snapshot.set.clone(),
            volume_name: snapshot.taken_as.clone(),
            volume: snapshot.volume,
            serial: snapshot.serial,
        };
        state.snapshots_in(set).map(file).collect()
    }
}
