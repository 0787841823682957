//! A map record: the states of 3 chunks (6 MiB of a volume) in one 512-byte sector that checks itself.
//!
//! A sector of zeros is a record that was never written: all absent.

use super::states::{CHUNK_STATES_BYTES, ChunkStates};
use crate::ids::LayerId;

/// Bytes of a record: the unit that a disk writes whole or not at all.
pub(crate) const RECORD_BYTES: usize = 512;
/// Chunks of a record.
pub(crate) const RECORD_CHUNKS: u64 = 3;
const MAGIC: [u8; 4] = *b"OCMR";
const STATES_AT: usize = 128;

/// A decoded record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    /// The flush that wrote it.
    pub flush: u64,
    /// States of its three chunks.
    pub chunks: [ChunkStates; RECORD_CHUNKS as usize],
}

impl Record {
    /// A record that was never written.
    pub const ABSENT: Self = Self { flush: 0, chunks: [const { ChunkStates::ABSENT }; RECORD_CHUNKS as usize] };

    /// The record's sector, as record number `index` of `layer`'s map.
    pub fn encode(&self, layer: LayerId, index: u64) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        out[0..4].copy_from_slice(&MAGIC);
        out[8..16].copy_from_slice(&index.to_le_bytes());
        out[16..32].copy_from_slice(&layer.to_bytes());
        out[32..40].copy_from_slice(&self.flush.to_le_bytes());
        for (states, place) in self.chunks.iter().zip(out[STATES_AT..].as_chunks_mut::<CHUNK_STATES_BYTES>().0) {
            *place = states.to_bytes();
        }
        let sum = crc32c::crc32c(&out);
        out[4..8].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads a sector back; the error says what is wrong with it.
    pub fn decode(sector: &[u8; RECORD_BYTES], layer: LayerId, index: u64) -> Result<Self, &'static str> {
        if sector[0..4] != MAGIC {
            return if sector.iter().all(|byte| *byte == 0) { Ok(Self::ABSENT) } else { Err("not a map record") };
        }
        let mut checked = *sector;
        checked[4..8].fill(0);
        if crc32c::crc32c(&checked) != u32_at(sector, 4) {
            return Err("checksum does not fit");
        }
        if u64_at(sector, 8) != index {
            return Err("record of another place");
        }
        if sector[16..32] != layer.to_bytes() {
            return Err("record of another layer");
        }
        let mut record = Self { flush: u64_at(sector, 32), ..Self::ABSENT };
        for (states, raw) in record.chunks.iter_mut().zip(sector[STATES_AT..].as_chunks::<CHUNK_STATES_BYTES>().0) {
            *states = ChunkStates::from_bytes(raw).ok_or("a block has no known state")?;
        }
        Ok(record)
    }
}

/// A little-endian number in a buffer that is long enough.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

/// A little-endian number in a buffer that is long enough.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::super::states::State;
    use super::*;

    fn sample() -> (LayerId, Record) {
        let mut record = Record { flush: 7, ..Record::ABSENT };
        record.chunks[0].set(3, State::Data);
        record.chunks[2].set(511, State::Zero);
        (LayerId::from_bytes([9; 16]), record)
    }

    #[test]
    fn reads_back_what_it_wrote() {
        let (layer, record) = sample();
        assert_eq!(Record::decode(&record.encode(layer, 5), layer, 5).unwrap(), record);
        assert_eq!(Record::decode(&[0; 512], layer, 5).unwrap(), Record::ABSENT);
    }

    #[test]
    fn a_golden_record_is_read_and_written_as_ever() {
        let golden = include_bytes!("../../tests/golden/map-record-1.bin");
        let layer = LayerId::from_bytes(std::array::from_fn(|i| 0x20 + i as u8));
        let mut record = Record { flush: 5, ..Record::ABSENT };
        record.chunks[0].set(0, State::Data);
        record.chunks[0].set(1, State::Zero);
        record.chunks[0].set(5, State::Data);
        record.chunks[2].set(510, State::Zero);
        record.chunks[2].set(511, State::Data);
        assert_eq!(record.encode(layer, 9), *golden);
        assert_eq!(Record::decode(golden, layer, 9).unwrap(), record);
        assert_eq!((super::super::map::record_at(0), super::super::map::record_at(9)), (8192, 8192 + 9 * 512));
        assert_eq!((RECORD_CHUNKS, crate::units::CHUNK_BLOCKS), (3, 512));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let (layer, record) = sample();
        let good = record.encode(layer, 5);
        for bit in 0..512 * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&bad, layer, 5).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_record_of_elsewhere_is_refused() {
        let (layer, record) = sample();
        let sector = record.encode(layer, 5);
        assert!(Record::decode(&sector, layer, 6).is_err());
        assert!(Record::decode(&sector, LayerId::from_bytes([8; 16]), 5).is_err());
    }
}
