//! What is told of a store's space.

use crate::ids::{ImageId, VolumeId};
use crate::name::Name;
use crate::store::Space;
use serde::{Deserialize, Serialize};

/// All that the store holds, and for whom. Bytes of volumes' data, counted from the maps; what the disk's own file system
/// says of its files has no part in it.
///
/// `held` is the sum of `alone` over all names, `shared`, `unseen`, `merging` and `dropping`, unless something is in
/// `unreadable`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SpaceReport {
    /// The disk, and what is promised on it.
    pub disk: Space,
    /// Every name: volumes' heads, then snapshots, images and what undo keeps.
    pub names: Vec<NameSpace>,
    /// Data of all layers.
    pub held: u64,
    /// What one name alone needs, of all names.
    pub alone: u64,
    /// What several names need, each block counted once.
    pub shared: u64,
    /// What no name sees, in layers without a name that stay as long as several others stand on them.
    pub unseen: u64,
    /// What is free when every merge that waits is done.
    pub merging: u64,
    /// Of layers that are deleted, and whose files go when nobody has them open.
    pub dropping: u64,
    /// What would be free if everything that undo keeps were given up.
    pub undo: u64,
    /// Layers without a name that wait to be merged into the one that stands on them.
    pub merges: u64,
    /// What is put by so that metadata can be written on a full disk.
    pub reserve: u64,
    /// The catalog's files.
    pub catalog: u64,
    /// Maps, sums and labels.
    pub metadata: u64,
    /// Why layers wait: who has one open that is to be merged away, or what failed.
    pub waits: Vec<String>,
    /// What could not be counted, and why; the names that stand on it have no numbers.
    pub unreadable: Vec<String>,
}

/// One name's part in a store's space.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NameSpace {
    /// Whose.
    pub owner: Owner,
    /// Size in bytes.
    pub size: u64,
    /// None where a layer can't be read.
    pub taken: Option<Taken>,
}

/// What has a name in the forest of layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// A live volume: its head.
    Volume {
        /// Identity.
        id: VolumeId,
        /// Name.
        name: Name,
    },
    /// The file `.snapshots/<set>/<taken_as>`.
    Snapshot {
        /// The directory.
        set: Name,
        /// The volume's name then.
        taken_as: Name,
        /// The volume.
        volume: VolumeId,
    },
    /// An image.
    Image {
        /// Identity.
        id: ImageId,
        /// Name.
        name: Name,
    },
    /// Something deleted, or left by a revert, that can be restored.
    Removed {
        /// Its number, as `undo` takes it.
        serial: u64,
        /// The volume's name then; none for one that had lost it to another.
        volume_name: Option<Name>,
        /// The snapshot's, if it was one.
        set: Option<Name>,
        /// The volume.
        volume: VolumeId,
    },
}

/// What a name takes. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// What it shows as data: `alone` and what it shares.
    pub data: u64,
    /// What no other name needs.
    pub alone: u64,
    /// What is free once this one name is deleted, undo has given it up, and merges are done. More than `alone` where a layer
    /// without a name can be merged then, less where `stays` says why.
    pub frees: u64,
    /// Why its layer stays.
    pub stays: Stays,
}

impl Taken {
    /// What it shows and others need too.
    #[must_use]
    pub fn shared(&self) -> u64 {
        self.data.saturating_sub(self.alone)
    }
}

/// What becomes of a name's layer when the name is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stays {
    /// It goes: it is dropped, or merged into the one layer that stands on it.
    Goes,
    /// It has other names too: nothing is freed.
    Named,
    /// So many layers stand on it: nothing is freed before all but one of them are gone.
    Under(u64),
}

/// What a volume takes, with its snapshots. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeTaken {
    /// Its head's part; none for a volume of which only snapshots are left, and where a layer can't be read.
    pub head: Option<Taken>,
    /// What is free once the volume and all its snapshots are deleted, undo has given them up, and merges are done; none
    /// where a layer can't be read.
    pub all_frees: Option<u64>,
}
