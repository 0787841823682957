//! The catalog: names, volumes, snapshots, images and the forest of layers.
//!
//! In memory it is a [`State`]; its durable form is sled's, in `catalog/`. Above it are the store's operations, below it
//! labels and the disk. Invariant: what the catalog says at a commit has stood in the labels of all members before,
//! as an intent, so that a lost catalog can be made again from them.

mod db;
mod merged;
pub(crate) mod names;
mod operation;
mod rebuild;
pub(crate) mod records;
mod recover;
pub(crate) mod state;

use crate::disk::Disk;
use crate::error::Result;
use crate::ids::LayerId;
use db::Db;
pub(crate) use operation::Operation;
use operation::Owed;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
pub(crate) use rebuild::LayerEvidence;
pub(crate) use recover::Recovery;
use state::State;
use std::collections::BTreeSet;
use std::sync::Arc;

/// An open catalog.
pub(crate) struct Catalog {
    disk: Arc<Disk>,
    db: Db,
    state: RwLock<State>,
    /// Also what makes operations go one after another.
    owed: Mutex<Owed>,
    kept: BTreeSet<String>,
}

impl Catalog {
    /// Opens the catalog, ends or undoes what a crash interrupted, and makes it again from the labels if it is missing,
    /// damaged, older than they are, or if `rebuild` says so.
    ///
    /// `evidence` tells what the header of a layer says; it is asked only in a rebuild.
    pub fn open(disk: &Arc<Disk>, rebuild: bool, evidence: &dyn Fn(LayerId) -> LayerEvidence) -> Result<(Self, Recovery)> {
        recover::open(disk, rebuild, evidence)
    }

    /// The present state. Never to be held over a commit of the same thread; a thread may have several.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read_recursive()
    }

    /// Names in `layers/` that were unknown when the catalog was rebuilt, and are left to a person since.
    pub fn kept(&self) -> &BTreeSet<String> {
        &self.kept
    }
}

#[cfg(test)]
pub(crate) mod tests;
