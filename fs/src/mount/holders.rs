//! Who holds a mount: loop devices and processes, found without a single request to the mount itself.

use super::session::Place;
use super::table::{self, Entry};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What the kernel puts behind the path of a file that has no name any more.
const GONE: &[u8] = b" (deleted)";

/// Somebody who uses a mount, so that it can't be unmounted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Holder {
    /// A loop device over a file in the mount.
    Loop {
        /// `/dev/loop0`.
        device: PathBuf,
        /// The file, as a path.
        file: PathBuf,
        /// Where the device, or a partition of it, is mounted.
        mounted: Vec<PathBuf>,
    },
    /// Another file system mounted inside the mount, or the mount itself at another place (`mount --bind`).
    Mount {
        /// Where.
        path: PathBuf,
    },
    /// A process with an open file, a mapping, or its working directory in the mount.
    Process {
        /// Its number.
        pid: u32,
        /// Its name.
        command: String,
        /// What it holds, as paths.
        holds: Vec<PathBuf>,
    },
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Loop { device, file, mounted } => {
                write!(f, "{} (over {}", device.display(), file.display())?;
                for path in mounted {
                    write!(f, ", mounted on {}", path.display())?;
                }
                f.write_str(")")
            }
            Holder::Mount { path } => write!(f, "a mount on {}", path.display()),
            Holder::Process { pid, command, holds } => {
                write!(f, "process {pid} ({command}")?;
                if let Some(first) = holds.first() {
                    write!(f, ", {}", first.display())?;
                    if holds.len() > 1 {
                        write!(f, " and {} more", holds.len() - 1)?;
                    }
                }
                f.write_str(")")
            }
        }
    }
}

/// All who hold the mount: mounts inside it, loop devices, processes.
pub(super) fn find(place: &Place) -> Vec<Holder> {
    let mounts = table::mounts().unwrap_or_default();
    let inside = mounts.iter().filter(|entry| entry.path != place.path && entry.path.starts_with(&place.path));
    let mut holders: Vec<Holder> = inside.map(|entry| Holder::Mount { path: entry.path.clone() }).collect();
    for other in elsewhere(place) {
        if !holders.contains(&other) {
            holders.push(other);
        }
    }
    holders.extend(loops(&mounts, |file| file.starts_with(&place.path)));
    holders.extend(processes(place, None));
    holders
}

/// Those who hold one file in the mount: `path`, with this inode number.
pub(super) fn of_file(place: &Place, path: &Path, ino: u64) -> Vec<Holder> {
    let mounts = table::mounts().unwrap_or_default();
    let mut holders = loops(&mounts, |file| file == path);
    holders.extend(processes(place, Some(ino)));
    if holders.is_empty() {
        // What was renamed or deleted other than through the mount has lost its name in the kernel's eyes, and of a loop device
        // only that it has is known.
        let nameless = |file: &Path| file.starts_with(&place.path) && file.as_os_str().as_bytes().ends_with(GONE);
        holders = loops(&mounts, nameless);
    }
    holders
}

/// Those who hold a file in the mount that was deleted: `path` was its name.
pub(super) fn of_deleted(place: &Place, path: &Path) -> Vec<Holder> {
    let mut gone = path.as_os_str().to_owned();
    gone.push(OsStr::from_bytes(GONE));
    let mut holders = loops(&table::mounts().unwrap_or_default(), |file| file.as_os_str() == gone);
    for holder in processes(place, None) {
        if let Holder::Process { pid, command, holds } = holder
            && holds.iter().any(|held| held.as_os_str() == gone)
        {
            holders.push(Holder::Process { pid, command, holds: vec![gone.clone().into()] });
        }
    }
    holders
}

/// The same mount at other places of this namespace: unmounting it here would not end it.
pub(super) fn elsewhere(place: &Place) -> Vec<Holder> {
    let mounts = table::mounts().unwrap_or_default();
    let Some(device) = mounts.iter().find(|entry| entry.id == place.id).map(|entry| &entry.device) else { return Vec::new() };
    let others = mounts.iter().filter(|entry| entry.device == *device && entry.id != place.id);
    others.map(|entry| Holder::Mount { path: entry.path.clone() }).collect()
}

/// Loop devices over those files that are `wanted`.
fn loops(mounts: &[Entry], wanted: impl Fn(&Path) -> bool) -> Vec<Holder> {
    let mut found = Vec::new();
    for dir in list(Path::new("/sys/block")) {
        // The file's name as it is, but for a newline at the end; it says "(deleted)" after one that was.
        let Ok(mut file) = std::fs::read(dir.join("loop/backing_file")) else { continue };
        file.pop_if(|last| *last == b'\n');
        let file = PathBuf::from(std::ffi::OsString::from_vec(file));
        if !wanted(&file) {
            continue;
        }
        // The device and its partitions, by number: what is mounted may be named by a link.
        let parts = list(&dir).into_iter().filter(|part| part.join("partition").exists());
        let numbers: Vec<String> = std::iter::once(dir.clone())
            .chain(parts)
            .filter_map(|dir| Some(std::fs::read_to_string(dir.join("dev")).ok()?.trim().to_owned()))
            .collect();
        let mounted = mounts.iter().filter(|entry| numbers.contains(&entry.device)).map(|entry| entry.path.clone()).collect();
        let name = dir.file_name().unwrap_or_default();
        found.push(Holder::Loop { device: Path::new("/dev").join(name), file, mounted });
    }
    found.sort_by_key(ToString::to_string);
    found
}

/// Processes with something of the mount open, mapped, or as a directory; or with the file open or mapped that has a number.
fn processes(place: &Place, ino: Option<u64>) -> Vec<Holder> {
    let pid_of = |dir: PathBuf| Some((dir.file_name()?.to_str()?.parse::<u32>().ok()?, dir));
    let mut found: Vec<(u32, PathBuf)> = list(Path::new("/proc")).into_iter().filter_map(pid_of).collect();
    found.sort();
    found
        .into_iter()
        .filter_map(|(pid, dir)| {
            let holds = held(&dir, place, ino);
            let command = || std::fs::read_to_string(dir.join("comm")).unwrap_or_default().trim().to_owned();
            (!holds.is_empty()).then(|| Holder::Process { pid, command: command(), holds })
        })
        .collect()
}

/// What a process holds: its links and tables are read, the files themselves never touched.
fn held(process: &Path, place: &Place, ino: Option<u64>) -> Vec<PathBuf> {
    let mut holds = Vec::new();
    for name in ["cwd", "root", "exe"] {
        if ino.is_none()
            && let Ok(target) = std::fs::read_link(process.join(name))
            && target.starts_with(&place.path)
        {
            holds.push(target);
        }
    }
    for fd in list(&process.join("fd")) {
        let info = std::fs::read_to_string(process.join("fdinfo").join(fd.file_name().unwrap_or_default())).unwrap_or_default();
        let number = |key: &str| info.lines().find_map(|line| line.strip_prefix(key)).and_then(|n| n.trim().parse::<u64>().ok());
        let wanted = ino.is_none() || number("ino:") == ino;
        if wanted
            && number("mnt_id:") == Some(place.id)
            && let Ok(target) = std::fs::read_link(&fd)
        {
            holds.push(target);
        }
    }
    let maps = std::fs::read(process.join("maps")).unwrap_or_default();
    for line in maps.split(|b| *b == b'\n') {
        // `addresses rights offset device inode path`, blanks before the path.
        let path = line.iter().position(|b| *b == b'/').map(|at| table::unescape(&line[at..]));
        let wanted = ino.is_none() || mapped_inode(line) == ino;
        if let Some(path) = path.filter(|path| wanted && path.starts_with(&place.path)) {
            holds.push(path);
        }
    }
    holds.sort();
    holds.dedup();
    holds
}

/// The number of the inode in a line of `maps`.
fn mapped_inode(line: &[u8]) -> Option<u64> {
    let field = line.split(|b| *b == b' ').filter(|field| !field.is_empty()).nth(4)?;
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// The paths in a directory; none where it can't be read (it is gone, or another user's).
fn list(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
