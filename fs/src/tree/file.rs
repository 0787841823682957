//! Open files: what a handle can do.

use super::node::What;
use super::reaper::Reaping;
use super::{Caller, Found, Result, Tree, errno};
use crate::meter::{Meter, Operation};
use outcrop_store::{self as store, Allocate, Attributes, Error, Snapshot, Sync, Volume};
use rustix::io::Errno;
use std::sync::Arc;

/// The flags of open(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenFlags(pub i32);

impl OpenFlags {
    pub(super) fn exclusive(self) -> bool {
        self.0 & libc::O_EXCL != 0
    }

    fn truncate(self) -> bool {
        self.0 & libc::O_TRUNC != 0
    }

    fn writes(self) -> bool {
        self.0 & libc::O_ACCMODE != libc::O_RDONLY
    }

    /// Whether a write lands at the end of the file.
    pub(crate) fn append(self) -> bool {
        self.0 & libc::O_APPEND != 0
    }

    /// What each write makes durable before it is answered (`O_DSYNC`, `O_SYNC`, `RWF_DSYNC`, a mount with `sync`).
    pub(crate) fn sync(self) -> Option<Sync> {
        if self.0 & libc::O_SYNC == libc::O_SYNC {
            Some(Sync::All)
        } else if self.0 & libc::O_DSYNC != 0 {
            Some(Sync::Data)
        } else {
            None
        }
    }
}

/// What to look for with lseek(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seek {
    Data,
    Hole,
}

/// An open volume or snapshot.
pub(crate) struct File {
    ino: u64,
    pub(super) body: Body,
    /// What each write makes durable before it is answered, also where the kernel doesn't say so with each.
    pub(super) syncs: Option<Sync>,
    meter: Arc<Meter>,
}

/// What is open.
pub(super) enum Body {
    /// Counted by the store as open: such a volume isn't reverted, or only by force, and this then answers ESTALE.
    Volume(Reaping<store::Handle>),
    Snapshot(Reaping<Snapshot>),
}

impl Tree {
    /// Opens an inode.
    pub(crate) fn open(&self, ino: u64, flags: OpenFlags) -> Result<File> {
        match self.what(ino)? {
            What::Volume(_) => self.open_volume(ino, flags),
            What::Snapshot { .. } => {
                if flags.writes() || flags.truncate() {
                    return Err(Errno::ROFS);
                }
                let snapshot = self.snapshot_of(ino)?;
                let meter = self.meters.of(snapshot.volume());
                Ok(File { ino, body: Body::Snapshot(snapshot), syncs: None, meter })
            }
            What::Root | What::Snapshots | What::Set(_) => Err(Errno::ISDIR),
        }
    }

    /// Opens a volume that was just found.
    pub(super) fn open_found(&self, found: &Found, flags: OpenFlags) -> Result<Arc<File>> {
        let volume = found.volume().ok_or(Errno::ISDIR)?;
        match volume.handle() {
            Ok(handle) => self.opened(found.attr.ino, handle, flags),
            // Reverted between the two.
            Err(Error::Stale { .. }) => Err(Errno::STALE),
            Err(error) => Err(errno(error)),
        }
        .map(Arc::new)
    }

    fn open_volume(&self, ino: u64, flags: OpenFlags) -> Result<File> {
        loop {
            match self.volume_of(ino)?.handle() {
                Ok(handle) => return self.opened(ino, handle, flags),
                // Reverted between the two: the next one found is what it is now.
                Err(Error::Stale { .. }) => std::thread::yield_now(),
                Err(error) => return Err(errno(error)),
            }
        }
    }

    fn opened(&self, ino: u64, handle: store::Handle, flags: OpenFlags) -> Result<File> {
        let handle = self.reaping(Arc::new(handle));
        if flags.writes() || flags.truncate() {
            self.writable()?;
        }
        if flags.truncate() {
            handle.set_size(0).map_err(errno)?;
        }
        let meter = self.meters.of(handle.id());
        Ok(File { ino, body: Body::Volume(handle), syncs: flags.sync(), meter })
    }

    /// Writes as the flags of the file say. For `O_APPEND` the kernel gives the end of the file as the offset, and several parts of
    /// one large write in parallel, so its offset is the right one, unless the file grew or shrank behind its back.
    pub(crate) fn write(&self, file: &File, data: &[u8], offset: u64, flags: OpenFlags, caller: Caller) -> Result<()> {
        let volume = file.writable_volume()?;
        if let Some(mode) = without_privileges(volume, caller) {
            volume.set_attributes(Attributes { mode: Some(mode), ..Attributes::default() }).map_err(errno)?;
        }
        if flags.append() && self.is_size_unknown(file.ino) {
            volume.append(data).map_err(errno)?;
        } else {
            volume.write_at(data, offset).map_err(errno)?;
        }
        match flags.sync() {
            Some(what) => volume.sync(what).map_err(errno),
            None => Ok(()),
        }
    }

    /// Like [`Tree::write`], but none, with nothing written, where it would wait for more than the system call that writes.
    pub(crate) fn try_write(
        &self,
        file: &File,
        data: &[u8],
        offset: u64,
        flags: OpenFlags,
        caller: Caller,
    ) -> Result<Option<()>> {
        let volume = file.writable_volume()?;
        let waits = flags.sync().is_some() || (flags.append() && self.is_size_unknown(file.ino));
        if waits || without_privileges(volume, caller).is_some() {
            return Ok(None);
        }
        volume.try_write_at(data, offset).map_err(errno)
    }
}

/// The mode that a file has after this caller wrote to it, if it has another one now: setuid, and setgid where it means a right, go
/// when somebody other than root writes. The kernel sees to it everywhere else, but not for direct writes.
fn without_privileges(volume: &Volume, caller: Caller) -> Option<u32> {
    /// What the kernel gives for its own writes (of mapped pages).
    const NOBODY: u32 = u32::MAX;
    if matches!(caller.uid, 0 | NOBODY) {
        return None;
    }
    let mode = volume.stat().mode;
    let mut kept = mode & !libc::S_ISUID;
    if mode & libc::S_IXGRP != 0 {
        kept &= !libc::S_ISGID;
    }
    (kept != mode).then_some(kept)
}

impl File {
    /// Its inode.
    pub(crate) fn ino(&self) -> u64 {
        self.ino
    }

    /// Where what is done to it is counted.
    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// As what reading it is counted.
    pub(crate) fn reading(&self) -> Operation {
        if self.is_snapshot() { Operation::ReadSnapshot } else { Operation::Read }
    }

    /// Whether its content never changes.
    pub(crate) fn is_snapshot(&self) -> bool {
        matches!(self.body, Body::Snapshot(_))
    }

    /// Reads; fewer bytes than asked only at the end of the file.
    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        match &self.body {
            Body::Volume(volume) => volume.read_at(buf, offset),
            Body::Snapshot(snapshot) => snapshot.read_at(buf, offset),
        }
        .map_err(errno)
    }

    /// Reads, or none where it would wait.
    pub(crate) fn try_read(&self, buf: &mut [u8], offset: u64) -> Result<Option<usize>> {
        match &self.body {
            Body::Volume(volume) => volume.try_read_at(buf, offset),
            Body::Snapshot(snapshot) => snapshot.try_read_at(buf, offset),
        }
        .map_err(errno)
    }

    /// `fsync`, or `fdatasync`.
    pub(crate) fn sync(&self, what: Sync) -> Result<()> {
        match &self.body {
            Body::Volume(volume) => volume.sync(what).map_err(errno),
            // Durable since it was taken.
            Body::Snapshot(_) => Ok(()),
        }
    }

    /// `fallocate` with the mode of the system call.
    pub(crate) fn allocate(&self, mode: i32, offset: u64, length: u64) -> Result<()> {
        const PUNCH_KEEP_SIZE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        const ZERO_KEEP_SIZE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        let how = match mode {
            0 => Allocate::Grow,
            libc::FALLOC_FL_KEEP_SIZE => Allocate::KeepSize,
            PUNCH_KEEP_SIZE => Allocate::Punch,
            libc::FALLOC_FL_ZERO_RANGE => Allocate::Zero,
            ZERO_KEEP_SIZE => Allocate::ZeroKeepSize,
            _ => return Err(Errno::OPNOTSUPP),
        };
        self.writable_volume()?.allocate(how, offset, length).map_err(errno)
    }

    /// The next data or hole at or after `offset`.
    pub(crate) fn seek(&self, what: Seek, offset: u64) -> Result<u64> {
        self.find(what, offset).map_err(errno)
    }

    pub(super) fn find(&self, what: Seek, offset: u64) -> outcrop_store::Result<u64, Error> {
        match (&self.body, what) {
            (Body::Volume(volume), Seek::Data) => volume.seek_data(offset),
            (Body::Volume(volume), Seek::Hole) => volume.seek_hole(offset),
            (Body::Snapshot(snapshot), Seek::Data) => snapshot.seek_data(offset),
            (Body::Snapshot(snapshot), Seek::Hole) => snapshot.seek_hole(offset),
        }
    }

    pub(super) fn size(&self) -> u64 {
        match &self.body {
            Body::Volume(volume) => volume.stat().size,
            Body::Snapshot(snapshot) => snapshot.stat().size,
        }
    }

    pub(super) fn writable_volume(&self) -> Result<&Volume> {
        match &self.body {
            Body::Volume(volume) => Ok(volume),
            Body::Snapshot(_) => Err(Errno::ROFS),
        }
    }
}
