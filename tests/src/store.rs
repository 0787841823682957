//! A store with its mount and daemon, all of a test's own.

use crate::program::outcrop;
use crate::run::{fails, run};
use crate::scratch::{Scratch, is_mounted};
use crate::wait::{LIMIT, wait_until};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// How long a test may hold a store before it counts as hung, beyond what `OUTCROP_TEST_SECONDS` asks for.
const HANG: Duration = Duration::from_secs(600);

type Daemon = Arc<Mutex<Option<Child>>>;

/// A store in a directory of its own, and a mount point for it. The daemon is a child of the test, in the
/// foreground, with its log in a file that is shown when the test fails.
#[derive(Debug)]
pub struct TestStore {
    store: PathBuf,
    mount: PathBuf,
    log: PathBuf,
    arguments: Vec<String>,
    daemon: Daemon,
    // Told (by being dropped) that the test is over.
    _watched: mpsc::Sender<()>,
    scratch: Scratch,
}

impl TestStore {
    /// A store in a fresh directory, not yet made.
    pub fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let store = scratch.join("store");
        Self::at(store, scratch)
    }

    /// A store in the directory `store` (of a [`crate::LoopDisk`]), not yet made.
    pub fn on(store: impl Into<PathBuf>, name: &str) -> Self {
        Self::at(store.into(), Scratch::new(name))
    }

    /// A store, mounted.
    #[track_caller]
    pub fn mounted(name: &str) -> Self {
        let store = Self::new(name);
        store.mount();
        store
    }

    fn at(store: PathBuf, scratch: Scratch) -> Self {
        let daemon = Daemon::default();
        let (mount, log) = (scratch.join("mount"), scratch.join("daemon.log"));
        let watched = watch(scratch.path().to_owned(), log.clone(), daemon.clone());
        Self { store, mount, log, arguments: Vec::new(), daemon, _watched: watched, scratch }
    }

    /// Adds arguments to `outcrop mount`.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// The store's directory.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// The mount point.
    pub fn mount_point(&self) -> &Path {
        &self.mount
    }

    /// A volume's file.
    pub fn file(&self, volume: impl AsRef<Path>) -> PathBuf {
        self.mount.join(volume)
    }

    /// A snapshot's directory.
    pub fn set(&self, snapshot: &str) -> PathBuf {
        self.mount.join(".snapshots").join(snapshot)
    }

    /// A file outside the store.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// What the daemons of this store have said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The daemon's process number.
    pub fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.daemon.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Starts a daemon without waiting for it.
    #[track_caller]
    pub fn start(&self) {
        let log = File::options().create(true).append(true).open(&self.log).unwrap_or_else(|error| panic!("the log: {error}"));
        let mut command = outcrop();
        command.args(["mount", "--foreground"]).args(&self.arguments).arg(&self.store).arg(&self.mount);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
        let before = self.child().replace(child);
        assert!(before.is_none(), "the daemon runs already");
    }

    /// Mounts; on return the mount answers. A dead mount is recovered.
    #[track_caller]
    pub fn mount(&self) {
        let mut daemon_ended = None;
        self.start();
        wait_until("the mount to answer", || {
            daemon_ended = self.child().as_mut().and_then(|child| child.try_wait().ok().flatten());
            daemon_ended.is_some() || self.mount.join(".snapshots").is_dir()
        });
        if let Some(status) = daemon_ended {
            self.child().take();
            panic!("the daemon ended instead of mounting: {status}\n{}", self.log());
        }
    }

    /// Unmounts with `outcrop umount`; on return the store is flushed and closed.
    #[track_caller]
    pub fn umount(&self) {
        run(outcrop().arg("umount").arg(&self.mount));
        assert!(!is_mounted(&self.mount), "'outcrop umount' returned with the mount still there");
        let status = self.wait_for_end();
        let log = self.log();
        assert!(status.success(), "the daemon ended with {status}\n{log}");
        assert!(!log.contains("asks its own mount"), "the daemon touched its own mount\n{log}");
    }

    /// Unmounts and mounts again.
    #[track_caller]
    pub fn remount(&self) {
        self.umount();
        self.mount();
    }

    /// Waits until the daemon has ended by itself.
    #[track_caller]
    pub fn wait_for_end(&self) -> ExitStatus {
        let mut status = None;
        wait_until("the daemon to end", || {
            status = self.child().as_mut().and_then(|child| child.try_wait().ok().flatten());
            status.is_some()
        });
        self.child().take();
        status.unwrap_or_default()
    }

    /// SIGKILL: leaves a dead mount behind. A daemon that does not end by it (one of its threads waits for its own mount)
    /// fails the test.
    #[track_caller]
    pub fn kill(&self) {
        let Some(mut child) = self.child().take() else { return };
        let _ = child.kill();
        let (begun, mut pause) = (Instant::now(), Duration::from_millis(1));
        while matches!(child.try_wait(), Ok(None)) {
            if begun.elapsed() >= LIMIT {
                // Has the kernel answer all who wait.
                let _ = rustix::mount::unmount(&self.mount, rustix::mount::UnmountFlags::FORCE);
                let _ = child.wait();
                assert!(std::thread::panicking(), "the daemon was killed, and did not end within {LIMIT:?}");
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// SIGKILL, then mount again.
    #[track_caller]
    pub fn kill_and_mount(&self) {
        self.kill();
        self.mount();
    }

    /// Takes a dead mount away, as nothing else may hold the disk below.
    pub fn detach(&self) {
        while is_mounted(&self.mount) {
            if rustix::mount::unmount(&self.mount, rustix::mount::UnmountFlags::DETACH).is_err() {
                return;
            }
        }
    }

    /// The program, told of this store.
    pub fn cli<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = outcrop();
        command.env("OUTCROP_STORE", &self.store).args(arguments);
        command
    }

    /// Runs the program, which must succeed; gives its standard output.
    #[track_caller]
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        run(&mut self.cli(arguments))
    }

    /// Runs the program, which must fail; gives its standard error.
    #[track_caller]
    pub fn fails<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        fails(&mut self.cli(arguments))
    }

    /// Runs the program with `--json`; gives what it printed.
    #[track_caller]
    pub fn json<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Value {
        let printed = run(self.cli(arguments).arg("--json"));
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("this must be JSON: {error}\n{printed}"))
    }

    /// Snapshots every volume through the mount.
    #[track_caller]
    pub fn snapshot_all(&self, name: &str) {
        std::fs::create_dir(self.set(name)).unwrap_or_else(|error| panic!("mkdir .snapshots/{name}: {error}"));
    }

    /// Checks the whole store: doctor must have nothing against it, and no handler may have panicked.
    #[track_caller]
    pub fn check(&self) {
        self.run(["doctor"]);
        let log = self.log();
        assert!(!log.contains("panicked"), "something panicked\n{log}");
        assert!(!log.contains("asks its own mount"), "the daemon touched its own mount\n{log}");
    }
}

impl Drop for TestStore {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.lines().rev().take(60).collect::<Vec<_>>();
            eprintln!("-- the daemon's last words ({}):", self.store.display());
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        self.kill();
        self.detach();
    }
}

/// Ends a daemon whose test hangs: its requests then fail, and so does the test, rather than never end.
fn watch(scratch: PathBuf, log: PathBuf, daemon: Daemon) -> mpsc::Sender<()> {
    let (sender, receiver) = mpsc::channel();
    let limit = HANG + crate::seconds(0) + LIMIT;
    let watching = move || {
        if receiver.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            eprintln!("{} is still in use after {limit:?}: killing its daemon, which said\n{said}", scratch.display());
            if let Some(child) = daemon.lock().unwrap_or_else(std::sync::PoisonError::into_inner).as_mut() {
                let _ = child.kill();
            }
        }
    };
    std::thread::spawn(watching);
    sender
}
