//! Writing a sealed layer from its beginning to its end: for images.

use super::states::State;
use super::{Layer, NewLayer};
use crate::disk::{Disk, durable};
use crate::error::Result;
use crate::ids::LayerId;
use crate::units::{BLOCK_SIZE, CHUNK_BLOCKS};
use std::sync::Arc;

/// Bytes after which the data is handed to the disk, so that the end isn't one long sync.
const SYNC_EVERY: u64 = 256 << 20;

/// A root layer that is being made. Dropped unfinished, it removes what it made.
pub(crate) struct LayerWriter {
    disk: Arc<Disk>,
    layer: Arc<Layer>,
    index: u64,
    record: super::record::Record,
    /// The chunk that is written, and its sums so far.
    chunk: u64,
    sums: Vec<Option<u32>>,
    data_blocks: u64,
    unsynced: u64,
    finished: bool,
}

impl LayerWriter {
    /// A layer of `size` bytes, all zeros so far. The directory is durable on return.
    pub fn create(disk: &Arc<Disk>, id: LayerId, size: u64) -> Result<Self> {
        let now = crate::volume::now_ns();
        let new =
            NewLayer { id, parent: None, size, data_blocks: 0, inexact: false, atime_ns: now, mtime_ns: now, ctime_ns: now };
        let made = super::create(disk, &new).and_then(|()| Layer::open(disk, id));
        let layer = made.inspect_err(|_| {
            let _ = super::remove(disk, id);
        })?;
        Ok(Self {
            disk: Arc::clone(disk),
            layer,
            index: 0,
            record: super::record::Record::ABSENT,
            chunk: 0,
            sums: vec![None; CHUNK_BLOCKS as usize],
            data_blocks: 0,
            unsynced: 0,
            finished: false,
        })
    }

    /// Writes whole blocks from `block` on; blocks come in ascending order, and what is left out is zeros.
    pub fn write(&mut self, block: u64, bytes: &[u8]) -> Result<()> {
        debug_assert_eq!(bytes.len() as u64 % BLOCK_SIZE, 0);
        self.disk.gauge.take(bytes.len() as u64)?;
        self.layer.data.write(&[bytes], block * BLOCK_SIZE)?;
        for (number, bytes) in (block..).zip(bytes.chunks_exact(BLOCK_SIZE as usize)) {
            let chunk = number / CHUNK_BLOCKS;
            if chunk != self.chunk {
                self.put_sums()?;
                self.chunk = chunk;
            }
            self.sums[(number % CHUNK_BLOCKS) as usize] = Some(crc32c::crc32c(bytes));
            let index = chunk / super::record::RECORD_CHUNKS;
            if index != self.index {
                self.write_record()?;
                self.index = index;
            }
            self.record.chunks[(chunk % super::record::RECORD_CHUNKS) as usize]
                .set((number % CHUNK_BLOCKS) as usize, State::Data);
            self.data_blocks += 1;
        }
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC_EVERY {
            self.layer.data.sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    fn put_sums(&mut self) -> Result<()> {
        self.layer.sums().put_while_made(self.chunk * CHUNK_BLOCKS, &self.sums)?;
        self.sums.fill(None);
        Ok(())
    }

    fn write_record(&mut self) -> Result<()> {
        let mut record = std::mem::replace(&mut self.record, super::record::Record::ABSENT);
        if record.chunks.iter().all(super::states::ChunkStates::is_absent) {
            return Ok(());
        }
        record.flush = 1;
        self.layer.map.write_record(self.index, &record)
    }

    /// Seals the layer: durable on return. Gives its blocks of data.
    pub fn finish(mut self) -> Result<u64> {
        self.write_record()?;
        self.put_sums()?;
        self.layer.data.sync()?;
        // States and sums are durable before the header that says how many there are.
        self.layer.sums().sync()?;
        self.layer.map.sync()?;
        let (data_blocks, summed) = (self.data_blocks, self.layer.sums().exist());
        self.layer.write_header(|header| (header.flush, header.data_blocks, header.summed) = (1, data_blocks, summed))?;
        self.layer.seal()?;
        durable::sync_dir(&self.layer.dir)?;
        self.finished = true;
        Ok(data_blocks)
    }
}

impl Drop for LayerWriter {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = super::remove(&self.disk, self.layer.id)
        {
            // Its label names it: the next open removes it.
            tracing::warn!("a half-made layer is left until the next open: {error}");
        }
    }
}
