//! Deleting and renaming snapshots: changes of names only, each one operation of the catalog.
//!
//! What a crash leaves is what any change of metadata leaves: the state before the commit or after it. Layers that nothing
//! needs any more are dropped in the same commit; those that something stands on are merged by and by, by the collector.

use super::keep::{Keeper, Serials, dropped_by};
use super::snapshots::{exists, not_found};
use super::{Keep, SnapshotInfo, SnapshotSelector, Store};
use crate::catalog::names::settled;
use crate::catalog::records::{Change, SetRecord, SnapshotRecord};
use crate::catalog::state::State;
use crate::error::{Error, Noun, Result};
use crate::name::Name;
use std::collections::{BTreeMap, BTreeSet};

impl Store {
    /// Deletes snapshots, all of `which` in one change: durable on return, and it waits for no data to be moved. Who has
    /// one open can still read it. Gives what was deleted; `NotFound` names the first that there isn't, and nothing
    /// is deleted then.
    pub fn delete_snapshots(&self, which: &[SnapshotSelector], keep: Keep) -> Result<Vec<SnapshotInfo>> {
        self.delete_selected(keep, |state| select(state, which))
    }

    /// Deletes the snapshots and sets that `select` gives, looking at the state that they are deleted from.
    pub(super) fn delete_selected(
        &self,
        keep: Keep,
        select: impl FnOnce(&State) -> Result<(Vec<SnapshotRecord>, BTreeSet<Name>)>,
    ) -> Result<Vec<SnapshotInfo>> {
        let context = self.context()?;
        let operation = context.catalog.begin();
        let state = operation.read();
        let (records, sets) = select(&state)?;
        let (mut serials, mut keeper) = (Serials::after(&state), Keeper::new(context, keep));
        let mut changes = Vec::new();
        for record in &records {
            changes.push(Change::DeleteSnapshot { set: record.set.clone(), volume: record.volume });
            changes.extend(keeper.snapshot(record, &mut serials));
        }
        changes.extend(sets.into_iter().map(Change::DeleteSet));
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let changes = settled(&state, changes);
        drop(state);
        let infos = records.iter().map(|record| self.sized(record)).collect();
        if records.is_empty() {
            // Empty directories stand in no label.
            operation.commit_unlabelled(changes)?;
            return Ok(infos);
        }
        let dropped = dropped_by(&changes);
        operation.prepare(changes)?.commit()?.promote()?;
        context.drop_layers(dropped);
        Ok(infos)
    }

    /// Gives a directory under `.snapshots`, with all that is in it, another name: durable on return.
    pub fn rename_snapshots(&self, from: &Name, to: &Name) -> Result<()> {
        let context = self.context()?;
        let operation = context.catalog.begin();
        let state = operation.read();
        let set = state.sets.get(from).ok_or_else(|| not_found(from))?.clone();
        if from == to {
            return Ok(());
        }
        if state.sets.contains_key(to) {
            return Err(exists(to));
        }
        let records: Vec<SnapshotRecord> = state.snapshots_in(from).cloned().collect();
        drop(state);
        let is_empty = records.is_empty();
        let mut changes = vec![Change::PutSet(SetRecord { name: to.clone(), ..set })];
        for record in records {
            changes.push(Change::DeleteSnapshot { set: from.clone(), volume: record.volume });
            changes.push(Change::PutSnapshot(SnapshotRecord { set: to.clone(), ..record }));
        }
        changes.push(Change::DeleteSet(from.clone()));
        if is_empty { operation.commit_unlabelled(changes) } else { operation.prepare(changes)?.commit()?.promote() }
    }
}

/// The snapshots selected, each once, and the sets that go with them.
fn select(state: &State, which: &[SnapshotSelector]) -> Result<(Vec<SnapshotRecord>, BTreeSet<Name>)> {
    let mut records = BTreeMap::new();
    let mut sets = BTreeSet::new();
    for selector in which {
        match &selector.volume {
            None => {
                if !state.sets.contains_key(&selector.set) {
                    return Err(not_found(&selector.set));
                }
                sets.insert(selector.set.clone());
                records.extend(state.snapshots_in(&selector.set).map(|record| ((&record.set, record.volume), record)));
            }
            Some(volume) => {
                let missing = || Error::NotFound { noun: Noun::Snapshot, name: format!("{}/{volume}", selector.set) };
                let record = state.snapshot_named(&selector.set, volume).ok_or_else(missing)?;
                records.insert((&record.set, record.volume), record);
            }
        }
    }
    Ok((records.into_values().cloned().collect(), sets))
}
