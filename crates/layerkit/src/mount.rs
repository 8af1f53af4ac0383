//! Mounting what [`unpack`](crate::unpack()) made. Needs the privilege to mount.

use std::{fs, path::Path};

use kernel_mount::{BindOptions, Lower, OverlayOptions, bind, overlay};
pub use kernel_mount::{Upper, umount};
use layer_model::{Error, ErrorKind, IoContext, Result};

use crate::stack_file::{Format, StackFile, XattrNamespace};

/// Mounts the layers below `unpacked` on `mountpoint`: read-only, or writable over `upper`, whose directories
/// are made when missing; its directory for changes is what [`diff`](crate::diff()) reads.
///
/// # Errors
/// [`ErrorKind::NotFound`] where there is no `stack.json`, [`ErrorKind::NotSupported`] for a writable flat tree,
/// [`ErrorKind::PermissionDenied`] without the privilege to mount, and what else the kernel says.
pub fn mount(unpacked: &Path, mountpoint: &Path, upper: Option<&Upper>) -> Result<()> {
    let stack = StackFile::read(unpacked)?;
    let unpacked = fs::canonicalize(unpacked).during("resolve the unpacked directory")?;
    let mount = match stack.format {
        Format::Flat if upper.is_some() => {
            let message = "a flat tree is writable as it is; mount the overlay format with an upper";
            return Err(Error::new(ErrorKind::NotSupported, message));
        }
        Format::Erofs => return Err(Error::new(ErrorKind::NotSupported, "mounting EROFS layers")),
        Format::Flat => bind(&unpacked.join("rootfs"), &BindOptions::new().read_only(true))?,
        Format::Overlay => {
            let layers = stack.layers.iter().rev();
            let lowers = layers.map(|layer| Lower::Dir(unpacked.join(&layer.path).join("fs"))).collect();
            let user_xattrs = stack.xattrs == Some(XattrNamespace::User);
            overlay(lowers, upper, &OverlayOptions::new().user_xattrs(user_xattrs))?
        }
    };
    mount.attach(mountpoint)
}
