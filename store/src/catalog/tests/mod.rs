//! Tests of the catalog: a store of empty layers (a directory each, with a file `sealed` once it is sealed).
#![expect(clippy::unwrap_used, reason = "a test may")]

mod crash;
mod damage;
mod full;
mod kill;

use super::records::{Change, ImageRecord, LayerRecord, SetRecord, SnapshotRecord, VolumeRecord};
use super::state::State;
use super::{Catalog, LayerEvidence, Recovery};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::ids::{ImageId, LayerId, VolumeId};
use crate::name::Name;
use crate::store::StoreOptions;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// An open store without volumes' content.
pub(crate) struct Fixture {
    pub disk: Arc<Disk>,
    pub catalog: Catalog,
    pub recovery: Recovery,
}

pub(crate) fn open(path: &Path) -> Fixture {
    open_with(path, false)
}

pub(crate) fn open_with(path: &Path, rebuild: bool) -> Fixture {
    let (disk, _) = Disk::open(path, &StoreOptions { create: true, floor_bytes: 0, ..StoreOptions::default() }).unwrap();
    let (catalog, recovery) = Catalog::open(&disk, rebuild, &|layer| evidence(path, layer)).unwrap();
    Fixture { disk, catalog, recovery }
}

/// As the header of a layer would tell.
fn evidence(path: &Path, layer: LayerId) -> LayerEvidence {
    let dir = path.join("layers").join(layer.to_string());
    match (dir.join("sealed").exists(), dir.exists()) {
        (true, _) => LayerEvidence::Sealed,
        (false, true) => LayerEvidence::Writable,
        _ => LayerEvidence::Missing,
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// The layers that the changes make, as directories; an image's is sealed at once.
pub(crate) fn make_layers(path: &Path, changes: &[Change]) {
    for change in changes {
        if let Change::PutLayer(layer) = change {
            fs::create_dir_all(path.join("layers").join(layer.id.to_string())).unwrap();
        }
    }
    for change in changes {
        if let Change::PutImage(image) = change {
            fs::write(path.join("layers").join(image.layer.to_string()).join("sealed"), b"").unwrap();
        }
    }
}

/// Seals what new layers stand on.
pub(crate) fn seal(path: &Path, changes: &[Change]) {
    for change in changes {
        if let Change::PutLayer(LayerRecord { parent: Some(parent), .. }) = change {
            fs::write(path.join("layers").join(parent.to_string()).join("sealed"), b"").unwrap();
        }
    }
}

/// A whole operation.
pub(crate) fn run(fixture: &Fixture, changes: Vec<Change>) -> Result<()> {
    let prepared = fixture.catalog.prepare(changes.clone())?;
    make_layers(&fixture.disk.path, &changes);
    let committed = prepared.commit()?;
    seal(&fixture.disk.path, &changes);
    committed.promote()
}

pub(crate) fn layer(parent: Option<LayerId>) -> LayerRecord {
    LayerRecord { id: LayerId::new(), parent, revision: 0 }
}

/// Changes that make a volume, on an image or on nothing.
pub(crate) fn create(state: &State, named: &str) -> Vec<Change> {
    let image = state.images.values().next();
    let head = layer(image.map(|image| image.layer));
    let volume = match state.volume_named(&name(named)) {
        Some(headless) => VolumeRecord { head: Some(head.id), image: image.map(|image| image.id), ..headless.clone() },
        None => VolumeRecord {
            id: VolumeId::new(),
            serial: state.next_serial,
            name: Some(name(named)),
            head: Some(head.id),
            mode: 0o644,
            uid: 0,
            gid: 0,
            created_ns: 1,
            ctime_ns: 1,
            image: image.map(|image| image.id),
        },
    };
    vec![Change::PutLayer(head), Change::PutVolume(volume)]
}

/// Changes that snapshot every live volume.
pub(crate) fn snapshot(state: &State, set: &str) -> Vec<Change> {
    let mut changes = vec![Change::PutSet(SetRecord { name: name(set), serial: state.next_serial, created_ns: 2 })];
    for (serial, volume) in (state.next_serial + 1..).zip(state.live_volumes()) {
        let head = layer(volume.head);
        changes.push(Change::PutSnapshot(SnapshotRecord {
            set: name(set),
            volume: volume.id,
            taken_as: volume.name.clone().unwrap(),
            layer: volume.head.unwrap(),
            serial,
            created_ns: 2,
            mode: volume.mode,
            uid: 0,
            gid: 0,
            labels: BTreeMap::from([("why".to_owned(), "test".to_owned())]),
        }));
        changes.push(Change::PutLayer(head));
        changes.push(Change::PutVolume(VolumeRecord { head: Some(head.id), ..volume.clone() }));
    }
    changes
}

pub(crate) fn volume(state: &State, named: &str) -> VolumeRecord {
    state.volume_named(&name(named)).unwrap().clone()
}

/// Changes that remove a volume's head; with it the volume, if it has no snapshots.
pub(crate) fn delete(state: &State, named: &str) -> Vec<Change> {
    let volume = volume(state, named);
    let mut changes = vec![Change::DropLayer(volume.head.unwrap())];
    changes.push(match state.snapshot_count(volume.id) {
        0 => Change::DeleteVolume(volume.id),
        _ => Change::PutVolume(VolumeRecord { head: None, ..volume }),
    });
    changes
}

pub(crate) fn image(state: &State, named: &str, id: ImageId, layer: LayerId) -> Vec<Change> {
    let record = LayerRecord { id: layer, parent: None, revision: 0 };
    let image = ImageRecord {
        id,
        serial: state.next_serial,
        name: name(named),
        layer,
        size: 4096,
        data: 4096,
        sha256: "00".repeat(32),
        format: "raw".to_owned(),
        created_ns: 3,
    };
    vec![Change::PutLayer(record), Change::PutImage(image)]
}

/// All records, comparable. What a rebuild can't know is left out.
pub(crate) fn view(state: &State) -> String {
    format!("{:#?}", (&state.volumes, &state.snapshots, &state.removed, &state.sets, &state.images, &state.layers))
}

#[test]
fn what_is_committed_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = open(dir.path());
    assert!(fixture.recovery.repaired.is_empty(), "{:?}", fixture.recovery);
    for named in ["a", "b"] {
        let changes = create(&fixture.catalog.read(), named);
        run(&fixture, changes).unwrap();
    }
    let changes = snapshot(&fixture.catalog.read(), "monday");
    run(&fixture, changes).unwrap();
    let (before, serial) = (view(&fixture.catalog.read()), fixture.catalog.read().next_serial);
    drop(fixture);
    let fixture = open(dir.path());
    let state = fixture.catalog.read();
    assert_eq!(view(&state), before);
    assert_eq!(state.next_serial, serial);
    assert!(fixture.recovery.repaired.is_empty() && fixture.recovery.damage.is_empty(), "{:?}", fixture.recovery);
    let a = volume(&state, "a");
    assert_eq!(state.chain(a.head.unwrap()).len(), 2);
    assert_eq!(state.snapshot_named(&name("monday"), &name("a")).unwrap().volume, a.id);
    assert_eq!(state.snapshots_in(&name("monday")).count(), 2);
    assert_eq!(state.child_count(state.chain(a.head.unwrap())[0]), 1);
}

#[test]
fn a_name_belongs_to_one() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = open(dir.path());
    for named in ["a", "b"] {
        let changes = create(&fixture.catalog.read(), named);
        run(&fixture, changes).unwrap();
    }
    let before = view(&fixture.catalog.read());
    let (a, b) = (volume(&fixture.catalog.read(), "a"), volume(&fixture.catalog.read(), "b"));
    let taken = Change::PutVolume(VolumeRecord { name: Some(name("b")), ..a.clone() });
    assert!(matches!(run(&fixture, vec![taken.clone()]), Err(Error::Exists { .. })));
    let twice = Change::PutVolume(VolumeRecord { name: Some(name("c")), ..b.clone() });
    let also = Change::PutVolume(VolumeRecord { name: Some(name("c")), ..a.clone() });
    assert!(matches!(run(&fixture, vec![twice, also]), Err(Error::Exists { .. })));
    assert_eq!(view(&fixture.catalog.read()), before);
    // In one operation names can be exchanged, in either order.
    let back = Change::PutVolume(VolumeRecord { name: Some(name("a")), ..b.clone() });
    run(&fixture, vec![taken, back]).unwrap();
    assert_eq!(volume(&fixture.catalog.read(), "b").id, a.id);
    assert_eq!(volume(&fixture.catalog.read(), "a").id, b.id);
}

#[test]
fn a_layer_that_is_not_there_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = open(dir.path());
    let changes: Vec<Change> = create(&fixture.catalog.read(), "a").into_iter().skip(1).collect();
    assert!(matches!(run(&fixture, changes), Err(Error::LayerMissing { .. })));
}

#[test]
fn an_operation_that_is_given_up_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = open(dir.path());
    let changes = create(&fixture.catalog.read(), "a");
    let prepared = fixture.catalog.prepare(changes.clone()).unwrap();
    make_layers(dir.path(), &changes);
    drop(prepared);
    assert!(fixture.catalog.read().volumes.is_empty());
    for empty in ["layers", "volumes"] {
        assert_eq!(fs::read_dir(dir.path().join(empty)).unwrap().count(), 0, "{empty}");
    }
    let import = fixture.catalog.begin_import(ImageId::new(), LayerId::new()).unwrap();
    fs::create_dir(fixture.disk.layer_dir(import.layer)).unwrap();
    assert_eq!(fs::read_dir(dir.path().join("images")).unwrap().count(), 1);
    drop(import);
    for empty in ["layers", "images"] {
        assert_eq!(fs::read_dir(dir.path().join(empty)).unwrap().count(), 0, "{empty}");
    }
}

#[test]
fn a_file_in_a_set_belongs_to_one_volume() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = open(dir.path());
    let changes = create(&fixture.catalog.read(), "a");
    run(&fixture, changes).unwrap();
    let changes = snapshot(&fixture.catalog.read(), "monday");
    run(&fixture, changes).unwrap();
    let renamed = Change::PutVolume(VolumeRecord { name: Some(name("b")), ..volume(&fixture.catalog.read(), "a") });
    run(&fixture, vec![renamed]).unwrap();
    let changes = create(&fixture.catalog.read(), "a");
    run(&fixture, changes).unwrap();
    let mut changes = snapshot(&fixture.catalog.read(), "monday");
    let other = volume(&fixture.catalog.read(), "b").id;
    changes.retain(|change| change.member() != Some(crate::catalog::records::Member::Volume(other)));
    assert!(matches!(run(&fixture, changes), Err(Error::Exists { .. })));
}
