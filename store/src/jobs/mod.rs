//! Jobs: long work as records, which can be listed, cancelled and resumed.
//!
//! A job's record stands in the catalog (`job/<number>`, of no label: a catalog that is made again has none) and is
//! committed when its state changes. How far it is, and whom it waits for, is known in memory only, so that progress costs
//! nothing. Whoever works on a job has its [`Job`], a guard: dropped without a word, the job ends as an error.
//!
//! A crash between any two commits leaves a record that is pending or in progress: the next open makes an error of it that
//! says so, or, for work that is found and gone on with by itself, a pending job that its worker takes up again.
//!
//! Below is the catalog. The guard's methods that change the state commit, so they take the catalog's lock: **never call them
//! (nor drop a guard) while holding an operation.**

mod guard;
mod path;
mod record;
mod resume;
mod state;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use guard::{Both, Job};
pub(crate) use record::JobRecord;
pub use record::{JobId, JobInfo, JobKind, Task};
pub use state::JobState;
pub(crate) use table::Jobs;

use crate::error::Result;
use crate::store::{Context, Store};
use std::sync::Arc;
use std::time::Duration;

impl Context {
    /// Notes a job whose work begins now: durable on return. Of a kind that goes on by itself, the job that an earlier
    /// process left with this subject goes on. `task` is what it takes to do it anew.
    pub(crate) fn begin_job(self: &Arc<Self>, kind: JobKind, subject: String, task: Option<Task>) -> Result<Job> {
        let job = self.queue_job(kind, subject, task)?;
        job.start()?;
        Ok(job)
    }

    /// Notes a job that waits for its turn; [`Job::start`] begins it. In memory only until then.
    pub(crate) fn queue_job(self: &Arc<Self>, kind: JobKind, subject: String, task: Option<Task>) -> Result<Job> {
        self.jobs.queue(self, kind, subject, task).map(|entry| Job::new(self, entry))
    }

    /// Says that there is nothing left to do of a kind that goes on by itself: jobs of it that an earlier process left, and
    /// that nobody took up, are done. Costs nothing where there are none.
    pub(crate) fn nothing_left(&self, kind: JobKind) -> Result<()> {
        self.jobs.nothing_left(&self.catalog, kind)
    }

    /// Has an ended job wait for its turn anew, under its number; refused where that can't be.
    pub(crate) fn requeue_job(self: &Arc<Self>, id: JobId) -> Result<Job> {
        self.jobs.requeue(self, id).map(|entry| Job::new(self, entry))
    }
}

impl Store {
    /// Every job that is known, oldest first: those that wait or are worked on, and the last 100 of each kind that ended.
    #[must_use]
    pub fn jobs(&self) -> Vec<JobInfo> {
        self.context().map_or_else(|_| Vec::new(), |context| context.jobs.list(&context.catalog))
    }

    /// One job.
    pub fn job(&self, id: JobId) -> Result<JobInfo> {
        let context = self.context()?;
        context.jobs.info(&context.catalog, id)
    }

    /// Asks a job to stop, and returns at once: it ends soon after, see [`Store::wait_for_job`]. Refused for one that has
    /// ended, and for merges.
    pub fn cancel_job(&self, id: JobId) -> Result<()> {
        let context = self.context()?;
        context.jobs.cancel(&context.catalog, id)
    }

    /// Asks every job to end, as interrupted by the store's close, and lets none begin: for whoever is about to close it.
    pub fn stop_jobs(&self) {
        if let Ok(context) = self.context() {
            context.jobs.close();
        }
    }

    /// Waits until a job has ended, for `limit` at most; gives what it is then.
    pub fn wait_for_job(&self, id: JobId, limit: Duration) -> Result<JobInfo> {
        let context = self.context()?;
        context.jobs.wait(&context.catalog, id, limit)
    }
}
