//! Raw: the bytes themselves.

use super::Sink;
use crate::error::{Error, Result};
use rustix::io::Errno;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What a hole is in a stream.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// A sparse file: what is no data is a hole. The file is empty before; it is synced at the end.
pub struct RawFile {
    file: File,
    path: PathBuf,
}

impl RawFile {
    /// Over an empty file that is open for writing; `path` is for messages.
    #[must_use]
    pub fn new(file: File, path: &Path) -> Self {
        Self { file, path: path.to_owned() }
    }
}

impl Sink for RawFile {
    fn begin(&mut self, size: u64) -> Result<()> {
        self.file.set_len(size).map_err(|e| Error::io("setting the size of", &self.path, e))
    }

    fn map(&mut self, _: &[Range<u64>]) -> Result<()> {
        Ok(())
    }

    fn map_done(&mut self) -> Result<()> {
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let (mut rest, mut at) = (bytes, offset);
        while !rest.is_empty() {
            match rustix::io::pwrite(&self.file, rest, at) {
                Ok(0) => return Err(Error::io("writing", &self.path, Errno::IO)),
                Ok(written) => {
                    rest = &rest[written..];
                    at += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(Error::io("writing", &self.path, error)),
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io("syncing", &self.path, e))
    }
}

/// Plain bytes in order, zeros included: for pipes.
pub struct RawStream<W> {
    out: W,
    path: PathBuf,
    size: u64,
    position: u64,
    stopped: Box<dyn Fn() -> bool + Send>,
}

impl<W: Write> RawStream<W> {
    /// Over anything that is written in order; `path` is for messages. `stopped` is asked now and then in a long hole.
    pub fn new(out: W, path: &Path, stopped: impl Fn() -> bool + Send + 'static) -> Self {
        Self { out, path: path.to_owned(), size: 0, position: 0, stopped: Box::new(stopped) }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.position += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|e| Error::io("writing to", &self.path, e))
    }

    fn zeros_up_to(&mut self, offset: u64) -> Result<()> {
        while self.position < offset {
            if (self.stopped)() {
                return Err(Error::Interrupted);
            }
            let length = (offset - self.position).min(ZEROS.len() as u64) as usize;
            self.put(&ZEROS[..length])?;
        }
        Ok(())
    }
}

impl<W: Write> Sink for RawStream<W> {
    fn begin(&mut self, size: u64) -> Result<()> {
        self.size = size;
        Ok(())
    }

    fn map(&mut self, _: &[Range<u64>]) -> Result<()> {
        Ok(())
    }

    fn map_done(&mut self) -> Result<()> {
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.zeros_up_to(offset)?;
        self.put(bytes)
    }

    fn finish(&mut self) -> Result<()> {
        self.zeros_up_to(self.size)?;
        self.out.flush().map_err(|e| Error::io("writing to", &self.path, e))
    }
}
