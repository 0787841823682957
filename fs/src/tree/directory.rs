//! Reading directories.
//!
//! A listing is taken when it is first read, and again whenever somebody reads from its beginning (`rewinddir`); in between,
//! offsets stand for the same entries, whatever is created or deleted.

use super::node::{self, SNAPSHOTS_NAME, What, ino_of};
use super::{Kind, Result, Tree};
use parking_lot::Mutex;
use rustix::io::Errno;
use std::sync::Arc;

/// An open directory.
pub(crate) struct Listing {
    ino: u64,
    entries: Mutex<Arc<Vec<Entry>>>,
}

/// One name in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub ino: u64,
    pub kind: Kind,
    pub name: Vec<u8>,
}

impl Tree {
    /// Opens a directory. Does not block.
    pub(crate) fn open_directory(&self, ino: u64) -> Result<Arc<Listing>> {
        match self.what(ino)? {
            What::Root | What::Snapshots | What::Set(_) => Ok(Arc::new(Listing { ino, entries: Mutex::default() })),
            What::Volume(_) | What::Snapshot { .. } => Err(Errno::NOTDIR),
        }
    }

    /// The entries of an open directory; `offset` is the index of the first one that is wanted.
    pub(crate) fn read_directory(&self, listing: &Listing, offset: usize) -> Result<Arc<Vec<Entry>>> {
        if offset == 0 {
            let entries = Arc::new(self.entries(listing.ino)?);
            *listing.entries.lock() = entries.clone();
            return Ok(entries);
        }
        Ok(listing.entries.lock().clone())
    }

    fn entries(&self, ino: u64) -> Result<Vec<Entry>> {
        let directory = |ino, name: &[u8]| Entry { ino, kind: Kind::Directory, name: name.to_vec() };
        let file = |serial, name: &[u8]| Entry { ino: ino_of(serial), kind: Kind::File, name: name.to_vec() };
        let parent = if matches!(self.what(ino)?, What::Set(_)) { node::SNAPSHOTS } else { node::ROOT };
        let mut entries = vec![directory(ino, b"."), directory(parent, b"..")];
        match self.resolve(ino)? {
            What::Root => {
                entries.push(directory(node::SNAPSHOTS, SNAPSHOTS_NAME));
                let volumes = self.store.volumes();
                let live = volumes.iter().filter(|info| info.live);
                entries.extend(live.filter_map(|info| Some(file(info.serial, info.name.as_ref()?.as_bytes()))));
            }
            What::Snapshots => {
                entries.extend(self.store.snapshot_sets().iter().map(|set| directory(ino_of(set.serial), set.name.as_bytes())));
            }
            What::Set(set) => {
                let mut files = self.store.snapshot_files(&set);
                files.sort_by(|a, b| a.volume_name.cmp(&b.volume_name));
                entries.extend(files.iter().map(|info| file(info.serial, info.volume_name.as_bytes())));
            }
            What::Volume(_) | What::Snapshot { .. } => return Err(Errno::NOTDIR),
        }
        Ok(entries)
    }
}
