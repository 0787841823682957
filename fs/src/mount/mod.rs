//! A mount: making it, taking it away, and telling the kernel what changed behind its back.

mod error;
mod holders;

pub use error::MountError;
pub use holders::Holder;

use crate::MountOptions;
use outcrop_store::{Name, Store};
use std::path::Path;

/// Tells the kernel that this thread serves block devices, so that its memory never waits for what it serves
/// (`PR_SET_IO_FLUSHER`: the thread, and those it starts from now on). Needs CAP_SYS_RESOURCE; without it, nothing changes.
///
/// The daemon calls it before it opens the store, so that the store's own threads have it too.
pub fn io_flusher() {
    if let Err(error) = rustix::process::configure_io_flusher_behavior(true) {
        tracing::debug!(%error, "PR_SET_IO_FLUSHER is not permitted");
    }
}

/// How a mount is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnmountMode {
    /// Refused with [`MountError::Busy`] while somebody uses it.
    Normal,
    /// Detached: new users no longer find it; those who have files open keep them until they close them.
    Force,
}

/// A mount that answers. Dropping it detaches it.
pub struct Mount {}

impl Mount {
    /// Mounts `store` on `mountpoint`, which must be an empty directory. On return the mount answers.
    ///
    /// A dead mount that a killed daemon left there is detached first.
    pub fn new(store: Store, mountpoint: &Path, options: &MountOptions) -> Result<Mount, MountError> {
        let _ = (store, mountpoint, options);
        todo!()
    }

    /// The mount point, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        todo!()
    }

    /// Unmounts. With [`UnmountMode::Normal`], every request has been answered and every handle closed on return; the store is
    /// still open, so close it next. With [`UnmountMode::Force`] the mount point is free on return, but whoever holds files
    /// open is served on: [`Mount::wait`] tells when the last one is gone.
    pub fn unmount(&self, mode: UnmountMode) -> Result<(), MountError> {
        let _ = mode;
        todo!()
    }

    /// Returns when the mount is gone: by [`Mount::unmount`], or because somebody ran umount(8).
    pub fn wait(&self) {
        todo!()
    }

    /// Whether the mount is gone: [`Mount::wait`] would return at once.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        todo!()
    }

    /// Tells the kernel that volumes with these names appeared, changed or went, other than through the mount (create, rename,
    /// delete, resize, chmod): for a rename, give both. Waits for requests in the same directory; never call it while holding
    /// something that a request needs.
    pub fn invalidate_volumes(&self, names: &[&Name]) {
        let _ = names;
        todo!()
    }

    /// The same for snapshots: `sets` are the directories under `.snapshots`.
    pub fn invalidate_snapshots(&self, sets: &[&Name]) {
        let _ = sets;
        todo!()
    }
}
