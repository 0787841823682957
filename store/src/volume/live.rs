//! A volume's chain with its head, and how marks and cached chunks are kept in step.
//!
//! A chunk is resolved and cached, and marks are made and applied to the cached chunk, under the same stripe: so that
//! no resolution that was begun before a mark is cached after it.

use super::Volume;
use super::view::View;
use crate::chain::{Chain, Chunk};
use crate::error::Result;
use crate::layer::Head;
use crate::layer::head::{Effect, Marked, Run};
use crate::layer::states::State;
use crate::units::CHUNK_BLOCKS;
use crate::volume::Sync;
use parking_lot::Mutex;
use std::sync::Arc;

/// The chain of a volume at a moment: replaced as a whole by a snapshot or a shrink.
pub(crate) struct Live {
    pub chain: Chain,
    pub head: Arc<Head>,
}

impl Live {
    /// Whether what was found through the one holds for the other: not after a snapshot, a shrink or the end of a merge.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.head, &other.head) && self.chain.key == other.chain.key
    }
}

/// Locks for resolving and marking, by chunk.
pub(super) struct Stripes([Mutex<()>; 64]);

impl Stripes {
    pub fn new() -> Self {
        Self([const { Mutex::new(()) }; 64])
    }

    pub fn of(&self, chunk: u64) -> &Mutex<()> {
        &self.0[(chunk % 64) as usize]
    }
}

/// A volume as it is now.
pub(super) struct LiveView<'a> {
    pub volume: &'a Volume,
    pub live: &'a Arc<Live>,
}

impl View for LiveView<'_> {
    fn chain(&self) -> &Chain {
        &self.live.chain
    }

    fn size(&self) -> u64 {
        self.live.head.size()
    }

    fn chunk(&self, chunk: u64) -> Result<Arc<Chunk>> {
        if let Some(found) = self.live.chain.cached(chunk) {
            return Ok(found);
        }
        let _stripe = self.volume.stripes.of(chunk).lock();
        if let Some(found) = self.live.chain.cached(chunk) {
            return Ok(found);
        }
        let overlay = self.live.head.overlay(chunk);
        let resolved = Arc::new(self.live.chain.resolve(chunk, overlay.as_ref())?);
        self.keep(chunk, &resolved);
        Ok(resolved)
    }

    fn try_chunk(&self, chunk: u64) -> Result<Option<Arc<Chunk>>> {
        if let Some(found) = self.live.chain.cached(chunk) {
            return Ok(Some(found));
        }
        let Some(_stripe) = self.volume.stripes.of(chunk).try_lock() else { return Ok(None) };
        let Some(overlay) = self.live.head.try_overlay(chunk) else { return Ok(None) };
        let Some(resolved) = self.live.chain.try_resolve(chunk, overlay.as_ref())? else { return Ok(None) };
        let resolved = Arc::new(resolved);
        self.keep(chunk, &resolved);
        Ok(Some(resolved))
    }

    fn next_written(&self, chunk: u64) -> Result<Option<u64>> {
        // Marks first: what a flush moves to the map in between is then found there.
        let marked = self.live.head.next_marked(chunk);
        let written = self.live.chain.next_written(chunk)?;
        Ok([marked, written].into_iter().flatten().min())
    }
}

impl LiveView<'_> {
    /// Caches a chunk that was resolved under its stripe, unless the chain was replaced meanwhile: a new head may
    /// have marks already that this resolution doesn't know.
    fn keep(&self, chunk: u64, resolved: &Arc<Chunk>) {
        if self.volume.live.read().is_same(self.live) {
            self.live.chain.cache(chunk, resolved);
        }
    }

    /// Makes one run (or, with none, only the effect) known. Waits for a flush where there is no room for marks.
    /// The caller has the gate and the range, and has written the data.
    pub fn mark(&self, run: Option<Run>, effect: Effect) -> Result<()> {
        let head = &self.live.head;
        loop {
            let chunks = run.map(|run| run.start / CHUNK_BLOCKS..=(run.start + run.count - 1) / CHUNK_BLOCKS);
            let mut stripes: Vec<u64> = chunks.clone().map(|chunks| chunks.map(|chunk| chunk % 64).collect()).unwrap_or_default();
            // In one order everywhere, each once.
            stripes.sort_unstable();
            stripes.dedup();
            let _stripes: Vec<_> = stripes.into_iter().map(|stripe| self.volume.stripes.of(stripe).lock()).collect();
            if head.mark(run.as_slice(), effect)? == Marked::Done {
                if let Some((run, chunks)) = run.zip(chunks) {
                    chunks.for_each(|chunk| self.apply(chunk, run));
                }
                break;
            }
            drop(_stripes);
            head.flush(Sync::Data)?;
        }
        if head.wants_flush() {
            self.volume.context.wake_flusher();
        }
        Ok(())
    }

    /// Applies a mark to a chunk, if it is cached.
    fn apply(&self, chunk: u64, run: Run) {
        let Some(cached) = self.live.chain.cached(chunk) else { return };
        let place = if run.state == State::Data { self.live.chain.last_place() } else { 0 };
        let first = run.start.max(chunk * CHUNK_BLOCKS);
        let end = (run.start + run.count).min((chunk + 1) * CHUNK_BLOCKS);
        (first..end).for_each(|block| cached.set((block % CHUNK_BLOCKS) as usize, place));
    }
}
