//! Cloning: a new head on somebody's sealed layer.
//!
//! A clone of a snapshot, and of a volume that was not written since its last snapshot or clone, stands on the layer that is
//! there: intent → new head's layer → **one commit** → label promoted. A clone of a volume that is being written seals its
//! head, exactly as a snapshot does (the order, and what a crash leaves, are in `snapshots.rs`), without a name for it: two
//! new heads stand on the sealed layer, the volume's and the clone's.

use super::keep::{Serials, dropped_by};
use super::revert::{check_length, on_top_of, sealed_layer};
use super::volumes::{exists, live, not_found};
use super::{CloneSource, Context, EventKind, Store};
use crate::catalog::Operation;
use crate::catalog::names::settled;
use crate::catalog::records::{Change, LayerRecord, VolumeRecord};
use crate::catalog::state::State;
use crate::disk::now_ns;
use crate::error::{Error, Noun, Result};
use crate::ids::{LayerId, VolumeId};
use crate::layer::{self, Layer};
use crate::name::Name;
use crate::volume::{Paused, Volume};
use std::sync::Arc;
use std::time::Instant;

/// Where the content comes from.
pub(super) enum Origin {
    /// A sealed layer.
    Layer(Arc<Layer>),
    /// A live volume that has been written.
    Volume { record: VolumeRecord, volume: Arc<Volume>, head: LayerId },
}

impl Origin {
    /// The layer that the new head stands on.
    pub fn layer(&self) -> LayerId {
        match self {
            Origin::Layer(layer) => layer.id,
            Origin::Volume { head, .. } => *head,
        }
    }
}

impl Store {
    /// Makes volume `to` with the content, size, owner and mode of `from`: durable on return, whatever its size. A live
    /// volume is cloned as it is at one instant; its writes stop for a moment, as for a snapshot. `Exists` if there
    /// is a live volume `to`; a headless volume of that name is continued, as by [`Store::create_volume`].
    pub fn clone_volume(&self, from: &CloneSource, to: &Name) -> Result<Arc<Volume>> {
        let context = self.context()?;
        let operation = context.catalog.begin();
        let (origin, (mode, uid, gid)) = origin(context, &operation, from)?;
        let state = operation.read();
        let owner = state.volume_named(to);
        if owner.is_some_and(|owner| owner.head.is_some()) {
            return Err(exists(to));
        }
        super::volumes::check_count(&state, owner)?;
        let now = now_ns();
        let record = VolumeRecord {
            id: owner.map_or_else(VolumeId::new, |owner| owner.id),
            serial: Serials::after(&state).next(),
            name: Some(to.clone()),
            head: Some(LayerId::new()),
            mode,
            uid,
            gid,
            created_ns: now,
            ctime_ns: now,
            image: state.image_under(origin.layer()),
        };
        drop(state);
        let id = record.id;
        put_on(context, operation, origin, record, None)?;
        context.volume(id)
    }

    /// Gives the live volume `to`, which must be empty (size 0), the content and size of `from`, in place: whoever has it
    /// open goes on with it. For a `copy_file_range` of a whole file into a new one. `NotSupported` (copy the bytes then)
    /// if `to` isn't empty. Owner, mode and name stay.
    pub fn clone_into(&self, from: &CloneSource, to: VolumeId) -> Result<()> {
        let context = self.context()?;
        let operation = context.catalog.begin();
        let (origin, _) = origin(context, &operation, from)?;
        let state = operation.read();
        let gone = || Error::NotFound { noun: Noun::Volume, name: to.to_string() };
        let before = state.volumes.get(&to).filter(|record| record.head.is_some()).ok_or_else(gone)?;
        let record = VolumeRecord {
            head: Some(LayerId::new()),
            image: state.image_under(origin.layer()),
            ctime_ns: now_ns(),
            ..before.clone()
        };
        drop(state);
        let target = context.volume(to)?;
        if matches!(&origin, Origin::Volume { record, .. } if record.id == to) || target.stat().size > 0 {
            return Err(Error::NotSupported { what: "cloning into a volume that is not empty" });
        }
        put_on(context, operation, origin, record, Some((&target, u64::MAX)))
    }
}

/// What is cloned, and its mode and owner.
fn origin(context: &Arc<Context>, operation: &Operation<'_>, from: &CloneSource) -> Result<(Origin, (u32, u32, u32))> {
    let state = operation.read();
    match from {
        CloneSource::Snapshot { set, volume_name } => {
            let missing = || Error::NotFound { noun: Noun::Snapshot, name: format!("{set}/{volume_name}") };
            let snapshot = state.snapshot_named(set, volume_name).ok_or_else(missing)?.clone();
            check_length(state.chain(snapshot.layer).len())?;
            drop(state);
            let layer = sealed_layer(context, snapshot.layer)?;
            Ok((Origin::Layer(layer), (snapshot.mode, snapshot.uid, snapshot.gid)))
        }
        CloneSource::Volume(name) => {
            let (record, head) = live(&state, name)?;
            let (record, length) = (record.clone(), state.chain(head).len());
            drop(state);
            let volume = context.volume(record.id)?;
            let about = (record.mode, record.uid, record.gid);
            if let Some(layer) = volume.untouched()?.filter(|layer| stays(&operation.read(), layer.id)) {
                return Ok((Origin::Layer(layer), about));
            }
            check_length(length)?;
            Ok((Origin::Volume { record, volume, head }, about))
        }
    }
}

/// Whether a layer is not merged into the one above it, as long as the operation lasts.
pub(super) fn stays(state: &State, layer: LayerId) -> bool {
    state.name_count(layer) > 0 || state.child_count(layer) > 1
}

/// Commits `record`, a volume with a new head on the origin's layer. `into`: the open volume that goes on with that head, and
/// the most bytes that it may get (else `NotSupported`).
pub(super) fn put_on(
    context: &Arc<Context>,
    operation: Operation<'_>,
    origin: Origin,
    record: VolumeRecord,
    into: Option<(&Arc<Volume>, u64)>,
) -> Result<()> {
    let Some(new) = record.head else { return Err(not_found_head(&record)) };
    let onto = origin.layer();
    let mut changes = vec![Change::PutLayer(LayerRecord { id: new, parent: Some(onto), revision: 0 })];
    let own = LayerId::new();
    if let Origin::Volume { record, .. } = &origin {
        changes.push(Change::PutLayer(LayerRecord { id: own, parent: Some(onto), revision: 0 }));
        changes.push(Change::PutVolume(VolumeRecord { head: Some(own), ..record.clone() }));
    }
    let name = record.name.clone();
    changes.push(Change::PutVolume(record));
    let state = operation.read();
    let changes = settled(&state, changes);
    let mut ids = state.chain(onto);
    drop(state);
    ids.push(new);
    let dropped = dropped_by(&changes);
    let prepared = operation.prepare(changes)?;
    match &origin {
        Origin::Layer(layer) => context.disk.with_reserve(|| layer::create(&context.disk, &on_top_of(layer, new)))?,
        Origin::Volume { volume, .. } => {
            volume.prepare_head(new)?;
            volume.prepare_head(own)?;
        }
    }

    let limit = context.options.snapshot_pause;
    let until = Instant::now() + limit;
    let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    let target = into.map(|(volume, _)| volume.halt(until, limit_ms, false)).transpose()?;
    if target.as_ref().is_some_and(|target| target.size() > 0) {
        return Err(Error::NotSupported { what: "cloning into a volume that is not empty" });
    }
    let mut paused = None;
    if let Origin::Volume { volume, .. } = &origin {
        let pause = volume.pause(until, limit_ms)?;
        if into.is_some_and(|(_, limit)| pause.size() > limit) {
            return Err(Error::NotSupported { what: "cloning more than was asked for" });
        }
        let head = pause.settle(own)?;
        pause.settle(new)?;
        paused = Some((pause, head));
    }
    if Instant::now() >= until {
        return Err(Error::SnapshotTimeout { limit_ms });
    }
    // What can fail, fails before the commit.
    let replacing = target.map(|target| Ok::<_, Error>((target, context.chain(&ids)?, open_head(context, new)?))).transpose()?;
    let unproven = context.unproven();
    let committed = prepared.commit().inspect_err(|error| {
        let stopped: Vec<&Paused<'_>> =
            paused.iter().map(|(pause, _)| pause).chain(replacing.iter().map(|(target, ..)| target)).collect();
        stopped.iter().for_each(|pause| pause.stop());
        if !stopped.is_empty() {
            let shown = name.as_ref().map_or_else(String::new, Name::to_string);
            let message = format!(
                "it is not known whether clone '{shown}' was committed ({error}); it and the volume that it was made of take no \
                 more writes until the store is opened again"
            );
            context.event(EventKind::Damage, message);
        }
    })?;
    let sealed = paused.as_ref().map(|(pause, _)| pause.sealed());
    if let Some((pause, head)) = paused {
        pause.swap(head, &unproven.proof);
    }
    if let Some((target, chain, head)) = replacing {
        head.touch(now_ns().cast_signed());
        target.replace(chain, head, &unproven.proof);
    }
    if let Err(error) = committed.prove() {
        tracing::error!("a label of a clone could not be promoted: {error}");
    }
    drop(unproven);
    if let Some(layer) = sealed {
        layer.seal()?;
    }
    committed.promote()?;
    context.drop_layers(dropped);
    Ok(())
}

fn open_head(context: &Arc<Context>, id: LayerId) -> Result<Arc<layer::Head>> {
    layer::Head::open(context.layer(id)?).map(|(head, _)| head)
}

fn not_found_head(record: &VolumeRecord) -> Error {
    record.name.as_ref().map_or(Error::NotFound { noun: Noun::Volume, name: record.id.to_string() }, not_found)
}
