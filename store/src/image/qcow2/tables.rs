//! The mappings of a qcow2 file: each must lie inside the file that it leads to.
//!
//! Bytes past the end of a file read zeros, in qemu and in imago, so a download cut short would be imported as a disk
//! with zeros where its data was. The walk reads the tables only, 1/8192 of the data with usual clusters.

use super::super::Progress;
use super::super::input::Input;
use super::super::source::bad;
use super::compressed;
use super::header::Header;
use crate::error::{Error, Result};

/// Offsets in L1 and L2 entries.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// L2: the cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// L2: the cluster's reference count is one; with an external data file also: offset 0 is meant.
const COPIED: u64 = 1 << 63;
/// L2: the cluster reads zeros.
const ZERO: u64 = 1;

/// Entries of the L1 table read at once.
const L1_PART: u64 = 4096;

/// Checks every mapping of the active state: tables in `input`, data in `data` (which is `input` but for external
/// data files).
pub(super) fn check(header: &Header, input: &Input, data: Option<&Input>, progress: &dyn Progress) -> Result<()> {
    let walk = Walk { header, input, data };
    let mut table = vec![0; header.cluster_size() as usize];
    let mut part = Vec::new();
    for first in (0..header.l1_entries).step_by(L1_PART as usize) {
        let count = (header.l1_entries - first).min(L1_PART);
        part.resize(count as usize * 8, 0);
        input.read(&mut part, header.l1_offset + first * 8)?;
        for (index, entry) in part.chunks_exact(8).enumerate() {
            if progress.cancelled() {
                return Err(Error::Interrupted);
            }
            walk.l2_table(be64(entry), (first + index as u64) * header.l2_span(), &mut table)?;
        }
    }
    Ok(())
}

fn be64(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |value, byte| value << 8 | u64::from(*byte))
}

struct Walk<'a> {
    header: &'a Header,
    input: &'a Input,
    data: Option<&'a Input>,
}

impl Walk<'_> {
    fn l2_table(&self, l1_entry: u64, first_byte: u64, table: &mut [u8]) -> Result<()> {
        let offset = l1_entry & OFFSET_MASK;
        if offset == 0 {
            return Ok(());
        }
        self.aligned(offset, "an L2 table")?;
        self.inside(self.input, offset, self.header.cluster_size(), "an L2 table")?;
        self.input.read(table, offset)?;
        let stride = self.header.l2_entry_bytes() as usize;
        for (index, entry) in table.chunks_exact(stride).enumerate() {
            let at = first_byte + index as u64 * self.header.cluster_size();
            if at >= self.header.size {
                break;
            }
            self.l2_entry(be64(entry), self.header.extended_l2.then(|| be64(&entry[8..])), at)?;
        }
        Ok(())
    }

    /// `at` is the virtual offset; `bitmap` the states of subclusters (extended entries only).
    fn l2_entry(&self, entry: u64, bitmap: Option<u64>, at: u64) -> Result<()> {
        let header = self.header;
        if entry & COMPRESSED != 0 {
            if self.data.is_some() {
                return Err(self.damaged(at, "is compressed in an external data file"));
            }
            let offset_bits = 62 - (header.cluster_bits - 8);
            let offset = entry & ((1 << offset_bits) - 1);
            let sectors = (entry >> offset_bits) & ((1 << (header.cluster_bits - 8)) - 1);
            return self.compressed(offset, (offset & !511) + (sectors + 1) * 512);
        }
        if bitmap.is_none() && entry & ZERO != 0 {
            // Version 2 has no zero clusters.
            return if header.version == 2 { Err(self.damaged(at, "has a reserved bit set")) } else { Ok(()) };
        }
        let offset = entry & OFFSET_MASK;
        if offset == 0 && (self.data.is_none() || entry & COPIED == 0) {
            return Ok(());
        }
        self.aligned(offset, "a cluster")?;
        // A file may end with the last byte that is needed: with the virtual disk, or the last subcluster in use.
        let used = match bitmap {
            None => header.cluster_size(),
            Some(bitmap) => {
                let allocated = bitmap & 0xffff_ffff;
                u64::from(64 - allocated.leading_zeros()) * (header.cluster_size() / 32)
            }
        };
        self.inside(self.data.unwrap_or(self.input), offset, used.min(header.size - at), "data")
    }

    /// The length of compressed data is known in sectors only, and not every writer fills the last one of the file.
    fn compressed(&self, start: u64, end: u64) -> Result<()> {
        let file_end = self.input.length();
        if start < file_end && file_end < end && end - file_end < 512 {
            let mut data = vec![0; (file_end - start) as usize];
            self.input.read(&mut data, start)?;
            let whole = if self.header.zstd {
                compressed::is_whole_zstd(&data)
            } else {
                compressed::is_whole_deflate(&data, self.header.cluster_size() as usize)
            };
            if whole {
                return Ok(());
            }
        }
        self.inside(self.input, start, end.saturating_sub(start), "compressed data")
    }

    fn aligned(&self, offset: u64, what: &str) -> Result<()> {
        if offset.is_multiple_of(self.header.cluster_size()) {
            return Ok(());
        }
        Err(bad(self.input.path(), format!("it is damaged: {what} is said to be at byte {offset}, not at a cluster's start")))
    }

    fn inside(&self, file: &Input, offset: u64, length: u64, what: &str) -> Result<()> {
        if length == 0 || offset.checked_add(length).is_some_and(|end| end <= file.length()) {
            return Ok(());
        }
        Err(bad(
            file.path(),
            format!(
                "it is truncated: {what} of {length} bytes is said to be at byte {offset}, the file ends at {}",
                file.length()
            ),
        ))
    }

    fn damaged(&self, at: u64, what: &str) -> crate::error::Error {
        bad(self.input.path(), format!("it is damaged: the cluster at virtual byte {at} {what}"))
    }
}
