//! Every operation, stopped between every two steps: the next open shows the state before or after it, never one between;
//! also when the catalog is lost at that moment.

use super::*;
use crate::catalog::names::settled;
use crate::catalog::operation::Prepared;
use crate::catalog::records::{Removed, RemovedRecord};
use crate::label::{self, Label};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// How far an operation got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Nothing,
    Importing,
    Prepared,
    Made,
    Committed,
    Sealed,
    Proved,
    Promoted,
}

/// A copy of the store's directory at one step.
struct Stopped {
    step: Step,
    dir: PathBuf,
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

/// Two volumes with snapshots, one without, one headless, an image with a user; and of a third volume its head, of both
/// snapshots one, that can be restored.
fn furnish(path: &Path) {
    let fixture = open(path);
    for named in ["a", "b", "gone"] {
        let changes = create(&fixture.catalog.read(), named);
        run(&fixture, changes).unwrap();
    }
    for set in ["monday", "sunday"] {
        let changes = snapshot(&fixture.catalog.read(), set);
        run(&fixture, changes).unwrap();
    }
    let changes = create(&fixture.catalog.read(), "lost");
    run(&fixture, changes).unwrap();
    for remove in [|state: &State| without_head(state, "lost"), |state: &State| without_snapshot(state, "b", "sunday")] {
        let changes = remove(&fixture.catalog.read());
        run(&fixture, changes.clone()).unwrap();
        seal_removed(path, &changes);
    }
    let changes = image(&fixture.catalog.read(), "debian", ImageId::new(), LayerId::new());
    run(&fixture, changes).unwrap();
    for named in ["vm", "plain"] {
        let changes = create(&fixture.catalog.read(), named);
        run(&fixture, changes).unwrap();
    }
    let changes = delete(&fixture.catalog.read(), "gone");
    run(&fixture, changes).unwrap();
    let dropped: Vec<LayerId> = fixture.catalog.read().dropping.iter().copied().collect();
    for id in dropped {
        fs::remove_dir_all(fixture.disk.layer_dir(id)).unwrap();
        fixture.catalog.begin().commit_unlabelled(vec![Change::Dropped(id)]).unwrap();
    }
}

fn kept(state: &State, what: Removed, volume: VolumeId, layer: LayerId) -> Change {
    let serial = state.next_serial;
    Change::PutRemoved(RemovedRecord { serial, group: serial, volume, what, layer, removed_ns: 5, until_ns: 6 })
}

fn without_head(state: &State, named: &str) -> Vec<Change> {
    let before = volume(state, named);
    let keeps = kept(state, Removed::Volume(before.clone()), before.id, before.head.unwrap());
    settled(state, vec![Change::PutVolume(VolumeRecord { head: None, image: None, ..before }), keeps])
}

fn without_snapshot(state: &State, named: &str, set: &str) -> Vec<Change> {
    let before = state.snapshots[&(name(set), volume(state, named).id)].clone();
    let keeps = kept(state, Removed::Snapshot(before.clone()), before.volume, before.layer);
    settled(state, vec![Change::DeleteSnapshot { set: before.set, volume: before.volume }, keeps])
}

/// What can be restored is sealed, at the latest by the next open.
fn seal_removed(path: &Path, changes: &[Change]) {
    for change in changes {
        if let Change::PutRemoved(removed) = change {
            fs::write(path.join("layers").join(removed.layer.to_string()).join("sealed"), b"").unwrap();
        }
    }
}

/// What of a volume can be restored, the only one of its kind.
fn removed_of(state: &State, is_it: impl Fn(&Removed) -> bool) -> RemovedRecord {
    state.removed.values().find(|removed| is_it(&removed.what)).unwrap().clone()
}

/// Runs the operation and keeps a copy after every step.
fn stops(base: &Path, operation: &dyn Fn(&State) -> Vec<Change>, import: bool) -> Vec<Stopped> {
    let live = base.join("live");
    let mut stopped = Vec::new();
    let mut stop = |step: Step| {
        let dir = base.join(format!("{step:?}"));
        copy(&live, &dir);
        stopped.push(Stopped { step, dir });
    };
    let fixture = open(&live);
    stop(Step::Nothing);
    let changes = settled(&fixture.catalog.read(), operation(&fixture.catalog.read()));
    let prepared: Prepared<'_> = if import {
        let Change::PutImage(record) = &changes[1] else { panic!("an import puts an image") };
        let begun = fixture.catalog.begin_import(record.id, record.layer).unwrap();
        fs::create_dir(fixture.disk.layer_dir(record.layer)).unwrap();
        stop(Step::Importing);
        make_layers(&live, &changes);
        fixture.catalog.begin().prepare_import(begun, changes.clone()).unwrap()
    } else {
        fixture.catalog.prepare(changes.clone()).unwrap()
    };
    stop(Step::Prepared);
    make_layers(&live, &changes);
    stop(Step::Made);
    let committed = prepared.commit().unwrap();
    stop(Step::Committed);
    seal(&live, &changes);
    stop(Step::Sealed);
    committed.prove().unwrap();
    stop(Step::Proved);
    committed.promote().unwrap();
    stop(Step::Promoted);
    drop(fixture);
    stopped
}

/// Stops between two steps: any of the labels that the second step writes may be written already.
fn mixtures(base: &Path, from: &Stopped, to: &Stopped) -> Vec<Stopped> {
    let labels = |dir: &Path| -> BTreeSet<PathBuf> {
        ["volumes", "images"]
            .iter()
            .flat_map(|sub| fs::read_dir(dir.join(sub)).unwrap().map(move |e| Path::new(sub).join(e.unwrap().file_name())))
            .collect()
    };
    let read = |dir: &Path, file: &Path| fs::read(dir.join(file)).ok();
    let changed: Vec<PathBuf> =
        labels(&from.dir).union(&labels(&to.dir)).filter(|file| read(&from.dir, file) != read(&to.dir, file)).cloned().collect();
    let mut stopped = Vec::new();
    for mask in 0..1_u32 << changed.len() {
        let taken: Vec<&PathBuf> = changed.iter().enumerate().filter(|(i, _)| mask & 1 << i != 0).map(|(_, file)| file).collect();
        // Removals come after all that is written, each a step of its own.
        let removes = |file: &Path| !to.dir.join(file).exists();
        if taken.iter().any(|file| removes(file)) && changed.iter().any(|file| !removes(file) && !taken.contains(&file)) {
            continue;
        }
        let dir = base.join(format!("{:?}-{:?}-{mask}", from.step, to.step));
        copy(&from.dir, &dir);
        for file in taken {
            match read(&to.dir, file) {
                Some(bytes) => fs::write(dir.join(file), bytes).unwrap(),
                None => fs::remove_file(dir.join(file)).unwrap(),
            }
        }
        // With a label promoted the operation is proved.
        let step = if from.step >= Step::Committed && mask != 0 { Step::Proved } else { from.step };
        stopped.push(Stopped { step, dir });
    }
    stopped
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The labels are exactly what the catalog says.
fn assert_labels(fixture: &Fixture, what: &str) {
    let labels = label::read_all(&fixture.disk).unwrap();
    assert!(labels.bad.is_empty(), "{what}");
    let state = fixture.catalog.read();
    assert_eq!(labels.good.len(), state.volumes.len() + state.images.len(), "{what}");
    for label in labels.good {
        let mut expected = Label::of(&fixture.disk, label.member, &state);
        let mut found = label;
        // The next serial is of the time of writing.
        for entry in [&mut expected, &mut found].into_iter().filter_map(|label| label.current.as_mut()) {
            entry.next_serial = 0;
        }
        assert_eq!(found, expected, "{what}");
    }
}

/// Opens with the catalog as it is.
fn check(stopped: &Stopped, before: &str, after: &str, what: &str) {
    let what = format!("{what}, stopped at {}", stopped.dir.file_name().unwrap().display());
    let fixture = open(&stopped.dir);
    assert!(!fixture.recovery.rebuilt && fixture.recovery.damage.is_empty(), "{what}: {:?}", fixture.recovery);
    let expected = if stopped.step >= Step::Committed { after } else { before };
    let state = fixture.catalog.read();
    assert!(view(&state) == expected, "{what}");
    let known: BTreeSet<String> = state.layers.keys().chain(&state.dropping).map(LayerId::to_string).collect();
    assert!(names(&stopped.dir.join("layers")).is_subset(&known), "{what}: a layer is left over");
    assert!(known.is_subset(&names(&stopped.dir.join("layers"))), "{what}: a layer was lost");
    assert!(names(&stopped.dir.join("lost+found")).is_empty(), "{what}");
    drop(state);
    assert_labels(&fixture, &what);
    drop(fixture);
    let again = open(&stopped.dir);
    assert!(again.recovery.repaired.is_empty(), "{what}: repaired twice: {:?}", again.recovery);
    assert!(view(&again.catalog.read()) == expected, "{what}");
}

/// Opens with the catalog lost.
fn check_rebuilt(stopped: &Stopped, before: &str, after: &str, what: &str) {
    let what = format!("{what}, stopped at {}, without the catalog", stopped.dir.file_name().unwrap().display());
    let dir = stopped.dir.with_extension("lost");
    copy(&stopped.dir, &dir);
    fs::remove_dir_all(dir.join("catalog")).unwrap();
    let layers = names(&dir.join("layers"));
    let fixture = open(&dir);
    assert!(fixture.recovery.rebuilt, "{what}");
    let found = view(&fixture.catalog.read());
    if stopped.step >= Step::Proved {
        assert!(found == after, "{what}: what may have been acknowledged is lost");
    } else if stopped.step < Step::Prepared {
        assert!(found == before, "{what}");
    } else {
        assert!(found == before || found == after, "{what}: neither before nor after");
    }
    assert_labels(&fixture, &what);
    drop(fixture);
    let again = open(&dir);
    assert!(!again.recovery.rebuilt && again.recovery.repaired.is_empty(), "{what}: {:?}", again.recovery);
    assert!(view(&again.catalog.read()) == found, "{what}");
    assert_eq!(names(&dir.join("layers")), layers, "{what}: a layer was touched after a rebuild");
}

fn check_all(what: &str, operation: &dyn Fn(&State) -> Vec<Change>, import: bool) {
    let base = tempfile::tempdir().unwrap();
    furnish(&base.path().join("live"));
    let stopped = stops(base.path(), operation, import);
    // The views, from copies that nobody repaired anything in.
    let before = view(&open_copy(base.path(), &stopped[0].dir).catalog.read());
    let after = view(&open_copy(base.path(), &stopped.last().unwrap().dir).catalog.read());
    assert!(before != after, "{what} changes nothing");
    let find = |step: Step| stopped.iter().find(|stopped| stopped.step == step).unwrap();
    let begin = if import { Step::Importing } else { Step::Nothing };
    let mut all = mixtures(base.path(), find(begin), find(Step::Prepared));
    all.extend(mixtures(base.path(), find(Step::Committed), find(Step::Promoted)));
    all.extend(mixtures(base.path(), find(Step::Sealed), find(Step::Promoted)));
    for stopped in all.iter().chain(&stopped) {
        check_rebuilt(stopped, &before, &after, what);
        check(stopped, &before, &after, what);
    }
}

fn open_copy(base: &Path, dir: &Path) -> Fixture {
    let path = base.join("view");
    if path.exists() {
        fs::remove_dir_all(&path).unwrap();
    }
    copy(dir, &path);
    open(&path)
}

#[test]
fn creating_is_whole_or_not_at_all() {
    check_all("create", &|state| create(state, "new"), false);
}

#[test]
fn creating_again_on_a_headless_lineage_is_whole_or_not_at_all() {
    check_all("create again", &|state| create(state, "gone"), false);
}

#[test]
fn renaming_is_whole_or_not_at_all() {
    check_all("rename", &|state| vec![Change::PutVolume(VolumeRecord { name: Some(name("new")), ..volume(state, "a") })], false);
}

#[test]
fn replacing_by_a_rename_is_whole_or_not_at_all() {
    // With snapshots the replaced one stays, nameless; without it goes.
    for (from, to) in [("a", "b"), ("vm", "plain"), ("a", "plain"), ("plain", "a")] {
        let replace = |state: &State| {
            let mut changes = delete(state, to);
            if let Some(Change::PutVolume(replaced)) = changes.last_mut() {
                replaced.name = None;
            }
            changes.push(Change::PutVolume(VolumeRecord { name: Some(name(to)), ..volume(state, from) }));
            changes
        };
        check_all(&format!("rename {from} over {to}"), &replace, false);
    }
}

#[test]
fn exchanging_names_is_whole_or_not_at_all() {
    let exchange = |state: &State| {
        let (a, b) = (volume(state, "a"), volume(state, "b"));
        let names = (a.name.clone(), b.name.clone());
        vec![Change::PutVolume(VolumeRecord { name: names.1, ..a }), Change::PutVolume(VolumeRecord { name: names.0, ..b })]
    };
    check_all("exchange", &exchange, false);
}

#[test]
fn a_snapshot_of_several_is_whole_or_not_at_all() {
    check_all("snapshot", &|state| snapshot(state, "tuesday"), false);
}

#[test]
fn deleting_is_whole_or_not_at_all() {
    check_all("delete with snapshots left", &|state| delete(state, "a"), false);
    check_all("delete without snapshots", &|state| delete(state, "plain"), false);
}

#[test]
fn deleting_with_all_snapshots_is_whole_or_not_at_all() {
    let all = |state: &State| {
        let volume = volume(state, "a");
        let mut changes: Vec<Change> =
            state.snapshots_of(volume.id).map(|s| Change::DeleteSnapshot { set: s.set.clone(), volume: volume.id }).collect();
        changes
            .extend(state.layers_of(crate::catalog::records::Member::Volume(volume.id)).iter().map(|l| Change::DropLayer(l.id)));
        changes.push(Change::DeleteVolume(volume.id));
        changes
    };
    check_all("delete all", &all, false);
}

#[test]
fn an_import_is_whole_or_not_at_all() {
    check_all("import", &|state| image(state, "fedora", ImageId::new(), LayerId::new()), true);
}

#[test]
fn deleting_an_image_is_whole_or_not_at_all() {
    let base = |state: &State| {
        let image = state.image_named(&name("debian")).unwrap();
        let mut changes: Vec<Change> = delete(state, "vm").into_iter().chain(delete(state, "plain")).collect();
        changes.extend([Change::DeleteImage(image.id), Change::DropLayer(image.layer)]);
        changes
    };
    check_all("delete an image and all on it", &base, false);
}

#[test]
fn a_change_of_mode_is_whole_or_not_at_all() {
    check_all("chmod", &|state| vec![Change::PutVolume(VolumeRecord { mode: 0o600, ..volume(state, "a") })], false);
}

#[test]
fn deleting_what_can_be_restored_is_whole_or_not_at_all() {
    check_all("delete, kept", &|state| without_head(state, "plain"), false);
    check_all("delete with snapshots left, kept", &|state| without_head(state, "b"), false);
    check_all("delete a snapshot, kept", &|state| without_snapshot(state, "b", "monday"), false);
}

#[test]
fn deleting_a_whole_snapshot_is_whole_or_not_at_all() {
    let delete = |state: &State, set: &str| {
        let key = |snapshot: &SnapshotRecord| Change::DeleteSnapshot { set: snapshot.set.clone(), volume: snapshot.volume };
        let mut changes: Vec<Change> = state.snapshots_in(&name(set)).map(key).collect();
        changes.push(Change::DeleteSet(name(set)));
        changes
    };
    check_all("delete a snapshot of some", &|state| delete(state, "monday"), false);
    // The last ones of a headless volume take the volume along, and layers under it.
    let both = |state: &State| {
        let key = |snapshot: &SnapshotRecord| Change::DeleteSnapshot { set: snapshot.set.clone(), volume: snapshot.volume };
        state.snapshots_of(volume(state, "gone").id).map(key).collect()
    };
    check_all("delete the last snapshots of a headless volume", &both, false);
}

#[test]
fn renaming_a_snapshot_is_whole_or_not_at_all() {
    let rename = |state: &State| {
        let set = state.sets[&name("monday")].clone();
        let mut changes = vec![Change::PutSet(SetRecord { name: name("mon"), ..set })];
        for snapshot in state.snapshots_in(&name("monday")) {
            changes.push(Change::DeleteSnapshot { set: snapshot.set.clone(), volume: snapshot.volume });
            changes.push(Change::PutSnapshot(SnapshotRecord { set: name("mon"), ..snapshot.clone() }));
        }
        changes.push(Change::DeleteSet(name("monday")));
        changes
    };
    check_all("rename a snapshot", &rename, false);
}

#[test]
fn a_revert_is_whole_or_not_at_all() {
    for keep in [true, false] {
        let revert = |state: &State| {
            let before = volume(state, "b");
            let new = layer(Some(state.snapshots[&(name("monday"), before.id)].layer));
            let keeps = kept(state, Removed::Revert(before.clone()), before.id, before.head.unwrap());
            let mut changes = vec![Change::PutLayer(new), Change::PutVolume(VolumeRecord { head: Some(new.id), ..before })];
            changes.extend(Some(keeps).filter(|_| keep));
            changes
        };
        check_all("revert", &revert, false);
    }
}

#[test]
fn a_clone_is_whole_or_not_at_all() {
    let of = |state: &State, layer: LayerId| {
        let head = self::layer(Some(layer));
        let (id, serial) = (VolumeId::new(), state.next_serial);
        let record = VolumeRecord { id, serial, name: Some(name("clone")), head: Some(head.id), ..volume(state, "b") };
        vec![Change::PutLayer(head), Change::PutVolume(record)]
    };
    let of_volume = |state: &State| {
        let before = volume(state, "b");
        let own = layer(before.head);
        let mut changes = of(state, before.head.unwrap());
        changes.extend([Change::PutLayer(own), Change::PutVolume(VolumeRecord { head: Some(own.id), ..before })]);
        changes
    };
    check_all("clone of a volume", &of_volume, false);
    let of_snapshot = |state: &State| of(state, state.snapshots[&(name("monday"), volume(state, "b").id)].layer);
    check_all("clone of a snapshot", &of_snapshot, false);
}

#[test]
fn restoring_and_giving_up_are_whole_or_not_at_all() {
    let volume_back = |state: &State| {
        let removed = removed_of(state, |what| matches!(what, Removed::Volume(_)));
        let Removed::Volume(before) = removed.what else { panic!("it is a volume") };
        let head = layer(Some(removed.layer));
        vec![
            Change::DeleteRemoved { serial: removed.serial, volume: removed.volume },
            Change::PutLayer(head),
            Change::PutVolume(VolumeRecord { head: Some(head.id), ..before }),
        ]
    };
    check_all("restore a volume", &volume_back, false);
    let snapshot_back = |state: &State| {
        let removed = removed_of(state, |what| matches!(what, Removed::Snapshot(_)));
        let Removed::Snapshot(before) = removed.what else { panic!("it is a snapshot") };
        vec![Change::DeleteRemoved { serial: removed.serial, volume: removed.volume }, Change::PutSnapshot(before)]
    };
    check_all("restore a snapshot", &snapshot_back, false);
    let expire = |state: &State| {
        let all = state.removed.values();
        all.map(|removed| Change::DeleteRemoved { serial: removed.serial, volume: removed.volume }).collect()
    };
    check_all("expire", &expire, false);
}
