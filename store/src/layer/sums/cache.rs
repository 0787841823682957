//! Sums in memory, a chunk at a time, up to a limit that all layers of a disk share.

use super::record::ChunkSums;
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

/// Which open layer's chunks: an open layer has a key of its own, and a new one when it loses all its sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SumsKey(u64);

const SHARDS: usize = 16;
/// What a cached chunk takes: its sums, and the list's and the map's share.
const CHUNK_BYTES: usize = size_of::<ChunkSums>() + 128;

/// Chunks, the latest used first.
type Shard = Mutex<LruCache<(SumsKey, u64), Arc<ChunkSums>>>;

/// The least recently used chunks of all open layers are forgotten first.
pub(crate) struct SumsCache {
    shards: [Shard; SHARDS],
    next_key: AtomicU64,
    lost: AtomicU64,
}

impl SumsCache {
    /// A cache of about `bytes`, at least a few chunks.
    pub fn new(bytes: u64) -> Self {
        let chunks = usize::try_from(bytes).unwrap_or(usize::MAX) / CHUNK_BYTES / SHARDS;
        let capacity = NonZeroUsize::new(chunks).unwrap_or(NonZeroUsize::MIN).max(NonZeroUsize::MIN.saturating_add(3));
        // Grown as needed: a small store never takes the whole.
        let shard = || {
            let mut shard = LruCache::unbounded();
            shard.resize(capacity);
            Mutex::new(shard)
        };
        Self { shards: std::array::from_fn(|_| shard()), next_key: 0.into(), lost: 0.into() }
    }

    /// A key that no layer had before.
    pub fn new_key(&self) -> SumsKey {
        SumsKey(self.next_key.fetch_add(1, Relaxed))
    }

    /// Notes that a layer isn't summed completely any more.
    pub fn lose(&self) {
        self.lost.fetch_add(1, SeqCst);
    }

    /// How often that happened.
    pub fn lost(&self) -> u64 {
        self.lost.load(SeqCst)
    }

    fn shard(&self, key: SumsKey, chunk: u64) -> &Shard {
        // Neighbouring chunks and layers go to different shards.
        &self.shards[(chunk ^ key.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % SHARDS]
    }

    /// The chunk, if it is cached.
    pub fn get(&self, key: SumsKey, chunk: u64) -> Option<Arc<ChunkSums>> {
        self.shard(key, chunk).lock().get(&(key, chunk)).map(Arc::clone)
    }

    /// Caches a chunk.
    pub fn put(&self, key: SumsKey, chunk: u64, sums: &Arc<ChunkSums>) {
        self.shard(key, chunk).lock().put((key, chunk), Arc::clone(sums));
    }

    /// Forgets a chunk.
    pub fn forget(&self, key: SumsKey, chunk: u64) {
        self.shard(key, chunk).lock().pop(&(key, chunk));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_within_its_bytes() {
        let cache = SumsCache::new(1 << 20);
        let key = cache.new_key();
        for chunk in 0..10_000 {
            cache.put(key, chunk, &Arc::new(ChunkSums::NONE));
        }
        let held: usize = cache.shards.iter().map(|shard| shard.lock().len()).sum();
        assert!(held * CHUNK_BYTES <= 1 << 20, "{held} chunks");
        assert!(held > 300, "{held} chunks");
        assert!(cache.get(key, 9_999).is_some());
        assert!(cache.get(cache.new_key(), 9_999).is_none());
        cache.forget(key, 9_999);
        assert!(cache.get(key, 9_999).is_none());
    }
}
