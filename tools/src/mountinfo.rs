//! What is mounted, from `/proc/self/mountinfo`: which mounts are Outcrop's, and of which store.
//!
//! Nothing here touches a mounted file system, so that a dead mount can't block it.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The type that an Outcrop mount has in `/proc/self/mountinfo`.
pub const FS_TYPE: &str = "fuse.outcrop";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The device, as `major:minor`.
    pub device: (u32, u32),
    /// Where it is mounted.
    pub target: PathBuf,
    /// Its type.
    pub fs_type: String,
    /// What is mounted: for an Outcrop mount, the absolute path of its store.
    pub source: PathBuf,
}

impl Entry {
    /// Whether this is an Outcrop mount.
    #[must_use]
    pub fn is_outcrop(&self) -> bool {
        self.fs_type == FS_TYPE
    }
}

/// The mounts that this process sees, in the order of mounting.
pub fn read() -> io::Result<Vec<Entry>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mount that holds `path` (absolute): the one with the longest matching target, and the last of equals.
#[must_use]
pub fn containing<'a>(entries: &'a [Entry], path: &Path) -> Option<&'a Entry> {
    entries.iter().filter(|entry| path.starts_with(&entry.target)).max_by_key(|entry| entry.target.components().count())
}

/// What is on top at exactly `target`.
#[must_use]
pub fn at<'a>(entries: &'a [Entry], target: &Path) -> Option<&'a Entry> {
    entries.iter().rfind(|entry| entry.target == target)
}

/// The last Outcrop mount of a store.
#[must_use]
pub fn of_store<'a>(entries: &'a [Entry], store: &Path) -> Option<&'a Entry> {
    entries.iter().rfind(|entry| entry.is_outcrop() && entry.source == store)
}

fn parse(text: &[u8]) -> Vec<Entry> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let target = fields.nth(1)?;
    // The optional fields end with a hyphen.
    fields.find(|field| *field == b"-")?;
    let (fs_type, source) = (fields.next()?, fields.next()?);
    Some(Entry {
        device: (major.parse().ok()?, minor.parse().ok()?),
        target: unescape(target),
        fs_type: String::from_utf8_lossy(fs_type).into_owned(),
        source: unescape(source),
    })
}

/// Undoes the kernel's `\ooo` (space, tab, newline, backslash, `#`).
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = |digits: &[u8]| {
            digits.iter().try_fold(0_u32, |value, digit| char::from(*digit).to_digit(8).map(|digit| value * 8 + digit))
        };
        match after.get(..3).filter(|_| byte == b'\\').and_then(octal).and_then(|value| u8::try_from(value).ok()) {
            Some(value) => {
                bytes.push(value);
                rest = &after[3..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
90 22 0:50 / /mnt/vol rw,nosuid,nodev shared:9 - fuse.outcrop /srv/my\\040store rw,user_id=0
91 22 0:51 / /mnt/vol\\134x rw - fuse.outcrop /srv/a,b\\043\\012 rw
92 90 7:0 / /mnt/vol/deep rw - ext4 /dev/loop0 rw
93 22 0:60 / /mnt/vol rw - tmpfs tmpfs rw
nonsense
";

    #[test]
    fn reads_odd_characters() {
        let entries = parse(TEXT.as_bytes());
        assert_eq!(entries.len(), 5);
        assert_eq!(entries[1].source, Path::new("/srv/my store"));
        assert_eq!(entries[1].device, (0, 50));
        assert!(entries[1].is_outcrop());
        assert_eq!(entries[2].target, Path::new("/mnt/vol\\x"));
        assert_eq!(entries[2].source, Path::new("/srv/a,b#\n"));
    }

    #[test]
    fn finds_the_mount_on_top() {
        let entries = parse(TEXT.as_bytes());
        assert_eq!(containing(&entries, Path::new("/mnt/vol/db")).map(|entry| entry.fs_type.as_str()), Some("tmpfs"));
        assert_eq!(containing(&entries, Path::new("/mnt/vol/deep/x")).map(|entry| entry.device), Some((7, 0)));
        assert_eq!(containing(&entries, Path::new("/mnt/volume")).map(|entry| entry.device), Some((8, 1)));
        assert_eq!(at(&entries, Path::new("/mnt")), None);
        assert_eq!(of_store(&entries, Path::new("/srv/my store")).map(|entry| entry.device), Some((0, 50)));
        assert!(read().is_ok_and(|entries| !entries.is_empty()));
    }
}
