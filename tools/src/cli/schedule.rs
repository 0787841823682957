//! `outcrop schedule`, and the hooks that `outcrop snapshot create` has too.

use super::args::Output;
use super::{ask, change};
use crate::failure::{Failure, exit};
use crate::locate::{self, Target};
use crate::operations::schedules::{ScheduleRequest, failure_of};
use crate::operations::{Reply, Request};
use crate::output;
use crate::output::progress::Meter;
use anyhow::Result;
use clap::{Args, Subcommand, ValueHint};
use outcrop_store::Name;
use outcrop_store::schedule::{Hooks, ScheduleChange, Timing, Volumes};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ADD_HELP: &str = "\
When:
  --every 1h           each full hour; 15m each quarter, 1d at midnight UTC, 1w on
                       Monday (UTC): multiples of it, whatever local clocks do
  --cron '0 3 * * *'   minute, hour, day, month, weekday, on the daemon's local clock.
                       A time that the change to summer time leaves out is taken
                       when it does; one that comes twice is taken the first time
After downtime, or when the clock was set, what was missed is caught up by one run.

What is kept, of each volume by itself:
  --keep-last N        the newest N
  --keep-hourly N      the newest of each hour that has any, for the last N of these
  --keep-daily, --keep-weekly (from Monday), --keep-monthly: likewise
A snapshot that any rule keeps stays; without a rule all do; 0 takes a rule away. Only
the schedule's own snapshots are ever deleted; one that was renamed is its no more.

Hooks run as the daemon's user; only that user and root can set them. They get, in
their environment: OUTCROP_STAGE (before, after), OUTCROP_STORE, OUTCROP_MOUNT,
OUTCROP_SNAPSHOT, OUTCROP_VOLUMES (a line each, at most 64 KiB), OUTCROP_SCHEDULE;
and after: OUTCROP_RESULT (ok, failed), OUTCROP_ERROR. If the one before fails, no
snapshot is taken. The one after always runs.";

/// `outcrop schedule`
#[derive(Debug, Subcommand)]
pub enum Schedule {
    /// Take snapshots at times, and delete what is not to be kept
    #[command(after_help = ADD_HELP)]
    Add {
        /// Its name: its snapshots are called NAME-2026-11-24T03:00:00Z
        name: OsString,
        #[command(flatten)]
        settings: Box<Settings>,
        #[command(flatten)]
        output: Output,
    },
    /// List schedules
    #[command(visible_alias = "ls")]
    List(Output),
    /// Show one schedule, and how its last run went
    Show {
        /// Its name
        name: OsString,
        #[command(flatten)]
        output: Output,
    },
    /// Change a schedule: what is not given stays as it is
    #[command(visible_alias = "set", after_help = ADD_HELP)]
    Edit {
        /// Its name
        name: OsString,
        #[command(flatten)]
        settings: Box<Settings>,
        #[command(flatten)]
        output: Output,
    },
    /// Remove a schedule; its snapshots stay
    #[command(visible_alias = "rm")]
    Remove {
        /// Its name
        name: OsString,
    },
    /// Let a schedule run again; what it missed is not caught up
    Enable {
        /// Its name
        name: OsString,
    },
    /// Let a schedule rest
    Disable {
        /// Its name
        name: OsString,
    },
    /// Run a schedule now
    Run {
        /// Its name
        name: OsString,
        #[command(flatten)]
        output: Output,
    },
}

/// What a schedule is.
#[derive(Debug, Args)]
pub struct Settings {
    /// An interval (30s, 15m, 1h, 1d, 1w)
    #[arg(long, value_name = "TIME", value_parser = interval, conflicts_with = "cron")]
    pub every: Option<Duration>,
    /// A cron expression, on the local clock
    #[arg(long, value_name = "EXPRESSION")]
    pub cron: Option<String>,
    /// A volume; may be given several times [default: all]
    #[arg(long = "volume", value_name = "VOLUME", conflicts_with = "all")]
    pub volumes: Vec<OsString>,
    /// Every volume there is when it runs
    #[arg(long)]
    pub all: bool,
    /// Keep the newest N snapshots
    #[arg(long, value_name = "N")]
    pub keep_last: Option<u32>,
    /// Keep the newest of each of N hours
    #[arg(long, value_name = "N")]
    pub keep_hourly: Option<u32>,
    /// Keep the newest of each of N days
    #[arg(long, value_name = "N")]
    pub keep_daily: Option<u32>,
    /// Keep the newest of each of N weeks
    #[arg(long, value_name = "N")]
    pub keep_weekly: Option<u32>,
    /// Keep the newest of each of N months
    #[arg(long, value_name = "N")]
    pub keep_monthly: Option<u32>,
    /// A label for its snapshots; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = super::args::label)]
    pub labels: Vec<(String, String)>,
    #[command(flatten)]
    pub hooks: HookArguments,
}

/// What is done before and after a snapshot.
#[derive(Debug, Args)]
pub struct HookArguments {
    /// A shell command to run before; if it fails, no snapshot is taken ('' for none)
    #[arg(long, value_name = "COMMAND", value_hint = ValueHint::CommandString)]
    pub before: Option<String>,
    /// A shell command to run after, however it went ('' for none)
    #[arg(long, value_name = "COMMAND", value_hint = ValueHint::CommandString)]
    pub after: Option<String>,
    /// Freeze the file system mounted there meanwhile; may be given several times ('' for none)
    #[arg(long, value_name = "MOUNTPOINT", value_hint = ValueHint::DirPath)]
    pub fsfreeze: Vec<PathBuf>,
    /// How long each command, and the freeze, may take; then it is killed, or thawed [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub hook_timeout: Option<Duration>,
}

impl HookArguments {
    /// For one snapshot.
    pub fn hooks(self) -> Result<Hooks> {
        let defaults = Hooks::default();
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(Hooks {
            before: given(self.before),
            after: given(self.after),
            fsfreeze: mount_points(&self.fsfreeze)?,
            timeout_ms: self.hook_timeout.map_or(defaults.timeout_ms, milliseconds),
        })
    }
}

impl Settings {
    fn change(self, store: &Path) -> Result<ScheduleChange> {
        let mut volumes = Vec::new();
        for argument in &self.volumes {
            let (of, name) = super::volume_of(Some(store), argument)?;
            debug_assert_eq!(of, store);
            volumes.push(name);
        }
        let volumes = match (self.all, volumes.is_empty()) {
            (true, _) => Some(Volumes::All),
            (false, true) => None,
            (false, false) => Some(Volumes::These(volumes)),
        };
        let every = self.every.map(|every| Timing::EveryS(every.as_secs()));
        let HookArguments { before, after, fsfreeze, hook_timeout } = self.hooks;
        Ok(ScheduleChange {
            timing: every.or(self.cron.map(Timing::Cron)),
            volumes,
            keep_last: self.keep_last,
            keep_hourly: self.keep_hourly,
            keep_daily: self.keep_daily,
            keep_weekly: self.keep_weekly,
            keep_monthly: self.keep_monthly,
            labels: (!self.labels.is_empty()).then(|| self.labels.into_iter().collect()),
            before,
            after,
            fsfreeze: if fsfreeze.is_empty() { None } else { Some(mount_points(&fsfreeze)?) },
            timeout_ms: hook_timeout.map(milliseconds),
            enabled: None,
        })
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Absolute, as the daemon has another working directory. Links are left: what they lead to is looked at when it is frozen.
fn mount_points(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let given = paths.iter().filter(|path| !path.as_os_str().is_empty());
    given.map(|path| Ok(std::path::absolute(path)?)).collect()
}

/// Does what is asked.
pub fn run(store: Option<&Path>, command: Schedule) -> Result<u8> {
    // A volume may be given by its path, which then says which store is meant.
    let store = match &command {
        Schedule::Add { settings, .. } | Schedule::Edit { settings, .. } => store_of(store, &settings.volumes)?,
        _ => locate::store(store)?,
    };
    let request = |action| Request::Schedule { action };
    match command {
        Schedule::List(output) => ask(&store, request(ScheduleRequest::List), output),
        Schedule::Show { name, output } => ask(&store, request(ScheduleRequest::Show(locate::name(&name)?)), output),
        Schedule::Add { name, settings, output } => {
            let name = locate::name(&name)?;
            let asked = settings.change(&store)?;
            if asked.timing.is_none() {
                return Err(Failure::new("when is it to run?")
                    .hint("give --every TIME or --cron EXPRESSION")
                    .code(exit::USAGE)
                    .into());
            }
            advise(&asked);
            change(&store, request(ScheduleRequest::Add(name, Box::new(asked))), output.json)
        }
        Schedule::Edit { name, settings, output } => {
            let asked = settings.change(&store)?;
            if asked == ScheduleChange::default() {
                return Err(Failure::new("what is to change?")
                    .hint("'outcrop schedule edit --help' lists it")
                    .code(exit::USAGE)
                    .into());
            }
            change(&store, request(ScheduleRequest::Change(locate::name(&name)?, Box::new(asked))), output.json)
        }
        Schedule::Remove { name } => change(&store, request(ScheduleRequest::Remove(locate::name(&name)?)), false),
        Schedule::Enable { name } => change(&store, request(switch(locate::name(&name)?, true)), false),
        Schedule::Disable { name } => change(&store, request(switch(locate::name(&name)?, false)), false),
        Schedule::Run { name, output } => {
            let reply = super::session::call(&store, request(ScheduleRequest::Run(locate::name(&name)?)), Meter::silent())?;
            if let Reply::ScheduleRun(view) = &reply
                && let Some(failure) = failure_of(view)
            {
                return Err(failure.into());
            }
            output::reply(&reply, output.json)?;
            Ok(0)
        }
    }
}

fn switch(name: Name, enabled: bool) -> ScheduleRequest {
    ScheduleRequest::Change(name, Box::new(ScheduleChange { enabled: Some(enabled), ..ScheduleChange::default() }))
}

fn store_of(option: Option<&Path>, volumes: &[OsString]) -> Result<PathBuf> {
    for argument in volumes {
        if let Ok(Target::Volume { .. }) = locate::target(argument) {
            return super::volume_of(option, argument).map(|(store, _)| store);
        }
    }
    locate::store(option)
}

/// What may not have been meant.
fn advise(asked: &ScheduleChange) {
    let keeps = [asked.keep_last, asked.keep_hourly, asked.keep_daily, asked.keep_weekly, asked.keep_monthly];
    if keeps.into_iter().flatten().all(|number| number == 0) {
        eprintln!(
            "outcrop: it keeps every snapshot, and a volume can have only so many; --keep-last, --keep-daily, … say which to keep"
        );
    }
}

/// A time: `500ms`, `30s`, `15m`, `1h`, `1d`, `1w`.
fn time(text: &str) -> Result<Duration, &'static str> {
    const WRONG: &str = "write it as 500ms, 30s, 15m, 1h, 1d or 1w";
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse::<u32>().map_err(|_| WRONG)?.into();
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3600)),
        "d" => Ok(Duration::from_secs(number * 86_400)),
        "w" => Ok(Duration::from_secs(number * 7 * 86_400)),
        _ => Err(WRONG),
    }
}

fn interval(text: &str) -> Result<Duration, &'static str> {
    time(text).and_then(|time| if time.subsec_nanos() == 0 { Ok(time) } else { Err("whole seconds are wanted") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_gets_through_the_socket() {
        for volumes in [None, Some(Volumes::All), Some(Volumes::These(Vec::new()))] {
            let asked =
                ScheduleChange { volumes, enabled: Some(false), before: Some(String::new()), ..ScheduleChange::default() };
            let json = serde_json::to_string(&asked).unwrap_or_default();
            assert_eq!(serde_json::from_str::<ScheduleChange>(&json).ok(), Some(asked), "{json}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("2w"), Ok(Duration::from_secs(14 * 86_400)));
        assert_eq!(interval("90m"), Ok(Duration::from_secs(5400)));
        for bad in ["", "5", "h", "-1h", "1.5h", "5y", "1h30m", "99999999999s"] {
            assert!(time(bad).is_err(), "{bad}");
        }
        assert!(interval("500ms").is_err());
    }
}
