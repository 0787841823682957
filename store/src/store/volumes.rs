//! Volumes by name: list, make, rename, delete.
//!
//! Each change is one operation of the catalog: intents in the labels, new layers, **one commit**, labels promoted. What
//! a crash between any two leaves is in `FORMAT.md`.

use super::context::shown;
use super::keep::{Keeper, Serials, dropped_by};
use super::{Context, DeleteVolume, Keep, NewVolume, RenameMode, Store, VolumeInfo, VolumeSpace};
use crate::catalog::names::settled;
use crate::catalog::records::{Change, ImageRecord, LayerRecord, VolumeRecord};
use crate::catalog::state::State;
use crate::disk::now_ns;
use crate::error::{Error, Noun, Result};
use crate::ids::{LayerId, VolumeId};
use crate::layer::{self, NewLayer};
use crate::name::Name;
use crate::units::{BLOCK_SIZE, MAX_VOLUME_SIZE, MAX_VOLUMES};
use crate::volume::Volume;
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
        let state = context.catalog.read();
        // One of which only restorable things are left is no volume to anybody.
        let shown = |record: &&VolumeRecord| record.head.is_some() || state.snapshot_count(record.id) > 0;
        let records: Vec<_> = state.volumes.values().filter(shown).cloned().collect();
        drop(state);
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
        check_count(&state, owner)?;
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
        let mut serials = Serials::after(&state);
        let mut keeper = Keeper::new(context, Keep::ForUndo);
        match (mode, target) {
            (RenameMode::Exchange, Some(mut target)) if target.head.is_some() => {
                target.name = Some(from.clone());
                target.ctime_ns = source.ctime_ns;
                changes.push(Change::PutVolume(target));
            }
            (RenameMode::Exchange, _) => return Err(not_found(to)),
            (RenameMode::NoReplace, Some(target)) if target.head.is_some() => return Err(exists(to)),
            (RenameMode::Replace, Some(target)) if target.head.is_some() => {
                changes.push(Change::PutVolume(VolumeRecord { name: None, ..without_head(&target) }));
                changes.extend(keeper.head(&target, &mut serials));
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
        let changes = settled(&state, changes);
        drop(state);
        let committed = operation.prepare(changes.clone())?.commit()?;
        for change in &changes {
            if let Change::PutVolume(record) = change {
                context.renew(record);
            }
        }
        if let Some(target) = replaced {
            context.unlink(target.id, target.head.filter(|_| keeper.keeps()));
        }
        committed.promote()?;
        context.drop_layers(dropped_by(&changes));
        Ok(())
    }

    /// Deletes a volume: durable on return. A volume that is open stays readable and writable through the
    /// `Arc<Volume>` that somebody holds. When the last one is dropped, its layer goes, or is sealed if it can be restored.
    pub fn delete_volume(&self, name: &Name, what: DeleteVolume, keep: Keep) -> Result<()> {
        let context = self.context()?;
        let operation = context.catalog.begin();
        let state = operation.read();
        let record = state.volume_named(name).cloned().ok_or_else(|| not_found(name))?;
        let (mut serials, mut keeper) = (Serials::after(&state), Keeper::new(context, keep));
        let mut changes = vec![Change::PutVolume(without_head(&record))];
        changes.extend(keeper.head(&record, &mut serials));
        match what {
            DeleteVolume::Head => drop(live(&state, name)?),
            DeleteVolume::WithSnapshots => {
                for snapshot in state.snapshots_of(record.id) {
                    changes.push(Change::DeleteSnapshot { set: snapshot.set.clone(), volume: record.id });
                    if state.snapshots_in(&snapshot.set).nth(1).is_none() {
                        changes.push(Change::DeleteSet(snapshot.set.clone()));
                    }
                    changes.extend(keeper.snapshot(snapshot, &mut serials));
                }
            }
        }
        let changes = settled(&state, changes);
        drop(state);
        let dropped = dropped_by(&changes);
        let committed = operation.prepare(changes)?.commit()?;
        // Before anybody else's operation: a new volume may go on under this identity.
        context.unlink(record.id, record.head.filter(|_| keeper.keeps()));
        committed.promote()?;
        context.drop_layers(dropped);
        Ok(())
    }

    /// Lets a volume whose flush failed be written again, from what its last good flush made durable.
    pub fn clear_fault(&self, name: &Name) -> Result<()> {
        self.volume(name)?.clear_fault()
    }
}

pub(super) fn exists(name: &Name) -> Error {
    Error::Exists { noun: Noun::Volume, name: name.to_string() }
}

/// Whether there may be one volume more; one that continues a headless `owner` is none more.
pub(super) fn check_count(state: &State, owner: Option<&VolumeRecord>) -> Result<()> {
    if owner.is_some() || state.volumes.len() < MAX_VOLUMES {
        Ok(())
    } else {
        Err(Error::Limit { what: "the number of volumes in the store", limit: MAX_VOLUMES as u64 })
    }
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

/// The record of a volume whose head is taken away: the owner of what is left.
fn without_head(record: &VolumeRecord) -> VolumeRecord {
    VolumeRecord { head: None, image: None, ctime_ns: now_ns(), ..record.clone() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_volumes_is_limited_but_a_headless_one_can_be_continued() {
        let mut state = State::new();
        let record = |serial: u64| VolumeRecord {
            id: VolumeId::new(),
            serial,
            name: None,
            head: None,
            mode: 0,
            uid: 0,
            gid: 0,
            created_ns: 0,
            ctime_ns: 0,
            image: None,
        };
        let all: Vec<VolumeRecord> = (0..MAX_VOLUMES as u64).map(record).collect();
        all.iter().skip(1).for_each(|volume| drop(state.volumes.insert(volume.id, volume.clone())));
        assert!(check_count(&state, None).is_ok());
        state.volumes.insert(all[0].id, all[0].clone());
        assert!(matches!(check_count(&state, None), Err(Error::Limit { limit: 65_536, .. })));
        assert!(check_count(&state, all.first()).is_ok());
    }
}
