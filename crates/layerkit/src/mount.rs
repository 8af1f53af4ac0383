//! Mounting what [`unpack`](crate::unpack()) made. Needs the privilege to mount.

use std::{fs, path::Path};

use kernel_mount::{BindOptions, Detached, ErofsOptions, Lower, OverlayOptions, bind, erofs, overlay};
pub use kernel_mount::{Upper, umount};
use layer_model::{Error, ErrorKind, IoContext, Result};

use crate::{
    erofs::{FSMETA, LAYER, verify_appended},
    stack_file::{Format, StackFile, XattrNamespace},
};

/// Mounts the layers below `unpacked` on `mountpoint`: read-only, or writable over `upper`, whose directories
/// are made when missing; its directory for changes is what [`diff`](crate::diff()) reads.
///
/// EROFS images are mounted from their files where the kernel can, else through loop devices. An image with a hash tree
/// is read whole before, and checked against the root hash in `stack.json`.
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
        Format::Erofs => erofs_stack(&stack, &unpacked, upper)?,
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

/// Each image mounted by itself, and an overlay over them; merged metadata stands for its layer and all below. Nothing
/// is attached before all is mounted.
fn erofs_stack(stack: &StackFile, unpacked: &Path, upper: Option<&Upper>) -> Result<Detached> {
    let mut mounts = Vec::new();
    let dirs: Vec<_> = stack.layers.iter().map(|layer| unpacked.join(&layer.path)).collect();
    for (layer, dir) in stack.layers.iter().zip(&dirs) {
        if let Some(root_hash) = &layer.verity {
            verify_appended(&dir.join(LAYER), root_hash)?;
        }
    }
    let options = ErofsOptions::new();
    for (n, dir) in dirs.iter().enumerate().rev() {
        let merged = dir.join(FSMETA);
        if merged.metadata().is_ok_and(|found| found.len() > 0) {
            let devices: Vec<_> = dirs[..=n].iter().map(|dir| dir.join(LAYER)).collect();
            mounts.push(erofs(&merged, &devices, &options)?);
            break;
        }
        mounts.push(erofs(&dir.join(LAYER), &[], &options)?);
    }
    overlay(mounts.into_iter().map(Lower::Mount).collect(), upper, &OverlayOptions::new())
}
