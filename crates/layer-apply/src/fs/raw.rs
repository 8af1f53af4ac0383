//! System calls that no library wraps yet. The only unsafe code of the crate.
#![allow(unsafe_code)]

use std::{
    ffi::CStr,
    os::fd::{AsRawFd, BorrowedFd},
};

use rustix::io::Errno;

// KERNEL(6.13): the number is the same on every architecture but alpha; the C library does not name it yet.
const SYS_SETXATTRAT: libc::c_long = 463;

/// `struct xattr_args` of `include/uapi/linux/xattr.h`.
#[repr(C, align(8))]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

const _: () = assert!(size_of::<XattrArgs>() == 16);

/// Changes the mode of `name` in `dir` without following it (Linux 6.6).
pub(crate) fn fchmodat2(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: the descriptor is open while it is borrowed, and the name ends with NUL.
    let result = unsafe {
        libc::syscall(libc::SYS_fchmodat2, dir.as_raw_fd(), name.as_ptr(), mode, libc::AT_SYMLINK_NOFOLLOW)
    };
    check(result)
}

/// Sets an extended attribute of `name` in `dir` without following it (Linux 6.13).
pub(crate) fn setxattrat(
    dir: BorrowedFd<'_>,
    name: &CStr,
    attribute: &CStr,
    value: &[u8],
) -> Result<(), Errno> {
    let size = u32::try_from(value.len()).map_err(|_| Errno::TOOBIG)?;
    let args = XattrArgs { value: value.as_ptr() as u64, size, flags: 0 };
    // SAFETY: the descriptor is open while it is borrowed, both names end with NUL, and the arguments point to
    // `size` bytes that live until the call is over.
    let result = unsafe {
        libc::syscall(
            SYS_SETXATTRAT,
            dir.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            attribute.as_ptr(),
            &raw const args,
            size_of::<XattrArgs>(),
        )
    };
    check(result)
}

fn check(result: libc::c_long) -> Result<(), Errno> {
    if result == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
