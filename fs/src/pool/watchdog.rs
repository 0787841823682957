//! Answers for operations that are past the deadline.

use super::{Pending, Reply, Shared, send};
use rustix::io::Errno;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The longest time between two looks.
const PERIOD_MAX: Duration = Duration::from_secs(1);
/// The shortest.
const PERIOD_MIN: Duration = Duration::from_millis(5);
/// Expired requests that are logged one by one; from then on, every so many.
const LOGGED_MAX: usize = 100;

/// Starts the watchdog's thread. It ends when the last of the pool's threads has.
pub(super) fn start<R: Reply>(shared: Arc<Shared<R>>) -> std::io::Result<()> {
    let period = (shared.limits.deadline / 10).clamp(PERIOD_MIN, PERIOD_MAX);
    std::thread::Builder::new().name("outcrop-watch".to_owned()).spawn(move || {
        loop {
            let mut queue = shared.queue.lock();
            if queue.threads == 0 {
                return;
            }
            shared.tick.wait_for(&mut queue, period);
            drop(queue);
            scan(&shared);
        }
    })?;
    Ok(())
}

fn scan<R: Reply>(shared: &Shared<R>) {
    let now = Instant::now();
    let deadline = shared.limits.deadline;
    let slots = shared.slots.lock().clone();
    for slot in slots {
        if let Some(pending) = slot.take_expired(now, deadline) {
            expire(shared, pending, "running");
        }
    }
    let jobs = shared.queue.lock().take_expired(now, deadline);
    if !jobs.is_empty() {
        shared.room.notify_all();
    }
    for job in jobs {
        drop(job.work);
        if let Some(pending) = job.pending {
            expire(shared, pending, "queued");
        }
    }
}

fn expire<R: Reply>(shared: &Shared<R>, pending: Pending<R>, state: &'static str) {
    let count = shared.expired.fetch_add(1, Ordering::Relaxed) + 1;
    if count <= LOGGED_MAX || count.is_multiple_of(LOGGED_MAX) {
        tracing::warn!(
            operation = pending.what,
            state,
            deadline_s = shared.limits.deadline.as_secs(),
            count,
            "the disk does not answer: a caller was told that its operation timed out"
        );
    }
    send(pending, Err(Errno::TIMEDOUT));
}
