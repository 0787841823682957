//! Starts the daemon in the background, and returns when its mount answers.
//!
//! The daemon is this program again, told by a hidden flag. It reports on its standard output, a pipe, in one line:
//! that the mount is there, or why it is not. Until then its stderr is the caller's.

use crate::failure::Failure;
use crate::operations::{Line, Reply};
use crate::program;
use anyhow::{Context as _, Result};
use rustix::fs::{Mode, OFlags};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

/// Starts `outcrop` with `arguments` (which hold the hidden flag), and waits for its report.
pub fn start(arguments: &[OsString]) -> Result<()> {
    let program = program::own();
    withhold_descriptors();
    let mut child = Command::new(&program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting the daemon ({})", program.display()))?;
    let mut line = String::new();
    if let Some(pipe) = child.stdout.take() {
        BufReader::new(pipe).read_line(&mut line).context("waiting for the daemon")?;
    }
    match serde_json::from_str(&line) {
        Ok(Line::Ok(_)) => Ok(()),
        Ok(Line::Error(failure)) => {
            // Its last work (the store's closing) is done when it has ended.
            let _ = child.wait();
            Err(failure.into())
        }
        _ => {
            let status = child.wait().context("waiting for the daemon")?;
            Err(Failure::new(format!("the daemon ended before the mount answered ({status})"))
                .hint("'outcrop mount --foreground' shows what it does")
                .into())
        }
    }
}

/// What the caller left open (the lock of a script, a file in some mount) is not for the daemon to hold as long as it lives.
#[expect(
    unsafe_code,
    reason = "neither std nor rustix has close_range(2), and no other call reaches descriptors that nobody here owns"
)]
fn withhold_descriptors() {
    // SAFETY: with CLOSE_RANGE_CLOEXEC the call closes nothing and reads no memory; it marks descriptors to be closed by an
    // exec, which std does with its own anyway. A kernel that does not know it (before 5.11) answers with an error, and
    // then the daemon inherits them.
    unsafe {
        libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int);
    }
}

/// In the daemon: leaves the caller's session, so that its terminal's signals and end don't reach it.
pub fn leave_session() {
    // Fails only for a process that leads a group already, which has been freed by whoever made it so.
    if let Err(error) = rustix::process::setsid() {
        tracing::debug!(%error, "no session of its own");
    }
}

/// In the daemon: tells the caller that the mount answers, and lets go of the caller's files and directory.
pub fn report_ready() -> Result<()> {
    report(&Line::Ok(Box::new(Reply::Done))).context("telling the caller that the mount answers: it has gone")?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).context("opening /dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// In the daemon: tells the caller why there is no mount.
pub fn report_failure(failure: Failure) {
    let _ = report(&Line::Error(failure));
}

fn report(line: &Line) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, line)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}
