//! A place where mounts are attached for a moment.

use std::{
    fs,
    path::{Path, PathBuf},
};

use layer_model::Result;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags, mount_change, unmount};

use crate::{
    context::Context,
    detached::{Detached, Target},
    error::at,
};

/// Where staging happens unless the caller says otherwise.
pub(crate) const DEFAULT_SCRATCH: &str = "/tmp";

/// A private file system on a new directory, with directories in it to mount on. All of it is unmounted when this
/// is dropped; who holds a clone of a mount in it (an overlay does, of its layers) keeps the clone.
///
/// One file system around all mounts means that one call takes them all away, also when it was attached below a
/// shared mount; and as it is private, nothing that is mounted in it is seen in another mount namespace.
#[derive(Debug)]
pub(crate) struct Staging {
    dir: PathBuf,
    mounted: bool,
    slots: usize,
}

impl Staging {
    pub(crate) fn new(scratch: &Path) -> Result<Self> {
        // The directory is removed by hand, alone: a recursive removal must never walk into mounted layers.
        let dir = tempfile::Builder::new()
            .prefix(".layers-")
            .disable_cleanup(true)
            .tempdir_in(scratch)
            .map_err(|e| at(scratch, "make a directory to mount on", e))?;
        let mut staging = Self { dir: dir.keep(), mounted: false, slots: 0 };
        let context = Context::open("tmpfs", &staging.dir)?;
        context.option("mode=0700")?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        let room = context.mount(attributes)?;
        room.attach_to(&Target::open(&staging.dir)?)?;
        staging.mounted = true;
        mount_change(&staging.dir, MountPropagationFlags::PRIVATE)
            .map_err(|e| at(&staging.dir, "make the mount private", e))?;
        Ok(staging)
    }

    /// An empty directory to mount on.
    pub(crate) fn slot(&mut self) -> Result<PathBuf> {
        let slot = self.dir.join(self.slots.to_string());
        self.slots += 1;
        fs::create_dir(&slot).map_err(|e| at(&slot, "make a directory to mount on", e))?;
        Ok(slot)
    }

    /// Attaches a mount, and says where.
    pub(crate) fn attach(&mut self, mount: &Detached) -> Result<PathBuf> {
        let slot = self.slot()?;
        mount.attach_to(&Target::open(&slot)?)?;
        Ok(slot)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.mounted {
            let _ = unmount(&self.dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
        let _ = fs::remove_dir(&self.dir);
    }
}
