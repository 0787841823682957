//! A store and a mount for a test, taken away again however the test ends.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_fs::{Mount, MountOptions, UnmountMode};
use outcrop_store::{Store, StoreOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Whether mounts can be made here. Where not, it says so, and fails if CI expects them.
pub fn can_mount() -> bool {
    let root = rustix::process::geteuid().is_root();
    let device = std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    or_skip(root && device, "it needs root and /dev/fuse")
}

/// Whether a program is installed, likewise.
pub fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", "command -v \"$0\" >/dev/null", program]).status().unwrap().success();
    or_skip(found, &format!("it needs {program}"))
}

fn or_skip(can: bool, why: &str) -> bool {
    if !can {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI must run this test, but {why}");
        eprintln!("\n*** SKIPPED: {} was NOT run: {why} ***\n", std::thread::current().name().unwrap_or("a test"));
    }
    can
}

/// Runs a command that must succeed; gives what it printed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Options as `-o` has them.
pub fn options(list: &str) -> MountOptions {
    let mut options = MountOptions::default();
    options.apply(list, &[]).unwrap();
    options
}

pub fn open_store(path: &Path) -> Store {
    Store::open(path, &StoreOptions { create: true, ..StoreOptions::default() }).unwrap()
}

/// A store with its mount.
pub struct Mounted {
    pub store: Store,
    pub mount: Mount,
    pub dir: TempDir,
}

impl Mounted {
    pub fn new() -> Self {
        Self::with("")
    }

    pub fn with(list: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("outcrop-fs-").tempdir().unwrap();
        let (at, point) = (dir.path().join("store"), dir.path().join("mnt"));
        std::fs::create_dir(&at).unwrap();
        std::fs::create_dir(&point).unwrap();
        let store = open_store(&at);
        let mount = Mount::new(store.clone(), &point, &options(list)).unwrap();
        Self { store, mount, dir }
    }

    /// A path in the mount.
    pub fn path(&self, name: &str) -> PathBuf {
        self.mount.path().join(name)
    }

    /// Makes a volume with this content.
    pub fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.mount.unmount(UnmountMode::Normal) {
            if !std::thread::panicking() {
                panic!("the test left the mount in use: {error}");
            }
            let _ = self.mount.unmount(UnmountMode::Force);
        }
        let _ = self.store.close();
    }
}

/// A loop device, detached when dropped.
pub struct Loop(pub String);

impl Loop {
    pub fn over(file: &Path) -> Self {
        Self(run("losetup", &["-f", "--show", file.to_str().unwrap()]).trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// Bytes that differ from place to place.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}
