//! What is damaged, missing or old: repaired from what is left, and told.

use super::*;
use std::path::PathBuf;

fn furnished() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let fixture = open(dir.path());
    for named in ["a", "b"] {
        let changes = create(&fixture.catalog.read(), named);
        run(&fixture, changes).unwrap();
    }
    let changes = snapshot(&fixture.catalog.read(), "monday");
    run(&fixture, changes).unwrap();
    let before = view(&fixture.catalog.read());
    (dir, before)
}

fn first_label(dir: &Path) -> PathBuf {
    fs::read_dir(dir.join("volumes")).unwrap().next().unwrap().unwrap().path()
}

#[test]
fn a_half_made_snapshot_of_sled_does_not_brick_the_store() {
    let (dir, before) = furnished();
    fs::write(dir.path().join("catalog/snap.0000000000000400.generating"), b"half a snapshot").unwrap();
    let fixture = open(dir.path());
    assert!(!fixture.recovery.rebuilt, "{:?}", fixture.recovery);
    assert_eq!(view(&fixture.catalog.read()), before);
}

#[test]
fn a_damaged_catalog_is_kept_aside_and_made_again() {
    for file in ["db", "conf"] {
        let (dir, before) = furnished();
        let path = dir.path().join("catalog").join(file);
        let mut bytes = fs::read(&path).unwrap();
        bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
        fs::write(&path, bytes).unwrap();
        let fixture = open(dir.path());
        assert!(fixture.recovery.rebuilt, "{file}: {:?}", fixture.recovery);
        assert_eq!(view(&fixture.catalog.read()), before, "{file}");
        assert!(dir.path().join("catalog.bad-1").join(file).exists());
        drop(fixture);
        let fixture = open(dir.path());
        assert!(fixture.recovery.repaired.is_empty(), "{:?}", fixture.recovery);
    }
}

#[test]
fn a_rebuild_that_is_asked_for_gives_the_same() {
    let (dir, before) = furnished();
    let fixture = open_with(dir.path(), true);
    assert!(fixture.recovery.rebuilt);
    assert_eq!(view(&fixture.catalog.read()), before);
    assert!(dir.path().join("catalog.bad-1").exists());
}

#[test]
fn an_old_catalog_is_noticed() {
    let (dir, _) = furnished();
    let old = dir.path().join("old");
    fs::create_dir(&old).unwrap();
    for entry in fs::read_dir(dir.path().join("catalog")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), old.join(entry.file_name())).unwrap();
        }
    }
    let fixture = open(dir.path());
    let changes = vec![Change::PutVolume(VolumeRecord { mode: 0o600, ..volume(&fixture.catalog.read(), "a") })];
    run(&fixture, changes).unwrap();
    let now = view(&fixture.catalog.read());
    drop(fixture);
    fs::remove_dir_all(dir.path().join("catalog")).unwrap();
    fs::rename(&old, dir.path().join("catalog")).unwrap();
    let fixture = open(dir.path());
    assert!(fixture.recovery.rebuilt);
    assert_eq!(view(&fixture.catalog.read()), now);
    assert!(fixture.recovery.repaired[0].contains("older than the label of volume 'a'"), "{:?}", fixture.recovery);
}

#[test]
fn lost_and_damaged_labels_are_made_again() {
    let (dir, before) = furnished();
    fs::remove_file(first_label(dir.path())).unwrap();
    let fixture = open(dir.path());
    assert_eq!(fixture.recovery.repaired.len(), 1, "{:?}", fixture.recovery);
    drop(fixture);

    let label = first_label(dir.path());
    let good = fs::read(&label).unwrap();
    fs::write(&label, &good[..good.len() / 2]).unwrap();
    let fixture = open(dir.path());
    assert_eq!(fixture.recovery.repaired.len(), 1, "{:?}", fixture.recovery);
    drop(fixture);
    assert!(dir.path().join("lost+found").join(label.file_name().unwrap()).exists());
    fs::remove_dir_all(dir.path().join("catalog")).unwrap();
    assert_eq!(view(&open(dir.path()).catalog.read()), before);
}

#[test]
fn a_damaged_label_without_a_catalog_is_left_and_told() {
    let (dir, _) = furnished();
    let label = first_label(dir.path());
    fs::write(&label, b"{}").unwrap();
    fs::remove_dir_all(dir.path().join("catalog")).unwrap();
    for rebuilt in [true, false] {
        let fixture = open(dir.path());
        assert_eq!(fixture.recovery.rebuilt, rebuilt);
        assert_eq!(fixture.catalog.read().volumes.len(), 1);
        assert!(fixture.recovery.damage.iter().any(|line| line.contains("can't be read")), "{:?}", fixture.recovery);
        assert_eq!(fs::read(&label).unwrap(), b"{}");
        // Its layers stay where they are, for good.
        assert_eq!(fs::read_dir(dir.path().join("layers")).unwrap().count(), 4);
        assert_eq!(fixture.recovery.stray.len(), 2);
    }
}

#[test]
fn a_layer_that_nobody_needs_is_put_aside_with_a_reason() {
    let (dir, _) = furnished();
    let id = LayerId::new();
    fs::create_dir(dir.path().join("layers").join(id.to_string())).unwrap();
    let fixture = open(dir.path());
    assert_eq!(fixture.recovery.repaired.len(), 1);
    assert!(dir.path().join("lost+found").join(id.to_string()).is_dir());
    assert!(dir.path().join("lost+found").join(format!("{id}.reason")).is_file());
}

#[test]
fn a_missing_layer_is_told_with_those_who_need_it() {
    let (dir, _) = furnished();
    let fixture = open(dir.path());
    let state = fixture.catalog.read();
    let root = state.chain(volume(&state, "a").head.unwrap())[0];
    drop(state);
    drop(fixture);
    fs::remove_dir_all(dir.path().join("layers").join(root.to_string())).unwrap();
    let fixture = open(dir.path());
    let damage = &fixture.recovery.damage;
    assert!(damage.len() == 1 && damage[0].contains("volume 'a', snapshot 'monday/a'"), "{damage:?}");
}

#[test]
fn a_label_of_another_store_is_not_taken() {
    let (dir, before) = furnished();
    let (other, _) = furnished();
    let foreign = first_label(other.path());
    fs::copy(&foreign, dir.path().join("volumes").join(foreign.file_name().unwrap())).unwrap();
    let fixture = open(dir.path());
    assert!(!fixture.recovery.rebuilt);
    assert_eq!(view(&fixture.catalog.read()), before);
    assert!(fixture.recovery.damage[0].contains("another store"), "{:?}", fixture.recovery);
}

/// Random damage to the catalog's files: it is noticed or it does no harm, and the store opens in any case.
#[test]
fn no_damage_of_the_catalog_keeps_a_store_from_opening() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % below
    };
    let (dir, before) = furnished();
    let files: Vec<PathBuf> = fs::read_dir(dir.path().join("catalog")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let files: Vec<(PathBuf, Vec<u8>)> =
        files.into_iter().filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    for round in 0..60 {
        let _ = fs::remove_dir_all(dir.path().join("catalog"));
        fs::create_dir_all(dir.path().join("catalog/blobs")).unwrap();
        for (path, content) in &files {
            fs::write(path, content).unwrap();
        }
        let (path, content) = &files[random(files.len())];
        let mut bytes = content.clone();
        // sled's files end in long zeros.
        let written = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        let at = random(written);
        match random(4) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << random(8),
            2 => bytes[at..].iter_mut().take(512).for_each(|byte| *byte = 0),
            _ => fs::remove_file(path).unwrap(),
        }
        if path.exists() {
            fs::write(path, bytes).unwrap();
        }
        let fixture = open(dir.path());
        assert_eq!(view(&fixture.catalog.read()), before, "round {round}, {}: {:?}", path.display(), fixture.recovery);
        drop(fixture);
        let again = open(dir.path());
        assert!(again.recovery.repaired.is_empty() && again.recovery.damage.is_empty(), "round {round}: {:?}", again.recovery);
    }
}

#[test]
fn after_a_failed_sync_the_catalog_claims_nothing_until_it_is_opened_again() {
    let (dir, before) = furnished();
    let mut fixture = open(dir.path());
    // What can't be synced: every commit fails after sled wrote it, as on a failing disk.
    fixture.catalog.db.file = fs::File::open("/dev/null").unwrap();
    let changes = create(&fixture.catalog.read(), "new");
    assert!(matches!(run(&fixture, changes), Err(Error::Catalog { .. })));
    assert_eq!(view(&fixture.catalog.read()), before);
    let chmod = vec![Change::PutVolume(VolumeRecord { mode: 0o600, ..volume(&fixture.catalog.read(), "a") })];
    let refused = run(&fixture, chmod).unwrap_err();
    assert!(matches!(&refused, Error::Catalog { source, .. } if source.to_string().contains("failed before")), "{refused:?}");
    drop(fixture);
    // This time sled's write got to the disk after all: the operation has happened, and its label is promoted.
    let fixture = open(dir.path());
    assert!(fixture.catalog.read().volume_named(&name("new")).is_some());
    assert_eq!(fixture.recovery.repaired.len(), 1, "{:?}", fixture.recovery);
    drop(fixture);
    assert!(open(dir.path()).recovery.repaired.is_empty());
}
