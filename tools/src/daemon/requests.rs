//! What a request changes behind the kernel's back, so that the mount can tell it.

use crate::operations::Request;
use outcrop_fs::Mount;
use outcrop_store::{Name, Store};

/// Names whose files changed.
#[derive(Debug, Default)]
pub struct Changes {
    volumes: Vec<Name>,
    snapshots: Vec<Name>,
}

impl Changes {
    /// What `request` will change; asked before it is executed, as a deleted volume's snapshots can't be asked for after.
    pub fn of(request: &Request, store: &Store) -> Self {
        let volumes =
            |names: &[&Name]| Self { volumes: names.iter().map(|name| (*name).clone()).collect(), snapshots: Vec::new() };
        match request {
            Request::VolumeCreate { name, .. } | Request::VolumeResize { name, .. } => volumes(&[name]),
            Request::VolumeRename { from, to } => volumes(&[from, to]),
            Request::VolumeDelete { name, snapshots: false } => volumes(&[name]),
            Request::VolumeDelete { name, snapshots: true } => {
                let id = store.volume_info(name).ok().map(|info| info.id);
                let sets = store.snapshots().into_iter().filter(|info| Some(info.volume) == id).map(|info| info.name);
                Self { volumes: vec![name.clone()], snapshots: sets.collect() }
            }
            Request::SnapshotCreate { name, .. } => Self { volumes: Vec::new(), snapshots: vec![name.clone()] },
            Request::ClearFault { volume } => volumes(&[volume]),
            Request::VolumeList
            | Request::VolumeShow { .. }
            | Request::SnapshotList { .. }
            | Request::SnapshotDiff { .. }
            | Request::ImageImport { .. }
            | Request::ImageList
            | Request::ImageShow { .. }
            | Request::ImageDelete { .. }
            | Request::Flush { .. }
            | Request::Status
            | Request::Space
            | Request::Doctor
            | Request::Schedule { .. }
            | Request::Unmount { .. } => Self::default(),
        }
    }

    /// Directories under `.snapshots`.
    pub fn of_snapshots(snapshots: Vec<Name>) -> Self {
        Self { volumes: Vec::new(), snapshots }
    }

    /// Tells the kernel.
    pub fn tell(&self, mount: &Mount) {
        if !self.volumes.is_empty() {
            mount.invalidate_volumes(&self.volumes.iter().collect::<Vec<_>>());
        }
        if !self.snapshots.is_empty() {
            mount.invalidate_snapshots(&self.snapshots.iter().collect::<Vec<_>>());
        }
    }
}
