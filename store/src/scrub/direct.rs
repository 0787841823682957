//! Reading a sealed layer's data past the page cache, so that what is compared is what the disk has.

use crate::error::Result;
use crate::layer::Layer;
use crate::units::SEGMENT_SIZE;
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// What direct reads want buffers aligned to.
const ALIGN: usize = 4096;

/// Memory that direct reads can go to.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    first: usize,
}

impl Buffer {
    /// Of `length` bytes.
    pub fn new(length: usize) -> Self {
        let bytes = vec![0; length + ALIGN];
        let first = bytes.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { bytes, first }
    }

    /// The first `length` bytes of it.
    pub fn take(&mut self, length: usize) -> &mut [u8] {
        &mut self.bytes[self.first..self.first + length]
    }
}

/// Reads a layer's data: directly where the file system can and the layer is sealed, else as anybody does.
pub(super) struct Direct<'a> {
    layer: &'a Layer,
    /// The segment that is open, if it could be opened for direct reads.
    segment: Option<(u64, Option<File>)>,
}

impl<'a> Direct<'a> {
    pub fn new(layer: &'a Layer) -> Self {
        Self { layer, segment: None }
    }

    /// Reads whole blocks of one segment.
    pub fn read(&mut self, buf: &mut [u8], offset: u64) -> Result<()> {
        let segment = offset / SEGMENT_SIZE;
        if !buf.is_empty() && self.layer.header().sealed {
            if self.segment.as_ref().is_none_or(|(open, _)| *open != segment) {
                let path = self.layer.dir.join(format!("data.{segment}"));
                let flags = OFlags::DIRECT.bits().cast_signed();
                self.segment = Some((segment, OpenOptions::new().read(true).custom_flags(flags).open(path).ok()));
            }
            if let Some((_, Some(file))) = &self.segment
                && file.read_exact_at(buf, offset % SEGMENT_SIZE).is_ok()
            {
                return Ok(());
            }
        }
        // Also where the direct read failed: this one's error is told.
        self.layer.data.read(buf, offset)
    }
}
