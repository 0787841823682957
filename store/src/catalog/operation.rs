//! The order of a change of metadata, in types: `Operation → Prepared → Committed`.
//!
//! 1. [`Operation::prepare`] writes the intent into the label of every member, durably.
//! 2. The caller makes the new layers.
//! 3. [`Prepared::commit`] is the one catalog commit: from here on the operation has happened.
//! 4. [`Committed::promote`] rewrites the labels. Only then is the operation acknowledged to a user, since a rebuild of a
//!    lost catalog believes an operation by its labels.
//!
//! One operation at a time: each of the three holds the catalog's mutex.

use super::Catalog;
use super::db::Batch;
use super::records::{Change, ImageRecord, LayerRecord, Member, SnapshotRecord, Stamp, VolumeRecord};
use super::state::State;
use crate::disk::durable;
use crate::error::{Error, Noun, Result};
use crate::ids::{ImageId, LayerId, OperationId};
use crate::label::{self, Label, Next};
use crate::name::Name;
use parking_lot::{MutexGuard, RwLockReadGuard};
use std::collections::{BTreeMap, BTreeSet};

/// What earlier operations still owe.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// Committed, but not all labels are promoted.
    pub promotions: Vec<(OperationId, Vec<Member>)>,
    /// Promoted; the catalog may forget them with the next commit.
    pub finished: Vec<OperationId>,
}

/// The right to change metadata.
pub(crate) struct Operation<'a> {
    catalog: &'a Catalog,
    owed: MutexGuard<'a, Owed>,
}

/// An operation whose intent is on the disk. Dropped, it is undone: its new layers are removed, then its intents.
#[must_use = "dropping it undoes the operation"]
pub(crate) struct Prepared<'a> {
    /// Taken by the commit.
    parts: Option<Parts<'a>>,
}

struct Parts<'a> {
    operation: Operation<'a>,
    id: OperationId,
    changes: Vec<Change>,
    stamps: BTreeMap<Member, Stamp>,
    batch: Batch,
}

/// An operation that has happened.
#[must_use = "it must be promoted before it is acknowledged"]
pub(crate) struct Committed<'a> {
    operation: Operation<'a>,
    id: OperationId,
}

/// An import under way: a label that names its layer, so that a kill leaves nothing. Dropped, it is undone.
#[must_use = "dropping it undoes the import"]
pub(crate) struct Import<'a> {
    catalog: &'a Catalog,
    pub image: ImageId,
    pub layer: LayerId,
    armed: bool,
}

impl Catalog {
    /// Waits for the right to change metadata. What is decided from [`Operation::read`] stays true until the commit.
    pub fn begin(&self) -> Operation<'_> {
        Operation { catalog: self, owed: self.owed.lock() }
    }

    /// [`Catalog::begin`] and [`Operation::prepare`] in one.
    #[cfg(test)]
    pub fn prepare(&self, changes: Vec<Change>) -> Result<Prepared<'_>> {
        self.begin().prepare(changes)
    }

    /// Notes durably that `layer` is being filled for `image`. Holds no lock: an import may take as long as it likes.
    pub fn begin_import(&self, image: ImageId, layer: LayerId) -> Result<Import<'_>> {
        let import = Import { catalog: self, image, layer, armed: true };
        let mut label = Label::new(&self.disk, Member::Image(image));
        label.importing = Some(layer);
        label::write(&self.disk, &[label])?;
        Ok(import)
    }
}

impl<'a> Operation<'a> {
    /// The present state.
    pub fn read(&self) -> RwLockReadGuard<'a, State> {
        self.catalog.read()
    }

    /// Checks the changes and writes them as intents into the labels of all members: durable on return, and nothing
    /// has happened yet.
    pub fn prepare(mut self, changes: Vec<Change>) -> Result<Prepared<'a>> {
        self.catalog.db.usable()?;
        // So that a label that carries an operation never has to tell of two.
        self.pay()?;
        let id = OperationId::new();
        let state = self.read();
        let next = after(&state, &changes)?;
        let members: BTreeSet<Member> = changes.iter().filter_map(Change::member).collect();
        let mut deleted = BTreeSet::new();
        let mut stamps = BTreeMap::new();
        let mut batch = Batch::default();
        batch.changes(&changes)?;
        for member in &members {
            let stamp = Stamp { generation: state.stamp(*member).map_or(0, |stamp| stamp.generation) + 1, operation: id };
            stamps.insert(*member, stamp);
            if next.has(*member) {
                batch.member(*member, stamp, &next)?;
            } else {
                deleted.insert(*member);
            }
        }
        batch.next_serial(next.next_serial)?;
        let labels = intents(self.catalog, &state, &next, &changes, &stamps, &deleted);
        drop((state, next));
        let prepared = Prepared { parts: Some(Parts { operation: self, id, changes, stamps, batch }) };
        // Undone by its drop if this fails.
        label::write(prepared.disk()?, &labels)?;
        Ok(prepared)
    }

    /// Commits changes that concern no label: durable on return. Like [`Operation::prepare`] it takes the operation that
    /// the changes were decided in: decided in an earlier one, a serial could have gone to somebody else meanwhile.
    pub fn commit_unlabelled(mut self, changes: Vec<Change>) -> Result<()> {
        let mut batch = Batch::default();
        batch.changes(&changes)?;
        let next = after(&self.read(), &changes)?;
        batch.next_serial(next.next_serial)?;
        self.commit(batch, &changes, None)
    }

    /// The end of an import: its changes put the image and its layer.
    pub fn prepare_import(self, mut import: Import<'a>, changes: Vec<Change>) -> Result<Prepared<'a>> {
        let prepared = self.prepare(changes)?;
        // From here on the operation's own undoing does it.
        import.armed = false;
        Ok(prepared)
    }

    /// The commit, then the same in memory.
    fn commit(
        &mut self,
        mut batch: Batch,
        changes: &[Change],
        stamped: Option<(OperationId, &BTreeMap<Member, Stamp>)>,
    ) -> Result<()> {
        for finished in &self.owed.finished {
            batch.forget_operation(*finished);
        }
        if let Some((id, _)) = stamped {
            batch.operation(id)?;
        }
        if let Err(e) = self.catalog.disk.reserve.make_room() {
            tracing::warn!(error = %e, "the metadata reserve could not be given up");
        }
        self.catalog.db.commit(&batch)?;
        self.owed.finished.clear();
        let mut state = self.catalog.state.write();
        state.apply(changes);
        for (member, stamp) in stamped.into_iter().flat_map(|(_, stamps)| stamps) {
            if state.has(*member) {
                state.stamps.insert(*member, *stamp);
            }
        }
        Ok(())
    }

    /// Promotes what is owed: first the labels that stay, then removes those that go, so that a removed one tells that
    /// its operation was committed.
    fn pay(&mut self) -> Result<()> {
        while let Some((id, members)) = self.owed.promotions.first().cloned() {
            let disk = &self.catalog.disk;
            let state = self.read();
            let (stay, go): (Vec<Member>, Vec<Member>) = members.iter().partition(|member| state.has(**member));
            let labels: Vec<Label> = stay.iter().map(|member| Label::of(disk, *member, &state)).collect();
            drop(state);
            label::write(disk, &labels)?;
            tracing::trace!(operation = %id, promoted = stay.len(), removed = go.len(), "labels promoted");
            label::remove(disk, &go)?;
            self.owed.promotions.remove(0);
            self.owed.finished.push(id);
        }
        Ok(())
    }
}

/// The members as they are after the changes, or why the changes can't be made.
fn after(state: &State, changes: &[Change]) -> Result<State> {
    let members: BTreeSet<Member> = changes.iter().filter_map(Change::member).collect();
    let mut next = state.part(&members, changes);
    next.apply(changes);
    for change in changes {
        match change {
            Change::PutVolume(volume) => {
                if let Some(name) = next.volumes.get(&volume.id).and_then(|now| now.name.as_ref()) {
                    // Whoever had the name must have given it up in the same operation.
                    let keeps = |owner: &VolumeRecord| {
                        let id = Member::Volume(owner.id);
                        !members.contains(&id) || next.volumes.get(&owner.id).is_some_and(|now| now.name.as_ref() == Some(name))
                    };
                    let before = state.volume_named(name).filter(|owner| owner.id != volume.id && keeps(owner));
                    let now = next.volume_named(name).filter(|owner| owner.id != volume.id);
                    if before.or(now).is_some() {
                        return exists(Noun::Volume, name);
                    }
                }
                need_layer(&next, volume.head)?;
            }
            Change::PutImage(image) => {
                let keeps = |owner: &ImageRecord| {
                    let id = Member::Image(owner.id);
                    !members.contains(&id) || next.images.get(&owner.id).is_some_and(|now| now.name == image.name)
                };
                if state.image_named(&image.name).is_some_and(|owner| owner.id != image.id && keeps(owner)) {
                    return exists(Noun::Image, &image.name);
                }
                need_layer(&next, Some(image.layer))?;
            }
            Change::PutSnapshot(snapshot) => {
                let file = state.snapshot_named(&snapshot.set, &snapshot.taken_as);
                let key = |other: &SnapshotRecord| Change::DeleteSnapshot { set: other.set.clone(), volume: other.volume };
                if file.is_some_and(|other| other.volume != snapshot.volume && !changes.contains(&key(other))) {
                    let name = format!("{}/{}", snapshot.set, snapshot.taken_as);
                    return Err(Error::Exists { noun: Noun::Snapshot, name });
                }
                need_layer(&next, Some(snapshot.layer))?;
            }
            Change::PutRemoved(removed) => need_layer(&next, Some(removed.layer))?,
            Change::PutLayer(layer) => need_layer(&next, layer.parent)?,
            _ => {}
        }
    }
    Ok(next)
}

fn exists<T>(noun: Noun, name: &Name) -> Result<T> {
    Err(Error::Exists { noun, name: name.to_string() })
}

fn need_layer(state: &State, layer: Option<LayerId>) -> Result<()> {
    match layer {
        Some(layer) if !state.layers.contains_key(&layer) => Err(Error::LayerMissing { layer }),
        _ => Ok(()),
    }
}

/// The labels of all members with the operation in them.
fn intents(
    catalog: &Catalog,
    state: &State,
    next: &State,
    changes: &[Change],
    stamps: &BTreeMap<Member, Stamp>,
    deleted: &BTreeSet<Member>,
) -> Vec<Label> {
    let new: BTreeMap<LayerId, LayerRecord> = changes
        .iter()
        .filter_map(|change| match change {
            Change::PutLayer(layer) => Some((layer.id, *layer)),
            _ => None,
        })
        .collect();
    let sets: Vec<&Change> = changes.iter().filter(|change| matches!(change, Change::PutSet(_) | Change::DeleteSet(_))).collect();
    let mut own: BTreeMap<Member, Vec<Change>> = BTreeMap::new();
    for change in changes {
        if let Some(member) = change.member() {
            own.entry(member).or_default().push(change.clone());
        }
    }
    let mut unclaimed: BTreeSet<LayerId> = new.keys().copied().collect();
    let mut labels: Vec<Label> = Vec::new();
    for (member, stamp) in stamps {
        let mut concern: Vec<Change> = own.remove(member).unwrap_or_default();
        if matches!(member, Member::Volume(_)) {
            concern.extend(sets.iter().copied().cloned());
        }
        let layers = if new.is_empty() { Vec::new() } else { next.layers_of(*member) };
        for layer in layers.iter().filter_map(|layer| new.get(&layer.id)) {
            unclaimed.remove(&layer.id);
            concern.push(Change::PutLayer(*layer));
        }
        let mut label = Label::of(&catalog.disk, *member, state);
        label.next = Some(Next {
            stamp: *stamp,
            next_serial: next.next_serial,
            members: stamps.keys().copied().collect(),
            deleted: deleted.iter().copied().collect(),
            changes: concern,
        });
        labels.push(label);
    }
    // A layer that no member's chain has is still the operation's own.
    if let Some(next) = labels.first_mut().and_then(|label| label.next.as_mut()) {
        next.changes.extend(unclaimed.iter().filter_map(|id| new.get(id)).map(|layer| Change::PutLayer(*layer)));
    }
    labels
}

impl<'a> Prepared<'a> {
    fn disk(&self) -> Result<&'a crate::disk::Disk> {
        self.parts.as_ref().map(|parts| &*parts.operation.catalog.disk).ok_or(Error::Closed)
    }

    /// Commits: the operation has happened, durably, when this returns. After an error it is not known whether it has, until
    /// the store is opened again; the catalog takes no more changes.
    pub fn commit(mut self) -> Result<Committed<'a>> {
        let Parts { mut operation, id, changes, stamps, batch, .. } = self.parts.take().ok_or(Error::Closed)?;
        operation.commit(batch, &changes, Some((id, &stamps)))?;
        let members = stamps.keys().copied().collect();
        operation.owed.promotions.push((id, members));
        Ok(Committed { operation, id })
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take()
            && let Err(e) = parts.undo()
        {
            // The next operation on these members overwrites the intent; an open undoes it.
            tracing::error!(error = %e, operation = %parts.id, "an operation that was given up could not be undone");
        }
    }
}

impl Parts<'_> {
    /// First what the intent names, then the intent.
    fn undo(&self) -> Result<()> {
        let catalog = self.operation.catalog;
        let state = catalog.read();
        for change in &self.changes {
            if let Change::PutLayer(layer) = change
                && !state.layers.contains_key(&layer.id)
            {
                durable::remove_tree(&catalog.disk.layer_dir(layer.id))?;
            }
        }
        let (stay, go): (Vec<Member>, Vec<Member>) = self.stamps.keys().partition(|member| state.has(**member));
        let labels: Vec<Label> = stay.iter().map(|member| Label::of(&catalog.disk, *member, &state)).collect();
        drop(state);
        label::write(&catalog.disk, &labels)?;
        label::remove(&catalog.disk, &go)
    }
}

impl Committed<'_> {
    /// Promotes one label, durably: enough for a rebuild to believe the whole operation. For a caller that lets writes go
    /// on (which must not be lost with the operation) before all labels are promoted.
    pub fn prove(&self) -> Result<()> {
        let owed = &self.operation.owed.promotions;
        let members = owed.iter().filter(|(id, _)| *id == self.id).flat_map(|(_, members)| members.iter().copied());
        let disk = &self.operation.catalog.disk;
        let state = self.operation.read();
        let (stay, go): (Vec<Member>, Vec<Member>) = members.partition(|member| state.has(*member));
        match (stay.first(), go.first()) {
            (Some(member), _) => {
                let label = Label::of(disk, *member, &state);
                drop(state);
                label::write(disk, &[label])
            }
            // A removed label is a promoted one.
            (None, Some(member)) => label::remove(disk, &[*member]),
            (None, None) => Ok(()),
        }
    }

    /// Promotes all labels: durable on return. After an error the operation has happened all the same, and the labels are
    /// promoted before the next one or by the next open.
    pub fn promote(mut self) -> Result<()> {
        self.operation.pay()
    }
}

impl Drop for Import<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let disk = &self.catalog.disk;
        let undone =
            durable::remove_tree(&disk.layer_dir(self.layer)).and_then(|_| label::remove(disk, &[Member::Image(self.image)]));
        if let Err(e) = undone {
            tracing::error!(error = %e, image = %self.image, "an import that was given up could not be undone; the next open does it");
        }
    }
}
