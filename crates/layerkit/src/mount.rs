//! Mounting what [`unpack`](crate::unpack()) made. Needs the privilege to mount.

use std::{
    fs,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use layer_model::{Error, ErrorKind, IoContext, Result};
use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_bind, mount_remount, move_mount,
        unmount,
    },
};

use crate::stack_file::{Format, StackFile, XattrNamespace};

/// Where a writable mount keeps its changes.
#[derive(Clone, Debug)]
pub struct Upper {
    /// Receives the changes; this is what [`diff`](crate::diff()) reads.
    pub dir: PathBuf,
    /// The kernel's work directory, on the same file system.
    pub work: PathBuf,
}

impl Upper {
    /// `dir` for the changes, and `dir` with `.work` appended beside it.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        let mut work = dir.clone().into_os_string();
        work.push(".work");
        Self { dir, work: work.into() }
    }
}

/// Mounts the layers below `unpacked` on `mountpoint`: read-only, or writable over `upper`, whose directories
/// are made when missing.
///
/// # Errors
/// [`ErrorKind::NotFound`] where there is no `stack.json`, [`ErrorKind::NotSupported`] for a writable flat tree,
/// [`ErrorKind::PermissionDenied`] without the privilege to mount, and what else the kernel says.
pub fn mount(unpacked: &Path, mountpoint: &Path, upper: Option<&Upper>) -> Result<()> {
    let stack = StackFile::read(unpacked)?;
    let unpacked = fs::canonicalize(unpacked).during("resolve the unpacked directory")?;
    match stack.format {
        Format::Flat if upper.is_some() => {
            let message = "a flat tree is writable as it is; mount the overlay format with an upper";
            Err(Error::new(ErrorKind::NotSupported, message))
        }
        Format::Erofs => Err(Error::new(ErrorKind::NotSupported, "mounting EROFS layers")),
        Format::Flat => bind_read_only(&unpacked.join("rootfs"), mountpoint),
        Format::Overlay => {
            let lowers: Vec<PathBuf> =
                stack.layers.iter().rev().map(|l| unpacked.join(&l.path).join("fs")).collect();
            match (&lowers[..], upper) {
                ([], _) => Err(Error::new(ErrorKind::InvalidArgument, "the stack has no layers")),
                // Overlayfs wants two layers; one alone is its own merged view.
                ([only], None) => bind_read_only(only, mountpoint),
                _ => overlay(&lowers, upper, stack.xattrs == Some(XattrNamespace::User), mountpoint),
            }
        }
    }
}

/// Unmounts `mountpoint`.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] where nothing is mounted, `EBUSY` while it is used.
pub fn umount(mountpoint: &Path) -> Result<()> {
    unmount(mountpoint, UnmountFlags::NOFOLLOW).map_err(|errno| {
        let error = match errno {
            Errno::INVAL => Error::new(ErrorKind::InvalidArgument, "nothing is mounted there"),
            errno => Error::io("unmount", errno),
        };
        error.entry(mountpoint.as_os_str().as_encoded_bytes())
    })
}

fn bind_read_only(from: &Path, mountpoint: &Path) -> Result<()> {
    mount_bind(from, mountpoint).map_err(|e| at(mountpoint, "bind mount", e))?;
    mount_remount(mountpoint, MountFlags::BIND | MountFlags::RDONLY, "").map_err(|e| {
        // A writable bind must not stay behind.
        let _ = unmount(mountpoint, UnmountFlags::NOFOLLOW);
        at(mountpoint, "make the mount read-only", e)
    })
}

/// Mounts through the new mount API, which takes a layer at a time: the option string of mount(2) ends at a
/// page, which some forty layers fill.
fn overlay(lowers: &[PathBuf], upper: Option<&Upper>, userxattr: bool, mountpoint: &Path) -> Result<()> {
    let context =
        fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| at(mountpoint, "open overlayfs", e))?;
    let mut held = Vec::new();
    let mut set = |key: &str, path: &Path| -> Result<()> {
        let (value, fd) = short_name(path)?;
        held.extend(fd);
        fsconfig_set_string(context.as_fd(), key, &value).map_err(|e| at(path, key, e))
    };
    match set("lowerdir+", &lowers[0]) {
        // KERNEL(6.8): `lowerdir+` appeared; before that all layers come in one string.
        Err(error) if error.os_error() == Some(Errno::INVAL.raw_os_error()) => {
            return overlay_by_string(lowers, upper, userxattr, mountpoint);
        }
        first => first?,
    }
    for lower in &lowers[1..] {
        set("lowerdir+", lower)?;
    }
    if let Some(upper) = upper {
        prepare_upper(upper, &lowers[0])?;
        set("upperdir", &upper.dir)?;
        set("workdir", &upper.work)?;
    }
    if userxattr {
        fsconfig_set_flag(context.as_fd(), "userxattr").map_err(|e| at(mountpoint, "userxattr", e))?;
    }
    fsconfig_create(context.as_fd()).map_err(|e| at(mountpoint, "create the overlay", e))?;
    let attributes =
        if upper.is_none() { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() };
    let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(|e| at(mountpoint, "mount the overlay", e))?;
    move_mount(mount.as_fd(), "", CWD, mountpoint, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|e| at(mountpoint, "attach the overlay", e))
}

fn overlay_by_string(
    lowers: &[PathBuf],
    upper: Option<&Upper>,
    userxattr: bool,
    mountpoint: &Path,
) -> Result<()> {
    // Descriptors instead of paths: short enough for two hundred layers in a page, and nothing to escape.
    let mut held = Vec::new();
    let mut by_fd = |path: &Path| -> Result<String> {
        let fd = open_dir(path)?;
        let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
        held.push(fd);
        Ok(name)
    };
    let mut options =
        format!("lowerdir={}", lowers.iter().map(|p| by_fd(p)).collect::<Result<Vec<_>>>()?.join(":"));
    if let Some(upper) = upper {
        prepare_upper(upper, &lowers[0])?;
        options += &format!(",upperdir={},workdir={}", by_fd(&upper.dir)?, by_fd(&upper.work)?);
    }
    if userxattr {
        options += ",userxattr";
    }
    let flags = if upper.is_none() { MountFlags::RDONLY } else { MountFlags::empty() };
    let options = std::ffi::CString::new(options)
        .map_err(|e| Error::new(ErrorKind::InvalidArgument, "a path holds a NUL byte").cause(e))?;
    rustix::mount::mount("overlay", mountpoint, "overlay", flags, Some(options.as_c_str()))
        .map_err(|e| at(mountpoint, "mount the overlay", e))
}

/// Makes the directories of a writable mount. The root of the merged view is the root of the upper, so a new
/// upper takes the nearest layer's mode, owner and time.
fn prepare_upper(upper: &Upper, nearest: &Path) -> Result<()> {
    let like = fs::metadata(nearest).during("look at the nearest layer")?;
    if !upper.dir.exists() {
        fs::create_dir_all(&upper.dir).map_err(|e| at(&upper.dir, "make the upper directory", e))?;
        let owner = std::os::unix::fs::chown(&upper.dir, Some(like.uid()), Some(like.gid()));
        owner.map_err(|e| at(&upper.dir, "set the owner", e))?;
        fs::set_permissions(&upper.dir, fs::Permissions::from_mode(like.mode() & 0o7777))
            .map_err(|e| at(&upper.dir, "set the mode", e))?;
        let time = like.modified().during("read the time of the nearest layer")?;
        let dir = fs::File::open(&upper.dir).map_err(|e| at(&upper.dir, "open", e))?;
        dir.set_modified(time).map_err(|e| at(&upper.dir, "set the time", e))?;
    }
    fs::create_dir_all(&upper.work).map_err(|e| at(&upper.work, "make the work directory", e))
}

/// The absolute path, or a name through a descriptor where the path is longer than the 255 bytes that
/// fsconfig(2) takes.
fn short_name(path: &Path) -> Result<(PathBuf, Option<OwnedFd>)> {
    let path = fs::canonicalize(path).map_err(|e| at(path, "resolve", e))?;
    if path.as_os_str().len() < 256 {
        return Ok((path, None));
    }
    let fd = open_dir(&path)?;
    Ok((format!("/proc/self/fd/{}", fd.as_raw_fd()).into(), Some(fd)))
}

fn open_dir(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| at(path, "open directory", e))
}

fn at(path: &Path, operation: &str, error: impl Into<std::io::Error>) -> Error {
    Error::io(operation, error).entry(path.as_os_str().as_encoded_bytes())
}
