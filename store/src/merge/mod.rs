//! Merging: a sealed layer that has no name any more and one child goes into one with it, while both are in use.
//!
//! The catalog's state alone says what is to be merged, so there is no record of it: whatever ends the process, the next
//! open finds the same pairs and goes on. Of a pair (lower, upper), nobody sees the lower layer but through the upper one,
//! whose view is right at every moment. Two directions are possible, and the one that copies less is taken:
//!
//! * **up**: what only the lower layer has goes into the upper one ([`up`], or [`head`] if that is being written)
//! * **down**: what the upper one has goes into the lower one, which then takes its place ([`down`]); if the upper one is a
//!   head, the lower one becomes the head ([`settle`])
//!
//! The order of a step, over a few MiB, and what a crash after each part leaves:
//!
//! 1. bytes copied to the same place in the other layer, synced; sums alike — nobody reads them yet
//! 2. the states of the layer that got them durable — the block is in both, with the same bytes; the upper one counts
//! 3. (down) the upper layer's states made absent, durable — the lower one counts
//! 4. what is cached of these chunks forgotten, and everything waited for that was begun before
//! 5. the source punched, where the disk is short of space — the space is back; else it is when the layer goes
//!
//! In whichever direction it goes on after that, the view through the upper layer is the same. When nothing is left to move,
//! one operation of the catalog takes the drained layer out ([`finish`]); several at once, since each costs labels.

mod copy;
mod down;
mod finish;
mod head;
mod pairs;
mod settle;
mod up;
mod waits;

pub(crate) use copy::bytes as copy_bytes;
pub(crate) use pairs::waiting;

use crate::error::{Error, Result};
use crate::ids::LayerId;
use crate::jobs::{Job, JobKind};
use crate::layer::Layer;
use crate::store::{Context, EventKind, Follower};
use crate::units::BLOCK_SIZE;
use pairs::Waiting;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Drained layers that one operation takes out.
const DRAINED_MAX: usize = 64;
/// Bytes of a step, at least: what a merge takes of a full disk for a moment.
const STEP_MIN: u64 = if cfg!(test) { 128 << 10 } else { 2 << 20 };
/// Bytes of a step, at most.
const STEP_MAX: u64 = if cfg!(test) { 128 << 10 } else { 64 << 20 };

/// A disk that has this many times the room that a drained layer can hold is not short of it.
const ROOM_FACTOR: u64 = 4;
/// Nor is one with this many times so much: see [`ROOM_FACTOR`].
const ROOM_MIN: u64 = 1 << 30;

/// Two layers, the lower one nameless and with no other child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pair {
    pub lower: LayerId,
    pub upper: LayerId,
}

/// What merging knows beyond the catalog, in memory.
#[derive(Default)]
pub(crate) struct Merging {
    /// Pairs that can't be merged now, and why.
    waiting: Mutex<BTreeMap<Pair, Waiting>>,
    /// What waits for a holder, as jobs.
    queued: Mutex<waits::Queued>,
    /// How often the head on a lower layer was sealed to be merged down.
    rounds: Mutex<BTreeMap<LayerId, u32>>,
    /// How many more points a merge may pass: a test ends it at each of them.
    #[cfg(test)]
    fuse: tests::Fuse,
    /// For a test: no drained layer can be taken out.
    #[cfg(test)]
    refuse_ends: std::sync::atomic::AtomicBool,
}

/// How the work on a pair ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// The lower layer has nothing that the upper one needs.
    Up,
    /// The upper layer has nothing any more.
    Down,
    /// The lower layer is the head now, and the upper one is gone.
    Settled,
    /// It is no pair any more, or not of this kind: to be looked at again.
    Changed,
    /// A part was done, after which the pairs are others.
    Again,
}

/// What the steps of one merge share.
struct Work<'a> {
    context: &'a Arc<Context>,
    lower: Arc<Layer>,
    upper: Arc<Layer>,
    /// Drained before, not taken out yet: they stand between, and let everything through.
    drained: &'a [LayerId],
    job: &'a Job,
}

/// Merges what can be merged; whether something was done. For the upkeep thread alone.
pub(crate) fn collect(context: &Arc<Context>) -> bool {
    #[cfg(test)]
    if context.merging.fuse.is_out() {
        return false;
    }
    let runs = pairs::runs(&context.catalog.read());
    let mut done = false;
    context.merging.waiting.lock().retain(|pair, waiting| waiting.is_error() && runs.iter().any(|run| run.contains(&pair.lower)));
    if runs.is_empty()
        && let Err(error) = context.nothing_left(JobKind::Merge)
    {
        tracing::debug!(%error, "merges that an earlier process left could not be noted as done");
    }
    for run in &runs {
        if context.is_closed() {
            break;
        }
        done |= merge_run(context, run);
    }
    if let Err(error) = waits::show(context, &runs)
        && !matches!(error, Error::Closed)
    {
        tracing::debug!(%error, "a merge that waits could not be shown as a job");
    }
    done
}

/// For a store that closes, when nobody merges any more.
pub(crate) fn let_go(context: &Context) {
    waits::let_go(context);
}

/// Merges the layers of a run, lowest first: all nameless but the last, each the only child of the one before.
fn merge_run(context: &Arc<Context>, run: &[LayerId]) -> bool {
    let Some(top) = run.last() else { return false };
    let mut job = None;
    let mut drained = Vec::new();
    let mut done = false;
    let mut lower = run[0];
    let outcome = run[1..].iter().try_for_each(|upper| {
        let pair = Pair { lower, upper: *upper };
        if !pairs::may_merge(context, pair) {
            lower = *upper;
            return Ok(());
        }
        let job = match &job {
            Some(job) => job,
            None => job.insert(waits::begin(context, *top)?),
        };
        match merge(context, pair, &drained, job) {
            Ok(Ended::Up) => {
                drained.push(std::mem::replace(&mut lower, *upper));
            }
            Ok(Ended::Down) => drained.push(*upper),
            Ok(Ended::Settled) => {}
            Ok(Ended::Changed) => return Err(Error::Interrupted),
            Ok(Ended::Again) => {
                done = true;
                return Err(Error::Interrupted);
            }
            Err(error) => {
                if !matches!(error, Error::Interrupted | Error::Closed) {
                    context.merging.waiting.lock().insert(pair, Waiting::after(&error));
                }
                return Err(error);
            }
        }
        done = true;
        if drained.len() >= DRAINED_MAX {
            take_out(context, run, &std::mem::take(&mut drained))?;
        }
        Ok(())
    });
    // No pair any more is no failure: what it is now is found anew.
    let outcome = outcome.or_else(|error| if matches!(error, Error::Interrupted) { Ok(()) } else { Err(error) });
    let finished = if drained.is_empty() { Ok(()) } else { take_out(context, run, &drained) };
    let outcome = outcome.and(finished);
    if let Err(error) = &outcome
        && !matches!(error, Error::Closed)
    {
        let kind = if Waiting::after(error).is_for_good() { EventKind::Damage } else { EventKind::Space };
        context.event(kind, format!("merging layers below {}: {error}", subject_of(context, *top)));
    }
    if let Some(job) = job {
        job.end_with(&outcome);
    }
    done && outcome.is_ok()
}

/// Takes drained layers of a run out. What can't be taken out has all of the run wait: it would come to the same end, with
/// an event and a job each time.
fn take_out(context: &Arc<Context>, run: &[LayerId], drained: &[LayerId]) -> Result<()> {
    finish::take_out(context, drained).inspect_err(|error| {
        if !matches!(error, Error::Interrupted | Error::Closed) {
            let pairs = run.windows(2).map(|two| (Pair { lower: two[0], upper: two[1] }, Waiting::after(error)));
            context.merging.waiting.lock().extend(pairs);
        }
    })
}

fn subject_of(context: &Context, top: LayerId) -> String {
    context.catalog.read().named_as(top).unwrap_or_else(|| format!("layer {top}"))
}

fn merge(context: &Arc<Context>, pair: Pair, drained: &[LayerId], job: &Job) -> Result<Ended> {
    let work = Work { context, lower: context.layer(pair.lower)?, upper: context.layer(pair.upper)?, drained, job };
    match work.run() {
        // Its volume was reverted, or what was deleted of it restored, meanwhile: who follows the upper layer now is found anew.
        Err(Error::Stale { .. }) => Ok(Ended::Changed),
        ended => ended,
    }
}

impl Work<'_> {
    fn run(&self) -> Result<Ended> {
        if !self.lower.header().sealed {
            // Its snapshot was committed a moment ago.
            return Ok(Ended::Changed);
        }
        if let Some(volume) = self.context.volume_with_head(self.upper.id)? {
            return self.up_into_head(&volume);
        }
        if !self.upper.header().sealed {
            return Ok(Ended::Changed);
        }
        let down = self.upper.count_data()?;
        let up = self.blocks_to_go_up(down)?;
        self.expect(up.min(down));
        if up <= down { self.up() } else { self.down() }
    }

    /// A point between two parts: a crash here is as good as anywhere.
    #[inline]
    #[cfg_attr(not(test), expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "only tests end a merge here"))]
    fn point(&self) -> Result<()> {
        #[cfg(test)]
        self.context.merging.fuse.burn()?;
        Ok(())
    }

    /// Bytes of the next step: less where there is little room.
    fn step_bytes(&self) -> u64 {
        let gauge = &self.context.disk.gauge;
        let room = gauge.space().map_or(0, |space| space.available.saturating_sub(gauge.floor()));
        (room / 8).clamp(STEP_MIN, STEP_MAX)
    }

    /// Part 5: gives the space of chunks back whose blocks are all in the other layer. Where there is room for much more than
    /// this layer holds, it goes all at once with the layer: many small holes cost far more than removing a file.
    fn give_back(&self, source: &Layer, chunks: &[u64]) {
        let gauge = &self.context.disk.gauge;
        let room = gauge.space().map_or(0, |space| space.available.saturating_sub(gauge.floor()));
        if cfg!(test) || room / ROOM_FACTOR < crate::layer::allocated(&source.disk, source.id).max(ROOM_MIN) {
            copy::punch(source, chunks);
        }
    }

    /// Whether the two are still a pair: asked before each step.
    fn is_pair(&self) -> bool {
        let state = self.context.catalog.read();
        !self.context.is_closed() && pairs::is_pair(&state, self.lower.id, self.upper.id, self.drained)
    }

    /// Everything open that sees the upper layer.
    fn followers(&self) -> Vec<Arc<dyn Follower>> {
        self.context.registry.with(self.upper.id)
    }

    /// Part 4 of a step; `false` if the store closes before everything earlier has ended.
    fn let_go(&self, chunks: &[u64]) -> bool {
        let followers = self.followers();
        followers.iter().for_each(|follower| follower.forget(chunks));
        crate::store::wait_for_earlier(&followers, &|| self.context.is_closed())
    }

    /// Says how much there will be to move.
    fn expect(&self, blocks: u64) {
        let job = self.job.info();
        self.job.progress(job.done, job.done + blocks * BLOCK_SIZE);
    }

    /// Says how far it is: these blocks of `from` are in the other layer, too.
    fn moved(&self, from: &Layer, runs: &[Range<u64>]) {
        let blocks: u64 = runs.iter().map(|run| run.end - run.start).sum();
        self.context.counters.moved(from.id, blocks);
        let job = self.job.info();
        let done = job.done + blocks * BLOCK_SIZE;
        self.job.progress(done, job.total.max(done));
    }

    /// Has everything open look at the floors of its layers again.
    fn renew_floors(&self) -> Result<()> {
        self.followers().iter().try_for_each(|follower| follower.without(&[]))
    }
}

#[cfg(test)]
mod tests;
