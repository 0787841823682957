//! Setting the size. The order of a shrink, and what a crash leaves, is in `layer/shrink.rs`.

use super::live::{Live, LiveView};
use super::view::View;
use super::{Volume, now_ns};
use crate::error::{Error, Result};
use crate::layer::head::{Effect, Run};
use crate::layer::states::State;
use crate::units::{BLOCK_SIZE, CHUNK_BLOCKS, MAX_VOLUME_SIZE, blocks_of};
use crate::volume::Sync;
use std::sync::Arc;

impl Volume {
    pub(super) fn resize(&self, size: u64) -> Result<()> {
        if size > MAX_VOLUME_SIZE {
            return Err(Error::TooBig { size, limit: MAX_VOLUME_SIZE });
        }
        if size < self.live().head.size() { self.shrink_to(size) } else { self.grow_to(size) }
    }

    fn shrink_to(&self, size: u64) -> Result<()> {
        let _gate = self.gate.write();
        let live = self.live();
        self.check_usable(&live)?;
        if size >= live.head.size() {
            // Somebody else was faster.
            return Ok(());
        }
        let view = LiveView { volume: self, live: &live };
        self.own_last_block(&view, size)?;
        live.head.flush(Sync::Data)?;
        let now_shown = live.head.data_blocks();
        let left = if size == 0 {
            0
        } else if live.head.is_inexact() {
            now_shown
        } else {
            now_shown.saturating_sub(count_from(&view, blocks_of(size))?)
        };
        let shrunk = live.head.shrink(size, left, now_ns());
        if live.head.size() <= size {
            // Also if it failed half-way: what is cached may be cut off.
            *self.live.write() = Arc::new(Live { chain: live.chain.with_floor(size), head: Arc::clone(&live.head) });
        }
        shrunk?;
        self.tail_unknown.store(false, std::sync::atomic::Ordering::SeqCst);
        Ok(())
    }

    /// If the new end cuts a block of a layer below, that block is copied up, its content unchanged: the part behind
    /// the end can then be zeroed here, and never shows again.
    fn own_last_block(&self, view: &LiveView<'_>, size: u64) -> Result<()> {
        if size.is_multiple_of(BLOCK_SIZE) {
            return Ok(());
        }
        let block = size / BLOCK_SIZE;
        let place = view.chunk(block / CHUNK_BLOCKS)?.get((block % CHUNK_BLOCKS) as usize);
        if place == 0 || place == view.live.chain.last_place() {
            return Ok(());
        }
        let mut bytes = vec![0; BLOCK_SIZE as usize];
        view.read_run(place, &mut bytes, block * BLOCK_SIZE)?;
        view.live.head.layer.data.write(&[&bytes], block * BLOCK_SIZE)?;
        let effect = Effect { grow_to: 0, data_blocks: 0, mtime_ns: Some(now_ns()) };
        view.mark(Some(Run { start: block, count: 1, state: State::Data }), effect)
    }
}

/// Blocks of data from `block` on.
fn count_from(view: &LiveView<'_>, block: u64) -> Result<u64> {
    let chunk = block / CHUNK_BLOCKS;
    let resolved = view.chunk(chunk)?;
    let here = (block % CHUNK_BLOCKS..CHUNK_BLOCKS).filter(|index| resolved.get(*index as usize) != 0).count() as u64;
    Ok(here + view.count_data(chunk + 1)?)
}
