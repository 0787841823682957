//! A disk whose writes fail, for real: ext4 on a loop device on a sparse file in a tmpfs that is too small for it. The
//! kernel takes the writes into its page cache, and fails to write them back.
//!
//! Needs root and a loop device; without them it says so, and fails where `CI=true`.

#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_store::{Error, Name, NewVolume, Store, StoreOptions, Sync};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const MIB: usize = 1 << 20;
const BLOCK: usize = 4096;

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// The small disk; unmounted when dropped.
struct Small {
    dir: tempfile::TempDir,
    device: Option<String>,
}

impl Small {
    fn new() -> Result<Self, String> {
        let mut small = Self { dir: tempfile::tempdir().unwrap(), device: None };
        let below = small.path("below");
        let image = small.path("below/image");
        std::fs::create_dir(&below).unwrap();
        std::fs::create_dir(small.path("disk")).unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=48m", "outcrop-test", text(&below)])?;
        run("truncate", &["-s", "1G", text(&image)])?;
        run("mkfs.ext4", &["-q", "-O", "^has_journal", "-E", "nodiscard,lazy_itable_init=1", text(&image)])?;
        small.device = Some(run("losetup", &["-f", "--show", text(&image)])?);
        small.mount()?;
        Ok(small)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn mount(&self) -> Result<(), String> {
        run("mount", &["-t", "ext4", "-o", "errors=continue", self.device.as_ref().unwrap(), text(&self.path("disk"))]).map(drop)
    }

    fn unmount(&self) -> Result<(), String> {
        run("umount", &[text(&self.path("disk"))]).map(drop)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = self.unmount();
        if let Some(device) = &self.device {
            let _ = run("losetup", &["-d", device]);
        }
        let _ = run("umount", &[text(&self.path("below"))]);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_failed_write_back_fails_the_sync_and_faults_the_volume() {
    let small = match Small::new() {
        Ok(small) => small,
        Err(reason) => {
            assert!(std::env::var("CI").is_err(), "no disk that can fail: {reason}");
            eprintln!("SKIPPED: no disk that can fail: {reason}");
            return;
        }
    };
    let dir = small.path("disk/store");
    let options = StoreOptions {
        create: true,
        open_files: 16,
        flush_interval: Duration::from_secs(3600),
        floor_bytes: 0,
        ..StoreOptions::default()
    };
    let name = Name::new("v").unwrap();
    let store = Store::open(&dir, &options).unwrap();
    let new = NewVolume { size: Some(300 * MIB as u64), image: None, mode: 0o600, uid: 0, gid: 0 };
    let volume = store.create_volume(&name, &new).unwrap();
    let good = vec![1; 4 * MIB];
    volume.write_at(&good, 0).unwrap();
    volume.sync(Sync::All).unwrap();

    for at in 0..25 {
        volume.write_at(&vec![2; 4 * MIB], (10 + 4 * at) * MIB as u64).unwrap();
    }
    volume.sync(Sync::All).unwrap_err();
    // Not even when the disk could take it now.
    run("mount", &["-o", "remount,size=1g", text(&small.path("below"))]).unwrap();
    assert!(matches!(volume.sync(Sync::All), Err(Error::Faulted { .. })));
    assert!(matches!(volume.write_at(&[3], 0), Err(Error::Faulted { .. })));
    drop(volume);
    store.close().unwrap();
    drop(store);

    // What the page cache pretends is gone with it.
    small.unmount().unwrap();
    small.mount().unwrap();
    let store = Store::open(&dir, &options).unwrap();
    let volume = store.volume(&name).unwrap();
    assert!(matches!(volume.sync(Sync::All), Err(Error::Faulted { .. })));
    let look = || {
        let mut bytes = vec![9; 300 * MIB];
        assert_eq!(volume.read_at(&mut bytes, 0).unwrap(), 300 * MIB);
        assert!(bytes[..4 * MIB] == good, "what was synced is gone");
        let whole = |block: &[u8; BLOCK]| block.iter().all(|byte| *byte == block[0]) && [0, 2].contains(&block[0]);
        assert!(bytes[4 * MIB..].as_chunks::<BLOCK>().0.iter().all(whole), "neither old nor new");
    };
    look();
    store.clear_fault(&name).unwrap();
    look();
    volume.write_at(&[2; BLOCK], 200 * MIB as u64).unwrap();
    volume.sync(Sync::All).unwrap();
    look();
    drop(volume);
    store.close().unwrap();
}
