//! Extended attributes of one entry, reached without following links.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::{
    fs::{self, XattrFlags},
    io::{self, Errno},
};

use crate::{proc, raw, read::RawXattrs};

/// The longest list of names and the longest value that Linux gives (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const KERNEL_MAX: usize = 64 * 1024;

/// The way to the attributes of one entry.
pub(crate) enum Attributes<'a> {
    /// This name in this directory, not followed.
    Entry { dir: BorrowedFd<'a>, name: &'a [u8] },
    /// An open file.
    File(OwnedFd),
    /// There is no way, or nothing at its end.
    None,
}

impl RawXattrs for Attributes<'_> {
    /// A file system without attributes has none.
    fn names(&self) -> io::Result<Vec<u8>> {
        let list = fetch(|buf| match self {
            Self::Entry { dir, name } => raw::listxattrat(*dir, name, buf)
                .unwrap_or_else(|| fs::llistxattr(proc::path_of_entry(*dir, name), buf)),
            Self::File(file) => fs::flistxattr(file, buf),
            Self::None => Ok(0),
        });
        match list {
            Err(error) if is_absent(error) => Ok(Vec::new()),
            list => list,
        }
    }

    /// Not there is also what is not for this process to see.
    fn value(&self, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let value = fetch(|buf| match self {
            Self::Entry { dir, name: entry } => fs::lgetxattr(proc::path_of_entry(*dir, entry), name, buf),
            Self::File(file) => fs::fgetxattr(file, name, buf),
            Self::None => Err(Errno::NODATA),
        });
        match value {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_absent(error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether an error says that there is nothing to see: no such attribute, no attributes on this file system,
/// or none that the caller may read (`user.*` of a file without read permission). Overlayfs, which asks the
/// same questions with the mounter's rights, takes these for absence too.
fn is_absent(error: Errno) -> bool {
    matches!(error, Errno::NODATA | Errno::NOTSUP | Errno::PERM | Errno::ACCESS)
}

/// Calls `get` with room for most answers, and again with room for every answer.
fn fetch(mut get: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut small = [0; 512];
    match get(&mut small) {
        Ok(len) => Ok(small[..len].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; KERNEL_MAX];
            let len = get(&mut large)?;
            large.truncate(len);
            Ok(large)
        }
        Err(error) => Err(error),
    }
}

/// The names in a list as the kernel gives it.
pub(crate) fn split(names: &[u8]) -> impl Iterator<Item = &[u8]> {
    names.split(|b| *b == 0).filter(|name| !name.is_empty())
}

/// Sets an attribute of an open file or directory, also of an `O_PATH` descriptor.
pub(crate) fn set(fd: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> io::Result<()> {
    match fs::fsetxattr(fd, name, value, XattrFlags::empty()) {
        Err(Errno::BADF) => fs::setxattr(proc::path_of(fd), name, value, XattrFlags::empty()),
        done => done,
    }
}

/// The value of an attribute of an open file or directory, also of an `O_PATH` descriptor.
pub(crate) fn get(fd: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let value = match fetch(|buf| fs::fgetxattr(fd, name, buf)) {
        Err(Errno::BADF) => fetch(|buf| fs::getxattr(proc::path_of(fd), name, buf)),
        done => done,
    };
    match value {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_absent(error) => Ok(None),
        Err(error) => Err(error),
    }
}
