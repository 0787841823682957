//! Inodes: what the kernel has looked up and not forgotten yet.
//!
//! A node has the names by which its directory or snapshot was known last; its number is what it is known by for good, so a
//! rename from anywhere (`mv` in the mount, the command line) leaves inodes, and what is open below them, as they are.

use super::attr::{snapshot_attr, volume_attr};
use super::{Attr, Result, Tree, errno, reaper::Reaping};
use outcrop_store::{Error, Name, Snapshot, SnapshotFile, Volume, VolumeId};
use rustix::io::Errno;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// The root's inode number.
pub(crate) const ROOT: u64 = 1;
/// That of `.snapshots`.
pub(crate) const SNAPSHOTS: u64 = 2;
/// Where the numbers made from serials begin.
const FIRST: u64 = 16;
/// The name of the directory of snapshots.
pub(super) const SNAPSHOTS_NAME: &[u8] = b".snapshots";

/// The inode number of what has this serial in the store.
pub(crate) fn ino_of(serial: u64) -> u64 {
    serial.saturating_add(FIRST)
}

fn serial_of(ino: u64) -> u64 {
    ino.saturating_sub(FIRST)
}

/// What an inode is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    Root,
    Snapshots,
    /// A directory under `.snapshots`.
    Set(Name),
    /// A volume, whatever its name is by now.
    Volume(VolumeId),
    /// A file under it.
    Snapshot {
        set: Name,
        volume_name: Name,
    },
}

/// An inode that the kernel knows.
pub(super) struct Node {
    what: What,
    /// How often it was looked up, less how often forgotten.
    lookups: u64,
    /// The attributes, where they never change.
    pub attr: Option<Attr>,
    /// The volume, as long as somebody has it open: a deleted one is found only here.
    pub volume: Weak<Volume>,
    /// Likewise the snapshot.
    pub snapshot: Weak<Snapshot>,
    /// The volume was changed behind the kernel's back since the kernel last asked for its size.
    pub size_unknown: bool,
}

/// All of them.
#[derive(Default)]
pub(super) struct Nodes(HashMap<u64, Node>);

impl Nodes {
    pub(super) fn get(&self, ino: u64) -> Option<&Node> {
        self.0.get(&ino)
    }

    pub(super) fn get_mut(&mut self, ino: u64) -> Option<&mut Node> {
        self.0.get_mut(&ino)
    }
}

impl Found {
    /// The volume, with a reference of its own.
    pub(super) fn volume(&self) -> Option<Reaping<Volume>> {
        self.volume.clone()
    }
}

/// What a name was found to be. It counts as looked up once [`Tree::remember`] was told so.
pub(crate) struct Found {
    pub attr: Attr,
    what: What,
    volume: Option<Reaping<Volume>>,
}

impl Tree {
    /// What `name` is in directory `parent`.
    pub(crate) fn lookup(&self, parent: u64, name: &[u8]) -> Result<Found> {
        match self.resolve(parent)? {
            What::Root if name == SNAPSHOTS_NAME => {
                Ok(Found { attr: self.attributes(SNAPSHOTS)?, what: What::Snapshots, volume: None })
            }
            What::Root => self.find_volume(&known_name(name)?),
            What::Snapshots => {
                let set = known_name(name)?;
                let info = self.store.snapshot_set(&set).map_err(errno)?;
                Ok(Found { attr: self.set_attr(&info), what: What::Set(set), volume: None })
            }
            What::Set(set) => {
                let volume_name = known_name(name)?;
                let info = self.store.snapshot_info(&set, &volume_name).map_err(errno)?;
                let snapshot = self.reaping(self.store.open_snapshot(&set, &volume_name).map_err(errno)?);
                let attr = snapshot_attr(&info, &snapshot.stat());
                Ok(Found { attr, what: What::Snapshot { set, volume_name }, volume: None })
            }
            What::Volume(_) | What::Snapshot { .. } => Err(Errno::NOTDIR),
        }
    }

    /// A live volume by name.
    pub(super) fn find_volume(&self, name: &Name) -> Result<Found> {
        Ok(self.found(self.store.volume(name).map_err(errno)?))
    }

    /// What was found, with the volume that it is.
    pub(super) fn found(&self, volume: Arc<Volume>) -> Found {
        let volume = self.reaping(volume);
        let attr = volume_attr(ino_of(volume.serial()), &volume.stat(), volume.is_deleted());
        Found { attr, what: What::Volume(volume.id()), volume: Some(volume) }
    }

    /// Counts a lookup: the kernel is about to be told. Does not block.
    pub(crate) fn remember(&self, found: &Found) {
        if found.attr.ino == SNAPSHOTS {
            return;
        }
        let mut nodes = self.nodes.lock();
        let node = nodes.0.entry(found.attr.ino).or_insert_with(|| Node {
            what: found.what.clone(),
            lookups: 0,
            attr: None,
            volume: Weak::new(),
            snapshot: Weak::new(),
            size_unknown: false,
        });
        node.lookups += 1;
        node.size_unknown = false;
        node.what = found.what.clone();
        if let Some(volume) = &found.volume {
            node.volume = Arc::downgrade(volume);
        } else if matches!(found.what, What::Set(_) | What::Snapshot { .. }) {
            node.attr = Some(found.attr);
        }
    }

    /// Takes lookups back. Does not block.
    pub(crate) fn forget(&self, ino: u64, lookups: u64) {
        let mut nodes = self.nodes.lock();
        if let Some(node) = nodes.0.get_mut(&ino) {
            node.lookups = node.lookups.saturating_sub(lookups);
            if node.lookups == 0 {
                nodes.0.remove(&ino);
            }
        }
    }

    /// What an inode is of, by the names that it was known by last. Does not block.
    pub(super) fn what(&self, ino: u64) -> Result<What> {
        match ino {
            ROOT => Ok(What::Root),
            SNAPSHOTS => Ok(What::Snapshots),
            _ => self.nodes.lock().get(ino).map(|node| node.what.clone()).ok_or(Errno::STALE),
        }
    }

    /// What an inode is of, by its present names; ENOENT for a directory that is gone, ESTALE for a snapshot that is.
    pub(super) fn resolve(&self, ino: u64) -> Result<What> {
        let known = self.what(ino)?;
        let now = match &known {
            What::Root | What::Snapshots | What::Volume(_) => return Ok(known),
            What::Set(set) => self.store.set_at(serial_of(ino), set).map(What::Set).ok_or(Errno::NOENT)?,
            What::Snapshot { set, volume_name } => {
                let found = self.store.snapshot_at(serial_of(ino), (set, volume_name)).ok_or(Errno::STALE)?;
                What::Snapshot { set: found.0, volume_name: found.1 }
            }
        };
        if now != known
            && let Some(node) = self.nodes.lock().get_mut(ino)
        {
            node.what = now.clone();
        }
        Ok(now)
    }

    /// The snapshot of an inode: the one that is open, else the store's.
    pub(super) fn snapshot_of(&self, ino: u64) -> Result<Reaping<Snapshot>> {
        if let Some(open) = self.nodes.lock().get(ino).and_then(|node| node.snapshot.upgrade()) {
            return Ok(self.reaping(open));
        }
        let What::Snapshot { set, volume_name } = self.resolve(ino)? else { return Err(Errno::ISDIR) };
        let snapshot = self.store.open_snapshot(&set, &volume_name).map_err(|error| match error {
            Error::NotFound { .. } => Errno::STALE,
            error => errno(error),
        })?;
        if let Some(node) = self.nodes.lock().get_mut(ino) {
            node.snapshot = Arc::downgrade(&snapshot);
        }
        Ok(self.reaping(snapshot))
    }

    /// Notes that snapshots are gone: who has one open sees no link any more. Does not block.
    pub(super) fn unlinked(&self, serials: impl IntoIterator<Item = u64>) {
        let mut nodes = self.nodes.lock();
        for serial in serials {
            if let Some(attr) = nodes.get_mut(ino_of(serial)).and_then(|node| node.attr.as_mut()) {
                attr.links = 0;
            }
        }
    }

    /// The volume of an inode: the one that is open, else the store's.
    pub(super) fn volume_of(&self, ino: u64) -> Result<Reaping<Volume>> {
        let (what, open) = {
            let nodes = self.nodes.lock();
            let node = nodes.get(ino).ok_or(Errno::STALE)?;
            (node.what.clone(), node.volume.upgrade())
        };
        if let Some(volume) = open.map(|volume| self.reaping(volume)).filter(|volume| is_current(volume)) {
            return Ok(volume);
        }
        let id = match what {
            What::Volume(id) => id,
            What::Snapshot { .. } => return Err(Errno::ROFS),
            What::Root | What::Snapshots | What::Set(_) => return Err(Errno::ISDIR),
        };
        let volume = self.store.volume_by_id(id).map_err(|error| match error {
            // The kernel knew it: its name is gone, and nobody has it open.
            Error::NotFound { .. } | Error::Headless { .. } => Errno::STALE,
            error => errno(error),
        })?;
        let volume = self.reaping(volume);
        if ino_of(volume.serial()) != ino {
            // Deleted, and its identity goes on in a volume made since.
            return Err(Errno::STALE);
        }
        if let Some(node) = self.nodes.lock().get_mut(ino) {
            node.volume = Arc::downgrade(&volume);
        }
        Ok(volume)
    }

    /// Notes that the volume of this name changed behind the kernel's back. Gives its inode, if the kernel knows it.
    pub(crate) fn changed_behind(&self, name: &Name) -> Option<u64> {
        let ino = ino_of(self.store.volume_info(name).ok()?.serial);
        self.nodes.lock().get_mut(ino)?.size_unknown = true;
        Some(ino)
    }

    /// The inode number of a volume that the store has.
    pub(crate) fn volume_ino(&self, name: &Name) -> Option<u64> {
        self.store.volume_info(name).ok().map(|info| ino_of(info.serial))
    }

    /// That of a directory under `.snapshots`.
    pub(crate) fn set_ino(&self, set: &Name) -> Option<u64> {
        self.store.snapshot_set(set).ok().map(|info| ino_of(info.serial))
    }

    /// Notes that a snapshot is gone, if it is, other than through the mount. Gives its inode, if the kernel knows it.
    pub(crate) fn gone_behind(&self, file: &SnapshotFile) -> Option<u64> {
        if self.store.snapshot_at(file.serial, (&file.set, &file.volume_name)).is_some() {
            return None;
        }
        self.unlinked([file.serial]);
        let ino = ino_of(file.serial);
        self.nodes.lock().get(ino).map(|_| ino)
    }

    /// Notes that the kernel is told a volume's size. Does not block.
    pub(crate) fn size_told(&self, ino: u64) {
        if let Some(node) = self.nodes.lock().get_mut(ino) {
            node.size_unknown = false;
        }
    }

    /// Whether the kernel may have a wrong size for it. Does not block.
    pub(super) fn is_size_unknown(&self, ino: u64) -> bool {
        self.nodes.lock().get(ino).is_some_and(|node| node.size_unknown)
    }
}

/// Whether a volume that is in memory still is what its inode is of: one that was reverted is something else by now, and one
/// that was deleted is gone with the last who had it open, though the store may still have it.
pub(super) fn is_current(volume: &Volume) -> bool {
    !volume.is_stale() && (!volume.is_deleted() || volume.handles() > 0)
}

/// A name to look for: one that can't exist is not there.
pub(super) fn known_name(name: &[u8]) -> Result<Name> {
    Name::new(name).map_err(|error| match error {
        Error::NameTooLong { .. } => Errno::NAMETOOLONG,
        _ => Errno::NOENT,
    })
}
