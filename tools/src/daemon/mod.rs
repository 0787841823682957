//! The daemon: has the store, mounts it, serves the control socket, and ends in order.
//!
//! It begins with the store's lock, then binds the socket, then mounts. It ends the other way round: the mount goes
//! first, and while somebody uses it (a loop device!) it does not go; then the store is flushed and closed.

pub mod background;
mod busy;
mod claim;
mod exports;
pub mod log;
mod requests;
mod schedule;
mod serve;

use crate::control::{is_served, server};
use crate::failure::Failure;
use crate::mountinfo;
use crate::operations::reader::OwnProcess;
use crate::operations::views::{MountView, shown, time};
use crate::options::Options;
use anyhow::{Context as _, Result};
use log::Log;
use outcrop_fs::{Mount, MountError, MountOptions};
use outcrop_store::{Error as StoreError, Store};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// What is mounted where, and how.
#[derive(Debug, Clone)]
pub struct Config {
    /// The store, as an absolute path.
    pub store: PathBuf,
    /// The mount point, as an absolute path.
    pub target: PathBuf,
    /// Options of both.
    pub options: Options,
    /// In the foreground: logs on stderr, and tells systemd.
    pub foreground: bool,
    /// What is logged, as `RUST_LOG` has it.
    pub log: Option<String>,
}

/// Runs until the mount is gone and the store is closed. `ready` is called when the mount answers; an error from it
/// ends the daemon.
pub fn run(config: &Config, ready: impl FnOnce() -> Result<()>) -> Result<()> {
    let log = Log::start(config.foreground, config.log.as_deref())?;
    prepare_process();
    check_mount_point(config)?;
    let mut options = config.options.store.clone();
    options.create = true;
    options.image_reader = Some(Arc::new(OwnProcess));
    let store = claim::open(&config.store, &options)?;
    let outcome = with_store(config, &store, &log, ready);
    // After a good end the store is closed already, and this does nothing.
    let closed = store.close().context("closing the store");
    if let Err(error) = &outcome {
        tracing::error!("{}", Failure::of(error));
    }
    tracing::info!("the store is closed");
    outcome.and_then(|()| match closed {
        Err(error) if !matches!(error.downcast_ref(), Some(StoreError::Closed)) => Err(error),
        _ => Ok(()),
    })
}

fn with_store(config: &Config, store: &Store, log: &Log, ready: impl FnOnce() -> Result<()>) -> Result<()> {
    let log_path = log.open_file(&config.store)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), store = %shown(&config.store), target = %shown(&config.target), "starting");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .thread_name("control")
        .build()
        .context("starting the control threads")?;
    let listener = server::bind(&config.store)?;
    let _entered = runtime.enter();
    let metrics = config.options.metrics.map(server::bind_metrics).transpose()?;
    // From here a signal unmounts; before, it ended a process that had nothing mounted.
    let signals = serve::Signals::new(config.foreground)?;
    let made = make_mount_point(&config.target)?;
    let options = MountOptions { refuse_own: true, ..config.options.mount.clone() };
    let mount = Mount::new(store.clone(), &config.target, &options).inspect_err(|_| {
        if made {
            let _ = std::fs::remove_dir(&config.target);
        }
    })?;
    let view = MountView {
        target: shown(&config.target),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        since: time(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64)),
        log: log_path.as_deref().map(shown),
        metrics: metrics.as_ref().and_then(|listener| listener.local_addr().ok()).map(|address| address.to_string()),
    };
    let daemon = Arc::new(serve::Daemon::new(store.clone(), mount, view));
    if let Some(listener) = metrics {
        // Ends with the runtime: nobody has to be told anything then.
        runtime.spawn(server::serve_metrics(listener, Arc::clone(&daemon) as Arc<dyn server::Handler>));
    }
    if let Err(error) = ready() {
        // Nobody can use what nobody knows of: it goes, even if somebody looks in at this moment.
        daemon.force_away();
        return Err(error);
    }
    tracing::info!("the mount answers");
    let outcome = runtime.block_on(serve::serve(Arc::clone(&daemon), listener, signals, &config.store));
    runtime.shutdown_timeout(serve::GRACE);
    outcome
}

/// Refuses what can't be a mount point before a store is made for it. Mounting looks more closely, at what may be by then.
fn check_mount_point(Config { store, target, .. }: &Config) -> Result<()> {
    if store.starts_with(target) || target.starts_with(store) {
        return Err(MountError::InsideEachOther { path: target.clone(), store: store.clone() }.into());
    }
    let refuse = |reason| Err(MountError::BadMountPoint { path: target.clone(), reason }.into());
    let entries = mountinfo::read().unwrap_or_default();
    if let Some(entry) = mountinfo::at(&entries, target) {
        // What is dead is replaced. Nothing is asked of it here: it might hang.
        let may_be_dead = if entry.is_outcrop() { !is_served(&entry.source) } else { entry.fs_type.starts_with("fuse") };
        if may_be_dead {
            return Ok(());
        }
        let what = format!("{} is mounted already: {} (type {})", target.display(), shown(&entry.source), entry.fs_type);
        let same = entry.is_outcrop() && entry.source == *store;
        return Err(Failure::new(what)
            .hint(if same { "it is this store: use it" } else { "unmount that, or choose another directory" })
            .into());
    }
    match std::fs::symlink_metadata(target) {
        // Mounting sees where it leads.
        Ok(metadata) if metadata.is_symlink() => Ok(()),
        Ok(metadata) if !metadata.is_dir() => refuse("it is not a directory"),
        Ok(_) if std::fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_some()) => refuse("it is not empty"),
        _ => Ok(()),
    }
}

/// Makes the mount point where nothing is; tells whether it did. A dead mount is left for the mounting to replace.
fn make_mount_point(target: &Path) -> Result<bool> {
    let entries = mountinfo::read().context("reading /proc/self/mountinfo")?;
    if mountinfo::at(&entries, target).is_some() {
        return Ok(false);
    }
    match std::fs::symlink_metadata(target) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(target).with_context(|| format!("making the mount point {}", target.display()))?;
            Ok(true)
        }
        // What else may be wrong with it, mounting says.
        _ => Ok(false),
    }
}

/// A locked store that is mounted: says where.
fn explain(error: StoreError, store: &Path) -> anyhow::Error {
    let mounted = match &error {
        StoreError::Locked { .. } => {
            mountinfo::read().ok().and_then(|entries| mountinfo::of_store(&entries, store).map(|entry| entry.target.clone()))
        }
        _ => None,
    };
    match mounted {
        Some(target) => {
            let failure = Failure::of(&error.into());
            failure.hint(format!("it is mounted on {}; 'outcrop umount {}' ends that", target.display(), target.display())).into()
        }
        None => error.into(),
    }
}

/// What a process under other people's file systems does for itself, as far as it may. Before any thread is made:
/// threads inherit it.
fn prepare_process() {
    let _ = std::env::set_current_dir("/");
    // Its own memory requests must not wait for write-back that waits for it.
    if let Err(error) = rustix::process::configure_io_flusher_behavior(true) {
        tracing::debug!(%error, "not an I/O flusher");
    }
    // Each open layer takes a descriptor.
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::debug!(%error, "the limit of open files stays");
    }
    // Killed for want of memory, it would take every file system above with it. Whoever set a value knows better.
    const OOM: &str = "/proc/self/oom_score_adj";
    if std::fs::read_to_string(OOM).is_ok_and(|score| score.trim() == "0") {
        let _ = std::fs::write(OOM, "-900");
    }
}
