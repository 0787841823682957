//! The command line, with the mount up and down, and what it refuses.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::{TestStore, fails, outcrop, require_mount, run, sh};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::process::Command;

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|each| each["name"].as_str().unwrap()).collect()
}

/// The same commands say the same, whoever has the store.
fn commands_work(store: &TestStore) {
    store.run(["volume", "create", "one", "--size", "20M"]);
    store.run(["volume", "create", "two", "--size", "12345"]);
    assert_eq!(names(&store.json(["volume", "list"])), ["one", "two"]);
    let shown = store.json(["volume", "show", "one"]);
    assert_eq!((&shown["name"], &shown["size"]), (&"one".into(), &(20_u64 << 20).into()), "{shown}");
    assert!(shown["id"].is_string() && shown["layers"].is_array(), "{shown}");
    for table in [["volume", "list"].as_slice(), &["volume", "show", "one"]] {
        assert!(store.run(table).contains("one"));
    }
    store.run(["volume", "resize", "one", "30M"]);
    assert_eq!(store.json(["volume", "show", "one"])["size"], 30 << 20);
    store.run(["volume", "rename", "two", "three"]);
    assert_eq!(names(&store.json(["volume", "list"])), ["one", "three"]);
    store.run(["snapshot", "create", "one", "s1", "--label", "why=because"]);
    assert_eq!(names(&store.json(["snapshot", "list"])), ["s1"]);
    assert!(store.run(["snapshot", "list"]).contains("s1"));
    store.run(["volume", "delete", "three"]);
    assert_eq!(names(&store.json(["volume", "list"])), ["one"]);
    assert_eq!(store.json(["image", "list"]), Value::Array(vec![]));
    let status = store.json(["status"]);
    assert!(status.is_object(), "{status}");
    store.run(["status"]);
    store.run(["doctor"]);
    store.run(["flush"]);
}

#[test]
fn commands_work_with_the_mount_down() {
    let store = TestStore::new("down");
    commands_work(&store);
}

#[test]
fn commands_work_with_the_mount_up() {
    require_mount!();
    let store = TestStore::mounted("up");
    commands_work(&store);
    assert_eq!(fs::metadata(store.file("one")).unwrap().len(), 30 << 20);
    // A path inside the mount names the store, too.
    let list = run(outcrop().args(["volume", "list", "--json", "--store"]).arg(store.mount_point()));
    assert_eq!(names(&serde_json::from_str(&list).unwrap()), ["one"]);
    let list = run(outcrop().args(["volume", "list", "--json", "--store"]).arg(store.store()));
    assert_eq!(names(&serde_json::from_str(&list).unwrap()), ["one"]);
    store.umount();
    assert_eq!(names(&store.json(["volume", "list"])), ["one"]);
}

#[test]
fn without_a_store_the_way_to_name_one_is_told() {
    let directory = outcrop_tests::Scratch::new("nostore");
    let said = fails(outcrop().args(["volume", "list"]).current_dir(directory.path()));
    assert!(said.contains("--store") && said.contains("OUTCROP_STORE"), "{said}");
}

#[test]
fn completions_and_manual_pages_come_out() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(outcrop().args(["completions", shell])).contains("outcrop"));
    }
    let directory = outcrop_tests::Scratch::new("man");
    run(outcrop().arg("man").arg(directory.path()));
    assert!(directory.path().read_dir().unwrap().count() > 3, "a page for each command");
    assert!(run(outcrop().arg("--help")).contains("mount"));
    assert!(run(outcrop().arg("--version")).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn bad_sizes_are_refused() {
    require_mount!();
    let store = TestStore::new("sizes");
    store.run(["volume", "create", "v", "--size", "1M"]);
    for mounted in [false, true] {
        if mounted {
            store.mount();
        }
        for size in ["-1", "-5G", "nonsense", "NaN", "inf", "1.5.2G", "", " ", "65T", "18446744073709551616", "1e400", "5X"] {
            let said = store.fails(["volume".to_owned(), "create".into(), "bad".into(), format!("--size={size}")]);
            assert!(
                size.trim().is_empty() || said.contains(size) || said.contains("64"),
                "'{size}': the refusal must name it: {said}"
            );
            store.fails(["volume", "resize", "v", "--", size]);
        }
        store.fails(["volume", "create", "bad", "--size", "0"]);
        assert_eq!(names(&store.json(["volume", "list"])), ["v"]);
        assert_eq!(store.json(["volume", "show", "v"])["size"], 1 << 20);
    }
}

#[test]
fn bad_names_are_refused() {
    require_mount!();
    let store = TestStore::new("badnames");
    store.run(["volume", "create", "v", "--size", "1M"]);
    let long = "n".repeat(256);
    for mounted in [false, true] {
        if mounted {
            store.mount();
        }
        for name in ["a/b", "/", "", ".", "..", ".snapshots", &long] {
            for arguments in [
                &["volume", "create", "--size", "1M", "--", name][..],
                &["volume", "rename", "--", "v", name],
                &["snapshot", "create", "--", "v", name],
                &["image", "import", "--", name, "/etc/hostname"],
            ] {
                store.fails(arguments);
            }
        }
        let said = store.fails(["volume", "create", "v", "--size", "1M"]);
        assert!(said.contains("'v'") && said.contains("exists"), "a duplicate: {said}");
        for missing in [
            &["volume", "show", "nothing"][..],
            &["volume", "delete", "nothing"],
            &["volume", "rename", "nothing", "w"],
            &["image", "show", "nothing"],
        ] {
            assert!(store.fails(missing).contains("nothing"));
        }
        assert_eq!(names(&store.json(["volume", "list"])), ["v"]);
        assert_eq!(store.json(["snapshot", "list"]), Value::Array(vec![]));
        assert_eq!(store.json(["image", "list"]), Value::Array(vec![]));
    }
}

#[test]
fn paths_that_are_no_store_are_refused() {
    require_mount!();
    let scratch = outcrop_tests::Scratch::new("paths");
    let mount = scratch.join("mount");
    let refuse = |store: &std::path::Path| fails(outcrop().arg("mount").arg(store).arg(&mount));

    let file = scratch.join("file");
    fs::write(&file, b"not a directory").unwrap();
    assert!(refuse(&file).contains("file"));
    assert_eq!(fs::read(&file).unwrap(), b"not a directory");

    let full = scratch.directory("full");
    fs::write(full.join("letter"), b"a person's").unwrap();
    let said = refuse(&full);
    assert!(said.contains("full"), "a directory with other things in it: {said}");
    assert_eq!(fs::read_dir(&full).unwrap().count(), 1, "and nothing was added to it");

    assert!(refuse(std::path::Path::new("/proc/outcrop-test")).contains("/proc/outcrop-test"), "unwritable");
    assert!(!outcrop_tests::scratch::is_mounted(&mount));
}

#[test]
fn a_store_of_a_newer_format_is_refused_and_left_alone() {
    require_mount!();
    let store = TestStore::new("newer");
    store.run(["volume", "create", "v", "--size", "1M"]);
    let identity = store.store().join("outcrop.json");
    let text = fs::read_to_string(&identity).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    let version = value.as_object_mut().unwrap().iter_mut().find(|(key, _)| key.contains("version") || key.contains("format"));
    let (key, version) = version.expect("the identity tells its format version");
    assert!(version.is_u64(), "{key}: {version}");
    *version = 999.into();
    fs::write(&identity, serde_json::to_vec(&value).unwrap()).unwrap();
    let said = store.fails(["mount".as_ref(), store.store().as_os_str(), store.mount_point().as_os_str()]);
    assert!(said.contains("999") && said.contains("outcrop"), "{said}");
    assert!(store.fails(["volume", "list"]).contains("999"));
    fs::write(&identity, text).unwrap();
    assert_eq!(names(&store.json(["volume", "list"])), ["v"]);
}

#[test]
fn a_second_daemon_is_refused_and_the_first_is_named() {
    require_mount!();
    let store = TestStore::mounted("second");
    fs::write(store.file("v"), b"mine").unwrap();
    let pid = store.pid().unwrap().to_string();
    let said = store.fails(["mount".as_ref(), store.store().as_os_str(), store.outside("other").as_os_str()]);
    assert!(said.contains(&pid), "{pid} must be named: {said}");
    let link = store.outside("link");
    symlink(store.store(), &link).unwrap();
    let said = store.fails(["mount".as_ref(), link.as_os_str(), store.outside("other").as_os_str()]);
    assert!(said.contains(&pid), "through another name, too: {said}");
    assert_eq!(fs::read(store.file("v")).unwrap(), b"mine");
}

#[test]
fn bad_mount_points_are_refused() {
    require_mount!();
    let store = TestStore::new("points");
    let mount = |at: &std::path::Path| store.fails(["mount".as_ref(), store.store().as_os_str(), at.as_os_str()]);
    let full = store.outside("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("letter"), b"a person's").unwrap();
    assert!(mount(&full).contains("not empty"));
    let file = store.outside("file");
    fs::write(&file, b"x").unwrap();
    mount(&file);
    // A store inside its own mount could never be read.
    fs::create_dir_all(store.store()).unwrap();
    mount(store.store());
    mount(store.store().parent().unwrap());
    store.mount();
    let said = store.fails(["mount".as_ref(), store.outside("elsewhere").as_os_str(), store.mount_point().as_os_str()]);
    assert!(said.contains("already") || said.contains("in use"), "{said}");
    let said = mount(store.mount_point());
    assert!(said.contains("already") || said.contains("in use"), "{said}");
    fs::write(store.file("v"), b"undisturbed").unwrap();
    assert_eq!(fs::read(store.file("v")).unwrap(), b"undisturbed");
}

#[test]
fn a_broken_pipe_is_no_failure() {
    let store = TestStore::new("pipe");
    for i in 0..50 {
        store.run(["volume".to_owned(), "create".into(), format!("volume-{i:03}"), "--size".into(), "1M".into()]);
    }
    let said = sh(
        "\"$1\" volume list --store \"$2\" 2>&1 >/dev/full | head -c 300 || true; \"$1\" volume list --json --store \"$2\" | head -c 1 2>&1",
        [outcrop_tests::program::path().as_os_str(), store.store().as_os_str()],
    );
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn the_catalog_can_be_made_again() {
    require_mount!();
    let store = TestStore::mounted("rebuild");
    let raw = store.outside("raw");
    fs::write(&raw, outcrop_tests::Rng::new(1).bytes(200_000)).unwrap();
    store.run(["image", "import", "base", raw.to_str().unwrap()]);
    store.run(["volume", "create", "v", "--image", "base"]);
    fs::write(store.file("w"), b"content").unwrap();
    store.snapshot_all("monday");
    fs::write(store.file("w"), b"changed").unwrap();
    fs::rename(store.file("w"), store.file("renamed")).unwrap();
    store.run(["snapshot", "create", "v", "alone", "--label", "k=v"]);
    store.run(["flush"]);
    let tell = || (store.json(["volume", "list"]), store.json(["snapshot", "list"]), store.json(["image", "list"]));
    let before = tell();
    store.umount();
    fs::remove_dir_all(store.store().join("catalog")).unwrap();
    store.run(["doctor", "--rebuild-catalog"]);
    assert_eq!(tell(), before, "with the mount down");
    store.mount();
    assert_eq!(tell(), before, "with the mount up");
    assert_eq!(fs::read(store.file("renamed")).unwrap(), b"changed");
    assert_eq!(fs::read(store.set("monday").join("w")).unwrap(), b"content");
    outcrop_tests::assert_same_file(&store.file("v"), &raw);
    store.check();
}

#[test]
fn doctor_sees_damage_and_says_what() {
    let store = TestStore::new("doctor");
    store.run(["volume", "create", "v", "--size", "1M"]);
    store.run(["doctor"]);
    let layers: Vec<_> = fs::read_dir(store.store().join("layers")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(layers.len(), 1);
    let map = layers[0].join("map");
    let mut bytes = fs::read(&map).unwrap();
    let damaged = bytes.len().min(2048);
    bytes[..damaged].fill(0x5a);
    fs::write(&map, bytes).unwrap();
    let output = store.cli(["doctor", "--json"]).output().unwrap();
    assert!(!output.status.success(), "damage is a failure: {}", String::from_utf8_lossy(&output.stdout));
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let layer = layers[0].file_name().unwrap().to_str().unwrap();
    assert!(said.contains(layer) || said.contains("'v'") || said.contains("\"v\""), "the damaged thing is named: {said}");
}

#[test]
fn output_is_for_people_or_machines_not_both() {
    let store = TestStore::new("json");
    store.run(["volume", "create", "v", "--size", "1M"]);
    let mut command = Command::new(outcrop_tests::program::path());
    command.env("OUTCROP_STORE", store.store()).args(["volume", "list", "--json"]);
    let output = command.output().unwrap();
    serde_json::from_slice::<Value>(&output.stdout).unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn only_the_owner_reaches_the_daemon() {
    require_mount!("setpriv");
    let store = TestStore::mounted("owner");
    fs::set_permissions(store.store().parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = store.outside("outcrop");
    fs::copy(outcrop_tests::program::path(), &program).unwrap();
    let sockets: Vec<_> = fs::read_dir(store.store())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_socket())
        .map(|entry| entry.metadata().unwrap().mode() & 0o777)
        .collect();
    let closed = fs::metadata(store.store()).unwrap().mode() & 0o077 == 0;
    assert!(closed || sockets.iter().all(|mode| mode & 0o077 == 0), "sockets: {sockets:?}");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
    let said = fails(command.args(["volume", "list", "--store"]).arg(store.store()).current_dir("/"));
    assert!(said.contains("another user") || said.contains("ermission"), "{said}");
}

/// In a mount namespace whose `/dev` has no `fuse`, or one that can't be opened.
#[test]
fn a_missing_or_forbidden_dev_fuse_says_what_to_do() {
    require_mount!("unshare");
    let store = TestStore::new("devfuse");
    for (make, word) in [("true", "fuse"), ("mknod /dev/fuse c 10 229", "permi")] {
        let line =
            format!("mount -t tmpfs -o nodev tmpfs /dev && touch /dev/null && {{ {make}; }} && exec \"$1\" mount \"$2\" \"$3\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &line, "sh"]).arg(outcrop_tests::program::path());
        let said = fails(command.arg(store.store()).arg(store.mount_point()));
        assert!(said.contains("/dev/fuse") && said.to_lowercase().contains(word), "{said}");
        assert!(
            said.contains("modprobe") || said.contains("--device") || said.contains("install") || said.contains("fuse3"),
            "the next step: {said}"
        );
    }
}
