//! Writable block images (`rwlayer.img`).

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use layer_model::{ErrorKind, Result};

use crate::{
    context::Context,
    detached::Detached,
    error::{at, refuse},
    flags::Flags,
    loop_device::LoopDevice,
};

/// Where the magic number of ext4 lies: in a superblock at 1024, at 56.
const MAGIC_AT: u64 = 1024 + 56;
const MAGIC: [u8; 2] = 0xEF53_u16.to_le_bytes();

/// A mount of an ext4 image that was made before. Nothing is formatted here: that takes another program, and
/// images that are in use already must not meet one.
pub(crate) fn ext4(image: &Path, flags: Flags, options: &[&str]) -> Result<Detached> {
    let mut magic = [0; 2];
    let read = File::open(image).and_then(|file| file.read_exact_at(&mut magic, MAGIC_AT));
    match read {
        Ok(()) if magic == MAGIC => {}
        Err(error)
            if !matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::UnexpectedEof) =>
        {
            return Err(at(image, "look at the image", error));
        }
        _ => {
            let message = "there is no ext4 file system in the image, and none is made here";
            return Err(refuse(ErrorKind::NotSupported, image, message));
        }
    }
    let device = LoopDevice::bind(image, flags.is_read_only())?;
    let mut context = Context::open("ext4", image)?;
    if flags.is_read_only() {
        context.option("ro")?;
    }
    context.path("source", device.path())?;
    for option in options {
        context.option(option)?;
    }
    context.mount(flags.attributes)
}
