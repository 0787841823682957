//! Snapshots.
//!
//! The order, and what a crash after each step leaves:
//!
//! 1. new heads made, heads flushed, intents in the labels of all volumes, durable — no snapshot
//! 2. writes of all volumes stopped, the rest flushed, the new heads' headers brought up to date — no snapshot
//! 3. **one catalog commit** — the snapshot, of all volumes
//! 4. chains swapped, writes go on into the new heads; syncs wait for step 5
//! 5. one label promoted: from here on the snapshot can be told without the catalog
//! 6. the layers below sealed, the other labels promoted, by this or by the next open
//!
//! Past a limit in step 2 it is abandoned, and writes go on where they were.

use super::{SnapshotInfo, SnapshotSetInfo, Store};
use crate::catalog::records::{Change, LayerRecord, SetRecord, SnapshotRecord, VolumeRecord};
use crate::catalog::state::State;
use crate::disk::now_ns;
use crate::error::{Error, Noun, Result};
use crate::ids::LayerId;
use crate::name::Name;
use crate::schedule::RESERVED;
use crate::units::{MAX_LAYERS, MAX_SNAPSHOTS};
use crate::volume::{Paused, Snapshot, Volume};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// Bytes that the labels of a snapshot may have: they stand in the catalog, whose values must stay small.
const LABELS_BYTES_MAX: usize = 4096;

/// Who takes a snapshot of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taking {
    /// A user, of every volume: the name is new, and made even if there is no volume.
    Every,
    /// A user, of some volumes: the name may be there already with others in it.
    Some,
    /// A schedule: the name is new, and labels that only the program gives are allowed.
    Scheduled,
}

/// A volume's part in a snapshot.
struct Part {
    record: VolumeRecord,
    volume: Arc<Volume>,
    new_head: LayerId,
}

impl Store {
    /// Snapshots every live volume at one instant: whole or not at all, durable on return. Gives the files made.
    pub fn snapshot_all(&self, name: &Name, labels: &BTreeMap<String, String>) -> Result<Vec<SnapshotInfo>> {
        let context = self.context()?;
        let state = context.catalog.read();
        if state.sets.contains_key(name) {
            return Err(exists(name));
        }
        let ids: Vec<_> = state.live_volumes().map(|record| record.id).collect();
        drop(state);
        let mut volumes = Vec::new();
        for id in ids {
            match context.volume(id) {
                // Deleted since it was listed: it is in no snapshot.
                Err(Error::NotFound { .. } | Error::Headless { .. }) => {}
                volume => volumes.push(volume?),
            }
        }
        self.take(volumes, name, labels, Taking::Every)
    }

    /// Snapshots some live volumes at one instant: whole or not at all, durable on return. Gives the files made.
    pub fn snapshot_some(&self, volumes: &[Name], name: &Name, labels: &BTreeMap<String, String>) -> Result<Vec<SnapshotInfo>> {
        let names: BTreeSet<&Name> = volumes.iter().collect();
        let volumes = names.into_iter().map(|volume| self.volume(volume)).collect::<Result<Vec<_>>>()?;
        self.take(volumes, name, labels, Taking::Some)
    }

    /// Snapshots one volume: durable on return.
    pub fn snapshot(&self, volume: &Name, name: &Name, labels: &BTreeMap<String, String>) -> Result<SnapshotInfo> {
        let volume = self.volume(volume)?;
        let taken = self.take(vec![volume], name, labels, Taking::Some)?;
        taken.into_iter().next().ok_or_else(|| not_found(name))
    }

    pub(super) fn take(
        &self,
        volumes: Vec<Arc<Volume>>,
        name: &Name,
        labels: &BTreeMap<String, String>,
        taking: Taking,
    ) -> Result<Vec<SnapshotInfo>> {
        check_labels(labels, taking)?;
        let context = self.context()?;
        let operation = context.catalog.begin();
        let state = operation.read();
        if taking != Taking::Some && state.sets.contains_key(name) {
            return Err(exists(name));
        }
        let mut records = Vec::new();
        for volume in &volumes {
            // Deleted since it was listed: it is in no snapshot.
            let Some(record) = state.volumes.get(&volume.id()).filter(|record| record.head.is_some()) else { continue };
            check(&state, record, name)?;
            records.push(record.clone());
        }
        drop(state);
        let mut parts = Vec::new();
        for record in records {
            // Asked for again: since it was listed, it may have been deleted and made anew under its identity.
            parts.push(Part { volume: context.volume(record.id)?, record, new_head: LayerId::new() });
        }
        let state = operation.read();
        let changes = changes(&state, &parts, name, labels);
        drop(state);
        let infos = infos_of(&changes);
        if parts.is_empty() {
            if taking == Taking::Every {
                operation.commit_unlabelled(changes)?;
            }
            return Ok(Vec::new());
        }
        let prepared = operation.prepare(changes)?;
        for part in &parts {
            part.volume.prepare_head(part.new_head)?;
        }

        let limit = context.options.snapshot_pause;
        let until = Instant::now() + limit;
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let mut paused: Vec<(Paused<'_>, _)> = Vec::new();
        for part in &parts {
            let pause = part.volume.pause(until, limit_ms)?;
            let head = pause.settle(part.new_head)?;
            paused.push((pause, head));
        }
        if Instant::now() >= until {
            return Err(Error::SnapshotTimeout { limit_ms });
        }
        let unproven = context.unproven();
        let committed = prepared.commit().inspect_err(|error| {
            paused.iter().for_each(|(pause, _)| pause.stop());
            let message = format!(
                "it is not known whether snapshot '{name}' was committed ({error}); \
                 its volumes take no more writes until the store is opened again"
            );
            context.event(super::EventKind::Damage, message);
        })?;

        let sealed: Vec<_> = paused.iter().map(|(pause, _)| pause.sealed()).collect();
        let sizes: Vec<u64> = sealed.iter().map(|layer| layer.header().size).collect();
        for (pause, head) in paused {
            pause.swap(head, &unproven.proof);
        }
        if let Err(error) = committed.prove() {
            tracing::error!("a label of snapshot '{name}' could not be promoted: {error}");
        }
        drop(unproven);
        for layer in sealed {
            layer.seal()?;
        }
        committed.promote()?;
        Ok(infos.into_iter().zip(sizes).map(|(record, size)| info(&record, size)).collect())
    }

    /// Every snapshot, by time.
    #[must_use]
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        let Ok(context) = self.context() else { return Vec::new() };
        let mut records: Vec<_> = context.catalog.read().snapshots.values().cloned().collect();
        records.sort_by_key(|record| (record.created_ns, record.serial));
        records.iter().map(|record| self.sized(record)).collect()
    }

    /// The directories under `.snapshots`, by name.
    #[must_use]
    pub fn snapshot_sets(&self) -> Vec<SnapshotSetInfo> {
        let Ok(context) = self.context() else { return Vec::new() };
        context.catalog.read().sets.values().map(set_info).collect()
    }

    /// One directory under `.snapshots`.
    pub fn snapshot_set(&self, name: &Name) -> Result<SnapshotSetInfo> {
        self.context()?.catalog.read().sets.get(name).map(set_info).ok_or_else(|| not_found(name))
    }

    /// The files of one directory under `.snapshots`, by name.
    #[must_use]
    pub fn snapshots_in(&self, set: &Name) -> Vec<SnapshotInfo> {
        let Ok(context) = self.context() else { return Vec::new() };
        let mut records: Vec<_> = context.catalog.read().snapshots_in(set).cloned().collect();
        records.sort_by(|a, b| a.taken_as.cmp(&b.taken_as));
        records.iter().map(|record| self.sized(record)).collect()
    }

    /// One file under `.snapshots`.
    pub fn snapshot_info(&self, set: &Name, volume_name: &Name) -> Result<SnapshotInfo> {
        let record = self.snapshot_record(set, volume_name)?;
        Ok(self.sized(&record))
    }

    /// Opens a snapshot for reading.
    pub fn open_snapshot(&self, set: &Name, volume_name: &Name) -> Result<Arc<Snapshot>> {
        self.context()?.snapshot(set, volume_name)
    }

    fn snapshot_record(&self, set: &Name, volume_name: &Name) -> Result<SnapshotRecord> {
        let context = self.context()?;
        let state = context.catalog.read();
        let found = state.snapshot_named(set, volume_name).cloned();
        found.ok_or_else(|| Error::NotFound { noun: Noun::Snapshot, name: format!("{set}/{volume_name}") })
    }

    /// With the size that the sealed layer has; 0 if that can't be read, which opening it will tell.
    pub(super) fn sized(&self, record: &SnapshotRecord) -> SnapshotInfo {
        let size = self.context().and_then(|context| context.layer(record.layer)).map_or(0, |layer| layer.header().size);
        info(record, size)
    }
}

pub(super) fn exists(name: &Name) -> Error {
    Error::Exists { noun: Noun::Snapshot, name: name.to_string() }
}

pub(super) fn not_found(name: &Name) -> Error {
    Error::NotFound { noun: Noun::Snapshot, name: name.to_string() }
}

fn check(state: &State, record: &VolumeRecord, name: &Name) -> Result<()> {
    let taken = |other: &SnapshotRecord| other.volume == record.id || Some(&other.taken_as) == record.name.as_ref();
    if state.snapshots_in(name).any(taken) {
        return Err(Error::Exists { noun: Noun::Snapshot, name: format!("{name}/{}", super::context::shown(record)) });
    }
    if state.snapshot_count(record.id) >= MAX_SNAPSHOTS {
        return Err(Error::Limit { what: "the number of snapshots of a volume", limit: MAX_SNAPSHOTS });
    }
    if record.head.map_or(0, |head| state.chain(head).len()) >= MAX_LAYERS {
        return Err(Error::Limit { what: "the number of layers in a chain", limit: MAX_LAYERS as u64 });
    }
    Ok(())
}

pub(super) fn check_labels(labels: &BTreeMap<String, String>, taking: Taking) -> Result<()> {
    let refuse = |label: &str, reason| Err(Error::InvalidLabel { label: label.to_owned(), reason });
    if taking != Taking::Scheduled
        && let Some((key, _)) = labels.iter().find(|(key, _)| key.starts_with(RESERVED))
    {
        return refuse(key, "labels that begin with 'outcrop.' are given by the program only");
    }
    if let Some((key, _)) = labels.iter().find(|(key, _)| key.is_empty()) {
        return refuse(key, "its key is empty");
    }
    if labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > LABELS_BYTES_MAX {
        return refuse(labels.keys().next().map_or("", String::as_str), "all labels together are longer than 4096 bytes");
    }
    Ok(())
}

fn changes(state: &State, parts: &[Part], set: &Name, labels: &BTreeMap<String, String>) -> Vec<Change> {
    let now = now_ns();
    let mut serial = state.next_serial;
    let mut next_serial = || {
        serial += 1;
        serial - 1
    };
    let mut changes = Vec::new();
    if !state.sets.contains_key(set) {
        changes.push(Change::PutSet(SetRecord { name: set.clone(), serial: next_serial(), created_ns: now }));
    }
    for part in parts {
        let (record, Some(name), Some(head)) = (&part.record, &part.record.name, part.record.head) else { continue };
        changes.push(Change::PutSnapshot(SnapshotRecord {
            set: set.clone(),
            volume: record.id,
            taken_as: name.clone(),
            layer: head,
            serial: next_serial(),
            created_ns: now,
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            labels: labels.clone(),
        }));
        changes.push(Change::PutLayer(LayerRecord { id: part.new_head, parent: Some(head), revision: 0 }));
        changes.push(Change::PutVolume(VolumeRecord { head: Some(part.new_head), ..record.clone() }));
    }
    changes
}

fn infos_of(changes: &[Change]) -> Vec<SnapshotRecord> {
    let snapshot = |change: &Change| if let Change::PutSnapshot(record) = change { Some(record.clone()) } else { None };
    changes.iter().filter_map(snapshot).collect()
}

fn info(record: &SnapshotRecord, size: u64) -> SnapshotInfo {
    SnapshotInfo {
        name: record.set.clone(),
        volume: record.volume,
        volume_name: record.taken_as.clone(),
        serial: record.serial,
        layer: record.layer,
        size,
        mode: record.mode,
        uid: record.uid,
        gid: record.gid,
        created_ns: record.created_ns,
        labels: record.labels.clone(),
    }
}

fn set_info(set: &SetRecord) -> SnapshotSetInfo {
    SnapshotSetInfo { name: set.name.clone(), serial: set.serial, created_ns: set.created_ns }
}
