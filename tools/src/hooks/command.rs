//! Runs a hook's command: `/bin/sh -c`, in a process group of its own, with a time-out.
//!
//! Between the daemon and the shell stands this program again, for a moment, to give back what the daemon is for the kernel's
//! sake and a user's command must not be: spared when memory is short, and a writer that write-back may not wait for.

use super::{PAUSE, interrupted, pid_of, reap, timespec};
use crate::failure::Failure;
use crate::program;
use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, Resource, Rlimit, Signal, getrlimit, kill_process_group, pidfd_open, setrlimit};
use std::ffi::OsString;
use std::io::{PipeReader, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The name that the process before the shell is started under.
pub const ARGV0: &str = "outcrop-hook";

/// Bytes of what a command says that are kept for the message of its failure.
const SAID_MAX: usize = 4096;
/// Bytes of it that go to the log.
const LOGGED_MAX: usize = 64 << 10;
/// Bytes that a pipe holds.
const PIPE_MAX: usize = 64 << 10;
/// How long a command that is told to end may take for it.
const GRACE: Duration = Duration::from_secs(2);
/// Open files that a command may have, as a login gives them.
const OPEN_FILES: u64 = 1024;

/// Runs it to its end. Past the time-out, or when cancelled, its process group is killed.
pub fn run(
    stage: &'static str,
    command: &str,
    variables: &[(&'static str, String)],
    timeout: Duration,
    cancelled: &dyn Fn() -> bool,
) -> Result<()> {
    let until = Instant::now() + timeout;
    let (reader, writer) = std::io::pipe().context("making a pipe")?;
    let mut starting = Command::new(program::own());
    starting.arg0(ARGV0).arg(command).stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
    // Where systemd hears from the daemon is not for the command.
    starting.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
    if std::env::var_os("PATH").is_none() {
        starting.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    }
    starting.envs(variables.iter().map(|(name, value)| (name, value)));
    let child = starting.spawn().with_context(|| format!("starting the {stage}-hook"))?;
    // The pipe's other end is the child's alone from here on.
    drop(starting);
    let mut running = Running {
        stage,
        child: Some(child),
        said: Said { reader, tail: Vec::new(), line: Vec::new(), logged: 0, ended: false, stage },
    };
    match running.wait(until, cancelled)? {
        Ended::Status(status) if status.success() => Ok(()),
        Ended::Status(status) => Err(running.failure(format!("the {stage}-hook failed ({status})"), command).into()),
        Ended::TimedOut => {
            Err(running.failure(format!("the {stage}-hook took longer than {timeout:?} and was killed"), command).into())
        }
        Ended::Cancelled => Err(interrupted()),
    }
}

/// In the child: becomes the command.
pub fn become_it(arguments: &[OsString]) -> ExitCode {
    const OOM: &str = "/proc/self/oom_score_adj";
    let spared = std::fs::read_to_string(OOM).ok().and_then(|score| score.trim().parse::<i32>().ok());
    if spared.is_some_and(|score| score < 0) {
        let _ = std::fs::write(OOM, "0");
    }
    let _ = rustix::process::configure_io_flusher_behavior(false);
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.map_or(OPEN_FILES, |current| current.min(OPEN_FILES));
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: limit.maximum });
    let error = Command::new("/bin/sh").arg("-c").args(arguments).exec();
    eprintln!("/bin/sh can't be started: {error}");
    ExitCode::from(126)
}

enum Ended {
    Status(ExitStatus),
    TimedOut,
    Cancelled,
}

struct Running {
    stage: &'static str,
    child: Option<Child>,
    said: Said,
}

impl Running {
    fn wait(&mut self, until: Instant, cancelled: &dyn Fn() -> bool) -> Result<Ended> {
        let Some(child) = &self.child else { return Ok(Ended::Cancelled) };
        let pid = pid_of(child)?;
        let process = pidfd_open(pid, PidfdFlags::empty()).context("watching the hook")?;
        let mut why = None;
        let mut deadline = until;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.said.listen(&process, left.min(PAUSE))? {
                // What it left in its group ends with it, if it had to be ended.
                if why.is_some() {
                    let _ = kill_process_group(pid, Signal::KILL);
                }
                let status = self.child.take().map(|mut child| child.wait()).transpose().context("waiting for the hook")?;
                self.said.rest();
                return Ok(why.or_else(|| status.map(Ended::Status)).unwrap_or(Ended::Cancelled));
            }
            if why.is_none() && cancelled() {
                why = Some(Ended::Cancelled);
            } else if why.is_none() && left.is_zero() {
                why = Some(Ended::TimedOut);
            } else if left.is_zero() {
                // It does not end, not even killed: the kernel has it. Nobody waits for that.
                let _ = kill_process_group(pid, Signal::KILL);
                if self.said.listen(&process, GRACE)? {
                    continue;
                }
                self.child.take().into_iter().for_each(reap);
                return Ok(why.unwrap_or(Ended::TimedOut));
            } else {
                continue;
            }
            tracing::warn!("ending the {}-hook", self.stage);
            let _ = kill_process_group(pid, Signal::TERM);
            deadline = Instant::now() + GRACE;
        }
    }

    fn failure(&self, what: String, command: &str) -> Failure {
        let said = String::from_utf8_lossy(&self.said.tail);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).map(|line| format!(": {}", line.trim()));
        Failure::new(what + &last.unwrap_or_default()).hint(format!("it was: {command}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            if let Ok(pid) = pid_of(&child) {
                let _ = kill_process_group(pid, Signal::KILL);
            }
            reap(child);
        }
    }
}

/// What a command says.
struct Said {
    reader: PipeReader,
    tail: Vec<u8>,
    line: Vec<u8>,
    logged: usize,
    ended: bool,
    stage: &'static str,
}

impl Said {
    /// Takes what it says until the process has ended, or some time is over. Whether it has ended.
    fn listen(&mut self, process: &OwnedFd, time: Duration) -> Result<bool> {
        let until = Instant::now() + time;
        loop {
            let left = timespec(until.saturating_duration_since(Instant::now()));
            let mut watched = vec![PollFd::new(process, PollFlags::IN)];
            if !self.ended {
                watched.push(PollFd::new(&self.reader, PollFlags::IN));
            }
            match poll(&mut watched, Some(&left)) {
                Ok(0) => return Ok(false),
                Err(rustix::io::Errno::INTR) => continue,
                result => result.context("waiting for the hook")?,
            };
            let ready: Vec<bool> = watched.iter().map(|fd| !fd.revents().is_empty()).collect();
            if ready.get(1) == Some(&true) {
                self.take();
            }
            if ready[0] {
                return Ok(true);
            }
            // One that never stops talking must not keep its own time-out away.
            if Instant::now() >= until {
                return Ok(false);
            }
        }
    }

    /// Takes what is left in the pipe, without waiting: somebody it started may hold the other end for ever, or fill it.
    fn rest(&mut self) {
        for _ in 0..PIPE_MAX / SAID_MAX {
            if self.ended {
                break;
            }
            let now = timespec(Duration::ZERO);
            let mut watched = [PollFd::new(&self.reader, PollFlags::IN)];
            if !matches!(poll(&mut watched, Some(&now)), Ok(1..)) {
                break;
            }
            self.take();
        }
        if !self.line.is_empty() {
            self.log();
        }
    }

    fn take(&mut self) {
        let mut bytes = [0; SAID_MAX];
        match self.reader.read(&mut bytes) {
            Ok(0) | Err(_) => self.ended = true,
            Ok(length) => {
                let bytes = &bytes[..length];
                self.tail.extend_from_slice(bytes);
                self.tail.drain(..self.tail.len().saturating_sub(SAID_MAX));
                for &byte in bytes {
                    if byte == b'\n' || self.line.len() >= SAID_MAX {
                        self.log();
                    } else {
                        self.line.push(byte);
                    }
                }
            }
        }
    }

    fn log(&mut self) {
        let line = String::from_utf8_lossy(&self.line).replace(char::is_control, " ");
        if self.logged <= LOGGED_MAX {
            tracing::info!("{}-hook: {line}", self.stage);
        }
        self.logged += self.line.len() + 1;
        self.line.clear();
    }
}
