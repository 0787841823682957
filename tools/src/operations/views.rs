//! What `--json` prints. These fields are stable: they may be added to, and are described in `JSON.md`.
//!
//! Sizes are bytes, times are RFC 3339 in UTC, names are in their shown form (`\\`, `\xNN`), modes are octal text.

use super::scrub::SumsView;
use super::space::TakenView;
use jiff::Timestamp;
use outcrop_store::doctor::{Finding, Severity};
use outcrop_store::scrub::Integrity;
use outcrop_store::{Event, ImageInfo, SnapshotInfo, Space, VolumeInfo, VolumeSpace, VolumeTaken};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// A volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VolumeView {
    /// Identity: stays through renames.
    pub id: String,
    /// Name; null for a volume without a head that lost its name to another.
    pub name: Option<String>,
    /// `live`, `deleted` (only snapshots are left) or `faulted`.
    pub state: String,
    /// Why it can't be used, if it can't.
    pub fault: Option<String>,
    /// Size in bytes.
    pub size: u64,
    /// Bytes that the whole chain shows as data; null where that can't be told.
    pub data: Option<u64>,
    /// Bytes held by the head alone, as of the last flush; null in lists, and where that can't be told.
    pub head: Option<u64>,
    /// What the head holds alone and shares, and what deleting it frees; null but in `show`.
    #[serde(flatten)]
    pub taken: TakenView,
    /// What deleting it with its snapshots frees; null but in `show`.
    pub all_frees: Option<u64>,
    /// How it and its snapshots stand to their sums; null but in `show`.
    pub sums: Option<SumsView>,
    /// The backing image.
    pub image: Option<String>,
    /// Number of snapshots.
    pub snapshots: u64,
    /// Ids of the chain's layers, root first.
    pub layers: Vec<String>,
    /// Permission bits in octal.
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was made.
    pub created: String,
}

impl VolumeView {
    /// From what the store tells.
    #[must_use]
    pub fn new(info: &VolumeInfo, space: Option<VolumeSpace>) -> Self {
        let state = match (&info.fault, info.live) {
            (Some(_), _) => "faulted",
            (None, true) => "live",
            (None, false) => "deleted",
        };
        Self {
            id: info.id.to_string(),
            name: info.name.as_ref().map(ToString::to_string),
            state: state.to_owned(),
            fault: info.fault.clone(),
            size: info.size,
            data: space.map(|space| space.data),
            head: space.map(|space| space.head),
            taken: TakenView::default(),
            all_frees: None,
            sums: None,
            image: info.image.as_ref().map(ToString::to_string),
            snapshots: info.snapshots,
            layers: info.layers.iter().map(ToString::to_string).collect(),
            mode: mode(info.mode),
            uid: info.uid,
            gid: info.gid,
            created: time(info.created_ns),
        }
    }

    /// With how it stands to its sums.
    #[must_use]
    pub fn with_sums(self, found: Option<Integrity>) -> Self {
        Self { sums: found.map(SumsView::from), ..self }
    }

    /// With what it holds.
    #[must_use]
    pub fn with_taken(mut self, taken: Option<VolumeTaken>) -> Self {
        self.taken = TakenView::new(taken.and_then(|taken| taken.head));
        self.all_frees = taken.and_then(|taken| taken.all_frees);
        self
    }
}

/// A snapshot of one volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotView {
    /// The snapshot's name: the directory under `.snapshots`.
    pub name: String,
    /// The name that the volume had then: the file in that directory.
    pub volume: String,
    /// The volume's identity.
    pub volume_id: String,
    /// Size in bytes.
    pub size: u64,
    /// The sealed layer's id.
    pub layer: String,
    /// Labels given by the user.
    pub labels: BTreeMap<String, String>,
    /// Permission bits in octal.
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was taken.
    pub created: String,
}

/// What changed between two snapshots, or since one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiffView {
    /// Size of the first side in bytes.
    pub size_a: u64,
    /// Size of the second.
    pub size_b: u64,
    /// Bytes in all ranges.
    pub bytes: u64,
    /// Ranges that may differ, by offset.
    pub ranges: Vec<RangeView>,
}

/// A range of bytes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct RangeView {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl From<&SnapshotInfo> for SnapshotView {
    fn from(info: &SnapshotInfo) -> Self {
        Self {
            name: info.name.to_string(),
            volume: info.volume_name.to_string(),
            volume_id: info.volume.to_string(),
            size: info.size,
            layer: info.layer.to_string(),
            labels: info.labels.clone(),
            mode: mode(info.mode),
            uid: info.uid,
            gid: info.gid,
            created: time(info.created_ns),
        }
    }
}

/// A backing image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageView {
    /// Identity.
    pub id: String,
    /// Name.
    pub name: String,
    /// Virtual size in bytes.
    pub size: u64,
    /// Bytes of data held.
    pub data: u64,
    /// SHA-256 of the virtual content, in hex.
    pub sha256: String,
    /// What it was imported from: `raw`, `qcow2`, …
    pub format: String,
    /// The sealed layer's id.
    pub layer: String,
    /// Volumes and snapshots that stand on it.
    pub users: Vec<String>,
    /// When it was imported.
    pub created: String,
}

impl From<&ImageInfo> for ImageView {
    fn from(info: &ImageInfo) -> Self {
        Self {
            id: info.id.to_string(),
            name: info.name.to_string(),
            size: info.size,
            data: info.data,
            sha256: info.sha256.clone(),
            format: info.format.clone(),
            layer: info.layer.to_string(),
            users: info.users.clone(),
            created: time(info.created_ns),
        }
    }
}

/// The disk, and what the volumes promise. Bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SpaceView {
    /// The disk's directory.
    pub disk: String,
    /// Size of its file system.
    pub total: u64,
    /// Free for volumes' data.
    pub available: u64,
    /// Free in all.
    pub free: u64,
    /// Kept for metadata: data writes get ENOSPC when only this much is free.
    pub floor: u64,
    /// Held by the store's layers.
    pub used: u64,
    /// Sizes of all volumes together.
    pub promised: u64,
}

impl From<&Space> for SpaceView {
    fn from(space: &Space) -> Self {
        Self {
            disk: shown(&space.disk),
            total: space.total,
            available: space.available,
            free: space.free,
            floor: space.floor,
            used: space.used,
            promised: space.promised,
        }
    }
}

/// The store, and whether it is mounted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatusView {
    /// The store's directory.
    pub store: String,
    /// The store's identity.
    pub id: String,
    /// The mount; null when the store is not mounted.
    pub mount: Option<MountView>,
    /// Number of live volumes.
    pub volumes: u64,
    /// Number of snapshots (one a volume).
    pub snapshots: u64,
    /// Number of images.
    pub images: u64,
    /// The disk.
    pub space: SpaceView,
    /// What happened since the store was opened, oldest first.
    pub events: Vec<EventView>,
}

/// A mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MountView {
    /// Where.
    pub target: String,
    /// The daemon's process id.
    pub pid: u32,
    /// The daemon's version.
    pub version: String,
    /// When it was mounted.
    pub since: String,
    /// The log file; null in the foreground.
    pub log: Option<String>,
    /// Where `/metrics` is served over TCP; null where it is not.
    #[serde(default)]
    pub metrics: Option<String>,
}

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventView {
    /// When.
    pub time: String,
    /// `repaired`, `damage` or `space`.
    pub kind: String,
    /// One line.
    pub message: String,
}

impl From<&Event> for EventView {
    fn from(event: &Event) -> Self {
        Self { time: time(event.time_ns), kind: kebab(&event.kind), message: event.message.clone() }
    }
}

/// What `doctor` found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DoctorView {
    /// Number of findings that are errors.
    pub errors: u64,
    /// Number of findings that are warnings.
    pub warnings: u64,
    /// Each thing that was looked at.
    pub findings: Vec<FindingView>,
}

/// One finding.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FindingView {
    /// Which check.
    pub check: String,
    /// `ok`, `warning` or `error`.
    pub severity: String,
    /// What is so.
    pub message: String,
    /// The next step.
    pub hint: Option<String>,
}

impl DoctorView {
    /// From the store's findings.
    #[must_use]
    pub fn new(findings: &[Finding]) -> Self {
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count() as u64;
        Self {
            errors: count(Severity::Error),
            warnings: count(Severity::Warning),
            findings: findings
                .iter()
                .map(|finding| FindingView {
                    check: finding.check.clone(),
                    severity: kebab(&finding.severity),
                    message: finding.message.clone(),
                    hint: finding.hint.clone(),
                })
                .collect(),
        }
    }
}

/// A path as text: escaped as names are, so that it stays on one line.
#[must_use]
pub fn shown(path: &Path) -> String {
    path.components()
        .map(|part| {
            outcrop_store::Name::new(part.as_os_str().as_encoded_bytes())
                .map_or_else(|_| part.as_os_str().to_string_lossy().into_owned(), |name| name.to_string())
        })
        .collect::<Vec<_>>()
        .join("/")
        .replacen("//", "/", 1)
}

fn mode(bits: u32) -> String {
    format!("{bits:04o}")
}

/// Nanoseconds since 1970 as RFC 3339, to the millisecond.
#[must_use]
pub fn time(ns: u64) -> String {
    Timestamp::from_nanosecond(i128::from(ns)).map_or_else(|_| ns.to_string(), |time| format!("{time:.3}"))
}

/// The name that serde gives a variant.
fn kebab(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        other => unreachable!("a unit variant is text: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn times_and_paths_are_text() {
        assert_eq!(time(1_700_000_000_123_456_789), "2023-11-14T22:13:20.123Z");
        assert_eq!(shown(Path::new("/srv/store")), "/srv/store");
        assert_eq!(shown(Path::new(OsStr::from_bytes(b"/srv/\xff/a\nb"))), "/srv/\\xff/a\\x0ab");
        assert_eq!(kebab(&Severity::Warning), "warning");
    }
}
