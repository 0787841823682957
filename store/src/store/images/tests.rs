//! Imports into a real disk and catalog: what is there afterwards, and what is not.

#![expect(clippy::unwrap_used, reason = "a test may")]

use super::*;
use crate::jobs::JobState;
use crate::store::{DeleteVolume, Keep, NewVolume, Store, StoreOptions};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

struct Bench {
    dir: TempDir,
    store: Store,
}

struct Silent;

impl Progress for Silent {
    fn advance(&self, _done: u64, _total: u64) {}
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A raw image: data, a hole, data, an odd end.
fn content() -> Vec<u8> {
    let mut content = vec![0u8; (3 << 20) + 77];
    content[..10_000].fill(1);
    content[2 << 20..].fill(2);
    content
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("image"), content()).unwrap();
        let store = Self::open(&dir);
        Self { dir, store }
    }

    fn open(dir: &TempDir) -> Store {
        let options = StoreOptions { create: true, ..StoreOptions::default() };
        Store::open(&dir.path().join("store"), &options).unwrap()
    }

    fn reopened(self) -> Self {
        let Self { dir, store } = self;
        store.close().unwrap();
        drop(store);
        let store = Self::open(&dir);
        Self { dir, store }
    }

    fn context(&self) -> &Context {
        self.store.context().unwrap()
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn import(&self, as_name: &str, options: &ImportOptions, progress: &dyn Progress) -> Result<ImageInfo> {
        self.store.import_image(&name(as_name), &self.path(), options, progress)
    }

    /// The directories that have one entry a layer, and a label.
    fn assert_counts(&self, layers: usize, images: usize) {
        let disk = &self.context().disk;
        for (dir, count) in [(disk.layers_dir(), layers), (disk.images_dir(), images)] {
            assert_eq!(fs::read_dir(&dir).unwrap().count(), count, "{}", dir.display());
        }
    }

    /// No layer, no label, no image.
    fn assert_empty(&self) {
        self.assert_counts(0, 0);
        assert!(self.store.images().is_empty() && self.context().catalog.read().layers.is_empty());
    }

    fn volume(&self, as_name: &str, image: &str) -> std::sync::Arc<crate::volume::Volume> {
        let new = NewVolume { size: None, image: Some(name(image)), mode: 0o644, uid: 0, gid: 0 };
        self.store.create_volume(&name(as_name), &new).unwrap()
    }
}

#[test]
fn an_import_is_listed_and_a_delete_leaves_nothing() {
    let bench = Bench::new();
    let made = bench.import("debian", &ImportOptions::default(), &Silent).unwrap();
    let found = bench.store.image_info(&name("debian")).unwrap();
    assert_eq!((found.id, found.size, found.format.as_str(), found.users.len()), (made.id, (3 << 20) + 77, "raw", 0));
    // 10,000 bytes are three blocks; from 2 MiB on all is data.
    assert_eq!(found.data, (3 + 256 + 1) * 4096);
    assert_eq!(found.sha256.len(), 64);
    let header = crate::layer::read_header(&bench.context().disk, found.layer).unwrap();
    assert!(header.sealed && header.parent.is_none() && header.size == found.size);
    assert_eq!(header.data_blocks * 4096, found.data);
    let second = bench.import("debian", &ImportOptions::default(), &Silent);
    assert!(matches!(second, Err(Error::Exists { noun: Noun::Image, .. })));
    bench.import("alpine", &ImportOptions::default(), &Silent).unwrap();
    let names: Vec<_> = bench.store.images().into_iter().map(|image| image.name.to_string()).collect();
    assert_eq!(names, ["alpine", "debian"]);
    for image in ["alpine", "debian"] {
        bench.store.delete_image(&name(image)).unwrap();
    }
    bench.assert_empty();
    assert!(matches!(bench.store.delete_image(&name("debian")), Err(Error::NotFound { .. })));
}

#[test]
fn whatever_ends_an_import_leaves_nothing() {
    /// Cancels at the n-th question.
    struct Cancel(AtomicU32);
    impl Progress for Cancel {
        fn advance(&self, _done: u64, _total: u64) {}
        fn cancelled(&self) -> bool {
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
        }
    }
    let bench = Bench::new();
    let mut asked = 0;
    while let Err(e) = bench.import("debian", &ImportOptions::default(), &Cancel(asked.into())) {
        assert!(matches!(e, Error::Interrupted), "{e}");
        bench.assert_empty();
        asked += 1;
    }
    assert!(asked > 2, "it was asked {asked} times");
    bench.store.delete_image(&name("debian")).unwrap();
    let wrong = ImportOptions { sha256: Some("0".repeat(64)), ..ImportOptions::default() };
    assert!(matches!(bench.import("debian", &wrong, &Silent), Err(Error::Sha256Mismatch { .. })));
    bench.assert_empty();
}

#[test]
fn a_name_taken_meanwhile_is_refused_at_the_commit() {
    /// Imports the same name at the end of the outer import.
    struct Rival<'a>(&'a Bench, AtomicU32);
    impl Progress for Rival<'_> {
        fn advance(&self, done: u64, total: u64) {
            if done == total && self.1.fetch_add(1, Ordering::Relaxed) == 0 {
                self.0.import("debian", &ImportOptions::default(), &Silent).unwrap();
            }
        }
    }
    let bench = Bench::new();
    // Made before, since an image that changes meanwhile is refused for that.
    let path = bench.dir.path().join("other");
    fs::write(&path, "content").unwrap();
    let rival = Rival(&bench, AtomicU32::new(0));
    let result = bench.store.import_image(&name("debian"), &path, &ImportOptions::default(), &rival);
    assert!(matches!(result, Err(Error::Exists { .. })));
    let images = bench.store.images();
    assert_eq!((images.len(), images[0].size), (1, (3 << 20) + 77));
    bench.assert_counts(1, 1);
}

#[test]
fn an_image_in_use_is_not_deleted_and_its_users_are_named() {
    let bench = Bench::new();
    let image = bench.import("debian", &ImportOptions::default(), &Silent).unwrap();
    drop(bench.volume("vm0", "debian"));
    bench.store.snapshot_all(&name("monday"), &BTreeMap::new()).unwrap();
    drop(bench.volume("vm1", "debian"));
    bench.store.delete_volume(&name("vm0"), DeleteVolume::Head, Keep::Now).unwrap();
    let expected = ["vm1", "monday/vm0"];
    assert_eq!(bench.store.image_info(&name("debian")).unwrap().users, expected);
    match bench.store.delete_image(&name("debian")) {
        Err(Error::ImageInUse { users, .. }) => assert_eq!(users, expected),
        other => panic!("{other:?}"),
    }
    assert!(bench.context().disk.layer_dir(image.layer).exists());
}

#[test]
fn a_volume_reads_its_image_after_reopening_too() {
    let mut bench = Bench::new();
    bench.import("debian", &ImportOptions::default(), &Silent).unwrap();
    let volume = bench.volume("vm", "debian");
    volume.write_at(b"written", 5).unwrap();
    drop(volume);
    let mut expected = content();
    expected[5..12].copy_from_slice(b"written");
    for reopened in [false, true] {
        if reopened {
            bench = bench.reopened();
        }
        let volume = bench.store.volume(&name("vm")).unwrap();
        let mut found = vec![0; expected.len() + 10];
        let length = volume.read_at(&mut found, 0).unwrap();
        assert!(found[..length] == expected, "reopened: {reopened}");
        assert_eq!(volume.seek_hole(0).unwrap(), 3 * 4096);
        assert_eq!(volume.seek_data(3 * 4096).unwrap(), 2 << 20);
    }
}

#[test]
fn a_deleted_volume_that_is_open_keeps_its_deleted_image() {
    let bench = Bench::new();
    let image = bench.import("debian", &ImportOptions::default(), &Silent).unwrap();
    let volume = bench.volume("vm", "debian");
    bench.store.delete_volume(&name("vm"), DeleteVolume::Head, Keep::Now).unwrap();
    bench.store.delete_image(&name("debian")).unwrap();
    let mut found = vec![0; content().len()];
    volume.read_at(&mut found, 0).unwrap();
    assert!(found == content());
    drop(volume);
    let layer = bench.context().disk.layer_dir(image.layer);
    while layer.exists() {
        bench.context().wake_flusher();
        std::thread::yield_now();
    }
}

#[test]
fn closing_the_store_ends_an_import_and_waits_for_its_end() {
    /// Has somebody close the store as soon as there is something to tell, and goes on until that is seen.
    struct Close(Store, parking_lot::Mutex<Option<std::thread::JoinHandle<()>>>);
    impl Progress for Close {
        fn advance(&self, _done: u64, _total: u64) {
            let mut closing = self.1.lock();
            if closing.is_none() {
                let store = self.0.clone();
                *closing = Some(std::thread::spawn(move || store.close().unwrap()));
            }
            while self.0.context().is_ok() {
                std::thread::yield_now();
            }
        }
    }
    let bench = Bench::new();
    let close = Close(bench.store.clone(), parking_lot::Mutex::default());
    let result = bench.import("debian", &ImportOptions::default(), &close);
    assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
    let Close(store, closing) = close;
    closing.into_inner().unwrap().join().unwrap();
    drop(store);
    let bench = bench.reopened();
    let job = bench.store.jobs().pop().unwrap();
    assert_eq!((job.state, job.error.as_deref()), (JobState::Error, Some("interrupted: the store was closed")));
    assert!(job.is_resumable());
    assert_eq!(fs::read_dir(bench.store.path().join("layers")).unwrap().count(), 0, "nothing is left of it");
}

#[test]
fn an_image_of_a_snapshot_has_its_content_and_stands_alone() {
    let bench = Bench::new();
    let store = &bench.store;
    store.import_image(&name("base"), &bench.path(), &ImportOptions::default(), &Silent).unwrap();
    let base = Some(name("base"));
    let new = NewVolume { size: Some((4 << 20) + 5), image: base, mode: 0o600, uid: 0, gid: 0 };
    let volume = store.create_volume(&name("v"), &new).unwrap();
    volume.write_at(&[7; 5000], 3000).unwrap();
    volume.allocate(crate::Allocate::Punch, 2 << 20, 1 << 19).unwrap();
    store.snapshot(&name("v"), &name("s"), &BTreeMap::new()).unwrap();
    let mut expected = vec![0; (4 << 20) + 5];
    volume.read_at(&mut expected, 0).unwrap();
    volume.write_at(&[9; 9000], 1 << 20).unwrap();
    store.snapshot(&name("v"), &name("later"), &BTreeMap::new()).unwrap();

    let image = store.create_image(&name("i"), &name("v"), Some(&name("s")), &Silent).unwrap();
    assert_eq!((image.size, image.format.as_str()), (expected.len() as u64, "volume"));
    let job = store.jobs().pop().unwrap();
    assert_eq!((job.kind, job.state, job.done), (JobKind::Image, JobState::Completed, image.size));
    assert!(matches!(
        store.create_image(&name("i"), &name("v"), Some(&name("s")), &Silent),
        Err(Error::Exists { noun: Noun::Image, .. })
    ));
    assert!(store.create_image(&name("j"), &name("v"), Some(&name("no")), &Silent).is_err());
    // It is as if the same bytes had been imported.
    fs::write(bench.path(), &expected).unwrap();
    let imported = store.import_image(&name("same"), &bench.path(), &ImportOptions::default(), &Silent).unwrap();
    assert_eq!((image.sha256, image.data), (imported.sha256, imported.data));

    // Nothing that it was made of is needed any more.
    store.delete_volume(&name("v"), DeleteVolume::WithSnapshots, Keep::Now).unwrap();
    drop(volume);
    store.delete_image(&name("base")).unwrap();
    let bench = bench.reopened();
    let new = NewVolume { size: None, image: Some(name("i")), mode: 0o600, uid: 0, gid: 0 };
    let volume = bench.store.create_volume(&name("w"), &new).unwrap();
    let mut found = vec![0; expected.len()];
    assert_eq!(volume.read_at(&mut found, 0).unwrap(), expected.len());
    assert!(found == expected);
}
