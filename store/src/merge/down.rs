//! Down: what the upper, sealed layer has goes into the lower one, which takes its place in the end.

use super::{Ended, Work, copy};
use crate::error::Result;
use crate::layer::states::{ChunkStates, State};
use crate::units::{BLOCK_SIZE, CHUNK_BLOCKS, MAX_VOLUME_SIZE, blocks_of};
use std::ops::Range;

/// Chunks of a step, at most.
const CHUNKS_MAX: usize = 1024;

/// What a step moves.
#[derive(Default)]
pub(super) struct Moves {
    pub chunks: Vec<u64>,
    pub data: Vec<Range<u64>>,
    /// Blocks that are zero in the upper layer.
    pub zeros: Vec<Range<u64>>,
    /// The upper layer's states.
    states: Vec<ChunkStates>,
}

impl Work<'_> {
    pub(super) fn down(&self) -> Result<Ended> {
        if !self.is_pair() {
            return Ok(Ended::Changed);
        }
        self.cut_lower()?;
        self.point()?;
        self.raise_upper_floor()?;
        self.point()?;
        let mut at = 0;
        while let Some(from) = self.upper.map.next_written(at)? {
            if !self.is_pair() {
                return Ok(Ended::Changed);
            }
            let _alone = self.context.upkeep_lock.lock();
            let (moves, end) = self.gather_down(from, self.step_bytes())?;
            if !moves.chunks.is_empty() && !self.step_down(&moves)? {
                return Ok(Ended::Changed);
            }
            at = end;
        }
        let upper = self.upper.header();
        self.lower.write_header(|header| {
            (header.size, header.data_blocks, header.inexact) = (upper.size, upper.data_blocks, upper.inexact);
            (header.atime_ns, header.mtime_ns, header.ctime_ns) = (upper.atime_ns, upper.mtime_ns, upper.ctime_ns);
        })?;
        self.lower.map.sync()?;
        self.lower.release();
        self.upper.release();
        self.point()?;
        Ok(Ended::Down)
    }

    /// What the upper layer hides for good goes from the lower one: everything beyond the upper one's floor. Nobody sees it.
    pub(super) fn cut_lower(&self) -> Result<()> {
        let _alone = self.context.upkeep_lock.lock();
        let (upper, lower) = (self.upper.header(), self.lower.header());
        if lower.floor > upper.floor || lower.size < upper.size {
            self.lower.write_header(|header| {
                header.floor = header.floor.min(upper.floor);
                header.size = header.size.max(upper.size);
            })?;
            self.lower.map.sync()?;
        }
        // In a merge that was begun before, the upper floor is raised already: then this was done.
        self.point()?;
        let end = blocks_of(upper.floor);
        let Some(beyond) = self.first_state(end)? else { return Ok(()) };
        let mut next = self.lower.map.next_written(beyond / CHUNK_BLOCKS)?;
        let mut hidden = 0;
        while let Some(chunk) = next {
            hidden += self.lower.map.read_chunk(chunk)?.count_data_from(end.saturating_sub(chunk * CHUNK_BLOCKS));
            let first = end.max(chunk * CHUNK_BLOCKS);
            copy::clear_sums(&self.lower, std::slice::from_ref(&(first..(chunk + 1) * CHUNK_BLOCKS)))?;
            next = self.lower.map.next_written(chunk + 1)?;
        }
        self.point()?;
        self.lower.map.truncate(end)?;
        self.lower.map.sync()?;
        self.context.counters.freed(hidden);
        self.lower.data.truncate(end * BLOCK_SIZE)
    }

    /// The first block from `end` on that the lower layer knows something of.
    fn first_state(&self, end: u64) -> Result<Option<u64>> {
        let mut next = self.lower.map.next_written(end / CHUNK_BLOCKS)?;
        while let Some(chunk) = next {
            let states = self.lower.map.read_chunk(chunk)?;
            let first = end.saturating_sub(chunk * CHUNK_BLOCKS);
            if let Some(index) = (first..CHUNK_BLOCKS).find(|index| states.get(*index as usize) != State::Absent) {
                return Ok(Some(chunk * CHUNK_BLOCKS + index));
            }
            next = self.lower.map.next_written(chunk + 1)?;
        }
        Ok(None)
    }

    /// Makes the upper layer let everything through: the lower one's floor says from now on what is zeros. Whatever its size is:
    /// not only its own blocks are found below it then, but also those that go down past it from higher up, beyond its end, as
    /// long as it stands there drained.
    fn raise_upper_floor(&self) -> Result<()> {
        // Operations make chains of their own: none begins with the old floor and is in use after this.
        let _none = self.context.catalog.begin();
        if self.upper.header().floor < MAX_VOLUME_SIZE {
            self.upper.write_header(|header| header.floor = MAX_VOLUME_SIZE)?;
            self.upper.map.sync()?;
        }
        // What is opened from here on finds the new floor by itself; what is open also if an earlier attempt raised it, and
        // failed before this.
        self.renew_floors()
    }

    pub(super) fn gather_down(&self, from: u64, bytes: u64) -> Result<(Moves, u64)> {
        let limit = bytes / BLOCK_SIZE;
        let mut moves = Moves::default();
        let mut blocks = 0;
        let mut next = Some(from);
        let mut end = from;
        while let Some(chunk) = next.filter(|_| blocks < limit && moves.chunks.len() < CHUNKS_MAX) {
            let states = self.upper.map.read_chunk(chunk)?;
            if !states.is_absent() {
                for index in 0..CHUNK_BLOCKS {
                    match states.get(index as usize) {
                        State::Data => copy::add(&mut moves.data, chunk * CHUNK_BLOCKS + index),
                        State::Zero => copy::add(&mut moves.zeros, chunk * CHUNK_BLOCKS + index),
                        State::Absent => {}
                    }
                }
                blocks += states.count_data();
                moves.chunks.push(chunk);
                moves.states.push(states);
            }
            end = chunk + 1;
            next = self.upper.map.next_written(end)?;
        }
        Ok((moves, end))
    }

    /// Parts 1 and 2 of a step: the lower layer has what the upper one has.
    pub(super) fn copy_down(&self, moves: &Moves) -> Result<()> {
        copy::clear_sums(&self.lower, &moves.data)?;
        self.point()?;
        copy::bytes(&self.upper, &self.lower, &moves.data)?;
        self.point()?;
        self.lower.data.sync()?;
        copy::sums(&self.upper, &self.lower, &moves.data)?;
        self.point()?;
        let mut from_above = moves.states.iter();
        let mut hidden = 0;
        self.lower.change_states(&moves.chunks, |_, states| {
            if let Some(above) = from_above.next() {
                hidden += states.count_data_under(above);
                states.overlay(above);
            }
        })?;
        self.context.counters.freed(hidden);
        Ok(())
    }

    /// One step; `false` if the store closes in it.
    fn step_down(&self, moves: &Moves) -> Result<bool> {
        self.copy_down(moves)?;
        self.point()?;
        self.upper.change_states(&moves.chunks, |_, states| *states = ChunkStates::ABSENT)?;
        self.moved(&self.upper, &moves.data);
        self.point()?;
        if !self.let_go(&moves.chunks) {
            return Ok(false);
        }
        self.point()?;
        self.give_back(&self.upper, &moves.chunks);
        // What is zero now may have been data in the lower layer.
        copy::punch_zeros(&self.lower, &moves.zeros);
        Ok(true)
    }
}
