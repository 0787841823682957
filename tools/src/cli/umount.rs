//! `outcrop umount`: asks the daemon; a mount whose daemon was killed is detached.

use super::session::runtime;
use crate::control::client::Client;
use crate::failure::{Failure, exit};
use crate::locate;
use crate::mountinfo::{self, FS_TYPE};
use crate::operations::views::shown;
use crate::operations::{Reply, Request};
use crate::output::progress::Meter;
use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Unmounts what `target` names: a mount point or a store.
pub fn run(target: &Path, force: bool) -> Result<()> {
    let path = locate::absolute(target)?;
    let found = find(&path)?;
    let meant = found.mounted_on.as_deref().filter(|mounted_on| *mounted_on == path).map(shown);
    let answer = runtime()?.block_on(ask(&found.store, force, meant))?;
    match (answer, found.mounted_on) {
        (Answer::Gone, _) => Ok(()),
        (Answer::Detached { busy, pid }, _) => {
            eprintln!("outcrop: detached; {busy}");
            eprintln!("hint: process {pid} goes on for these, and closes the store when they are done");
            Ok(())
        }
        (Answer::NoDaemon, Some(mounted_on)) => detach_dead(&mounted_on),
        (Answer::NoDaemon, None) => {
            Err(Failure::new(format!("{} is not mounted", found.store.display())).hint("nothing needs to be done").into())
        }
    }
}

/// A store, and where it is mounted.
struct Found {
    store: PathBuf,
    mounted_on: Option<PathBuf>,
}

fn find(path: &Path) -> Result<Found> {
    let entries = mountinfo::read().context("reading /proc/self/mountinfo")?;
    let mut here = entries.iter().filter(|entry| entry.target == path).rev();
    if let Some(top) = here.next() {
        if top.is_outcrop() {
            return Ok(Found { store: top.source.clone(), mounted_on: Some(top.target.clone()) });
        }
        if let Some(below) = here.find(|entry| entry.is_outcrop()) {
            return Err(Failure::new(format!(
                "on {} a {} lies over the mount of {}",
                path.display(),
                top.fs_type,
                below.source.display()
            ))
            .hint("unmount that first")
            .into());
        }
    }
    if let Some(entry) = mountinfo::of_store(&entries, path) {
        return Ok(Found { store: entry.source.clone(), mounted_on: Some(entry.target.clone()) });
    }
    if path.join("outcrop.json").is_file() {
        return Ok(Found { store: path.to_owned(), mounted_on: None });
    }
    let what = match mountinfo::at(&entries, path) {
        Some(entry) => format!("{} is a mount of type {}, not one of Outcrop's", path.display(), entry.fs_type),
        None => format!("{} is neither a mount point nor a store", path.display()),
    };
    Err(Failure::new(what).hint(format!("'findmnt -t {FS_TYPE}' shows what is mounted")).into())
}

enum Answer {
    Gone,
    Detached { busy: String, pid: u32 },
    NoDaemon,
}

async fn ask(store: &Path, force: bool, target: Option<String>) -> Result<Answer> {
    let Some(client) = Client::connect(store).await? else { return Ok(Answer::NoDaemon) };
    // Before asking: afterwards the number may be another's.
    let process = client.pid().and_then(Pid::from_raw).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    match client.call(&Request::Unmount { force, target }, &Meter::silent()).await? {
        Reply::Detached { busy, pid } => Ok(Answer::Detached { busy, pid }),
        _ => {
            // The store is closed; when the process has ended, its lock is free too.
            if let Some(process) = process {
                // A pidfd is readable when its process has ended. Nothing else runs in this runtime that this could block.
                rustix::event::poll(&mut [PollFd::new(&process, PollFlags::IN)], None).context("waiting for the daemon's end")?;
            }
            Ok(Answer::Gone)
        }
    }
}

/// Detaches a mount whose daemon is gone: only an Outcrop mount, which `find` has seen, and only if it is on top.
fn detach_dead(target: &Path) -> Result<()> {
    // A dead mount answers at once; one that lives has lost its socket, and is unmounted only if nobody uses it.
    let dead = matches!(rustix::fs::statvfs(target), Err(Errno::NOTCONN));
    let flags = if dead { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(target, flags | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => fusermount(target, dead),
        Err(Errno::BUSY) => {
            Err(Failure::new(format!("{} is in use, and its daemon does not answer on its socket", target.display()))
                .hint(format!("'fuser -vm {}' shows who uses it", target.display()))
                .code(exit::BUSY)
                .into())
        }
        Err(error) => Err(error).with_context(|| format!("unmounting {}", target.display())),
    }
}

/// The way of users other than root.
fn fusermount(target: &Path, dead: bool) -> Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u").args(dead.then_some("-z")).arg("--").arg(target).stdin(Stdio::null());
    let output = command.output().context("starting fusermount3 (of the package fuse3)")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("unmounting {}: {}", target.display(), said.trim())).into())
}
