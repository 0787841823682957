//! All records in memory, and the ways to find them. sled holds the same, durably.

use super::records::{Change, ImageRecord, LayerRecord, Member, RemovedRecord, SetRecord, SnapshotRecord, Stamp, VolumeRecord};
use crate::ids::{ImageId, LayerId, VolumeId};
use crate::jobs::{JobId, JobRecord};
use crate::name::Name;
use std::collections::{BTreeMap, BTreeSet};

/// The catalog's content. Read it freely; it changes only by [`State::apply`].
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub volumes: BTreeMap<VolumeId, VolumeRecord>,
    pub snapshots: BTreeMap<(Name, VolumeId), SnapshotRecord>,
    pub sets: BTreeMap<Name, SetRecord>,
    /// What can be restored, by serial: the oldest first.
    pub removed: BTreeMap<u64, RemovedRecord>,
    pub images: BTreeMap<ImageId, ImageRecord>,
    pub layers: BTreeMap<LayerId, LayerRecord>,
    /// Layers whose files are to be removed.
    pub dropping: BTreeSet<LayerId>,
    pub jobs: BTreeMap<JobId, JobRecord>,
    /// Larger than every serial that was ever given out.
    pub next_serial: u64,
    pub(super) stamps: BTreeMap<Member, Stamp>,
    volume_names: BTreeMap<Name, VolumeId>,
    image_names: BTreeMap<Name, ImageId>,
    volume_snapshots: BTreeMap<VolumeId, BTreeSet<Name>>,
    volume_removed: BTreeMap<VolumeId, BTreeSet<u64>>,
    /// How many names each layer has that has any.
    names: BTreeMap<LayerId, usize>,
    children: BTreeMap<LayerId, BTreeSet<LayerId>>,
}

impl State {
    /// With nothing in it; serials begin at 16, so that a mount has inode numbers of its own below.
    pub fn new() -> Self {
        Self { next_serial: 16, ..Self::default() }
    }

    /// The volume that has this name, with or without a head.
    pub fn volume_named(&self, name: &Name) -> Option<&VolumeRecord> {
        self.volume_names.get(name).and_then(|id| self.volumes.get(id))
    }

    /// Volumes with a head, by name.
    pub fn live_volumes(&self) -> impl Iterator<Item = &VolumeRecord> {
        self.volume_names.values().filter_map(|id| self.volumes.get(id)).filter(|volume| volume.head.is_some())
    }

    /// The image that has this name.
    pub fn image_named(&self, name: &Name) -> Option<&ImageRecord> {
        self.image_names.get(name).and_then(|id| self.images.get(id))
    }

    /// The snapshots in a set, by volume.
    pub fn snapshots_in<'a>(&'a self, set: &Name) -> impl Iterator<Item = &'a SnapshotRecord> {
        let first = (set.clone(), VolumeId::from_bytes([0; 16]));
        let last = (set.clone(), VolumeId::from_bytes([0xff; 16]));
        self.snapshots.range(first..=last).map(|(_, snapshot)| snapshot)
    }

    /// The snapshot that is the file `.snapshots/<set>/<taken_as>`.
    pub fn snapshot_named(&self, set: &Name, taken_as: &Name) -> Option<&SnapshotRecord> {
        // Nearly always the volume still has that name; else the set is searched.
        let now = self.volume_names.get(taken_as).and_then(|id| self.snapshots.get(&(set.clone(), *id)));
        now.filter(|snapshot| snapshot.taken_as == *taken_as)
            .or_else(|| self.snapshots_in(set).find(|snapshot| snapshot.taken_as == *taken_as))
    }

    /// The snapshots of a volume, by name.
    pub fn snapshots_of(&self, volume: VolumeId) -> impl Iterator<Item = &SnapshotRecord> {
        let sets = self.volume_snapshots.get(&volume).into_iter().flatten();
        sets.filter_map(move |set| self.snapshots.get(&(set.clone(), volume)))
    }

    /// How many snapshots a volume has.
    pub fn snapshot_count(&self, volume: VolumeId) -> u64 {
        self.volume_snapshots.get(&volume).map_or(0, |sets| sets.len() as u64)
    }

    /// The layers under and including `top`, root first. Ends early where a record is missing.
    pub fn chain(&self, top: LayerId) -> Vec<LayerId> {
        let mut chain: Vec<LayerId> = self.upwards(top).map(|layer| layer.id).collect();
        chain.reverse();
        chain
    }

    /// From `top` to its root. A damaged catalog may hold a circle: no more layers than there are come out.
    fn upwards(&self, top: LayerId) -> impl Iterator<Item = &LayerRecord> {
        std::iter::successors(self.layers.get(&top), |layer| layer.parent.and_then(|parent| self.layers.get(&parent)))
            .take(self.layers.len())
    }

    /// How many layers stand on this one.
    pub fn child_count(&self, layer: LayerId) -> usize {
        self.children.get(&layer).map_or(0, BTreeSet::len)
    }

    /// The layers that stand on this one.
    pub fn children(&self, layer: LayerId) -> impl Iterator<Item = LayerId> + '_ {
        self.children.get(&layer).into_iter().flatten().copied()
    }

    /// The layers that have a name: heads, snapshots, images, and what can be restored.
    pub fn named_layers(&self) -> BTreeSet<LayerId> {
        self.names.keys().copied().collect()
    }

    /// How many names a layer has.
    pub fn name_count(&self, layer: LayerId) -> usize {
        self.names.get(&layer).copied().unwrap_or(0)
    }

    /// What of a volume can be restored, the oldest first.
    pub fn removed_of(&self, volume: VolumeId) -> impl Iterator<Item = &RemovedRecord> {
        let serials = self.volume_removed.get(&volume).into_iter().flatten();
        serials.filter_map(|serial| self.removed.get(serial))
    }

    /// The image whose layer is the root under `top`.
    pub fn image_under(&self, top: LayerId) -> Option<ImageId> {
        let root = self.upwards(top).last()?.id;
        self.images.values().find(|image| image.layer == root).map(|image| image.id)
    }

    /// This layer and all that stand on it.
    pub fn descendants(&self, layer: LayerId) -> BTreeSet<LayerId> {
        let mut found = BTreeSet::from([layer]);
        let mut open = vec![layer];
        while let Some(layer) = open.pop() {
            open.extend(self.children(layer).filter(|child| found.insert(*child)));
        }
        found
    }

    /// Every volume and image that needs a layer: their labels tell of it.
    pub fn members_with(&self, layer: LayerId) -> Vec<Member> {
        let above = self.descendants(layer);
        let heads = self.volumes.values().filter(|volume| volume.head.is_some_and(|head| above.contains(&head)));
        let snapshots = self.snapshots.values().filter(|snapshot| above.contains(&snapshot.layer));
        let removed = self.removed.values().filter(|removed| above.contains(&removed.layer)).map(|removed| removed.volume);
        let volumes: BTreeSet<VolumeId> =
            heads.map(|volume| volume.id).chain(snapshots.map(|s| s.volume)).chain(removed).collect();
        let images = self.images.values().filter(|image| above.contains(&image.layer)).map(|image| Member::Image(image.id));
        volumes.into_iter().map(Member::Volume).chain(images).collect()
    }

    /// The names of those that need a layer, in the shown form.
    pub fn needed_by(&self, layer: LayerId) -> Vec<String> {
        let needs = |top: LayerId| self.upwards(top).any(|record| record.id == layer);
        let shown = |volume: &VolumeRecord| volume.name.as_ref().map_or_else(|| volume.id.to_string(), Name::to_string);
        let volumes = self.volumes.values().filter(|volume| volume.head.is_some_and(needs));
        let snapshots = self.snapshots.values().filter(|snapshot| needs(snapshot.layer));
        let images = self.images.values().filter(|image| needs(image.layer));
        let removed = self.removed.values().filter(|removed| needs(removed.layer));
        volumes
            .map(|volume| format!("volume '{}'", shown(volume)))
            .chain(snapshots.map(|snapshot| format!("snapshot '{}/{}'", snapshot.set, snapshot.taken_as)))
            .chain(images.map(|image| format!("image '{}'", image.name)))
            .chain(removed.map(|removed| format!("{} (deleted, can be restored)", removed.what.shown())))
            .collect()
    }

    /// Which change made a member what it is.
    pub fn stamp(&self, member: Member) -> Option<Stamp> {
        self.stamps.get(&member).copied()
    }

    /// Whether there is a record of this member.
    pub fn has(&self, member: Member) -> bool {
        match member {
            Member::Volume(id) => self.volumes.contains_key(&id),
            Member::Image(id) => self.images.contains_key(&id),
        }
    }

    /// Every layer that a member needs.
    pub fn layers_of(&self, member: Member) -> Vec<LayerRecord> {
        match member {
            Member::Volume(id) => self.lineage(id),
            Member::Image(id) => {
                self.images.get(&id).and_then(|image| self.layers.get(&image.layer)).copied().into_iter().collect()
            }
        }
    }

    /// Every layer that a volume's head, its snapshots and what of it can be restored need, roots before what stands on
    /// them.
    pub fn lineage(&self, volume: VolumeId) -> Vec<LayerRecord> {
        let head = self.volumes.get(&volume).and_then(|record| record.head);
        let removed = self.removed_of(volume).map(|removed| removed.layer);
        let tops = self.snapshots_of(volume).map(|snapshot| snapshot.layer).chain(head).chain(removed);
        let mut seen = BTreeSet::new();
        let mut lineage = Vec::new();
        for top in tops {
            let begin = lineage.len();
            lineage.extend(self.upwards(top).take_while(|layer| seen.insert(layer.id)).copied());
            lineage[begin..].reverse();
        }
        lineage
    }

    /// The sets that a volume's snapshots are in.
    pub fn sets_of(&self, volume: VolumeId) -> Vec<SetRecord> {
        self.volume_snapshots.get(&volume).into_iter().flatten().filter_map(|set| self.sets.get(set)).cloned().collect()
    }

    /// What there is of some members, and the layers that changes of them refer to: enough to see what the changes make
    /// of them without a copy of everything.
    pub(super) fn part(&self, members: &BTreeSet<Member>, changes: &[Change]) -> Self {
        let mut part = Self { next_serial: self.next_serial, ..Self::default() };
        let mut tops: Vec<LayerId> = Vec::new();
        for member in members {
            part.take_layers(self.layers_of(*member));
            match member {
                Member::Volume(id) => {
                    part.apply(&self.volumes.get(id).cloned().map(Change::PutVolume).into_iter().collect::<Vec<_>>());
                    part.apply(&self.snapshots_of(*id).cloned().map(Change::PutSnapshot).collect::<Vec<_>>());
                    part.apply(&self.removed_of(*id).cloned().map(Change::PutRemoved).collect::<Vec<_>>());
                    part.apply(&self.sets_of(*id).into_iter().map(Change::PutSet).collect::<Vec<_>>());
                }
                Member::Image(id) => {
                    part.apply(&self.images.get(id).cloned().map(Change::PutImage).into_iter().collect::<Vec<_>>());
                }
            }
        }
        for change in changes {
            match change {
                Change::PutLayer(layer) => tops.extend(layer.parent),
                Change::PutVolume(volume) => tops.extend(volume.head),
                Change::PutSnapshot(snapshot) => tops.push(snapshot.layer),
                Change::PutRemoved(removed) => tops.push(removed.layer),
                Change::PutImage(image) => tops.push(image.layer),
                _ => {}
            }
        }
        for top in tops {
            let missing: Vec<LayerRecord> =
                self.upwards(top).take_while(|layer| !part.layers.contains_key(&layer.id)).copied().collect();
            part.take_layers(missing);
        }
        part
    }

    fn take_layers(&mut self, layers: Vec<LayerRecord>) {
        self.apply(&layers.into_iter().map(Change::PutLayer).collect::<Vec<_>>());
    }

    /// Makes changes, in order.
    pub(super) fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            self.apply_one(change);
        }
    }

    fn apply_one(&mut self, change: &Change) {
        match change {
            Change::PutVolume(volume) => {
                self.forget_volume_name(volume.id);
                if let Some(name) = &volume.name {
                    self.volume_names.insert(name.clone(), volume.id);
                }
                self.took_serial(volume.serial);
                let before = self.volumes.insert(volume.id, volume.clone());
                self.rename(before.and_then(|before| before.head), volume.head);
            }
            Change::DeleteVolume(id) => {
                self.forget_volume_name(*id);
                let before = self.volumes.remove(id);
                self.rename(before.and_then(|before| before.head), None);
                self.stamps.remove(&Member::Volume(*id));
            }
            Change::PutSnapshot(snapshot) => {
                self.volume_snapshots.entry(snapshot.volume).or_default().insert(snapshot.set.clone());
                self.took_serial(snapshot.serial);
                let before = self.snapshots.insert((snapshot.set.clone(), snapshot.volume), snapshot.clone());
                self.rename(before.map(|before| before.layer), Some(snapshot.layer));
            }
            Change::DeleteSnapshot { set, volume } => {
                let before = self.snapshots.remove(&(set.clone(), *volume));
                self.rename(before.map(|before| before.layer), None);
                if let Some(sets) = self.volume_snapshots.get_mut(volume) {
                    sets.remove(set);
                    if sets.is_empty() {
                        self.volume_snapshots.remove(volume);
                    }
                }
            }
            Change::PutRemoved(removed) => {
                self.volume_removed.entry(removed.volume).or_default().insert(removed.serial);
                self.took_serial(removed.serial);
                let before = self.removed.insert(removed.serial, removed.clone());
                self.rename(before.map(|before| before.layer), Some(removed.layer));
            }
            Change::DeleteRemoved { serial, volume } => {
                let before = self.removed.remove(serial);
                self.rename(before.map(|before| before.layer), None);
                if let Some(serials) = self.volume_removed.get_mut(volume) {
                    serials.remove(serial);
                    if serials.is_empty() {
                        self.volume_removed.remove(volume);
                    }
                }
            }
            Change::PutSet(set) => {
                self.took_serial(set.serial);
                self.sets.insert(set.name.clone(), set.clone());
            }
            Change::DeleteSet(name) => {
                self.sets.remove(name);
            }
            Change::PutImage(image) => {
                self.forget_image_name(image.id);
                self.image_names.insert(image.name.clone(), image.id);
                self.took_serial(image.serial);
                let before = self.images.insert(image.id, image.clone());
                self.rename(before.map(|before| before.layer), Some(image.layer));
            }
            Change::DeleteImage(id) => {
                self.forget_image_name(*id);
                let before = self.images.remove(id);
                self.rename(before.map(|before| before.layer), None);
                self.stamps.remove(&Member::Image(*id));
            }
            Change::PutLayer(layer) => {
                self.unlink(layer.id);
                if let Some(parent) = layer.parent {
                    self.children.entry(parent).or_default().insert(layer.id);
                }
                self.layers.insert(layer.id, *layer);
            }
            Change::DropLayer(id) => {
                self.unlink(*id);
                self.layers.remove(id);
                self.dropping.insert(*id);
            }
            Change::Dropped(id) => {
                self.dropping.remove(id);
            }
            Change::PutJob(job) => {
                self.jobs.insert(job.id, job.clone());
            }
            Change::DeleteJob(id) => {
                self.jobs.remove(id);
            }
        }
    }

    /// A name goes from one layer to another, is new, or is gone.
    fn rename(&mut self, from: Option<LayerId>, to: Option<LayerId>) {
        if let Some(to) = to {
            *self.names.entry(to).or_default() += 1;
        }
        if let Some(from) = from
            && let Some(count) = self.names.get_mut(&from)
        {
            *count -= 1;
            if *count == 0 {
                self.names.remove(&from);
            }
        }
    }

    fn took_serial(&mut self, serial: u64) {
        self.next_serial = self.next_serial.max(serial.saturating_add(1));
    }

    /// In an exchange of names the other volume may have the name by now: then it keeps it.
    fn forget_volume_name(&mut self, id: VolumeId) {
        if let Some(name) = self.volumes.get(&id).and_then(|volume| volume.name.as_ref())
            && self.volume_names.get(name) == Some(&id)
        {
            self.volume_names.remove(name);
        }
    }

    fn forget_image_name(&mut self, id: ImageId) {
        if let Some(name) = self.images.get(&id).map(|image| &image.name)
            && self.image_names.get(name) == Some(&id)
        {
            self.image_names.remove(name);
        }
    }

    /// Takes a layer out of its parent's children.
    fn unlink(&mut self, id: LayerId) {
        if let Some(parent) = self.layers.get(&id).and_then(|layer| layer.parent)
            && let Some(siblings) = self.children.get_mut(&parent)
        {
            siblings.remove(&id);
            if siblings.is_empty() {
                self.children.remove(&parent);
            }
        }
    }
}
