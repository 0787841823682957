//! The real program, on real stores and mounts: what its unit tests can't see.
#![expect(clippy::unwrap_used, reason = "a test may")]

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// A directory with a store and a mount point, and nothing mounted when it goes.
struct Place {
    dir: tempfile::TempDir,
    store: PathBuf,
    mount: PathBuf,
}

impl Place {
    fn new() -> Self {
        Self::named("store".into(), "mount".into())
    }

    fn named(store: OsString, mount: OsString) -> Self {
        let dir = tempfile::Builder::new().prefix("outcrop-tools-").tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        Self { store: root.join(store), mount: root.join(mount), dir }
    }

    fn outcrop(&self) -> Command {
        let mut command = outcrop();
        command.env("OUTCROP_STORE", &self.store);
        command
    }

    fn mount(&self) {
        ok(outcrop().arg("mount").arg(&self.store).arg(&self.mount));
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&ok(self.outcrop().args(arguments).arg("--json"))).unwrap()
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.json(&["status"])["mount"]["pid"].as_u64().unwrap()).unwrap()
    }

    fn is_mounted(&self) -> bool {
        // Odd characters are escaped there, so only the plain end of the name is looked for.
        let name = self.mount.file_name().unwrap().to_string_lossy().replace(' ', "\\040");
        fs::read_to_string("/proc/self/mountinfo").unwrap().lines().any(|line| {
            let fields: Vec<_> = line.split(' ').collect();
            line.contains("fuse.outcrop") && fields[4].ends_with(&name) && fields[4].contains(self.dir.path().to_str().unwrap())
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = outcrop().args(["umount", "--force"]).arg(&self.mount).output();
        while rustix::mount::unmount(&self.mount, UnmountFlags::DETACH).is_ok() {}
    }
}

fn outcrop() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outcrop"));
    command.env_remove("OUTCROP_STORE").env_remove("RUST_LOG").current_dir("/");
    command
}

#[track_caller]
fn ok(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Fails with this code; gives what it said.
#[track_caller]
fn fails(code: i32, command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
    assert!(output.stdout.is_empty(), "a failure prints nothing on stdout: {command:?}");
    assert_eq!(said.matches("outcrop: ").count() + said.matches("error: ").count(), 1, "it is said once: {said}");
    said
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn wait_until(what: &str, mut predicate: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !predicate() {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited a minute for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process that has ended may be there as a zombie until its parent looks.
fn is_running(pid: i32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// Whether this machine mounts; a user is told what is skipped, CI fails.
fn can_mount() -> bool {
    let can = rustix::process::geteuid().is_root() && fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    assert!(can || std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI must be able to mount");
    if !can {
        eprintln!("SKIPPED: it takes root and /dev/fuse to mount");
    }
    can
}

#[test]
fn usage_and_failure_have_their_codes() {
    let place = Place::new();
    assert!(fails(2, outcrop().args(["volume", "list"])).contains("OUTCROP_STORE"));
    assert!(fails(2, place.outcrop().args(["snapshot", "create", "monday"])).contains("--all"));
    fails(2, place.outcrop().args(["snapshot", "create", "--all", "v", "monday"]));
    fails(2, place.outcrop().args(["volume", "create", "v", "--size", "-1"]));
    fails(2, outcrop().args(["mount", "-o", "colour=blue", "/nowhere/store", "/nowhere/mount"]));
    assert!(fails(1, place.outcrop().args(["volume", "list"])).contains(place.store.to_str().unwrap()));
    assert!(!place.store.exists(), "asking makes nothing");
    assert!(fails(1, outcrop().arg("umount").arg(place.dir.path())).contains("neither a mount point nor a store"));
}

#[test]
fn a_volume_shrinks_only_when_that_is_meant() {
    let place = Place::new();
    ok(place.outcrop().args(["volume", "create", "v", "--size", "2M"]));
    let said = fails(1, place.outcrop().args(["volume", "resize", "v", "1M"]));
    assert!(said.contains("2097152") && said.contains("--shrink"), "{said}");
    assert_eq!(place.json(&["volume", "show", "v"])["size"], 2 << 20);
    ok(place.outcrop().args(["volume", "resize", "v", "1M", "--shrink"]));
    assert_eq!(place.json(&["volume", "resize", "v", "3M"])["size"], 3 << 20);
}

#[test]
fn snapshots_and_labels_are_told() {
    let place = Place::new();
    for name in ["a", "b"] {
        ok(place.outcrop().args(["volume", "create", name, "--size", "1M"]));
    }
    ok(place.outcrop().args(["snapshot", "create", "--all", "monday", "--label", "k=v", "--label", "why=a=b"]));
    ok(place.outcrop().args(["snapshot", "create", "a", "alone"]));
    let list = place.json(&["snapshot", "list", "a"]);
    let names: Vec<_> = list.as_array().unwrap().iter().map(|each| each["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["monday", "alone"]);
    assert_eq!(list[0]["labels"], serde_json::json!({"k": "v", "why": "a=b"}));
    assert_eq!(place.json(&["snapshot", "list"]).as_array().unwrap().len(), 3);
    ok(place.outcrop().args(["volume", "delete", "a"]));
    assert_eq!(place.json(&["volume", "show", "a"])["state"], "deleted");
    ok(place.outcrop().args(["volume", "delete", "a", "--snapshots"]));
    fails(1, place.outcrop().args(["volume", "show", "a"]));
}

#[test]
fn a_diff_tells_what_changed() {
    let place = Place::new();
    ok(place.outcrop().args(["volume", "create", "v", "--size", "1M"]));
    ok(place.outcrop().args(["snapshot", "create", "v", "before"]));
    ok(place.outcrop().args(["volume", "resize", "v", "2M"]));
    let diff = place.json(&["snapshot", "diff", "v", "before"]);
    assert_eq!(diff, serde_json::json!({"size_a": 1 << 20, "size_b": 2 << 20, "bytes": 0, "ranges": []}));
    assert!(ok(place.outcrop().args(["snapshot", "diff", "v", "before"])).contains("0 B in 0 ranges"));
    assert!(fails(1, place.outcrop().args(["snapshot", "diff", "v", "none"])).contains("none/v"));
}

#[test]
fn a_path_in_the_mount_says_store_and_volume() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.mount();
    let there = |arguments: &[&str]| {
        let mut command = outcrop();
        command.args(arguments).current_dir(&place.mount);
        command
    };
    ok(&mut there(&["volume", "create", "db", "--size", "1M"]));
    assert!(ok(&mut there(&["volume", "show", "db"])).contains("1.0 MiB"));
    ok(&mut there(&["volume", "resize", "./db", "2M"]));
    assert_eq!(fs::metadata(place.mount.join("db")).unwrap().len(), 2 << 20, "the kernel was told");
    ok(outcrop().args(["volume", "rename"]).arg(place.mount.join("db")).arg("wal"));
    assert!(place.mount.join("wal").exists() && !place.mount.join("db").exists());
    ok(outcrop().args(["flush", "mount"]).current_dir(place.mount.parent().unwrap()));
    ok(outcrop().arg("flush").arg(place.mount.join("wal")));
    ok(&mut there(&["flush", "."]));
    fails(2, outcrop().args(["volume", "show"]).arg(&place.mount));
    fails(1, outcrop().args(["volume", "show", "/etc/passwd"]));
    let other = Place::new();
    fails(2, other.outcrop().args(["volume", "show"]).arg(place.mount.join("wal")));
}

#[test]
fn odd_and_long_paths_work() {
    if !can_mount() {
        return;
    }
    let long = "a-long-name-for-a-store,allow_other,ro-".repeat(5);
    let mut odd = OsString::from("odd \\ #,").into_vec();
    odd.push(0xff);
    for name in [OsString::from(long), OsString::from_vec(odd)] {
        let place = Place::named(name, "mount point".into());
        place.mount();
        fs::write(place.mount.join("v"), b"content").unwrap();
        assert_eq!(place.json(&["volume", "list"])[0]["name"], "v");
        let listed = ok(outcrop().args(["volume", "list", "--store"]).arg(&place.mount));
        assert!(listed.contains('v'), "{listed}");
        ok(outcrop().arg("umount").arg(&place.store));
        assert!(!place.is_mounted());
    }
}

#[test]
fn the_mount_of_a_killed_daemon_is_taken_away_and_no_other() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.mount();
    fs::write(place.mount.join("v"), b"content").unwrap();
    let pid = place.pid();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    wait_until("the mount to be dead", || fs::read_dir(&place.mount).is_err());
    // The store is free again, though its old socket is still there.
    assert_eq!(place.json(&["volume", "list"])[0]["size"], 7);
    assert!(place.is_mounted());
    ok(outcrop().arg("umount").arg(&place.mount));
    assert!(!place.is_mounted());
    fails(1, outcrop().arg("umount").arg(&place.mount));

    ok(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&place.mount));
    let said = fails(1, outcrop().args(["umount", "--force"]).arg(&place.mount));
    assert!(said.contains("tmpfs"), "{said}");
    rustix::mount::unmount(&place.mount, UnmountFlags::empty()).unwrap();
    // And mounting replaces a dead one.
    place.mount();
    kill_process(Pid::from_raw(place.pid()).unwrap(), Signal::KILL).unwrap();
    wait_until("the mount to be dead", || fs::read_dir(&place.mount).is_err());
    place.mount();
    assert_eq!(fs::read(place.mount.join("v")).unwrap(), b"content");
}

#[test]
fn a_mount_that_fails_says_why_and_leaves_nothing() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.mount();
    let second = place.dir.path().join("second");
    let said = fails(3, outcrop().arg("mount").arg(&place.store).arg(&second));
    assert!(said.contains(&place.pid().to_string()) && said.contains(place.mount.to_str().unwrap()), "{said}");
    assert!(!second.exists(), "no mount point was made");
    let said = fails(3, place.outcrop().args(["doctor", "--rebuild-catalog"]));
    assert!(said.contains("umount"), "{said}");
    let full = place.dir.path().join("full");
    fs::create_dir_all(full.join("x")).unwrap();
    let other = Place::new();
    assert!(fails(1, outcrop().arg("mount").arg(&other.store).arg(&full)).contains("not empty"));
    assert!(fails(1, outcrop().arg("mount").arg(&other.store).arg(&place.mount)).contains(place.store.to_str().unwrap()));
    assert!(fails(1, outcrop().arg("mount").arg(&other.store).arg(other.store.join("mount"))).contains("one inside the other"));
    assert!(!other.store.exists(), "no store was made");
    ok(other.outcrop().args(["volume", "create", "v", "--size", "1M"]));
}

#[test]
fn a_mount_in_use_is_refused_and_force_lets_its_users_finish() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.mount();
    let pid = place.pid();
    let file = fs::File::create(place.mount.join("v")).unwrap();
    let bind = place.dir.path().join("bind");
    fs::create_dir(&bind).unwrap();
    ok(Command::new("mount").arg("--bind").arg(&place.mount).arg(&bind));
    let said = fails(1, outcrop().args(["umount", "--force"]).arg(&bind));
    assert!(said.contains("bind mount") && place.is_mounted(), "{said}");
    ok(Command::new("umount").arg(&bind));
    let said = fails(3, outcrop().arg("umount").arg(&place.mount));
    assert!(said.contains(&std::process::id().to_string()) && said.contains("--force"), "{said}");
    ok(outcrop().args(["umount", "--force"]).arg(&place.mount));
    assert!(!place.is_mounted());
    std::os::unix::fs::FileExt::write_all_at(&file, b"after", 0).unwrap();
    assert_eq!(place.json(&["status"])["mount"]["pid"], pid, "the daemon goes on");
    drop(file);
    wait_until("the daemon to end", || !is_running(pid));
    assert_eq!(place.json(&["volume", "list"])[0]["size"], 5);
}

#[test]
fn mount_and_umount_call_it_by_other_names() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let helper = |name: &str| {
        let mut command = outcrop();
        command.arg0(format!("/sbin/{name}"));
        command
    };
    ok(helper("mount.outcrop").arg(&place.store).arg(&place.mount).arg("-f"));
    assert!(!place.store.exists(), "-f mounts nothing");
    fails(32, helper("mount.outcrop").arg(&place.store));
    ok(helper("mount.outcrop").arg(&place.store).arg(&place.mount).args([
        "-n",
        "-o",
        "rw,nofail,x-systemd.requires=a,_netdev,noatime",
    ]));
    fs::write(place.mount.join("v"), b"content").unwrap();
    let file = fs::File::open(place.mount.join("v")).unwrap();
    fails(32, helper("umount.fuse.outcrop").arg(&place.mount));
    drop(file);
    let pid = place.pid();
    ok(helper("umount.fuse.outcrop").arg(&place.mount).args(["-t", "fuse.outcrop"]));
    assert!(!place.is_mounted() && !is_running(pid), "it returns when all is done");
}

#[test]
fn an_import_can_be_interrupted() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.mount();
    // Large, so that it is not over at once; sparse, so that it costs nothing.
    let file = place.dir.path().join("large");
    fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
    let import = place.outcrop().args(["image", "import", "i"]).arg(&file).spawn().unwrap();
    let pid = Pid::from_raw(import.id().cast_signed()).unwrap();
    // Its layer appears when it has begun.
    let layers = place.store.join("layers");
    wait_until("the import to begin", || fs::read_dir(&layers).is_ok_and(|entries| entries.count() > 0));
    kill_process(pid, Signal::INT).unwrap();
    let status = import.wait_with_output().unwrap().status;
    assert_eq!(status.code(), Some(130), "{status}");
    wait_until("what was begun to be gone", || fs::read_dir(&layers).unwrap().count() == 0);
    assert_eq!(place.json(&["image", "list"]), Value::Array(Vec::new()));
    ok(outcrop().arg("umount").arg(&place.mount));
}

/// A script that holds a lock while it mounts would otherwise have it held for ever.
#[test]
fn the_daemon_holds_none_of_its_callers_files() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let held = place.dir.path().join("held");
    let script = "exec 7>\"$4\"; exec \"$1\" mount \"$2\" \"$3\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh", env!("CARGO_BIN_EXE_outcrop")]).args([&place.store, &place.mount, &held]);
    ok(&mut shell);
    let descriptors = fs::read_dir(format!("/proc/{}/fd", place.pid())).unwrap();
    let files: Vec<_> = descriptors.filter_map(|each| fs::read_link(each.unwrap().path()).ok()).collect();
    assert!(files.iter().any(|file| file.starts_with(&place.store)), "{files:?}");
    assert!(!files.contains(&held.canonicalize().unwrap()), "{files:?}");
}

#[test]
fn the_background_log_is_in_the_store() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.mount();
    let status = place.json(&["status"]);
    ok(outcrop().arg("umount").arg(&place.mount));
    let log = fs::read_to_string(status["mount"]["log"].as_str().unwrap()).unwrap();
    assert!(log.contains("the mount answers") && log.contains("the store is closed"), "{log}");
    let found = ok(place.outcrop().args(["doctor"]));
    // A disk that is nearly full is told, rightly.
    let findings: Vec<&str> = found
        .lines()
        .filter(|line| line.starts_with("warning") || line.starts_with("error"))
        .filter(|line| !line.contains(" space "))
        .collect();
    assert!(findings.is_empty() && found.contains("0 errors"), "the log and its like are no finding: {found}");
}
