//! Volumes by name: list, make, rename, delete.
//!
//! Each change is one operation of the catalog: intents in the labels, new layers, **one commit**, labels promoted. What
//! a crash between any two leaves is in `FORMAT.md`.

use super::context::shown;
use super::{Context, DeleteVolume, Keep, NewVolume, RenameMode, Store, VolumeInfo, VolumeSpace};
use crate::catalog::records::{Change, ImageRecord, LayerRecord, VolumeRecord};
use crate::catalog::state::State;
use crate::disk::now_ns;
use crate::error::{Error, Noun, Result};
use crate::ids::{LayerId, VolumeId};
use crate::layer::{self, NewLayer};
use crate::name::Name;
use crate::units::{BLOCK_SIZE, MAX_VOLUME_SIZE};
use crate::volume::Volume;
use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) fn not_found(name: &Name) -> Error {
    Error::NotFound { noun: Noun::Volume, name: name.to_string() }
}

/// A live volume, or why there is none.
pub(super) fn live<'a>(state: &'a State, name: &Name) -> Result<(&'a VolumeRecord, LayerId)> {
    let record = state.volume_named(name).ok_or_else(|| not_found(name))?;
    let head = record.head.ok_or_else(|| Error::Headless { name: name.to_string() })?;
    Ok((record, head))
}

impl Store {
    /// Every volume, headless ones included, by name.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        let Ok(context) = self.context() else { return Vec::new() };
        let records: Vec<_> = context.catalog.read().volumes.values().cloned().collect();
        let mut infos: Vec<_> = records.iter().map(|record| info(context, record)).collect();
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        infos
    }

    /// One volume by its present name (headless ones too).
    pub fn volume_info(&self, name: &Name) -> Result<VolumeInfo> {
        let context = self.context()?;
        let record = context.catalog.read().volume_named(name).cloned().ok_or_else(|| not_found(name))?;
        Ok(info(context, &record))
    }

    /// What a volume takes, counted from the maps.
    pub fn volume_space(&self, name: &Name) -> Result<VolumeSpace> {
        let volume = self.volume(name)?;
        Ok(VolumeSpace { data: volume.stat().data, head: volume.head().layer.count_data()? * BLOCK_SIZE })
    }

    /// Opens a live volume. `Headless` when only snapshots are left.
    pub fn volume(&self, name: &Name) -> Result<Arc<Volume>> {
        let context = self.context()?;
        let id = live(&context.catalog.read(), name)?.0.id;
        context.volume(id)
    }

    /// Opens a live volume by identity.
    pub fn volume_by_id(&self, id: VolumeId) -> Result<Arc<Volume>> {
        self.context()?.volume(id)
    }

    /// Makes a volume: durable on return. Continues a headless volume of this name, if there is one.
    pub fn create_volume(&self, name: &Name, new: &NewVolume) -> Result<Arc<Volume>> {
        let context = self.context()?;
        let operation = context.catalog.begin();
        let state = operation.read();
        let owner = state.volume_named(name);
        if owner.is_some_and(|owner| owner.head.is_some()) {
            return Err(Error::Exists { noun: Noun::Volume, name: name.to_string() });
        }
        let image = match &new.image {
            None => None,
            Some(image) => Some(state.image_named(image).ok_or_else(|| super::images::not_found(image))?.clone()),
        };
        let size = size_of(new, image.as_ref())?;
        let now = now_ns();
        let head = LayerId::new();
        let parent = image.as_ref().map(|image| image.layer);
        let record = VolumeRecord {
            id: owner.map_or_else(VolumeId::new, |owner| owner.id),
            serial: state.next_serial,
            name: Some(name.clone()),
            head: Some(head),
            mode: new.mode & 0o7777,
            uid: new.uid,
            gid: new.gid,
            created_ns: now,
            ctime_ns: now,
            image: image.as_ref().map(|image| image.id),
        };
        drop(state);
        let changes = vec![Change::PutLayer(LayerRecord { id: head, parent, revision: 0 }), Change::PutVolume(record.clone())];
        let prepared = operation.prepare(changes)?;
        let layer = NewLayer {
            id: head,
            parent,
            size,
            data_blocks: image.map_or(0, |image| image.data / BLOCK_SIZE),
            inexact: false,
            atime_ns: now.cast_signed(),
            mtime_ns: now.cast_signed(),
            ctime_ns: now.cast_signed(),
        };
        context.disk.with_reserve(|| layer::create(&context.disk, &layer))?;
        prepared.commit()?.promote()?;
        context.volume(record.id)
    }

    /// Gives a live volume another name: durable on return.
    pub fn rename_volume(&self, from: &Name, to: &Name, mode: RenameMode) -> Result<()> {
        let context = self.context()?;
        let operation = context.catalog.begin();
        let state = operation.read();
        let mut source = live(&state, from)?.0.clone();
        let target = state.volume_named(to).cloned();
        if from == to {
            return if mode == RenameMode::NoReplace { Err(exists(to)) } else { Ok(()) };
        }
        source.name = Some(to.clone());
        source.ctime_ns = now_ns();
        let mut changes = Vec::new();
        let mut replaced = None;
        match (mode, target) {
            (RenameMode::Exchange, Some(mut target)) if target.head.is_some() => {
                target.name = Some(from.clone());
                target.ctime_ns = source.ctime_ns;
                changes.push(Change::PutVolume(target));
            }
            (RenameMode::Exchange, _) => return Err(not_found(to)),
            (RenameMode::NoReplace, Some(target)) if target.head.is_some() => return Err(exists(to)),
            (RenameMode::Replace, Some(target)) if target.head.is_some() => {
                changes.extend(without_head(&state, &target, false));
                replaced = Some(target);
            }
            // Only snapshots are left of the name's last owner: it is known by them alone from now on.
            (_, Some(mut headless)) => {
                headless.name = None;
                changes.push(Change::PutVolume(headless));
            }
            (_, None) => {}
        }
        changes.push(Change::PutVolume(source));
        drop(state);
        let dropped = replaced.as_ref().and_then(|target| target.head);
        let committed = operation.prepare(changes.clone())?.commit()?;
        for change in &changes {
            if let Change::PutVolume(record) = change {
                context.renew(record);
            }
        }
        if let Some(target) = replaced {
            context.forget(target.id);
        }
        committed.promote()?;
        context.drop_layers(dropped);
        Ok(())
    }

    /// Deletes a volume: durable on return. A volume that is open stays readable and writable through the
    /// `Arc<Volume>` that somebody holds; its layer goes when the last one is dropped.
    pub fn delete_volume(&self, name: &Name, what: DeleteVolume, keep: Keep) -> Result<()> {
        let _ = keep;
        let context = self.context()?;
        let operation = context.catalog.begin();
        let state = operation.read();
        let record = state.volume_named(name).cloned().ok_or_else(|| not_found(name))?;
        let changes = match what {
            DeleteVolume::Head => {
                live(&state, name)?;
                without_head(&state, &record, true)
            }
            DeleteVolume::WithSnapshots => without_anything(&state, &record),
        };
        drop(state);
        let dropped = layers_dropped(&changes);
        let committed = operation.prepare(changes)?.commit()?;
        // Before anybody else's operation: a new volume may go on under this identity.
        context.forget(record.id);
        committed.promote()?;
        context.drop_layers(dropped);
        Ok(())
    }

    /// Lets a volume whose flush failed be written again, from what its last good flush made durable.
    pub fn clear_fault(&self, name: &Name) -> Result<()> {
        self.volume(name)?.clear_fault()
    }
}

fn exists(name: &Name) -> Error {
    Error::Exists { noun: Noun::Volume, name: name.to_string() }
}

fn size_of(new: &NewVolume, image: Option<&ImageRecord>) -> Result<u64> {
    let size = new.size.unwrap_or_else(|| image.map_or(0, |image| image.size));
    if size > MAX_VOLUME_SIZE {
        return Err(Error::TooBig { size, limit: MAX_VOLUME_SIZE });
    }
    match image {
        Some(image) if size < image.size => {
            Err(Error::SmallerThanImage { size, image: image.name.to_string(), image_size: image.size })
        }
        _ => Ok(size),
    }
}

/// The changes that take a volume's head away; what has snapshots stays as their owner, and of its name if it may.
fn without_head(state: &State, record: &VolumeRecord, keep_name: bool) -> Vec<Change> {
    let mut changes: Vec<Change> = record.head.map(Change::DropLayer).into_iter().collect();
    changes.push(if state.snapshot_count(record.id) == 0 {
        Change::DeleteVolume(record.id)
    } else {
        let name = record.name.clone().filter(|_| keep_name);
        Change::PutVolume(VolumeRecord { name, head: None, image: None, ctime_ns: now_ns(), ..record.clone() })
    });
    changes
}

/// The changes that take a volume and all its snapshots away, and the layers that nobody else needs.
fn without_anything(state: &State, record: &VolumeRecord) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut named: BTreeSet<LayerId> = state.images.values().map(|image| image.layer).collect();
    named.extend(state.volumes.values().filter(|other| other.id != record.id).filter_map(|other| other.head));
    named.extend(state.snapshots.values().filter(|other| other.volume != record.id).map(|other| other.layer));
    let mut gone = BTreeSet::new();
    for layer in state.lineage(record.id).into_iter().rev() {
        let children_gone =
            gone.iter().filter(|child| state.layers.get(child).is_some_and(|c| c.parent == Some(layer.id))).count();
        if !named.contains(&layer.id) && children_gone == state.child_count(layer.id) {
            gone.insert(layer.id);
            changes.push(Change::DropLayer(layer.id));
        }
    }
    for snapshot in state.snapshots_of(record.id) {
        changes.push(Change::DeleteSnapshot { set: snapshot.set.clone(), volume: record.id });
        if state.snapshots_in(&snapshot.set).count() == 1 {
            changes.push(Change::DeleteSet(snapshot.set.clone()));
        }
    }
    changes.push(Change::DeleteVolume(record.id));
    changes
}

fn layers_dropped(changes: &[Change]) -> Vec<LayerId> {
    let dropped = |change: &Change| if let Change::DropLayer(id) = change { Some(*id) } else { None };
    changes.iter().filter_map(dropped).collect()
}

fn info(context: &Arc<Context>, record: &VolumeRecord) -> VolumeInfo {
    let opened = record.head.map(|_| context.volume(record.id));
    let (size, fault) = match &opened {
        None => (0, None),
        Some(Ok(volume)) if volume.head().is_faulted() => (volume.stat().size, Some("faulted".to_owned())),
        Some(Ok(volume)) => (volume.stat().size, None),
        Some(Err(error)) => (0, Some(error.to_string())),
    };
    let state = context.catalog.read();
    VolumeInfo {
        id: record.id,
        serial: record.serial,
        name: record.name.clone(),
        live: record.head.is_some(),
        size,
        mode: record.mode,
        uid: record.uid,
        gid: record.gid,
        created_ns: record.created_ns,
        image: record.image.and_then(|id| state.images.get(&id)).map(|image| image.name.clone()),
        layers: record.head.map(|head| state.chain(head)).unwrap_or_default(),
        snapshots: state.snapshot_count(record.id),
        fault: fault.map(|fault| if fault == "faulted" { fault } else { format!("{}: {fault}", shown(record)) }),
    }
}
