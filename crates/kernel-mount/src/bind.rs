//! Directories shown elsewhere.

use std::path::{Path, PathBuf};

use layer_model::{IoContext, Result};
use rustix::{
    fs::{StatVfsMountFlags, fstatvfs},
    mount::{MountFlags, mount_remount},
};

use crate::{
    detached::Detached,
    error::{at, open_dir},
    flags::Flags,
    staging::{DEFAULT_SCRATCH, Staging},
};

/// Options of [`bind`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BindOptions {
    pub(crate) flags: Flags,
    pub(crate) recursive: bool,
    pub(crate) scratch: PathBuf,
}

impl Default for BindOptions {
    fn default() -> Self {
        Self { flags: Flags::NONE, recursive: false, scratch: DEFAULT_SCRATCH.into() }
    }
}

impl BindOptions {
    /// As writable as the directory is, without what is mounted below it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing can be changed through the mount. What is mounted below stays as it is.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.flags = if read_only { Flags::READ_ONLY } else { Flags::NONE };
        self
    }

    /// Whether mounts below the directory are shown too.
    #[must_use]
    pub fn recursive(mut self, recursive: bool) -> Self {
        self.recursive = recursive;
        self
    }

    /// The directory in which a mount may be attached for a moment, `/tmp` by default.
    #[must_use]
    pub fn scratch(mut self, scratch: impl Into<PathBuf>) -> Self {
        self.scratch = scratch.into();
        self
    }
}

/// A mount of the directory `dir`, which is attached nowhere yet. What restricts the mount that the directory is on
/// (`nosuid` and the like) restricts this one too.
///
/// # Errors
/// [`NotDirectory`](layer_model::ErrorKind::NotDirectory) and [`NotFound`](layer_model::ErrorKind::NotFound) for
/// what is no directory, [`PermissionDenied`](layer_model::ErrorKind::PermissionDenied) without the privilege to
/// mount, and what else the kernel says.
pub fn bind(dir: &Path, options: &BindOptions) -> Result<Detached> {
    open_dir(dir)?;
    let tree = Detached::clone_of(dir, options.recursive)?;
    if options.flags == Flags::NONE {
        return Ok(tree);
    }
    // mount(2) changes flags only of what is attached, mount_setattr(2) also of what is not, but rustix does not
    // offer it. On a place of our own, nobody sees the mount while it can still be written to.
    let flags = inherited(&tree)? | options.flags.flags;
    let mut staging = Staging::new(&options.scratch)?;
    let slot = staging.attach(&tree)?;
    mount_remount(&slot, MountFlags::BIND | flags, "").map_err(|e| at(dir, "restrict the mount", e))?;
    Detached::clone_of(&slot, options.recursive)
}

/// The restrictions that a clone has from its original. A remount has to name them to keep them.
fn inherited(tree: &Detached) -> Result<MountFlags> {
    let has = fstatvfs(tree).during("look at the flags of the mount")?.f_flag;
    let pairs = [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
    ];
    let kept = pairs.into_iter().filter(|(found, _)| has.contains(*found)).map(|(_, flag)| flag);
    Ok(kept.fold(MountFlags::empty(), |all, flag| all | flag))
}
