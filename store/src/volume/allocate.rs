//! `fallocate`: reserving, punching and zeroing ranges.
//!
//! A punched range is marked zero at once; its space goes back when a flush has made that durable.

use super::live::{Live, LiveView};
use super::view::View;
use super::write::Place;
use super::{Allocate, Volume, now_ns};
use crate::chain::{chunks, runs};
use crate::error::{Error, Result};
use crate::layer::head::{Effect, Run};
use crate::layer::states::State;
use crate::units::{BLOCK_SIZE, CHUNK_BLOCKS, MAX_VOLUME_SIZE, ZEROS, blocks_of};
use rustix::io::Errno;
use std::ops::Range;
use std::sync::Arc;

impl Volume {
    pub(super) fn allocate_range(&self, how: Allocate, offset: u64, length: u64) -> Result<()> {
        let end = offset.checked_add(length).filter(|_| length > 0).ok_or(Error::InvalidRange { offset, length })?;
        if end > MAX_VOLUME_SIZE {
            return Err(Error::TooBig { size: end, limit: MAX_VOLUME_SIZE });
        }
        match how {
            Allocate::Grow => {
                self.reserve(offset..end, true)?;
                self.grow_to(end)
            }
            // Space behind the end can't be told from a hole there: nothing shows it, so nothing is reserved.
            Allocate::KeepSize => self.reserve(offset..end.min(self.live().head.size()).max(offset), false),
            Allocate::Punch | Allocate::ZeroKeepSize => self.discard(offset..end),
            Allocate::Zero => {
                self.discard(offset..end)?;
                self.grow_to(end)
            }
        }
    }

    /// Makes a range read zeros, as far as the file goes.
    fn discard(&self, bytes: Range<u64>) -> Result<()> {
        let size = self.live().head.size();
        let end = bytes.end.min(size);
        if bytes.start >= end {
            return Ok(());
        }
        // A last block that the file doesn't fill is discarded whole: behind the end there are only zeros.
        let whole_end = if end == size { end.div_ceil(BLOCK_SIZE) } else { end / BLOCK_SIZE };
        let whole = bytes.start.div_ceil(BLOCK_SIZE)..whole_end;
        if whole.is_empty() {
            return self.write_zeros(bytes.start..end);
        }
        self.write_zeros(bytes.start..whole.start * BLOCK_SIZE)?;
        if whole.end * BLOCK_SIZE < end {
            self.write_zeros(whole.end * BLOCK_SIZE..end)?;
        }
        let mut block = whole.start;
        while block < whole.end {
            let _gate = self.gate.read();
            let live = self.live();
            self.check_usable(&live)?;
            let view = LiveView { volume: self, live: &live };
            // Chunks of which no layer knows anything are zeros already.
            let Some(chunk) = view.next_written(block / CHUNK_BLOCKS)? else { break };
            let start = block.max(chunk * CHUNK_BLOCKS);
            block = ((chunk + 1) * CHUNK_BLOCKS).min(whole.end);
            let cut = start < block && !discard_in_chunk(&view, &live, start..block, end)?;
            drop(_gate);
            if cut {
                self.write_zeros(end / BLOCK_SIZE * BLOCK_SIZE..end)?;
            }
        }
        Ok(())
    }

    /// Zeros for a part of a block; nothing to do where it is a hole.
    fn write_zeros(&self, bytes: Range<u64>) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut at = bytes.start;
        while at < bytes.end {
            let end = ((at / BLOCK_SIZE + 1) * BLOCK_SIZE).min(bytes.end);
            let block = at / BLOCK_SIZE;
            let live = self.live();
            let view = LiveView { volume: self, live: &live };
            let shown = view.chunk(block / CHUNK_BLOCKS)?.get((block % CHUNK_BLOCKS) as usize) != 0;
            // A write that waits for space must not keep a chain.
            drop(live);
            if shown {
                self.write_piece(&ZEROS[..(end - at) as usize], Place::Inside(at), true)?;
            }
            at = end;
        }
        Ok(())
    }

    /// Reserves space: holes become data that reads zeros, blocks of the layers below get room for their copy. The file
    /// grows as far as it comes, or not at all: nothing behind its end is data.
    fn reserve(&self, bytes: Range<u64>, grow: bool) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.clean_tail()?;
        for (chunk, blocks) in chunks(bytes.start / BLOCK_SIZE..bytes.end.div_ceil(BLOCK_SIZE)) {
            let length = (blocks.end - blocks.start) * BLOCK_SIZE;
            let reserve = || self.reserve_in_chunk(chunk, blocks.clone(), bytes.end, grow);
            let more = match reserve() {
                Err(error) if error.errno() == Errno::NOSPC => self.when_there_is_space(length, error, reserve)?,
                done => done?,
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// [`Volume::reserve`] for the blocks of one chunk; whether there may be more to do in the next.
    fn reserve_in_chunk(&self, chunk: u64, blocks: Range<u64>, end: u64, grow: bool) -> Result<bool> {
        let _gate = self.gate.read();
        let live = self.live();
        self.check_usable(&live)?;
        let view = LiveView { volume: self, live: &live };
        let blocks = if grow { blocks } else { blocks.start..blocks.end.min(blocks_of(live.head.size())) };
        if blocks.is_empty() {
            return Ok(false);
        }
        let _range = live.head.ranges.lock(blocks.clone());
        let resolved = view.chunk(chunk)?;
        let mine = live.chain.last_place();
        for run in runs(&resolved, blocks).filter(|run| run.place != mine) {
            let (offset, length) = (run.block * BLOCK_SIZE, run.count * BLOCK_SIZE);
            self.context.disk.gauge.take(length)?;
            let data = &live.head.layer.data;
            if run.place != 0 {
                data.allocate(offset, length)?;
                continue;
            }
            if !data.zero(offset, length)? {
                (0..run.count).try_for_each(|i| data.write(&[&ZEROS], offset + i * BLOCK_SIZE))?;
            }
            let grow_to = if grow { end.min((run.block + run.count) * BLOCK_SIZE) } else { 0 };
            let effect = Effect { grow_to, data_blocks: run.count.cast_signed(), mtime_ns: Some(now_ns()) };
            view.mark(Some(Run { start: run.block, count: run.count, state: State::Data }), effect)?;
        }
        Ok(true)
    }

    /// Makes the file at least `size` bytes long.
    pub(super) fn grow_to(&self, size: u64) -> Result<()> {
        self.clean_tail()?;
        let _gate = self.gate.read();
        let live = self.live();
        self.check_usable(&live)?;
        let last = live.head.size() / BLOCK_SIZE;
        let _range = live.head.ranges.lock(last..last + 1);
        if live.head.size() >= size {
            return Ok(());
        }
        let effect = Effect { grow_to: size, data_blocks: 0, mtime_ns: Some(now_ns()) };
        LiveView { volume: self, live: &live }.mark(None, effect)
    }
}

/// Marks the blocks of one chunk zero, from the first to the last that shows anything. `false` if it left out the last
/// of them: it reaches beyond byte `end`, which was the end of the file, but something may have been appended since.
pub(super) fn discard_in_chunk(view: &LiveView<'_>, live: &Arc<Live>, mut blocks: Range<u64>, end: u64) -> Result<bool> {
    let _range = live.head.ranges.lock(blocks.clone());
    let cut = blocks.end * BLOCK_SIZE > end && live.head.size() > end;
    if cut {
        blocks.end -= 1;
    }
    let resolved = view.chunk(blocks.start / CHUNK_BLOCKS)?;
    let shown: Vec<_> = runs(&resolved, blocks).filter(|run| run.place != 0).collect();
    let (Some(first), Some(last)) = (shown.first(), shown.last()) else { return Ok(!cut) };
    let count: u64 = shown.iter().map(|run| run.count).sum();
    let run = Run { start: first.block, count: last.block + last.count - first.block, state: State::Zero };
    view.mark(Some(run), Effect { grow_to: 0, data_blocks: -count.cast_signed(), mtime_ns: Some(now_ns()) })?;
    Ok(!cut)
}
