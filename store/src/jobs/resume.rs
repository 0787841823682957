//! Doing an ended job anew, under its number.

use super::{JobId, Task};
use crate::error::{Error, Result};
use crate::image::{ImportOptions, Progress};
use crate::scrub::ScrubOptions;
use crate::store::{Store, images};

impl Store {
    /// Does an ended job anew from its task, under its number, and returns when it has ended: an error of the work is the
    /// job's end, and is returned too. Refused where the job did not end in an error or a cancel, where what it takes is not
    /// known, and for exports, whose file the store does not write: see [`Store::job`] for their task.
    pub fn resume_job(&self, id: JobId, progress: &dyn Progress) -> Result<()> {
        let context = self.context()?;
        let job = context.requeue_job(id)?;
        let task = job.info().task;
        let refused = |reason: &str| Error::JobRefused { id, attempt: "resumed", reason: reason.to_owned() };
        match task {
            Some(Task::Import { name, path, sha256, allow_backing_in }) => {
                job.start()?;
                let options = ImportOptions { sha256, allow_backing_in };
                images::import_as(context, job, &name, &path, &options, progress).map(|_| ())
            }
            Some(Task::Export { .. }) => {
                job.abandon();
                Err(refused("its file is not the store's to write; export anew"))
            }
            Some(Task::Image { name, volume, snapshot }) => {
                images::from_volume_as(context, job, &name, &volume, snapshot.as_ref(), progress).map(|_| ())
            }
            Some(Task::Scrub { volume, rate }) => {
                job.start()?;
                let report = crate::scrub::run(context, job, &ScrubOptions { volume, rate }, progress)?;
                let (mismatches, errors) = (report.mismatch_count, report.error_count);
                if report.is_clean() { Ok(()) } else { Err(Error::ScrubFound { mismatches, errors }) }
            }
            None => {
                job.abandon();
                Err(refused("this program can't do it anew"))
            }
        }
    }
}
