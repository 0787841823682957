//! Where an export is written: standard output, or a file that gets its name when it is whole.
//!
//! 1. a new file is made beside the wanted one, `.<name>.<process>.partial`
//! 2. it is written and synced
//! 3. it is renamed, without replacing anything unless that was asked for, and the directory is synced
//!
//! An error or a cancel before 3 removes it. A kill leaves the partial file, and never half of the wanted one.

use crate::failure::Failure;
use crate::operations::views::shown;
use crate::output::progress::Meter;
use anyhow::{Context as _, Result};
use outcrop_store::export::{ExportFormat, Qcow2, RawFile, RawStream, Sink};
use outcrop_store::image::Progress as _;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, IsTerminal as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Buffered, so that tables and clusters of 64 KiB make fewer writes.
const BUFFER: usize = 1 << 20;

/// Where it goes.
#[derive(Debug, Clone)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A file.
    File {
        /// Its path, absolute.
        path: PathBuf,
        /// Whether one that is there is replaced.
        force: bool,
    },
}

/// A file under its temporary name; dropped, it is removed.
pub struct Partial {
    temporary: PathBuf,
    path: PathBuf,
    force: bool,
    published: bool,
}

impl Destination {
    /// Whether it can be written, before anything is done for it.
    pub fn check(&self) -> Result<()> {
        match self {
            Destination::Stdout if std::io::stdout().is_terminal() => {
                Err(Failure::new("a disk is not for a terminal").hint("give a file, or lead stdout into a file or a pipe").into())
            }
            Destination::Stdout => Ok(()),
            Destination::File { path, force } => match std::fs::symlink_metadata(path) {
                Ok(metadata) if !metadata.is_file() => {
                    Err(Failure::new(format!("{} is there, and is no file", shown(path))).hint("name a file").into())
                }
                Ok(_) if !force => Err(exists(path)),
                Ok(_) => Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error).with_context(|| format!("looking at {}", shown(path))),
            },
        }
    }

    /// Opens it, with what writes the format. Cancelling the meter ends a long hole that is written out.
    pub fn open(&self, format: ExportFormat, meter: &Arc<Meter>) -> Result<(Box<dyn Sink + Send>, Option<Partial>)> {
        match self {
            Destination::Stdout => {
                let path = Path::new("stdout");
                let out = BufWriter::with_capacity(BUFFER, std::io::stdout());
                let meter = Arc::clone(meter);
                Ok((
                    match format {
                        ExportFormat::Raw => Box::new(RawStream::new(out, path, move || meter.cancelled())),
                        ExportFormat::Qcow2 => Box::new(Qcow2::new(out, path, |_| Ok(()))),
                    },
                    None,
                ))
            }
            Destination::File { path, force } => {
                let (file, partial) = Partial::make(path, *force)?;
                Ok((
                    match format {
                        ExportFormat::Raw => Box::new(RawFile::new(file, path)),
                        ExportFormat::Qcow2 => {
                            let out = BufWriter::with_capacity(BUFFER, file);
                            Box::new(Qcow2::new(out, path, |out| out.flush().and_then(|()| out.get_ref().sync_all())))
                        }
                    },
                    Some(partial),
                ))
            }
        }
    }
}

fn exists(path: &Path) -> anyhow::Error {
    Failure::new(format!("{} exists already", shown(path))).hint("--force replaces it").into()
}

impl Partial {
    fn make(path: &Path, force: bool) -> Result<(File, Self)> {
        let what = || format!("making {}", shown(path));
        let name = path.file_name().with_context(what)?;
        for number in 0..100 {
            let mut partial = OsString::from(".");
            // A name has 255 bytes at most, this one included.
            let kept = name.len().min(200);
            partial.push(OsString::from(String::from_utf8_lossy(&name.as_encoded_bytes()[..kept]).replace('\u{fffd}', "_")));
            partial.push(format!(
                ".{}{}.partial",
                std::process::id(),
                if number == 0 { String::new() } else { format!("-{number}") }
            ));
            let temporary = path.with_file_name(partial);
            match File::create_new(&temporary) {
                Ok(file) => {
                    keep_rights(&file, path);
                    return Ok((file, Self { temporary, path: path.to_owned(), force, published: false }));
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(what),
            }
        }
        Err(Failure::new(format!("too many partial files beside {}", shown(path))).into())
    }

    /// Gives the whole file its name, durably.
    pub fn publish(mut self) -> Result<()> {
        let (from, to) = (&self.temporary, &self.path);
        let flags = if self.force { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        match rustix::fs::renameat_with(CWD, from, CWD, to, flags) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(exists(to)),
            // A file system that can't rename so: what came in between is seen all the same, but for a moment.
            Err(Errno::INVAL | Errno::NOSYS) if !self.force => {
                if std::fs::symlink_metadata(to).is_ok() {
                    return Err(exists(to));
                }
                std::fs::rename(from, to).with_context(|| format!("renaming to {}", shown(to)))?;
            }
            Err(error) => return Err(error).with_context(|| format!("renaming to {}", shown(to))),
        }
        self.published = true;
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        // Some file systems can't sync a directory; the file itself is synced.
        if let Err(error) = File::open(directory).and_then(|directory| directory.sync_all()) {
            tracing::debug!(%error, "the directory could not be synced");
        }
        Ok(())
    }
}

/// What is replaced keeps its owner, as far as that may be given, and its mode.
fn keep_rights(file: &File, replaced: &Path) {
    let Ok(before) = std::fs::metadata(replaced) else { return };
    // The owner first: changing it may clear bits of the mode.
    let _ = std::os::unix::fs::fchown(file, Some(before.uid()), Some(before.gid()));
    if let Err(error) = file.set_permissions(before.permissions()) {
        tracing::debug!(%error, "the mode of the replaced file could not be kept");
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = std::fs::remove_file(&self.temporary)
        {
            eprintln!("outcrop: {} is left behind: {error}", shown(&self.temporary));
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_gets_its_name_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        let (mut file, partial) = Partial::make(&path, false).unwrap();
        file.write_all(b"new").unwrap();
        assert!(!path.exists());
        drop(partial);
        assert!(names(dir.path()).is_empty(), "given up, it leaves nothing");
        let (mut file, partial) = Partial::make(&path, false).unwrap();
        file.write_all(b"new").unwrap();
        partial.publish().unwrap();
        assert_eq!(names(dir.path()), ["disk.raw"]);

        std::fs::write(&path, "mine").unwrap();
        let (_, partial) = Partial::make(&path, false).unwrap();
        assert!(partial.publish().unwrap_err().to_string().contains("exists already"), "one that came meanwhile stays");
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        let (mut file, partial) = Partial::make(&path, true).unwrap();
        file.write_all(b"forced").unwrap();
        partial.publish().unwrap();
        assert_eq!((std::fs::read(&path).unwrap(), names(dir.path()).len()), (b"forced".to_vec(), 1));
    }

    #[test]
    fn what_can_not_be_written_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, force| Destination::File { path: dir.path().join(name), force };
        std::fs::write(dir.path().join("there"), "x").unwrap();
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        file("new", false).check().unwrap();
        file("there", true).check().unwrap();
        assert!(file("there", false).check().is_err());
        assert!(file("dir", true).check().is_err());
        assert!(file("there/x", true).check().is_err());
    }
}
