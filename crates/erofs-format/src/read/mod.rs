//! Reading images.
//!
//! [`Image`] is the entry: open it, look inodes up, list directories, read content. Every field is treated as
//! hostile. Nothing is allocated by a size that the image claims: directory blocks and xattrs are bounded by
//! the format (64 KiB, about 17 MiB an inode), content is read into the caller's buffers.

mod content;
mod dir;
mod inode;
mod lookup;
mod meta;
mod superblock;
mod walk;
mod xattr;

use std::sync::Arc;

pub use content::{Extent, Extents, FileReader, Location};
pub use dir::{DirEntry, DirEntryRef, ReadDir};
pub use inode::{Inode, Layout};
pub use meta::Bytes;
pub use superblock::{Device, Superblock};
pub use walk::{Walk, WalkEntry};
pub use xattr::Xattr;

use crate::{
    error::{Error, ErrorKind, Result},
    source::{ReadAt, Section},
};
use meta::Cache;
use xattr::Prefix;

/// Bounds on what an image may make a reader do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// How deep a walk goes. Linux paths of 4096 bytes cannot be deeper than 2048.
    pub max_depth: usize,
    /// How many entries a walk or a check looks at. The default is far beyond real images; it ends walks of
    /// images that share directory blocks to look endless.
    pub max_entries: u64,
    /// How many symbolic links one resolution follows; Linux follows 40.
    pub max_symlinks: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_depth: 1024, max_entries: 1 << 28, max_symlinks: 40 }
    }
}

/// How to open an image.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct OpenOptions {
    devices: Vec<Arc<dyn ReadAt>>,
    offset: u64,
    lenient: bool,
    limits: Limits,
}

impl OpenOptions {
    /// The defaults: no extra devices, strict.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the source of the next device slot. Give all of them or none; with none, device blocks are looked
    /// for in the primary source, behind the image, as Linux 6.4 does.
    #[must_use]
    pub fn device(mut self, source: impl ReadAt + 'static) -> Self {
        self.devices.push(Arc::new(source));
        self
    }

    /// The image starts here in the primary source.
    #[must_use]
    pub fn offset(mut self, bytes: u64) -> Self {
        self.offset = bytes;
        self
    }

    /// Goes on where the kernel does: ignores a wrong checksum, the order of directories, link counts.
    #[must_use]
    pub fn lenient(mut self, lenient: bool) -> Self {
        self.lenient = lenient;
        self
    }

    /// Sets the bounds.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Opens the image in `primary`: reads the superblock and what belongs to it, and the root.
    ///
    /// # Errors
    /// `NotErofs`, `ChecksumMismatch`, `Unsupported`, `DeviceCount`, `Corrupt`.
    pub fn open(self, primary: impl ReadAt + 'static) -> Result<Image> {
        let primary: Arc<dyn ReadAt> = match self.offset {
            0 => Arc::new(primary),
            offset => Arc::new(Section::new(primary, offset, u64::MAX)),
        };
        let superblock = Superblock::read(&*primary, !self.lenient)?;
        let devices = superblock::read_devices(&*primary, &superblock)?;
        if !self.devices.is_empty() && self.devices.len() != devices.len() {
            let message =
                format!("{} devices were given, the image has {}", self.devices.len(), devices.len());
            return Err(
                Error::new(ErrorKind::DeviceCount, "device table", message).at(superblock.device_table)
            );
        }
        let flat = self.devices.is_empty();
        let sources = std::iter::once(primary).chain(self.devices).collect();
        let mut inner = Inner {
            superblock,
            devices,
            sources,
            flat,
            prefixes: Vec::new(),
            metabox: None,
            cache: Cache::new(),
            lenient: self.lenient,
            limits: self.limits,
        };
        inner = open_metabox(inner)?;
        let mut image = Image(Arc::new(inner));
        let prefixes = image.read_prefixes()?;
        if let Some(inner) = Arc::get_mut(&mut image.0) {
            inner.prefixes = prefixes;
        }
        let root = image.root()?;
        if !root.is_dir() {
            return Err(Error::corrupt("superblock", root.position, "the root is not a directory"));
        }
        Ok(image)
    }
}

/// Finds the metabox inode, which takes an image to read it with.
fn open_metabox(inner: Inner) -> Result<Inner> {
    let Some(nid) = inner.superblock.metabox else { return Ok(inner) };
    let image = Image(Arc::new(inner));
    let metabox = image.inode(nid)?;
    if metabox.file_type() != crate::FileType::Regular {
        return Err(Error::corrupt("metabox", metabox.position, "is not a regular file"));
    }
    match Arc::into_inner(image.0) {
        Some(inner) => Ok(Inner { metabox: Some(metabox), ..inner }),
        None => Err(Error::corrupt("metabox", metabox.position, "is in use")),
    }
}

impl std::fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenOptions")
            .field("devices", &self.devices.len())
            .field("offset", &self.offset)
            .field("lenient", &self.lenient)
            .field("limits", &self.limits)
            .finish()
    }
}

/// An open image. Cheap to clone; clones share the sources and the cache.
#[derive(Clone)]
pub struct Image(Arc<Inner>);

struct Inner {
    superblock: Superblock,
    devices: Vec<Device>,
    /// The primary source, then one for each device, unless `flat`.
    sources: Vec<Arc<dyn ReadAt>>,
    flat: bool,
    prefixes: Vec<Prefix>,
    metabox: Option<Inode>,
    cache: Cache,
    lenient: bool,
    limits: Limits,
}

/// Where metadata is addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    /// The primary image.
    Image,
    /// The content of the metabox.
    Metabox,
}

impl Image {
    /// Opens an image without extra devices. See [`OpenOptions`].
    ///
    /// # Errors
    /// As [`OpenOptions::open`].
    pub fn open(primary: impl ReadAt + 'static) -> Result<Self> {
        OpenOptions::new().open(primary)
    }

    /// The superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.0.superblock
    }

    /// The extra devices, slot 1 first.
    pub fn devices(&self) -> &[Device] {
        &self.0.devices
    }

    /// The bounds that walks of this image keep.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// The size of the primary source in bytes.
    pub fn size(&self) -> u64 {
        self.0.sources[0].size()
    }

    /// Whether findings that the kernel accepts are accepted too.
    pub fn is_lenient(&self) -> bool {
        self.0.lenient
    }

    /// The root directory.
    ///
    /// # Errors
    /// As [`Image::inode`].
    pub fn root(&self) -> Result<Inode> {
        self.inode(self.superblock().root)
    }

    /// The source with that number: 0 is the primary, n the device of slot n.
    pub(crate) fn source(&self, number: usize) -> Option<&Arc<dyn ReadAt>> {
        self.0.sources.get(number)
    }

    /// How many directory entries there can be at most: each takes 12 bytes and a name, of its own unless
    /// directories share blocks to look endless.
    pub(crate) fn max_entries(&self) -> u64 {
        self.limits().max_entries.min(self.size() / 12)
    }

    pub(crate) fn is_flat(&self) -> bool {
        self.0.flat
    }

    pub(crate) fn prefix_table(&self) -> Option<(u64, u64)> {
        let end = self.0.prefixes.last().map(|prefix| prefix.end)?;
        self.prefixes_are_plain().then_some((self.superblock().prefix_start, end))
    }

    fn space_size(&self, space: Space) -> u64 {
        match (space, &self.0.metabox) {
            (Space::Image, _) => self.size(),
            (Space::Metabox, Some(metabox)) => metabox.size(),
            (Space::Metabox, None) => 0,
        }
    }

    /// `len` bytes of metadata for the structure `what`.
    pub(crate) fn meta(
        &self,
        space: Space,
        offset: u64,
        len: usize,
        what: &'static str,
    ) -> Result<Bytes<'_>> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.space_size(space)) {
            return Err(Error::corrupt(what, offset, "is out of the image"));
        }
        match (space, &self.0.metabox) {
            (Space::Metabox, Some(metabox)) => self.content(metabox, offset, len, what),
            _ => {
                let read = self.0.cache.read(&*self.0.sources[0], offset, len);
                read.map_err(|error| Error::io("read metadata", error).at(offset))
            }
        }
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image")
            .field("superblock", &self.0.superblock)
            .field("devices", &self.0.devices)
            .finish_non_exhaustive()
    }
}
