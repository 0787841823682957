//! The daemon's end of the control socket.

use super::{EXPORT_ROUTE, METRICS, ROUTE, SOCKET, SocketPath};
use crate::export::ask::Ask;
use crate::failure::Failure;
use crate::operations::{Line, Reply, Request};
use anyhow::{Context as _, Result};
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::body::Frame;
use outcrop_store::image::Progress;
use rustix::fs::Mode;
use rustix::process::{geteuid, umask};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

/// What the daemon does with requests.
pub trait Handler: Send + Sync + 'static {
    /// Does it; blocks.
    fn handle(&self, request: Request, progress: &dyn Progress) -> Result<Reply>;

    /// What monitoring is told; blocks.
    fn metrics(&self) -> Result<String>;

    /// Exports, as frames; blocks. A closed channel is the sign to stop.
    fn export(&self, ask: Ask, frames: mpsc::Sender<Bytes>);
}

/// Lines that may wait for a slow client; progress beyond that is left out.
const LINES_MAX: usize = 64;

/// Frames that may wait for a slow client, of 1 MiB each.
const FRAMES_MAX: usize = 4;

/// At most this often does progress go out.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Binds the socket. The caller has the store's lock, so a socket that is there is nobody's.
pub fn bind(store: &Path) -> Result<std::os::unix::net::UnixListener> {
    let path = store.join(SOCKET);
    match std::fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            std::fs::remove_file(&path).with_context(|| format!("removing the old socket {}", path.display()))?;
        }
        Ok(_) => return Err(Failure::new(format!("{} is not a socket", path.display())).hint("move it away").into()),
        Err(_) => {}
    }
    let short = SocketPath::of(store).with_context(|| format!("opening {}", store.display()))?;
    // Born with no rights for others: there is no moment in which they could connect.
    let before = umask(Mode::from_raw_mode(0o177));
    let listener = std::os::unix::net::UnixListener::bind(short.path());
    umask(before);
    let listener = listener.with_context(|| format!("making the control socket {}", path.display()))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves until `stopped` turns true, and then until the answers under way are taken.
pub async fn serve(
    listener: std::os::unix::net::UnixListener,
    handler: Arc<dyn Handler>,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let router = Router::new()
        .route(ROUTE, post(operation))
        .route(EXPORT_ROUTE, post(export))
        .route(METRICS, get(metrics))
        .with_state(handler);
    let end = async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    axum::serve(OwnerOnly(UnixListener::from_std(listener)?), router).with_graceful_shutdown(end).await
}

/// Binds the port that `/metrics` is served on.
pub fn bind_metrics(address: SocketAddr) -> Result<TcpListener> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    bind().map_err(|error| {
        let in_use = error.kind() == io::ErrorKind::AddrInUse;
        let failure = Failure::new(format!("serving metrics on {address}: {error}"));
        if in_use { failure.hint("another program, or mount, has it: choose another port") } else { failure }.into()
    })
}

/// Serves `/metrics`, and nothing else, until it is dropped.
pub async fn serve_metrics(listener: TcpListener, handler: Arc<dyn Handler>) {
    let router = Router::new().route(METRICS, get(metrics)).with_state(handler);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "metrics are no longer served");
    }
}

async fn metrics(State(handler): State<Arc<dyn Handler>>) -> (StatusCode, [(HeaderName, &'static str); 1], String) {
    match tokio::task::spawn_blocking(move || handler.metrics()).await.context("asking for metrics").flatten() {
        Ok(text) => (StatusCode::OK, [(CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], text),
        // A store that is closing, or a disk that doesn't answer.
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, [(CONTENT_TYPE, "text/plain")], format!("{}\n", Failure::of(&error))),
    }
}

async fn operation(State(handler): State<Arc<dyn Handler>>, Json(request): Json<Request>) -> Response {
    let (sender, receiver) = mpsc::channel(LINES_MAX);
    tokio::task::spawn_blocking(move || {
        let progress = Reporter { sender, last: parking_lot::Mutex::new(None) };
        let line = match handler.handle(request, &progress) {
            Ok(reply) => Line::Ok(Box::new(reply)),
            Err(error) => Line::Error(Failure::of(&error)),
        };
        // A client that has gone does not want to know.
        let _ = progress.sender.blocking_send(line);
    });
    let mut response = Response::new(Body::new(Lines(receiver)));
    response.headers_mut().insert(CONTENT_TYPE, axum::http::HeaderValue::from_static("application/x-ndjson"));
    response
}

async fn export(State(handler): State<Arc<dyn Handler>>, Json(ask): Json<Ask>) -> Response {
    let (sender, receiver) = mpsc::channel(FRAMES_MAX);
    tokio::task::spawn_blocking(move || handler.export(ask, sender));
    let mut response = Response::new(Body::new(Frames(receiver)));
    response.headers_mut().insert(CONTENT_TYPE, axum::http::HeaderValue::from_static("application/octet-stream"));
    response
}

/// An export's body, as [`Lines`].
struct Frames(mpsc::Receiver<Bytes>);

impl HttpBody for Frames {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Sends progress as lines; the closed connection is the sign to stop.
struct Reporter {
    sender: mpsc::Sender<Line>,
    last: parking_lot::Mutex<Option<Instant>>,
}

impl Progress for Reporter {
    fn advance(&self, done: u64, total: u64) {
        let mut last = self.last.lock();
        if done >= total || last.is_none_or(|last| last.elapsed() >= PROGRESS_INTERVAL) {
            *last = Some(Instant::now());
            let _ = self.sender.try_send(Line::Progress { done, total });
        }
    }

    fn cancelled(&self) -> bool {
        self.sender.is_closed()
    }
}

/// The answer's body: dropped by the server when the client goes, which closes the channel.
struct Lines(mpsc::Receiver<Line>);

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = serde_json::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|line| {
            line.map(|line| {
                let mut bytes = serde_json::to_vec(&line)?;
                bytes.push(b'\n');
                Ok(Frame::data(Bytes::from(bytes)))
            })
        })
    }
}

/// Accepts the daemon's own user and root. The socket's mode says the same; this holds where a mode was changed.
struct OwnerOnly(UnixListener);

impl axum::serve::Listener for OwnerOnly {
    type Io = UnixStream;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> (UnixStream, Self::Addr) {
        loop {
            let (stream, address) = axum::serve::Listener::accept(&mut self.0).await;
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == 0 || peer.uid() == geteuid().as_raw() => return (stream, address),
                Ok(peer) => tracing::warn!(uid = peer.uid(), "refused a connection to the control socket"),
                Err(error) => tracing::warn!(%error, "could not tell who connected to the control socket"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}
