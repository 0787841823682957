//! The command line's end of an export out of a daemon.
//!
//! The connection is moved by the caller's task; a thread takes the frames and writes. The daemon counts the job as done only when it
//! hears that the file is in its place, on another connection, before this one is closed.

use super::destination::Partial;
use super::frames::{Decoder, Frame};
use super::watched::Watched;
use crate::cli::session;
use crate::control::client::Client;
use crate::failure::Failure;
use crate::operations::Request;
use crate::output::progress::Meter;
use anyhow::Result;
use axum::body::Bytes;
use outcrop_store::export::Sink as _;
use outcrop_store::jobs::JobId;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Pieces that may wait to be written.
const PIECES_MAX: usize = 8;

/// What became of it in the thread that writes.
struct Written {
    job: Option<JobId>,
    outcome: Result<()>,
    /// The daemon has said why: it knows.
    told: bool,
    // Kept until the daemon was told: closing it closes the connection.
    _pieces: mpsc::Receiver<Bytes>,
}

/// How long what was interrupted may take to see it.
const END_WAIT: Duration = Duration::from_secs(2);

/// Takes all of it. Cancelling the meter closes the connection, which cancels the job.
pub async fn receive(
    store: &Path,
    client: Client,
    ask: Vec<u8>,
    sink: Watched,
    partial: Option<Partial>,
    meter: &Meter,
) -> Result<()> {
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    let mut writing = tokio::task::spawn_blocking(move || write(pieces, sink, partial));
    let mut stream = Box::pin(client.export(ask, sender));
    let written = tokio::select! {
        written = &mut writing => written?,
        streamed = &mut stream => {
            // All was sent, or the connection broke: the thread sees which.
            let written = writing.await?;
            // Refused before there was a job.
            if let (Err(error), Written { told: false, job: None, .. }) = (streamed, &written) {
                return Err(error);
            }
            written
        }
        () = meter.cancelled_signal() => {
            drop(stream);
            return match timeout(END_WAIT, writing).await {
                // It was just done; that the daemon takes it for cancelled is the smaller evil.
                Ok(Ok(Written { outcome: Ok(()), .. })) => Ok(()),
                _ => Err(session::interruption()),
            };
        }
    };
    let Written { job, outcome, told, _pieces } = written;
    if let Some(id) = job.filter(|_| !told)
        && let Ok(Some(client)) = Client::connect(store).await
    {
        let error = outcome.as_ref().err().map(|error| Failure::of(error).to_string());
        // The file is what counts: a daemon that has gone finds by itself that nobody told it.
        if let Err(error) = client.call(&Request::ExportEnd { id, error }, &Meter::silent()).await {
            tracing::debug!(%error, "the daemon could not be told how the export ended");
        }
    }
    outcome
}

fn write(mut pieces: mpsc::Receiver<Bytes>, mut sink: Watched, partial: Option<Partial>) -> Written {
    let mut job = None;
    let mut told = false;
    let outcome = frames(&mut pieces, &mut sink, &mut job, &mut told).and_then(|()| partial.map_or(Ok(()), Partial::publish));
    Written { job, outcome, told, _pieces: pieces }
}

fn frames(pieces: &mut mpsc::Receiver<Bytes>, sink: &mut Watched, job: &mut Option<JobId>, told: &mut bool) -> Result<()> {
    let mut decoder = Decoder::default();
    loop {
        while let Some(frame) = decoder.next()? {
            match frame {
                Frame::Begin { size, job: id } => {
                    *job = Some(id);
                    sink.begin(size)?;
                }
                Frame::Map(ranges) => sink.map(&ranges)?,
                Frame::MapDone => sink.map_done()?,
                Frame::Data(offset, bytes) => sink.data(offset, &bytes)?,
                Frame::End => return Ok(sink.finish()?),
                Frame::Failed(failure) => {
                    *told = true;
                    return Err(failure.into());
                }
            }
        }
        match pieces.blocking_recv() {
            Some(piece) => decoder.push(&piece),
            None => return Err(Failure::new("the daemon's answer broke off; its log may tell why").into()),
        }
    }
}
