//! What mount(8) and umount(8) call: this program by another name.
//!
//! `mount -t outcrop` calls `mount.outcrop`, and umount(8) calls `umount.fuse.outcrop` (after the type that the mount
//! has), so that it returns when the store is closed. Both are links to `outcrop` in `/sbin`.

use super::args::Mount;
use super::{mount, umount};
use crate::failure::{Failure, exit};
use anyhow::Result;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Which helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Helper {
    /// `mount.outcrop SOURCE TARGET [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`
    Mount,
    /// `umount.outcrop TARGET [-nlfvr] [-N NAMESPACE] [-t TYPE]`
    Umount,
}

/// The helper that this program was called as.
#[must_use]
pub fn called_as(argv0: &OsStr) -> Option<Helper> {
    match Path::new(argv0).file_name()?.to_str()? {
        "mount.outcrop" | "mount.fuse.outcrop" => Some(Helper::Mount),
        "umount.outcrop" | "umount.fuse.outcrop" => Some(Helper::Umount),
        _ => None,
    }
}

/// Does what mount(8) or umount(8) asks.
pub fn run(helper: Helper, arguments: &[OsString]) -> Result<()> {
    let call = Call::parse(arguments)?;
    match (helper, call.paths.as_slice()) {
        (Helper::Mount, [_, _]) if call.f_flag => Ok(()),
        (Helper::Mount, [source, mountpoint]) => mount::run(&Mount {
            source: source.clone(),
            mountpoint: mountpoint.clone(),
            options: call.options,
            foreground: false,
            cache: None,
            threads: None,
            log: None,
            daemon: false,
        }),
        (Helper::Mount, _) => Err(refuse("usage: mount.outcrop STORE MOUNTPOINT [-sfnv] [-o OPTIONS]".to_owned())),
        (Helper::Umount, [target]) => umount::run(target, call.lazy || call.f_flag),
        (Helper::Umount, _) => Err(refuse("usage: umount.outcrop MOUNTPOINT [-nlfvr]".to_owned())),
    }
}

/// The arguments, in any order, as mount(8) gives them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Call {
    paths: Vec<PathBuf>,
    options: Vec<String>,
    /// `-f`: for mount(8) everything but the mounting, for umount(8) by force.
    f_flag: bool,
    /// `-l` of umount(8).
    lazy: bool,
}

impl Call {
    fn parse(arguments: &[OsString]) -> Result<Self> {
        let mut call = Call::default();
        let mut arguments = arguments.iter();
        let mut only_paths = false;
        while let Some(argument) = arguments.next() {
            let Some(flags) =
                argument.to_str().and_then(|text| text.strip_prefix('-')).filter(|flags| !only_paths && !flags.is_empty())
            else {
                call.paths.push(PathBuf::from(argument));
                continue;
            };
            if flags == "-" {
                only_paths = true;
                continue;
            }
            let mut rest = flags.chars();
            while let Some(flag) = rest.next() {
                match flag {
                    'o' | 't' | 'N' => {
                        // The value stands behind the flag or is the next argument.
                        let value = match rest.as_str() {
                            "" => arguments
                                .next()
                                .ok_or_else(|| refuse(format!("-{flag} needs a value")))?
                                .to_string_lossy()
                                .into_owned(),
                            value => value.to_owned(),
                        };
                        if flag == 'o' {
                            call.options.push(value);
                        }
                        break;
                    }
                    'f' => call.f_flag = true,
                    'l' => call.lazy = true,
                    's' | 'n' | 'v' | 'r' => {}
                    _ => return Err(refuse(format!("unknown option -{flag}"))),
                }
            }
        }
        Ok(call)
    }
}

fn refuse(message: String) -> anyhow::Error {
    Failure::new(message).code(exit::USAGE).into()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Call> {
        Call::parse(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn is_known_by_its_name() {
        assert_eq!(called_as(OsStr::new("/sbin/mount.outcrop")), Some(Helper::Mount));
        assert_eq!(called_as(OsStr::new("/sbin/umount.fuse.outcrop")), Some(Helper::Umount));
        assert_eq!(called_as(OsStr::new("/usr/bin/outcrop")), None);
    }

    #[test]
    fn reads_what_mount_gives() {
        let call = parse(&["/srv/store", "/mnt/vol", "-n", "-v", "-o", "rw,nofail", "-t", "fuse.outcrop"]).unwrap();
        assert_eq!(call.paths, [PathBuf::from("/srv/store"), PathBuf::from("/mnt/vol")]);
        assert_eq!(call.options, ["rw,nofail"]);
        assert!(!call.f_flag && !call.lazy);
        assert!(parse(&["-fsnv", "a", "b"]).unwrap().f_flag);
        assert!(parse(&["/mnt/vol", "-l"]).unwrap().lazy);
        assert_eq!(parse(&["-oro", "--", "-a", "b"]).unwrap().paths, [PathBuf::from("-a"), PathBuf::from("b")]);
        assert!(parse(&["a", "b", "-o"]).is_err());
        assert!(parse(&["a", "-x"]).is_err());
    }
}
