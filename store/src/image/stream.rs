//! An image's content as a stream, from the process that reads the image to the one that has the store.
//!
//! The process that serves a mount must never wait for an answer of its own: killed in that moment, it keeps the kernel from
//! ending the mount, and hangs for ever with everybody in it. Whether a file leads there (by a link, a bind mount, a backing
//! file, a file system on a loop device over a volume) can't be told for sure before it is opened. So another process
//! opens, checks and reads the image, to which the mount is a mount like any other ([`Reader`]).
//!
//! Both ends are the same program, so the stream is no format that anybody else knows. It consists of frames: a letter, two
//! numbers, and what they say:
//!
//! | letter | numbers | then |
//! |---|---|---|
//! | `I` | virtual size, length of the name | the name of the image's format |
//! | `B` | first block, bytes | whole blocks; what is left out is zeros |
//! | `P` | bytes done, bytes in all | |
//! | `E` | 0, 64 | the SHA-256 in hex: the end |
//! | `X` | 0, bytes | why it failed, as JSON: the end |

use super::convert::Workshop;
use super::copy::BlockSink;
use super::failure::Failure;
use super::import::{Content, OpenImage};
use super::source::bad;
use super::{ImportOptions, Progress};
use crate::error::{Error, Result};
use crate::units::{BLOCK_SIZE, MAX_VOLUME_SIZE};
use parking_lot::Mutex;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const INTRODUCTION: u8 = b'I';
const BLOCKS: u8 = b'B';
const PROGRESS: u8 = b'P';
const END: u8 = b'E';
const FAILURE: u8 = b'X';

/// The most bytes of blocks in a frame: twice what is read at once.
const BLOCKS_MAX: u64 = 4 << 20;
/// The longest name of a format.
const FORMAT_MAX: u64 = 64;
/// The longest failure.
const FAILURE_MAX: u64 = 1 << 20;
/// Hex digits of a SHA-256.
const DIGEST: u64 = 64;
/// At most this often does progress go out.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);

/// What reading an image needs to know of the store that it is for.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Where a temporary file may go.
    pub directory: PathBuf,
    /// Free bytes of its file system that stay free.
    pub floor: u64,
}

/// Has another process read an image.
pub trait Reader: std::fmt::Debug + Send + Sync {
    /// Starts a process that calls [`send`]; gives what that writes. Dropping the stream ends the process. A read ends, with any
    /// error, soon after `progress` says that it was cancelled.
    fn start<'a>(
        &self,
        path: &Path,
        options: &ImportOptions,
        surroundings: &Surroundings,
        progress: &'a dyn Progress,
    ) -> io::Result<Box<dyn Read + 'a>>;
}

/// Reads the image file `path`, which is checked as [`crate::Store::import_image`] does it, and sends its content to `out`: or
/// else why it can't be read. An error of this is one of sending.
pub fn send(path: &Path, options: &ImportOptions, surroundings: &Surroundings, out: &mut (dyn Write + Send)) -> Result<()> {
    let wire = Wire { path, out: Mutex::new(Out { writer: BufWriter::new(out), told: None, broken: false }) };
    if let Err(error) = send_content(path, options, surroundings, &wire) {
        let told = serde_json::to_vec(&Failure::of(&error, path)).unwrap_or_default();
        wire.frame(FAILURE, 0, told.len() as u64, &told)?;
    }
    wire.flush()
}

fn send_content(path: &Path, options: &ImportOptions, surroundings: &Surroundings, wire: &Wire<'_>) -> Result<()> {
    let mut image = OpenImage::open(path, options, &Workshop::of(surroundings), wire)?;
    let format = image.format().to_owned();
    wire.frame(INTRODUCTION, image.size(), format.len() as u64, format.as_bytes())?;
    let sha256 = image.copy_to(&mut &*wire, wire)?;
    wire.frame(END, 0, DIGEST, sha256.as_bytes())
}

/// The sending end.
struct Wire<'a> {
    path: &'a Path,
    out: Mutex<Out<'a>>,
}

struct Out<'a> {
    writer: BufWriter<&'a mut (dyn Write + Send)>,
    /// When progress was last told.
    told: Option<Instant>,
    /// The other end is gone.
    broken: bool,
}

impl Wire<'_> {
    fn frame(&self, letter: u8, first: u64, second: u64, bytes: &[u8]) -> Result<()> {
        self.with(|writer| {
            writer.write_all(&[letter])?;
            writer.write_all(&first.to_le_bytes())?;
            writer.write_all(&second.to_le_bytes())?;
            writer.write_all(bytes)
        })
    }

    fn flush(&self) -> Result<()> {
        self.with(|writer| writer.flush())
    }

    fn with(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let mut out = self.out.lock();
        let result = write(&mut out.writer);
        out.broken |= result.is_err();
        result.map_err(|error| Error::io("sending the content of", self.path, error))
    }
}

impl BlockSink for &Wire<'_> {
    fn write(&mut self, block: u64, data: &[u8]) -> Result<()> {
        for (part, first) in data.chunks(BLOCKS_MAX as usize).zip((block..).step_by((BLOCKS_MAX / BLOCK_SIZE) as usize)) {
            self.frame(BLOCKS, first, part.len() as u64, part)?;
        }
        Ok(())
    }
}

impl Progress for Wire<'_> {
    fn advance(&self, done: u64, total: u64) {
        let now = Instant::now();
        let due = {
            let mut out = self.out.lock();
            let due = out.told.is_none_or(|told| now.duration_since(told) >= PROGRESS_INTERVAL);
            if due {
                out.told = Some(now);
            }
            due
        };
        if due {
            // If nobody listens, `cancelled` says so.
            let _ = self.frame(PROGRESS, done, total, &[]).and_then(|()| self.flush());
        }
    }

    fn cancelled(&self) -> bool {
        self.out.lock().broken
    }
}

/// The receiving end: an image that another process reads.
pub(crate) struct Received<'a> {
    path: &'a Path,
    stream: BufReader<Box<dyn Read + 'a>>,
    size: u64,
    format: String,
}

impl<'a> Received<'a> {
    /// Has `reader` read the image at `path`; waits until that is opened, checked, and converted if it has to be.
    pub(crate) fn start(
        reader: &dyn Reader,
        path: &'a Path,
        options: &ImportOptions,
        surroundings: &Surroundings,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let stream = reader
            .start(path, options, surroundings, progress)
            .map_err(|error| Error::io("starting a process that reads", path, error))?;
        let mut received = Self { path, stream: BufReader::new(stream), size: 0, format: String::new() };
        let (size, length) = loop {
            match received.frame(progress)? {
                (PROGRESS, done, total) => progress.advance(done, total),
                (INTRODUCTION, size, length) if size <= MAX_VOLUME_SIZE && length <= FORMAT_MAX => break (size, length),
                _ => return Err(received.nonsense()),
            }
        };
        received.size = size;
        received.format = received.text(length, progress)?;
        Ok(received)
    }

    fn frame(&mut self, progress: &dyn Progress) -> Result<(u8, u64, u64)> {
        let mut raw = [0; 17];
        self.fill(&mut raw, progress)?;
        let number = |at: usize| raw[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let (letter, first, second) = (raw[0], number(1), number(9));
        if letter == FAILURE && second <= FAILURE_MAX {
            let told = self.text(second, progress)?;
            return Err(serde_json::from_str::<Failure>(&told).map_or_else(|_| self.nonsense(), Failure::into_error));
        }
        Ok((letter, first, second))
    }

    fn text(&mut self, length: u64, progress: &dyn Progress) -> Result<String> {
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes, progress)?;
        String::from_utf8(bytes).map_err(|_| self.nonsense())
    }

    fn fill(&mut self, bytes: &mut [u8], progress: &dyn Progress) -> Result<()> {
        self.stream.read_exact(bytes).map_err(|error| match progress.cancelled() {
            true => Error::Interrupted,
            false if error.kind() == io::ErrorKind::UnexpectedEof => {
                Error::io("receiving the content of", self.path, io::Error::new(error.kind(), "the process that reads it ended"))
            }
            false => Error::io("receiving the content of", self.path, error),
        })
    }

    fn nonsense(&self) -> Error {
        bad(self.path, "the process that reads it sent what makes no sense")
    }
}

impl Content for Received<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn format(&self) -> &str {
        &self.format
    }

    fn copy_to(&mut self, sink: &mut dyn BlockSink, progress: &dyn Progress) -> Result<String> {
        let blocks = self.size.div_ceil(BLOCK_SIZE);
        let mut next = 0;
        let mut buffer = Vec::new();
        loop {
            match self.frame(progress)? {
                (PROGRESS, done, total) => progress.advance(done, total),
                (BLOCKS, first, bytes) => {
                    let count = bytes / BLOCK_SIZE;
                    let fits = first >= next && first.checked_add(count).is_some_and(|end| end <= blocks);
                    if !fits || bytes > BLOCKS_MAX || !bytes.is_multiple_of(BLOCK_SIZE) {
                        return Err(self.nonsense());
                    }
                    buffer.resize(bytes as usize, 0);
                    self.fill(&mut buffer, progress)?;
                    sink.write(first, &buffer)?;
                    next = first + count;
                }
                (END, 0, DIGEST) => {
                    let sha256 = self.text(DIGEST, progress)?;
                    progress.advance(self.size, self.size);
                    return Ok(sha256);
                }
                _ => return Err(self.nonsense()),
            }
            if progress.cancelled() {
                return Err(Error::Interrupted);
            }
        }
    }
}

#[cfg(test)]
#[path = "tests/stream.rs"]
mod tests;
