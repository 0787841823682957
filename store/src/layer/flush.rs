//! Flushing a head: the one way by which states become durable.
//!
//! The order, and what a crash after each step leaves:
//!
//! 1. take the marks; later ones go to the next flush — nothing has changed on disk
//! 2. sync `data` — bytes without a state are never read
//! 3. write the map's records and header — torn or missing ones are older records: a mark of this flush may be
//!    durable or not, and its bytes are
//! 4. sync `map` — **the commit point**: durable
//! 5. void the taken half of `pending`
//! 6. punch what is durably zero, where it still is — a crash loses only the punching
//!
//! Concurrent callers share a flush, but only one that hasn't taken its set when they come.

use super::head::Head;
use super::map::PAGE_RECORDS;
use super::marks::Marks;
use super::record::RECORD_CHUNKS;
use super::states::State;
use crate::error::{Error, Result};
use crate::units::{BLOCK_SIZE, CHUNK_BLOCKS};
use crate::volume::Sync;
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering::SeqCst;

/// Who flushes.
#[derive(Default)]
pub(super) struct Turn {
    /// Flushes that took their set.
    started: u64,
    /// Flushes that ended.
    ended: u64,
    running: bool,
}

/// What a flush took.
struct Taken {
    half: Option<usize>,
    punches: Vec<(u64, u64)>,
    /// What the header is to say; none if only bytes of blocks that were data before have changed.
    header: Option<TakenHeader>,
}

/// The part of the header that a head changes, as it was when the set was taken.
struct TakenHeader {
    size: u64,
    floor: u64,
    data_blocks: u64,
    inexact: bool,
    atime_ns: i64,
    mtime_ns: i64,
    ctime_ns: i64,
}

/// How old the time of an overwrite may be in the map after an fsync: within it, a barrier is saved.
const MTIME_SLACK_NS: i64 = 1_000_000_000;

/// Pages of the map that have the records of `count` blocks from `start`.
pub(super) fn pages(start: u64, count: u64) -> RangeInclusive<u64> {
    let page = |block: u64| block / CHUNK_BLOCKS / RECORD_CHUNKS / PAGE_RECORDS;
    page(start)..=page(start + count.max(1) - 1)
}

impl Head {
    /// Makes everything that was acknowledged before the call durable. Times that were set are; the time of a mere
    /// overwrite is with [`Sync::All`], to the second.
    pub fn flush(&self, what: Sync) -> Result<()> {
        self.flush_with(match what {
            Sync::Data => i64::MAX,
            Sync::All => MTIME_SLACK_NS,
        })
    }

    /// Makes everything durable, times to the nanosecond.
    pub fn flush_times(&self) -> Result<()> {
        self.flush_with(0)
    }

    fn flush_with(&self, slack_ns: i64) -> Result<()> {
        if self.is_faulted() {
            return Err(self.fault_error());
        }
        if self.times().1.saturating_sub(self.state.lock().mtime_ns) > slack_ns {
            self.state.lock().header_changed = true;
        }
        let mut turn = self.turn.lock();
        if !turn.running && !self.needs_flush() {
            // The flush that took everything may have failed since this call began.
            return if self.is_faulted() { Err(self.fault_error()) } else { Ok(()) };
        }
        let mine = turn.started + 1;
        while turn.ended < mine {
            if turn.running {
                self.done.wait(&mut turn);
                continue;
            }
            if self.is_faulted() {
                break;
            }
            turn.running = true;
            turn.started += 1;
            drop(turn);
            // A failure shows in `faulted`, for all who waited.
            let result = self.flush_once();
            turn = self.turn.lock();
            turn.running = false;
            turn.ended = turn.started;
            self.done.notify_all();
            result?;
        }
        drop(turn);
        if self.is_faulted() { Err(self.fault_error()) } else { Ok(()) }
    }

    /// Does what no flush may run beside: it could make durable what it took before.
    pub(super) fn between_flushes<T>(&self, change: impl FnOnce() -> T) -> T {
        let mut turn = self.turn.lock();
        while turn.running {
            self.done.wait(&mut turn);
        }
        turn.running = true;
        drop(turn);
        let result = change();
        self.turn.lock().running = false;
        self.done.notify_all();
        result
    }

    /// Changes what no flush writes of the header: durable on return. No flush runs beside it, since a failed write-back is
    /// told only once; here it faults the head as well.
    pub fn change_header(&self, change: impl FnOnce(&mut super::Header)) -> Result<()> {
        self.between_flushes(|| {
            if self.is_faulted() {
                return Err(self.fault_error());
            }
            let changed = self.layer.write_header(change).and_then(|()| self.layer.map.sync());
            changed.inspect_err(|error| self.fail(error))
        })
    }

    /// A flush that was waited for failed in another caller's hands: the fault stands for its error.
    pub(super) fn fault_error(&self) -> Error {
        Error::Faulted { volume: format!("of layer {}", self.layer.id) }
    }

    fn needs_flush(&self) -> bool {
        let state = self.state.lock();
        state.header_changed || !state.marks.is_empty() || self.layer.data.is_dirty()
    }

    /// One flush, by one caller at a time.
    pub(super) fn flush_once(&self) -> Result<()> {
        if self.is_faulted() {
            return Err(self.fault_error());
        }
        let result = self.try_flush();
        if let Err(error) = &result {
            self.fail(error);
        }
        result
    }

    /// Makes this head faulted, durably if the disk still allows that: nobody syncs again and claims success.
    pub(super) fn fail(&self, error: &Error) {
        tracing::error!(layer = %self.layer.id, "the volume is faulted: {error}");
        self.faulted.store(true, SeqCst);
        let mut state = self.state.lock();
        if state.pending.is_none() {
            let (dir, id) = (&self.layer.dir, self.layer.id);
            // In place, where an open failed: a kill must not find the file without its entries and without the fault.
            state.pending = super::Pending::adopt(dir, id).or_else(|| super::Pending::create(dir, id).ok());
        }
        if let Some(pending) = &mut state.pending {
            pending.fault();
        }
    }

    fn try_flush(&self) -> Result<()> {
        self.await_proof();
        let taken = self.take()?;
        self.layer.data.sync()?;
        if let Some(header) = &taken.header {
            self.write_map(header)?;
            self.layer.map.sync()?;
        }
        let mut state = self.state.lock();
        state.taken = Marks::default();
        if let (Some(half), Some(pending)) = (taken.half, &mut state.pending) {
            pending.void(half)?;
        }
        drop(state);
        self.punch(taken.punches);
        Ok(())
    }

    /// Step 1.
    fn take(&self) -> Result<Taken> {
        let mut state = self.state.lock();
        // Overwrites alone are not worth the map's barrier.
        if !state.header_changed && state.marks.is_empty() {
            return Ok(Taken { half: None, punches: Vec::new(), header: None });
        }
        let (_, mtime_ns, ctime_ns) = self.times();
        (state.mtime_ns, state.ctime_ns) = (mtime_ns, ctime_ns);
        let half = match &mut state.pending {
            Some(pending) => Some(pending.switch()?),
            None => None,
        };
        state.taken = std::mem::take(&mut state.marks);
        state.header_changed = false;
        let header = TakenHeader {
            size: state.size,
            floor: state.floor,
            data_blocks: state.data_blocks,
            inexact: state.inexact,
            atime_ns: state.atime_ns,
            mtime_ns,
            ctime_ns,
        };
        Ok(Taken { half, punches: std::mem::take(&mut state.punches), header: Some(header) })
    }

    /// Step 3: each record is made from the last durable image plus the taken marks only.
    fn write_map(&self, now: &TakenHeader) -> Result<()> {
        let taken: Vec<_> = self.state.lock().taken.sorted().into_iter().map(|(chunk, marks)| (chunk, marks.clone())).collect();
        let flush = self.layer.header().flush + 1;
        for chunks in taken.chunk_by(|a, b| a.0 / RECORD_CHUNKS == b.0 / RECORD_CHUNKS) {
            let index = chunks[0].0 / RECORD_CHUNKS;
            let mut record = self.layer.map.read_record(index)?;
            record.flush = flush;
            for (chunk, marks) in chunks {
                record.chunks[(chunk % RECORD_CHUNKS) as usize].overlay(marks);
            }
            self.layer.map.write_record(index, &record)?;
        }
        self.layer.write_header(|header| {
            header.flush = flush;
            (header.size, header.floor, header.data_blocks, header.inexact) = (now.size, now.floor, now.data_blocks, now.inexact);
            (header.atime_ns, header.mtime_ns, header.ctime_ns) = (now.atime_ns, now.mtime_ns, now.ctime_ns);
            header.trim = false;
        })
    }

    /// Step 6. A range that somebody changes right now is left to the next flush: waiting for it here could be
    /// waiting for a writer that waits for this flush.
    fn punch(&self, punches: Vec<(u64, u64)>) {
        let mut later = Vec::new();
        for (start, count) in punches {
            let Some(_range) = self.ranges.try_lock(start..start + count) else {
                later.push((start, count));
                continue;
            };
            if let Err(error) = self.punch_zeros(start, count) {
                // Its space stays taken; what it reads doesn't change.
                tracing::warn!(layer = %self.layer.id, "blocks {start}..{} keep their space: {error}", start + count);
            }
        }
        if !later.is_empty() {
            let mut state = self.state.lock();
            state.punches.extend(later);
            // So that there is a next flush.
            state.header_changed = true;
        }
    }

    /// Punches those blocks of a range that are durably zero and have no newer mark.
    fn punch_zeros(&self, start: u64, count: u64) -> Result<()> {
        let mut block = start;
        let end = start + count;
        while block < end {
            let chunk = block / CHUNK_BLOCKS;
            let newer = self.overlay(chunk);
            let states = self.layer.map.read_chunk(chunk)?;
            let is_zero = |block: u64| {
                let index = (block % CHUNK_BLOCKS) as usize;
                states.get(index) == State::Zero && newer.as_ref().is_none_or(|marks| marks.get(index) != State::Data)
            };
            let chunk_end = ((chunk + 1) * CHUNK_BLOCKS).min(end);
            while block < chunk_end {
                let first = block;
                while block < chunk_end && is_zero(block) {
                    block += 1;
                }
                if block > first {
                    self.layer.data.punch(first * BLOCK_SIZE, (block - first) * BLOCK_SIZE)?;
                } else {
                    block += 1;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "flush_tests.rs"]
mod tests;
