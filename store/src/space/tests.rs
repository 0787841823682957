//! The sums beside an oracle that does everything the long way: it looks up each block in each view, and it deletes and
//! merges for real.

#![expect(clippy::unwrap_used, reason = "a test may")]

use super::answer::{Part, parts};
use super::forest::{Forest, Node};
use super::tally::Tally;
use super::*;
use crate::layer::states::{ChunkStates, State};
use crate::units::CHUNK_BLOCKS;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Blocks that the test looks at: around the ends of words and chunks.
const PLACES: [u64; 12] = [0, 1, 31, 32, 63, 510, 511, 512, 513, 1023, 1024, 1500];

/// A layer, in full.
#[derive(Debug, Clone)]
struct Layer {
    parent: Option<usize>,
    floor: u64,
    names: BTreeSet<usize>,
    states: Vec<State>,
}

/// Layers by number.
#[derive(Debug, Clone)]
struct Oracle(BTreeMap<usize, Layer>);

impl Oracle {
    /// Which layer shows a place as data, looked for from `layer` on.
    fn find(&self, layer: usize, place: usize) -> Option<usize> {
        let mut at = Some(layer);
        while let Some(number) = at {
            let layer = &self.0[&number];
            match layer.states[place] {
                State::Data => return Some(number),
                State::Zero => return None,
                State::Absent if PLACES[place] >= layer.floor => return None,
                State::Absent => at = layer.parent,
            }
        }
        None
    }

    fn held(&self) -> u64 {
        self.0.values().flat_map(|layer| &layer.states).filter(|state| **state == State::Data).count() as u64
    }

    fn names(&self) -> BTreeMap<usize, usize> {
        self.0.iter().flat_map(|(number, layer)| layer.names.iter().map(|name| (*name, *number))).collect()
    }

    /// Drops and merges until nothing is left to do.
    fn settle(mut self) -> Self {
        loop {
            let children =
                |of: usize| self.0.iter().filter(move |(_, l)| l.parent == Some(of)).map(|(n, _)| *n).collect::<Vec<_>>();
            let next = self.0.iter().filter(|(_, layer)| layer.names.is_empty()).map(|(n, _)| (*n, children(*n)));
            let Some((number, above)) = next.into_iter().find(|(_, above)| above.len() < 2) else { return self };
            let gone = self.0.remove(&number).unwrap();
            for child in above {
                let child = self.0.get_mut(&child).unwrap();
                for (place, state) in child.states.iter_mut().enumerate().filter(|(_, state)| **state == State::Absent) {
                    *state = if PLACES[place] >= child.floor { State::Zero } else { gone.states[place] };
                }
                child.floor = child.floor.min(gone.floor);
                child.parent = gone.parent;
            }
        }
    }

    fn without(&self, names: &[usize]) -> Self {
        let mut left = self.clone();
        left.0.values_mut().for_each(|layer| layer.names.retain(|name| !names.contains(name)));
        left
    }

    /// What a name shows, needs alone, and frees.
    fn answer(&self, name: usize) -> (u64, u64, u64) {
        let names = self.names();
        let places = || (0..PLACES.len()).filter_map(|place| self.find(names[&name], place).map(|layer| (place, layer)));
        let alone = |(place, layer): &(usize, usize)| {
            names.iter().filter(|(_, top)| self.find(**top, *place) == Some(*layer)).count() == 1
        };
        let frees = self.clone().settle().held() - self.without(&[name]).settle().held();
        (places().count() as u64, places().filter(alone).count() as u64, frees)
    }
}

fn layers() -> impl Strategy<Value = Oracle> {
    let state = prop_oneof![4 => Just(State::Absent), 3 => Just(State::Data), 1 => Just(State::Zero)];
    let floor = prop_oneof![3 => Just(2000_u64), 1 => prop::sample::select(&PLACES[..])];
    // Few names, so that there is much to merge; chains and bushes.
    let names = prop_oneof![4 => Just(0_usize), 5 => Just(1), 1 => Just(2)];
    let layer = (any::<prop::sample::Index>(), 0..10_u32, floor, names, prop::collection::vec(state, PLACES.len()));
    prop::collection::vec(layer, 1..14).prop_map(|drawn| {
        let mut made = BTreeMap::new();
        let mut name = 0;
        for (number, (parent, root, floor, names, states)) in drawn.into_iter().enumerate() {
            let parent = (number > 0 && root > 0).then(|| match root {
                1..5 => number - 1,
                _ => parent.index(number),
            });
            made.insert(number, Layer { parent, floor, names: (name..name + names).collect(), states });
            name += names;
        }
        Oracle(made)
    })
}

/// The same, as the module is told.
fn forest_of(oracle: &Oracle) -> Forest {
    let node = |layer: &Layer| Node { parent: layer.parent, floor: layer.floor, names: layer.names.iter().copied().collect() };
    Forest::new(oracle.0.values().map(node).collect())
}

fn add_all(oracle: &Oracle, forest: &Forest, tally: &mut Tally, which: impl Fn(usize) -> bool, times: i64) {
    for chunk in 0..3 {
        let states = |layer: &Layer| {
            let mut states = ChunkStates::ABSENT;
            for (place, state) in PLACES.iter().zip(&layer.states).filter(|(place, _)| **place / CHUNK_BLOCKS == chunk) {
                states.set((place % CHUNK_BLOCKS) as usize, *state);
            }
            states
        };
        let states: Vec<_> = oracle.0.iter().map(|(number, layer)| (*number, states(layer))).collect();
        let states: Vec<_> = states.iter().filter(|(number, s)| which(*number) && !s.is_absent()).map(|(n, s)| (*n, s)).collect();
        tally.add(forest, chunk, &states, times);
    }
}

fn check(oracle: &Oracle) {
    let forest = forest_of(oracle);
    let mut tally = Tally::new(&forest);
    add_all(oracle, &forest, &mut tally, |_| true, 1);
    let found = parts(&forest, &tally);
    for (name, Part { shown, alone, frees, .. }) in found.iter().copied().enumerate() {
        assert_eq!((shown, alone, frees), oracle.answer(name), "name {name}: what it shows, alone, frees\n{oracle:#?}");
    }
    let settled = tally.held.iter().sum::<i64>();
    assert_eq!(settled as u64, oracle.clone().settle().held(), "held when all is merged\n{oracle:#?}");
    assert_eq!((settled + tally.waiting) as u64, oracle.held(), "held now\n{oracle:#?}");
    let alone: i64 = tally.alone.iter().sum();
    assert_eq!(alone + tally.shared + tally.kept + tally.waiting, settled + tally.waiting, "the table adds up\n{oracle:#?}");
    // A layer that has been counted can be taken out again, and counted with others.
    let last = oracle.0.len() - 1;
    let mut again = Tally::new(&forest);
    add_all(oracle, &forest, &mut again, |number| number != last, 1);
    add_all(oracle, &forest, &mut again, |number| number != last, -1);
    assert_eq!(again, Tally::new(&forest));
    add_all(oracle, &forest, &mut again, |_| true, 1);
    assert_eq!(again, tally);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_sums_are_those_of_the_long_way(oracle in layers()) {
        check(&oracle);
    }
}

/// Layers root first, each on the one before; a letter a place: data, zero, `.` absent.
fn chain(layers: &[(&str, usize)]) -> Oracle {
    let mut name = 0;
    let layer = |(number, (states, names)): (usize, &(&str, usize))| {
        let mut states: Vec<State> = states
            .bytes()
            .map(|b| match b {
                b'd' => State::Data,
                b'z' => State::Zero,
                _ => State::Absent,
            })
            .collect();
        states.resize(PLACES.len(), State::Absent);
        name += names;
        (number, Layer { parent: number.checked_sub(1), floor: 2000, names: (name - names..name).collect(), states })
    };
    Oracle(layers.iter().enumerate().map(layer).collect())
}

fn answers(oracle: &Oracle) -> Vec<Part> {
    check(oracle);
    let forest = forest_of(oracle);
    let mut tally = Tally::new(&forest);
    add_all(oracle, &forest, &mut tally, |_| true, 1);
    parts(&forest, &tally)
}

#[test]
fn a_snapshot_holds_alone_what_was_written_over_since() {
    let found = answers(&chain(&[("dddd", 1), ("dz", 1)]));
    assert_eq!(found[0], Part { shown: 4, alone: 2, frees: 2, stays: Stays::Goes });
    assert_eq!(found[1], Part { shown: 3, alone: 1, frees: 1, stays: Stays::Goes });
}

#[test]
fn under_clones_nothing_is_freed_and_the_number_of_clones_is_told() {
    let mut oracle = chain(&[("dddd", 1), ("dd", 1), ("ddd", 1)]);
    oracle.0.get_mut(&2).unwrap().parent = Some(0);
    let found = answers(&oracle);
    assert_eq!(found[0], Part { shown: 4, alone: 2, frees: 0, stays: Stays::Under(2) });
    assert_eq!(found[2], Part { shown: 4, alone: 3, frees: 3, stays: Stays::Goes });
    // With the snapshot gone, deleting a clone lets what is left under it be merged.
    oracle.0.get_mut(&0).unwrap().names.clear();
    let mut renumbered = oracle.clone();
    renumbered.0.values_mut().for_each(|layer| layer.names = layer.names.iter().map(|name| name - 1).collect());
    let found = answers(&renumbered);
    assert_eq!(found[0], Part { shown: 4, alone: 3, frees: 5, stays: Stays::Goes });
    assert_eq!(found[1], Part { shown: 4, alone: 3, frees: 5, stays: Stays::Goes });
}

#[test]
fn a_layer_with_two_names_goes_with_neither() {
    let found = answers(&chain(&[("dddd", 2), ("d", 1)]));
    assert_eq!(found[0], Part { shown: 4, alone: 0, frees: 0, stays: Stays::Named });
}
