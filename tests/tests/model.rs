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

#[derive(Default)]
struct Model {
    volumes: Files,
    sets: BTreeMap<String, Files>,
    sets_made: u32,
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
                self.volumes.remove(&name);
                format!("remove {name}")
            }
            72..77 => {
                let to = (*rng.pick(&NAMES)).to_owned();
                fs::rename(&path, store.file(&to)).unwrap();
                let bytes = self.volumes.remove(&name).unwrap();
                self.volumes.insert(to.clone(), bytes);
                format!("rename {name} {to}")
            }
            77..82 => self.copy(store, rng, name),
            82..92 if self.sets.len() < SETS_MAX => {
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
            92..95 => {
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
