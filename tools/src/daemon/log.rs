//! The log: on stderr in the foreground, in a bounded file of the store in the background.
//!
//! The store's directory may not exist (and must stay empty) until the store is opened, so lines are kept in memory
//! until then.

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Bytes of a log file, at which it becomes `outcrop.log.1`: the log takes at most twice this.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Bytes kept in memory until the file is open; what comes then is left out.
const EARLY_BYTES_MAX: usize = 256 << 10;

/// What is logged when nobody says otherwise.
const DEFAULT_FILTER: &str = "info";

/// Where log lines go.
#[derive(Clone)]
pub struct Log(Arc<Mutex<State>>);

enum State {
    Stderr,
    Early(Vec<u8>),
    File(Rotating),
}

impl Log {
    /// Takes over the process's log. `filter` is as `RUST_LOG` has it, which counts when it is not given.
    pub fn start(foreground: bool, filter: Option<&str>) -> Result<Self> {
        let filter = match filter {
            Some(filter) => EnvFilter::try_new(filter).with_context(|| format!("--log {filter}"))?,
            None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER)),
        };
        let log = Log(Arc::new(Mutex::new(if foreground { State::Stderr } else { State::Early(Vec::new()) })));
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(log.clone()).with_ansi(false).finish();
        // Also takes what fuser and sled tell the `log` crate: a reply that the kernel refuses is said nowhere else.
        subscriber.try_init().context("starting the log")?;
        let inner = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            tracing::error!("{panic}");
            inner(panic);
        }));
        Ok(log)
    }

    /// From now on, and with what was kept, into `<store>/log/outcrop.log`. Gives that path; none in the foreground.
    pub fn open_file(&self, store: &Path) -> Result<Option<PathBuf>> {
        let mut state = self.0.lock();
        let State::Early(early) = &*state else { return Ok(None) };
        let path = store.join("log").join("outcrop.log");
        let mut file = Rotating::open(&path, FILE_BYTES_MAX).with_context(|| format!("opening the log {}", path.display()))?;
        file.write_all(early).with_context(|| format!("writing to the log {}", path.display()))?;
        *state = State::File(file);
        Ok(Some(path))
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(self.clone())
    }
}

/// Writes a line. A log that can't be written must not stop the daemon: the error goes nowhere.
pub struct Line(Log);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *self.0.0.lock() {
            State::Stderr => {
                let _ = io::stderr().write_all(bytes);
            }
            State::Early(early) if early.len() + bytes.len() <= EARLY_BYTES_MAX => early.extend_from_slice(bytes),
            State::Early(_) => {}
            State::File(file) => {
                let _ = file.write_all(bytes);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that is renamed to `.1` when it is full, over the one before.
struct Rotating {
    path: PathBuf,
    file: File,
    size: u64,
    size_max: u64,
}

impl Rotating {
    fn open(path: &Path, size_max: u64) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let file = File::options().append(true).create(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size, size_max })
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        std::fs::rename(&self.path, old)?;
        *self = Self::open(&self.path, self.size_max)?;
        Ok(())
    }
}

impl Write for Rotating {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.size > 0 && self.size + bytes.len() as u64 > self.size_max {
            self.rotate()?;
        }
        let written = self.file.write(bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_and_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log/outcrop.log");
        for round in 0..4 {
            let mut log = Rotating::open(&path, 1000).unwrap();
            for line in 0..50 {
                log.write_all(format!("round {round} line {line:03}\n").as_bytes()).unwrap();
            }
        }
        let now = std::fs::read_to_string(&path).unwrap();
        let old = std::fs::read_to_string(dir.path().join("log/outcrop.log.1")).unwrap();
        assert!(now.ends_with("round 3 line 049\n"));
        assert!(now.len() <= 1000 && old.len() <= 1000 && !old.is_empty());
        assert_eq!(std::fs::read_dir(dir.path().join("log")).unwrap().count(), 2);
    }
}
