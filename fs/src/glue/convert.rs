//! The tree's types, as fuser has them.

use crate::tree::{Attr, Kind, SetTime};
use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `st_blksize`: what stdio and cp read and write at once. Each is a request, so larger than a page.
const BLKSIZE: u32 = 128 << 10;
const NS: i64 = 1_000_000_000;

pub(super) fn errno(errno: rustix::io::Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw_os_error())
}

pub(super) fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
    }
}

pub(super) fn attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.data / 512,
        atime: system_time(attr.atime_ns),
        mtime: system_time(attr.mtime_ns),
        ctime: system_time(attr.ctime_ns),
        crtime: UNIX_EPOCH,
        kind: kind(attr.kind),
        // Masked to 12 bits where it was made.
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: BLKSIZE,
        flags: 0,
    }
}

fn system_time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

/// A time as the kernel meant it. fuser 0.18 reads a time before 1970 of `s` seconds and `n` nanoseconds (which is `s + n/10⁹`,
/// with a negative `s`) as `s - n/10⁹`: so the fraction is taken the other way here.
pub(super) fn time(time: TimeOrNow) -> SetTime {
    let time = match time {
        TimeOrNow::Now => return SetTime::Now,
        TimeOrNow::SpecificTime(time) => time,
    };
    let (sign, distance) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (1, after),
        Err(before) => (-1, before.duration()),
    };
    let seconds = i64::try_from(distance.as_secs()).unwrap_or(i64::MAX);
    SetTime::At(seconds.saturating_mul(NS * sign).saturating_add(i64::from(distance.subsec_nanos())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_what_the_kernel_meant() {
        // What fuser makes of -2 seconds and 250,000,000 nanoseconds.
        let parsed = UNIX_EPOCH - Duration::new(2, 250_000_000);
        assert_eq!(time(TimeOrNow::SpecificTime(parsed)), SetTime::At(-1_750_000_000));
        assert_eq!(time(TimeOrNow::SpecificTime(UNIX_EPOCH + Duration::new(3, 5))), SetTime::At(3_000_000_005));
        assert_eq!(system_time(-1_750_000_000), UNIX_EPOCH - Duration::from_millis(1750));
    }
}
