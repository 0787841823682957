//! What changes names: create, unlink, rename, mkdir.

use super::attr::MODE_MASK;
use super::file::{File, OpenFlags};
use super::node::{SNAPSHOTS_NAME, What};
use super::{Caller, Found, Result, Tree, errno};
use outcrop_store::{DeleteVolume, Error, Keep, Name, NewVolume, RenameMode};
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

    /// Deletes a volume: its head only.
    pub(crate) fn unlink(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.writable()?;
        match self.what(parent)? {
            What::Root if name == SNAPSHOTS_NAME => Err(Errno::ISDIR),
            What::Root => {
                self.store.delete_volume(&volume_name(name)?, DeleteVolume::Head, Keep::ForUndo).map_err(errno)?;
                self.touch_root();
                Ok(())
            }
            What::Snapshots => Err(Errno::ISDIR),
            What::Set(_) => Err(Errno::PERM),
            What::Volume(_) | What::Snapshot { .. } => Err(Errno::NOTDIR),
        }
    }

    /// Removes a directory: none can be, yet.
    pub(crate) fn remove_directory(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.writable()?;
        self.lookup(parent, name)?;
        Err(Errno::PERM)
    }

    /// Gives a volume another name.
    pub(crate) fn rename(&self, parent: u64, name: &[u8], new_parent: u64, new_name: &[u8], flags: RenameFlags) -> Result<()> {
        self.writable()?;
        let mode = flags.mode()?;
        match (self.what(parent)?, self.what(new_parent)?) {
            (What::Root, What::Root) if name != SNAPSHOTS_NAME && new_name != SNAPSHOTS_NAME => {}
            _ => return Err(Errno::PERM),
        }
        self.store.rename_volume(&volume_name(name)?, &volume_name(new_name)?, mode).map_err(errno)?;
        self.touch_root();
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
