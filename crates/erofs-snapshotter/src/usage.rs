//! What a snapshot takes on disk.

use std::{collections::HashSet, ffi::OsString, os::fd::OwnedFd, path::Path};

use layer_model::{Error, ErrorKind, Result};
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2},
    io::Errno,
};

use crate::sys::{self, DIRECTORY, failed, named};

/// What a snapshot takes by itself, without its parents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk: blocks that are allocated, not lengths of files.
    pub size: u64,
    /// Files and directories, each once, whatever the number of its names.
    pub inodes: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.size += other.size;
        self.inodes += other.inodes;
    }
}

impl Usage {
    /// Of one file.
    pub(crate) fn of(stat: &Stat) -> Self {
        Self { size: u64::try_from(stat.st_blocks).unwrap_or_default() * 512, inodes: 1 }
    }

    /// Of a directory with all that is in it; what is mounted below it does not count.
    ///
    /// A container may be at work there: what is gone when its turn comes is left out. One directory is open at a
    /// time, however deep they are.
    pub(crate) fn of_tree(root: OwnedFd, path: &Path) -> Result<Self> {
        let at = |error: Errno| failed("measure directory", path, error);
        let mut links = HashSet::new();
        let mut usage = Self::of(&fstat(&root).map_err(at)?);
        let mut dir = root;
        let mut above: Vec<(Identity, Vec<OsString>)> = Vec::new();
        let mut todo = sys::names(&dir).map_err(at)?;
        loop {
            let Some(name) = todo.pop() else {
                let Some((parent, rest)) = above.pop() else { return Ok(usage) };
                dir = openat(&dir, "..", DIRECTORY, Mode::empty()).map_err(at)?;
                if identity(&fstat(&dir).map_err(at)?) != parent {
                    let moved = Error::new(ErrorKind::FileChanged, "a directory moved while it was measured");
                    return Err(named(moved, path));
                }
                todo = rest;
                continue;
            };
            let stat = match rustix::fs::statat(&dir, &*name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(at(error)),
            };
            if sys::kind(&stat) != FileType::Directory {
                if stat.st_nlink < 2 || links.insert(identity(&stat)) {
                    usage += Self::of(&stat);
                }
                continue;
            }
            let below = match open_below(&dir, &name) {
                Ok(below) => below,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => continue,
                Err(error) => return Err(at(error)),
            };
            usage += Self::of(&stat);
            above.push((identity(&fstat(&dir).map_err(at)?), todo));
            dir = below;
            todo = sys::names(&dir).map_err(at)?;
        }
    }
}

type Identity = (u64, u64);

fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// Opens a directory in another one, but no mount point: that is `XDEV`.
pub(crate) fn open_below(dir: &OwnedFd, name: &std::ffi::OsStr) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        match openat2(dir, name, flags, Mode::empty(), resolve) {
            // What the kernel says while somebody renames in the tree.
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
}
