//! Opening the store, also right behind a process that is just ending.

use super::explain;
use crate::mountinfo;
use anyhow::Result;
use outcrop_store::{Error as StoreError, Store, StoreOptions};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the end of another process is waited for.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);
/// `PF_EXITING`, in the flags of `/proc/PID/stat`: the process is ending, but may not have let go of its files.
const EXITING: u64 = 4;

/// Opens the store, or makes it. One that a live daemon serves is refused at once; a short command, or a daemon that was
/// killed and whose mount is dead already, but which still holds the lock, is waited for.
pub(super) fn open(path: &Path, options: &StoreOptions) -> Result<Store> {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        match Store::open(path, options) {
            Err(StoreError::Locked { pid, .. }) if Instant::now() < deadline && will_let_go(path, pid) => {
                std::thread::sleep(PAUSE)
            }
            result => return result.map_err(|error| explain(error, path)),
        }
    }
}

fn will_let_go(store: &Path, pid: Option<u32>) -> bool {
    let served = mountinfo::read().is_ok_and(|entries| mountinfo::of_store(&entries, store).is_some());
    !served || pid.is_some_and(is_ending)
}

/// Whether a process is ending, or gone.
fn is_ending(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_or(true, |stat| flags_of(&stat).is_some_and(|flags| flags & EXITING != 0))
}

/// The flags in `pid (name) state ppid pgrp session tty tpgid flags …`; the name may have blanks and parentheses.
fn flags_of(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(6)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_found_behind_any_name() {
        assert_eq!(flags_of("12 (a) b (c) S 1 12 12 0 -1 4194560 99 0"), Some(4_194_560));
        assert_eq!(flags_of("nonsense"), None);
    }

    #[test]
    fn a_live_process_is_not_ending_and_a_dead_one_is() -> std::io::Result<()> {
        assert!(!is_ending(std::process::id()));
        let mut child = std::process::Command::new("true").spawn()?;
        // Ended, but not waited for: a zombie.
        let deadline = Instant::now() + Duration::from_secs(600);
        while !is_ending(child.id()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(is_ending(child.id()));
        child.wait().map(drop)
    }
}
