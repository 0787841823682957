//! Opening a store: disk, catalog, then what a crash left in the layers.

use super::{Context, EventKind, StoreOptions};
use crate::catalog::{Catalog, LayerEvidence};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::ids::LayerId;
use crate::layer::{self, Head};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

pub(super) fn open(path: &Path, options: &StoreOptions) -> Result<Arc<Context>> {
    let (disk, repaired) = Disk::open(path, options)?;
    let evidence = |id: LayerId| match layer::read_header(&disk, id) {
        Ok(header) if header.sealed => LayerEvidence::Sealed,
        Ok(_) => LayerEvidence::Writable,
        Err(_) => LayerEvidence::Missing,
    };
    let (catalog, recovery) = Catalog::open(&disk, options.rebuild_catalog, &evidence)?;
    let context = Context::new(disk, catalog, options.clone());
    for line in repaired.into_iter().chain(recovery.repaired) {
        context.event(EventKind::Repaired, line);
    }
    for line in recovery.damage {
        context.event(EventKind::Damage, line);
    }
    if let Err(error) = context.jobs.recover(&context.catalog) {
        tracing::warn!(%error, "jobs that a crash interrupted could not be noted as such");
    }
    seal_parents(&context);
    repair_heads(&context);
    context.drop_layers(recovery.dropping);
    Ok(context)
}

/// Seals what a committed snapshot had not sealed yet. Only the newest layers of a volume can be such: a head's parent
/// is sealed before the next snapshot of that volume begins.
fn seal_parents(context: &Context) {
    let state = context.catalog.read();
    let heads: BTreeSet<LayerId> = state.volumes.values().filter_map(|volume| volume.head).collect();
    let parents = heads.iter().filter_map(|head| state.layers.get(head)?.parent);
    let leaves = state.snapshots.values().map(|snapshot| snapshot.layer).filter(|layer| state.child_count(*layer) == 0);
    let newest: BTreeSet<LayerId> = parents.chain(leaves).collect();
    let removed = state.removed.values().map(|removed| removed.layer).filter(|layer| state.child_count(*layer) == 0);
    let removed: Vec<LayerId> = removed.filter(|layer| !newest.contains(layer)).collect();
    drop(state);
    for id in removed {
        // Deleted, but somebody had it open till the end.
        if let Err(error) = seal(context, id, true) {
            context.event(EventKind::Damage, format!("deleted layer {id} could not be sealed: {error}"));
        }
    }
    for id in newest {
        match seal(context, id, false) {
            Ok(false) => {}
            Ok(true) => context.event(EventKind::Repaired, format!("layer {id}: its snapshot was committed; it was sealed")),
            Err(error) => context.event(EventKind::Damage, format!("layer {id} could not be sealed: {error}")),
        }
    }
}

/// Seals a layer that is no head any more; whether it wasn't sealed. `faulted`: also one whose last flush failed, as of what
/// its last good flush made durable.
pub(super) fn seal(context: &Context, id: LayerId, faulted: bool) -> Result<bool> {
    let layer = context.layer(id)?;
    if layer.header().sealed {
        return Ok(false);
    }
    if faulted && layer::is_faulted(&context.disk, id)? {
        layer::clear_fault(&layer)?;
    }
    let (head, _) = Head::open(Arc::clone(&layer))?;
    head.check_fault(|| format!("of layer {id}"))?;
    head.flush_times()?;
    layer.seal()?;
    Ok(true)
}

/// Opens the heads that were not closed, so that what a crash left is repaired, and told, now.
fn repair_heads(context: &Arc<Context>) {
    let state = context.catalog.read();
    let heads: Vec<_> = state.volumes.values().filter_map(|volume| Some((volume.id, volume.head?))).collect();
    drop(state);
    for (id, head) in heads {
        let needs_repair = context.disk.layer_dir(head).join("pending").exists()
            || layer::read_header(&context.disk, head).map_or(true, |header| header.trim || header.inexact);
        if !needs_repair {
            continue;
        }
        match context.volume(id) {
            Ok(_) => {}
            Err(error @ Error::LayerMissing { .. }) => {
                let users = context.catalog.read().needed_by(head).join(", ");
                context.event(EventKind::Damage, format!("{users}: {error}"));
            }
            Err(error) => context.event(EventKind::Damage, format!("volume {id} can't be opened: {error}")),
        }
    }
}
