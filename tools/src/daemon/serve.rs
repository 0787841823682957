//! The daemon's life between the mount's beginning and its end.

use super::busy;
use super::exports::Exports;
use super::requests::Changes;
use super::schedule::{self, Alarm};
use crate::control::SOCKET;
use crate::control::server::{self, Handler};
use crate::export::ask::Ask;
use crate::failure::{Failure, exit};
use crate::metrics::Monitor;
use crate::operations::views::MountView;
use crate::operations::{Context, Reply, Request, execute, schedules};
use anyhow::{Context as _, Result};
use axum::body::Bytes;
use outcrop_fs::{Mount, MountError, UnmountMode};
use outcrop_store::Store;
use outcrop_store::image::Progress;
use sd_notify::NotifyState;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How long answers that are on their way may take at the end.
pub const GRACE: Duration = Duration::from_secs(5);

/// How often an unmount that was asked for by a signal is tried again while the mount is in use.
const RETRY: Duration = Duration::from_secs(1);

/// How long a forced unmount waits to see whether the mount's users are gone.
const DETACH_WAIT: Duration = Duration::from_millis(500);

/// The daemon, as requests see it.
pub struct Daemon {
    store: Store,
    mount: Mount,
    view: MountView,
    closing: AtomicBool,
    alarm: Alarm,
    monitor: Monitor,
    exports: Exports,
    unmounts: mpsc::UnboundedSender<Unmount>,
    incoming: parking_lot::Mutex<Option<mpsc::UnboundedReceiver<Unmount>>>,
}

/// Somebody asks for the end.
struct Unmount {
    force: bool,
    answer: oneshot::Sender<Result<Reply>>,
}

impl Daemon {
    /// Over a mount that answers.
    pub fn new(store: Store, mount: Mount, view: MountView) -> Self {
        let (unmounts, incoming) = mpsc::unbounded_channel();
        Self {
            store,
            mount,
            view,
            closing: AtomicBool::new(false),
            alarm: Alarm::default(),
            monitor: Monitor::new(),
            exports: Exports::default(),
            unmounts,
            incoming: parking_lot::Mutex::new(Some(incoming)),
        }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The mount.
    pub fn mount(&self) -> &Mount {
        &self.mount
    }

    /// Where it is, in the shown form.
    pub fn mounted_on(&self) -> &str {
        &self.view.target
    }

    /// Whether it ends.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// What wakes the thread that runs schedules.
    pub fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    /// Takes the mount away whatever holds it.
    pub fn force_away(&self) {
        if let Err(error) = self.mount.unmount(UnmountMode::Force) {
            tracing::error!("{}", Failure::of(&error.into()));
        }
    }
}

impl Handler for Daemon {
    fn metrics(&self) -> Result<String> {
        self.monitor.text(&self.store, &self.mount)
    }

    fn handle(&self, request: Request, progress: &dyn Progress) -> Result<Reply> {
        if let Request::Unmount { force, target } = request {
            if let Some(target) = target.filter(|target| *target != self.view.target) {
                return Err(Failure::new(format!("{target} is not the daemon's mount, which is on {}", self.view.target))
                    .hint(format!("'umount {target}' takes a bind mount away"))
                    .into());
            }
            let (answer, answered) = oneshot::channel();
            let ending = || Failure::new("the daemon is ending already").code(exit::BUSY);
            self.unmounts.send(Unmount { force, answer }).map_err(|_| ending())?;
            return answered.blocking_recv().map_err(|_| ending())?;
        }
        if matches!(request, Request::Metrics) {
            return self.metrics().map(Reply::Metrics);
        }
        tracing::debug!(?request, "asked");
        if let Request::ExportEnd { id, error } = request {
            return self.exports.ended(&self.store, id, error);
        }
        let progress = &UntilClosing { inner: progress, closing: &self.closing };
        if let Request::Schedule { action } = request {
            let context = Context { store: &self.store, mount: Some(&self.view), progress };
            let (reply, changed) = schedules::execute(&context, action)?;
            Changes::of_snapshots(changed).tell(&self.mount);
            self.alarm.ring();
            return Ok(reply);
        }
        let mut changes = Changes::of(&request, &self.store);
        if let Request::VolumeRevert { name, force: true, .. } = &request {
            // What memory maps have made dirty goes to what is left behind, before anybody opens what comes.
            self.mount.invalidate_content(&[name]);
        }
        let context = Context { store: &self.store, mount: Some(&self.view), progress };
        let outcome = busy::unless_held(&self.mount, &request, |request| execute(&context, request));
        if let Ok(reply) = &outcome {
            changes.add(reply);
        }
        // After a failure too: it may have come after the change.
        changes.tell(&self.mount);
        outcome
    }

    fn export(&self, ask: Ask, frames: mpsc::Sender<Bytes>) {
        self.exports.serve(&self.store, ask, &frames);
    }
}

/// Stops long work when the daemon ends.
struct UntilClosing<'a> {
    inner: &'a dyn Progress,
    closing: &'a AtomicBool,
}

impl Progress for UntilClosing<'_> {
    fn advance(&self, done: u64, total: u64) {
        self.inner.advance(done, total);
    }

    fn cancelled(&self) -> bool {
        self.closing.load(Ordering::Relaxed) || self.inner.cancelled()
    }
}

/// The signals that ask for the end.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    foreground: bool,
}

impl Signals {
    /// From now on they no longer end the process. In a runtime.
    pub fn new(foreground: bool) -> Result<Self> {
        let catch = |kind| signal(kind).context("catching signals");
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: catch(SignalKind::hangup())?,
            foreground,
        })
    }

    /// The next of them, by name. A daemon in the background has no terminal to lose.
    async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => if self.foreground { return "SIGHUP" },
            }
        }
    }
}

/// Serves until the mount is gone, then closes the store.
pub async fn serve(
    daemon: Arc<Daemon>,
    listener: std::os::unix::net::UnixListener,
    signals: Signals,
    store_path: &Path,
) -> Result<()> {
    let incoming = daemon.incoming.lock().take().context("a daemon serves once")?;
    let (stop, stopped) = watch::channel(false);
    let server = tokio::spawn(server::serve(listener, Arc::clone(&daemon) as Arc<dyn Handler>, stopped));
    let schedules = schedule::start(&daemon)?;
    let waiting = until_unmounted(&daemon, incoming, signals).await;

    tracing::info!("the mount is gone; closing the store");
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    // First of all, so that what is interrupted knows by what.
    daemon.store.stop_jobs();
    daemon.closing.store(true, Ordering::Relaxed);
    // While the lock is still held: the next daemon's socket must not be taken for this one's.
    if let Err(error) = std::fs::remove_file(store_path.join(SOCKET)) {
        tracing::warn!(%error, "the control socket stays behind");
    }
    let closing = Arc::clone(&daemon);
    let closed = tokio::task::spawn_blocking(move || {
        // A hook under way is ended by now, or at its time-out.
        closing.alarm.ring();
        if schedules.join().is_err() {
            tracing::error!("the thread for schedules panicked");
        }
        closing.store.close()
    })
    .await
    .context("closing the store")?;
    let failure = closed.err().map(|error| Failure::of(&anyhow::Error::new(error).context("closing the store")));
    if let Some(answer) = waiting {
        let _ = answer.send(failure.clone().map_or(Ok(Reply::Done), |failure| Err(failure.into())));
    }
    let _ = stop.send(true);
    if timeout(GRACE, server).await.is_err() {
        tracing::debug!("a client did not take its answer");
    }
    failure.map_or(Ok(()), |failure| Err(failure.into()))
}

/// Returns when the mount is gone, with whoever waits to hear that the store is closed.
async fn until_unmounted(
    daemon: &Arc<Daemon>,
    mut incoming: mpsc::UnboundedReceiver<Unmount>,
    mut signals: Signals,
) -> Option<oneshot::Sender<Result<Reply>>> {
    let (ended_sender, mut ended) = watch::channel(false);
    let mut ended_soon = ended.clone();
    let watched = Arc::clone(daemon);
    // A thread of its own: it waits as long as the mount lives. It is not joined, as the process may end before it.
    std::thread::spawn(move || {
        watched.mount.wait();
        let _ = ended_sender.send(true);
    });
    let mut retries = interval(RETRY);
    retries.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopping = false;
    let mut told = String::new();
    loop {
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => return None,
            name = signals.next() => {
                tracing::info!("{name}: unmounting");
                stopping = true;
                told.clear();
                retries.reset_immediately();
            }
            _ = retries.tick(), if stopping => match unmount(daemon, UnmountMode::Normal).await {
                Ok(()) => return None,
                Err(failure) => {
                    let text = failure.to_string();
                    if text != told {
                        tracing::warn!("{text}; serving on until that ends");
                        let _ = sd_notify::notify(&[NotifyState::Status(&format!("waiting to unmount: {text}"))]);
                        told = text;
                    }
                }
            },
            Some(Unmount { force, answer }) = incoming.recv() => match unmount(daemon, UnmountMode::Normal).await {
                Ok(()) => return Some(answer),
                Err(failure) if force => {
                    tracing::warn!("{failure}; detaching it by force");
                    if let Err(failure) = unmount(daemon, UnmountMode::Force).await {
                        let _ = answer.send(Err(failure.into()));
                        continue;
                    }
                    if timeout(DETACH_WAIT, ended_soon.wait_for(|ended| *ended)).await.is_ok() {
                        return Some(answer);
                    }
                    let _ = answer.send(detached(daemon, &failure).await);
                }
                Err(failure) => {
                    tracing::warn!("{failure}; an unmount was refused");
                    let _ = answer.send(Err(failure.into()));
                }
            },
        }
    }
}

async fn unmount(daemon: &Arc<Daemon>, mode: UnmountMode) -> Result<(), Failure> {
    let daemon = Arc::clone(daemon);
    let unmounted = tokio::task::spawn_blocking(move || daemon.mount.unmount(mode)).await;
    match unmounted {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            let busy = matches!(error, MountError::Busy { .. });
            let failure = Failure::of(&error.into());
            Err(if busy {
                failure
                    .code(exit::BUSY)
                    .hint("close what uses it (unmount file systems and detach loop devices), or --force to detach")
            } else {
                failure
            })
        }
        Err(panic) => Err(Failure::new(format!("unmounting: {panic}"))),
    }
}

/// After a forced unmount of a mount in use: what was written is made durable, and its users are served on.
async fn detached(daemon: &Arc<Daemon>, busy: &Failure) -> Result<Reply> {
    let flushing = Arc::clone(daemon);
    tokio::task::spawn_blocking(move || flushing.store.flush()).await.context("flushing the store")??;
    tracing::warn!("detached; the daemon goes on for its users, and ends with them: {busy}");
    Ok(Reply::Detached { busy: busy.to_string(), pid: daemon.view.pid })
}
