//! Jobs: what is known of long work while it goes on, after it ended, and after whatever ended it.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::{Rng, TestStore, assert_same_file, require_mount, sh, wait_until};
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

/// A file that takes long to import, as all of it is hashed, and costs nothing.
fn endless(store: &TestStore) -> PathBuf {
    let path = store.outside("disk.raw");
    File::create(&path).unwrap().set_len(8 << 40).unwrap();
    path
}

fn jobs(store: &TestStore) -> Vec<Value> {
    store.json(["job", "list"]).as_array().unwrap().clone()
}

/// An import that has got somewhere.
fn import(store: &TestStore, name: &str, file: &Path) -> Child {
    let mut command = store.cli(["image", "import", name, file.to_str().unwrap()]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the import to get somewhere", || {
        jobs(store).iter().any(|job| job["state"] == "in-progress" && job["done"].as_u64() > Some(0))
    });
    child
}

fn layers(store: &TestStore) -> usize {
    fs::read_dir(store.store().join("layers")).unwrap().count()
}

#[test]
fn an_import_is_a_job_that_another_terminal_can_cancel() {
    require_mount!();
    let store = TestStore::mounted("job-cancel");
    assert!(jobs(&store).is_empty());
    let file = endless(&store);
    let child = import(&store, "i", &file);
    let job = jobs(&store).remove(0);
    assert_eq!((job["kind"].as_str(), job["total"].as_u64()), (Some("import"), Some(8 << 40)), "{job}");
    assert!(job["subject"].as_str().unwrap().contains("disk.raw"), "{job}");
    let id = job["id"].to_string();
    let table = store.run(["job", "list"]);
    assert!(table.contains("in progress"), "{table}");
    let cancelled = store.json(["job", "cancel", &id]);
    assert_eq!(cancelled["state"], "cancelled");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(layers(&store), 0, "what was begun is gone when the cancel returns");
    let job = store.json(["job", "show", &id]);
    assert!(job["ended"].as_str().is_some() && job["error"].is_null() && job["resumable"] == true, "{job}");

    // Ctrl-C where it was asked for is a cancel, too.
    let mut child = import(&store, "i", &file);
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    wait_until("the job to end", || jobs(&store)[1]["state"] == "cancelled");

    // Done anew, from another file in the same place.
    fs::write(&file, vec![5; 100_000]).unwrap();
    let done = store.json(["job", "resume", &id]);
    assert_eq!((done["state"].as_str(), done["id"].to_string()), (Some("completed"), id.clone()));
    assert_eq!(store.json(["image", "show", "i"])["size"], 100_000);
    for refused in [["job", "resume", &id], ["job", "cancel", &id], ["job", "show", "77"]] {
        store.fails(refused);
    }
    assert_eq!(store.cli(["job", "show", "seven"]).output().unwrap().status.code(), Some(2));
    store.check();
}

#[test]
fn a_failed_job_says_why_and_is_known_after_a_restart() {
    require_mount!();
    let store = TestStore::mounted("job-failed");
    let file = store.outside("missing.raw");
    store.fails(["image", "import", "i", file.to_str().unwrap()]);
    let before = jobs(&store);
    assert_eq!(before[0]["state"], "error");
    assert!(before[0]["error"].as_str().unwrap().contains("No such file"), "{before:?}");
    store.remount();
    assert_eq!(jobs(&store), before);
    // With the mount down, the same commands.
    store.umount();
    assert_eq!(jobs(&store), before);
    let said = store.fails(["job", "resume", "1"]);
    assert!(said.contains("No such file") && said.contains("job 1"), "{said}");
    fs::write(&file, vec![5; 100_000]).unwrap();
    store.run(["job", "resume", "1"]);
    store.mount();
    store.run(["volume", "create", "v", "--image", "i"]);
    assert_same_file(&store.file("v"), &file);
    assert_eq!(jobs(&store)[0]["state"], "completed");
}

#[test]
fn a_kill_and_an_unmount_leave_errors_that_can_be_resumed() {
    require_mount!();
    let store = TestStore::mounted("job-kill");
    let file = endless(&store);
    let mut child = import(&store, "i", &file);
    store.kill();
    assert!(!child.wait().unwrap().success());
    store.mount();
    let job = jobs(&store).remove(0);
    assert_eq!((job["state"].as_str(), job["error"].as_str()), (Some("error"), Some("interrupted by a crash")), "{job}");
    assert_eq!(layers(&store), 0, "what was begun is gone");

    let mut child = import(&store, "i", &file);
    store.umount();
    assert!(!child.wait().unwrap().success());
    store.mount();
    let job = jobs(&store).remove(1);
    assert_eq!(job["state"], "error", "{job}");
    assert!(job["error"].as_str().unwrap().contains("the store was closed"), "{job}");
    assert_eq!(layers(&store), 0);

    fs::write(&file, vec![5; 100_000]).unwrap();
    store.run(["job", "resume", "2"]);
    assert_eq!(store.json(["image", "show", "i"])["size"], 100_000);
    store.check();
}

#[test]
fn a_merge_that_waits_names_its_holder_and_goes_on_after_it() {
    require_mount!();
    let store = TestStore::mounted("job-merge");
    fs::write(store.file("v"), vec![5; 300_000]).unwrap();
    store.run(["snapshot", "create", "v", "s"]);
    fs::write(store.file("v"), vec![6; 200_000]).unwrap();
    let held = File::open(store.set("s").join("v")).unwrap();
    store.run(["snapshot", "delete", "v", "s", "--now"]);
    let merge = || jobs(&store).into_iter().find(|job| job["kind"] == "merge").unwrap_or_default();
    wait_until("the merge to wait", || merge()["waiting_for"].as_str().is_some_and(|holder| holder.contains("s/v")));
    let job = merge();
    assert_eq!(job["state"], "pending", "{job}");
    let id = job["id"].to_string();
    let shown = store.run(["job", "show", &id]);
    assert!(shown.contains("s/v"), "{shown}");
    let said = store.fails(["job", "cancel", &id]);
    assert!(said.contains("can't be cancelled"), "{said}");
    drop(held);
    wait_until("the merge to be done", || store.json(["job", "show", &id])["state"] == "completed");
    assert_eq!(fs::read(store.file("v")).unwrap(), vec![6; 200_000]);
    store.check();
}

#[test]
fn kills_leave_an_image_whole_or_not_at_all() {
    require_mount!();
    let store = TestStore::mounted("job-image-kills");
    let mut rng = Rng::announced();
    let bytes: Vec<u8> = (0..20).flat_map(|_| rng.bytes(1 << 20)).collect();
    fs::write(store.file("v"), &bytes).unwrap();
    let sum = sh("sha256sum <\"$1\" | cut -d' ' -f1", [store.file("v")]);
    let mut made = 0;
    for round in 0..8 {
        let name = format!("i{round}");
        let mut command = store.cli(["image", "create", &name, "--from", "v"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(rng.below(200_000)));
        store.kill();
        let done = child.wait().unwrap().success();
        store.mount();
        let images = store.json(["image", "list"]);
        let image = images.as_array().unwrap().iter().find(|image| image["name"] == name.as_str());
        assert!(image.is_some() || !done, "what was acknowledged is there");
        if let Some(image) = image {
            assert_eq!(image["sha256"], sum.trim());
            made += 1;
        }
        let unended = jobs(&store).into_iter().find(|job| job["kind"] == "image" && job["state"] == "in-progress");
        assert!(unended.is_none(), "{unended:?}");
        store.run(["doctor"]);
    }
    wait_until("nothing to be left but the images and the volume", || layers(&store) == made + 1);
    assert!(fs::read(store.file("v")).unwrap() == bytes);
    store.check();
}
