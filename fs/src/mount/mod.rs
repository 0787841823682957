//! A mount: making it, taking it away, and telling the kernel what changed behind its back.

mod error;
mod fusermount;
mod holders;
mod point;
mod session;
mod system;
mod table;

pub use error::MountError;
pub use holders::Holder;

use crate::MountOptions;
use crate::meter::MountMetrics;
use outcrop_store::{Name, SnapshotFile, Store, VolumeId};
use session::{Place, Running};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use system::Unmounted;

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

/// How long the session may take to end once the mount is gone from this namespace.
const END_LIMIT: Duration = Duration::from_secs(30);
/// How often an unmount that is refused is tried again where nobody is seen to hold the mount: closing a file ends a little later.
const BUSY_RETRIES: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// A mount that answers. Dropping it detaches it.
pub struct Mount {
    place: Place,
    running: Arc<Running>,
}

impl Mount {
    /// Mounts `store` on `mountpoint`, which must be an empty directory. On return the kernel and the session have
    /// agreed, and the mount answers.
    ///
    /// A dead mount that a killed daemon left there is detached first.
    pub fn new(store: Store, mountpoint: &Path, options: &MountOptions) -> Result<Mount, MountError> {
        let path = point::prepare(mountpoint, store.path())?;
        let source = options.fsname.as_ref().map_or_else(|| store.path().as_os_str().to_owned(), Into::into);
        let device = system::mount(&path, &source, options)?;
        let made = Running::start(store, device, &path, options)
            .and_then(|running| Place::find(&path).map(|place| Mount { place, running }));
        let mount = match made {
            Ok(mount) => mount,
            Err(error) => {
                let _ = system::detach(&path);
                return Err(error);
            }
        };
        // The kernel has the session's answer to its first message by now, so it hands on requests. They are not tried
        // from here: a thread killed while it waits for this process's own answer keeps the device open, and so waits
        // for ever, with everybody else. Who wants to see an answer asks from another process.
        if system::privileged() {
            system::raise_read_ahead(&mount.place.device, crate::glue::READ_AHEAD);
        }
        tracing::info!(path = %path.display(), threads = options.fuse_threads(), "mounted");
        Ok(mount)
    }

    /// The mount point, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// Unmounts. With [`UnmountMode::Normal`], every request has been answered and every handle closed on return; the store is
    /// still open, so close it next. With [`UnmountMode::Force`] the mount point is free on return, but whoever holds files
    /// open is served on: [`Mount::wait`] tells when the last one is gone.
    pub fn unmount(&self, mode: UnmountMode) -> Result<(), MountError> {
        let path = &self.place.path;
        if mode == UnmountMode::Force {
            return if self.is_seen()? { system::detach(path) } else { Ok(()) };
        }
        // Taken away here, it would live on there: out of sight, with nobody to say so.
        if !holders::elsewhere(&self.place).is_empty() {
            return Err(MountError::Busy { path: path.clone(), holders: self.holders() });
        }
        let mut tries = 0;
        while self.is_seen()? {
            if system::unmount(path)? == Unmounted::Done {
                break;
            }
            let holders = self.holders();
            if !holders.is_empty() || tries == BUSY_RETRIES {
                return Err(MountError::Busy { path: path.clone(), holders });
            }
            tries += 1;
            std::thread::sleep(BUSY_PAUSE);
        }
        if self.running.wait(Some(END_LIMIT)) {
            return Ok(());
        }
        // Out of sight here, but another mount namespace still has it.
        Err(MountError::Busy { path: path.clone(), holders: self.holders() })
    }

    /// What was done through it since it was made. Volumes that `exists` does not know any more are forgotten.
    #[must_use]
    pub fn metrics(&self, exists: &dyn Fn(VolumeId) -> bool) -> MountMetrics {
        self.running.metrics(exists)
    }

    /// Who uses the mount, as far as this user may see.
    #[must_use]
    pub fn holders(&self) -> Vec<Holder> {
        holders::find(&self.place)
    }

    /// Who has a volume open, likewise: processes, and loop devices with what is mounted from them. Where nobody has, those who
    /// have a deleted one open that had this name.
    #[must_use]
    pub fn holders_of(&self, volume: &Name) -> Vec<Holder> {
        let path = self.place.path.join(volume.as_os_str());
        let ino = self.running.volume_ino(volume);
        let holders = ino.map_or_else(Vec::new, |ino| holders::of_file(&self.place, &path, ino));
        if holders.is_empty() { holders::of_deleted(&self.place, &path) } else { holders }
    }

    /// Whether this mount is the one that is seen at its mount point. If it is there, but under another mount, it can't be
    /// unmounted: that one comes first.
    fn is_seen(&self) -> Result<bool, MountError> {
        let mounts = table::mounts().map_err(|error| MountError::io("reading", "/proc/self/mountinfo", error))?;
        let here: Vec<_> = mounts.iter().filter(|entry| entry.path == self.place.path).collect();
        if here.last().is_some_and(|top| top.id == self.place.id) {
            return Ok(true);
        }
        if here.iter().any(|entry| entry.id == self.place.id) {
            let path = self.place.path.clone();
            return Err(MountError::Busy { holders: vec![Holder::Mount { path: path.clone() }], path });
        }
        Ok(false)
    }

    /// Returns when the mount is gone: by [`Mount::unmount`], or because somebody ran umount(8).
    pub fn wait(&self) {
        self.running.wait(None);
    }

    /// Whether the mount is gone: [`Mount::wait`] would return at once.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.running.is_ended()
    }

    /// Tells the kernel that volumes with these names appeared or went, other than through the mount (create, rename, delete):
    /// for a rename, give both. Waits for requests in the same directory; never call it while holding something that a request
    /// needs.
    pub fn invalidate_volumes(&self, names: &[&Name]) {
        self.running.invalidate_volumes(names);
    }

    /// Tells the kernel that the size, the attributes or the content of these volumes changed, other than through the mount
    /// (resize, revert). Their names stay: who holds one open sees it change. Never call it from within a request.
    pub fn invalidate_content(&self, names: &[&Name]) {
        self.running.invalidate_content(names);
    }

    /// As [`Mount::invalidate_volumes`] for snapshots: `sets` are the directories under `.snapshots`.
    pub fn invalidate_snapshots(&self, sets: &[&Name]) {
        self.running.invalidate_snapshots(sets);
    }

    /// The same for single files under `.snapshots`, as they were before they went.
    pub fn invalidate_snapshot_files(&self, files: &[SnapshotFile]) {
        self.running.invalidate_snapshot_files(files);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !self.running.is_ended()
            && let Err(error) = self.unmount(UnmountMode::Force)
        {
            tracing::error!(path = %self.place.path.display(), %error, "the mount could not be detached");
        }
    }
}
