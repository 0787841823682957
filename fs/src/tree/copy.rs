//! `copy_file_range`: through the store, so that holes stay holes; a clone where it is of a whole file into an empty one.

use super::file::{Body, File, Seek};
use super::{Result, Tree, chain, errno};
use outcrop_store::{Allocate, Error, Opened, Volume};
use rustix::io::Errno;

/// The most that one call copies: the caller comes again, and can be interrupted in between.
const COPY_MAX: u64 = 64 << 20;
/// The unit in which data is read and written.
const PIECE: u64 = 1 << 20;

/// The smallest file that is cloned: below it, copying is quicker than a commit, and adds no layer to what it is made of.
const CLONE_MIN: u64 = 4 << 20;
/// The largest: the most that the kernel lets one call say that it copied.
const CLONE_MAX: u64 = 0xffff_f000;

impl Tree {
    /// Copies, as [`File::copy`] does. Into an empty volume that gets a whole file it is a clone: at once, and both share it. Where
    /// that can't be, for whatever reason, the bytes are copied.
    pub(crate) fn copy(&self, file: &File, from: u64, target: &File, to: u64, length: u64) -> Result<u32> {
        let size = file.size();
        if from == 0 && to == 0 && length >= size && (CLONE_MIN..=CLONE_MAX).contains(&size) && target.size() == 0 {
            match self.clone_whole(file, target, length.min(CLONE_MAX)) {
                Ok(cloned) => return u32::try_from(cloned).map_err(|_| Errno::OVERFLOW),
                Err(error) => tracing::debug!(error = %chain(&error), "a whole file is copied, not cloned"),
            }
        }
        let copied = file.copy(from, target, to, length)?;
        if let Some(what) = target.syncs {
            target.sync(what)?;
        }
        Ok(copied)
    }

    fn clone_whole(&self, file: &File, target: &File, limit: u64) -> outcrop_store::Result<u64> {
        let Body::Volume(to) = &target.body else { return Err(Error::NotSupported { what: "writing to a snapshot" }) };
        let from = match &file.body {
            Body::Volume(volume) => Opened::Volume(volume),
            Body::Snapshot(snapshot) => Opened::Snapshot(snapshot),
        };
        self.store.clone_open(from, to, limit)
    }
}

impl File {
    /// Copies from this file at `from` to `target` at `to`; gives the bytes copied, fewer than `length` at the end of this file and
    /// for long ranges. Ranges of one file that overlap are refused, as the system call does.
    pub(crate) fn copy(&self, from: u64, target: &File, to: u64, length: u64) -> Result<u32> {
        let volume = target.writable_volume()?;
        let length = length.min(COPY_MAX).min(self.size().saturating_sub(from));
        let (Some(_), Some(to_end)) = (from.checked_add(length), to.checked_add(length)) else {
            return Err(Errno::OVERFLOW);
        };
        if self.ino() == target.ino() && from.abs_diff(to) < length {
            return Err(Errno::INVAL);
        }
        let mut buf = Vec::new();
        let mut done = 0;
        while done < length {
            let data = self.next(Seek::Data, from + done)?.min(from + length) - from;
            punch(volume, to + done, data - done)?;
            done = data;
            if done == length {
                break;
            }
            let hole = self.next(Seek::Hole, from + done)?.min(from + length) - from;
            while done < hole {
                let piece = usize::try_from((hole - done).min(PIECE)).map_err(|_| Errno::INVAL)?;
                buf.resize(piece, 0);
                let read = self.read(&mut buf, from + done)?;
                if read == 0 {
                    // It was cut off meanwhile.
                    return u32::try_from(done).map_err(|_| Errno::INVAL);
                }
                volume.write_at(&buf[..read], to + done).map_err(errno)?;
                done += read as u64;
            }
        }
        if length > 0 && volume.stat().size < to_end {
            volume.set_size(to_end).map_err(errno)?;
        }
        u32::try_from(done).map_err(|_| Errno::INVAL)
    }

    /// Where the next data or hole begins; no more data means at the end of everything.
    fn next(&self, what: Seek, offset: u64) -> Result<u64> {
        match self.find(what, offset) {
            Err(Error::NoExtent { .. }) => Ok(u64::MAX),
            found => found.map_err(errno),
        }
    }
}

/// Makes a range read zeros, where the file has it already; beyond its end there are none but zeros.
fn punch(volume: &Volume, offset: u64, length: u64) -> Result<()> {
    let length = length.min(volume.stat().size.saturating_sub(offset));
    if length == 0 {
        return Ok(());
    }
    volume.allocate(Allocate::Punch, offset, length).map_err(errno)
}
