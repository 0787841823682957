//! The daemon's end of exports: reads, and sends frames to whoever writes the file.
//!
//! All being sent is not the end: the job is done when the other end says that the file is in its place.

use crate::export::ask::Ask;
use crate::export::frames;
use crate::failure::Failure;
use crate::operations::Reply;
use anyhow::Result;
use axum::body::Bytes;
use outcrop_store::export::{Export, ExportRequest, Sink};
use outcrop_store::jobs::JobId;
use outcrop_store::{Error, Store};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;
use tokio::time::timeout;

/// How often a wait looks whether it should end.
const TICK: Duration = Duration::from_millis(200);

/// How long the other end may still take for its file's last sync once the job should stop.
const GRACE: Duration = Duration::from_secs(5);

/// How an export ended at the other end: why it failed, if it did.
type Ending = Option<String>;

/// The exports under way.
#[derive(Default)]
pub struct Exports {
    endings: Mutex<HashMap<JobId, mpsc::Sender<Ending>>>,
}

impl Exports {
    /// Serves one.
    pub fn serve(&self, store: &Store, ask: Ask, out: &Sender<Bytes>) {
        if let Err(error) = self.try_serve(store, ask, out) {
            // A client that has gone does not want to know.
            let _ = out.blocking_send(frames::failed(&Failure::of(&error)));
        }
    }

    fn try_serve(&self, store: &Store, ask: Ask, out: &Sender<Bytes>) -> Result<()> {
        let request = ExportRequest::try_from(ask).map_err(Failure::new)?;
        tracing::debug!(?request, "asked for an export");
        let export = store.export(&request)?;
        let id = export.job();
        let (sender, endings) = mpsc::channel();
        self.endings.lock().insert(id, sender);
        let mut frames = Frames { export: &export, out, endings: &endings, told: None };
        let sent = export.send(&mut frames);
        let told = frames.told.take();
        let ending = told.or_else(|| if sent.is_ok() { wait(&export, &endings, out) } else { endings.try_recv().ok() });
        self.endings.lock().remove(&id);
        match (sent, ending) {
            (_, Some(Some(reason))) => export.fail(&reason),
            (Ok(()), Some(None)) => export.end(&Ok(())),
            (Ok(()), None) => export.end(&Err(Error::Interrupted)),
            (sent @ Err(_), _) => {
                export.end(&sent);
                sent?;
            }
        }
        Ok(())
    }

    /// The other end tells how it ended there; answers when the job has ended, too.
    pub fn ended(&self, store: &Store, id: JobId, ending: Ending) -> Result<Reply> {
        let known = self.endings.lock().get(&id).map(|sender| sender.send(ending));
        if known.is_none() {
            return Err(Failure::new(format!("job {id} is no export under way")).into());
        }
        Ok(Reply::Job((&store.wait_for_job(id, GRACE)?).into()))
    }
}

/// Waits to hear that the file is in its place; none if nobody is there any more to tell.
fn wait(export: &Export, endings: &mpsc::Receiver<Ending>, out: &Sender<Bytes>) -> Option<Ending> {
    let mut stopped: Option<Instant> = None;
    loop {
        match endings.recv_timeout(TICK) {
            Ok(ending) => return Some(ending),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let stop = export.is_cancelled() && stopped.get_or_insert_with(Instant::now).elapsed() > GRACE;
        if stop || out.is_closed() {
            return endings.try_recv().ok();
        }
    }
}

/// Sends what an export tells. A client that takes nothing keeps no job from being cancelled, nor from hearing that it failed.
struct Frames<'a> {
    export: &'a Export,
    out: &'a Sender<Bytes>,
    endings: &'a mpsc::Receiver<Ending>,
    told: Option<Ending>,
}

impl Frames<'_> {
    fn send(&mut self, frame: Bytes) -> outcrop_store::Result<()> {
        // This thread is the runtime's, one that may block.
        let runtime = Handle::current();
        loop {
            match runtime.block_on(async { timeout(TICK, self.out.reserve()).await }) {
                Ok(Ok(place)) => {
                    place.send(frame);
                    return Ok(());
                }
                Ok(Err(_closed)) => return Err(Error::Interrupted),
                Err(_elapsed) => {
                    self.told = self.endings.try_recv().ok();
                    if self.told.is_some() || self.export.is_cancelled() {
                        return Err(Error::Interrupted);
                    }
                }
            }
        }
    }
}

impl Sink for Frames<'_> {
    fn begin(&mut self, size: u64) -> outcrop_store::Result<()> {
        self.send(frames::begin(size, self.export.job()))
    }

    fn map(&mut self, ranges: &[Range<u64>]) -> outcrop_store::Result<()> {
        self.send(frames::map(ranges))
    }

    fn map_done(&mut self) -> outcrop_store::Result<()> {
        self.send(frames::map_done())
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> outcrop_store::Result<()> {
        self.send(frames::data(offset, bytes))
    }

    fn finish(&mut self) -> outcrop_store::Result<()> {
        self.send(frames::end())
    }
}
