//! What the catalog knows of each thing. The same records stand in the labels, so their fields are a disk format:
//! `FORMAT.md` has them.

use crate::ids::{ImageId, LayerId, OperationId, VolumeId};
use crate::jobs::{JobId, JobRecord};
use crate::name::Name;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A volume. Without a head it is only the owner of snapshots (and perhaps still of a name).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    pub id: VolumeId,
    pub serial: u64,
    pub name: Option<Name>,
    pub head: Option<LayerId>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub created_ns: u64,
    /// Last change of this record or of the content's attributes.
    pub ctime_ns: u64,
    /// The image that the head stands on.
    pub image: Option<ImageId>,
}

/// One volume's part of a snapshot set: the file `.snapshots/<set>/<taken_as>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    pub set: Name,
    pub volume: VolumeId,
    /// The volume's name at that time.
    pub taken_as: Name,
    pub layer: LayerId,
    pub serial: u64,
    pub created_ns: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A directory under `.snapshots`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SetRecord {
    pub name: Name,
    pub serial: u64,
    pub created_ns: u64,
}

/// A backing image: a name for a sealed root layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub id: ImageId,
    pub serial: u64,
    pub name: Name,
    pub layer: LayerId,
    /// Virtual size in bytes.
    pub size: u64,
    /// Bytes of data held.
    pub data: u64,
    /// Of the virtual content, in hex.
    pub sha256: String,
    pub format: String,
    pub created_ns: u64,
}

/// Something that was taken away and can be restored until then: a name of its layer like any other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RemovedRecord {
    pub serial: u64,
    /// The serial of the first one that the same operation took away.
    pub group: u64,
    /// Whose label tells of it. The volume's record stays as long as there is one.
    pub volume: VolumeId,
    pub what: Removed,
    /// Sealed, or to be sealed once nobody has it open.
    pub layer: LayerId,
    pub removed_ns: u64,
    pub until_ns: u64,
}

/// What was taken away, as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Removed {
    Snapshot(SnapshotRecord),
    /// Its head was deleted.
    Volume(VolumeRecord),
    /// Its head was replaced by a revert.
    Revert(VolumeRecord),
}

impl Removed {
    /// A name for messages: noun and name, in the shown form.
    pub fn shown(&self) -> String {
        match self {
            Removed::Snapshot(snapshot) => format!("snapshot '{}/{}'", snapshot.set, snapshot.taken_as),
            Removed::Volume(volume) | Removed::Revert(volume) => match &volume.name {
                Some(name) => format!("volume '{name}'"),
                None => format!("volume {}", volume.id),
            },
        }
    }
}

/// A layer's place in the forest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub id: LayerId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<LayerId>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Something that has a label of its own, and so takes part in operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Member {
    Volume(VolumeId),
    Image(ImageId),
}

/// Which change made a member's record what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// Counts the changes of this member, from 1.
    pub generation: u64,
    pub operation: OperationId,
}

/// One change of the catalog. An operation is a list of them that happens whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Change {
    PutVolume(VolumeRecord),
    DeleteVolume(VolumeId),
    PutSnapshot(SnapshotRecord),
    DeleteSnapshot {
        set: Name,
        volume: VolumeId,
    },
    PutRemoved(RemovedRecord),
    DeleteRemoved {
        serial: u64,
        volume: VolumeId,
    },
    PutSet(SetRecord),
    DeleteSet(Name),
    PutImage(ImageRecord),
    DeleteImage(ImageId),
    PutLayer(LayerRecord),
    /// No longer a layer of the forest: its files are to be removed.
    DropLayer(LayerId),
    /// The files of a dropped layer are gone.
    Dropped(LayerId),
    /// Jobs stand in no label.
    PutJob(JobRecord),
    DeleteJob(JobId),
}

impl Change {
    /// Whose label this change stands in, if it is a change of one member.
    pub fn member(&self) -> Option<Member> {
        match self {
            Change::PutVolume(volume) => Some(Member::Volume(volume.id)),
            Change::DeleteVolume(id) => Some(Member::Volume(*id)),
            Change::PutSnapshot(snapshot) => Some(Member::Volume(snapshot.volume)),
            Change::PutRemoved(removed) => Some(Member::Volume(removed.volume)),
            Change::DeleteSnapshot { volume, .. } | Change::DeleteRemoved { volume, .. } => Some(Member::Volume(*volume)),
            Change::PutImage(image) => Some(Member::Image(image.id)),
            Change::DeleteImage(id) => Some(Member::Image(*id)),
            Change::PutSet(_) | Change::DeleteSet(_) | Change::PutLayer(_) | Change::DropLayer(_) | Change::Dropped(_) => None,
            Change::PutJob(_) | Change::DeleteJob(_) => None,
        }
    }
}
