//! Up: what only the lower layer has goes into the upper, sealed one.

use super::{Ended, Work, copy};
use crate::error::Result;
use crate::layer::states::{ChunkStates, State};
use crate::units::{BLOCK_SIZE, CHUNK_BLOCKS, blocks_of};
use std::ops::Range;

/// Chunks of a step, at most.
const CHUNKS_MAX: usize = 1024;

/// What a step moves.
#[derive(Default)]
struct Moves {
    chunks: Vec<u64>,
    data: Vec<Range<u64>>,
    /// States that the upper layer gets.
    states: Vec<ChunkStates>,
}

/// What the upper layer lacks of a chunk of the lower one, below `floor`.
pub(super) fn lacking(chunk: u64, lower: &ChunkStates, upper: &ChunkStates, floor: u64) -> ChunkStates {
    let mut lacking = ChunkStates::ABSENT;
    for index in 0..CHUNK_BLOCKS as usize {
        if chunk * CHUNK_BLOCKS + (index as u64) < floor && upper.get(index) == State::Absent {
            lacking.set(index, lower.get(index));
        }
    }
    lacking
}

impl Work<'_> {
    /// How many blocks of data would have to go up; counted only as far as they are more than `enough`.
    pub(super) fn blocks_to_go_up(&self, enough: u64) -> Result<u64> {
        let floor = blocks_of(self.upper.header().floor);
        let mut blocks = 0;
        let mut next = self.lower.map.next_written(0)?;
        while let Some(chunk) = next.filter(|_| blocks <= enough) {
            let (lower, upper) = (self.lower.map.read_chunk(chunk)?, self.upper.map.read_chunk(chunk)?);
            if !lower.is_absent() {
                blocks += lacking(chunk, &lower, &upper, floor).count_data();
            }
            next = self.lower.map.next_written(chunk + 1)?;
        }
        Ok(blocks)
    }

    pub(super) fn up(&self) -> Result<Ended> {
        if !self.is_pair() {
            return Ok(Ended::Changed);
        }
        // An earlier process may have failed to write states out that the page cache shows: what is taken for moved
        // already must be so after power loss, too.
        self.upper.rewrite_map()?;
        let mut at = 0;
        while let Some(from) = self.lower.map.next_written(at)? {
            if !self.is_pair() {
                return Ok(Ended::Changed);
            }
            let _alone = self.context.upkeep_lock.lock();
            let (moves, end) = self.gather_up(from)?;
            if !moves.chunks.is_empty() && !self.step_up(&moves)? {
                return Ok(Ended::Changed);
            }
            at = end;
        }
        // Beyond the lower layer's floor, what neither has is zeros. Nothing there is left in the lower one alone.
        let floor = self.lower.header().floor;
        if floor < self.upper.header().floor {
            self.upper.write_header(|header| header.floor = floor)?;
            self.upper.map.sync()?;
        }
        self.upper.release();
        self.point()?;
        Ok(Ended::Up)
    }

    fn gather_up(&self, from: u64) -> Result<(Moves, u64)> {
        let floor = blocks_of(self.upper.header().floor);
        let limit = self.step_bytes() / BLOCK_SIZE;
        let mut moves = Moves::default();
        let mut blocks = 0;
        let mut next = Some(from);
        let mut end = from;
        while let Some(chunk) = next.filter(|_| blocks < limit && moves.chunks.len() < CHUNKS_MAX) {
            let (lower, upper) = (self.lower.map.read_chunk(chunk)?, self.upper.map.read_chunk(chunk)?);
            let lacking = lacking(chunk, &lower, &upper, floor);
            if !lacking.is_absent() {
                for index in (0..CHUNK_BLOCKS).filter(|index| lacking.get(*index as usize) == State::Data) {
                    copy::add(&mut moves.data, chunk * CHUNK_BLOCKS + index);
                }
                blocks += lacking.count_data();
                moves.chunks.push(chunk);
                moves.states.push(lacking);
            }
            end = chunk + 1;
            next = self.lower.map.next_written(end)?;
        }
        Ok((moves, end))
    }

    /// One step; `false` if the store closes in it.
    fn step_up(&self, moves: &Moves) -> Result<bool> {
        copy::bytes(&self.lower, &self.upper, &moves.data)?;
        self.point()?;
        self.upper.data.sync()?;
        copy::sums(&self.lower, &self.upper, &moves.data)?;
        self.point()?;
        let mut gained = moves.states.iter();
        self.upper.change_states(&moves.chunks, |_, states| {
            if let Some(gained) = gained.next() {
                states.overlay(gained);
            }
        })?;
        self.moved(&self.lower, &moves.data);
        self.point()?;
        if !self.let_go(&moves.chunks) {
            return Ok(false);
        }
        self.point()?;
        self.give_back(&self.lower, &moves.chunks);
        self.point()?;
        Ok(true)
    }
}
