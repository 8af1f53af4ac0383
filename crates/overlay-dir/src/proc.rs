//! Paths through `/proc` that stand for descriptors.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::{
    fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC, fstatfs, openat, stat},
    io,
};

/// The inode number of the initial user namespace (`PROC_USER_INIT_INO` in the kernel's `linux/nsfs.h`).
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// Whether `/proc` is the kernel's, and not missing or something that only has its name.
pub(crate) fn is_mounted() -> bool {
    let open = openat(CWD, "/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    // KERNEL(3.17): thread-self. A thread may have descriptors of its own, which `self` would not show.
    open.and_then(fstatfs).is_ok_and(|fs| fs.f_type == PROC_SUPER_MAGIC)
        && stat("/proc/thread-self/fd").is_ok()
}

/// The path that stands for `fd` in this thread.
pub(crate) fn path_of(fd: BorrowedFd<'_>) -> String {
    format!("/proc/thread-self/fd/{}", fd.as_raw_fd())
}

/// The path that stands for `name` in the directory `dir`.
pub(crate) fn path_of_entry(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    [path_of(dir).as_bytes(), b"/", name].concat()
}

/// Opens what an `O_PATH` descriptor stands for, whatever its name is by now.
pub(crate) fn reopen(fd: impl AsFd, flags: OFlags) -> io::Result<std::os::fd::OwnedFd> {
    openat(CWD, path_of(fd.as_fd()), flags | OFlags::CLOEXEC, Mode::empty())
}

/// Whether this thread is in the initial user namespace; [`None`] when `/proc` does not say.
pub(crate) fn in_initial_user_namespace() -> Option<bool> {
    if !is_mounted() {
        return None;
    }
    Some(stat("/proc/thread-self/ns/user").ok()?.st_ino == INITIAL_USER_NAMESPACE)
}
