//! The background thread that looks after sealed layers: one thing at a time, in bounded steps, so that merging, summing
//! and scrubbing never meet in one layer. Whoever else does one of these takes [`Context::upkeep_lock`] for each step.

use super::{Context, EventKind};
use crate::scrub::Summing;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often it looks, if nobody wakes it.
const TICK: Duration = Duration::from_secs(1);

/// The thread's body. A panic in it is a fault of this program: it is told, and nothing here is tried again, since what led
/// to it is still there. What is on the disk is as after a kill.
pub(super) fn run(context: &Arc<Context>) {
    if catch_unwind(AssertUnwindSafe(|| look_after(context))).is_err() {
        let message = "the upkeep of layers panicked: nothing is merged or summed until the store is opened again; \
                       please report it, with the log";
        context.event(EventKind::Damage, message.to_owned());
    }
}

fn look_after(context: &Arc<Context>) {
    let mut summing = Summing::default();
    while !context.is_closed() {
        if tend(context) {
            continue;
        }
        let begun = Instant::now();
        let lock = context.upkeep_lock.lock();
        let more = summing.step(context);
        drop(lock);
        // Sums are in no hurry: half of the time is others'. A bell is heard at once.
        context.upkeep_bell.listen(if more { begun.elapsed().min(TICK) } else { TICK });
    }
}

/// One step of what there is to do; whether there may be more.
fn tend(context: &Arc<Context>) -> bool {
    if let Err(error) = super::undo::expire(context) {
        // The same again a moment later: what can't be committed is told by whoever needs it.
        tracing::debug!("what was kept for undo could not be given up: {error}");
    }
    crate::merge::collect(context)
}
