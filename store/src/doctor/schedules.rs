//! Schedules: whether they can be read, and whether they do what they are there for.

use super::Report;
use crate::error::Error;
use crate::schedule::Schedule;
use crate::store::Store;

pub(super) fn check(store: &Store, report: &mut Report<'_>) {
    let schedules = match store.schedules() {
        Ok(schedules) => schedules,
        Err(error) => {
            let hint = match error {
                Error::NewerFormat { .. } => "mount with that newer program: this one runs none of them",
                _ => "none runs: look at the disk, or move the file away and add them again",
            };
            return report.error(format!("schedules can't be read: {error}"), hint);
        }
    };
    for schedule in &schedules {
        one(store, schedule, report);
    }
    if report.clean && !schedules.is_empty() {
        let enabled = schedules.iter().filter(|schedule| schedule.enabled).count();
        report.ok(format!("schedules: {}, of which {enabled} are enabled; no last run failed", schedules.len()));
    }
}

fn one(store: &Store, schedule: &Schedule, report: &mut Report<'_>) {
    let name = &schedule.name;
    if let Some(error) = schedule.last.as_ref().and_then(|run| run.error.as_ref()) {
        report.warning(format!("schedule '{name}': its last run failed: {error}"), "'outcrop schedule show' tells more");
    }
    for volume in schedule.volumes.iter().flatten().filter(|volume| store.volume(volume).is_err()) {
        report.warning(
            format!("schedule '{name}' is of volume '{volume}', which can't be taken"),
            "'outcrop volume show' tells why; 'outcrop schedule edit --volume' names others",
        );
    }
}
