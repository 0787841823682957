//! What the command line asks the daemon for.

use crate::operations::text;
use outcrop_store::Name;
use outcrop_store::export::{ExportFormat, ExportRequest};
use outcrop_store::jobs::JobId;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// An [`ExportRequest`] as it crosses the control socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ask {
    volume: Name,
    snapshot: Option<Name>,
    format: String,
    path: Option<AnyPath>,
    force: bool,
    resume: Option<JobId>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct AnyPath(#[serde(with = "text::path")] PathBuf);

impl From<&ExportRequest> for Ask {
    fn from(request: &ExportRequest) -> Self {
        Self {
            volume: request.volume.clone(),
            snapshot: request.snapshot.clone(),
            format: request.format.to_string(),
            path: request.path.clone().map(AnyPath),
            force: request.force,
            resume: request.resume,
        }
    }
}

impl TryFrom<Ask> for ExportRequest {
    type Error = &'static str;

    fn try_from(ask: Ask) -> Result<Self, &'static str> {
        Ok(Self {
            volume: ask.volume,
            snapshot: ask.snapshot,
            format: ask.format.parse::<ExportFormat>()?,
            path: ask.path.map(|AnyPath(path)| path),
            force: ask.force,
            resume: ask.resume,
        })
    }
}
