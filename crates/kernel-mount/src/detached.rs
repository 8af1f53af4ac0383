//! Mounts that are attached nowhere.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use layer_model::Result;
use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

use crate::error::at;

/// A mount that is attached nowhere: only this value names it. It vanishes when it is dropped.
///
/// The descriptor ([`AsFd`]) is that of the mount's root, opened with `O_PATH`: names below it can be looked up
/// with `openat` and its siblings, without anybody else seeing the mount.
#[derive(Debug)]
#[must_use = "a mount that is attached nowhere vanishes when it is dropped"]
pub struct Detached {
    mount: OwnedFd,
}

impl Detached {
    pub(crate) fn new(mount: OwnedFd) -> Self {
        Self { mount }
    }

    /// A clone of what is mounted at `path`, its flags included.
    pub(crate) fn clone_of(path: &Path, recursive: bool) -> Result<Self> {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        if recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        open_tree(CWD, path, flags).map(Self::new).map_err(|e| at(path, "clone the mount", e))
    }

    /// Attaches the mount to the directory `target`, where it stays until it is unmounted. What was at `target`
    /// is hidden until then. A symbolic link at its end is not followed: [`umount`](crate::umount()) would not
    /// follow it either.
    ///
    /// # Errors
    /// [`NotFound`](layer_model::ErrorKind::NotFound) and [`NotDirectory`](layer_model::ErrorKind::NotDirectory)
    /// for a target that is none; what else the kernel says. The mount is gone then.
    pub fn attach(self, target: &Path) -> Result<()> {
        self.attach_to(&Target::open(target)?)
    }

    /// Attaches the mount. The value names the same mount afterwards, but dropping it does nothing any more.
    pub(crate) fn attach_to(&self, target: &Target<'_>) -> Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(self.mount.as_fd(), "", target.dir.as_fd(), "", flags)
            .map_err(|e| at(target.path, "attach the mount", e))
    }
}

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

/// A directory to attach a mount to, held open.
pub(crate) struct Target<'a> {
    path: &'a Path,
    dir: OwnedFd,
}

impl<'a> Target<'a> {
    pub(crate) fn open(path: &'a Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|e| at(path, "open mount point", e))?;
        Ok(Self { path, dir })
    }
}
