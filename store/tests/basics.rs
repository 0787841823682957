//! A store from outside: what is written is read, by name, through snapshots, images, reopening.

#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_store::{Allocate, DeleteVolume, Error, Keep, Name, NewVolume, RenameMode, Store, StoreOptions, Sync};
use std::collections::BTreeMap;
use std::path::Path;

fn options() -> StoreOptions {
    StoreOptions { create: true, ..StoreOptions::default() }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn new(size: u64) -> NewVolume {
    NewVolume { size: Some(size), image: None, mode: 0o644, uid: 0, gid: 0 }
}

fn open(path: &Path) -> Store {
    Store::open(path, &options()).unwrap()
}

#[test]
fn written_bytes_come_back_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let volume = store.create_volume(&name("db"), &new(10_000_000)).unwrap();
    volume.write_at(b"hello", 4095).unwrap();
    volume.write_at(&[7; 100_000], 5_000_001).unwrap();
    let mut buf = vec![1; 10];
    assert_eq!(volume.read_at(&mut buf, 4090).unwrap(), 10);
    assert_eq!(&buf, b"\0\0\0\0\0hello");
    assert_eq!(volume.stat().data, 4096 * 2 + 26 * 4096);
    drop(volume);
    store.close().unwrap();
    drop(store);
    let store = open(dir.path());
    assert!(store.events().is_empty(), "{:?}", store.events());
    let volume = store.volume(&name("db")).unwrap();
    let mut buf = vec![1; 100_002];
    volume.read_at(&mut buf, 5_000_000).unwrap();
    assert_eq!((buf[0], buf[1], buf[100_000], buf[100_001]), (0, 7, 7, 0));
    assert_eq!(volume.stat().data, 28 * 4096);
    assert_eq!(volume.seek_data(0).unwrap(), 0);
    assert_eq!(volume.seek_hole(0).unwrap(), 8192);
    assert_eq!(volume.seek_data(8192).unwrap(), 5_000_001 / 4096 * 4096);
}

#[test]
fn snapshots_keep_their_content() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let volume = store.create_volume(&name("db"), &new(1 << 20)).unwrap();
    for round in 0..10_u8 {
        volume.write_at(&[round + 1; 3000], u64::from(round) * 2000).unwrap();
        store.snapshot_all(&name(&format!("s{round}")), &BTreeMap::new()).unwrap();
    }
    volume.set_size(5000).unwrap();
    volume.set_size(1 << 20).unwrap();
    volume.allocate(Allocate::Punch, 0, 4096).unwrap();
    let read = |round: u8| {
        let snapshot = store.open_snapshot(&name(&format!("s{round}")), &name("db")).unwrap();
        let mut buf = vec![0; 1 << 20];
        assert_eq!(snapshot.read_at(&mut buf, 0).unwrap(), 1 << 20);
        buf
    };
    let mut model = vec![0; 1 << 20];
    for round in 0..10_u8 {
        let at = usize::from(round) * 2000;
        model[at..at + 3000].fill(round + 1);
        assert!(read(round) == model, "snapshot {round}");
    }
    model[..4096].fill(0);
    model[5000..].fill(0);
    let mut buf = vec![1; 1 << 20];
    volume.read_at(&mut buf, 0).unwrap();
    assert!(buf == model);
    assert_eq!(store.snapshots().len(), 10);
    assert!(store.doctor().unwrap().iter().all(|finding| finding.severity < outcrop_store::doctor::Severity::Error));
}

#[test]
fn a_deleted_volume_lives_while_it_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let volume = store.create_volume(&name("db"), &new(8192)).unwrap();
    volume.write_at(&[9; 8192], 0).unwrap();
    store.delete_volume(&name("db"), DeleteVolume::Head, Keep::Now).unwrap();
    assert!(matches!(store.volume(&name("db")), Err(Error::NotFound { .. })));
    volume.write_at(&[8; 4096], 0).unwrap();
    volume.sync(Sync::All).unwrap();
    let mut buf = [0; 8192];
    volume.read_at(&mut buf, 0).unwrap();
    assert_eq!((buf[0], buf[8191]), (8, 9));
    assert!(volume.is_deleted());
    drop(volume);
    store.close().unwrap();
    drop(store);
    let store = open(dir.path());
    assert!(store.volumes().is_empty());
    while std::fs::read_dir(dir.path().join("layers")).unwrap().count() > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn renames_move_replace_and_exchange() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for (volume, byte) in [("a", 1), ("b", 2), ("c", 3)] {
        store.create_volume(&name(volume), &new(4096)).unwrap().write_at(&[byte; 4096], 0).unwrap();
    }
    let first = |volume: &str| {
        let mut buf = [0];
        store.volume(&name(volume)).unwrap().read_at(&mut buf, 0).unwrap();
        buf[0]
    };
    assert!(matches!(store.rename_volume(&name("a"), &name("b"), RenameMode::NoReplace), Err(Error::Exists { .. })));
    store.rename_volume(&name("a"), &name("b"), RenameMode::Exchange).unwrap();
    assert_eq!((first("a"), first("b")), (2, 1));
    store.rename_volume(&name("a"), &name("c"), RenameMode::Replace).unwrap();
    assert_eq!((first("c"), first("b")), (2, 1));
    assert!(store.volume(&name("a")).is_err());
    assert_eq!(store.volumes().len(), 2);
}
