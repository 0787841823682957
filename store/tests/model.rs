//! Random operations on a store beside a model in memory: the volume and every snapshot are compared after each.
//!
//! Between operations the store is closed and opened again, or "killed": its directory is copied while it is open,
//! which is what SIGKILL leaves (the page cache survives), and the test goes on with the copy.
//!
//! `OUTCROP_TEST_SEED=n` replays a run, `OUTCROP_TEST_SECONDS=n` makes it longer.

#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_store::{Allocate, Name, NewVolume, Store, StoreOptions, Sync, Volume};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A small generator that anybody can write again: what a seed does must not change with a library.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // splitmix64 (Steele, Lea, Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

const SIZE_MAX: u64 = 9 << 20;

struct World {
    base: tempfile::TempDir,
    dir: PathBuf,
    /// None only while it is opened again: one that is closed may hold its catalog's lock until it is dropped.
    opened: Option<(Store, Arc<Volume>)>,
    content: Vec<u8>,
    snapshots: BTreeMap<String, Vec<u8>>,
    random: Random,
    copies: u64,
    log: Vec<String>,
}

fn options() -> StoreOptions {
    // A tiny cache, few files and no timer: eviction happens, flushes only where the test says so.
    StoreOptions {
        create: true,
        cache_bytes: 1,
        open_files: 16,
        flush_interval: Duration::from_secs(3600),
        ..StoreOptions::default()
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("store");
        let store = Store::open(&dir, &options()).unwrap();
        let new = NewVolume { size: Some(0), image: None, mode: 0o600, uid: 0, gid: 0 };
        let volume = store.create_volume(&name("v"), &new).unwrap();
        Self {
            base,
            dir,
            opened: Some((store, volume)),
            content: Vec::new(),
            snapshots: BTreeMap::new(),
            random: Random(seed),
            copies: 0,
            log: Vec::new(),
        }
    }

    fn store(&self) -> &Store {
        &self.opened.as_ref().unwrap().0
    }

    fn volume(&self) -> &Volume {
        &self.opened.as_ref().unwrap().1
    }

    fn offset(&mut self) -> u64 {
        let mut offset = self.random.below(SIZE_MAX);
        if self.random.below(2) == 0 {
            offset &= !4095;
        }
        // Near one place, so that operations meet.
        if self.random.below(3) > 0 { offset % (300 << 10) } else { offset }
    }

    fn length(&mut self) -> u64 {
        let length = match self.random.below(4) {
            0 => self.random.below(600) + 1,
            1 => 4096 * (self.random.below(8) + 1),
            2 => self.random.below(70_000) + 1,
            _ => self.random.below(3 << 20) + 1,
        };
        length.min(SIZE_MAX)
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..45 => {
                let (offset, length) = (self.offset(), self.length());
                let byte = (self.random.below(255) + 1) as u8;
                self.log.push(format!("write {length} at {offset}"));
                let data = vec![byte; length as usize];
                if self.random.below(2) == 0 || self.volume().try_write_at(&data, offset).unwrap().is_none() {
                    self.volume().write_at(&data, offset).unwrap();
                }
                let end = (offset + length) as usize;
                if self.content.len() < end {
                    self.content.resize(end, 0);
                }
                self.content[offset as usize..end].fill(byte);
            }
            45..65 => {
                let (offset, length) = (self.offset(), self.length());
                let how = [Allocate::Punch, Allocate::Zero, Allocate::ZeroKeepSize, Allocate::Grow, Allocate::KeepSize]
                    [self.random.below(5) as usize];
                self.log.push(format!("{how:?} {length} at {offset}"));
                self.volume().allocate(how, offset, length).unwrap();
                let end = (offset + length) as usize;
                if matches!(how, Allocate::Zero | Allocate::Grow) && self.content.len() < end {
                    self.content.resize(end, 0);
                }
                if !matches!(how, Allocate::Grow | Allocate::KeepSize) {
                    let end = end.min(self.content.len());
                    if (offset as usize) < end {
                        self.content[offset as usize..end].fill(0);
                    }
                }
            }
            65..75 => {
                let size = if self.random.below(8) == 0 { 0 } else { self.offset() };
                self.log.push(format!("size {size}"));
                self.volume().set_size(size).unwrap();
                self.content.resize(size as usize, 0);
            }
            75..83 => {
                self.log.push("sync".to_owned());
                let what = if self.random.below(2) == 0 { Sync::All } else { Sync::Data };
                self.volume().sync(what).unwrap();
            }
            83..90 => {
                let snapshot = format!("s{}", self.snapshots.len());
                self.log.push(format!("snapshot {snapshot}"));
                self.store().snapshot_all(&name(&snapshot), &BTreeMap::new()).unwrap();
                self.snapshots.insert(snapshot, self.content.clone());
            }
            90..94 => {
                self.log.push("reopen".to_owned());
                self.store().close().unwrap();
                self.open(self.dir.clone());
                assert!(self.store().events().is_empty(), "{:?}", self.store().events());
            }
            _ => {
                self.log.push("kill".to_owned());
                self.copies += 1;
                let copy = self.base.path().join(format!("copy{}", self.copies));
                copy_tree(&self.dir, &copy);
                let old = self.dir.clone();
                self.open(copy);
                std::fs::remove_dir_all(old).unwrap();
            }
        }
    }

    fn open(&mut self, dir: PathBuf) {
        // What the old one does when it is dropped goes to files that nobody looks at again, or it is closed.
        self.opened = None;
        let store = Store::open(&dir, &options()).unwrap();
        let volume = store.volume(&name("v")).unwrap();
        self.opened = Some((store, volume));
        self.dir = dir;
    }

    fn compare(&self) {
        assert_eq!(self.volume().stat().size, self.content.len() as u64);
        same(&self.content, |buf, at| self.volume().read_at(buf, at).unwrap());
        let extents = |data: bool, at| if data { self.volume().seek_data(at) } else { self.volume().seek_hole(at) };
        let shown = holes_are_zeros(&self.content, |data, at| extents(data, at).ok());
        let counted = self.volume().stat().data;
        // After a kill all of the file counts as data until it was counted.
        assert!(counted == shown || counted == (self.content.len() as u64).div_ceil(4096) * 4096, "{counted} {shown}");
        for (snapshot, content) in &self.snapshots {
            let opened = self.store().open_snapshot(&name(snapshot), &name("v")).unwrap();
            assert_eq!(opened.stat().size, content.len() as u64);
            same(content, |buf, at| opened.read_at(buf, at).unwrap());
            let shown = holes_are_zeros(content, |data, at| if data { opened.seek_data(at) } else { opened.seek_hole(at) }.ok());
            assert_eq!(opened.stat().data, shown, "snapshot {snapshot}");
        }
    }
}

/// Compares through reads of odd lengths.
fn same(content: &[u8], read: impl Fn(&mut [u8], u64) -> usize) {
    let mut buf = vec![0xee; 1_000_003];
    let mut at = 0;
    loop {
        let n = read(&mut buf, at as u64);
        if buf[..n] != content[at..at + n] {
            let first = (0..n).find(|i| buf[*i] != content[at + i]).unwrap();
            panic!("byte {} is {}, not {}", at + first, buf[first], content[at + first]);
        }
        at += n;
        if n == 0 {
            break;
        }
    }
    assert_eq!(at, content.len());
}

/// Walks the extents: what is called a hole must be zeros. Gives the bytes of the blocks that are called data.
fn holes_are_zeros(content: &[u8], seek: impl Fn(bool, u64) -> Option<u64>) -> u64 {
    let size = content.len() as u64;
    let (mut at, mut data) = (0, 0);
    while at < size {
        let start = seek(true, at).unwrap_or(size);
        assert!(content[at as usize..start as usize] == vec![0; (start - at) as usize], "a hole at {at}..{start} has data");
        if start == size {
            break;
        }
        let end = seek(false, start).unwrap();
        assert!(end > start);
        data += end.div_ceil(4096) * 4096 - start / 4096 * 4096;
        at = end;
    }
    data
}

fn copy_tree(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

fn run(seed: u64, steps: usize) {
    let mut world = World::new(seed);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for _ in 0..steps {
            world.step();
            world.compare();
        }
    }));
    if let Err(panic) = result {
        eprintln!("the last steps: {:#?}", &world.log[world.log.len().saturating_sub(12)..]);
        eprintln!("replay with OUTCROP_TEST_SEED={seed} cargo test -p outcrop-store --test model");
        std::panic::resume_unwind(panic);
    }
    let findings = world.store().doctor().unwrap();
    let bad: Vec<_> = findings.iter().filter(|f| f.severity == outcrop_store::doctor::Severity::Error).collect();
    assert!(bad.is_empty(), "{bad:?}");
}

#[test]
fn random_operations_match_a_model() {
    let variable = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = variable("OUTCROP_TEST_SEED") {
        return run(seed, 150);
    }
    match variable("OUTCROP_TEST_SECONDS") {
        None => (1..=4).for_each(|seed| run(seed, 80)),
        Some(seconds) => {
            let end = Instant::now() + Duration::from_secs(seconds);
            let mut seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
            while Instant::now() < end {
                run(seed, 150);
                seed += 1;
            }
        }
    }
}
