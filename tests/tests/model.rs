//! Random operations through the mount against a model in memory; the volumes and every snapshot are compared
//! after each.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::{Rng, TestStore, assert_same_bytes, read_direct, require_mount, seconds};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Instant;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const SIZE_MAX: u64 = 300_000;
const SETS_MAX: usize = 12;

type Files = BTreeMap<String, Vec<u8>>;

/// Something that can be restored: its kind, the volume's name, the snapshot's, and what it holds.
#[derive(Debug, Clone)]
struct Removed {
    kind: &'static str,
    volume: String,
    set: Option<String>,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Model {
    volumes: Files,
    sets: BTreeMap<String, Files>,
    sets_made: u32,
    removed: BTreeMap<u64, Removed>,
}

impl Model {
    /// Does one random operation, on the mount and in the model; says what it was.
    fn step(&mut self, store: &TestStore, rng: &mut Rng) -> String {
        let name = (*rng.pick(&NAMES)).to_owned();
        let path = store.file(&name);
        let (offset, length) = range(rng);
        let Some(bytes) = self.volumes.get_mut(&name) else {
            return self.create(store, rng, name);
        };
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        match rng.below(100) {
            0..35 => {
                let data = rng.bytes(length);
                open().write_all_at(&data, offset).unwrap();
                grow(bytes, offset as usize + length);
                bytes[offset as usize..offset as usize + length].copy_from_slice(&data);
                format!("write {name} {offset}+{length}")
            }
            35..42 => {
                open().set_len(offset).unwrap();
                bytes.resize(offset as usize, 0);
                format!("truncate {name} {offset}")
            }
            42..50 => {
                fallocate(open(), FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length as u64).unwrap();
                clear(bytes, offset as usize, length);
                format!("punch {name} {offset}+{length}")
            }
            50..55 => {
                fallocate(open(), FallocateFlags::ZERO_RANGE, offset, length as u64).unwrap();
                grow(bytes, offset as usize + length);
                clear(bytes, offset as usize, length);
                format!("zero {name} {offset}+{length}")
            }
            55..58 => {
                fallocate(open(), FallocateFlags::empty(), offset, length as u64).unwrap();
                grow(bytes, offset as usize + length);
                format!("allocate {name} {offset}+{length}")
            }
            58..62 => {
                let data = rng.bytes(length.min(5000));
                let mut file = File::options().append(true).open(&path).unwrap();
                std::io::Write::write_all(&mut file, &data).unwrap();
                bytes.extend(data);
                bytes.truncate(SIZE_MAX as usize);
                file.set_len(bytes.len() as u64).unwrap();
                format!("append {name} {length}")
            }
            62..67 => {
                open().sync_all().unwrap();
                format!("fsync {name}")
            }
            67..72 => {
                fs::remove_file(&path).unwrap();
                let bytes = self.volumes.remove(&name).unwrap();
                self.note(store, vec![Removed { kind: "volume", volume: name.clone(), set: None, bytes }]);
                format!("remove {name}")
            }
            72..77 => {
                let to = (*rng.pick(&NAMES)).to_owned();
                fs::rename(&path, store.file(&to)).unwrap();
                let bytes = self.volumes.remove(&name).unwrap();
                if let Some(replaced) = self.volumes.insert(to.clone(), bytes)
                    && name != to
                {
                    self.note(store, vec![Removed { kind: "volume", volume: to.clone(), set: None, bytes: replaced }]);
                }
                format!("rename {name} {to}")
            }
            77..80 => self.copy(store, rng, name),
            80..88 => self.life(store, rng, name),
            88..93 if self.sets.len() < SETS_MAX => {
                self.sets_made += 1;
                let set = format!("s{}", self.sets_made);
                if rng.one_in(3) {
                    store.run(["snapshot", "create", &name, &set]);
                    let files = self.volumes.iter().filter(|(each, _)| **each == name);
                    self.sets.insert(set.clone(), files.map(|(name, bytes)| (name.clone(), bytes.clone())).collect());
                    format!("snapshot {name} as {set}")
                } else {
                    store.snapshot_all(&set);
                    self.sets.insert(set.clone(), self.volumes.clone());
                    format!("snapshot all as {set}")
                }
            }
            93..95 => {
                store.remount();
                "remount".to_owned()
            }
            95..98 => {
                store.kill_and_mount();
                "kill".to_owned()
            }
            _ => {
                store.run(["flush"]);
                "flush".to_owned()
            }
        }
    }

    /// A new volume: empty, or out of a snapshot.
    fn create(&mut self, store: &TestStore, rng: &mut Rng, name: String) -> String {
        let snapshots: Vec<_> =
            self.sets.iter().flat_map(|(set, files)| files.iter().map(move |(file, bytes)| (set, file, bytes))).collect();
        if snapshots.is_empty() || rng.one_in(2) {
            File::create_new(store.file(&name)).unwrap();
            self.volumes.insert(name.clone(), Vec::new());
            return format!("create {name}");
        }
        let (set, file, bytes) = *rng.pick(&snapshots);
        fs::copy(store.set(set).join(file), store.file(&name)).unwrap();
        let said = format!("restore {name} from {set}/{file}");
        let bytes = bytes.clone();
        self.volumes.insert(name, bytes);
        said
    }

    /// `copy_file_range` between two volumes.
    fn copy(&mut self, store: &TestStore, rng: &mut Rng, name: String) -> String {
        let from: Vec<_> = self.volumes.keys().filter(|each| **each != name).cloned().collect();
        if from.is_empty() {
            return "nothing".to_owned();
        }
        let from = rng.pick(&from).clone();
        let source = self.volumes[&from].clone();
        let (mut input, mut output) = (rng.below(source.len() as u64 + 1), rng.below(SIZE_MAX / 2));
        let (begin, at) = (input as usize, output as usize);
        let (file, target) =
            (File::open(store.file(&from)).unwrap(), File::options().write(true).open(store.file(&name)).unwrap());
        let copied =
            rustix::fs::copy_file_range(&file, Some(&mut input), &target, Some(&mut output), SIZE_MAX as usize / 2).unwrap();
        let bytes = self.volumes.get_mut(&name).unwrap();
        if copied > 0 {
            grow(bytes, at + copied);
            bytes[at..at + copied].copy_from_slice(&source[begin..begin + copied]);
        }
        assert!(copied > 0 || begin == source.len(), "a copy of nothing, with something left");
        format!("copy {from} {begin}+{copied} to {name} {at}")
    }

    /// What ends or goes back: deleting, renaming, revert, clone, resize, undo.
    fn life(&mut self, store: &TestStore, rng: &mut Rng, name: String) -> String {
        let sets: Vec<_> = self.sets.keys().cloned().collect();
        let set = (!sets.is_empty()).then(|| rng.pick(&sets).clone());
        match (rng.below(9), set) {
            (0 | 1, Some(set)) => {
                let files = self.sets.remove(&set).unwrap();
                let way = rng.below(3);
                match way {
                    0 => fs::remove_dir(store.set(&set)).unwrap(),
                    1 => drop(store.run(["snapshot", "delete", "--all", &set])),
                    _ => drop(store.run(["snapshot", "delete", "--all", "--now", &set])),
                }
                let gone =
                    files.into_iter().map(|(volume, bytes)| Removed { kind: "snapshot", volume, set: Some(set.clone()), bytes });
                self.note(store, gone.filter(|_| way < 2).collect());
                format!("delete {set} (way {way})")
            }
            (2, Some(set)) if !self.sets[&set].is_empty() => {
                let files: Vec<_> = self.sets[&set].keys().cloned().collect();
                let volume = rng.pick(&files).clone();
                fs::remove_file(store.set(&set).join(&volume)).unwrap();
                let bytes = self.sets.get_mut(&set).unwrap().remove(&volume).unwrap();
                self.note(store, vec![Removed { kind: "snapshot", volume: volume.clone(), set: Some(set.clone()), bytes }]);
                format!("delete {set}/{volume}")
            }
            (3, Some(set)) => {
                self.sets_made += 1;
                let to = format!("s{}", self.sets_made);
                if rng.one_in(2) {
                    fs::rename(store.set(&set), store.set(&to)).unwrap();
                } else {
                    store.run(["snapshot", "rename", &set, &to]);
                }
                let files = self.sets.remove(&set).unwrap();
                self.sets.insert(to.clone(), files);
                format!("rename {set} {to}")
            }
            (4 | 5, _) => {
                let own = store.json(["snapshot", "list", &name]);
                let own = own.as_array().unwrap();
                if own.is_empty() {
                    return "nothing to revert to".to_owned();
                }
                let to = rng.pick(own);
                let (set, file) = (to["name"].as_str().unwrap(), to["volume"].as_str().unwrap());
                store.run(["volume", "revert", &name, set]);
                let bytes = self.sets[set][file].clone();
                let bytes = self.volumes.insert(name.clone(), bytes).unwrap();
                self.note(store, vec![Removed { kind: "revert", volume: name.clone(), set: None, bytes }]);
                format!("revert {name} to {set}/{file}")
            }
            (6, set) => {
                let Some(to) = NAMES.into_iter().find(|name| !self.volumes.contains_key(*name)) else {
                    return "no name".to_owned();
                };
                let file = set.and_then(|set| Some((set.clone(), self.sets[&set].keys().next()?.clone())));
                let (from, bytes) = match file {
                    Some((set, file)) if rng.one_in(2) => (store.set(&set).join(&file), self.sets[&set][&file].clone()),
                    _ => (store.file(&name), self.volumes[&name].clone()),
                };
                store.run(["volume", "clone", from.to_str().unwrap(), to]);
                self.volumes.insert(to.to_owned(), bytes);
                format!("clone {} as {to}", from.display())
            }
            (7, _) => {
                let size = rng.below(SIZE_MAX);
                let text = size.max(1).to_string();
                store.run(["volume", "resize", &name, &text, "--shrink"]);
                self.volumes.get_mut(&name).unwrap().resize(size.max(1) as usize, 0);
                format!("resize {name} {size}")
            }
            _ => self.undo(store, rng),
        }
    }

    /// Restores something; where its place is taken, it must be refused, with nothing changed.
    fn undo(&mut self, store: &TestStore, rng: &mut Rng) -> String {
        let ids: Vec<_> = self.removed.keys().copied().collect();
        if ids.is_empty() {
            return "nothing to undo".to_owned();
        }
        let id = *rng.pick(&ids);
        let removed = self.removed[&id].clone();
        let list = store.json(["snapshot", "list", "--undo"]);
        let entry = list.as_array().unwrap().iter().find(|entry| entry["id"] == id).unwrap().clone();
        // A revert is undone in the volume that it was of, whatever that is called now.
        let volumes = store.json(["volume", "list"]);
        let now =
            volumes.as_array().unwrap().iter().find(|volume| volume["id"] == entry["volume_id"] && volume["state"] == "live");
        let now = now.and_then(|volume| volume["name"].as_str()).map(str::to_owned);
        let what = format!("undo {} {} {:?}", removed.kind, removed.volume, removed.set);
        let output = store.cli(["undo", &id.to_string()]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            assert!(said.contains("exists"), "{what}: {said}");
            let taken = match &removed.set {
                Some(set) => self.sets.contains_key(set),
                None => self.volumes.contains_key(&removed.volume) || now.is_some(),
            };
            assert!(taken, "{what} is refused though its place is free: {said}");
            return format!("{what}: refused");
        }
        self.removed.remove(&id);
        match (removed.kind, &removed.set, now) {
            (_, Some(set), _) => {
                let before = self.sets.entry(set.clone()).or_default().insert(removed.volume.clone(), removed.bytes);
                assert!(before.is_none(), "{what} replaced something");
            }
            ("revert", _, Some(now)) => {
                let bytes = self.volumes.insert(now.clone(), removed.bytes).unwrap();
                self.note(store, vec![Removed { kind: "revert", volume: now, set: None, bytes }]);
            }
            _ => {
                let before = self.volumes.insert(removed.volume.clone(), removed.bytes);
                assert!(before.is_none(), "{what} replaced something");
            }
        }
        what
    }

    /// Learns the numbers of what was removed just now: exactly this must have come to the list.
    #[track_caller]
    fn note(&mut self, store: &TestStore, mut gone: Vec<Removed>) {
        let list = store.json(["snapshot", "list", "--undo"]);
        let mut ids = Vec::new();
        for entry in list.as_array().unwrap() {
            let id = entry["id"].as_u64().unwrap();
            ids.push(id);
            if self.removed.contains_key(&id) {
                continue;
            }
            let is_it = |one: &Removed| {
                entry["kind"] == one.kind && entry["volume"] == *one.volume && entry["snapshot"].as_str() == one.set.as_deref()
            };
            let at = gone.iter().position(is_it).unwrap_or_else(|| panic!("{entry} was not removed just now: {gone:?}"));
            self.removed.insert(id, gone.swap_remove(at));
        }
        assert!(
            gone.is_empty(),
            "can't be restored: {:?}",
            gone.iter().map(|one| (one.kind, &one.volume, &one.set)).collect::<Vec<_>>()
        );
        assert_eq!(ids.len(), self.removed.len(), "something else can no longer be restored");
    }

    /// Compares everything, and checks what else a file tells about itself.
    #[track_caller]
    fn compare(&self, store: &TestStore, after: &str) {
        compare(store.mount_point(), &self.volumes, after);
        let sets = list(&store.mount_point().join(".snapshots"));
        let mut expected: Vec<_> = self.sets.keys().cloned().collect();
        expected.sort();
        assert_eq!(sets, expected, "after {after}");
        for (set, files) in &self.sets {
            compare(&store.set(set), files, after);
        }
    }
}

#[track_caller]
fn compare(directory: &Path, files: &Files, after: &str) {
    assert_eq!(list(directory), files.keys().cloned().collect::<Vec<_>>(), "after {after}: {}", directory.display());
    for (name, bytes) in files {
        let path = directory.join(name);
        let what = format!("after {after}: {}", path.display());
        // Two ways: through the kernel's cache, where it has one, and past it.
        assert_same_bytes(&fs::read(&path).unwrap(), bytes, &what);
        assert_same_bytes(&read_direct(&path), bytes, &what);
        honest(&path, bytes, &what);
    }
}

/// The names in a directory, in order.
fn list(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != ".snapshots").collect();
    names.sort();
    names
}

/// Holes read zeros, and `st_blocks` counts exactly what `SEEK_DATA` tells as data.
#[track_caller]
fn honest(path: &Path, bytes: &[u8], what: &str) {
    let (file, mut at, mut data) = (File::open(path).unwrap(), 0_u64, 0_u64);
    loop {
        let begin = match seek(&file, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            Err(Errno::NXIO) => bytes.len() as u64,
            Err(error) => panic!("{what}: SEEK_DATA: {error}"),
        };
        assert!(bytes[at as usize..begin as usize].iter().all(|&byte| byte == 0), "{what}: a hole at {at} hides data");
        if begin == bytes.len() as u64 {
            break;
        }
        at = seek(&file, SeekFrom::Hole(begin)).unwrap();
        assert!(at > begin, "{what}: data of no length at {begin}");
        data += at.next_multiple_of(4096) - begin / 4096 * 4096;
    }
    assert_eq!(fs::metadata(path).unwrap().blocks() * 512, data, "{what}: st_blocks");
}

fn grow(bytes: &mut Vec<u8>, to: usize) {
    if bytes.len() < to {
        bytes.resize(to, 0);
    }
}

fn clear(bytes: &mut [u8], offset: usize, length: usize) {
    let end = bytes.len().min(offset + length);
    if offset < end {
        bytes[offset..end].fill(0);
    }
}

/// Often whole blocks, often the neighbours of a block's edge, and anything else.
fn range(rng: &mut Rng) -> (u64, usize) {
    let end = SIZE_MAX - 70_000;
    match rng.below(3) {
        0 => (rng.below(end / 4096) * 4096, (rng.range(1, 8) * 4096) as usize),
        1 => (rng.below(end / 4096) * 4096 + rng.range(4090, 4100), rng.range(1, 20) as usize),
        _ => (rng.below(end), rng.range(1, 60_000) as usize),
    }
}

#[test]
fn random_operations_do_what_a_model_does() {
    require_mount!();
    let mut rng = Rng::announced();
    let begun = Instant::now();
    let mut steps = 0;
    while steps == 0 || begun.elapsed() < seconds(20) {
        let store = TestStore::mounted("model");
        let mut model = Model::default();
        let mut done = Vec::new();
        for _ in 0..120 {
            done.push(model.step(&store, &mut rng));
            model.compare(&store, &done[done.len().saturating_sub(12)..].join(", "));
            steps += 1;
        }
        store.check();
    }
    println!("{steps} steps");
}
