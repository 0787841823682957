//! A chain of layers, root first: which layer has a block, and reading runs of blocks.
//!
//! Below it are the layers, above it the volume (whose last layer is a head) or the snapshot (all layers sealed).

mod cache;
mod diff;

pub(crate) use cache::{ChainKey, Chunk, ChunkCache};
pub(crate) use diff::Diff;

use crate::error::Result;
use crate::ids::LayerId;
use crate::layer::Layer;
use crate::layer::states::{ChunkStates, State};
use crate::units::{BLOCK_SIZE, CHUNK_BLOCKS, blocks_of};
use std::sync::Arc;

/// Layers from the root to the one whose view is shown.
pub(crate) struct Chain {
    pub key: ChainKey,
    links: Vec<Link>,
    cache: Arc<ChunkCache>,
}

/// A layer in a chain.
#[derive(Clone)]
struct Link {
    layer: Arc<Layer>,
    /// The block from which on absent means zero. A floor within a block doesn't matter: whoever shrank the layer
    /// gave that block a state.
    floor: u64,
}

/// A run of blocks that are found in the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub block: u64,
    pub count: u64,
    /// As in [`Chunk`].
    pub place: u16,
}

impl Chain {
    /// A chain of these layers, root first. There is at least one.
    pub fn new(layers: Vec<Arc<Layer>>, cache: &Arc<ChunkCache>) -> Self {
        let link = |layer: Arc<Layer>| Link { floor: blocks_of(layer.header().floor), layer };
        Self { key: cache.new_key(), links: layers.into_iter().map(link).collect(), cache: Arc::clone(cache) }
    }

    /// The chain with a new head on top: what is cached stays right.
    pub fn with_head(&self, layer: Arc<Layer>) -> Self {
        let mut links = self.links.clone();
        links.push(Link { floor: blocks_of(layer.header().floor), layer });
        Self { key: self.key, links, cache: Arc::clone(&self.cache) }
    }

    /// The chain after its last layer was shrunk: nothing cached is right any more.
    pub fn with_floor(&self, floor: u64) -> Self {
        let mut links = self.links.clone();
        if let Some(last) = links.last_mut() {
            last.floor = last.floor.min(floor.div_ceil(BLOCK_SIZE));
        }
        Self { key: self.cache.new_key(), links, cache: Arc::clone(&self.cache) }
    }

    /// The same layers less some, with the floors that they have now: nothing cached is right any more. A head's floor
    /// (`with_head`) never rises.
    pub fn without(&self, gone: &[LayerId], with_head: bool) -> Self {
        let last = self.links.len().saturating_sub(1);
        let renewed = |(at, link): (usize, &Link)| {
            let now = blocks_of(link.layer.header().floor);
            let floor = if with_head && at == last { link.floor.min(now) } else { now };
            Link { floor, layer: Arc::clone(&link.layer) }
        };
        let kept = self.links.iter().enumerate().filter(|(_, link)| !gone.contains(&link.layer.id));
        Self { key: self.cache.new_key(), links: kept.map(renewed).collect(), cache: Arc::clone(&self.cache) }
    }

    /// The same chain, once more: what is cached for the one is for the other.
    pub fn again(&self) -> Self {
        Self { key: self.key, links: self.links.clone(), cache: Arc::clone(&self.cache) }
    }

    /// The same layers, with nothing cached.
    pub fn afresh(&self) -> Self {
        Self { key: self.cache.new_key(), ..self.again() }
    }

    /// Whether its layers have the floors now that it began with: a merge raises some. A head's is another matter.
    pub fn has_present_floors(&self, with_head: bool) -> bool {
        let sealed = self.links.len() - usize::from(with_head && !self.links.is_empty());
        self.links[..sealed].iter().all(|link| link.floor == blocks_of(link.layer.header().floor))
    }

    /// Its layers, root first.
    pub fn ids(&self) -> Vec<LayerId> {
        self.links.iter().map(|link| link.layer.id).collect()
    }

    /// How a layer is called in a [`Chunk`]; none if it isn't in the chain.
    pub fn place_of(&self, layer: LayerId) -> Option<u16> {
        self.links.iter().position(|link| link.layer.id == layer).map(|at| at as u16 + 1)
    }

    /// Forgets a cached chunk.
    pub fn forget(&self, chunk: u64) {
        self.cache.remove(self.key, chunk);
    }

    /// How the last layer is called in a [`Chunk`].
    pub fn last_place(&self) -> u16 {
        // The length is limited by MAX_LAYERS.
        self.links.len() as u16
    }

    /// Whether it has this place. One that it doesn't have is a newer head's: a cached chunk is shared with the chain
    /// that has this one's layers and that head on top.
    pub fn has(&self, place: u16) -> bool {
        usize::from(place) <= self.links.len()
    }

    /// The last layer.
    pub fn last(&self) -> Option<&Arc<Layer>> {
        self.links.last().map(|link| &link.layer)
    }

    /// The layer under the last one.
    pub fn before_last(&self) -> Option<&Arc<Layer>> {
        self.links.len().checked_sub(2).map(|index| &self.links[index].layer)
    }

    /// A chunk that is cached.
    pub fn cached(&self, chunk: u64) -> Option<Arc<Chunk>> {
        self.cache.get(self.key, chunk)
    }

    /// Caches a chunk.
    pub fn cache(&self, chunk: u64, resolved: &Arc<Chunk>) {
        self.cache.put(self.key, chunk, Arc::clone(resolved));
    }

    /// Resolves a chunk from the maps; `overlay` has the last layer's marks that aren't in its map yet.
    pub fn resolve(&self, chunk: u64, overlay: Option<&ChunkStates>) -> Result<Chunk> {
        let found = self.resolve_with(chunk, overlay, |layer| layer.map.read_chunk(chunk).map(Some))?;
        // The closure never gives `None`.
        Ok(found.unwrap_or_else(Chunk::zeros))
    }

    /// Like [`Chain::resolve`], from the page cache only.
    pub fn try_resolve(&self, chunk: u64, overlay: Option<&ChunkStates>) -> Result<Option<Chunk>> {
        self.resolve_with(chunk, overlay, |layer| layer.map.try_read_chunk(chunk))
    }

    fn resolve_with(
        &self,
        chunk: u64,
        overlay: Option<&ChunkStates>,
        read: impl Fn(&Layer) -> Result<Option<ChunkStates>>,
    ) -> Result<Option<Chunk>> {
        let resolved = Chunk::zeros();
        // Blocks whose place isn't known yet, as a list that shrinks on the way down.
        let mut open: Vec<u16> = (0..CHUNK_BLOCKS as u16).collect();
        for (number, link) in self.links.iter().enumerate().rev() {
            let Some(mut states) = read(&link.layer)? else { return Ok(None) };
            if number + 1 == self.links.len()
                && let Some(marks) = overlay
            {
                states.overlay(marks);
            }
            let floor = link.floor;
            if !states.is_absent() || floor < (chunk + 1) * CHUNK_BLOCKS {
                open.retain(|index| match states.get(usize::from(*index)) {
                    State::Data => {
                        resolved.set(usize::from(*index), number as u16 + 1);
                        false
                    }
                    State::Zero => false,
                    State::Absent => chunk * CHUNK_BLOCKS + u64::from(*index) < floor,
                });
                if open.is_empty() {
                    break;
                }
            }
        }
        Ok(Some(resolved))
    }

    /// The first chunk at or after `chunk` for which some layer's map may say something.
    pub fn next_written(&self, chunk: u64) -> Result<Option<u64>> {
        let mut next = None;
        for link in &self.links {
            if let Some(found) = link.layer.map.next_written(chunk)? {
                next = Some(next.map_or(found, |before: u64| before.min(found)));
                if found == chunk {
                    break;
                }
            }
        }
        Ok(next)
    }

    /// Reads part of a run: `buf` from byte `offset` of the volume. `BadSum` if a block isn't what it was sealed as.
    pub fn read_run(&self, place: u16, buf: &mut [u8], offset: u64) -> Result<()> {
        match place {
            0 => {
                buf.fill(0);
                Ok(())
            }
            place => self.links[usize::from(place) - 1].layer.read(buf, offset),
        }
    }

    /// Like [`Chain::read_run`], from the page cache only.
    pub fn try_read_run(&self, place: u16, buf: &mut [u8], offset: u64) -> bool {
        match place {
            0 => {
                buf.fill(0);
                true
            }
            place => self.links[usize::from(place) - 1].layer.try_read(buf, offset),
        }
    }
}

/// The runs of `blocks`, all within `chunk`.
pub(crate) fn runs(resolved: &Chunk, blocks: std::ops::Range<u64>) -> impl Iterator<Item = Run> {
    let mut block = blocks.start;
    std::iter::from_fn(move || {
        if block >= blocks.end {
            return None;
        }
        let first = block;
        let place = resolved.get((block % CHUNK_BLOCKS) as usize);
        while block < blocks.end && resolved.get((block % CHUNK_BLOCKS) as usize) == place {
            block += 1;
        }
        Some(Run { block: first, count: block - first, place })
    })
}

/// Splits a range of blocks at chunks.
pub(crate) fn chunks(blocks: std::ops::Range<u64>) -> impl Iterator<Item = (u64, std::ops::Range<u64>)> {
    let mut block = blocks.start;
    std::iter::from_fn(move || {
        if block >= blocks.end {
            return None;
        }
        let chunk = block / CHUNK_BLOCKS;
        let first = block;
        block = ((chunk + 1) * CHUNK_BLOCKS).min(blocks.end);
        Some((chunk, first..block))
    })
}

/// The blocks that a range of bytes touches.
pub(crate) fn blocks_touched(offset: u64, length: u64) -> std::ops::Range<u64> {
    if length == 0 {
        offset / BLOCK_SIZE..offset / BLOCK_SIZE
    } else {
        offset / BLOCK_SIZE..(offset + length).div_ceil(BLOCK_SIZE)
    }
}
