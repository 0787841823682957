//! Snapshots: one instant, whole or absent, and never changing.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::{Rng, TestStore, assert_same_bytes, assert_same_file, read_direct, require_mount, run};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

#[test]
fn a_snapshot_has_every_volume_as_it_was() {
    require_mount!();
    let store = TestStore::mounted("all");
    let contents: Vec<_> = (0..5).map(|i| Rng::new(i).bytes(10_000 * (i as usize + 1) + 1)).collect();
    for (i, bytes) in contents.iter().enumerate() {
        fs::write(store.file(format!("v{i}")), bytes).unwrap();
    }
    store.snapshot_all("monday");
    for i in 0..5 {
        let file = File::options().write(true).open(store.file(format!("v{i}"))).unwrap();
        file.write_all_at(&[9; 5000], 3000).unwrap();
        file.set_len(if i % 2 == 0 { 100 } else { 1 << 20 }).unwrap();
    }
    fs::remove_file(store.file("v3")).unwrap();
    fs::rename(store.file("v4"), store.file("renamed")).unwrap();
    fs::write(store.file("new"), b"later").unwrap();
    let check = || {
        for (i, bytes) in contents.iter().enumerate() {
            let path = store.set("monday").join(format!("v{i}"));
            assert_same_bytes(&fs::read(&path).unwrap(), bytes, &path.display().to_string());
            assert_same_bytes(&read_direct(&path), bytes, &path.display().to_string());
        }
        assert_eq!(fs::read_dir(store.set("monday")).unwrap().count(), 5);
    };
    check();
    store.remount();
    check();
    store.kill_and_mount();
    check();
    store.check();
}

#[test]
fn one_volume_alone_can_have_a_snapshot() {
    require_mount!();
    let store = TestStore::mounted("one");
    fs::write(store.file("a"), b"a1").unwrap();
    fs::write(store.file("b"), b"b1").unwrap();
    store.run(["snapshot", "create", "a", "before", "--label", "k=v"]);
    assert_eq!(fs::read_dir(store.set("before")).unwrap().count(), 1);
    assert_eq!(fs::read(store.set("before").join("a")).unwrap(), b"a1");
    let listed = store.json(["snapshot", "list", "a"]);
    assert_eq!((&listed[0]["name"], &listed[0]["labels"]["k"]), (&"before".into(), &"v".into()), "{listed}");
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(store.json(["snapshot", "list", "b"]).as_array().unwrap().len(), 0);
    // The other may join it under the same name; the same one may not.
    store.run(["snapshot", "create", "b", "before"]);
    let refused = store.fails(["snapshot", "create", "a", "before"]);
    assert!(refused.contains("before"), "{refused}");
    store.fails(["snapshot", "create", "nothing", "s"]);
    store.fails(["snapshot", "create", "a", "s", "--label", "no-value"]);
    assert!(fs::create_dir(store.set("before")).is_err_and(|error| error.kind() == std::io::ErrorKind::AlreadyExists));
}

#[test]
fn snapshots_never_change() {
    require_mount!();
    let store = TestStore::mounted("immutable");
    fs::write(store.file("v"), Rng::new(1).bytes(20_000)).unwrap();
    fs::set_permissions(store.file("v"), Permissions::from_mode(0o666)).unwrap();
    let before = SystemTime::now();
    store.snapshot_all("s");
    let after = SystemTime::now();
    let (file, kept) = (store.set("s").join("v"), store.outside("kept"));
    fs::copy(&file, &kept).unwrap();
    let read_only = |result: std::io::Result<()>, what: &str| {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS), "{what}");
    };
    read_only(File::options().write(true).open(&file).map(drop), "open for writing");
    read_only(File::options().append(true).open(&file).map(drop), "open for appending");
    read_only(File::options().write(true).truncate(true).open(&file).map(drop), "O_TRUNC");
    read_only(fs::write(store.set("s").join("new"), b"x"), "a new file");
    read_only(fs::set_permissions(&file, Permissions::from_mode(0o600)), "chmod");
    read_only(std::os::unix::fs::chown(&file, Some(1), None), "chown");
    let stolen = fs::rename(&file, store.file("stolen")).unwrap_err().raw_os_error();
    assert!(matches!(stolen, Some(libc::EROFS | libc::EPERM)), "rename out: {stolen:?}");
    assert!(rustix::fs::setxattr(&file, "user.x", b"y", rustix::fs::XattrFlags::empty()).is_err());
    let created = fs::metadata(&file).unwrap();
    let set = fs::metadata(store.set("s")).unwrap();
    // Nobody may write, and the mode says so.
    assert_eq!(created.mode() & 0o777, 0o444);
    assert!(set.is_dir());
    let taken = set.modified().unwrap();
    assert!(before <= taken && taken <= after, "the snapshot's time is when it was taken");

    // Whatever happens to the volume: overwritten, punched, cut, removed, made again.
    let volume = File::options().write(true).open(store.file("v")).unwrap();
    volume.write_all_at(&[1; 10_000], 1000).unwrap();
    fallocate(&volume, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 20_000).unwrap();
    volume.set_len(0).unwrap();
    assert_same_file(&file, &kept);
    drop(volume);
    fs::remove_file(store.file("v")).unwrap();
    fs::write(store.file("v"), b"another").unwrap();
    store.remount();
    assert_same_file(&file, &kept);
    store.check();
}

#[test]
fn a_removed_volume_comes_back_by_cp() {
    require_mount!();
    let store = TestStore::mounted("restore");
    let volume = File::create_new(store.file("db")).unwrap();
    volume.set_len(1 << 30).unwrap();
    volume.write_all_at(&Rng::new(2).bytes(100_000), 500 << 20).unwrap();
    drop(volume);
    store.snapshot_all("monday");
    fs::remove_file(store.file("db")).unwrap();
    assert_eq!(store.json(["snapshot", "list", "db"]).as_array().unwrap().len(), 1, "its snapshots stay");
    run(Command::new("cp").arg("--sparse=auto").arg(store.set("monday").join("db")).arg(store.file("db")));
    assert_same_file(&store.file("db"), &store.set("monday").join("db"));
    assert!(fs::metadata(store.file("db")).unwrap().blocks() * 512 <= 112 << 10, "holes and all");
    assert_eq!(store.json(["snapshot", "list", "db"]).as_array().unwrap().len(), 1, "and are its snapshots again");
    store.snapshot_all("tuesday");
    assert_eq!(store.json(["snapshot", "list", "db"]).as_array().unwrap().len(), 2);
    store.check();
}

#[test]
fn no_snapshot_has_a_later_write_without_an_earlier_one() {
    require_mount!();
    let store = TestStore::mounted("atomic");
    for name in ["a", "b"] {
        fs::write(store.file(name), [0; 8]).unwrap();
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let open = |name| File::options().write(true).open(store.file(name)).unwrap();
            let (a, b) = (open("a"), open("b"));
            let mut count = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                count += 1;
                a.write_all_at(&count.to_le_bytes(), 0).unwrap();
                b.write_all_at(&count.to_le_bytes(), 0).unwrap();
            }
        });
        for i in 0..60 {
            store.snapshot_all(&format!("s{i}"));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let read = |set: &str, name: &str| u64::from_le_bytes(fs::read(store.set(set).join(name)).unwrap().try_into().unwrap());
    let mut last = 0;
    for i in 0..60 {
        let set = format!("s{i}");
        let (a, b) = (read(&set, "a"), read(&set, "b"));
        assert!(a >= b && a - b <= 1, "{set}: a is {a}, b is {b}");
        assert!(b >= last, "{set} is older than the one before it");
        last = a.min(b);
    }
    assert!(last > 0, "the writer wrote meanwhile");
    store.check();
}

#[test]
fn a_chain_of_1000_layers_reads_right() {
    require_mount!();
    let store = TestStore::mounted("chain");
    let blocks = 64_usize;
    let mut expected = vec![0; blocks * 4096];
    File::create_new(store.file("v")).unwrap().set_len(expected.len() as u64).unwrap();
    let volume = File::options().write(true).open(store.file("v")).unwrap();
    let mut rng = Rng::new(3);
    let mut kept = Vec::new();
    for i in 0..1000 {
        let offset = rng.below(expected.len() as u64 - 3000) as usize;
        let length = rng.range(1, 3000) as usize;
        let bytes = rng.bytes(length);
        volume.write_all_at(&bytes, offset as u64).unwrap();
        expected[offset..offset + bytes.len()].copy_from_slice(&bytes);
        if rng.one_in(4) {
            let block = rng.below(blocks as u64) as usize * 4096;
            fallocate(&volume, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, block as u64, 4096).unwrap();
            expected[block..block + 4096].fill(0);
        }
        store.snapshot_all(&format!("s{i}"));
        if i % 100 == 7 {
            kept.push((i, expected.clone()));
        }
    }
    drop(volume);
    let check = || {
        assert_same_bytes(&fs::read(store.file("v")).unwrap(), &expected, "the volume");
        for (i, bytes) in &kept {
            assert_same_bytes(&read_direct(&store.set(&format!("s{i}")).join("v")), bytes, &format!("snapshot {i}"));
        }
    };
    check();
    let open = fs::read_dir(format!("/proc/{}/fd", store.pid().unwrap())).unwrap().count();
    assert!(open < 700, "{open} descriptors are open: layer files are held under a limit");
    store.remount();
    check();
    store.kill_and_mount();
    check();
    assert_eq!(fs::read_dir(store.mount_point().join(".snapshots")).unwrap().count(), 1000);
    store.check();
}
