//! Turns the kernel's requests into calls of the tree. The only module, with `mount::session`, that knows `fuser`.
//!
//! What is in memory is answered on the thread that took the request; what may wait for a disk goes to the pool with its reply
//! (see [`crate::pool`] for the deadline). Writes and questions for attributes may run here too, but never on all threads at once:
//! a write can wait in its system call, and somebody must take the requests that come meanwhile.

mod convert;
mod own;
mod reply;

pub(crate) use reply::Answer;

use crate::MountOptions;
use crate::meter::Operation;
use crate::pool::{Pending, Pool, Slot};
use crate::tree::{Caller, Change, File, Handle, HandleId, OpenFlags, RenameFlags, Result, Seek, Tree};
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, PollEvents, PollFlags, PollNotifier, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use outcrop_store::Sync;
use reply::{Buffer, Outcome, To};
use std::cell::RefCell;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Instant, SystemTime};

/// The largest write that the kernel sends in one request.
const WRITE_MAX: u32 = 1 << 20;
/// Read-ahead of snapshot files that is asked for; the kernel may allow less.
pub(crate) const READ_AHEAD: u32 = 1 << 20;
/// Asynchronous requests (direct I/O at a depth, read-ahead) that the kernel may have under way at once.
const BACKGROUND_MAX: u16 = 256;

thread_local! {
    /// The slot of this thread. A thread takes requests of one mount only.
    static SLOT: RefCell<Option<Arc<Slot<Answer>>>> = const { RefCell::new(None) };
}

/// One mount's file system, as fuser wants it.
pub(crate) struct Glue {
    tree: Arc<Tree>,
    pool: Pool<Answer>,
    /// Operations that may wait after all, and run on threads that take requests.
    inline: AtomicUsize,
    /// The most of them: one thread is always left.
    inline_max: usize,
    /// Whether requests of this process's own threads are refused.
    refuse_own: bool,
    /// Dropped with this, that is, when the last of fuser's threads has ended.
    _alive: Sender<Infallible>,
}

impl Glue {
    pub(crate) fn new(tree: Arc<Tree>, pool: Pool<Answer>, options: &MountOptions, alive: Sender<Infallible>) -> Self {
        let inline_max = options.fuse_threads().saturating_sub(1);
        Self { tree, pool, inline: AtomicUsize::new(0), inline_max, refuse_own: options.refuse_own, _alive: alive }
    }

    /// Whether this request is to be refused with EDEADLK.
    fn is_refused(&self, request: &Request, what: &'static str) -> bool {
        self.refuse_own && own::is_own(request, what)
    }

    fn pending(&self, what: &'static str, to: To) -> Pending<Answer> {
        Pending::new(what, Answer::new(self.tree.clone(), to))
    }

    /// Runs an operation on the pool.
    fn pooled(&self, what: &'static str, to: To, work: impl FnOnce(&Tree) -> Result<Outcome> + Send + 'static) {
        self.queue(self.pending(what, to), 0, work);
    }

    fn queue(&self, pending: Pending<Answer>, bytes: usize, work: impl FnOnce(&Tree) -> Result<Outcome> + Send + 'static) {
        let tree = self.tree.clone();
        self.pool.submit(pending, bytes, Box::new(move || work(&tree)));
    }

    /// Runs an operation here; gives the request back where it would wait.
    fn inline(&self, pending: Pending<Answer>, work: impl FnOnce(&Tree) -> Result<Option<Outcome>>) -> Option<Pending<Answer>> {
        let slot = SLOT.with_borrow_mut(|slot| slot.get_or_insert_with(|| self.pool.slot()).clone());
        self.pool.run_inline(&slot, pending, || work(&self.tree))
    }

    /// Runs an operation here that never waits.
    fn at_once(&self, what: &'static str, to: To, work: impl FnOnce(&Tree) -> Result<Outcome>) {
        // It is never given back: the operation always has an outcome.
        let _ = self.inline(self.pending(what, to), |tree| work(tree).map(Some));
    }

    /// Runs an operation on an open file on the pool.
    fn pooled_on_file(
        &self,
        what: &'static str,
        fh: FileHandle,
        to: To,
        work: impl FnOnce(&Tree, &File) -> Result<Outcome> + Send + 'static,
    ) {
        self.pooled(what, to, move |tree| {
            let file = tree.file(HandleId(fh.0))?;
            work(tree, &file)
        });
    }

    /// A place among the operations that may wait and run here, if there is one.
    fn place(&self) -> Option<Place<'_>> {
        let place = Place(&self.inline);
        (self.inline.fetch_add(1, Ordering::Relaxed) < self.inline_max).then_some(place)
    }
}

/// A counted operation; uncounted when dropped.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid() }
}

impl Filesystem for Glue {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Others that look useful can't be parsed or served by this version of fuser (SETXATTR_EXT ends the session).
        let wanted = [InitFlags::FUSE_ASYNC_DIO, InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP];
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                tracing::info!(?flag, "this kernel's FUSE lacks a capability");
            }
        }
        // Each gives the nearest value that is allowed where it refuses.
        if let Err(nearest) = config.set_max_write(WRITE_MAX) {
            let _ = config.set_max_write(nearest);
        }
        if let Err(nearest) = config.set_max_readahead(READ_AHEAD) {
            let _ = config.set_max_readahead(nearest);
        }
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if self.is_refused(request, "lookup") {
            return reply.error(Errno::EDEADLK);
        }
        let name = name.as_bytes().to_vec();
        self.pooled("lookup", To::Entry(reply), move |tree| tree.lookup(parent.0, &name).map(Outcome::Entry));
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.tree.forget(ino.0, lookups);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        // Of the root only: the kernel asks for it on the way to everything, and others are asked for too often.
        if ino == INodeNo::ROOT && self.is_refused(request, "getattr") {
            return reply.error(Errno::EDEADLK);
        }
        let mut pending = self.pending("getattr", To::Attr(reply));
        if let Some(_place) = self.place() {
            let known = |tree: &Tree| tree.try_attributes(ino.0).transpose().map(|attr| attr.map(Outcome::Attr));
            let Some(back) = self.inline(pending, known) else { return };
            pending = back;
        }
        self.queue(pending, 0, move |tree| tree.attributes(ino.0).map(Outcome::Attr));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change { mode, uid, gid, size, atime: atime.map(convert::time), mtime: mtime.map(convert::time) };
        self.pooled("setattr", To::Attr(reply), move |tree| {
            tree.change(ino.0, fh.map(|fh| HandleId(fh.0)), &change).map(Outcome::Attr)
        });
    }

    fn readlink(&self, _: &Request, _: INodeNo, reply: ReplyData) {
        reply.error(Errno::EINVAL);
    }

    fn mknod(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _: u32, reply: ReplyEntry) {
        if !matches!(mode & libc::S_IFMT, 0 | libc::S_IFREG) {
            return reply.error(Errno::EPERM);
        }
        let (name, caller) = (name.as_bytes().to_vec(), caller(request));
        self.pooled("mknod", To::Entry(reply), move |tree| {
            tree.make_node(parent.0, &name, mode & !umask, caller).map(Outcome::Entry)
        });
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let name = name.as_bytes().to_vec();
        self.pooled("mkdir", To::Entry(reply), move |tree| tree.make_directory(parent.0, &name).map(Outcome::Entry));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.pooled("unlink", To::Empty(reply), move |tree| tree.unlink(parent.0, &name).map(|()| Outcome::Done));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.pooled("rmdir", To::Empty(reply), move |tree| tree.remove_directory(parent.0, &name).map(|()| Outcome::Done));
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, newname, flags) = (name.as_bytes().to_vec(), newname.as_bytes().to_vec(), RenameFlags(flags.bits()));
        self.pooled("rename", To::Empty(reply), move |tree| {
            tree.rename(parent.0, &name, newparent.0, &newname, flags).map(|()| Outcome::Done)
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: fuser::OpenFlags, reply: ReplyOpen) {
        if self.is_refused(request, "open") {
            return reply.error(Errno::EDEADLK);
        }
        self.pooled("open", To::Open(reply), move |tree| {
            let file = tree.open(ino.0, OpenFlags(flags.0))?;
            Ok(Outcome::Opened(Handle::File(Arc::new(file))))
        });
    }

    fn create(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, flags: i32, reply: ReplyCreate) {
        if self.is_refused(request, "create") {
            return reply.error(Errno::EDEADLK);
        }
        let (name, caller) = (name.as_bytes().to_vec(), caller(request));
        self.pooled("create", To::Create(reply), move |tree| {
            let (found, file) = tree.create(parent.0, &name, mode & !umask, OpenFlags(flags), caller)?;
            Ok(Outcome::Created(found, file))
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: fuser::OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let pending = self.pending("read", To::Data(reply));
        let since = pending.since;
        let waits = self.inline(pending, |tree| {
            let file = tree.file(HandleId(fh.0))?;
            let mut buffer = Buffer::new(size);
            let read = file.try_read(buffer.space(), offset);
            file.meter().note_tried(file.reading(), since, &read, |read| *read as u64);
            Ok(read?.map(|read| Outcome::Data(buffer.filled(read))))
        });
        if let Some(pending) = waits {
            self.queue(pending, 0, move |tree| {
                let file = tree.file(HandleId(fh.0))?;
                let mut buffer = Buffer::new(size);
                let read = file.read(buffer.space(), offset);
                file.meter().note(file.reading(), since, &read, |read| *read as u64);
                Ok(Outcome::Data(buffer.filled(read?)))
            });
        }
    }

    fn write(
        &self,
        request: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: fuser::OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (flags, caller) = (OpenFlags(flags.0), caller(request));
        let mut pending = self.pending("write", To::Write(reply));
        let since = pending.since;
        if let Some(_place) = self.place() {
            let waits = self.inline(pending, |tree| {
                let file = tree.file(HandleId(fh.0))?;
                let written = tree.try_write(&file, data, offset, flags, caller);
                file.meter().note_tried(Operation::Write, since, &written, |()| data.len() as u64);
                Ok(written?.map(|()| Outcome::Written(data.len())))
            });
            let Some(back) = waits else { return };
            pending = back;
        }
        let data = data.to_vec();
        self.queue(pending, data.len(), move |tree| {
            let file = tree.file(HandleId(fh.0))?;
            let written = tree.write(&file, &data, offset, flags, caller);
            file.meter().note(Operation::Write, since, &written, |()| data.len() as u64);
            written.map(|()| Outcome::Written(data.len()))
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // At close: all that was written is in the store already, and close(2) promises no more.
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: fuser::OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.tree.release(HandleId(fh.0));
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let what = if datasync { Sync::Data } else { Sync::All };
        let since = Instant::now();
        self.pooled_on_file("fsync", fh, To::Empty(reply), move |_, file| {
            let synced = file.sync(what);
            file.meter().note(Operation::Fsync, since, &synced, |()| 0);
            synced.map(|()| Outcome::Done)
        });
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _: fuser::OpenFlags, reply: ReplyOpen) {
        if self.is_refused(request, "opendir") {
            return reply.error(Errno::EDEADLK);
        }
        self.at_once("opendir", To::Open(reply), |tree| Ok(Outcome::Opened(Handle::Directory(tree.open_directory(ino.0)?))));
    }

    fn readdir(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.pooled("readdir", To::Directory(reply), move |tree| {
            let offset = usize::try_from(offset).unwrap_or(usize::MAX);
            let listing = tree.directory(HandleId(fh.0))?;
            Ok(Outcome::Entries(tree.read_directory(&listing, offset)?, offset))
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: fuser::OpenFlags, reply: ReplyEmpty) {
        self.tree.release(HandleId(fh.0));
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // Every change of a name is durable when it is answered.
        reply.ok();
    }

    fn statfs(&self, request: &Request, _: INodeNo, reply: ReplyStatfs) {
        if self.is_refused(request, "statfs") {
            return reply.error(Errno::EDEADLK);
        }
        self.pooled("statfs", To::Statfs(reply), |tree| tree.space().map(Outcome::Space));
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        // The kernel asks for `security.capability` often: without waiting for anything.
        let Some(name) = name.to_str().filter(|name| name.starts_with(crate::tree::XATTR_PREFIX)).map(str::to_owned) else {
            let unsupported = name.as_bytes().starts_with(b"system.");
            return reply.error(if unsupported { Errno::EOPNOTSUPP } else { Errno::ENODATA });
        };
        self.pooled("getxattr", To::Xattr(reply, size), move |tree| tree.extended_value(ino.0, &name).map(Outcome::Value));
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.pooled("listxattr", To::Xattr(reply, size), move |tree| {
            let names = tree.extended(ino.0)?;
            Ok(Outcome::Value(names.iter().flat_map(|(name, _)| [name.as_bytes(), b"\0"]).flatten().copied().collect()))
        });
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        // The kernel doesn't ask again, and permits: it checks modes itself (default_permissions), or nobody is to.
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        let since = Instant::now();
        let zeros = mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0;
        let operation = if zeros { Operation::Discard } else { Operation::Allocate };
        self.pooled_on_file("fallocate", fh, To::Empty(reply), move |_, file| {
            let done = file.allocate(mode, offset, length);
            file.meter().note(operation, since, &done, |()| length);
            done.map(|()| Outcome::Done)
        });
    }

    fn lseek(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        self.pooled_on_file("lseek", fh, To::Lseek(reply), move |_, file| file.seek(what, offset).map(Outcome::Offset));
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let since = Instant::now();
        self.pooled_on_file("copy_file_range", fh_in, To::Write(reply), move |tree, file| {
            let target = tree.file(HandleId(fh_out.0))?;
            let copied = tree.copy(file, offset_in, &target, offset_out, len);
            target.meter().note(Operation::Copy, since, &copied, |copied| u64::from(*copied));
            copied.map(|copied| Outcome::Written(copied as usize))
        });
    }

    fn ioctl(&self, _: &Request, _: INodeNo, _: FileHandle, _: IoctlFlags, _: u32, _: &[u8], _: u32, reply: ReplyIoctl) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(&self, _: &Request, _: INodeNo, _: FileHandle, _: PollNotifier, _: PollEvents, _: PollFlags, reply: ReplyPoll) {
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }
}

/// How a file is opened: volumes go past the page cache, so that a completed write is in the store and a snapshot needs nothing
/// from the kernel; snapshots never change, so what the kernel has of them stays right.
fn fopen_flags(handle: &Handle) -> FopenFlags {
    match handle {
        Handle::File(file) if file.is_snapshot() => FopenFlags::FOPEN_KEEP_CACHE,
        Handle::File(_) => FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES,
        Handle::Directory(_) => FopenFlags::empty(),
    }
}
