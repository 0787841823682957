//! Making and taking away a mount: by the system's calls as root, by fusermount3 for others.

use super::{MountError, fusermount};
use crate::MountOptions;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::{CString, OsStr};
use std::fmt::Write;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// The type that the mount shows, and that mount(8) finds `mount.outcrop` by.
pub(super) const SUBTYPE: &str = "outcrop";

/// Whether this process mounts by itself.
pub(super) fn privileged() -> bool {
    rustix::process::geteuid().is_root()
}

/// Mounts on `path`; gives the descriptor that requests come from.
pub(super) fn mount(path: &Path, source: &OsStr, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let device = open_device()?;
    if !privileged() {
        drop(device);
        return fusermount::mount(path, source, options);
    }
    let io = |error: Errno| MountError::io("mounting", path, error);
    let mode = rustix::fs::stat(path).map_err(io)?.st_mode & libc::S_IFMT;
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let mut data = format!("fd={},rootmode={mode:o},user_id={uid},group_id={gid}", device.as_raw_fd());
    for word in words(options, true) {
        // Writing to a string does not fail.
        let _ = write!(data, ",{word}");
    }
    let data = CString::new(data).map_err(|_| io(Errno::INVAL))?;
    // The source is an argument of its own: no comma in it can add an option.
    match rustix::mount::mount(source, path, format!("fuse.{SUBTYPE}"), kernel_flags(options), data.as_c_str()) {
        Ok(()) => Ok(device),
        Err(error) => Err(refused(path, error)),
    }
}

fn refused(path: &Path, error: Errno) -> MountError {
    let hint = match error {
        Errno::PERM | Errno::ACCESS => "root needs CAP_SYS_ADMIN for it (in a container, pass --cap-add SYS_ADMIN)",
        Errno::NODEV => "the kernel knows no FUSE file systems: load the module with 'modprobe fuse'",
        _ => return MountError::io("mounting", path, error),
    };
    MountError::Refused { path: path.to_owned(), hint, source: error.into() }
}

/// The flags for mount(2).
fn kernel_flags(options: &MountOptions) -> MountFlags {
    let mut flags = options.flags;
    flags.set(MountFlags::RDONLY, options.read_only);
    flags
}

/// FUSE's own options that are on.
pub(super) fn words(options: &MountOptions, privileged: bool) -> Vec<&'static str> {
    let mut words = Vec::new();
    if options.default_permissions.unwrap_or(true) {
        words.push("default_permissions");
    }
    if options.allow_other.unwrap_or(privileged) {
        words.push("allow_other");
    }
    words
}

fn open_device() -> Result<OwnedFd, MountError> {
    rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|error| {
        let hint = match error {
            Errno::NOENT => "load the kernel's module with 'modprobe fuse' and install package fuse3 (in a container, pass --device /dev/fuse)",
            Errno::NODEV | Errno::NXIO => "the kernel's module is not there: load it with 'modprobe fuse'",
            Errno::ACCESS | Errno::PERM => "it is not permitted: check the mode of /dev/fuse, or run as root (in a container, pass --device /dev/fuse and --cap-add SYS_ADMIN)",
            _ => "check that the kernel has FUSE ('modprobe fuse') and that package fuse3 is installed",
        };
        MountError::NoFuse { hint, source: error.into() }
    })
}

/// What came out of an unmount.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unmounted {
    Done,
    Busy,
}

/// Unmounts `path`, unless somebody uses it.
pub(super) fn unmount(path: &Path) -> Result<Unmounted, MountError> {
    if !privileged() {
        return fusermount::unmount(path, false);
    }
    match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(Unmounted::Done),
        Err(Errno::BUSY) => Ok(Unmounted::Busy),
        // It is no mount point any more.
        Err(Errno::INVAL | Errno::NOENT) => Ok(Unmounted::Done),
        Err(error) => Err(MountError::io("unmounting", path, error)),
    }
}

/// Takes a mount out of sight, whoever uses it.
pub(super) fn detach(path: &Path) -> Result<(), MountError> {
    if !privileged() {
        return fusermount::unmount(path, true).map(drop);
    }
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(MountError::io("detaching", path, error)),
    }
}

/// Raises the read-ahead for buffered reads (snapshot files) from the kernel's 128 KiB. Only a matter of speed.
pub(super) fn raise_read_ahead(device: &str, bytes: u32) {
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = std::fs::write(&path, (bytes / 1024).to_string()) {
        tracing::debug!(path, %error, "the read-ahead stays as it is");
    }
}

/// An error of a thread that could not be started.
pub(super) fn no_thread(path: &Path) -> impl FnOnce(io::Error) -> MountError {
    move |error| MountError::io("starting a thread for", path, error)
}
