//! Reading a whole map fast: many records a system call, holes skipped.

use super::Layer;
use super::map::record_at;
use super::record::{RECORD_BYTES, RECORD_CHUNKS, Record};
use super::states::ChunkStates;
use crate::error::{Error, Result};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes of the map read together: of one that is read alone, and of many that are read beside each other.
const READ_BYTES: std::ops::RangeInclusive<usize> = 16 << 10..=256 << 10;
/// Memory that all that are read beside each other take.
const MEMORY_BYTES: usize = 64 << 20;

/// A way through a layer's map, forwards only.
///
/// It sees each record as it is when it is read: what a flush writes beside it may be seen or not.
pub(crate) struct Scan {
    layer: Arc<Layer>,
    read_bytes: usize,
    buffer: Vec<u8>,
    /// The first record in the buffer.
    first: u64,
    /// The record decoded last.
    record: Option<(u64, Record)>,
}

impl Scan {
    /// A way through one of `beside` maps that are read in turns: the more there are, the less is read at a time.
    pub fn new(layer: &Arc<Layer>, beside: usize) -> Self {
        let (least, most) = READ_BYTES.into_inner();
        let read_bytes = (MEMORY_BYTES / beside.max(1)).clamp(least, most) / RECORD_BYTES * RECORD_BYTES;
        Self { layer: Arc::clone(layer), read_bytes, buffer: Vec::new(), first: 0, record: None }
    }

    /// The first chunk at or after `chunk` in which the map has any state, and the states.
    pub fn next(&mut self, chunk: u64) -> Result<Option<(u64, ChunkStates)>> {
        let mut index = chunk / RECORD_CHUNKS;
        loop {
            if !self.holds(index) {
                let Some(written) = self.layer.map.next_written(index * RECORD_CHUNKS)? else { return Ok(None) };
                index = index.max(written / RECORD_CHUNKS);
                if !self.holds(index) {
                    self.read(index)?;
                }
                if self.buffer.is_empty() {
                    return Ok(None);
                }
            }
            if let Some(record) = self.decode(index)? {
                let mut chunks = (index * RECORD_CHUNKS..).zip(&record.chunks);
                if let Some((at, states)) = chunks.find(|(at, states)| *at >= chunk && !states.is_absent()) {
                    return Ok(Some((at, states.clone())));
                }
            }
            index += 1;
        }
    }

    fn holds(&self, index: u64) -> bool {
        index >= self.first && index < self.first + (self.buffer.len() / RECORD_BYTES) as u64
    }

    /// Fills the buffer with whole records from `index` on. Behind the end of the file there are none.
    fn read(&mut self, index: u64) -> Result<()> {
        let slot = self.layer.map.slot();
        let file = slot.get()?;
        self.buffer.resize(self.read_bytes, 0);
        self.first = index;
        let mut done = 0;
        while done < self.buffer.len() {
            match file.read_at(&mut self.buffer[done..], record_at(index) + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("reading", slot.path(), error)),
            }
        }
        // A part of a record at the end of the file is filled up with zeros, as everywhere.
        let whole = done.next_multiple_of(RECORD_BYTES);
        self.buffer[done..whole].fill(0);
        self.buffer.truncate(whole);
        Ok(())
    }

    /// A record of the buffer; none where none was ever written.
    fn decode(&mut self, index: u64) -> Result<Option<&Record>> {
        if self.record.as_ref().is_none_or(|(number, _)| *number != index) {
            let at = (index - self.first) as usize * RECORD_BYTES;
            let (sectors, _) = self.buffer[at..].as_chunks::<RECORD_BYTES>();
            let Some(sector) = sectors.first() else { return Ok(None) };
            if sector.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            // One that does not decode may be half of a write that is under way: the slow way looks again, and names it.
            let record = Record::decode(sector, self.layer.id, index).or_else(|_| self.layer.map.read_record(index))?;
            self.record = Some((index, record));
        }
        Ok(self.record.as_ref().map(|(_, record)| record))
    }
}
