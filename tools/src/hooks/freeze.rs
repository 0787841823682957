//! The daemon's end of freezing: a watchdog for each file system, which holds it frozen as long as this end of a pipe is open.

use super::watchdog::{self, says};
use super::{PAUSE, interrupted, reap, timespec};
use crate::failure::Failure;
use crate::program;
use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, poll};
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How long an answer may take beyond the time it is due.
const SLACK: Duration = Duration::from_secs(10);

/// File systems that are frozen. All are thawed when it is dropped.
#[derive(Default)]
pub struct Frozen {
    watchdogs: Vec<Watchdog>,
}

struct Watchdog {
    path: PathBuf,
    store: PathBuf,
    child: Option<Child>,
    /// Open as long as it is to stay frozen.
    input: Option<ChildStdin>,
    output: ChildStdout,
}

impl Frozen {
    /// Freezes one more, until `until` at the latest. Gives false where nothing is mounted.
    pub fn add(&mut self, path: &Path, store: &Path, until: Instant, cancelled: &dyn Fn() -> bool) -> Result<bool> {
        let left = until.saturating_duration_since(Instant::now());
        let late = || {
            let what = format!("freezing {} took too long; it is thawed as soon as the kernel is done with it", path.display());
            Failure::new(what).hint("is its disk hung, or the time-out (--hook-timeout) too short?").into()
        };
        // None at all would be the sign to thaw.
        if left < Duration::from_millis(1) {
            return Err(late());
        }
        let mut watchdog = Watchdog::start(path, store, left)?;
        match watchdog.hear(until, cancelled)? {
            Heard::Line(line) if line == says::FROZEN => {
                self.watchdogs.push(watchdog);
                Ok(true)
            }
            Heard::Line(line) if line == says::UNMOUNTED => Ok(false),
            Heard::Line(line) => Err(Failure::new(line.strip_prefix(says::ERROR).unwrap_or(&line)).into()),
            Heard::Ended => Err(Failure::new(format!("the watchdog for {} ended", path.display())).into()),
            Heard::Late => Err(late()),
            Heard::Cancelled => Err(interrupted()),
        }
    }

    /// Thaws all: they are on return, and were frozen until now. An error says which was not.
    pub fn thaw(mut self) -> Result<()> {
        // All are told before the first is waited for.
        self.watchdogs.iter_mut().rev().for_each(|watchdog| watchdog.input = None);
        let mut result = Ok(());
        for mut watchdog in self.watchdogs.drain(..).rev() {
            let thawed = watchdog.thawed();
            result = result.and(thawed);
        }
        result
    }
}

enum Heard {
    Line(String),
    Ended,
    Late,
    Cancelled,
}

impl Watchdog {
    fn start(path: &Path, store: &Path, time: Duration) -> Result<Self> {
        let mut command = Command::new(program::own());
        command.arg0(watchdog::ARGV0).arg(time.as_millis().to_string()).arg(store).arg(path);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().with_context(|| format!("starting the watchdog for {}", path.display()))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let output = output.context("the watchdog has no pipe")?;
        Ok(Self { path: path.to_owned(), store: store.to_owned(), child: Some(child), input, output })
    }

    fn hear(&mut self, until: Instant, cancelled: &dyn Fn() -> bool) -> Result<Heard> {
        let mut line = Vec::new();
        loop {
            if cancelled() {
                return Ok(Heard::Cancelled);
            }
            let left = until.saturating_duration_since(Instant::now());
            let mut watched = [PollFd::new(&self.output, PollFlags::IN)];
            match poll(&mut watched, Some(&timespec(left.min(PAUSE)))) {
                Ok(0) if left.is_zero() => return Ok(Heard::Late),
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                result => result.context("waiting for the watchdog")?,
            };
            let mut byte = [0];
            match self.output.read(&mut byte).context("hearing the watchdog")? {
                0 => return Ok(Heard::Ended),
                _ if byte[0] == b'\n' => return Ok(Heard::Line(String::from_utf8_lossy(&line).into_owned())),
                _ => line.push(byte[0]),
            }
        }
    }

    fn thawed(&mut self) -> Result<()> {
        let heard = self.hear(Instant::now() + SLACK, &|| false)?;
        let path = self.path.display();
        match heard {
            Heard::Line(line) if line == says::THAWED => Ok(()),
            Heard::Line(line) if line == says::EARLY => {
                let what =
                    format!("{path} was thawed before the snapshot was complete: what it shows of it is as after a power cut");
                Err(Failure::new(what).hint("give it a longer --hook-timeout").into())
            }
            Heard::Line(line) => Err(Failure::new(line.strip_prefix(says::ERROR).unwrap_or(&line)).into()),
            Heard::Ended => {
                tracing::error!("the watchdog for {path} was killed; thawing it");
                let mut second = Self::start(&self.path, &self.store, Duration::ZERO)?;
                let heard = second.hear(Instant::now() + SLACK, &|| false)?;
                let thawed = matches!(&heard, Heard::Line(line) if line == says::THAWED);
                let what = format!("the watchdog for {path} was killed, so that it may not have been frozen all the time");
                let failure = Failure::new(what);
                Err(if thawed { failure } else { failure.hint(format!("'fsfreeze -u {path}' thaws it, if it still is")) }.into())
            }
            Heard::Late | Heard::Cancelled => {
                let what =
                    format!("thawing {path} takes long; process {} goes on with it", self.child.as_ref().map_or(0, Child::id));
                Err(Failure::new(what).into())
            }
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.input = None;
        self.child.take().into_iter().for_each(reap);
    }
}
