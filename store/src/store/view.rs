//! One sealed view of a volume, for work that reads all of it: exports, images.
//!
//! A volume that is written is sealed for it: a snapshot without a name, in the order of `snapshots.rs`. What is sealed so has one
//! child, the new head, and is merged into it when nobody reads from it any more; a crash leaves the same.

use super::{Context, EventKind};
use crate::catalog::records::{Change, LayerRecord, SnapshotRecord, VolumeRecord};
use crate::error::{Error, Result};
use crate::ids::LayerId;
use crate::name::Name;
use crate::units::MAX_LAYERS;
use crate::volume::Snapshot;
use std::sync::Arc;
use std::time::Instant;

/// What volume `volume` is in `snapshot`, or, without it, at this instant.
pub(crate) fn open(context: &Arc<Context>, volume: &Name, snapshot: Option<&Name>) -> Result<Arc<Snapshot>> {
    match snapshot {
        None => seal(context, volume),
        Some(set) => {
            let record = super::diff::record_of(context, volume, set)?;
            context.snapshot(&record.set, &record.taken_as)
        }
    }
}

fn seal(context: &Arc<Context>, name: &Name) -> Result<Arc<Snapshot>> {
    let operation = context.catalog.begin();
    let state = operation.read();
    let (record, head) = super::volumes::live(&state, name)?;
    let (record, ids) = (record.clone(), state.chain(head));
    drop(state);
    if ids.len() >= MAX_LAYERS {
        return Err(Error::Limit { what: "the number of layers in a chain", limit: MAX_LAYERS as u64 });
    }
    let volume = context.volume(record.id)?;
    let new = LayerId::new();
    let changes = vec![
        Change::PutLayer(LayerRecord { id: new, parent: Some(head), revision: 0 }),
        Change::PutVolume(VolumeRecord { head: Some(new), ..record.clone() }),
    ];
    let prepared = operation.prepare(changes)?;
    volume.prepare_head(new)?;

    let limit = context.options.snapshot_pause;
    let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    let pause = volume.pause(Instant::now() + limit, limit_ms)?;
    let new_head = pause.settle(new)?;
    // Open, and known to merges, before there is anything to merge.
    let about = SnapshotRecord {
        set: Name::new("(being read)")?,
        volume: record.id,
        taken_as: name.clone(),
        layer: head,
        serial: record.serial,
        created_ns: crate::disk::now_ns(),
        mode: record.mode,
        uid: record.uid,
        gid: record.gid,
        labels: Default::default(),
    };
    let view = Arc::new(Snapshot::open_uncounted(context, &about, context.chain(&ids)?)?);
    let follower = Arc::downgrade(&view);
    // The operation keeps the catalog as it is.
    context.registry.register(follower, || true);
    let unproven = context.unproven();
    let committed = prepared.commit().inspect_err(|error| {
        pause.stop();
        let message = format!(
            "it is not known whether volume '{name}' was sealed to be read ({error}); \
             it takes no more writes until the store is opened again"
        );
        context.event(EventKind::Damage, message);
    })?;
    let sealed = pause.sealed();
    pause.swap(new_head, &unproven.proof);
    if let Err(error) = committed.prove() {
        tracing::error!("a label of volume '{name}' could not be promoted: {error}");
    }
    drop(unproven);
    sealed.seal()?;
    committed.promote()?;
    Ok(view)
}
