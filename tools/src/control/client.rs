//! The command line's end of the control socket.

use super::{EXPORT_ROUTE, ROUTE, SOCKET, SocketPath};
use crate::failure::Failure;
use crate::operations::{Line, Reply, Request};
use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use outcrop_store::image::Progress;
use std::io;
use std::path::Path;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// The longest line taken from a daemon.
const LINE_MAX: usize = 256 << 20;

fn lost() -> &'static str {
    "the daemon's answer broke off; its log may tell why"
}

/// A connection to the daemon that has a store.
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects; none when no daemon answers there.
    pub async fn connect(store: &Path) -> Result<Option<Self>> {
        let short = match SocketPath::of(store) {
            Ok(short) => short,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("opening {}", store.display())),
        };
        match UnixStream::connect(short.path()).await {
            Ok(stream) => Ok(Some(Self { stream })),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(anyhow::Error::new(
                Failure::new(format!("no permission to use {}: it belongs to another user", store.join(SOCKET).display()))
                    .hint("run this as the user that mounted the store, or as root"),
            )),
            Err(error) => Err(error).with_context(|| format!("connecting to {}", store.join(SOCKET).display())),
        }
    }

    /// The daemon's process id, where the kernel can tell it in this process's namespace.
    pub fn pid(&self) -> Option<i32> {
        self.stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|&pid| pid > 0)
    }

    /// Asks, and waits for the answer. Dropping the future closes the connection.
    pub async fn call(self, request: &Request, progress: &dyn Progress) -> Result<Reply> {
        let body = serde_json::to_vec(request)?;
        self.post(ROUTE, body, async |mut body: Incoming| {
            let mut pending = Vec::new();
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.with_context(lost)?.into_data() else { continue };
                pending.extend_from_slice(&data);
                while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
                    let line: Vec<u8> = pending.drain(..=end).collect();
                    match serde_json::from_slice(&line).context("reading the daemon's answer")? {
                        Line::Progress { done, total } => progress.advance(done, total),
                        Line::Ok(reply) => return Ok(*reply),
                        Line::Error(failure) => return Err(failure.into()),
                    }
                }
                anyhow::ensure!(pending.len() <= LINE_MAX, "the daemon's answer is too long");
            }
            Err(Failure::new(lost()).into())
        })
        .await
    }

    /// Asks for an export (an [`Ask`](crate::export::ask::Ask) in JSON), and hands on what comes. Dropping the future closes
    /// the connection.
    pub async fn export(self, ask: Vec<u8>, pieces: mpsc::Sender<Bytes>) -> Result<()> {
        self.post(EXPORT_ROUTE, ask, async |mut body: Incoming| {
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.with_context(lost)?.into_data() else { continue };
                if pieces.send(data).await.is_err() {
                    break;
                }
            }
            Ok(())
        })
        .await
    }

    /// Posts `body`, and gives the answer's body to `take`.
    async fn post<T>(self, route: &str, body: Vec<u8>, take: impl AsyncFnOnce(Incoming) -> Result<T>) -> Result<T> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(self.stream)).await.context("talking to the daemon")?;
        let exchange = async {
            let request = hyper::Request::post(route)
                .header(HOST, "outcrop")
                .header(CONTENT_TYPE, "application/json")
                .body(Full::new(Bytes::from(body)))?;
            let response = sender.send_request(request).await.with_context(lost)?;
            let status = response.status();
            let body = response.into_body();
            if !status.is_success() {
                let text = body.collect().await.with_context(lost)?.to_bytes();
                let text = String::from_utf8_lossy(&text);
                return Err(Failure::new(format!("the daemon refused the request ({status}): {}", text.trim()))
                    .hint("the daemon may be of another version: unmount and mount again")
                    .into());
            }
            take(body).await
        };
        // The connection only moves while it is polled; when it ends first, the exchange says what is missing.
        tokio::pin!(exchange);
        let driven = async {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the control connection ended");
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answer = &mut exchange => answer,
            () = driven => unreachable!("it never ends"),
        }
    }
}
