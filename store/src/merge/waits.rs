//! Merges that wait for a holder, as jobs: so that `job show` names whom they wait for. In memory only until they begin.

use super::pairs::Waiting;
use super::subject_of;
use crate::error::Result;
use crate::ids::LayerId;
use crate::jobs::{Job, JobKind};
use crate::store::Context;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Jobs that have not begun, by the uppermost layer of their run.
pub(super) type Queued = BTreeMap<LayerId, Job>;

/// The job of a run that begins: the one that waited, if there is one.
pub(super) fn begin(context: &Arc<Context>, top: LayerId) -> Result<Job> {
    let waited = context.merging.queued.lock().remove(&top);
    match waited {
        Some(job) => {
            job.waiting_for(None);
            job.start().map(|()| job)
        }
        None => context.begin_job(JobKind::Merge, subject(context, top), None),
    }
}

/// Makes the jobs that wait those of the runs that do.
pub(super) fn show(context: &Arc<Context>, runs: &[Vec<LayerId>]) -> Result<()> {
    let waiting = context.merging.waiting.lock().clone();
    let holder_of = |run: &[LayerId]| {
        waiting.iter().find_map(|(pair, why)| match why {
            Waiting::Holder(holder) if run.contains(&pair.lower) => Some(holder.clone()),
            _ => None,
        })
    };
    let mut held: BTreeMap<LayerId, String> = runs.iter().filter_map(|run| Some((*run.last()?, holder_of(run)?))).collect();
    let mut queued = context.merging.queued.lock();
    let gone: Vec<LayerId> = queued.keys().filter(|top| !held.contains_key(top)).copied().collect();
    gone.iter().filter_map(|top| queued.remove(top)).for_each(Job::abandon);
    for (top, job) in queued.iter() {
        job.waiting_for(held.remove(top));
    }
    for (top, holder) in held {
        let job = context.queue_job(JobKind::Merge, subject(context, top), None)?;
        job.waiting_for(Some(holder));
        queued.insert(top, job);
    }
    Ok(())
}

/// At a close: nobody waits any more. (A job has the context, which has these.)
pub(super) fn let_go(context: &Context) {
    std::mem::take(&mut *context.merging.queued.lock()).into_values().for_each(Job::abandon);
}

fn subject(context: &Context, top: LayerId) -> String {
    format!("layers below {}", subject_of(context, top))
}
