//! Mounts by unprivileged users: fusermount3 (setuid root) makes them and passes the descriptor through a socket.

use super::MountError;
use super::system::{SUBTYPE, Unmounted, words};
use crate::MountOptions;
use rustix::mount::MountFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair,
};
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

const PROGRAM: &str = "fusermount3";
const NOT_INSTALLED: &str = "it is not installed: install package fuse3, or mount as root";

/// Mounts on `path`; gives the descriptor that requests come from.
pub(super) fn mount(path: &Path, source: &OsStr, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let io = |error: io::Error| MountError::io("mounting", path, error);
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(|error| io(error.into()))?;
    let mut child = command()
        .arg("-o")
        .arg(option_list(source, options))
        .arg("--")
        .arg(path)
        // The socket is its standard input, so that no descriptor has to leak into other children.
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| not_started("mounting", path, error))?;
    let received = receive(&ours);
    let mut message = String::new();
    if let Some(stderr) = &mut child.stderr {
        // What can't be read is missing from the message, no more.
        let _ = stderr.read_to_string(&mut message);
    }
    let status = child.wait().map_err(io)?;
    match received {
        Ok(Some(device)) if status.success() => Ok(device),
        Err(error) if status.success() => Err(io(error)),
        _ => Err(failed("mounting on", path, &message)),
    }
}

/// Unmounts, or detaches.
pub(super) fn unmount(path: &Path, detach: bool) -> Result<Unmounted, MountError> {
    let mut command = command();
    command.arg("-u");
    if detach {
        command.arg("-z");
    }
    let Output { status, stderr, .. } =
        command.arg("--").arg(path).stdin(Stdio::null()).output().map_err(|error| not_started("unmounting", path, error))?;
    let message = String::from_utf8_lossy(&stderr);
    if status.success() {
        Ok(Unmounted::Done)
    } else if message.contains("busy") {
        Ok(Unmounted::Busy)
    } else if message.contains("not found in") || message.contains("not mounted") {
        Ok(Unmounted::Done)
    } else {
        Err(failed("unmounting", path, &message))
    }
}

fn command() -> Command {
    let mut command = Command::new(PROGRAM);
    // Its messages are looked at.
    command.env("LC_ALL", "C");
    command
}

fn not_started(attempt: &'static str, path: &Path, error: io::Error) -> MountError {
    let message = if error.kind() == io::ErrorKind::NotFound { NOT_INSTALLED.to_owned() } else { error.to_string() };
    MountError::Fusermount { attempt, path: path.to_owned(), message }
}

fn failed(attempt: &'static str, path: &Path, message: &str) -> MountError {
    let message = message.trim();
    let message = if message.is_empty() { "it failed without a word" } else { message };
    MountError::Fusermount { attempt, path: path.to_owned(), message: message.to_owned() }
}

/// The descriptor that came through the socket; none if the other end closed it first.
fn receive(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(descriptor)
}

/// The options as fusermount3 takes them: commas and backslashes of the source get a backslash, or they would begin another option.
fn option_list(source: &OsStr, options: &MountOptions) -> OsString {
    let mut list = b"fsname=".to_vec();
    for byte in source.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            list.push(b'\\');
        }
        list.push(*byte);
    }
    list.extend(format!(",subtype={SUBTYPE}").bytes());
    let flags = [
        (MountFlags::NOEXEC, "noexec"),
        (MountFlags::NOATIME, "noatime"),
        (MountFlags::SYNCHRONOUS, "sync"),
        (MountFlags::DIRSYNC, "dirsync"),
    ];
    let flags = flags.iter().filter(|(flag, _)| options.flags.contains(*flag)).map(|(_, word)| *word);
    for word in words(options, false).into_iter().chain(options.read_only.then_some("ro")).chain(flags) {
        list.push(b',');
        list.extend(word.bytes());
    }
    OsString::from_vec(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_the_source_adds_no_option() {
        let options = MountOptions { read_only: true, ..MountOptions::default() };
        let list = option_list(OsStr::new(r"a,allow_other\,dev"), &options);
        assert_eq!(list, OsStr::new(r"fsname=a\,allow_other\\\,dev,subtype=outcrop,default_permissions,ro"));
    }
}
