//! Writers on several volumes, a crash in the middle of them, and what must be there afterwards.

use crate::oracle::{Content, Oracle, SECTOR};
use crate::{Rng, TestStore};
use rustix::fs::{FallocateFlags, fallocate};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Sectors of each volume: 4 MiB.
const SECTORS: usize = 8192;
/// The most snapshots that are made, so that checking all of them stays quick.
const SNAPSHOTS_MAX: u64 = 24;

/// What a crash may not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Every acknowledged write: the daemon is killed.
    Acknowledged,
    /// What was synced: the power is cut.
    Synced,
}

/// One volume, its legal contents, and its snapshots' exact ones.
#[derive(Debug)]
struct Writer {
    name: String,
    oracle: Oracle,
    /// Snapshots that were acknowledged.
    made: BTreeMap<String, Content>,
    /// One that was being made when the crash came: whole, or absent.
    making: Option<(String, Content)>,
}

/// Volumes that are only made, renamed and removed.
#[derive(Debug, Default)]
struct Namer {
    /// Name → the byte that it is filled with.
    names: BTreeMap<String, u8>,
    /// How it would be after the operation that was under way.
    next: Option<BTreeMap<String, u8>>,
}

/// The volumes of a store that will crash many times.
#[derive(Debug)]
pub struct Workload {
    promise: Promise,
    writers: Vec<Writer>,
    namer: Namer,
    snapshots: AtomicU64,
}

impl Workload {
    /// Makes `volumes` volumes in a mounted store.
    #[track_caller]
    pub fn new(store: &TestStore, promise: Promise, volumes: usize) -> Self {
        let writers = (0..volumes).map(|i| {
            let name = format!("volume{i}");
            let file = File::create_new(store.file(&name)).unwrap_or_else(|error| panic!("creating {name}: {error}"));
            let sized = file.set_len((SECTORS * SECTOR) as u64).and_then(|()| file.sync_all());
            sized.unwrap_or_else(|error| panic!("sizing {name}: {error}"));
            Writer { name, oracle: Oracle::new(i as u64 + 1, SECTORS), made: BTreeMap::new(), making: None }
        });
        let writers = writers.collect();
        Self { promise, writers, namer: Namer::default(), snapshots: AtomicU64::new(0) }
    }

    /// Writes on all volumes for a random time, then has `crash` end it. Errors are a failure until then.
    pub fn run(&mut self, store: &TestStore, rng: &mut Rng, crash: impl FnOnce()) {
        let ending = AtomicBool::new(false);
        let length = Duration::from_millis(rng.range(20, 700));
        let (promise, snapshots) = (self.promise, &self.snapshots);
        std::thread::scope(|scope| {
            for writer in &mut self.writers {
                let (mut rng, ending) = (rng.fork(), &ending);
                scope.spawn(move || writer.run(store, promise, &mut rng, ending, snapshots));
            }
            let (namer, mut rng, ending) = (&mut self.namer, rng.fork(), &ending);
            scope.spawn(move || namer.run(store, promise, &mut rng, ending));
            // Not a wait for anything: the crash comes at a random instant.
            std::thread::sleep(length);
            ending.store(true, Ordering::SeqCst);
            crash();
        });
    }

    /// Checks a store that was mounted again after the crash: nothing that was promised is missing.
    #[track_caller]
    pub fn check(&mut self, store: &TestStore) {
        for i in 0..self.writers.len() {
            let writer = &mut self.writers[i];
            let bytes = read(&store.file(&writer.name));
            writer.oracle.check_and_pin(&bytes, &writer.name);
            if let Some((name, content)) = writer.making.take()
                && store.set(&name).join(&writer.name).exists()
            {
                writer.made.insert(name, content);
            }
            for (name, content) in &writer.made {
                let what = format!("snapshot {name} of {}", writer.name);
                let bytes = read(&store.set(name).join(&writer.name));
                writer.oracle.check_snapshot(&bytes, content, &what);
            }
            for set in list(&store.mount_point().join(".snapshots")) {
                // Made by another writer while this one wrote: whole sectors of this volume, and all volumes or none.
                let writer = &self.writers[i];
                let bytes = read(&store.set(&set).join(&writer.name));
                writer.oracle.check_plausible(&bytes, &format!("snapshot {set} of {}", writer.name));
            }
        }
        self.namer.check(store);
    }

    /// Snapshots made and acknowledged so far.
    pub fn snapshots(&self) -> usize {
        self.writers.iter().map(|writer| writer.made.len()).sum()
    }
}

impl Writer {
    fn run(&mut self, store: &TestStore, promise: Promise, rng: &mut Rng, ending: &AtomicBool, snapshots: &AtomicU64) {
        let result = File::options().read(true).write(true).open(store.file(&self.name)).and_then(|file| {
            // A crash may have come between cutting the end off and putting it back.
            file.set_len((SECTORS * SECTOR) as u64)?;
            while !ending.load(Ordering::SeqCst) {
                self.step(store, &file, promise, rng, ending, snapshots)?;
            }
            Ok(())
        });
        expect_end(result, ending, &self.name);
    }

    fn step(
        &mut self,
        store: &TestStore,
        file: &File,
        promise: Promise,
        rng: &mut Rng,
        ending: &AtomicBool,
        snapshots: &AtomicU64,
    ) -> io::Result<()> {
        let (first, count) = range(rng);
        let (offset, length) = ((first * SECTOR) as u64, (count * SECTOR) as u64);
        // A sync that returns while the power is going counts for nothing: see `ioctl::cut_power`.
        let counts = || !ending.load(Ordering::SeqCst);
        match rng.below(100) {
            0..60 => {
                let bytes = self.oracle.write(first, count);
                file.write_all_at(&bytes, offset)?;
            }
            60..70 => {
                self.oracle.zero(first, count);
                fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)?;
            }
            70..75 => {
                self.oracle.zero(first, count);
                fallocate(file, FallocateFlags::ZERO_RANGE, offset, length)?;
            }
            75..77 => {
                let cut = first.max(SECTORS - 512);
                self.oracle.zero(cut, SECTORS - cut);
                file.set_len((cut * SECTOR) as u64)?;
                file.set_len((SECTORS * SECTOR) as u64)?;
            }
            77..98 => {
                if rng.one_in(2) {
                    file.sync_all()?
                } else {
                    file.sync_data()?
                }
                if promise == Promise::Synced && counts() {
                    self.oracle.settle();
                }
            }
            _ => {
                let number = snapshots.fetch_add(1, Ordering::Relaxed);
                if number < SNAPSHOTS_MAX {
                    let name = format!("s{number}");
                    self.making = Some((name.clone(), self.oracle.content()));
                    fs::create_dir(store.set(&name))?;
                    if let Some((name, content)) = self.making.take_if(|_| promise == Promise::Acknowledged || counts()) {
                        self.made.insert(name, content);
                        self.oracle.settle();
                    }
                }
            }
        }
        if promise == Promise::Acknowledged {
            self.oracle.settle();
        }
        Ok(())
    }
}

/// Often single blocks, else anything; often in one place, so that blocks are written again and again.
fn range(rng: &mut Rng) -> (usize, usize) {
    let span = if rng.one_in(2) { 256 } else { SECTORS as u64 };
    match rng.below(3) {
        0 => ((rng.below(span / 8) * 8) as usize, 8),
        1 => (rng.below(span - 16) as usize, rng.range(1, 16) as usize),
        _ => {
            let first = rng.below(SECTORS as u64 - 1) as usize;
            (first, (rng.range(1, 600) as usize).min(SECTORS - first))
        }
    }
}

impl Namer {
    fn run(&mut self, store: &TestStore, promise: Promise, rng: &mut Rng, ending: &AtomicBool) {
        let mut result = Ok(());
        while result.is_ok() && !ending.load(Ordering::SeqCst) {
            result = self.step(store, rng);
            if result.is_ok() && (promise == Promise::Acknowledged || !ending.load(Ordering::SeqCst)) {
                self.names = self.next.take().unwrap_or_default();
            }
        }
        expect_end(result, ending, "names");
    }

    fn step(&mut self, store: &TestStore, rng: &mut Rng) -> io::Result<()> {
        let mut next = self.names.clone();
        let any = |rng: &mut Rng| format!("name{}", rng.below(12));
        let (from, to) = (any(rng), any(rng));
        match (rng.below(3), self.names.contains_key(&from)) {
            (_, false) => {
                // Filled and synced under another name first, as careful programs do.
                let byte = rng.range(1, 256) as u8;
                let temporary = store.file("temporary");
                fs::write(&temporary, vec![byte; 10_000])?;
                File::open(&temporary)?.sync_all()?;
                next.insert(from.clone(), byte);
                self.next = Some(next);
                fs::rename(temporary, store.file(from))
            }
            (0, true) => {
                next.remove(&from);
                self.next = Some(next);
                fs::remove_file(store.file(from))
            }
            (_, true) => {
                if let Some(byte) = next.remove(&from) {
                    next.insert(to.clone(), byte);
                }
                self.next = Some(next);
                fs::rename(store.file(from), store.file(to))
            }
        }
    }

    #[track_caller]
    fn check(&mut self, store: &TestStore) {
        let mut found = BTreeMap::new();
        for name in list(store.mount_point()).into_iter().filter(|name| name.starts_with("name")) {
            let bytes = read(&store.file(&name));
            let byte = bytes.first().copied().unwrap_or(0);
            assert!(
                bytes.len() == 10_000 && bytes.iter().all(|&b| b == byte),
                "{name} lost what was synced before it got its name"
            );
            found.insert(name, byte);
        }
        let next = self.next.take();
        assert!(
            found == self.names || next.as_ref() == Some(&found),
            "names are {found:?}; they were {:?}, and would have been {next:?}",
            self.names
        );
        self.names = found;
        let _ = fs::remove_file(store.file("temporary"));
    }
}

#[track_caller]
fn expect_end(result: io::Result<()>, ending: &AtomicBool, who: &str) {
    if let Err(error) = result {
        assert!(ending.load(Ordering::SeqCst), "{who}: failed before any crash: {error}");
    }
}

#[track_caller]
fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

#[track_caller]
fn list(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("listing {}: {error}", directory.display()));
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).filter(|name| name != ".snapshots").collect()
}
