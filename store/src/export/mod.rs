//! Exports: a volume, as it is at one instant or in a snapshot, to a raw or qcow2 file.
//!
//! The way of an export's bytes: `snapshot → export → sink`. The store reads; where the bytes go is the caller's
//! business, so that a daemon never writes files with its own rights for somebody else: the sink may be another process.
//! A [`Sink`] is told the size, then all ranges of data from the maps, then the data, once and in order. That suffices to
//! write a sparse raw file ([`RawFile`]), plain bytes ([`RawStream`]), and qcow2 ([`Qcow2`]) into a pipe, with its tables before
//! the data.

mod layout;
mod qcow2;
mod raw;
mod source;
#[cfg(test)]
mod tests;

pub use qcow2::Qcow2;
pub use raw::{RawFile, RawStream};
pub use source::{Export, ExportRequest};

use crate::error::Result;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// Where an export goes. Called in the order of the methods here; `map` and `data` any number of times. An error ends it.
pub trait Sink {
    /// The size in bytes.
    fn begin(&mut self, size: u64) -> Result<()>;
    /// Byte ranges of data, ascending, not empty, none touching the next, inside the size. The rest reads zeros.
    fn map(&mut self, ranges: &[Range<u64>]) -> Result<()>;
    /// The map is complete.
    fn map_done(&mut self) -> Result<()>;
    /// Bytes at an offset: all of the ranges, in order, in pieces.
    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// That was all: what there is of it is as durable as this sink makes it on return.
    fn finish(&mut self) -> Result<()>;
}

/// Formats that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExportFormat {
    /// The bytes themselves; a file gets holes.
    #[default]
    Raw,
    /// qcow2, version 3, with clusters of 64 KiB.
    Qcow2,
}

impl fmt::Display for ExportFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ExportFormat::Raw => "raw",
            ExportFormat::Qcow2 => "qcow2",
        })
    }
}

impl FromStr for ExportFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "raw" => Ok(ExportFormat::Raw),
            "qcow2" => Ok(ExportFormat::Qcow2),
            _ => Err("formats are raw and qcow2"),
        }
    }
}
