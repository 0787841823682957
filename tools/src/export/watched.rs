//! A sink that tells its progress, and stops when it is told to.

use crate::output::progress::Meter;
use outcrop_store::export::Sink;
use outcrop_store::image::Progress as _;
use outcrop_store::{Error, Result};
use std::ops::Range;
use std::sync::Arc;

/// Around another one.
pub struct Watched {
    inner: Box<dyn Sink + Send>,
    meter: Arc<Meter>,
    done: u64,
    total: u64,
}

impl Watched {
    /// Cancelling the meter stops it.
    pub fn new(inner: Box<dyn Sink + Send>, meter: &Arc<Meter>) -> Self {
        Self { inner, meter: Arc::clone(meter), done: 0, total: 0 }
    }

    fn check(&self) -> Result<()> {
        if self.meter.cancelled() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

impl Sink for Watched {
    fn begin(&mut self, size: u64) -> Result<()> {
        self.check()?;
        self.inner.begin(size)
    }

    fn map(&mut self, ranges: &[Range<u64>]) -> Result<()> {
        self.check()?;
        self.total += ranges.iter().map(|range| range.end - range.start).sum::<u64>();
        self.inner.map(ranges)
    }

    fn map_done(&mut self) -> Result<()> {
        self.check()?;
        self.inner.map_done()
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.check()?;
        self.inner.data(offset, bytes)?;
        self.done += bytes.len() as u64;
        self.meter.advance(self.done, self.total);
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.check()?;
        self.inner.finish()
    }
}
