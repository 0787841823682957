//! Names coming and going: snapshots deleted and renamed, volumes reverted, cloned, deleted and restored.

#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_store::doctor::Severity;
use outcrop_store::image::{ImportOptions, Progress};
use outcrop_store::{
    CloneSource, DeleteVolume, Error, Keep, Name, NewVolume, RemovedKind, Revert, SnapshotSelector, Store, StoreOptions, Sync,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

const FORCE: Revert = Revert { force: true, keep: Keep::ForUndo };
const GENTLE: Revert = Revert { force: false, keep: Keep::ForUndo };

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn options() -> StoreOptions {
    StoreOptions {
        create: true,
        flush_interval: Duration::from_millis(50),
        snapshot_pause: Duration::from_secs(60),
        ..StoreOptions::default()
    }
}

fn open(path: &Path) -> Store {
    Store::open(path, &options()).unwrap()
}

/// A store with volume `v` of two blocks, the first filled with `byte`.
fn with_volume(path: &Path, byte: u8) -> Store {
    let store = open(path);
    store.create_volume(&name("v"), &NewVolume { size: Some(8192), image: None, mode: 0o640, uid: 1, gid: 2 }).unwrap();
    fill(&store, "v", byte);
    store
}

fn fill(store: &Store, volume: &str, byte: u8) {
    store.volume(&name(volume)).unwrap().write_at(&[byte; 4096], 0).unwrap();
}

fn first(store: &Store, volume: &str) -> u8 {
    let mut byte = [0xee];
    assert_eq!(store.volume(&name(volume)).unwrap().read_at(&mut byte, 0).unwrap(), 1);
    byte[0]
}

fn first_of(store: &Store, set: &str, volume: &str) -> u8 {
    let mut byte = [0xee];
    assert_eq!(store.open_snapshot(&name(set), &name(volume)).unwrap().read_at(&mut byte, 0).unwrap(), 1);
    byte[0]
}

fn take(store: &Store, set: &str) {
    store.snapshot_all(&name(set), &BTreeMap::new()).unwrap();
}

fn select(set: &str, volume: Option<&str>) -> SnapshotSelector {
    SnapshotSelector { set: name(set), volume: volume.map(name) }
}

fn layers(path: &Path) -> usize {
    std::fs::read_dir(path.join("layers")).unwrap().count()
}

fn wait_for_layers(path: &Path, expected: usize) {
    while layers(path) != expected {
        std::thread::yield_now();
    }
}

fn assert_sound(store: &Store) {
    let bad: Vec<_> = store.doctor().unwrap().into_iter().filter(|finding| finding.severity >= Severity::Error).collect();
    assert!(bad.is_empty(), "{bad:?}");
}

#[test]
fn a_thousand_snapshots_go_in_one_command_and_come_back_in_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_volume(dir.path(), 1);
    for n in 1..50 {
        store.clone_volume(&CloneSource::Volume(name("v")), &name(&format!("v{n}"))).unwrap();
    }
    for set in 0..20 {
        fill(&store, "v", set);
        take(&store, &format!("s{set}"));
    }
    let which: Vec<_> = (0..20).map(|set| select(&format!("s{set}"), None)).collect();
    let gone = store.delete_snapshots(&which, Keep::ForUndo).unwrap();
    assert_eq!(gone.len(), 1000);
    assert!(store.snapshots().is_empty() && store.snapshot_sets().is_empty());
    let serials: Vec<u64> = store.removed().iter().map(|removed| removed.serial).collect();
    assert_eq!(serials.len(), 1000);
    store.undo(&serials, None).unwrap();
    assert_eq!((store.snapshots().len(), store.removed().len()), (1000, 0));
    assert_eq!((first_of(&store, "s0", "v"), first_of(&store, "s7", "v"), first_of(&store, "s7", "v9")), (0, 7, 1));
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.snapshots().len(), 1000);
    store.delete_snapshots(&which, Keep::Now).unwrap();
    assert!(store.snapshots().is_empty() && store.removed().is_empty());
    for volume in store.volumes() {
        store.delete_volume(&volume.name.unwrap(), DeleteVolume::Head, Keep::Now).unwrap();
    }
    wait_for_layers(dir.path(), 0);
}

#[test]
fn deleting_is_all_or_nothing_and_an_open_snapshot_can_still_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_volume(dir.path(), 1);
    take(&store, "a");
    fill(&store, "v", 2);
    let missing = store.delete_snapshots(&[select("a", None), select("b", None)], Keep::Now);
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    assert_eq!(store.snapshot_sets().len(), 1);
    let open = store.open_snapshot(&name("a"), &name("v")).unwrap();
    // A file of a directory: the directory stays, empty, and goes by itself.
    store.delete_snapshots(&[select("a", Some("v"))], Keep::Now).unwrap();
    assert_eq!((store.snapshots().len(), store.snapshot_sets().len()), (0, 1));
    store.delete_snapshots(&[select("a", None)], Keep::Now).unwrap();
    assert!(store.snapshot_sets().is_empty());
    let mut byte = [0];
    open.read_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [1]);
    assert_eq!(first(&store, "v"), 2);
    assert_sound(&store);
}

#[test]
fn a_set_is_renamed_with_all_that_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_volume(dir.path(), 1);
    store.clone_volume(&CloneSource::Volume(name("v")), &name("w")).unwrap();
    take(&store, "a");
    take(&store, "b");
    let before: Vec<_> = store.snapshots_in(&name("a")).iter().map(|snapshot| snapshot.serial).collect();
    assert!(matches!(store.rename_snapshots(&name("a"), &name("b")), Err(Error::Exists { .. })));
    assert!(matches!(store.rename_snapshots(&name("x"), &name("y")), Err(Error::NotFound { .. })));
    store.rename_snapshots(&name("a"), &name("c")).unwrap();
    drop(store);
    let store = Store::open(dir.path(), &StoreOptions { rebuild_catalog: true, ..options() }).unwrap();
    let after: Vec<_> = store.snapshots_in(&name("c")).iter().map(|snapshot| snapshot.serial).collect();
    assert_eq!((before.len(), before), (2, after));
    assert!(store.snapshot_set(&name("a")).is_err());
    assert_eq!(first_of(&store, "c", "w"), 1);
}

#[test]
fn a_revert_is_refused_while_open_and_with_force_makes_handles_stale() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_volume(dir.path(), 1);
    take(&store, "a");
    fill(&store, "v", 2);
    store.volume(&name("v")).unwrap().set_size(100).unwrap();
    take(&store, "b");
    let handle = store.volume(&name("v")).unwrap().handle().unwrap();
    let busy = store.revert(&name("v"), &name("a"), GENTLE).unwrap_err();
    assert!(matches!(busy, Error::Busy { .. }), "{busy}");
    handle.write_at(&[3; 50], 0).unwrap();
    handle.sync(Sync::All).unwrap();

    store.revert(&name("v"), &name("a"), FORCE).unwrap();
    let stale = |result: outcrop_store::Result<()>| assert!(matches!(result, Err(Error::Stale { .. })), "{result:?}");
    let mut byte = [0];
    stale(handle.read_at(&mut byte, 0).map(drop));
    stale(handle.try_read_at(&mut byte, 0).map(drop));
    stale(handle.write_at(&[9], 0));
    stale(handle.try_write_at(&[9], 0).map(drop));
    stale(handle.append(&[9]).map(drop));
    stale(handle.sync(Sync::Data));
    stale(handle.set_size(1));
    stale(handle.allocate(outcrop_store::Allocate::Punch, 0, 4096));
    stale(handle.seek_data(0).map(drop));
    stale(handle.set_times(outcrop_store::Timestamps::default()));
    stale(handle.set_attributes(outcrop_store::Attributes::default()));
    stale(std::sync::Arc::clone(&handle).handle().map(drop));
    let volume = store.volume(&name("v")).unwrap();
    assert_eq!((first(&store, "v"), volume.stat().size), (1, 8192));
    assert_eq!(volume.handles(), 0);
    drop(volume);
    // The later snapshot is a branch now, and what the head had can be brought back.
    assert_eq!(first_of(&store, "b", "v"), 2);
    let removed = store.removed();
    assert_eq!((removed.len(), removed[0].kind, removed[0].size), (1, RemovedKind::Revert, 100));
    store.undo(&[removed[0].serial], None).unwrap();
    assert_eq!((first(&store, "v"), store.volume(&name("v")).unwrap().stat().size), (3, 100));
    stale(handle.write_at(&[9], 0));
    // The undo is itself a revert: what was there in between can be brought back, too.
    assert_eq!(store.removed().len(), 1);
    assert_sound(&store);
    drop((handle, store));
    let store = Store::open(dir.path(), &StoreOptions { rebuild_catalog: true, ..options() }).unwrap();
    assert_eq!((first(&store, "v"), store.removed().len()), (3, 1));
    assert_sound(&store);
}

#[test]
fn beyond_the_end_of_the_snapshot_a_reverted_volume_reads_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_volume(dir.path(), 1);
    let volume = store.volume(&name("v")).unwrap();
    volume.write_at(&[7; 8192], 0).unwrap();
    take(&store, "long");
    volume.set_size(5000).unwrap();
    take(&store, "short");
    volume.set_size(8192).unwrap();
    drop(volume);
    store.clone_volume(&CloneSource::Snapshot { set: name("short"), volume_name: name("v") }, &name("c")).unwrap();
    store.revert(&name("v"), &name("short"), GENTLE).unwrap();
    for volume in ["v", "c"] {
        let volume = store.volume(&name(volume)).unwrap();
        assert_eq!(volume.stat().size, 5000);
        volume.set_size(8192).unwrap();
        let mut bytes = [1; 8192];
        volume.read_at(&mut bytes, 0).unwrap();
        assert!(bytes[..5000].iter().all(|byte| *byte == 7) && bytes[5000..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn clones_live_by_themselves_and_go_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_volume(dir.path(), 1);
    take(&store, "a");
    fill(&store, "v", 2);
    let of_snapshot = CloneSource::Snapshot { set: name("a"), volume_name: name("v") };
    store.clone_volume(&of_snapshot, &name("old")).unwrap();
    let clone = store.clone_volume(&CloneSource::Volume(name("v")), &name("new")).unwrap();
    assert_eq!((clone.stat().mode, clone.stat().uid, clone.stat().size), (0o640, 1, 8192));
    assert!(matches!(store.clone_volume(&of_snapshot, &name("new")), Err(Error::Exists { .. })));
    fill(&store, "v", 3);
    store.clone_volume(&CloneSource::Volume(name("new")), &name("newer")).unwrap();
    fill(&store, "new", 4);
    assert_eq!(["v", "old", "new", "newer"].map(|volume| first(&store, volume)), [3, 1, 4, 2]);
    // In place of an empty one that is open.
    let target = store.create_volume(&name("copy"), &NewVolume { size: None, image: None, mode: 0o600, uid: 7, gid: 7 }).unwrap();
    let handle = target.handle().unwrap();
    store.clone_into(&CloneSource::Volume(name("v")), target.id()).unwrap();
    let mut byte = [0];
    handle.read_at(&mut byte, 0).unwrap();
    assert_eq!((byte[0], handle.stat().size, handle.stat().uid), (3, 8192, 7));
    handle.write_at(&[5], 0).unwrap();
    handle.sync(Sync::All).unwrap();
    assert!(matches!(store.clone_into(&of_snapshot, target.id()), Err(Error::NotSupported { .. })));
    assert_sound(&store);
    drop((handle, target, clone));
    store.delete_snapshots(&[select("a", None)], Keep::Now).unwrap();
    for volume in ["v", "newer", "old"] {
        store.delete_volume(&name(volume), DeleteVolume::Head, Keep::Now).unwrap();
    }
    assert_eq!(["new", "copy"].map(|volume| first(&store, volume)), [4, 5]);
    drop(store);
    let store = open(dir.path());
    assert_eq!(["new", "copy"].map(|volume| first(&store, volume)), [4, 5]);
    for volume in ["new", "copy"] {
        store.delete_volume(&name(volume), DeleteVolume::Head, Keep::Now).unwrap();
    }
    wait_for_layers(dir.path(), 0);
}

#[test]
fn clones_of_an_idle_volume_make_no_chain_longer() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_volume(dir.path(), 1);
    for n in 0..40 {
        // Of itself, of a clone, of a clone of a clone.
        let from = if n < 20 { "v".to_owned() } else { format!("c{}", n - 20) };
        store.clone_volume(&CloneSource::Volume(name(&from)), &name(&format!("c{n}"))).unwrap();
    }
    for info in store.volumes() {
        assert_eq!(info.layers.len(), 2, "{info:?}");
    }
    assert_eq!(first(&store, "c39"), 1);
}

#[test]
fn a_clone_beside_writes_is_the_volume_at_one_instant() {
    const BLOCKS: u64 = 16;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let size = Some(BLOCKS * 4096);
    store.create_volume(&name("v"), &NewVolume { size, image: None, mode: 0o600, uid: 0, gid: 0 }).unwrap();
    let stop = AtomicBool::new(false);
    // Each round writes its number to all blocks, in order: at any instant the numbers fall from one to the one before it.
    let acknowledged = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let volume = store.volume(&name("v")).unwrap();
            for round in 1_u64.. {
                for block in 0..BLOCKS {
                    volume.write_at(&round.to_le_bytes(), block * 4096).unwrap();
                }
                acknowledged.store(round, SeqCst);
                if stop.load(SeqCst) {
                    break;
                }
            }
        });
        for n in 0..30 {
            let before = acknowledged.load(SeqCst);
            let clone = store.clone_volume(&CloneSource::Volume(name("v")), &name(&format!("c{n}"))).unwrap();
            let rounds: Vec<u64> = (0..BLOCKS)
                .map(|block| {
                    let mut raw = [0; 8];
                    clone.read_at(&mut raw, block * 4096).unwrap();
                    u64::from_le_bytes(raw)
                })
                .collect();
            assert!(rounds.is_sorted_by(|a, b| a >= b) && rounds[0] - rounds[rounds.len() - 1] <= 1, "{rounds:?}");
            assert!(rounds[rounds.len() - 1] >= before, "{rounds:?}, acknowledged {before}");
            // The clone has a life of its own.
            clone.write_at(&u64::MAX.to_le_bytes(), 0).unwrap();
            clone.sync(Sync::Data).unwrap();
        }
        stop.store(true, SeqCst);
    });
    assert_sound(&store);
}

#[test]
fn a_deleted_volume_comes_back_as_it_was_last_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_volume(dir.path(), 1);
    take(&store, "a");
    let handle = store.volume(&name("v")).unwrap().handle().unwrap();
    store.delete_volume(&name("v"), DeleteVolume::Head, Keep::ForUndo).unwrap();
    // Unlinked, but open.
    handle.write_at(&[2], 0).unwrap();
    let removed = store.removed_by_name(Some(&name("v")), None).unwrap();
    assert_eq!((removed.len(), removed[0].kind, removed[0].open), (1, RemovedKind::Volume, true));
    let serial = removed[0].serial;
    assert!(matches!(store.undo(&[serial], None), Err(Error::Busy { .. })));
    handle.write_at(&[3], 0).unwrap();
    drop(handle);
    let restored = store.undo(&[serial], None).unwrap();
    assert_eq!(restored[0].volume, store.volume_info(&name("v")).unwrap().id);
    assert_eq!((first(&store, "v"), store.volume_info(&name("v")).unwrap().snapshots), (3, 1));
    assert!(matches!(store.undo(&[serial], None), Err(Error::NotFound { .. })));

    // The name is taken meanwhile, by a volume that goes on in the same lineage.
    store.delete_volume(&name("v"), DeleteVolume::Head, Keep::ForUndo).unwrap();
    store.create_volume(&name("v"), &NewVolume { size: Some(10), image: None, mode: 0o600, uid: 0, gid: 0 }).unwrap();
    let serial = store.removed()[0].serial;
    assert!(matches!(store.undo(&[serial], None), Err(Error::Exists { .. })));
    store.undo(&[serial], Some(&name("w"))).unwrap();
    assert_eq!(first(&store, "w"), 3);
    assert_ne!(store.volume_info(&name("w")).unwrap().id, store.volume_info(&name("v")).unwrap().id);
    assert_sound(&store);
}

#[test]
fn a_volume_that_a_rename_replaced_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_volume(dir.path(), 1);
    store.clone_volume(&CloneSource::Volume(name("v")), &name("w")).unwrap();
    fill(&store, "w", 2);
    store.rename_volume(&name("w"), &name("v"), outcrop_store::RenameMode::Replace).unwrap();
    assert_eq!((first(&store, "v"), store.volumes().len()), (2, 1));
    store.undo(&[store.removed()[0].serial], Some(&name("before"))).unwrap();
    assert_eq!((first(&store, "v"), first(&store, "before")), (2, 1));
}

#[test]
fn a_volume_deleted_with_its_snapshots_comes_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_volume(dir.path(), 1);
    take(&store, "a");
    fill(&store, "v", 2);
    take(&store, "b");
    fill(&store, "v", 3);
    store.delete_volume(&name("v"), DeleteVolume::WithSnapshots, Keep::ForUndo).unwrap();
    assert!(store.volumes().is_empty() && store.snapshot_sets().is_empty());
    drop(store);
    let store = Store::open(dir.path(), &StoreOptions { rebuild_catalog: true, ..options() }).unwrap();
    let all: Vec<u64> = store.removed_by_name(Some(&name("v")), None).unwrap().iter().map(|removed| removed.serial).collect();
    assert_eq!(all.len(), 3);
    store.undo(&all, None).unwrap();
    assert_eq!((first(&store, "v"), first_of(&store, "a", "v"), first_of(&store, "b", "v")), (3, 1, 2));
    assert!(store.removed().is_empty());
    assert_sound(&store);
}

#[test]
fn what_is_deleted_for_good_or_has_expired_takes_nothing() {
    for (undo, keep) in
        [(Duration::ZERO, Keep::ForUndo), (Duration::from_secs(3600), Keep::Now), (Duration::from_millis(300), Keep::ForUndo)]
    {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &StoreOptions { undo, ..options() }).unwrap();
        store.create_volume(&name("v"), &NewVolume { size: Some(8192), image: None, mode: 0o600, uid: 0, gid: 0 }).unwrap();
        take(&store, "a");
        fill(&store, "v", 1);
        store.revert(&name("v"), &name("a"), Revert { force: true, keep }).unwrap();
        store.delete_snapshots(&[select("a", None)], keep).unwrap();
        store.delete_volume(&name("v"), DeleteVolume::Head, keep).unwrap();
        wait_for_layers(dir.path(), 0);
        assert!(store.removed().is_empty() && store.volumes().is_empty());
        assert_eq!(std::fs::read_dir(dir.path().join("volumes")).unwrap().count(), 0);
    }
}

#[test]
fn an_open_deleted_volume_survives_a_kill_and_is_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_volume(dir.path(), 1);
    let handle = store.volume(&name("v")).unwrap().handle().unwrap();
    store.delete_volume(&name("v"), DeleteVolume::Head, Keep::ForUndo).unwrap();
    handle.write_at(&[4; 4096], 4096).unwrap();
    handle.sync(Sync::Data).unwrap();
    // As a kill would leave it.
    let copy = tempfile::tempdir().unwrap();
    let done = std::process::Command::new("cp").arg("-a").arg(dir.path().join(".")).arg(copy.path()).status().unwrap();
    assert!(done.success());
    let again = open(copy.path());
    let serial = again.removed()[0].serial;
    again.undo(&[serial], None).unwrap();
    let mut bytes = [0; 8192];
    again.volume(&name("v")).unwrap().read_at(&mut bytes, 0).unwrap();
    assert_eq!((bytes[0], bytes[4096]), (1, 4));
    assert_sound(&again);
    // Closing the store ends writes to what is deleted, too.
    store.close().unwrap();
    assert!(handle.write_at(&[5], 0).is_err());
}

#[test]
fn a_volume_whose_head_is_damaged_goes_back_to_its_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_volume(dir.path(), 1);
    take(&store, "a");
    fill(&store, "v", 2);
    let head = *store.volume_info(&name("v")).unwrap().layers.last().unwrap();
    store.close().unwrap();
    drop(store);
    let layer = dir.path().join("layers").join(head.to_string());
    std::fs::write(layer.join("map"), vec![0x5a; 16384]).unwrap();
    let store = open(dir.path());
    assert!(store.volume(&name("v")).is_err());
    assert!(store.revert(&name("v"), &name("a"), GENTLE).is_err());
    store.revert(&name("v"), &name("a"), FORCE).unwrap();
    assert_eq!(first(&store, "v"), 1);
    // What is left of it is kept for a person, who is told if it can't be restored.
    let serial = store.removed()[0].serial;
    assert!(layer.exists() && store.undo(&[serial], None).is_err());
    assert_eq!(first(&store, "v"), 1);
    store.forget_removed(&[serial]).unwrap();
    while layer.exists() {
        std::thread::yield_now();
    }
    drop(store);
    // Nor does it matter if all of it is gone.
    let store = open(dir.path());
    fill(&store, "v", 3);
    let head = *store.volume_info(&name("v")).unwrap().layers.last().unwrap();
    store.close().unwrap();
    drop(store);
    std::fs::remove_dir_all(dir.path().join("layers").join(head.to_string())).unwrap();
    let store = open(dir.path());
    store.revert(&name("v"), &name("a"), FORCE).unwrap();
    assert_eq!((first(&store, "v"), store.removed().len()), (1, 0));
    assert_sound(&store);
}

struct Quiet;

impl Progress for Quiet {
    fn advance(&self, _done: u64, _total: u64) {}

    fn cancelled(&self) -> bool {
        false
    }
}

/// Deleting an image is refused while volumes stand on it; one that can only be restored keeps its layer, nameless.
#[test]
fn what_can_be_restored_keeps_what_its_image_held() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = open(&path);
    let raw = dir.path().join("raw");
    std::fs::write(&raw, [7; 8192]).unwrap();
    store.import_image(&name("base"), &raw, &ImportOptions::default(), &Quiet).unwrap();
    let new = NewVolume { size: None, image: Some(name("base")), mode: 0o600, uid: 0, gid: 0 };
    store.create_volume(&name("v"), &new).unwrap().write_at(&[1; 100], 4096).unwrap();
    take(&store, "s");
    assert!(matches!(store.delete_image(&name("base")), Err(Error::ImageInUse { .. })));
    store.delete_volume(&name("v"), DeleteVolume::WithSnapshots, Keep::ForUndo).unwrap();
    store.delete_image(&name("base")).unwrap();
    assert_sound(&store);
    drop(store);
    let store = open(&path);
    let serials: Vec<u64> = store.removed().iter().map(|removed| removed.serial).collect();
    store.undo(&serials, None).unwrap();
    let expected: Vec<u8> = [vec![7; 4096], vec![1; 100], vec![7; 3996]].concat();
    let mut found = vec![0; 8192];
    store.volume(&name("v")).unwrap().read_at(&mut found, 0).unwrap();
    assert!(found == expected, "the volume has its image's content and its own");
    store.open_snapshot(&name("s"), &name("v")).unwrap().read_at(&mut found, 0).unwrap();
    assert!(found == expected, "so has the snapshot");
    assert_sound(&store);
    store.delete_volume(&name("v"), DeleteVolume::WithSnapshots, Keep::Now).unwrap();
    wait_for_layers(&path, 0);
}
