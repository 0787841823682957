//! Schedules as tables.

use super::tables::{NONE, labels, local, pairs, plain, table};
use crate::operations::schedules::{KeepView, RunView, ScheduleView};
use outcrop_store::schedule::Timing;
use std::time::Duration;

pub fn list(views: &[ScheduleView]) -> String {
    let rows = views.iter().map(|view| {
        [
            view.name.clone(),
            when(view),
            view.volumes.as_ref().map_or_else(|| "all".to_owned(), |volumes| volumes.join(",")),
            keep(view.keep),
            view.snapshots.to_string(),
            view.last.as_ref().map_or_else(|| NONE.to_owned(), |run| format!("{} {}", local(&run.begun), run.outcome)),
            if view.enabled { view.next.as_deref().map_or_else(|| "never".to_owned(), local) } else { "disabled".to_owned() },
        ]
    });
    table(["NAME", "WHEN", "VOLUMES", "KEEPS", "SNAPSHOTS", "LAST RUN", "NEXT"], &[4], rows)
}

pub fn one(view: &ScheduleView) -> String {
    let none = || NONE.to_owned();
    let mut rows = vec![
        ("name", view.name.clone()),
        ("id", view.id.clone()),
        ("runs", if view.cron.is_some() { format!("{} ({})", when(view), view.time_zone) } else { when(view) }),
        ("volumes", view.volumes.as_ref().map_or_else(|| "all".to_owned(), |volumes| volumes.join(", "))),
        ("keeps", keep(view.keep)),
        ("labels", labels(&view.labels)),
        ("before", view.before.as_deref().map_or_else(none, plain)),
        ("after", view.after.as_deref().map_or_else(none, plain)),
        ("freezes", if view.fsfreeze.is_empty() { none() } else { plain(&view.fsfreeze.join(", ")) }),
        ("time-out", format!("{:?} each", Duration::from_millis(view.hook_timeout_ms))),
        ("created", local(&view.created)),
        ("snapshots", view.snapshots.to_string()),
        (
            "next run",
            if view.enabled { view.next.as_deref().map_or_else(|| "never".to_owned(), local) } else { "disabled".to_owned() },
        ),
        ("last good run", view.last_good.as_deref().map_or_else(none, local)),
    ];
    match &view.last {
        None => rows.push(("last run", none())),
        Some(run) => rows.extend(run_rows(run)),
    }
    pairs(&rows)
}

pub fn run(view: &RunView) -> String {
    pairs(&run_rows(view))
}

fn run_rows(view: &RunView) -> Vec<(&'static str, String)> {
    let due = view.due.as_ref().map_or_else(|| "asked for".to_owned(), |due| format!("due {}", local(due)));
    let mut rows = vec![
        ("last run", format!("{}: {} ({due})", local(&view.begun), view.outcome)),
        (
            "took",
            view.snapshot.as_ref().map_or_else(
                || NONE.to_owned(),
                |name| format!("{name} ({} {})", view.volumes, if view.volumes == 1 { "volume" } else { "volumes" }),
            ),
        ),
        ("deleted", view.deleted.to_string()),
    ];
    rows.extend(view.error.iter().map(|error| ("error", plain(error))));
    rows.extend(view.warnings.iter().map(|warning| ("warning", plain(warning))));
    rows
}

fn when(view: &ScheduleView) -> String {
    let timing = view.every.map(Timing::EveryS).or_else(|| view.cron.clone().map(Timing::Cron));
    timing.map_or_else(|| NONE.to_owned(), |timing| timing.to_string())
}

fn keep(KeepView { last, hourly, daily, weekly, monthly }: KeepView) -> String {
    let rules = [(last, "last"), (hourly, "hourly"), (daily, "daily"), (weekly, "weekly"), (monthly, "monthly")];
    let rules: Vec<_> =
        rules.into_iter().filter(|(number, _)| *number > 0).map(|(number, rule)| format!("{number} {rule}")).collect();
    if rules.is_empty() { "all".to_owned() } else { rules.join(",") }
}
