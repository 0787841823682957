//! Imports into a real disk and catalog: what is there afterwards, and what is not.

#![expect(clippy::unwrap_used, reason = "a test may")]

use super::*;
use crate::catalog::LayerEvidence;
use crate::catalog::records::{SetRecord, SnapshotRecord, VolumeRecord};
use crate::ids::VolumeId;
use crate::store::StoreOptions;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

struct Bench {
    dir: TempDir,
    disk: Arc<Disk>,
    catalog: Catalog,
}

struct Silent;

impl Progress for Silent {
    fn advance(&self, _done: u64, _total: u64) {}
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("disk")).unwrap();
        let options = StoreOptions { create: true, ..StoreOptions::default() };
        let (disk, _) = Disk::open(&dir.path().join("disk"), &options).unwrap();
        let (catalog, _) = Catalog::open(&disk, false, &|_| LayerEvidence::Missing).unwrap();
        Self { dir, disk, catalog }
    }

    /// A raw image: data, a hole, data, an odd end.
    fn image(&self) -> PathBuf {
        let path = self.dir.path().join("image");
        let mut content = vec![0u8; 3 << 20 | 77];
        content[..10_000].fill(1);
        content[2 << 20..].fill(2);
        fs::write(&path, content).unwrap();
        path
    }

    fn import(&self, as_name: &str, options: &ImportOptions, progress: &dyn Progress) -> Result<ImageInfo> {
        import(&self.catalog, &self.disk, &name(as_name), &self.image(), options, progress)
    }

    /// No layer, no label, no image.
    fn assert_empty(&self) {
        for dir in [self.disk.layers_dir(), self.disk.images_dir()] {
            assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "{}", dir.display());
        }
        assert!(list(&self.catalog).is_empty() && self.catalog.read().layers.is_empty());
    }
}

#[test]
fn an_import_is_listed_and_a_delete_leaves_nothing() {
    let bench = Bench::new();
    let made = bench.import("debian", &ImportOptions::default(), &Silent).unwrap();
    let found = info(&bench.catalog, &name("debian")).unwrap();
    assert_eq!((found.id, found.size, found.format.as_str(), found.users.len()), (made.id, 3 << 20 | 77, "raw", 0));
    // 10,000 bytes are three blocks; from 2 MiB on all is data.
    assert_eq!(found.data, (3 + 256 + 1) * 4096);
    assert_eq!(found.sha256.len(), 64);
    let header = layer::read_header(&bench.disk, found.layer).unwrap();
    assert!(header.sealed && header.parent.is_none() && header.size == found.size);
    assert_eq!(header.data_blocks * 4096, found.data);
    let second = bench.import("debian", &ImportOptions::default(), &Silent);
    assert!(matches!(second, Err(Error::Exists { noun: Noun::Image, .. })));
    bench.import("alpine", &ImportOptions::default(), &Silent).unwrap();
    let names: Vec<_> = list(&bench.catalog).into_iter().map(|image| image.name.to_string()).collect();
    assert_eq!(names, ["alpine", "debian"]);
    for image in ["alpine", "debian"] {
        delete(&bench.catalog, &bench.disk, &name(image)).unwrap();
    }
    bench.assert_empty();
    assert!(matches!(delete(&bench.catalog, &bench.disk, &name("debian")), Err(Error::NotFound { .. })));
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
    delete(&bench.catalog, &bench.disk, &name("debian")).unwrap();
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
    let result = import(&bench.catalog, &bench.disk, &name("debian"), &path, &ImportOptions::default(), &rival);
    assert!(matches!(result, Err(Error::Exists { .. })));
    let images = list(&bench.catalog);
    assert_eq!((images.len(), images[0].size), (1, 3 << 20 | 77));
    for dir in [bench.disk.layers_dir(), bench.disk.images_dir()] {
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "{}", dir.display());
    }
}

#[test]
fn an_image_in_use_is_not_deleted_and_its_users_are_named() {
    let bench = Bench::new();
    let image = bench.import("debian", &ImportOptions::default(), &Silent).unwrap();
    let (volume, sealed, head) = (VolumeId::new(), LayerId::new(), LayerId::new());
    let attributes = (0o644, 0, 0);
    bench
        .catalog
        .prepare(vec![
            Change::PutLayer(LayerRecord { id: sealed, parent: Some(image.layer), revision: 0 }),
            Change::PutLayer(LayerRecord { id: head, parent: Some(sealed), revision: 0 }),
            Change::PutVolume(VolumeRecord {
                id: volume,
                serial: 100,
                name: Some(name("vm1")),
                head: Some(head),
                mode: attributes.0,
                uid: attributes.1,
                gid: attributes.2,
                created_ns: 0,
                ctime_ns: 0,
                image: Some(image.id),
            }),
            Change::PutSet(SetRecord { name: name("monday"), serial: 101, created_ns: 0 }),
            Change::PutSnapshot(SnapshotRecord {
                set: name("monday"),
                volume,
                taken_as: name("vm0"),
                layer: sealed,
                serial: 102,
                created_ns: 0,
                mode: attributes.0,
                uid: attributes.1,
                gid: attributes.2,
                labels: BTreeMap::new(),
            }),
        ])
        .unwrap()
        .commit()
        .unwrap()
        .promote()
        .unwrap();
    let expected = vec!["vm1".to_owned(), "monday/vm0".to_owned()];
    assert_eq!(info(&bench.catalog, &name("debian")).unwrap().users, expected);
    match delete(&bench.catalog, &bench.disk, &name("debian")) {
        Err(Error::ImageInUse { users, .. }) => assert_eq!(users, expected),
        other => panic!("{other:?}"),
    }
    assert!(bench.disk.layer_dir(image.layer).exists());
}
