//! Many threads on one volume, with few descriptors and a tiny cache: what is read is always some version that was
//! written, snapshots keep what they had, and nothing panics or fails.
//!
//! `OUTCROP_TEST_SEED=n` begins with that seed, `OUTCROP_TEST_SECONDS=n` runs longer.

#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_store::{Allocate, DeleteVolume, Keep, Name, NewVolume, Store, StoreOptions, Sync, Volume};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

const BLOCK: u64 = 4096;

fn options() -> StoreOptions {
    StoreOptions {
        create: true,
        cache_bytes: 1,
        open_files: 16,
        flush_interval: Duration::from_millis(20),
        snapshot_pause: Duration::from_secs(60),
        ..StoreOptions::default()
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn volume(store: &Store, size: u64) -> Arc<Volume> {
    let new = NewVolume { size: Some(size), image: None, mode: 0o600, uid: 0, gid: 0 };
    store.create_volume(&name("v"), &new).unwrap()
}

/// How long each test runs.
fn duration() -> Duration {
    let seconds = std::env::var("OUTCROP_TEST_SECONDS").ok().and_then(|text| text.parse().ok());
    seconds.map_or(Duration::from_secs(2), Duration::from_secs)
}

struct Random(u64);

impl Random {
    fn new(thread: u64) -> Self {
        let seed = std::env::var("OUTCROP_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
        eprintln!("thread {thread}: OUTCROP_TEST_SEED={seed}");
        Self(seed.wrapping_add(thread << 32))
    }

    fn below(&mut self, n: u64) -> u64 {
        // splitmix64 (Steele, Lea, Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// A block that says which one it is and which write it is of: all its words are the same but for the first.
fn block_of(number: u64, version: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK as usize);
    for word in 0..BLOCK / 8 {
        bytes.extend_from_slice(&if word == 0 { number } else { version }.to_le_bytes());
    }
    bytes
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|raw| u64::from_le_bytes(*raw)).collect()
}

type Body<'a> = Box<dyn FnOnce(&AtomicBool) + Send + 'a>;

/// Runs `bodies` at the same time until the time is over or one of them panics; they look at the flag.
fn together(bodies: Vec<Body<'_>>) {
    let end = Instant::now() + duration();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = bodies.into_iter().map(|body| scope.spawn(|| body(&stop))).collect();
        while Instant::now() < end && !threads.iter().any(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, SeqCst);
    });
}

fn copy_tree(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// Each writer owns the blocks whose number has its remainder, and writes rising versions: a reader never sees a
/// version older than one acknowledged before it began, nor another block's.
#[test]
fn reads_beside_writes_flushes_snapshots_and_punches_are_never_stale() {
    const BLOCKS: u64 = 6000;
    const WRITERS: u64 = 3;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), &options()).unwrap();
    let volume = volume(&store, BLOCKS * BLOCK);
    let acknowledged: Vec<AtomicU64> = (0..BLOCKS).map(|_| AtomicU64::new(0)).collect();
    let (volume, store, acknowledged) = (&*volume, &store, &acknowledged);
    let mut bodies: Vec<Body<'_>> = Vec::new();
    for writer in 0..WRITERS {
        bodies.push(Box::new(move |stop| {
            let mut random = Random::new(writer);
            let mut version = 1;
            while !stop.load(SeqCst) {
                let number = random.below(BLOCKS / WRITERS) * WRITERS + writer;
                if random.below(8) == 0 {
                    // Zeros count as any version.
                    volume.allocate(Allocate::Punch, number * BLOCK, BLOCK).unwrap();
                    continue;
                }
                version += 1;
                let data = block_of(number, version);
                if random.below(2) == 0 || volume.try_write_at(&data, number * BLOCK).unwrap().is_none() {
                    volume.write_at(&data, number * BLOCK).unwrap();
                }
                acknowledged[number as usize].store(version, SeqCst);
            }
        }));
    }
    for reader in 10..12 {
        bodies.push(Box::new(move |stop| {
            let mut random = Random::new(reader);
            let mut buf = vec![0; 700 * BLOCK as usize];
            while !stop.load(SeqCst) {
                let first = random.below(BLOCKS - 700);
                let count = random.below(700) + 1;
                let least: Vec<u64> = (first..first + count).map(|n| acknowledged[n as usize].load(SeqCst)).collect();
                let buf = &mut buf[..(count * BLOCK) as usize];
                let quick = random.below(2) == 0 && volume.try_read_at(buf, first * BLOCK).unwrap().is_some();
                if !quick {
                    assert_eq!(volume.read_at(buf, first * BLOCK).unwrap() as u64, count * BLOCK);
                }
                for ((number, least), bytes) in (first..).zip(least).zip(buf.as_chunks::<{ BLOCK as usize }>().0) {
                    let words = words(bytes);
                    // A read beside a write may have some of each, but of this block and none that is older.
                    assert!(words[0] == number || words[0] == 0, "block {number} has {}", words[0]);
                    let oldest = words[1..].iter().filter(|word| **word != 0).min();
                    assert!(oldest.is_none_or(|oldest| *oldest >= least), "block {number}: {oldest:?}, acknowledged was {least}");
                }
            }
        }));
    }
    bodies.push(Box::new(move |stop| {
        while !stop.load(SeqCst) {
            volume.sync(Sync::Data).unwrap();
        }
    }));
    bodies.push(Box::new(move |stop| {
        let mut random = Random::new(20);
        let read = |snapshot: &outcrop_store::Snapshot| {
            let mut bytes = vec![0; (BLOCKS * BLOCK) as usize];
            assert_eq!(snapshot.read_at(&mut bytes, 0).unwrap() as u64, BLOCKS * BLOCK);
            crc32c::crc32c(&bytes)
        };
        let mut kept = Vec::new();
        for number in 0..1000 {
            if stop.load(SeqCst) {
                break;
            }
            let set = name(&format!("s{number}"));
            store.snapshot_all(&set, &BTreeMap::new()).unwrap();
            let sum = read(&store.open_snapshot(&set, &name("v")).unwrap());
            kept.push((set, sum));
            let (set, sum) = &kept[random.below(kept.len() as u64) as usize];
            assert_eq!(read(&store.open_snapshot(set, &name("v")).unwrap()), *sum, "snapshot {set} changed");
        }
    }));
    together(bodies);
}

/// A parent that is full of old bytes under a head that has newer ones everywhere: whatever a shrink does meanwhile, a
/// reader sees the newer ones or an end of the file, never the parent's and never an error.
#[test]
fn reads_beside_shrinks_see_the_old_end_or_the_new_one() {
    const BLOCKS: u64 = 3000;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), &options()).unwrap();
    let volume = volume(&store, BLOCKS * BLOCK);
    volume.write_at(&vec![1; (BLOCKS * BLOCK) as usize], 0).unwrap();
    store.snapshot_all(&name("s"), &BTreeMap::new()).unwrap();
    volume.write_at(&vec![2; (BLOCKS * BLOCK) as usize], 0).unwrap();
    let volume = &*volume;
    let mut bodies: Vec<Body<'_>> = Vec::new();
    bodies.push(Box::new(move |stop| {
        let mut random = Random::new(0);
        while !stop.load(SeqCst) {
            volume.set_size(random.below(BLOCKS * BLOCK)).unwrap();
            let size = volume.stat().size;
            volume.set_size(BLOCKS * BLOCK).unwrap();
            volume.write_at(&vec![2; (BLOCKS * BLOCK - size) as usize], size).unwrap();
        }
    }));
    for reader in 1..4 {
        bodies.push(Box::new(move |stop| {
            let mut random = Random::new(reader);
            let mut buf = vec![0; 300 * BLOCK as usize];
            while !stop.load(SeqCst) {
                let offset = random.below(BLOCKS * BLOCK);
                let read = match volume.try_read_at(&mut buf, offset).unwrap() {
                    Some(read) if reader == 1 => read,
                    _ => volume.read_at(&mut buf, offset).unwrap(),
                };
                let wrong = buf[..read].iter().position(|byte| *byte != 0 && *byte != 2);
                assert!(wrong.is_none(), "byte {} is the parent's", offset + wrong.unwrap_or(0) as u64);
            }
        }));
    }
    bodies.push(Box::new(move |stop| {
        while !stop.load(SeqCst) {
            volume.sync(Sync::All).unwrap();
        }
    }));
    together(bodies);
}

/// What is left by a kill at any moment has every acknowledged append, and zeros where a shrink cut.
#[test]
fn a_kill_beside_flushes_and_shrinks_keeps_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random::new(0);
    let end = Instant::now() + duration();
    let mut round = 0;
    while Instant::now() < end {
        round += 1;
        let at = dir.path().join(format!("store{round}"));
        let store = Store::open(&at, &options()).unwrap();
        let volume = volume(&store, 64 * BLOCK);
        volume.write_at(&vec![1; 64 * BLOCK as usize], 0).unwrap();
        store.snapshot_all(&name("s"), &BTreeMap::new()).unwrap();
        let stop = AtomicBool::new(false);
        let copy = dir.path().join(format!("copy{round}"));
        let cut = 1 + random.below(60);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    volume.sync(Sync::All).unwrap();
                }
            });
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    let times = outcrop_store::Timestamps { atime_ns: None, mtime_ns: Some(1) };
                    volume.set_times(times).unwrap();
                }
            });
            for _ in 0..random.below(4) {
                volume.write_at(&[3; 100], 5).unwrap();
                std::thread::yield_now();
            }
            volume.set_size(cut * BLOCK).unwrap();
            volume.write_at(&[4; 10], 64 * BLOCK).unwrap();
            // Not the moment of a kill for the shrink, but one for the flushes.
            copy_tree(&at, &copy);
            stop.store(true, SeqCst);
        });
        let killed = Store::open(&copy, &options()).unwrap();
        let volume = killed.volume(&name("v")).unwrap();
        assert_eq!(volume.stat().size, 64 * BLOCK + 10);
        let mut bytes = vec![9; 64 * BLOCK as usize + 10];
        volume.read_at(&mut bytes, 0).unwrap();
        assert!(bytes[(cut * BLOCK) as usize..64 * BLOCK as usize].iter().all(|byte| *byte == 0), "what was cut off is back");
        assert_eq!(bytes[64 * BLOCK as usize..], [4; 10]);
        drop((volume, killed));
        std::fs::remove_dir_all(copy).unwrap();
    }
}

/// A serial is an inode's number in every mount: given to two things, the kernel takes the one for the other's, and whoever
/// has it open gets I/O errors. So none is given twice, also not by a snapshot that finds no volume to take.
#[test]
fn no_serial_is_given_out_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), &options()).unwrap();
    let (store, seen) = (&store, &std::sync::Mutex::new(BTreeMap::new()));
    let note = |serial: u64, what: String| {
        let before = seen.lock().unwrap().insert(serial, what.clone());
        assert!(before.as_ref().is_none_or(|before| *before == what), "serial {serial} is that of {before:?} and of {what}");
    };
    let mut bodies: Vec<Body<'_>> = Vec::new();
    for thread in 0..2 {
        bodies.push(Box::new(move |stop| {
            let new = NewVolume { size: Some(0), image: None, mode: 0o600, uid: 0, gid: 0 };
            let name = name(&format!("v{thread}"));
            for number in 0..u64::MAX {
                if stop.load(SeqCst) {
                    break;
                }
                store.create_volume(&name, &new).unwrap();
                note(store.volume_info(&name).unwrap().serial, format!("{name}, made as number {number}"));
                store.delete_volume(&name, DeleteVolume::Head, Keep::Now).unwrap();
            }
        }));
    }
    bodies.push(Box::new(move |stop| {
        for number in 0..2000 {
            if stop.load(SeqCst) {
                break;
            }
            let set = name(&format!("s{number}"));
            let taken = store.snapshot_all(&set, &BTreeMap::new()).unwrap();
            note(store.snapshot_set(&set).unwrap().serial, format!("set {set}"));
            taken.into_iter().for_each(|file| note(file.serial, format!("{set}/{}", file.volume_name)));
        }
    }));
    together(bodies);
}

/// The mount keeps weak references to volumes that nobody has open. Such a volume is closed when it has been idle for a while:
/// whoever gets hold of it in that moment must have the open one, not one that takes no more writes.
#[test]
fn a_volume_that_is_found_while_idle_ones_are_closed_takes_writes() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { flush_interval: Duration::ZERO, ..options() };
    let store = Store::open(&dir.path().join("store"), &options).unwrap();
    drop(volume(&store, 64 * BLOCK));
    let store = &store;
    let mut bodies: Vec<Body<'_>> = Vec::new();
    bodies.push(Box::new(move |stop| {
        let mut random = Random::new(0);
        let mut known = std::sync::Weak::new();
        let mut version = 0;
        while !stop.load(SeqCst) {
            let found = known.upgrade();
            let volume = found.unwrap_or_else(|| store.volume(&name("v")).unwrap());
            known = Arc::downgrade(&volume);
            let mut last = vec![0; BLOCK as usize];
            volume.read_at(&mut last, 0).unwrap();
            assert!(version == 0 || last == block_of(7, version), "it has another's content");
            version += 1;
            volume.write_at(&block_of(7, version), 0).unwrap();
            volume.sync(Sync::Data).unwrap();
            drop(volume);
            // So that it is idle now and then.
            std::thread::sleep(Duration::from_micros(random.below(500)));
        }
    }));
    // Deleting wakes the thread that closes idle volumes.
    bodies.push(Box::new(move |stop| {
        let new = NewVolume { size: Some(0), image: None, mode: 0o600, uid: 0, gid: 0 };
        while !stop.load(SeqCst) {
            store.create_volume(&name("other"), &new).unwrap();
            store.delete_volume(&name("other"), DeleteVolume::Head, Keep::Now).unwrap();
        }
    }));
    together(bodies);
}
