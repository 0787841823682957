//! What each name holds alone and shares, and what deleting it would free: counted from the maps, never from what the
//! disk's file system says of its files.
//!
//! `forest` knows what the layers will be when all merges are done, `tally` counts who needs each block, `answer` says what
//! that means for a name: these know no disk. `tree` reads the maps, and `gather` finds out what there is. Below are the
//! catalog and the layers. Nothing is locked while it counts: what is written meanwhile may be counted or not.

mod answer;
mod blocks;
mod forest;
mod gather;
mod report;
mod tally;
#[cfg(test)]
mod tests;
mod tree;

pub use report::{NameSpace, Owner, SpaceReport, Stays, Taken, VolumeTaken};
pub(crate) use tree::Cache;

use crate::error::{Error, Result};
use crate::ids::VolumeId;
use crate::store::{Context, Space};
use crate::units::BLOCK_SIZE;
use gather::Gathered;
use std::sync::Arc;

/// How often everything is looked at again because a layer went while it was counted.
const TRIES_MAX: usize = 5;

/// Counts everything.
pub(crate) fn report(context: &Arc<Context>, disk: Space, cache: &mut Cache) -> Result<SpaceReport> {
    let mut tries = 0;
    loop {
        let gathered = gather::gather(context)?;
        tries += 1;
        match count(context, &gathered, cache, tries == TRIES_MAX) {
            Ok(counted) => return Ok(finish(context, disk, gathered, counted)),
            // It was merged or dropped since.
            Err(_) if tries < TRIES_MAX => {}
            Err(error) => return Err(error),
        }
    }
}

/// Counts one volume's part, snapshots included. None for what can't be read.
pub(crate) fn of_volume(context: &Arc<Context>, volume: VolumeId, cache: &mut Cache) -> Result<VolumeTaken> {
    let Gathered { names, trees, unreadable, .. } = gather::gather(context)?;
    let is_its = |owner: &Owner| match owner {
        Owner::Volume { id, .. } => *id == volume,
        Owner::Snapshot { volume: id, .. } => *id == volume,
        Owner::Image { .. } | Owner::Removed { .. } => false,
    };
    let mut found = VolumeTaken { head: None, all_frees: unreadable.is_empty().then_some(0) };
    for tree in &trees {
        let its = |name: usize| is_its(&names[tree.names[name]].owner);
        if !(0..tree.names.len()).any(its) {
            continue;
        }
        let tally = tree.count_with(context, cache)?;
        let settled: i64 = tally.held.iter().sum();
        let left = tree.without(its)?.unwrap_or(0);
        found.all_frees = found.all_frees.map(|frees| frees + u64::try_from(settled - left).unwrap_or(0) * BLOCK_SIZE);
        let of_head = |name: &usize| matches!(names[tree.names[*name]].owner, Owner::Volume { id, .. } if id == volume);
        if let Some(head) = (0..tree.names.len()).find(of_head) {
            found.head = answer::parts(&tree.forest, &tally).get(head).map(in_bytes);
        }
    }
    Ok(found)
}

fn in_bytes(part: &answer::Part) -> Taken {
    let bytes = |blocks: u64| blocks * BLOCK_SIZE;
    Taken { data: bytes(part.shown), alone: bytes(part.alone), frees: bytes(part.frees), stays: part.stays }
}

/// What all trees come to, in blocks.
#[derive(Default)]
struct Counted {
    taken: Vec<Option<Taken>>,
    held: i64,
    shared: i64,
    unseen: i64,
    merging: i64,
    undo: i64,
    unreadable: Vec<String>,
}

fn count(context: &Context, gathered: &Gathered, cache: &mut Cache, last: bool) -> Result<Counted> {
    let mut counted = Counted { taken: vec![None; gathered.names.len()], ..Counted::default() };
    cache.keep(&gathered.trees);
    counted.unreadable.clone_from(&gathered.unreadable);
    for tree in &gathered.trees {
        let tally = match tree.count_with(context, cache) {
            Ok(tally) => tally,
            Err(error @ (Error::LayerMissing { .. } | Error::Io { .. })) if !last => return Err(error),
            Err(error) => {
                counted.unreadable.push(error.to_string());
                continue;
            }
        };
        let settled: i64 = tally.held.iter().sum();
        counted.held += settled + tally.waiting;
        counted.shared += tally.shared;
        counted.unseen += tally.kept;
        counted.merging += tally.waiting;
        for (part, name) in answer::parts(&tree.forest, &tally).into_iter().zip(&tree.names) {
            counted.taken[*name] = Some(in_bytes(&part));
        }
        let kept_for_undo = |name: &usize| matches!(gathered.names[tree.names[*name]].owner, Owner::Removed { .. });
        if (0..tree.names.len()).any(|name| kept_for_undo(&name)) {
            counted.undo += tree.without(|name| kept_for_undo(&name))?.map_or(settled, |left| settled - left);
        }
    }
    Ok(counted)
}

fn finish(context: &Context, disk: Space, gathered: Gathered, counted: Counted) -> SpaceReport {
    let bytes = |blocks: i64| u64::try_from(blocks).unwrap_or(0) * BLOCK_SIZE;
    let dropping = gather::dropping(context) * BLOCK_SIZE;
    let mut names = gathered.names;
    for (name, taken) in names.iter_mut().zip(counted.taken) {
        name.taken = taken;
    }
    let files = gather::files(&context.disk);
    SpaceReport {
        held: bytes(counted.held) + dropping,
        alone: names.iter().filter_map(|name| name.taken).map(|taken| taken.alone).sum(),
        shared: bytes(counted.shared),
        unseen: bytes(counted.unseen),
        merging: bytes(counted.merging),
        dropping,
        undo: bytes(counted.undo),
        merges: gathered.merges,
        waits: crate::merge::waiting(context),
        reserve: context.disk.reserve.held(),
        catalog: files.catalog,
        metadata: files.metadata,
        unreadable: counted.unreadable,
        names,
        disk,
    }
}
