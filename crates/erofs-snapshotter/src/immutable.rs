//! The flag that keeps a file from being changed, renamed and removed, by root too.

use std::os::fd::AsFd;

use rustix::{
    fs::{IFlags, ioctl_getflags, ioctl_setflags},
    io::Errno,
};

/// Sets the flag, or takes it away.
pub(crate) fn set(file: impl AsFd, on: bool) -> Result<(), Errno> {
    let flags = ioctl_getflags(&file)?;
    let mut wanted = flags;
    wanted.set(IFlags::IMMUTABLE, on);
    if wanted == flags { Ok(()) } else { ioctl_setflags(file, wanted) }
}

/// Takes the flag away, where the file system has such flags.
pub(crate) fn clear(file: impl AsFd) -> Result<(), Errno> {
    match set(file, false) {
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
        done => done,
    }
}
