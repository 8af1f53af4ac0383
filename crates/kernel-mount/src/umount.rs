//! Unmounting.

use std::path::Path;

use layer_model::{Error, ErrorKind, Result};
use rustix::{
    io::Errno,
    mount::{UnmountFlags, unmount},
};

use crate::error::at;

/// Unmounts what is mounted at `mountpoint`, the latest first where there are several. What it was made of, loop
/// devices too, goes away with it. A symbolic link is not followed.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] where nothing is mounted, `EBUSY` while it is used,
/// [`ErrorKind::NotFound`] where nothing is.
pub fn umount(mountpoint: &Path) -> Result<()> {
    unmount(mountpoint, UnmountFlags::NOFOLLOW).map_err(|errno| match errno {
        Errno::INVAL => Error::new(ErrorKind::InvalidArgument, "nothing is mounted there")
            .entry(mountpoint.as_os_str().as_encoded_bytes()),
        errno => at(mountpoint, "unmount", errno),
    })
}
