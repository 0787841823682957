//! One run of a schedule: hooks, the snapshot, what has had its time, and the note of how it went.
//!
//! In the daemon when it is due, and wherever the store is when a person asks for it.

use crate::failure::Failure;
use crate::hooks::{self, Occasion};
use anyhow::Result;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use outcrop_store::schedule::{Run, Schedule};
use outcrop_store::{Error as StoreError, Name, Store};
use std::collections::BTreeSet;

/// How often a snapshot is tried when writes can't be stopped in time: the next turn may be a day away.
const TRIES: u32 = 3;

/// What a run is made with.
pub struct Making<'a> {
    /// The store.
    pub store: &'a Store,
    /// Where it is mounted, in the shown form.
    pub mount: Option<&'a str>,
    /// The clock.
    pub now: &'a dyn Fn() -> Timestamp,
    /// Whether somebody wants to stop.
    pub cancelled: &'a dyn Fn() -> bool,
}

/// What a run came to.
pub struct Made {
    /// The run.
    pub run: Run,
    /// Directories under `.snapshots` that changed.
    pub changed: BTreeSet<Name>,
}

/// Runs it, and takes down how it went. What fails is told in the run.
pub fn run(making: &Making<'_>, schedule: &Schedule, due: Option<Timestamp>) -> Made {
    let begun = (making.now)();
    let mut run = Run { due_ns: due.map(ns), begun_ns: ns(begun), ..Run::default() };
    let mut changed = BTreeSet::new();
    if let Err(error) = take(making, schedule, begun, &mut run, &mut changed) {
        run.error.get_or_insert_with(|| Failure::of(&error).to_string());
    }
    // After a failure too: where the disk is full, it may be what makes room for the next.
    let current = making.store.schedule(&schedule.name).ok().filter(|current| current.id == schedule.id);
    // By the rules of now: a person may have changed them, or removed it, while hooks ran.
    if let Some(current) = current.filter(|_| !(making.cancelled)()) {
        match making.store.expire(&current, &TimeZone::system()) {
            Ok(deleted) => {
                run.deleted = deleted.len() as u64;
                changed.extend(deleted.into_iter().map(|info| info.name));
            }
            Err(error) => run.warnings.push(format!("deleting old snapshots: {}", Failure::of(&error.into()))),
        }
    }
    run.ended_ns = ns((making.now)());
    let took = run.snapshot.as_ref().map_or_else(|| "nothing".to_owned(), |name| format!("snapshot '{name}'"));
    let (schedule, deleted) = (&schedule.name, run.deleted);
    match (&run.error, run.warnings.as_slice()) {
        (Some(_), _) => {}
        (None, []) => tracing::info!("schedule '{schedule}': took {took}, deleted {deleted}"),
        (None, warnings) => tracing::warn!("schedule '{schedule}': took {took}, deleted {deleted}: {}", warnings.join("; ")),
    }
    if let Err(error) = making.store.schedule_ran(schedule, run.clone()) {
        let error = format!("its run could not be taken down: {}", Failure::of(&error.into()));
        tracing::error!("schedule '{schedule}': {error}");
        run.warnings.push(error);
    }
    Made { run, changed }
}

fn take(making: &Making<'_>, schedule: &Schedule, begun: Timestamp, run: &mut Run, changed: &mut BTreeSet<Name>) -> Result<()> {
    let store = making.store;
    let name = store.schedule_snapshot_name(schedule, begun)?;
    let mut variables = variables(store, making.mount, &name, &store.schedule_volumes(schedule)?);
    variables.push(("OUTCROP_SCHEDULE", schedule.name.to_string()));
    let occasion = Occasion { hooks: &schedule.hooks, store: store.path(), variables, unmounted_is_fine: true };
    let outcome = hooks::around(&occasion, making.cancelled, || {
        // Before it begins: after a failure too, it may be there.
        changed.insert(name.clone());
        for _ in 1..TRIES {
            match store.snapshot_scheduled(schedule, &name) {
                Err(StoreError::SnapshotTimeout { .. }) if !(making.cancelled)() => {}
                taken => return Ok(taken?),
            }
        }
        Ok(store.snapshot_scheduled(schedule, &name)?)
    });
    run.warnings.extend(outcome.warnings);
    if let Some(taken) = outcome.value {
        run.snapshot = taken.name;
        run.volumes = taken.files.len() as u64;
        run.warnings.extend(taken.left_out.iter().map(|(name, why)| format!("volume '{name}' was left out: {why}")));
        if run.snapshot.is_none() && !taken.left_out.is_empty() {
            run.error = Some(format!("none of its volumes could be taken: {}", run.warnings.join("; ")));
        }
    }
    outcome.error.map_or(Ok(()), Err)
}

/// What hooks are told of any snapshot.
pub fn variables(store: &Store, mount: Option<&str>, snapshot: &Name, volumes: &[Name]) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("OUTCROP_STORE", store.path().to_string_lossy().into_owned()),
        ("OUTCROP_SNAPSHOT", snapshot.to_string()),
        ("OUTCROP_VOLUMES", lines(volumes)),
    ];
    variables.extend(mount.map(|mount| ("OUTCROP_MOUNT", mount.to_owned())));
    variables
}

/// A line each: in their shown form, names have no line ends. As many as an environment variable may have.
fn lines(volumes: &[Name]) -> String {
    const BYTES_MAX: usize = 64 << 10;
    let mut lines = String::new();
    for name in volumes.iter().map(Name::to_string) {
        if lines.len() + name.len() > BYTES_MAX {
            break;
        }
        if !lines.is_empty() {
            lines.push('\n');
        }
        lines.push_str(&name);
    }
    lines
}

/// A time as records have it.
pub fn ns(time: Timestamp) -> u64 {
    u64::try_from(time.as_nanosecond()).unwrap_or(0)
}
