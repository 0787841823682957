//! Mounting and unmounting: in the background, through mount(8), while in use, by signals, without root.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::scratch::is_mounted;
use outcrop_tests::{
    FileSystem, LoopMount, Scratch, TestStore, assert_same_bytes, fails, outcrop, require_loop, require_mount, run, wait_until,
};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Unmounts at the end, whatever happens.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        if is_mounted(&self.0) {
            let _ = outcrop().args(["umount", "--force"]).arg(&self.0).output();
            let _ = Command::new("umount").arg("-l").arg(&self.0).output();
        }
    }
}

#[test]
fn mount_goes_to_the_background_once_it_is_usable() {
    require_mount!();
    let scratch = Scratch::new("background");
    let (store, mount) = (scratch.join("deep/store"), scratch.join("deep/mount"));
    let _unmount = Unmount(mount.clone());
    // Both directories are made. The command's own output ends with it: nothing holds the pipe.
    run(outcrop().arg("mount").arg(&store).arg(&mount));
    fs::write(mount.join("v"), b"usable").unwrap();
    let status = run(outcrop().args(["status", "--json", "--store"]).arg(&store));
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let pid = status["mount"]["pid"].as_u64().unwrap_or_else(|| panic!("status tells the pid: {status}"));
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    run(outcrop().arg("umount").arg(&mount));
    assert!(!is_mounted(&mount));
    wait_until("the daemon to be gone", || !Path::new(&format!("/proc/{pid}")).exists());
    let log = PathBuf::from(status["mount"]["log"].as_str().unwrap_or_else(|| panic!("status tells the log: {status}")));
    assert!(log.is_file() && log.starts_with(&store), "its log is in the store: {}", log.display());
    run(outcrop().arg("mount").arg(&store).arg(&mount));
    assert_eq!(fs::read(mount.join("v")).unwrap(), b"usable");
    run(outcrop().arg("umount").arg(&mount));
    assert!(fails(outcrop().arg("umount").arg(&mount)).contains("mount"), "twice is refused");
}

#[test]
fn umount_in_use_names_the_holders_and_goes_on_serving() {
    require_loop!("mkfs.ext4");
    let store = TestStore::mounted("in-use");
    File::create_new(store.file("disk")).unwrap().set_len(64 << 20).unwrap();
    FileSystem::Ext4.make(&store.file("disk"));
    let mounted = LoopMount::new(&store.file("disk"), "");
    fs::write(mounted.join("f"), b"before").unwrap();

    let refused = fails(outcrop().arg("umount").arg(store.mount_point()));
    assert!(refused.contains(mounted.device().to_str().unwrap()), "the loop device is named: {refused}");
    assert!(is_mounted(store.mount_point()));
    fs::write(mounted.join("g"), vec![7; 5 << 20]).unwrap();
    run(Command::new("sync").arg("-f").arg(mounted.path()));
    fs::write(store.file("other"), b"still serving").unwrap();
    mounted.umount();

    // An open file, of this process.
    let open = File::open(store.file("other")).unwrap();
    let refused = fails(outcrop().arg("umount").arg(store.mount_point()));
    assert!(refused.contains(&std::process::id().to_string()), "the process is named: {refused}");
    drop(open);
    store.umount();
    store.mount();
    let mounted = LoopMount::new(&store.file("disk"), "");
    assert_eq!(fs::read(mounted.join("f")).unwrap(), b"before");
    assert_same_bytes(&fs::read(mounted.join("g")).unwrap(), &vec![7; 5 << 20], "written while refused");
    mounted.umount();
    store.check();
}

#[test]
fn force_detaches_and_what_is_open_goes_on() {
    require_mount!();
    let store = TestStore::mounted("force");
    let file = File::options().read(true).write(true).create_new(true).open(store.file("v")).unwrap();
    file.write_all_at(b"before", 0).unwrap();
    run(outcrop().args(["umount", "--force"]).arg(store.mount_point()));
    assert!(!is_mounted(store.mount_point()));
    file.write_all_at(b"after!", 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let status = store.wait_for_end();
    assert!(status.success(), "{status}");
    store.mount();
    assert_eq!(fs::read(store.file("v")).unwrap(), b"after!");
}

#[test]
fn sigterm_and_sigint_unmount_cleanly() {
    require_mount!();
    let store = TestStore::mounted("signals");
    for signal in [Signal::TERM, Signal::INT] {
        fs::write(store.file("v"), format!("{signal:?}")).unwrap();
        let pid = Pid::from_raw(store.pid().unwrap().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
        let status = store.wait_for_end();
        assert!(status.success(), "{signal:?}: {status}\n{}", store.log());
        assert!(!is_mounted(store.mount_point()));
        store.mount();
        assert_eq!(fs::read_to_string(store.file("v")).unwrap(), format!("{signal:?}"));
    }
}

#[test]
fn sigterm_in_use_loses_nothing_and_ends_when_the_holder_lets_go() {
    require_loop!("mkfs.ext4");
    let store = TestStore::mounted("sigterm-use");
    File::create_new(store.file("disk")).unwrap().set_len(64 << 20).unwrap();
    FileSystem::Ext4.make(&store.file("disk"));
    let mounted = LoopMount::new(&store.file("disk"), "");
    let device = mounted.device().to_str().unwrap().to_owned();
    let pid = Pid::from_raw(store.pid().unwrap().cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    wait_until("the holder to be named", || store.log().contains(&device));
    fs::write(mounted.join("late"), vec![3; 5 << 20]).unwrap();
    run(Command::new("sync").arg("-f").arg(mounted.path()));
    mounted.umount();
    let status = store.wait_for_end();
    assert!(status.success(), "{status}\n{}", store.log());
    store.mount();
    let mounted = LoopMount::new(&store.file("disk"), "");
    assert_same_bytes(&fs::read(mounted.join("late")).unwrap(), &vec![3; 5 << 20], "written after SIGTERM");
    mounted.umount();
    store.check();
}

#[test]
fn plain_umount_works_too() {
    require_mount!();
    let store = TestStore::mounted("plain");
    fs::write(store.file("v"), b"content").unwrap();
    run(Command::new("umount").arg(store.mount_point()));
    let status = store.wait_for_end();
    assert!(status.success(), "{status}\n{}", store.log());
    store.mount();
    assert_eq!(fs::read(store.file("v")).unwrap(), b"content");
}

#[test]
fn a_read_only_mount_refuses_writes() {
    require_mount!();
    let store = TestStore::new("ro").with(&["-o", "ro"]);
    store.run(["volume", "create", "v", "--size", "1M"]);
    store.mount();
    let refused = File::options().write(true).open(store.file("v")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    assert!(File::create(store.file("w")).is_err());
    assert_eq!(fs::read(store.file("v")).unwrap().len(), 1 << 20);
    store.umount();
}

/// `mount.outcrop` where mount(8) looks for it, for as long as this lives.
struct Helper(PathBuf);

impl Helper {
    fn install() -> Option<Self> {
        let path = PathBuf::from("/sbin/mount.outcrop");
        // A real one is somebody's: it is left alone.
        std::os::unix::fs::symlink(outcrop_tests::program::path(), &path).ok().map(|()| Self(path))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn mount_8_and_fstab_work_through_the_helper() {
    require_loop!("mkfs.ext4");
    let Some(_helper) = Helper::install() else {
        eprintln!("SKIPPED: /sbin/mount.outcrop exists or can't be made");
        return;
    };
    let scratch = Scratch::new("fstab");
    let (store, mount, inner) = (scratch.join("store"), scratch.directory("mount"), scratch.directory("inner"));
    let _unmount = Unmount(mount.clone());
    run(Command::new("mount").args(["-t", "outcrop"]).arg(&store).arg(&mount));
    assert!(is_mounted(&mount));
    File::create_new(mount.join("db")).unwrap().set_len(64 << 20).unwrap();
    FileSystem::Ext4.make(&mount.join("db"));
    run(outcrop().arg("umount").arg(&mount));

    // The README's two lines.
    let fstab = scratch.join("fstab");
    let lines = format!(
        "{} {} outcrop defaults 0 0\n{} {} ext4 loop,x-systemd.requires-mounts-for={} 0 0\n",
        store.display(),
        mount.display(),
        mount.join("db").display(),
        inner.display(),
        mount.display()
    );
    fs::write(&fstab, lines).unwrap();
    run(Command::new("mount").arg("-a").arg("-T").arg(&fstab));
    let _inner = UnmountPlain(inner.clone());
    fs::write(inner.join("hello"), b"from fstab").unwrap();
    run(Command::new("mount").arg("-a").arg("-T").arg(&fstab));
    run(Command::new("umount").arg(&inner));
    wait_until("the loop device to let go", || outcrop().arg("umount").arg(&mount).output().unwrap().status.success());
    run(Command::new("mount").arg("-T").arg(&fstab).arg(&mount));
    run(Command::new("mount").arg("-T").arg(&fstab).arg(&inner));
    assert_eq!(fs::read(inner.join("hello")).unwrap(), b"from fstab");
}

struct UnmountPlain(PathBuf);

impl Drop for UnmountPlain {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

/// In a mount namespace whose `/dev/fuse` everybody may open, as distributions have it.
const WITHOUT_ROOT: &str = r#"
cd /
mount -t tmpfs tmpfs /dev
for node in fuse:10:229 null:1:3 zero:1:5 urandom:1:9; do
  IFS=: read -r name major minor <<<"$node"
  mknod -m 666 "/dev/$name" c "$major" "$minor"
done
nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/nonexistent "$@"; }
nobody "$1/outcrop" mount "$1/store" "$1/mount" 2>"$1/said"
trap 'umount -l "$1/mount" 2>/dev/null || true' EXIT
grep -q root "$1/said" # what root can't do with it is told
nobody sh -c 'echo mine >"$1/mount/v"; mkdir "$1/mount/.snapshots/s"; cat "$1/mount/.snapshots/s/v"' sh "$1"
if ls "$1/mount" 2>/dev/null; then echo "root sees into it"; fi
nobody "$1/outcrop" volume list --json --store "$1/mount" | grep -q '"v"'
nobody "$1/outcrop" umount "$1/mount"
! grep -q " $1/mount " /proc/self/mountinfo
"#;

#[test]
fn a_mount_without_root_is_for_its_owner_and_says_what_it_lacks() {
    require_mount!("setpriv", "unshare", "fusermount3");
    let scratch = Scratch::new("nobody");
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // The program may lie where nobody may go.
    fs::copy(outcrop_tests::program::path(), scratch.join("outcrop")).unwrap();
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--propagation", "private", "bash", "-euo", "pipefail", "-c", WITHOUT_ROOT, "sh"]);
    assert_eq!(run(shell.arg(scratch.path())), "mine\n");
}
