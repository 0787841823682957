//! What lists and shows tell, and what operations are asked for.

use crate::ids::{ImageId, LayerId, VolumeId};
use crate::name::Name;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a new volume is to be.
#[derive(Debug, Clone)]
pub struct NewVolume {
    /// Bytes; the image's virtual size (or 0) when not given.
    pub size: Option<u64>,
    /// The backing image.
    pub image: Option<Name>,
    /// Permission bits (`0o644`; the file type is not part of it).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What a rename does when the new name is a volume already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Its head is deleted, as by rm, in the same commit (`rename(2)`).
    Replace,
    /// It is refused with `Exists` (`RENAME_NOREPLACE`, and `outcrop volume rename`).
    NoReplace,
    /// The two change names (`RENAME_EXCHANGE`).
    Exchange,
}

/// What deleting a volume takes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteVolume {
    /// The head only: its snapshots stay (`rm`).
    Head,
    /// Its snapshots too.
    WithSnapshots,
}

/// Whether what is taken away can be restored for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// For as long as `StoreOptions::undo` says.
    ForUndo,
    /// Not at all: its space goes back as soon as nobody has it open (`--now`).
    Now,
}

/// Snapshots to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotSelector {
    /// The directory under `.snapshots`.
    pub set: Name,
    /// The file in it; none is the directory with all that is in it, also an empty one.
    pub volume: Option<Name>,
}

/// How a volume is reverted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revert {
    /// Also while it is open: whoever has it open is answered `Stale` from then on. Else that is `Busy`.
    pub force: bool,
    /// Whether what the volume held until now can be restored.
    pub keep: Keep,
}

/// What a clone is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloneSource {
    /// A live volume, as it is at one instant.
    Volume(Name),
    /// The file `volume_name` of snapshot `set`.
    Snapshot {
        /// The directory under `.snapshots`.
        set: Name,
        /// The file in it.
        volume_name: Name,
    },
}

/// What was taken away and can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemovedKind {
    /// A snapshot that was deleted.
    Snapshot,
    /// A volume that was deleted (its head; its snapshots are on their own).
    Volume,
    /// What a volume held before a revert.
    Revert,
}

/// Something that can be restored. Times in nanoseconds since 1970.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RemovedInfo {
    /// Which: a number that nothing else in the store ever had.
    pub serial: u64,
    /// The serial of the first thing that the same command took away: what has the same one is restored together.
    pub group: u64,
    /// What it is.
    pub kind: RemovedKind,
    /// The volume's name then (of a snapshot: the file in its directory); none if it had lost it.
    pub volume_name: Option<Name>,
    /// The volume.
    pub volume: VolumeId,
    /// The snapshot's name.
    pub set: Option<Name>,
    /// The layer that is kept.
    pub layer: LayerId,
    /// When it was made: of a snapshot, when it was taken.
    pub created_ns: u64,
    /// Size in bytes.
    pub size: u64,
    /// When it was taken away.
    pub removed_ns: u64,
    /// Until when it can be restored; below the disk's floor it may go earlier.
    pub until_ns: u64,
    /// Whether somebody still has it open: then it can't be restored.
    pub open: bool,
}

/// A volume, as list and show tell it. Sizes in bytes, times in nanoseconds since 1970.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VolumeInfo {
    /// Identity: stays through renames.
    pub id: VolumeId,
    /// A number that no other volume, snapshot or image of the store ever had: made for inode numbers.
    pub serial: u64,
    /// Its name; none for a headless volume that lost its name to another.
    pub name: Option<Name>,
    /// Whether there is a head, that is, whether the volume is a file in the mount.
    pub live: bool,
    /// Size in bytes (0 without a head).
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was made.
    pub created_ns: u64,
    /// The backing image under it, if any.
    pub image: Option<Name>,
    /// Layers of the chain, root first.
    pub layers: Vec<LayerId>,
    /// Snapshots it has.
    pub snapshots: u64,
    /// Why it can't be used, if it can't (`faulted`, a missing layer).
    pub fault: Option<String>,
}

/// What a volume takes. Bytes.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct VolumeSpace {
    /// Data that the whole chain shows.
    pub data: u64,
    /// Data held by the head alone.
    pub head: u64,
}

/// A snapshot of one volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// The snapshot's name: the directory under `.snapshots`.
    pub name: Name,
    /// The volume.
    pub volume: VolumeId,
    /// The name that the volume had then: the file in that directory.
    pub volume_name: Name,
    /// As for volumes.
    pub serial: u64,
    /// The sealed layer.
    pub layer: LayerId,
    /// Size in bytes.
    pub size: u64,
    /// Permission bits at that time.
    pub mode: u32,
    /// Owner at that time.
    pub uid: u32,
    /// Group at that time.
    pub gid: u32,
    /// When it was taken.
    pub created_ns: u64,
    /// Labels given by the user.
    pub labels: BTreeMap<String, String>,
}

/// A directory under `.snapshots`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotSetInfo {
    /// Its name.
    pub name: Name,
    /// As for volumes.
    pub serial: u64,
    /// When the first snapshot in it was taken.
    pub created_ns: u64,
}

/// A backing image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageInfo {
    /// Identity.
    pub id: ImageId,
    /// Its name.
    pub name: Name,
    /// As for volumes.
    pub serial: u64,
    /// The sealed root layer.
    pub layer: LayerId,
    /// Virtual size in bytes.
    pub size: u64,
    /// Bytes of data held.
    pub data: u64,
    /// SHA-256 of the virtual content, in hex.
    pub sha256: String,
    /// What it was imported from: `raw`, `qcow2`, `vmdk`, …
    pub format: String,
    /// When it was imported.
    pub created_ns: u64,
    /// Volumes and snapshots that stand on it.
    pub users: Vec<String>,
}

/// The disk, and what the volumes promise. Bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Space {
    /// The disk's directory.
    pub disk: PathBuf,
    /// Size of its file system.
    pub total: u64,
    /// Free for volumes' data: what an unprivileged process may use, less the floor.
    pub available: u64,
    /// Free in all.
    pub free: u64,
    /// Kept for metadata.
    pub floor: u64,
    /// Held by the store's layers.
    pub used: u64,
    /// Sizes of all volumes.
    pub promised: u64,
}

/// What happened that a person should know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    /// When, in nanoseconds since 1970.
    pub time_ns: u64,
    /// What kind.
    pub kind: EventKind,
    /// One line.
    pub message: String,
}

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// An open repaired something.
    Repaired,
    /// Something is wrong that needs a person.
    Damage,
    /// A disk is filling, or promises exceed it.
    Space,
    /// A run of a schedule failed.
    Schedule,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Repaired, Self::Damage, Self::Space, Self::Schedule];
}
