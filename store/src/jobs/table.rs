//! The jobs that are waiting or worked on in this process, over the catalog's records of all.

use super::record::{JobId, JobInfo, JobKind, JobRecord, Task};
use super::state::{JobState, Step};
use crate::catalog::Catalog;
use crate::catalog::records::Change;
use crate::disk::now_ns;
use crate::error::{Error, Noun, Result};
use crate::store::Context;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

/// Ended jobs of each kind that are kept.
pub(super) const ENDED_MAX: usize = 100;

/// A larger task is not kept: the job can't be resumed then. Far below what a catalog's value may have.
const TASK_BYTES_MAX: usize = 16 << 10;

/// One job in somebody's hands.
pub(super) struct Entry {
    pub id: JobId,
    record: Mutex<JobRecord>,
    pub done: AtomicU64,
    pub total: AtomicU64,
    pub waiting_for: Mutex<Option<String>>,
    pub cancelled: AtomicBool,
}

impl Entry {
    fn new(record: JobRecord) -> Arc<Self> {
        Arc::new(Self {
            id: record.id,
            done: AtomicU64::new(record.done),
            total: AtomicU64::new(record.total),
            record: Mutex::new(record),
            waiting_for: Mutex::new(None),
            cancelled: AtomicBool::new(false),
        })
    }

    pub fn info(&self) -> JobInfo {
        let record = self.record.lock();
        JobInfo {
            done: self.done.load(Relaxed),
            total: self.total.load(Relaxed),
            waiting_for: self.waiting_for.lock().clone(),
            ..JobInfo::from(&*record)
        }
    }
}

/// The jobs of an open store.
#[derive(Default)]
pub(crate) struct Jobs {
    live: Mutex<BTreeMap<JobId, Arc<Entry>>>,
    /// Told when a job is no longer live.
    ended: Condvar,
    closing: AtomicBool,
    /// Held while a job is noted in the catalog; true when nothing may be noted any more.
    shut: Mutex<bool>,
}

impl Jobs {
    /// Makes of what an earlier process left what it is now. Once, before any job begins.
    pub fn recover(&self, catalog: &Catalog) -> Result<()> {
        let now = now_ns();
        let mut changes = Vec::new();
        for record in catalog.read().jobs.values() {
            changes.extend(recovered(record, now).filter(|after| after != record).map(Change::PutJob));
        }
        if changes.is_empty() { Ok(()) } else { catalog.begin().commit_unlabelled(changes) }
    }

    /// The store is about to close: every job should end, and none begins.
    pub fn close(&self) {
        self.closing.store(true, SeqCst);
    }

    /// Waits until every job's worker has ended it, for `limit` at most. From then on nothing is noted any more: what
    /// still runs is found by the next open.
    pub fn shut(&self, limit: Duration) {
        self.close();
        let until = Instant::now() + limit;
        let mut live = self.live.lock();
        while !live.is_empty() && !self.ended.wait_until(&mut live, until).timed_out() {}
        if !live.is_empty() {
            tracing::warn!(jobs = live.len(), "closing the store while jobs don't end");
        }
        drop(live);
        *self.shut.lock() = true;
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(SeqCst)
    }

    pub(super) fn queue(&self, context: &Context, kind: JobKind, subject: String, task: Option<Task>) -> Result<Arc<Entry>> {
        let catalog = &context.catalog;
        let shut = self.shut.lock();
        if *shut || self.is_closing() || context.is_closed() {
            return Err(Error::Closed);
        }
        let mut live = self.live.lock();
        let state = catalog.read();
        let left = state.jobs.values().find(|record| {
            kind.goes_on_by_itself()
                && record.kind == kind
                && record.subject == subject
                && record.state == JobState::Pending
                && !live.contains_key(&record.id)
        });
        let record = left.cloned().unwrap_or_else(|| {
            let last = state.jobs.keys().next_back().max(live.keys().next_back()).map_or(0, |id| id.0);
            JobRecord {
                id: JobId(last + 1),
                kind,
                subject,
                state: JobState::Pending,
                done: 0,
                total: 0,
                created_ns: now_ns(),
                started_ns: None,
                ended_ns: None,
                error: None,
                task: task.filter(|task| serde_json::to_vec(task).is_ok_and(|json| json.len() <= TASK_BYTES_MAX)),
            }
        });
        let entry = Entry::new(record);
        live.insert(entry.id, Arc::clone(&entry));
        Ok(entry)
    }

    pub(super) fn requeue(&self, context: &Context, id: JobId) -> Result<Arc<Entry>> {
        let shut = self.shut.lock();
        if *shut || self.is_closing() || context.is_closed() {
            return Err(Error::Closed);
        }
        let refuse = |reason: &str| Err(Error::JobRefused { id, attempt: "resumed", reason: reason.to_owned() });
        let mut live = self.live.lock();
        if live.contains_key(&id) {
            return refuse("it is being worked on");
        }
        let mut record = context.catalog.read().jobs.get(&id).cloned().ok_or_else(|| not_found(id))?;
        if record.state.is_ended() && record.task.is_none() {
            return refuse("what it takes to do it anew is not known; start it anew by its own command");
        }
        if !record.step(Step::Resume, now_ns()) {
            return refuse(if record.state == JobState::Completed { "it is completed" } else { "it goes on by itself" });
        }
        let entry = Entry::new(record);
        live.insert(id, Arc::clone(&entry));
        Ok(entry)
    }

    /// Completes the jobs of a kind that an earlier process left to be gone on with, and that nobody took up: their work was
    /// found done.
    pub fn nothing_left(&self, catalog: &Catalog, kind: JobKind) -> Result<()> {
        let shut = self.shut.lock();
        let live = self.live.lock();
        let left =
            |record: &&JobRecord| record.kind == kind && record.state == JobState::Pending && !live.contains_key(&record.id);
        let records: Vec<JobRecord> = catalog.read().jobs.values().filter(left).cloned().collect();
        drop(live);
        if records.is_empty() || *shut {
            return Ok(());
        }
        let now = now_ns();
        let done = records.into_iter().map(|mut record| {
            record.step(Step::Start, now);
            record.step(Step::Complete, now);
            Change::PutJob(record)
        });
        catalog.begin().commit_unlabelled(done.collect())
    }

    /// Takes a step and notes it durably. After an end the job is no longer live, whatever happens.
    pub(super) fn step(&self, catalog: &Catalog, entry: &Entry, step: Step, error: Option<String>) -> Result<()> {
        let shut = self.shut.lock();
        // A copy: whoever lists jobs must not wait for the commit, and sees the old state until it is noted.
        let mut record = entry.record.lock().clone();
        let stepped = record.step(step, now_ns());
        debug_assert!(stepped, "job {}: {step:?} from {}", entry.id, record.state);
        if error.is_some() {
            record.error = error;
        }
        (record.done, record.total) = (entry.done.load(Relaxed), entry.total.load(Relaxed));
        let noted = if *shut { Err(Error::Closed) } else { catalog.begin().commit_unlabelled(changes(catalog, &record)) };
        let left = record.state.is_ended() || step == Step::Requeue;
        *entry.record.lock() = record;
        if left {
            self.live.lock().remove(&entry.id);
            self.ended.notify_all();
        }
        noted
    }

    /// Lets go of a job that was not started: what is noted of it stays.
    pub(super) fn abandon(&self, entry: &Entry) {
        self.live.lock().remove(&entry.id);
        self.ended.notify_all();
    }

    pub(super) fn list(&self, catalog: &Catalog) -> Vec<JobInfo> {
        let mut jobs: BTreeMap<JobId, JobInfo> = catalog.read().jobs.values().map(|record| (record.id, record.into())).collect();
        // A job that ends in between is still told of as live: what it was a moment ago.
        jobs.extend(self.live.lock().values().map(|entry| (entry.id, entry.info())));
        jobs.into_values().collect()
    }

    pub(super) fn info(&self, catalog: &Catalog, id: JobId) -> Result<JobInfo> {
        if let Some(entry) = self.live.lock().get(&id) {
            return Ok(entry.info());
        }
        catalog.read().jobs.get(&id).map(JobInfo::from).ok_or_else(|| not_found(id))
    }

    pub(super) fn cancel(&self, catalog: &Catalog, id: JobId) -> Result<()> {
        let info = self.info(catalog, id)?;
        let refuse = |reason: String| Err(Error::JobRefused { id, attempt: "cancelled", reason });
        if !info.kind.can_be_cancelled() {
            return refuse("a merge is how the space of what was deleted comes back".to_owned());
        }
        match self.live.lock().get(&id) {
            Some(entry) => {
                entry.cancelled.store(true, Relaxed);
                Ok(())
            }
            None => refuse(format!("it has ended ({})", info.state)),
        }
    }

    pub(super) fn wait(&self, catalog: &Catalog, id: JobId, limit: Duration) -> Result<JobInfo> {
        let until = Instant::now() + limit;
        let mut live = self.live.lock();
        while live.contains_key(&id) && !self.ended.wait_until(&mut live, until).timed_out() {}
        drop(live);
        self.info(catalog, id)
    }
}

/// What an open makes of a job that nobody ended; none of one that was.
pub(super) fn recovered(record: &JobRecord, now_ns: u64) -> Option<JobRecord> {
    let mut record = record.clone();
    if record.kind.goes_on_by_itself() {
        record.step(Step::Requeue, now_ns)
    } else {
        let failed = record.step(Step::Fail, now_ns);
        if failed {
            record.error = Some("interrupted by a crash".to_owned());
        }
        failed
    }
    .then_some(record)
}

fn not_found(id: JobId) -> Error {
    Error::NotFound { noun: Noun::Job, name: id.to_string() }
}

/// The record, and the oldest ended ones of its kind that go for it.
fn changes(catalog: &Catalog, record: &JobRecord) -> Vec<Change> {
    let mut changes = vec![Change::PutJob(record.clone())];
    if record.state.is_ended() {
        let state = catalog.read();
        let of_kind = |other: &&JobRecord| other.kind == record.kind && other.state.is_ended() && other.id != record.id;
        let ended: Vec<JobId> = state.jobs.values().filter(of_kind).map(|other| other.id).collect();
        let excess = (ended.len() + 1).saturating_sub(ENDED_MAX);
        changes.extend(ended.into_iter().take(excess).map(Change::DeleteJob));
    }
    changes
}
