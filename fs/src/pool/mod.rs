//! Sees that every request is answered once, and in time, whatever the disk does.
//!
//! A request either runs on the thread that took it from the kernel (*inline*: what is in memory), or waits in a bounded queue
//! for one of the pool's threads (what may wait for a disk). Wherever it is, its reply lies in a place that the watchdog can
//! reach: the slot of the thread that runs it, or the queue. Past the deadline the watchdog takes the reply and answers
//! ETIMEDOUT. That ends the caller's wait, never the operation: a running one goes on, finds its slot empty, and drops what it
//! would have answered (so an outcome must undo in its `Drop` what only makes sense when it is delivered). One that still waits
//! in the queue is dropped without having begun: run later, it could overwrite what the caller wrote after giving it up.
//!
//! Invariants: a reply is in exactly one place. No lock is held while an operation runs, while a reply is sent, or while a
//! closure is dropped. Below it: nothing; it knows neither FUSE nor the store.

mod queue;
mod slot;
#[cfg(test)]
mod tests;
mod watchdog;

pub(crate) use slot::Slot;

use parking_lot::{Condvar, Mutex};
use queue::{Job, Queue};
use rustix::io::Errno;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

/// I/O errors that are told in each [`TELL_WINDOW`]; of more, whoever counts operations knows.
const TELL_MAX: u32 = 10;
/// See [`TELL_MAX`].
const TELL_WINDOW: Duration = Duration::from_secs(10);

/// Where an answer goes, once.
pub(crate) trait Reply: Send + 'static {
    /// What an operation that went well gives.
    type Outcome: Send + 'static;
    /// Answers. Must not block.
    fn send(self, outcome: Result<Self::Outcome, Errno>);
}

/// An operation, as the pool takes it.
pub(crate) type Work<R> = Box<dyn FnOnce() -> Result<<R as Reply>::Outcome, Errno> + Send>;

/// The limits of a pool.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Threads that run what waits.
    pub threads: usize,
    /// The longest that a caller waits.
    pub deadline: Duration,
    /// Requests that may wait in the queue; past it, the threads that take requests from the kernel wait too.
    pub queue_requests_max: usize,
    /// Bytes of writes that may wait in the queue, likewise.
    pub queue_bytes_max: usize,
}

/// Requests that may wait in the queue of a mount.
pub(crate) const QUEUE_REQUESTS_MAX: usize = 4096;
/// Bytes of writes that may wait in the queue of a mount: 256 MiB.
pub(crate) const QUEUE_BYTES_MAX: usize = 256 << 20;

/// A request taken from the kernel, not answered yet.
pub(crate) struct Pending<R> {
    /// What it asks for, for the log.
    pub what: &'static str,
    /// When it was taken.
    pub since: Instant,
    /// Its reply.
    pub reply: R,
}

impl<R> Pending<R> {
    /// One that was taken just now.
    pub(crate) fn new(what: &'static str, reply: R) -> Self {
        Self { what, since: Instant::now(), reply }
    }
}

/// The pool. Clones are the same pool.
pub(crate) struct Pool<R: Reply> {
    shared: Arc<Shared<R>>,
}

impl<R: Reply> Clone for Pool<R> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<R: Reply> {
    limits: Limits,
    slots: Mutex<Vec<Arc<Slot<R>>>>,
    queue: Mutex<Queue<R>>,
    /// A job came, or the queue was closed.
    ready: Condvar,
    /// A job left.
    room: Condvar,
    /// The last thread ended.
    ended: Condvar,
    /// Wakes the watchdog at the end.
    tick: Condvar,
    /// Answers that came too late, or never: for the log's rate limit and for tests.
    expired: AtomicUsize,
}

impl<R: Reply> Pool<R> {
    /// Starts the threads.
    pub(crate) fn start(limits: Limits) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            slots: Mutex::new(Vec::new()),
            queue: Mutex::new(Queue::new()),
            ready: Condvar::new(),
            room: Condvar::new(),
            ended: Condvar::new(),
            tick: Condvar::new(),
            expired: AtomicUsize::new(0),
            limits,
        });
        let pool = Self { shared };
        for n in 0..pool.shared.limits.threads {
            let worker = pool.clone();
            let slot = pool.slot();
            pool.shared.queue.lock().threads += 1;
            let spawned = std::thread::Builder::new().name(format!("outcrop-io-{n}")).spawn(move || worker.work(&slot));
            if let Err(error) = spawned {
                pool.shared.queue.lock().threads -= 1;
                pool.stop(Duration::ZERO);
                return Err(error);
            }
        }
        watchdog::start(pool.shared.clone())?;
        Ok(pool)
    }

    /// A slot for a thread that runs operations inline. One for each thread.
    pub(crate) fn slot(&self) -> Arc<Slot<R>> {
        let slot = Arc::new(Slot::new());
        self.shared.slots.lock().push(slot.clone());
        slot
    }

    /// Runs an operation here and answers. Gives the request back, to be queued, where the operation gives `None`.
    pub(crate) fn run_inline(
        &self,
        slot: &Slot<R>,
        pending: Pending<R>,
        operation: impl FnOnce() -> Result<Option<R::Outcome>, Errno>,
    ) -> Option<Pending<R>> {
        let what = pending.what;
        slot.put(pending);
        let outcome = guarded(what, operation);
        // Taken by the watchdog meanwhile: whatever came out is dropped.
        let pending = slot.take()?;
        match outcome.transpose() {
            None => Some(pending),
            Some(outcome) => {
                send(pending, outcome);
                None
            }
        }
    }

    /// Queues an operation that holds `bytes` of data. Waits while the queue is at a limit, at most for a deadline.
    pub(crate) fn submit(&self, pending: Pending<R>, bytes: usize, work: Work<R>) {
        let limits = &self.shared.limits;
        let mut queue = self.shared.queue.lock();
        while !queue.closed && queue.is_full(bytes, limits) {
            tracing::debug!(
                requests = limits.queue_requests_max,
                bytes = limits.queue_bytes_max,
                "the queue of the mount is at its limit: requests wait"
            );
            self.shared.room.wait(&mut queue);
        }
        if queue.closed {
            drop(queue);
            drop(work);
            return send(pending, Err(Errno::NOTCONN));
        }
        queue.push(Job { pending: Some(pending), bytes, work });
        drop(queue);
        self.shared.ready.notify_one();
    }

    /// How many requests were answered by the watchdog.
    pub(crate) fn expired(&self) -> usize {
        self.shared.expired.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// What waits for a thread at this moment (requests, and bytes of data), and how many threads there are.
    pub(crate) fn load(&self) -> (usize, usize, usize) {
        let queue = self.shared.queue.lock();
        (queue.requests(), queue.bytes(), queue.threads)
    }

    /// Runs what is queued to its end, then ends the threads. False if some operation still runs after `limit`.
    pub(crate) fn stop(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut queue = self.shared.queue.lock();
        queue.closed = true;
        self.shared.ready.notify_all();
        self.shared.room.notify_all();
        while queue.threads > 0 {
            if self.shared.ended.wait_until(&mut queue, until).timed_out() {
                return queue.threads == 0;
            }
        }
        true
    }

    /// The life of one of the pool's threads.
    fn work(self, slot: &Slot<R>) {
        crate::mount::io_flusher();
        let shared = &self.shared;
        let mut queue = shared.queue.lock();
        loop {
            if let Some(job) = queue.pop() {
                drop(queue);
                shared.room.notify_one();
                self.run(slot, job);
                queue = shared.queue.lock();
            } else if queue.closed {
                break;
            } else {
                shared.ready.wait(&mut queue);
            }
        }
        queue.threads -= 1;
        if queue.threads == 0 {
            shared.ended.notify_all();
            shared.tick.notify_all();
        }
    }

    fn run(&self, slot: &Slot<R>, job: Job<R>) {
        let Job { pending, work, .. } = job;
        // The watchdog takes expired jobs out of the queue whole.
        let Some(pending) = pending else { return };
        let what = pending.what;
        slot.put(pending);
        let outcome = guarded(what, work);
        match slot.take() {
            Some(pending) => send(pending, outcome),
            None => tracing::info!(operation = what, "an operation ended after its caller had been told that it timed out"),
        }
    }
}

/// Sends an answer; a panic on that way is caught too (a reply that is dropped answers EIO by itself).
fn send<R: Reply>(pending: Pending<R>, outcome: Result<R::Outcome, Errno>) {
    let Pending { what, since, reply } = pending;
    // Also where nothing below had a cause to tell: an I/O error that this log doesn't have is not ours.
    if matches!(outcome, Err(Errno::IO)) && may_tell() {
        tracing::error!(operation = what, after_ms = since.elapsed().as_millis(), "a caller gets an I/O error");
    }
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| reply.send(outcome))) {
        tracing::error!(operation = what, panic = message(&*panic), "panic while answering");
    }
}

/// Whether an I/O error is told: ten of them in ten seconds. A program may ask for a bad block any number of times.
fn may_tell() -> bool {
    static TOLD: Mutex<Option<(Instant, u32)>> = Mutex::new(None);
    let mut told = TOLD.lock();
    let (since, count) = told.filter(|(since, _)| since.elapsed() < TELL_WINDOW).unwrap_or((Instant::now(), 0));
    *told = Some((since, count + 1));
    count < TELL_MAX
}

/// Runs an operation; a panic is EIO, and logged.
pub(crate) fn guarded<T>(what: &'static str, operation: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    catch_unwind(AssertUnwindSafe(operation)).unwrap_or_else(|panic| {
        tracing::error!(operation = what, panic = message(&*panic), "panic in an operation: its caller gets an I/O error");
        Err(Errno::IO)
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)")
}
