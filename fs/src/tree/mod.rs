//! The tree that a mount shows, without a kernel: what a name means, what an inode is, what a handle can do.
//!
//! ```text
//! /                        the root: every live volume, a regular file each
//! /.snapshots              a directory for each snapshot name
//! /.snapshots/NAME/VOLUME  a read-only file
//! ```
//!
//! Inode numbers come from the store's serials, so they are the same in every mount and stay through renames. All methods may
//! block on the disk, but for those called `try_…` and the ones that say so. An error is the errno that the caller gets; what a
//! person should know about it (an I/O error's file, say) is logged here, once.
//!
//! Invariant: the last reference to an open volume is never dropped here, but by the reaper's thread: with a deleted volume
//! that removes its layer, and so may wait for the disk.

mod attr;
mod copy;
mod directory;
mod file;
mod names;
mod node;
mod reaper;
#[cfg(test)]
mod tests;
mod xattr;

pub(crate) use xattr::PREFIX as XATTR_PREFIX;

pub(crate) use attr::{Attr, Change, Kind, Lifetime, SetTime};
pub(crate) use directory::{Entry, Listing};
pub(crate) use file::{File, OpenFlags, Seek};
pub(crate) use names::RenameFlags;
pub(crate) use node::{Found, SNAPSHOTS};

use crate::meter::{Meters, VolumeMetrics};
use node::Nodes;
use outcrop_store::{Error, Store, VolumeId};
use parking_lot::{Mutex, RwLock};
use reaper::{Reaper, Reaping};
use rustix::io::Errno;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// This module's result: an errno for the caller.
pub(crate) type Result<T, E = Errno> = std::result::Result<T, E>;

/// The number of an open file or directory, as the kernel hands it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct HandleId(pub u64);

/// What a handle is of.
#[derive(Clone)]
pub(crate) enum Handle {
    /// An open volume or snapshot.
    File(Arc<File>),
    /// An open directory.
    Directory(Arc<Listing>),
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub uid: u32,
    pub gid: u32,
}

/// The tree of one mount.
pub(crate) struct Tree {
    store: Store,
    read_only: bool,
    /// Owner of the directories.
    owner: Caller,
    nodes: Mutex<Nodes>,
    handles: RwLock<HashMap<HandleId, Handle>>,
    next_handle: AtomicU64,
    /// When the root's content last changed through this mount, in nanoseconds since 1970; likewise for `.snapshots`.
    root_changed_ns: AtomicI64,
    snapshots_changed_ns: AtomicI64,
    reaper: Reaper,
    meters: Meters,
}

impl Tree {
    /// A tree over `store`, whose directories belong to `owner`.
    pub(crate) fn new(store: Store, read_only: bool, owner: Caller) -> std::io::Result<Self> {
        let now = attr::now_ns();
        Ok(Self {
            store,
            read_only,
            owner,
            nodes: Mutex::new(Nodes::default()),
            handles: RwLock::new(HashMap::new()),
            next_handle: AtomicU64::new(1),
            root_changed_ns: AtomicI64::new(now),
            snapshots_changed_ns: AtomicI64::new(now),
            reaper: Reaper::start()?,
            meters: Meters::default(),
        })
    }

    /// Gives a handle its number. Does not block.
    pub(crate) fn register(&self, handle: Handle) -> HandleId {
        let id = HandleId(self.next_handle.fetch_add(1, Ordering::Relaxed));
        self.handles.write().insert(id, handle);
        id
    }

    /// The open file of a number. Does not block.
    pub(crate) fn file(&self, id: HandleId) -> Result<Arc<File>> {
        match self.handles.read().get(&id) {
            Some(Handle::File(file)) => Ok(file.clone()),
            Some(Handle::Directory(_)) => Err(Errno::ISDIR),
            None => Err(Errno::BADF),
        }
    }

    /// The open directory of a number. Does not block.
    pub(crate) fn directory(&self, id: HandleId) -> Result<Arc<Listing>> {
        match self.handles.read().get(&id) {
            Some(Handle::Directory(listing)) => Ok(listing.clone()),
            Some(Handle::File(_)) => Err(Errno::NOTDIR),
            None => Err(Errno::BADF),
        }
    }

    /// Closes a handle. Does not block: what is left to do, the reaper does.
    pub(crate) fn release(&self, id: HandleId) {
        let handle = self.handles.write().remove(&id);
        drop(handle);
    }

    /// Closes every handle, and returns when the reaper has dropped what they held; false if that takes longer than `limit`.
    pub(crate) fn close(&self, limit: Duration) -> bool {
        let handles = std::mem::take(&mut *self.handles.write());
        drop(handles);
        self.reaper.drain(limit)
    }

    /// What was done to each volume that `exists` knows, and how many handles there are.
    pub(crate) fn metered(&self, exists: &dyn Fn(VolumeId) -> bool) -> (Vec<VolumeMetrics>, usize) {
        (self.meters.read(exists), self.handles.read().len())
    }

    fn writable(&self) -> Result<()> {
        if self.read_only { Err(Errno::ROFS) } else { Ok(()) }
    }

    /// Notes that `.snapshots` changed. Does not block.
    pub(crate) fn touch_snapshots(&self) {
        self.snapshots_changed_ns.store(attr::now_ns(), Ordering::Relaxed);
    }

    /// Notes that the root's content changed. Does not block.
    pub(crate) fn touch_root(&self) {
        self.root_changed_ns.store(attr::now_ns(), Ordering::Relaxed);
    }

    fn reaping<T: Send + Sync + 'static>(&self, value: Arc<T>) -> Reaping<T> {
        self.reaper.guard(value)
    }
}

/// The errno of a store's error; what only a person can mend is logged.
fn errno(error: Error) -> Errno {
    let errno = error.errno();
    match errno {
        // The store has told of it, once; a program may ask for a bad block any number of times.
        Errno::IO if matches!(error, Error::BadSum { .. }) => tracing::debug!(error = %chain(&error), "I/O error"),
        Errno::IO => tracing::error!(error = %chain(&error), "I/O error"),
        Errno::NOSPC => tracing::warn!(error = %chain(&error), "no space"),
        _ => tracing::debug!(error = %chain(&error), %errno, "refused"),
    }
    errno
}

/// An error with all its sources, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
