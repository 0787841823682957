//! Resolved chunks, in memory up to a limit.

use crate::units::CHUNK_BLOCKS;
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};

/// Where each block of a chunk is found: 0 is nowhere (it reads zeros), *n* is layer *n* − 1 of the chain, the root
/// being layer 0. Counted from the root, so that a new head on top changes nothing.
pub(crate) struct Chunk([AtomicU16; CHUNK_BLOCKS as usize]);

impl Chunk {
    /// Everything zeros.
    pub fn zeros() -> Self {
        Self([const { AtomicU16::new(0) }; CHUNK_BLOCKS as usize])
    }

    /// Where block `index` (0 to 511) of the chunk is.
    pub fn get(&self, index: usize) -> u16 {
        self.0[index].load(Relaxed)
    }

    /// Says where block `index` is.
    pub fn set(&self, index: usize, place: u16) {
        self.0[index].store(place, Relaxed);
    }

    /// Blocks that are data somewhere.
    pub fn count_data(&self) -> u64 {
        self.0.iter().filter(|place| place.load(Relaxed) != 0).count() as u64
    }
}

/// Which chain a chunk was resolved in. A chain whose cached chunks don't hold any more gets a new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ChainKey(pub u64);

const SHARDS: usize = 16;
/// What a cached chunk takes: its places, and the list's and the map's share.
const CHUNK_BYTES: usize = size_of::<Chunk>() + 128;

/// Chunks, the latest used first.
struct Shard {
    chunks: Mutex<LruCache<(ChainKey, u64), Arc<Chunk>>>,
    // Beside the lock, whose line whoever counts here has just written.
    hits: AtomicU64,
    misses: AtomicU64,
}

/// The least recently used chunks of all open chains are forgotten first.
pub(crate) struct ChunkCache {
    shards: [Shard; SHARDS],
    next_key: AtomicU64,
}

impl ChunkCache {
    /// A cache of about `bytes`, at least a few chunks.
    pub fn new(bytes: u64) -> Self {
        let chunks = usize::try_from(bytes).unwrap_or(usize::MAX) / CHUNK_BYTES / SHARDS;
        let capacity = NonZeroUsize::new(chunks).unwrap_or(NonZeroUsize::MIN).max(NonZeroUsize::MIN.saturating_add(3));
        // Grown as needed: a small store never takes the whole.
        let shard = || {
            let mut shard = LruCache::unbounded();
            shard.resize(capacity);
            Shard { chunks: Mutex::new(shard), hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
        };
        Self { shards: std::array::from_fn(|_| shard()), next_key: 0.into() }
    }

    /// A key that no chain had before.
    pub fn new_key(&self) -> ChainKey {
        ChainKey(self.next_key.fetch_add(1, Relaxed))
    }

    fn shard(&self, key: ChainKey, chunk: u64) -> &Shard {
        // Neighbouring chunks and chains go to different shards.
        &self.shards[(chunk ^ key.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % SHARDS]
    }

    /// The chunk, if it is cached.
    pub fn get(&self, key: ChainKey, chunk: u64) -> Option<Arc<Chunk>> {
        let shard = self.shard(key, chunk);
        let found = shard.chunks.lock().get(&(key, chunk)).map(Arc::clone);
        if found.is_some() {
            shard.hits.fetch_add(1, Relaxed);
        }
        found
    }

    /// Forgets a chunk.
    pub fn remove(&self, key: ChainKey, chunk: u64) {
        self.shard(key, chunk).chunks.lock().pop(&(key, chunk));
    }

    /// Caches a chunk.
    pub fn put(&self, key: ChainKey, chunk: u64, resolved: Arc<Chunk>) {
        let shard = self.shard(key, chunk);
        shard.chunks.lock().put((key, chunk), resolved);
        shard.misses.fetch_add(1, Relaxed);
    }

    /// How often a chunk was found, how often one had to be made from the maps, and how many there are.
    pub fn counts(&self) -> (u64, u64, u64) {
        self.shards.iter().fold((0, 0, 0), |(hits, misses, held), shard| {
            let chunks = shard.chunks.lock().len() as u64;
            (hits + shard.hits.load(Relaxed), misses + shard.misses.load(Relaxed), held + chunks)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_within_its_bytes() {
        let cache = ChunkCache::new(1 << 20);
        let key = cache.new_key();
        for chunk in 0..10_000 {
            cache.put(key, chunk, Arc::new(Chunk::zeros()));
        }
        let held = cache.counts().2 as usize;
        assert!(held * CHUNK_BYTES <= 1 << 20, "{held} chunks");
        assert!(held > 500, "{held} chunks");
        assert!(cache.get(key, 9_999).is_some());
        assert!(cache.get(cache.new_key(), 9_999).is_none());
    }
}
