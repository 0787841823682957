#![expect(clippy::unwrap_used, reason = "a test may")]

use super::super::head::{Effect, Head, Marked, Run};
use super::super::pending::{Left, Pending};
use super::super::{Layer, NewLayer, create};
use super::*;
use crate::disk::Disk;
use crate::ids::LayerId;
use crate::store::StoreOptions;
use std::path::PathBuf;
use std::sync::Arc;

struct Bench {
    _dir: tempfile::TempDir,
    disk: Arc<Disk>,
    id: LayerId,
}

impl Bench {
    fn new(size: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { create: true, ..StoreOptions::default() };
        let (disk, _) = Disk::open(&dir.path().join("store"), &options).unwrap();
        let id = LayerId::new();
        let new = NewLayer { id, parent: None, size, data_blocks: 0, atime_ns: 0, mtime_ns: 0, ctime_ns: 0, inexact: false };
        create(&disk, &new).unwrap();
        Self { _dir: dir, disk, id }
    }

    fn open(&self) -> Result<Arc<Head>> {
        Head::open(Layer::open(&self.disk, self.id)?).map(|(head, _)| head)
    }

    /// A segment that can be opened, but neither written nor synced.
    fn break_segment(&self, number: u32) {
        let path = self.disk.layer_dir(self.id).join(format!("data.{number}"));
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    }

    fn mend_segment(&self, number: u32) {
        std::fs::remove_file(self.disk.layer_dir(self.id).join(format!("data.{number}"))).unwrap();
    }

    fn left(&self) -> Left {
        Pending::read(&self.disk.layer_dir(self.id), self.id).unwrap()
    }
}

fn write(head: &Head, block: u64, byte: u8) {
    head.layer.data.write(&[&[byte; BLOCK_SIZE as usize]], block * BLOCK_SIZE).unwrap();
    let run = Run { start: block, count: 1, state: State::Data };
    let effect = Effect { grow_to: (block + 1) * BLOCK_SIZE, data_blocks: 1, mtime_ns: Some(1) };
    assert_eq!(head.mark(&[run], effect).unwrap(), Marked::Done);
}

fn state_of(head: &Head, block: u64) -> State {
    head.layer.map.read_chunk(block / CHUNK_BLOCKS).unwrap().get((block % CHUNK_BLOCKS) as usize)
}

#[test]
fn after_a_failed_flush_nobody_flushes_again() {
    let bench = Bench::new(0);
    let head = bench.open().unwrap();
    write(&head, 3, 7);
    bench.break_segment(1);
    // Its dirty bit is set, so the flush tries to sync it.
    head.layer.data.write(&[&[1]], 1 << 40).unwrap_err();
    head.flush(Sync::Data).unwrap_err();
    assert!(head.is_faulted());
    write(&head, 4, 8);
    bench.mend_segment(1);
    head.flush_once().unwrap_err();
    head.flush(Sync::Data).unwrap_err();
    assert_eq!((state_of(&head, 3), state_of(&head, 4)), (State::Absent, State::Absent));
    // What was acknowledged is still seen.
    let seen = head.overlay(0).unwrap();
    assert_eq!((seen.get(3), seen.get(4)), (State::Data, State::Data));
}

#[test]
fn a_sync_that_waited_while_a_flush_failed_fails_too() {
    let bench = Bench::new(0);
    let head = bench.open().unwrap();
    std::thread::scope(|scope| {
        let state = head.state.lock();
        let late = scope.spawn(|| head.flush(Sync::Data));
        // It has looked whether the head is faulted and waits for the state, or looks only now: it fails in any case.
        std::thread::sleep(std::time::Duration::from_millis(50));
        head.faulted.store(true, SeqCst);
        drop(state);
        late.join().unwrap().unwrap_err();
    });
}

#[test]
fn a_flush_that_took_its_set_before_a_shrink_does_not_bring_the_old_size_back() {
    let bench = Bench::new(100 * BLOCK_SIZE);
    let head = bench.open().unwrap();
    std::thread::scope(|scope| {
        head.turn.lock().running = true;
        head.state.lock().header_changed = true;
        let taken = head.take().unwrap();
        let shrink = scope.spawn(|| head.shrink(BLOCK_SIZE, 0, 1));
        // Time for a shrink that doesn't wait for the flush.
        std::thread::sleep(std::time::Duration::from_millis(50));
        head.write_map(&taken.header.unwrap()).unwrap();
        head.turn.lock().running = false;
        head.done.notify_all();
        shrink.join().unwrap().unwrap();
    });
    let header = head.layer.header();
    assert_eq!((header.size, header.floor), (BLOCK_SIZE, BLOCK_SIZE));
}

#[test]
fn marks_whose_data_could_not_be_synced_once_are_never_believed() {
    let bench = Bench::new(0);
    let head = bench.open().unwrap();
    write(&head, 3, 7);
    drop(head);
    bench.break_segment(1);
    let pending = bench.disk.layer_dir(bench.id).join("pending");
    let entries = std::fs::read(&pending).unwrap().split_off(4096);
    assert!(bench.open().is_err());
    assert!(std::fs::read(&pending).unwrap()[4096..] == entries, "a kill before the fault would find nothing");
    bench.mend_segment(1);
    // The kernel tells of a failed write-back once: a second sync succeeds.
    assert!(bench.open().unwrap().is_faulted());
    assert_eq!(bench.left(), Left::Fault);
}

#[test]
fn an_open_that_fails_for_another_reason_leaves_the_marks_to_the_next() {
    let bench = Bench::new(0);
    let head = bench.open().unwrap();
    write(&head, 3, 7);
    drop(head);
    // It is there, but can't be opened.
    let path = bench.disk.layer_dir(bench.id).join("data.1");
    std::fs::create_dir(&path).unwrap();
    assert!(bench.open().is_err());
    std::fs::remove_dir(&path).unwrap();
    let head = bench.open().unwrap();
    assert!(!head.is_faulted());
    assert_eq!(state_of(&head, 3), State::Data);
}

/// Power lost in a flush: its records are there, its header isn't.
#[test]
fn states_behind_the_end_are_gone_after_power_loss() {
    let bench = Bench::new(BLOCK_SIZE);
    let head = bench.open().unwrap();
    write(&head, 100, 7);
    let mut record = head.layer.map.read_record(0).unwrap();
    record.chunks[0].set(100, State::Data);
    head.layer.map.write_record(0, &record).unwrap();
    head.state.lock().pending.take().unwrap().disown().unwrap();
    drop(head);

    let head = bench.open().unwrap();
    assert_eq!(head.size(), BLOCK_SIZE);
    assert_eq!(state_of(&head, 100), State::Absent, "growing would show what was lost");
}

#[test]
fn a_count_that_a_crash_made_uncertain_stays_so_until_it_is_made() {
    let bench = Bench::new(BLOCK_SIZE);
    let head = bench.open().unwrap();
    write(&head, 0, 7);
    head.state.lock().pending.take().unwrap().disown().unwrap();
    drop(head);
    drop(bench.open().unwrap());
    assert!(bench.open().unwrap().is_inexact());
}

#[test]
fn what_an_open_repairs_is_durable() {
    let bench = Bench::new(0);
    let head = bench.open().unwrap();
    write(&head, 0, 7);
    head.mark(&[], Effect { grow_to: BLOCK_SIZE + 5, data_blocks: 0, mtime_ns: Some(1) }).unwrap();
    head.layer.data.write(&[&[9; 200]], BLOCK_SIZE).unwrap();
    let run = Run { start: 1, count: 1, state: State::Data };
    head.mark(&[run], Effect { grow_to: 0, data_blocks: 1, mtime_ns: Some(1) }).unwrap();
    drop(head);
    let head = bench.open().unwrap();
    assert_eq!(head.size(), BLOCK_SIZE + 5);
    let mut tail = [1; 100];
    head.layer.data.read(&mut tail, BLOCK_SIZE + 5).unwrap();
    assert_eq!(tail, [0; 100]);
    assert!(!head.layer.data.is_dirty());
}

/// splitmix64 (Steele, Lea, Flood 2014).
fn random(seed: &mut u64, below: u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % below
}

/// What a power cut may leave of a file that was `old` at its last sync and is `new`: each sector, and the length, of
/// either.
fn cut_power(old: &[u8], new: &[u8], seed: &mut u64) -> Vec<u8> {
    let length = if random(seed, 2) == 0 { old.len() } else { new.len() };
    let mut left = vec![0; length];
    for (number, sector) in left.chunks_mut(512).enumerate() {
        let from = if random(seed, 2) == 0 { old } else { new };
        let from = from.get(number * 512..).unwrap_or_default();
        let count = from.len().min(sector.len());
        sector[..count].copy_from_slice(&from[..count]);
    }
    left
}

/// A head of random writes and zeros; what each block may read is kept: at the last flush, and now.
struct Model {
    bench: Bench,
    head: Arc<Head>,
    flushed: (u64, Vec<u8>),
    now: (u64, Vec<u8>),
    /// What was written since the last flush: an overwrite in place may be there whatever came after it.
    written: Vec<(u64, u8)>,
}

const MODEL_BLOCKS: u64 = 6000;

impl Model {
    fn new() -> Self {
        let bench = Bench::new(0);
        let head = bench.open().unwrap();
        let blank = (0, vec![0; MODEL_BLOCKS as usize]);
        Self { bench, head, flushed: blank.clone(), now: blank, written: Vec::new() }
    }

    fn map(&self) -> PathBuf {
        self.bench.disk.layer_dir(self.bench.id).join("map")
    }

    fn change(&mut self, seed: &mut u64) {
        for _ in 0..random(seed, 30) + 1 {
            let block = random(seed, MODEL_BLOCKS) >> random(seed, 12);
            let byte = random(seed, 255) as u8 + 1;
            if random(seed, 3) > 0 {
                write(&self.head, block, byte);
                self.now.0 = self.now.0.max(block + 1);
                self.now.1[block as usize] = byte;
                self.written.push((block, byte));
            } else if block < self.now.0 {
                let run = Run { start: block, count: 1, state: State::Zero };
                self.head.mark(&[run], Effect { grow_to: 0, data_blocks: 0, mtime_ns: Some(1) }).unwrap();
                self.now.1[block as usize] = 0;
            }
        }
    }

    fn flush(&mut self) {
        self.head.flush_times().unwrap();
        self.flushed = self.now.clone();
        self.written.clear();
    }

    /// Opens what a power cut left of the map.
    fn reopen(&mut self, map: &[u8]) {
        if let Some(pending) = self.head.state.lock().pending.take() {
            pending.disown().unwrap();
        }
        std::fs::write(self.map(), map).unwrap();
        self.head = self.bench.open().unwrap();
    }

    /// Every block is as it was flushed or as it was last, and behind the end there is nothing.
    fn check(&mut self) {
        let size = self.head.size() / BLOCK_SIZE;
        assert!(size == self.flushed.0 || size == self.now.0, "{size} blocks");
        for block in 0..MODEL_BLOCKS {
            let mut byte = [0];
            let state = state_of(&self.head, block);
            if state == State::Data {
                self.head.layer.data.read(&mut byte, block * BLOCK_SIZE + 77).unwrap();
            }
            let (old, new) = (self.flushed.1[block as usize], self.now.1[block as usize]);
            if block < size {
                let is_known = byte[0] == old || byte[0] == new || self.written.contains(&(block, byte[0]));
                assert!(is_known, "block {block} is {}, was {old}, then {new}", byte[0]);
            } else {
                assert_eq!(state, State::Absent, "block {block} of {size}");
            }
            self.now.1[block as usize] = byte[0];
        }
        self.now.0 = size;
        self.flushed = self.now.clone();
        self.written.clear();
    }
}

#[test]
fn power_lost_in_a_flush_leaves_old_or_new_blocks() {
    let mut seed = 1;
    let mut model = Model::new();
    for _ in 0..60 {
        model.change(&mut seed);
        if random(&mut seed, 3) == 0 {
            model.flush();
            model.change(&mut seed);
        }
        let old = std::fs::read(model.map()).unwrap();
        let taken = model.head.take().unwrap();
        model.head.layer.data.sync().unwrap();
        model.head.write_map(&taken.header.unwrap()).unwrap();
        let new = std::fs::read(model.map()).unwrap();
        let left = cut_power(&old, &new, &mut seed);
        model.reopen(&left);
        model.check();
    }
}

#[test]
fn power_lost_in_a_shrink_leaves_it_done() {
    let mut seed = 2;
    let mut model = Model::new();
    for round in 0..60 {
        model.change(&mut seed);
        model.flush();
        let size = random(&mut seed, model.now.0 + 1);
        let layer = &model.head.layer;
        layer.write_header(|header| (header.size, header.floor, header.trim) = (size * BLOCK_SIZE, 0, true)).unwrap();
        layer.map.sync().unwrap();
        let old = std::fs::read(model.map()).unwrap();
        if round % 2 == 0 {
            // Before the map's sync in step 3.
            layer.map.truncate(size).unwrap();
        } else {
            // In step 4, or some writes later: whatever became of the unsynced header.
            layer.finish_shrink().unwrap();
            let old = std::fs::read(model.map()).unwrap();
            layer.write_header(|header| header.trim = false).unwrap();
            let new = std::fs::read(model.map()).unwrap();
            let left = cut_power(&old, &new, &mut seed);
            std::fs::write(model.map(), left).unwrap();
        }
        let new = std::fs::read(model.map()).unwrap();
        let left = if round % 2 == 0 { cut_power(&old, &new, &mut seed) } else { new };
        model.now.1[size as usize..].fill(0);
        model.now.0 = size;
        model.flushed = model.now.clone();
        model.reopen(&left);
        assert!(!model.head.layer.header().trim);
        model.check();
    }
}
