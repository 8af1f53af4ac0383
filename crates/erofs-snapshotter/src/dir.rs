//! One snapshot's directory, as containerd's EROFS snapshotter lays it out.

mod image;
mod locate;

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use layer_model::{Error, ErrorKind, Result};
use overlay_dir::{OverlayDir, OverlayDirOptions};
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, fchmod, mkdirat, openat, statat},
    io::Errno,
};

pub use image::layer_image_options;

use crate::{
    remove,
    sys::{self, DIRECTORY, failed, named},
    usage::Usage,
};

/// The empty file that says: whoever applies a layer here may make an image of it.
pub const MARKER: &str = ".erofslayer";
/// The image of the layer.
pub const IMAGE: &str = "layer.erofs";
/// The file beside the image that describes its dm-verity device.
pub const SIDECAR: &str = "layer.erofs.dmverity";
/// The merged metadata of the layer and all its parents.
pub const FSMETA: &str = "fsmeta.erofs";
/// The upper directory.
pub const UPPER: &str = "fs";
/// The work directory of the overlay mount.
pub const WORK: &str = "work";
/// The file with a file system that holds the upper directory, in containerd's block mode.
pub const BLOCK_IMAGE: &str = "rwlayer.img";

/// A snapshot's directory.
///
/// | name | is |
/// |---|---|
/// | [`MARKER`] | an empty file: a layer is, or was, to be made here |
/// | [`IMAGE`] | the layer; a link where it lies in a cache |
/// | [`SIDECAR`] | root hash and offset of the image's dm-verity tree |
/// | [`FSMETA`] | metadata of this layer and all below it |
/// | [`UPPER`], [`WORK`] | where changes go while there is no image |
/// | [`BLOCK_IMAGE`] | the same in block mode |
///
/// The handle owns the directory, and goes on with it when it is renamed; the path is the one it was opened by,
/// for mount lists and messages. Nothing in the directory is followed but an [`IMAGE`] that is read.
#[derive(Clone, Debug)]
pub struct SnapshotDir {
    fd: Arc<OwnedFd>,
    path: Arc<Path>,
}

/// What a directory is, as far as can be seen on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DirState {
    /// Marked, and without an image: a layer can be made here.
    Active,
    /// With a complete image. Whether a snapshotter has recorded it is not seen here.
    Committed,
    /// Neither marked nor with an image: a view, a layer that is kept as a directory, or something else.
    Unmarked,
}

impl SnapshotDir {
    /// Makes a directory for a layer: with marker, `fs/` and `work/`. It appears whole or not at all.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`] when something is at `path`; those of the file system.
    pub fn create_active(path: impl AsRef<Path>) -> Result<Self> {
        Self::create(path.as_ref(), true)
    }

    /// Makes a directory for a view, which changes nothing: with `fs/` alone. It appears whole or not at all.
    ///
    /// # Errors
    /// As [`SnapshotDir::create_active`].
    pub fn create_view(path: impl AsRef<Path>) -> Result<Self> {
        Self::create(path.as_ref(), false)
    }

    fn create(path: &Path, active: bool) -> Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name else {
            return Err(named(Error::new(ErrorKind::InvalidArgument, "unusable name for a snapshot"), path));
        };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let parent = sys::open_dir(folder)?;
        let temporary = format!("new-{}", sys::unique());
        let made = Self::make(&parent, folder, &temporary, active).and_then(|made| {
            sys::rename_new(&parent, &temporary, name)
                .and_then(|()| sys::sync(&parent))
                .map_err(|error| failed("give the snapshot its name", path, error))?;
            Ok(made.renamed(path))
        });
        if made.is_err() {
            // The error that counts is the first one.
            let _ = remove::remove_dir(&parent, &temporary, path);
        }
        made
    }

    /// Makes a directory under its first name, durable but for that name.
    pub(crate) fn make(parent: &OwnedFd, folder: &Path, name: &str, active: bool) -> Result<Self> {
        let path = folder.join(name);
        let made = || -> Result<OwnedFd, Errno> {
            mkdirat(parent, name, Mode::RWXU)?;
            let fd = openat(parent, name, DIRECTORY, Mode::empty())?;
            let dir = |name: &str, mode: u32| {
                mkdirat(&fd, name, Mode::RWXU)?;
                // The umask does not count here: containers see the mode as that of their root.
                fchmod(openat(&fd, name, DIRECTORY, Mode::empty())?, Mode::from_raw_mode(mode))
            };
            dir(UPPER, 0o755)?;
            if active {
                dir(WORK, 0o711)?;
                mark(&fd)?;
            }
            sys::sync(&fd)?;
            Ok(fd)
        };
        let fd = made().map_err(|error| failed("make snapshot directory", &path, error))?;
        Ok(Self { fd: Arc::new(fd), path: path.into() })
    }

    /// The same directory under another name.
    pub(crate) fn renamed(&self, path: &Path) -> Self {
        Self { fd: self.fd.clone(), path: path.into() }
    }

    /// Opens a directory that an EROFS snapshotter made, active or committed.
    ///
    /// # Errors
    /// [`ErrorKind::NotSupported`] for a directory that is neither: somebody else may know what it is;
    /// [`ErrorKind::InvalidArchive`] for an image that is none; those of the file system.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let dir = Self::open_any(path.as_ref())?;
        match dir.state()? {
            DirState::Unmarked => {
                let message = "the directory is not prepared for an EROFS layer";
                Err(named(Error::new(ErrorKind::NotSupported, message), path.as_ref()))
            }
            _ => Ok(dir),
        }
    }

    /// Opens a directory without a look at what is in it.
    pub(crate) fn open_any(path: &Path) -> Result<Self> {
        Ok(Self { fd: Arc::new(sys::open_dir(path)?), path: path.into() })
    }

    /// What the directory is.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] for an image that is none, or was cut; those of the file system.
    pub fn state(&self) -> Result<DirState> {
        if self.image()?.is_some() {
            return Ok(DirState::Committed);
        }
        Ok(if self.is_marked()? { DirState::Active } else { DirState::Unmarked })
    }

    fn is_marked(&self) -> Result<bool> {
        Ok(self.stat(MARKER)?.is_some())
    }

    /// Takes the marker away.
    pub(crate) fn unmark(&self) -> Result<()> {
        if !self.is_marked()? {
            return Ok(());
        }
        sys::unlink(&self.fd, MARKER)
            .and_then(|()| sys::sync(&self.fd))
            .map_err(|error| failed("unmark", &self.path_of(MARKER), error))
    }

    /// The path that the directory was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The path of the image, which may not be there yet.
    pub fn image_path(&self) -> PathBuf {
        self.path_of(IMAGE)
    }

    /// The path of the merged metadata, which may not be there.
    pub fn fsmeta_path(&self) -> PathBuf {
        self.path_of(FSMETA)
    }

    /// The path of the file that describes the image's dm-verity device, which may not be there.
    pub fn sidecar_path(&self) -> PathBuf {
        self.path_of(SIDECAR)
    }

    /// The path of the upper directory.
    pub fn upper_path(&self) -> PathBuf {
        self.path_of(UPPER)
    }

    /// The path of the overlay mount's work directory, which a view has not.
    pub fn work_path(&self) -> PathBuf {
        self.path_of(WORK)
    }

    /// Whether the upper directory is in a file system in a file (block mode). It has to be mounted to be looked
    /// into.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn has_block_image(&self) -> Result<bool> {
        Ok(self.stat(BLOCK_IMAGE)?.is_some())
    }

    /// Whether there is a file that describes the image's dm-verity device.
    ///
    /// # Errors
    /// Those of the file system: a file that cannot be looked at is not one that is missing.
    pub fn has_sidecar(&self) -> Result<bool> {
        Ok(self.stat(SIDECAR)?.is_some())
    }

    /// Whether there is merged metadata. An empty file is none, as in containerd.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn has_fsmeta(&self) -> Result<bool> {
        Ok(self.stat(FSMETA)?.is_some_and(|stat| stat.st_size > 0))
    }

    /// The upper directory as a layer.
    ///
    /// # Errors
    /// Those of opening it, and of `options`.
    pub fn upper(&self, options: OverlayDirOptions) -> Result<OverlayDir> {
        let path = self.upper_path();
        let fd = openat(&self.fd, UPPER, DIRECTORY, Mode::empty())
            .map_err(|error| failed("open upper directory", &path, error))?;
        OverlayDir::from_fd(fd, path, options)
    }

    /// User and group of the upper directory.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn upper_owner(&self) -> Result<(u32, u32)> {
        let stat = statat(&self.fd, UPPER, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| failed("stat upper directory", &self.upper_path(), error))?;
        Ok((stat.st_uid, stat.st_gid))
    }

    /// Gives the upper directory to somebody, as which the root of a container sees its `/`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn set_upper_owner(&self, (user, group): (u32, u32)) -> Result<()> {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        chownat(&self.fd, UPPER, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| failed("set owner of upper directory", &self.upper_path(), error))
    }

    /// What the layer takes on disk: the upper directory with all that is in it, and the image. A link is not
    /// followed.
    ///
    /// # Errors
    /// Those of the file system; [`ErrorKind::FileChanged`] when a directory is moved meanwhile.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = self.image_usage()?.unwrap_or_default();
        let upper = openat(&self.fd, UPPER, DIRECTORY, Mode::empty())
            .map_err(|error| failed("open upper directory", &self.upper_path(), error))?;
        usage += Usage::of_tree(upper, &self.upper_path())?;
        Ok(usage)
    }

    /// What the image takes on disk.
    pub(crate) fn image_usage(&self) -> Result<Option<Usage>> {
        Ok(self.stat(IMAGE)?.map(|stat| Usage::of(&stat)))
    }

    /// Empties the upper directory and the work directory: once there is an image, it holds what they held. What
    /// is mounted on one of them stays.
    ///
    /// # Errors
    /// Those of the file system; a part is emptied then.
    pub fn clear_upper(&self) -> Result<()> {
        for name in [UPPER, WORK] {
            remove::empty_dir(&self.fd, name, &self.path_of(name))?;
        }
        Ok(())
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    fn stat(&self, name: &str) -> Result<Option<rustix::fs::Stat>> {
        sys::stat(&self.fd, name).map_err(|error| failed("stat", &self.path_of(name), error))
    }

    /// The type of what is at a name.
    fn type_of(&self, name: &str) -> Result<Option<FileType>> {
        Ok(self.stat(name)?.map(|stat| sys::kind(&stat)))
    }
}

fn mark(dir: &OwnedFd) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, MARKER, flags, Mode::from_raw_mode(0o644)).map(drop)
}
