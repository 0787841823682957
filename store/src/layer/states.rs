//! States of blocks: two bits each, a chunk (512 blocks) at a time.

use crate::units::CHUNK_BLOCKS;

/// What a layer knows of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing: ask the parent.
    Absent,
    /// Its bytes are in the layer's data.
    Data,
    /// It reads zeros, whatever the parent has. Its bytes are never read.
    Zero,
}

impl State {
    const fn bits(self) -> u64 {
        match self {
            State::Absent => 0,
            State::Data => 1,
            State::Zero => 2,
        }
    }
}

/// Bytes of the states of a chunk.
pub(crate) const CHUNK_STATES_BYTES: usize = CHUNK_BLOCKS as usize / 4;
const WORDS: usize = CHUNK_STATES_BYTES / 8;
const LOW_BITS: u64 = 0x5555_5555_5555_5555;
/// Words of a mask of a chunk's blocks: block *i* is bit 2·(*i* mod 32) of word *i*/32.
pub(crate) const MASK_WORDS: usize = WORDS;
/// The bits of a word that stand for a block in a mask.
pub(crate) const MASK_LOW: u64 = LOW_BITS;

/// States of the 512 blocks of a chunk. Also used for marks, where absent means "not marked".
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ChunkStates([u64; WORDS]);

impl ChunkStates {
    /// All absent.
    pub const ABSENT: Self = Self([0; WORDS]);

    /// Reads the on-disk form; `None` if a block has the fourth, impossible state.
    pub fn from_bytes(bytes: &[u8; CHUNK_STATES_BYTES]) -> Option<Self> {
        let mut words = [0; WORDS];
        for (word, raw) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*raw);
            if *word & (*word >> 1) & LOW_BITS != 0 {
                return None;
            }
        }
        Some(Self(words))
    }

    /// The on-disk form: block *i* of the chunk in bits 2·(*i* mod 4) of byte *i*/4.
    pub fn to_bytes(&self) -> [u8; CHUNK_STATES_BYTES] {
        let mut bytes = [0; CHUNK_STATES_BYTES];
        for (word, raw) in self.0.iter().zip(bytes.as_chunks_mut::<8>().0) {
            *raw = word.to_le_bytes();
        }
        bytes
    }

    /// State of block `index` (0 to 511) of the chunk.
    pub fn get(&self, index: usize) -> State {
        match (self.0[index / 32] >> (index % 32 * 2)) & 3 {
            0 => State::Absent,
            1 => State::Data,
            _ => State::Zero,
        }
    }

    /// Sets the state of block `index`.
    pub fn set(&mut self, index: usize, state: State) {
        let shift = index % 32 * 2;
        let word = &mut self.0[index / 32];
        *word = (*word & !(3 << shift)) | (state.bits() << shift);
    }

    /// Lets every mark of `over` win.
    pub fn overlay(&mut self, over: &ChunkStates) {
        for (word, marks) in self.0.iter_mut().zip(&over.0) {
            let low = (marks | (marks >> 1)) & LOW_BITS;
            *word = (*word & !(low | (low << 1))) | marks;
        }
    }

    /// Whether all blocks are absent.
    pub fn is_absent(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Blocks in state data.
    pub fn count_data(&self) -> u64 {
        self.0.iter().map(|word| u64::from((word & LOW_BITS).count_ones())).sum()
    }

    /// Blocks in state data from block `index` on.
    pub fn count_data_from(&self, index: u64) -> u64 {
        let mut rest = self.clone();
        rest.clear_from(usize::try_from(index).unwrap_or(usize::MAX).min(CHUNK_BLOCKS as usize));
        self.count_data() - rest.count_data()
    }

    /// Blocks in state data for which `over` has a state.
    pub fn count_data_under(&self, over: &ChunkStates) -> u64 {
        self.data_mask().iter().zip(over.known_mask()).map(|(data, known)| u64::from((data & known).count_ones())).sum()
    }

    /// The blocks in state data.
    pub fn data_mask(&self) -> [u64; MASK_WORDS] {
        self.0.map(|word| word & LOW_BITS)
    }

    /// The blocks in any state but absent.
    pub fn known_mask(&self) -> [u64; MASK_WORDS] {
        self.0.map(|word| (word | (word >> 1)) & LOW_BITS)
    }

    /// Makes the blocks from `index` on absent.
    pub fn clear_from(&mut self, index: usize) {
        for (i, word) in self.0.iter_mut().enumerate() {
            let first = i * 32;
            if first >= index {
                *word = 0;
            } else if index - first < 32 {
                *word &= (1 << ((index - first) * 2)) - 1;
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;

    #[test]
    fn states_stand_where_the_format_says() {
        let mut states = ChunkStates::ABSENT;
        states.set(0, State::Data);
        states.set(5, State::Zero);
        states.set(511, State::Data);
        let bytes = states.to_bytes();
        assert_eq!((bytes[0], bytes[1], bytes[127]), (1, 2 << 2, 1 << 6));
        assert_eq!(ChunkStates::from_bytes(&bytes).unwrap(), states);
        assert_eq!((states.get(5), states.get(6), states.get(511)), (State::Zero, State::Absent, State::Data));
        assert_eq!(states.count_data(), 2);
    }

    #[test]
    fn the_fourth_state_is_refused() {
        let mut bytes = [0; CHUNK_STATES_BYTES];
        bytes[77] = 3 << 4;
        assert!(ChunkStates::from_bytes(&bytes).is_none());
    }

    #[test]
    fn marks_win_and_unmarked_blocks_stay() {
        let mut below = ChunkStates::ABSENT;
        let mut marks = ChunkStates::ABSENT;
        for i in 0..9 {
            let of = |n| [State::Absent, State::Data, State::Zero][n];
            below.set(i + 30, of(i % 3));
            marks.set(i + 30, of(i / 3));
        }
        let mut both = below.clone();
        both.overlay(&marks);
        for i in 0..512 {
            let wanted = if marks.get(i) == State::Absent { below.get(i) } else { marks.get(i) };
            assert_eq!(both.get(i), wanted, "block {i}");
        }
    }

    #[test]
    fn clears_a_tail() {
        for from in [0, 1, 31, 32, 33, 511, 512] {
            let mut states = ChunkStates::ABSENT;
            (0..512).for_each(|i| states.set(i, State::Data));
            states.clear_from(from);
            assert!((0..512).all(|i| (states.get(i) == State::Data) == (i < from)), "from {from}");
        }
    }
}
