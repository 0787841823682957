//! What `outcrop space` and `volume show` tell of space.

use super::views::SpaceView;
use outcrop_store::{NameSpace, Owner, SpaceReport, Stays, Taken};
use serde::{Deserialize, Serialize};

/// The disk, and what each name holds on it. Bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SpaceReportView {
    /// The disk.
    #[serde(flatten)]
    pub disk: SpaceView,
    /// Data of all layers: the sum of the next five.
    pub held: u64,
    /// What one name alone needs.
    pub alone: u64,
    /// What several names need, counted once.
    pub shared: u64,
    /// What no name sees, but stays as long as several clones stand on it.
    pub unseen: u64,
    /// What waits for a merge to be free.
    pub merging: u64,
    /// Of deleted layers that somebody still has open.
    pub dropping: u64,
    /// Free if undo gave up everything.
    pub undo: u64,
    /// Layers that wait to be merged.
    pub merges: u64,
    /// Put by for metadata.
    pub reserve: u64,
    /// The catalog's files.
    pub catalog: u64,
    /// Maps, sums and labels.
    pub metadata: u64,
    /// Why layers wait: who has one open, or what failed.
    pub waits: Vec<String>,
    /// Why something could not be counted.
    pub unreadable: Vec<String>,
    /// Each name's part.
    pub names: Vec<NameSpaceView>,
}

/// A name's part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NameSpaceView {
    /// `volume`, `snapshot`, `image` or `removed`.
    pub kind: String,
    /// The volume's, or the image's; of a snapshot the volume's then.
    pub name: String,
    /// The snapshot's.
    pub snapshot: Option<String>,
    /// What `undo` takes; only of what was removed.
    pub serial: Option<u64>,
    /// The volume's or image's identity.
    pub id: String,
    /// Size in bytes.
    pub size: u64,
    /// What it shows as data; null where that can't be told.
    pub data: Option<u64>,
    /// What it takes.
    #[serde(flatten)]
    pub taken: TakenView,
}

/// What a name takes. Bytes; null where that can't be told.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TakenView {
    /// Of what it shows as data, what no other name needs.
    pub alone: Option<u64>,
    /// Of that, what others need too.
    pub shared: Option<u64>,
    /// What deleting it frees.
    pub frees: Option<u64>,
    /// Layers that stand on it, if it stays for them.
    pub under: Option<u64>,
}

impl TakenView {
    /// From what the store tells.
    #[must_use]
    pub fn new(taken: Option<Taken>) -> Self {
        let Some(taken) = taken else { return Self::default() };
        let under = if let Stays::Under(layers) = taken.stays { Some(layers) } else { None };
        Self { alone: Some(taken.alone), shared: Some(taken.shared()), frees: Some(taken.frees), under }
    }
}

impl From<&NameSpace> for NameSpaceView {
    fn from(space: &NameSpace) -> Self {
        let (kind, name, snapshot, serial, id) = match &space.owner {
            Owner::Volume { id, name } => ("volume", Some(name), None, None, id.to_string()),
            Owner::Snapshot { set, taken_as, volume } => ("snapshot", Some(taken_as), Some(set), None, volume.to_string()),
            Owner::Image { id, name } => ("image", Some(name), None, None, id.to_string()),
            Owner::Removed { serial, volume_name, set, volume } => {
                ("removed", volume_name.as_ref(), set.as_ref(), Some(*serial), volume.to_string())
            }
        };
        Self {
            kind: kind.to_owned(),
            // One that lost its name to another goes by its identity.
            name: name.map_or_else(|| id.clone(), ToString::to_string),
            snapshot: snapshot.map(ToString::to_string),
            serial,
            id,
            size: space.size,
            data: space.taken.map(|taken| taken.data),
            taken: TakenView::new(space.taken),
        }
    }
}

impl From<&SpaceReport> for SpaceReportView {
    fn from(report: &SpaceReport) -> Self {
        Self {
            disk: (&report.disk).into(),
            held: report.held,
            alone: report.alone,
            shared: report.shared,
            unseen: report.unseen,
            merging: report.merging,
            dropping: report.dropping,
            undo: report.undo,
            merges: report.merges,
            reserve: report.reserve,
            catalog: report.catalog,
            metadata: report.metadata,
            waits: report.waits.clone(),
            unreadable: report.unreadable.clone(),
            names: report.names.iter().map(Into::into).collect(),
        }
    }
}
