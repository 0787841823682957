//! What the disk has, and what is promised on it.

use super::{Context, Space, Store};
use crate::error::Result;
use crate::layer;
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
