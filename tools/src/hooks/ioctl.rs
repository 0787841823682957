//! `FIFREEZE` and `FITHAW`, which neither std nor rustix has.
#![expect(unsafe_code, reason = "no safe call freezes a file system, and the program fsfreeze may not be where PATH looks")]

use rustix::io::Result;
use rustix::ioctl::{NoArg, Opcode, ioctl, opcode};
use std::ffi::c_int;
use std::os::fd::AsFd;

const FIFREEZE: Opcode = opcode::read_write::<c_int>(b'X', 119);
const FITHAW: Opcode = opcode::read_write::<c_int>(b'X', 120);

/// Writes out the file system that `fd` is in, and stops all writing to it. May take as long as its disk does.
pub fn freeze(fd: impl AsFd) -> Result<()> {
    // SAFETY: the kernel looks at no argument of FIFREEZE (fs/ioctl.c, ioctl_fsfreeze), so that a null pointer is right.
    unsafe { ioctl(fd, NoArg::<FIFREEZE>::new()) }
}

/// Lets a frozen file system be written again.
pub fn thaw(fd: impl AsFd) -> Result<()> {
    // SAFETY: as for FIFREEZE (fs/ioctl.c, ioctl_fsthaw).
    unsafe { ioctl(fd, NoArg::<FITHAW>::new()) }
}
