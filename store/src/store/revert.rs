//! Reverting a volume to a snapshot, and undoing that: the volume's head is replaced by a new one on a sealed layer.
//!
//! The order, and what a crash after each step leaves:
//!
//! 1. the intent in the volume's label, the new head's layer, durable — the volume as before
//! 2. the door shut (nobody opens it), writes stopped for good, the old head flushed if it is kept — as before
//! 3. **one catalog commit** — reverted; with the old head as something that can be restored, or dropped
//! 4. the old `Volume` object made stale, so that nothing that was open writes into the new head
//! 5. the old head sealed, the label promoted, by this or by the next open
//!
//! A failure before the commit lets writes go on where they were.

use super::context::shown;
use super::keep::{Keeper, Serials, dropped_by};
use super::{Context, EventKind, Revert, Store};
use crate::catalog::Operation;
use crate::catalog::names::settled;
use crate::catalog::records::{Change, LayerRecord, VolumeRecord};
use crate::disk::now_ns;
use crate::error::{Error, Noun, Result};
use crate::ids::LayerId;
use crate::layer::{self, Layer, NewLayer};
use crate::name::Name;
use crate::units::MAX_LAYERS;
use crate::volume::{Paused, Shut};
use std::sync::Arc;
use std::time::Instant;

impl Store {
    /// Makes a volume what it was at a snapshot: durable on return. The snapshot is any of the volume's own, by its name;
    /// all its snapshots stay, those taken later too.
    ///
    /// `Busy` while somebody has a [`crate::Handle`] of it. With force its `Volume` object, and every handle of it, answers
    /// `Stale` from then on, for ever; [`Store::volume`] gives a new one. With force also a volume whose head is damaged or
    /// missing.
    pub fn revert(&self, volume: &Name, set: &Name, how: Revert) -> Result<()> {
        let context = self.context()?;
        let operation = context.catalog.begin();
        let state = operation.read();
        let record = super::volumes::live(&state, volume)?.0.clone();
        let missing = || Error::NotFound { noun: Noun::Snapshot, name: format!("{set}/{volume}") };
        let onto = state.snapshots_of(record.id).find(|snapshot| snapshot.set == *set).ok_or_else(missing)?.layer;
        drop(state);
        replace_head(context, operation, &record, onto, how, Vec::new())
    }
}

/// Replaces the head of a volume by a new one on `onto`, with what `more` says in the same commit.
pub(super) fn replace_head(
    context: &Arc<Context>,
    operation: Operation<'_>,
    record: &VolumeRecord,
    onto: LayerId,
    how: Revert,
    mut more: Vec<Change>,
) -> Result<()> {
    let volume = match context.volume(record.id) {
        Ok(volume) => Some(volume),
        // Nobody can have a head open that can't be opened, and going back to a snapshot is what helps then.
        Err(error @ (Error::Damaged { .. } | Error::LayerMissing { .. } | Error::Io { .. })) if how.force => {
            tracing::warn!(%error, "the head of volume '{}' can't be opened; it is reverted all the same", shown(record));
            None
        }
        Err(error) => return Err(error),
    };
    if !how.force && volume.as_ref().is_some_and(|volume| volume.handles() > 0) {
        return Err(Error::Busy { noun: Noun::Volume, name: shown(record) });
    }
    let below = sealed_layer(context, onto)?;
    let new = LayerId::new();
    let state = operation.read();
    check_length(state.chain(onto).len())?;
    let mut keeper = Keeper::new(context, how.keep);
    let mut changes = vec![
        Change::PutLayer(LayerRecord { id: new, parent: Some(onto), revision: 0 }),
        Change::PutVolume(VolumeRecord { head: Some(new), image: state.image_under(onto), ctime_ns: now_ns(), ..record.clone() }),
    ];
    changes.append(&mut more);
    // A head of which nothing is there is not worth keeping; one that is damaged may be to a person.
    let is_there = record.head.is_some_and(|head| context.disk.layer_dir(head).exists());
    let kept = keeper.reverted(record, &mut Serials::after(&state)).filter(|_| is_there);
    let keeps = kept.is_some();
    changes.extend(kept);
    let changes = settled(&state, changes);
    drop(state);
    let dropped = dropped_by(&changes);
    let prepared = operation.prepare(changes)?;
    context.disk.with_reserve(|| layer::create(&context.disk, &on_top_of(&below, new)))?;
    // What there is to flush, mostly while writes go on.
    if let Some(volume) = volume.as_ref().filter(|volume| keeps && !volume.head().is_faulted()) {
        volume.flush_times()?;
    }
    let shut = volume.as_ref().map(|volume| volume.shut(how.force)).transpose()?;
    let limit = context.options.snapshot_pause;
    let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    let halted = volume.as_ref().map(|volume| volume.halt(Instant::now() + limit, limit_ms, keeps)).transpose()?;
    let unproven = context.unproven();
    let committed = prepared.commit().inspect_err(|error| {
        halted.iter().for_each(Paused::stop);
        let message = format!(
            "it is not known whether the revert of volume '{}' was committed ({error}); it takes no more writes until the \
             store is opened again",
            shown(record)
        );
        context.event(EventKind::Damage, message);
    })?;
    shut.iter().for_each(Shut::make_stale);
    context.forget_replaced(record.id);
    if let Err(error) = committed.prove() {
        tracing::error!("a label of volume '{}' could not be promoted: {error}", shown(record));
    }
    drop(unproven);
    drop((halted, shut));
    drop(volume);
    if let Some(head) = record.head.filter(|_| keeps)
        && let Err(error) = super::open::seal(context, head, true)
    {
        let message = format!("what volume '{}' held before its revert could not be sealed: {error}", shown(record));
        context.event(EventKind::Damage, message);
    }
    committed.promote()?;
    context.drop_layers(dropped);
    Ok(())
}

/// What a new head on a sealed layer begins with: its size, floor and times.
pub(super) fn on_top_of(below: &Layer, id: LayerId) -> NewLayer {
    let header = below.header();
    NewLayer {
        id,
        parent: Some(below.id),
        size: header.size,
        data_blocks: header.data_blocks,
        inexact: header.inexact,
        atime_ns: header.atime_ns,
        mtime_ns: header.mtime_ns,
        ctime_ns: now_ns().cast_signed(),
    }
}

/// A layer that something is to stand on. A snapshot's may be left unsealed by a failure; it is sealed now, since a rebuild of
/// a lost catalog believes only what stands on sealed layers.
pub(super) fn sealed_layer(context: &Arc<Context>, id: LayerId) -> Result<Arc<Layer>> {
    super::open::seal(context, id, false)?;
    context.layer(id)
}

/// Whether one more layer may stand on a chain of `layers`.
pub(super) fn check_length(layers: usize) -> Result<()> {
    if layers < MAX_LAYERS {
        Ok(())
    } else {
        Err(Error::Limit { what: "the number of layers in a chain", limit: MAX_LAYERS as u64 })
    }
}
