//! The control socket: how the command line reaches the daemon that has a store.
//!
//! `<store>/control.sock`, for the daemon's user and root only. HTTP/1.1: `POST /v1/operation` with a
//! [`Request`](crate::operations::Request) in JSON answers [`Line`](crate::operations::Line)s, one JSON value a
//! line, the last of which is `ok` or `error`. Closing the connection cancels an import.
//!
//! A killed daemon leaves its socket behind; nobody answers on it then, and whoever has the store's lock may
//! replace it.

pub mod client;
pub mod server;

use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The socket's name in the store.
pub const SOCKET: &str = "control.sock";

/// The route of all operations.
pub const ROUTE: &str = "/v1/operation";

/// A store's socket, by a path that is always short enough: a socket's path may have 107 bytes, a store's more.
struct SocketPath {
    directory: OwnedFd,
}

impl SocketPath {
    fn of(store: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { directory: rustix::fs::open(store, flags, Mode::empty())? })
    }

    /// Valid as long as `self` lives.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", self.directory.as_raw_fd()))
    }
}
