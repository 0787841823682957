//! Up into a head that is being written: by the way of a copy-up, which changes nothing that anybody sees.

use super::{Ended, Work, copy};
use crate::error::Result;
use crate::layer::states::State;
use crate::store::Follower;
use crate::units::{BLOCK_SIZE, CHUNK_BLOCKS};
use crate::volume::{Sync, Volume};
use std::ops::Range;
use std::sync::Arc;

/// Chunks of a step, at most.
const CHUNKS_MAX: usize = 1024;
/// A head that would take more than this many times what it has, and more than [`COPY_MAX`], is sealed and merged down.
const RATIO_MAX: u64 = 4;
/// Blocks that go up in any case: 64 MiB.
const COPY_MAX: u64 = if cfg!(test) { 8 } else { 16384 };

/// What a step copied.
struct Copied {
    chunks: Vec<u64>,
    blocks: Vec<Range<u64>>,
    /// The chunk to go on with.
    end: u64,
}

impl Work<'_> {
    /// The upper layer is the head of `volume`.
    pub(super) fn up_into_head(&self, volume: &Arc<Volume>) -> Result<Ended> {
        let head = volume.head();
        if head.layer.id != self.upper.id {
            return Ok(Ended::Changed);
        }
        let has = self.upper.count_data()?;
        let enough = COPY_MAX.max(has.saturating_mul(RATIO_MAX));
        let up = self.blocks_to_go_up(enough)?;
        if up > enough && self.may_settle() {
            return self.settle(volume);
        }
        self.expect(up);
        let mut at = 0;
        while let Some(from) = self.lower.map.next_written(at)? {
            if !self.is_pair() {
                return Ok(Ended::Changed);
            }
            let _alone = self.context.upkeep_lock.lock();
            let Some(Copied { chunks, blocks: moved, end }) = self.copy_up(volume, from)? else { return Ok(Ended::Changed) };
            if !chunks.is_empty() {
                // Marks that a snapshot sealed meanwhile are durable, too: it flushed them.
                self.point()?;
                head.flush(Sync::Data)?;
                self.point()?;
                let follower: Arc<dyn Follower> = Arc::clone(volume) as _;
                if !crate::store::wait_for_earlier(&[follower], &|| self.context.is_closed()) {
                    return Ok(Ended::Changed);
                }
                self.moved(&self.lower, &moved);
                self.give_back(&self.lower, &chunks);
                self.point()?;
            }
            at = end;
        }
        head.lower_floor(self.lower.header().floor);
        head.flush_times()?;
        // The floor is durable in this layer, sealed or not by now.
        if head.layer.header().floor > self.lower.header().floor { Ok(Ended::Changed) } else { Ok(Ended::Up) }
    }

    /// Copies a step's blocks from chunk `from` on; `None` if the head is another one by now.
    fn copy_up(&self, volume: &Volume, from: u64) -> Result<Option<Copied>> {
        let limit = self.step_bytes() / BLOCK_SIZE;
        let (mut chunks, mut moved) = (Vec::new(), Vec::new());
        let mut blocks = 0;
        let mut next = Some(from);
        let mut end = from;
        while let Some(chunk) = next.filter(|_| blocks < limit && chunks.len() < CHUNKS_MAX) {
            let states = self.lower.map.read_chunk(chunk)?;
            if !states.is_absent() {
                let mut wanted: Vec<Range<u64>> = Vec::new();
                let mut zeros: Vec<Range<u64>> = Vec::new();
                for index in 0..CHUNK_BLOCKS {
                    match states.get(index as usize) {
                        State::Data => copy::add(&mut wanted, chunk * CHUNK_BLOCKS + index),
                        State::Zero => copy::add(&mut zeros, chunk * CHUNK_BLOCKS + index),
                        State::Absent => {}
                    }
                }
                let Some(copied) = volume.pull_up(&self.lower, self.upper.id, chunk, &wanted, &zeros)? else { return Ok(None) };
                blocks += copied.iter().map(|run| run.end - run.start).sum::<u64>();
                moved.extend(copied);
                chunks.push(chunk);
            }
            end = chunk + 1;
            next = self.lower.map.next_written(end)?;
        }
        Ok(Some(Copied { chunks, blocks: moved, end }))
    }
}
