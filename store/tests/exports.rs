//! Exports of volumes that are written, beside snapshots, deletes and the merges that follow them.

#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_store::export::{Export, ExportFormat, ExportRequest, RawStream};
use outcrop_store::{Allocate, Keep, Name, NewVolume, SnapshotSelector, Store, StoreOptions};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

const SIZE: u64 = (3 << 20) + 700;
const STEPS: u64 = 300;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn request(snapshot: Option<Name>) -> ExportRequest {
    ExportRequest { volume: name("v"), snapshot, format: ExportFormat::Raw, path: None, force: false, resume: None }
}

fn send(export: Export) -> Vec<u8> {
    let mut bytes = Vec::new();
    let outcome = export.send(&mut RawStream::new(&mut bytes, Path::new("memory"), || false));
    export.end(&outcome);
    outcome.unwrap();
    bytes
}

fn layers(store: &Store) -> usize {
    std::fs::read_dir(store.path().join("layers")).unwrap().count()
}

/// Any order of writes, snapshots, deletes and exports: an export shows what there was when it began, however late it is
/// read, and when all is over nothing is left of it.
#[test]
fn an_export_shows_what_there_was_when_it_began() {
    let seed = std::env::var("OUTCROP_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) * 2_654_435_761 + 1);
    eprintln!("OUTCROP_TEST_SEED={seed}");
    let mut rng = Rng(seed);
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { create: true, ..StoreOptions::default() };
    let store = Store::open(dir.path(), &options).unwrap();
    let new = NewVolume { size: Some(SIZE), image: None, mode: 0o600, uid: 0, gid: 0 };
    let volume = store.create_volume(&name("v"), &new).unwrap();
    let mut content = vec![0_u8; SIZE as usize];
    let mut exports: Vec<(Export, Vec<u8>)> = Vec::new();
    let mut snapshots: Vec<Name> = Vec::new();
    for step in 0..STEPS {
        match rng.below(12) {
            0..=4 => {
                let offset = rng.below(SIZE);
                let length = (rng.below(60_000) + 1).min(SIZE - offset);
                let bytes = vec![rng.next() as u8; length as usize];
                volume.write_at(&bytes, offset).unwrap();
                content[offset as usize..(offset + length) as usize].copy_from_slice(&bytes);
            }
            5 => {
                let offset = rng.below(SIZE);
                let length = (rng.below(200_000) + 1).min(SIZE - offset);
                volume.allocate(Allocate::Punch, offset, length).unwrap();
                content[offset as usize..(offset + length) as usize].fill(0);
            }
            6 => {
                let snapshot = name(&format!("s{step}"));
                store.snapshot(&name("v"), &snapshot, &BTreeMap::new()).unwrap();
                snapshots.push(snapshot);
            }
            7 | 8 if !snapshots.is_empty() => {
                let set = snapshots.swap_remove(rng.below(snapshots.len() as u64) as usize);
                store.delete_snapshots(&[SnapshotSelector { set, volume: None }], Keep::Now).unwrap();
            }
            9 if exports.len() < 6 => exports.push((store.export(&request(None)).unwrap(), content.clone())),
            10 if !exports.is_empty() => {
                let (export, expected) = exports.swap_remove(rng.below(exports.len() as u64) as usize);
                assert!(send(export) == expected, "step {step}: an export shows something else");
            }
            // Merges get on.
            _ => std::thread::sleep(Duration::from_millis(rng.below(8))),
        }
    }
    for (export, expected) in exports {
        assert!(send(export) == expected, "at the end: an export shows something else");
    }
    let mut found = vec![0; SIZE as usize];
    volume.read_at(&mut found, 0).unwrap();
    assert!(found == content, "the volume itself");
    let sets: Vec<_> = snapshots.into_iter().map(|set| SnapshotSelector { set, volume: None }).collect();
    store.delete_snapshots(&sets, Keep::Now).unwrap();
    let begun = Instant::now();
    while layers(&store) > 1 {
        assert!(begun.elapsed() < Duration::from_secs(120), "{} layers are left", layers(&store));
        std::thread::sleep(Duration::from_millis(5));
    }
    volume.read_at(&mut found, 0).unwrap();
    assert!(found == content, "the volume when all is merged");
    store.close().unwrap();
}
