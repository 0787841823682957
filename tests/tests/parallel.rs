//! Many threads on one volume, and snapshots meanwhile.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::{Rng, TestStore, require_mount, seconds};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

const THREADS: usize = 8;
/// Bytes: a block holds slots of all threads, and some slots lie across two blocks.
const SLOT: usize = 100;
const SLOTS: usize = 8000;

fn slot(version: u32) -> Vec<u8> {
    version.to_le_bytes().repeat(SLOT / 4)
}

/// The version in a slot, which must be whole.
#[track_caller]
fn version(bytes: &[u8], index: usize, what: &str) -> u32 {
    let bytes = &bytes[index * SLOT..(index + 1) * SLOT];
    let version = u32::from_le_bytes(*bytes.first_chunk().unwrap());
    assert_eq!(bytes, slot(version), "{what}: slot {index} is torn");
    version
}

/// Slots of all threads share blocks, which all have to be copied up from an image or a snapshot first: nobody's
/// write may take a neighbour's back, or appear in part in a snapshot.
#[test]
fn neighbours_in_a_block_never_lose_each_others_bytes() {
    require_mount!();
    let mut rng = Rng::announced();
    let store = TestStore::mounted("neighbours");
    let image = store.outside("image");
    fs::write(&image, slot(1).repeat(SLOTS)).unwrap();
    store.run(["image", "import", "base", image.to_str().unwrap()]);
    store.run(["volume", "create", "v", "--image", "base"]);
    let latest: Vec<AtomicU32> = (0..SLOTS).map(|_| AtomicU32::new(1)).collect();
    let (begun, length) = (Instant::now(), seconds(6));
    let mut sets = 0;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (mut rng, store, latest) = (rng.fork(), &store, &latest);
            scope.spawn(move || {
                let file = File::options().read(true).write(true).open(store.file("v")).unwrap();
                while begun.elapsed() < length {
                    let index = rng.below((SLOTS / THREADS) as u64) as usize * THREADS + thread;
                    let next = latest[index].load(Ordering::Relaxed) + 1;
                    file.write_all_at(&slot(next), (index * SLOT) as u64).unwrap();
                    latest[index].store(next, Ordering::Relaxed);
                    let index = rng.below((SLOTS / THREADS) as u64) as usize * THREADS + thread;
                    let mut found = vec![0; SLOT];
                    file.read_exact_at(&mut found, (index * SLOT) as u64).unwrap();
                    assert_eq!(found, slot(latest[index].load(Ordering::Relaxed)), "slot {index} lost a write");
                    if rng.one_in(200) {
                        file.sync_data().unwrap();
                    }
                }
            });
        }
        while begun.elapsed() < length && sets < 200 {
            store.snapshot_all(&format!("s{sets}"));
            sets += 1;
        }
    });
    let check = || {
        let mut before = vec![1; SLOTS];
        for set in 0..sets {
            let what = format!("snapshot s{set}");
            let bytes = fs::read(store.set(&format!("s{set}")).join("v")).unwrap();
            for (index, before) in before.iter_mut().enumerate() {
                let now = version(&bytes, index, &what);
                assert!(*before <= now, "{what}: slot {index} went back from {before} to {now}");
                *before = now;
            }
        }
        let bytes = fs::read(store.file("v")).unwrap();
        for (index, latest) in latest.iter().enumerate() {
            assert_eq!(version(&bytes, index, "the volume"), latest.load(Ordering::Relaxed), "slot {index}");
        }
    };
    check();
    store.kill_and_mount();
    check();
    store.check();
}

/// Names come and go from many threads, with snapshots between: the mount never tells of half a volume.
#[test]
fn names_change_from_many_threads() {
    require_mount!();
    let mut rng = Rng::announced();
    let store = TestStore::mounted("many-names");
    // Few of them: more races for each. At times there is no volume at all.
    let names = *rng.pick(&[1, 2, 6]);
    let (begun, length) = (Instant::now(), seconds(4));
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (mut rng, store) = (rng.fork(), &store);
            scope.spawn(move || {
                while begun.elapsed() < length {
                    let (name, other) = (format!("n{}", rng.below(names)), format!("n{}", rng.below(names)));
                    // Losing a race is fine, but for a write, which makes what is missing; any other error is not.
                    let operation = rng.below(5) as usize;
                    let result = match operation {
                        0 => fs::write(store.file(&name), [7; 5000]),
                        1 => fs::remove_file(store.file(&name)),
                        2 => fs::rename(store.file(&name), store.file(&other)),
                        3 => fs::read(store.file(&name)).map(|bytes| assert!(bytes.iter().all(|&byte| byte == 7 || byte == 0))),
                        _ => fs::read_dir(store.mount_point()).map(|entries| entries.for_each(|entry| drop(entry.unwrap()))),
                    };
                    if let Err(error) = result {
                        let what = ["write", "remove", "rename", "read", "list"][operation];
                        assert!(
                            error.kind() == std::io::ErrorKind::NotFound && what != "write",
                            "thread {thread}: {what} {name} (rename: to {other}), at {:?}: {error}",
                            begun.elapsed()
                        );
                    }
                }
            });
        }
        for set in 0..20 {
            store.snapshot_all(&format!("s{set}"));
        }
    });
    store.remount();
    for entry in fs::read_dir(store.mount_point()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            assert!(fs::read(entry.path()).unwrap().iter().all(|&byte| byte == 7 || byte == 0));
        }
    }
    store.check();
}
