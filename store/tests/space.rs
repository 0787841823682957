//! What the space report says, beside a recount of the map files by the format's own words: sums, and what is really
//! free after a deletion.

#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_store::{
    Allocate, BLOCK_SIZE, DeleteVolume, Keep, Name, NewVolume, Owner, SpaceReport, Stays, Store, StoreOptions, Sync, Taken,
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
