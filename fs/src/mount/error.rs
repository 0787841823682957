//! What can go wrong with a mount, each with its facts and the next step.

use super::holders::Holder;
use std::io;
use std::path::PathBuf;

/// Why a mount could not be made or taken away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The directory can't be a mount point.
    #[error("can't mount on {}: {reason}", path.display())]
    BadMountPoint {
        /// The mount point.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// Something is mounted there.
    #[error("{} is a mount point already, of {mounted}; unmount that, or choose another directory", path.display())]
    AlreadyMounted {
        /// The mount point.
        path: PathBuf,
        /// Source and type of what is mounted.
        mounted: String,
    },
    /// Every access of the store would go through the mount, which needs the store to answer.
    #[error("store {} and mount point {} can't lie one inside the other", store.display(), path.display())]
    InsideEachOther {
        /// The mount point.
        path: PathBuf,
        /// The store.
        store: PathBuf,
    },
    /// The kernel's FUSE device can't be used.
    #[error("can't open /dev/fuse; {hint}")]
    NoFuse {
        /// What to install, load or allow.
        hint: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The kernel does not let this process mount.
    #[error("can't mount on {}; {hint}", path.display())]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// What to load or allow.
        hint: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The helper for mounts by unprivileged users is missing or failed.
    #[error("fusermount3 {attempt} {}: {message}", path.display())]
    Fusermount {
        /// What was attempted, as a gerund.
        attempt: &'static str,
        /// The mount point.
        path: PathBuf,
        /// What it printed, or what to install.
        message: String,
    },
    /// Somebody uses the mount. Nothing was changed, and it goes on serving.
    #[error("{} is in use{}", path.display(), list(holders))]
    Busy {
        /// The mount point.
        path: PathBuf,
        /// Who uses it, as far as this user may see.
        holders: Vec<Holder>,
    },
    /// A system call failed.
    #[error("{attempt} {}", path.display())]
    Io {
        /// What was attempted, as a gerund.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl MountError {
    pub(crate) fn io(attempt: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io { attempt, path: path.into(), source: source.into() }
    }
}

fn list(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return " (by whom can't be seen; try as root)".to_owned();
    }
    let names: Vec<String> = holders.iter().map(ToString::to_string).collect();
    format!(" by {}", names.join("; "))
}
