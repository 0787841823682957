//! A killed daemon loses no acknowledged write, whenever it is killed.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::workload::{Promise, Workload};
use outcrop_tests::{
    FileSystem, LoopMount, Rng, TestStore, assert_same_bytes, require_loop, require_mount, run, seconds, wait_until,
};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn a_killed_daemon_loses_no_acknowledged_write() {
    require_mount!();
    let mut rng = Rng::announced();
    let store = TestStore::mounted("kill");
    let mut workload = Workload::new(&store, Promise::Acknowledged, 3);
    let (begun, mut rounds) = (Instant::now(), 0);
    while rounds < 3 || begun.elapsed() < seconds(15) {
        workload.run(&store, &mut rng, || store.kill());
        // Recovery too can be killed, at any instant, any number of times.
        while rng.one_in(2) {
            store.start();
            std::thread::sleep(Duration::from_micros(rng.below(60_000)));
            store.kill();
        }
        store.mount();
        workload.check(&store);
        store.check();
        rounds += 1;
    }
    println!("{rounds} kills, {} snapshots", workload.snapshots());
}

#[test]
fn a_killed_daemon_loses_nothing_of_a_single_unsynced_write() {
    require_mount!();
    let store = TestStore::mounted("kill-one");
    let mut expected = vec![0; 1 << 20];
    let file = File::create_new(store.file("v")).unwrap();
    file.set_len(1 << 20).unwrap();
    for (i, (offset, length)) in [(0, 1), (4095, 2), (100_000, 5000), ((1 << 20) - 1, 1)].into_iter().enumerate() {
        let bytes = vec![i as u8 + 1; length];
        file.write_all_at(&bytes, offset as u64).unwrap();
        expected[offset..offset + length].copy_from_slice(&bytes);
    }
    drop(file);
    store.kill_and_mount();
    assert_same_bytes(&fs::read(store.file("v")).unwrap(), &expected, "after the kill");
    store.kill_and_mount();
    assert_same_bytes(&fs::read(store.file("v")).unwrap(), &expected, "after another");
}

#[test]
fn a_dead_mount_answers_errors_until_it_is_mounted_again() {
    require_mount!();
    let store = TestStore::mounted("dead");
    fs::write(store.file("v"), b"content").unwrap();
    let open = File::open(store.file("v")).unwrap();
    store.kill();
    wait_until("the dead mount to say so", || fs::metadata(store.mount_point()).is_err());
    assert!(open.read_exact_at(&mut [0; 4], 0).is_err());
    drop(open);
    store.mount();
    assert_eq!(fs::read(store.file("v")).unwrap(), b"content");
    let mounts = outcrop_tests::scratch::mounts_below(store.mount_point());
    assert_eq!(mounts.len(), 1, "the dead one is gone from below: {mounts:?}");
}

#[test]
fn a_file_system_in_a_volume_survives_the_daemon() {
    require_loop!("mkfs.ext4", "e2fsck");
    let store = TestStore::mounted("kill-loop");
    File::create_new(store.file("disk")).unwrap().set_len(128 << 20).unwrap();
    FileSystem::Ext4.make(&store.file("disk"));
    let mut kept: Vec<(String, Vec<u8>)> = Vec::new();
    for round in 0..4 {
        let mounted = LoopMount::new(&store.file("disk"), "");
        for (name, bytes) in &kept {
            assert_same_bytes(&fs::read(mounted.join(name)).unwrap(), bytes, name);
        }
        for i in 0..20 {
            let (name, bytes) = (format!("f{round}-{i}"), Rng::new(i).bytes(20_000));
            fs::write(mounted.join(&name), &bytes).unwrap();
            File::open(mounted.join(&name)).unwrap().sync_all().unwrap();
            File::open(mounted.path()).unwrap().sync_all().unwrap();
            kept.push((name, bytes));
        }
        fs::write(mounted.join("unsynced"), vec![1; 5 << 20]).unwrap();
        store.kill();
        drop(mounted);
        store.mount();
    }
    // The journal is replayed by mounting.
    LoopMount::new(&store.file("disk"), "").umount();
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(store.file("disk")));
    store.check();
}
