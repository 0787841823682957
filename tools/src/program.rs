//! This program again: started for the daemon, for a hook, and for the watchdog of a freeze.

use std::path::PathBuf;

/// Where it is. By its real path, so that it is called outcrop in the list of processes; the link still works when that was
/// replaced.
pub fn own() -> PathBuf {
    std::env::current_exe().ok().filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}
