//! Files as block devices, for as long as somebody uses them.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use layer_model::{Error, Result};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use crate::{error::at, loop_ioctl};

/// How often a device that another process was quicker to take is tried again. With a pause of a millisecond it is
/// long enough for hundreds of mounts at the same time, and short enough to fail where devices never work.
const ATTEMPTS: u32 = 400;

/// The logical block size. EROFS has blocks of 512 bytes and more, and a device refuses a file system with smaller
/// blocks than its own: 512 fits every image, and lets a device end where its image ends. Larger ones would
/// save nothing, as file systems read in blocks of their own through the page cache.
const BLOCK_SIZE: u32 = 512;

/// A loop device that is bound to a file. It is released when this is dropped and no mount uses it.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    path: PathBuf,
    /// Holds the device until the file system is mounted.
    _device: OwnedFd,
}

impl LoopDevice {
    /// Binds a free device to the file, set up whole in one step: nobody sees it half set up, and it does not stay
    /// when this process is killed.
    pub(crate) fn bind(file: &Path, read_only: bool) -> Result<Self> {
        let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let open = |path: &Path| rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty());
        let backing = open(file).map_err(|e| at(file, "open image", e))?;
        let control = Path::new("/dev/loop-control");
        let control = open(control).map_err(|e| at(control, "ask for a loop device", e))?;
        let bound = |error: Errno, path: &Path| {
            let operation = format!("bind the loop device {}", path.display());
            at(file, operation, error)
        };
        let mut last: Option<Error> = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                thread::sleep(Duration::from_millis(1));
            }
            let number = loop_ioctl::free_number(control.as_fd())
                .map_err(|e| at(file, "find a free loop device", e))?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = match open(&path) {
                Ok(device) => device,
                // Removed since, or its node is not there yet.
                Err(error @ (Errno::NOENT | Errno::NXIO | Errno::NODEV)) => {
                    last = Some(bound(error, &path));
                    continue;
                }
                Err(error) => return Err(bound(error, &path)),
            };
            // KERNEL(5.8): LOOP_CONFIGURE appeared. The two steps before it are not done here.
            match loop_ioctl::configure(device.as_fd(), &backing, BLOCK_SIZE, read_only, file) {
                Ok(()) => return Ok(Self { path, _device: device }),
                // Another process was quicker.
                Err(Errno::BUSY) => last = Some(bound(Errno::BUSY, &path)),
                Err(error) => return Err(bound(error, &path)),
            }
        }
        Err(last.unwrap_or_else(|| bound(Errno::BUSY, Path::new("/dev/loop-control"))))
    }

    /// The device's node.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
