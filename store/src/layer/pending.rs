//! `pending`: marks that no flush has made durable yet, so that the end of the process loses none.
//!
//! When a write has its data in the page cache, its mark goes here (page cache too) before it is acknowledged. After
//! SIGKILL the page cache lives on, so the next open finds both. After power loss it is not believed: the header names
//! the boot and the mount that it belongs to.
//!
//! Entries are appended to one of two halves; a flush takes the half by switching to the other, and voids it when the
//! map is durable. An entry's checksum is seeded with its half's epoch and its place, so a voided or torn entry is none.
//!
//! Written with `pwrite`, not through a mapping: a store into a mapping of a file on a dying disk is a SIGBUS for the
//! whole process, and one on a hung disk holds the address space's lock.

use super::record::{u32_at, u64_at};
use super::states::State;
use crate::error::{Error, Result};
use crate::ids::LayerId;
use crate::units::{BLOCK_SIZE, MAX_VOLUME_SIZE};
use rustix::fs::{AtFlags, FallocateFlags, StatxFlags, fallocate, statx};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Entries of a half.
pub(crate) const HALF_ENTRIES: u64 = 16384;
const ENTRY_BYTES: u64 = 32;
const HEADER_BYTES: usize = 512;
const ENTRIES_AT: u64 = 4096;
const FILE_BYTES: u64 = ENTRIES_AT + 2 * HALF_ENTRIES * ENTRY_BYTES;
const MAGIC: [u8; 8] = *b"OUTCROPP";
const VERSION: u32 = 1;
const OPEN: u32 = 1;
const FAULTED: u32 = 2;
/// `STATX_MNT_ID_UNIQUE`: ids that are never used again (Linux 6.8); older kernels give the ordinary mount id.
const MNT_ID_UNIQUE: u32 = 0x4000;

/// One thing that happened, in the order it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// `count` blocks from `start` got a state (none of them, if only the size or the time changed).
    Mark { start: u64, count: u32, state: State, size: u64, mtime_ns: i64 },
    /// Times were set.
    Times { atime_ns: i64, size: u64, mtime_ns: i64 },
}

/// Which boot and mount the page cache belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    boot: [u8; 16],
    mount: u64,
}

/// The open file of a head that is being written.
pub(crate) struct Pending {
    file: File,
    path: PathBuf,
    layer: LayerId,
    stamp: Stamp,
    state: u32,
    epochs: [u64; 2],
    active: usize,
    used: u64,
}

/// What an earlier process left.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Nothing: the head was closed.
    Nothing,
    /// A flush failed: what the disk holds beyond the last good flush is not known.
    Fault,
    /// The machine went down since (or the disk was mounted anew): entries are not believed.
    OtherBoot,
    /// The process ended without closing; these are its marks, oldest first.
    Entries(Vec<Entry>),
}

impl Pending {
    /// Makes the file, fully allocated and marked as open: durable on return.
    pub fn create(dir: &Path, layer: LayerId) -> Result<Self> {
        let path = dir.join("pending");
        let failed = |attempt| {
            let path = path.clone();
            move |error: std::io::Error| Error::io(attempt, path, error)
        };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).map_err(failed("making"))?;
        match fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES) {
            Ok(()) => {}
            Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(FILE_BYTES).map_err(failed("making"))?,
            Err(error) => return Err(Error::io("allocating space in", &path, error)),
        }
        let stamp = stamp(&path)?;
        let pending = Self { file, path, layer, stamp, state: OPEN, epochs: [1, 0], active: 0, used: 0 };
        pending.write_header()?;
        pending.file.sync_all().map_err(|e| Error::io("syncing", &pending.path, e))?;
        crate::disk::durable::sync_dir(dir)?;
        Ok(pending)
    }

    /// Takes over the file that an earlier process left, to fault it: no entry has room in it.
    pub fn adopt(dir: &Path, layer: LayerId) -> Option<Self> {
        let path = dir.join("pending");
        let file = OpenOptions::new().read(true).write(true).open(&path).ok()?;
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0).ok()?;
        let (stamp, state, epochs) = decode_header(&header, layer)?;
        Some(Self { file, path, layer, stamp, state, epochs, active: 0, used: HALF_ENTRIES })
    }

    /// Reads what an earlier process left in `dir`.
    pub fn read(dir: &Path, layer: LayerId) -> Result<Left> {
        let path = dir.join("pending");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Left::Nothing),
            Err(error) => return Err(Error::io("reading", &path, error)),
        };
        let Some((found, state, epochs)) = decode_header(&bytes, layer) else {
            // Never made whole: the head was opened, but no mark was acknowledged.
            return Ok(Left::OtherBoot);
        };
        if state == FAULTED {
            return Ok(Left::Fault);
        }
        if found != stamp(&path)? {
            return Ok(Left::OtherBoot);
        }
        Ok(Left::Entries(entries_of(&bytes, epochs)))
    }

    /// Removes the file: everything is durable elsewhere. Not itself durable; a leftover is an open of another boot.
    pub fn remove(dir: &Path) -> Result<()> {
        let path = dir.join("pending");
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("removing", &path, error)),
        }
    }

    /// Makes the next open take this file for one of another boot: nothing in it is believed. Durable on return.
    pub fn disown(mut self) -> Result<()> {
        self.stamp = Stamp { boot: [0; 16], mount: 0 };
        self.write_header()?;
        self.file.sync_all().map_err(|e| Error::io("syncing", &self.path, e))
    }

    /// Entries that the active half still takes.
    pub fn room(&self) -> u64 {
        HALF_ENTRIES - self.used
    }

    /// Appends an entry: it survives the end of this process. The caller checked [`Pending::room`].
    pub fn append(&mut self, entry: &Entry) -> Result<()> {
        let raw = encode_entry(entry, self.epochs[self.active], self.used);
        self.file
            .write_all_at(&raw, entry_at(self.active, self.used))
            .map_err(|error| Error::io("writing", &self.path, error))?;
        self.used += 1;
        Ok(())
    }

    /// Switches to the other half, which must be void, and gives the half whose entries a flush takes.
    pub fn switch(&mut self) -> Result<usize> {
        let taken = self.active;
        let other = 1 - taken;
        let before = self.epochs;
        self.epochs[other] = self.epochs[taken] + 1;
        if let Err(error) = self.write_header() {
            self.epochs = before;
            return Err(error);
        }
        self.active = other;
        self.used = 0;
        Ok(taken)
    }

    /// Voids a half: its marks are durable in the map.
    pub fn void(&mut self, half: usize) -> Result<()> {
        self.epochs[half] = 0;
        self.write_header()
    }

    /// Says that a flush failed, for this and every later process. As durable as the disk still allows.
    pub fn fault(&mut self) {
        self.state = FAULTED;
        let written = self.write_header().and_then(|()| self.file.sync_all().map_err(|e| Error::io("syncing", &self.path, e)));
        if let Err(error) = written {
            tracing::error!("the fault of layer {} could not be recorded: {error}", self.layer);
        }
    }

    fn write_header(&self) -> Result<()> {
        let mut out = [0; HEADER_BYTES];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.state.to_le_bytes());
        out[16..32].copy_from_slice(&self.layer.to_bytes());
        out[32..48].copy_from_slice(&self.stamp.boot);
        out[48..56].copy_from_slice(&self.stamp.mount.to_le_bytes());
        out[56..64].copy_from_slice(&self.epochs[0].to_le_bytes());
        out[64..72].copy_from_slice(&self.epochs[1].to_le_bytes());
        let sum = crc32c::crc32c(&out[..HEADER_BYTES - 4]);
        out[HEADER_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
        self.file.write_all_at(&out, 0).map_err(|error| Error::io("writing", &self.path, error))
    }
}

fn decode_header(bytes: &[u8], layer: LayerId) -> Option<(Stamp, u32, [u64; 2])> {
    let header = bytes.get(..HEADER_BYTES)?;
    let whole = header[0..8] == MAGIC
        && u32_at(header, 8) == VERSION
        && header[16..32] == layer.to_bytes()
        && crc32c::crc32c(&header[..HEADER_BYTES - 4]) == u32_at(header, HEADER_BYTES - 4);
    if !whole {
        return None;
    }
    let mut boot = [0; 16];
    boot.copy_from_slice(&header[32..48]);
    let stamp = Stamp { boot, mount: u64_at(header, 48) };
    Some((stamp, u32_at(header, 12), [u64_at(header, 56), u64_at(header, 64)]))
}

/// The entries of both halves, oldest first.
fn entries_of(bytes: &[u8], epochs: [u64; 2]) -> Vec<Entry> {
    let mut halves = [0, 1];
    halves.sort_by_key(|half| epochs[*half]);
    let mut entries = Vec::new();
    for half in halves.into_iter().filter(|half| epochs[*half] != 0) {
        for index in 0..HALF_ENTRIES {
            let at = entry_at(half, index) as usize;
            let Some(raw) = bytes.get(at..at + ENTRY_BYTES as usize) else { break };
            let Some(entry) = decode_entry(raw, epochs[half], index) else { break };
            entries.push(entry);
        }
    }
    entries
}

fn entry_at(half: usize, index: u64) -> u64 {
    ENTRIES_AT + (half as u64 * HALF_ENTRIES + index) * ENTRY_BYTES
}

/// Kinds, in the upper two bits of the count's word.
const DATA: u32 = 1;
const ZERO: u32 = 2;
const TIMES: u32 = 3;

fn encode_entry(entry: &Entry, epoch: u64, index: u64) -> [u8; ENTRY_BYTES as usize] {
    let (start, size, mtime_ns, word) = match *entry {
        Entry::Mark { start, count, state, size, mtime_ns } => {
            let kind = if state == State::Zero { ZERO } else { DATA };
            (start, size, mtime_ns, kind << 30 | count)
        }
        Entry::Times { atime_ns, size, mtime_ns } => (atime_ns.cast_unsigned(), size, mtime_ns, TIMES << 30),
    };
    let mut out = [0; ENTRY_BYTES as usize];
    out[0..8].copy_from_slice(&start.to_le_bytes());
    out[8..16].copy_from_slice(&size.to_le_bytes());
    out[16..24].copy_from_slice(&mtime_ns.to_le_bytes());
    out[24..28].copy_from_slice(&word.to_le_bytes());
    let sum = entry_sum(&out, epoch, index);
    out[28..32].copy_from_slice(&sum.to_le_bytes());
    out
}

fn decode_entry(raw: &[u8], epoch: u64, index: u64) -> Option<Entry> {
    if entry_sum(raw, epoch, index) != u32_at(raw, 28) {
        return None;
    }
    let (start, size, mtime_ns, word) = (u64_at(raw, 0), u64_at(raw, 8), u64_at(raw, 16).cast_signed(), u32_at(raw, 24));
    let count = word & 0x3fff_ffff;
    if size > MAX_VOLUME_SIZE || word >> 30 != TIMES && start.saturating_add(u64::from(count)) > MAX_VOLUME_SIZE / BLOCK_SIZE {
        return None;
    }
    match word >> 30 {
        DATA => Some(Entry::Mark { start, count, state: State::Data, size, mtime_ns }),
        ZERO => Some(Entry::Mark { start, count, state: State::Zero, size, mtime_ns }),
        TIMES => Some(Entry::Times { atime_ns: start.cast_signed(), size, mtime_ns }),
        _ => None,
    }
}

fn entry_sum(raw: &[u8], epoch: u64, index: u64) -> u32 {
    let seed = crc32c::crc32c_append(crc32c::crc32c(&epoch.to_le_bytes()), &index.to_le_bytes());
    crc32c::crc32c_append(seed, &raw[..28])
}

/// The boot, and the mount that `path` is in.
fn stamp(path: &Path) -> Result<Stamp> {
    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(BOOT_ID).map_err(|e| Error::io("reading", BOOT_ID, e))?;
    let boot = text
        .trim()
        .parse::<LayerId>()
        .map(LayerId::to_bytes)
        .map_err(|_| Error::Damaged { path: BOOT_ID.into(), reason: "it is no UUID".to_owned() })?;
    let wanted = StatxFlags::from_bits_retain(MNT_ID_UNIQUE) | StatxFlags::MNT_ID;
    let found =
        statx(rustix::fs::CWD, path, AtFlags::empty(), wanted).map_err(|e| Error::io("asking for the mount of", path, e))?;
    Ok(Stamp { boot, mount: found.stx_mnt_id })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;

    fn mark(start: u64) -> Entry {
        Entry::Mark { start, count: 3, state: State::Data, size: start * 4096, mtime_ns: -5 }
    }

    fn setup() -> (tempfile::TempDir, LayerId, Pending) {
        let dir = tempfile::tempdir().unwrap();
        let layer = LayerId::new();
        let pending = Pending::create(dir.path(), layer).unwrap();
        (dir, layer, pending)
    }

    #[test]
    fn entries_come_back_in_order_over_a_switch() {
        let (dir, layer, mut pending) = setup();
        assert_eq!(Pending::read(dir.path(), layer).unwrap(), Left::Entries(vec![]));
        let times = Entry::Times { atime_ns: -1, size: 2, mtime_ns: 3 };
        pending.append(&mark(1)).unwrap();
        pending.append(&times).unwrap();
        let taken = pending.switch().unwrap();
        pending.append(&mark(2)).unwrap();
        assert_eq!(Pending::read(dir.path(), layer).unwrap(), Left::Entries(vec![mark(1), times, mark(2)]));
        pending.void(taken).unwrap();
        assert_eq!(Pending::read(dir.path(), layer).unwrap(), Left::Entries(vec![mark(2)]));
        // The first half again, over its old entries.
        let taken = pending.switch().unwrap();
        pending.append(&mark(4)).unwrap();
        assert_eq!(Pending::read(dir.path(), layer).unwrap(), Left::Entries(vec![mark(2), mark(4)]));
        pending.void(taken).unwrap();
        assert_eq!(Pending::read(dir.path(), layer).unwrap(), Left::Entries(vec![mark(4)]));
    }

    #[test]
    fn a_golden_file_is_read_and_written_as_ever() {
        let headers = include_bytes!("../../tests/golden/pending-header-1.bin").as_chunks::<HEADER_BYTES>().0;
        let entries = include_bytes!("../../tests/golden/pending-entries-1.bin").as_chunks::<32>().0;
        let id = |first: u8| std::array::from_fn(|i| first + i as u8);
        let layer = LayerId::from_bytes(id(0x20));
        let here = Stamp { boot: id(0x40), mount: 0x1_0000_0005 };
        let there = Stamp { boot: id(0x40), mount: 7 };
        assert_eq!(decode_header(&headers[0], layer), Some((here.clone(), OPEN, [4, 3])));
        assert_eq!(decode_header(&headers[1], layer), Some((there, FAULTED, [0, 9])));

        // Put together as the tables say: two halves of 16,384 entries from byte 4096 on.
        let mut file = vec![0; 4096 + (1 << 20)];
        file[..512].copy_from_slice(&headers[0]);
        file[4096..4096 + 96].copy_from_slice(entries[..3].as_flattened());
        file[4096 + (1 << 19)..4096 + (1 << 19) + 64].copy_from_slice(entries[3..].as_flattened());
        let times = Entry::Times { atime_ns: -5, size: 3 << 20, mtime_ns: 10 };
        let newer = [Entry::Mark { start: 600, count: 3, state: State::Data, size: 3 << 20, mtime_ns: 9 }, times];
        let older = [
            Entry::Mark { start: 7, count: 500, state: State::Zero, size: 1 << 20, mtime_ns: 8 },
            Entry::Mark { start: 0, count: 0, state: State::Data, size: 2 << 20, mtime_ns: -9 },
        ];
        assert_eq!(entries_of(&file, [4, 3]), [older, newer].concat());

        // The same, written.
        let (dir, _, mut pending) = setup();
        (pending.layer, pending.stamp, pending.epochs, pending.active) = (layer, here, [0, 3], 1);
        older.iter().for_each(|entry| pending.append(entry).unwrap());
        assert_eq!(pending.switch().unwrap(), 1);
        newer.iter().for_each(|entry| pending.append(entry).unwrap());
        file[4096 + 64..4096 + 96].fill(0);
        assert!(std::fs::read(dir.path().join("pending")).unwrap() == file);
    }

    #[test]
    fn whatever_is_in_a_file_is_read_without_a_panic() {
        let (dir, layer, mut pending) = setup();
        (1..40).for_each(|i| pending.append(&mark(i)).unwrap());
        let good = std::fs::read(dir.path().join("pending")).unwrap();
        let path = dir.path().join("pending");
        for length in [0, 1, 8, 511, 512, 513, 4096, 4097, 4128, 5000, good.len() - 1] {
            std::fs::write(&path, &good[..length]).unwrap();
            Pending::read(dir.path(), layer).unwrap();
        }
        for at in (0..600).chain(4096..4300) {
            let mut bad = good[..8192].to_vec();
            bad[at] ^= 0x5a;
            std::fs::write(&path, &bad).unwrap();
            Pending::read(dir.path(), layer).unwrap();
        }
        // Whole by its sum, but of no volume that there can be.
        for raw in [[0xff_u8; 24], [0x7f; 24]] {
            let mut entry = [0; 32];
            entry[..24].copy_from_slice(&raw);
            for kind in [DATA, ZERO, TIMES, 0] {
                entry[24..28].copy_from_slice(&(kind << 30 | 0x3fff_ffff).to_le_bytes());
                let sum = entry_sum(&entry, 1, 0);
                entry[28..].copy_from_slice(&sum.to_le_bytes());
                assert_eq!(decode_entry(&entry, 1, 0), None, "kind {kind}");
            }
        }
    }

    #[test]
    fn a_torn_entry_ends_the_list() {
        let (dir, layer, mut pending) = setup();
        (1..4).for_each(|i| pending.append(&mark(i)).unwrap());
        pending.file.write_all_at(&[0xff], entry_at(0, 1) + 2).unwrap();
        assert_eq!(Pending::read(dir.path(), layer).unwrap(), Left::Entries(vec![mark(1)]));
    }

    #[test]
    fn another_boot_or_layer_is_not_believed() {
        let (dir, layer, mut pending) = setup();
        pending.append(&mark(1)).unwrap();
        assert_eq!(Pending::read(dir.path(), LayerId::new()).unwrap(), Left::OtherBoot);
        pending.stamp.boot[3] ^= 1;
        pending.write_header().unwrap();
        assert_eq!(Pending::read(dir.path(), layer).unwrap(), Left::OtherBoot);
    }

    #[test]
    fn a_fault_stays_until_the_file_is_removed() {
        let (dir, layer, mut pending) = setup();
        pending.fault();
        drop(pending);
        assert_eq!(Pending::read(dir.path(), layer).unwrap(), Left::Fault);
        Pending::remove(dir.path()).unwrap();
        assert_eq!(Pending::read(dir.path(), layer).unwrap(), Left::Nothing);
        Pending::remove(dir.path()).unwrap();
    }

    #[test]
    fn every_entry_fits() {
        let (dir, layer, mut pending) = setup();
        while pending.room() > 0 {
            pending.append(&mark(pending.room())).unwrap();
        }
        let Left::Entries(entries) = Pending::read(dir.path(), layer).unwrap() else { panic!() };
        assert_eq!(entries.len() as u64, HALF_ENTRIES);
    }
}
