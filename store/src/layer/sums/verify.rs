//! Reading a layer's blocks: each that has a sum is compared with it, whole.
//!
//! Place on the read path: the chain gives a run of blocks in state data; what is given on fits its sums, or has none.

use super::ChunkSums;
use crate::error::{Error, Result};
use crate::layer::Layer;
use crate::units::{BLOCK_SIZE, CHUNK_BLOCKS};
use std::sync::Arc;

const BLOCK: usize = BLOCK_SIZE as usize;

impl Layer {
    /// Reads all of `buf` from byte `offset`: bytes of blocks in state data. `BadSum` if one doesn't fit its sum; then
    /// `buf` holds nothing to be believed.
    pub fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if !self.sums().exist() {
            return self.data.read(buf, offset);
        }
        let read = |buf: &mut [u8], offset| self.data.read(buf, offset).map(|()| true);
        self.read_verified(buf, offset, &read, &|chunk| self.sums().chunk(chunk).map(Some)).map(drop)
    }

    /// Like [`Layer::read`], from memory only: `false` where it would wait, or fail: the slow way tells why.
    pub fn try_read(&self, buf: &mut [u8], offset: u64) -> bool {
        if !self.sums().exist() {
            return self.data.try_read(buf, offset);
        }
        let read = |buf: &mut [u8], offset| Ok(self.data.try_read(buf, offset));
        self.read_verified(buf, offset, &read, &|chunk| Ok(self.sums().try_chunk(chunk))).unwrap_or(false)
    }

    /// Sums first: one that is put while the bytes are read is of the same bytes, and one that is taken away was.
    fn read_verified(
        &self,
        mut buf: &mut [u8],
        mut offset: u64,
        read: &dyn Fn(&mut [u8], u64) -> Result<bool>,
        sums_of: &dyn Fn(u64) -> Result<Option<Arc<ChunkSums>>>,
    ) -> Result<bool> {
        while !buf.is_empty() {
            let block = offset / BLOCK_SIZE;
            let within = (offset % BLOCK_SIZE) as usize;
            let Some(sums) = sums_of(block / CHUNK_BLOCKS)? else { return Ok(false) };
            let left = (CHUNK_BLOCKS - block % CHUNK_BLOCKS) as usize * BLOCK;
            let length = if within == 0 && buf.len() >= BLOCK { (buf.len() - buf.len() % BLOCK).min(left) } else { 0 };
            let done = if length > 0 {
                let part = &mut buf[..length];
                if !read(part, offset)? {
                    return Ok(false);
                }
                self.verify(&sums, block, part)?;
                length
            } else {
                // A part of a block: all of it is read, since the sum is of all of it.
                let mut whole = [0; BLOCK];
                if !read(&mut whole, block * BLOCK_SIZE)? {
                    return Ok(false);
                }
                self.verify(&sums, block, &whole)?;
                let length = buf.len().min(BLOCK - within);
                buf[..length].copy_from_slice(&whole[within..within + length]);
                length
            };
            offset += done as u64;
            buf = &mut buf[done..];
        }
        Ok(true)
    }

    /// Compares whole blocks, from `block` on and within a chunk, with their sums.
    fn verify(&self, sums: &ChunkSums, block: u64, bytes: &[u8]) -> Result<()> {
        for (block, bytes) in (block..).zip(bytes.chunks_exact(BLOCK)) {
            let Some(expected) = sums.get((block % CHUNK_BLOCKS) as usize) else { continue };
            let found = crc32c::crc32c(bytes);
            if found != expected {
                return Err(Error::BadSum { of: None, layer: self.id, block, expected, found });
            }
        }
        Ok(())
    }
}
