//! A process that writes, punches, appends, shrinks, syncs and snapshots with several threads is killed, again and again, on
//! one store: whatever it had acknowledged is there, in the volumes and in the snapshots.
//!
//! `OUTCROP_TEST_SEED=n` begins with that seed, `OUTCROP_TEST_SECONDS=n` runs longer.

#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_store::{Allocate, Name, NewVolume, Store, StoreOptions, Sync, Volume, doctor::Severity};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const DIR: &str = "OUTCROP_TEST_KILLED_STORE";
const BLOCK: u64 = 4096;
/// Each thread has the blocks whose number has its remainder.
const THREADS: u64 = 3;
const BLOCKS: u64 = 2400;

fn options() -> StoreOptions {
    StoreOptions {
        create: true,
        cache_bytes: 1,
        open_files: 16,
        flush_interval: Duration::from_millis(50),
        snapshot_pause: Duration::from_secs(60),
        ..StoreOptions::default()
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

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

/// What was begun and what was acknowledged, in a file that a kill leaves: two numbers for each key.
struct Log(File);

impl Log {
    fn open(dir: &Path) -> Self {
        let path = dir.join("log");
        Self(File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap())
    }

    fn begin(&self, key: u64, value: u64) {
        self.0.write_all_at(&value.to_le_bytes(), key * 16).unwrap();
    }

    fn acknowledge(&self, key: u64, value: u64) {
        self.0.write_all_at(&value.to_le_bytes(), key * 16 + 8).unwrap();
    }

    /// Begun, acknowledged.
    fn get(&self, key: u64) -> (u64, u64) {
        let mut raw = [0; 16];
        // What is behind the end of the file was never written. (Half a pair may be before it.)
        let mut found = 0;
        while let Ok(read @ 1..) = self.0.read_at(&mut raw[found..], key * 16 + found as u64) {
            found += read;
        }
        let word = |at: usize| u64::from_le_bytes(raw[at..at + 8].try_into().unwrap());
        (word(0), word(8))
    }
}

/// Odd versions are zeros, punched; even ones are written.
fn block_of(number: u64, version: u64) -> Vec<u8> {
    if version % 2 == 1 || version == 0 {
        return vec![0; BLOCK as usize];
    }
    (0..BLOCK / 8).flat_map(|word| if word == 0 { number } else { version }.to_le_bytes()).collect()
}

fn change(volume: &Volume, number: u64, version: u64) {
    if version % 2 == 1 {
        let how = if version % 4 == 1 { Allocate::Punch } else { Allocate::ZeroKeepSize };
        volume.allocate(how, number * BLOCK, BLOCK).unwrap();
    } else {
        let data = block_of(number, version);
        // In two halves now and then: the second one completes what the first began.
        if version.is_multiple_of(8) {
            volume.write_at(&data[..1000], number * BLOCK).unwrap();
            volume.write_at(&data[1000..], number * BLOCK + 1000).unwrap();
        } else {
            volume.write_at(&data, number * BLOCK).unwrap();
        }
    }
}

/// Keys after the blocks'.
const APPENDED: u64 = BLOCKS;
/// How many were begun; after it a key for each.
const SNAPSHOTS: u64 = BLOCKS + 1;

fn append_of(count: u64) -> Vec<u8> {
    count.to_le_bytes().into_iter().cycle().take(1 + (count * 37 % 5000) as usize).collect()
}

/// What all appends up to this one leave.
fn expected(last: u64) -> Vec<u8> {
    (last / 50 * 50..=last).filter(|n| n % 50 != 0).flat_map(append_of).collect()
}

/// What was begun and killed is done (again), so that the next kill leaves two possible contents and not three.
fn settle(volume: &Volume, appended: &Volume, log: &Log) {
    for number in 0..BLOCKS {
        let (begun, acknowledged) = log.get(number);
        if begun != acknowledged {
            change(volume, number, begun);
            log.acknowledge(number, begun);
        }
    }
    let (begun, acknowledged) = log.get(APPENDED);
    if begun != acknowledged && appended.stat().size == expected(acknowledged).len() as u64 {
        append(appended, begun);
    }
    log.acknowledge(APPENDED, begun);
}

fn append(volume: &Volume, count: u64) {
    if count.is_multiple_of(50) {
        volume.set_size(0).unwrap();
    } else {
        volume.append(&append_of(count)).unwrap();
    }
}

/// Not a test of its own: what the killed process does.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let dir = Path::new(&dir);
    let seed = std::env::var("OUTCROP_TEST_SEED").unwrap().parse::<u64>().unwrap();
    let log = &Log::open(dir);
    let store = &Store::open(&dir.join("store"), &options()).unwrap();
    let volume: &Arc<Volume> = &store.volume(&name("v")).unwrap();
    let appended = &store.volume(&name("a")).unwrap();
    settle(volume, appended, log);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let mut random = Random(seed.wrapping_add(thread));
            scope.spawn(move || {
                loop {
                    let number = random.below(BLOCKS / THREADS) * THREADS + thread;
                    let version = log.get(number).0 + 1 + random.below(3);
                    log.begin(number, version);
                    change(volume, number, version);
                    log.acknowledge(number, version);
                }
            });
        }
        scope.spawn(move || {
            // Begins anew with a shrink to nothing.
            loop {
                let count = log.get(APPENDED).0 + 1;
                log.begin(APPENDED, count);
                append(appended, count);
                log.acknowledge(APPENDED, count);
            }
        });
        scope.spawn(move || {
            loop {
                volume.sync(Sync::Data).unwrap();
                appended.sync(Sync::All).unwrap();
            }
        });
        loop {
            let count = log.get(SNAPSHOTS).0 + 1;
            log.begin(SNAPSHOTS, count);
            store.snapshot_all(&name(&format!("s{count}")), &BTreeMap::new()).unwrap();
            log.acknowledge(SNAPSHOTS + count, count);
            std::thread::sleep(Duration::from_millis(30));
        }
    });
}

fn content(read: impl Fn(&mut [u8], u64) -> usize, size: u64) -> Vec<u8> {
    let mut bytes = vec![0xee; size as usize];
    assert_eq!(read(&mut bytes, 0) as u64, size);
    bytes
}

/// Compares the store with the log, and settles the log on what is there.
fn check(store: &Store, log: &Log, sums: &mut BTreeMap<String, u32>) {
    let volume = store.volume(&name("v")).unwrap();
    let bytes = content(|buf, at| volume.read_at(buf, at).unwrap(), BLOCKS * BLOCK);
    for (number, found) in (0..).zip(bytes.as_chunks::<{ BLOCK as usize }>().0) {
        let (begun, acknowledged) = log.get(number);
        let is = |version| found[..] == block_of(number, version)[..];
        let mixed = begun % 8 == 0 && begun != acknowledged && {
            let (old, new) = (block_of(number, acknowledged), block_of(number, begun));
            (0..=1000).any(|n| n % 8 == 0 && found[..n] == new[..n] && found[n..] == old[n..])
                || (1000..=4096).any(|n| found[..n] == new[..n] && found[n..] == old[n..])
        };
        assert!(
            is(acknowledged) || is(begun) || mixed,
            "block {number}: begun {begun}, acknowledged {acknowledged}, found {:?}",
            &found[..24]
        );
    }

    let volume = store.volume(&name("a")).unwrap();
    let (begun, acknowledged) = log.get(APPENDED);
    let found = content(|buf, at| volume.read_at(buf, at).unwrap(), volume.stat().size);
    assert!(
        found == expected(acknowledged) || found == expected(begun),
        "appends: begun {begun}, acknowledged {acknowledged}, {} bytes, expected {} or {}",
        found.len(),
        expected(acknowledged).len(),
        expected(begun).len()
    );
    // What growing shows is zeros.
    let size = found.len() as u64;
    volume.set_size(size + 20_000).unwrap();
    let tail = content(|buf, at| volume.read_at(buf, at + size).unwrap(), 20_000);
    assert!(tail.iter().all(|byte| *byte == 0), "behind the end there was something");
    volume.set_size(size).unwrap();
    settle(&store.volume(&name("v")).unwrap(), &volume, log);

    let (begun, _) = log.get(SNAPSHOTS);
    let sets: Vec<String> = store.snapshot_sets().into_iter().map(|set| set.name.to_string()).collect();
    let is_there = |count: u64| log.get(SNAPSHOTS + count).1 == 0 || sets.contains(&format!("s{count}"));
    assert!((1..=begun).all(is_there), "{begun} sets were begun, found {sets:?}");
    assert!(sets.len() as u64 <= begun, "{begun} sets were begun, found {sets:?}");
    for set in sets {
        assert_eq!(store.snapshots_in(&name(&set)).len(), 2, "snapshot {set} is not whole");
        let mut sum = 0;
        for file in ["v", "a"] {
            let snapshot = store.open_snapshot(&name(&set), &name(file)).unwrap();
            let bytes = content(|buf, at| snapshot.read_at(buf, at).unwrap(), snapshot.stat().size);
            sum = crc32c::crc32c_append(sum, &bytes);
            if file == "v" {
                for (number, block) in (0..).zip(bytes.as_chunks::<{ BLOCK as usize }>().0) {
                    let first = u64::from_le_bytes(block[..8].try_into().unwrap());
                    assert!(first == number || first == 0, "snapshot {set}: block {number} has {first}");
                }
            }
        }
        assert_eq!(*sums.entry(set.clone()).or_insert(sum), sum, "snapshot {set} changed");
    }
}

#[test]
fn sigkill_loses_nothing_that_was_acknowledged() {
    let variable = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = variable("OUTCROP_TEST_SEED").unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    eprintln!("OUTCROP_TEST_SEED={seed}");
    let end = Instant::now() + Duration::from_secs(variable("OUTCROP_TEST_SECONDS").unwrap_or(5));
    let mut random = Random(seed);
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path());
    let store = Store::open(&dir.path().join("store"), &options()).unwrap();
    let new = |size| NewVolume { size: Some(size), image: None, mode: 0o600, uid: 0, gid: 0 };
    store.create_volume(&name("v"), &new(BLOCKS * BLOCK)).unwrap();
    store.create_volume(&name("a"), &new(0)).unwrap();
    store.close().unwrap();
    drop(store);
    let mut sums = BTreeMap::new();
    while Instant::now() < end {
        // One kill or a few, the later ones while the store repairs itself.
        for kill in 0..=random.below(3) {
            let mut victim = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture", "victim"])
                .env(DIR, dir.path())
                .env("OUTCROP_TEST_SEED", random.below(u64::MAX).to_string())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_millis(random.below(if kill == 0 { 400 } else { 40 })));
            assert!(victim.try_wait().unwrap().is_none(), "the victim ended by itself");
            victim.kill().unwrap();
            victim.wait().unwrap();
        }
        let store = Store::open(&dir.path().join("store"), &options()).unwrap();
        check(&store, &log, &mut sums);
        let bad: Vec<_> = store.doctor().unwrap().into_iter().filter(|f| f.severity == Severity::Error).collect();
        assert!(bad.is_empty(), "{bad:?}");
        if random.below(2) == 0 {
            store.close().unwrap();
        }
    }
}
