//! A process that works on a store is killed at any moment, and the next open shows what it had acknowledged, or one
//! operation more: with the catalog as it is, and with the catalog lost at that very moment.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_store::{
    CloneSource, DeleteVolume, Keep, Name, NewVolume, RenameMode, Revert, SnapshotSelector, Store, StoreOptions, Sync, Volume,
};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

const DIR: &str = "OUTCROP_TEST_KILLED_DIR";
const FROM: &str = "OUTCROP_TEST_KILLED_FROM";

/// What the operations do, by number: always the same.
#[derive(Debug, Clone, PartialEq)]
enum Operation {
    Create(String),
    Write(String, u64),
    Snapshot(String),
    Rename(String, String),
    Exchange(String, String),
    Delete(String),
    DeleteKept(String),
    Restore(String),
    Clone(String, String),
    Revert(String, String),
    DeleteSet(String, Keep),
    RestoreSet(String),
    RenameSet(String, String),
}

/// The names and the number that each volume holds.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    volumes: BTreeMap<String, u64>,
    snapshots: BTreeMap<(String, String), u64>,
    /// What was deleted and can be restored, the latest last: a volume by its name, or the files of a snapshot.
    deleted: Vec<(String, BTreeMap<String, u64>)>,
}

impl Model {
    fn operation(&self, number: u64) -> Operation {
        let mut names = self.volumes.keys().cloned();
        let (first, last) = (names.next(), names.next_back());
        let set = |back: u64| format!("r{}", number.saturating_sub(back));
        let restorable = |name: &String| self.deleted.iter().any(|(deleted, _)| deleted == name);
        let gone = self.deleted.iter().rev().map(|(name, _)| name).find(|name| !self.volumes.contains_key(*name));
        let is_set = |set: &String| self.snapshots.keys().any(|(other, _)| other == set);
        if number % 40 >= 20 && number % 40 < 30 {
            // In this order, so that each has what it works on: nothing else happens to these in between.
            return match (number % 10, first) {
                (0, Some(_)) => Operation::Snapshot(set(0)),
                (1, Some(first)) => Operation::Write(first, number),
                (2, Some(first)) if is_set(&set(2)) => Operation::Revert(first, set(2)),
                (3, Some(_)) if is_set(&set(3)) => Operation::DeleteSet(set(3), Keep::ForUndo),
                (4, Some(_)) if restorable(&set(4)) => Operation::RestoreSet(set(4)),
                (5, Some(_)) if is_set(&set(5)) => Operation::RenameSet(set(5), format!("q{number}")),
                (6, Some(_)) if is_set(&format!("q{}", number - 1)) => {
                    Operation::DeleteSet(format!("q{}", number - 1), Keep::Now)
                }
                (7, Some(first)) => Operation::DeleteKept(first),
                (8, _) if gone.is_some() => Operation::Restore(gone.unwrap().clone()),
                (9, Some(first)) => Operation::Clone(first, format!("c{number}")),
                _ => Operation::Create(format!("v{:04}", number * 7919 % 10_000)),
            };
        }
        match (number % 10, first, last) {
            (1 | 4 | 7, Some(first), _) => Operation::Write(first, number),
            (2 | 8, Some(_), Some(last)) if number % 20 == 2 => Operation::Write(last, number),
            (2 | 8, Some(_), _) => Operation::Snapshot(format!("s{number}")),
            (3, Some(first), Some(last)) if number % 20 == 3 => Operation::Rename(last, first),
            (3, Some(first), _) => Operation::Rename(first, format!("r{number}")),
            (5, Some(first), Some(last)) => Operation::Exchange(first, last),
            (6, Some(_), Some(last)) => Operation::Delete(last),
            _ => Operation::Create(format!("v{:04}", number * 7919 % 10_000)),
        }
    }

    fn apply(&mut self, operation: &Operation) {
        match operation.clone() {
            Operation::Create(name) => {
                self.volumes.insert(name, 0);
            }
            Operation::Write(name, value) => {
                self.volumes.insert(name, value);
            }
            Operation::Snapshot(set) => {
                self.snapshots.extend(self.volumes.iter().map(|(name, value)| ((set.clone(), name.clone()), *value)));
            }
            Operation::Rename(from, to) => {
                let value = self.volumes.remove(&from).unwrap();
                if let Some(replaced) = self.volumes.insert(to.clone(), value) {
                    self.deleted.push((to.clone(), BTreeMap::from([(to, replaced)])));
                }
            }
            Operation::Exchange(a, b) => {
                let (of_a, of_b) = (self.volumes[&a], self.volumes[&b]);
                self.volumes.extend([(a, of_b), (b, of_a)]);
            }
            Operation::Delete(name) => {
                self.volumes.remove(&name);
            }
            Operation::DeleteKept(name) => {
                let value = self.volumes.remove(&name).unwrap();
                self.deleted.push((name.clone(), BTreeMap::from([(name, value)])));
            }
            Operation::Restore(name) => {
                let files = self.take_deleted(&name);
                self.volumes.extend(files);
            }
            Operation::Clone(from, to) => {
                self.volumes.insert(to, self.volumes[&from]);
            }
            Operation::Revert(name, set) => {
                self.volumes.insert(name.clone(), self.snapshots[&(set, name)]);
            }
            Operation::DeleteSet(set, keep) => {
                let (gone, left) = std::mem::take(&mut self.snapshots).into_iter().partition(|((of, _), _)| *of == set);
                self.snapshots = left;
                if keep == Keep::ForUndo {
                    let gone: BTreeMap<_, _> = gone;
                    self.deleted.push((set, gone.into_iter().map(|((_, file), value)| (file, value)).collect()));
                }
            }
            Operation::RestoreSet(set) => {
                let files = self.take_deleted(&set);
                self.snapshots.extend(files.into_iter().map(|(file, value)| ((set.clone(), file), value)));
            }
            Operation::RenameSet(from, to) => {
                let all = std::mem::take(&mut self.snapshots).into_iter();
                let renamed = |set: String| if set == from { to.clone() } else { set };
                self.snapshots = all.map(|((set, file), value)| ((renamed(set), file), value)).collect();
            }
        }
    }

    fn take_deleted(&mut self, name: &str) -> BTreeMap<String, u64> {
        let last = self.deleted.iter().rposition(|(deleted, _)| deleted == name).unwrap();
        self.deleted.remove(last).1
    }

    fn after(count: u64) -> Self {
        let mut model = Self::default();
        for number in 0..count {
            let operation = model.operation(number);
            model.apply(&operation);
        }
        model
    }

    /// What a store really shows.
    fn of(store: &Store) -> Self {
        let number = |read: &dyn Fn(&mut [u8])| {
            let mut bytes = [0; 8];
            read(&mut bytes);
            u64::from_le_bytes(bytes)
        };
        let mut model = Self::default();
        for info in store.volumes().into_iter().filter(|info| info.live) {
            let volume = store.volume_by_id(info.id).unwrap();
            let value = number(&|bytes| assert_eq!(volume.read_at(bytes, 4096).unwrap(), 8));
            model.volumes.insert(info.name.unwrap().to_string(), value);
        }
        for info in store.snapshots() {
            let snapshot = store.open_snapshot(&info.name, &info.volume_name).unwrap();
            let value = number(&|bytes| assert_eq!(snapshot.read_at(bytes, 4096).unwrap(), 8));
            model.snapshots.insert((info.name.to_string(), info.volume_name.to_string()), value);
        }
        // Their content shows when they are restored.
        let mut groups: BTreeMap<u64, (String, BTreeMap<String, u64>)> = BTreeMap::new();
        for info in store.removed() {
            let file = info.volume_name.unwrap().to_string();
            let of = info.set.map_or_else(|| file.clone(), |set| set.to_string());
            groups.entry(info.group).or_insert_with(|| (of, BTreeMap::new())).1.insert(file, 0);
        }
        model.deleted = groups.into_values().collect();
        model
    }
}

fn run(store: &Store, operation: &Operation) {
    let name = |text: &str| Name::new(text).unwrap();
    match operation {
        Operation::Create(new) => {
            let new_volume = NewVolume { size: Some(1 << 20), image: None, mode: 0o644, uid: 0, gid: 0 };
            store.create_volume(&name(new), &new_volume).map(drop).unwrap();
        }
        Operation::Write(to, value) => {
            let volume: std::sync::Arc<Volume> = store.volume(&name(to)).unwrap();
            volume.write_at(&value.to_le_bytes(), 4096).unwrap();
            // Acknowledged either way while the machine stays up.
            if value % 2 == 0 {
                volume.sync(Sync::Data).unwrap();
            }
        }
        Operation::Snapshot(set) => store.snapshot_all(&name(set), &BTreeMap::new()).map(drop).unwrap(),
        Operation::Rename(from, to) => store.rename_volume(&name(from), &name(to), RenameMode::Replace).unwrap(),
        Operation::Exchange(a, b) => store.rename_volume(&name(a), &name(b), RenameMode::Exchange).unwrap(),
        Operation::Delete(old) => store.delete_volume(&name(old), DeleteVolume::Head, Keep::Now).unwrap(),
        Operation::DeleteKept(old) => store.delete_volume(&name(old), DeleteVolume::Head, Keep::ForUndo).unwrap(),
        Operation::Restore(old) => restore(store, Some(&name(old)), None),
        Operation::Clone(from, to) => {
            store.clone_volume(&CloneSource::Volume(name(from)), &name(to)).map(drop).unwrap();
        }
        Operation::Revert(volume, set) => {
            store.revert(&name(volume), &name(set), Revert { force: true, keep: Keep::Now }).unwrap();
        }
        Operation::DeleteSet(set, keep) => {
            let which = SnapshotSelector { set: name(set), volume: None };
            store.delete_snapshots(&[which], *keep).map(drop).unwrap();
        }
        Operation::RestoreSet(set) => restore(store, None, Some(&name(set))),
        Operation::RenameSet(from, to) => store.rename_snapshots(&name(from), &name(to)).unwrap(),
    }
}

fn restore(store: &Store, volume: Option<&Name>, set: Option<&Name>) {
    let serials: Vec<u64> = store.removed_by_name(volume, set).unwrap().iter().map(|removed| removed.serial).collect();
    store.undo(&serials, None).map(drop).unwrap();
}

fn open(path: &Path) -> Store {
    Store::open(path, &StoreOptions { create: true, floor_bytes: 0, ..StoreOptions::default() }).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else if entry.file_name() != "reserve" {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Not a test of its own: the process that is killed.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let from: u64 = std::env::var(FROM).unwrap().parse().unwrap();
    let store = open(Path::new(&dir));
    let mut model = Model::after(from);
    for number in from.. {
        let operation = model.operation(number);
        run(&store, &operation);
        model.apply(&operation);
        println!("\ndone {}", number + 1);
        std::io::stdout().flush().unwrap();
    }
}

/// How many operations the store shows: `done`, or one more.
fn shown(store: &Store, done: u64, what: &str) -> u64 {
    let found = Model::of(store);
    let expected = |count: u64| {
        let mut model = Model::after(count);
        model.deleted.iter_mut().flat_map(|(_, files)| files.values_mut()).for_each(|value| *value = 0);
        model
    };
    let count = (done..=done + 1).find(|count| expected(*count) == found);
    count.unwrap_or_else(|| {
        let next = Model::after(done).operation(done);
        panic!("{what}: after {done} operations, {next:?} under way: {found:#?}\ninstead of {:#?}", Model::after(done))
    })
}

#[test]
fn every_acknowledged_operation_survives_sigkill_with_and_without_the_catalog() {
    let (mut base, mut done) = (tempfile::tempdir().unwrap(), 0);
    // More of them: OUTCROP_ROUNDS=300 cargo test -p outcrop-store --test killed
    let rounds = std::env::var("OUTCROP_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(30_u64);
    for round in 0..rounds {
        // Snapshots add up: a new store now and then.
        if round % 30 == 29 {
            (base, done) = (tempfile::tempdir().unwrap(), 0);
        }
        let dir = base.path().join("store");
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "victim"])
            .env(DIR, &dir)
            .env(FROM, done.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let goal = done + 1 + round * 5 % 7;
        let number = |line: &str| line.strip_prefix("done ").map(|number| number.parse::<u64>().unwrap());
        while done < goal {
            let line = lines.next().expect("the victim ended by itself").unwrap();
            done = number(&line).unwrap_or(done);
        }
        // Somewhere in what it does next; nothing depends on where.
        std::thread::sleep(std::time::Duration::from_micros(round * 613 % 4000));
        victim.kill().unwrap();
        victim.wait().unwrap();
        // What it had said before it died.
        for line in lines {
            done = number(&line.unwrap()).unwrap_or(done);
        }

        let lost = base.path().join("lost");
        copy(&dir, &lost);
        fs::remove_dir_all(lost.join("catalog")).unwrap();
        let store = open(&lost);
        let what = format!("round {round}, catalog lost");
        let events = store.events();
        assert!(events.iter().any(|event| event.message.contains("made again")), "{what}");
        shown(&store, done, &what);
        store.close().unwrap();
        fs::remove_dir_all(&lost).unwrap();

        let store = open(&dir);
        done = shown(&store, done, &format!("round {round}"));
        let findings = store.doctor().unwrap();
        let bad = |check: &str| ["labels", "serials", "maps", "faults", "orphans"].contains(&check);
        for finding in findings.iter().filter(|finding| bad(&finding.check)) {
            assert!(finding.severity == outcrop_store::doctor::Severity::Ok, "round {round}: {finding:?}");
        }
        store.close().unwrap();
    }
}
