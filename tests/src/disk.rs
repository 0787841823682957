//! Loop devices: disks for stores that can be filled or lose power, and volumes with file systems in them.

use crate::run::{run, sh};
use crate::scratch::{Scratch, is_mounted};
use crate::wait_until;
use std::path::{Path, PathBuf};
use std::process::Command;

/// File systems that a disk or volume can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4.
    Ext4,
    /// xfs.
    Xfs,
}

impl FileSystem {
    /// Its name for mount(8).
    pub fn name(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "ext4",
            FileSystem::Xfs => "xfs",
        }
    }

    /// Makes it in `file`, quickly.
    #[track_caller]
    pub fn make(self, file: &Path) {
        match self {
            FileSystem::Ext4 => {
                run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1"]).arg(file))
            }
            FileSystem::Xfs => run(Command::new("mkfs.xfs").args(["-q", "-f"]).arg(file)),
        };
    }

    /// Mount options for a snapshot of it that was taken while it was mounted.
    pub fn snapshot_options(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "ro,noload",
            FileSystem::Xfs => "ro,norecovery,nouuid",
        }
    }
}

/// A loop device over a file; detached when dropped, once: its number may be somebody else's right after.
#[derive(Debug)]
struct LoopDevice(Option<PathBuf>);

impl LoopDevice {
    fn attach(file: &Path, arguments: &[&str]) -> Self {
        let mut device = String::new();
        // Between finding a free device and taking it, another may take it: losetup says busy.
        wait_until(&format!("a loop device for {}", file.display()), || {
            let output = Command::new("losetup").args(["-f", "--show"]).args(arguments).arg(file).output();
            let output = output.unwrap_or_else(|error| panic!("starting losetup: {error}"));
            device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() || said.contains("busy"), "losetup {}: {said}", file.display());
            output.status.success()
        });
        Self(Some(device.into()))
    }

    fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if let Some(device) = self.0.take() {
            let _ = Command::new("losetup").arg("-d").arg(device).output();
        }
    }
}

/// Unmounts when dropped; by force, and at once, if it must be.
#[derive(Debug)]
struct MountPoint(PathBuf);

impl Drop for MountPoint {
    fn drop(&mut self) {
        if !is_mounted(&self.0) {
            return;
        }
        let quiet = Command::new("umount").arg(&self.0).output();
        if !quiet.is_ok_and(|output| output.status.success()) {
            let _ = Command::new("umount").arg("-l").arg(&self.0).output();
        }
    }
}

/// A small disk for a store: a file system in a file, mounted.
#[derive(Debug)]
pub struct LoopDisk {
    // In the order in which they must go.
    mount: MountPoint,
    device: LoopDevice,
    _scratch: Scratch,
}

impl LoopDisk {
    /// Makes one of `mebibytes` (xfs wants at least 300).
    #[track_caller]
    pub fn new(kind: FileSystem, mebibytes: u64) -> Self {
        let scratch = Scratch::new(&format!("{}-disk", kind.name()));
        let file = scratch.join("disk.img");
        sh("truncate -s $1M \"$2\"", [mebibytes.to_string().as_ref(), file.as_os_str()]);
        kind.make(&file);
        let point = scratch.directory("mounted");
        let device = LoopDevice::attach(&file, &[]);
        run(Command::new("mount").args(["-t", kind.name()]).arg(device.path()).arg(&point));
        Self { mount: MountPoint(point), device, _scratch: scratch }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount.0
    }

    /// Bytes that an unprivileged process could still write.
    pub fn available(&self) -> u64 {
        let space = rustix::fs::statvfs(self.path()).unwrap_or_else(|error| panic!("statvfs: {error}"));
        space.f_bavail * space.f_frsize
    }

    /// The power fails: nothing that is not on the device gets there any more.
    #[track_caller]
    pub fn cut_power(&self) {
        crate::ioctl::cut_power(self.path()).unwrap_or_else(|error| panic!("shutting {} down: {error}", self.path().display()));
    }

    /// The power returns: mounts again, which replays the journal. Nobody may have files of it open.
    #[track_caller]
    pub fn restore_power(&self) {
        wait_until("the disk to be free for unmounting", || {
            Command::new("umount").arg(self.path()).output().is_ok_and(|output| output.status.success())
        });
        run(Command::new("mount").arg(self.device.path()).arg(self.path()));
    }
}

/// A volume's (or snapshot's) file system, mounted through a loop device.
#[derive(Debug)]
pub struct LoopMount {
    mount: MountPoint,
    device: LoopDevice,
    file: PathBuf,
    _scratch: Scratch,
}

impl LoopMount {
    /// Mounts the file system in `file` with `options` (`ro`, `noload`, …; may be empty).
    #[track_caller]
    pub fn new(file: &Path, options: &str) -> Self {
        Self::with_device(file, options, &[])
    }

    /// As [`LoopMount::new`], with arguments for losetup (`--direct-io=on`).
    #[track_caller]
    pub fn with_device(file: &Path, options: &str, losetup: &[&str]) -> Self {
        let scratch = Scratch::new("loop");
        let point = scratch.directory("mounted");
        let mut arguments = losetup.to_vec();
        if options.split(',').any(|option| option == "ro") {
            arguments.push("-r");
        }
        let device = LoopDevice::attach(file, &arguments);
        let mut mount = Command::new("mount");
        if !options.is_empty() {
            mount.args(["-o", options]);
        }
        run(mount.arg(device.path()).arg(&point));
        Self { mount: MountPoint(point), device, file: file.to_owned(), _scratch: scratch }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount.0
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The loop device.
    pub fn device(&self) -> &Path {
        self.device.path()
    }

    /// Unmounts and detaches, which must succeed: everything is in the volume on return.
    #[track_caller]
    pub fn umount(mut self) {
        run(Command::new("umount").arg(self.path()));
        let Some(device) = self.device.0.take() else { return };
        run(Command::new("losetup").arg("-d").arg(device));
        wait_until("the loop device to let go", || run(Command::new("losetup").arg("-j").arg(&self.file)).trim().is_empty());
    }
}
