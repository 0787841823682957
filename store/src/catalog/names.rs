//! What goes with a name: a layer lives as long as it has a name or something stands on it, and a volume's record as
//! long as it has a head, a snapshot, or something that can be restored.
//!
//! Every operation that takes names away passes its changes through [`settled`], so that the rule stands in one place. It
//! never waits for data to be moved: a nameless layer with one child stays, for the collector to merge.

use super::records::{Change, LayerRecord, Member, VolumeRecord};
use super::state::State;
use crate::ids::LayerId;
use std::collections::{BTreeMap, BTreeSet};

/// The changes, and what follows from them: layers that lose their last name and have no child are dropped, their parents
/// likewise; a volume of which nothing is left is deleted; one of which only restorable things are left gives up its name.
pub(crate) fn settled(state: &State, mut changes: Vec<Change>) -> Vec<Change> {
    let members: BTreeSet<Member> = changes.iter().filter_map(Change::member).collect();
    let before = state.part(&members, &[]);
    let mut after = before.clone();
    after.apply(&changes);
    for volume in after.volumes.values().filter(|volume| volume.head.is_none() && after.snapshot_count(volume.id) == 0) {
        let put = if after.removed_of(volume.id).next().is_none() {
            Change::DeleteVolume(volume.id)
        } else if volume.name.is_some() {
            Change::PutVolume(VolumeRecord { name: None, ..volume.clone() })
        } else {
            continue;
        };
        changes.retain(|change| !matches!(change, Change::PutVolume(earlier) if earlier.id == volume.id));
        changes.push(put);
    }
    let names = |layer: LayerId| state.name_count(layer) + after.name_count(layer) - before.name_count(layer);
    let lost: Vec<LayerId> = before.named_layers().into_iter().filter(|layer| names(*layer) == 0).collect();
    let dropped = childless(state, &changes, lost, &names);
    changes.extend(dropped.into_iter().map(Change::DropLayer));
    changes
}

/// Of layers that lose their last name by `changes`, and of those under them: the ones that no name (as they are counted
/// afterwards) and no layer needs any more.
fn childless(state: &State, changes: &[Change], lost: Vec<LayerId>, names: &dyn Fn(LayerId) -> usize) -> Vec<LayerId> {
    let mut put: BTreeMap<LayerId, &LayerRecord> = BTreeMap::new();
    let mut gone: BTreeSet<LayerId> = BTreeSet::new();
    for change in changes {
        match change {
            Change::PutLayer(layer) => drop(put.insert(layer.id, layer)),
            Change::DropLayer(layer) => drop(gone.insert(*layer)),
            _ => {}
        }
    }
    let parent_of = |layer: LayerId| put.get(&layer).copied().or_else(|| state.layers.get(&layer)).and_then(|l| l.parent);
    let mut dropped = Vec::new();
    let mut open = lost;
    while let Some(layer) = open.pop() {
        let mut children = state.children(layer).chain(put.keys().copied());
        if names(layer) > 0
            || gone.contains(&layer)
            || children.any(|child| !gone.contains(&child) && parent_of(child) == Some(layer))
        {
            continue;
        }
        gone.insert(layer);
        dropped.push(layer);
        open.extend(parent_of(layer));
    }
    dropped
}
