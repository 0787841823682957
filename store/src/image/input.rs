//! The files that an image is made of, and which ones an image may name.
//!
//! A qcow2 file can name other files: its backing file and its external data file. The image may come from
//! anywhere, and the importer may be root: a crafted name must not read `/etc/shadow` into a volume. So a name is
//! followed only to where the policy allows, and what is judged is the very file that is then opened: it is
//! first opened with `O_PATH` (which touches no device and waits for no pipe), its real path is asked of the kernel,
//! and that descriptor is reopened for reading. Symlinks and races change nothing in that.

use super::source::bad;
use crate::error::{Error, Result};
use crate::units::{BLOCK_SIZE, MAX_VOLUME_SIZE};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::io::{Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// An open file of an image.
#[derive(Debug)]
pub(super) struct Input {
    file: File,
    path: PathBuf,
    length: u64,
    block_device: bool,
    identity: Identity,
    modified: (i64, i64),
}

/// Which file it is, whatever its name: device and inode.
pub(super) type Identity = (u64, u64);

impl Input {
    /// Opens the file that the user named.
    pub(super) fn open(path: &Path) -> Result<Self> {
        Self::reopen(&pin(path).map_err(|e| Error::io("opening", path, e))?, path)
    }

    /// Opens what `pinned` is, for reading.
    fn reopen(pinned: &OwnedFd, path: &Path) -> Result<Self> {
        let fail = |e: io::Error| Error::io("opening", path, e);
        let stat = rustix::fs::fstat(pinned).map_err(|e| fail(e.into()))?;
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        match kind {
            rustix::fs::FileType::RegularFile | rustix::fs::FileType::BlockDevice => {}
            rustix::fs::FileType::Directory => return Err(bad(path, "it is a directory, not a disk image")),
            _ => return Err(bad(path, "it is neither a regular file nor a block device")),
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::open(link_of(pinned), flags, Mode::empty()).map_err(|e| fail(e.into()))?);
        let metadata = file.metadata().map_err(fail)?;
        let block_device = metadata.file_type().is_block_device();
        let length = if block_device { (&file).seek(SeekFrom::End(0)).map_err(fail)? } else { metadata.len() };
        Ok(Self {
            path: path.to_owned(),
            length,
            block_device,
            identity: (metadata.dev(), metadata.ino()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            file,
        })
    }

    /// A file that was made here, of which messages say `path`.
    pub(super) fn made(file: File, path: &Path) -> Result<Self> {
        let metadata = file.metadata().map_err(|e| Error::io("reading", path, e))?;
        Ok(Self {
            path: path.to_owned(),
            length: metadata.len(),
            block_device: false,
            identity: (metadata.dev(), metadata.ino()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            file,
        })
    }

    /// The open file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The path it was opened by.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in it.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Whether it is a block device.
    pub(super) fn is_block_device(&self) -> bool {
        self.block_device
    }

    /// Which file it is.
    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// A path by which another process opens this very file.
    pub(super) fn path_for_others(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Fills `buf` from `offset`.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(buf, offset).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => {
                bad(&self.path, format!("it ended before byte {}", offset.saturating_add(buf.len() as u64)))
            }
            _ => Error::io("reading", &self.path, e),
        })
    }

    /// The first bytes, at most `limit`.
    pub(super) fn head(&self, limit: u64) -> Result<Vec<u8>> {
        let mut head = vec![0; usize::try_from(self.length.min(limit)).unwrap_or(0)];
        self.read(&mut head, 0)?;
        Ok(head)
    }

    /// Fails if the file has changed since it was opened.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        if self.block_device {
            return Ok(());
        }
        let now = self.file.metadata().map_err(|e| Error::io("reading", &self.path, e))?;
        if now.len() == self.length && (now.mtime(), now.mtime_nsec()) == self.modified {
            return Ok(());
        }
        Err(bad(
            &self.path,
            "it was written to while it was imported; stop what uses it (a virtual machine?) and import it again",
        ))
    }

    /// Refuses a virtual disk of a size that no volume can have.
    pub(super) fn check_virtual_size(&self, size: u64) -> Result<()> {
        if size == 0 {
            return Err(bad(&self.path, "it is empty"));
        }
        if size > MAX_VOLUME_SIZE {
            return Err(bad(
                &self.path,
                format!("its virtual size is {size} bytes; a volume can have at most {MAX_VOLUME_SIZE}"),
            ));
        }
        Ok(())
    }
}

/// Takes hold of what `path` leads to, without opening it for anything.
fn pin(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

fn link_of(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// What a file is to the image that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Holds what the overlay doesn't.
    Backing,
    /// Holds the data of an image whose own file has only tables.
    Data,
}

impl Role {
    fn noun(self) -> &'static str {
        match self {
            Role::Backing => "backing file",
            Role::Data => "data file",
        }
    }
}

/// Where files that an image names may lie.
#[derive(Debug)]
pub(super) struct Policy {
    /// The image's own directory: files directly in it.
    own: PathBuf,
    /// Directories that the user allowed: files anywhere below.
    allowed: Vec<PathBuf>,
}

impl Policy {
    /// For the image at `path`, with the directories that the user allowed.
    pub(super) fn new(path: &Path, allowed: &[PathBuf]) -> Result<Self> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let real = |dir: &Path| dir.canonicalize().map_err(|e| Error::io("opening", dir, e));
        Ok(Self { own: real(directory)?, allowed: allowed.iter().map(|dir| real(dir)).collect::<Result<_>>()? })
    }

    /// Opens the file that the image at `referrer` calls `name`.
    pub(super) fn open(&self, role: Role, name: &str, referrer: &Path) -> Result<Input> {
        let noun = role.noun();
        // As qemu tells a protocol ("nbd:…", "json:…", "ssh://…") from a path: a colon before any slash.
        if name.find([':', '/']).is_some_and(|at| name[at..].starts_with(':')) {
            return Err(bad(referrer, format!("its {noun} is '{}': only plain files are followed", shown(name))));
        }
        if name.is_empty() || name.contains('\0') {
            return Err(bad(referrer, format!("its {noun} '{}' is not a file name", shown(name))));
        }
        // Relative to the image that names it, as qemu does.
        let path = referrer.parent().unwrap_or(Path::new("")).join(name);
        let pinned = pin(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => bad(referrer, format!("its {noun} '{}' ({}) is missing", shown(name), path.display())),
            _ => Error::io("opening", &path, e),
        })?;
        let real = std::fs::read_link(link_of(&pinned)).map_err(|e| Error::io("opening", &path, e))?;
        let explicit = self.allowed.iter().any(|dir| real.starts_with(dir));
        if !explicit && real.parent() != Some(&self.own) {
            return Err(bad(
                referrer,
                format!(
                    "its {noun} '{}' leads to {}, outside the image's directory; if that is meant, allow the directory (--allow-backing-in)",
                    shown(name),
                    real.display()
                ),
            ));
        }
        let input = Input::reopen(&pinned, &path)?;
        if input.block_device && !explicit {
            return Err(bad(referrer, format!("its {noun} '{}' is a block device", shown(name))));
        }
        Ok(input)
    }
}

/// A name out of a foreign file, fit for a message.
fn shown(name: &str) -> String {
    crate::name::escape(name.as_bytes())
}

/// The largest multiple of the block size that is not above `offset`.
pub(super) fn block_floor(offset: u64) -> u64 {
    offset - offset % BLOCK_SIZE
}
