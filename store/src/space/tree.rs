//! A tree of the forest, whose maps can be read.
//!
//! What its sealed layers come to does not change as long as the same layers (id and revision) stand in the same places
//! with names in the same places: it is kept, and with it a second count reads only where heads have something.

use super::forest::{Forest, Node};
use super::tally::Tally;
use crate::error::Result;
use crate::ids::LayerId;
use crate::layer::states::ChunkStates;
use crate::layer::{Layer, Scan};
use crate::store::Context;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

/// A layer of a tree.
pub(super) struct Member {
    pub layer: Arc<Layer>,
    pub revision: u64,
    /// Whether it is a live volume's head: it may change at any time.
    pub head: bool,
    /// What its map does not have yet, by chunk.
    pub marks: Vec<(u64, ChunkStates)>,
}

/// A tree of layers.
pub(super) struct Tree {
    pub forest: Forest,
    /// In the order of the forest's layers; the first is the root.
    pub members: Vec<Member>,
    /// Which name of the store each of the forest's is.
    pub names: Vec<usize>,
}

/// What makes a count of sealed layers another one: of each layer its id, revision, parent, floor, number of names, and whether
/// it is a head.
type Shape = Vec<(LayerId, u64, Option<usize>, u64, usize, bool)>;

/// What the sealed layers of each tree came to, by root.
#[derive(Default)]
pub(crate) struct Cache(HashMap<LayerId, (Shape, Tally)>);

impl Cache {
    /// Forgets the trees that are not among these.
    pub(super) fn keep(&mut self, trees: &[Tree]) {
        let roots: Vec<LayerId> = trees.iter().filter_map(Tree::root).collect();
        self.0.retain(|root, _| roots.contains(root));
    }
}

impl Tree {
    /// A tree of layers, parents first. `names` are the names of each, as numbers of the store's.
    pub fn new(members: Vec<Member>, parents: &[Option<usize>], names: &[Vec<usize>]) -> Self {
        let mut all = Vec::new();
        let node = |((member, parent), names): ((&Member, &Option<usize>), &Vec<usize>)| {
            let first = all.len();
            all.extend_from_slice(names);
            let floor = crate::units::blocks_of(member.layer.header().floor);
            Node { parent: *parent, floor, names: (first..all.len()).collect() }
        };
        let nodes = members.iter().zip(parents).zip(names).map(node).collect();
        Self { forest: Forest::new(nodes), members, names: all }
    }

    fn root(&self) -> Option<LayerId> {
        self.members.first().map(|member| member.layer.id)
    }

    fn shape(&self) -> Shape {
        let place = |(member, node): (&Member, &Node)| {
            (member.layer.id, member.revision, node.parent, node.floor, node.names.len(), member.head)
        };
        self.members.iter().zip(&self.forest.nodes).map(place).collect()
    }

    /// Counts it all. What waits for a merge may be on its way from one layer to another: then no step of a merge is made
    /// meanwhile.
    pub fn count_with(&self, context: &Context, cache: &mut Cache) -> Result<Tally> {
        let _still = self.forest.is_waiting().then(|| context.upkeep_lock.lock());
        self.count(cache)
    }

    /// Counts it all.
    fn count(&self, cache: &mut Cache) -> Result<Tally> {
        let Some(root) = self.root().filter(|_| !self.forest.is_waiting()) else {
            // Blocks may be on their way from one layer to another, each with its revision of before.
            let mut tally = Tally::new(&self.forest);
            self.scan(|_| true, |chunk, states| tally.add(&self.forest, chunk, states, 1))?;
            return Ok(tally);
        };
        let shape = self.shape();
        if cache.0.get(&root).is_none_or(|(kept, _)| *kept != shape) {
            let mut tally = Tally::new(&self.forest);
            self.scan(|member| !member.head, |chunk, states| tally.add(&self.forest, chunk, states, 1))?;
            cache.0.insert(root, (shape, tally));
        }
        let mut tally = cache.0.get(&root).map_or_else(|| Tally::new(&self.forest), |(_, kept)| kept.clone());
        self.correct(&mut tally)?;
        Ok(tally)
    }

    /// Blocks that are held when these names are gone and all merges are done; none if nothing is left.
    pub fn without(&self, gone: impl Fn(usize) -> bool) -> Result<Option<i64>> {
        let mut left = 0;
        let mut nodes = self.forest.nodes.clone();
        for node in &mut nodes {
            node.names.retain(|name| !gone(*name));
            // Numbered without gaps again.
            node.names = (left..left + node.names.len()).collect();
            left += node.names.len();
        }
        if left == 0 {
            return Ok(None);
        }
        let forest = Forest::new(nodes);
        let mut tally = Tally::new(&forest);
        self.scan(|_| true, |chunk, states| tally.add(&forest, chunk, states, 1))?;
        Ok(Some(tally.held.iter().sum()))
    }

    /// Reads the maps of some members; gives each chunk in which any has a state, with the states.
    fn scan(&self, which: impl Fn(&Member) -> bool, mut give: impl FnMut(u64, &[(usize, &ChunkStates)])) -> Result<()> {
        let mut cursors = self.cursors(which);
        let mut waiting = BinaryHeap::with_capacity(cursors.len());
        for (at, cursor) in cursors.iter_mut().enumerate() {
            waiting.extend(cursor.seek(0)?.map(|chunk| Reverse((chunk, at))));
        }
        let mut here = Vec::new();
        while let Some(chunk) = take_first(&mut waiting, &mut here) {
            let states: Vec<_> = here.iter().filter_map(|at| cursors[*at].states()).collect();
            give(chunk, &states);
            for at in &here {
                waiting.extend(cursors[*at].seek(chunk + 1)?.map(|chunk| Reverse((chunk, *at))));
            }
        }
        Ok(())
    }

    /// Takes the chunks that heads say something about out of the sealed layers' count, and counts them with the heads.
    fn correct(&self, tally: &mut Tally) -> Result<()> {
        let mut sealed = self.cursors(|member| !member.head);
        let mut heads = self.cursors(|member| member.head);
        let mut waiting = BinaryHeap::with_capacity(heads.len());
        for (at, cursor) in heads.iter_mut().enumerate() {
            waiting.extend(cursor.seek(0)?.map(|chunk| Reverse((chunk, at))));
        }
        let mut here = Vec::new();
        while let Some(chunk) = take_first(&mut waiting, &mut here) {
            let mut states = Vec::new();
            for cursor in &mut sealed {
                if cursor.seek(chunk)? == Some(chunk) {
                    states.extend(cursor.states());
                }
            }
            tally.add(&self.forest, chunk, &states, -1);
            states.extend(here.iter().filter_map(|at| heads[*at].states()));
            tally.add(&self.forest, chunk, &states, 1);
            for at in &here {
                waiting.extend(heads[*at].seek(chunk + 1)?.map(|chunk| Reverse((chunk, *at))));
            }
        }
        Ok(())
    }

    fn cursors(&self, which: impl Fn(&Member) -> bool) -> Vec<Cursor<'_>> {
        let chosen: Vec<_> = self.members.iter().enumerate().filter(|(_, member)| which(member)).collect();
        chosen.iter().map(|(number, member)| Cursor::new(*number, member, chosen.len())).collect()
    }
}

/// Takes all that are at the first chunk; gives that chunk.
fn take_first(waiting: &mut BinaryHeap<Reverse<(u64, usize)>>, here: &mut Vec<usize>) -> Option<u64> {
    here.clear();
    let Reverse((chunk, _)) = *waiting.peek()?;
    while let Some(Reverse((_, at))) = waiting.peek().copied().filter(|Reverse((first, _))| *first == chunk) {
        waiting.pop();
        here.push(at);
    }
    Some(chunk)
}

/// A way through what a layer says, map and marks.
struct Cursor<'a> {
    number: usize,
    scan: Scan,
    map: Option<(u64, ChunkStates)>,
    map_ended: bool,
    marks: &'a [(u64, ChunkStates)],
    now: Option<(u64, ChunkStates)>,
}

impl<'a> Cursor<'a> {
    fn new(number: usize, member: &'a Member, beside: usize) -> Self {
        Self { number, scan: Scan::new(&member.layer, beside), map: None, map_ended: false, marks: &member.marks, now: None }
    }

    /// Goes on to the first chunk at or after `chunk` in which there is a state.
    fn seek(&mut self, chunk: u64) -> Result<Option<u64>> {
        let behind = |place: &Option<(u64, ChunkStates)>| place.as_ref().is_none_or(|(at, _)| *at < chunk);
        if behind(&self.now) {
            if behind(&self.map) && !self.map_ended {
                self.map = self.scan.next(chunk)?;
                self.map_ended = self.map.is_none();
            }
            let passed = self.marks.iter().take_while(|(at, _)| *at < chunk).count();
            self.marks = &self.marks[passed..];
            self.now = match (&self.map, self.marks.first()) {
                (Some(map), Some(marks)) if map.0 == marks.0 => {
                    let mut states = map.1.clone();
                    states.overlay(&marks.1);
                    Some((map.0, states))
                }
                (Some(map), Some(marks)) => Some(if map.0 < marks.0 { map.clone() } else { marks.clone() }),
                (one, None) => one.clone(),
                (None, Some(marks)) => Some(marks.clone()),
            };
        }
        Ok(self.now.as_ref().map(|(at, _)| *at))
    }

    fn states(&self) -> Option<(usize, &ChunkStates)> {
        self.now.as_ref().map(|(_, states)| (self.number, states))
    }
}
