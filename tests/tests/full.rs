//! A full disk: the writer is told, nothing acknowledged is lost, and deleting always works.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::{FileSystem, LoopDisk, Rng, TestStore, assert_same_bytes, require_loop, wait_until};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

const STEP: usize = 256 << 10;

/// Writes random bytes from the start until an error; gives what was acknowledged, and the error.
fn fill(file: &File, rng: &mut Rng) -> (Vec<u8>, io::Error) {
    let mut written = Vec::new();
    loop {
        let bytes = rng.bytes(STEP);
        match file.write_all_at(&bytes, written.len() as u64) {
            Ok(()) => written.extend(bytes),
            Err(error) => return (written, error),
        }
    }
}

/// A file of somebody else's that takes all that is left, to the last block.
fn ballast(disk: &LoopDisk) -> std::path::PathBuf {
    let path = disk.path().join("ballast");
    let file = File::create_new(&path).unwrap();
    let mut end = fill(&file, &mut Rng::new(9)).0.len() as u64;
    // What ext4 had set aside for the file's metadata is free again once that is allocated.
    for _ in 0..3 {
        let _ = file.sync_all();
        while file.write_all_at(&[1; 512], end).is_ok() {
            end += 512;
        }
    }
    path
}

/// Doctor finds nothing wrong but that the disk is full.
#[track_caller]
fn check_but_space(store: &TestStore) {
    let output = store.cli(["doctor", "--json"]).output().unwrap();
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for finding in found["findings"].as_array().unwrap() {
        assert!(finding["check"] == "space" || finding["severity"] != "error", "{finding}");
    }
}

fn a_full_disk_reaches_the_writer(kind: FileSystem, mebibytes: u64) {
    let disk = LoopDisk::new(kind, mebibytes);
    let store = TestStore::on(disk.path().join("store"), "full");
    store.mount();
    let mut rng = Rng::new(1);
    fs::write(store.file("small"), rng.bytes(1 << 20)).unwrap();
    File::open(store.file("small")).unwrap().sync_all().unwrap();
    let small = fs::read(store.file("small")).unwrap();
    store.snapshot_all("before");

    let file = File::options().read(true).write(true).create_new(true).open(store.file("big")).unwrap();
    let (written, error) = fill(&file, &mut rng);
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    assert!(written.len() > 16 << 20, "only {} bytes fitted", written.len());
    file.sync_all().unwrap();

    // All that was acknowledged is there, now and after a kill; what is written over takes no space.
    let check = || {
        let found = fs::read(store.file("big")).unwrap();
        assert_same_bytes(&found[..written.len()], &written, "what was acknowledged");
        assert_same_bytes(&fs::read(store.file("small")).unwrap(), &small, "another volume");
    };
    check();
    file.write_all_at(&written[..STEP], 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    store.kill_and_mount();
    check();
    check_but_space(&store);

    // Metadata has its own: snapshots, renames, removals.
    store.snapshot_all("full");
    fs::rename(store.file("small"), store.file("kept")).unwrap();
    fs::remove_file(store.file("big")).unwrap();
    store.run(["volume", "delete", "--snapshots", "big"]);
    // What was deleted is kept for undo.
    store.remount();
    assert!(!store.json(["snapshot", "list", "--undo"]).as_array().unwrap().is_empty(), "it can be restored");
    assert_same_bytes(&fs::read(store.file("kept")).unwrap(), &small, "the kept volume");
    let file = File::create_new(store.file("again")).unwrap();
    let bytes = rng.bytes(16 << 20);
    // Unless the space is needed: it gives way, the oldest first, while the writer waits.
    file.write_all_at(&bytes, 0).unwrap();
    file.sync_all().unwrap();
    assert_same_bytes(&fs::read(store.file("again")).unwrap(), &bytes, "a volume in the space");
    store.check();
}

#[test]
fn a_full_ext4_reaches_the_writer() {
    require_loop!("mkfs.ext4");
    a_full_disk_reaches_the_writer(FileSystem::Ext4, 200);
}

#[test]
fn a_full_xfs_reaches_the_writer() {
    require_loop!("mkfs.xfs");
    a_full_disk_reaches_the_writer(FileSystem::Xfs, 400);
}

#[test]
fn a_disk_filled_by_others_is_no_different() {
    require_loop!("mkfs.ext4");
    let disk = LoopDisk::new(FileSystem::Ext4, 200);
    let store = TestStore::on(disk.path().join("store"), "filled");
    store.mount();
    let mut rng = Rng::new(2);
    let file = File::create_new(store.file("v")).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(&rng.bytes(1 << 20), 0).unwrap();
    file.sync_all().unwrap();
    let ballast = ballast(&disk);
    let refused = file.write_all_at(&rng.bytes(1 << 20), 32 << 20).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC), "{refused}");
    let refused = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 8 << 20, 32 << 20);
    assert_eq!(refused, Err(rustix::io::Errno::NOSPC));
    drop(file);
    store.kill_and_mount();
    check_but_space(&store);
    fs::remove_file(ballast).unwrap();
    let bytes = rng.bytes(1 << 20);
    let file = File::options().write(true).open(store.file("v")).unwrap();
    file.write_all_at(&bytes, 32 << 20).unwrap();
    file.sync_all().unwrap();
    assert_same_bytes(&fs::read(store.file("v")).unwrap()[32 << 20..33 << 20], &bytes, "written once there was space");
}

#[test]
fn a_store_is_not_made_on_a_full_disk() {
    require_loop!("mkfs.ext4");
    let disk = LoopDisk::new(FileSystem::Ext4, 16);
    let ballast = ballast(&disk);
    let store = TestStore::on(disk.path().join("store"), "unmade");
    let refused = store.fails(["mount".as_ref(), store.store().as_os_str(), store.mount_point().as_os_str()]);
    assert!(refused.contains("space") || refused.contains("full"), "{refused}");
    assert!(!outcrop_tests::scratch::is_mounted(store.mount_point()));
    // And with space, the same path is fine: nothing half-made is in the way.
    fs::remove_file(ballast).unwrap();
    store.mount();
    fs::write(store.file("v"), b"fits").unwrap();
    store.umount();
}

#[test]
fn a_filling_disk_is_announced() {
    require_loop!("mkfs.ext4");
    let disk = LoopDisk::new(FileSystem::Ext4, 200);
    // The floor is what remains when data gets no more space: below the last warning, here.
    let store = TestStore::on(disk.path().join("store"), "filling").with(&["-o", "floor=2M,flush=100ms"]);
    store.mount();
    let file = File::create_new(store.file("v")).unwrap();
    let (mut rng, mut written) = (Rng::new(4), 0);
    let space = rustix::fs::statvfs(disk.path()).unwrap();
    let total = space.f_blocks * space.f_frsize;
    for (percent, limit) in [(80, 85), (90, 93), (95, 98)] {
        while disk.available() > total * (100 - limit + 1) / 100 {
            file.write_all_at(&rng.bytes(STEP), written).unwrap();
            written += STEP as u64;
        }
        wait_until(&format!("a warning at {percent} %"), || {
            let status = store.json(["status"]);
            let events = status["events"].as_array().unwrap().iter();
            events.filter(|event| event["kind"] == "space").any(|event| {
                let message = event["message"].as_str().unwrap_or_default();
                (percent..=100).any(|percent| message.contains(&format!("{percent} %")))
            })
        });
    }
}

#[test]
fn promising_more_than_the_disk_has_is_announced() {
    require_loop!("mkfs.ext4");
    let disk = LoopDisk::new(FileSystem::Ext4, 100);
    let store = TestStore::on(disk.path().join("store"), "promises");
    store.mount();
    store.run(["volume", "create", "v", "--size", "1T"]);
    wait_until("a warning", || {
        let status = store.json(["status"]);
        status["events"]
            .as_array()
            .unwrap()
            .iter()
            .any(|event| event["kind"] == "space" && event["message"].as_str().unwrap().contains("promise"))
    });
}
