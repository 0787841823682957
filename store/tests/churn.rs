//! Names come and go beside writers at full speed: snapshots, clones, reverts with force, deletes and undos, with merges in
//! the background. No write through a handle of before a revert is taken after it, every snapshot keeps its bytes, a clone
//! of a snapshot has them too, a clone of a volume shows one instant, and at the end nothing is left.
//!
//! `OUTCROP_TEST_SEED=n` begins with that seed, `OUTCROP_TEST_SECONDS=n` runs longer.

#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_store::doctor::Severity;
use outcrop_store::{
    CloneSource, DeleteVolume, Error, Keep, Name, NewVolume, Revert, SnapshotSelector, Store, StoreOptions, Sync,
};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

const BLOCKS: u64 = 600;
const BLOCK: u64 = 4096;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        // splitmix64 (Steele, Lea, Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Counts reverts of `v`; writers look at it to know which of them a write came after.
struct Shared {
    store: Store,
    begun: AtomicU64,
    done: AtomicU64,
    stop: AtomicBool,
}

/// Writes its number, round by round, into the first blocks in order, so that any instant shows falling numbers; and
/// elsewhere at random, so that there is something to merge.
fn write(shared: &Shared, mut random: Random) {
    let mut round = 0_u64;
    'open: while !shared.stop.load(SeqCst) {
        let handle = match shared.store.volume(&name("v")).and_then(|volume| volume.handle()) {
            Ok(handle) => handle,
            Err(Error::Stale { .. }) => continue,
            Err(error) => panic!("{error}"),
        };
        // A revert that begins later than this, and is done before a write begins, has made that write's handle stale.
        let opened = shared.begun.load(SeqCst);
        for _ in 0..1 + random.below(60) {
            round += 1;
            for step in 0..10 {
                let done = shared.done.load(SeqCst);
                let bytes = [round.to_le_bytes(); 512].concat();
                let at = if step < 8 { step } else { 8 + random.below(BLOCKS - 8) };
                match handle.write_at(&bytes, at * BLOCK) {
                    Ok(()) => {
                        assert!(done <= opened, "a write was taken after revert {done}, opened beside revert {opened}")
                    }
                    Err(Error::Stale { .. }) => continue 'open,
                    Err(error) => panic!("{error}"),
                }
            }
            if random.below(8) == 0 {
                match handle.sync(Sync::Data) {
                    Ok(()) | Err(Error::Stale { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}

fn all_of(read: impl Fn(&mut [u8], u64) -> outcrop_store::Result<usize>, size: u64) -> Vec<u8> {
    let mut bytes = vec![0xee; size as usize];
    assert_eq!(read(&mut bytes, 0).unwrap() as u64, size);
    bytes
}

fn first_words(bytes: &[u8]) -> Vec<u64> {
    (0..8).map(|block| u64::from_le_bytes(bytes[block * 4096..][..8].try_into().unwrap())).collect()
}

#[test]
fn names_come_and_go_beside_writers() {
    let seed = variable("OUTCROP_TEST_SEED").unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    eprintln!("OUTCROP_TEST_SEED={seed}");
    let end = Instant::now() + Duration::from_secs(variable("OUTCROP_TEST_SECONDS").unwrap_or(5));
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        create: true,
        cache_bytes: 1,
        open_files: 16,
        flush_interval: Duration::from_millis(20),
        snapshot_pause: Duration::from_secs(60),
        ..StoreOptions::default()
    };
    let store = Store::open(dir.path(), &options).unwrap();
    store.create_volume(&name("v"), &NewVolume { size: Some(BLOCKS * BLOCK), image: None, mode: 0o600, uid: 0, gid: 0 }).unwrap();
    let shared = Shared { store: store.clone(), begun: AtomicU64::new(0), done: AtomicU64::new(0), stop: AtomicBool::new(false) };
    std::thread::scope(|scope| {
        // One: rounds are only falling where nobody else writes.
        scope.spawn(|| write(&shared, Random(seed ^ 1)));
        let churned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| churn(&shared, Random(seed), end)));
        shared.stop.store(true, SeqCst);
        churned.unwrap();
    });
    let findings = store.doctor().unwrap();
    assert!(findings.iter().all(|finding| finding.severity < Severity::Error), "{findings:?}");
    let which: Vec<_> = store.snapshot_sets().into_iter().map(|set| SnapshotSelector { set: set.name, volume: None }).collect();
    store.delete_snapshots(&which, Keep::Now).unwrap();
    for volume in store.volumes() {
        store.delete_volume(&volume.name.unwrap(), DeleteVolume::Head, Keep::Now).unwrap();
    }
    let serials: Vec<u64> = store.removed().iter().map(|removed| removed.serial).collect();
    store.forget_removed(&serials).unwrap();
    while std::fs::read_dir(dir.path().join("layers")).unwrap().count() > 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn churn(shared: &Shared, mut random: Random, end: Instant) {
    let store = &shared.store;
    let mut sums: BTreeMap<String, u32> = BTreeMap::new();
    let read = |set: &str| {
        let snapshot = store.open_snapshot(&name(set), &name("v")).unwrap();
        all_of(|buf, at| snapshot.read_at(buf, at), snapshot.stat().size)
    };
    for number in 0_u64.. {
        if Instant::now() >= end {
            break;
        }
        let some = |random: &mut Random| sums.keys().nth(random.below(sums.len().max(1) as u64) as usize).cloned();
        match (random.below(8), some(&mut random)) {
            (0 | 1, _) | (_, None) => {
                let set = format!("s{number}");
                store.snapshot(&name("v"), &name(&set), &BTreeMap::new()).unwrap();
                let bytes = read(&set);
                sums.insert(set, crc32c::crc32c(&bytes));
            }
            (2, _) => {
                let clone = format!("c{number}");
                let volume = store.clone_volume(&CloneSource::Volume(name("v")), &name(&clone)).unwrap();
                let words = first_words(&all_of(|buf, at| volume.read_at(buf, at), volume.stat().size));
                // A revert of before may have left a fall of more than one; within a clone they only fall.
                assert!(words.is_sorted_by(|a, b| a >= b), "{words:?}");
                volume.write_at(&[1; 100_000], random.below(1 << 20)).unwrap();
                drop(volume);
                store.delete_volume(&name(&clone), DeleteVolume::Head, Keep::Now).unwrap();
            }
            (3, Some(set)) => {
                let clone = format!("c{number}");
                let source = CloneSource::Snapshot { set: name(&set), volume_name: name("v") };
                let volume = store.clone_volume(&source, &name(&clone)).unwrap();
                let bytes = all_of(|buf, at| volume.read_at(buf, at), volume.stat().size);
                assert_eq!(crc32c::crc32c(&bytes), sums[&set], "clone of {set}");
                drop(volume);
                let keep = if random.below(2) == 0 { Keep::Now } else { Keep::ForUndo };
                store.delete_volume(&name(&clone), DeleteVolume::Head, keep).unwrap();
                if keep == Keep::ForUndo {
                    let removed = store.removed_by_name(Some(&name(&clone)), None).unwrap();
                    store.undo(&[removed[0].serial], None).unwrap();
                    let volume = store.volume(&name(&clone)).unwrap();
                    let bytes = all_of(|buf, at| volume.read_at(buf, at), volume.stat().size);
                    assert_eq!(crc32c::crc32c(&bytes), sums[&set], "restored clone of {set}");
                    drop(volume);
                    store.delete_volume(&name(&clone), DeleteVolume::Head, Keep::Now).unwrap();
                }
            }
            (4, Some(set)) => {
                let keep = if random.below(2) == 0 { Keep::Now } else { Keep::ForUndo };
                shared.begun.fetch_add(1, SeqCst);
                store.revert(&name("v"), &name(&set), Revert { force: true, keep }).unwrap();
                shared.done.fetch_add(1, SeqCst);
            }
            (5 | 6, Some(set)) => {
                assert_eq!(crc32c::crc32c(&read(&set)), sums[&set], "{set}");
                let which = SnapshotSelector { set: name(&set), volume: None };
                if random.below(3) == 0 {
                    store.delete_snapshots(&[which], Keep::ForUndo).unwrap();
                    let removed = store.removed_by_name(None, Some(&name(&set))).unwrap();
                    store.undo(&[removed[0].serial], None).unwrap();
                } else {
                    store.delete_snapshots(&[which], Keep::Now).unwrap();
                    sums.remove(&set);
                }
            }
            (_, Some(set)) => {
                let to = format!("t{number}");
                store.rename_snapshots(&name(&set), &name(&to)).unwrap();
                let sum = sums.remove(&set).unwrap();
                assert_eq!(crc32c::crc32c(&read(&to)), sum, "{set}, {to} by now");
                sums.insert(to, sum);
            }
        }
        if number % 16 == 0 {
            let serials: Vec<u64> = store.removed().iter().map(|removed| removed.serial).collect();
            store.forget_removed(&serials).unwrap();
        }
    }
}
