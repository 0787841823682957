//! Making the sums of a sealed layer, a few MiB at a time.
//!
//! The bytes that a sum is made of are trusted: the layer was sealed after its data was synced, and mostly they are still in
//! the page cache. What rotted before that is not found by a sum.
//!
//! A kill at any point leaves each record as it was or with its new sums, and the layer not called complete: the next time
//! goes on with the blocks that have none. The order at the end: records durable, then the header that says "all".

use super::Sums;
use crate::error::{Error, Result};
use crate::layer::states::State;
use crate::units::{BLOCK_SIZE, CHUNK_BLOCKS};
use rustix::io::Errno;

/// How a step went.
#[derive(Debug)]
pub(crate) enum Step {
    /// To be gone on with at this chunk.
    At(u64),
    /// Every block of data that can have a sum has one, durably.
    Complete,
    /// Every block of data after those that could not be read has one.
    Done,
    /// The blocks of a chunk could not be read; the next one may be.
    Failed { chunk: u64, error: Error },
}

impl Sums<'_> {
    /// Gives the blocks of data from `chunk` on sums, as far as they have none, until about `bytes_max` bytes were read.
    /// Nobody merges the layer meanwhile, but a merge between two steps may have brought blocks without sums to chunks that are
    /// behind: so only a step that sees all of the layer calls it complete. With `complete` unset it is not called complete: something was left out before.
    ///
    /// Blocks of a damaged record stay without: their bytes may have been damaged since, and a sum would hide that.
    pub fn make(self, chunk: u64, bytes_max: u64, complete: bool) -> Result<Step> {
        let begun = chunk;
        let mut left = bytes_max;
        let mut next = self.layer.map.next_written(chunk)?;
        while let Some(chunk) = next {
            if left == 0 {
                return Ok(Step::At(chunk));
            }
            match self.make_chunk(chunk) {
                Ok(read) => left = left.saturating_sub(read),
                Err(error) if error.errno() == Errno::NOSPC => return Err(error),
                Err(error) => return Ok(Step::Failed { chunk, error }),
            }
            next = self.layer.map.next_written(chunk + 1)?;
        }
        self.sync()?;
        if !complete {
            return Ok(Step::Done);
        }
        if begun > 0 {
            return Ok(Step::At(0));
        }
        if self.exist() {
            // A layer without data has no file: it isn't called complete, so that the file's loss can be seen by that.
            self.set_complete(true)?;
        }
        Ok(Step::Complete)
    }

    /// Bytes read.
    fn make_chunk(self, chunk: u64) -> Result<u64> {
        let states = self.layer.map.read_chunk(chunk)?;
        let known = self.chunk(chunk)?;
        let lacks = |index: usize| states.get(index) == State::Data && known.get(index).is_none() && !known.is_damaged(index);
        let blocks = CHUNK_BLOCKS as usize;
        let mut sums: Vec<Option<u32>> = (0..blocks).map(|index| known.get(index)).collect();
        let mut buf = Vec::new();
        let mut index = 0;
        let mut read = 0;
        while index < blocks {
            let run = (index..blocks).take_while(|index| lacks(*index)).count();
            if run > 0 {
                buf.resize(run * BLOCK_SIZE as usize, 0);
                self.layer.data.read(&mut buf, (chunk * CHUNK_BLOCKS + index as u64) * BLOCK_SIZE)?;
                read += buf.len() as u64;
                for (sum, bytes) in sums[index..].iter_mut().zip(buf.chunks_exact(BLOCK_SIZE as usize)) {
                    *sum = Some(crc32c::crc32c(bytes));
                }
            }
            index += run.max(1);
        }
        if read == 0 {
            return Ok(0);
        }
        // In runs, so that records that got nothing, the damaged ones, are not written.
        let mut index = 0;
        while index < blocks {
            let run = (index..blocks).take_while(|index| sums[*index].is_some() && !known.is_damaged(*index)).count();
            if run > 0 {
                self.put_while_made(chunk * CHUNK_BLOCKS + index as u64, &sums[index..index + run])?;
            }
            index += run.max(1);
        }
        Ok(read)
    }

    /// How many blocks of data there are, and how many of them have a sum: reads the map and the sums.
    pub fn count(self) -> Result<(u64, u64)> {
        let (mut data, mut summed) = (0, 0);
        let mut next = self.layer.map.next_written(0)?;
        while let Some(chunk) = next {
            let states = self.layer.map.read_chunk(chunk)?;
            let sums = self.read_chunk(chunk)?.0;
            for index in (0..CHUNK_BLOCKS as usize).filter(|index| states.get(*index) == State::Data) {
                data += 1;
                summed += u64::from(sums.get(index).is_some());
            }
            next = self.layer.map.next_written(chunk + 1)?;
        }
        Ok((data, summed))
    }

    /// As the file has it now: a merge beside this look may have taken sums away.
    fn still_complete(self) -> Result<bool> {
        Ok(self.layer.map.read_header()?.summed)
    }

    /// What is wrong with the file: for doctor. At most `max` findings.
    pub fn check(self, max: usize) -> Result<Vec<String>> {
        let layer = self.layer.id;
        let mut findings: Vec<String> =
            self.header_fault()?.map(|fault| format!("sums of layer {layer}: {fault}")).into_iter().collect();
        let complete = self.are_complete();
        if !self.exist() {
            if complete && self.still_complete()? {
                findings.push(format!("the sums of layer {layer} are missing: its blocks are read unverified"));
            }
            return Ok(findings);
        }
        if !self.layer.header().sealed {
            findings.push(format!("layer {layer} is a head and has sums"));
        }
        let mut lacking = 0;
        let mut next = self.layer.map.next_written(0)?;
        while let Some(chunk) = next.filter(|_| findings.len() < max) {
            let (sums, wrong) = self.read_chunk(chunk)?;
            for (index, reason) in wrong {
                findings.push(format!(
                    "sums record {index} of layer {layer}: {reason}; the blocks that it is of are read unverified"
                ));
            }
            // A map that can't be read is told by who looks at maps.
            if complete && let Ok(states) = self.layer.map.read_chunk(chunk) {
                let lacks =
                    |index: &usize| states.get(*index) == State::Data && sums.get(*index).is_none() && !sums.is_damaged(*index);
                lacking += (0..CHUNK_BLOCKS as usize).filter(lacks).count();
            }
            next = self.layer.map.next_written(chunk + 1)?;
        }
        if lacking > 0 && self.still_complete()? {
            findings.push(format!("{lacking} blocks of layer {layer} have lost their sums: they are read unverified"));
        }
        Ok(findings)
    }
}
