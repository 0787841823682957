//! What the disk has, and what is promised on it.

use super::{Context, Space, Store};
use crate::error::Result;
use crate::ids::VolumeId;
use crate::layer;
use crate::space::{self, SpaceReport, VolumeTaken};
use std::sync::Arc;

/// Sizes of all live volumes, in bytes.
pub(super) fn promised(context: &Arc<Context>) -> u64 {
    let state = context.catalog.read();
    let live: Vec<_> = state.live_volumes().filter_map(|volume| volume.head).collect();
    drop(state);
    let open: std::collections::HashMap<_, _> =
        context.open_volumes().into_iter().map(|volume| (volume.head().layer.id, volume.stat().size)).collect();
    live.into_iter()
        .map(|head| open.get(&head).copied().unwrap_or_else(|| layer::read_header(&context.disk, head).map_or(0, |h| h.size)))
        .sum()
}

impl Store {
    /// What each volume, snapshot and image holds alone and shares, and what deleting it would free: counted from the maps.
    /// Reads those of all layers the first time, from then on only what changed. One count at a time.
    pub fn space_report(&self) -> Result<SpaceReport> {
        let disk = self.space()?;
        space::report(self.context()?, disk, &mut self.shared.counted.lock())
    }

    /// One volume's part of [`Store::space_report`], and what deleting it with its snapshots would free.
    pub fn volume_taken(&self, id: VolumeId) -> Result<VolumeTaken> {
        space::of_volume(self.context()?, id, &mut self.shared.counted.lock())
    }

    /// The disk, and what is promised on it.
    pub fn space(&self) -> Result<Space> {
        let context = self.context()?;
        let space = context.disk.gauge.space()?;
        let floor = context.disk.gauge.floor();
        let layers: Vec<_> = context.catalog.read().layers.keys().copied().collect();
        Ok(Space {
            disk: context.disk.path.clone(),
            total: space.total,
            available: space.available.saturating_sub(floor),
            free: space.free,
            floor,
            used: layers.into_iter().map(|id| layer::allocated(&context.disk, id)).sum(),
            promised: promised(context),
        })
    }
}
