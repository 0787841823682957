//! A full disk: writers wait, bounded, while what was deleted gives its space back, before they are told that there is none.
//!
//! First what can be restored goes for good, the oldest first; then what is being removed or merged is waited for. Whoever
//! waits here holds nothing of a volume: neither its gate, nor a range, nor a chain, since a merge waits for those.

use super::{Context, EventKind, undo};
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at the disk.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest that files which were removed are waited for before more goes for good: file systems free in the background.
const SETTLE: Duration = Duration::from_millis(200);
/// The same, where layers are merged: as long as that goes on.
const MERGED: Duration = Duration::from_secs(2);
/// Bytes that are asked for at least, so that not each write takes its own little from what can be restored.
const AT_LEAST: u64 = 16 << 20;

/// What waits for space have found.
#[derive(Default)]
pub(crate) struct Pressure {
    /// One at a time gives up what can be restored.
    reclaiming: Mutex<()>,
    /// When a wait ended in vain, and the bytes that were free: nobody waits again soon while there are no more.
    vain: Mutex<Option<(Instant, u64)>>,
}

impl Context {
    /// Waits until data may take `bytes` more, at the longest until `until`; whether it may.
    pub fn wait_for_space(self: &Arc<Self>, bytes: u64, until: Instant) -> bool {
        loop {
            if self.has_room(bytes) {
                return true;
            }
            if self.is_closed() || Instant::now() >= until {
                return self.in_vain();
            }
            if self.reclaim(bytes, until) {
                continue;
            }
            if self.was_in_vain() || !self.space_may_come() {
                return self.in_vain();
            }
            self.wake_flusher();
            self.upkeep_bell.ring();
            thread::sleep(PAUSE);
        }
    }

    fn has_room(&self, bytes: u64) -> bool {
        self.available().is_some_and(|available| available >= bytes)
    }

    fn available(&self) -> Option<u64> {
        let gauge = &self.disk.gauge;
        gauge.space().ok().map(|space| space.available.saturating_sub(gauge.floor()))
    }

    /// Gives up what can be restored, as much as it takes; whether there was anything.
    fn reclaim(self: &Arc<Self>, bytes: u64, until: Instant) -> bool {
        let _one = self.pressure.reclaiming.lock();
        if self.has_room(bytes) {
            return true;
        }
        match undo::reclaim(self, bytes.max(AT_LEAST)) {
            Ok(0) => false,
            Ok(count) => {
                let message = format!("the disk is full: {count} things that could be restored were given up, the oldest first");
                self.event(EventKind::Space, message);
                if let Err(error) = self.remove_dropped() {
                    tracing::warn!(%error, "what was given up could not be removed yet");
                }
                let begun = Instant::now();
                let waits = || {
                    let limit = if self.space_may_come() { MERGED } else { SETTLE };
                    begun.elapsed() < limit && Instant::now() < until && !self.is_closed()
                };
                while !self.has_room(bytes) && waits() {
                    self.upkeep_bell.ring();
                    thread::sleep(PAUSE);
                }
                true
            }
            Err(error) => {
                tracing::warn!(%error, "what can be restored could not be given up");
                false
            }
        }
    }

    /// Whether something is on its way: files of dropped layers, or layers that the collector has to merge.
    fn space_may_come(&self) -> bool {
        let state = self.catalog.read();
        !state.dropping.is_empty()
            || state.layers.keys().any(|layer| state.name_count(*layer) == 0 && state.child_count(*layer) == 1)
    }

    fn in_vain(&self) -> bool {
        *self.pressure.vain.lock() = self.available().map(|available| (Instant::now(), available));
        false
    }

    fn was_in_vain(&self) -> bool {
        let vain = *self.pressure.vain.lock();
        vain.is_some_and(|(when, free)| {
            when.elapsed() < self.options.space_wait && self.available().is_none_or(|available| available <= free)
        })
    }
}
