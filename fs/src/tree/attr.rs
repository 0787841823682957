//! What `stat` tells, and what may be set.

use super::node::{self, What};
use super::{HandleId, Result, Tree, errno};
use outcrop_store::{Attributes, SnapshotInfo, SnapshotSetInfo, Stat, Timestamps};
use rustix::io::Errno;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

/// Kinds of inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
}

/// How long the kernel may believe what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// Asked for each time: it changes behind the kernel's back (a resize by the CLI).
    Moment,
    /// As good as for ever: what it is of never changes.
    Long,
}

/// What `stat` tells of an inode. Times in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attr {
    pub ino: u64,
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Bytes of data, a multiple of 512.
    pub data: u64,
    /// Permission bits.
    pub mode: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub atime_ns: i64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub lifetime: Lifetime,
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetTime {
    Now,
    /// Nanoseconds since 1970.
    At(i64),
}

/// What `setattr` is to change; none leaves it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Change {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

/// Permission bits that are kept: rwx for three, setuid, setgid, sticky.
pub(super) const MODE_MASK: u32 = 0o7777;
const DIRECTORY_MODE: u32 = 0o755;

impl Tree {
    /// Attributes, if they are known without waiting for a disk.
    pub(crate) fn try_attributes(&self, ino: u64) -> Option<Result<Attr>> {
        match ino {
            node::ROOT => return Some(Ok(self.directory_attr(ino, self.root_changed_ns.load(Ordering::Relaxed)))),
            node::SNAPSHOTS => return Some(Ok(self.directory_attr(ino, self.snapshots_changed_ns.load(Ordering::Relaxed)))),
            _ => {}
        }
        let (attr, volume) = {
            let nodes = self.nodes.lock();
            let Some(node) = nodes.get(ino) else { return Some(Err(Errno::STALE)) };
            (node.attr, node.volume.upgrade())
        };
        if let Some(volume) = volume {
            let volume = self.reaping(volume);
            if !node::is_current(&volume) {
                return None;
            }
            return Some(Ok(volume_attr(ino, &volume.stat(), volume.is_deleted())));
        }
        attr.map(Ok)
    }

    /// Attributes.
    pub(crate) fn attributes(&self, ino: u64) -> Result<Attr> {
        if let Some(known) = self.try_attributes(ino) {
            return known;
        }
        let volume = self.volume_of(ino)?;
        Ok(volume_attr(ino, &volume.stat(), volume.is_deleted()))
    }

    /// Changes attributes: first the size, which is the one that may fail for want of space. `handle` is the open file that
    /// this is asked through (`ftruncate`), if any: after a revert it must not change what it isn't of.
    pub(crate) fn change(&self, ino: u64, handle: Option<HandleId>, change: &Change) -> Result<Attr> {
        self.writable()?;
        match self.what(ino)? {
            What::Root | What::Snapshots | What::Set(_) => self.change_directory(ino, change),
            What::Snapshot { .. } => Err(Errno::ROFS),
            What::Volume(_) => {
                let volume = self.volume_of(ino)?;
                if let Some(size) = change.size {
                    let file = handle.map(|id| self.file(id)).transpose()?;
                    let open = file.as_ref().map(|file| file.writable_volume()).transpose()?;
                    open.unwrap_or(&volume).set_size(size).map_err(errno)?;
                }
                if change.mode.is_some() || change.uid.is_some() || change.gid.is_some() {
                    let attributes = Attributes { mode: change.mode.map(|m| m & MODE_MASK), uid: change.uid, gid: change.gid };
                    volume.set_attributes(attributes).map_err(errno)?;
                }
                if change.atime.is_some() || change.mtime.is_some() {
                    let times = Timestamps { atime_ns: change.atime.map(SetTime::ns), mtime_ns: change.mtime.map(SetTime::ns) };
                    volume.set_times(times).map_err(errno)?;
                }
                Ok(volume_attr(ino, &volume.stat(), volume.is_deleted()))
            }
        }
    }

    /// Directories have no record to keep attributes in. A time is taken (`rsync -a` sets it) and lasts as long as the mount; an
    /// owner or mode that they have already is fine, another one is not permitted.
    fn change_directory(&self, ino: u64, change: &Change) -> Result<Attr> {
        let now = self.attributes(ino)?;
        let differs = |new: Option<u32>, old: u32| new.is_some_and(|new| new != old);
        if change.size.is_some() {
            return Err(Errno::ISDIR);
        }
        if differs(change.mode.map(|m| m & MODE_MASK), now.mode) || differs(change.uid, now.uid) || differs(change.gid, now.gid) {
            return Err(Errno::PERM);
        }
        if let Some(time) = change.mtime {
            match ino {
                node::ROOT => self.root_changed_ns.store(time.ns(), Ordering::Relaxed),
                node::SNAPSHOTS => self.snapshots_changed_ns.store(time.ns(), Ordering::Relaxed),
                _ => return Err(Errno::PERM),
            }
        }
        self.attributes(ino)
    }

    fn directory_attr(&self, ino: u64, changed_ns: i64) -> Attr {
        Attr {
            ino,
            kind: Kind::Directory,
            size: 4096,
            data: 0,
            mode: DIRECTORY_MODE,
            // As btrfs does: the number of subdirectories is not told this way.
            links: 1,
            uid: self.owner.uid,
            gid: self.owner.gid,
            atime_ns: changed_ns,
            mtime_ns: changed_ns,
            ctime_ns: changed_ns,
            lifetime: Lifetime::Moment,
        }
    }

    pub(super) fn set_attr(&self, set: &SnapshotSetInfo) -> Attr {
        self.directory_attr(node::ino_of(set.serial), signed(set.created_ns))
    }
}

/// A volume's attributes. Deleted, it has no link any more.
pub(super) fn volume_attr(ino: u64, stat: &Stat, deleted: bool) -> Attr {
    Attr {
        ino,
        kind: Kind::File,
        size: stat.size,
        data: stat.data,
        mode: stat.mode & MODE_MASK,
        links: u32::from(!deleted),
        uid: stat.uid,
        gid: stat.gid,
        atime_ns: stat.atime_ns,
        mtime_ns: stat.mtime_ns,
        ctime_ns: stat.ctime_ns,
        lifetime: Lifetime::Moment,
    }
}

/// A snapshot's attributes: as the volume's were, without any right to write, and with the snapshot's time.
pub(super) fn snapshot_attr(info: &SnapshotInfo, stat: &Stat) -> Attr {
    let taken_ns = signed(info.created_ns);
    Attr {
        ino: node::ino_of(info.serial),
        kind: Kind::File,
        size: stat.size,
        data: stat.data,
        mode: stat.mode & MODE_MASK & !0o222,
        links: 1,
        uid: stat.uid,
        gid: stat.gid,
        atime_ns: taken_ns,
        mtime_ns: taken_ns,
        ctime_ns: taken_ns,
        lifetime: Lifetime::Long,
    }
}

impl SetTime {
    fn ns(self) -> i64 {
        match self {
            SetTime::Now => now_ns(),
            SetTime::At(ns) => ns,
        }
    }
}

/// Now, in nanoseconds since 1970.
pub(super) fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

fn signed(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}
