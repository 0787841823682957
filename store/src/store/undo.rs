//! What was deleted, or left by a revert, and can be restored for a while.
//!
//! A record of it is a name of its layer like any other, so that nothing happens to the layer as long as there is one.
//! Restoring gives the layer another name (a snapshot), or puts a new head on it (a volume), in one catalog operation;
//! expiry takes the name away, as deleting a snapshot does.

use super::keep::{Serials, dropped_by};
use super::revert::{check_length, on_top_of, replace_head, sealed_layer};
use super::{Context, Keep, RemovedInfo, RemovedKind, Revert, Store};
use crate::catalog::names::settled;
use crate::catalog::records::{Change, LayerRecord, Removed, RemovedRecord, SetRecord, SnapshotRecord, VolumeRecord};
use crate::catalog::state::State;
use crate::disk::now_ns;
use crate::error::{Error, Noun, Result};
use crate::ids::{LayerId, VolumeId};
use crate::layer;
use crate::name::Name;
use crate::units::{MAX_REMOVED, MAX_SNAPSHOTS};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Store {
    /// What can be restored, the latest last.
    #[must_use]
    pub fn removed(&self) -> Vec<RemovedInfo> {
        let Ok(context) = self.context() else { return Vec::new() };
        let records: Vec<_> = context.catalog.read().removed.values().cloned().collect();
        records.iter().map(|record| info(context, record)).collect()
    }

    /// What the command that last took `volume` (without `set`), the snapshot `set` of all volumes (without `volume`), or the
    /// file `set/volume` away can give back, by the names that they had then. `NotFound` if there is nothing.
    pub fn removed_by_name(&self, volume: Option<&Name>, set: Option<&Name>) -> Result<Vec<RemovedInfo>> {
        let is_it = |info: &RemovedInfo| {
            volume.is_none_or(|volume| info.volume_name.as_ref() == Some(volume)) && info.set.as_ref() == set
        };
        let all = self.removed();
        let name = || [set, volume].into_iter().flatten().map(Name::to_string).collect::<Vec<_>>().join("/");
        let last = all.iter().rev().find(|info| is_it(info)).map(|info| info.group);
        let last = last.ok_or_else(|| Error::NotFound { noun: Noun::Removed, name: name() })?;
        // A volume that was deleted with its snapshots comes back with them.
        let wanted = |info: &RemovedInfo| info.group == last && (is_it(info) || set.is_none());
        Ok(all.into_iter().filter(|info| wanted(info)).collect())
    }

    /// Restores things by their serials, all in one change: durable on return. A snapshot gets its name back, or set
    /// `new_name`; a volume its head, under its name or `new_name`; a revert is undone, and what the volume holds now is
    /// kept for undo in turn (with `new_name`, what it held before the revert becomes a new volume). `Exists` where the name
    /// is taken, `Busy` while something to be restored, or a volume whose revert is undone, is open. Gives what was
    /// restored, as it was listed.
    pub fn undo(&self, serials: &[u64], new_name: Option<&Name>) -> Result<Vec<RemovedInfo>> {
        let context = self.context()?;
        let operation = context.catalog.begin();
        let state = operation.read();
        let records = select(&state, serials)?;
        drop(state);
        let infos: Vec<_> = records.iter().map(|record| info(context, record)).collect();
        for record in &records {
            context.seal_for_undo(record.layer)?;
        }
        if let (None, [RemovedRecord { what: Removed::Revert(_), .. }]) = (new_name, records.as_slice()) {
            let record = &records[0];
            let state = operation.read();
            let present = state.volumes.get(&record.volume).filter(|volume| volume.head.is_some()).cloned();
            drop(state);
            if let Some(present) = present {
                let how = Revert { force: false, keep: Keep::ForUndo };
                let restored = vec![Change::DeleteRemoved { serial: record.serial, volume: record.volume }];
                replace_head(context, operation, &present, record.layer, how, restored)?;
                return Ok(infos);
            }
        }
        let state = operation.read();
        let mut plan = Plan {
            serials: Serials::after(&state),
            state: &state,
            changes: Vec::new(),
            heads: Vec::new(),
            sets: BTreeSet::new(),
        };
        for record in &records {
            plan.restore(record, new_name)?;
        }
        let (changes, heads) = (settled(&state, plan.changes), plan.heads);
        drop(state);
        let prepared = operation.prepare(changes)?;
        for (new, onto) in heads {
            let below = sealed_layer(context, onto)?;
            context.disk.with_reserve(|| layer::create(&context.disk, &on_top_of(&below, new)))?;
        }
        let unproven = context.unproven();
        let committed = prepared.commit()?;
        if let Err(error) = committed.prove() {
            tracing::error!("a label of what was restored could not be promoted: {error}");
        }
        drop(unproven);
        committed.promote()?;
        Ok(infos)
    }

    /// Gives things up for good, by their serials, all in one change: durable on return.
    pub fn forget_removed(&self, serials: &[u64]) -> Result<()> {
        give_up(self.context()?, |state| select(state, serials)).map(drop)
    }
}

/// What restores several things at once.
struct Plan<'a> {
    state: &'a State,
    serials: Serials,
    changes: Vec<Change>,
    /// New heads, and what they stand on.
    heads: Vec<(LayerId, LayerId)>,
    sets: BTreeSet<Name>,
}

impl Plan<'_> {
    fn restore(&mut self, record: &RemovedRecord, new_name: Option<&Name>) -> Result<()> {
        self.changes.push(Change::DeleteRemoved { serial: record.serial, volume: record.volume });
        match &record.what {
            Removed::Snapshot(snapshot) => self.snapshot(snapshot, record.layer, new_name),
            Removed::Volume(volume) | Removed::Revert(volume) => self.volume(volume, record.layer, new_name),
        }
    }

    fn snapshot(&mut self, snapshot: &SnapshotRecord, layer: LayerId, new_name: Option<&Name>) -> Result<()> {
        let set = new_name.unwrap_or(&snapshot.set).clone();
        if self.state.snapshots.contains_key(&(set.clone(), snapshot.volume)) {
            let name = format!("{set}/{}", snapshot.taken_as);
            return Err(Error::Exists { noun: Noun::Snapshot, name });
        }
        if self.state.snapshot_count(snapshot.volume) >= MAX_SNAPSHOTS {
            return Err(Error::Limit { what: "the number of snapshots of a volume", limit: MAX_SNAPSHOTS });
        }
        if !self.state.sets.contains_key(&set) && self.sets.insert(set.clone()) {
            let serial = self.serials.next();
            self.changes.push(Change::PutSet(SetRecord { name: set.clone(), serial, created_ns: snapshot.created_ns }));
        }
        self.changes.push(Change::PutSnapshot(SnapshotRecord { set, layer, ..snapshot.clone() }));
        Ok(())
    }

    fn volume(&mut self, volume: &VolumeRecord, layer: LayerId, new_name: Option<&Name>) -> Result<()> {
        let name = match new_name.or(volume.name.as_ref()) {
            Some(name) => name.clone(),
            None => Name::new(volume.id.to_string())?,
        };
        let given = |change: &Change| matches!(change, Change::PutVolume(other) if other.name.as_ref() == Some(&name));
        let owner = self.state.volumes.get(&volume.id).filter(|owner| owner.head.is_none());
        let owner = owner.filter(|owner| !self.changes.iter().any(|c| matches!(c, Change::PutVolume(v) if v.id == owner.id)));
        match self.state.volume_named(&name) {
            _ if self.changes.iter().any(given) => return Err(super::volumes::exists(&name)),
            Some(other) if other.head.is_some() => return Err(super::volumes::exists(&name)),
            // Only snapshots are left of the name's last owner: it is known by them alone from now on.
            Some(other) if owner.is_none_or(|owner| owner.id != other.id) => {
                self.changes.push(Change::PutVolume(VolumeRecord { name: None, ..other.clone() }));
            }
            _ => {}
        }
        super::volumes::check_count(self.state, owner)?;
        check_length(self.state.chain(layer).len())?;
        let head = LayerId::new();
        let (id, serial) = match owner {
            Some(owner) => (owner.id, volume.serial),
            // Somebody goes on under its identity already.
            None => (VolumeId::new(), self.serials.next()),
        };
        self.changes.push(Change::PutLayer(LayerRecord { id: head, parent: Some(layer), revision: 0 }));
        self.changes.push(Change::PutVolume(VolumeRecord {
            id,
            serial,
            name: Some(name),
            head: Some(head),
            ctime_ns: now_ns(),
            image: self.state.image_under(layer),
            ..volume.clone()
        }));
        self.heads.push((head, layer));
        Ok(())
    }
}

fn select(state: &State, serials: &[u64]) -> Result<Vec<RemovedRecord>> {
    let serials: BTreeSet<u64> = serials.iter().copied().collect();
    let find = |serial: u64| {
        let missing = || Error::NotFound { noun: Noun::Removed, name: serial.to_string() };
        state.removed.get(&serial).cloned().ok_or_else(missing)
    };
    serials.into_iter().map(find).collect()
}

/// Whether a layer is kept to be restored.
pub(super) fn is_kept(context: &Context, layer: LayerId) -> bool {
    context.catalog.read().removed.values().any(|removed| removed.layer == layer)
}

/// Gives up what has been kept long enough, and the oldest beyond the limit, all in one change; how many there were.
pub(crate) fn expire(context: &Arc<Context>) -> Result<usize> {
    let now = now_ns();
    let over = |state: &State| {
        let beyond = state.removed.len().saturating_sub(MAX_REMOVED);
        let due = |(index, record): (usize, &RemovedRecord)| (index < beyond || record.until_ns <= now).then(|| record.clone());
        state.removed.values().enumerate().filter_map(due).collect::<Vec<_>>()
    };
    if over(&context.catalog.read()).is_empty() {
        return Ok(0);
    }
    give_up(context, |state| Ok(over(state)))
}

/// Gives up the oldest, until `bytes` of disk may come back or nothing is left; how many there were.
pub(crate) fn reclaim(context: &Arc<Context>, bytes: u64) -> Result<usize> {
    let oldest = |state: &State| {
        let mut left = bytes;
        let mut chosen = Vec::new();
        for record in state.removed.values() {
            if left == 0 {
                break;
            }
            // At most that: what others stand on comes back in part, when it was merged.
            left = left.saturating_sub(layer::allocated(&context.disk, record.layer));
            chosen.push(record.clone());
        }
        Ok(chosen)
    };
    give_up(context, oldest)
}

fn give_up(context: &Arc<Context>, choose: impl FnOnce(&State) -> Result<Vec<RemovedRecord>>) -> Result<usize> {
    let operation = context.catalog.begin();
    let state = operation.read();
    let records = choose(&state)?;
    if records.is_empty() {
        return Ok(0);
    }
    let delete = |record: &RemovedRecord| Change::DeleteRemoved { serial: record.serial, volume: record.volume };
    let changes = settled(&state, records.iter().map(delete).collect());
    drop(state);
    let dropped = dropped_by(&changes);
    operation.prepare(changes)?.commit()?.promote()?;
    context.drop_layers(dropped);
    Ok(records.len())
}

fn info(context: &Arc<Context>, record: &RemovedRecord) -> RemovedInfo {
    let (kind, volume_name, set) = match &record.what {
        Removed::Snapshot(snapshot) => (RemovedKind::Snapshot, Some(snapshot.taken_as.clone()), Some(snapshot.set.clone())),
        Removed::Volume(volume) => (RemovedKind::Volume, volume.name.clone(), None),
        Removed::Revert(volume) => (RemovedKind::Revert, volume.name.clone(), None),
    };
    let created_ns = match &record.what {
        Removed::Snapshot(snapshot) => snapshot.created_ns,
        Removed::Volume(volume) | Removed::Revert(volume) => volume.created_ns,
    };
    RemovedInfo {
        created_ns,
        serial: record.serial,
        group: record.group,
        kind,
        volume_name,
        volume: record.volume,
        set,
        layer: record.layer,
        // 0 if it can't be read, which restoring it will tell.
        size: context.layer(record.layer).map_or(0, |layer| layer.header().size),
        removed_ns: record.removed_ns,
        until_ns: record.until_ns,
        open: context.is_unlinked_open(record.layer),
    }
}
