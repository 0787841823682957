//! Sums of a sealed layer's blocks, in its file `sums`: what every read of such a block is compared with.
//!
//! A head has none, and a block of a sealed layer may have none: the layer is still being summed, or a merge has moved
//! the block there from a layer that had none. A record that can't be read counts as no sums, and is told.
//!
//! Invariant: a sum is durable only while the bytes that it is of are. So whoever changes bytes of a sealed layer (a
//! merge) takes their sums away durably first, and puts the new ones when the new bytes are durable; and a layer that
//! becomes a head loses all ([`Sums::remove`]).

mod cache;
mod make;
mod record;
mod verify;

pub(crate) use cache::SumsCache;
pub(crate) use make::Step;
pub(crate) use record::ChunkSums;

use super::Layer;
use super::record::u32_at;
use crate::disk::Disk;
use crate::disk::durable;
use crate::disk::files::Slot;
use crate::error::{Error, Result};
use crate::ids::LayerId;
use crate::units::CHUNK_BLOCKS;
use cache::SumsKey;
use parking_lot::{Mutex, RwLock};
use record::{CHUNK_BYTES, RECORD_BYTES, RECORD_SUMS};
use rustix::fs::fdatasync;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::IoSliceMut;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// The file's name.
pub(crate) const FILE: &str = "sums";
/// Where record 0 is.
const RECORDS_AT: u64 = 4096;
/// The format version that this program writes, and the newest that it reads.
const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"OUTCROPS";
/// How often records are read before one is called damaged.
const READ_TRIES: u32 = 100;

/// The file of one layer.
pub(crate) struct SumsFile {
    slot: Arc<Slot>,
    /// Whether there is one: looked at before each read of a block.
    exists: AtomicBool,
    key: Mutex<SumsKey>,
    /// Filling the cache shares it; changing the file takes it alone, so that nothing older is cached after that.
    gate: RwLock<()>,
    /// Held by who writes or syncs.
    writing: Mutex<()>,
    /// Whether the file's header was looked at, so that records may be read.
    checked: AtomicBool,
    /// Whether the file has a header, durably, so that records may be written. One that was cut off by a kill has none.
    begun: AtomicBool,
    /// Records that were told as damaged.
    told: Mutex<BTreeSet<u64>>,
}

impl SumsFile {
    pub fn new(disk: &Disk, layer: LayerId) -> Self {
        let path = disk.layer_dir(layer).join(FILE);
        Self {
            exists: AtomicBool::new(path.exists()),
            slot: disk.files.slot(path),
            key: Mutex::new(disk.sums.new_key()),
            gate: RwLock::new(()),
            writing: Mutex::new(()),
            checked: AtomicBool::new(false),
            begun: AtomicBool::new(false),
            told: Mutex::new(BTreeSet::new()),
        }
    }
}

/// The sums of a layer.
#[derive(Clone, Copy)]
pub(crate) struct Sums<'a> {
    layer: &'a Layer,
    file: &'a SumsFile,
}

impl<'a> Sums<'a> {
    pub(super) fn new(layer: &'a Layer, file: &'a SumsFile) -> Self {
        Self { layer, file }
    }

    /// Whether there may be any.
    pub fn exist(self) -> bool {
        self.file.exists.load(SeqCst)
    }

    /// Sums of `blocks`: `None` where there is none.
    pub fn get(self, blocks: Range<u64>) -> Result<Vec<Option<u32>>> {
        let mut sums = Vec::with_capacity((blocks.end.saturating_sub(blocks.start)) as usize);
        for (chunk, part) in crate::chain::chunks(blocks) {
            let found = self.chunk(chunk)?;
            sums.extend(part.map(|block| found.get((block % CHUNK_BLOCKS) as usize)));
        }
        Ok(sums)
    }

    /// Sets the sums of the blocks from `first` on; `None` takes one away. Durable after [`Sums::sync`].
    ///
    /// With a `None`, the layer is not called completely summed any more, durably before anything else happens. In a
    /// layer that isn't sealed nothing is set: a head has no sums.
    pub fn put(self, first: u64, sums: &[Option<u32>]) -> Result<()> {
        if !self.layer.header().sealed {
            return Ok(());
        }
        if sums.contains(&None) {
            self.set_complete(false)?;
        }
        self.put_all(first, sums, Space::Reserve)
    }

    /// [`Sums::put`] into a layer that is being written from its beginning to its end, for the first time.
    pub(super) fn put_while_made(self, first: u64, sums: &[Option<u32>]) -> Result<()> {
        self.put_all(first, sums, Space::Free)
    }

    fn put_all(self, first: u64, sums: &[Option<u32>], space: Space) -> Result<()> {
        if !self.exist() && sums.iter().all(Option::is_none) {
            return Ok(());
        }
        let _writing = self.file.writing.lock();
        // Until the next sync: only an open descriptor is told of a failed write-back.
        self.file.slot.pin();
        self.begin(space)?;
        let blocks = first..first + sums.len() as u64;
        for (chunk, part) in crate::chain::chunks(blocks) {
            let given = &sums[(part.start - first) as usize..(part.end - first) as usize];
            self.put_in_chunk(chunk, part.start % CHUNK_BLOCKS, given, space)?;
        }
        Ok(())
    }

    fn put_in_chunk(self, chunk: u64, first: u64, given: &[Option<u32>], space: Space) -> Result<()> {
        let _gate = self.file.gate.write();
        let file = self.file.slot.get()?;
        let mut bytes = [0; CHUNK_BYTES];
        let unread = read_sectors(&file, &mut bytes, chunk_at(chunk)).map_err(self.failed("reading"))?;
        let (mut known, _) = ChunkSums::decode(&bytes, self.layer.id, chunk);
        let first = first as usize;
        for (index, sum) in (first..).zip(given) {
            known.set(index, *sum);
        }
        // What else is in a damaged record is lost with it; a damaged one that isn't touched stays, to be told.
        for part in first / RECORD_SUMS..=(first + given.len() - 1) / RECORD_SUMS {
            bytes[part * RECORD_BYTES..][..RECORD_BYTES].copy_from_slice(&known.encode_record(self.layer.id, chunk, part));
        }
        if unread {
            // A sector of this chunk can't be read. Zeros in its place would hide that: only what is given is written.
            for part in first / RECORD_SUMS..=(first + given.len() - 1) / RECORD_SUMS {
                let at = part * RECORD_BYTES;
                self.write(&file, &bytes[at..at + RECORD_BYTES], chunk_at(chunk) + at as u64, space)?;
            }
        } else {
            self.write(&file, &bytes, chunk_at(chunk), space)?;
        }
        self.layer.disk.sums.forget(*self.file.key.lock(), chunk);
        Ok(())
    }

    fn write(self, file: &File, bytes: &[u8], at: u64, space: Space) -> Result<()> {
        self.in_space(space, || file.write_all_at(bytes, at).map_err(self.failed("writing")))
    }

    fn in_space(self, space: Space, op: impl Fn() -> Result<()>) -> Result<()> {
        match space {
            Space::Free => op(),
            Space::Reserve => self.layer.disk.with_reserve(op),
        }
    }

    /// Makes the file, if there is none, durably: its name is there before any record.
    fn begin(self, space: Space) -> Result<()> {
        if self.file.begun.load(SeqCst) {
            return Ok(());
        }
        let path = self.file.slot.path();
        if !self.exist() {
            self.in_space(space, || match File::create_new(path) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::io("making", path, error)),
                _ => Ok(()),
            })?;
        }
        let file = self.file.slot.get()?;
        if self.read_header(&file)? == Header::None {
            self.write(&file, &header(self.layer.id), 0, space)?;
            fdatasync(&file).map_err(|e| Error::io("syncing", path, e))?;
            durable::sync_dir(&self.layer.dir)?;
        }
        self.file.begun.store(true, SeqCst);
        self.file.checked.store(true, SeqCst);
        self.file.exists.store(true, SeqCst);
        Ok(())
    }

    /// Makes all that was put durable.
    pub fn sync(self) -> Result<()> {
        if !self.exist() {
            return Ok(());
        }
        let _writing = self.file.writing.lock();
        let file = self.file.slot.get()?;
        fdatasync(&file).map_err(|e| Error::io("syncing", self.file.slot.path(), e))?;
        self.file.slot.unpin();
        Ok(())
    }

    /// Whether every block of data had a sum at some time since the last was taken away. Where one has none nevertheless,
    /// it was lost: that is damage.
    pub fn are_complete(self) -> bool {
        self.layer.header().summed
    }

    /// Says whether every block of data has a sum: durable on return. To say yes, all of them are.
    pub fn set_complete(self, complete: bool) -> Result<()> {
        if self.are_complete() != complete {
            self.layer.write_header(|header| header.summed = complete)?;
            self.layer.map.sync()?;
            if !complete {
                self.layer.disk.sums.lose();
            }
            if self.layer.header().sealed {
                self.layer.map.slot().unpin();
            }
        }
        Ok(())
    }

    /// Removes all sums, durably: before a layer becomes a head.
    pub fn remove(self) -> Result<()> {
        self.set_complete(false)?;
        let _writing = self.file.writing.lock();
        let _gate = self.file.gate.write();
        let path = self.file.slot.path();
        if !self.exist() && !path.exists() {
            return Ok(());
        }
        self.file.exists.store(false, SeqCst);
        self.file.checked.store(false, SeqCst);
        self.file.begun.store(false, SeqCst);
        // What is cached under the old key is never asked for again.
        *self.file.key.lock() = self.layer.disk.sums.new_key();
        self.file.told.lock().clear();
        self.file.slot.unpin();
        self.file.slot.forget();
        durable::remove_all(&[path.to_owned()])
    }

    /// Sums of a chunk.
    pub fn chunk(self, chunk: u64) -> Result<Arc<ChunkSums>> {
        if !self.exist() {
            return Ok(Arc::new(ChunkSums::NONE));
        }
        let key = *self.file.key.lock();
        if let Some(found) = self.layer.disk.sums.get(key, chunk) {
            return Ok(found);
        }
        let _gate = self.file.gate.read();
        let (sums, wrong) = self.read_chunk(chunk)?;
        for (index, reason) in wrong {
            self.tell(index, reason);
        }
        let sums = Arc::new(sums);
        self.layer.disk.sums.put(*self.file.key.lock(), chunk, &sums);
        Ok(sums)
    }

    /// Like [`Sums::chunk`], without waiting.
    pub fn try_chunk(self, chunk: u64) -> Option<Arc<ChunkSums>> {
        let key = *self.file.key.try_lock()?;
        if let Some(found) = self.layer.disk.sums.get(key, chunk) {
            return Some(found);
        }
        let _gate = self.file.gate.try_read()?;
        if !self.file.checked.load(SeqCst) {
            // The slow way looks at the header first.
            return None;
        }
        let file = self.file.slot.try_get()?;
        let mut bytes = [0; CHUNK_BYTES];
        match preadv2(&file, &mut [IoSliceMut::new(&mut bytes)], chunk_at(chunk), ReadWriteFlags::NOWAIT) {
            // Behind the end of the file: never written. The file ends with a chunk.
            Ok(0 | CHUNK_BYTES) => {}
            _ => return None,
        }
        let (sums, wrong) = ChunkSums::decode(&bytes, self.layer.id, chunk);
        if !wrong.is_empty() {
            // The slow way tells of it.
            return None;
        }
        let sums = Arc::new(sums);
        self.layer.disk.sums.put(key, chunk, &sums);
        Some(sums)
    }

    /// Sums of a chunk as the file has them, with the records that are damaged and why.
    pub fn read_chunk(self, chunk: u64) -> Result<(ChunkSums, Vec<(u64, &'static str)>)> {
        if !self.exist() {
            return Ok((ChunkSums::NONE, Vec::new()));
        }
        let file = self.file.slot.get()?;
        if !self.file.checked.load(SeqCst) {
            // A damaged header is doctor's to tell: each record checks itself.
            self.read_header(&file)?;
            self.file.checked.store(true, SeqCst);
        }
        let mut bytes = [0; CHUNK_BYTES];
        let mut tries = 0;
        loop {
            read_sectors(&file, &mut bytes, chunk_at(chunk)).map_err(self.failed("reading"))?;
            let decoded = ChunkSums::decode(&bytes, self.layer.id, chunk);
            tries += 1;
            // Who has opened the layer for itself may see half of a write that is under way: what is damaged stays so.
            if decoded.1.is_empty() || tries == READ_TRIES {
                return Ok(decoded);
            }
            std::thread::yield_now();
        }
    }

    /// What is wrong with the file's header, if anything is.
    pub fn header_fault(self) -> Result<Option<String>> {
        if !self.exist() {
            return Ok(None);
        }
        let file = self.file.slot.get()?;
        let is_damaged = match self.read_header(&file)? {
            Header::Good => false,
            Header::Damaged => true,
            // Killed before its header was written, it is as none: the header is durable before any record.
            Header::None => self.are_complete() || file.metadata().map_err(self.failed("looking at"))?.len() > RECORDS_AT,
        };
        Ok(is_damaged.then(|| "its header is damaged; its records are still used".to_owned()))
    }

    fn read_header(self, file: &File) -> Result<Header> {
        let mut sector = [0; RECORD_BYTES];
        read_sectors(file, &mut sector, 0).map_err(self.failed("reading"))?;
        if sector == [0; RECORD_BYTES] {
            return Ok(Header::None);
        }
        if sector[..8] != MAGIC || crc32c::crc32c(&sector[..508]) != u32_at(&sector, 508) {
            return Ok(Header::Damaged);
        }
        let found = u32_at(&sector, 8);
        if found > VERSION {
            let path = self.file.slot.path().to_owned();
            return Err(Error::NewerFormat { path, found, supported: VERSION });
        }
        Ok(if sector[16..32] == self.layer.id.to_bytes() { Header::Good } else { Header::Damaged })
    }

    /// Tells of a damaged record, once.
    fn tell(self, index: u64, reason: &str) {
        if self.file.told.lock().insert(index) {
            let at = RECORDS_AT + index * RECORD_BYTES as u64;
            let path = self.file.slot.path().display();
            let what = format!("sums record {index}, at byte {at}: {reason}; the blocks that it is of are read unverified");
            self.layer.disk.tell_damage(format!("{path} is damaged: {what}"));
        }
    }

    fn failed(self, attempt: &'static str) -> impl Fn(std::io::Error) -> Error {
        let path = self.file.slot.path().to_owned();
        move |source| Error::io(attempt, &path, source)
    }
}

/// Where space may come from.
#[derive(Debug, Clone, Copy)]
enum Space {
    /// From what is free: sums can wait.
    Free,
    /// On a full disk from the reserve: a merge is to give space back.
    Reserve,
}

/// What is found in the header's place.
#[derive(PartialEq, Eq, Debug)]
enum Header {
    Good,
    /// Zeros, or nothing: the file was being made.
    None,
    Damaged,
}

fn header(layer: LayerId) -> [u8; RECORD_BYTES] {
    let mut out = [0; RECORD_BYTES];
    out[..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[16..32].copy_from_slice(&layer.to_bytes());
    let sum = crc32c::crc32c(&out[..508]);
    out[508..].copy_from_slice(&sum.to_le_bytes());
    out
}

/// Byte at which the records of a chunk begin.
fn chunk_at(chunk: u64) -> u64 {
    RECORDS_AT + chunk * CHUNK_BYTES as u64
}

/// Fills `buf` from `at`; what is behind the end of the file is zeros. What the disk can't read is not zeros, but no
/// record either; whether there was such a part is returned.
fn read_sectors(file: &File, buf: &mut [u8], at: u64) -> std::io::Result<bool> {
    let mut done = 0;
    let mut unread = false;
    while done < buf.len() {
        match rustix::io::pread(file, &mut buf[done..], at + done as u64) {
            Ok(0) => {
                buf[done..].fill(0);
                break;
            }
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(Errno::IO) => {
                let end = (done / RECORD_BYTES + 1) * RECORD_BYTES;
                buf[done..end].fill(0xff);
                (done, unread) = (end, true);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(unread)
}

#[cfg(test)]
mod tests;
