//! `outcrop job`.

use super::args::Job;
use super::{ask, session};
use crate::locate;
use crate::operations::jobs::JobView;
use crate::operations::{Reply, Request};
use crate::output;
use crate::output::progress::Meter;
use anyhow::Result;
use outcrop_store::jobs::Task;
use std::path::Path;

/// Does what the command line says; gives the exit code.
pub fn run(store: Option<&Path>, command: Job) -> Result<u8> {
    let store = locate::store(store)?;
    match command {
        Job::List(output) => ask(&store, Request::JobList, output),
        Job::Show { id, output } => ask(&store, Request::JobShow { id }, output),
        Job::Cancel { id, output } => {
            let reply = session::call(&store, Request::JobCancel { id }, Meter::silent())?;
            if output.json {
                output::reply(&reply, true)?;
            } else if let Reply::Job(job) = &reply
                && !job.state.is_ended()
            {
                eprintln!("outcrop: job {id} was asked to stop, and has not ended yet: 'outcrop job show {id}' tells when");
            }
            Ok(0)
        }
        Job::Resume { id, progress, output } => {
            let meter = Meter::new(&format!("job {id}"), progress);
            // A file is written here, with the rights of whoever asks for it.
            let reply = match session::call(&store, Request::JobShow { id }, Meter::silent())? {
                Reply::Job(JobView { resumable: true, task: Some(task @ Task::Export { .. }), .. }) => {
                    super::export::resume(&store, id, task, meter)?;
                    session::call(&store, Request::JobShow { id }, Meter::silent())?
                }
                _ => session::call(&store, Request::JobResume { id }, meter)?,
            };
            output::reply(&reply, output.json)?;
            Ok(0)
        }
    }
}
