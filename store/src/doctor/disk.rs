//! Disk honesty: whether what lies below keeps what it says it has synced.
//!
//! Nothing can prove that from here; what is known to break it is told: file systems in memory, stacked and remote
//! ones, mount options that switch barriers off, and syncs too fast for any medium.

use super::Report;
use crate::disk::Disk;
use crate::error::{Error, Result};
use rustix::fs::statfs;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Syncs that are timed.
const SYNCS: usize = 15;

/// No medium with a cache of its own is as fast as this.
const PLAUSIBLE: Duration = Duration::from_micros(10);

/// Ends in `.tmp`, so that an open after a kill removes it.
const SCRATCH: &str = "doctor.scratch.tmp";

/// Magic numbers of file systems (`statfs(2)`), with what they mean for a store.
const KINDS: [(u64, &str, Kind); 17] = [
    (0xef53, "ext4", Kind::Disk),
    (0x5846_5342, "xfs", Kind::Disk),
    (0x9123_683e, "btrfs", Kind::Disk),
    (0x2fc1_2fc1, "zfs", Kind::Disk),
    (0xf2f5_2010, "f2fs", Kind::Disk),
    (0xca45_1a4e, "bcachefs", Kind::Disk),
    (0x0102_1994, "tmpfs", Kind::Memory),
    (0x8584_58f6, "ramfs", Kind::Memory),
    (0x794c_7630, "overlay", Kind::Overlay),
    (0x6573_5546, "fuse", Kind::Remote),
    (0x6969, "nfs", Kind::Remote),
    (0xff53_4d42, "cifs", Kind::Remote),
    (0xfe53_4d42, "smb", Kind::Remote),
    (0x0102_1997, "9p", Kind::Remote),
    (0x00c3_6400, "ceph", Kind::Remote),
    (0x4d44, "vfat", Kind::Simple),
    (0x2011_bab0, "exfat", Kind::Simple),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Disk,
    Memory,
    Overlay,
    Remote,
    /// Without a journal, or without sparse files.
    Simple,
}

pub(super) fn check(disk: &Disk, report: &mut Report<'_>) {
    let shown = disk.path.display().to_string();
    if let Ok(stat) = statfs(&disk.path) {
        file_system(u64::try_from(stat.f_type).unwrap_or(0) & 0xffff_ffff, &shown, report);
    }
    match mount_options(&disk.path) {
        Ok(options) => barriers(&options, &shown, report),
        Err(e) => report.warning(format!("the mount options of {shown} can't be read: {e}"), "look into /proc/self/mountinfo"),
    }
    if let Some((device, cache)) = write_cache(&disk.path) {
        device_cache(&device, &cache, report);
    }
    match sync_latency(&disk.path.join(SCRATCH)) {
        Ok(median) => latency(median, report),
        Err(e) => report.error(format!("syncs can't be timed: {e}"), "check the disk"),
    }
}

fn file_system(magic: u64, shown: &str, report: &mut Report<'_>) {
    let known = KINDS.iter().find(|(number, ..)| *number == magic);
    match known {
        Some((_, name, Kind::Disk)) => report.ok(format!("{shown} is on {name}")),
        Some((_, name, Kind::Memory)) => {
            report.warning(format!("{shown} is on {name}: a power cut or reboot loses everything"), "move the store to a disk");
        }
        Some((_, name, Kind::Overlay)) => report.warning(
            format!("{shown} is on {name}: what is below decides, and a container's end may remove it"),
            "put the store on a volume or a disk of the host",
        ),
        Some((_, name, Kind::Remote)) => report.warning(
            format!("{shown} is on {name}: what a sync means is the server's to say, and locks may not hold"),
            "put the store on a local disk",
        ),
        Some((_, name, Kind::Simple)) => {
            report.warning(format!("{shown} is on {name}, which has no journal"), "put the store on ext4 or xfs");
        }
        None => report.warning(
            format!("{shown} is on a file system of unknown kind ({magic:#x})"),
            "ext4 and xfs are what outcrop is tested on",
        ),
    }
}

/// The options of the mount that holds `path`, of the mount and of the file system.
fn mount_options(path: &Path) -> Result<Vec<String>> {
    let dir = File::open(path).map_err(|e| Error::io("opening", path, e))?;
    let read = |path: &str| fs::read_to_string(path).map_err(|e| Error::io("reading", path, e));
    let info = read(&format!("/proc/self/fdinfo/{}", dir.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).unwrap_or_default().trim().to_owned();
    Ok(options_of(&read("/proc/self/mountinfo")?, &id))
}

/// Out of a line `id parent dev root point options … - type source options`.
fn options_of(mountinfo: &str, id: &str) -> Vec<String> {
    let line = mountinfo.lines().find(|line| line.split(' ').next() == Some(id)).unwrap_or_default();
    let (mount, system) = line.split_once(" - ").unwrap_or((line, ""));
    let options = [mount.split(' ').nth(5), system.split(' ').nth(2)];
    options.into_iter().flatten().flat_map(|options| options.split(',')).map(str::to_owned).collect()
}

fn barriers(options: &[String], shown: &str, report: &mut Report<'_>) {
    const BAD: [&str; 3] = ["nobarrier", "barrier=0", "nobarriers"];
    match options.iter().find(|option| BAD.contains(&option.as_str())) {
        Some(option) => report.error(
            format!("{shown} is mounted with '{option}': a power cut can lose what was synced"),
            "remove the option and mount again",
        ),
        None => report.ok("no mount option switches barriers off".to_owned()),
    }
}

/// The block device under `path` and what the kernel believes of its cache; none if there is no such device.
fn write_cache(path: &Path) -> Option<(String, String)> {
    let dev = fs::metadata(path).ok()?.dev();
    let link = PathBuf::from(format!("/sys/dev/block/{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev)));
    let device = fs::canonicalize(&link).ok()?;
    // A partition has its queue one up.
    let cache = [device.clone(), device.parent()?.to_owned()]
        .iter()
        .find_map(|dir| fs::read_to_string(dir.join("queue/write_cache")).ok())?;
    Some((device.file_name()?.to_string_lossy().into_owned(), cache.trim().to_owned()))
}

fn device_cache(device: &str, cache: &str, report: &mut Report<'_>) {
    if device.starts_with("zram") || device.starts_with("ram") {
        report.warning(format!("device {device} lies in memory: a power cut loses everything"), "move the store to a disk");
    } else if cache == "write back" {
        report.ok(format!("device {device} has a write cache, and the kernel flushes it"));
    } else {
        report.ok(format!("device {device} has no write cache that the kernel would have to flush ('{cache}')"));
    }
}

/// The median time of an fdatasync after a write of one block.
fn sync_latency(path: &Path) -> Result<Duration> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| Error::io("making", path, e))?;
    let mut times = Vec::with_capacity(SYNCS);
    let done = (0..=SYNCS).try_for_each(|turn| {
        let begin = Instant::now();
        file.write_all_at(&[u8::try_from(turn).unwrap_or(0); 4096], 0)?;
        file.sync_data()?;
        // The first one allocates.
        if turn > 0 {
            times.push(begin.elapsed());
        }
        Ok(())
    });
    let removed = fs::remove_file(path);
    done.and(removed).map_err(|e| Error::io("timing syncs of", path, e))?;
    times.sort();
    Ok(times.get(SYNCS / 2).copied().unwrap_or_default())
}

fn latency(median: Duration, report: &mut Report<'_>) {
    let shown = format!("a sync takes {} µs (median of {SYNCS})", median.as_micros());
    if median < PLAUSIBLE {
        report.warning(
            format!("{shown}: too fast for any medium, so something below may not keep what it says it has"),
            "look for a virtual disk with an unsafe cache, or for libeatmydata",
        );
    } else {
        report.ok(shown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{Finding, Severity};

    fn findings(fill: impl FnOnce(&mut Report<'_>)) -> Vec<Finding> {
        let mut findings = Vec::new();
        fill(&mut Report::of("disk", &mut findings));
        findings
    }

    #[test]
    fn switched_off_barriers_are_seen() {
        let info = "21 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
                    30 21 254:16 / /srv rw,noatime shared:5 - ext4 /dev/vdb rw,nobarrier,errors=remount-ro\n";
        assert_eq!(options_of(info, "21"), ["rw", "relatime", "rw", "discard"]);
        let bad = findings(|report| barriers(&options_of(info, "30"), "/srv", report));
        assert!(bad[0].severity == Severity::Error && bad[0].message.contains("nobarrier"), "{bad:?}");
        assert_eq!(findings(|report| barriers(&options_of(info, "21"), "/", report))[0].severity, Severity::Ok);
        assert!(options_of(info, "2").is_empty());
    }

    #[test]
    fn what_loses_everything_is_warned_of() {
        for magic in [0x0102_1994, 0x794c_7630, 0x6969, 0x1234] {
            assert_eq!(findings(|report| file_system(magic, "/srv", report))[0].severity, Severity::Warning, "{magic:#x}");
        }
        assert_eq!(findings(|report| file_system(0xef53, "/srv", report))[0].severity, Severity::Ok);
        assert_eq!(findings(|report| device_cache("zram0", "write through", report))[0].severity, Severity::Warning);
        assert_eq!(findings(|report| device_cache("sda1", "write back", report))[0].severity, Severity::Ok);
        assert_eq!(findings(|report| latency(Duration::from_micros(2), report))[0].severity, Severity::Warning);
        assert_eq!(findings(|report| latency(Duration::from_micros(900), report))[0].severity, Severity::Ok);
    }
}
