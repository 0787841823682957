//! Exports: what is in the file, by qemu's judgement too, and what is left when one doesn't come to its end.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::{Rng, TestStore, assert_same_file, require_loop, require_mount, run, sh, wait_until};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

fn qemu_img(arguments: &[&str], files: &[&Path]) -> String {
    run(Command::new("qemu-img").args(arguments).args(files))
}

/// Random data with holes, zeros and odd ends.
fn scatter(rng: &mut Rng, file: &File, size: u64) {
    file.set_len(size).unwrap();
    for _ in 0..rng.range(1, 20) {
        let offset = rng.below(size.max(1));
        let length = rng.range(1, 150_000).min(size - offset.min(size)) as usize;
        let bytes = if rng.below(5) == 0 { vec![0; length] } else { rng.bytes(length) };
        file.write_all_at(&bytes, offset).unwrap();
    }
}

/// Exports `what` in every way, and compares each with `expected`, a file in the mount.
fn check(store: &TestStore, what: &str, expected: &Path) {
    let (raw, qcow2, piped) = (store.outside("x.raw"), store.outside("x.qcow2"), store.outside("piped.qcow2"));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    store.run(["export", what, &text(&raw), "--force"]);
    assert_same_file(&raw, expected);
    let (ours, theirs) = (fs::metadata(&raw).unwrap().blocks(), fs::metadata(expected).unwrap().blocks());
    assert!(ours <= theirs + 8, "holes stay holes: {ours} blocks on the disk, {theirs} of data");
    store.run(["export", what, &text(&qcow2), "--format", "qcow2", "--force"]);
    qemu_img(&["check", "-q", "-f", "qcow2"], &[&qcow2]);
    qemu_img(&["compare", "-q", "-f", "qcow2", "-F", "raw"], &[&qcow2, expected]);
    // The same file through a pipe.
    let mut command = store.cli(["export", what, "-", "--format", "qcow2"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    std::io::copy(child.stdout.as_mut().unwrap(), &mut File::create(&piped).unwrap()).unwrap();
    assert!(child.wait().unwrap().success());
    assert_same_file(&piped, &qcow2);
}

#[test]
fn exports_are_what_the_volume_shows() {
    require_mount!("qemu-img");
    let store = TestStore::mounted("export");
    let mut rng = Rng::announced();
    for (number, size) in [0, 1, 511, 4096, 65_537, (3 << 20) + 513, 40 << 20].into_iter().enumerate() {
        let volume = format!("v{number}");
        let file = File::create(store.file(&volume)).unwrap();
        scatter(&mut rng, &file, size);
        store.run(["snapshot", "create", &volume, "s"]);
        scatter(&mut rng, &file, size / 2 + 1);
        check(&store, &format!("{volume}@s"), &store.set("s").join(&volume));
        check(&store, &volume, &store.file(&volume));
        check(&store, store.set("s").join(&volume).to_str().unwrap(), &store.set("s").join(&volume));
        check(&store, store.file(&volume).to_str().unwrap(), &store.file(&volume));
    }
    assert_eq!(fs::read_dir(store.mount_point().join(".snapshots")).unwrap().count(), 1, "no snapshot was made for it");
    // With the mount down, the same.
    let (up, down) = (store.outside("up"), store.outside("down"));
    store.run(["export", "v5", up.to_str().unwrap()]);
    store.umount();
    store.run(["export", "v5", down.to_str().unwrap()]);
    assert_same_file(&up, &down);
    store.mount();
    let states: Vec<Value> = exports(&store).iter().map(|job| job["state"].clone()).collect();
    assert!(states.len() > 20 && states.iter().all(|state| state == "completed"), "{states:?}");
    store.check();
}

#[test]
fn a_disk_of_terabytes_costs_what_its_data_does() {
    require_mount!("qemu-img");
    let store = TestStore::mounted("export-large");
    let file = File::create(store.file("v")).unwrap();
    let size = (3_u64 << 40) + 512;
    file.set_len(size).unwrap();
    file.write_all_at(&[7; 1000], size - 1000).unwrap();
    file.write_all_at(&[8; 1000], (1 << 40) - 500).unwrap();
    let (raw, qcow2) = (store.outside("x.raw"), store.outside("x.qcow2"));
    store.run(["export", "v", qcow2.to_str().unwrap(), "--format", "qcow2"]);
    qemu_img(&["check", "-q", "-f", "qcow2"], &[&qcow2]);
    qemu_img(&["compare", "-q", "-f", "qcow2", "-F", "raw"], &[&qcow2, &store.file("v")]);
    assert!(fs::metadata(&qcow2).unwrap().len() < 1 << 20);
    store.run(["export", "v", raw.to_str().unwrap()]);
    let metadata = fs::metadata(&raw).unwrap();
    assert_eq!(metadata.len(), size);
    assert!(metadata.blocks() * 512 < 1 << 20);
    qemu_img(&["compare", "-q", "-f", "qcow2", "-F", "raw"], &[&qcow2, &raw]);
}

#[test]
fn a_mounted_file_system_is_exported_while_it_is_written() {
    require_loop!("mkfs.ext4", "qemu-img", "fsck.ext4");
    let store = TestStore::mounted("export-live");
    sh("truncate -s 200M \"$1\"; mkfs.ext4 -q \"$1\"", [store.file("fs")]);
    let mounted = outcrop_tests::LoopMount::new(&store.file("fs"), "");
    sh(
        "dd if=/dev/urandom of=\"$1/before\" bs=1M count=20 status=none; sync -f \"$1\"; sha256sum <\"$1/before\" >\"$1/sum\"; sync -f \"$1\"",
        [mounted.path()],
    );
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let path = mounted.path().join(format!("f{}", number % 7));
                let mut file = File::create(path).unwrap();
                file.write_all(&vec![number as u8; 300_000]).unwrap();
                file.sync_all().unwrap();
            }
        });
        for round in 0..3 {
            let raw = store.outside(&format!("live{round}"));
            store.run(["export", "fs", raw.to_str().unwrap()]);
            // As after a power cut: the journal is replayed, and then nothing is wrong.
            sh("fsck.ext4 -p -f \"$1\" >/dev/null || [ $? -le 1 ]; fsck.ext4 -n -f \"$1\" >/dev/null", [&raw]);
            let copy = outcrop_tests::LoopMount::new(&raw, "");
            sh("[ \"$(sha256sum <\"$1/before\")\" = \"$(cat \"$1/sum\")\" ]", [copy.path()]);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    drop(mounted);
    store.check();
}

/// A volume of `mib` MiB of data.
fn full_volume(store: &TestStore, name: &str, mib: u64) {
    let mut file = File::create(store.file(name)).unwrap();
    for number in 0..mib {
        file.write_all(&vec![number as u8 | 1; 1 << 20]).unwrap();
    }
}

/// The jobs of one kind: merges come and go beside them.
fn exports(store: &TestStore) -> Vec<Value> {
    let jobs = store.json(["job", "list"]);
    jobs.as_array().unwrap().iter().filter(|job| job["kind"] == "export").cloned().collect()
}

fn last(store: &TestStore) -> Value {
    exports(store).last().cloned().unwrap_or_default()
}

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_can_not_be_written_is_refused_and_nothing_is_replaced_unasked() {
    require_mount!();
    let store = TestStore::mounted("export-refused");
    full_volume(&store, "v", 1);
    let directory = store.outside("out");
    fs::create_dir(&directory).unwrap();
    let at = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    fs::write(at("mine"), "mine").unwrap();
    let said = store.fails(["export", "v", &at("mine")]);
    assert!(said.contains("exists already") && said.contains("--force"), "{said}");
    assert_eq!(fs::read(at("mine")).unwrap(), b"mine");
    for (what, file) in [("v", directory.to_str().unwrap()), ("v", &at("no/where")), ("v", &at("mine/x"))] {
        store.fails(["export", what, file, "--force"]);
    }
    for what in ["none", "v@none", "none@none"] {
        let said = store.fails(["export", what, &at("new")]);
        assert!(said.contains("there is no"), "{said}");
    }
    assert_eq!(store.cli(["export", "v", &at("new"), "--format", "vmdk"]).output().unwrap().status.code(), Some(2));
    assert!(exports(&store).is_empty(), "nothing was begun");
    assert_eq!(names_in(&directory), ["mine"]);
    fs::set_permissions(at("mine"), fs::Permissions::from_mode(0o600)).unwrap();
    store.run(["export", "v", &at("mine"), "--force"]);
    assert_same_file(Path::new(&at("mine")), &store.file("v"));
    assert_eq!(fs::metadata(at("mine")).unwrap().mode() & 0o777, 0o600, "it keeps its mode");
    // A link is followed, and stays one.
    std::os::unix::fs::symlink("mine", at("link")).unwrap();
    store.run(["export", "v", &at("link"), "--force"]);
    assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
    assert_eq!(names_in(&directory), ["link", "mine"]);
    // A terminal is no place for a disk.
    let said = sh("script -qec \"$1 export v -\" /dev/null </dev/null || true", [outcrop_tests::program::path()]);
    assert!(said.contains("which store?") || said.contains("not for a terminal"), "{said}");
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    require_loop!();
    let store = TestStore::mounted("export-full");
    full_volume(&store, "v", 40);
    let small = store.outside("small");
    fs::create_dir(&small).unwrap();
    sh("mount -t tmpfs -o size=4M outcrop-test \"$1\"", [&small]);
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(self.0).status();
        }
    }
    let _unmount = Unmount(&small);
    for format in ["raw", "qcow2"] {
        let said = store.fails(["export", "v", small.join("x").to_str().unwrap(), "--format", format]);
        assert!(said.contains("No space left on device") && said.contains("small/x"), "{said}");
        assert!(names_in(&small).is_empty());
        let job = last(&store);
        assert_eq!(job["state"], "error", "{job}");
        assert!(job["error"].as_str().unwrap().contains("No space left on device"), "{job}");
        assert_eq!(job["resumable"], true);
    }
    // Resumed where there is room again, by the same number.
    sh("mount -o remount,size=64M \"$1\"", [&small]);
    let id = last(&store)["id"].to_string();
    store.run(["job", "resume", &id]);
    assert_eq!(names_in(&small), ["x"]);
    assert_eq!(store.json(["job", "show", &id])["state"], "completed");
}

#[test]
fn a_cancelled_export_leaves_nothing() {
    require_mount!();
    let store = TestStore::mounted("export-cancel");
    full_volume(&store, "v", 64);
    let last = || last(&store);
    // Into a pipe that nobody reads: it goes on until it is cancelled.
    let mut child = store.cli(["export", "v", "-"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the export to begin", || last()["state"] == "in-progress");
    let id = last()["id"].to_string();
    store.run(["job", "cancel", &id]);
    assert_eq!(last()["state"], "cancelled");
    let mut read = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut read).unwrap();
    assert!(!child.wait().unwrap().success(), "what was cut off is no success");
    assert!(read.len() < 64 << 20);
    let said = store.fails(["job", "cancel", &id]);
    assert!(said.contains("has ended"), "{said}");

    // Ctrl-C, in the middle of a file: stopped for a moment, to be sure of that.
    let directory = store.outside("out");
    fs::create_dir(&directory).unwrap();
    let file = directory.join("x");
    for attempt in 0.. {
        assert!(attempt < 50, "it was always too fast");
        let mut child = store.cli(["export", "v", file.to_str().unwrap()]).stderr(Stdio::null()).spawn().unwrap();
        let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
        wait_until("the export to get somewhere", || {
            let job = last();
            job["state"] == "in-progress" && job["done"].as_u64() > Some(0) || child.try_wait().unwrap().is_some()
        });
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::STOP);
        let partial = !file.exists();
        if partial {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
        let status = child.wait().unwrap();
        if status.code() == Some(130) {
            assert!(partial);
            break;
        }
        // It was done before it saw the signal.
        assert!(status.success(), "{status}");
        fs::remove_file(&file).unwrap();
    }
    assert!(names_in(&directory).is_empty(), "{:?}", names_in(&directory));
    wait_until("the daemon to see it", || last()["state"] == "cancelled");
    assert_eq!(last()["resumable"], true);
    store.run(["job", "resume", &last()["id"].to_string()]);
    assert_same_file(&file, &store.file("v"));
}

#[test]
fn a_killed_daemon_leaves_a_job_that_can_be_resumed_and_no_file() {
    require_mount!();
    let store = TestStore::mounted("export-kill");
    full_volume(&store, "v", 64);
    let directory = store.outside("out");
    fs::create_dir(&directory).unwrap();
    let file = directory.join("x.qcow2");
    let last = || last(&store);
    let mut id = String::new();
    for attempt in 0.. {
        assert!(attempt < 50, "it was always too fast");
        let mut command = store.cli(["export", "v", file.to_str().unwrap(), "--format", "qcow2", "--force"]);
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
        wait_until("the export to get somewhere", || {
            let job = last();
            job["state"] == "in-progress" && job["done"].as_u64() > Some(0) || child.try_wait().unwrap().is_some()
        });
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::STOP);
        store.kill();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
        let failed = !child.wait().unwrap().success();
        store.mount();
        let job = last();
        id = job["id"].to_string();
        if failed {
            assert_eq!(job["state"], "error", "{job}");
            assert!(job["error"].as_str().unwrap().contains("crash"), "{job}");
            break;
        }
    }
    assert!(!names_in(&directory).iter().any(|name| name.starts_with('.')), "{:?}", names_in(&directory));
    store.run(["job", "resume", &id]);
    let raw = store.outside("raw");
    store.run(["export", "v", raw.to_str().unwrap()]);
    assert_same_file(&raw, &store.file("v"));
    assert!(names_in(&directory) == ["x.qcow2"]);
    store.check();
}

#[test]
fn an_image_is_made_of_a_volume_and_of_a_snapshot() {
    require_mount!();
    let store = TestStore::mounted("image-create");
    let mut rng = Rng::announced();
    let file = File::create(store.file("v")).unwrap();
    let size = (5 << 20) + 1234;
    scatter(&mut rng, &file, size);
    store.run(["snapshot", "create", "v", "s"]);
    let expected = store.outside("expected");
    fs::copy(store.set("s").join("v"), &expected).unwrap();
    scatter(&mut rng, &file, size + 70_000);
    let image = store.json(["image", "create", "old", "--from", "v@s"]);
    let sum = sh("sha256sum <\"$1\" | cut -d' ' -f1", [&expected]);
    assert_eq!((image["sha256"].as_str().unwrap(), image["format"].as_str().unwrap()), (sum.trim(), "volume"));
    store.run(["image", "create", "new", "--from", store.file("v").to_str().unwrap()]);
    store.run(["volume", "create", "a", "--image", "old"]);
    store.run(["volume", "create", "b", "--image", "new", "--size", "20M"]);
    assert_same_file(&store.file("a"), &expected);
    let mut grown = fs::read(store.file("v")).unwrap();
    grown.resize(20 << 20, 0);
    assert!(fs::read(store.file("b")).unwrap() == grown);
    // Neither needs the other.
    File::options().write(true).open(store.file("a")).unwrap().write_all_at(&[1; 9000], 100).unwrap();
    drop(file);
    store.run(["volume", "delete", "v", "--snapshots"]);
    store.remount();
    assert!(fs::read(store.file("b")).unwrap() == grown);
    store.run(["volume", "create", "c", "--image", "old"]);
    assert_same_file(&store.file("c"), &expected);
    let said = store.fails(["image", "create", "old", "--from", "b"]);
    assert!(said.contains("exists already"), "{said}");
    let said = store.fails(["image", "delete", "old"]);
    assert!(said.contains("in use"), "{said}");
    store.check();
}

/// A daemon that is killed at any moment of an export, or of what follows it, loses nothing that was written, and nothing stays behind.
#[test]
fn kills_beside_exports_lose_nothing() {
    require_mount!();
    let store = TestStore::mounted("export-kills");
    let mut rng = Rng::announced();
    let size = 12 << 20;
    let mut content = vec![0; size as usize];
    File::create(store.file("v")).unwrap().set_len(size).unwrap();
    for round in 0..8 {
        let file = File::options().write(true).open(store.file("v")).unwrap();
        for _ in 0..6 {
            let offset = rng.below(size - 100_000);
            let length = rng.range(1, 100_000) as usize;
            let bytes = rng.bytes(length);
            file.write_all_at(&bytes, offset).unwrap();
            content[offset as usize..offset as usize + bytes.len()].copy_from_slice(&bytes);
        }
        drop(file);
        let out = store.outside(&format!("out{round}"));
        let mut command = store.cli(["export", "v", out.to_str().unwrap()]);
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        // Anywhere from its beginning to the merge after its end.
        let pause = std::time::Duration::from_micros(rng.below(120_000));
        std::thread::sleep(pause);
        store.kill();
        let done = child.wait().unwrap().success();
        store.mount();
        let mut found = Vec::new();
        File::open(store.file("v")).unwrap().read_to_end(&mut found).unwrap();
        outcrop_tests::assert_same_bytes(&found, &content, "the volume after a kill");
        if done {
            outcrop_tests::assert_same_bytes(&fs::read(&out).unwrap(), &content, "the exported file");
        }
        store.run(["doctor"]);
    }
    // What was sealed for exports is merged away.
    wait_until("one layer to be left", || fs::read_dir(store.store().join("layers")).unwrap().count() == 1);
    assert!(exports(&store).iter().all(|job| job["state"] != "in-progress"), "{:?}", exports(&store));
    let mut found = Vec::new();
    File::open(store.file("v")).unwrap().read_to_end(&mut found).unwrap();
    outcrop_tests::assert_same_bytes(&found, &content, "the volume when all is merged");
}
