//! The right to work on a job.

use super::JobId;
use super::record::JobInfo;
use super::state::Step;
use super::table::Entry;
use crate::error::{Error, Result};
use crate::image::Progress;
use crate::store::Context;
use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Of an error's text, this much is kept.
const ERROR_BYTES_MAX: usize = 4096;

/// A job in the hands of whoever works on it. Dropped without an end, it ends as an error.
///
/// [`Job::start`], the ends and a drop commit: never while holding a catalog operation.
#[must_use = "dropping it ends the job"]
pub(crate) struct Job {
    context: Arc<Context>,
    entry: Arc<Entry>,
    ended: bool,
}

impl Job {
    pub(super) fn new(context: &Arc<Context>, entry: Arc<Entry>) -> Self {
        Self { context: Arc::clone(context), entry, ended: false }
    }

    /// Its number.
    #[allow(dead_code, reason = "for workers that tell it")]
    pub fn id(&self) -> JobId {
        self.entry.id
    }

    /// What it is now.
    pub fn info(&self) -> JobInfo {
        self.entry.info()
    }

    /// Says that the work of a queued job begins: durable on return.
    pub fn start(&self) -> Result<()> {
        self.context.jobs.step(&self.context.catalog, &self.entry, Step::Start, None)
    }

    /// Says how far it is, in bytes. Costs nothing.
    pub fn progress(&self, done: u64, total: u64) {
        self.entry.done.store(done, Relaxed);
        self.entry.total.store(total, Relaxed);
    }

    /// Says whom it waits for, in words; `None` when it goes on.
    pub fn waiting_for(&self, holder: Option<String>) {
        *self.entry.waiting_for.lock() = holder;
    }

    /// Whether it should end: somebody cancelled it, or the store closes. Asked often by whoever works on it, who then ends it
    /// with [`Job::fail`] and `Interrupted`.
    pub fn is_cancelled(&self) -> bool {
        self.entry.cancelled.load(Relaxed) || self.context.jobs.is_closing() || self.context.is_closed()
    }

    /// All of it is done, durably.
    pub fn complete(mut self) {
        self.end(Step::Complete, None);
    }

    /// It ended without being done. `Interrupted` is a cancel, unless it is the store that closes: then it is an error, which
    /// can be resumed; work that goes on by itself waits for the next open.
    pub fn fail(mut self, error: &Error) {
        let closing = self.context.jobs.is_closing() || self.context.is_closed();
        match error {
            Error::Interrupted | Error::Closed if closing && self.info().kind.goes_on_by_itself() => {
                self.end(Step::Requeue, None);
            }
            Error::Interrupted if self.entry.cancelled.load(Relaxed) || !closing => self.end(Step::Cancel, None),
            Error::Interrupted | Error::Closed => self.end(Step::Fail, Some("interrupted: the store was closed".to_owned())),
            error => self.end(Step::Fail, Some(chain_of(error))),
        }
    }

    /// It failed elsewhere, where more is known of why.
    pub fn fail_for(mut self, reason: &str) {
        self.end(Step::Fail, Some(cut(reason.to_owned())));
    }

    /// Ends it as its work ended.
    pub fn end_with<T>(self, outcome: &Result<T>) {
        match outcome {
            Ok(_) => self.complete(),
            Err(error) => self.fail(error),
        }
    }

    /// Leaves a requeued job what it was before, if its work has not begun.
    pub fn abandon(mut self) {
        self.ended = true;
        self.context.jobs.abandon(&self.entry);
    }

    fn end(&mut self, step: Step, error: Option<String>) {
        self.ended = true;
        // The work is done or not, whatever is known of it: an open finds what this could not note.
        if let Err(failed) = self.context.jobs.step(&self.context.catalog, &self.entry, step, error) {
            tracing::warn!(job = %self.entry.id, error = %failed, "how a job ended could not be noted");
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Step::Fail, Some("interrupted".to_owned()));
        }
    }
}

/// Progress that goes to a job and to its caller, and a stop that comes from either.
pub(crate) struct Both<'a> {
    pub job: &'a Job,
    pub progress: &'a dyn Progress,
}

impl Progress for Both<'_> {
    fn advance(&self, done: u64, total: u64) {
        self.job.progress(done, total);
        self.progress.advance(done, total);
    }

    fn cancelled(&self) -> bool {
        self.job.is_cancelled() || self.progress.cancelled()
    }
}

/// An error with its causes, each said once.
fn chain_of(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(now) = cause {
        let more = now.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = now.source();
    }
    cut(text)
}

fn cut(mut text: String) -> String {
    let mut end = text.len().min(ERROR_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
