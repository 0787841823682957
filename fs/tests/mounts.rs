//! Making a mount and taking it away.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod support;

use outcrop_fs::{Holder, Mount, MountError, MountOptions, UnmountMode};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Loop, Mounted, can_mount, has, open_store, options, run};

fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

#[test]
fn unmounted_it_is_gone_and_everything_is_in_the_store() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    mounted.write("v", b"content");
    mounted.mount.unmount(UnmountMode::Normal).unwrap();
    assert!(mounted.mount.is_ended());
    mounted.mount.wait();
    assert!(!is_mounted(mounted.mount.path()));
    assert_eq!(fs::read_dir(mounted.mount.path()).unwrap().count(), 0);
    mounted.mount.unmount(UnmountMode::Normal).unwrap();
    mounted.mount.unmount(UnmountMode::Force).unwrap();
    let again = Mount::new(mounted.store.clone(), mounted.mount.path(), &options("")).unwrap();
    assert_eq!(fs::read(mounted.path("v")).unwrap(), b"content");
    again.unmount(UnmountMode::Normal).unwrap();
}

#[test]
fn a_mount_in_use_names_its_holders_and_goes_on() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let path = mounted.write("v", b"held");
    let file = File::open(&path).unwrap();
    let mut sleeper = Command::new("sleep").arg("1000").current_dir(mounted.mount.path()).stdin(Stdio::null()).spawn().unwrap();
    let Err(MountError::Busy { holders, .. }) = mounted.mount.unmount(UnmountMode::Normal) else { panic!("not refused") };
    let pids: Vec<u32> =
        holders.iter().filter_map(|h| if let Holder::Process { pid, .. } = h { Some(*pid) } else { None }).collect();
    assert!(pids.contains(&std::process::id()) && pids.contains(&sleeper.id()), "{holders:?}");
    let text = holders.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(text.contains("(sleep") && text.contains(path.to_str().unwrap()), "{text}");
    assert_eq!(fs::read(&path).unwrap(), b"held", "it goes on serving");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    drop(file);
    mounted.mount.unmount(UnmountMode::Normal).unwrap();
}

#[test]
fn the_daemons_own_threads_are_refused_and_others_are_served() {
    if !can_mount() {
        return;
    }
    let before = Mounted::new();
    let path = before.write("v", b"content");
    before.mount.unmount(UnmountMode::Normal).unwrap();
    let options = MountOptions { refuse_own: true, ..options("") };
    let mount = Mount::new(before.store.clone(), before.mount.path(), &options).unwrap();
    let refused = |result: std::io::Result<()>| assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EDEADLK));
    // Once unknown to the kernel, and once known, as others were served.
    for _ in 0..2 {
        refused(fs::metadata(&path).map(drop));
        refused(File::open(&path).map(drop));
        refused(File::create(mount.path().join("new")).map(drop));
        refused(fs::read_dir(mount.path()).map(drop));
        refused(rustix::fs::statvfs(mount.path()).map(drop).map_err(Into::into));
        refused(std::thread::scope(|scope| scope.spawn(|| File::open(&path).map(drop)).join().unwrap()));
        run("cmp", &["-n", "7", path.to_str().unwrap(), path.to_str().unwrap()]);
        run("ls", &["-l", mount.path().to_str().unwrap()]);
        run("df", &[mount.path().to_str().unwrap()]);
    }
    mount.unmount(UnmountMode::Normal).unwrap();
}

#[test]
fn a_loop_device_is_named_with_where_it_is_mounted() {
    if !can_mount() || !has("losetup") || !has("mkfs.ext4") {
        return;
    }
    let mounted = Mounted::new();
    let path = mounted.write("disk", b"");
    File::options().write(true).open(&path).unwrap().set_len(32 << 20).unwrap();
    let device = Loop::over(&path);
    run("mkfs.ext4", &["-q", &device.0]);
    let point = mounted.dir.path().join("inner");
    fs::create_dir(&point).unwrap();
    run("mount", &[&device.0, point.to_str().unwrap()]);
    fs::write(point.join("file"), "inside").unwrap();
    let result = mounted.mount.unmount(UnmountMode::Normal);
    run("umount", &[point.to_str().unwrap()]);
    let Err(MountError::Busy { holders, .. }) = result else { panic!("not refused") };
    let expected = Holder::Loop { device: device.0.clone().into(), file: path, mounted: vec![point.canonicalize().unwrap()] };
    assert!(holders.contains(&expected), "{holders:?}");
    run("e2fsck", &["-fn", &device.0]);
}

#[test]
fn force_frees_the_mount_point_and_serves_on_until_the_last_close() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let path = mounted.write("v", b"held");
    let file = File::options().read(true).write(true).open(&path).unwrap();
    mounted.mount.unmount(UnmountMode::Force).unwrap();
    assert!(!is_mounted(mounted.mount.path()));
    assert!(!mounted.mount.is_ended());
    use std::os::unix::fs::FileExt;
    file.write_all_at(b"more", 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    mounted.mount.wait();
    let again = Mount::new(mounted.store.clone(), mounted.mount.path(), &options("")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"more");
    drop(again);
    assert!(!is_mounted(mounted.mount.path()), "dropping detaches");
}

#[test]
fn a_bind_mount_is_a_holder_and_is_named() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let path = mounted.write("v", b"bound");
    let bound = mounted.dir.path().join("bound");
    fs::create_dir(&bound).unwrap();
    run("mount", &["--bind", mounted.mount.path().to_str().unwrap(), bound.to_str().unwrap()]);
    let result = mounted.mount.unmount(UnmountMode::Normal);
    let still_there = fs::read(&path);
    run("umount", &[bound.to_str().unwrap()]);
    let Err(MountError::Busy { holders, .. }) = result else { panic!("not refused") };
    assert_eq!(holders, [Holder::Mount { path: bound }]);
    assert_eq!(still_there.unwrap(), b"bound");
    mounted.mount.unmount(UnmountMode::Normal).unwrap();
}

#[test]
fn wait_returns_when_somebody_else_unmounts() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| mounted.mount.wait());
        run("umount", &[mounted.mount.path().to_str().unwrap()]);
        waits.join().unwrap();
    });
    assert!(mounted.mount.is_ended());
}

#[test]
fn a_second_mount_on_the_same_point_is_refused() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let Err(error) = Mount::new(mounted.store.clone(), mounted.mount.path(), &options("")) else { panic!("not refused") };
    assert!(matches!(error, MountError::AlreadyMounted { .. }), "{error}");
    assert!(error.to_string().contains("fuse.outcrop"), "{error}");
}

#[test]
fn what_mount_shows_is_what_was_asked_for() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::with(r"fsname=a b\,allow_other\,dev,noexec,noallow_other");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.split(' ').nth(4) == mounted.mount.path().to_str()).unwrap();
    assert!(line.contains(r" - fuse.outcrop a\040b,allow_other,dev rw,"), "{line}");
    for word in ["nosuid", "nodev", "noexec", "default_permissions"] {
        assert!(line.contains(word), "{word}: {line}");
    }
    let shown = line.rsplit(' ').next().unwrap();
    assert!(!shown.split(',').any(|word| word == "allow_other"), "{line}");
}

/// Not a test: the daemon that the next one kills.
#[test]
#[ignore = "run by another test"]
fn child_that_mounts() {
    let Ok(dir) = std::env::var("OUTCROP_TEST_CHILD") else { return };
    let dir = Path::new(&dir);
    let mount = Mount::new(open_store(&dir.join("store")), &dir.join("mnt"), &options("")).unwrap();
    fs::write(dir.join("ready"), "").unwrap();
    mount.wait();
}

#[test]
fn a_dead_mount_of_a_killed_daemon_is_replaced() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::Builder::new().prefix("outcrop-fs-").tempdir().unwrap();
    let point = dir.path().join("mnt");
    fs::create_dir(&point).unwrap();
    fs::create_dir(dir.path().join("store")).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_mounts", "--ignored"])
        .env("OUTCROP_TEST_CHILD", dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while !dir.path().join("ready").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the child ended early");
        std::thread::yield_now();
    }
    fs::write(point.join("v"), "acknowledged").unwrap();
    let held = File::open(point.join("v")).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(fs::read_dir(&point).is_err(), "it is dead");
    let store = open_store(&dir.path().join("store"));
    let mount = Mount::new(store.clone(), &point, &options("")).unwrap();
    assert_eq!(fs::read(point.join("v")).unwrap(), b"acknowledged");
    drop(held);
    mount.unmount(UnmountMode::Normal).unwrap();
    store.close().unwrap();
    assert!(!is_mounted(&point), "nothing is left of the dead one either");
}
