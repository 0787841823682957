//! A volume: an ordinary file over a chain of layers.
//!
//! Place on the write path: `fs → volume → chain → layer → disk`.

mod allocate;
mod count;
mod follow;
mod handle;
mod live;
mod pause;
mod pull;
mod resize;
mod snapshot;
mod view;
mod write;

pub use handle::Handle;
pub(crate) use handle::Shut;
pub(crate) use pause::Paused;
pub use snapshot::Snapshot;

use crate::catalog::records::VolumeRecord;
use crate::chain::Chain;
use crate::error::{Error, Result};
use crate::ids::VolumeId;
use crate::layer::head::Marked;
use crate::layer::{self, Head};
use crate::name::Name;
use crate::store::Context;
use crate::units::BLOCK_SIZE;
use live::{Live, LiveView, Stripes};
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use view::View;
use write::{Place, Written};

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
    /// Times too (`fsync`); the time of an overwrite that changed nothing else, to the second.
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
pub struct Volume {
    context: Arc<Context>,
    id: VolumeId,
    serial: u64,
    /// Held shared by everything that changes the volume, and alone by what replaces its chain.
    gate: RwLock<()>,
    live: RwLock<Arc<Live>>,
    stripes: Stripes,
    access: handle::Access,
    about: RwLock<About>,
    deleted: AtomicBool,
    /// The store was closed: nothing may be changed through what is left in somebody's hands.
    closed: AtomicBool,
    /// A write that failed may have left something behind the end of the file.
    tail_unknown: AtomicBool,
}

/// What the catalog knows of a volume that `stat` tells.
struct About {
    name: Name,
    mode: u32,
    uid: u32,
    gid: u32,
    created_ns: u64,
    ctime_ns: u64,
}

impl Volume {
    /// A volume over an open head.
    pub(crate) fn new(context: &Arc<Context>, record: &VolumeRecord, name: &Name, chain: Chain, head: Arc<Head>) -> Self {
        Self {
            context: Arc::clone(context),
            id: record.id,
            serial: record.serial,
            gate: RwLock::new(()),
            live: RwLock::new(Arc::new(Live { chain, head })),
            stripes: Stripes::new(),
            access: handle::Access::default(),
            about: RwLock::new(About::of(record, name)),
            deleted: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            tail_unknown: AtomicBool::new(false),
        }
    }

    pub(crate) fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.read())
    }

    /// The head.
    pub(crate) fn head(&self) -> Arc<Head> {
        Arc::clone(&self.live().head)
    }

    /// Takes over what the catalog knows of it now.
    pub(crate) fn set_about(&self, record: &VolumeRecord) {
        let mut about = self.about.write();
        *about = About::of(record, &about.name);
    }

    /// Says that its name is gone.
    pub(crate) fn set_deleted(&self) {
        self.deleted.store(true, SeqCst);
    }

    /// After a failed flush: opens the head anew, from what is durable.
    pub(crate) fn clear_fault(&self) -> Result<()> {
        let _gate = self.gate.write();
        let live = self.live();
        if !live.head.is_faulted() {
            return Ok(());
        }
        let layer = &live.head.layer;
        layer::clear_fault(layer)?;
        let (head, _) = Head::open(Arc::clone(layer))?;
        // The floor of a shrink that failed half-way may be only in the header.
        *self.live.write() = Arc::new(Live { chain: live.chain.with_floor(layer.header().floor), head });
        // Set by a close that failed, too.
        self.closed.store(self.context.is_closed(), SeqCst);
        Ok(())
    }

    /// Writes no more are to come: all durable, and the next open has nothing to repair.
    pub(crate) fn close(&self) -> Result<()> {
        let _gate = self.gate.write();
        self.closed.store(true, SeqCst);
        let live = self.live();
        if !live.head.is_faulted() {
            self.clean_tail_alone(&live)?;
        }
        live.head.close()
    }

    /// Whether it takes no more changes: the store was closed, or a snapshot of it is in doubt.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    fn shown_name(&self) -> String {
        self.about.read().name.to_string()
    }

    /// Whether changes are taken.
    fn check_usable(&self, live: &Live) -> Result<()> {
        self.check_stale()?;
        match self.closed.load(SeqCst) {
            false => live.head.check_fault(|| self.shown_name()),
            true if self.context.is_closed() => Err(Error::Closed),
            true => Err(Error::InDoubt { volume: self.shown_name() }),
        }
    }

    fn named<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| match error {
            // Below, a volume's name isn't known.
            Error::Faulted { .. } => Error::Faulted { volume: self.shown_name() },
            Error::BadSum { of: None, layer, block, expected, found } => {
                let of = Some(format!("volume '{}'", self.shown_name()));
                let error = Error::BadSum { of, layer, block, expected, found };
                self.context.found_bad(&error, Some(self.id));
                error
            }
            error => error,
        })
    }

    /// Identity.
    #[must_use]
    pub fn id(&self) -> VolumeId {
        self.id
    }

    /// Its number in the store, which nothing else ever has: another one for each head made anew under the same identity.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Present name; the last one once deleted.
    #[must_use]
    pub fn name(&self) -> Name {
        self.about.read().name.clone()
    }

    /// Whether its name is gone (deleted while open).
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(SeqCst)
    }

    /// Attributes, without waiting for any disk.
    #[must_use]
    pub fn stat(&self) -> Stat {
        let live = self.live();
        let about = self.about.read();
        let (atime_ns, mtime_ns, ctime_ns) = live.head.times();
        Stat {
            size: live.head.size(),
            data: live.head.data_blocks() * BLOCK_SIZE,
            mode: about.mode,
            uid: about.uid,
            gid: about.gid,
            atime_ns,
            mtime_ns,
            ctime_ns: ctime_ns.max(about.ctime_ns.cast_signed()),
            btime_ns: about.created_ns.cast_signed(),
        }
    }

    /// Reads into `buf` from byte `offset`; gives the bytes read: fewer than asked only at the end of the file.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        loop {
            let live = self.live();
            let size = live.head.size();
            let read = LiveView { volume: self, live: &live }.read(buf, offset).transpose();
            // Beside a shrink what was read (or could not be) may be of neither size; beside a snapshot, a newer head's.
            if let Some(read) = read
                && live.head.size() >= size
                && live.is_same(&self.live.read())
            {
                return self.check_stale().and(self.named(read));
            }
        }
    }

    /// Like [`Volume::read_at`], but gives `None` where it would wait for a disk or a lock.
    pub fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Option<usize>> {
        let Some(live) = self.live.try_read().map(|live| Arc::clone(&live)) else { return Ok(None) };
        let size = live.head.size();
        let read = LiveView { volume: self, live: &live }.try_read(buf, offset);
        // As in `read_at`: the slow way looks again.
        let is_current = live.head.size() >= size && self.live.try_read().is_some_and(|now| live.is_same(&now));
        if is_current { self.check_stale().and(read) } else { Ok(None) }
    }

    /// Writes all of `data` at byte `offset`, growing the file. On return the data survives the end of this
    /// process, but not power loss: that takes [`Volume::sync`].
    pub fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.write_pieces(data, offset)
    }

    /// Like [`Volume::write_at`], but gives `None`, with nothing written, where it would wait for a lock or for
    /// metadata to be read, or where the data is too large to be written in one piece (4 MiB). (It may still wait
    /// in the system call that writes.)
    pub fn try_write_at(&self, data: &[u8], offset: u64) -> Result<Option<()>> {
        if data.len() > write::PIECE {
            return Ok(None);
        }
        Ok((self.write_piece(data, Place::At(offset), false)? == Written::Done).then_some(()))
    }

    /// Writes at the end of the file (`O_APPEND`), wherever that is by then; gives the offset written to. At most
    /// 4 MiB go there as one; what is longer may have others' data in between.
    pub fn append(&self, data: &[u8]) -> Result<u64> {
        let mut first = None;
        for piece in data.chunks(write::PIECE) {
            let offset = loop {
                let end = self.live().head.size();
                if self.write_piece(piece, Place::AtEnd(end), true)? == Written::Done {
                    break end;
                }
            };
            first.get_or_insert(offset);
        }
        Ok(first.unwrap_or_else(|| self.live().head.size()))
    }

    /// Makes all that was written before durable: it survives power loss from then on.
    pub fn sync(&self, what: Sync) -> Result<()> {
        self.check_stale()?;
        self.named(self.live().head.flush(what))
    }

    /// Flushes times too, to the nanosecond: the timer's and the close's way.
    pub(crate) fn flush_times(&self) -> Result<()> {
        self.named(self.live().head.flush_times())
    }

    /// Sets the size in bytes: durable on return when it shrinks. Bytes beyond it read zeros after growing again.
    pub fn set_size(&self, size: u64) -> Result<()> {
        self.named(self.resize(size))
    }

    /// `fallocate`.
    pub fn allocate(&self, how: Allocate, offset: u64, length: u64) -> Result<()> {
        self.check_stale()?;
        self.named(self.allocate_range(how, offset, length))
    }

    /// The first byte at or after `offset` that is data (`SEEK_DATA`); `NoExtent` if there is none.
    pub fn seek_data(&self, offset: u64) -> Result<u64> {
        self.check_stale()?;
        LiveView { volume: self, live: &self.live() }.seek_data(offset)
    }

    /// The first byte at or after `offset` that is in a hole; the end of the file counts as one (`SEEK_HOLE`).
    pub fn seek_hole(&self, offset: u64) -> Result<u64> {
        self.check_stale()?;
        LiveView { volume: self, live: &self.live() }.seek_hole(offset)
    }

    /// Sets times: on return they survive the end of this process, and they are durable with the next sync.
    pub fn set_times(&self, times: Timestamps) -> Result<()> {
        loop {
            let _gate = self.gate.read();
            let live = self.live();
            self.check_usable(&live)?;
            let head = &live.head;
            if head.set_times(times.atime_ns, times.mtime_ns, now_ns())? == Marked::Done {
                return Ok(());
            }
            head.flush(Sync::Data)?;
        }
    }

    /// Sets owner and mode: durable on return.
    pub fn set_attributes(&self, attributes: Attributes) -> Result<()> {
        self.context.set_attributes(self, attributes)
    }
}

impl About {
    fn of(record: &VolumeRecord, last: &Name) -> Self {
        Self {
            name: record.name.as_ref().unwrap_or(last).clone(),
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            created_ns: record.created_ns,
            ctime_ns: record.ctime_ns,
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.is_deleted() {
            // Its layer's files can go now.
            self.context.wake_flusher();
        }
    }
}

/// Now, in nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    crate::disk::now_ns().cast_signed()
}

#[cfg(test)]
mod tests;
