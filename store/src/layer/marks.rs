//! Marks: states that were acknowledged, but are not in the map yet.

use super::states::{ChunkStates, State};
use crate::units::CHUNK_BLOCKS;
use std::collections::BTreeMap;

/// New states by chunk.
#[derive(Default)]
pub(super) struct Marks(BTreeMap<u64, ChunkStates>);

impl Marks {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Chunks with marks: what bounds their memory.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Marks `count` blocks from `start`.
    pub fn set(&mut self, start: u64, count: u64, state: State) {
        let mut block = start;
        while block < start + count {
            let chunk = block / CHUNK_BLOCKS;
            let end = ((chunk + 1) * CHUNK_BLOCKS).min(start + count);
            let states = self.0.entry(chunk).or_insert(ChunkStates::ABSENT);
            for index in block..end {
                states.set((index % CHUNK_BLOCKS) as usize, state);
            }
            block = end;
        }
    }

    /// Marks of one chunk.
    pub fn get(&self, chunk: u64) -> Option<&ChunkStates> {
        self.0.get(&chunk)
    }

    /// The first marked chunk at or after `chunk`.
    pub fn next(&self, chunk: u64) -> Option<u64> {
        self.0.range(chunk..).next().map(|(marked, _)| *marked)
    }

    /// All marks, by chunk.
    pub fn sorted(&self) -> Vec<(u64, &ChunkStates)> {
        self.0.iter().map(|(chunk, states)| (*chunk, states)).collect()
    }
}
