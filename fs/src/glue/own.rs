//! Requests of the process's own threads.
//!
//! A thread of the daemon that waits for its own mount is a hang in waiting: killed in that moment, it keeps the device open,
//! and so the kernel waits for it, and it for the kernel. An open file is as bad, since a process that ends waits for an answer to
//! its close. So nothing in the daemon touches its mount; should something try (a path that somebody gave, a careless
//! library), it is answered an error at once, before it has anything open. Every way to a file begins with one of the
//! requests that are looked at.

use fuser::Request;
use rustix::fs::{Access, access};

/// Whether a thread of this process asks, which is then logged.
pub(super) fn is_own(request: &Request, what: &'static str) -> bool {
    // Who asks from a namespace that can't be seen from here has number 0.
    let own = request.pid() != 0 && access(format!("/proc/self/task/{}", request.pid()), Access::EXISTS).is_ok();
    if own {
        tracing::error!(operation = what, thread = request.pid(), "a thread of the daemon asks its own mount: it is refused");
    }
    own
}
