//! Waiting for something to be so, never for a time.

use std::time::{Duration, Instant};

/// How long something may take that takes milliseconds on an idle machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Waits until `ready` says so; panics, naming `what`, after a limit that only a hang reaches.
#[track_caller]
pub fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    while !ready() {
        assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} in vain: {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
