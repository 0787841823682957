//! The session with the kernel: its threads, its end, and the messages that the kernel gets without having asked.

use super::{MountError, io_flusher, system, table};
use crate::MountOptions;
use crate::glue::{Answer, Glue};
use crate::meter::MountMetrics;
use crate::pool::{Limits, Pool, QUEUE_BYTES_MAX, QUEUE_REQUESTS_MAX};
use crate::tree::{Caller, SNAPSHOTS, Tree};
use fuser::{Config, INodeNo, Notifier, Session, SessionACL};
use outcrop_store::{Name, SnapshotFile, Store, VolumeId};
use parking_lot::{Condvar, Mutex};
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long the end of a session waits for operations that hang, and then again for volumes that can't be closed.
const END_LIMIT: Duration = Duration::from_secs(30);

/// A session that runs.
pub(super) struct Running {
    tree: Arc<Tree>,
    pool: Pool<Answer>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    ended: bool,
    /// Gone at the end: it holds the device open, and so would keep a dead mount from being seen as one.
    notifier: Option<Notifier>,
}

impl Running {
    /// Starts to answer what comes from `device`.
    pub(super) fn start(store: Store, device: OwnedFd, path: &Path, options: &MountOptions) -> Result<Arc<Self>, MountError> {
        let threads = options.fuse_threads();
        let owner = Caller { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
        let tree = Arc::new(Tree::new(store, options.read_only, owner).map_err(system::no_thread(path))?);
        let pool = Pool::start(Limits {
            threads: options.pool_threads.max(1),
            deadline: options.deadline,
            queue_requests_max: QUEUE_REQUESTS_MAX,
            queue_bytes_max: QUEUE_BYTES_MAX,
        })
        .map_err(system::no_thread(path))?;
        let mut config = Config::default();
        config.n_threads = Some(threads);
        // Who may use the mount is the kernel's to check (allow_other), not fuser's.
        let (alive, ends) = channel();
        let session = Session::from_fd(Glue::new(tree.clone(), pool.clone(), options, alive), device, SessionACL::All, config)
            .map_err(|error| MountError::io("talking to the kernel about", path, error))?;
        let running = Arc::new(Self {
            tree,
            pool: pool.clone(),
            state: Mutex::new(State { ended: false, notifier: Some(session.notifier()) }),
            changed: Condvar::new(),
        });
        let (ours, path_there) = (running.clone(), path.to_owned());
        std::thread::Builder::new()
            .name("outcrop-mount".to_owned())
            .spawn(move || ours.run(session, &ends, &pool, &path_there))
            .map_err(system::no_thread(path))?;
        Ok(running)
    }

    /// The life of the session. `ends` ends when the last of its threads does.
    fn run(&self, session: Session<Glue>, ends: &Receiver<Infallible>, pool: &Pool<Answer>, path: &Path) {
        // The threads that take requests inherit it.
        io_flusher();
        if let Err(error) = session.run() {
            tracing::error!(path = %path.display(), %error, "a thread of the session with the kernel failed");
            // Others may still answer.
            let _ = ends.recv();
            tracing::error!(path = %path.display(), "nobody answers any more: the mount is detached");
            if let Err(error) = system::detach(path) {
                tracing::error!(%error, "and its mount could not be detached");
            }
        }
        // From here on the kernel knows that the device is closed, unless an operation that hangs still has its reply.
        self.state.lock().notifier = None;
        if !pool.stop(END_LIMIT) {
            tracing::error!(path = %path.display(), "operations still hang in the disk's system calls");
        }
        if !self.tree.close(END_LIMIT) {
            tracing::error!(path = %path.display(), "closing volumes hangs in the disk's system calls");
        }
        self.state.lock().ended = true;
        self.changed.notify_all();
    }

    /// What was counted, of the volumes that `exists` knows.
    pub(super) fn metrics(&self, exists: &dyn Fn(VolumeId) -> bool) -> MountMetrics {
        let (volumes, handles) = self.tree.metered(exists);
        let (requests, bytes, threads) = self.pool.load();
        MountMetrics {
            volumes,
            handles: handles as u64,
            pool_threads: threads as u64,
            queue_requests: requests as u64,
            queue_bytes: bytes as u64,
            expired: self.pool.expired() as u64,
        }
    }

    pub(super) fn is_ended(&self) -> bool {
        self.state.lock().ended
    }

    /// Waits for the end; false if `limit` comes first.
    pub(super) fn wait(&self, limit: Option<Duration>) -> bool {
        let until = limit.map(|limit| Instant::now() + limit);
        let mut state = self.state.lock();
        while !state.ended {
            match until {
                None => self.changed.wait(&mut state),
                Some(until) => {
                    if self.changed.wait_until(&mut state, until).timed_out() {
                        return state.ended;
                    }
                }
            }
        }
        true
    }

    /// Drops what the kernel knows of volumes with these names.
    pub(super) fn invalidate_volumes(&self, names: &[&Name]) {
        self.tree.touch_root();
        for name in names {
            self.notify(|notifier| notifier.inval_entry(INodeNo::ROOT, name.as_os_str()));
        }
        self.invalidate_content(names);
    }

    /// Drops what the kernel knows of what volumes with these names hold.
    pub(super) fn invalidate_content(&self, names: &[&Name]) {
        for name in names {
            if let Some(ino) = self.tree.changed_behind(name) {
                self.notify(|notifier| notifier.inval_inode(INodeNo(ino), 0, 0));
            }
        }
    }

    /// The same for directories under `.snapshots`.
    pub(super) fn invalidate_snapshots(&self, sets: &[&Name]) {
        self.tree.touch_snapshots();
        for set in sets {
            self.notify(|notifier| notifier.inval_entry(INodeNo(SNAPSHOTS), set.as_os_str()));
        }
    }

    /// The same for files in them.
    pub(super) fn invalidate_snapshot_files(&self, files: &[SnapshotFile]) {
        self.tree.touch_snapshots();
        for file in files {
            if let Some(set) = self.tree.set_ino(&file.set) {
                self.notify(|notifier| notifier.inval_entry(INodeNo(set), file.volume_name.as_os_str()));
            }
            if let Some(ino) = self.tree.gone_behind(file) {
                // Its attributes only: its bytes stay what they are for who has it open.
                self.notify(|notifier| notifier.inval_inode(INodeNo(ino), -1, 0));
            }
        }
    }

    /// The inode number of a volume.
    pub(super) fn volume_ino(&self, name: &Name) -> Option<u64> {
        self.tree.volume_ino(name)
    }

    /// Sends a message, outside of the lock: the kernel may wait for requests to be answered first.
    fn notify(&self, message: impl FnOnce(&Notifier) -> std::io::Result<()>) {
        let notifier = self.state.lock().notifier.clone();
        if let Some(notifier) = notifier
            && let Err(error) = message(&notifier)
        {
            tracing::debug!(%error, "the kernel did not take an invalidation");
        }
    }
}

/// Where a mount is, as the kernel's table has it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub path: PathBuf,
    pub id: u64,
    pub device: String,
}

impl Place {
    /// That of the mount just made on `path`.
    pub(super) fn find(path: &Path) -> Result<Self, MountError> {
        let io = |error: std::io::Error| MountError::io("looking for the mount on", path, error);
        let entry = table::mounted_at(path).map_err(io)?.ok_or_else(|| io(std::io::ErrorKind::NotFound.into()))?;
        Ok(Self { path: path.to_owned(), id: entry.id, device: entry.device })
    }
}
