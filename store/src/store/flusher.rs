//! The background thread of a store: flushes now and then, closes what is idle, removes what was dropped, counts what a
//! crash left uncounted, and watches the disk.

use super::{Context, EventKind};
use crate::error::{Error, Result};
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often it looks, if nobody wakes it.
const TICK: Duration = Duration::from_secs(1);
/// Shares of the disk, in percent, at which it warns.
const WARN_AT: [u64; 3] = [95, 90, 80];

/// The thread's handle.
pub(super) struct Flusher {
    context: Arc<Context>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Flusher {
    pub fn start(context: &Arc<Context>) -> Result<Self> {
        let spawn = |name: &str, body: fn(&Arc<Context>)| {
            let own = Arc::clone(context);
            std::thread::Builder::new()
                .name(format!("outcrop-{name}"))
                .spawn(move || body(&own))
                .map_err(|e| Error::io("starting a thread for", &context.disk.path, e))
        };
        // Counting can take long: it must not keep flushes waiting.
        let threads = vec![spawn("flush", run)?, spawn("count", count)?, spawn("upkeep", super::upkeep::run)?];
        Ok(Self { context: Arc::clone(context), threads: Mutex::new(threads) })
    }

    /// Ends it, once the store is marked closed.
    pub fn stop(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            while !thread.is_finished() {
                self.context.wake_flusher();
                self.context.upkeep_bell.ring();
                thread.thread().unpark();
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.join().is_err() {
                tracing::error!("a background thread of the store panicked");
            }
        }
    }
}

fn run(context: &Arc<Context>) {
    let mut flushed = Instant::now();
    let mut watch = Watch::default();
    while !context.is_closed() {
        let woken = context.wait_for_wake(TICK);
        let due = flushed.elapsed() >= context.options.flush_interval;
        for volume in context.open_volumes().into_iter().chain(context.unlinked_volumes()) {
            let head = volume.head();
            if (due && head.is_dirty() || woken && head.wants_flush())
                && !head.is_faulted()
                && let Err(error) = volume.flush_times()
            {
                context.event(EventKind::Damage, format!("flushing volume '{}': {error}", volume.name()));
            }
        }
        if due {
            flushed = Instant::now();
            context.close_idle();
            watch.look(context);
            context.save_damage();
            if let Err(error) = context.disk.reserve.restore() {
                tracing::debug!("the reserve could not be made again: {error}");
            }
        }
        context.seal_unlinked();
        if let Err(error) = context.remove_dropped() {
            context.event(EventKind::Damage, format!("removing a dropped layer: {error}; the next open tries again"));
        }
    }
}

fn count(context: &Arc<Context>) {
    let stop = || context.is_closed();
    while !stop() {
        for volume in context.open_volumes() {
            if let Err(error) = volume.count(&stop) {
                tracing::warn!("counting the data of volume '{}': {error}", volume.name());
            }
        }
        std::thread::park_timeout(TICK);
    }
}

/// Warns once at each step.
#[derive(Default)]
struct Watch {
    warned: u64,
    over_promised: bool,
}

impl Watch {
    fn look(&mut self, context: &Arc<Context>) {
        let Ok(space) = context.disk.gauge.space() else { return };
        let path = context.disk.path.display();
        // Of what data may use, as df counts: reserved blocks aside.
        let usable = space.total.saturating_sub(space.free - space.available.min(space.free)).max(1);
        let percent = (usable.saturating_sub(space.available)) * 100 / usable;
        let step = WARN_AT.into_iter().find(|step| percent >= *step).unwrap_or(0);
        if step > self.warned {
            let left = space.available.saturating_sub(context.disk.gauge.floor());
            context.event(EventKind::Space, format!("disk {path} is {percent} % full: {left} bytes are left for data"));
        }
        self.warned = step;
        let promised = super::space::promised(context);
        let over = promised > space.total;
        if over && !self.over_promised {
            context
                .event(EventKind::Space, format!("the volumes promise {promised} bytes, disk {path} has {} in all", space.total));
        }
        self.over_promised = over;
    }
}
