//! A layer's data: block *i* of the volume at byte *i*·4096 of the concatenated segments.

use crate::disk::files::Slot;
use crate::disk::{Disk, durable};
use crate::error::{Error, Result};
use crate::ids::LayerId;
use crate::units::{MAX_VOLUME_SIZE, SEGMENT_SIZE};
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, copy_file_range, fallocate, fdatasync};
use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev};
use std::fs::{File, OpenOptions};
use std::io::{IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

const SEGMENTS: usize = (MAX_VOLUME_SIZE / SEGMENT_SIZE) as usize;

/// The segments of one layer, opened (and for a head, made) when first needed.
pub(crate) struct Data {
    dir: PathBuf,
    disk: Arc<Disk>,
    segments: Box<[OnceLock<Arc<Slot>>; SEGMENTS]>,
    /// Segments with writes that were not synced: bit *i* for `data.i`.
    dirty: AtomicU64,
    /// Held while a segment is made, until its name is durable.
    making: Mutex<()>,
}

impl Data {
    pub fn new(disk: &Arc<Disk>, layer: LayerId) -> Self {
        Self {
            dir: disk.layer_dir(layer),
            disk: Arc::clone(disk),
            segments: Box::new([const { OnceLock::new() }; SEGMENTS]),
            dirty: AtomicU64::new(0),
            making: Mutex::new(()),
        }
    }

    fn slot(&self, segment: usize) -> &Arc<Slot> {
        self.segments[segment].get_or_init(|| self.disk.files.slot(self.dir.join(format!("data.{segment}"))))
    }

    /// Reads all of `buf` from `offset`. Only bytes of blocks in state data are read, and those were all written:
    /// a file that ends too early is damaged, never zeros.
    pub fn read(&self, mut buf: &mut [u8], mut offset: u64) -> Result<()> {
        while !buf.is_empty() {
            let (segment, at, length) = place(offset, buf.len());
            let (part, rest) = buf.split_at_mut(length);
            let slot = self.slot(segment);
            slot.get()?.read_exact_at(part, at).map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => Error::Damaged {
                    path: slot.path().to_owned(),
                    reason: format!("it ends before byte {}, which its map says is data", at + length as u64),
                },
                _ => Error::io("reading", slot.path(), error),
            })?;
            offset += length as u64;
            buf = rest;
        }
        Ok(())
    }

    /// Like [`Data::read`], from the page cache only: `false` where it would wait (or fail: the slow way tells why).
    pub fn try_read(&self, mut buf: &mut [u8], mut offset: u64) -> bool {
        while !buf.is_empty() {
            let (segment, at, length) = place(offset, buf.len());
            let (part, rest) = buf.split_at_mut(length);
            let Some(file) = self.slot(segment).try_get() else { return false };
            match preadv2(&file, &mut [IoSliceMut::new(part)], at, ReadWriteFlags::NOWAIT) {
                Ok(n) if n == length => {}
                _ => return false,
            }
            offset += length as u64;
            buf = rest;
        }
        true
    }

    /// Writes `parts` one after the other at `offset`, and marks the segments dirty.
    pub fn write(&self, parts: &[&[u8]], offset: u64) -> Result<()> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let (segment, at, length) = place(offset, total);
        if length == total {
            return self.write_in_segment(segment, parts, at);
        }
        // Over the edge of a segment: rare enough to be done a part at a time.
        let mut offset = offset;
        for part in parts {
            let mut part = *part;
            while !part.is_empty() {
                let (segment, at, length) = place(offset, part.len());
                self.write_in_segment(segment, &[&part[..length]], at)?;
                offset += length as u64;
                part = &part[length..];
            }
        }
        Ok(())
    }

    fn write_in_segment(&self, segment: usize, parts: &[&[u8]], at: u64) -> Result<()> {
        let slot = self.slot(segment);
        let file = self.writable(slot)?;
        let mut slices = [IoSlice::new(&[]), IoSlice::new(&[]), IoSlice::new(&[])];
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        let mut slices = &mut slices[..parts.len()];
        let mut at = at;
        let result = loop {
            match pwritev(&file, slices, at) {
                Ok(0) if slices.iter().any(|slice| !slice.is_empty()) => break Err(Errno::NOSPC),
                Ok(n) => {
                    at += n as u64;
                    IoSlice::advance_slices(&mut slices, n);
                    if slices.iter().all(|slice| slice.is_empty()) {
                        break Ok(());
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => break Err(error),
            }
        };
        // After the write, so that a flush that takes the bit has the data before it; also when it failed half-way.
        self.dirty.fetch_or(1 << segment, SeqCst);
        result.map_err(|error| Error::io("writing", slot.path(), error))
    }

    /// The segment's file for writing: made if missing, and kept open until the layer is closed, because only an
    /// open descriptor is told of a failed write-back.
    fn writable(&self, slot: &Arc<Slot>) -> Result<Arc<File>> {
        slot.pin();
        if let Some(file) = slot.try_get() {
            return Ok(file);
        }
        // A segment's name is durable before anybody can write to it, so that a sync of the file suffices.
        let _making = self.making.lock();
        match OpenOptions::new().write(true).create_new(true).open(slot.path()) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io("making", slot.path(), error));
            }
            _ => {}
        }
        // Also if it was there: its maker may have died, or failed, before this line.
        durable::sync_dir(&self.dir)?;
        slot.get()
    }

    /// Copies a range from another layer's data to the same place, within the kernel where the file system can, and
    /// sharing the blocks where it can do that.
    pub fn copy_from(&self, from: &Self, offset: u64, length: u64) -> Result<()> {
        let end = offset + length;
        let mut offset = offset;
        while offset < end {
            let (segment, at, length) = place(offset, (end - offset).try_into().unwrap_or(usize::MAX));
            let (source, target) = (from.slot(segment), self.slot(segment));
            let file = self.writable(target)?;
            let copied = copy(&*source.get()?, &file, at, length);
            // After the copy, as after a write.
            self.dirty.fetch_or(1 << segment, SeqCst);
            match copied {
                Ok(()) => {}
                Err(None) => {
                    let reason = format!("it ends before byte {}, which its map says is data", at + length as u64);
                    return Err(Error::Damaged { path: source.path().to_owned(), reason });
                }
                Err(Some(error)) => return Err(Error::io("copying a merged block to", target.path(), error)),
            }
            offset += length as u64;
        }
        Ok(())
    }

    /// Whether a sync would have anything to do.
    pub fn is_dirty(&self) -> bool {
        self.dirty.load(SeqCst) != 0
    }

    /// Makes everything written before durable.
    pub fn sync(&self) -> Result<()> {
        let mut dirty = self.dirty.swap(0, SeqCst);
        while dirty != 0 {
            let segment = dirty.trailing_zeros() as usize;
            dirty &= dirty - 1;
            let slot = self.slot(segment);
            fdatasync(slot.get()?).map_err(|e| Error::io("syncing", slot.path(), e))?;
        }
        Ok(())
    }

    /// Has the next sync include every segment there is: an earlier process may have written to it.
    pub fn assume_dirty(&self) -> Result<()> {
        for segment in 0..SEGMENTS {
            let slot = self.slot(segment);
            if slot.path().try_exists().map_err(|e| Error::io("looking for", slot.path(), e))? {
                slot.pin();
                slot.get()?;
                self.dirty.fetch_or(1 << segment, SeqCst);
            }
        }
        Ok(())
    }

    /// Allocates space for a range that is written later; its bytes are not changed. `false` if the file system can't.
    pub fn allocate(&self, offset: u64, length: u64) -> Result<bool> {
        self.for_segments(offset, length, FallocateFlags::KEEP_SIZE, "allocating space in")
    }

    /// Allocates space for a range and makes it read zeros. `false` if the file system can't.
    pub fn zero(&self, offset: u64, length: u64) -> Result<bool> {
        self.for_segments(offset, length, FallocateFlags::ZERO_RANGE, "zeroing a range of")
    }

    /// Gives the space of a range back. A file system that can't keeps it.
    pub fn punch(&self, offset: u64, length: u64) -> Result<()> {
        let mut offset = offset;
        let end = offset + length;
        while offset < end {
            let (segment, at, length) = place(offset, (end - offset).try_into().unwrap_or(usize::MAX));
            let slot = self.slot(segment);
            if slot.path().exists() {
                let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                match fallocate(slot.get()?, how, at, length as u64) {
                    Ok(()) | Err(Errno::OPNOTSUPP) => {}
                    Err(error) => return Err(Error::io("punching a hole in", slot.path(), error)),
                }
            }
            offset += length as u64;
        }
        Ok(())
    }

    fn for_segments(&self, offset: u64, length: u64, how: FallocateFlags, attempt: &'static str) -> Result<bool> {
        let mut offset = offset;
        let end = offset + length;
        while offset < end {
            let (segment, at, length) = place(offset, (end - offset).try_into().unwrap_or(usize::MAX));
            let slot = self.slot(segment);
            let result = fallocate(self.writable(slot)?, how, at, length as u64);
            self.dirty.fetch_or(1 << segment, SeqCst);
            match result {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP | Errno::INVAL) => return Ok(false),
                Err(error) => return Err(Error::io(attempt, slot.path(), error)),
            }
            offset += length as u64;
        }
        Ok(true)
    }

    /// Cuts the data off at `length` bytes (a multiple of the block size) and makes that durable.
    pub fn truncate(&self, length: u64) -> Result<()> {
        for segment in 0..SEGMENTS {
            let slot = self.slot(segment);
            let keep = length.saturating_sub(segment as u64 * SEGMENT_SIZE).min(SEGMENT_SIZE);
            if keep == SEGMENT_SIZE || !slot.path().exists() {
                continue;
            }
            let file = self.writable(slot)?;
            let failed = |error| Error::io("truncating", slot.path(), error);
            if file.metadata().map_err(failed)?.len() > keep {
                file.set_len(keep).map_err(failed)?;
            }
            file.sync_all().map_err(|error| Error::io("syncing", slot.path(), error))?;
        }
        Ok(())
    }

    /// Length of the data in bytes: all states data must lie before it.
    pub fn length(&self) -> Result<u64> {
        let mut length = 0;
        for segment in 0..SEGMENTS {
            match std::fs::metadata(self.slot(segment).path()) {
                Ok(metadata) if metadata.len() > 0 => length = segment as u64 * SEGMENT_SIZE + metadata.len(),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("looking at", self.slot(segment).path(), error)),
            }
        }
        Ok(length)
    }

    /// Lets the descriptors be closed: all is synced.
    pub fn unpin(&self) {
        for slot in self.segments.iter().filter_map(OnceLock::get) {
            slot.unpin();
        }
    }
}

/// Bytes copied at once where the kernel can't do it by itself.
const COPY_BYTES: usize = 1 << 20;

/// Copies `length` bytes at `at`; `Err(None)` if the source ends before.
fn copy(source: &File, target: &File, at: u64, length: usize) -> Result<(), Option<std::io::Error>> {
    let end = at + length as u64;
    let mut at = at;
    while at < end {
        let (mut from, mut to) = (at, at);
        match copy_file_range(source, Some(&mut from), target, Some(&mut to), (end - at) as usize) {
            Ok(0) => return Err(None),
            Ok(n) => at += n as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => break,
            Err(error) => return Err(Some(error.into())),
        }
    }
    let mut buffer = vec![0; COPY_BYTES.min((end - at) as usize)];
    while at < end {
        let part = buffer.len().min((end - at) as usize);
        source.read_exact_at(&mut buffer[..part], at).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => None,
            _ => Some(error),
        })?;
        target.write_all_at(&buffer[..part], at).map_err(Some)?;
        at += part as u64;
    }
    Ok(())
}

/// Segment, byte in it, and how many of `length` bytes are in it.
fn place(offset: u64, length: usize) -> (usize, u64, usize) {
    let (segment, at) = (offset / SEGMENT_SIZE, offset % SEGMENT_SIZE);
    let left = usize::try_from(SEGMENT_SIZE - at).unwrap_or(usize::MAX);
    (segment as usize, at, length.min(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_split_at_segments() {
        assert_eq!(place(0, 10), (0, 0, 10));
        assert_eq!(place(SEGMENT_SIZE - 4, 10), (0, SEGMENT_SIZE - 4, 4));
        assert_eq!(place(SEGMENT_SIZE, 10), (1, 0, 10));
        assert_eq!(place(3 * SEGMENT_SIZE + 5, 10), (3, 5, 10));
    }
}
