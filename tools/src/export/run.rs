//! One export, from wherever the store is.

use super::ask::Ask;
use super::destination::{Destination, Partial};
use super::receive;
use super::watched::Watched;
use crate::cli::session::{self, Found};
use crate::failure::Failure;
use crate::output::progress::Meter;
use anyhow::{Context as _, Result};
use outcrop_store::Store;
use outcrop_store::export::ExportRequest;
use outcrop_store::image::Progress as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// How long what was interrupted may take to clean up.
const END_WAIT: Duration = Duration::from_secs(5);

/// Exports. Ctrl-C, SIGTERM and SIGHUP end it, and leave nothing behind.
pub fn run(store: &Path, request: ExportRequest, destination: &Destination, meter: Meter) -> Result<()> {
    destination.check()?;
    let meter = Arc::new(meter);
    let runtime = session::runtime()?;
    let outcome = runtime.block_on(async {
        // From here on no signal ends the process before it has cleaned up.
        let catch = |kind| signal(kind).context("catching signals");
        let (mut interrupt, mut terminate, mut hangup) =
            (catch(SignalKind::interrupt())?, catch(SignalKind::terminate())?, catch(SignalKind::hangup())?);
        let work = export(store, request, destination, &meter);
        tokio::pin!(work);
        tokio::select! {
            outcome = &mut work => return outcome,
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        meter.cancel();
        // Again, or when it hangs in a pipe that nobody reads: the end of this process.
        tokio::select! {
            outcome = timeout(END_WAIT, work) => match outcome {
                Ok(Ok(())) => Ok(()),
                _ => Err(session::interruption()),
            },
            _ = interrupt.recv() => Err(session::interruption()),
        }
    });
    meter.finish();
    runtime.shutdown_background();
    outcome
}

async fn export(store: &Path, request: ExportRequest, destination: &Destination, meter: &Arc<Meter>) -> Result<()> {
    let found = session::find(store, false, false).await?;
    if meter.cancelled() {
        return Err(session::interruption());
    }
    let (sink, partial) = destination.open(request.format, meter)?;
    let sink = Watched::new(sink, meter);
    match found {
        Found::Daemon(client) => {
            let ask = serde_json::to_vec(&Ask::from(&request))?;
            receive::receive(store, client, ask, sink, partial, meter).await
        }
        Found::Here(opened) => {
            let work = move || {
                let outcome = here(&opened, &request, sink, partial);
                let closed = opened.close().context("closing the store");
                outcome.and(closed)
            };
            tokio::task::spawn_blocking(work).await.context("exporting")?
        }
    }
}

fn here(store: &Store, request: &ExportRequest, mut sink: Watched, partial: Option<Partial>) -> Result<()> {
    let export = store.export(request)?;
    let sent = export.send(&mut sink);
    if sent.is_err() {
        export.end(&sent);
        return Ok(sent?);
    }
    let published = partial.map_or(Ok(()), Partial::publish);
    match &published {
        Ok(()) => export.end(&sent),
        Err(error) => export.fail(&Failure::of(error).to_string()),
    }
    published
}
