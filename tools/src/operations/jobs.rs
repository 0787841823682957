//! Jobs, as they are shown, cancelled and resumed.

use super::Reply;
use super::views::time;
use crate::failure::Failure;
use anyhow::{Context as _, Result};
use outcrop_store::image::Progress;
use outcrop_store::jobs::{JobId, JobInfo, JobState, Task};
use outcrop_store::{Error, Store};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a cancel waits for the job to end.
const CANCEL_WAIT: Duration = Duration::from_secs(10);

/// A job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobView {
    /// Its number.
    pub id: JobId,
    /// `import`, `image`, `export`, `merge`, `scrub`.
    pub kind: String,
    /// What it is about.
    pub subject: String,
    /// `pending`, `in-progress`, `completed`, `error` or `cancelled`.
    pub state: JobState,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all; 0 while that is not known.
    pub total: u64,
    /// When it was made.
    pub created: String,
    /// When the work began.
    pub started: Option<String>,
    /// When it ended.
    pub ended: Option<String>,
    /// Why it ended without being done.
    pub error: Option<String>,
    /// Whom it waits for.
    pub waiting_for: Option<String>,
    /// Whether it can be resumed.
    pub resumable: bool,
    /// What a resume does.
    pub task: Option<Task>,
}

impl From<&JobInfo> for JobView {
    fn from(info: &JobInfo) -> Self {
        Self {
            id: info.id,
            kind: info.kind.to_string(),
            subject: info.subject.clone(),
            state: info.state,
            done: info.done,
            total: info.total,
            created: time(info.created_ns),
            started: info.started_ns.map(time),
            ended: info.ended_ns.map(time),
            error: info.error.clone(),
            waiting_for: info.waiting_for.clone(),
            resumable: info.is_resumable(),
            task: info.task.clone(),
        }
    }
}

/// Cancels a job, and waits a while for its end.
pub fn cancel(store: &Store, id: JobId) -> Result<Reply> {
    store.cancel_job(id)?;
    let info = store.wait_for_job(id, CANCEL_WAIT)?;
    match info.state {
        JobState::Completed | JobState::Error => {
            let why = info.error.map(|error| format!(": {error}")).unwrap_or_default();
            Err(Failure::new(format!("job {id} ended before it could be cancelled ({}{why})", info.state)).into())
        }
        _ => Ok(Reply::Job((&info).into())),
    }
}

/// Does a job anew, to its end.
pub fn resume(store: &Store, id: JobId, progress: &dyn Progress) -> Result<Reply> {
    let subject = store.job(id)?.subject;
    match store.resume_job(id, progress) {
        Err(error @ Error::JobRefused { .. }) => return Err(error.into()),
        outcome => outcome.with_context(|| format!("job {id}: {subject}"))?,
    }
    Ok(Reply::Job((&store.job(id)?).into()))
}
