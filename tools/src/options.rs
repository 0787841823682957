//! The `-o` of a mount: `outcrop_fs` knows the mount's options, here are the store's.

use crate::failure::{Failure, exit};
use crate::size;
use anyhow::Result;
use outcrop_fs::{MountOptions, OtherOption};
use outcrop_store::StoreOptions;
use std::net::SocketAddr;
use std::time::Duration;

/// The store's options, and `uhelper`, which is for umount(8) to read.
const OWN: [&str; 8] = ["cache", "floor", "flush", "metrics", "open-files", "snapshot-pause", "uhelper", "undo"];

/// What `-o` and the command's own flags come to.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The mount's.
    pub mount: MountOptions,
    /// The store's.
    pub store: StoreOptions,
    /// Where `/metrics` is served besides the control socket.
    pub metrics: Option<SocketAddr>,
}

impl Options {
    /// Takes one `-o` list: later options win over earlier ones.
    pub fn add(&mut self, list: &str) -> Result<()> {
        let others = self.mount.apply(list, &OWN).map_err(|error| {
            refuse(error.to_string()).hint("'outcrop mount --help' lists the options; options for other programs start with 'x-'")
        })?;
        others.iter().try_for_each(|option| self.add_own(option)).map_err(Into::into)
    }

    fn add_own(&mut self, OtherOption { name, value }: &OtherOption) -> Result<(), Failure> {
        let value = value.as_deref().unwrap_or_default();
        match name.as_str() {
            "cache" => self.store.cache_bytes = bytes(name, value, 1 << 20)?,
            "floor" => self.store.floor_bytes = bytes(name, value, 0)?,
            "metrics" => self.metrics = Some(loopback(name, value)?),
            "open-files" => self.store.open_files = count(name, value, 16, 1 << 20)?,
            "flush" => self.store.flush_interval = time(name, value)?,
            "snapshot-pause" => self.store.snapshot_pause = time(name, value)?,
            "undo" => self.store.undo = undo_time(value)?,
            _ => {}
        }
        Ok(())
    }
}

fn refuse(message: impl Into<String>) -> Failure {
    Failure::new(message).code(exit::USAGE)
}

fn bytes(name: &str, value: &str, least: u64) -> Result<u64, Failure> {
    match size::parse(value) {
        Ok(bytes) if bytes >= least => Ok(bytes),
        Ok(_) => Err(refuse(format!("mount option '{name}' can't be '{value}': at least {} are needed", size::human(least)))),
        Err(error) => Err(refuse(format!("mount option '{name}' can't be '{value}': {error}"))),
    }
}

fn count(name: &str, value: &str, least: usize, most: usize) -> Result<usize, Failure> {
    match value.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(refuse(format!("mount option '{name}' can't be '{value}': give a whole number from {least} to {most}"))),
    }
}

/// An address that only this host reaches: whoever can ask is told volumes' names, and nobody is asked who they are.
fn loopback(name: &str, value: &str) -> Result<SocketAddr, Failure> {
    let refused = |why: &str| refuse(format!("mount option '{name}' can't be '{value}': {why}"));
    let address: SocketAddr =
        value.parse().map_err(|_| refused("give an address and a port, such as 127.0.0.1:9095 or [::1]:9095"))?;
    if !address.ip().to_canonical().is_loopback() {
        return Err(refused("only loopback addresses (127.0.0.1, ::1) are served")
            .hint("to be reached from other hosts, put a proxy that asks for a password in front of it"));
    }
    Ok(address)
}

/// Milliseconds, seconds or minutes: `500ms`, `5s`, `1m`.
fn time(name: &str, value: &str) -> Result<Duration, Failure> {
    const LONGEST: Duration = Duration::from_secs(3600);
    let (number, unit) = value.split_at(value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len()));
    let number = number.parse::<u32>().ok().map(u64::from);
    let time = match (number, unit) {
        (Some(number), "ms") => Some(Duration::from_millis(number)),
        (Some(number), "s") => Some(Duration::from_secs(number)),
        (Some(number), "m") => Some(Duration::from_secs(number * 60)),
        _ => None,
    };
    match time {
        Some(time) if !time.is_zero() && time <= LONGEST => Ok(time),
        _ => {
            Err(refuse(format!("mount option '{name}' can't be '{value}': give a time such as 500ms, 5s or 1m, at most an hour")))
        }
    }
}

/// Seconds, minutes, hours or days, or 0: `30m`, `24h`, `7d`.
fn undo_time(value: &str) -> Result<Duration, Failure> {
    const LONGEST: Duration = Duration::from_secs(3660 * 24 * 3600);
    let (number, unit) = value.split_at(value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len()));
    let seconds = match (unit, number) {
        ("", "0") => Some(0),
        ("s", _) => Some(1),
        ("m", _) => Some(60),
        ("h", _) => Some(3600),
        ("d", _) => Some(24 * 3600),
        _ => None,
    };
    let time = number.parse::<u32>().ok().zip(seconds).map(|(number, unit)| Duration::from_secs(u64::from(number) * unit));
    time.filter(|time| *time <= LONGEST).ok_or_else(|| {
        refuse(format!(
            "mount option 'undo' can't be '{value}': give a time such as 30m, 24h or 7d, at most ten years, or 0 for none"
        ))
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;

    fn parse(list: &str) -> Result<Options, Failure> {
        let mut options = Options::default();
        options.add(list).map(|()| options).map_err(|error| Failure::of(&error))
    }

    #[test]
    fn ignores_what_fstab_has_for_others() {
        let options =
            parse("defaults,noauto,nofail,_netdev,user,rw,x-systemd.requires=/srv,comment=a,X-mount.mkdir,uhelper=outcrop")
                .unwrap();
        assert!(!options.mount.read_only);
        assert_eq!(options.store.cache_bytes, StoreOptions::default().cache_bytes);
    }

    #[test]
    fn takes_both_kinds() {
        let options = parse("ro,cache=64M,threads=3,flush=500ms,,floor=1G,snapshot-pause=1m,open-files=64,undo=7d").unwrap();
        assert!(options.mount.read_only);
        assert_eq!(options.mount.threads, Some(3));
        assert_eq!(options.store.cache_bytes, 64 << 20);
        assert_eq!(options.store.flush_interval, Duration::from_millis(500));
        assert_eq!(options.store.snapshot_pause, Duration::from_secs(60));
        assert_eq!(options.store.floor_bytes, 1 << 30);
        assert_eq!(options.store.open_files, 64);
        assert_eq!(options.store.undo, Duration::from_secs(7 * 24 * 3600));
        assert_eq!(parse("undo=0").unwrap().store.undo, Duration::ZERO);
    }

    #[test]
    fn refuses_the_unknown_and_the_impossible() {
        for bad in [
            "frobnicate",
            "metrics",
            "metrics=9090",
            "metrics=localhost:1",
            "metrics=0.0.0.0:9090",
            "metrics=[::]:9090",
            "metrics=192.0.2.1:9090",
            "cache",
            "cache=big",
            "cache=1K",
            "threads=0",
            "flush=0s",
            "flush=5",
            "flush=2h",
            "open-files=1",
            "undo=24",
            "undo=-1h",
            "undo=9999d",
        ] {
            let error = parse(bad).unwrap_err();
            assert_eq!(error.code, exit::USAGE, "{bad}");
            assert!(error.to_string().contains(bad.split('=').next().unwrap()), "{bad}: {error}");
        }
    }
}
