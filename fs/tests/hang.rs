//! A disk that does not answer: the store lies on a file system that is frozen, and every caller comes back all the same.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod support;

use outcrop_fs::{Mount, UnmountMode};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Loop, can_mount, has, open_store, options, pattern, run};

/// A disk that can be stopped.
struct Disk {
    path: PathBuf,
    _device: Loop,
}

impl Disk {
    fn new(dir: &Path) -> Self {
        let image = dir.join("image");
        File::create(&image).unwrap().set_len(512 << 20).unwrap();
        let device = Loop::over(&image);
        run("mkfs.ext4", &["-q", &device.0]);
        let path = dir.join("disk");
        fs::create_dir(&path).unwrap();
        run("mount", &[&device.0, path.to_str().unwrap()]);
        Self { path, _device: device }
    }

    fn freeze(&self) -> Frozen<'_> {
        run("fsfreeze", &["-f", self.path.to_str().unwrap()]);
        Frozen(self)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
    }
}

/// Thawed when dropped, or the machine would keep the mount for ever.
struct Frozen<'a>(&'a Disk);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.0.path).status();
    }
}

/// What may come out while the disk hangs.
fn in_time<T>(what: &str, result: std::io::Result<T>) -> bool {
    match result {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(Errno::from_io_error(&error), Some(Errno::TIMEDOUT), "{what}: {error}");
            false
        }
    }
}

#[test]
fn a_disk_that_hangs_times_callers_out_and_loses_nothing() {
    if !can_mount() || !has("losetup") || !has("mkfs.ext4") || !has("fsfreeze") {
        return;
    }
    let dir = tempfile::Builder::new().prefix("outcrop-fs-").tempdir().unwrap();
    let disk = Disk::new(dir.path());
    let point = dir.path().join("mnt");
    fs::create_dir(&point).unwrap();
    fs::create_dir(disk.path.join("store")).unwrap();
    let store = open_store(&disk.path.join("store"));
    let mount = Mount::new(store.clone(), &point, &options("deadline=1s,threads=2,pool=8")).unwrap();
    let path = point.join("v");
    const BLOCK: usize = 4096;
    const WRITES: usize = 24;
    let content = pattern(1, WRITES * BLOCK);
    fs::write(&path, &content).unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let frozen = disk.freeze();
    let acknowledged = std::thread::scope(|scope| {
        // More writers than there are threads of any kind: each to its own block.
        let writers: Vec<_> = (0..WRITES)
            .map(|n| {
                let file = &file;
                scope.spawn(move || in_time("write", file.write_all_at(&[n as u8 + 1; BLOCK], (n * BLOCK) as u64)))
            })
            .collect();
        type Operation<'a> = Box<dyn FnOnce() -> std::io::Result<()> + Send + 'a>;
        let others: [(&str, Operation<'_>); 8] = [
            ("fsync", Box::new(|| file.sync_all())),
            ("fstat", Box::new(|| file.metadata().map(drop))),
            ("stat", Box::new(|| path.metadata().map(drop))),
            ("read", Box::new(|| file.read_exact_at(&mut [0; BLOCK], 0))),
            ("statfs", Box::new(|| Ok(rustix::fs::statvfs(&point).map(drop)?))),
            ("create", Box::new(|| File::create(point.join("new")).map(drop))),
            ("truncate", Box::new(|| file.set_len((WRITES * BLOCK) as u64))),
            ("readdir", Box::new(|| fs::read_dir(&point)?.try_for_each(|entry| entry.map(drop)))),
        ];
        let others = others.map(|(what, operation)| scope.spawn(move || in_time(what, operation())));
        for other in others {
            other.join().unwrap();
        }
        writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
    });
    drop(frozen);
    // Everything works again: until the operations that hung are through, some may still time out.
    let mut tries = 0;
    while !in_time("fsync", file.sync_all()) {
        tries += 1;
        assert!(tries < 60, "it does not recover");
    }
    fs::write(point.join("after"), "after").unwrap();
    assert_eq!(fs::read(point.join("after")).unwrap(), b"after");
    drop(file);
    mount.unmount(UnmountMode::Normal).unwrap();
    store.close().unwrap();
    drop((mount, store));
    // What was acknowledged is there after a new open; what timed out is there whole, or not at all.
    let store = open_store(&disk.path.join("store"));
    let mount = Mount::new(store.clone(), &point, &options("")).unwrap();
    let mut found = Vec::new();
    File::open(&path).unwrap().read_to_end(&mut found).unwrap();
    assert_eq!(found.len(), content.len());
    for (n, acknowledged) in acknowledged.into_iter().enumerate() {
        let block = &found[n * BLOCK..][..BLOCK];
        let (old, new) = (block == &content[n * BLOCK..][..BLOCK], block == [n as u8 + 1; BLOCK]);
        assert!(new || (old && !acknowledged), "block {n}, acknowledged: {acknowledged}, old: {old}");
    }
    mount.unmount(UnmountMode::Normal).unwrap();
    store.close().unwrap();
}
