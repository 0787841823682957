//! What the space report says, beside a recount of the map files by the format's own words: sums, and what is really
//! free after a deletion.

#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_store::{
    Allocate, BLOCK_SIZE, CloneSource, DeleteVolume, Keep, Name, NewVolume, Owner, SnapshotSelector, SpaceReport, Stays, Store,
    StoreOptions, Sync, Taken,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Bytes in state data in every map of a store's directory: two bits a block, 128 bytes from byte 128 of each record of 512, from
/// byte 8192 on.
fn recount(dir: &Path) -> u64 {
    let mut blocks = 0;
    for layer in std::fs::read_dir(dir.join("layers")).unwrap().flatten() {
        // One that is dropped at this moment has none.
        let Ok(map) = std::fs::read(layer.path().join("map")) else { continue };
        for record in map.get(8192..).unwrap_or_default().chunks(512).filter(|record| record.starts_with(b"OCMR")) {
            let states = record[128..512].iter().flat_map(|byte| [byte & 3, byte >> 2 & 3, byte >> 4 & 3, byte >> 6]);
            blocks += states.filter(|state| *state == 1).count() as u64;
        }
    }
    blocks * BLOCK_SIZE
}

struct Bench {
    dir: tempfile::TempDir,
    store: Store,
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

const MIB: u64 = 1 << 20;

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { create: true, flush_interval: Duration::from_secs(3600), ..StoreOptions::default() };
        let store = Store::open(&dir.path().join("store"), &options).unwrap();
        Self { dir, store }
    }

    fn create(&self, volume: &str, size: u64) {
        let new = NewVolume { size: Some(size), image: None, mode: 0o600, uid: 0, gid: 0 };
        self.store.create_volume(&name(volume), &new).unwrap();
    }

    fn write(&self, volume: &str, offset: u64, length: u64) {
        self.store.volume(&name(volume)).unwrap().write_at(&vec![7; length as usize], offset).unwrap();
    }

    fn snapshot(&self, volume: &str, snapshot: &str) {
        self.store.snapshot(&name(volume), &name(snapshot), &BTreeMap::new()).unwrap();
    }

    fn recount(&self) -> u64 {
        self.store.flush().unwrap();
        recount(&self.dir.path().join("store"))
    }

    /// The report, checked against the recount.
    fn report(&self) -> SpaceReport {
        let report = self.store.space_report().unwrap();
        assert_eq!(report.held, self.recount(), "{report:#?}");
        let sum = report.alone + report.shared + report.unseen + report.merging + report.dropping;
        assert_eq!(sum, report.held, "{report:#?}");
        assert!(report.unreadable.is_empty(), "{report:#?}");
        // What is kept of the sealed layers gives the same.
        let again = self.store.space_report().unwrap();
        let taken = |report: &SpaceReport| report.names.iter().map(|name| name.taken).collect::<Vec<_>>();
        assert_eq!((taken(&report), report.shared), (taken(&again), again.shared));
        report
    }
}

fn of(report: &SpaceReport, volume: &str, snapshot: Option<&str>) -> Taken {
    let is = |owner: &Owner| match owner {
        Owner::Volume { name, .. } => snapshot.is_none() && *name.to_string() == *volume,
        Owner::Snapshot { set, taken_as, .. } => snapshot == Some(&set.to_string()) && *taken_as.to_string() == *volume,
        _ => false,
    };
    report.names.iter().find(|name| is(&name.owner)).and_then(|name| name.taken).unwrap()
}

#[test]
fn what_is_written_counts_before_it_is_flushed_and_what_is_discarded_does_not() {
    let bench = Bench::new();
    bench.create("v", 64 * MIB);
    bench.write("v", MIB, 2 * MIB);
    let goes = |data, alone, frees| Taken { data, alone, frees, stays: Stays::Goes };
    let report = bench.store.space_report().unwrap();
    assert_eq!((report.held, of(&report, "v", None)), (2 * MIB, goes(2 * MIB, 2 * MIB, 2 * MIB)));
    let volume = bench.store.volume(&name("v")).unwrap();
    volume.sync(Sync::Data).unwrap();
    volume.allocate(Allocate::Punch, MIB, MIB).unwrap();
    bench.write("v", 40 * MIB, 1);
    let report = bench.store.space_report().unwrap();
    assert_eq!((report.held, of(&report, "v", None).alone), (MIB + BLOCK_SIZE, MIB + BLOCK_SIZE));
    bench.report();
}

#[test]
fn a_shrink_leaves_to_the_snapshot_what_the_volume_shows_no_more() {
    let bench = Bench::new();
    bench.create("v", 16 * MIB);
    bench.write("v", 0, 16 * MIB);
    bench.snapshot("v", "s");
    let volume = bench.store.volume(&name("v")).unwrap();
    volume.set_size(4 * MIB).unwrap();
    volume.set_size(8 * MIB).unwrap();
    bench.write("v", 0, MIB);
    let report = bench.report();
    assert_eq!(of(&report, "v", None), Taken { data: 4 * MIB, alone: MIB, frees: MIB, stays: Stays::Goes });
    assert_eq!(of(&report, "v", Some("s")), Taken { data: 16 * MIB, alone: 13 * MIB, frees: 13 * MIB, stays: Stays::Goes });
    assert_eq!(report.shared, 3 * MIB);
}

#[test]
fn deleting_a_volume_with_its_snapshots_frees_what_was_said() {
    let bench = Bench::new();
    for volume in ["a", "b"] {
        bench.create(volume, 32 * MIB);
        bench.write(volume, 0, 8 * MIB);
        bench.snapshot(volume, "s");
        bench.write(volume, 2 * MIB, MIB);
    }
    let report = bench.report();
    assert_eq!(of(&report, "a", None), Taken { data: 8 * MIB, alone: MIB, frees: MIB, stays: Stays::Goes });
    let id = bench.store.volume_info(&name("a")).unwrap().id;
    let taken = bench.store.volume_taken(id).unwrap();
    assert_eq!((taken.head.unwrap().frees, taken.all_frees), (MIB, Some(9 * MIB)));
    bench.store.delete_volume(&name("a"), DeleteVolume::WithSnapshots, Keep::Now).unwrap();
    let dir = bench.dir.path().join("store");
    while recount(&dir) > 9 * MIB {
        std::thread::yield_now();
    }
    assert_eq!(bench.report().held, 9 * MIB);
    bench.store.delete_volume(&name("b"), DeleteVolume::Head, Keep::Now).unwrap();
    while recount(&dir) > 8 * MIB {
        std::thread::yield_now();
    }
    assert_eq!(of(&bench.report(), "b", Some("s")).alone, 8 * MIB);
}

#[test]
fn a_sparse_volume_of_the_largest_size_is_counted_by_what_it_has() {
    let bench = Bench::new();
    bench.create("v", 64 << 40);
    for tib in 0..64_u64 {
        bench.write("v", (tib << 40) + tib * BLOCK_SIZE, 1);
    }
    bench.snapshot("v", "s");
    bench.write("v", (63 << 40) + 63 * BLOCK_SIZE, 1);
    // Its map is 5.7 GiB of holes: nobody reads that whole, this test's recount included.
    let report = bench.store.space_report().unwrap();
    assert_eq!(report.held, 65 * BLOCK_SIZE);
    assert_eq!(
        of(&report, "v", Some("s")),
        Taken { data: 64 * BLOCK_SIZE, alone: BLOCK_SIZE, frees: BLOCK_SIZE, stays: Stays::Goes }
    );
}

#[test]
fn what_can_not_be_read_is_named_and_the_rest_is_counted() {
    let bench = Bench::new();
    for volume in ["good", "bad"] {
        bench.create(volume, 8 * MIB);
        bench.write(volume, 0, 2 * MIB);
        bench.snapshot(volume, "s");
    }
    let bad = bench.store.volume_info(&name("bad")).unwrap();
    let map = bench.dir.path().join("store/layers").join(bad.layers[0].to_string()).join("map");
    let mut bytes = std::fs::read(&map).unwrap();
    bytes[8192 + 200] ^= 4;
    std::fs::write(&map, bytes).unwrap();
    let report = bench.store.space_report().unwrap();
    assert!(matches!(&report.unreadable[..], [reason] if reason.contains("map record 0")), "{:?}", report.unreadable);
    assert_eq!((report.held, report.alone, report.shared), (2 * MIB, 0, 2 * MIB));
    let numbered: Vec<_> = report.names.iter().filter(|name| name.taken.is_some()).map(|name| &name.owner).collect();
    let is_good = |owner: &&Owner| match owner {
        Owner::Volume { name, .. } => name.to_string() == "good",
        Owner::Snapshot { taken_as, .. } => taken_as.to_string() == "good",
        _ => false,
    };
    assert!(numbered.len() == 2 && numbered.iter().all(is_good), "{numbered:?}");
    assert!(bench.store.volume_taken(bad.id).is_err());
}

/// A small generator that anybody can write again: splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

const SIZE: u64 = 3 * MIB;

/// Random trees of volumes, snapshots and clones.
struct Forest {
    bench: Bench,
    random: Random,
    made: u64,
}

impl Forest {
    fn volumes(&self) -> Vec<Name> {
        self.bench.store.volumes().into_iter().filter(|info| info.live).filter_map(|info| info.name).collect()
    }

    fn volume(&mut self) -> Option<Name> {
        let volumes = self.volumes();
        let at = self.random.below(volumes.len().max(1) as u64) as usize;
        volumes.get(at).cloned()
    }

    fn new_name(&mut self, kind: &str) -> Name {
        self.made += 1;
        name(&format!("{kind}{}", self.made))
    }

    fn step(&mut self) {
        let store = self.bench.store.clone();
        let volume = self.volume();
        match (self.random.below(10), volume) {
            (0, _) | (_, None) => {
                let name = self.new_name("v");
                let new = NewVolume { size: Some(SIZE), image: None, mode: 0o600, uid: 0, gid: 0 };
                store.create_volume(&name, &new).unwrap();
            }
            (1..5, Some(volume)) => {
                let offset = self.random.below(SIZE);
                let length = 1 + self.random.below(SIZE / 4).min(SIZE - 1 - offset);
                store.volume(&volume).unwrap().write_at(&vec![9; length as usize], offset).unwrap();
            }
            (5, Some(volume)) => {
                let (offset, length) = (self.random.below(SIZE), 1 + self.random.below(SIZE / 4));
                store.volume(&volume).unwrap().allocate(Allocate::Punch, offset, length).unwrap();
            }
            (6, Some(volume)) => {
                let volume = store.volume(&volume).unwrap();
                volume.set_size(self.random.below(SIZE)).unwrap();
                volume.set_size(SIZE).unwrap();
            }
            (7 | 8, Some(volume)) => {
                let snapshot = self.new_name("s");
                store.snapshot(&volume, &snapshot, &BTreeMap::new()).unwrap();
            }
            (_, Some(volume)) => {
                let snapshots = store.snapshots();
                let to = self.new_name("c");
                let at = self.random.below(snapshots.len() as u64 + 1) as usize;
                let from = match snapshots.get(at) {
                    Some(info) => CloneSource::Snapshot { set: info.name.clone(), volume_name: info.volume_name.clone() },
                    None => CloneSource::Volume(volume),
                };
                store.clone_volume(&from, &to).unwrap();
            }
        }
    }

    /// Deletes a name for good, and compares what the report said of it with what the maps have after all merges.
    fn delete(&mut self, keep: Keep) {
        let before = self.bench.settled();
        let at = self.random.below(before.names.len().max(1) as u64) as usize;
        let Some(chosen) = before.names.get(at) else { return };
        let taken = chosen.taken.unwrap();
        let store = &self.bench.store;
        let counted = store.metrics().unwrap().freed;
        match &chosen.owner {
            Owner::Volume { name, .. } => store.delete_volume(name, DeleteVolume::Head, keep).unwrap(),
            Owner::Snapshot { set, taken_as, .. } => {
                let which = SnapshotSelector { set: set.clone(), volume: Some(taken_as.clone()) };
                store.delete_snapshots(&[which], keep).unwrap();
            }
            Owner::Removed { serial, .. } => store.forget_removed(&[*serial]).unwrap(),
            Owner::Image { .. } => return,
        }
        let after = self.bench.settled();
        let freed = if keep == Keep::Now || matches!(chosen.owner, Owner::Removed { .. }) { taken.frees } else { 0 };
        assert_eq!(before.held - after.held, freed, "{chosen:#?} was deleted\nbefore: {before:#?}\nafter: {after:#?}");
        // It counts when the last file is gone, which is a moment later.
        let begun = std::time::Instant::now();
        while store.metrics().unwrap().freed - counted != freed {
            let found = store.metrics().unwrap().freed - counted;
            assert!(begun.elapsed() < Duration::from_secs(20), "{found} bytes counted as freed, not {freed}: {chosen:#?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        if matches!(taken.stays, Stays::Under(_)) {
            assert_eq!(taken.frees, 0);
        }
    }

    fn forget_all(&self) {
        let all: Vec<u64> = self.bench.store.removed().iter().map(|info| info.serial).collect();
        self.bench.store.forget_removed(&all).unwrap();
    }
}

impl Bench {
    /// The report when nothing is left to merge or to drop.
    fn settled(&self) -> SpaceReport {
        let begun = std::time::Instant::now();
        loop {
            let report = self.store.space_report().unwrap();
            if report.merging + report.merges + report.dropping == 0 {
                return self.report();
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "it never settles: {report:#?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// `OUTCROP_TEST_SEED=n` replays a run, `OUTCROP_TEST_SECONDS=n` makes it longer.
#[test]
fn deleting_a_name_frees_what_was_said_in_random_trees() {
    let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse().ok());
    let seconds = number("OUTCROP_TEST_SECONDS").unwrap_or(0);
    let first = number("OUTCROP_TEST_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 16);
    let begun = std::time::Instant::now();
    for seed in first.. {
        eprintln!("replay with OUTCROP_TEST_SEED={seed} cargo test -p outcrop-store --test space random_trees");
        let mut forest = Forest { bench: Bench::new(), random: Random(seed), made: 0 };
        for _ in 0..12 {
            for _ in 0..6 {
                forest.step();
            }
            let keep = if forest.random.below(3) == 0 { Keep::ForUndo } else { Keep::Now };
            forest.delete(keep);
        }
        // What undo keeps is what comes back when it is given up.
        let before = forest.bench.settled();
        forest.forget_all();
        let after = forest.bench.settled();
        assert_eq!(before.held - after.held, before.undo, "before: {before:#?}\nafter: {after:#?}");
        for volume in forest.bench.store.volumes() {
            forest.bench.store.delete_volume(&volume.name.unwrap(), DeleteVolume::WithSnapshots, Keep::Now).unwrap();
        }
        assert_eq!(forest.bench.settled().held, 0, "everything deleted gives all back");
        if begun.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
    }
}
