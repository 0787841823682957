//! Schedules: what is asked of them, and what is told.

use super::views::time;
use super::{Context, Reply};
use crate::failure::Failure;
use crate::schedule::{self, Making};
use anyhow::{Context as _, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use outcrop_store::schedule::{Retention, Run, Schedule, ScheduleChange, Timing};
use outcrop_store::{Name, Store};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleRequest {
    /// Every schedule.
    List,
    /// One.
    Show(Name),
    /// A new one.
    Add(Name, Box<ScheduleChange>),
    /// Another kind of the same.
    Change(Name, Box<ScheduleChange>),
    /// One less.
    Remove(Name),
    /// A run now.
    Run(Name),
}

/// A schedule.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScheduleView {
    /// Identity: the value of the label `outcrop.schedule` of its snapshots.
    pub id: String,
    /// Name.
    pub name: String,
    /// Whether it runs by itself.
    pub enabled: bool,
    /// The interval in seconds; null with a cron expression.
    pub every: Option<u64>,
    /// The cron expression; null with an interval.
    pub cron: Option<String>,
    /// The time zone of the cron expression, and of retention's days.
    pub time_zone: String,
    /// Names of its volumes; null for all.
    pub volumes: Option<Vec<String>>,
    /// How many snapshots each rule keeps; none of a rule that is 0. All are kept if all are 0.
    pub keep: KeepView,
    /// Labels of its snapshots.
    pub labels: BTreeMap<String, String>,
    /// The command before.
    pub before: Option<String>,
    /// The command after.
    pub after: Option<String>,
    /// Mount points that are frozen.
    pub fsfreeze: Vec<String>,
    /// The time-out of each of these, in milliseconds.
    pub hook_timeout_ms: u64,
    /// When it was made.
    pub created: String,
    /// When it is due next; null when it is disabled, or never.
    pub next: Option<String>,
    /// The last run; null before the first.
    pub last: Option<RunView>,
    /// When the last run that went well began.
    pub last_good: Option<String>,
    /// Number of its snapshots (one a volume).
    pub snapshots: u64,
}

/// What retention keeps.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct KeepView {
    /// The newest.
    pub last: u32,
    /// The newest of an hour.
    pub hourly: u32,
    /// The newest of a day.
    pub daily: u32,
    /// The newest of a week.
    pub weekly: u32,
    /// The newest of a month.
    pub monthly: u32,
}

impl From<Retention> for KeepView {
    fn from(Retention { last, hourly, daily, weekly, monthly }: Retention) -> Self {
        Self { last, hourly, daily, weekly, monthly }
    }
}

/// How a run went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunView {
    /// The schedule.
    pub schedule: String,
    /// `ok`, `warning` or `failed`.
    pub outcome: String,
    /// When it was due; null if it was asked for.
    pub due: Option<String>,
    /// When it began.
    pub begun: String,
    /// When it ended.
    pub ended: String,
    /// The snapshot that it took.
    pub snapshot: Option<String>,
    /// Number of volumes in it.
    pub volumes: u64,
    /// Number of snapshots (one a volume) that it deleted.
    pub deleted: u64,
    /// Why it failed.
    pub error: Option<String>,
    /// What else is to be known.
    pub warnings: Vec<String>,
}

impl RunView {
    fn new(schedule: &Name, run: &Run) -> Self {
        let outcome = match (&run.error, run.warnings.is_empty()) {
            (Some(_), _) => "failed",
            (None, false) => "warning",
            (None, true) => "ok",
        };
        Self {
            schedule: schedule.to_string(),
            outcome: outcome.to_owned(),
            due: run.due_ns.map(time),
            begun: time(run.begun_ns),
            ended: time(run.ended_ns),
            snapshot: run.snapshot.as_ref().map(ToString::to_string),
            volumes: run.volumes,
            deleted: run.deleted,
            error: run.error.clone(),
            warnings: run.warnings.clone(),
        }
    }
}

fn view(schedule: &Schedule, snapshots: u64) -> ScheduleView {
    let zone = TimeZone::system();
    let now = Timestamp::now();
    let next = || {
        let look = outcrop_store::schedule::Clockwork::look(&schedule.timing, &zone, schedule.handled(), now);
        look.due.or(look.next)
    };
    let (every, cron) = match &schedule.timing {
        Timing::EveryS(seconds) => (Some(*seconds), None),
        Timing::Cron(text) => (None, Some(text.clone())),
    };
    ScheduleView {
        id: schedule.id.to_string(),
        name: schedule.name.to_string(),
        enabled: schedule.enabled,
        every,
        cron,
        time_zone: zone.iana_name().map_or_else(|| zone.to_offset(now).to_string(), ToOwned::to_owned),
        volumes: schedule.volumes.as_ref().map(|names| names.iter().map(ToString::to_string).collect()),
        keep: schedule.keep.into(),
        labels: schedule.labels.clone(),
        before: schedule.hooks.before.clone(),
        after: schedule.hooks.after.clone(),
        fsfreeze: schedule.hooks.fsfreeze.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
        hook_timeout_ms: schedule.hooks.timeout_ms,
        created: time(schedule.created_ns),
        next: schedule.enabled.then(next).flatten().map(|next| time(schedule::ns(next))),
        last: schedule.last.as_ref().map(|run| RunView::new(&schedule.name, run)),
        last_good: schedule.last_good_ns.map(time),
        snapshots,
    }
}

fn viewed(store: &Store, schedule: &Schedule) -> Result<Reply> {
    Ok(Reply::Schedule(Box::new(view(schedule, store.snapshots_of_schedule(schedule)?.len() as u64))))
}

/// Does what is asked; gives with it the directories under `.snapshots` that changed.
pub fn execute(context: &Context<'_>, request: ScheduleRequest) -> Result<(Reply, Vec<Name>)> {
    let store = context.store;
    let zone = TimeZone::system();
    let reply = match request {
        ScheduleRequest::List => {
            let schedules = store.schedules()?;
            let own = |schedule| Ok(view(schedule, store.snapshots_of_schedule(schedule)?.len() as u64));
            Reply::Schedules(schedules.iter().map(own).collect::<Result<_>>()?)
        }
        ScheduleRequest::Show(name) => viewed(store, &store.schedule(&name)?)?,
        ScheduleRequest::Add(name, asked) => {
            let schedule = store.add_schedule(&name, *asked, &zone).with_context(|| format!("adding schedule '{name}'"))?;
            viewed(store, &schedule)?
        }
        ScheduleRequest::Change(name, asked) => {
            let schedule = store.change_schedule(&name, *asked, &zone).with_context(|| format!("changing schedule '{name}'"))?;
            viewed(store, &schedule)?
        }
        ScheduleRequest::Remove(name) => {
            store.remove_schedule(&name)?;
            Reply::Done
        }
        ScheduleRequest::Run(name) => {
            let schedule = store.schedule(&name)?;
            let making = Making {
                store,
                mount: context.mount.map(|mount| mount.target.as_str()),
                now: &Timestamp::now,
                cancelled: &|| context.progress.cancelled(),
            };
            let made = schedule::run(&making, &schedule, None);
            return Ok((Reply::ScheduleRun(RunView::new(&name, &made.run)), made.changed.into_iter().collect()));
        }
    };
    Ok((reply, Vec::new()))
}

/// A run that failed, as the command that asked for it ends.
pub fn failure_of(view: &RunView) -> Option<Failure> {
    let error = view.error.as_ref()?;
    let kept = view.snapshot.as_ref().map(|name| format!("snapshot '{name}' was taken"));
    let failure = Failure::new(format!("running schedule '{}': {error}", view.schedule));
    Some(match kept {
        Some(kept) => failure.hint(kept),
        None => failure,
    })
}
