//! Backing images: what is imported, what is refused, and volumes that stand on one.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::{Rng, TestStore, assert_same_bytes, assert_same_file, require_mount, require_programs, run, sh};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

const SIZE: u64 = (8 << 20) + 1536;

/// A disk with data, holes and written zeros in it.
fn raw_disk(path: &Path) {
    let file = File::create_new(path).unwrap();
    file.set_len(SIZE).unwrap();
    let mut rng = Rng::new(11);
    for offset in [0, 70_000, 1 << 20, 5 << 20, SIZE - 5000] {
        file.write_all_at(&rng.bytes(5000), offset).unwrap();
    }
    file.write_all_at(&vec![0; 1 << 20], 3 << 20).unwrap();
}

fn qemu_img(arguments: &[&str], files: &[&Path]) -> String {
    run(Command::new("qemu-img").args(arguments).args(files))
}

/// The same disk in every form that is read.
fn forms(store: &TestStore) -> Vec<(&'static str, PathBuf)> {
    let raw = store.outside("disk.raw");
    raw_disk(&raw);
    let mut forms = vec![("raw", raw.clone())];
    let conversions: [(&str, &[&str]); 6] = [
        ("qcow2", &["-O", "qcow2"]),
        ("compressed", &["-c", "-O", "qcow2"]),
        ("old", &["-O", "qcow2", "-o", "compat=0.10"]),
        ("clusters", &["-O", "qcow2", "-o", "cluster_size=4k,preallocation=metadata"]),
        ("zstd", &["-c", "-O", "qcow2", "-o", "compression_type=zstd"]),
        ("vmdk", &["-O", "vmdk"]),
    ];
    for (name, how) in conversions {
        let path = store.outside(&format!("disk.{name}"));
        let mut arguments = vec!["convert"];
        arguments.extend(how);
        qemu_img(&arguments, &[&raw, &path]);
        forms.push((name, path));
    }
    let overlay = store.outside("overlay.qcow2");
    sh(
        "cd \"$(dirname \"$1\")\"; qemu-img create -q -f qcow2 -b disk.qcow2 -F qcow2 \"$1\"; qemu-io -f qcow2 -c 'write -P 7 65536 200000' \"$1\" >/dev/null",
        [&overlay],
    );
    forms.push(("overlay", overlay));
    forms
}

#[test]
fn a_volume_on_an_image_is_what_qemu_img_converts_it_to() {
    require_mount!("qemu-img", "qemu-io");
    let store = TestStore::mounted("forms");
    for (name, path) in forms(&store) {
        store.run(["image", "import", name, path.to_str().unwrap()]);
        store.run(["volume", "create", name, "--image", name]);
        let expected = store.outside("expected.raw");
        qemu_img(&["convert", "-O", "raw"], &[&path, &expected]);
        assert_same_file(&store.file(name), &expected);
        qemu_img(&["compare", "-F", "raw"], &[&path, &store.file(name)]);
        let shown = store.json(["image", "show", name]);
        let sum = sh("sha256sum <\"$1\" | cut -d' ' -f1", [&expected]);
        assert_eq!(shown["sha256"], sum.trim(), "{name}: SHA-256 is of the virtual content");
        assert_eq!(shown["size"], fs::metadata(&expected).unwrap().len(), "{name}");
        assert!(fs::metadata(store.file(name)).unwrap().blocks() * 512 < 1 << 20, "{name}: holes and zero blocks are holes");
    }
    store.remount();
    for (name, path) in [("qcow2", "disk.qcow2"), ("overlay", "overlay.qcow2")] {
        qemu_img(&["compare", "-F", "raw"], &[&store.outside(path), &store.file(name)]);
    }
    store.check();
}

#[test]
fn qemu_img_converts_from_and_to_volume_files() {
    require_mount!("qemu-img");
    let store = TestStore::mounted("convert");
    let raw = store.outside("disk.raw");
    raw_disk(&raw);
    qemu_img(&["convert", "-f", "raw", "-O", "raw"], &[&raw, &store.file("v")]);
    // qemu rounds a raw disk up to a sector; it is one already.
    qemu_img(&["compare", "-f", "raw", "-F", "raw"], &[&raw, &store.file("v")]);
    store.snapshot_all("s");
    let back = store.outside("back.qcow2");
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2"], &[&store.set("s").join("v"), &back]);
    qemu_img(&["compare", "-f", "raw", "-F", "qcow2"], &[&raw, &back]);
    // Writes past the page cache, and without the target being made new.
    qemu_img(&["convert", "-n", "-t", "none", "-f", "raw", "-O", "raw"], &[&raw, &store.file("v")]);
    qemu_img(&["compare", "-f", "raw", "-F", "raw"], &[&raw, &store.file("v")]);
}

#[test]
fn the_format_is_told_by_content_and_works_with_the_mount_down() {
    require_programs!("qemu-img");
    let store = TestStore::new("content");
    let raw = store.outside("disk.raw");
    raw_disk(&raw);
    let lying = store.outside("disk.iso");
    qemu_img(&["convert", "-O", "qcow2"], &[&raw, &lying]);
    store.run(["image", "import", "lying", lying.to_str().unwrap()]);
    assert_eq!(store.json(["image", "show", "lying"])["format"], "qcow2");
    assert_eq!(store.json(["image", "show", "lying"])["size"], SIZE.next_multiple_of(512));
    let refused = store.fails(["image", "import", "lying", raw.to_str().unwrap()]);
    assert!(refused.contains("exists"), "{refused}");
}

#[test]
fn writes_to_a_volume_never_reach_its_image() {
    require_mount!();
    let store = TestStore::mounted("image-writes");
    let raw = store.outside("disk.raw");
    raw_disk(&raw);
    store.run(["image", "import", "base", raw.to_str().unwrap()]);
    store.run(["volume", "create", "a", "--image", "base"]);
    store.run(["volume", "create", "b", "--image", "base", "--size", "20M"]);
    let file = File::options().write(true).open(store.file("a")).unwrap();
    // Over data, over holes, parts of blocks, and the end cut off and grown again.
    let mut expected = fs::read(&raw).unwrap();
    let mut rng = Rng::new(12);
    for _ in 0..100 {
        let offset = rng.below(SIZE - 9000) as usize;
        let length = rng.range(1, 9000) as usize;
        let bytes = rng.bytes(length);
        file.write_all_at(&bytes, offset as u64).unwrap();
        expected[offset..offset + bytes.len()].copy_from_slice(&bytes);
    }
    file.set_len(SIZE - 3000).unwrap();
    file.set_len(SIZE + 5000).unwrap();
    expected.truncate(SIZE as usize - 3000);
    expected.resize(SIZE as usize + 5000, 0);
    assert_same_bytes(&fs::read(store.file("a")).unwrap(), &expected, "the written volume");
    drop(file);
    store.remount();
    assert_same_bytes(&fs::read(store.file("a")).unwrap(), &expected, "the written volume, mounted again");
    let mut other = fs::read(&raw).unwrap();
    other.resize(20 << 20, 0);
    assert_same_bytes(&fs::read(store.file("b")).unwrap(), &other, "the other volume of the image");
    store.run(["volume", "create", "c", "--image", "base"]);
    assert_same_file(&store.file("c"), &raw);
    store.check();
}

#[test]
fn an_image_in_use_is_kept_and_its_users_are_named() {
    require_mount!();
    let store = TestStore::mounted("image-use");
    let raw = store.outside("disk.raw");
    raw_disk(&raw);
    store.run(["image", "import", "base", raw.to_str().unwrap()]);
    store.run(["volume", "create", "user1", "--image", "base"]);
    let refused = store.fails(["image", "delete", "base"]);
    assert!(refused.contains("user1"), "the user is named: {refused}");
    store.snapshot_all("s");
    fs::remove_file(store.file("user1")).unwrap();
    let refused = store.fails(["image", "delete", "base"]);
    assert!(refused.contains("user1"), "its snapshot still stands on it: {refused}");
    assert_same_file(&store.set("s").join("user1"), &raw);
    store.run(["volume", "delete", "--snapshots", "user1"]);
    store.run(["image", "delete", "base"]);
    assert_eq!(store.json(["image", "list"]), Value::Array(vec![]));
    store.check();
}

#[test]
fn a_volume_smaller_than_its_image_is_refused() {
    require_mount!();
    let store = TestStore::mounted("image-small");
    let raw = store.outside("disk.raw");
    raw_disk(&raw);
    store.run(["image", "import", "base", raw.to_str().unwrap()]);
    let refused = store.fails(["volume", "create", "v", "--image", "base", "--size", "1M"]);
    assert!(refused.contains("smaller") && refused.contains(&SIZE.to_string()), "{refused}");
    assert!(!store.file("v").exists());
    store.run(["volume", "create", "v", "--image", "base"]);
    assert_eq!(fs::metadata(store.file("v")).unwrap().len(), SIZE, "the size defaults to the image's");
    let refused = store.fails(["volume", "create", "w", "--image", "nothing"]);
    assert!(refused.contains("nothing"), "{refused}");
}

#[test]
fn a_wrong_checksum_is_refused_and_leaves_nothing() {
    let store = TestStore::new("image-sum");
    let raw = store.outside("disk.raw");
    raw_disk(&raw);
    let file = raw.to_str().unwrap();
    let refused = store.fails(["image", "import", "base", file, "--sha256", &"0".repeat(64)]);
    assert!(refused.contains("SHA-256"), "{refused}");
    assert_eq!(store.json(["image", "list"]), Value::Array(vec![]));
    let refused = store.fails(["image", "import", "base", file, "--sha256", "nonsense"]);
    assert!(refused.contains("nonsense") || refused.contains("64"), "{refused}");
    let sum = sh("sha256sum <\"$1\" | cut -d' ' -f1", [&raw]);
    store.run(["image", "import", "base", file, "--sha256", sum.trim()]);
    store.check();
}

/// Every image that must be refused, and a word that the refusal must have.
fn bad_images(store: &TestStore) -> Vec<(PathBuf, &'static str)> {
    let raw = store.outside("disk.raw");
    raw_disk(&raw);
    let good = store.outside("good.qcow2");
    qemu_img(&["convert", "-O", "qcow2"], &[&raw, &good]);
    let make = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(&good).unwrap();
        change(&mut bytes);
        let path = store.outside(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let mut bad = vec![
        (make("truncated.qcow2", &|bytes| bytes.truncate(bytes.len() / 2)), ""),
        (make("header.qcow2", &|bytes| bytes.truncate(40)), ""),
        (make("corrupt.qcow2", &|bytes| bytes[40..48].copy_from_slice(&u64::MAX.to_be_bytes())), ""),
        (make("huge.qcow2", &|bytes| bytes[24..32].copy_from_slice(&(1_u64 << 60).to_be_bytes())), ""),
        (make("dirty.qcow2", &|bytes| bytes[79] |= 1), "dirty"),
        (make("marked.qcow2", &|bytes| bytes[79] |= 2), "corrupt"),
        (store.outside("missing.raw"), "missing.raw"),
        (store.store().parent().unwrap().to_owned(), ""),
    ];
    let secret = store.outside("luks.qcow2");
    let encrypted = Command::new("qemu-img")
        .args([
            "create",
            "-q",
            "-f",
            "qcow2",
            "--object",
            "secret,id=s,data=x",
            "-o",
            "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
        ])
        .args([secret.as_os_str(), "1M".as_ref()])
        .status();
    assert!(encrypted.unwrap().success());
    bad.push((secret, "encrypt"));

    // Backing files: gone, and outside the image's directory.
    let orphan = store.outside("orphan.qcow2");
    let elsewhere = store.outside("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::copy(&raw, elsewhere.join("disk.raw")).unwrap();
    sh(
        "cd \"$1\"; cp disk.raw gone.raw; qemu-img create -q -f qcow2 -b gone.raw -F raw \"$2\"; rm gone.raw",
        [orphan.parent().unwrap(), &orphan],
    );
    bad.push((orphan, "gone.raw"));
    let escaping = store.outside("escaping.qcow2");
    sh(
        "cd \"$1\"; qemu-img create -q -f qcow2 -b elsewhere/../elsewhere/disk.raw -F raw \"$2\"",
        [escaping.parent().unwrap(), &escaping],
    );
    bad.push((escaping, "disk.raw"));
    let absolute = store.outside("absolute.qcow2");
    sh("qemu-img create -q -u -f qcow2 -b /etc/passwd -F raw \"$1\" 1M", [&absolute]);
    bad.push((absolute, "/etc/passwd"));
    bad
}

#[test]
fn bad_images_are_refused_by_name_and_leave_nothing() {
    require_mount!("qemu-img");
    for mounted in [false, true] {
        let store = TestStore::new("bad-images");
        if mounted {
            store.mount();
        }
        for (path, word) in bad_images(&store) {
            let refused = store.fails(["image".as_ref(), "import".as_ref(), "bad".as_ref(), path.as_os_str()]);
            assert!(refused.contains(word), "{}: the refusal must name '{word}': {refused}", path.display());
            assert_eq!(store.json(["image", "list"]), Value::Array(vec![]), "{}", path.display());
        }
        let held = sh("du -s --block-size=1 \"$1/layers\" 2>/dev/null | cut -f1", [store.store()]);
        assert!(held.trim().parse::<u64>().unwrap_or(0) < 1 << 20, "nothing half-made is left: {held} bytes");
        store.check();
    }
}

#[test]
fn a_backing_file_elsewhere_is_read_when_it_is_allowed() {
    require_programs!("qemu-img");
    let store = TestStore::new("allowed");
    let elsewhere = store.outside("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    raw_disk(&elsewhere.join("disk.raw"));
    let overlay = store.outside("overlay.qcow2");
    sh("qemu-img create -q -f qcow2 -b \"$1/disk.raw\" -F raw \"$2\"", [&elsewhere, &overlay]);
    let (overlay, elsewhere) = (overlay.to_str().unwrap(), elsewhere.to_str().unwrap());
    store.fails(["image", "import", "i", overlay]);
    store.run(["image", "import", "i", overlay, "--allow-backing-in", elsewhere]);
}

#[test]
fn an_interrupted_import_leaves_nothing() {
    require_mount!();
    let store = TestStore::mounted("interrupt");
    let raw = store.outside("big.raw");
    fs::write(&raw, Rng::new(13).bytes(192 << 20)).unwrap();
    let list = || store.json(["image", "list"]);
    let mut import = store.cli(["image", "import", "big", raw.to_str().unwrap()]).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&import);
    // Once some of it has been stored, unless it is over by then.
    outcrop_tests::wait_until("the import to store something", || {
        let held = sh("du -s --block-size=1 \"$1/layers\" 2>/dev/null | cut -f1 || true", [store.store()]);
        held.trim().parse::<u64>().unwrap_or(0) > 8 << 20 || import.try_wait().unwrap().is_some()
    });
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
    let status = import.wait().unwrap();
    if !status.success() {
        assert_eq!(status.code(), Some(130), "interrupted");
        outcrop_tests::wait_until("what was imported to be gone", || {
            let held = sh("du -s --block-size=1 \"$1/layers\" 2>/dev/null | cut -f1 || true", [store.store()]);
            held.trim().parse::<u64>().unwrap_or(0) < 1 << 20
        });
        assert_eq!(list(), Value::Array(vec![]));
    }
    // Killed, and the store with it.
    let mut import = store.cli(["image", "import", "again", raw.to_str().unwrap()]).spawn().unwrap();
    store.kill();
    let _ = import.wait();
    store.mount();
    for image in list().as_array().unwrap() {
        let name = image["name"].as_str().unwrap();
        store.run(["volume", "create", name, "--image", name]);
        assert_same_file(&store.file(name), &raw);
    }
    store.check();
}
