//! Merges against an oracle of bytes: ended at every point, beside writers, in every direction.
#![expect(clippy::unwrap_used, reason = "a test may")]

use super::pairs;
use crate::catalog::records::Change;
use crate::error::{Error, Result};
use crate::jobs::{JobKind, JobState};
use crate::name::Name;
use crate::store::{NewVolume, Store, StoreOptions};
use crate::units::BLOCK_SIZE;
use crate::volume::{Allocate, Volume};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};

/// Lets so many points pass, then ends every merge.
pub(super) struct Fuse(AtomicI64);

/// Not a number of points.
const PANIC: i64 = i64::MAX - 1_000_000_000;

impl Default for Fuse {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MAX))
    }
}

impl Fuse {
    pub fn burn(&self) -> Result<()> {
        assert_ne!(self.0.load(SeqCst), PANIC, "asked for by a test");
        if self.0.fetch_sub(1, SeqCst) > 0 {
            Ok(())
        } else {
            self.0.store(0, SeqCst);
            Err(Error::Interrupted)
        }
    }

    pub fn is_out(&self) -> bool {
        self.0.load(SeqCst) <= 0
    }

    fn panic_next(&self) {
        self.0.store(PANIC, SeqCst);
    }

    fn set(&self, points: i64) {
        self.0.store(points, SeqCst);
    }
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn name(text: impl AsRef<str>) -> Name {
    Name::new(text.as_ref()).unwrap()
}

fn options() -> StoreOptions {
    StoreOptions { create: true, floor_bytes: 0, ..StoreOptions::default() }
}

fn new_volume() -> NewVolume {
    NewVolume { size: None, image: None, mode: 0o600, uid: 0, gid: 0 }
}

/// Takes the name of a snapshot away, and has nothing else done.
fn forget(store: &Store, set: &str) {
    let context = store.context().unwrap();
    let operation = context.catalog.begin();
    let state = operation.read();
    let set = name(set);
    let mut changes: Vec<Change> =
        state.snapshots_in(&set).map(|snapshot| Change::DeleteSnapshot { set: set.clone(), volume: snapshot.volume }).collect();
    changes.push(Change::DeleteSet(set));
    drop(state);
    operation.prepare(changes).unwrap().commit().unwrap().promote().unwrap();
    context.upkeep_bell.ring();
}

fn is_idle(store: &Store) -> bool {
    let context = store.context().unwrap();
    let state = context.catalog.read();
    pairs::runs(&state).is_empty() && state.dropping.is_empty()
}

fn wait_until_merged(store: &Store) {
    let context = store.context().unwrap();
    for _ in 0..6000 {
        if is_idle(store) {
            return;
        }
        context.upkeep_bell.ring();
        context.wake_flusher();
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("merges do not end: {:?}; {:?}", context.merging.waiting.lock(), context.events());
}

fn read(volume: &Volume) -> Vec<u8> {
    let mut bytes = vec![0; volume.stat().size as usize];
    assert_eq!(volume.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

fn read_snapshot(store: &Store, set: &str) -> Vec<u8> {
    let snapshot = store.open_snapshot(&name(set), &name("v")).unwrap();
    let mut bytes = vec![0; snapshot.stat().size as usize];
    assert_eq!(snapshot.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

/// The content that a volume and its snapshots must have.
#[derive(Clone, Default)]
struct Oracle {
    live: Vec<u8>,
    snapshots: BTreeMap<String, Vec<u8>>,
}

impl Oracle {
    fn check(&self, store: &Store, what: &str) {
        let live = read(&store.volume(&name("v")).unwrap());
        assert_same(&live, &self.live, &format!("{what}: the volume"));
        for (set, bytes) in &self.snapshots {
            assert_same(&read_snapshot(store, set), bytes, &format!("{what}: snapshot {set}"));
        }
    }

    fn change(&mut self, volume: &Volume, rng: &mut Rng, blocks: u64) {
        let size = self.live.len() as u64;
        match rng.below(12) {
            0 => {
                let size = rng.below(blocks * BLOCK_SIZE);
                volume.set_size(size).unwrap();
                self.live.resize(size as usize, 0);
            }
            1 | 2 if size > 0 => {
                let offset = rng.below(size);
                let length = 1 + rng.below((size - offset).min(40 * BLOCK_SIZE));
                volume.allocate(Allocate::Punch, offset, length).unwrap();
                self.live[offset as usize..(offset + length) as usize].fill(0);
            }
            _ => {
                let offset = rng.below(blocks * BLOCK_SIZE - 1);
                let most = if rng.below(4) == 0 { 60 * BLOCK_SIZE } else { 3 * BLOCK_SIZE };
                let length = 1 + rng.below((blocks * BLOCK_SIZE - offset).min(most));
                let bytes: Vec<u8> = (0..length).map(|_| rng.below(255) as u8 + 1).collect();
                volume.write_at(&bytes, offset).unwrap();
                let end = (offset + length) as usize;
                if self.live.len() < end {
                    self.live.resize(end, 0);
                }
                self.live[offset as usize..end].copy_from_slice(&bytes);
            }
        }
    }
}

#[track_caller]
fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: size");
    if let Some(at) = (0..found.len()).find(|at| found[*at] != expected[*at]) {
        panic!("{what}: byte {at} (block {}) is {}, expected {}", at as u64 / BLOCK_SIZE, found[at], expected[at]);
    }
}

fn copy_tree(from: &Path, to: &Path) {
    // The background threads remove a file now and then: then once more.
    for _ in 0..20 {
        let status = std::process::Command::new("cp").arg("-a").arg("--sparse=always").arg(from).arg(to).status().unwrap();
        if status.success() {
            return;
        }
        std::fs::remove_dir_all(to).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{} can't be copied", from.display());
}

/// Makes a volume with some snapshots, and takes some of these away again.
fn history(store: &Store, rng: &mut Rng, oracle: &mut Oracle, snapshots: u64, blocks: u64) -> Vec<String> {
    let volume = store.create_volume(&name("v"), &new_volume()).unwrap();
    let mut gone = Vec::new();
    // Half of them begin with a large layer, into which the others go down, and go on growing.
    let grows = rng.below(2) == 0;
    if grows {
        oracle.live = vec![7; (blocks / 2 * BLOCK_SIZE) as usize];
        volume.write_at(&oracle.live, 0).unwrap();
    }
    for set in 0..snapshots {
        // It grows and shrinks between snapshots: each has its own end.
        let size = oracle.live.len() as u64 / BLOCK_SIZE;
        let end = match (grows, rng.below(2)) {
            // Some keep their size: what is above such a layer may be beyond its end.
            (true, 0) => size.max(1),
            (true, _) => (size + blocks / 2 / snapshots).clamp(1, blocks),
            (false, _) => 1 + rng.below(blocks),
        };
        for _ in 0..rng.below(if grows { 8 } else { 30 }) {
            oracle.change(&volume, rng, end);
        }
        let set = format!("s{set}");
        store.snapshot_all(&name(&set), &BTreeMap::new()).unwrap();
        if rng.below(3) > 0 {
            gone.push(set);
        } else {
            oracle.snapshots.insert(set, oracle.live.clone());
        }
    }
    for _ in 0..rng.below(30) {
        oracle.change(&volume, rng, blocks);
    }
    gone
}

/// Writes the whole volume, takes a snapshot of it that is to go, and writes a little: the head has far less than it lacks.
fn small_head(store: &Store, rng: &mut Rng, oracle: &mut Oracle, blocks: u64, gone: &mut Vec<String>) {
    let volume = store.volume(&name("v")).unwrap();
    oracle.live = (0..blocks * BLOCK_SIZE).map(|_| rng.below(255) as u8 + 1).collect();
    volume.set_size(0).unwrap();
    volume.write_at(&oracle.live, 0).unwrap();
    store.snapshot_all(&name("last"), &BTreeMap::new()).unwrap();
    gone.push("last".to_owned());
    for _ in 0..4 {
        oracle.change(&volume, rng, blocks);
    }
}

#[test]
fn whatever_is_merged_every_name_keeps_its_content() {
    for seed in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), &options()).unwrap();
        let mut rng = Rng(seed);
        let mut oracle = Oracle::default();
        let mut gone = history(&store, &mut rng, &mut oracle, 6, 600);
        if seed % 3 == 0 {
            small_head(&store, &mut rng, &mut oracle, 600, &mut gone);
        }
        oracle.check(&store, &format!("seed {seed}, before"));
        gone.iter().for_each(|set| forget(&store, set));
        wait_until_merged(&store);
        oracle.check(&store, &format!("seed {seed}, merged"));
        let layers = store.context().unwrap().catalog.read().layers.len();
        assert_eq!(layers, oracle.snapshots.len() + 1, "seed {seed}: a layer for each name");
        let found = std::fs::read_dir(dir.path().join("store/layers")).unwrap().count();
        assert_eq!(found, layers, "seed {seed}: directories");
        store.close().unwrap();
        drop(store);
        let store = Store::open(&dir.path().join("store"), &options()).unwrap();
        oracle.check(&store, &format!("seed {seed}, reopened"));
        assert!(store.events().is_empty(), "{:?}", store.events());
        store.close().unwrap();
        drop(store);
        // The labels tell of the layers that are left, and of no other.
        let again = StoreOptions { rebuild_catalog: true, ..options() };
        let store = Store::open(&dir.path().join("store"), &again).unwrap();
        oracle.check(&store, &format!("seed {seed}, from the labels"));
        assert_eq!(store.context().unwrap().catalog.read().layers.len(), layers, "seed {seed}: from the labels");
    }
}

#[test]
fn a_merge_that_is_ended_anywhere_goes_on_after_reopening() {
    // Seed 24 once lost a block of a volume that grew: see `what_goes_down_past_a_drained_layer_is_seen_through_it`.
    for seed in 20..28 {
        let dir = tempfile::tempdir().unwrap();
        let mut rng = Rng(1000 + seed);
        let mut oracle = Oracle::default();
        let origin = dir.path().join("store");
        let store = Store::open(&origin, &options()).unwrap();
        store.context().unwrap().merging.fuse.set(0);
        let mut gone = history(&store, &mut rng, &mut oracle, 4, 300);
        if seed > 0 {
            small_head(&store, &mut rng, &mut oracle, 300, &mut gone);
        }
        gone.iter().for_each(|set| forget(&store, set));
        store.close().unwrap();
        drop(store);
        let mut points = 0;
        loop {
            let path = dir.path().join(format!("ended-{points}"));
            let killed = dir.path().join(format!("killed-{points}"));
            copy_tree(&origin, &path);
            let store = Store::open(&path, &options()).unwrap();
            let merging = &store.context().unwrap().merging;
            merging.fuse.set(points);
            let ended = loop {
                if is_idle(&store) || merging.fuse.is_out() {
                    break is_idle(&store);
                }
                store.context().unwrap().upkeep_bell.ring();
                std::thread::sleep(std::time::Duration::from_millis(1));
            };
            if !ended {
                // The merge that was ended has noted that when its job has ended.
                while store.jobs().iter().any(|job| !job.state.is_ended()) {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                oracle.check(&store, &format!("seed {seed}, ended at point {points}"));
            }
            copy_tree(&path, &killed);
            let other = Store::open(&killed, &options()).unwrap();
            oracle.check(&other, &format!("seed {seed}, killed at point {points}"));
            wait_until_merged(&other);
            oracle.check(&other, &format!("seed {seed}, killed at point {points} and merged"));
            other.close().unwrap();
            merging.fuse.set(i64::MAX);
            wait_until_merged(&store);
            oracle.check(&store, &format!("seed {seed}, ended at point {points} and merged"));
            store.close().unwrap();
            std::fs::remove_dir_all(&path).unwrap();
            std::fs::remove_dir_all(&killed).unwrap();
            if ended {
                break;
            }
            points += 1 + rng.below(4) as i64;
        }
        assert!(points > 3 || gone.is_empty(), "seed {seed}: {points} points");
    }
}

/// A writer, a reader, and snapshots that come and go.
#[test]
fn merges_beside_writes_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), &options()).unwrap();
    let volume = store.create_volume(&name("v"), &new_volume()).unwrap();
    let blocks = 2000;
    volume.set_size(blocks * BLOCK_SIZE).unwrap();
    let stop = AtomicBool::new(false);
    // Each writer has blocks of its own, so that it knows what they must hold.
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (volume, stop) = (Arc::clone(&volume), &stop);
                scope.spawn(move || {
                    let mut rng = Rng(writer);
                    let mut mine: BTreeMap<u64, u8> = BTreeMap::new();
                    let mut writes = 0;
                    while !stop.load(SeqCst) {
                        let block = rng.below(blocks / 3) * 3 + writer;
                        let byte = rng.below(255) as u8 + 1;
                        let part = rng.below(3) == 0 && mine.contains_key(&block);
                        let known = mine.get(&block).copied().unwrap_or(0);
                        let mut found = vec![0; BLOCK_SIZE as usize];
                        volume.read_at(&mut found, block * BLOCK_SIZE).unwrap();
                        assert!(found.iter().all(|found| *found == known), "block {block}: {} for {known}", found[0]);
                        if part {
                            // Half a block: the other half is copied up.
                            volume.write_at(&vec![known; 2048], block * BLOCK_SIZE + 1024).unwrap();
                        } else {
                            volume.write_at(&vec![byte; BLOCK_SIZE as usize], block * BLOCK_SIZE).unwrap();
                            mine.insert(block, byte);
                        }
                        if rng.below(200) == 0 {
                            volume.sync(crate::Sync::Data).unwrap();
                        }
                        writes += 1;
                    }
                    (mine, writes)
                })
            })
            .collect();
        let mut kept: Vec<String> = Vec::new();
        for set in 0..60 {
            let set = format!("s{set}");
            store.snapshot_all(&name(&set), &BTreeMap::new()).unwrap();
            kept.push(set);
            std::thread::sleep(std::time::Duration::from_millis(20));
            if kept.len() > 3 {
                let set = kept.remove(set_index(&kept));
                let before = read_snapshot(&store, &kept[0]);
                forget(&store, &set);
                assert_same(&read_snapshot(&store, &kept[0]), &before, "a snapshot beside a merge");
            }
        }
        kept.iter().for_each(|set| forget(&store, set));
        wait_until_merged(&store);
        stop.store(true, SeqCst);
        for writer in writers {
            let (mine, writes) = writer.join().unwrap();
            assert!(writes > 0);
            for (block, byte) in mine {
                let mut found = vec![0; BLOCK_SIZE as usize];
                volume.read_at(&mut found, block * BLOCK_SIZE).unwrap();
                assert!(found.iter().all(|found| *found == byte), "block {block} at the end");
            }
        }
    });
    assert_eq!(store.context().unwrap().catalog.read().layers.len(), 1);
    let bytes = read(&volume);
    drop(volume);
    store.close().unwrap();
    drop(store);
    let store = Store::open(&dir.path().join("store"), &options()).unwrap();
    assert_same(&read(&store.volume(&name("v")).unwrap()), &bytes, "reopened");
}

/// A large layer, and a small head that goes on being written: what the head has goes down, the large layer stays where it is.
#[test]
fn the_newest_snapshot_of_a_full_volume_goes_without_copying_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), &options()).unwrap();
    let volume = store.create_volume(&name("v"), &new_volume()).unwrap();
    let blocks = 6000;
    let mut expected: Vec<u8> = (0..blocks * BLOCK_SIZE).map(|at| (at / BLOCK_SIZE % 251) as u8 + 1).collect();
    volume.write_at(&expected, 0).unwrap();
    for round in 0..5 {
        store.snapshot_all(&name("s"), &BTreeMap::new()).unwrap();
        let layer = volume.head().layer.id;
        if round == 2 {
            // Power loss may bring such a file back. What the layer was when it was a head doesn't count when it is one again.
            let context = store.context().unwrap();
            let lower = context.catalog.read().layers[&layer].parent.unwrap();
            crate::layer::leave_fault(&context.layer(lower).unwrap()).unwrap();
        }
        let mut rng = Rng(round);
        let write = |rng: &mut Rng, expected: &mut [u8]| {
            let (block, byte) = (rng.below(blocks / 50) * 50, rng.below(255) as u8 + 1);
            // A part of a block is copied up, a whole one isn't.
            let length = if rng.below(2) == 0 { BLOCK_SIZE } else { 1000 };
            let range = (block * BLOCK_SIZE) as usize..(block * BLOCK_SIZE + length) as usize;
            expected[range.clone()].fill(byte);
            volume.write_at(&expected[range], block * BLOCK_SIZE).unwrap();
        };
        (0..60).for_each(|_| write(&mut rng, &mut expected));
        forget(&store, "s");
        while !is_idle(&store) {
            write(&mut rng, &mut expected);
        }
        assert_same(&read(&volume), &expected, &format!("round {round}"));
        assert_ne!(volume.head().layer.id, layer, "the large layer is the head again");
        let moved: u64 = store.jobs().iter().map(|job| job.done).sum();
        assert!(moved < (round + 1) * blocks * BLOCK_SIZE / 4, "{moved} bytes were moved: {:?}", store.jobs());
    }
    drop(volume);
    store.close().unwrap();
    drop(store);
    let store = Store::open(&dir.path().join("store"), &options()).unwrap();
    assert_same(&read(&store.volume(&name("v")).unwrap()), &expected, "reopened");
    assert!(store.events().is_empty(), "{:?}", store.events());
}

/// What can't be noted in the labels is told once, not at every look.
#[test]
fn a_merge_that_can_not_be_ended_waits() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), &options()).unwrap();
    let volume = store.create_volume(&name("v"), &new_volume()).unwrap();
    volume.write_at(&[1; 8 * 4096], 0).unwrap();
    store.snapshot_all(&name("s"), &BTreeMap::new()).unwrap();
    let context = store.context().unwrap();
    context.merging.refuse_ends.store(true, SeqCst);
    forget(&store, "s");
    while !context.merging.waiting.lock().values().any(super::Waiting::is_error) {
        context.upkeep_bell.ring();
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let jobs = store.jobs().len();
    for _ in 0..20 {
        context.upkeep_bell.ring();
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!((store.jobs().len(), store.events().len()), (jobs, 1), "{:?}", store.events());
    assert_eq!(read(&volume), [1; 8 * 4096]);
}

/// A panic in a merge is told; it takes nothing else along.
#[test]
fn a_panic_of_the_upkeep_is_told_and_writes_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), &options()).unwrap();
    let volume = store.create_volume(&name("v"), &new_volume()).unwrap();
    volume.write_at(&[1; 8 * 4096], 0).unwrap();
    store.snapshot_all(&name("s"), &BTreeMap::new()).unwrap();
    store.context().unwrap().merging.fuse.panic_next();
    forget(&store, "s");
    while !store.events().iter().any(|event| event.message.contains("panicked")) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    volume.write_at(&[2; 4096], 0).unwrap();
    volume.sync(crate::Sync::Data).unwrap();
    drop(volume);
    store.close().unwrap();
    drop(store);
    let store = Store::open(&dir.path().join("store"), &options()).unwrap();
    wait_until_merged(&store);
    assert_eq!(read(&store.volume(&name("v")).unwrap())[..4097], [vec![2; 4096], vec![1]].concat());
}

/// Blocks that the lower layer hid are hidden when it is gone, whatever is below it.
#[test]
fn what_a_shrink_hid_stays_hidden_when_its_layer_has_gone_up() {
    for sealed in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), &options()).unwrap();
        let volume = store.create_volume(&name("v"), &new_volume()).unwrap();
        volume.write_at(&[1; 100 * 4096], 0).unwrap();
        store.snapshot_all(&name("below"), &BTreeMap::new()).unwrap();
        volume.set_size(10 * BLOCK_SIZE).unwrap();
        volume.set_size(100 * BLOCK_SIZE).unwrap();
        volume.write_at(&[2; 4096], 0).unwrap();
        store.snapshot_all(&name("gone"), &BTreeMap::new()).unwrap();
        volume.write_at(&[3; 30 * 4096], 5 * 4096).unwrap();
        if sealed {
            store.snapshot_all(&name("kept"), &BTreeMap::new()).unwrap();
        }
        let expected = read(&volume);
        assert!(expected[50 * 4096..].iter().all(|byte| *byte == 0));
        forget(&store, "gone");
        wait_until_merged(&store);
        assert_same(&read(&volume), &expected, &format!("sealed: {sealed}"));
        drop(volume);
        drop(store);
        let store = Store::open(&dir.path().join("store"), &options()).unwrap();
        assert_same(&read(&store.volume(&name("v")).unwrap()), &expected, &format!("sealed: {sealed}, reopened"));
    }
}

/// A read that found its blocks before they were moved reads them where they were.
#[test]
fn what_is_being_read_is_not_punched() {
    for sealed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), &options()).unwrap();
        let volume = store.create_volume(&name("v"), &new_volume()).unwrap();
        volume.write_at(&[1; 8 * 4096], 0).unwrap();
        store.snapshot_all(&name("s"), &BTreeMap::new()).unwrap();
        // Of the last two blocks the upper layer has nothing: they go up.
        volume.write_at(&[2; 6 * 4096], 0).unwrap();
        let upper = Arc::clone(&volume.head().layer);
        if sealed {
            store.snapshot_all(&name("t"), &BTreeMap::new()).unwrap();
        }
        let begun = volume.live();
        forget(&store, "s");
        let moved = || upper.map.read_chunk(0).unwrap().get(7) == crate::layer::states::State::Data;
        while !moved() {
            store.context().unwrap().upkeep_bell.ring();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        for _ in 0..50 {
            let mut found = vec![0; 2 * 4096];
            begun.chain.read_run(1, &mut found, 6 * 4096).unwrap();
            assert_eq!(found, [1; 2 * 4096], "as the read that was begun before sees it");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert!(!is_idle(&store));
        drop(begun);
        wait_until_merged(&store);
        assert_eq!(read(&volume), [vec![2; 6 * 4096], vec![1; 2 * 4096]].concat());
    }
}

/// A write that is under way has its range: a merge copies nothing over it.
#[test]
fn a_merge_into_a_head_waits_for_a_write_to_the_same_block() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), &options()).unwrap();
    let volume = store.create_volume(&name("v"), &new_volume()).unwrap();
    volume.write_at(&[1; 8 * 4096], 0).unwrap();
    store.snapshot_all(&name("s"), &BTreeMap::new()).unwrap();
    let head = volume.head();
    head.begin().unwrap();
    let range = head.ranges.lock(3..4);
    head.layer.data.write(&[&[9; 4096]], 3 * 4096).unwrap();
    forget(&store, "s");
    // As long as a merge that doesn't wait would take, and more.
    for _ in 0..100 {
        store.context().unwrap().upkeep_bell.ring();
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let run = crate::layer::head::Run { start: 3, count: 1, state: crate::layer::states::State::Data };
    head.mark(&[run], crate::layer::head::Effect { mtime_ns: Some(1), ..Default::default() }).unwrap();
    crate::store::Follower::forget(&*volume, &[0]);
    drop(range);
    wait_until_merged(&store);
    assert_eq!(read(&volume), [vec![1; 3 * 4096], vec![9; 4096], vec![1; 4 * 4096]].concat());
}

fn set_index(kept: &[String]) -> usize {
    kept.len() % 3
}

/// A file of a deleted snapshot that is still open holds its layer.
#[test]
fn an_open_file_of_a_deleted_snapshot_keeps_its_bytes_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), &options()).unwrap();
    let volume = store.create_volume(&name("v"), &new_volume()).unwrap();
    volume.write_at(&[1; 3 * 4096], 0).unwrap();
    store.snapshot_all(&name("s"), &BTreeMap::new()).unwrap();
    volume.write_at(&[2; 4096], 4096).unwrap();
    let open = store.open_snapshot(&name("s"), &name("v")).unwrap();
    forget(&store, "s");
    let context = store.context().unwrap();
    while context.merging.waiting.lock().is_empty() {
        context.upkeep_bell.ring();
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let waiting = format!("{:?}", context.merging.waiting.lock());
    assert!(waiting.contains("s/v"), "{waiting}");
    let shown = || {
        let jobs = store.jobs().into_iter().filter(|job| job.kind == JobKind::Merge && job.state == JobState::Pending);
        jobs.map(|job| job.waiting_for.unwrap_or_default()).collect::<Vec<_>>()
    };
    while !matches!(&shown()[..], [holder] if holder.contains("s/v")) {
        context.upkeep_bell.ring();
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let mut bytes = [0; 3 * 4096];
    open.read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [1; 3 * 4096]);
    drop(open);
    wait_until_merged(&store);
    volume.read_at(&mut bytes, 0).unwrap();
    assert_eq!((bytes[0], bytes[4096], bytes[8192]), (1, 2, 1));
    let jobs: Vec<_> = store.jobs().into_iter().map(|job| (job.kind, job.state)).collect();
    assert_eq!(jobs, [(JobKind::Merge, JobState::Completed)], "the one that waited");
}

/// Ended at every point, and killed there: a layer that was drained downwards lets through what goes down past it, also beyond
/// its own end.
#[test]
fn what_goes_down_past_a_drained_layer_is_seen_through_it() {
    let dir = tempfile::tempdir().unwrap();
    let origin = dir.path().join("store");
    let store = Store::open(&origin, &options()).unwrap();
    store.context().unwrap().merging.fuse.set(0);
    let volume = store.create_volume(&name("v"), &new_volume()).unwrap();
    let mut oracle = Oracle::default();
    let write = |oracle: &mut Oracle, block: u64, count: u64, byte: u8| {
        let range = (block * BLOCK_SIZE) as usize..((block + count) * BLOCK_SIZE) as usize;
        oracle.live.resize(oracle.live.len().max(range.end), 0);
        oracle.live[range.clone()].fill(byte);
        volume.write_at(&oracle.live[range], block * BLOCK_SIZE).unwrap();
    };
    // Much at the bottom, a little in a layer that does not grow, a little more beyond its end.
    write(&mut oracle, 0, 100, 1);
    store.snapshot_all(&name("a"), &BTreeMap::new()).unwrap();
    write(&mut oracle, 3, 1, 2);
    store.snapshot_all(&name("p"), &BTreeMap::new()).unwrap();
    write(&mut oracle, 150, 2, 3);
    store.snapshot_all(&name("c"), &BTreeMap::new()).unwrap();
    oracle.snapshots.insert("c".to_owned(), oracle.live.clone());
    forget(&store, "a");
    forget(&store, "p");
    drop(volume);
    store.close().unwrap();
    drop(store);
    for points in 0.. {
        let (path, killed) = (dir.path().join(format!("ended-{points}")), dir.path().join(format!("killed-{points}")));
        copy_tree(&origin, &path);
        let store = Store::open(&path, &options()).unwrap();
        // Open all the while, as what follows the merge; its holders look on at each point.
        let open = store.open_snapshot(&name("c"), &name("v")).unwrap();
        let merging = &store.context().unwrap().merging;
        merging.fuse.set(points);
        while !is_idle(&store) && !merging.fuse.is_out() {
            store.context().unwrap().upkeep_bell.ring();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let ended = is_idle(&store);
        while store.jobs().iter().any(|job| !job.state.is_ended()) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let mut bytes = vec![0; oracle.live.len()];
        open.read_at(&mut bytes, 0).unwrap();
        assert_same(&bytes, &oracle.snapshots["c"], &format!("ended at point {points}: open"));
        oracle.check(&store, &format!("ended at point {points}"));
        copy_tree(&path, &killed);
        let other = Store::open(&killed, &options()).unwrap();
        wait_until_merged(&other);
        oracle.check(&other, &format!("killed at point {points} and merged"));
        other.close().unwrap();
        drop(open);
        store.close().unwrap();
        if ended {
            return;
        }
    }
}

/// A volume that is reverted beneath a merge into its head is no failure of the merge: what the head was goes on with it.
#[test]
fn a_revert_by_force_amid_a_merge_into_the_head_does_not_end_merging() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), &options()).unwrap();
    let volume = store.create_volume(&name("v"), &new_volume()).unwrap();
    volume.write_at(&[1; 4 * 4096], 0).unwrap();
    store.snapshot_all(&name("kept"), &BTreeMap::new()).unwrap();
    volume.write_at(&[2; 4 * 4096], 0).unwrap();
    store.snapshot_all(&name("s"), &BTreeMap::new()).unwrap();
    volume.write_at(&[3; 4096], 0).unwrap();
    let context = store.context().unwrap();
    // The merge stands before its first step.
    let alone = context.upkeep_lock.lock();
    forget(&store, "s");
    while store.jobs().is_empty() {
        context.upkeep_bell.ring();
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    std::thread::sleep(std::time::Duration::from_millis(50));
    let how = crate::store::Revert { force: true, keep: crate::store::Keep::ForUndo };
    store.revert(&name("v"), &name("kept"), how).unwrap();
    drop(alone);
    // Files of layers go when nobody has them open.
    drop(volume);
    wait_until_merged(&store);
    assert!(store.events().is_empty(), "{:?}", store.events());
    let serials: Vec<u64> = store.removed().iter().map(|removed| removed.serial).collect();
    store.undo(&serials, None).unwrap();
    let bytes = read(&store.volume(&name("v")).unwrap());
    assert_eq!((bytes[0], bytes[4096], bytes[3 * 4096]), (3, 2, 2));
}
