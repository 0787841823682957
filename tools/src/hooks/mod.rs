//! What is done before and after a snapshot: commands, and freezing file systems.
//!
//! The order is: the command before → freeze → snapshot → thaw → the command after. If a step fails, the snapshot is not taken, but what
//! was frozen is thawed and the command after is run, so that it can undo what the one before did. Each step has the time-out; past it
//! a command's process group is killed, and a frozen file system is thawed by its `watchdog`, a process of its own.
//!
//! One such sequence at a time in a process: two schedules at three in the morning may freeze the same file system. None of it runs
//! on a thread that serves the mount, as freezing a file system on a volume waits for the mount.

mod command;
mod freeze;
mod ioctl;
mod watchdog;

use crate::failure::{Failure, exit};
use anyhow::{Result, anyhow};
use freeze::Frozen;
use outcrop_store::schedule::Hooks;
use parking_lot::Mutex;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How often it is looked whether somebody wants to stop.
const PAUSE: Duration = Duration::from_millis(50);

/// Characters of an error that the command after is told.
const ERROR_MAX: usize = 4000;

static TURN: Mutex<()> = Mutex::new(());

/// What the hooks are for.
pub struct Occasion<'a> {
    /// The hooks.
    pub hooks: &'a Hooks,
    /// The store's directory.
    pub store: &'a Path,
    /// What the commands are told, as environment variables.
    pub variables: Vec<(&'static str, String)>,
    /// Whether a mount point where nothing is mounted is only warned of: nothing is to be frozen then.
    pub unmounted_is_fine: bool,
}

/// How it went.
pub struct Outcome<T> {
    /// What the snapshot gave, if it was taken.
    pub value: Option<T>,
    /// What failed first, if something did: also after a snapshot that was taken.
    pub error: Option<anyhow::Error>,
    /// What a person should know besides.
    pub warnings: Vec<String>,
}

/// What this process is, by the name it was started under: the child of a command, or the watchdog of a freeze.
pub fn called_as(argv0: &OsStr, arguments: &[OsString]) -> Option<ExitCode> {
    match argv0.to_str()? {
        command::ARGV0 => Some(command::become_it(arguments)),
        watchdog::ARGV0 => Some(watchdog::main(arguments)),
        _ => None,
    }
}

/// Takes a snapshot with what is to be done before and after.
pub fn around<T>(occasion: &Occasion<'_>, cancelled: &dyn Fn() -> bool, snapshot: impl FnOnce() -> Result<T>) -> Outcome<T> {
    let mut outcome = Outcome { value: None, error: None, warnings: Vec::new() };
    if occasion.hooks.is_empty() {
        match snapshot() {
            Ok(value) => outcome.value = Some(value),
            Err(error) => outcome.error = Some(error),
        }
        return outcome;
    }
    let _turn = loop {
        if cancelled() {
            outcome.error = Some(interrupted());
            return outcome;
        }
        if let Some(turn) = TURN.try_lock_for(PAUSE) {
            break turn;
        }
    };
    let first = |outcome: &mut Outcome<T>, error: anyhow::Error| match &outcome.error {
        None => outcome.error = Some(error),
        Some(_) => outcome.warnings.push(Failure::of(&error).to_string()),
    };
    if let Err(error) = frozen(occasion, cancelled, snapshot, &mut outcome) {
        first(&mut outcome, error);
    }
    if let Some(after) = &occasion.hooks.after {
        let mut variables = stage(occasion, "after");
        let failed = outcome.error.as_ref().map(|error| Failure::of(error).to_string());
        variables.push(("OUTCROP_RESULT", if failed.is_none() { "ok" } else { "failed" }.to_owned()));
        variables.extend(failed.map(|error| ("OUTCROP_ERROR", error.chars().take(ERROR_MAX).collect())));
        // Nobody stops it: it may be what lets a database write again.
        if let Err(error) = command::run("after", after, &variables, occasion.hooks.timeout(), &|| false) {
            first(&mut outcome, error);
        }
    }
    outcome
}

/// From the command before to the thaw.
fn frozen<T>(
    occasion: &Occasion<'_>,
    cancelled: &dyn Fn() -> bool,
    snapshot: impl FnOnce() -> Result<T>,
    outcome: &mut Outcome<T>,
) -> Result<()> {
    let hooks = occasion.hooks;
    if let Some(before) = &hooks.before {
        command::run("before", before, &stage(occasion, "before"), hooks.timeout(), cancelled)?;
    }
    let until = Instant::now() + hooks.timeout();
    let mut frozen = Frozen::default();
    for path in &hooks.fsfreeze {
        if !frozen.add(path, occasion.store, until, cancelled)? {
            let what = format!("nothing is mounted on {}: there was nothing to freeze", path.display());
            if !occasion.unmounted_is_fine {
                return Err(Failure::new(what).hint("'findmnt' shows what is mounted").into());
            }
            outcome.warnings.push(what);
        }
    }
    if cancelled() {
        return Err(interrupted());
    }
    outcome.value = Some(snapshot()?);
    frozen.thaw()
}

fn stage(occasion: &Occasion<'_>, stage: &str) -> Vec<(&'static str, String)> {
    let mut variables = vec![("OUTCROP_STAGE", stage.to_owned())];
    variables.extend(occasion.variables.iter().cloned());
    variables
}

fn interrupted() -> anyhow::Error {
    Failure::new("interrupted").code(exit::INTERRUPTED).into()
}

/// A poll's time-out.
fn timespec(time: Duration) -> rustix::event::Timespec {
    rustix::event::Timespec::try_from(time).unwrap_or(rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 })
}

/// Waits for a child on a thread of its own: it has been told to end, but its last system call may not.
fn reap(mut child: std::process::Child) {
    let spawned = std::thread::Builder::new().name("outcrop-reap".to_owned()).spawn(move || child.wait());
    if let Err(error) = spawned {
        tracing::debug!(%error, "a child is not waited for");
    }
}

/// A child's process number, for rustix.
fn pid_of(child: &std::process::Child) -> Result<rustix::process::Pid> {
    rustix::process::Pid::from_raw(child.id().cast_signed()).ok_or_else(|| anyhow!("a child without a number"))
}
