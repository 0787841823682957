//! What a request changes behind the kernel's back, so that the mount can tell it.

use crate::operations::{Reply, Request};
use outcrop_fs::Mount;
use outcrop_store::{Name, SnapshotFile, Store};

/// Names whose files changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// Volumes that appear, go, or get another name.
    volumes: Vec<Name>,
    /// Volumes whose size or content changes.
    contents: Vec<Name>,
    /// Directories under `.snapshots`.
    snapshots: Vec<Name>,
    /// Files in them.
    files: Vec<SnapshotFile>,
}

impl Changes {
    /// What `request` will change; asked before it is executed, as what is deleted can't be asked for after.
    pub fn of(request: &Request, store: &Store) -> Self {
        let mut changes = Self::default();
        match request {
            Request::VolumeCreate { name, .. } | Request::VolumeClone { new_name: name, .. } => {
                changes.volumes.push(name.clone())
            }
            Request::VolumeResize { name, .. } | Request::VolumeRevert { name, .. } | Request::ClearFault { volume: name } => {
                changes.contents.push(name.clone());
            }
            Request::VolumeRename { from, to } => changes.volumes.extend([from.clone(), to.clone()]),
            Request::VolumeDelete { name, snapshots, .. } => {
                changes.volumes.push(name.clone());
                let sets = store.snapshot_sets();
                for set in sets.iter().filter(|_| *snapshots) {
                    changes.add_files(store, &set.name, Some(name));
                }
            }
            Request::SnapshotCreate { name, .. } => changes.snapshots.push(name.clone()),
            Request::SnapshotRename { from, to } => changes.snapshots.extend([from.clone(), to.clone()]),
            Request::SnapshotDelete { volume, names, .. } => {
                names.iter().for_each(|set| changes.add_files(store, set, volume.as_ref()));
            }
            // What it restores, its answer tells.
            Request::Undo { new_name, .. } => changes.volumes.extend(new_name.clone()),
            Request::RemovedList { .. }
            | Request::VolumeList
            | Request::VolumeShow { .. }
            | Request::SnapshotList { .. }
            | Request::SnapshotDiff { .. }
            | Request::ImageImport { .. }
            | Request::ImageCreate { .. }
            | Request::ImageList
            | Request::ImageShow { .. }
            | Request::ImageDelete { .. }
            | Request::Flush { .. }
            | Request::JobList
            | Request::JobShow { .. }
            | Request::JobCancel { .. }
            | Request::JobResume { .. }
            | Request::ExportEnd { .. }
            | Request::Status
            | Request::Space
            | Request::Metrics
            | Request::Doctor
            | Request::Scrub { .. }
            | Request::Schedule { .. }
            | Request::Unmount { .. } => {}
        }
        changes
    }

    /// The files that a deletion takes out of a directory under `.snapshots`, which may go with the last one.
    fn add_files(&mut self, store: &Store, set: &Name, volume: Option<&Name>) {
        let id = volume.and_then(|name| store.volume_info(name).ok()).map(|info| info.id);
        let taken = |file: &SnapshotFile| volume.is_none_or(|name| Some(file.volume) == id || file.volume_name == *name);
        let all = store.snapshot_files(set);
        let total = all.len();
        let files: Vec<_> = all.into_iter().filter(taken).collect();
        if files.len() == total {
            self.snapshots.push(set.clone());
        }
        self.files.extend(files);
    }

    /// Adds what only the answer tells.
    pub fn add(&mut self, reply: &Reply) {
        let Reply::Removed(restored) = reply else { return };
        for view in restored {
            let name = |shown: &String| Name::parse(shown).ok();
            match (&view.snapshot, view.kind.as_str()) {
                (Some(set), _) => self.snapshots.extend(name(set)),
                (None, "revert") => self.contents.extend(view.volume.as_ref().and_then(name)),
                (None, _) => self.volumes.extend(view.volume.as_ref().and_then(name)),
            }
        }
    }

    /// Directories under `.snapshots`.
    pub fn of_snapshots(snapshots: Vec<Name>) -> Self {
        Self { snapshots, ..Self::default() }
    }

    /// Tells the kernel.
    pub fn tell(&self, mount: &Mount) {
        let tell = |names: &[Name], how: fn(&Mount, &[&Name])| {
            if !names.is_empty() {
                how(mount, &names.iter().collect::<Vec<_>>());
            }
        };
        tell(&self.volumes, Mount::invalidate_volumes);
        tell(&self.contents, Mount::invalidate_content);
        tell(&self.snapshots, Mount::invalidate_snapshots);
        if !self.files.is_empty() {
            mount.invalidate_snapshot_files(&self.files);
        }
    }
}
