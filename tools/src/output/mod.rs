//! What is printed: a reply as a table for people, or as JSON.

mod jobs;
pub mod progress;
mod schedules;
mod scrub;
mod space;
mod tables;

use crate::operations::Reply;
use anyhow::{Context as _, Result};
use serde::Serialize;
use std::io::{self, Write as _};

/// Prints an answer on stdout.
pub fn reply(reply: &Reply, json: bool) -> Result<()> {
    if !json {
        return text(&tables::of(reply));
    }
    match reply {
        Reply::Done | Reply::Detached { .. } => Ok(()),
        Reply::Volumes(views) => print_json(views),
        Reply::Volume(view) => print_json(view),
        Reply::Snapshots(views) => print_json(views),
        Reply::Removed(views) => print_json(views),
        Reply::Diff(view) => print_json(view),
        Reply::Images(views) => print_json(views),
        Reply::Image(view) => print_json(view),
        Reply::Jobs(views) => print_json(views),
        Reply::Job(view) => print_json(view),
        Reply::Status(view) => print_json(view),
        Reply::Space(view) => print_json(view),
        Reply::Metrics(metrics) => text(metrics),
        Reply::Doctor(view) => print_json(view),
        Reply::Scrub(view) => print_json(view),
        Reply::Schedules(views) => print_json(views),
        Reply::Schedule(view) => print_json(view),
        Reply::ScheduleRun(view) => print_json(view),
    }
}

fn print_json(value: &impl Serialize) -> Result<()> {
    text(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Prints on stdout. A reader that has read enough is no failure.
pub fn text(text: &str) -> Result<()> {
    bytes(text.as_bytes())
}

/// As [`text`].
pub fn bytes(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("writing to stdout"),
        _ => Ok(()),
    }
}
