//! The system call that no library wraps yet. The only unsafe code of the crate.
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    os::fd::{AsRawFd, BorrowedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::io::Errno;

// KERNEL(6.13): the number is the same on every architecture but alpha; the C library does not name it yet.
const SYS_LISTXATTRAT: libc::c_long = 465;

/// Lists the names of the attributes of `name` in `dir`, not followed, without a way through `/proc`: that takes
/// longer than all else that is asked about a file. [`None`] where the kernel does not know the call, or a filter
/// forbids it.
pub(crate) fn listxattrat(dir: BorrowedFd<'_>, name: &[u8], buf: &mut [u8]) -> Option<Result<usize, Errno>> {
    static KNOWN: AtomicBool = AtomicBool::new(true);
    if !KNOWN.load(Ordering::Relaxed) {
        return None;
    }
    let name = CString::new(name).ok()?;
    // SAFETY: the descriptor is open while it is borrowed, the name ends with NUL, and the kernel writes at most the
    // length given to the buffer.
    let result = unsafe {
        libc::syscall(
            SYS_LISTXATTRAT,
            dir.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            buf.as_mut_ptr(),
            buf.len(),
        )
    };
    match usize::try_from(result) {
        Ok(len) => Some(Ok(len)),
        Err(_) => match Errno::from_io_error(&std::io::Error::last_os_error()) {
            Some(Errno::NOSYS | Errno::PERM) => {
                KNOWN.store(false, Ordering::Relaxed);
                None
            }
            error => Some(Err(error.unwrap_or(Errno::IO))),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{CWD, Mode, OFlags, XattrFlags, openat, setxattr};

    use super::*;

    #[test]
    fn names_are_those_that_the_way_through_proc_gives() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("f"), "x").unwrap();
        setxattr(temp.path().join("f"), "user.one", b"1", XattrFlags::empty()).unwrap();
        let dir = openat(CWD, temp.path(), OFlags::PATH, Mode::empty()).unwrap();
        let mut buf = [0; 512];
        let Some(len) = listxattrat(dir.as_fd(), b"f", &mut buf) else { return };
        assert!(buf[..len.unwrap()].windows(9).any(|name| name == b"user.one\0"));
        assert_eq!(listxattrat(dir.as_fd(), b"f", &mut [0; 1]), Some(Err(Errno::RANGE)));
        assert_eq!(listxattrat(dir.as_fd(), b"none", &mut buf), Some(Err(Errno::NOENT)));
    }
}
