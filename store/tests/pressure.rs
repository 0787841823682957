//! A full disk, for real: a small tmpfs. What can be restored makes way for what is written, the oldest first, and only as
//! much as it takes; with nothing left to give up the writer is told at once.
//!
//! Needs root; without it says so, and fails where `CI=true`.

#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_store::{DeleteVolume, Error, Keep, Name, NewVolume, Store, StoreOptions, Sync};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const MIB: u64 = 1 << 20;

struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=128m", "outcrop-test"]).arg(dir.path()).output().unwrap();
        if mounted.status.success() {
            return Some(Self(dir));
        }
        let why = String::from_utf8_lossy(&mounted.stderr);
        assert!(std::env::var_os("CI").is_none(), "this test needs root to mount a small disk: {why}");
        eprintln!("SKIPPED: this test needs root to mount a small disk: {why}");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Waits "for ever" where it waits at all, so that a wait for nothing is seen.
fn open(path: &Path) -> Store {
    let options = StoreOptions { create: true, space_wait: Duration::from_secs(3600), ..StoreOptions::default() };
    Store::open(&path.join("store"), &options).unwrap()
}

fn write(store: &Store, volume: &str, mib: u64) -> Result<(), Error> {
    let new = NewVolume { size: None, image: None, mode: 0o600, uid: 0, gid: 0 };
    let volume = store.create_volume(&name(volume), &new).unwrap();
    for n in 0..mib {
        volume.write_at(&vec![n as u8 | 1; MIB as usize], n * MIB)?;
    }
    volume.sync(Sync::All)
}

#[test]
fn what_can_be_restored_makes_way_the_oldest_first_and_then_there_is_no_space() {
    let Some(small) = SmallDisk::new() else { return };
    let store = open(small.0.path());
    for (volume, mib) in [("older", 50), ("newer", 20)] {
        write(&store, volume, mib).unwrap();
        store.delete_volume(&name(volume), DeleteVolume::Head, Keep::ForUndo).unwrap();
    }
    assert_eq!(store.removed().len(), 2);
    write(&store, "first", 60).unwrap();
    let left: Vec<_> = store.removed().into_iter().map(|removed| removed.volume_name.unwrap().to_string()).collect();
    assert_eq!(left, ["newer"], "{:?}", store.events());
    // No more than there is: the rest goes, too, and then it is told.
    let full = write(&store, "second", 100).unwrap_err();
    assert_eq!(full.errno(), rustix::io::Errno::NOSPC, "{full}");
    assert!(store.removed().is_empty());
    // The same through `fallocate`, and without waiting for a thread that may.
    let volume = store.volume(&name("second")).unwrap();
    let reserved = volume.allocate(outcrop_store::Allocate::Grow, 0, 200 * MIB).unwrap_err();
    assert_eq!(reserved.errno(), rustix::io::Errno::NOSPC, "{reserved}");
    assert!(volume.try_write_at(&vec![1; MIB as usize], 150 * MIB).unwrap().is_none());
    // Deleting always works, and makes room at once.
    drop(volume);
    store.delete_volume(&name("first"), DeleteVolume::Head, Keep::ForUndo).unwrap();
    write(&store, "third", 30).unwrap();
}
