//! Reading and seeking in what a chain shows: the same for volumes and snapshots.

use crate::chain::{Chain, Chunk, blocks_touched, chunks, runs};
use crate::error::{Error, Result};
use crate::units::{BLOCK_SIZE, CHUNK_BLOCKS};
use std::sync::Arc;

/// A chain whose chunks can be resolved.
pub(crate) trait View {
    fn chain(&self) -> &Chain;

    /// Size in bytes.
    fn size(&self) -> u64;

    /// Where the blocks of a chunk are.
    fn chunk(&self, chunk: u64) -> Result<Arc<Chunk>>;

    /// Like [`View::chunk`], without waiting.
    fn try_chunk(&self, chunk: u64) -> Result<Option<Arc<Chunk>>>;

    /// The first chunk at or after `chunk` that may have data.
    fn next_written(&self, chunk: u64) -> Result<Option<u64>>;

    /// Reads up to the end of the file; `None` if a newer head has some of it.
    fn read(&self, buf: &mut [u8], offset: u64) -> Result<Option<usize>> {
        let length = clip(buf.len(), offset, self.size());
        let buf = &mut buf[..length];
        for (chunk, blocks) in chunks(blocks_touched(offset, length as u64)) {
            let resolved = self.chunk(chunk)?;
            for run in runs(&resolved, blocks) {
                if !self.chain().has(run.place) {
                    return Ok(None);
                }
                let (part, at) = part_of(buf, offset, run.block, run.count);
                self.read_run(run.place, part, at)?;
            }
        }
        Ok(Some(length))
    }

    /// Reads part of a run, which is in `place`. A block that doesn't fit its sum is looked for once more: a merge may have
    /// moved it since it was found.
    fn read_run(&self, place: u16, buf: &mut [u8], offset: u64) -> Result<()> {
        let bad = match self.chain().read_run(place, buf, offset) {
            Err(bad @ Error::BadSum { .. }) => bad,
            other => return other,
        };
        for (chunk, blocks) in chunks(blocks_touched(offset, buf.len() as u64)) {
            self.chain().forget(chunk);
            let resolved = self.chunk(chunk)?;
            for run in runs(&resolved, blocks) {
                if !self.chain().has(run.place) {
                    // A newer head has it: who asked finds another chain, and looks again.
                    return Err(bad);
                }
                let (part, at) = part_of(buf, offset, run.block, run.count);
                self.chain().read_run(run.place, part, at)?;
            }
        }
        Ok(())
    }

    /// Like [`View::read`], from memory only.
    fn try_read(&self, buf: &mut [u8], offset: u64) -> Result<Option<usize>> {
        let length = clip(buf.len(), offset, self.size());
        let buf = &mut buf[..length];
        for (chunk, blocks) in chunks(blocks_touched(offset, length as u64)) {
            let Some(resolved) = self.try_chunk(chunk)? else { return Ok(None) };
            for run in runs(&resolved, blocks) {
                let (part, at) = part_of(buf, offset, run.block, run.count);
                if !self.chain().has(run.place) || !self.chain().try_read_run(run.place, part, at) {
                    return Ok(None);
                }
            }
        }
        Ok(Some(length))
    }

    /// The first byte of data at or after `offset`.
    fn seek_data(&self, offset: u64) -> Result<u64> {
        let size = self.size();
        let mut block = offset / BLOCK_SIZE;
        while block * BLOCK_SIZE < size && offset < size {
            let Some(chunk) = self.next_written(block / CHUNK_BLOCKS)? else { break };
            block = block.max(chunk * CHUNK_BLOCKS);
            let resolved = self.chunk(chunk)?;
            let end = (chunk + 1) * CHUNK_BLOCKS;
            if let Some(run) = runs(&resolved, block..end).find(|run| run.place != 0) {
                let found = (run.block * BLOCK_SIZE).max(offset);
                return if found < size { Ok(found) } else { Err(Error::NoExtent { offset }) };
            }
            block = end;
        }
        Err(Error::NoExtent { offset })
    }

    /// The first byte of a hole at or after `offset`: the end of the file, if there is no other.
    fn seek_hole(&self, offset: u64) -> Result<u64> {
        let size = self.size();
        if offset >= size {
            return Err(Error::NoExtent { offset });
        }
        let mut block = offset / BLOCK_SIZE;
        while block * BLOCK_SIZE < size {
            let chunk = block / CHUNK_BLOCKS;
            let resolved = self.chunk(chunk)?;
            let end = (chunk + 1) * CHUNK_BLOCKS;
            if let Some(run) = runs(&resolved, block..end).find(|run| run.place == 0) {
                return Ok((run.block * BLOCK_SIZE).max(offset).min(size));
            }
            block = end;
        }
        Ok(size)
    }

    /// Blocks of data in the chunks from `chunk` on.
    fn count_data(&self, chunk: u64) -> Result<u64> {
        let mut blocks = 0;
        let mut next = self.next_written(chunk)?;
        while let Some(chunk) = next {
            blocks += self.chunk(chunk)?.count_data();
            next = self.next_written(chunk + 1)?;
        }
        Ok(blocks)
    }
}

/// How many of `length` bytes are before the end of the file.
fn clip(length: usize, offset: u64, size: u64) -> usize {
    usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(length)
}

/// The part of `buf` (which begins at byte `offset`) that `count` blocks from `block` have, and the byte it begins at.
fn part_of(buf: &mut [u8], offset: u64, block: u64, count: u64) -> (&mut [u8], u64) {
    let first = (block * BLOCK_SIZE).max(offset);
    let end = ((block + count) * BLOCK_SIZE).min(offset + buf.len() as u64);
    (&mut buf[(first - offset) as usize..(end - offset) as usize], first)
}
