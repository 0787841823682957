//! Reverting a volume to a snapshot.

use super::{Revert, Store};
use crate::error::Result;
use crate::name::Name;

impl Store {
    /// Makes a volume what it was at a snapshot: durable on return. The snapshot is any of the volume's own, by its name;
    /// all its snapshots stay, those taken later too.
    ///
    /// `Busy` while somebody has a [`crate::Handle`] of it. With force its `Volume` object, and every handle of it, answers
    /// `Stale` from then on, for ever; [`Store::volume`] gives a new one.
    pub fn revert(&self, volume: &Name, set: &Name, how: Revert) -> Result<()> {
        let _ = (volume, set, how);
        todo!()
    }
}
