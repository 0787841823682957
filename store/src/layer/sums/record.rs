//! A sums record: CRC32Cs of up to 103 blocks, and which of them there are, in one 512-byte sector that checks itself.
//!
//! Five records have the sums of a chunk (512 blocks, 2 MiB). A sector of zeros is a record without sums.

use crate::ids::LayerId;
use crate::layer::record::{u32_at, u64_at};
use crate::units::CHUNK_BLOCKS;

/// Bytes of a record: the unit that a disk writes whole or not at all.
pub(crate) const RECORD_BYTES: usize = 512;
/// Records of a chunk.
pub(crate) const CHUNK_RECORDS: usize = 5;
/// Bytes of the records of a chunk. They are written together, so that the file ends with a chunk.
pub(crate) const CHUNK_BYTES: usize = RECORD_BYTES * CHUNK_RECORDS;
/// Sums of a record; the last of a chunk has 100.
pub(crate) const RECORD_SUMS: usize = 103;
const MAGIC: [u8; 4] = *b"OCSR";
const PRESENT_AT: usize = 32;
const SUMS_AT: usize = 48;

/// What is known of the blocks of a chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ChunkSums {
    present: [u64; CHUNK_BLOCKS as usize / 64],
    sums: [u32; CHUNK_BLOCKS as usize],
    /// Records that can't be read: bit *i* for record *i* of the chunk. Their blocks count as without a sum.
    damaged: u8,
}

impl ChunkSums {
    /// No sums.
    pub const NONE: Self = Self { present: [0; 8], sums: [0; CHUNK_BLOCKS as usize], damaged: 0 };

    /// Sum of block `index` (0 to 511) of the chunk.
    pub fn get(&self, index: usize) -> Option<u32> {
        (self.present[index / 64] >> (index % 64) & 1 == 1).then(|| self.sums[index])
    }

    /// Sets or takes away the sum of block `index`.
    pub fn set(&mut self, index: usize, sum: Option<u32>) {
        let bit = 1 << (index % 64);
        match sum {
            Some(_) => self.present[index / 64] |= bit,
            None => self.present[index / 64] &= !bit,
        }
        self.sums[index] = sum.unwrap_or(0);
    }

    /// Whether the record with block `index` can't be read.
    pub fn is_damaged(&self, index: usize) -> bool {
        self.damaged >> (index / RECORD_SUMS) & 1 == 1
    }

    /// Reads the records of `chunk`; gives each that is damaged, with what is wrong.
    pub fn decode(bytes: &[u8; CHUNK_BYTES], layer: LayerId, chunk: u64) -> (Self, Vec<(u64, &'static str)>) {
        let mut sums = Self::NONE;
        let mut wrong = Vec::new();
        for (part, sector) in bytes.as_chunks::<RECORD_BYTES>().0.iter().enumerate() {
            let index = chunk * CHUNK_RECORDS as u64 + part as u64;
            if let Err(reason) = sums.decode_record(sector, layer, index, part) {
                sums.damaged |= 1 << part;
                wrong.push((index, reason));
            }
        }
        (sums, wrong)
    }

    fn decode_record(
        &mut self,
        sector: &[u8; RECORD_BYTES],
        layer: LayerId,
        index: u64,
        part: usize,
    ) -> Result<(), &'static str> {
        if sector[0..4] != MAGIC {
            return if sector.iter().all(|byte| *byte == 0) { Ok(()) } else { Err("not a sums record") };
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
        for (place, block) in blocks_of(part).enumerate() {
            if sector[PRESENT_AT + place / 8] >> (place % 8) & 1 == 1 {
                self.set(block, Some(u32_at(sector, SUMS_AT + place * 4)));
            }
        }
        Ok(())
    }

    /// The sector of record `part` of `chunk`.
    pub fn encode_record(&self, layer: LayerId, chunk: u64, part: usize) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        let sums = blocks_of(part).map(|block| self.get(block)).enumerate();
        let sums: Vec<_> = sums.filter_map(|(place, sum)| Some((place, sum?))).collect();
        if sums.is_empty() {
            return out;
        }
        out[0..4].copy_from_slice(&MAGIC);
        out[8..16].copy_from_slice(&(chunk * CHUNK_RECORDS as u64 + part as u64).to_le_bytes());
        out[16..32].copy_from_slice(&layer.to_bytes());
        for (place, sum) in sums {
            out[PRESENT_AT + place / 8] |= 1 << (place % 8);
            out[SUMS_AT + place * 4..][..4].copy_from_slice(&sum.to_le_bytes());
        }
        let sum = crc32c::crc32c(&out);
        out[4..8].copy_from_slice(&sum.to_le_bytes());
        out
    }
}

/// Blocks of a chunk that its record `part` is about.
fn blocks_of(part: usize) -> std::ops::Range<usize> {
    part * RECORD_SUMS..((part + 1) * RECORD_SUMS).min(CHUNK_BLOCKS as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer() -> LayerId {
        LayerId::from_bytes(std::array::from_fn(|i| 0x20 + i as u8))
    }

    fn sample() -> ChunkSums {
        let mut sums = ChunkSums::NONE;
        for (block, sum) in [(0, 0xdead_beef), (1, 0), (102, 7), (103, 8), (411, u32::MAX), (412, 1), (511, 2)] {
            sums.set(block, Some(sum));
        }
        sums
    }

    fn encode(sums: &ChunkSums, chunk: u64) -> [u8; CHUNK_BYTES] {
        let mut out = [0; CHUNK_BYTES];
        for (part, sector) in out.as_chunks_mut::<RECORD_BYTES>().0.iter_mut().enumerate() {
            *sector = sums.encode_record(layer(), chunk, part);
        }
        out
    }

    #[test]
    fn reads_back_what_it_wrote() {
        let bytes = encode(&sample(), 9);
        assert_eq!(ChunkSums::decode(&bytes, layer(), 9), (sample(), Vec::new()));
        assert_eq!(bytes[2 * 512..3 * 512], [0; 512]);
        assert_eq!(ChunkSums::decode(&[0; CHUNK_BYTES], layer(), 9), (ChunkSums::NONE, Vec::new()));
        let mut none = sample();
        (0..512).for_each(|block| none.set(block, None));
        assert_eq!(none, ChunkSums::NONE);
        assert_eq!(encode(&none, 9), [0; CHUNK_BYTES]);
    }

    #[test]
    fn golden_records_are_read_and_written_as_ever() {
        let golden = include_bytes!("../../../tests/golden/sums-records-1.bin");
        assert_eq!(encode(&sample(), 9), *golden);
        assert_eq!(ChunkSums::decode(golden, layer(), 9), (sample(), Vec::new()));
    }

    #[test]
    fn every_flipped_bit_is_seen_and_costs_one_record() {
        let good = encode(&sample(), 9);
        for bit in 0..CHUNK_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            let (sums, wrong) = ChunkSums::decode(&bad, layer(), 9);
            let part = bit / 8 / RECORD_BYTES;
            assert_eq!(wrong.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [45 + part as u64], "bit {bit}");
            for block in 0..512 {
                let lost = blocks_of(part).contains(&block);
                assert_eq!(sums.is_damaged(block), lost);
                assert_eq!(sums.get(block), if lost { None } else { sample().get(block) }, "bit {bit}, block {block}");
            }
        }
    }

    #[test]
    fn records_of_elsewhere_are_refused() {
        let bytes = encode(&sample(), 9);
        assert_eq!(ChunkSums::decode(&bytes, layer(), 8).1.len(), 4);
        assert_eq!(ChunkSums::decode(&bytes, LayerId::from_bytes([8; 16]), 9).1.len(), 4);
    }
}
