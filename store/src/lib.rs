//! Versioned volumes over layers, on disks.
//!
//! A [`Store`] is opened over a directory. It holds [`Volume`]s, each a chain of layers: a backing image,
//! sealed snapshots and a writable head. This crate knows nothing of FUSE, object stores or terminals.
//!
//! The way of a write: `volume → chain → layer → disk`. The way of a name: `store → label → catalog`.
//! `FORMAT.md` beside this crate gives every file byte by byte, and what a crash leaves behind.

pub mod catalog;
mod chain;
mod disk;
pub mod doctor;
pub mod error;
pub mod export;
mod ids;
pub mod image;
pub mod jobs;
mod label;
mod layer;
mod merge;
mod name;
pub mod schedule;
pub mod scrub;
mod space;
mod store;
mod units;
mod volume;

pub use error::{Error, Noun, Result};
pub use ids::{DiskId, ImageId, LayerId, OperationId, ScheduleId, StoreId, VolumeId};
pub use name::Name;
pub use space::{NameSpace, Owner, SpaceReport, Stays, Taken, VolumeTaken};
pub use store::{
    CloneSource, DeleteVolume, DiffSizes, Event, EventKind, HeadFacts, ImageInfo, Keep, NewVolume, RemovedInfo, RemovedKind,
    RenameMode, Revert, ScheduledSnapshot, SnapshotInfo, SnapshotSelector, SnapshotSetInfo, Space, Store, StoreMetrics,
    StoreOptions, VolumeFacts, VolumeInfo, VolumeSpace,
};
pub use store::{Opened, SnapshotFile};
pub use units::{BLOCK_SIZE, MAX_LAYERS, MAX_REMOVED, MAX_SNAPSHOTS, MAX_VOLUME_SIZE, MAX_VOLUMES};
pub use volume::{Allocate, Attributes, Handle, Snapshot, Stat, Sync, Timestamps, Volume};
