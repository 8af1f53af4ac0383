//! containerd's mount lists.

use std::path::{Path, PathBuf};

use layer_model::{Error, ErrorKind, Result};
use layer_mounts::{Activated, ErofsMount, Kind, Mount, OverlayMount, Step, Template, managed::Managed};
use rustix::io::Errno;

use crate::{
    bind::{BindOptions, bind},
    detached::{Detached, Target},
    erofs::{Backing, ErofsOptions, erofs},
    error::{at, fd_name, is},
    ext4::ext4,
    features::KernelFeatures,
    flags::Flags,
    mkdir,
    overlay::{Layer, Lower, OverlayOptions, assemble, overlay},
    staging::{DEFAULT_SCRATCH, Staging},
    upper::Upper,
};

/// Options of [`activate`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ActivateOptions {
    backing: Backing,
    kernel: KernelFeatures,
    scratch: PathBuf,
}

impl Default for ActivateOptions {
    fn default() -> Self {
        Self { backing: Backing::Auto, kernel: KernelFeatures::default(), scratch: DEFAULT_SCRATCH.into() }
    }
}

impl ActivateOptions {
    /// Images from files where that is possible, whatever the lists say about loop devices: so does containerd.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the kernel reads EROFS images through.
    #[must_use]
    pub fn backing(mut self, backing: Backing) -> Self {
        self.backing = backing;
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

/// Mounts a list as containerd's snapshotters make it, and attaches the last mount of it to the directory `target`.
/// The mounts before it live as long as that one, and are attached nowhere; [`umount`](crate::umount()) of `target`
/// takes all away. When anything fails, nothing stays mounted; directories that the list makes stay.
///
/// Types are `bind`, `overlay` and `erofs`, with the steps `format` (templates) and `mkdir`, and `mkfs/ext4` where
/// the image has its file system already.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for an empty list, and for options and templates that have not their form;
/// [`ErrorKind::FailedPrecondition`] for an option that no step of its mount consumes;
/// [`ErrorKind::NotSupported`] for other types and steps, for dm-verity devices, id maps, data-only layers and mounts
/// with a target of their own; and the errors of [`erofs`], [`overlay`] and [`bind`].
pub fn activate(mounts: &[Mount], target: &Path, options: &ActivateOptions) -> Result<()> {
    let Some((last, earlier)) = mounts.split_last() else {
        return Err(Error::new(ErrorKind::InvalidArgument, "an empty list of mounts"));
    };
    let target = Target::open(target)?;
    let mut list = List { options, made: Vec::new(), known: Vec::new(), staging: None };
    if !earlier.is_empty() && !options.kernel.detached_layers {
        list.stage()?;
    }
    let place = |number: usize| move |error: Error| error.context(format_args!("mount {number}"));
    for (number, mount) in earlier.iter().enumerate() {
        let made = list.make(mount, false).map_err(place(number))?;
        list.keep(made).map_err(place(number))?;
    }
    let made = list.make(last, true).map_err(place(earlier.len()))?;
    made.mount.attach_to(&target)
}

/// A mount that was made, and what later ones may ask about it.
struct Made {
    mount: Detached,
    read_only: bool,
    source: String,
    target: String,
}

/// The mounts made so far.
struct List<'a> {
    options: &'a ActivateOptions,
    made: Vec<Made>,
    /// The same mounts, as templates name them: by descriptors, or by where they are attached.
    known: Vec<Activated>,
    /// KERNEL(6.15): overlayfs takes layers in mounts that are attached nowhere, and such mounts can be bound;
    /// before, they are attached until the last mount is made.
    staging: Option<Staging>,
}

impl List<'_> {
    /// Makes a mount; the second way when the kernel refuses the first.
    fn make(&mut self, mount: &Mount, last: bool) -> Result<Made> {
        match self.try_make(mount, last) {
            Err(error) if is(&error, Errno::INVAL) && self.staging.is_none() && !self.made.is_empty() => {
                self.stage()?;
                self.try_make(mount, last)
            }
            made => made,
        }
    }

    fn keep(&mut self, made: Made) -> Result<()> {
        let mount_point = match &mut self.staging {
            Some(staging) => staging.attach(&made.mount)?,
            None => fd_name(&rustix::fd::AsFd::as_fd(&made.mount)),
        };
        let (source, target) = (made.source.clone(), made.target.clone());
        self.known.push(Activated { mount_point: text(mount_point)?, source, target });
        self.made.push(made);
        Ok(())
    }

    fn stage(&mut self) -> Result<()> {
        let mut staging = Staging::new(&self.options.scratch)?;
        for (made, known) in self.made.iter().zip(&mut self.known) {
            known.mount_point = text(staging.attach(&made.mount)?)?;
        }
        self.staging = Some(staging);
        Ok(())
    }

    fn try_make(&mut self, given: &Mount, last: bool) -> Result<Made> {
        let mut mount = given.expanded(&self.known)?;
        let kind = Kind::parse(&mount.kind)?;
        let mut consumed = Vec::new();
        for option in &mount.options {
            match layer_mounts::managed::parse(option)? {
                Some(Managed::Mkdir(wanted)) if kind.has(Step::Mkdir) => mkdir::make(&wanted)?,
                Some(Managed::MkfsType(_) | Managed::MkfsSize(_)) if kind.has(Step::Mkfs) => {}
                Some(Managed::DmVerity(_)) => {
                    return Err(not_supported("the image wants a dm-verity device, and none is made here"));
                }
                _ => continue,
            }
            consumed.push(option.clone());
        }
        mount.options.retain(|option| !consumed.contains(option));
        mount.kind = kind.file_system.clone();
        mount.check_for_kernel()?;
        if !mount.target.is_empty() {
            return Err(not_supported("a mount with a target of its own in a list"));
        }
        let (source, target) = (mount.source.clone(), mount.target.clone());
        let (flags, left) = Flags::take(&mount.options);
        let (made, read_only) = match kind.file_system.as_str() {
            "bind" => {
                let whole = if last { self.whole(given, flags, &left)? } else { None };
                match whole {
                    Some(number) => (self.made.swap_remove(number).mount, true),
                    None => (self.bind(&mount, flags, &left)?, flags.is_read_only()),
                }
            }
            "erofs" => (self.erofs(&mount, flags, &left)?, true),
            "overlay" => (self.overlay(&mount, flags, &left)?, flags.is_read_only()),
            "ext4" if kind.has(Step::Mkfs) => {
                let options: Vec<&str> = left.into_iter().filter(|option| *option != "loop").collect();
                (ext4(Path::new(&mount.source), flags, &options)?, flags.is_read_only())
            }
            other => return Err(not_supported(format!("a mount of type {other:?}"))),
        };
        Ok(Made { mount: made, read_only, source, target })
    }

    /// The number of the mount that a bind mount shows whole and as it is: no second one is needed then.
    fn whole(&self, given: &Mount, flags: Flags, left: &[&str]) -> Result<Option<usize>> {
        let as_it_is = flags == Flags::READ_ONLY && left.iter().all(is_bind) && self.staging.is_none();
        if !as_it_is || !Kind::parse(&given.kind)?.has(Step::Format) {
            return Ok(None);
        }
        let named = Template::parse(&given.source)?.mounts();
        Ok(match named.as_deref() {
            Some([number]) if self.made.get(*number).is_some_and(|made| made.read_only) => Some(*number),
            _ => None,
        })
    }

    fn bind(&self, mount: &Mount, flags: Flags, left: &[&str]) -> Result<Detached> {
        if let Some(option) = left.iter().find(|option| !is_bind(option)) {
            return Err(not_supported(format!("the option {option} of a bind mount")));
        }
        let mut options =
            BindOptions::new().recursive(left.contains(&"rbind")).scratch(&self.options.scratch);
        options.flags = flags;
        bind(Path::new(&mount.source), &options)
    }

    fn erofs(&self, mount: &Mount, flags: Flags, left: &[&str]) -> Result<Detached> {
        let image = ErofsMount::parse(mount.clone())?;
        let devices: Vec<PathBuf> = image.devices().iter().map(PathBuf::from).collect();
        let mut options =
            ErofsOptions::new().backing(self.options.backing).kernel_features(self.options.kernel);
        options.flags = flags;
        let own = |option: &&&str| **option != "loop" && !option.starts_with("device=");
        options.options = left.iter().filter(own).map(|option| (*option).to_owned()).collect();
        erofs(Path::new(image.image()), &devices, &options)
    }

    fn overlay(&self, mount: &Mount, flags: Flags, left: &[&str]) -> Result<Detached> {
        let parsed = OverlayMount::parse(mount.clone())?;
        if !parsed.data_only().is_empty() {
            return Err(not_supported("data-only layers of an overlay"));
        }
        if !parsed.user_map()?.is_identity() || !parsed.group_map()?.is_identity() {
            return Err(not_supported("id maps of an overlay's layers"));
        }
        let mut options =
            OverlayOptions::new().kernel_features(self.options.kernel).scratch(&self.options.scratch);
        options.flags = flags;
        let layers = ["lowerdir", "lowerdir+", "upperdir", "workdir", "uidmap", "gidmap"];
        let own = |option: &&&str| option.split_once('=').is_none_or(|(name, _)| !layers.contains(&name));
        options.options = left.iter().filter(own).map(|option| (*option).to_owned()).collect();
        let upper = match (parsed.upper(), parsed.work()) {
            (Some(upper), Some(work)) => Some(Upper { dir: upper.into(), work: work.into() }),
            (None, None) => None,
            _ => {
                let message = "an overlay has both an upper and a work directory, or none";
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
        };
        if let ([alone], None) = (parsed.lowers(), &upper) {
            return overlay(vec![Lower::Dir(alone.into())], None, &options);
        }
        // Mounts by themselves rather than by the names of their descriptors, which everybody would see in the
        // mount table and nobody could read.
        let mut layers = Vec::new();
        for path in parsed.lowers() {
            let known = self.known.iter().position(|known| known.mount_point == *path);
            layers.push(match known.filter(|_| self.staging.is_none()) {
                Some(number) => Layer::Mount(&self.made[number].mount),
                None => Layer::Dir(Path::new(path)),
            });
        }
        // Unlike an upper that a caller names, one in a list is there, or else the list is wrong.
        let place = Path::new(parsed.upper().unwrap_or("overlay"));
        assemble(&layers, upper.as_ref(), &options, place)?
            .ok_or_else(|| at(place, "take layers that are attached nowhere", Errno::INVAL))
    }
}

fn is_bind(option: &&str) -> bool {
    matches!(*option, "bind" | "rbind")
}

fn text(path: PathBuf) -> Result<String> {
    path.into_os_string()
        .into_string()
        .map_err(|_| Error::new(ErrorKind::InvalidArgument, "the scratch directory's path is no UTF-8"))
}

fn not_supported(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::NotSupported, what)
}
