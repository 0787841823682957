//! A volume: an ordinary file over a chain of layers.
//!
//! Place on the write path: `fs → volume → chain → layer → disk`.

use crate::error::Result;
use crate::ids::VolumeId;
use crate::name::Name;

/// Which of a file's times to set, in nanoseconds since 1970 (negative before); none leaves it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timestamps {
    /// Last access. Never changed by reads (as with `noatime`).
    pub atime_ns: Option<i64>,
    /// Last change of content.
    pub mtime_ns: Option<i64>,
}

/// Owner and permission bits to set; none leaves it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes {
    /// Permission bits, without the file type.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// What `stat` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Size in bytes.
    pub size: u64,
    /// Bytes that the whole chain shows as data: a multiple of 4096.
    pub data: u64,
    /// Permission bits, without the file type.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Nanoseconds since 1970.
    pub atime_ns: i64,
    /// Nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Nanoseconds since 1970.
    pub ctime_ns: i64,
    /// When it was made, nanoseconds since 1970.
    pub btime_ns: i64,
}

/// How much a sync makes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Data, and what is needed to read it back (`fdatasync`).
    Data,
    /// Times too (`fsync`).
    All,
}

/// What to do with a range without writing to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocate {
    /// Reserve space, growing the file (`fallocate` mode 0).
    Grow,
    /// Reserve space, keeping the size.
    KeepSize,
    /// Make it read zeros and give its space back; the size stays (`PUNCH_HOLE | KEEP_SIZE`).
    Punch,
    /// Make it read zeros, growing the file (`ZERO_RANGE`).
    Zero,
    /// Make it read zeros, keeping the size (`ZERO_RANGE | KEEP_SIZE`).
    ZeroKeepSize,
}

/// A live volume, open. Dropping the last reference to a deleted volume removes its layer.
pub struct Volume {}

/// A snapshot, open for reading. Its content never changes.
pub struct Snapshot {}

impl Volume {
    /// Identity.
    #[must_use]
    pub fn id(&self) -> VolumeId {
        todo!()
    }

    /// Present name; the last one once deleted.
    #[must_use]
    pub fn name(&self) -> Name {
        todo!()
    }

    /// Whether its name is gone (deleted while open).
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        todo!()
    }

    /// Attributes, without waiting for any disk.
    #[must_use]
    pub fn stat(&self) -> Stat {
        todo!()
    }

    /// Reads into `buf` from byte `offset`; gives the bytes read: fewer than asked only at the end of the file.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let _ = (buf, offset);
        todo!()
    }

    /// Like [`Volume::read_at`], but gives `None` where it would wait for a disk or a lock.
    pub fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Option<usize>> {
        let _ = (buf, offset);
        todo!()
    }

    /// Writes all of `data` at byte `offset`, growing the file. On return the data survives the end of this
    /// process, but not power loss: that takes [`Volume::sync`].
    pub fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let _ = (data, offset);
        todo!()
    }

    /// Like [`Volume::write_at`], but gives `None`, with nothing written, where it would wait for a lock or for
    /// metadata to be read. (It may still wait in the system call that writes.)
    pub fn try_write_at(&self, data: &[u8], offset: u64) -> Result<Option<()>> {
        let _ = (data, offset);
        todo!()
    }

    /// Writes at the end of the file (`O_APPEND`), wherever that is by then; gives the offset written to.
    pub fn append(&self, data: &[u8]) -> Result<u64> {
        let _ = data;
        todo!()
    }

    /// Makes all that was written before durable: it survives power loss from then on.
    pub fn sync(&self, what: Sync) -> Result<()> {
        let _ = what;
        todo!()
    }

    /// Sets the size in bytes: durable on return when it shrinks. Bytes beyond it read zeros after growing again.
    pub fn set_size(&self, size: u64) -> Result<()> {
        let _ = size;
        todo!()
    }

    /// `fallocate`.
    pub fn allocate(&self, how: Allocate, offset: u64, length: u64) -> Result<()> {
        let _ = (how, offset, length);
        todo!()
    }

    /// The first byte at or after `offset` that is data (`SEEK_DATA`); `NoExtent` if there is none.
    pub fn seek_data(&self, offset: u64) -> Result<u64> {
        let _ = offset;
        todo!()
    }

    /// The first byte at or after `offset` that is in a hole; the end of the file counts as one (`SEEK_HOLE`).
    pub fn seek_hole(&self, offset: u64) -> Result<u64> {
        let _ = offset;
        todo!()
    }

    /// Sets times: durable with the next sync.
    pub fn set_times(&self, times: Timestamps) -> Result<()> {
        let _ = times;
        todo!()
    }

    /// Sets owner and mode: durable on return.
    pub fn set_attributes(&self, attributes: Attributes) -> Result<()> {
        let _ = attributes;
        todo!()
    }
}

impl Snapshot {
    /// As [`Volume::stat`], at the time of the snapshot.
    #[must_use]
    pub fn stat(&self) -> Stat {
        todo!()
    }

    /// As [`Volume::read_at`].
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let _ = (buf, offset);
        todo!()
    }

    /// As [`Volume::try_read_at`].
    pub fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Option<usize>> {
        let _ = (buf, offset);
        todo!()
    }

    /// As [`Volume::seek_data`].
    pub fn seek_data(&self, offset: u64) -> Result<u64> {
        let _ = offset;
        todo!()
    }

    /// As [`Volume::seek_hole`].
    pub fn seek_hole(&self, offset: u64) -> Result<u64> {
        let _ = offset;
        todo!()
    }
}
