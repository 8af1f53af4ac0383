//! Layers on top of each other.

use std::{
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use layer_model::{Error, ErrorKind, Result};
use rustix::io::Errno;

use crate::{
    bind::{BindOptions, bind},
    context::Context,
    detached::Detached,
    error::{at, fd_name, is, open_dir},
    features::KernelFeatures,
    flags::Flags,
    staging::{DEFAULT_SCRATCH, Staging},
    upper::{Upper, root_of},
};

/// A layer of an overlay.
#[derive(Debug)]
#[non_exhaustive]
pub enum Lower {
    /// A directory.
    Dir(PathBuf),
    /// A mount that is attached nowhere, as [`erofs`](crate::erofs()) makes it. The overlay keeps it alive.
    Mount(Detached),
}

/// Options of [`overlay`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OverlayOptions {
    pub(crate) flags: Flags,
    pub(crate) options: Vec<String>,
    pub(crate) kernel: KernelFeatures,
    pub(crate) scratch: PathBuf,
}

impl Default for OverlayOptions {
    fn default() -> Self {
        Self {
            flags: Flags::NONE,
            options: Vec::new(),
            kernel: KernelFeatures::default(),
            scratch: DEFAULT_SCRATCH.into(),
        }
    }
}

impl OverlayOptions {
    /// Marks in `trusted.overlay.*`, and the kernel's own defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the marks of the layers are in `user.overlay.*`.
    #[must_use]
    pub fn user_xattrs(mut self, user_xattrs: bool) -> Self {
        self.options.retain(|option| option != "userxattr");
        if user_xattrs {
            self.options.push("userxattr".into());
        }
        self
    }

    /// A mount option for overlayfs, `name` or `name=value`, as the kernel has it (`volatile`, `index=off`). Those
    /// that name layers are not taken.
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

    /// The directory in which mounts may be attached for a moment, `/tmp` by default.
    #[must_use]
    pub fn scratch(mut self, scratch: impl Into<PathBuf>) -> Self {
        self.scratch = scratch.into();
        self
    }
}

/// A mount of `lowers`, nearest first, which is attached nowhere yet: read-only, or writable over `upper`, whose
/// directories are made when missing; they stay when the mount fails.
///
/// One layer without an upper needs no overlay, and overlayfs does not make one: a mount is given back as it
/// is, a directory as a read-only bind mount. Marks in it are not hidden then, as nothing is below them.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] without a layer, or for an option that names layers;
/// [`ErrorKind::NotFound`] and [`ErrorKind::NotDirectory`] for directories that are none,
/// [`ErrorKind::PermissionDenied`] without the privilege to mount, [`ErrorKind::NotSupported`] for more layers
/// than an old kernel takes, and what else the kernel says.
pub fn overlay(mut lowers: Vec<Lower>, upper: Option<&Upper>, options: &OverlayOptions) -> Result<Detached> {
    for option in &options.options {
        let name = option.split('=').next().unwrap_or_default();
        if ["lowerdir", "lowerdir+", "datadir+", "upperdir", "workdir"].contains(&name) {
            let message = format!("layers are arguments, not mount options: {option}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
    }
    if lowers.is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, "an overlay without layers"));
    }
    if upper.is_none() && lowers.len() == 1 {
        match lowers.remove(0) {
            Lower::Mount(alone) => return Ok(alone),
            Lower::Dir(dir) => {
                let mut bound = BindOptions::new().scratch(&options.scratch);
                bound.flags = options.flags.and(Flags::READ_ONLY);
                return bind(&dir, &bound);
            }
        }
    }
    if let (Some(upper), Some(nearest)) = (upper, lowers.first()) {
        let root = match nearest {
            Lower::Dir(dir) => root_of(open_dir(dir)?)?,
            Lower::Mount(mount) => root_of(mount)?,
        };
        upper.prepare(&root)?;
    }
    let named = |layer: &Layer<'_>| match layer {
        Layer::Dir(dir) => Some(dir.to_path_buf()),
        Layer::Mount(_) => None,
    };
    let layers: Vec<Layer<'_>> = lowers
        .iter()
        .map(|lower| match lower {
            Lower::Dir(dir) => Layer::Dir(dir),
            Lower::Mount(mount) => Layer::Mount(mount),
        })
        .collect();
    let place = upper.map(|upper| upper.dir.clone()).or_else(|| layers.iter().find_map(named));
    let place = place.unwrap_or_else(|| "overlay".into());
    if let Some(mount) = assemble(&layers, upper, options, &place)? {
        return Ok(mount);
    }
    // Attached to a directory for as long as it takes: overlayfs keeps clones of its own.
    let mut staging = Staging::new(&options.scratch)?;
    let mut attached = Vec::new();
    for lower in &lowers {
        attached.push(match lower {
            Lower::Dir(dir) => dir.clone(),
            Lower::Mount(mount) => staging.attach(mount)?,
        });
    }
    let layers: Vec<Layer<'_>> = attached.iter().map(|dir| Layer::Dir(dir)).collect();
    assemble(&layers, upper, options, &place)?
        .ok_or_else(|| Error::new(ErrorKind::NotSupported, "overlay mounts"))
}

/// A layer of an overlay, where it is.
#[derive(Clone, Copy)]
pub(crate) enum Layer<'a> {
    /// A directory.
    Dir(&'a Path),
    /// A mount that is attached nowhere.
    Mount(&'a Detached),
}

/// The overlay, of an upper that is there already. [`None`] where the kernel does not take mounts that are
/// attached nowhere, and there are some. Errors name `place` where nothing nearer is known.
pub(crate) fn assemble(
    layers: &[Layer<'_>],
    upper: Option<&Upper>,
    options: &OverlayOptions,
    place: &Path,
) -> Result<Option<Detached>> {
    let mut dirs = Vec::new();
    for layer in layers {
        if let Layer::Dir(dir) = layer {
            // For a clear error: the kernel has one number for what is no directory and for what it does not know.
            open_dir(dir)?;
            dirs.push(*dir);
        }
    }
    let has_mounts = dirs.len() < layers.len();
    let kernel = options.kernel;
    if kernel.layer_by_layer
        && (kernel.detached_layers || !has_mounts)
        && let Some(context) = configure(layers, upper, options, place)?
    {
        return match context.mount(flags(upper, options).attributes) {
            // KERNEL(6.15): overlayfs takes mounts that are attached nowhere.
            Err(error) if has_mounts && is(&error, Errno::INVAL) => Ok(None),
            mounted => mounted.map(Some),
        };
    }
    if has_mounts { Ok(None) } else { by_string(&dirs, upper, options, place).map(Some) }
}

/// Gives overlayfs a layer at a time: the option string of mount(2) ends at a page. [`None`] where the kernel does
/// not take layers so.
fn configure<'a>(
    layers: &[Layer<'_>],
    upper: Option<&Upper>,
    options: &OverlayOptions,
    place: &'a Path,
) -> Result<Option<Context<'a>>> {
    let mut context = Context::open("overlay", place)?;
    context.option("source=overlay")?;
    for (number, layer) in layers.iter().enumerate() {
        let added = match layer {
            Layer::Dir(dir) => context.path("lowerdir+", dir),
            Layer::Mount(mount) => context.descriptor("lowerdir+", mount.as_fd()),
        };
        let is_mount = matches!(layer, Layer::Mount(_));
        match added {
            // KERNEL(6.8): `lowerdir+` appeared; before that all layers come in one string.
            // KERNEL(6.13): it takes descriptors, since 6.15 those of detached mounts (EBADF before).
            Err(error) if (number == 0 || is_mount) && is(&error, Errno::INVAL) => return Ok(None),
            Err(error) if is_mount && is(&error, Errno::BADF) => return Ok(None),
            added => added?,
        }
    }
    if let Some(upper) = upper {
        context.path("upperdir", &upper.dir)?;
        context.path("workdir", &upper.work)?;
    }
    for option in &options.options {
        context.option(option)?;
    }
    Ok(Some(context))
}

/// Through mount(2), on a directory of our own, of which a clone is taken.
fn by_string(
    lowers: &[&Path],
    upper: Option<&Upper>,
    options: &OverlayOptions,
    place: &Path,
) -> Result<Detached> {
    // Descriptors instead of paths: short enough for two hundred layers in a page, and nothing to escape.
    let mut held: Vec<OwnedFd> = Vec::new();
    let mut by_fd = |path: &Path| -> Result<String> {
        let fd = open_dir(path)?;
        let name = fd_name(&fd).display().to_string();
        held.push(fd);
        Ok(name)
    };
    let names = lowers.iter().map(|path| by_fd(path)).collect::<Result<Vec<_>>>()?;
    let mut text = format!("lowerdir={}", names.join(":"));
    if let Some(upper) = upper {
        text += &format!(",upperdir={},workdir={}", by_fd(&upper.dir)?, by_fd(&upper.work)?);
    }
    for option in &options.options {
        text.push(',');
        text += option;
    }
    // The kernel would cut it off in silence.
    if text.len() >= rustix::param::page_size() {
        let message =
            format!("this kernel takes all layers in one string, which {} do not fit", lowers.len());
        return Err(Error::new(ErrorKind::NotSupported, message));
    }
    let text = CString::new(text)
        .map_err(|e| Error::new(ErrorKind::InvalidArgument, "a mount option holds a NUL byte").cause(e))?;
    let mut staging = Staging::new(&options.scratch)?;
    let slot = staging.slot()?;
    rustix::mount::mount("overlay", &slot, "overlay", flags(upper, options).flags, Some(text.as_c_str()))
        .map_err(|e| at(place, "mount overlay", e))?;
    Detached::clone_of(&slot, false)
}

fn flags(upper: Option<&Upper>, options: &OverlayOptions) -> Flags {
    if upper.is_none() { options.flags.and(Flags::READ_ONLY) } else { options.flags }
}
