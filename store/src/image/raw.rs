//! Raw images: a regular file or a block device, byte for byte.

use super::input::Input;
use super::source::{Extent, ExtentKind, Source};
use crate::error::{Error, Result};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// A raw image. Holes of the file are holes; a block device has none.
pub(super) struct RawSource {
    input: Input,
    /// Whether the file system tells holes.
    tells_holes: bool,
}

impl RawSource {
    pub(super) fn new(input: Input) -> Result<Self> {
        input.check_virtual_size(input.length())?;
        Ok(Self { tells_holes: !input.is_block_device(), input })
    }
}

impl Source for RawSource {
    fn size(&self) -> u64 {
        self.input.length()
    }

    fn extent(&mut self, offset: u64) -> Result<Extent> {
        let size = self.input.length();
        let rest = Extent { kind: ExtentKind::Data, length: size - offset };
        if !self.tells_holes {
            return Ok(rest);
        }
        let data = match rustix::fs::seek(self.input.file(), SeekFrom::Data(offset)) {
            Ok(data) => data.min(size),
            // No data up to the end.
            Err(Errno::NXIO) => size,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                self.tells_holes = false;
                return Ok(rest);
            }
            Err(e) => return Err(Error::io("seeking data in", self.input.path(), e)),
        };
        if data > offset {
            return Ok(Extent { kind: ExtentKind::Hole, length: data - offset });
        }
        let hole = rustix::fs::seek(self.input.file(), SeekFrom::Hole(offset))
            .map_err(|e| Error::io("seeking holes in", self.input.path(), e))?;
        // A file cut short meanwhile could answer anything: never go backwards, the read will tell.
        Ok(Extent { kind: ExtentKind::Data, length: hole.clamp(offset + 1, size) - offset })
    }

    fn read(&mut self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.input.read(buf, offset)
    }

    fn check_unchanged(&self) -> Result<()> {
        self.input.check_unchanged()
    }
}
