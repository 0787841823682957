//! A map's header: what a layer is, in two slots that are written in turn.
//!
//! Each slot is one sector that checks itself. A change is written to the slot that isn't the present one, with the
//! next sequence number, so that a torn write leaves the header before it.

use super::record::{u32_at, u64_at};
use crate::error::{Error, Result};
use crate::ids::{LayerId, StoreId};
use crate::units::{BLOCK_SIZE, MAX_VOLUME_SIZE};
use std::path::Path;

/// Bytes of a slot.
pub(crate) const SLOT_BYTES: usize = 512;
/// Where the two slots are.
pub(crate) const SLOT_AT: [u64; 2] = [0, 4096];
/// The format version that this program writes, and the newest that it reads.
pub(crate) const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"OUTCROPM";
const SEALED: u32 = 1;
const TRIM: u32 = 2;
const INEXACT: u32 = 4;
const SUMMED: u32 = 8;

/// What a layer says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub store: StoreId,
    pub layer: LayerId,
    pub parent: Option<LayerId>,
    /// Raised by each finished merge.
    pub revision: u64,
    /// Raised with every write of the header: the larger of the two slots' is the present one.
    pub sequence: u64,
    /// The last flush whose records are all in the map.
    pub flush: u64,
    /// Size in bytes.
    pub size: u64,
    /// The smallest size it ever had: beyond it, absent is zero and no parent is asked.
    pub floor: u64,
    /// Blocks that the chain up to this layer shows as data.
    pub data_blocks: u64,
    /// Nanoseconds since 1970.
    pub atime_ns: i64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    /// Nothing is written to it any more.
    pub sealed: bool,
    /// A shrink to `size` is committed, but states and bytes beyond it may still be there and are not believed.
    pub trim: bool,
    /// `data_blocks` has to be counted again.
    pub inexact: bool,
    /// Every block in state data has a sum.
    pub summed: bool,
}

impl Header {
    /// The slot's sector.
    pub fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut out = [0; SLOT_BYTES];
        let flags = [(self.sealed, SEALED), (self.trim, TRIM), (self.inexact, INEXACT), (self.summed, SUMMED)];
        let flags = flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag);
        out[0..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&flags.to_le_bytes());
        out[16..32].copy_from_slice(&self.store.to_bytes());
        out[32..48].copy_from_slice(&self.layer.to_bytes());
        if let Some(parent) = self.parent {
            out[48..64].copy_from_slice(&parent.to_bytes());
        }
        let numbers = [self.revision, self.sequence, self.flush, self.size, self.floor, self.data_blocks];
        for (number, place) in numbers.iter().zip(out[64..112].as_chunks_mut::<8>().0) {
            *place = number.to_le_bytes();
        }
        let times = [self.atime_ns, self.mtime_ns, self.ctime_ns];
        for (time, place) in times.iter().zip(out[112..136].as_chunks_mut::<8>().0) {
            *place = time.to_le_bytes();
        }
        let sum = crc32c::crc32c(&out[..SLOT_BYTES - 4]);
        out[SLOT_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads a slot; `Ok(None)` if it holds no whole header.
    fn decode(slot: &[u8; SLOT_BYTES], path: &Path) -> Result<Option<Self>> {
        if slot[0..8] != MAGIC || crc32c::crc32c(&slot[..SLOT_BYTES - 4]) != u32_at(slot, SLOT_BYTES - 4) {
            return Ok(None);
        }
        let version = u32_at(slot, 8);
        if version > VERSION {
            return Err(Error::NewerFormat { path: path.to_owned(), found: version, supported: VERSION });
        }
        let id = |at: usize| {
            let mut raw = [0; 16];
            raw.copy_from_slice(&slot[at..at + 16]);
            raw
        };
        if u64_at(slot, 88) > MAX_VOLUME_SIZE || u64_at(slot, 104) > MAX_VOLUME_SIZE / BLOCK_SIZE {
            // Of no volume that there can be: arithmetic relies on that.
            return Ok(None);
        }
        let flags = u32_at(slot, 12);
        let parent = id(48);
        Ok(Some(Self {
            store: StoreId::from_bytes(id(16)),
            layer: LayerId::from_bytes(id(32)),
            parent: (parent != [0; 16]).then(|| LayerId::from_bytes(parent)),
            revision: u64_at(slot, 64),
            sequence: u64_at(slot, 72),
            flush: u64_at(slot, 80),
            size: u64_at(slot, 88),
            floor: u64_at(slot, 96),
            data_blocks: u64_at(slot, 104),
            atime_ns: u64_at(slot, 112).cast_signed(),
            mtime_ns: u64_at(slot, 120).cast_signed(),
            ctime_ns: u64_at(slot, 128).cast_signed(),
            sealed: flags & SEALED != 0,
            trim: flags & TRIM != 0,
            inexact: flags & INEXACT != 0,
            summed: flags & SUMMED != 0,
        }))
    }

    /// The present header of the two slots.
    pub fn choose(slots: [&[u8; SLOT_BYTES]; 2], path: &Path) -> Result<Self> {
        let [first, second] = [Self::decode(slots[0], path)?, Self::decode(slots[1], path)?];
        match (first, second) {
            (Some(a), Some(b)) => Ok(if b.sequence > a.sequence { b } else { a }),
            (Some(one), None) | (None, Some(one)) => Ok(one),
            (None, None) => Err(Error::Damaged { path: path.to_owned(), reason: "neither header slot is whole".to_owned() }),
        }
    }

    /// The slot that a header with this sequence number goes to.
    pub fn slot(&self) -> u64 {
        SLOT_AT[usize::from(self.sequence % 2 == 1)]
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;

    fn sample(sequence: u64) -> Header {
        Header {
            store: StoreId::from_bytes([1; 16]),
            layer: LayerId::from_bytes([2; 16]),
            parent: sequence.is_multiple_of(2).then(|| LayerId::from_bytes([3; 16])),
            revision: 4,
            sequence,
            flush: 6,
            size: 7 << 40,
            floor: 8,
            data_blocks: 9,
            atime_ns: -10,
            mtime_ns: 11,
            ctime_ns: 12,
            sealed: sequence % 2 == 1,
            trim: false,
            inexact: true,
            summed: false,
        }
    }

    #[test]
    fn the_newest_whole_slot_is_the_header() {
        let path = Path::new("map");
        let (old, new) = (sample(4), sample(5));
        let (old_slot, new_slot) = (old.encode(), new.encode());
        assert_eq!(Header::choose([&old_slot, &new_slot], path).unwrap(), new);
        assert_eq!(Header::choose([&new_slot, &old_slot], path).unwrap(), new);
        assert_eq!(Header::choose([&old_slot, &[0; 512]], path).unwrap(), old);
        assert!(Header::choose([&[0; 512], &[0xff; 512]], path).is_err());
        assert_ne!(old.slot(), new.slot());
    }

    #[test]
    fn golden_headers_are_read_and_written_as_ever() {
        let golden = include_bytes!("../../tests/golden/map-header-1.bin").as_chunks::<SLOT_BYTES>().0;
        let id = |first: u8| std::array::from_fn(|i| first + i as u8);
        let head = Header {
            store: StoreId::from_bytes(id(0x10)),
            layer: LayerId::from_bytes(id(0x20)),
            parent: Some(LayerId::from_bytes(id(0x30))),
            revision: 3,
            sequence: 6,
            flush: 5,
            size: (1 << 40) + 4097,
            floor: 4096,
            data_blocks: 77,
            atime_ns: -1,
            mtime_ns: 1_700_000_000_123_456_789,
            ctime_ns: 2,
            sealed: false,
            trim: false,
            inexact: true,
            summed: false,
        };
        let root = Header {
            parent: None,
            revision: 0,
            sequence: 7,
            flush: 1,
            size: 8192,
            floor: 8192,
            data_blocks: 2,
            atime_ns: 10,
            mtime_ns: 11,
            ctime_ns: 12,
            sealed: true,
            inexact: false,
            ..head.clone()
        };
        let cut = Header {
            sequence: 8,
            size: 5,
            floor: 5,
            data_blocks: 1,
            atime_ns: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            trim: true,
            inexact: false,
            ..head.clone()
        };
        let summed = Header { summed: true, ..root.clone() };
        let golden_summed = include_bytes!("../../tests/golden/map-header-summed-1.bin");
        assert_eq!(golden.len(), 3);
        for (header, slot) in [head, root, cut, summed].into_iter().zip(golden.iter().chain([golden_summed])) {
            assert_eq!(header.encode(), *slot);
            assert_eq!(Header::decode(slot, Path::new("map")).unwrap(), Some(header));
        }
        assert_eq!(SLOT_AT, [0, 4096]);
        let places: Vec<_> = [4, 5].map(|sequence| sample(sequence).slot()).into();
        assert_eq!(places, [0, 4096]);
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let good = sample(4).encode();
        for bit in 0..SLOT_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad, Path::new("map")).unwrap().is_none(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_is_refused_by_number() {
        let mut slot = sample(1).encode();
        slot[8..12].copy_from_slice(&9_u32.to_le_bytes());
        let sum = crc32c::crc32c(&slot[..508]);
        slot[508..].copy_from_slice(&sum.to_le_bytes());
        let error = Header::choose([&slot, &[0; 512]], Path::new("map")).unwrap_err();
        assert!(matches!(error, Error::NewerFormat { found: 9, supported: VERSION, .. }), "{error}");
    }
}
