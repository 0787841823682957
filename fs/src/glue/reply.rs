//! Answers: what came out of an operation, into the reply that its request came with.

use super::{convert, fopen_flags};
use crate::pool;
use crate::tree::{Attr, Entry, File, Found, Handle, Lifetime, Tree};
use fuser::{
    Errno, FileHandle, Generation, INodeNo, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
};
use outcrop_store::Space;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

/// The kernel's replies.
pub(super) enum To {
    Empty(ReplyEmpty),
    Data(ReplyData),
    Write(ReplyWrite),
    Entry(ReplyEntry),
    Attr(ReplyAttr),
    Open(ReplyOpen),
    Create(ReplyCreate),
    Statfs(ReplyStatfs),
    /// With the space that the caller has for the value; 0 asks for its length.
    Xattr(ReplyXattr, u32),
    Directory(ReplyDirectory),
    Lseek(ReplyLseek),
}

/// What an operation gives. Dropped without having been sent, it leaves nothing behind: handles and lookups are counted when
/// they are sent.
pub(crate) enum Outcome {
    Done,
    Data(Buffer),
    Written(usize),
    Entry(Found),
    Attr(Attr),
    Opened(Handle),
    Created(Found, Arc<File>),
    Space(Space),
    Value(Vec<u8>),
    /// All entries, and the first one that is wanted.
    Entries(Arc<Vec<Entry>>, usize),
    Offset(u64),
}

/// Where the answer of one request goes.
pub(crate) struct Answer {
    tree: Arc<Tree>,
    /// None once it was sent.
    to: Option<To>,
}

/// How long the kernel may use a name that may change behind its back.
const ENTRY_MOMENT: Duration = Duration::from_secs(1);
/// Likewise attributes: a size is asked for each time.
const ATTR_MOMENT: Duration = Duration::ZERO;
/// How long it may believe what never changes.
const LONG: Duration = Duration::from_secs(3600);
/// Serials are never used twice, so inode numbers need no generation.
const GENERATION: Generation = Generation(0);
/// The unit of statfs.
const STATFS_UNIT: u32 = 4096;

impl Answer {
    pub(super) fn new(tree: Arc<Tree>, to: To) -> Self {
        Self { tree, to: Some(to) }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // fuser answers EIO when a reply is dropped.
        if self.to.is_some() {
            tracing::error!("a request was dropped without an answer: its caller gets an I/O error");
        }
    }
}

impl pool::Reply for Answer {
    type Outcome = Outcome;

    fn send(mut self, outcome: Result<Outcome, rustix::io::Errno>) {
        let Some(to) = self.to.take() else { return };
        let tree = &self.tree;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(errno) => return to.error(convert::errno(errno)),
        };
        match (to, outcome) {
            (To::Empty(reply), Outcome::Done) => reply.ok(),
            (To::Data(reply), Outcome::Data(buffer)) => reply.data(buffer.bytes()),
            (To::Write(reply), Outcome::Written(count)) => reply.written(u32::try_from(count).unwrap_or(u32::MAX)),
            (To::Entry(reply), Outcome::Entry(found)) => {
                tree.remember(&found);
                let (attr_ttl, entry_ttl) = lifetimes(&found.attr);
                reply.entry_with_ttls(&attr_ttl, &entry_ttl, &convert::attr(&found.attr), GENERATION);
            }
            (To::Attr(reply), Outcome::Attr(attr)) => {
                tree.size_told(attr.ino);
                reply.attr(&lifetimes(&attr).0, &convert::attr(&attr));
            }
            (To::Open(reply), Outcome::Opened(handle)) => {
                let flags = fopen_flags(&handle);
                reply.opened(FileHandle(tree.register(handle).0), flags);
            }
            (To::Create(reply), Outcome::Created(found, file)) => {
                tree.remember(&found);
                let handle = Handle::File(file);
                let flags = fopen_flags(&handle);
                let id = FileHandle(tree.register(handle).0);
                // One lifetime for both: the shorter one.
                reply.created(&ATTR_MOMENT, &convert::attr(&found.attr), GENERATION, id, flags);
            }
            (To::Statfs(reply), Outcome::Space(space)) => {
                let units = |bytes: u64| bytes / u64::from(STATFS_UNIT);
                let (blocks, free, available) = (units(space.total), units(space.free), units(space.available));
                // The number of files is not limited, which is told as 0 of 0.
                reply.statfs(blocks, free, available, 0, 0, STATFS_UNIT, 255, STATFS_UNIT);
            }
            (To::Xattr(reply, 0), Outcome::Value(value)) => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
            (To::Xattr(reply, space), Outcome::Value(value)) if value.len() > space as usize => reply.error(Errno::ERANGE),
            (To::Xattr(reply, _), Outcome::Value(value)) => reply.data(&value),
            (To::Directory(mut reply), Outcome::Entries(entries, first)) => {
                for (entry, offset) in entries.iter().zip(1..).skip(first) {
                    if reply.add(INodeNo(entry.ino), offset, convert::kind(entry.kind), std::ffi::OsStr::from_bytes(&entry.name))
                    {
                        break;
                    }
                }
                reply.ok();
            }
            (To::Lseek(reply), Outcome::Offset(offset)) => match i64::try_from(offset) {
                Ok(offset) => reply.offset(offset),
                Err(_) => reply.error(Errno::EOVERFLOW),
            },
            (to, _) => {
                tracing::error!("an outcome for another kind of request: its caller gets an I/O error");
                debug_assert!(false, "an outcome for another kind of request");
                to.error(Errno::EIO);
            }
        }
    }
}

use std::os::unix::ffi::OsStrExt as _;

/// How long the kernel may use the attributes, and the name.
fn lifetimes(attr: &Attr) -> (Duration, Duration) {
    match attr.lifetime {
        Lifetime::Moment => (ATTR_MOMENT, ENTRY_MOMENT),
        Lifetime::Long => (LONG, LONG),
    }
}

impl To {
    fn error(self, errno: Errno) {
        match self {
            To::Empty(reply) => reply.error(errno),
            To::Data(reply) => reply.error(errno),
            To::Write(reply) => reply.error(errno),
            To::Entry(reply) => reply.error(errno),
            To::Attr(reply) => reply.error(errno),
            To::Open(reply) => reply.error(errno),
            To::Create(reply) => reply.error(errno),
            To::Statfs(reply) => reply.error(errno),
            To::Xattr(reply, _) => reply.error(errno),
            To::Directory(reply) => reply.error(errno),
            To::Lseek(reply) => reply.error(errno),
        }
    }
}

thread_local! {
    /// A thread's buffer for reads: taken while one is under way, put back after it was answered.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The largest read that is served whole. The kernel asks for 1 MiB at most.
const READ_MAX: usize = 16 << 20;

/// What was read, in the thread's buffer, which is not cleared in between: only what a read filled is ever shown.
pub(crate) struct Buffer {
    space: Vec<u8>,
    size: usize,
}

impl Buffer {
    pub(super) fn new(size: u32) -> Self {
        let size = (size as usize).min(READ_MAX);
        let mut space = BUFFER.take();
        if space.len() < size {
            space.resize(size, 0);
        }
        Self { space, size }
    }

    /// Where to read to.
    pub(super) fn space(&mut self) -> &mut [u8] {
        &mut self.space[..self.size]
    }

    /// Says how much of it was filled.
    pub(super) fn filled(mut self, size: usize) -> Self {
        self.size = size.min(self.size);
        self
    }

    fn bytes(&self) -> &[u8] {
        &self.space[..self.size]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let space = std::mem::take(&mut self.space);
        // Late in a thread's life its locals are gone: then so is the buffer.
        let _ = BUFFER.try_with(|buffer| buffer.replace(space));
    }
}
