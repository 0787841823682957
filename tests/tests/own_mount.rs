//! The daemon and its own mount: images that lie in it, and a kill while one is imported. A thread of the daemon that waits
//! for its own mount would keep a killed daemon, its mount and everybody in it for ever.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::{FileSystem, LoopMount, Rng, TestStore, assert_same_bytes, require_loop, run, seconds, wait_until};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A file system on a loop device over a volume, with a copy of `bytes` in it.
fn disk_with(store: &TestStore, bytes: &[u8]) -> (LoopMount, PathBuf) {
    let disk = store.file("disk");
    File::create_new(&disk).unwrap().set_len(256 << 20).unwrap();
    FileSystem::Ext4.make(&disk);
    let mounted = LoopMount::new(&disk, "");
    let inner = mounted.join("inner");
    fs::write(&inner, bytes).unwrap();
    // So that a read is one of the device, and so of the volume.
    run(Command::new("sync").arg("-f").arg(mounted.path()));
    (mounted, inner)
}

fn overlay(path: &Path, backing: &Path) {
    run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(backing).arg(path));
}

#[test]
fn images_are_imported_from_the_stores_own_mount() {
    require_loop!("mkfs.ext4", "qemu-img");
    let store = TestStore::mounted("own");
    let bytes = Rng::new(1).bytes((8 << 20) + 4096);
    fs::write(store.file("v"), &bytes).unwrap();
    store.snapshot_all("monday");
    let link = store.outside("link");
    symlink(store.file("v"), &link).unwrap();
    overlay(&store.file("over.qcow2"), Path::new("v"));
    let outside = store.outside("over.qcow2");
    overlay(&outside, &store.file("v"));
    let (mounted, inner) = disk_with(&store, &bytes);
    let sources = [&store.file("v"), &store.set("monday").join("v"), &link, &store.file("over.qcow2"), &outside, &inner];
    for (number, source) in sources.into_iter().enumerate() {
        let name = format!("i{number}");
        let image = store.json([
            "image",
            "import",
            &name,
            source.to_str().unwrap(),
            "--allow-backing-in",
            store.mount_point().to_str().unwrap(),
        ]);
        assert_eq!(image["size"], bytes.len() as u64, "{}", source.display());
        store.run(["volume", "create", &format!("of-{name}"), "--image", &name]);
        assert_same_bytes(&fs::read(store.file(format!("of-{name}"))).unwrap(), &bytes, &source.display().to_string());
    }
    // The reading process says what is wrong, as the daemon would.
    let said = store.fails(["image", "import", "x", store.mount_point().to_str().unwrap()]);
    assert!(said.contains("it is a directory"), "{said}");
    let said = store.fails(["image", "import", "x", store.file("v").to_str().unwrap(), "--sha256", &"ab".repeat(32)]);
    assert!(said.contains("expected abab") && said.contains("hint: "), "{said}");
    mounted.umount();
    store.check();
}

/// The daemon is killed while images are read from its own mount: from a volume, a snapshot, a backing file, and a file
/// system in a volume.
#[test]
fn a_daemon_that_is_killed_while_it_imports_from_its_own_mount_ends() {
    require_loop!("mkfs.ext4", "qemu-img");
    let mut rng = Rng::announced();
    let store = TestStore::mounted("own-kill");
    let bytes = rng.bytes(96 << 20);
    fs::write(store.file("v"), &bytes).unwrap();
    store.snapshot_all("monday");
    overlay(&store.file("over.qcow2"), Path::new("v"));
    let disk = store.file("disk");
    File::create_new(&disk).unwrap().set_len(256 << 20).unwrap();
    FileSystem::Ext4.make(&disk);
    let filled = LoopMount::new(&disk, "");
    fs::write(filled.join("inner"), &bytes).unwrap();
    filled.umount();
    let (begun, mut rounds) = (Instant::now(), 0);
    while rounds < 8 || begun.elapsed() < seconds(8) {
        let mounted = LoopMount::new(&disk, "ro");
        let sources = [store.file("v"), store.set("monday").join("v"), store.file("over.qcow2"), mounted.join("inner")];
        let name = format!("i{rounds}");
        let mut import = store.cli(["image", "import", &name]);
        let import = import.arg(&sources[rounds % sources.len()]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut import = import.spawn().unwrap();
        // Not a wait for anything: the kill comes at a random instant of the import.
        std::thread::sleep(Duration::from_micros(rng.below(300_000)));
        store.kill();
        wait_until("the import to end with its daemon", || import.try_wait().unwrap().is_some());
        wait_until("the process that reads the image to end", || readers(store.store()) == 0);
        drop(mounted);
        store.mount();
        rounds += 1;
    }
    assert_same_bytes(&fs::read(store.file("v")).unwrap(), &bytes, "the volume");
    store.check();
}

/// Processes that read an image for the daemon of this store.
fn readers(store: &Path) -> usize {
    let told = |process: fs::DirEntry| fs::read(process.path().join("cmdline")).unwrap_or_default();
    let is_reader = |told: &Vec<u8>| {
        let mut words = told.split(|byte| *byte == 0);
        words.next() == Some(b"outcrop-read-image") && words.any(|word| word == store.as_os_str().as_bytes())
    };
    fs::read_dir("/proc").unwrap().flatten().map(told).filter(is_reader).count()
}
