//! EROFS images.

use std::{
    fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use layer_model::{ErrorKind, Result};
use rustix::io::Errno;

use crate::{
    context::Context,
    detached::Detached,
    error::{at, is, refuse},
    features::KernelFeatures,
    flags::Flags,
    loop_device::LoopDevice,
};

/// What the kernel reads an image through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backing {
    /// The file itself where the kernel and the file system can, loop devices otherwise.
    #[default]
    Auto,
    /// The file itself.
    File,
    /// A loop device for each file. Devices that are none of files are taken as they are.
    Loop,
}

/// Options of [`erofs`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ErofsOptions {
    pub(crate) backing: Backing,
    pub(crate) kernel: KernelFeatures,
    pub(crate) flags: Flags,
    pub(crate) options: Vec<String>,
}

impl Default for ErofsOptions {
    fn default() -> Self {
        Self {
            backing: Backing::Auto,
            kernel: KernelFeatures::default(),
            flags: Flags::READ_ONLY,
            options: Vec::new(),
        }
    }
}

impl ErofsOptions {
    /// The file itself where that is possible, and the kernel's own defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the kernel reads the image through.
    #[must_use]
    pub fn backing(mut self, backing: Backing) -> Self {
        self.backing = backing;
        self
    }

    /// A mount option for the file system, `name` or `name=value`, as the kernel has it.
    #[must_use]
    pub fn option(mut self, option: impl Into<String>) -> Self {
        self.options.push(option.into());
        self
    }

    /// Which newer abilities of the kernel may be used.
    #[must_use]
    pub fn kernel_features(mut self, features: KernelFeatures) -> Self {
        self.kernel = features;
        self
    }
}

/// A mount of an EROFS image, which is attached nowhere yet. `devices` are the further ones that the image refers
/// to, in the order of its device table: the blobs of merged metadata, the archive of an index.
///
/// The files must not change while they are mounted. They may be unlinked.
///
/// # Errors
/// [`ErrorKind::NotFound`] for a missing file, [`ErrorKind::InvalidArgument`] for one that is neither a regular
/// file nor a block device, [`ErrorKind::NotSupported`] where the kernel does not know EROFS, or has to mount
/// a file and cannot, [`ErrorKind::PermissionDenied`] without the privilege to mount; for a damaged
/// image what the kernel says (`EINVAL`, `EUCLEAN`). No loop device stays bound.
pub fn erofs(image: &Path, devices: &[PathBuf], options: &ErofsOptions) -> Result<Detached> {
    let mut block = false;
    for file in std::iter::once(image).chain(devices.iter().map(PathBuf::as_path)) {
        block |= is_block_device(file)?;
    }
    let from_files = || mount(image, image, devices, options);
    match options.backing {
        Backing::File => from_files().map_err(|error| {
            if !is(&error, Errno::NOTBLK) {
                return error;
            }
            let message = "this kernel, or this file system, cannot mount EROFS images from files";
            refuse(ErrorKind::NotSupported, image, message).cause(error)
        }),
        // Devices and files do not mix without loop devices.
        Backing::Auto if options.kernel.file_backed_erofs && !block => match from_files() {
            // KERNEL(6.12): EROFS mounts files; before, and on file systems without a page cache, the source has
            // to be a block device.
            Err(error) if is(&error, Errno::NOTBLK) => mount_by_loop(image, devices, options),
            mounted => mounted,
        },
        _ => mount_by_loop(image, devices, options),
    }
}

fn mount_by_loop(image: &Path, devices: &[PathBuf], options: &ErofsOptions) -> Result<Detached> {
    let mut held = Vec::new();
    let mut device = |file: &Path| -> Result<PathBuf> {
        if is_block_device(file)? {
            return Ok(file.to_owned());
        }
        let device = LoopDevice::bind(file, true)?;
        let path = device.path().to_owned();
        held.push(device);
        Ok(path)
    };
    let source = device(image)?;
    let devices = devices.iter().map(|file| device(file)).collect::<Result<Vec<_>>>()?;
    // Until the file system has opened them, the devices live only by what is held here.
    mount(image, &source, &devices, options)
}

/// Mounts `source`; errors name `image`, as a loop device has another file by the time anybody reads them.
fn mount(image: &Path, source: &Path, devices: &[PathBuf], options: &ErofsOptions) -> Result<Detached> {
    let mut context = Context::open("erofs", image)?;
    // Otherwise a block device is opened for writing, which a read-only one refuses.
    context.option("ro")?;
    context.path("source", source)?;
    for device in devices {
        context.path("device", device)?;
    }
    for option in &options.options {
        context.option(option)?;
    }
    context.mount(options.flags.and(Flags::READ_ONLY).attributes)
}

fn is_block_device(path: &Path) -> Result<bool> {
    let kind = fs::metadata(path).map_err(|e| at(path, "look at the image", e))?.file_type();
    if kind.is_block_device() {
        return Ok(true);
    }
    if !kind.is_file() {
        return Err(refuse(
            ErrorKind::InvalidArgument,
            path,
            "an image is a regular file or a block device, not this",
        ));
    }
    Ok(false)
}
