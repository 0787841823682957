//! What `-o` takes: the usual mount options, and those of this crate. The caller names the ones that are its own.

use rustix::mount::MountFlags;
use std::time::Duration;

/// How a mount behaves.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// Nothing can be changed through this mount (`ro`).
    pub read_only: bool,
    /// Users other than the one who mounts may use it (`allow_other`). Unset: yes for root, no for others.
    pub allow_other: Option<bool>,
    /// The kernel checks modes and owners (`default_permissions`). Unset: yes.
    pub default_permissions: Option<bool>,
    /// Threads that take requests from the kernel (`threads=`). Unset: as many as there are cores.
    pub threads: Option<usize>,
    /// Threads that wait for the disk (`pool=`).
    pub pool_threads: usize,
    /// The longest that a caller waits for an operation (`deadline=`): then it gets ETIMEDOUT, and the operation goes on.
    pub deadline: Duration,
    /// Threads of this process are refused with EDEADLK. For a process that does nothing but serve the mount: one of its threads
    /// that waited for it would hang with it for ever, should the process be killed.
    pub refuse_own: bool,
    /// What is shown as the source of the mount (`fsname=`). Unset: the store's path.
    pub fsname: Option<String>,
    /// The kernel's flags for the mount: `nosuid`, `noexec`, `noatime`, … (`RDONLY` comes from `read_only`).
    pub flags: MountFlags,
}

/// The default of [`MountOptions::deadline`].
const DEADLINE: Duration = Duration::from_secs(5 * 60);
/// The shortest deadline, so that a slip (`deadline=1ms`) does not make every write fail.
const DEADLINE_MIN: Duration = Duration::from_secs(1);
/// The most threads of a kind.
const THREADS_MAX: usize = 256;

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            allow_other: None,
            default_permissions: None,
            threads: None,
            pool_threads: 32,
            deadline: DEADLINE,
            refuse_own: false,
            fsname: None,
            flags: MountFlags::NOSUID | MountFlags::NODEV,
        }
    }
}

/// An option that this crate leaves to its caller: `cache=256M` is `("cache", Some("256M"))`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherOption {
    /// Its name.
    pub name: String,
    /// What follows the `=`, if there is one.
    pub value: Option<String>,
}

/// An option that can't be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum OptionError {
    /// Nobody knows it.
    #[error("unknown mount option '{name}'")]
    Unknown {
        /// The option.
        name: String,
    },
    /// It does not take what was given.
    #[error("mount option '{name}' can't be '{value}': {expected}")]
    BadValue {
        /// The option.
        name: String,
        /// What was given.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// It needs a value.
    #[error("mount option '{name}' needs a value: {expected}")]
    MissingValue {
        /// The option.
        name: String,
        /// What it takes.
        expected: &'static str,
    },
    /// It takes no value.
    #[error("mount option '{name}' takes no value")]
    UnexpectedValue {
        /// The option.
        name: String,
    },
    /// It is a mount option, but of no use here.
    #[error("mount option '{name}' is not supported: {reason}")]
    Unsupported {
        /// The option.
        name: String,
        /// Why not, and what to do.
        reason: &'static str,
    },
}

impl MountOptions {
    /// Takes one argument of `-o`: options with commas between them (a comma in a value is written `\,`).
    ///
    /// Later ones win over earlier ones. Options named in `others` are the caller's own and are given back in order; what only
    /// mount(8) and systemd care for (`nofail`, `_netdev`, `x-…`) is dropped; anything else is refused by name.
    ///
    /// ```
    /// use outcrop_fs::MountOptions;
    /// let mut options = MountOptions::default();
    /// let others = options.apply("ro,noatime,deadline=2m,cache=256M", &["cache"])?;
    /// assert!(options.read_only);
    /// assert_eq!(others[0].value.as_deref(), Some("256M"));
    /// # Ok::<(), outcrop_fs::OptionError>(())
    /// ```
    pub fn apply(&mut self, list: &str, others: &[&str]) -> Result<Vec<OtherOption>, OptionError> {
        let mut rest = Vec::new();
        for option in split(list) {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (option, None),
            };
            if others.contains(&name.as_str()) {
                rest.push(OtherOption { name, value });
            } else if !ignored(&name) {
                self.set(&name, value.as_deref())?;
            }
        }
        Ok(rest)
    }

    fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), OptionError> {
        if let Some((flag, on)) = flag(name) {
            none(name, value)?;
            self.flags.set(flag, on);
            return Ok(());
        }
        match name {
            "ro" | "rw" => {
                none(name, value)?;
                self.read_only = name == "ro";
            }
            "defaults" => none(name, value)?,
            "allow_other" | "noallow_other" => {
                none(name, value)?;
                self.allow_other = Some(name == "allow_other");
            }
            "default_permissions" | "nodefault_permissions" => {
                none(name, value)?;
                self.default_permissions = Some(name == "default_permissions");
            }
            "threads" => self.threads = Some(count(name, value)?),
            "pool" => self.pool_threads = count(name, value)?,
            "deadline" => self.deadline = deadline(name, value)?,
            "fsname" => self.fsname = Some(some(name, value, "any text")?.to_owned()),
            "remount" => return Err(unsupported(name, "unmount, and mount again with the new options")),
            "allow_root" => return Err(unsupported(name, "use allow_other; modes and owners are checked")),
            "auto_unmount" => return Err(unsupported(name, "a mount left by a killed daemon is replaced by the next mount")),
            "bind" | "rbind" | "move" => return Err(unsupported(name, "bind the mount once it is there")),
            _ => return Err(OptionError::Unknown { name: name.to_owned() }),
        }
        Ok(())
    }

    /// Threads that take requests from the kernel: as set, else as many as cores.
    pub(crate) fn fuse_threads(&self) -> usize {
        self.threads
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(2, std::num::NonZero::get))
            .clamp(1, THREADS_MAX)
    }
}

/// The kernel's flags, and whether this name sets or clears them.
fn flag(name: &str) -> Option<(MountFlags, bool)> {
    Some(match name {
        "nosuid" => (MountFlags::NOSUID, true),
        "suid" => (MountFlags::NOSUID, false),
        "nodev" => (MountFlags::NODEV, true),
        "dev" => (MountFlags::NODEV, false),
        "noexec" => (MountFlags::NOEXEC, true),
        "exec" => (MountFlags::NOEXEC, false),
        "noatime" => (MountFlags::NOATIME, true),
        "atime" => (MountFlags::NOATIME, false),
        "nodiratime" => (MountFlags::NODIRATIME, true),
        "diratime" => (MountFlags::NODIRATIME, false),
        "relatime" => (MountFlags::RELATIME, true),
        "norelatime" => (MountFlags::RELATIME, false),
        "strictatime" => (MountFlags::STRICTATIME, true),
        "nostrictatime" => (MountFlags::STRICTATIME, false),
        "lazytime" => (MountFlags::LAZYTIME, true),
        "nolazytime" => (MountFlags::LAZYTIME, false),
        "sync" => (MountFlags::SYNCHRONOUS, true),
        "async" => (MountFlags::SYNCHRONOUS, false),
        "dirsync" => (MountFlags::DIRSYNC, true),
        "nosymfollow" => (MountFlags::NOSYMFOLLOW, true),
        "symfollow" => (MountFlags::NOSYMFOLLOW, false),
        "silent" => (MountFlags::SILENT, true),
        "loud" => (MountFlags::SILENT, false),
        _ => return None,
    })
}

/// Options for mount(8), systemd and fstab's readers, which mean nothing to a file system.
fn ignored(name: &str) -> bool {
    const NAMES: [&str; 14] = [
        "", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev", "comment", "mand", "nomand",
        "noowner",
    ];
    NAMES.contains(&name) || name.starts_with("x-") || name.starts_with("X-")
}

/// Splits at commas that have no backslash before them, and takes the backslashes away.
fn split(list: &str) -> Vec<String> {
    let mut options = vec![String::new()];
    let mut chars = list.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, options.last_mut()) {
            ('\\', Some(option)) if matches!(chars.peek(), Some(',' | '\\')) => option.extend(chars.next()),
            (',', _) => options.push(String::new()),
            (c, Some(option)) => option.push(c),
            (_, None) => {}
        }
    }
    options
}

fn none(name: &str, value: Option<&str>) -> Result<(), OptionError> {
    match value {
        None => Ok(()),
        Some(_) => Err(OptionError::UnexpectedValue { name: name.to_owned() }),
    }
}

fn some<'a>(name: &str, value: Option<&'a str>, expected: &'static str) -> Result<&'a str, OptionError> {
    match value {
        Some(value) if !value.is_empty() => Ok(value),
        _ => Err(OptionError::MissingValue { name: name.to_owned(), expected }),
    }
}

fn count(name: &str, value: Option<&str>) -> Result<usize, OptionError> {
    const EXPECTED: &str = "a number of threads from 1 to 256";
    let value = some(name, value, EXPECTED)?;
    match value.parse() {
        Ok(n) if (1..=THREADS_MAX).contains(&n) => Ok(n),
        _ => Err(OptionError::BadValue { name: name.to_owned(), value: value.to_owned(), expected: EXPECTED }),
    }
}

fn deadline(name: &str, value: Option<&str>) -> Result<Duration, OptionError> {
    const EXPECTED: &str = "a time of at least one second, such as 90s, 5m or 1h (a plain number is minutes)";
    let value = some(name, value, EXPECTED)?;
    let (number, unit) = value.split_at(value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len()));
    let seconds = match unit {
        "s" => Some(1),
        "" | "m" | "min" => Some(60),
        "h" => Some(60 * 60),
        _ => None,
    };
    let time = seconds.and_then(|seconds| number.parse::<u32>().ok().map(|n| Duration::from_secs(u64::from(n) * seconds)));
    match time {
        Some(time) if time >= DEADLINE_MIN => Ok(time),
        _ => Err(OptionError::BadValue { name: name.to_owned(), value: value.to_owned(), expected: EXPECTED }),
    }
}

fn unsupported(name: &str, reason: &'static str) -> OptionError {
    OptionError::Unsupported { name: name.to_owned(), reason }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;

    fn parse(list: &str) -> Result<MountOptions, OptionError> {
        let mut options = MountOptions::default();
        options.apply(list, &[])?;
        Ok(options)
    }

    #[test]
    fn takes_what_fstab_has() {
        let options =
            parse("defaults,ro,noexec,suid,noatime,nofail,_netdev,x-systemd.requires=/srv,deadline=90s,threads=4").unwrap();
        assert!(options.read_only);
        assert_eq!(options.flags, MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME);
        assert_eq!(options.deadline, Duration::from_secs(90));
        assert_eq!(options.fuse_threads(), 4);
        assert_eq!(parse("deadline=2").unwrap().deadline, Duration::from_secs(120), "a plain number is minutes");
        assert!(parse("").is_ok());
        assert!(!parse("ro,rw").unwrap().read_only, "the last one wins");
    }

    #[test]
    fn gives_the_callers_own_back() {
        let mut options = MountOptions::default();
        let others = options.apply("cache=256M,ro,flush=5s,bare", &["cache", "flush", "bare"]).unwrap();
        let shown: Vec<_> = others.iter().map(|o| (o.name.as_str(), o.value.as_deref())).collect();
        assert_eq!(shown, [("cache", Some("256M")), ("flush", Some("5s")), ("bare", None)]);
    }

    #[test]
    fn refuses_by_name() {
        assert_eq!(parse("ro,colour=blue").unwrap_err(), OptionError::Unknown { name: "colour".into() });
        for bad in
            ["ro=1", "deadline", "deadline=", "deadline=0", "deadline=5d", "deadline=-1", "deadline=99999999999999h", "threads=0"]
        {
            let name = bad.split('=').next().unwrap();
            assert!(parse(bad).unwrap_err().to_string().contains(name), "{bad}");
        }
        assert!(parse("remount").is_err());
    }

    #[test]
    fn a_comma_in_a_value_needs_a_backslash() {
        assert_eq!(parse(r"fsname=a\,allow_other\\,ro").unwrap().fsname.as_deref(), Some(r"a,allow_other\"));
    }
}
