//! Everything that can be asked of a store, as data: the one set of operations.
//!
//! The command line makes a [`Request`]. It is executed by [`execute()`], either in this process on a store
//! that it opened, or in the daemon that has the store, which it reaches over the control socket. Both ways the
//! answer is a [`Reply`], made of the [`views`] that `--json` prints.

mod execute;
pub mod jobs;
mod life;
pub mod reader;
pub mod removed;
pub mod schedules;
pub mod scrub;
pub mod space;
pub mod text;
pub mod views;

pub use execute::{Context, execute};

use crate::failure::Failure;
use jobs::JobView;
use outcrop_store::Name;
use outcrop_store::jobs::JobId;
use outcrop_store::schedule::Hooks;
use removed::RemovedView;
use schedules::{RunView, ScheduleRequest, ScheduleView};
use scrub::ScrubView;
use serde::{Deserialize, Serialize};
use space::SpaceReportView;
use std::collections::BTreeMap;
use std::path::PathBuf;
use views::{DiffView, DoctorView, ImageView, SnapshotView, StatusView, VolumeView};

/// What is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "kebab-case")]
pub enum Request {
    /// Every volume.
    VolumeList,
    /// One volume.
    VolumeShow {
        /// Which.
        name: Name,
    },
    /// A new volume.
    VolumeCreate {
        /// Its name.
        name: Name,
        /// Bytes; the image's when not given.
        size: Option<u64>,
        /// The backing image.
        image: Option<Name>,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// Another size.
    VolumeResize {
        /// Which.
        name: Name,
        /// Bytes.
        size: u64,
        /// Whether bytes may be cut off.
        shrink: bool,
    },
    /// Another name.
    VolumeRename {
        /// Which.
        from: Name,
        /// Its new name.
        to: Name,
    },
    /// A volume less.
    VolumeDelete {
        /// Which.
        name: Name,
        /// With its snapshots.
        snapshots: bool,
        /// Not kept for undo.
        now: bool,
    },
    /// A volume as it was at a snapshot.
    VolumeRevert {
        /// Which.
        name: Name,
        /// The snapshot.
        snapshot: Name,
        /// Though it is open.
        force: bool,
        /// What it held is not kept for undo.
        now: bool,
    },
    /// A new volume with another's content.
    VolumeClone {
        /// Of which volume.
        volume: Name,
        /// As it was at this snapshot; as it is when not given.
        snapshot: Option<Name>,
        /// `volume` is the name of the file in the snapshot, whatever volume has it now.
        is_file: bool,
        /// Its name.
        new_name: Name,
    },
    /// A snapshot of one volume, or of all at one instant.
    SnapshotCreate {
        /// Which volume; all when not given.
        volume: Option<Name>,
        /// The snapshot's name.
        name: Name,
        /// Labels to keep with it.
        labels: BTreeMap<String, String>,
        /// What is done before and after.
        #[serde(default)]
        hooks: Hooks,
    },
    /// Snapshots, of one volume or all.
    SnapshotList {
        /// Which volume.
        volume: Option<Name>,
    },
    /// Snapshots less.
    SnapshotDelete {
        /// Of which volume; of all when not given.
        volume: Option<Name>,
        /// Their names.
        names: Vec<Name>,
        /// Not kept for undo.
        now: bool,
    },
    /// Another name for a snapshot of all volumes.
    SnapshotRename {
        /// Which.
        from: Name,
        /// Its new name.
        to: Name,
    },
    /// What can be restored.
    RemovedList {
        /// Of which volume, by its name now or then; of all when not given.
        volume: Option<Name>,
    },
    /// Restores something.
    Undo {
        /// A volume or a snapshot of all volumes, by name, or something by its number.
        what: Name,
        /// The snapshot of that volume.
        snapshot: Option<Name>,
        /// Another name for it.
        new_name: Option<Name>,
    },
    /// What changed since a snapshot.
    SnapshotDiff {
        /// Of which volume.
        volume: Name,
        /// The snapshot that it is compared with.
        a: Name,
        /// The other snapshot; the volume as it is now when not given.
        b: Option<Name>,
    },
    /// A new image from a file. Long: tells its progress.
    ImageImport {
        /// Its name.
        name: Name,
        /// The file, as an absolute path.
        #[serde(with = "text::path")]
        path: PathBuf,
        /// What the content's SHA-256 must be.
        sha256: Option<String>,
        /// Directories that backing files may lie in, as absolute paths.
        #[serde(with = "text::paths")]
        allow_backing_in: Vec<PathBuf>,
    },
    /// A new image of what a volume is. Long: tells its progress.
    ImageCreate {
        /// Its name.
        name: Name,
        /// The volume.
        volume: Name,
        /// The snapshot; the volume as it is now when not given.
        snapshot: Option<Name>,
    },
    /// Every image.
    ImageList,
    /// One image.
    ImageShow {
        /// Which.
        name: Name,
    },
    /// An image less.
    ImageDelete {
        /// Which.
        name: Name,
    },
    /// Makes what was written durable: in one volume, or all.
    Flush {
        /// Which volume.
        volume: Option<Name>,
    },
    /// Every job that is known.
    JobList,
    /// One job.
    JobShow {
        /// Which.
        id: JobId,
    },
    /// A job that nobody wants any more.
    JobCancel {
        /// Which.
        id: JobId,
    },
    /// An ended job, anew. Long: tells its progress.
    JobResume {
        /// Which.
        id: JobId,
    },
    /// How an export ended where its file was written.
    ExportEnd {
        /// The export's job.
        id: JobId,
        /// Why it failed; the file is whole and in its place when not given.
        error: Option<String>,
    },
    /// What the store is, and whether it is mounted.
    Status,
    /// The disk, and what each name holds on it.
    Space,
    /// Numbers for monitoring.
    Metrics,
    /// Looks for damage.
    Doctor,
    /// Reads everything and compares it with its sums. Long: tells its progress.
    Scrub {
        /// Which volume; everything when not given.
        volume: Option<Name>,
        /// Bytes a second at most.
        rate: Option<u64>,
    },
    /// Lets a faulted volume be written again.
    ClearFault {
        /// Which volume.
        volume: Name,
    },
    /// Schedules.
    Schedule {
        /// What about them.
        action: ScheduleRequest,
    },
    /// Ends the mount. Only a daemon has one.
    Unmount {
        /// Detach it though it is in use.
        force: bool,
        /// The mount point that is meant, in its shown form: refused where the daemon has another.
        target: Option<String>,
    },
}

/// The answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// It was done, and there is nothing to tell.
    Done,
    /// A mount in use was detached: the daemon goes on for its users.
    Detached {
        /// Who uses it.
        busy: String,
        /// The daemon.
        pid: u32,
    },
    /// Volumes.
    Volumes(Vec<VolumeView>),
    /// One volume.
    Volume(VolumeView),
    /// Snapshots.
    Snapshots(Vec<SnapshotView>),
    /// What can be restored, or was.
    Removed(Vec<RemovedView>),
    /// What changed.
    Diff(DiffView),
    /// Images.
    Images(Vec<ImageView>),
    /// One image.
    Image(ImageView),
    /// Jobs.
    Jobs(Vec<JobView>),
    /// One job.
    Job(JobView),
    /// The store.
    Status(StatusView),
    /// The disk.
    Space(SpaceReportView),
    /// Numbers for monitoring, as Prometheus reads them.
    Metrics(String),
    /// Findings.
    Doctor(DoctorView),
    /// What a scrub found.
    Scrub(ScrubView),
    /// Schedules.
    Schedules(Vec<ScheduleView>),
    /// One schedule.
    Schedule(Box<ScheduleView>),
    /// A run of a schedule, which may have failed.
    ScheduleRun(RunView),
}

/// A line of the daemon's answer: any number of [`Line::Progress`], then one of the others.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// How far a long operation is.
    Progress {
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// It succeeded.
    Ok(Box<Reply>),
    /// It failed.
    Error(Failure),
}
