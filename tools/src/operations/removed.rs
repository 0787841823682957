//! What was deleted, or left by a revert, as `snapshot list --undo` and `undo` show it.

use super::views::time;
use outcrop_store::{RemovedInfo, RemovedKind};
use serde::{Deserialize, Serialize};

/// Something that can be restored. As in [`super::views`]: sizes are bytes, times RFC 3339, names in their shown form.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RemovedView {
    /// A number that nothing else in the store ever had.
    pub id: u64,
    /// `snapshot`, `volume` or `revert` (what the volume held before one).
    pub kind: String,
    /// The volume's name then, or null if it had lost it; after `undo --as`, its new one.
    pub volume: Option<String>,
    /// The volume's identity.
    pub volume_id: String,
    /// The snapshot's name; null for a volume.
    pub snapshot: Option<String>,
    /// Size in bytes.
    pub size: u64,
    /// When it was taken away.
    pub removed: String,
    /// Until when it can be restored; on a full disk it may go earlier.
    pub until: String,
    /// Whether somebody still has it open: then it can't be restored yet.
    pub open: bool,
}

impl From<&RemovedInfo> for RemovedView {
    fn from(info: &RemovedInfo) -> Self {
        let kind = match info.kind {
            RemovedKind::Snapshot => "snapshot",
            RemovedKind::Volume => "volume",
            RemovedKind::Revert => "revert",
        };
        Self {
            id: info.serial,
            kind: kind.to_owned(),
            volume: info.volume_name.as_ref().map(ToString::to_string),
            volume_id: info.volume.to_string(),
            snapshot: info.set.as_ref().filter(|_| info.kind == RemovedKind::Snapshot).map(ToString::to_string),
            size: info.size,
            removed: time(info.removed_ns),
            until: time(info.until_ns),
            open: info.open,
        }
    }
}
