//! A disk that others fill up to the last byte: deleting works from the reserve, and what fails fails before anything happened.

use super::*;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CStr;
use std::io::Write;

/// A small file system in memory, gone with this.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// None where the user may not mount.
    fn new(options: &CStr) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        match mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), options) {
            Ok(()) => Some(Self(dir)),
            Err(e) => {
                assert!(std::env::var_os("CI").is_none(), "this test needs root to mount a small disk: {e}");
                eprintln!("SKIPPED: this test needs root to mount a small disk: {e}");
                None
            }
        }
    }

    fn fill(&self, named: &str) {
        let mut file = fs::File::create(self.0.path().join(named)).unwrap();
        let mut size = 1 << 16;
        while size > 0 {
            if file.write_all(&vec![1; size]).is_err() {
                size /= 2;
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn deleting_works_on_a_full_disk_and_what_fails_changes_nothing() {
    let Some(small) = SmallDisk::new(c"size=24m") else { return };
    let path = small.0.path().join("store");
    let fixture = open(&path);
    for n in 0..10 {
        let changes = create(&fixture.catalog.read(), &format!("v{n}"));
        run(&fixture, changes).unwrap();
    }
    assert!(fixture.disk.reserve.held() > 0);
    small.fill("others");
    assert_eq!(fixture.disk.gauge.space().unwrap().available, 0);
    for n in 0..5 {
        let changes = delete(&fixture.catalog.read(), &format!("v{n}"));
        run(&fixture, changes).unwrap();
    }
    // The reserve is used up by others, too.
    small.fill("more");
    let before = view(&fixture.catalog.read());
    let chmod = |fixture: &Fixture| {
        let volume = volume(&fixture.catalog.read(), "v9");
        run(fixture, vec![Change::PutVolume(VolumeRecord { mode: 0o600, ..volume })])
    };
    assert_eq!(chmod(&fixture).unwrap_err().errno(), rustix::io::Errno::NOSPC);
    assert_eq!(view(&fixture.catalog.read()), before);
    drop(fixture);
    // sled writes when it opens. Without a byte left that can't be; it must be said, and harm nothing.
    let (disk, _) = Disk::open(&path, &StoreOptions::default()).unwrap();
    if let Err(e) = Catalog::open(&disk, false, &|layer| evidence(&path, layer)) {
        assert_eq!(e.errno(), rustix::io::Errno::NOSPC, "{e:?}");
    }
    drop(disk);
    // Room again: no trace is left.
    fs::remove_file(small.0.path().join("more")).unwrap();
    let fixture = open(&path);
    assert_eq!(view(&fixture.catalog.read()), before);
    chmod(&fixture).unwrap();
    fs::remove_file(small.0.path().join("others")).unwrap();
    fixture.disk.reserve.restore().unwrap();
    assert!(fixture.disk.reserve.held() > 0);
    drop(fixture);
    let fixture = open(&path);
    assert!(fixture.recovery.repaired.is_empty() && fixture.recovery.damage.is_empty(), "{:?}", fixture.recovery);
    assert_eq!(volume(&fixture.catalog.read(), "v9").mode, 0o600);
}
