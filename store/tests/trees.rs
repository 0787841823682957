//! Random trees: snapshots, writes, resizes, reverts, clones, deletes, undos and expiries in any order, with reopenings, copies
//! as a kill would leave them, and lost catalogs in between. After each step every name that is left has the bytes it must
//! have, and at the end deleting everything leaves nothing.
//!
//! `OUTCROP_TEST_SEED=n` begins with that seed, `OUTCROP_TEST_SECONDS=n` runs longer.

#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_store::doctor::Severity;
use outcrop_store::{
    Allocate, CloneSource, DeleteVolume, Error, Keep, Name, NewVolume, Owner, RemovedKind, RenameMode, Revert, SnapshotSelector,
    Store, StoreOptions, Sync,
};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::time::{Duration, Instant};

/// The largest size: a few chunks of resolution, few enough bytes to compare all the time.
const SIZE_MAX: u64 = 5 << 20;
const VOLUMES: u64 = 5;
const SETS: u64 = 6;

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

    fn one_of<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() { None } else { Some(of[self.below(of.len() as u64) as usize].clone()) }
    }

    /// Mostly an edge of a block or near it.
    fn offset(&mut self, end: u64) -> u64 {
        let block = self.below(end / 4096 + 1) * 4096;
        if self.below(2) == 0 { block.min(end) } else { (block + self.below(4096)).min(end) }
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

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

/// What there must be.
#[derive(Default, Clone)]
struct Model {
    volumes: BTreeMap<String, Vec<u8>>,
    /// By set and file; with whose lineage it belongs to, in the store's words.
    snapshots: BTreeMap<(String, String), (String, Vec<u8>)>,
    /// By serial.
    removed: BTreeMap<u64, Vec<u8>>,
}

struct Tree {
    dir: tempfile::TempDir,
    store: Option<Store>,
    model: Model,
    random: Random,
    log: Vec<String>,
}

impl Tree {
    fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), &options()).unwrap();
        Self { dir, store: Some(store), model: Model::default(), random: Random(seed), log: Vec::new() }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn volume(&mut self) -> Option<String> {
        let all: Vec<String> = self.model.volumes.keys().cloned().collect();
        self.random.one_of(&all)
    }

    fn snapshot(&mut self) -> Option<(String, String)> {
        let all: Vec<_> = self.model.snapshots.keys().cloned().collect();
        self.random.one_of(&all)
    }

    fn keep(&mut self) -> Keep {
        if self.random.below(3) == 0 { Keep::Now } else { Keep::ForUndo }
    }

    fn lineage(&self, volume: &str) -> String {
        self.store().volume_info(&name(volume)).unwrap().id.to_string()
    }

    /// After something was taken away: the records that are new keep these bytes.
    fn keeps(&mut self, bytes: impl Fn(&outcrop_store::RemovedInfo) -> Vec<u8>) {
        for info in self.store().removed() {
            self.model.removed.entry(info.serial).or_insert_with(|| bytes(&info));
        }
    }

    fn step(&mut self) {
        match self.random.below(24) {
            0 | 1 => self.create(),
            2..=7 => self.write(),
            8 => self.resize(),
            9 | 10 => self.take(),
            11 => self.take_all(),
            12 | 13 => self.clone_one(),
            14 | 15 => self.revert(),
            16 => self.delete_volume(),
            17 | 18 => self.delete_snapshots(),
            19 => self.rename(),
            20 | 21 => self.undo(),
            22 => self.give_up(),
            _ => self.reopen(),
        }
    }

    fn create(&mut self) {
        let volume = format!("v{}", self.random.below(VOLUMES));
        let size = self.random.offset(SIZE_MAX);
        let new = NewVolume { size: Some(size), image: None, mode: 0o600, uid: 0, gid: 0 };
        let done = self.store().create_volume(&name(&volume), &new);
        self.log.push(format!("create {volume} {size}"));
        if let Entry::Vacant(entry) = self.model.volumes.entry(volume) {
            done.unwrap();
            entry.insert(vec![0; size as usize]);
        } else {
            assert!(matches!(done, Err(Error::Exists { .. })));
        }
    }

    fn write(&mut self) {
        let Some(volume) = self.volume() else { return };
        let open = self.store().volume(&name(&volume)).unwrap();
        for _ in 0..=self.random.below(4) {
            let offset = self.random.offset(SIZE_MAX / 2);
            let length = 1 + self.random.offset(40_000);
            let byte = 1 + self.random.below(255) as u8;
            let punch = self.random.below(4) == 0;
            self.log.push(format!("{} {volume} {offset}+{length} {byte}", if punch { "punch" } else { "write" }));
            let bytes = self.model.volumes.get_mut(&volume).unwrap();
            if punch {
                open.allocate(Allocate::Punch, offset, length).unwrap();
                let end = (offset + length).min(bytes.len() as u64);
                if offset < end {
                    bytes[offset as usize..end as usize].fill(0);
                }
            } else {
                open.write_at(&vec![byte; length as usize], offset).unwrap();
                let end = (offset + length) as usize;
                bytes.resize(bytes.len().max(end), 0);
                bytes[offset as usize..end].fill(byte);
            }
        }
        if self.random.below(3) == 0 {
            open.sync(Sync::Data).unwrap();
        }
    }

    fn resize(&mut self) {
        let Some(volume) = self.volume() else { return };
        let size = self.random.offset(SIZE_MAX);
        self.log.push(format!("resize {volume} {size}"));
        self.store().volume(&name(&volume)).unwrap().set_size(size).unwrap();
        self.model.volumes.get_mut(&volume).unwrap().resize(size as usize, 0);
    }

    fn take(&mut self) {
        let Some(volume) = self.volume() else { return };
        let set = format!("s{}", self.random.below(SETS));
        self.log.push(format!("snapshot {set}/{volume}"));
        let lineage = self.lineage(&volume);
        let taken =
            self.model.snapshots.iter().any(|((other, file), (of, _))| *other == set && (*file == volume || *of == lineage));
        let done = self.store().snapshot(&name(&volume), &name(&set), &BTreeMap::new());
        if taken {
            assert!(matches!(done, Err(Error::Exists { .. })));
        } else {
            done.unwrap();
            self.model.snapshots.insert((set, volume.clone()), (lineage, self.model.volumes[&volume].clone()));
        }
    }

    fn take_all(&mut self) {
        let set = format!("s{}", self.random.below(SETS));
        self.log.push(format!("snapshot {set} of all"));
        let exists = self.store().snapshot_set(&name(&set)).is_ok();
        let done = self.store().snapshot_all(&name(&set), &BTreeMap::new());
        assert_eq!(done.is_err(), exists, "{done:?}");
        if !exists {
            for (volume, bytes) in self.model.volumes.clone() {
                let lineage = self.lineage(&volume);
                self.model.snapshots.insert((set.clone(), volume), (lineage, bytes));
            }
        }
    }

    fn clone_one(&mut self) {
        let to = format!("v{}", self.random.below(VOLUMES));
        let of_snapshot = self.random.below(2) == 0;
        let (from, bytes) = if of_snapshot {
            let Some((set, file)) = self.snapshot() else { return };
            let bytes = self.model.snapshots[&(set.clone(), file.clone())].1.clone();
            (CloneSource::Snapshot { set: name(&set), volume_name: name(&file) }, bytes)
        } else {
            let Some(volume) = self.volume() else { return };
            (CloneSource::Volume(name(&volume)), self.model.volumes[&volume].clone())
        };
        self.log.push(format!("clone {from:?} {to}"));
        let done = self.store().clone_volume(&from, &name(&to));
        if let Entry::Vacant(entry) = self.model.volumes.entry(to) {
            done.unwrap();
            entry.insert(bytes);
        } else {
            assert!(matches!(done, Err(Error::Exists { .. })));
        }
    }

    fn revert(&mut self) {
        let Some(volume) = self.volume() else { return };
        let lineage = self.lineage(&volume);
        let own: Vec<_> = self.model.snapshots.iter().filter(|(_, (of, _))| *of == lineage).map(|(key, _)| key.clone()).collect();
        let Some(key) = self.random.one_of(&own) else { return };
        let keep = self.keep();
        self.log.push(format!("revert {volume} to {key:?} {keep:?}"));
        let handle = self.store().volume(&name(&volume)).unwrap().handle().unwrap();
        let busy = self.store().revert(&name(&volume), &name(&key.0), Revert { force: false, keep });
        assert!(matches!(busy, Err(Error::Busy { .. })), "{busy:?}");
        let force = self.random.below(2) == 0;
        let handle = Some(handle).filter(|_| force);
        self.store().revert(&name(&volume), &name(&key.0), Revert { force, keep }).unwrap();
        if let Some(handle) = handle {
            assert!(matches!(handle.write_at(b"late", 0), Err(Error::Stale { .. })));
        }
        let bytes = self.model.snapshots[&key].1.clone();
        let before = self.model.volumes.insert(volume, bytes).unwrap();
        self.keeps(|_| before.clone());
    }

    fn delete_volume(&mut self) {
        let Some(volume) = self.volume() else { return };
        let keep = self.keep();
        let all = self.random.below(4) == 0;
        self.log.push(format!("delete {volume} {} {keep:?}", if all { "with snapshots" } else { "" }));
        let lineage = self.lineage(&volume);
        let what = if all { DeleteVolume::WithSnapshots } else { DeleteVolume::Head };
        self.store().delete_volume(&name(&volume), what, keep).unwrap();
        let bytes = self.model.volumes.remove(&volume).unwrap();
        let own = |(of, _): &(String, Vec<u8>)| all && *of == lineage;
        let gone: BTreeMap<_, _> = self
            .model
            .snapshots
            .iter()
            .filter(|(_, snapshot)| own(snapshot))
            .map(|(key, s)| (key.clone(), s.1.clone()))
            .collect();
        self.model.snapshots.retain(|_, snapshot| !own(snapshot));
        self.keeps(|info| kept_of(info, &gone).unwrap_or_else(|| bytes.clone()));
    }

    fn delete_snapshots(&mut self) {
        let keep = self.keep();
        let mut which = Vec::new();
        for _ in 0..=self.random.below(3) {
            let Some((set, file)) = self.snapshot() else { return };
            let whole = self.random.below(2) == 0;
            which.push(SnapshotSelector { set: name(&set), volume: (!whole).then(|| name(&file)) });
        }
        self.log.push(format!("delete {which:?} {keep:?}"));
        self.store().delete_snapshots(&which, keep).unwrap();
        let goes = |(set, file): &(String, String)| {
            which.iter().any(|one| one.set == name(set) && one.volume.as_ref().is_none_or(|volume| *volume == name(file)))
        };
        let gone: BTreeMap<_, _> =
            self.model.snapshots.iter().filter(|(key, _)| goes(key)).map(|(key, s)| (key.clone(), s.1.clone())).collect();
        self.model.snapshots.retain(|key, _| !goes(key));
        self.keeps(|info| kept_of(info, &gone).unwrap());
    }

    fn rename(&mut self) {
        if self.random.below(2) == 0 {
            let Some((from, _)) = self.snapshot() else { return };
            let to = format!("s{}", self.random.below(SETS));
            self.log.push(format!("rename snapshot {from} {to}"));
            let taken = from != to && self.store().snapshot_set(&name(&to)).is_ok();
            let done = self.store().rename_snapshots(&name(&from), &name(&to));
            assert_eq!(done.is_err(), taken, "{done:?}");
            if !taken {
                let all = std::mem::take(&mut self.model.snapshots);
                let renamed = |(set, file): (String, String)| (if set == from { to.clone() } else { set }, file);
                self.model.snapshots = all.into_iter().map(|(key, snapshot)| (renamed(key), snapshot)).collect();
            }
            return;
        }
        let Some(from) = self.volume() else { return };
        let to = format!("v{}", self.random.below(VOLUMES));
        if from == to {
            return;
        }
        self.log.push(format!("rename {from} over {to}"));
        self.store().rename_volume(&name(&from), &name(&to), RenameMode::Replace).unwrap();
        let bytes = self.model.volumes.remove(&from).unwrap();
        let replaced = self.model.volumes.insert(to, bytes);
        self.keeps(|_| replaced.clone().unwrap());
    }

    fn undo(&mut self) {
        let all = self.store().removed();
        let Some(info) = self.random.one_of(&all) else { return };
        let file = info.volume_name.as_ref().map_or_else(|| info.volume.to_string(), Name::to_string);
        let new = (self.random.below(2) == 0).then(|| if info.set.is_some() { "s5" } else { "v4" });
        self.log.push(format!("undo {info:?} as {new:?}"));
        let done = self.store().undo(&[info.serial], new.map(name).as_ref());
        if let Err(error) = done {
            assert!(matches!(error, Error::Exists { .. }), "{error}");
            return;
        }
        let bytes = self.model.removed.remove(&info.serial).unwrap();
        match info.kind {
            RemovedKind::Snapshot => {
                let set = new.map_or_else(|| info.set.unwrap().to_string(), str::to_owned);
                self.model.snapshots.insert((set, file), (info.volume.to_string(), bytes));
            }
            RemovedKind::Volume => {
                assert!(self.model.volumes.insert(new.map_or(file, str::to_owned), bytes).is_none());
            }
            RemovedKind::Revert => {
                // In place, if the volume is still there under whatever name; else as a volume of its name then.
                let now = self.store().volumes().into_iter().find(|volume| volume.id == info.volume && volume.live);
                let name_now = now.and_then(|volume| volume.name).map(|name| name.to_string());
                let target = new.map(str::to_owned).or(name_now).unwrap_or(file);
                let before = self.model.volumes.insert(target, bytes);
                self.keeps(|_| before.clone().unwrap());
            }
        }
    }

    fn give_up(&mut self) {
        let serials: Vec<u64> = self.store().removed().iter().map(|info| info.serial).collect();
        let some: Vec<u64> = serials.into_iter().filter(|_| self.random.below(2) == 0).collect();
        self.log.push(format!("give up {some:?}"));
        self.store().forget_removed(&some).unwrap();
        some.iter().for_each(|serial| drop(self.model.removed.remove(serial)));
    }

    /// Closed and opened; or as a kill leaves it, with the catalog or without.
    fn reopen(&mut self) {
        let how = self.random.below(4);
        self.log.push(format!("reopen {how}"));
        let path = self.dir.path().join("store");
        if how == 0 {
            self.store().close().unwrap();
            self.store = None;
        } else {
            // What a kill leaves: the files as they are. Nobody writes, and what is removed or merged meanwhile is as with
            // a kill a little later or earlier; so a copy that missed something is made again.
            let copy = self.dir.path().join("copy");
            loop {
                let _ = std::fs::remove_dir_all(&copy);
                let before = listing(&path);
                let done = std::process::Command::new("cp").arg("-a").arg(&path).arg(&copy).output().unwrap();
                if done.status.success() && before == listing(&path) {
                    break;
                }
            }
            self.store = None;
            std::fs::remove_dir_all(&path).unwrap();
            std::fs::rename(&copy, &path).unwrap();
        }
        let rebuild_catalog = how == 3;
        let store = Store::open(&path, &StoreOptions { rebuild_catalog, ..options() }).unwrap();
        self.store = Some(store);
    }

    fn check(&self) {
        let store = self.store();
        let names: Vec<String> = store.volumes().into_iter().filter(|v| v.live).map(|v| v.name.unwrap().to_string()).collect();
        assert!(names.iter().eq(self.model.volumes.keys()), "{names:?}");
        for (volume, bytes) in &self.model.volumes {
            let open = store.volume(&name(volume)).unwrap();
            same(|buf, at| open.read_at(buf, at).unwrap(), open.stat().size, bytes, volume);
            holes(|at| open.seek_data(at), |at| open.seek_hole(at), bytes, volume);
        }
        let mut files: Vec<_> = store.snapshots().iter().map(|s| (s.name.to_string(), s.volume_name.to_string())).collect();
        files.sort();
        assert!(files.iter().eq(self.model.snapshots.keys()), "{files:?}");
        for ((set, file), (_, bytes)) in &self.model.snapshots {
            let open = store.open_snapshot(&name(set), &name(file)).unwrap();
            let shown = format!("{set}/{file}");
            same(|buf, at| open.read_at(buf, at).unwrap(), open.stat().size, bytes, &shown);
            holes(|at| open.seek_data(at), |at| open.seek_hole(at), bytes, &shown);
        }
        let removed: Vec<u64> = store.removed().iter().map(|info| info.serial).collect();
        assert!(removed.iter().eq(self.model.removed.keys()), "{removed:?}");
        self.check_space();
    }

    /// Every name has its part, beside whatever is merged at this moment: it shows as data what its file says that it does.
    fn check_space(&self) {
        let store = self.store();
        let report = store.space_report().unwrap();
        assert_eq!(report.unreadable, Vec::<String>::new());
        let names = self.model.volumes.len() + self.model.snapshots.len() + self.model.removed.len();
        assert_eq!(report.names.len(), names, "{report:#?}");
        assert_eq!(report.held, report.alone + report.shared + report.unseen + report.merging + report.dropping, "{report:#?}");
        for found in &report.names {
            let taken = found.taken.unwrap();
            let stat = match &found.owner {
                Owner::Volume { name, .. } => store.volume(name).unwrap().stat(),
                Owner::Snapshot { set, taken_as, .. } => store.open_snapshot(set, taken_as).unwrap().stat(),
                _ => continue,
            };
            // While that is counted anew after a crash, the file says that it is all data.
            let is_counted = stat.data != stat.size.next_multiple_of(4096);
            assert!(taken.data == stat.data || !is_counted, "{} bytes by stat: {found:#?}\n{report:#?}", stat.data);
            assert!(taken.alone <= taken.data && found.size == stat.size, "{found:#?}");
        }
    }

    /// Everything deleted: no layer is left, and no label.
    fn end(&mut self) {
        for info in self.store().removed() {
            self.log.push(format!("last undo {info:?}"));
            // Each shows what it kept, under a new name.
            let bytes = self.model.removed[&info.serial].clone();
            let new = if info.set.is_some() { "last-set" } else { "last" };
            if self.store().undo(&[info.serial], Some(&name(new))).is_err() {
                continue;
            }
            let file = info.volume_name.as_ref().map_or_else(|| info.volume.to_string(), Name::to_string);
            if info.set.is_some() {
                let open = self.store().open_snapshot(&name(new), &name(&file)).unwrap();
                same(|buf, at| open.read_at(buf, at).unwrap(), open.stat().size, &bytes, "restored snapshot");
                let which = SnapshotSelector { set: name(new), volume: None };
                self.store().delete_snapshots(&[which], Keep::Now).unwrap();
            } else {
                let open = self.store().volume(&name(new)).unwrap();
                same(|buf, at| open.read_at(buf, at).unwrap(), open.stat().size, &bytes, "restored volume");
                self.store().delete_volume(&name(new), DeleteVolume::Head, Keep::Now).unwrap();
            }
        }
        let findings = self.store().doctor().unwrap();
        assert!(findings.iter().all(|finding| finding.severity < Severity::Error), "{findings:?}");
        let sets = self.store().snapshot_sets();
        let which: Vec<_> = sets.into_iter().map(|set| SnapshotSelector { set: set.name, volume: None }).collect();
        self.store().delete_snapshots(&which, Keep::Now).unwrap();
        for volume in self.model.volumes.keys() {
            self.store().delete_volume(&name(volume), DeleteVolume::Head, Keep::Now).unwrap();
        }
        let rest: Vec<u64> = self.store().removed().iter().map(|info| info.serial).collect();
        self.store().forget_removed(&rest).unwrap();
        let path = self.dir.path().join("store");
        let begin = Instant::now();
        // What a rebuild found unknown is left to a person; there is none, since no operation was cut off here.
        while std::fs::read_dir(path.join("layers")).unwrap().count() > 0 {
            assert!(begin.elapsed() < Duration::from_secs(300), "{:?}", listing(&path.join("layers")));
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(std::fs::read_dir(path.join("volumes")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(path.join("lost+found")).unwrap().count(), 0);
    }
}

/// What a restorable snapshot keeps, if it is one of these.
fn kept_of(info: &outcrop_store::RemovedInfo, gone: &BTreeMap<(String, String), Vec<u8>>) -> Option<Vec<u8>> {
    let (set, file) = (info.set.as_ref()?, info.volume_name.as_ref()?);
    gone.get(&(set.to_string(), file.to_string())).cloned()
}

/// Names, sizes and times of all files.
fn listing(path: &Path) -> Vec<u8> {
    let listed = std::process::Command::new("find").arg(path).args(["-printf", "%P %s %T@ %C@\n"]).output().unwrap();
    listed.stdout
}

/// What is shown as holes has zeros only, and data and holes take turns.
fn holes(
    seek_data: impl Fn(u64) -> outcrop_store::Result<u64>,
    seek_hole: impl Fn(u64) -> outcrop_store::Result<u64>,
    expected: &[u8],
    what: &str,
) {
    let size = expected.len() as u64;
    let mut at = 0;
    while at < size {
        let data = match seek_data(at) {
            Err(Error::NoExtent { .. }) => size,
            data => data.unwrap(),
        };
        let zeros = expected[at as usize..data as usize].iter().all(|byte| *byte == 0);
        assert!(zeros, "{what}: bytes {at} to {data} are shown as a hole");
        at = if data < size { seek_hole(data).unwrap() } else { size };
        assert!(at > data || at == size, "{what}: data at {data} ends at {at}");
    }
}

fn same(read: impl Fn(&mut [u8], u64) -> usize, size: u64, expected: &[u8], what: &str) {
    assert_eq!(size, expected.len() as u64, "{what}");
    let mut bytes = vec![0xee; expected.len()];
    assert_eq!(read(&mut bytes, 0), expected.len(), "{what}");
    if let Some(at) = bytes.iter().zip(expected).position(|(found, expected)| found != expected) {
        panic!("{what}: byte {at} is {}, expected {}", bytes[at], expected[at]);
    }
}

#[test]
fn random_trees_keep_every_remaining_name_as_it_was() {
    let variable = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let mut seed = variable("OUTCROP_TEST_SEED").unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    let end = Instant::now() + Duration::from_secs(variable("OUTCROP_TEST_SECONDS").unwrap_or(5));
    loop {
        eprintln!("OUTCROP_TEST_SEED={seed}");
        let mut tree = Tree::new(seed);
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..60 {
                tree.step();
                tree.check();
            }
            tree.end();
        }));
        if let Err(panic) = tried {
            eprintln!("{}", tree.log.join("\n"));
            std::panic::resume_unwind(panic);
        }
        if Instant::now() >= end {
            break;
        }
        seed = seed.wrapping_add(1);
    }
}
