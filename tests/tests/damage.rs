//! Damage on the disk under a mount: reads of it are errors, the rest goes on, and a scrub names it.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::{Rng, TestStore, assert_same_bytes, require_mount, run, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Output, Stdio};

const BLOCK: u64 = 4096;
const SIZE: usize = 6 << 20;

/// Flips a bit of a block in a layer's data.
fn flip(store: &TestStore, layer: &str, block: u64) {
    let path = store.store().join("layers").join(layer).join("data.0");
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, block * BLOCK + 1234).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], block * BLOCK + 1234).unwrap();
    file.sync_all().unwrap();
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap()
}

fn scrub(store: &TestStore, arguments: &[&str]) -> Output {
    store.cli(["scrub", "--progress", "none"].iter().chain(arguments)).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every block but `bad` is read as it was; that one is an error.
fn check_reads(path: &Path, content: &[u8], bad: u64) {
    let file = File::open(path).unwrap();
    let mut buf = vec![0; BLOCK as usize];
    for (block, expected) in (0..).zip(content.chunks_exact(BLOCK as usize)) {
        match file.read_exact_at(&mut buf, block * BLOCK) {
            Ok(()) => {
                assert_ne!(block, bad, "{}: a damaged block was returned", path.display());
                assert_same_bytes(&buf, expected, "a block beside the damaged one");
            }
            Err(error) => assert_eq!((block, error.raw_os_error()), (bad, Some(5)), "{}: {error}", path.display()),
        }
    }
}

#[test]
fn a_flipped_bit_is_an_error_of_its_block_and_a_scrub_names_it() {
    require_mount!();
    let store = TestStore::mounted("damage");
    let mut rng = Rng::new(5);
    let (content, imaged) = (rng.bytes(SIZE), rng.bytes(SIZE));
    fs::write(store.file("v"), &content).unwrap();
    fs::write(store.outside("raw"), &imaged).unwrap();
    store.run(["image", "import", "i", store.outside("raw").to_str().unwrap()]);
    store.run(["volume", "create", "w", "--image", "i"]);
    store.run(["snapshot", "create", "v", "s"]);
    wait_until("everything sealed has its sums", || store.json(["volume", "show", "v"])["sums"]["unsummed"] == 0);
    let clean = scrub(&store, &["--json"]);
    assert!(clean.status.success(), "{clean:?}");
    assert_eq!((&json(&clean)["mismatches"], &json(&clean)["verified"]), (&0.into(), &(2 * SIZE).into()));

    let layer = text(&store.json(["snapshot", "list", "v"])[0], "layer").to_owned();
    let image = text(&store.json(["image", "show", "i"]), "layer").to_owned();
    flip(&store, &layer, 100);
    flip(&store, &image, 3);
    // A file of a snapshot is read in pieces of many blocks by the kernel's read-ahead: an error of one is not one of all.
    check_reads(&store.set("s").join("v"), &content, 100);
    check_reads(&store.file("v"), &content, 100);
    check_reads(&store.file("w"), &imaged, 3);

    let shown = store.json(["volume", "show", "v"]);
    assert_eq!(shown["sums"]["bad_blocks"], 1, "{shown}");
    assert!(shown["sums"]["failed_reads"].as_u64().unwrap() >= 2, "{shown}");
    assert!(store.run(["volume", "show", "v"]).contains("1 BLOCKS ARE DAMAGED"));
    let log = store.log();
    for part in [format!("block 100 (byte 409600) of layer {layer}"), format!("block 3 (byte 12288) of layer {image}")] {
        assert_eq!(log.matches(&part).count(), 1, "{part} is told once in the log: {log}");
    }

    for mounted in [true, false] {
        let found = scrub(&store, &[]);
        assert_eq!(found.status.code(), Some(1), "{found:?}");
        let out = String::from_utf8(found.stdout).unwrap();
        assert!(out.contains("volume 'v'") && out.contains(&format!("block 100 (byte 409600) of layer {layer}")), "{out}");
        assert!(out.contains("image 'i'") && out.contains(&format!("block 3 (byte 12288) of layer {image}")), "{out}");
        let only = json(&scrub(&store, &["w", "--json"]));
        assert_eq!((&only["mismatches"], &only["blocks"][0]["layer"]), (&1.into(), &image.as_str().into()), "{only}");
        let doctor = store.cli(["doctor", "--json"]).output().unwrap();
        assert_eq!(doctor.status.code(), Some(1));
        let findings = json(&doctor)["findings"].as_array().unwrap().clone();
        let bad = findings.iter().filter(|found| found["check"] == "sums" && found["severity"] == "error").count();
        assert_eq!(bad, 2, "{findings:?}");
        if mounted {
            store.umount();
        }
    }
    // As it was: nothing is against it any more.
    flip(&store, &layer, 100);
    flip(&store, &image, 3);
    assert!(scrub(&store, &[]).status.success());
    store.mount();
    assert_same_bytes(&fs::read(store.file("v")).unwrap(), &content, "the volume");
    assert_same_bytes(&fs::read(store.file("w")).unwrap(), &imaged, "the volume on the image");
    store.check();
}

#[test]
fn a_scrub_keeps_to_its_rate_is_a_job_and_ends_with_ctrl_c() {
    require_mount!();
    let store = TestStore::mounted("scrub");
    fs::write(store.file("v"), Rng::new(6).bytes(SIZE)).unwrap();
    store.run(["snapshot", "create", "v", "s"]);
    let job = || store.json(["job", "list"]).as_array().unwrap().iter().find(|job| job["kind"] == "scrub").cloned();
    // Slower than anybody would wait for.
    let mut scrub = store.cli(["scrub", "--rate", "1K", "--progress", "lines"]);
    let child = scrub.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the scrub is a job under way", || job().is_some_and(|job| job["state"] == "in-progress" && job["done"] != 0));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    wait_until("the job is cancelled", || job().is_some_and(|job| job["state"] == "cancelled"));
    let id = job().unwrap()["id"].to_string();
    // Anew, by another's wish at full speed.
    assert!(run(&mut store.cli(["scrub", "v", "--progress", "none"])).contains("0 blocks"));
    let child =
        store.cli(["job", "resume", &id, "--progress", "none"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it goes on", || store.json(["job", "show", &id])["state"] == "in-progress");
    store.run(["job", "cancel", &id]);
    assert!(!child.wait_with_output().unwrap().status.success());
    store.check();
}
