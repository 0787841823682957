#![expect(clippy::unwrap_used, reason = "a test may")]

use super::allocate::discard_in_chunk;
use super::*;
use crate::name::Name;
use crate::store::{NewVolume, Store, StoreOptions};
use std::collections::BTreeMap;
use std::path::PathBuf;

const EDGE: u64 = crate::units::SEGMENT_SIZE;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

struct Bench {
    dir: tempfile::TempDir,
    store: Option<Store>,
}

impl Bench {
    fn new(size: u64) -> Self {
        let mut bench = Self { dir: tempfile::tempdir().unwrap(), store: None };
        bench.open();
        let new = NewVolume { size: Some(size), image: None, mode: 0o600, uid: 0, gid: 0 };
        bench.store().create_volume(&name("v"), &new).unwrap();
        bench
    }

    fn open(&mut self) {
        self.store = None;
        let options =
            StoreOptions { create: true, flush_interval: std::time::Duration::from_secs(3600), ..StoreOptions::default() };
        self.store = Some(Store::open(&self.dir.path().join("store"), &options).unwrap());
    }

    fn reopen(&mut self) {
        self.store().close().unwrap();
        self.open();
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn volume(&self) -> Arc<Volume> {
        self.store().volume(&name("v")).unwrap()
    }

    fn snapshot(&self, text: &str) {
        self.store().snapshot_all(&name(text), &BTreeMap::new()).unwrap();
    }

    /// A file of the head.
    fn path(&self, file: &str) -> PathBuf {
        self.volume().head().layer.dir.join(file)
    }

    fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; length];
        let read = self.volume().read_at(&mut bytes, offset).unwrap();
        bytes.truncate(read);
        bytes
    }
}

#[test]
fn a_read_that_began_before_a_snapshot_looks_again_for_what_the_new_head_has() {
    let bench = Bench::new(8 * BLOCK_SIZE);
    let volume = bench.volume();
    volume.write_at(&[1; 8 * BLOCK_SIZE as usize], 0).unwrap();
    let before = volume.live();
    bench.snapshot("s");
    volume.write_at(&[2; BLOCK_SIZE as usize], 3 * BLOCK_SIZE).unwrap();
    let view = LiveView { volume: &volume, live: &before };
    let mut bytes = vec![0; 8 * BLOCK_SIZE as usize];
    assert_eq!(view.read(&mut bytes, 0).unwrap(), None);
    assert_eq!(view.try_read(&mut bytes, 0).unwrap(), None);
    assert_eq!(bench.read(3 * BLOCK_SIZE, 1), [2]);
}

/// An append over the edge of a segment whose first half is written and whose second fails.
fn fail_an_append(bench: &Bench) {
    let volume = bench.volume();
    volume.write_at(&[1; 50], EDGE - 150).unwrap();
    std::fs::create_dir(bench.path("data.1")).unwrap();
    volume.write_at(&[9; 200], EDGE - 100).unwrap_err();
    std::fs::remove_dir(bench.path("data.1")).unwrap();
    assert_eq!(volume.stat().size, EDGE - 100);
}

#[test]
fn a_failed_append_never_shows() {
    let bench = Bench::new(0);
    fail_an_append(&bench);
    bench.volume().set_size(EDGE + 100).unwrap();
    assert_eq!(bench.read(EDGE - 100, 200), [0; 200]);
}

#[test]
fn a_failed_append_never_shows_through_a_snapshot() {
    let bench = Bench::new(0);
    fail_an_append(&bench);
    bench.snapshot("s");
    bench.volume().set_size(EDGE + 100).unwrap();
    assert_eq!(bench.read(EDGE - 100, 200), [0; 200]);
}

#[test]
fn a_failed_append_never_shows_after_reopening() {
    let mut bench = Bench::new(0);
    fail_an_append(&bench);
    bench.reopen();
    bench.volume().set_size(EDGE + 100).unwrap();
    assert_eq!(bench.read(EDGE - 100, 200), [0; 200]);
}

#[test]
fn an_append_that_could_not_be_marked_never_shows() {
    let mut bench = Bench::new(0);
    bench.volume().write_at(&[1; 100], 0).unwrap();
    bench.reopen();
    std::fs::create_dir(bench.path("pending")).unwrap();
    bench.volume().write_at(&[9; 100], 100).unwrap_err();
    std::fs::remove_dir(bench.path("pending")).unwrap();
    bench.volume().set_size(300).unwrap();
    assert_eq!(bench.read(100, 200), [0; 200]);
}

#[test]
fn a_reservation_that_failed_leaves_no_data_behind_the_end() {
    let bench = Bench::new(0);
    let volume = bench.volume();
    std::fs::create_dir(bench.path("data.1")).unwrap();
    volume.allocate(Allocate::Grow, EDGE - (2 << 20), (2 << 20) + 10).unwrap_err();
    std::fs::remove_dir(bench.path("data.1")).unwrap();
    let stat = volume.stat();
    assert_eq!((stat.size, stat.data), (EDGE, 2 << 20));
    volume.allocate(Allocate::Grow, EDGE - (2 << 20), (2 << 20) + 10).unwrap();
    let stat = volume.stat();
    assert_eq!((stat.size, stat.data), (EDGE + 10, (2 << 20) + BLOCK_SIZE));
}

#[test]
fn what_was_appended_after_a_punch_looked_at_the_size_stays() {
    let bench = Bench::new(5000);
    let volume = bench.volume();
    volume.write_at(&[1; 5000], 0).unwrap();
    volume.append(&[2; 1000]).unwrap();
    let live = volume.live();
    let view = LiveView { volume: &volume, live: &live };
    assert!(!discard_in_chunk(&view, &live, 1..2, 5000).unwrap());
    assert_eq!(bench.read(5000, 2000), [2; 1000]);
    assert!(discard_in_chunk(&view, &live, 1..2, 6000).unwrap());
    assert_eq!(bench.read(5000, 2000), [0; 1000]);
}

#[test]
fn zeros_for_a_part_of_a_block_never_grow_the_file() {
    let bench = Bench::new(5000);
    let volume = bench.volume();
    volume.write_at(&[1; 5000], 0).unwrap();
    assert!(volume.write_piece(&[0; 500], Place::Inside(4900), true).unwrap() == Written::Done);
    assert!(volume.write_piece(&[0; 500], Place::Inside(5100), true).unwrap() == Written::Done);
    assert_eq!(volume.stat().size, 5000);
    assert_eq!(bench.read(4800, 300), [[1; 100], [0; 100]].concat());
}

#[test]
fn after_a_shrink_that_failed_half_way_nothing_cut_off_comes_back() {
    let bench = Bench::new(100 * BLOCK_SIZE);
    let volume = bench.volume();
    volume.write_at(&[1; 100 * BLOCK_SIZE as usize], 0).unwrap();
    bench.snapshot("s");
    // It can be opened, but not synced.
    let broken = bench.path("data.1");
    assert!(std::process::Command::new("mkfifo").arg(&broken).status().unwrap().success());
    volume.set_size(BLOCK_SIZE).unwrap_err();
    std::fs::remove_file(broken).unwrap();
    assert!(matches!(volume.set_size(2 * BLOCK_SIZE), Err(Error::Faulted { .. })));
    assert!(bench.read(BLOCK_SIZE, 10).is_empty());
    bench.store().clear_fault(&name("v")).unwrap();
    volume.set_size(100 * BLOCK_SIZE).unwrap();
    assert_eq!(bench.read(0, 10), [1; 10]);
    assert_eq!(bench.read(BLOCK_SIZE, 99 * BLOCK_SIZE as usize), vec![0; 99 * BLOCK_SIZE as usize]);
}

#[test]
fn a_kill_after_mere_overwrites_is_noticed_so_that_the_next_sync_covers_them() {
    let mut bench = Bench::new(BLOCK_SIZE);
    bench.volume().write_at(&[1; 4096], 0).unwrap();
    bench.reopen();
    let volume = bench.volume();
    volume.write_at(&[2; 4096], 0).unwrap();
    let dir = volume.head().layer.dir.clone();
    let left = crate::layer::head_was_left_open(&dir, volume.head().layer.id).unwrap();
    assert!(left, "an open after a kill would sync nothing");
}

#[test]
fn a_volume_of_a_snapshot_in_doubt_takes_no_writes() {
    let bench = Bench::new(BLOCK_SIZE);
    let volume = bench.volume();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    volume.pause(until, 0).unwrap().stop();
    assert!(volume.write_at(&[1], 0).is_err());
    assert!(volume.set_size(9000).is_err());
    // Nor does the background make another one of it.
    drop(volume);
    bench.store().context().unwrap().close_idle();
    assert!(bench.volume().write_at(&[1], 0).is_err());
    assert_eq!(bench.read(0, 10), [0; 10]);
}

#[test]
fn the_edges_of_segments_and_of_the_largest_volume() {
    let mut bench = Bench::new(0);
    let end = crate::units::MAX_VOLUME_SIZE;
    let volume = bench.volume();
    assert!(volume.set_size(end + 1).is_err());
    volume.set_size(end).unwrap();
    assert!(volume.write_at(&[1], end).is_err());
    assert!(volume.append(&[1]).is_err());
    let data: Vec<u8> = (1..=250).cycle().take(50_000).collect();
    for at in [EDGE - 20_001, 7 * EDGE - 4096, end - 50_000] {
        volume.write_at(&data, at).unwrap();
        assert!(bench.read(at, 50_000) == data);
        assert_eq!(volume.seek_data(at - 9999).unwrap(), at / 4096 * 4096);
    }
    bench.snapshot("s");
    volume.allocate(Allocate::Punch, EDGE - 10_000, 20_000).unwrap();
    volume.allocate(Allocate::Punch, end - 10_000, u64::MAX / 2).unwrap_err();
    volume.allocate(Allocate::Punch, end - 10_000, 10_000).unwrap();
    volume.write_at(&[9; 2], EDGE - 1).unwrap();
    drop(volume);
    bench.reopen();
    let volume = bench.volume();
    assert_eq!(bench.read(EDGE - 3, 6), [0, 0, 9, 9, 0, 0]);
    assert_eq!(bench.read(EDGE + 10_000, 1), data[30_001..30_002]);
    assert_eq!(bench.read(end - 10_000, 20_000), vec![0; 10_000]);
    assert!(bench.read(end, 1).is_empty() && bench.read(u64::MAX, 1).is_empty());
    assert!(matches!(volume.seek_data(u64::MAX), Err(Error::NoExtent { .. })));
    volume.set_size(EDGE).unwrap();
    volume.set_size(end).unwrap();
    assert!(matches!(volume.seek_data(EDGE), Err(Error::NoExtent { .. })));
    let mut bytes = [1; 1];
    let snapshot = bench.store().open_snapshot(&name("s"), &name("v")).unwrap();
    assert_eq!(snapshot.read_at(&mut bytes, end - 1).unwrap(), 1);
    assert_eq!(bytes[0], data[49_999]);
    assert!(bench.store().doctor().unwrap().iter().all(|f| f.severity < crate::doctor::Severity::Error));
}
