//! Shutting a file system down, as a power cut would.

use rustix::ioctl::{Opcode, Setter, ioctl};
use std::fs::File;
use std::io;
use std::path::Path;

/// `FS_IOC_SHUTDOWN`, `EXT4_IOC_SHUTDOWN`, `XFS_IOC_GOINGDOWN`: `_IOR('X', 125, u32)`.
const SHUTDOWN: Opcode = 0x8004_587d;
/// Not even the journal is flushed: what was not synced is gone.
const NO_LOG_FLUSH: u32 = 2;

/// From now on the file system at `mount_point` writes nothing to its device, as if the power were cut.
///
/// An fsync in flight at this moment may still answer success, on plain files too: count only those that
/// were answered before.
pub fn cut_power(mount_point: &Path) -> io::Result<()> {
    let directory = File::open(mount_point)?;
    #[expect(unsafe_code, reason = "ioctl has no safe form")]
    // SAFETY: the kernel reads one u32 at the address given, and keeps nothing.
    unsafe {
        ioctl(&directory, Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH))?;
    }
    Ok(())
}
