//! A layer's map file: the header, then records.
//!
//! The file itself is the last durable image of the states: it is written by flushes only, never as writes come in.

use super::header::{Header, SLOT_AT, SLOT_BYTES};
use super::record::{RECORD_BYTES, RECORD_CHUNKS, Record};
use super::states::ChunkStates;
use crate::disk::files::Slot;
use crate::error::{Error, Result};
use crate::ids::LayerId;
use crate::units::CHUNK_BLOCKS;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, fdatasync, seek};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2};
use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Where record 0 is.
pub(crate) const RECORDS_AT: u64 = 8192;
/// Records whose space is allocated together: 48 MiB of a volume, one block of the map.
pub(crate) const PAGE_RECORDS: u64 = 8;

/// How often a record is read before it is called damaged.
const READ_TRIES: u32 = 100;

/// The map of one layer.
pub(crate) struct Map {
    layer: LayerId,
    slot: Arc<Slot>,
}

impl Map {
    pub fn new(layer: LayerId, slot: Arc<Slot>) -> Self {
        Self { layer, slot }
    }

    pub fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    fn damaged(&self, reason: impl Into<String>) -> Error {
        Error::Damaged { path: self.slot.path().to_owned(), reason: reason.into() }
    }

    fn failed(&self, attempt: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        let path = self.slot.path().to_owned();
        move |source| Error::io(attempt, path, source)
    }

    /// The present header.
    pub fn read_header(&self) -> Result<Header> {
        let file = self.slot.get()?;
        let mut slots = [[0; SLOT_BYTES]; 2];
        for (slot, at) in slots.iter_mut().zip(SLOT_AT) {
            read_zero_filled(&file, slot, at).map_err(self.failed("reading"))?;
        }
        let header = Header::choose([&slots[0], &slots[1]], self.slot.path())?;
        if header.layer != self.layer {
            return Err(self.damaged(format!("it is the map of layer {}", header.layer)));
        }
        Ok(header)
    }

    /// Writes a header into its slot. Durable after [`Map::sync`].
    pub fn write_header(&self, header: &Header) -> Result<()> {
        // Until it is sealed or closed: only an open descriptor is told of a failed write-back.
        self.slot.pin();
        let file = self.slot.get()?;
        file.write_all_at(&header.encode(), header.slot()).map_err(self.failed("writing"))
    }

    /// Record `index`.
    pub fn read_record(&self, index: u64) -> Result<Record> {
        let file = self.slot.get()?;
        let mut sector = [0; RECORD_BYTES];
        let mut tries = 0;
        loop {
            read_zero_filled(&file, &mut sector, record_at(index)).map_err(self.failed("reading"))?;
            let decoded = self.decode(&sector, index);
            tries += 1;
            // A reader may see half of a write that is under way (ext4): what is damaged stays so.
            if decoded.is_ok() || tries == READ_TRIES {
                return decoded;
            }
            std::thread::yield_now();
        }
    }

    /// States of one chunk.
    pub fn read_chunk(&self, chunk: u64) -> Result<ChunkStates> {
        let mut record = self.read_record(chunk / RECORD_CHUNKS)?;
        Ok(std::mem::replace(&mut record.chunks[(chunk % RECORD_CHUNKS) as usize], ChunkStates::ABSENT))
    }

    /// States of one chunk, if the page cache has them.
    pub fn try_read_chunk(&self, chunk: u64) -> Result<Option<ChunkStates>> {
        let Some(file) = self.slot.try_get() else { return Ok(None) };
        let index = chunk / RECORD_CHUNKS;
        let mut sector = [0; RECORD_BYTES];
        match preadv2(&file, &mut [IoSliceMut::new(&mut sector)], record_at(index), ReadWriteFlags::NOWAIT) {
            // Behind the end of the file: never written. A record lies in one page, so it is never read in part.
            Ok(0 | RECORD_BYTES) => {}
            _ => return Ok(None),
        }
        // The slow way tells whether it is damaged or being written.
        let Ok(mut record) = self.decode(&sector, index) else { return Ok(None) };
        Ok(Some(std::mem::replace(&mut record.chunks[(chunk % RECORD_CHUNKS) as usize], ChunkStates::ABSENT)))
    }

    fn decode(&self, sector: &[u8; RECORD_BYTES], index: u64) -> Result<Record> {
        Record::decode(sector, self.layer, index)
            .map_err(|reason| self.damaged(format!("map record {index}, at byte {}: {reason}", record_at(index))))
    }

    /// Writes a record. Durable after [`Map::sync`].
    pub fn write_record(&self, index: u64, record: &Record) -> Result<()> {
        self.slot.pin();
        let file = self.slot.get()?;
        file.write_all_at(&record.encode(self.layer, index), record_at(index)).map_err(self.failed("writing"))
    }

    /// Allocates the space of the records of `page`, so that a flush of them can't meet a full disk.
    pub fn allocate(&self, page: u64) -> Result<()> {
        let file = self.slot.get()?;
        let bytes = PAGE_RECORDS * RECORD_BYTES as u64;
        match fallocate(&file, FallocateFlags::KEEP_SIZE, RECORDS_AT + page * bytes, bytes) {
            // A file system without fallocate gets by without the promise.
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(Error::io("allocating space in", self.slot.path(), error)),
        }
    }

    /// Makes all that was written durable.
    pub fn sync(&self) -> Result<()> {
        let file = self.slot.get()?;
        fdatasync(&file).map_err(|e| Error::io("syncing", self.slot.path(), e))
    }

    /// The first chunk at or after `chunk` that may have states. A map's holes are records never written, since they
    /// read as zeros; this asks the map, never the data.
    pub fn next_written(&self, chunk: u64) -> Result<Option<u64>> {
        let file = self.slot.get()?;
        match seek(&file, SeekFrom::Data(record_at(chunk / RECORD_CHUNKS))) {
            Ok(at) => Ok(Some(chunk.max((at.saturating_sub(RECORDS_AT)) / RECORD_BYTES as u64 * RECORD_CHUNKS))),
            Err(Errno::NXIO) => Ok(None),
            // A file system that doesn't know holes: everything may be written, up to the end.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                let length = file.metadata().map_err(self.failed("asking for the size of"))?.len();
                Ok((record_at(chunk / RECORD_CHUNKS) < length).then_some(chunk))
            }
            Err(error) => Err(Error::io("seeking in", self.slot.path(), error)),
        }
    }

    /// Makes every state from `block` on absent, in the file too. Durable after a full sync; can be done again
    /// after a crash at any point: the record that `block` is in is rewritten in place, never cut off.
    pub fn truncate(&self, block: u64) -> Result<()> {
        let file = self.slot.get()?;
        let index = block / CHUNK_BLOCKS / RECORD_CHUNKS;
        let before = self.read_record(index)?;
        let mut record = before.clone();
        for (number, states) in (index * RECORD_CHUNKS..).zip(&mut record.chunks) {
            let first = number * CHUNK_BLOCKS;
            states.clear_from(block.saturating_sub(first).min(CHUNK_BLOCKS) as usize);
        }
        if record != before {
            self.write_record(index, &record)?;
        }
        let end = record_at(index + 1);
        if file.metadata().map_err(self.failed("asking for the size of"))?.len() > end {
            file.set_len(end).map_err(self.failed("truncating"))?;
        }
        Ok(())
    }
}

/// Byte at which record `index` is.
pub(crate) fn record_at(index: u64) -> u64 {
    RECORDS_AT + index * RECORD_BYTES as u64
}

/// Fills `buf` from `at`; what is behind the end of the file reads zeros.
fn read_zero_filled(file: &File, buf: &mut [u8], at: u64) -> std::io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match pread(file, &mut buf[done..], at + done as u64) {
            Ok(0) => {
                buf[done..].fill(0);
                return Ok(());
            }
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::super::states::State;
    use super::*;
    use crate::disk::files::FileCache;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    /// A file system may show a reader half of a write that is under way.
    #[test]
    fn a_record_that_is_being_written_is_never_called_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        File::create(&path).unwrap();
        let layer = LayerId::new();
        let map = Map::new(layer, FileCache::new(16).slot(path));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !stop.load(SeqCst) {
                    map.read_record(3)?;
                    map.try_read_chunk(9)?;
                }
                Ok::<_, Error>(())
            });
            for flush in 0..60_000 {
                let mut record = Record { flush, ..Record::ABSENT };
                (0..512).for_each(|i| record.chunks[0].set(i, if flush % 2 == 0 { State::Data } else { State::Zero }));
                record.chunks[2] = record.chunks[0].clone();
                map.write_record(3, &record).unwrap();
                if reader.is_finished() {
                    break;
                }
            }
            stop.store(true, SeqCst);
            reader.join().unwrap().unwrap();
        });
    }
}
