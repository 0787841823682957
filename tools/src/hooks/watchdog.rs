//! The process that freezes one file system, and thaws it whatever happens.
//!
//! It is this program again, in a session of its own. It opens the mount point, freezes, says so on its standard output, and
//! thaws when its standard input ends (the daemon asks for it, or was killed), at its deadline, or when a signal asks it to
//! end. A process has one file system, so that none stays frozen while the freezing of another hangs. All it needs for the thaw it has
//! before the freeze: it opens, reads and writes no file while something is frozen.
//!
//! What it can't do: thaw before the kernel has frozen. The kernel's freeze can't be interrupted; it is thawed in
//! the moment in which it ends. And a daemon that is killed while one of its threads hangs in a disk keeps its pipes until that
//! ends: then the deadline thaws. Killed itself, it is replaced by the daemon; killed both, `fsfreeze -u` is left.

use super::ioctl;
use crate::mountinfo;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{SignalKind, signal};

/// The name that it is started under.
pub const ARGV0: &str = "outcrop-freeze";

/// Between two tries of a thaw that fails.
const RETRY: Duration = Duration::from_millis(200);
/// Tries.
const TRIES: u32 = 300;

/// What it says, a line each.
pub mod says {
    /// It is frozen.
    pub const FROZEN: &str = "frozen";
    /// Nothing is mounted there.
    pub const UNMOUNTED: &str = "unmounted";
    /// It was frozen until it was asked to thaw.
    pub const THAWED: &str = "thawed";
    /// It was thawed before that: at the deadline, for a signal, or by somebody else.
    pub const EARLY: &str = "early";
    /// Why it failed follows.
    pub const ERROR: &str = "error ";
}

/// `outcrop-freeze MILLISECONDS STORE MOUNTPOINT`; with 0 milliseconds it thaws what another one left frozen.
pub fn main(arguments: &[OsString]) -> ExitCode {
    // Its caller's terminal and end are not its own.
    let _ = rustix::process::setsid();
    let [milliseconds, store, path] = arguments else { return ExitCode::from(2) };
    let Some(milliseconds) = milliseconds.to_str().and_then(|text| text.parse().ok()) else { return ExitCode::from(2) };
    let outcome = if milliseconds == 0 {
        open(Path::new(path)).and_then(|fd| thaw(&fd)).map(|_| says::THAWED)
    } else {
        freeze(Path::new(store), Path::new(path), Instant::now() + Duration::from_millis(milliseconds))
    };
    match outcome {
        Ok(line) => {
            say(line);
            ExitCode::SUCCESS
        }
        Err(reason) => {
            say(&format!("{}{}", says::ERROR, reason.replace(char::is_control, " ")));
            ExitCode::FAILURE
        }
    }
}

/// Whether the daemon could be told.
fn say(line: &str) -> bool {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
}

fn open(path: &Path) -> Result<OwnedFd, String> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| format!("opening {}: {error}", path.display()))
}

fn freeze(store: &Path, path: &Path, deadline: Instant) -> Result<&'static str, String> {
    let shown = path.display();
    let whole: PathBuf = match std::fs::canonicalize(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(says::UNMOUNTED),
        whole => whole.map_err(|error| format!("looking at {shown}: {error}"))?,
    };
    let entries = mountinfo::read().map_err(|error| format!("reading /proc/self/mountinfo: {error}"))?;
    // Anything else would freeze the file system that the directory happens to lie in.
    let Some(entry) = mountinfo::at(&entries, &whole) else { return Ok(says::UNMOUNTED) };
    if entry.is_outcrop() {
        return Err(format!("{shown} is an Outcrop mount: name the file systems that are in its volumes"));
    }
    let fd = open(&whole)?;
    let device = |stat: rustix::io::Result<rustix::fs::Stat>, path: &Path| {
        stat.map(|stat| stat.st_dev).map_err(|error| format!("looking at {}: {error}", path.display()))
    };
    if device(rustix::fs::fstat(&fd), path)? == device(rustix::fs::stat(store), store)? {
        return Err(format!("{shown} holds the store itself, which couldn't write the snapshot"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(|error| format!("standard input: {error}"))?;
    let _entered = runtime.enter();
    let input = Receiver::from_owned_fd(input).map_err(|error| format!("standard input: {error}"))?;
    let catch = |kind| signal(kind).map_err(|error| format!("catching signals: {error}"));
    let mut signals = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?, catch(SignalKind::hangup())?);

    ioctl::freeze(&fd).map_err(|error| match error {
        Errno::BUSY => format!("{shown} is frozen already, by somebody else"),
        Errno::OPNOTSUPP | Errno::NOTTY => format!("{shown} is a {}, which can't be frozen", entry.fs_type),
        Errno::PERM => format!("freezing {shown} needs root"),
        error => format!("freezing {shown}: {error}"),
    })?;
    let asked = say(says::FROZEN)
        && runtime.block_on(async {
            let left = deadline.saturating_duration_since(Instant::now());
            tokio::select! {
                biased;
                () = tokio::time::sleep(left) => false,
                _ = signals.0.recv() => false,
                _ = signals.1.recv() => false,
                _ = signals.2.recv() => false,
                _ = input.ready(Interest::READABLE) => true,
            }
        });
    let was_frozen = thaw(&fd)?;
    Ok(if asked && was_frozen { says::THAWED } else { says::EARLY })
}

/// Thaws; whether it was frozen.
fn thaw(fd: &OwnedFd) -> Result<bool, String> {
    let mut last = Errno::IO;
    for _ in 0..TRIES {
        match ioctl::thaw(fd) {
            Ok(()) => return Ok(true),
            Err(Errno::INVAL) => return Ok(false),
            Err(error) => last = error,
        }
        std::thread::sleep(RETRY);
    }
    Err(format!("the file system could not be thawed: {last}"))
}
