//! What is known of a schedule: what a person asked for, and how it went.

use super::{Retention, SCHEDULE_NAME_MAX, Timing};
use crate::error::{Error, Result};
use crate::ids::ScheduleId;
use crate::name::{Name, escape};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Bytes that the text of one hook, or of an error, may have.
const TEXT_MAX: usize = 8192;
/// Mount points that may be frozen together.
const FSFREEZE_MAX: usize = 64;
/// The longest time-out of a hook.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Identity: what its snapshots carry.
    pub id: ScheduleId,
    /// Its name, with which its snapshots' names begin. Stays.
    pub name: Name,
    /// Whether it runs by itself.
    pub enabled: bool,
    /// When.
    pub timing: Timing,
    /// Of which volumes, by the names that they have when it runs; of all when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Vec<Name>>,
    /// Which snapshots are kept.
    #[serde(default)]
    pub keep: Retention,
    /// Labels that its snapshots get.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What is done before and after a snapshot.
    #[serde(default)]
    pub hooks: Hooks,
    /// When it was made, in nanoseconds since 1970.
    pub created_ns: u64,
    /// Everything due up to then has had its run, or is not to have one.
    pub handled_ns: u64,
    /// The last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Run>,
    /// When the last run that took a snapshot began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good_ns: Option<u64>,
}

/// What is done before and after a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// A shell command that is run before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// A shell command that is run after, however it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Mount points of file systems that are frozen while the snapshot is taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fsfreeze: Vec<PathBuf>,
    /// How long each command, and the freeze, may take, in milliseconds.
    pub timeout_ms: u64,
}

impl Default for Hooks {
    fn default() -> Self {
        Self { before: None, after: None, fsfreeze: Vec::new(), timeout_ms: 30_000 }
    }
}

impl Hooks {
    /// How long each command, and the freeze, may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.before.is_none() && self.after.is_none() && self.fsfreeze.is_empty()
    }

    /// Refuses what can't be run, or be kept.
    pub fn check(&self) -> Result<()> {
        for (what, command) in [("before-hook", &self.before), ("after-hook", &self.after)] {
            let Some(command) = command else { continue };
            if command.trim().is_empty() || command.len() > TEXT_MAX || command.contains('\0') {
                return refuse(what, &short(command), format!("it must have 1 to {TEXT_MAX} bytes, and no NUL"));
            }
        }
        for path in &self.fsfreeze {
            if !path.is_absolute() || path.to_str().is_none_or(|text| text.contains('\0')) {
                return refuse("mount point", &path.to_string_lossy(), "it must be an absolute path in UTF-8");
            }
        }
        if self.fsfreeze.len() > FSFREEZE_MAX {
            return Err(Error::Limit { what: "the number of file systems that are frozen together", limit: FSFREEZE_MAX as u64 });
        }
        if self.timeout().is_zero() || self.timeout() > TIMEOUT_MAX {
            return refuse("hook time-out", &format!("{} ms", self.timeout_ms), "it must be from 1 ms to one hour");
        }
        Ok(())
    }
}

/// How a run went. Times in nanoseconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// When it was due; none if a person asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_ns: Option<u64>,
    /// When it began.
    pub begun_ns: u64,
    /// When it ended.
    pub ended_ns: u64,
    /// The snapshot that it took; none if there was nothing to snapshot, or it failed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Name>,
    /// Volumes in it.
    #[serde(default)]
    pub volumes: u64,
    /// Snapshots (one a volume) that had had their time and were deleted.
    #[serde(default)]
    pub deleted: u64,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What a person should know though it did not fail.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// The volumes that a schedule is asked to be of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Volumes {
    /// All there are when it runs.
    All,
    /// These.
    These(Vec<Name>),
}

/// What a person asks of a new schedule, or changes of one that is there: what is not given stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleChange {
    /// When.
    pub timing: Option<Timing>,
    /// Of which volumes.
    pub volumes: Option<Volumes>,
    /// Rules of retention, each by itself.
    pub keep_last: Option<u32>,
    /// As above.
    pub keep_hourly: Option<u32>,
    /// As above.
    pub keep_daily: Option<u32>,
    /// As above.
    pub keep_weekly: Option<u32>,
    /// As above.
    pub keep_monthly: Option<u32>,
    /// All labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// The command before; an empty one takes it away.
    pub before: Option<String>,
    /// The command after; an empty one takes it away.
    pub after: Option<String>,
    /// All mount points.
    pub fsfreeze: Option<Vec<PathBuf>>,
    /// The time-out, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Whether it runs by itself.
    pub enabled: Option<bool>,
}

impl ScheduleChange {
    /// A new schedule: of all volumes, enabled, keeping all, without hooks, if nothing else is said.
    pub(crate) fn make(self, name: Name, now_ns: u64) -> Result<Schedule> {
        if name.as_bytes().len() > SCHEDULE_NAME_MAX {
            return Err(Error::NameTooLong { length: name.as_bytes().len(), limit: SCHEDULE_NAME_MAX });
        }
        let Some(timing) = self.timing.clone() else {
            return refuse("schedule", &name.to_string(), "it says neither an interval nor a cron expression");
        };
        let mut schedule = Schedule {
            id: ScheduleId::new(),
            name,
            enabled: true,
            timing,
            volumes: None,
            keep: Retention::default(),
            labels: BTreeMap::new(),
            hooks: Hooks::default(),
            created_ns: now_ns,
            handled_ns: now_ns,
            last: None,
            last_good_ns: None,
        };
        self.apply(&mut schedule, now_ns)?;
        Ok(schedule)
    }

    /// Changes a schedule. When it runs at other times from now on, or again, what is past is not caught up.
    pub(crate) fn apply(self, schedule: &mut Schedule, now_ns: u64) -> Result<()> {
        let before = (schedule.timing.clone(), schedule.enabled);
        let set = |to: &mut u32, given: Option<u32>| *to = given.unwrap_or(*to);
        schedule.timing = self.timing.unwrap_or_else(|| schedule.timing.clone());
        match self.volumes {
            None => {}
            Some(Volumes::All) => schedule.volumes = None,
            Some(Volumes::These(names)) => schedule.volumes = Some(names),
        }
        set(&mut schedule.keep.last, self.keep_last);
        set(&mut schedule.keep.hourly, self.keep_hourly);
        set(&mut schedule.keep.daily, self.keep_daily);
        set(&mut schedule.keep.weekly, self.keep_weekly);
        set(&mut schedule.keep.monthly, self.keep_monthly);
        schedule.labels = self.labels.unwrap_or_else(|| std::mem::take(&mut schedule.labels));
        let text = |given: Option<String>, old: Option<String>| match given {
            None => old,
            Some(text) => Some(text).filter(|text| !text.is_empty()),
        };
        schedule.hooks.before = text(self.before, schedule.hooks.before.take());
        schedule.hooks.after = text(self.after, schedule.hooks.after.take());
        schedule.hooks.fsfreeze = self.fsfreeze.unwrap_or_else(|| std::mem::take(&mut schedule.hooks.fsfreeze));
        schedule.hooks.timeout_ms = self.timeout_ms.unwrap_or(schedule.hooks.timeout_ms);
        schedule.enabled = self.enabled.unwrap_or(schedule.enabled);
        if before != (schedule.timing.clone(), schedule.enabled) {
            schedule.handled_ns = now_ns;
        }
        if let Some(volumes) = &mut schedule.volumes {
            volumes.sort();
            volumes.dedup();
            if volumes.is_empty() {
                return refuse("schedule", &schedule.name.to_string(), "it is of no volume");
            }
        }
        schedule.hooks.check()
    }
}

impl Schedule {
    /// What is remembered as handled.
    #[must_use]
    pub fn handled(&self) -> Timestamp {
        moment(self.handled_ns)
    }

    /// Takes down how a run went.
    pub(crate) fn ran(&mut self, mut run: Run) {
        run.error = run.error.map(|text| short(&text));
        run.warnings.truncate(8);
        run.warnings.iter_mut().for_each(|text| *text = short(text));
        if let Some(due_ns) = run.due_ns {
            // To its end: what became due meanwhile is not run at once behind it.
            // The clock may have been set back meanwhile: it is handled all the same.
            self.handled_ns = run.ended_ns.max(run.begun_ns).max(due_ns);
        }
        if run.snapshot.is_some() && run.error.is_none() {
            self.last_good_ns = Some(run.begun_ns);
        }
        self.last = Some(run);
    }

    /// The name of a snapshot that it takes at `now`, as the `again`-th try for a free one.
    pub(crate) fn snapshot_name(&self, now: Timestamp, again: u32) -> Result<Name> {
        let mut bytes = self.name.as_bytes().to_vec();
        bytes.extend(now.strftime("-%Y-%m-%dT%H:%M:%SZ").to_string().bytes());
        if again > 0 {
            bytes.extend(format!("-{}", again + 1).bytes());
        }
        Name::new(bytes)
    }

    /// Whether a snapshot's name is one that it gives. One that a person renamed is that person's.
    pub(crate) fn gave(&self, name: &Name) -> bool {
        let Some(rest) = name.as_bytes().strip_prefix(self.name.as_bytes()).and_then(|rest| std::str::from_utf8(rest).ok())
        else {
            return false;
        };
        let (time, again) = rest.split_at(rest.find('Z').map_or(rest.len(), |at| at + 1));
        let is_time = time.strip_prefix('-').is_some_and(|time| time.parse::<Timestamp>().is_ok());
        is_time && (again.is_empty() || again.strip_prefix('-').is_some_and(|number| number.parse::<u32>().is_ok()))
    }
}

/// A time of a record.
pub(crate) fn moment(ns: u64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(ns)).unwrap_or(Timestamp::MAX)
}

fn refuse<T>(what: &'static str, given: &str, reason: impl Into<String>) -> Result<T> {
    Err(Error::InvalidSchedule { what, given: escape(given.as_bytes()), reason: reason.into() })
}

/// Long text is cut.
fn short(text: &str) -> String {
    const SHOWN_MAX: usize = 1000;
    if text.len() <= SHOWN_MAX {
        return text.to_owned();
    }
    let cut = (0..=SHOWN_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..cut])
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;

    fn schedule(name: &str) -> Schedule {
        let change = ScheduleChange { timing: Some(Timing::EveryS(3600)), ..ScheduleChange::default() };
        change.make(Name::new(name).unwrap(), 1).unwrap()
    }

    #[test]
    fn names_of_snapshots_are_valid_and_sort_by_time() {
        let longest = "x".repeat(SCHEDULE_NAME_MAX);
        for name in ["hourly", "größe", "a-2026-01-01T00:00:00Z", &longest] {
            let schedule = schedule(name);
            let at = |text: &str, again| schedule.snapshot_name(text.parse().unwrap(), again).unwrap();
            let names = [
                at("2026-11-24T03:00:00.9Z", 0),
                at("2026-11-24T03:00:00Z", 1),
                at("2026-11-24T03:00:01Z", 0),
                at("2026-12-01T00:00:00Z", 0),
                at("2027-01-01T00:00:00Z", u32::MAX - 1),
            ];
            assert!(names.is_sorted());
            assert!(names.iter().all(|given| schedule.gave(given)), "{names:?}");
        }
        assert_eq!(
            schedule("h").snapshot_name("2026-11-24T03:00:00Z".parse().unwrap(), 0).unwrap().to_string(),
            "h-2026-11-24T03:00:00Z"
        );
    }

    #[test]
    fn a_name_that_somebody_else_gave_is_told() {
        let schedule = schedule("hourly");
        for other in [
            "hourly",
            "hourly-kept",
            "hourly-2026-11-24",
            "kept",
            "hourly-2026-11-24T03:00:00Z-keep",
            "daily-2026-11-24T03:00:00Z",
            "hourly-2026-11-24T03:00:00Z ",
        ] {
            assert!(!schedule.gave(&Name::new(other).unwrap()), "{other}");
        }
    }

    #[test]
    fn a_change_leaves_what_it_does_not_name() {
        let mut schedule = schedule("s");
        let keep = ScheduleChange { keep_daily: Some(7), before: Some("true".to_owned()), ..ScheduleChange::default() };
        keep.apply(&mut schedule, 5).unwrap();
        assert_eq!((schedule.keep.daily, schedule.handled_ns), (7, 1));
        let off = ScheduleChange { enabled: Some(false), before: Some(String::new()), ..ScheduleChange::default() };
        off.apply(&mut schedule, 6).unwrap();
        assert_eq!((schedule.keep.daily, schedule.handled_ns, schedule.hooks.before.clone()), (7, 6, None));
        let none = ScheduleChange { volumes: Some(Volumes::These(Vec::new())), ..ScheduleChange::default() };
        assert!(none.apply(&mut schedule.clone(), 7).is_err());
        let relative = ScheduleChange { fsfreeze: Some(vec!["mnt".into()]), ..ScheduleChange::default() };
        assert!(relative.apply(&mut schedule.clone(), 7).unwrap_err().to_string().contains("absolute"));
        let never = ScheduleChange { timeout_ms: Some(0), ..ScheduleChange::default() };
        assert!(never.apply(&mut schedule, 7).is_err());
    }
}
