//! Damage: bits flipped in what is sealed are found, named, and never returned as data; the rest goes on.

#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_store::doctor::Severity;
use outcrop_store::image::{ImportOptions, Progress};
use outcrop_store::jobs::{JobKind, JobState};
use outcrop_store::scrub::{ScrubOptions, ScrubReport};
use outcrop_store::{Error, EventKind, Keep, LayerId, Name, NewVolume, SnapshotSelector, Store, StoreOptions};
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

fn scrub(store: &Store, volume: Option<&str>) -> ScrubReport {
    store.scrub(&ScrubOptions { volume: volume.map(name), rate: None }, &Quiet).unwrap()
}

fn doctor(store: &Store, check: &str) -> Vec<String> {
    let findings = store.doctor().unwrap().into_iter();
    findings.filter(|found| found.check == check && found.severity == Severity::Error).map(|found| found.message).collect()
}

#[test]
fn a_scrub_finds_what_nobody_has_read_and_doctor_remembers_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let bytes = content(5, 5 << 20);
    let (store, layer) = with_image(dir.path(), &bytes);
    let volume = store.volume(&name("v")).unwrap();
    volume.write_at(&[3; 8192], 0).unwrap();
    let snapshot = store.snapshot(&name("v"), &name("s"), &Default::default()).unwrap();
    volume.write_at(&[4; 4096], 4096).unwrap();
    volume.sync(outcrop_store::Sync::All).unwrap();
    until_summed(&store, snapshot.layer);
    let report = scrub(&store, None);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.layers, report.verified, report.unsummed), (3, (5 << 20) + 8192, 4096));
    flip(&path, layer, "data.0", (77 * BLOCK as u64) * 8);
    flip(&path, layer, "data.0", (1030 * BLOCK as u64 + 4095) * 8 + 7);
    flip(&path, snapshot.layer, "data.0", 8);
    flip(&path, layer, "sums", (4096 + 3 * 512 + 50) * 8);
    for volume in [None, Some("v")] {
        let report = scrub(&store, volume);
        let mut found: Vec<_> = report.mismatches.iter().map(|bad| (bad.layer, bad.block)).collect();
        found.sort_unstable();
        let mut want = vec![(layer, 77), (layer, 1030), (snapshot.layer, 0)];
        want.sort_unstable();
        assert_eq!((found, report.mismatch_count), (want, 3));
        assert_eq!(report.verified, (5 << 20) + 8192 - (3 + 103) * 4096);
        assert_eq!((report.unsummed, report.error_count), (104 * 4096, 1), "{report:?}");
        assert!(report.errors[0].contains("sums record 3"), "{report:?}");
        assert!(report.mismatches.iter().any(|bad| bad.users.contains(&"image 'i'".to_owned())), "{report:?}");
    }
    let info = store.volume_info(&name("v")).unwrap();
    assert_eq!(store.integrity(info.id).unwrap().bad_blocks, 3);
    // The jobs say so, too, and can be done anew.
    let jobs: Vec<_> = store.jobs().into_iter().filter(|job| job.kind == JobKind::Scrub).collect();
    assert_eq!(jobs.iter().map(|job| job.state).collect::<Vec<_>>(), [JobState::Completed, JobState::Error, JobState::Error]);
    assert!(jobs[2].error.as_ref().unwrap().contains("3 blocks"), "{jobs:?}");
    drop(volume);
    store.close().unwrap();
    drop(store);
    let store = open(&path);
    let told = doctor(&store, "sums");
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told.iter().any(|line| line.contains("volume 'v'") && line.contains("block 77 ")), "{told:?}");
    assert_eq!(doctor(&store, "maps").len(), 1, "the sums record: {:?}", doctor(&store, "maps"));
    flip(&path, layer, "data.0", (77 * BLOCK as u64) * 8);
    flip(&path, layer, "data.0", (1030 * BLOCK as u64 + 4095) * 8 + 7);
    flip(&path, snapshot.layer, "data.0", 8);
    assert!(matches!(store.resume_job(jobs[2].id, &Quiet), Err(Error::ScrubFound { mismatches: 0, errors: 1 })));
    assert!(doctor(&store, "sums").is_empty());
    assert_eq!(store.integrity(info.id).unwrap().bad_blocks, 0);
}

#[test]
fn random_flips_in_all_files_of_an_image_are_found_and_never_returned() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let bytes = content(6, 3 << 20);
    let (store, layer) = with_image(dir.path(), &bytes);
    store.close().unwrap();
    drop(store);
    let seed = std::env::var("OUTCROP_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed}: OUTCROP_TEST_SEED={seed} cargo test -p outcrop-store --test damage random_flips");
    let numbers = content(seed, 60 * 16);
    let layer_dir = path.join("layers").join(layer.to_string());
    for round in numbers.chunks_exact(16) {
        let which = ["data.0", "data.0", "sums", "map"][usize::from(round[0] % 4)];
        // Where something is written: of a map the headers and the first record, of sums the header and the records.
        let place = u64::from_le_bytes(round[8..].try_into().unwrap());
        let bit = match which {
            "map" => [0, 8192][(place % 2) as usize] * 8 + place / 2 % 4096,
            "sums" => [place % 4096, 4096 * 8 + place % (2 * 2560 * 8 - 600 * 8)][usize::from(place % 3 > 0)],
            _ => place % (3 << 23),
        };
        flip(&path, layer, which, bit);
        let store = open(&path);
        let mut found = false;
        if let Ok(volume) = store.volume(&name("v")) {
            let mut buf = vec![0; BLOCK];
            for (block, want) in bytes.chunks_exact(BLOCK).enumerate() {
                match volume.read_at(&mut buf, (block * BLOCK) as u64) {
                    Ok(_) => assert!(buf == want, "{which} bit {bit}: block {block}"),
                    Err(error) => {
                        found = true;
                        assert!(error.to_string().contains(&layer.to_string()), "{error}");
                        assert_eq!(error.errno().raw_os_error(), 5, "{error}");
                        assert!(which == "map" || block as u64 == bit / 8 / BLOCK as u64, "{which} bit {bit}: block {block}");
                    }
                }
            }
        } else {
            found = true;
        }
        let told = !doctor(&store, "maps").is_empty() || !doctor(&store, "sums").is_empty();
        // One slot of the header may be damaged: the other one serves. Bytes between the tables' are never read.
        let harmless = match which {
            "map" => bit < 512 * 8,
            "sums" => (512..4096).contains(&(bit / 8)),
            _ => false,
        };
        assert!(found || told || harmless, "{which} bit {bit} was not found");
        store.close().unwrap();
        drop(store);
        flip(&path, layer, which, bit);
        let _ = std::fs::remove_file(path.join("damage.json"));
    }
    assert!(layer_dir.exists());
}

#[test]
fn a_merge_carries_sums_along_and_so_hides_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { create: true, undo: std::time::Duration::ZERO, ..StoreOptions::default() };
    let store = Store::open(dir.path(), &options).unwrap();
    let new = NewVolume { size: Some(16 << 20), image: None, mode: 0o600, uid: 0, gid: 0 };
    let volume = store.create_volume(&name("v"), &new).unwrap();
    let mut expected = content(7, 16 << 20);
    volume.write_at(&expected, 0).unwrap();
    let large = store.snapshot(&name("v"), &name("large"), &Default::default()).unwrap();
    let change = content(8, 1 << 20);
    volume.write_at(&change, 5 << 20).unwrap();
    expected[5 << 20..6 << 20].copy_from_slice(&change);
    let small = store.snapshot(&name("v"), &name("small"), &Default::default()).unwrap();
    until_summed(&store, large.layer);
    until_summed(&store, small.layer);
    // What only the one has, what only the other has, and what is shadowed.
    let (below, above, shadowed) = (10_u64, (5 << 20) / 4096 + 10_u64, (5 << 20) / 4096 + 20_u64);
    flip(dir.path(), large.layer, "data.0", (below * 4096 + 5) * 8);
    flip(dir.path(), small.layer, "data.0", (above * 4096 + 5) * 8);
    flip(dir.path(), large.layer, "data.0", (shadowed * 4096 + 5) * 8);
    drop(volume);
    let which = [SnapshotSelector { set: name("large"), volume: Some(name("v")) }];
    store.delete_snapshots(&which, Keep::Now).unwrap();
    let layers = || store.volume_info(&name("v")).unwrap().layers.len();
    while layers() > 2 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let top = store.snapshots().into_iter().find(|info| info.name == name("small")).unwrap().layer;
    until_summed(&store, top);
    let snapshot = store.open_snapshot(&name("small"), &name("v")).unwrap();
    let mut buf = vec![0; 4096];
    for (block, want) in (0..).zip(expected.chunks_exact(4096)) {
        match snapshot.read_at(&mut buf, block * 4096) {
            Ok(_) => assert!(buf == want && block != below && block != above, "block {block}"),
            Err(error) => assert!(block == below || block == above, "block {block}: {error}"),
        }
    }
    let report = scrub(&store, None);
    let mut found: Vec<_> = report.mismatches.iter().map(|bad| bad.block).collect();
    found.sort_unstable();
    assert_eq!((found, report.error_count, report.unsummed), (vec![below, above], 0, 0), "{report:?}");
}

#[test]
fn a_scrub_beside_writes_snapshots_and_merges_finds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { create: true, undo: std::time::Duration::ZERO, ..StoreOptions::default() };
    let store = Store::open(dir.path(), &options).unwrap();
    let new = NewVolume { size: Some(8 << 20), image: None, mode: 0o600, uid: 0, gid: 0 };
    let volume = store.create_volume(&name("v"), &new).unwrap();
    volume.write_at(&content(9, 8 << 20), 0).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (store, done) = (&store, &done);
        let scrubber = scope.spawn(move || {
            let mut verified = 0;
            loop {
                let last = done.load(std::sync::atomic::Ordering::SeqCst);
                let report = scrub(store, None);
                assert!(report.is_clean(), "{report:?}");
                verified += report.verified;
                if last && report.verified > 0 {
                    return verified;
                }
            }
        });
        let reader = scope.spawn(move || {
            let mut buf = vec![0; 1 << 20];
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                let volume = store.volume(&name("v")).unwrap();
                for at in 0..8 {
                    volume.read_at(&mut buf, at << 20).unwrap();
                }
                for info in store.snapshots() {
                    // It may be gone by now.
                    if let Ok(snapshot) = store.open_snapshot(&info.name, &name("v")) {
                        for at in 0..8 {
                            snapshot.read_at(&mut buf, at << 20).unwrap();
                        }
                    }
                }
            }
        });
        for round in 0..60_u64 {
            let bytes = content(round + 100, 300_000);
            volume.write_at(&bytes, round * 7_654_321 % (7 << 20)).unwrap();
            let set = name(&format!("s{round}"));
            store.snapshot(&name("v"), &set, &Default::default()).unwrap();
            if round % 3 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            if round >= 4 {
                let set = name(&format!("s{}", if round % 2 == 0 { round - 4 } else { round - 1 }));
                let which = [SnapshotSelector { set, volume: Some(name("v")) }];
                // An odd round's newest but one is some even round's oldest.
                let _ = store.delete_snapshots(&which, Keep::Now);
            }
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        reader.join().unwrap();
        assert!(scrubber.join().unwrap() > 0);
    });
    let damage: Vec<_> = store.events().into_iter().filter(|event| event.kind == EventKind::Damage).collect();
    assert!(damage.is_empty(), "{damage:?}");
}
