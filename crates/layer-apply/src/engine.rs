//! What both forms have in common: changes become objects of a directory.
//!
//! [`Engine`] takes changes one at a time. What depends on the form (overlay or flattened) it asks its [`Form`]:
//! what lies below a name that the target does not have, what a deletion is, what may be replaced.

mod attrs;
mod create;
mod link;
pub(crate) mod walk;

use std::{collections::HashSet, os::fd::BorrowedFd};

use layer_model::{
    Action, Change, Entry, EntryKind, Error, ErrorKind, LayerPath, LayerPathBuf, Metadata, Monitor, Result,
    Warning, WarningKind, Xattrs,
};
use rustix::{
    fs::{Mode, RawDir, fstatfs, ioctl_getflags, openat},
    io::Errno,
};

use self::walk::Alias;
pub(crate) use self::{
    attrs::Attrs,
    link::{LateLink, check_link, invalid, missing},
};
use crate::{
    budget::Budget,
    fs::{
        dirs::{DirId, Dirs, OpenDir, ROOT, Times},
        kernel::{DIRECTORY, Kernel},
    },
    options::{ApplyOptions, DevicePolicy},
    walk::Below,
};

/// What was found where something new shall be, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cleared {
    /// A directory, which the new directory is merged into.
    Merge,
    /// It is gone. With `opaque`, it hid lower layers, and so must a directory in its place.
    Gone {
        /// Whether what comes next must hide lower layers itself.
        opaque: bool,
    },
}

/// What differs between the forms that a layer takes in a directory.
pub(crate) trait Form: Sized {
    /// Whether a `.wh.`-like object of the form stands at `name` in `dir`: nothing is there, and nothing shines
    /// through.
    fn is_whiteout(engine: &mut Engine<'_, Self>, dir: DirId, name: &[u8]) -> Result<bool>;

    /// What lower layers have at `name` in `parent`, which the target does not have there.
    fn below(engine: &mut Engine<'_, Self>, parent: LayerPath<'_>, name: &[u8]) -> Result<Below>;

    /// Metadata and attributes of a directory that no entry describes.
    fn implied(engine: &mut Engine<'_, Self>, path: LayerPath<'_>) -> Result<(Metadata, Xattrs)>;

    /// Takes away what is at `name` in `dir`, unless it is a directory and a directory is wanted.
    fn clear(engine: &mut Engine<'_, Self>, dir: DirId, name: &[u8], want_dir: bool) -> Result<Cleared>;

    /// A directory was made at `path`, or one that was there got an entry (`merged`).
    fn placed_dir(engine: &mut Engine<'_, Self>, dir: DirId, placed: Placed) -> Result<()>;

    /// Something that is no directory was made at `name` in `dir`.
    fn placed(engine: &mut Engine<'_, Self>, dir: DirId, name: &[u8]) -> Result<()>;

    /// Whether the layer itself placed what is at `name` in `dir`.
    fn is_placed(engine: &mut Engine<'_, Self>, dir: DirId, name: &[u8]) -> Result<bool>;

    /// What was at `path`, and all below it, is gone.
    fn forget(&mut self, path: LayerPath<'_>);

    /// Takes away what lower layers have at `path`.
    fn remove(engine: &mut Engine<'_, Self>, path: LayerPath<'_>) -> Result<()>;

    /// Hides what lower layers have below the directory `path`.
    fn opaque(engine: &mut Engine<'_, Self>, path: LayerPath<'_>) -> Result<()>;

    /// Makes the target of a hard link, which the target directory lacks, available there. Whether it is now.
    fn fetch(engine: &mut Engine<'_, Self>, target: LayerPath<'_>) -> Result<bool>;

    /// Whether a link that still has no target at the end is kept for later, when parents are known.
    fn defer(&mut self, link: LateLink) -> Option<LateLink>;

    /// What remains when all changes are in.
    fn complete(engine: &mut Engine<'_, Self>) -> Result<()>;

    /// Whether attributes of overlayfs in the layer are data here ([`None`]), or dangerous for a layer whose
    /// markers are in this namespace.
    fn marker_namespace(&self) -> Option<overlay_dir::Namespace>;

    /// Whether a character device 0:0 is a deletion here.
    const ZERO_DEVICE_IS_WHITEOUT: bool;
}

/// How a directory came to be where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    /// Made for an entry. With `opaque`, it has to hide lower layers.
    Made {
        /// Whether what it replaced hid lower layers.
        opaque: bool,
    },
    /// It was there, and an entry described it.
    Merged,
    /// Made because something below it was to be made.
    Implied {
        /// Whether what it replaced hid lower layers.
        opaque: bool,
    },
}

/// Applies changes to a directory. See the module.
pub(crate) struct Engine<'m, F> {
    pub(crate) options: ApplyOptions,
    pub(crate) kernel: Kernel,
    pub(crate) monitor: &'m dyn Monitor,
    pub(crate) dirs: Dirs,
    pub(crate) form: F,
    budget: Budget,
    aliases: Vec<Alias>,
    late: Vec<LateLink>,
    skipped_devices: HashSet<LayerPathBuf>,
    /// Directories with entries, where others do not keep their times (containerd's way).
    described: HashSet<LayerPathBuf>,
    owner_warned: bool,
    /// Whether the target is made out of sight: nobody else gets in before it is whole.
    staged: bool,
    /// Whether a directory may have a default access control list.
    acls: bool,
    /// Whether new objects belong to whom they should without being told; unknown until one was looked at.
    owners_as_expected: Option<bool>,
}

impl<'m, F: Form> Engine<'m, F> {
    /// Works in `root`. `acls` says whether directories in there may have default access control lists.
    pub(crate) fn new(
        options: ApplyOptions,
        kernel: Kernel,
        root: OpenDir,
        form: F,
        acls: bool,
        monitor: &'m dyn Monitor,
    ) -> Self {
        let budget = Budget::new(options.limits.clone());
        let mut engine = Self {
            options,
            kernel,
            monitor,
            dirs: Dirs::new(root),
            form,
            budget,
            aliases: Vec::new(),
            late: Vec::new(),
            skipped_devices: HashSet::new(),
            described: HashSet::new(),
            owner_warned: false,
            staged: false,
            acls,
            owners_as_expected: None,
        };
        engine.dirs.get_mut(ROOT).default_acl = engine.has_default_acl(ROOT);
        engine
    }

    /// How many changes were taken, and how many bytes of content they had.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.budget.entries, self.budget.bytes)
    }

    pub(crate) fn warn(&self, kind: WarningKind, path: LayerPath<'_>, detail: &[u8]) {
        self.monitor.warn(&Warning::new(kind, path).detail(detail));
    }

    /// Takes one change.
    pub(crate) fn change(&mut self, change: Change<'_>) -> Result<()> {
        self.budget.entry(change.path)?;
        match change.action {
            Action::Upsert(entry) => self.upsert(change.path, entry),
            Action::Remove => F::remove(self, change.path),
            Action::Opaque => F::opaque(self, change.path),
        }
    }

    /// Completes the target: links that came before their target, and the times of directories.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.late_links()?;
        F::complete(self)?;
        self.dirs.finish()
    }

    fn upsert(&mut self, path: LayerPath<'_>, entry: Entry<'_>) -> Result<()> {
        let Some((parent, name)) = path.split_last() else { return self.root_entry(&entry) };
        match entry.kind {
            EntryKind::Directory => {
                let attrs = self.attrs(path, &entry.metadata, entry.xattrs)?;
                let dir = self.parent_dir(parent)?;
                self.directory(dir, name, &attrs)
            }
            EntryKind::File(content) => {
                let attrs = self.attrs(path, &entry.metadata, entry.xattrs)?;
                let dir = self.parent_dir(parent)?;
                self.file(dir, name, &attrs, content)
            }
            EntryKind::Symlink { target: [] } => {
                Err(Error::new(ErrorKind::InvalidArchive, "symbolic link without a target"))
            }
            EntryKind::Symlink { target } => {
                let attrs = self.attrs(path, &entry.metadata, entry.xattrs)?;
                let dir = self.parent_dir(parent)?;
                self.symlink(dir, name, &attrs, target)
            }
            EntryKind::HardLink { target } => self.hard_link(path, target, &entry.metadata, entry.xattrs),
            EntryKind::CharDevice(_) | EntryKind::BlockDevice(_) => self.device_entry(path, &entry),
            EntryKind::Fifo => {
                let attrs = self.attrs(path, &entry.metadata, entry.xattrs)?;
                let dir = self.parent_dir(parent)?;
                self.special(dir, name, &attrs, &entry.kind)
            }
        }
    }

    fn root_entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        match entry.kind {
            EntryKind::Directory => {}
            // containerd ignores all of them, and others at least links: nothing is lost by it.
            _ if self.ignores_at_root(&entry.kind) => {
                self.warn(WarningKind::RootIgnored, LayerPath::ROOT, entry.kind.name().as_bytes());
                return Ok(());
            }
            _ => return Err(Error::new(ErrorKind::InvalidArchive, "an entry would replace the root")),
        }
        if !self.options.apply_root_metadata {
            return Ok(());
        }
        let attrs = self.attrs(LayerPath::ROOT, &entry.metadata, entry.xattrs)?;
        self.describe_dir(ROOT, &attrs, false)?;
        F::placed_dir(self, ROOT, Placed::Merged)
    }

    fn ignores_at_root(&self, kind: &EntryKind<'_>) -> bool {
        !self.options.strict && (matches!(kind, EntryKind::HardLink { .. }) || !self.options.is_spec())
    }

    fn device_entry(&mut self, path: LayerPath<'_>, entry: &Entry<'_>) -> Result<()> {
        let (device, is_char) = match entry.kind {
            EntryKind::CharDevice(device) => (device, true),
            EntryKind::BlockDevice(device) => (device, false),
            _ => return Ok(()),
        };
        if !device.fits_linux() {
            let message = format!("device number {}:{} does not fit", device.major, device.minor);
            return Err(Error::new(ErrorKind::InvalidArchive, message));
        }
        if is_char && (device.major, device.minor) == (0, 0) {
            if self.options.strict {
                return Err(Error::new(
                    ErrorKind::InvalidArchive,
                    "character device 0:0 stands for a deletion",
                ));
            }
            self.warn(WarningKind::CharZeroDevice, path, b"");
            if F::ZERO_DEVICE_IS_WHITEOUT && self.options.is_spec() {
                return F::remove(self, path);
            }
        }
        let make = match self.options.device_policy {
            DevicePolicy::Fail => {
                return Err(Error::new(ErrorKind::NotSupported, "the layer has a device node"));
            }
            DevicePolicy::Create => true,
            DevicePolicy::Skip | DevicePolicy::Placeholder => false,
            DevicePolicy::Auto => self.kernel.may_mknod,
        };
        let placeholder = self.options.device_policy == DevicePolicy::Placeholder;
        if !make {
            self.warn(WarningKind::DeviceSkipped, path, entry.kind.name().as_bytes());
            if !placeholder {
                self.skipped_devices.insert(path.to_owned());
                return Ok(());
            }
        }
        let mut attrs = self.attrs(path, &entry.metadata, entry.xattrs)?;
        let Some((parent, name)) = path.split_last() else { return Ok(()) };
        let dir = self.parent_dir(parent)?;
        if placeholder {
            attrs.mode = 0;
            return self.file(dir, name, &attrs, layer_model::Content::empty());
        }
        self.special(dir, name, &attrs, &entry.kind)
    }

    /// Removes `name` in `dir`, whatever it is, and what is known of it.
    pub(crate) fn remove_object(&mut self, dir: DirId, name: &[u8]) -> Result<()> {
        let path = self.dirs.join(dir, name)?;
        self.forget(path.as_path())?;
        let uid = self.kernel.uid;
        match self.dirs.work(dir, uid, |fd| rustix::fs::unlinkat(fd, name, rustix::fs::AtFlags::empty())) {
            Ok(()) => Ok(()),
            // A directory, or an error that is worth the longer way to a good message.
            Err(_) => crate::fs::remove::remove(&mut self.kernel, self.dirs.fd(dir), name, path.as_path()),
        }
    }

    /// Lets go of all that is known of `path` and below it, as it is about to go.
    pub(crate) fn forget(&mut self, path: LayerPath<'_>) -> Result<()> {
        self.close_below(path)?;
        self.form.forget(path);
        Ok(())
    }

    /// Closes the directories at `path` and below it.
    pub(crate) fn close_below(&mut self, path: LayerPath<'_>) -> Result<()> {
        self.aliases.clear();
        self.dirs.forget(path)
    }

    /// The names in the directory `dir`.
    pub(crate) fn names(&mut self, dir: DirId) -> Result<Vec<Box<[u8]>>> {
        let uid = self.kernel.uid;
        let names = self.dirs.look(dir, uid, names_in);
        names.map_err(|e| Error::io("list directory", e).at(self.dirs.get(dir).path.as_path()))
    }

    /// Says that an entry replaces `name` in `dir`: one of the same layer (`own`), or one of another spelling.
    pub(crate) fn warn_replaced(&mut self, dir: DirId, name: &[u8], own: bool) -> Result<()> {
        let path = self.dirs.join(dir, name)?;
        if folds_names(self.dirs.fd(dir)) && !self.names(dir)?.iter().any(|have| **have == *name) {
            self.warn(WarningKind::NameCollision, path.as_path(), b"");
        } else if own {
            self.warn(WarningKind::DuplicateEntry, path.as_path(), b"");
        }
        Ok(())
    }

    /// Gives the root of a new target its metadata.
    pub(crate) fn describe_new_root(&mut self, implied: &(Metadata, Xattrs)) -> Result<()> {
        self.staged = true;
        let attrs = self.attrs(LayerPath::ROOT, &implied.0, &implied.1)?;
        self.describe_dir(ROOT, &attrs, true)?;
        self.acls = self.dirs.get(ROOT).default_acl;
        Ok(())
    }

    /// Gives a directory that no entry describes its metadata, now that it is known.
    pub(crate) fn describe_implied(
        &mut self,
        path: LayerPath<'_>,
        implied: &(Metadata, Xattrs),
    ) -> Result<()> {
        let attrs = self.attrs(path, &implied.0, &implied.1)?;
        let dir = self.make_dirs(path)?;
        self.describe_dir(dir, &attrs, false)
    }

    /// What times a directory keeps that the layer does not describe.
    pub(crate) fn keeps_times(&self) -> bool {
        self.options.is_spec()
    }

    /// Says that the directory's times are the layer's.
    pub(crate) fn set_times(&mut self, dir: DirId, attrs: &Attrs<'_>) {
        let dir = self.dirs.get_mut(dir);
        dir.times = Times::Set { atime: attrs.atime, mtime: attrs.mtime };
        if !self.options.is_spec() {
            self.described.insert(dir.path.clone());
        }
    }
}

/// The names in an open directory, without `.` and `..`.
fn names_in(dir: BorrowedFd<'_>) -> Result<Vec<Box<[u8]>>, Errno> {
    let listing = openat(dir, c".", DIRECTORY, Mode::empty())?;
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut entries = RawDir::new(listing, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        match entry?.file_name().to_bytes() {
            b"." | b".." => {}
            name => names.push(name.into()),
        }
    }
    Ok(names)
}

/// Whether two spellings may be one name in a directory: file systems of other systems, and directories of ext4,
/// F2FS and tmpfs that are marked so.
fn folds_names(dir: BorrowedFd<'_>) -> bool {
    // Magic numbers of statfs(2): FAT, exFAT, NTFS, HFS+, CIFS, SMB2.
    const FOLDING: [u64; 7] =
        [0x4d44, 0x2011_bab0, 0x5346_544e, 0x7366_746e, 0x482b, 0xff53_4d42, 0xfe53_4d42];
    // FS_CASEFOLD_FL of linux/fs.h.
    const CASEFOLD: u32 = 0x4000_0000;
    let marked = || ioctl_getflags(dir).is_ok_and(|flags| flags.bits() & CASEFOLD != 0);
    fstatfs(dir).is_ok_and(|stat| FOLDING.contains(&(stat.f_type as u64))) || marked()
}
