//! The kernel's table of mounts (`/proc/self/mountinfo`), read without a request to any file system in it.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The mount's number, as `fdinfo` shows it too.
    pub id: u64,
    /// `major:minor`.
    pub device: String,
    pub path: PathBuf,
    pub kind: String,
    pub source: PathBuf,
}

/// All mounts, in the kernel's order: of those with the same path, the last one is seen.
pub(super) fn mounts() -> io::Result<Vec<Entry>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mount that is seen at `path`, if it is a mount point.
pub(super) fn mounted_at(path: &Path) -> io::Result<Option<Entry>> {
    Ok(mounts()?.into_iter().rfind(|entry| entry.path == path))
}

fn parse(table: &[u8]) -> Vec<Entry> {
    table.split(|b| *b == b'\n').filter_map(entry).collect()
}

/// `id parent major:minor root path options… - type source super-options`.
fn entry(line: &[u8]) -> Option<Entry> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let tail = fields.iter().position(|field| *field == b"-")?;
    Some(Entry {
        id: std::str::from_utf8(fields.first()?).ok()?.parse().ok()?,
        device: text(fields.get(2)?),
        path: unescape(fields.get(4)?),
        kind: text(fields.get(tail + 1)?),
        source: unescape(fields.get(tail + 2)?),
    })
}

/// Blanks, newlines and backslashes are written as three octal digits.
pub(super) fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if *first == b'\\'
            && let Some(byte) =
                tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|d| u8::from_str_radix(d, 8).ok())
        {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let table = b"36 35 0:52 / /mnt/a\\040b rw,nosuid - fuse.outcrop /srv/a\\134b rw,user_id=0\n\
            37 35 98:0 /mnt /mnt2 rw shared:1 master:2 - ext4 /dev/root rw\nnonsense\n";
        let entries = parse(table);
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].path, Path::new("/mnt/a b"));
        assert_eq!(entries[0].source, Path::new("/srv/a\\b"));
        assert_eq!((entries[0].id, entries[0].kind.as_str(), entries[0].device.as_str()), (36, "fuse.outcrop", "0:52"));
        assert_eq!((entries[1].kind.as_str(), entries[1].source.as_path()), ("ext4", Path::new("/dev/root")));
    }
}
