//! A power cut loses nothing that was synced. The disk is a loop device whose file system is shut down under the
//! store: what was not made durable never reaches it, and mounting it again replays its journal.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::workload::{Promise, Workload};
use outcrop_tests::{FileSystem, LoopDisk, LoopMount, Rng, TestStore, assert_same_bytes, require_loop, run, seconds};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Instant;

fn store_on(disk: &LoopDisk) -> TestStore {
    let store = TestStore::on(disk.path().join("store"), "power");
    store.mount();
    store
}

/// The daemon ends with the machine.
fn cut(disk: &LoopDisk, store: &TestStore) {
    disk.cut_power();
    store.kill();
    store.detach();
}

fn random_cuts(kind: FileSystem) {
    let mut rng = Rng::announced();
    let disk = LoopDisk::new(kind, 640);
    let store = store_on(&disk);
    let mut workload = Workload::new(&store, Promise::Synced, 2);
    let (begun, mut rounds) = (Instant::now(), 0);
    while rounds < 3 || begun.elapsed() < seconds(15) {
        workload.run(&store, &mut rng, || cut(&disk, &store));
        disk.restore_power();
        store.mount();
        workload.check(&store);
        store.check();
        rounds += 1;
    }
    println!("{rounds} cuts, {} snapshots", workload.snapshots());
}

#[test]
fn a_power_cut_on_ext4_loses_nothing_synced() {
    require_loop!("mkfs.ext4");
    random_cuts(FileSystem::Ext4);
}

#[test]
fn a_power_cut_on_xfs_loses_nothing_synced() {
    require_loop!("mkfs.xfs");
    random_cuts(FileSystem::Xfs);
}

#[test]
fn what_commands_returned_survives_a_power_cut() {
    require_loop!("mkfs.ext4");
    let disk = LoopDisk::new(FileSystem::Ext4, 256);
    let store = store_on(&disk);
    let raw = store.outside("raw");
    fs::write(&raw, Rng::new(1).bytes(300_000)).unwrap();
    store.run(["image", "import", "base", raw.to_str().unwrap()]);
    store.run(["volume", "create", "v", "--image", "base", "--size", "1M"]);
    let bytes = Rng::new(2).bytes(50_000);
    let file = File::options().write(true).open(store.file("v")).unwrap();
    file.write_all_at(&bytes, 1000).unwrap();
    // Not synced by anybody: the snapshot does it.
    store.snapshot_all("s");
    fs::write(store.file("flushed"), b"by command").unwrap();
    store.run(["flush"]);
    fs::write(store.file("gone"), b"x").unwrap();
    fs::remove_file(store.file("gone")).unwrap();
    store.run(["volume", "create", "made", "--size", "3M"]);
    fs::rename(store.file("made"), store.file("renamed")).unwrap();
    drop(file);
    cut(&disk, &store);
    disk.restore_power();
    store.mount();
    let mut expected = fs::read(&raw).unwrap();
    expected[1000..51_000].copy_from_slice(&bytes);
    expected.resize(1 << 20, 0);
    for path in [store.set("s").join("v"), store.file("v")] {
        assert_same_bytes(&fs::read(&path).unwrap(), &expected, &path.display().to_string());
    }
    assert_eq!(fs::read(store.file("flushed")).unwrap(), b"by command");
    assert_eq!(fs::metadata(store.file("renamed")).unwrap().len(), 3 << 20);
    assert!(!store.file("gone").exists() && !store.file("made").exists());
    store.check();
}

#[test]
fn a_punched_range_never_shows_an_image_again() {
    require_loop!("mkfs.ext4");
    let disk = LoopDisk::new(FileSystem::Ext4, 256);
    let store = store_on(&disk);
    let raw = store.outside("raw");
    fs::write(&raw, Rng::new(3).bytes(1 << 20)).unwrap();
    store.run(["image", "import", "base", raw.to_str().unwrap()]);
    store.run(["volume", "create", "v", "--image", "base"]);
    let file = File::options().write(true).open(store.file("v")).unwrap();
    // Over the image's data, and over data of the head's own.
    file.write_all_at(&[1; 100_000], 500_000).unwrap();
    file.sync_all().unwrap();
    for offset in [100_000, 500_000] {
        fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, 100_000).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    cut(&disk, &store);
    disk.restore_power();
    store.mount();
    let mut expected = fs::read(&raw).unwrap();
    expected[100_000..200_000].fill(0);
    expected[500_000..600_000].fill(0);
    assert_same_bytes(&fs::read(store.file("v")).unwrap(), &expected, "after the cut");
    store.check();
}

#[test]
fn what_a_file_system_in_a_volume_synced_survives_a_power_cut() {
    require_loop!("mkfs.ext4", "mkfs.xfs", "e2fsck");
    for kind in [FileSystem::Ext4, FileSystem::Xfs] {
        let disk = LoopDisk::new(FileSystem::Ext4, 700);
        let store = store_on(&disk);
        File::create_new(store.file("disk")).unwrap().set_len(320 << 20).unwrap();
        kind.make(&store.file("disk"));
        let mounted = LoopMount::new(&store.file("disk"), "");
        let mut kept: Vec<(String, Vec<u8>)> = Vec::new();
        for i in 0..30 {
            let (name, bytes) = (format!("f{i}"), Rng::new(i).bytes(30_000));
            fs::write(mounted.join(&name), &bytes).unwrap();
            File::open(mounted.join(&name)).unwrap().sync_all().unwrap();
            File::open(mounted.path()).unwrap().sync_all().unwrap();
            kept.push((name, bytes));
        }
        fs::write(mounted.join("unsynced"), vec![1; 5 << 20]).unwrap();
        cut(&disk, &store);
        drop(mounted);
        disk.restore_power();
        store.mount();
        let mounted = LoopMount::new(&store.file("disk"), "");
        for (name, bytes) in &kept {
            assert_same_bytes(&fs::read(mounted.join(name)).unwrap(), bytes, name);
        }
        mounted.umount();
        if kind == FileSystem::Ext4 {
            run(Command::new("e2fsck").args(["-f", "-n"]).arg(store.file("disk")));
        }
        store.check();
    }
}

/// Snapshots of a volume that grows are deleted, and the power goes at some instant of the merges; the next round's merges go
/// on with what was cut off. Everything was synced: every name shows what it showed.
fn cuts_amid_merges(kind: FileSystem) {
    let mut rng = Rng::announced();
    let disk = LoopDisk::new(kind, 640);
    let store = store_on(&disk);
    let mut live: Vec<u8> = rng.bytes(16 << 20);
    fs::write(store.file("v"), &live).unwrap();
    let mut kept: Vec<(String, Vec<u8>)> = Vec::new();
    let (begun, mut rounds) = (Instant::now(), 0);
    while rounds < 3 || begun.elapsed() < seconds(12) {
        let file = File::options().write(true).open(store.file("v")).unwrap();
        let mut gone = Vec::new();
        for i in 0..4 {
            // Some keep their size, some grow it; now and then it is cut short.
            if rng.one_in(8) {
                live.truncate(live.len() / 2);
                file.set_len(live.len() as u64).unwrap();
            }
            for _ in 0..rng.below(12) {
                let room = live.len() + if i % 2 == 1 { 300_000 } else { 0 };
                let length = 1 + rng.below(60_000) as usize;
                let bytes = rng.bytes(length);
                let offset = rng.below((room - bytes.len()) as u64) as usize;
                file.write_all_at(&bytes, offset as u64).unwrap();
                live.resize(live.len().max(offset + bytes.len()), 0);
                live[offset..offset + bytes.len()].copy_from_slice(&bytes);
            }
            let name = format!("r{rounds}-{i}");
            store.snapshot_all(&name);
            if rng.one_in(4) { kept.push((name, live.clone())) } else { gone.push(name) }
        }
        while kept.len() > 3 {
            gone.push(kept.remove(rng.below(kept.len() as u64) as usize).0);
        }
        file.sync_all().unwrap();
        drop(file);
        let deleted = ["snapshot", "delete", "--all", "--now"].into_iter().chain(gone.iter().map(String::as_str));
        if !gone.is_empty() {
            store.run(deleted);
        }
        // No more than the choice of an instant.
        std::thread::sleep(std::time::Duration::from_millis(rng.below(60)));
        cut(&disk, &store);
        disk.restore_power();
        store.mount();
        for (name, bytes) in &kept {
            assert_same_bytes(&fs::read(store.set(name).join("v")).unwrap(), bytes, name);
        }
        assert_same_bytes(&fs::read(store.file("v")).unwrap(), &live, "the volume");
        for name in &gone {
            assert!(!store.set(name).exists(), "{name} was deleted");
        }
        rounds += 1;
    }
    println!("{rounds} cuts");
    store.check();
}

#[test]
fn a_power_cut_amid_merges_on_ext4_changes_nothing_that_is_seen() {
    require_loop!("mkfs.ext4");
    cuts_amid_merges(FileSystem::Ext4);
}

#[test]
fn a_power_cut_amid_merges_on_xfs_changes_nothing_that_is_seen() {
    require_loop!("mkfs.xfs");
    cuts_amid_merges(FileSystem::Xfs);
}

/// Of plain files: what was synced is there, and what was not is not. Else the other tests would prove nothing.
#[test]
fn the_cut_is_real() {
    require_loop!("mkfs.ext4", "mkfs.xfs");
    for kind in [FileSystem::Ext4, FileSystem::Xfs] {
        let disk = LoopDisk::new(kind, 320);
        let file = |name: &str| File::create_new(disk.path().join(name)).unwrap();
        let synced = file("synced");
        synced.write_all_at(&[1; 10_000], 0).unwrap();
        synced.sync_all().unwrap();
        synced.write_all_at(&[2; 10_000], 0).unwrap();
        file("unsynced").write_all_at(&[1; 10_000], 0).unwrap();
        disk.cut_power();
        assert!(synced.sync_all().is_err(), "{kind:?}: a sync after the cut fails");
        drop(synced);
        disk.restore_power();
        assert_same_bytes(&fs::read(disk.path().join("synced")).unwrap(), &[1; 10_000], "synced");
        let unsynced = fs::read(disk.path().join("unsynced")).unwrap_or_default();
        assert!(unsynced.iter().all(|&byte| byte == 0), "{kind:?}: what was not synced is gone");
    }
}
