//! A store: what is open, and everything that can be done by name.
//!
//! All methods may block on the disk. They take `&self` and may be called from any thread.

use crate::error::Result;
use crate::ids::{ImageId, LayerId, StoreId, VolumeId};
use crate::name::Name;
use crate::volume::{Snapshot, Volume};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Make the store if the directory is missing or empty.
    pub create: bool,
    /// Memory for resolving blocks, in bytes (default 256 MiB).
    pub cache_bytes: u64,
    /// The most layer files held open at once; files with unflushed writes come on top.
    pub open_files: usize,
    /// Time between background flushes (default 5 s).
    pub flush_interval: Duration,
    /// The longest that a snapshot may stop writes (default 5 s).
    pub snapshot_pause: Duration,
    /// Free bytes at which data writes get ENOSPC (default 64 MiB, at most 1/16 of the disk).
    pub floor_bytes: u64,
    /// Throw the catalog away (it is kept aside) and make it again from the labels.
    pub rebuild_catalog: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            create: false,
            cache_bytes: 256 << 20,
            open_files: 512,
            flush_interval: Duration::from_secs(5),
            snapshot_pause: Duration::from_secs(5),
            floor_bytes: 64 << 20,
            rebuild_catalog: false,
        }
    }
}

/// An open store. Clones are the same store; the last one dropped closes it, [`Store::close`] tells how that went.
#[derive(Clone)]
pub struct Store {}

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
}

impl Store {
    /// Opens the store in `path`, repairs what a crash left, and takes its lock.
    ///
    /// What was repaired is in [`Store::events`].
    pub fn open(path: &Path, options: &StoreOptions) -> Result<Store> {
        let _ = (path, options);
        todo!()
    }

    /// Flushes everything and closes: durable on return. Later calls answer `Closed`.
    pub fn close(&self) -> Result<()> {
        todo!()
    }

    /// Flushes every volume: all that was written before is durable on return.
    pub fn flush(&self) -> Result<()> {
        todo!()
    }

    /// The store's identity.
    #[must_use]
    pub fn id(&self) -> StoreId {
        todo!()
    }

    /// The directory, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        todo!()
    }

    /// What happened since the open, oldest first; the newest 1,000 are kept. Also sent to the log.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        todo!()
    }

    /// Every volume, headless ones included, by name.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        todo!()
    }

    /// One volume by its present name (headless ones too).
    pub fn volume_info(&self, name: &Name) -> Result<VolumeInfo> {
        let _ = name;
        todo!()
    }

    /// What a volume takes, counted from the maps.
    pub fn volume_space(&self, name: &Name) -> Result<VolumeSpace> {
        let _ = name;
        todo!()
    }

    /// Opens a live volume. `Headless` when only snapshots are left.
    pub fn volume(&self, name: &Name) -> Result<Arc<Volume>> {
        let _ = name;
        todo!()
    }

    /// Opens a live volume by identity.
    pub fn volume_by_id(&self, id: VolumeId) -> Result<Arc<Volume>> {
        let _ = id;
        todo!()
    }

    /// Makes a volume: durable on return. Continues a headless volume of this name, if there is one.
    pub fn create_volume(&self, name: &Name, new: &NewVolume) -> Result<Arc<Volume>> {
        let _ = (name, new);
        todo!()
    }

    /// Gives a live volume another name: durable on return.
    pub fn rename_volume(&self, from: &Name, to: &Name, mode: RenameMode) -> Result<()> {
        let _ = (from, to, mode);
        todo!()
    }

    /// Deletes a volume: durable on return. A volume that is open stays readable and writable through the
    /// `Arc<Volume>` that somebody holds; its layer goes when the last one is dropped.
    pub fn delete_volume(&self, name: &Name, what: DeleteVolume) -> Result<()> {
        let _ = (name, what);
        todo!()
    }

    /// Snapshots every live volume at one instant: whole or not at all, durable on return. Gives the files made.
    pub fn snapshot_all(&self, name: &Name, labels: &BTreeMap<String, String>) -> Result<Vec<SnapshotInfo>> {
        let _ = (name, labels);
        todo!()
    }

    /// Snapshots one volume: durable on return.
    pub fn snapshot(&self, volume: &Name, name: &Name, labels: &BTreeMap<String, String>) -> Result<SnapshotInfo> {
        let _ = (volume, name, labels);
        todo!()
    }

    /// Every snapshot, by time.
    #[must_use]
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        todo!()
    }

    /// The directories under `.snapshots`, by name.
    #[must_use]
    pub fn snapshot_sets(&self) -> Vec<SnapshotSetInfo> {
        todo!()
    }

    /// One directory under `.snapshots`.
    pub fn snapshot_set(&self, name: &Name) -> Result<SnapshotSetInfo> {
        let _ = name;
        todo!()
    }

    /// The files of one directory under `.snapshots`, by name.
    #[must_use]
    pub fn snapshots_in(&self, set: &Name) -> Vec<SnapshotInfo> {
        let _ = set;
        todo!()
    }

    /// One file under `.snapshots`.
    pub fn snapshot_info(&self, set: &Name, volume_name: &Name) -> Result<SnapshotInfo> {
        let _ = (set, volume_name);
        todo!()
    }

    /// Opens a snapshot for reading.
    pub fn open_snapshot(&self, set: &Name, volume_name: &Name) -> Result<Arc<Snapshot>> {
        let _ = (set, volume_name);
        todo!()
    }

    /// Every image, by name.
    #[must_use]
    pub fn images(&self) -> Vec<ImageInfo> {
        todo!()
    }

    /// One image.
    pub fn image_info(&self, name: &Name) -> Result<ImageInfo> {
        let _ = name;
        todo!()
    }

    /// Deletes an image: durable on return; `ImageInUse` names its users.
    pub fn delete_image(&self, name: &Name) -> Result<()> {
        let _ = name;
        todo!()
    }

    /// The disk, and what is promised on it.
    pub fn space(&self) -> Result<Space> {
        todo!()
    }

    /// Lets a volume whose flush failed be written again, from what its last good flush made durable.
    pub fn clear_fault(&self, name: &Name) -> Result<()> {
        let _ = name;
        todo!()
    }
}
