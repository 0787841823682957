//! Executes what ends or goes back: deleting and renaming snapshots, revert, clone, undo.

use super::removed::RemovedView;
use super::views::SnapshotView;
use super::{Reply, execute::volume_view};
use crate::failure::Failure;
use anyhow::{Context as _, Result};
use outcrop_store::{
    CloneSource, Error as StoreError, Keep, Name, Noun, RemovedInfo, RemovedKind, Revert, SnapshotSelector, Store,
};

/// Whether what is taken away can be restored.
pub fn keep(now: bool) -> Keep {
    if now { Keep::Now } else { Keep::ForUndo }
}

/// Deletes snapshots, all in one change.
pub fn delete_snapshots(store: &Store, volume: Option<&Name>, names: Vec<Name>, now: bool) -> Result<Reply> {
    let which = names.into_iter().map(|set| {
        let volume = volume.map(|volume| file_of(store, volume, &set)).transpose()?;
        Ok(SnapshotSelector { set, volume })
    });
    let which = which.collect::<Result<Vec<_>>>()?;
    let deleted = store.delete_snapshots(&which, keep(now)).context("deleting snapshots")?;
    if volume.is_some() {
        drop_empty(store, &which);
    }
    Ok(Reply::Snapshots(deleted.iter().map(SnapshotView::from).collect()))
}

/// A directory under `.snapshots` that the deletion of one volume's snapshots emptied goes too. (In the mount an empty directory
/// stays until rmdir.) That it doesn't go is no failure: all that was asked for is done.
fn drop_empty(store: &Store, deleted: &[SnapshotSelector]) {
    let empty =
        deleted.iter().filter(|which| store.snapshot_set(&which.set).is_ok() && store.snapshot_files(&which.set).is_empty());
    let sets: Vec<_> = empty.map(|which| SnapshotSelector { set: which.set.clone(), volume: None }).collect();
    if !sets.is_empty()
        && let Err(error) = store.delete_snapshots(&sets, Keep::Now)
    {
        tracing::info!(%error, "an empty directory of snapshots stays");
    }
}

/// Gives a snapshot of all volumes another name.
pub fn rename_snapshot(store: &Store, from: &Name, to: &Name) -> Result<Reply> {
    store.rename_snapshots(from, to).with_context(|| format!("renaming snapshot '{from}'"))?;
    let infos = store.snapshots_in(to);
    Ok(Reply::Snapshots(infos.iter().map(SnapshotView::from).collect()))
}

/// Makes a volume what it was.
pub fn revert(store: &Store, name: &Name, snapshot: &Name, force: bool, now: bool) -> Result<Reply> {
    store
        .revert(name, snapshot, Revert { force, keep: keep(now) })
        .with_context(|| format!("reverting volume '{name}' to snapshot '{snapshot}'"))?;
    shown(store, name)
}

/// Makes a new volume of a volume or a snapshot.
pub fn clone(store: &Store, volume: &Name, snapshot: Option<Name>, is_file: bool, new_name: &Name) -> Result<Reply> {
    let source = match snapshot {
        None => CloneSource::Volume(volume.clone()),
        Some(set) if is_file => CloneSource::Snapshot { volume_name: volume.clone(), set },
        Some(set) => CloneSource::Snapshot { volume_name: file_of(store, volume, &set)?, set },
    };
    store.clone_volume(&source, new_name).with_context(|| format!("cloning volume '{volume}'"))?;
    shown(store, new_name)
}

/// What can be restored, of one volume or all.
pub fn removed(store: &Store, volume: Option<&Name>) -> Result<Reply> {
    let id = volume.and_then(|name| store.volume_info(name).ok()).map(|info| info.id);
    let wanted =
        |info: &&RemovedInfo| volume.is_none_or(|name| info.volume_name.as_ref() == Some(name)) || id == Some(info.volume);
    Ok(Reply::Removed(store.removed().iter().filter(wanted).map(RemovedView::from).collect()))
}

/// Restores what a name or a number says.
pub fn undo(store: &Store, what: &Name, snapshot: Option<&Name>, new_name: Option<&Name>) -> Result<Reply> {
    let found = match snapshot {
        Some(set) => store.removed_by_name(Some(what), Some(set))?,
        None => find(store, what)?,
    };
    let serials: Vec<_> = found.iter().map(|info| info.serial).collect();
    let restored = store.undo(&serials, new_name).with_context(|| format!("restoring {}", called(&found)))?;
    let view = |info: &RemovedInfo| {
        let mut view = RemovedView::from(info);
        match (&mut view.snapshot, new_name) {
            (Some(snapshot), Some(name)) => *snapshot = name.to_string(),
            (None, Some(name)) => view.volume = Some(name.to_string()),
            _ => {}
        }
        view
    };
    Ok(Reply::Removed(restored.iter().map(view).collect()))
}

/// A number that is one's; else what a volume, or a snapshot of all volumes, of this name has left.
fn find(store: &Store, what: &Name) -> Result<Vec<RemovedInfo>> {
    let id = std::str::from_utf8(what.as_bytes()).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(info) = id.and_then(|id| store.removed().into_iter().find(|info| info.serial == id)) {
        return Ok(vec![info]);
    }
    let absent = |error: &StoreError| matches!(error, StoreError::NotFound { .. });
    match (store.removed_by_name(Some(what), None), store.removed_by_name(None, Some(what)).map(|found| whole(store, found))) {
        (Ok(volume), Ok(snapshot)) => Err(Failure::new(format!("'{what}' may be {} or {}", called(&volume), called(&snapshot)))
            .hint("'outcrop snapshot list --undo' shows the number of each; give that")
            .into()),
        (Ok(found), Err(error)) | (Err(error), Ok(found)) if absent(&error) => Ok(found),
        (Err(error), Err(other)) if absent(&error) && absent(&other) => {
            Err(StoreError::NotFound { noun: Noun::Removed, name: what.to_string() }.into())
        }
        (Err(error), _) | (_, Err(error)) => Err(error.into()),
    }
}

/// A snapshot of several volumes with all of it that was deleted, also where that was done one by one (`rm -r`): what was taken at the
/// same instant under that name. Of each volume the one that was deleted last.
fn whole(store: &Store, mut found: Vec<RemovedInfo>) -> Vec<RemovedInfo> {
    let Some(first) = found.first().cloned() else { return found };
    let same = |info: &RemovedInfo| info.kind == first.kind && info.set == first.set && info.created_ns == first.created_ns;
    for info in store.removed().into_iter().rev().filter(same) {
        if !found.iter().any(|other| other.volume == info.volume) {
            found.push(info);
        }
    }
    found
}

/// What a list of things is called in a message.
fn called(infos: &[RemovedInfo]) -> String {
    let one = |info: &RemovedInfo| {
        let volume = info.volume_name.as_ref().map_or_else(|| info.volume.to_string(), Name::to_string);
        match (&info.set, info.kind) {
            (Some(set), RemovedKind::Snapshot) => format!("snapshot '{set}' of volume '{volume}'"),
            (_, RemovedKind::Revert) => format!("volume '{volume}' as it was before its revert"),
            _ => format!("volume '{volume}'"),
        }
    };
    match infos {
        [] => "nothing".to_owned(),
        [info] => one(info),
        [first, rest @ ..] => format!("{} and {} more", one(first), rest.len()),
    }
}

/// The file in a snapshot that is of a volume: by its name now, else by the name that it had then.
fn file_of(store: &Store, volume: &Name, set: &Name) -> Result<Name> {
    store.snapshot_set(set)?;
    let files = store.snapshot_files(set);
    let id = store.volume_info(volume).ok().map(|info| info.id);
    let file =
        files.iter().find(|file| Some(file.volume) == id).or_else(|| files.iter().find(|file| file.volume_name == *volume));
    let missing = || StoreError::NotFound { noun: Noun::Snapshot, name: format!("{set}/{volume}") };
    Ok(file.ok_or_else(missing)?.volume_name.clone())
}

fn shown(store: &Store, name: &Name) -> Result<Reply> {
    Ok(Reply::Volume(volume_view(store, &store.volume_info(name)?)))
}
