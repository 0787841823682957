//! Cloning: a new volume on somebody's sealed layer.

use super::{CloneSource, Store};
use crate::error::Result;
use crate::ids::VolumeId;
use crate::name::Name;
use crate::volume::Volume;
use std::sync::Arc;

impl Store {
    /// Makes volume `to` with the content, size, owner and mode of `from`: durable on return, whatever its size. A live
    /// volume is cloned as it is at one instant; its writes stop for a moment, as for a snapshot. `Exists` if there
    /// is a live volume `to`; a headless volume of that name is continued, as by [`Store::create_volume`].
    pub fn clone_volume(&self, from: &CloneSource, to: &Name) -> Result<Arc<Volume>> {
        let _ = (from, to);
        todo!()
    }

    /// Gives the live volume `to`, which must be empty (size 0), the content and size of `from`, in place: whoever has it
    /// open goes on with it. For a `copy_file_range` of a whole file into a new one. `NotSupported` (copy the bytes then)
    /// if `to` isn't empty. Owner, mode and name stay.
    pub fn clone_into(&self, from: &CloneSource, to: VolumeId) -> Result<()> {
        let _ = (from, to);
        todo!()
    }
}
