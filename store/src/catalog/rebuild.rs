//! What the labels alone say: a pure function from labels to a state.
//!
//! An operation that some labels carry as their next may or may not have been committed; the catalog that knew is gone.
//! It is believed
//!
//! * if the label of one member was promoted to it, which happens only after the commit (a member that the operation
//!   deletes is promoted by removing its label), or
//! * if all members carry it **and** the layers show it: each new layer is there and stands on a sealed one, an image's
//!   layer is sealed, and a head isn't. That one all labels carry it proves nothing by itself: they do so before the commit, too.
//!
//! Else it is undone for all members. An acknowledged operation is always believed, since labels are promoted before.

use super::records::{Change, ImageRecord, LayerRecord, Member, VolumeRecord};
use super::state::State;
use crate::ids::{LayerId, OperationId};
use crate::label::{Label, Labels, Record};
use crate::name::{NAME_MAX, Name};
use std::collections::{BTreeMap, BTreeSet};

/// Serials that a deleted thing had may stand in no label any more: so many are left out.
const SERIAL_GAP: u64 = 1 << 16;

/// What a layer's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerEvidence {
    /// There is no layer, or no readable header.
    Missing,
    /// It can be written.
    Writable,
    /// Its view never changes again.
    Sealed,
}

/// The state that the labels make.
#[derive(Debug)]
pub(super) struct Rebuilt {
    pub state: State,
    /// Operations under way that are believed to have happened.
    pub believed: BTreeSet<OperationId>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// What is known of an operation that labels carry.
#[derive(Default)]
struct Carried<'a> {
    members: BTreeSet<Member>,
    deleted: BTreeSet<Member>,
    carriers: BTreeSet<Member>,
    changes: Vec<&'a Change>,
}

/// Makes a state of labels.
pub(super) fn rebuild(labels: &Labels, evidence: &dyn Fn(LayerId) -> LayerEvidence) -> Rebuilt {
    let believed = believed(labels, evidence);
    let mut volumes: Vec<VolumeRecord> = Vec::new();
    let mut images: Vec<ImageRecord> = Vec::new();
    let mut layers: BTreeMap<LayerId, LayerRecord> = BTreeMap::new();
    let mut state = State::new();
    for label in &labels.good {
        let (own, stamp) = outcome(label, &believed);
        state.next_serial = state.next_serial.max(own.next_serial);
        if !own.has(label.member) {
            continue;
        }
        if let Some(stamp) = stamp {
            state.stamps.insert(label.member, stamp);
        }
        for layer in own.layers_of(label.member) {
            let known = layers.entry(layer.id).or_insert(layer);
            if known.revision < layer.revision {
                *known = layer;
            }
        }
        if let Member::Volume(id) = label.member {
            for set in own.sets_of(id) {
                if state.sets.get(&set.name).is_none_or(|known| set.serial < known.serial) {
                    state.apply(&[Change::PutSet(set)]);
                }
            }
            for removed in own.removed_of(id) {
                state.apply(&[Change::PutRemoved(removed.clone())]);
            }
            for snapshot in own.snapshots_of(id) {
                state.apply(&[Change::PutSnapshot(snapshot.clone())]);
            }
        }
        volumes.extend(own.volumes.into_values());
        images.extend(own.images.into_values());
    }
    for layer in layers.into_values() {
        state.apply(&[Change::PutLayer(layer)]);
    }
    let mut notes = Vec::new();
    put_volumes(&mut state, volumes, &mut notes);
    put_images(&mut state, images, &mut notes);
    state.next_serial = state.next_serial.saturating_add(SERIAL_GAP);
    Rebuilt { state, believed, notes }
}

/// What one label makes of its member, as a state with nothing else in it.
fn outcome(label: &Label, believed: &BTreeSet<OperationId>) -> (State, Option<super::records::Stamp>) {
    let mut own = State::new();
    let mut stamp = None;
    if let Some(entry) = &label.current {
        own.next_serial = entry.next_serial;
        own.apply(&entry.layers.iter().copied().map(Change::PutLayer).collect::<Vec<_>>());
        own.apply(&entry.sets.iter().cloned().map(Change::PutSet).collect::<Vec<_>>());
        own.apply(&entry.snapshots.iter().cloned().map(Change::PutSnapshot).collect::<Vec<_>>());
        own.apply(&entry.removed.iter().cloned().map(Change::PutRemoved).collect::<Vec<_>>());
        own.apply(&[match &entry.record {
            Record::Volume(volume) => Change::PutVolume(volume.clone()),
            Record::Image(image) => Change::PutImage(image.clone()),
        }]);
        stamp = Some(entry.stamp);
    }
    if let Some(next) = &label.next {
        own.next_serial = own.next_serial.max(next.next_serial);
        if believed.contains(&next.stamp.operation) {
            own.apply(&next.changes);
            stamp = Some(next.stamp);
        }
    }
    (own, stamp)
}

fn believed(labels: &Labels, evidence: &dyn Fn(LayerId) -> LayerEvidence) -> BTreeSet<OperationId> {
    let mut operations: BTreeMap<OperationId, Carried<'_>> = BTreeMap::new();
    for label in &labels.good {
        if let Some(next) = &label.next {
            let carried = operations.entry(next.stamp.operation).or_default();
            carried.members.extend(&next.members);
            carried.deleted.extend(&next.deleted);
            carried.carriers.insert(label.member);
            carried.changes.extend(&next.changes);
        }
    }
    let mut promoted_to: BTreeSet<OperationId> = BTreeSet::new();
    promoted_to.extend(labels.good.iter().filter_map(|label| label.current.as_ref()).map(|entry| entry.stamp.operation));
    let present: BTreeSet<Member> =
        labels.good.iter().map(|label| label.member).chain(labels.bad.iter().filter_map(|bad| bad.member)).collect();
    operations.retain(|id, carried| {
        promoted_to.contains(id)
            || !carried.deleted.is_subset(&present)
            || (carried.members == carried.carriers && layers_show(&carried.changes, evidence))
    });
    operations.into_keys().collect()
}

/// Whether the layers that an operation makes show that it went as far as its commit.
fn layers_show(changes: &[&Change], evidence: &dyn Fn(LayerId) -> LayerEvidence) -> bool {
    let mut any = false;
    for change in changes {
        let shown = match change {
            Change::PutLayer(layer) => {
                any = true;
                evidence(layer.id) != LayerEvidence::Missing
                    && layer.parent.is_none_or(|parent| evidence(parent) == LayerEvidence::Sealed)
            }
            Change::PutImage(image) => evidence(image.layer) == LayerEvidence::Sealed,
            // A merge makes a sealed layer the head, when it has everything.
            Change::PutVolume(volume) => volume.head.is_none_or(|head| evidence(head) != LayerEvidence::Sealed),
            _ => true,
        };
        if !shown {
            return false;
        }
    }
    any
}

/// Volumes with a head keep their names before those without, older ones before newer ones.
fn put_volumes(state: &mut State, mut volumes: Vec<VolumeRecord>, notes: &mut Vec<String>) {
    volumes.sort_by_key(|volume| (volume.head.is_none(), volume.serial));
    for mut volume in volumes {
        if let Some(name) = volume.name.clone()
            && state.volume_named(&name).is_some()
        {
            volume.name = if volume.head.is_some() { Some(other_name(&name, &volume.id.to_string())) } else { None };
            let now = volume.name.as_ref().map_or_else(|| "no name".to_owned(), |name| format!("'{name}'"));
            notes.push(format!("two volumes were named '{name}': {} has {now} now", volume.id));
        }
        state.apply(&[Change::PutVolume(volume)]);
    }
}

fn put_images(state: &mut State, mut images: Vec<ImageRecord>, notes: &mut Vec<String>) {
    images.sort_by_key(|image| image.serial);
    for mut image in images {
        if state.image_named(&image.name).is_some() {
            let name = other_name(&image.name, &image.id.to_string());
            notes.push(format!("two images were named '{}': {} has '{name}' now", image.name, image.id));
            image.name = name;
        }
        state.apply(&[Change::PutImage(image)]);
    }
}

/// `name~id`, cut to what a name may be. The whole id makes it unlike any other.
fn other_name(name: &Name, id: &str) -> Name {
    let room = NAME_MAX - 1 - id.len();
    let kept = &name.as_bytes()[..name.as_bytes().len().min(room)];
    Name::new([kept, b"~", id.as_bytes()].concat()).unwrap_or_else(|_| name.clone())
}
