//! What sinks make of maps and data, by qemu's judgement.

use super::{ExportFormat, ExportRequest, Qcow2, RawFile, RawStream, Sink};
use crate::error::Error;
use crate::jobs::JobState;
use crate::name::Name;
use crate::store::{NewVolume, Store, StoreOptions};
use std::fs::File;
use std::path::Path;
use std::process::Command;

/// A small generator of its own: the test says its seed.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// Whether qemu-img is here. Where `CI=true` it must be.
fn has_qemu() -> bool {
    let found = Command::new("qemu-img").arg("--version").output().is_ok();
    assert!(found || std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI needs qemu-img");
    if !found {
        eprintln!("SKIPPED: qemu-img is not installed");
    }
    found
}

fn qemu_img(arguments: &[&str], files: &[&Path]) {
    let output = Command::new("qemu-img").args(arguments).args(files).output().expect("qemu-img");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "qemu-img {arguments:?} {files:?}: {}", String::from_utf8_lossy(&said));
}

/// Exports a snapshot in each way, and compares all of them.
fn check(dir: &Path, store: &Store, snapshot: &str) {
    check_view(dir, store, snapshot, Some(name(snapshot)));
    // Nothing was written since the snapshot.
    check_view(dir, store, snapshot, None);
}

fn check_view(dir: &Path, store: &Store, snapshot: &str, exported: Option<Name>) {
    let request =
        |format| ExportRequest { volume: name("v"), snapshot: exported.clone(), format, path: None, force: false, resume: None };
    let (raw, plain, qcow2) = (dir.join("raw"), dir.join("plain"), dir.join("qcow2"));
    let send = |format, sink: &mut dyn Sink| {
        let export = store.export(&request(format)).expect("exporting");
        let (id, size) = (export.job(), export.size());
        let outcome = export.send(sink);
        export.end(&outcome);
        outcome.expect("sending");
        let job = store.job(id).expect("it is known");
        assert_eq!((job.state, job.done), (JobState::Completed, job.total));
        size
    };
    let size = send(ExportFormat::Raw, &mut RawFile::new(File::create(&raw).expect("a file"), &raw));
    send(ExportFormat::Qcow2, &mut Qcow2::new(File::create(&qcow2).expect("a file"), &qcow2, |file| file.sync_all()));
    assert_eq!(std::fs::metadata(&raw).expect("the file").len(), size);
    qemu_img(&["check", "-q", "-f", "qcow2"], &[&qcow2]);
    qemu_img(&["compare", "-q", "-f", "qcow2", "-F", "raw"], &[&qcow2, &raw]);
    // The store's own view, byte by byte; where that is much, qemu compared two that were read apart.
    if size <= 64 << 20 {
        send(ExportFormat::Raw, &mut RawStream::new(File::create(&plain).expect("a file"), &plain, || false));
        let view = store.open_snapshot(&name(snapshot), &name("v")).expect("the snapshot");
        let mut expected = vec![0; size as usize];
        assert_eq!(view.read_at(&mut expected, 0).expect("reading"), expected.len());
        assert!(std::fs::read(&raw).expect("the file") == expected, "the sparse file differs");
        assert!(std::fs::read(&plain).expect("the file") == expected, "the stream differs");
    }
}

#[test]
fn qemu_agrees_with_every_random_volume() {
    if !has_qemu() {
        return;
    }
    let seed = std::env::var("OUTCROP_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5eed_0001);
    eprintln!("OUTCROP_TEST_SEED={seed}");
    let mut rng = Rng(seed);
    let sizes = [0, 1, 511, 512, 4095, 65_536, 65_537, (1 << 20) + 13, (512 << 20) + 4096, (40 << 20) - 1];
    for (round, size) in sizes.into_iter().enumerate() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("store"), &StoreOptions { create: true, ..StoreOptions::default() })
            .expect("opening the store");
        let new = NewVolume { size: Some(size), image: None, mode: 0o600, uid: 0, gid: 0 };
        let volume = store.create_volume(&name("v"), &new).expect("making a volume");
        for number in 0..3 {
            for _ in 0..rng.below(12) {
                let offset = rng.below(size);
                let length = (rng.below(200_000) + 1).min(size - offset.min(size)) as usize;
                let byte = rng.next() as u8;
                let bytes: Vec<u8> = (0..length).map(|at| byte.wrapping_add((at / 7) as u8)).collect();
                volume.write_at(&bytes, offset).expect("writing");
                let at = rng.below(size);
                let length = (rng.below(100_000) + 1).min(size - at.min(size));
                if length > 0 && rng.below(3) == 0 {
                    volume.allocate(crate::Allocate::Punch, at, length).expect("punching");
                }
            }
            let snapshot = format!("s{number}");
            store.snapshot(&name("v"), &name(&snapshot), &Default::default()).expect("a snapshot");
            check(dir.path(), &store, &snapshot);
        }
        eprintln!("round {round}: {size} bytes");
    }
}

#[test]
fn a_disk_of_terabytes_with_a_block_at_its_end() {
    if !has_qemu() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let store =
        Store::open(&dir.path().join("store"), &StoreOptions { create: true, ..StoreOptions::default() }).expect("opening");
    let size = (5 << 40) + 4096 + 512;
    let new = NewVolume { size: Some(size), image: None, mode: 0o600, uid: 0, gid: 0 };
    let volume = store.create_volume(&name("v"), &new).expect("making a volume");
    volume.write_at(&[9; 3000], size - 3000).expect("writing");
    volume.write_at(&[8; 70_000], (1 << 40) - 1000).expect("writing");
    store.snapshot(&name("v"), &name("s"), &Default::default()).expect("a snapshot");
    check(dir.path(), &store, "s");
    let file = std::fs::metadata(dir.path().join("qcow2")).expect("the file");
    assert!(file.len() < 2 << 20, "only clusters with data: {} bytes", file.len());
}

#[test]
fn data_that_the_map_did_not_tell_of_is_refused() {
    let path = Path::new("x");
    let mut sink = Qcow2::new(Vec::new(), path, |_| Ok(()));
    sink.begin(1 << 20).expect("begun");
    sink.map(&[65_536..70_000, 300_000..300_001]).expect("mapped");
    sink.map_done().expect("the tables");
    assert!(matches!(sink.data(0, &[1]), Err(Error::Io { .. })), "not in the map");
    sink.data(300_000, &[1]).expect("it is in the map");
    assert!(matches!(sink.data(65_536, &[1]), Err(Error::Io { .. })), "out of order");
    assert!(matches!(sink.finish(), Err(Error::Io { .. })), "a cluster is missing");
    assert!(
        matches!(Qcow2::new(Vec::new(), path, |_| Ok(())).map(std::slice::from_ref(&(0..1))), Err(Error::Io { .. })),
        "beyond the end"
    );
}

#[test]
fn a_cancelled_export_and_a_missing_snapshot() {
    let dir = tempfile::tempdir().expect("a directory");
    let store =
        Store::open(&dir.path().join("store"), &StoreOptions { create: true, ..StoreOptions::default() }).expect("opening");
    let new = NewVolume { size: Some(1 << 20), image: None, mode: 0o600, uid: 0, gid: 0 };
    store.create_volume(&name("v"), &new).expect("making a volume").write_at(&[1; 9000], 0).expect("writing");
    store.snapshot(&name("v"), &name("s"), &Default::default()).expect("a snapshot");
    let mut request = ExportRequest {
        volume: name("v"),
        snapshot: Some(name("none")),
        format: ExportFormat::Raw,
        path: Some("/nowhere/x".into()),
        force: false,
        resume: None,
    };
    assert!(matches!(store.export(&request), Err(Error::NotFound { .. })));
    assert!(store.jobs().is_empty(), "nothing was begun");
    request.snapshot = Some(name("s"));
    let export = store.export(&request).expect("exporting");
    let id = export.job();
    store.cancel_job(id).expect("it is in progress");
    let outcome = export.send(&mut RawStream::new(Vec::new(), Path::new("x"), || false));
    assert!(matches!(outcome, Err(Error::Interrupted)));
    export.end(&outcome);
    assert_eq!(store.job(id).expect("it is known").state, JobState::Cancelled);
    request.resume = Some(id);
    let export = store.export(&request).expect("exporting anew");
    assert_eq!(export.job(), id);
    export.fail("no space there");
    let job = store.job(id).expect("it is known");
    assert_eq!((job.state, job.error.as_deref()), (JobState::Error, Some("no space there")));
}

#[test]
fn a_volume_that_is_written_is_exported_as_it_was_at_one_instant() {
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    let dir = tempfile::tempdir().expect("a directory");
    let options = StoreOptions { create: true, ..StoreOptions::default() };
    let store = Store::open(&dir.path().join("store"), &options).expect("opening the store");
    let size = 8 << 20;
    let new = NewVolume { size: Some(size), image: None, mode: 0o600, uid: 0, gid: 0 };
    let volume = store.create_volume(&name("v"), &new).expect("making a volume");
    // One number is written to every MiB in turn: at any instant the first ones have it, and the rest the one before.
    let stop = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut number = 1_u64;
            while !stop.load(SeqCst) {
                for place in 0..size >> 20 {
                    volume.write_at(&number.to_le_bytes(), place << 20).expect("writing");
                }
                number += 1;
            }
            number
        });
        let mut seen = Vec::new();
        for _ in 0..20 {
            let request = ExportRequest {
                volume: name("v"),
                snapshot: None,
                format: ExportFormat::Raw,
                path: None,
                force: false,
                resume: None,
            };
            let export = store.export(&request).expect("exporting");
            let mut bytes = Vec::new();
            let outcome = export.send(&mut RawStream::new(&mut bytes, Path::new("memory"), || false));
            export.end(&outcome);
            outcome.expect("sending");
            assert_eq!(bytes.len() as u64, size);
            let numbers: Vec<u64> =
                bytes.chunks(1 << 20).map(|mib| u64::from_le_bytes(mib[..8].try_into().expect("eight bytes"))).collect();
            assert!(numbers.is_sorted_by(|a, b| a >= b) && numbers[0] - numbers[7] <= 1, "of no one instant: {numbers:?}");
            seen.push(numbers[0]);
        }
        stop.store(true, SeqCst);
        assert!(seen.is_sorted(), "{seen:?}");
        writer.join().expect("the writer")
    });
    assert!(rounds > 2, "it was written meanwhile");
    assert!(store.snapshots().is_empty());
    store.close().expect("closing");
    drop((volume, store));
    let store = Store::open(&dir.path().join("store"), &options).expect("opening the store");
    let mut last = [0; 8];
    store.volume(&name("v")).expect("it is there").read_at(&mut last, 7 << 20).expect("reading");
    assert!(u64::from_le_bytes(last) + 1 >= rounds, "what was written after is there");
}
