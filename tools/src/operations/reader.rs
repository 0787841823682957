//! Reading image files in a process of its own, for the daemon.
//!
//! A thread of the daemon must never touch its own mount (why, `outcrop_store`'s image stream says), and where the path
//! of an image leads is anybody's guess. So the daemon starts this program again, by another name: that process opens and
//! reads the image, and the daemon has nothing but its pipe. When the daemon is gone, the pipe is broken and the process ends.

use anyhow::{Context as _, Result, bail};
use outcrop_store::image::{ImportOptions, Progress, Reader, Surroundings, send};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// The name by which this program is a process that reads an image.
pub const CALLED: &str = "outcrop-read-image";

/// The longest that a wait for the process goes on without asking whether to stop.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Bytes that the pipe holds, if the system lets it: what the process reads ahead.
const PIPE_BYTES: usize = 1 << 20;

/// Reads images in processes of their own.
#[derive(Debug)]
pub struct OwnProcess;

impl Reader for OwnProcess {
    fn start<'a>(
        &self,
        path: &Path,
        options: &ImportOptions,
        surroundings: &Surroundings,
        progress: &'a dyn Progress,
    ) -> io::Result<Box<dyn Read + 'a>> {
        // This very program, also where its file has been replaced since.
        let mut command = Command::new("/proc/self/exe");
        command.arg0(CALLED).arg(surroundings.floor.to_string()).arg(options.sha256.as_deref().unwrap_or_default());
        command.arg(&surroundings.directory).arg(path).args(&options.allow_backing_in);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let pipe = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let _ = rustix::pipe::fcntl_setpipe_size(&pipe, PIPE_BYTES);
        Ok(Box::new(Stream { pipe, process: Process(child), progress }))
    }
}

/// What the process sends. Dropped, it ends the process.
struct Stream<'a> {
    pipe: ChildStdout,
    process: Process,
    progress: &'a dyn Progress,
}

impl Read for Stream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.progress.cancelled() {
                return Err(io::Error::other("cancelled"));
            }
            if poll(&mut [PollFd::new(&self.pipe, PollFlags::IN)], Some(&TICK))? > 0 {
                let read = self.pipe.read(buf)?;
                if read == 0
                    && let Some(status) = self.process.0.try_wait()?.filter(|status| !status.success())
                {
                    tracing::warn!("the process that reads an image ended with {status}");
                }
                return Ok(read);
            }
        }
    }
}

/// A process that ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended, and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether this program was called to read an image.
#[must_use]
pub fn is_called(argv0: &OsStr) -> bool {
    argv0 == CALLED
}

/// That process's life. It has its say through the pipe; an error is one of a daemon that has gone, or of nonsense.
pub fn run(arguments: &[OsString]) -> Result<()> {
    let [floor, sha256, directory, path, allowed @ ..] = arguments else { bail!("this is for the daemon to call") };
    lay_off_daemon();
    let text = |argument: &OsString| argument.to_str().map(str::to_owned).context("an argument is not text");
    let options = ImportOptions {
        sha256: Some(text(sha256)?).filter(|sha256| !sha256.is_empty()),
        allow_backing_in: allowed.iter().map(Into::into).collect(),
    };
    let surroundings = Surroundings { directory: directory.into(), floor: text(floor)?.parse().context("the floor")? };
    // Not through std's standard output, which looks for the ends of lines.
    let mut out = File::from(io::stdout().as_fd().try_clone_to_owned().context("standard output")?);
    send(Path::new(path), &options, &surroundings, &mut out)?;
    Ok(())
}

/// What the daemon is to the system, because others depend on it, this process is not.
fn lay_off_daemon() {
    let _ = rustix::thread::set_name(c"outcrop-read");
    let _ = rustix::process::configure_io_flusher_behavior(false);
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
}
