//! What each sector of a volume may hold after a crash.
//!
//! Every write stamps its sectors with (volume, sector, version), so that reading one tells which write it came
//! from, and a torn or misplaced one is garbage. Per sector the oracle keeps the **floor**, the last
//! value that must not be lost, and the values written after it, each of which is legal too. What a crash left is
//! pinned: from then on it is the floor.

/// Bytes that a disk writes as one.
pub const SECTOR: usize = 512;

/// What a sector holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// Zeros: never written, punched or cut off.
    Zero,
    /// What this write wrote (versions begin at 1).
    Version(u64),
}

#[derive(Debug, Clone)]
struct Sector {
    floor: Value,
    later: Vec<Value>,
}

/// The legal contents of one volume.
#[derive(Debug, Clone)]
pub struct Oracle {
    tag: u64,
    issued: u64,
    sectors: Vec<Sector>,
    /// Sectors with values later than the floor.
    open: Vec<usize>,
}

/// The content of a volume at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content(Vec<Value>);

impl Oracle {
    /// For a new volume of zeros; `tag` tells it from others.
    pub fn new(tag: u64, sectors: usize) -> Self {
        Self { tag, issued: 0, sectors: vec![Sector { floor: Value::Zero, later: Vec::new() }; sectors], open: Vec::new() }
    }

    /// Sectors that the volume has.
    pub fn len(&self) -> usize {
        self.sectors.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.sectors.is_empty()
    }

    /// Stamped bytes for the next write; from here on the write may be on the disk.
    pub fn write(&mut self, first: usize, count: usize) -> Vec<u8> {
        self.issued += 1;
        let mut bytes = vec![0; count * SECTOR];
        for (i, sector) in bytes.chunks_exact_mut(SECTOR).enumerate() {
            stamp(sector, self.tag, first + i, self.issued);
        }
        self.push(first, count, Value::Version(self.issued));
        bytes
    }

    /// From here on the range may read zeros.
    pub fn zero(&mut self, first: usize, count: usize) {
        self.push(first, count, Value::Zero);
    }

    fn push(&mut self, first: usize, count: usize, value: Value) {
        for index in first..first + count {
            if self.sectors[index].later.is_empty() {
                self.open.push(index);
            }
            self.sectors[index].later.push(value);
        }
    }

    /// Whatever was issued must not be lost from here on.
    pub fn settle(&mut self) {
        for index in self.open.drain(..) {
            let sector = &mut self.sectors[index];
            if let Some(last) = sector.later.pop() {
                sector.floor = last;
                sector.later.clear();
            }
        }
    }

    /// What a reader must see while nothing has crashed.
    pub fn content(&self) -> Content {
        Content(self.sectors.iter().map(|sector| sector.later.last().copied().unwrap_or(sector.floor)).collect())
    }

    /// Checks what a crash left, and pins it. A volume that is shorter reads as zeros.
    #[track_caller]
    pub fn check_and_pin(&mut self, bytes: &[u8], what: &str) {
        self.open.clear();
        let tag = self.tag;
        for (index, sector) in self.sectors.iter_mut().enumerate() {
            let found = read(bytes, tag, index, what);
            assert!(
                found == sector.floor || sector.later.contains(&found),
                "{what}: sector {index} (block {}) holds {found:?}; legal are {:?} and later {:?}",
                index / 8,
                sector.floor,
                sector.later
            );
            sector.floor = found;
            sector.later.clear();
        }
    }

    /// Checks that what a snapshot shows is exactly `content`.
    #[track_caller]
    pub fn check_snapshot(&self, bytes: &[u8], content: &Content, what: &str) {
        for (index, expected) in content.0.iter().enumerate() {
            let found = read(bytes, self.tag, index, what);
            assert!(found == *expected, "{what}: sector {index} holds {found:?}, expected {expected:?}");
        }
    }

    /// Checks that `bytes` holds nothing but sectors of this volume, whole, up to the newest write.
    #[track_caller]
    pub fn check_plausible(&self, bytes: &[u8], what: &str) {
        for index in 0..self.sectors.len() {
            let found = read(bytes, self.tag, index, what);
            assert!(
                !matches!(found, Value::Version(version) if version > self.issued),
                "{what}: sector {index} is from the future"
            );
        }
    }
}

#[track_caller]
fn read(bytes: &[u8], tag: u64, index: usize, what: &str) -> Value {
    let end = bytes.len().min((index + 1) * SECTOR);
    let sector = bytes.get(index * SECTOR..end).unwrap_or_default();
    if sector.iter().all(|&byte| byte == 0) {
        return Value::Zero;
    }
    let version = sector.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let mut expected = [0; SECTOR];
    stamp(&mut expected, tag, index, version);
    assert!(
        sector == expected,
        "{what}: sector {index} is torn or not its own; it begins {:02x?}",
        &sector[..sector.len().min(32)]
    );
    Value::Version(version)
}

/// Version, sector, tag, and a filling made of all three, so that any mixture is seen.
fn stamp(sector: &mut [u8], tag: u64, index: usize, version: u64) {
    let filling = crate::Rng::new(version ^ (index as u64) << 24 ^ tag << 48).any() | 1;
    for (i, word) in sector.chunks_exact_mut(8).enumerate() {
        let value = match i {
            0 => version,
            1 => index as u64,
            2 => tag,
            i => filling.wrapping_mul(i as u64 | 1),
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_settled_write_is_seen() {
        let mut oracle = Oracle::new(1, 4);
        let old = oracle.write(0, 2);
        oracle.settle();
        let new = oracle.write(1, 1);
        let mut bytes = vec![0; 4 * SECTOR];
        bytes[..2 * SECTOR].copy_from_slice(&old);
        oracle.clone().check_and_pin(&bytes, "without the new write");
        bytes[SECTOR..2 * SECTOR].copy_from_slice(&new);
        oracle.clone().check_and_pin(&bytes, "with it");
        bytes[..SECTOR].fill(0);
        assert!(std::panic::catch_unwind(|| oracle.clone().check_and_pin(&bytes, "lost")).is_err());
    }

    #[test]
    fn a_torn_sector_is_seen() {
        let mut oracle = Oracle::new(1, 1);
        let (one, two) = (oracle.write(0, 1), oracle.write(0, 1));
        let torn = [&one[..256], &two[256..]].concat();
        assert!(std::panic::catch_unwind(|| oracle.clone().check_and_pin(&torn, "torn")).is_err());
    }
}
