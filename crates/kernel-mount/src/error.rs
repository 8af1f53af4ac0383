//! Errors with operation and path.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use layer_model::{Error, ErrorKind, Result};
use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
};

/// What the kernel said to `operation` on `path`.
pub(crate) fn at(path: &Path, operation: impl Into<String>, error: impl Into<std::io::Error>) -> Error {
    Error::io(operation, error).entry(path.as_os_str().as_encoded_bytes())
}

/// An error of ours about `path`.
pub(crate) fn refuse(kind: ErrorKind, path: &Path, message: impl Into<String>) -> Error {
    Error::new(kind, message).entry(path.as_os_str().as_encoded_bytes())
}

/// Whether the kernel said this.
pub(crate) fn is(error: &Error, errno: Errno) -> bool {
    error.os_error() == Some(errno.raw_os_error())
}

/// A directory, to be named by its descriptor. Follows links.
pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|e| at(path, "open directory", e))
}

/// The name of a descriptor, for those who take a path and follow it at once.
pub(crate) fn fd_name(fd: &impl std::os::fd::AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}
