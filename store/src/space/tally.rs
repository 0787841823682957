//! Who needs each block that is held, counted a chunk at a time.
//!
//! A block of data that a settled layer holds is *needed* by every name whose view finds it there. The names that see
//! it are those on the layer, and those that stand on it and find the block absent on the way down. Per chunk only the
//! layers that say something there are looked at: of all others the names in their subtrees are known beforehand.
//!
//! Everything that is counted is a sum over chunks. So a chunk can be taken out again, and what the sealed layers come
//! to can be kept while heads change.

use super::blocks::Blocks;
use super::forest::Forest;
use crate::layer::states::ChunkStates;
use crate::units::CHUNK_BLOCKS;

/// Sums, in blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tally {
    /// Of each name: blocks that no other name needs.
    pub alone: Vec<i64>,
    /// Of each settled layer: blocks of data.
    pub held: Vec<i64>,
    /// Of each settled layer: its parent's blocks of data that its own subtree does not see.
    pub hides: Vec<i64>,
    /// Of each settled layer: what its view shows more than its parent's.
    shows_more: Vec<i64>,
    /// Blocks that several names need, each counted once.
    pub shared: i64,
    /// Blocks that no name needs, in settled layers.
    pub kept: i64,
    /// Blocks that are gone when all merges are done.
    pub waiting: i64,
}

/// A settled layer in a chunk that it, or its floor, says something about.
struct Touched {
    layer: usize,
    data: Blocks,
    /// Blocks for which its parent is asked.
    open: Blocks,
    /// The nearest layer below it that is touched too, as a place in the list.
    below: Option<usize>,
    /// Data that its view shows.
    shown: Blocks,
    /// Names that see it, less those that come up from touched layers.
    names: (usize, usize),
    seen: Seen,
}

/// Which names see each block of a chunk: as far as it matters whether it is none, one (and who), or more.
#[derive(Clone)]
struct Seen {
    any: Blocks,
    many: Blocks,
    ones: Vec<(Blocks, usize)>,
}

impl Seen {
    fn nobody() -> Self {
        Self { any: Blocks::NONE, many: Blocks::NONE, ones: Vec::new() }
    }

    fn add_one(&mut self, blocks: Blocks, name: usize) {
        self.many = self.many.or(blocks.and(self.any));
        let new = blocks.without(self.any);
        if !new.is_empty() {
            self.ones.push((new, name));
        }
        self.any = self.any.or(blocks);
    }

    fn add_many(&mut self, blocks: Blocks) {
        self.many = self.many.or(blocks);
        self.any = self.any.or(blocks);
    }

    /// What is left of it behind a layer that asks its parent for `open` only.
    fn add_through(&mut self, above: &Seen, open: Blocks) {
        self.add_many(above.many.and(open));
        for (blocks, name) in &above.ones {
            let blocks = blocks.without(above.many).and(open);
            if !blocks.is_empty() {
                self.add_one(blocks, *name);
            }
        }
    }
}

impl Tally {
    pub fn new(forest: &Forest) -> Self {
        let layers = || vec![0; forest.settled.len()];
        Self {
            alone: vec![0; forest.name_count],
            held: layers(),
            hides: layers(),
            shows_more: layers(),
            shared: 0,
            kept: 0,
            waiting: 0,
        }
    }

    /// Counts a chunk: `states` are those of the layers that have any there, by number. `times` is 1, or -1 to take it
    /// out again.
    pub fn add(&mut self, forest: &Forest, chunk: u64, states: &[(usize, &ChunkStates)], times: i64) {
        let mut touched = self.touch(forest, chunk, states, times);
        descend(forest, &mut touched);
        for at in 0..touched.len() {
            let Touched { layer, data, below, .. } = touched[at];
            let under = below.map_or(Blocks::NONE, |below| touched[below].shown);
            touched[at].shown = data.or(under.and(touched[at].open));
            self.held[layer] += times * data.count();
            self.shows_more[layer] += times * (touched[at].shown.count() - under.count());
            if let Some(below) = below
                && forest.settled[layer].parent == Some(touched[below].layer)
            {
                self.hides[layer] += times * touched[below].data.without(touched[at].open).count();
            }
        }
        // Children before parents: what they let through is known when a parent is looked at.
        for at in (0..touched.len()).rev() {
            let mut seen = std::mem::replace(&mut touched[at].seen, Seen::nobody());
            match touched[at].names {
                (0, _) => {}
                (1, name) => seen.add_one(Blocks::ALL, name),
                _ => seen.add_many(Blocks::ALL),
            }
            let data = touched[at].data;
            for (blocks, name) in &seen.ones {
                self.alone[*name] += times * data.and(blocks.without(seen.many)).count();
            }
            self.shared += times * data.and(seen.many).count();
            self.kept += times * data.without(seen.any).count();
            if let Some(below) = touched[at].below {
                let open = touched[at].open;
                touched[below].seen.add_through(&seen, open);
            }
        }
    }

    /// The settled layers that say something about a chunk, parents first; what will be gone is counted here.
    fn touch(&mut self, forest: &Forest, chunk: u64, states: &[(usize, &ChunkStates)], times: i64) -> Vec<Touched> {
        const ABSENT: &ChunkStates = &ChunkStates::ABSENT;
        let end = (chunk + 1) * CHUNK_BLOCKS;
        let with_floor = forest.floors.iter().take_while(|(floor, _)| *floor < end).map(|(_, number)| (*number, ABSENT));
        let mut parts = Vec::with_capacity(states.len());
        for (number, states) in states.iter().copied().chain(with_floor) {
            match forest.goes_into[number] {
                Some((layer, place)) => parts.push((layer, place, number, states)),
                None => self.waiting += times * Blocks::data(states).count(),
            }
        }
        // Topmost part first; the states before the mere floor of the same part.
        parts.sort_by_key(|(layer, place, ..)| (*layer, *place));
        let mut touched: Vec<Touched> = Vec::with_capacity(parts.len());
        for (layer, _, number, states) in parts {
            let node = &forest.nodes[number];
            let beyond = if node.parent.is_some() { Blocks::from(node.floor, chunk) } else { Blocks::NONE };
            let (data, closed) = (Blocks::data(states), Blocks::known(states).or(beyond));
            match touched.last_mut() {
                Some(last) if last.layer == layer => {
                    let used = data.and(last.open);
                    self.waiting += times * (data.count() - used.count());
                    last.data = last.data.or(used);
                    last.open = last.open.without(closed);
                }
                _ => touched.push(Touched {
                    layer,
                    data,
                    open: Blocks::ALL.without(closed),
                    below: None,
                    shown: Blocks::NONE,
                    names: forest.settled[layer].names_below,
                    seen: Seen::nobody(),
                }),
            }
        }
        touched
    }

    /// Blocks that each settled layer's view shows as data.
    pub fn shown(&self, forest: &Forest) -> Vec<i64> {
        let mut shown = self.shows_more.clone();
        for (number, layer) in forest.settled.iter().enumerate() {
            if let Some(parent) = layer.parent {
                shown[number] += shown[parent];
            }
        }
        shown
    }
}

/// Finds for each touched layer the nearest touched one below it, and takes its names out of that one's.
fn descend(forest: &Forest, touched: &mut [Touched]) {
    let mut path: Vec<usize> = Vec::new();
    for at in 0..touched.len() {
        let layer = touched[at].layer;
        while path.last().is_some_and(|below| forest.settled[touched[*below].layer].end <= layer) {
            path.pop();
        }
        touched[at].below = path.last().copied();
        if let Some(below) = touched[at].below {
            let (count, xor) = forest.settled[layer].names_below;
            let names = &mut touched[below].names;
            *names = (names.0 - count, names.1 ^ xor);
        }
        path.push(at);
    }
}
