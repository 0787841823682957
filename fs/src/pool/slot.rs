//! Where the reply of a running operation lies: one slot for each thread, so that the watchdog can answer in its place.

use super::Pending;
use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// The place of one thread.
pub(crate) struct Slot<R>(Mutex<Option<Pending<R>>>);

impl<R> Slot<R> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Puts the reply of the operation that begins now.
    pub(super) fn put(&self, pending: Pending<R>) {
        let before = self.0.lock().replace(pending);
        debug_assert!(before.is_none(), "a thread runs one operation at a time");
    }

    /// Takes it back to answer; none if the watchdog did.
    pub(super) fn take(&self) -> Option<Pending<R>> {
        self.0.lock().take()
    }

    /// Takes it if it has waited for longer than `deadline` at `now`.
    pub(super) fn take_expired(&self, now: Instant, deadline: Duration) -> Option<Pending<R>> {
        self.0.lock().take_if(|pending| now.saturating_duration_since(pending.since) >= deadline)
    }
}
