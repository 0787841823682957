//! What can go wrong, each with its facts, and the errno that a file system would answer.

use crate::ids::LayerId;
use crate::jobs::JobId;
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kinds of things that have names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noun {
    /// A volume.
    Volume,
    /// A snapshot (of one volume or of all).
    Snapshot,
    /// A backing image.
    Image,
    /// What was deleted (or left by a revert) and can be restored.
    Removed,
    /// A job.
    Job,
    /// A schedule.
    Schedule,
}

impl fmt::Display for Noun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Noun::Volume => "volume",
            Noun::Snapshot => "snapshot",
            Noun::Image => "image",
            Noun::Schedule => "schedule",
            Noun::Removed => "restorable",
            Noun::Job => "job",
        })
    }
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing has this name.
    #[error("there is no {noun} '{name}'")]
    NotFound {
        /// What was looked for.
        noun: Noun,
        /// Its name, in the shown form.
        name: String,
    },
    /// The name is taken.
    #[error("a {noun} '{name}' exists already")]
    Exists {
        /// What has the name.
        noun: Noun,
        /// The name, in the shown form.
        name: String,
    },
    /// The volume has snapshots but no head: there is nothing to write to.
    #[error("volume '{name}' was deleted; only its snapshots are left")]
    Headless {
        /// The volume.
        name: String,
    },
    /// No file can have this name.
    #[error("'{name}' can't be a name: {reason}")]
    InvalidName {
        /// The name, in the shown form.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// A name of more bytes than a file name may have.
    #[error("a name of {length} bytes is too long: at most {limit} bytes")]
    NameTooLong {
        /// Bytes it has.
        length: usize,
        /// Bytes it may have.
        limit: usize,
    },
    /// A label (`key=value`) that can't be kept.
    #[error("label '{label}' can't be used: {reason}")]
    InvalidLabel {
        /// The label as given.
        label: String,
        /// Why not.
        reason: &'static str,
    },
    /// A schedule that makes no sense.
    #[error("{what} '{given}' can't be used: {reason}")]
    InvalidSchedule {
        /// Which part of it.
        what: &'static str,
        /// What was given, in the shown form.
        given: String,
        /// Why not.
        reason: String,
    },
    /// An offset or size that no volume can have.
    #[error("{size} bytes is more than a volume can have ({limit} bytes)")]
    TooBig {
        /// Bytes asked for.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A volume smaller than its image would cut the image's content off.
    #[error("{size} bytes is smaller than image '{image}' ({image_size} bytes); choose at least that")]
    SmallerThanImage {
        /// Bytes asked for.
        size: u64,
        /// The image.
        image: String,
        /// Its virtual size in bytes.
        image_size: u64,
    },
    /// A range that is empty or otherwise no range.
    #[error("invalid range: offset {offset}, length {length}")]
    InvalidRange {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// Nothing more of the wanted kind (data or hole) up to the end of the file.
    #[error("no such extent at or after byte {offset}")]
    NoExtent {
        /// Where the search began.
        offset: u64,
    },
    /// A named limit was reached.
    #[error("{what} is at its limit of {limit}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The image has volumes.
    #[error("image '{image}' is in use by {}; delete those first", users.join(", "))]
    ImageInUse {
        /// The image.
        image: String,
        /// Its users, in the shown form.
        users: Vec<String>,
    },
    /// The image file can't be read as what it says it is.
    #[error("{}: {reason}", path.display())]
    BadImage {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The image is of a kind that only another program can read.
    #[error("{}: {reason}; {hint}", path.display())]
    UnsupportedImage {
        /// The file.
        path: PathBuf,
        /// What can't be read.
        reason: String,
        /// The next step.
        hint: String,
    },
    /// What should be a SHA-256 isn't.
    #[error("'{text}' is not a SHA-256: 64 hex digits are wanted")]
    InvalidSha256 {
        /// What was given, in the shown form.
        text: String,
    },
    /// The content is not the expected one.
    #[error("{}: SHA-256 is {found}, expected {expected}", path.display())]
    Sha256Mismatch {
        /// The file.
        path: PathBuf,
        /// What was given.
        expected: String,
        /// What the content has.
        found: String,
    },
    /// Another process has the store.
    #[error("store {} is in use by {}", path.display(), match pid { Some(pid) => format!("process {pid}"), None => "another process".to_owned() })]
    Locked {
        /// The store.
        path: PathBuf,
        /// Who has it, where that is known.
        pid: Option<u32>,
    },
    /// Made by a newer program.
    #[error("{} has format version {found}; this program knows versions up to {supported}. Use a newer outcrop", path.display())]
    NewerFormat {
        /// The file that says so.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version known.
        supported: u32,
    },
    /// The path can't be used as a store.
    #[error("{} can't be used as a store: {reason}", path.display())]
    NotAStore {
        /// The path.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file of the store does not say what it must.
    #[error("{} is damaged: {reason}; 'outcrop doctor' tells more", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A block's bytes are not those that it was sealed with.
    #[error("{}block {block} (byte {}) of layer {layer} is damaged: its sum is {found:08x}, expected {expected:08x}; 'outcrop scrub' finds all such", match of { Some(of) => format!("{of}: "), None => String::new() }, u128::from(*block) * 4096)]
    BadSum {
        /// The volume or snapshot that was read, where that is known: `volume 'db'`.
        of: Option<String>,
        /// The layer that has the block.
        layer: LayerId,
        /// The block's number.
        block: u64,
        /// The sum that it was sealed with.
        expected: u32,
        /// The sum that it has.
        found: u32,
    },
    /// How a scrub's job ends that found something.
    #[error(
        "{mismatches} blocks are not what they were sealed as, {errors} things could not be read; 'outcrop doctor' lists the blocks"
    )]
    ScrubFound {
        /// Blocks that don't fit their sums.
        mismatches: u64,
        /// What could not be read, or is damaged otherwise.
        errors: u64,
    },
    /// A layer that is referred to is not there.
    #[error("layer {layer} is missing; 'outcrop doctor' tells who needs it")]
    LayerMissing {
        /// The layer.
        layer: LayerId,
    },
    /// Free space is below the floor that is kept so that deleting always works.
    #[error("disk {} is full: {free} bytes are free, {floor} are kept for metadata", path.display())]
    DiskFull {
        /// The disk's directory.
        path: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes that data may not use.
        floor: u64,
    },
    /// A flush failed before: what the disk holds is not known, so nothing more is promised.
    #[error("volume '{volume}' is faulted since a flush failed; check the disk, then 'outcrop doctor --clear-fault'")]
    Faulted {
        /// The volume.
        volume: String,
    },
    /// Whether a snapshot (or another change of its head) was committed is not known: writing on could be lost, or change
    /// the snapshot.
    #[error("volume '{volume}' takes no writes since a commit that concerns it failed; unmount and mount again to settle it")]
    InDoubt {
        /// The volume.
        volume: String,
    },
    /// A snapshot would have stopped writes for too long.
    #[error("writes could not be stopped within {limit_ms} ms; nothing was changed, try again")]
    SnapshotTimeout {
        /// The limit in milliseconds.
        limit_ms: u64,
    },
    /// It is open, and what was asked for takes it away from whoever has it open.
    #[error("{noun} '{name}' is open; close it first, or use --force")]
    Busy {
        /// What is open.
        noun: Noun,
        /// Its name, in the shown form.
        name: String,
    },
    /// The volume was reverted while this was open: what was open is gone for ever; open it anew.
    #[error("volume '{volume}' was replaced while it was open; open it again")]
    Stale {
        /// The volume.
        volume: String,
    },
    /// Two that stand on no common layer: what differs can't be told from the maps.
    #[error("'{a}' and '{b}' have no common ancestor; read and compare them (cmp) to see what differs")]
    Unrelated {
        /// The first, in the shown form.
        a: String,
        /// The second.
        b: String,
    },
    /// A job that can't be cancelled or resumed.
    #[error("job {id} can't be {attempt}: {reason}")]
    JobRefused {
        /// Which.
        id: JobId,
        /// What was asked, as a participle: "cancelled", "resumed".
        attempt: &'static str,
        /// Why not.
        reason: String,
    },
    /// Asked to stop by the caller.
    #[error("interrupted")]
    Interrupted,
    /// The operation is not offered for this kind of thing.
    #[error("{what} is not supported")]
    NotSupported {
        /// What was asked.
        what: &'static str,
    },
    /// The store is closed or closing.
    #[error("the store is closed")]
    Closed,
    /// The catalog's database failed.
    #[error("catalog {}", path.display())]
    Catalog {
        /// Its directory.
        path: PathBuf,
        /// What sled says.
        #[source]
        source: sled::Error,
    },
    /// A system call failed.
    #[error("{attempt} {}", path.display())]
    Io {
        /// What was attempted, as a gerund: "writing", "syncing".
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// A failed system call on `path`.
    pub(crate) fn io(attempt: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Error::Io { attempt, path: path.as_ref().to_owned(), source: source.into() }
    }

    /// The errno that ext4 would answer in this place: the only such map.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Error::NotFound { .. } | Error::Headless { .. } => Errno::NOENT,
            Error::Exists { .. } => Errno::EXIST,
            Error::InvalidName { .. }
            | Error::InvalidLabel { .. }
            | Error::InvalidSchedule { .. }
            | Error::SmallerThanImage { .. }
            | Error::InvalidRange { .. }
            | Error::Unrelated { .. }
            | Error::BadImage { .. }
            | Error::UnsupportedImage { .. }
            | Error::InvalidSha256 { .. }
            | Error::Sha256Mismatch { .. }
            | Error::NotAStore { .. }
            | Error::JobRefused { .. }
            | Error::NewerFormat { .. } => Errno::INVAL,
            Error::NameTooLong { .. } => Errno::NAMETOOLONG,
            Error::TooBig { .. } => Errno::FBIG,
            Error::NoExtent { .. } => Errno::NXIO,
            Error::Limit { .. } => Errno::MLINK,
            Error::ImageInUse { .. } | Error::Locked { .. } | Error::Busy { .. } => Errno::BUSY,
            Error::Stale { .. } => Errno::STALE,
            Error::Io { source, .. } | Error::Catalog { source: sled::Error::Io(source), .. } => {
                Errno::from_io_error(source).unwrap_or(Errno::IO)
            }
            Error::Damaged { .. }
            | Error::BadSum { .. }
            | Error::ScrubFound { .. }
            | Error::LayerMissing { .. }
            | Error::Faulted { .. }
            | Error::InDoubt { .. }
            | Error::Catalog { .. }
            | Error::Closed => Errno::IO,
            Error::DiskFull { .. } => Errno::NOSPC,
            Error::SnapshotTimeout { .. } => Errno::TIMEDOUT,
            Error::Interrupted => Errno::INTR,
            Error::NotSupported { .. } => Errno::OPNOTSUPP,
        }
    }
}
