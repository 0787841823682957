//! What is exported: a sealed view, read through as a job.

use super::{ExportFormat, Sink};
use crate::error::{Error, Result};
use crate::jobs::{Job, JobId, JobKind, Task};
use crate::name::{Name, escape};
use crate::store::{Store, view};
use crate::volume::Snapshot;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes read at once.
const PIECE: usize = 1 << 20;
/// Ranges told at once.
const RANGES_MAX: usize = 4096;

/// What is to be exported, and where to, as far as the store is concerned.
#[derive(Debug, Clone)]
pub struct ExportRequest {
    /// The volume.
    pub volume: Name,
    /// The snapshot; without it, the volume as it is at this instant.
    pub snapshot: Option<Name>,
    /// How it is written.
    pub format: ExportFormat,
    /// The file, absolute; none where it goes to a pipe, and so can't be done anew.
    pub path: Option<PathBuf>,
    /// Whether a file that is there is replaced.
    pub force: bool,
    /// The ended job that this does anew.
    pub resume: Option<JobId>,
}

/// An export under way: what is exported does not change any more, and a job tells how far it is. Dropped without an end, its
/// job ends as an error.
pub struct Export {
    view: Arc<Snapshot>,
    job: Job,
}

impl Store {
    /// Begins an export: fixes what is exported, and notes a job.
    pub fn export(&self, request: &ExportRequest) -> Result<Export> {
        let context = self.context()?;
        let ExportRequest { volume, snapshot, format, path, force, resume } = request;
        let job = match resume {
            Some(id) => context.requeue_job(*id)?,
            None => {
                let what = snapshot.as_ref().map_or_else(|| volume.to_string(), |snapshot| format!("{volume}@{snapshot}"));
                let to = path.as_ref().map_or_else(|| "a pipe".to_owned(), |path| escape(path.as_os_str().as_bytes()));
                let task = path.as_ref().map(|path| Task::Export {
                    volume: volume.clone(),
                    snapshot: snapshot.clone(),
                    path: path.clone(),
                    format: format.to_string(),
                    force: *force,
                });
                context.queue_job(JobKind::Export, format!("'{what}' to {to} ({format})"), task)?
            }
        };
        match view::open(context, volume, snapshot.as_ref()) {
            Ok(view) => {
                job.start()?;
                Ok(Export { view, job })
            }
            // Nothing was begun: a name that there isn't makes no job.
            Err(error) => {
                job.abandon();
                Err(error)
            }
        }
    }
}

impl Export {
    /// The job's number.
    #[must_use]
    pub fn job(&self) -> JobId {
        self.job.id()
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.view.stat().size
    }

    /// Whether the job was cancelled, or the store closes.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.job.is_cancelled()
    }

    /// Sends everything to `sink`; the job is still in progress on return, see [`Export::end`]. `Interrupted` when it was
    /// cancelled.
    pub fn send(&self, sink: &mut dyn Sink) -> Result<()> {
        let size = self.size();
        sink.begin(size)?;
        let mut total = 0;
        let mut batch = Vec::new();
        let mut next = self.next_data(0)?;
        while let Some(range) = next {
            total += range.end - range.start;
            next = self.next_data(range.end)?;
            batch.push(range);
            if batch.len() == RANGES_MAX || next.is_none() {
                self.check()?;
                sink.map(&batch)?;
                batch.clear();
            }
        }
        sink.map_done()?;
        self.job.progress(0, total);
        let mut done = 0;
        let mut buffer = vec![0; PIECE];
        let mut next = self.next_data(0)?;
        while let Some(range) = next {
            let mut at = range.start;
            while at < range.end {
                self.check()?;
                // Pieces end where a cluster of any format does.
                let end = ((at / PIECE as u64 + 1) * PIECE as u64).min(range.end);
                let piece = &mut buffer[..(end - at) as usize];
                if self.view.read_at(piece, at)? != piece.len() {
                    return Err(Error::InvalidRange { offset: at, length: piece.len() as u64 });
                }
                sink.data(at, piece)?;
                done += end - at;
                at = end;
                self.job.progress(done, total);
            }
            next = self.next_data(range.end)?;
        }
        self.check()?;
        sink.finish()
    }

    fn check(&self) -> Result<()> {
        if self.job.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        match self.view.seek_data(offset) {
            Ok(start) => Ok(Some(start..self.view.seek_hole(start)?)),
            Err(Error::NoExtent { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends the job: done, when the file is where it should be.
    pub fn end(self, outcome: &Result<()>) {
        self.job.end_with(outcome);
    }

    /// Ends the job as failed where it was written, with what is known there of why.
    pub fn fail(self, reason: &str) {
        self.job.fail_for(reason);
    }
}
