//! What waits for one of the pool's threads: bounded in requests and in bytes.

use super::{Limits, Pending, Reply, Work};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A request that waits.
pub(super) struct Job<R: Reply> {
    pub pending: Option<Pending<R>>,
    /// Data that `work` holds.
    pub bytes: usize,
    pub work: Work<R>,
}

/// The queue, first come first served.
pub(super) struct Queue<R: Reply> {
    jobs: VecDeque<Job<R>>,
    bytes: usize,
    /// Nothing more is taken.
    pub closed: bool,
    /// Threads of the pool that still live.
    pub threads: usize,
    /// The most that ever waited: requests, and bytes.
    #[cfg(test)]
    pub most: (usize, usize),
}

impl<R: Reply> Queue<R> {
    pub(super) fn new() -> Self {
        Self {
            jobs: VecDeque::new(),
            bytes: 0,
            closed: false,
            threads: 0,
            #[cfg(test)]
            most: (0, 0),
        }
    }

    /// Whether a job with `bytes` must wait. A single one larger than the limit does not.
    pub(super) fn is_full(&self, bytes: usize, limits: &Limits) -> bool {
        !self.jobs.is_empty()
            && (self.jobs.len() >= limits.queue_requests_max || self.bytes.saturating_add(bytes) > limits.queue_bytes_max)
    }

    /// How many wait.
    pub(super) fn requests(&self) -> usize {
        self.jobs.len()
    }

    /// Data that they hold.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    pub(super) fn push(&mut self, job: Job<R>) {
        self.bytes += job.bytes;
        self.jobs.push_back(job);
        #[cfg(test)]
        {
            self.most = (self.most.0.max(self.jobs.len()), self.most.1.max(self.bytes));
        }
    }

    pub(super) fn pop(&mut self) -> Option<Job<R>> {
        let job = self.jobs.pop_front()?;
        self.bytes -= job.bytes;
        Some(job)
    }

    /// Takes out what has waited for longer than `deadline` at `now`.
    pub(super) fn take_expired(&mut self, now: Instant, deadline: Duration) -> Vec<Job<R>> {
        let late = |job: &Job<R>| job.pending.as_ref().is_some_and(|p| now.saturating_duration_since(p.since) >= deadline);
        if !self.jobs.iter().any(late) {
            return Vec::new();
        }
        let (expired, kept): (Vec<_>, Vec<_>) = self.jobs.drain(..).partition(late);
        self.jobs = kept.into();
        self.bytes = self.jobs.iter().map(|job| job.bytes).sum();
        expired
    }
}
