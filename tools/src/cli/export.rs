//! `outcrop export`, and exports that are resumed.

use super::args::Export;
use super::source::{self, Source};
use crate::export::destination::Destination;
use crate::failure::Failure;
use crate::locate;
use crate::output::progress::Meter;
use anyhow::Result;
use outcrop_store::export::ExportRequest;
use outcrop_store::jobs::{JobId, Task};
use std::path::Path;

/// Does what the command line says.
pub fn run(store: Option<&Path>, arguments: &Export) -> Result<()> {
    let Export { what, file, format, force, progress } = arguments;
    let (store, Source { volume, snapshot, .. }) = source::find(store, what)?;
    let path = if file.as_os_str() == "-" { None } else { Some(locate::absolute(file)?) };
    let destination = match &path {
        None => Destination::Stdout,
        Some(path) => Destination::File { path: path.clone(), force: *force },
    };
    let meter = Meter::new(&format!("exporting {volume}"), *progress);
    let request = ExportRequest { volume, snapshot, format: *format, path, force: *force, resume: None };
    crate::export::run(&store, request, &destination, meter)
}

/// Does the export of an ended job anew.
pub fn resume(store: &Path, id: JobId, task: Task, meter: Meter) -> Result<()> {
    let Task::Export { volume, snapshot, path, format, force } = task else {
        return Err(Failure::new(format!("job {id} is no export")).into());
    };
    let destination = Destination::File { path: path.clone(), force };
    let format = format.parse().map_err(Failure::new)?;
    crate::export::run(
        store,
        ExportRequest { volume, snapshot, format, path: Some(path), force, resume: Some(id) },
        &destination,
        meter,
    )
}
