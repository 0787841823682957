//! Labels: each volume's and each image's whole record in a file of its own, `volumes/<id>.json` and
//! `images/<id>.json`, from which the catalog can be made again.
//!
//! A label holds the present record, and while an operation is under way also what the operation makes of it. The
//! order of writing is `catalog`'s; here are the form, the files, and what a label says of a state.

use crate::catalog::records::{
    Change, ImageRecord, LayerRecord, Member, RemovedRecord, SetRecord, SnapshotRecord, Stamp, VolumeRecord,
};
use crate::catalog::state::State;
use crate::disk::{Disk, document, durable};
use crate::error::{Error, Result};
use crate::ids::{DiskId, ImageId, LayerId, StoreId, VolumeId};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The content of a label file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Label {
    pub store: StoreId,
    pub disk: DiskId,
    pub member: Member,
    /// An import that has not ended: the layer that it fills. There is nothing else in such a label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub importing: Option<LayerId>,
    /// None while the member is being made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Entry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Next>,
}

/// All that is known of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    #[serde(flatten)]
    pub stamp: Stamp,
    /// The store's next serial when this was written.
    pub next_serial: u64,
    #[serde(flatten)]
    pub record: Record,
    /// The sets that the snapshots are in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<SetRecord>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<SnapshotRecord>,
    /// What of the volume can be restored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<RemovedRecord>,
    /// Every layer under the head, the snapshots and what can be restored, roots before what stands on them.
    pub layers: Vec<LayerRecord>,
}

/// A member's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Record {
    Volume(VolumeRecord),
    Image(ImageRecord),
}

/// What an operation under way makes of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Next {
    #[serde(flatten)]
    pub stamp: Stamp,
    pub next_serial: u64,
    /// All that take part.
    pub members: Vec<Member>,
    /// Those of them that the operation deletes: their labels are removed, after all others are promoted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deleted: Vec<Member>,
    /// The changes that concern this member. A layer put here that no record has is the operation's own.
    pub changes: Vec<Change>,
}

impl Next {
    /// The layers that the operation makes.
    pub fn layers(&self) -> impl Iterator<Item = &LayerRecord> {
        self.changes.iter().filter_map(|change| match change {
            Change::PutLayer(layer) => Some(layer),
            _ => None,
        })
    }
}

impl Label {
    /// A label with nothing in it.
    pub fn new(disk: &Disk, member: Member) -> Self {
        Self { store: disk.store, disk: disk.id, member, importing: None, current: None, next: None }
    }

    /// What `state` knows of `member`; without `current` if it knows nothing.
    pub fn of(disk: &Disk, member: Member, state: &State) -> Self {
        let mut label = Self::new(disk, member);
        let Some(stamp) = state.stamp(member) else { return label };
        let next_serial = state.next_serial;
        label.current = match member {
            Member::Volume(id) => state.volumes.get(&id).map(|volume| Entry {
                stamp,
                next_serial,
                record: Record::Volume(volume.clone()),
                sets: state.sets_of(id),
                snapshots: state.snapshots_of(id).cloned().collect(),
                removed: state.removed_of(id).cloned().collect(),
                layers: state.lineage(id),
            }),
            Member::Image(id) => state.images.get(&id).map(|image| Entry {
                stamp,
                next_serial,
                record: Record::Image(image.clone()),
                sets: Vec::new(),
                snapshots: Vec::new(),
                removed: Vec::new(),
                layers: state.layers.get(&image.layer).copied().into_iter().collect(),
            }),
        };
        label
    }

    /// A name for messages: the present or coming name and the id.
    pub fn shown(&self) -> String {
        let named = |noun, name: Option<&crate::name::Name>, id: &dyn std::fmt::Display| match name {
            Some(name) => format!("{noun} '{name}'"),
            None => format!("{noun} {id}"),
        };
        let next = self.next.iter().flat_map(|next| &next.changes);
        match self.member {
            Member::Volume(id) => {
                let now = self.current.as_ref().and_then(|entry| match &entry.record {
                    Record::Volume(volume) => volume.name.as_ref(),
                    Record::Image(_) => None,
                });
                let mut coming = next.filter_map(|change| match change {
                    Change::PutVolume(volume) if volume.id == id => volume.name.as_ref(),
                    _ => None,
                });
                named("volume", now.or(coming.next_back()), &id)
            }
            Member::Image(id) => {
                let now = self.current.as_ref().and_then(|entry| match &entry.record {
                    Record::Image(image) => Some(&image.name),
                    Record::Volume(_) => None,
                });
                let mut coming = next.filter_map(|change| match change {
                    Change::PutImage(image) if image.id == id => Some(&image.name),
                    _ => None,
                });
                named("image", now.or(coming.next_back()), &id)
            }
        }
    }

    /// Bytes of the file.
    fn encode(&self, path: &Path) -> Result<Vec<u8>> {
        document::encode(path, kind(self.member), self)
    }
}

fn kind(member: Member) -> &'static str {
    match member {
        Member::Volume(_) => "volume",
        Member::Image(_) => "image",
    }
}

/// Where a member's label is.
pub(crate) fn path_of(disk: &Disk, member: Member) -> PathBuf {
    match member {
        Member::Volume(id) => disk.volume_file(id),
        Member::Image(id) => disk.image_file(id),
    }
}

/// Writes labels: each the old or the new one after a crash, all new on return.
pub(crate) fn write(disk: &Disk, labels: &[Label]) -> Result<()> {
    let (mut volumes, mut images) = (Vec::new(), Vec::new());
    for label in labels {
        let path = path_of(disk, label.member);
        let bytes = label.encode(&path)?;
        match label.member {
            Member::Volume(_) => volumes.push((path, bytes)),
            Member::Image(_) => images.push((path, bytes)),
        }
    }
    for files in [volumes, images] {
        disk.with_reserve(|| durable::replace_all(&files))?;
    }
    Ok(())
}

/// Removes labels: gone on return.
pub(crate) fn remove(disk: &Disk, members: &[Member]) -> Result<()> {
    let (volumes, images): (Vec<Member>, Vec<Member>) = members.iter().partition(|member| matches!(member, Member::Volume(_)));
    for members in [volumes, images] {
        durable::remove_all(&members.iter().map(|member| path_of(disk, *member)).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// All labels of a disk.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    pub good: Vec<Label>,
    pub bad: Vec<BadLabel>,
}

/// A file among the labels that can't be believed.
#[derive(Debug)]
pub(crate) struct BadLabel {
    pub path: PathBuf,
    /// Whose label it is by its name; none if it has no label's name.
    pub member: Option<Member>,
    pub reason: String,
}

/// Reads every label. Only a newer format is an error; what is damaged is given as such.
pub(crate) fn read_all(disk: &Disk) -> Result<Labels> {
    let mut labels = Labels::default();
    for name in durable::names_in(&disk.volumes_dir())? {
        let member = id_of::<VolumeId>(&name).map(Member::Volume);
        read_into(disk, disk.volumes_dir().join(name), member, &mut labels)?;
    }
    for name in durable::names_in(&disk.images_dir())? {
        let member = id_of::<ImageId>(&name).map(Member::Image);
        read_into(disk, disk.images_dir().join(name), member, &mut labels)?;
    }
    Ok(labels)
}

fn id_of<T: FromStr>(name: &str) -> Option<T> {
    name.strip_suffix(".json")?.parse().ok()
}

fn read_into(disk: &Disk, path: PathBuf, member: Option<Member>, labels: &mut Labels) -> Result<()> {
    let reason = match member {
        None => "its name is not that of a label".to_owned(),
        Some(member) => match read(&path, member) {
            Ok(label) if label.store != disk.store => format!("it belongs to another store, {}", label.store),
            Ok(label) => {
                labels.good.push(label);
                return Ok(());
            }
            Err(e @ Error::NewerFormat { .. }) => return Err(e),
            Err(Error::Damaged { reason, .. }) => reason,
            Err(e) => e.to_string(),
        },
    };
    labels.bad.push(BadLabel { path, member, reason });
    Ok(())
}

/// Reads one label.
pub(crate) fn read(path: &Path, member: Member) -> Result<Label> {
    let bytes = fs::read(path).map_err(|e| Error::io("reading", path, e))?;
    let label: Label = document::decode(path, kind(member), &bytes)?;
    let damaged = |reason: &str| Err(Error::Damaged { path: path.to_owned(), reason: reason.to_owned() });
    let of_member = |entry: &Entry| match &entry.record {
        Record::Volume(volume) => Member::Volume(volume.id) == member,
        Record::Image(image) => Member::Image(image.id) == member,
    };
    if label.member != member || !label.current.as_ref().is_none_or(of_member) {
        return damaged("it is the label of something else");
    }
    if label.next.as_ref().is_some_and(|next| !next.members.contains(&member)) {
        return damaged("its operation does not name it");
    }
    Ok(label)
}

#[cfg(test)]
mod tests;
