//! What is kept of a job. A disk format: `FORMAT.md` has it.

use super::JobState;
use super::state::Step;
use crate::name::Name;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::ParseIntError;
use std::path::PathBuf;
use std::str::FromStr;

/// A job's number: given once in the life of a catalog, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

/// What kind of work a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum JobKind {
    /// An image from a file.
    Import,
    /// An image from a volume or a snapshot.
    Image,
    /// A volume or a snapshot to a file.
    Export,
    /// A layer that nothing names into its child.
    Merge,
    /// Reading everything back and comparing it with its sums.
    Scrub,
}

impl JobKind {
    /// Whether its work is found and gone on with at an open, by the same job.
    pub(crate) fn goes_on_by_itself(self) -> bool {
        self == JobKind::Merge
    }

    /// Whether a person may stop it.
    pub(crate) fn can_be_cancelled(self) -> bool {
        // It is how the space of what was deleted comes back; stopped, it would begin again.
        self != JobKind::Merge
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            JobKind::Import => "import",
            JobKind::Image => "image",
            JobKind::Export => "export",
            JobKind::Merge => "merge",
            JobKind::Scrub => "scrub",
        })
    }
}

/// What a job does, where it can be done anew from nothing but this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Task {
    /// An image from a file.
    Import {
        /// The image's name.
        name: Name,
        /// The file, absolute.
        #[serde(with = "super::path")]
        path: PathBuf,
        /// What its content's SHA-256 must be.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sha256: Option<String>,
        /// Directories that backing files may lie in.
        #[serde(default, skip_serializing_if = "Vec::is_empty", with = "super::path::list")]
        allow_backing_in: Vec<PathBuf>,
    },
    /// An image from a volume, as it is or in a snapshot.
    Image {
        /// The image's name.
        name: Name,
        /// The volume.
        volume: Name,
        /// The snapshot; the volume as it is then if there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<Name>,
    },
    /// A volume, as it is or in a snapshot, to a file: done by whoever may write the file, not by the store.
    Export {
        /// The volume.
        volume: Name,
        /// The snapshot; the volume as it is then if there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<Name>,
        /// The file, absolute.
        #[serde(with = "super::path")]
        path: PathBuf,
        /// Its format, as qemu calls it.
        format: String,
        /// Whether a file that is there is replaced.
        #[serde(default)]
        force: bool,
    },
    /// A scrub of one volume, or of everything.
    Scrub {
        /// The volume.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        volume: Option<Name>,
        /// Bytes a second at most.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rate: Option<u64>,
    },
}

/// All that is kept of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobRecord {
    pub id: JobId,
    pub kind: JobKind,
    /// What it is about, for people.
    pub subject: String,
    pub state: JobState,
    /// Bytes, as of the last change of state.
    pub done: u64,
    pub total: u64,
    pub created_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
}

impl JobRecord {
    /// Takes a step at a time; whether it could be taken.
    pub fn step(&mut self, step: Step, now_ns: u64) -> bool {
        let Some(state) = self.state.after(step) else { return false };
        self.state = state;
        match step {
            Step::Start => self.started_ns = Some(now_ns),
            Step::Complete | Step::Fail | Step::Cancel => self.ended_ns = Some(now_ns),
            Step::Resume => {
                (self.started_ns, self.ended_ns, self.error) = (None, None, None);
                (self.done, self.total) = (0, 0);
            }
            Step::Requeue => {}
        }
        true
    }
}

/// A job, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobInfo {
    /// Its number.
    pub id: JobId,
    /// What kind of work.
    pub kind: JobKind,
    /// What it is about, for people.
    pub subject: String,
    /// Where it is in its life.
    pub state: JobState,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all; 0 while that is not known.
    pub total: u64,
    /// When it was made.
    pub created_ns: u64,
    /// When the work began.
    pub started_ns: Option<u64>,
    /// When it ended.
    pub ended_ns: Option<u64>,
    /// Why it ended without being done.
    pub error: Option<String>,
    /// Whom it waits for, at this moment.
    pub waiting_for: Option<String>,
    /// What it does, where it can be done anew.
    pub task: Option<Task>,
}

impl JobInfo {
    /// Whether it can be resumed.
    #[must_use]
    pub fn is_resumable(&self) -> bool {
        self.task.is_some() && self.state.after(Step::Resume).is_some()
    }
}

impl From<&JobRecord> for JobInfo {
    fn from(record: &JobRecord) -> Self {
        Self {
            id: record.id,
            kind: record.kind,
            subject: record.subject.clone(),
            state: record.state,
            done: record.done,
            total: record.total,
            created_ns: record.created_ns,
            started_ns: record.started_ns,
            ended_ns: record.ended_ns,
            error: record.error.clone(),
            waiting_for: None,
            task: record.task.clone(),
        }
    }
}
