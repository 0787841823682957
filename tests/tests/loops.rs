//! File systems inside volumes, through loop devices.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::{FileSystem, LoopMount, Rng, TestStore, assert_same_bytes, require_loop, run, sh};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

fn volume(store: &TestStore, name: &str, bytes: u64) -> std::path::PathBuf {
    let path = store.file(name);
    File::create_new(&path).unwrap().set_len(bytes).unwrap();
    path
}

/// Some files, some of them deep, and what they hold.
fn fill(directory: &Path, seed: u64) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut rng = Rng::new(seed);
    let files = (0..40).map(|i| {
        let path = directory.join(format!("d{}/f{i}", i % 5));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let length = rng.range(1, 300_000) as usize;
        let bytes = rng.bytes(length);
        fs::write(&path, &bytes).unwrap();
        (path, bytes)
    });
    files.collect()
}

fn holds(files: &[(std::path::PathBuf, Vec<u8>)], was: &Path, is: &Path) {
    for (path, bytes) in files {
        let path = is.join(path.strip_prefix(was).unwrap());
        assert_same_bytes(&fs::read(&path).unwrap(), bytes, &path.display().to_string());
    }
}

/// A file system that is frozen for as long as this lives.
struct Frozen<'a>(&'a Path);

impl<'a> Frozen<'a> {
    fn new(path: &'a Path) -> Self {
        run(Command::new("fsfreeze").arg("-f").arg(path));
        Self(path)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(self.0).output();
    }
}

fn lives_in_a_volume(kind: FileSystem, losetup: &[&str]) {
    let store = TestStore::mounted(kind.name());
    let path = volume(&store, "v", 512 << 20);
    kind.make(&path);
    let mounted = LoopMount::with_device(&path, "", losetup);
    let was = mounted.path().to_owned();
    let first = fill(&mounted.join("first"), 1);
    // A sync puts all of ext4 in its place. Of xfs it writes only the log, which a read-only mount can't replay: freezing does.
    run(Command::new("sync").arg("-f").arg(mounted.path()));
    let frozen = (kind == FileSystem::Xfs).then(|| Frozen::new(mounted.path()));
    store.snapshot_all("live");
    drop(frozen);
    let second = fill(&mounted.join("second"), 2);
    fs::remove_dir_all(mounted.join("first")).unwrap();
    run(Command::new("sync").arg("-f").arg(mounted.path()));

    // The snapshot, beside the volume that goes on.
    let old = LoopMount::new(&store.set("live").join("v"), kind.snapshot_options());
    holds(&first, &was, old.path());
    assert!(!old.join("second").join("d0").exists());
    assert!(fs::write(old.join("new"), b"x").is_err());
    old.umount();

    holds(&second, &was, mounted.path());
    mounted.umount();
    store.remount();
    let again = LoopMount::new(&path, "");
    holds(&second, &was, again.path());
    assert!(!again.join("first").exists());
    again.umount();
    if kind == FileSystem::Ext4 {
        run(Command::new("e2fsck").args(["-f", "-n"]).arg(&path));
    }
    store.check();
}

#[test]
fn ext4_lives_in_a_volume() {
    require_loop!("mkfs.ext4", "e2fsck");
    lives_in_a_volume(FileSystem::Ext4, &[]);
}

#[test]
fn xfs_lives_in_a_volume() {
    require_loop!("mkfs.xfs", "fsfreeze");
    lives_in_a_volume(FileSystem::Xfs, &[]);
}

#[test]
fn ext4_lives_in_a_volume_past_the_page_cache() {
    require_loop!("mkfs.ext4", "e2fsck");
    lives_in_a_volume(FileSystem::Ext4, &["--direct-io=on"]);
}

#[test]
fn a_snapshot_of_a_running_file_system_recovers_as_after_a_power_cut() {
    require_loop!("mkfs.ext4", "e2fsck");
    let store = TestStore::mounted("running");
    let path = volume(&store, "v", 256 << 20);
    FileSystem::Ext4.make(&path);
    let mounted = LoopMount::new(&path, "");
    let synced = fill(&mounted.join("synced"), 3);
    run(Command::new("sync").arg("-f").arg(mounted.path()));
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| (0..4).for_each(|i| drop(fill(&mounted.join(&format!("busy{i}")), i))));
        for i in 0.. {
            store.snapshot_all(&format!("s{i}"));
            if writing.is_finished() {
                break;
            }
        }
    });
    let was = mounted.path().to_owned();
    mounted.umount();
    let mut seen = 0;
    for entry in fs::read_dir(store.mount_point().join(".snapshots")).unwrap().take(12) {
        // A writable copy, so that its journal can be replayed.
        let copy = store.file("copy");
        run(Command::new("cp").arg("--sparse=auto").arg(entry.unwrap().path().join("v")).arg(&copy));
        let recovered = LoopMount::new(&copy, "");
        holds(&synced, &was, recovered.path());
        recovered.umount();
        run(Command::new("e2fsck").args(["-f", "-n"]).arg(&copy));
        fs::remove_file(copy).unwrap();
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn discarded_space_comes_back_and_reads_zeros() {
    require_loop!("mkfs.ext4", "fstrim", "blkdiscard");
    let store = TestStore::mounted("discard");
    let path = volume(&store, "v", 256 << 20);
    FileSystem::Ext4.make(&path);
    let mounted = LoopMount::new(&path, "");
    let used = || fs::metadata(&path).unwrap().blocks() * 512;
    fs::write(mounted.join("big"), Rng::new(4).bytes(64 << 20)).unwrap();
    run(Command::new("sync").arg("-f").arg(mounted.path()));
    let full = used();
    assert!(full > 64 << 20);
    fs::remove_file(mounted.join("big")).unwrap();
    run(Command::new("sync").arg("-f").arg(mounted.path()));
    run(Command::new("fstrim").arg(mounted.path()));
    assert!(used() < full - (60 << 20), "{} of {full} bytes are left after fstrim", used());

    let disk_before = disk_use(store.store());
    mounted.umount();
    store.remount();
    assert!(disk_use(store.store()) <= disk_before + (1 << 20), "the disk has the space back");

    // A whole volume, with a snapshot below that has data in it.
    fs::write(store.file("raw"), Rng::new(5).bytes(8 << 20)).unwrap();
    store.snapshot_all("s");
    let device = run(Command::new("losetup").args(["-f", "--show"]).arg(store.file("raw")));
    let device = device.trim();
    let discarded = Command::new("blkdiscard").args(["--offset", "1048576", "--length", "4194304", device]).status();
    run(Command::new("losetup").args(["-d", device]));
    assert!(discarded.unwrap().success());
    let bytes = fs::read(store.file("raw")).unwrap();
    assert!(bytes[1 << 20..5 << 20].iter().all(|&byte| byte == 0), "a discarded range reads zeros, whatever lies below");
    assert!(bytes[..1 << 20].iter().all(|&byte| byte != 0) && bytes[5 << 20..].iter().all(|&byte| byte != 0));
    assert!(fs::read(store.set("s").join("raw")).unwrap().iter().all(|&byte| byte != 0), "the snapshot still has it");
    store.check();
}

/// Bytes that a directory takes on its disk.
fn disk_use(path: &Path) -> u64 {
    sh("du -s --block-size=1 \"$1\" | cut -f1", [path]).trim().parse().unwrap()
}

#[test]
fn a_64_tib_volume_has_blocks_at_both_ends_and_an_ext4() {
    require_loop!("mkfs.ext4");
    let store = TestStore::mounted("huge");
    let path = volume(&store, "v", 64 << 40);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let places = [0, 4096, (1 << 40) - 5, (16 << 40) - 1, (16 << 40) + 1, (33 << 40) + 12_345, (64 << 40) - 10];
    for (i, offset) in places.into_iter().enumerate() {
        file.write_all_at(&[i as u8 + 1; 10], offset).unwrap();
    }
    let check = |path: &Path| {
        let file = File::open(path).unwrap();
        for (i, offset) in places.into_iter().enumerate() {
            let mut found = [0; 10];
            file.read_exact_at(&mut found, offset).unwrap();
            // The second overlaps the first at (16 << 40): whoever came later has it.
            let same = found.iter().filter(|&&byte| byte == i as u8 + 1).count();
            assert!(same >= 2, "at {offset}: {found:?}");
        }
        assert!(fs::metadata(path).unwrap().blocks() * 512 < 1 << 20);
    };
    file.sync_all().unwrap();
    store.snapshot_all("s");
    store.kill_and_mount();
    check(&path);
    check(&store.set("s").join("v"));
    fs::remove_file(&path).unwrap();

    // A file system of that size: block groups all over, so few and lazy ones.
    let path = volume(&store, "fs", (64 << 40) - (1 << 30));
    run(Command::new("mkfs.ext4")
        .args(["-q", "-F", "-T", "largefile4", "-O", "sparse_super2,^resize_inode,64bit,bigalloc,^has_journal", "-C", "1048576"])
        .args(["-E", "lazy_itable_init=1,nodiscard,packed_meta_blocks=1"])
        .arg(&path));
    let mounted = LoopMount::new(&path, "");
    let files = fill(mounted.path(), 9);
    let was = mounted.path().to_owned();
    mounted.umount();
    store.remount();
    let mounted = LoopMount::new(&path, "");
    holds(&files, &was, mounted.path());
    mounted.umount();
    store.check();
}
