//! Who holds a mount: loop devices and processes, found without a single request to the mount itself.

use std::fmt;
use std::path::PathBuf;

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
    /// Another file system mounted inside the mount.
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
