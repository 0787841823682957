//! What changes names: create, unlink, rename, mkdir, rmdir.

use super::attr::MODE_MASK;
use super::file::{File, OpenFlags};
use super::node::{SNAPSHOTS_NAME, What, known_name};
use super::{Caller, Found, Result, Tree, errno};
use outcrop_store::{DeleteVolume, Error, Keep, Name, NewVolume, RenameMode, SnapshotSelector};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How often a create that finds the name taken, and then gone, tries again.
const RACES_MAX: u32 = 1000;

/// The flags of renameat2(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RenameFlags(pub u32);

impl RenameFlags {
    const NOREPLACE: u32 = 1;
    const EXCHANGE: u32 = 2;

    fn mode(self) -> Result<RenameMode> {
        match self.0 {
            0 => Ok(RenameMode::Replace),
            Self::NOREPLACE => Ok(RenameMode::NoReplace),
            Self::EXCHANGE => Ok(RenameMode::Exchange),
            _ => Err(Errno::INVAL),
        }
    }
}

impl Tree {
    /// Makes a volume of size 0, or finds the one that has the name by now (unless `O_EXCL` is given), and opens it.
    pub(crate) fn create(
        &self,
        parent: u64,
        name: &[u8],
        mode: u32,
        flags: OpenFlags,
        caller: Caller,
    ) -> Result<(Found, Arc<File>)> {
        let name = self.new_volume_name(parent, name)?;
        let found = self.make_or_find(&name, mode, flags, caller)?;
        let file = self.open_found(&found, flags)?;
        Ok((found, file))
    }

    fn make_or_find(&self, name: &Name, mode: u32, flags: OpenFlags, caller: Caller) -> Result<Found> {
        for _ in 0..RACES_MAX {
            match self.make(name, mode, caller) {
                Err(Errno::EXIST) if !flags.exclusive() => {}
                made => return made,
            }
            match self.find_volume(name) {
                // Deleted in between: it can be made.
                Err(Errno::NOENT) => {}
                found => return found,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Makes a volume of size 0 (`mknod`).
    pub(crate) fn make_node(&self, parent: u64, name: &[u8], mode: u32, caller: Caller) -> Result<Found> {
        let name = self.new_volume_name(parent, name)?;
        self.make(&name, mode, caller)
    }

    fn make(&self, name: &Name, mode: u32, caller: Caller) -> Result<Found> {
        let new = NewVolume { size: None, image: None, mode: mode & MODE_MASK, uid: caller.uid, gid: caller.gid };
        let volume = self.store.create_volume(name, &new).map_err(errno)?;
        self.touch_root();
        Ok(self.found(volume))
    }

    /// Deletes a volume (its head only), or one snapshot of one. The directory of that stays, as any does that is empty.
    pub(crate) fn unlink(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.writable()?;
        match self.resolve(parent)? {
            What::Root if name == SNAPSHOTS_NAME => Err(Errno::ISDIR),
            What::Root => {
                self.store.delete_volume(&volume_name(name)?, DeleteVolume::Head, Keep::ForUndo).map_err(errno)?;
                self.touch_root();
                Ok(())
            }
            What::Snapshots => Err(Errno::ISDIR),
            What::Set(set) => self.delete_snapshots(SnapshotSelector { set, volume: Some(known_name(name)?) }),
            What::Volume(_) | What::Snapshot { .. } => Err(Errno::NOTDIR),
        }
    }

    /// Deletes a snapshot of all volumes: `rmdir .snapshots/NAME`, with what is in it. No other directory can be removed.
    pub(crate) fn remove_directory(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.writable()?;
        match self.resolve(parent)? {
            What::Snapshots => self.delete_snapshots(SnapshotSelector { set: known_name(name)?, volume: None }),
            What::Root if name == SNAPSHOTS_NAME => Err(Errno::PERM),
            What::Root | What::Set(_) => self.lookup(parent, name).and(Err(Errno::NOTDIR)),
            What::Volume(_) | What::Snapshot { .. } => Err(Errno::NOTDIR),
        }
    }

    fn delete_snapshots(&self, which: SnapshotSelector) -> Result<()> {
        let deleted = self.store.delete_snapshots(&[which], Keep::ForUndo).map_err(errno)?;
        self.unlinked(deleted.iter().map(|info| info.serial));
        self.touch_snapshots();
        Ok(())
    }

    /// Gives a volume, or a snapshot of all volumes, another name. Nothing moves between directories: what is in a snapshot can't
    /// be moved (EROFS), and what isn't doesn't become one (EPERM). It is never EXDEV: mv(1) would copy, and then delete.
    pub(crate) fn rename(&self, parent: u64, name: &[u8], new_parent: u64, new_name: &[u8], flags: RenameFlags) -> Result<()> {
        self.writable()?;
        let mode = flags.mode()?;
        match (self.resolve(parent)?, self.resolve(new_parent)?) {
            (What::Root, What::Root) if name != SNAPSHOTS_NAME && new_name != SNAPSHOTS_NAME => {
                self.store.rename_volume(&volume_name(name)?, &volume_name(new_name)?, mode).map_err(errno)?;
                self.touch_root();
                Ok(())
            }
            (What::Snapshots, What::Snapshots) => self.rename_set(&known_name(name)?, &volume_name(new_name)?, mode),
            (What::Set(_), _) | (_, What::Set(_)) => Err(Errno::ROFS),
            _ => Err(Errno::PERM),
        }
    }

    fn rename_set(&self, from: &Name, to: &Name, mode: RenameMode) -> Result<()> {
        if mode == RenameMode::Exchange {
            return Err(Errno::INVAL);
        }
        if from != to && self.store.snapshot_set(to).is_ok() && mode == RenameMode::Replace {
            // As rename(2) has it, an empty directory gives way. A kill in between leaves only that gone.
            if !self.store.snapshot_files(to).is_empty() {
                return Err(Errno::NOTEMPTY);
            }
            self.store.snapshot_set(from).map_err(errno)?;
            self.delete_snapshots(SnapshotSelector { set: to.clone(), volume: None })?;
        }
        self.store.rename_snapshots(from, to).map_err(errno)?;
        self.touch_snapshots();
        Ok(())
    }

    /// Snapshots every volume: `mkdir .snapshots/NAME`. There are no other directories to make.
    pub(crate) fn make_directory(&self, parent: u64, name: &[u8]) -> Result<Found> {
        self.writable()?;
        match self.what(parent)? {
            What::Snapshots => {}
            What::Root if name == SNAPSHOTS_NAME => return Err(Errno::EXIST),
            What::Root | What::Set(_) => return Err(Errno::PERM),
            What::Volume(_) | What::Snapshot { .. } => return Err(Errno::NOTDIR),
        }
        let name = volume_name(name)?;
        self.store.snapshot_all(&name, &BTreeMap::new()).map_err(errno)?;
        self.touch_snapshots();
        self.lookup(super::SNAPSHOTS, name.as_bytes())
    }

    /// A name for a new volume in `parent`.
    fn new_volume_name(&self, parent: u64, name: &[u8]) -> Result<Name> {
        self.writable()?;
        match self.what(parent)? {
            What::Root if name == SNAPSHOTS_NAME => Err(Errno::EXIST),
            What::Root => volume_name(name),
            What::Snapshots => Err(Errno::PERM),
            What::Set(_) => Err(Errno::ROFS),
            What::Volume(_) | What::Snapshot { .. } => Err(Errno::NOTDIR),
        }
    }
}

fn volume_name(name: &[u8]) -> Result<Name> {
    Name::new(name).map_err(|error: Error| errno(error))
}
