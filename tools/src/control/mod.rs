//! The control socket: how the command line reaches the daemon that has a store.
//!
//! `<store>/control.sock`, for the daemon's user and root only. HTTP/1.1: `POST /v1/operation` with a
//! [`Request`](crate::operations::Request) in JSON answers [`Line`](crate::operations::Line)s, one JSON value a
//! line, the last of which is `ok` or `error`. Closing the connection cancels what is long. `POST /v1/export` answers with the
//! frames of an export, `GET /metrics` with text for Prometheus.
//!
//! A killed daemon leaves its socket behind; nobody answers on it then, and whoever has the store's lock may
//! replace it.

pub mod client;
pub mod server;

use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// The socket's name in the store.
pub const SOCKET: &str = "control.sock";

/// The route of all operations.
pub const ROUTE: &str = "/v1/operation";

/// The route of what monitoring is told (`GET`).
pub const METRICS: &str = "/metrics";
/// The route of exports, which answers with [`frames`](crate::export::frames).
pub const EXPORT_ROUTE: &str = "/v1/export";

/// A store's socket, by a path that is always short enough: a socket's path may have 107 bytes, a store's more.
struct SocketPath {
    directory: OwnedFd,
}

impl SocketPath {
    fn of(store: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { directory: rustix::fs::open(store, flags, Mode::empty())? })
    }

    /// Valid as long as `self` lives.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", self.directory.as_raw_fd()))
    }
}

/// Whether a daemon answers for a store.
#[must_use]
pub fn is_served(store: &Path) -> bool {
    SocketPath::of(store).is_ok_and(|short| UnixStream::connect(short.path()).is_ok())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::client::Client;
    use super::server::{self, Handler};
    use super::*;
    use crate::failure::{Failure, exit};
    use crate::operations::{Reply, Request};
    use crate::output::progress::Meter;
    use outcrop_store::image::Progress;
    use parking_lot::Mutex;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;
    use tokio::sync::watch;

    /// Answers by the request's kind; a doctor's visit goes on until it is cancelled.
    #[derive(Default)]
    struct Script {
        begun: AtomicBool,
        cancelled: AtomicBool,
    }

    impl Handler for Script {
        fn metrics(&self) -> anyhow::Result<String> {
            Ok("up 1\n".to_owned())
        }

        fn handle(&self, request: Request, progress: &dyn Progress) -> anyhow::Result<Reply> {
            match request {
                Request::Space => Err(Failure::new("no space").hint("make some").code(exit::BUSY).into()),
                Request::ImageList => {
                    progress.advance(5, 10);
                    progress.advance(10, 10);
                    Ok(Reply::Done)
                }
                Request::Doctor => {
                    self.begun.store(true, Ordering::SeqCst);
                    while !progress.cancelled() {
                        std::thread::yield_now();
                    }
                    self.cancelled.store(true, Ordering::SeqCst);
                    Ok(Reply::Done)
                }
                _ => Ok(Reply::Volumes(Vec::new())),
            }
        }

        fn export(&self, _: crate::export::ask::Ask, _: tokio::sync::mpsc::Sender<axum::body::Bytes>) {}
    }

    /// Keeps what it is told.
    #[derive(Default)]
    struct Told(Mutex<Vec<(u64, u64)>>);

    impl Progress for Told {
        fn advance(&self, done: u64, total: u64) {
            self.0.lock().push((done, total));
        }
    }

    fn with_server(test: impl AsyncFnOnce(&Path, &Script)) {
        let dir = tempfile::tempdir().unwrap();
        // Far longer than a socket's path may be.
        let store = (0..10).fold(dir.path().to_owned(), |path, _| path.join("a-directory-with-a-long-name"));
        std::fs::create_dir_all(&store).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let script = Arc::new(Script::default());
        runtime.block_on(async {
            assert!(Client::connect(&store).await.unwrap().is_none(), "nobody is there yet");
            // What a killed daemon leaves.
            drop(server::bind(&store).unwrap());
            assert!(!is_served(&store));
            assert!(Client::connect(&store).await.unwrap().is_none(), "nobody answers on an old socket");
            let listener = server::bind(&store).unwrap();
            let mode = std::fs::metadata(store.join(SOCKET)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert!(is_served(&store));
            let (stop, stopped) = watch::channel(false);
            let server = tokio::spawn(server::serve(listener, Arc::clone(&script) as Arc<dyn Handler>, stopped));
            test(&store, &script).await;
            stop.send(true).unwrap();
            server.await.unwrap().unwrap();
        });
    }

    #[test]
    fn answers_failures_and_progress_come_through() {
        with_server(async |store, _| {
            let connect = async || Client::connect(store).await.unwrap().unwrap();
            let told = Told::default();
            let reply = connect().await.call(&Request::VolumeList, &told).await.unwrap();
            assert!(matches!(reply, Reply::Volumes(views) if views.is_empty()));

            let failure = Failure::of(&connect().await.call(&Request::Space, &told).await.unwrap_err());
            assert_eq!((failure.to_string().as_str(), failure.hint.as_deref(), failure.code), ("no space", Some("make some"), 3));

            assert!(told.0.lock().is_empty());
            connect().await.call(&Request::ImageList, &told).await.unwrap();
            assert_eq!(*told.0.lock(), [(5, 10), (10, 10)]);
            assert_eq!(connect().await.pid(), Some(std::process::id().cast_signed()));
        });
    }

    #[test]
    fn a_client_that_goes_cancels_its_request() {
        with_server(async |store, script| {
            let client = Client::connect(store).await.unwrap().unwrap();
            let (request, meter) = (Request::Doctor, Meter::silent());
            let call = client.call(&request, &meter);
            let begun = async {
                while !script.begun.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                _ = call => panic!("it ends only when it is cancelled"),
                () = begun => {}
            }
            while !script.cancelled.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }

    #[test]
    fn what_is_no_request_is_refused() {
        with_server(async |store, _| {
            use tokio::io::Interest;
            let short = SocketPath::of(store).unwrap();
            let stream = tokio::net::UnixStream::connect(short.path()).await.unwrap();
            let body = r#"{"operation":"explode"}"#;
            let text = format!(
                "POST {ROUTE} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.writable().await.unwrap();
            assert_eq!(stream.try_write(text.as_bytes()).unwrap(), text.len());
            stream.ready(Interest::READABLE).await.unwrap();
            let mut answer = [0; 64];
            let length = stream.try_read(&mut answer).unwrap();
            assert!(answer[..length].starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
        });
    }

    #[test]
    fn something_else_in_the_sockets_place_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(SOCKET), b"mine").unwrap();
        assert!(server::bind(dir.path()).is_err());
        assert_eq!(std::fs::read(dir.path().join(SOCKET)).unwrap(), b"mine");
    }
}
