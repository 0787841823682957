//! Sets of the blocks of a chunk, as bit masks.

use crate::layer::states::{ChunkStates, MASK_LOW, MASK_WORDS};
use crate::units::CHUNK_BLOCKS;

/// A set of the 512 blocks of a chunk: block *i* is bit 2·(*i* mod 32) of word *i*/32, as in the states it is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Blocks([u64; MASK_WORDS]);

impl Blocks {
    pub const NONE: Self = Self([0; MASK_WORDS]);
    pub const ALL: Self = Self([MASK_LOW; MASK_WORDS]);

    /// Blocks in state data.
    pub fn data(states: &ChunkStates) -> Self {
        Self(states.data_mask())
    }

    /// Blocks in any state but absent.
    pub fn known(states: &ChunkStates) -> Self {
        Self(states.known_mask())
    }

    /// The blocks of `chunk` from block `floor` of the volume on.
    pub fn from(floor: u64, chunk: u64) -> Self {
        let first = floor.saturating_sub(chunk * CHUNK_BLOCKS).min(CHUNK_BLOCKS) as usize;
        let mut blocks = Self::ALL;
        for (i, word) in blocks.0.iter_mut().enumerate() {
            let at = i * 32;
            if first >= at + 32 {
                *word = 0;
            } else if first > at {
                *word &= !((1 << ((first - at) * 2)) - 1);
            }
        }
        blocks
    }

    pub fn and(self, other: Self) -> Self {
        self.zip(other, |a, b| a & b)
    }

    pub fn or(self, other: Self) -> Self {
        self.zip(other, |a, b| a | b)
    }

    pub fn without(self, other: Self) -> Self {
        self.zip(other, |a, b| a & !b)
    }

    fn zip(self, other: Self, how: impl Fn(u64, u64) -> u64) -> Self {
        Self(std::array::from_fn(|i| how(self.0[i], other.0[i])))
    }

    pub fn count(self) -> i64 {
        self.0.iter().map(|word| i64::from(word.count_ones())).sum()
    }

    pub fn is_empty(self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}
