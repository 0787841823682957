//! A bell for a background thread: rung from anywhere, heard once.

use parking_lot::{Condvar, Mutex};
use std::time::Duration;

/// Rings that come while nobody listens are heard by the next listener, as one.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    /// Wakes the listener.
    pub fn ring(&self) {
        let mut rung = self.rung.lock();
        if !*rung {
            *rung = true;
            self.heard.notify_one();
        }
    }

    /// Waits for a ring, at most for `limit`; whether there was one.
    pub fn listen(&self, limit: Duration) -> bool {
        let mut rung = self.rung.lock();
        if !*rung {
            self.heard.wait_for(&mut rung, limit);
        }
        std::mem::take(&mut *rung)
    }
}
