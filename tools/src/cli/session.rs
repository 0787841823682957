//! Executes a request where the store is: in the daemon that has it, or here, on the store opened for it.

use crate::control::client::Client;
use crate::failure::{Failure, exit};
use crate::operations::{Context, Reply, Request, execute};
use crate::output::progress::Meter;
use anyhow::{Context as _, Result};
use outcrop_store::{Error as StoreError, Store, StoreOptions};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long another short command may have the store before this one gives up.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Between two tries.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Memory for finding blocks in a command that opens the store for itself.
const CACHE_BYTES: u64 = 64 << 20;

/// A runtime for one command.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")
}

/// Executes it; the progress goes to `meter`. Ctrl-C ends it, with exit code 130.
pub fn call(store: &Path, request: Request, meter: Meter) -> Result<Reply> {
    run(store, request, meter, false)
}

/// Executes it on a store whose catalog is made again first. Not while a daemon has the store.
pub fn call_rebuilding(store: &Path, request: Request) -> Result<Reply> {
    run(store, request, Meter::silent(), true)
}

fn run(store: &Path, request: Request, meter: Meter, rebuild: bool) -> Result<Reply> {
    let meter = Arc::new(meter);
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let work = find_and_execute(store, request, Arc::clone(&meter), rebuild);
        tokio::pin!(work);
        let interrupted = tokio::signal::ctrl_c();
        tokio::select! {
            outcome = &mut work => outcome,
            _ = interrupted => {
                meter.cancel();
                // What runs here ends soon and cleans up; what runs in the daemon is told at once, by the closed connection.
                tokio::select! {
                    outcome = work => outcome,
                    _ = tokio::signal::ctrl_c() => Err(interruption()),
                }
            }
        }
    });
    meter.finish();
    runtime.shutdown_background();
    outcome
}

/// What Ctrl-C comes to.
pub fn interruption() -> anyhow::Error {
    Failure::new("interrupted").code(exit::INTERRUPTED).into()
}

/// Where the store is.
pub enum Found {
    /// In a daemon, which answers.
    Daemon(Client),
    /// Opened in this process.
    Here(Store),
}

/// Finds the store: in the daemon that has it, or opens it; `create` makes it where there is none.
pub async fn find(store: &Path, create: bool, rebuild: bool) -> Result<Found> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        if let Some(client) = Client::connect(store).await? {
            return Ok(Found::Daemon(client));
        }
        let path = store.to_owned();
        let create = create && !store.join("outcrop.json").exists();
        let options = StoreOptions { create, cache_bytes: CACHE_BYTES, rebuild_catalog: rebuild, ..StoreOptions::default() };
        let opened = tokio::task::spawn_blocking(move || Store::open(&path, &options)).await.context("opening the store")?;
        match opened {
            Ok(opened) => {
                if create {
                    eprintln!("outcrop: made a new store in {}", store.display());
                }
                return Ok(Found::Here(opened));
            }
            // A daemon that starts or ends, or another command: its turn is soon over.
            Err(StoreError::Locked { .. }) if Instant::now() < deadline => sleep(LOCK_RETRY).await,
            Err(error) => return Err(error.into()),
        }
    }
}

async fn find_and_execute(store: &Path, request: Request, meter: Arc<Meter>, rebuild: bool) -> Result<Reply> {
    match find(store, makes_store(&request), rebuild).await? {
        Found::Daemon(client) if rebuild => {
            let pid = client.pid().map_or_else(String::new, |pid| format!(" (process {pid})"));
            Err(Failure::new(format!("the store {} is mounted{pid}: its catalog is in use", store.display()))
                .hint(format!("'outcrop umount {}', then try again", store.display()))
                .code(exit::BUSY)
                .into())
        }
        Found::Daemon(client) => {
            let cancelled = meter.cancelled_signal();
            tokio::select! {
                reply = client.call(&request, &*meter) => reply,
                () = cancelled => Err(interruption()),
            }
        }
        Found::Here(opened) => {
            let local = tokio::task::spawn_blocking(move || execute_here(&opened, request, &meter));
            local.await.context("executing the command")?
        }
    }
}

/// What a new store can begin with, before its first mount. Anything else asks for what is not there.
fn makes_store(request: &Request) -> bool {
    matches!(request, Request::VolumeCreate { .. } | Request::ImageImport { .. })
}

fn execute_here(store: &Store, request: Request, meter: &Meter) -> Result<Reply> {
    let outcome = execute(&Context { store, mount: None, progress: meter }, request);
    let closed = store.close().context("closing the store");
    let reply = outcome?;
    closed?;
    Ok(reply)
}
