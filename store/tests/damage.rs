//! Damage: bits flipped in what is sealed are found, named, and never returned as data; the rest goes on.

#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_store::image::{ImportOptions, Progress};
use outcrop_store::{Error, EventKind, LayerId, Name, NewVolume, Store, StoreOptions};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

const BLOCK: usize = 4096;

fn open(path: &Path) -> Store {
    Store::open(path, &StoreOptions { create: true, ..StoreOptions::default() }).unwrap()
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Bytes of which no two blocks are equal and none is zeros.
fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        bytes.extend(random.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn flip(store: &Path, layer: LayerId, file: &str, bit: u64) {
    let file = OpenOptions::new().read(true).write(true).open(store.join("layers").join(layer.to_string()).join(file)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << (bit % 8))], bit / 8).unwrap();
}

struct Quiet;

impl Progress for Quiet {
    fn advance(&self, _done: u64, _total: u64) {}
    fn cancelled(&self) -> bool {
        false
    }
}

/// A store with an image of these bytes, and a volume `v` on it.
fn with_image(dir: &Path, bytes: &[u8]) -> (Store, LayerId) {
    let store = open(&dir.join("store"));
    let file = dir.join("image.raw");
    std::fs::write(&file, bytes).unwrap();
    let image = store.import_image(&name("i"), &file, &ImportOptions::default(), &Quiet).unwrap();
    let new = NewVolume { size: None, image: Some(name("i")), mode: 0o600, uid: 0, gid: 0 };
    store.create_volume(&name("v"), &new).unwrap();
    (store, image.layer)
}

#[track_caller]
fn is_bad<T>(result: Result<T, Error>, layer: LayerId, block: u64) {
    match result.map(|_| ()).unwrap_err() {
        Error::BadSum { of, layer: in_layer, block: found, .. } => {
            assert_eq!((of.as_deref(), in_layer, found), (Some("volume 'v'"), layer, block));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_flipped_bit_of_an_image_is_an_error_of_its_block_alone() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(1, 3 * 1024 * 1024 + 777);
    let (store, layer) = with_image(dir.path(), &bytes);
    let volume = store.volume(&name("v")).unwrap();
    let mut buf = vec![0; bytes.len()];
    assert_eq!(volume.read_at(&mut buf, 0).unwrap(), bytes.len());
    assert!(buf == bytes);
    flip(&dir.path().join("store"), layer, "data.0", (600 * BLOCK as u64 + 99) * 8 + 3);
    is_bad(volume.read_at(&mut buf, 0), layer, 600);
    // Parts of the block are not given out either, not even those that are as they were; its neighbours are.
    let mut few = [0; 10];
    is_bad(volume.read_at(&mut few, 600 * BLOCK as u64 + 4000), layer, 600);
    is_bad(volume.read_at(&mut few, 600 * BLOCK as u64 - 5), layer, 600);
    assert_eq!(volume.try_read_at(&mut few, 600 * BLOCK as u64).unwrap(), None);
    for around in [600 * BLOCK - 10, 601 * BLOCK, bytes.len() - 10] {
        assert_eq!(volume.read_at(&mut few, around as u64).unwrap(), 10);
        assert_eq!(few, bytes[around..around + 10]);
        assert_eq!(volume.try_read_at(&mut few, around as u64).unwrap(), Some(10));
        assert_eq!(few, bytes[around..around + 10]);
    }
    // A part of it can't be completed to a block; whole it can be overwritten.
    is_bad(volume.write_at(&[1; 100], 600 * BLOCK as u64 + 5), layer, 600);
    volume.write_at(&[2; BLOCK], 600 * BLOCK as u64).unwrap();
    volume.read_at(&mut buf, 0).unwrap();
    assert!(buf[..600 * BLOCK] == bytes[..600 * BLOCK] && buf[601 * BLOCK..] == bytes[601 * BLOCK..]);
    // Told once.
    let told: Vec<_> = store.events().into_iter().filter(|event| event.kind == EventKind::Damage).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    for part in ["volume 'v'", "block 600", &layer.to_string(), "expected"] {
        assert!(told[0].message.contains(part), "{told:?}");
    }
}

#[test]
fn a_flipped_bit_of_the_sums_is_told_and_the_data_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(2, 600 * BLOCK);
    let (store, layer) = with_image(dir.path(), &bytes);
    let volume = store.volume(&name("v")).unwrap();
    // Not read yet: nothing of the file is cached.
    flip(&dir.path().join("store"), layer, "sums", (4096 + 512 + 60) * 8);
    let mut buf = vec![0; bytes.len()];
    assert_eq!(volume.read_at(&mut buf, 0).unwrap(), bytes.len());
    assert!(buf == bytes);
    let told: Vec<_> = store.events().into_iter().filter(|event| event.kind == EventKind::Damage).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].message.contains(&layer.to_string()) && told[0].message.contains("sums record 1"), "{told:?}");
}

#[test]
fn a_flipped_bit_of_a_map_is_an_error_of_what_it_speaks_of() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(3, 8 * 1024 * 1024);
    let (store, layer) = with_image(dir.path(), &bytes);
    store.close().unwrap();
    drop(store);
    // The record of the first 6 MiB.
    flip(&dir.path().join("store"), layer, "map", (8192 + 130) * 8 + 1);
    let store = open(&dir.path().join("store"));
    let volume = store.volume(&name("v")).unwrap();
    let mut buf = vec![0; 1024 * 1024];
    for at in (0..8).map(|at| at << 20) {
        match volume.read_at(&mut buf, at as u64) {
            Ok(_) => assert!(at >= 6 << 20 && buf == bytes[at..at + buf.len()]),
            Err(error) => {
                assert!(at < 6 << 20);
                assert!(error.to_string().contains(&layer.to_string()) && error.to_string().contains("map record 0"), "{error}");
            }
        }
    }
}

/// Waits until a snapshot's layer has all its sums: they are made in the background.
fn until_summed(store: &Store, layer: LayerId) {
    let map = store.path().join("layers").join(layer.to_string()).join("map");
    let is_summed = || {
        // The flag, in the newer of the two header slots (FORMAT.md, section 10).
        let bytes = std::fs::read(&map).unwrap();
        let slot = |at: usize| (u64::from_le_bytes(bytes[at + 72..at + 80].try_into().unwrap()), bytes[at + 12] & 8 != 0);
        if bytes.len() > 4096 { slot(0).max(slot(4096)).1 } else { slot(0).1 }
    };
    while !is_summed() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn a_snapshot_is_summed_in_the_background_and_then_verified() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let new = NewVolume { size: Some(40 << 20), image: None, mode: 0o600, uid: 0, gid: 0 };
    let volume = store.create_volume(&name("v"), &new).unwrap();
    let bytes = content(4, 20 << 20);
    volume.write_at(&bytes, 4096 + 7).unwrap();
    let snapshot = store.snapshot(&name("v"), &name("s"), &Default::default()).unwrap();
    until_summed(&store, snapshot.layer);
    let open_snapshot = store.open_snapshot(&name("s"), &name("v")).unwrap();
    let mut buf = vec![0; bytes.len()];
    for read in [volume.read_at(&mut buf, 4096 + 7), open_snapshot.read_at(&mut buf, 4096 + 7)] {
        assert_eq!(read.unwrap(), bytes.len());
        assert!(buf == bytes);
    }
    flip(dir.path(), snapshot.layer, "data.0", (1000 * BLOCK as u64 + 1) * 8);
    is_bad(volume.read_at(&mut buf, 4096 + 7), snapshot.layer, 1000);
    let bad = open_snapshot.read_at(&mut buf, 1000 * BLOCK as u64).unwrap_err();
    assert!(bad.to_string().starts_with("snapshot 's/v': block 1000 "), "{bad}");
    assert_eq!(bad.errno().raw_os_error(), 5);
    // Written anew in the volume it is good there; in the snapshot it stays bad.
    volume.write_at(&[1; 4096], 1000 * BLOCK as u64).unwrap();
    volume.read_at(&mut buf, 4096).unwrap();
    assert!(open_snapshot.read_at(&mut buf, 0).is_err());
}
