//! A sealed view of a volume as the source of an image.

use super::Progress;
use super::copy::{BlockSink, copy};
use super::import::hex;
use super::source::{Extent, ExtentKind, Source};
use crate::error::{Error, Result};
use crate::volume::Snapshot;

/// Copies all that `view` shows to `sink`, leaving zero blocks out; gives its SHA-256 in hex.
pub(crate) fn copy_view(view: &Snapshot, sink: &mut dyn BlockSink, progress: &dyn Progress) -> Result<String> {
    Ok(hex(&copy(&mut ViewSource(view), sink, progress)?))
}

struct ViewSource<'a>(&'a Snapshot);

impl Source for ViewSource<'_> {
    fn size(&self) -> u64 {
        self.0.stat().size
    }

    fn extent(&mut self, offset: u64) -> Result<Extent> {
        let size = self.size();
        let data = match self.0.seek_data(offset) {
            Ok(data) => data,
            Err(Error::NoExtent { .. }) => size,
            Err(error) => return Err(error),
        };
        if data > offset {
            return Ok(Extent { kind: ExtentKind::Hole, length: data - offset });
        }
        Ok(Extent { kind: ExtentKind::Data, length: self.0.seek_hole(offset)? - offset })
    }

    fn read(&mut self, buf: &mut [u8], offset: u64) -> Result<()> {
        if self.0.read_at(buf, offset)? == buf.len() {
            Ok(())
        } else {
            Err(Error::InvalidRange { offset, length: buf.len() as u64 })
        }
    }

    fn check_unchanged(&self) -> Result<()> {
        Ok(())
    }
}
