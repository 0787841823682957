//! The end of a merge: one catalog operation takes drained layers out of the forest.
//!
//! A drained layer lets everything through (down), or its only child has all that it had (up): either way whatever stands on
//! it may stand on what it stood on, with the same view, before the commit as well as after it. So a rebuild of a lost
//! catalog may believe the operation or not.
//!
//! Every volume and image whose lineage has a drained layer takes part, since its label tells of the layers.

use crate::catalog::records::{Change, LayerRecord, Member};
use crate::catalog::state::State;
use crate::error::Result;
use crate::ids::LayerId;
use crate::layer::Header;
use crate::store::{Context, Follower};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Takes drained layers out: durable on return, and their files go as soon as nobody reads through them.
pub(super) fn take_out(context: &Arc<Context>, drained: &[LayerId]) -> Result<()> {
    #[cfg(test)]
    if context.merging.refuse_ends.load(std::sync::atomic::Ordering::SeqCst) {
        return Err(crate::error::Error::NotSupported { what: "a test's merge" });
    }
    let operation = context.catalog.begin();
    let state = operation.read();
    // Who lost the last name above one was dropped with it.
    let drained: BTreeSet<LayerId> = drained.iter().copied().filter(|id| state.layers.contains_key(id)).collect();
    let changes = changes(&state, &drained);
    drop(state);
    if changes.is_empty() {
        return Ok(());
    }
    for record in changes.iter().filter_map(|change| if let Change::PutLayer(record) = change { Some(record) } else { None }) {
        let change = |header: &mut Header| (header.parent, header.revision) = (record.parent, record.revision);
        let layer = context.layer(record.id)?;
        if layer.header().sealed {
            layer.write_header(change)?;
            layer.map.sync()?;
            layer.map.slot().unpin();
        } else if let Some(volume) = context.volume_with_head(record.id)? {
            volume.head().change_header(change)?;
        }
    }
    #[cfg(test)]
    context.merging.fuse.burn()?;
    let committed = operation.prepare(changes)?.commit()?;
    let gone: Vec<LayerId> = drained.iter().copied().collect();
    let mut followers: Vec<Arc<dyn Follower>> = Vec::new();
    for id in &gone {
        for follower in context.registry.with(*id) {
            if !followers.iter().any(|known| Arc::ptr_eq(known, &follower)) {
                followers.push(follower);
            }
        }
    }
    committed.promote()?;
    followers.iter().try_for_each(|follower| follower.without(&gone))?;
    context.drop_layers(gone);
    Ok(())
}

/// What the operation changes: parents, names, and the labels of everybody concerned.
fn changes(state: &State, drained: &BTreeSet<LayerId>) -> Vec<Change> {
    let mut layers: BTreeMap<LayerId, LayerRecord> = BTreeMap::new();
    let mut members: BTreeSet<Member> = BTreeSet::new();
    let mut changes = Vec::new();
    for id in drained {
        members.extend(state.members_with(*id));
        let below = below(state, *id, drained);
        // Those that stand on it stand on what is below from now on. If it has a name, that goes down, too: then the
        // layer below has its content.
        for child in state.children(*id).filter(|child| !drained.contains(child)) {
            if let Some(record) = state.layers.get(&child) {
                layers.insert(child, LayerRecord { parent: below, revision: record.revision + 1, ..*record });
            }
        }
        // What is below has other content now only if the merge went down: into a layer without a name, and with no other child.
        // Else it is as it was, and may be of others, whose labels tell of it and are not touched here.
        let is_target = |below: &LayerId| state.name_count(*below) == 0 && state.child_count(*below) == 1;
        if let Some(record) = below.filter(is_target).and_then(|below| state.layers.get(&below)) {
            layers.entry(record.id).or_insert(LayerRecord { revision: record.revision + 1, ..*record });
        }
    }
    changes.extend(layers.into_values().map(Change::PutLayer));
    for id in drained {
        if let Some(below) = below(state, *id, drained) {
            changes.extend(state.renamed_layer(*id, below));
        }
    }
    let put: BTreeSet<Member> = changes.iter().filter_map(Change::member).collect();
    changes.extend(members.difference(&put).filter_map(|member| state.touched(*member)));
    changes.extend(drained.iter().copied().map(Change::DropLayer));
    changes
}

/// The first layer below that stays.
fn below(state: &State, layer: LayerId, drained: &BTreeSet<LayerId>) -> Option<LayerId> {
    let mut at = layer;
    while let Some(parent) = state.layers.get(&at).and_then(|record| record.parent) {
        if !drained.contains(&parent) {
            return Some(parent);
        }
        at = parent;
    }
    None
}
