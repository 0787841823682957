//! Sealing the head of a live volume under a new one: a snapshot without a name, in the order of `snapshots.rs`.
//!
//! What is sealed so has one child, the new head, and is merged into it when nobody reads from it any more; a crash leaves
//! the same.

use super::{Context, EventKind};
use crate::catalog::Operation;
use crate::catalog::records::{Change, LayerRecord, VolumeRecord};
use crate::error::{Error, Result};
use crate::ids::LayerId;
use crate::units::MAX_LAYERS;
use crate::volume::Volume;
use std::sync::Arc;
use std::time::Instant;

/// Seals the head of `volume`, whose record is `record`, durably. `before` is done before the commit, with writes stopped and
/// everything flushed: nobody merges the layer yet, and nothing has happened if it fails.
pub(crate) fn seal_head<T>(
    context: &Arc<Context>,
    operation: Operation<'_>,
    volume: &Volume,
    record: VolumeRecord,
    before: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let length = record.head.map_or(0, |head| operation.read().chain(head).len());
    if length >= MAX_LAYERS {
        return Err(Error::Limit { what: "the number of layers in a chain", limit: MAX_LAYERS as u64 });
    }
    let new = LayerId::new();
    let changes = vec![
        Change::PutLayer(LayerRecord { id: new, parent: record.head, revision: 0 }),
        Change::PutVolume(VolumeRecord { head: Some(new), ..record }),
    ];
    let prepared = operation.prepare(changes)?;
    volume.prepare_head(new)?;

    let limit = context.options.snapshot_pause;
    let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    let paused = volume.pause(Instant::now() + limit, limit_ms)?;
    let head = paused.settle(new)?;
    let done = before()?;
    let unproven = context.unproven();
    let committed = prepared.commit().inspect_err(|error| {
        paused.stop();
        let message = format!(
            "it is not known whether the head of volume '{}' was sealed ({error}); it takes no more writes until the store is \
             opened again",
            volume.name()
        );
        context.event(EventKind::Damage, message);
    })?;
    let sealed = paused.sealed();
    paused.swap(head, &unproven.proof);
    if let Err(error) = committed.prove() {
        tracing::error!("a label of volume '{}' could not be promoted: {error}", volume.name());
    }
    drop(unproven);
    sealed.seal()?;
    committed.promote()?;
    Ok(done)
}
