//! What changes become in the tree of an image.
//!
//! The rules are those of [`OverlayApplier`](crate::OverlayApplier), on a tree in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead, BufReader, Read, Seek, Write},
};

use erofs_format::{DeviceNumber, FileType, NewFile, NodeId};
use layer_model::{
    Action, Change, Content, Device, Entry, EntryKind, Error, ErrorKind, LayerPath, LayerPathBuf, Metadata,
    Monitor, Origin, Result, Timestamp, Warning, WarningKind, Xattrs, content::Body, metadata::MODE_MASK,
};
use overlay_dir::{Namespace, marker};

use super::{
    erofs_error,
    hide::ORIGIN,
    options::{ErofsOptions, Whiteouts},
    output::{NewContent, Output},
};
use crate::{
    budget::Budget,
    engine::{LateLink, invalid},
    lowers::{Lowers, below},
    options::OverlayXattrs,
    walk::{Place, Walker},
};

/// How much of a file is read at once.
const PIECE: usize = 256 * 1024;

/// An image in the making.
///
/// Memory is that of the [`Tree`](erofs_format::Tree), and a path for each directory that no entry describes, that
/// is opaque, or that holds whiteouts.
pub(super) struct Builder<'m, W> {
    pub(super) writer: Output<W>,
    pub(super) lowers: Lowers,
    pub(super) options: ErofsOptions,
    pub(super) monitor: &'m dyn Monitor,
    pub(super) budget: Budget,
    /// Directories that no entry describes, and whether a parent may be able to.
    pub(super) implied: BTreeMap<LayerPathBuf, bool>,
    /// Directories that hold whiteouts.
    pub(super) whiteout_dirs: BTreeSet<LayerPathBuf>,
    /// Names of lower layers that were brought up for hard links.
    pub(super) fetched: BTreeSet<LayerPathBuf>,
    pub(super) late: Vec<LateLink>,
    /// The directory that was found last, whose path has no links. Let go when anything is removed.
    pub(super) last: Option<(LayerPathBuf, NodeId)>,
}

/// Metadata and attributes in the image's terms.
pub(super) type Described = (erofs_format::Metadata, Xattrs);

impl<'m, W: Read + Write + Seek> Builder<'m, W> {
    pub(super) fn begin(
        writer: Output<W>,
        lowers: Lowers,
        options: ErofsOptions,
        monitor: &'m dyn Monitor,
    ) -> Result<Self> {
        let mut builder = Self {
            writer,
            implied: BTreeMap::from([(LayerPathBuf::root(), lowers.is_unknown())]),
            lowers,
            budget: Budget::new(options.limits.clone()),
            options,
            monitor,
            whiteout_dirs: BTreeSet::new(),
            fetched: BTreeSet::new(),
            late: Vec::new(),
            last: None,
        };
        let known = builder.lowers.describe(LayerPath::ROOT, true)?;
        let (metadata, xattrs) = known.unwrap_or_else(|| builder.options.implied_dir());
        builder.describe_dir(builder.root(), LayerPath::ROOT, &metadata, &xattrs)?;
        Ok(builder)
    }

    pub(super) fn change(&mut self, change: Change<'_>) -> Result<()> {
        self.budget.entry(change.path)?;
        if self.options.excludes(change.path) {
            return Ok(());
        }
        match change.action {
            Action::Upsert(entry) => self.upsert(change.path, entry, change.origin),
            Action::Remove => self.remove(change.path),
            Action::Opaque => self.opaque(change.path),
        }
    }

    /// Completes the tree: links that came before their target, the opaque root, marks on directories with
    /// whiteouts.
    pub(super) fn complete(&mut self) -> Result<()> {
        self.late_links()?;
        if self.lowers.is_root_opaque() && self.options.whiteouts == Whiteouts::Overlay {
            self.write_root_opaque()?;
        }
        for path in std::mem::take(&mut self.whiteout_dirs) {
            // Overlayfs looks for whiteouts in the lowest layer only where this attribute is (Linux commit
            // b79e05aaa166).
            if let Place::Here(dir) = self.walk(path.as_path())?.place {
                self.mark(dir, ORIGIN)?;
            }
        }
        Ok(())
    }

    pub(super) fn warn(&self, kind: WarningKind, path: LayerPath<'_>, detail: &[u8]) {
        self.monitor.warn(&Warning::new(kind, path).detail(detail));
    }

    fn upsert(&mut self, path: LayerPath<'_>, entry: Entry<'_>, origin: Origin) -> Result<()> {
        let Some((parent, name)) = path.split_last() else { return self.root_entry(&entry) };
        let (metadata, xattrs) = (entry.metadata, entry.xattrs);
        let file = match entry.kind {
            EntryKind::Directory => return self.directory(parent, name, &metadata, xattrs),
            EntryKind::File(content) => {
                return self.file(parent, name, &metadata, xattrs, content, origin.data_offset).map(drop);
            }
            EntryKind::HardLink { target } => return self.hard_link(path, target, &metadata, xattrs),
            EntryKind::Symlink { target: [] } => return Err(invalid("symbolic link without a target")),
            EntryKind::Symlink { target } => NewFile::Symlink(target),
            EntryKind::CharDevice(device) if device == Device::new(0, 0) => {
                self.warn(WarningKind::CharZeroDevice, path, b"");
                match self.options.whiteouts {
                    Whiteouts::Overlay => return self.remove(path),
                    Whiteouts::Leave => NewFile::CharDevice(number(device)?),
                }
            }
            EntryKind::CharDevice(device) => NewFile::CharDevice(number(device)?),
            EntryKind::BlockDevice(device) => NewFile::BlockDevice(number(device)?),
            EntryKind::Fifo => NewFile::Fifo,
        };
        self.special(parent, name, &metadata, xattrs, file).map(drop)
    }

    fn root_entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        match entry.kind {
            EntryKind::Directory if self.options.ignore_root => Ok(()),
            EntryKind::Directory => {
                self.implied.remove(&LayerPathBuf::root());
                self.describe_dir(self.root(), LayerPath::ROOT, &entry.metadata, entry.xattrs)
            }
            EntryKind::HardLink { .. } => {
                self.warn(WarningKind::RootIgnored, LayerPath::ROOT, entry.kind.name().as_bytes());
                Ok(())
            }
            _ => Err(invalid("an entry would replace the root")),
        }
    }

    fn directory(
        &mut self,
        parent: LayerPath<'_>,
        name: &[u8],
        metadata: &Metadata,
        xattrs: &Xattrs,
    ) -> Result<()> {
        let (above, dir) = self.parent_dir(parent)?;
        let path = above.as_path().join(name)?;
        let found = self.writer.tree().find(dir, name);
        if let Some(there) = found
            && self.writer.tree().file_type(there) == FileType::Directory
        {
            if self.implied.remove(&path).is_none() {
                self.warn(WarningKind::DuplicateEntry, path.as_path(), b"");
            }
            return self.describe_dir(there, path.as_path(), metadata, xattrs);
        }
        let replaces = self.clear(dir, name, path.as_path())?;
        let (metadata, xattrs) = self.described(path.as_path(), metadata, xattrs)?;
        let tree = self.writer.tree_mut();
        let made = tree.add(dir, name, metadata, NewFile::Directory).map_err(erofs_error)?;
        tree.set_xattrs(made, xattrs.iter()).map_err(erofs_error)?;
        if replaces { self.hide(made, path.as_path()) } else { Ok(()) }
    }

    pub(super) fn file(
        &mut self,
        parent: LayerPath<'_>,
        name: &[u8],
        metadata: &Metadata,
        xattrs: &Xattrs,
        mut content: Content<'_>,
        archive_offset: Option<u64>,
    ) -> Result<NodeId> {
        self.budget.content(&mut content)?;
        let (above, dir) = self.parent_dir(parent)?;
        let path = above.as_path().join(name)?;
        self.clear(dir, name, path.as_path())?;
        let (metadata, xattrs) = self.described(path.as_path(), metadata, xattrs)?;
        let mut failed = None;
        let mut add = |size, extents, data: &mut dyn BufRead| {
            let data = &mut Input { content: data, failed: &mut failed };
            let content = NewContent { size, extents, archive_offset, data };
            self.writer.add_file(dir, name, metadata, &xattrs, content)
        };
        let added = match content.into_parts() {
            (size, Body::Bytes(mut bytes)) => add(size, None, &mut bytes),
            (size, Body::Stream(stream)) => add(size, None, &mut { stream }),
            (size, Body::Range { file, offset }) => {
                let reader = Content::from_range(file, offset, size).into_reader();
                let room = usize::try_from(size).map_or(PIECE, |size| size.min(PIECE));
                add(size, None, &mut BufReader::with_capacity(room, reader))
            }
            (size, Body::Sparse { extents, packed }) => add(size, Some(extents), &mut { packed }),
            _ => return Err(Error::new(ErrorKind::NotSupported, "content of a form that is not known here")),
        };
        match (added, failed) {
            // Not that writing the image failed, but why.
            (Err(_), Some(error)) => Err(Error::io("read content", error)),
            (added, _) => added,
        }
    }

    /// Adds what has no content.
    pub(super) fn special(
        &mut self,
        parent: LayerPath<'_>,
        name: &[u8],
        metadata: &Metadata,
        xattrs: &Xattrs,
        file: NewFile<'_>,
    ) -> Result<NodeId> {
        let (above, dir) = self.parent_dir(parent)?;
        let path = above.as_path().join(name)?;
        self.clear(dir, name, path.as_path())?;
        let (metadata, xattrs) = self.described(path.as_path(), metadata, xattrs)?;
        let tree = self.writer.tree_mut();
        let made = tree.add(dir, name, metadata, file).map_err(erofs_error)?;
        tree.set_xattrs(made, xattrs.iter()).map_err(erofs_error)?;
        Ok(made)
    }

    /// Takes away what is at `name` in `dir`. Whether something was: it hid lower layers, and so must a directory in
    /// its place.
    pub(super) fn clear(&mut self, dir: NodeId, name: &[u8], path: LayerPath<'_>) -> Result<bool> {
        let Some(there) = self.writer.tree().find(dir, name) else { return Ok(false) };
        if !self.is_whiteout(there) && !self.implied.contains_key(&path.to_owned()) {
            self.warn(WarningKind::DuplicateEntry, path, b"");
        }
        self.remove_object(dir, name, path);
        Ok(true)
    }

    pub(super) fn remove_object(&mut self, dir: NodeId, name: &[u8], path: LayerPath<'_>) {
        self.writer.tree_mut().remove(dir, name);
        self.last = None;
        self.lowers.forget(path);
        let implied = self.implied.range(path.to_owned()..).map(|(have, _)| have);
        let gone: Vec<_> = implied.take_while(|have| have.as_path().starts_with(path)).cloned().collect();
        for path in gone {
            self.implied.remove(&path);
        }
        for set in [&mut self.whiteout_dirs, &mut self.fetched] {
            for gone in below(set, path) {
                set.remove(&gone);
            }
        }
    }

    pub(super) fn is_whiteout(&self, node: NodeId) -> bool {
        self.options.whiteouts == Whiteouts::Overlay && self.writer.tree().is_whiteout(node)
    }

    /// Gives a directory the metadata of an entry. Attributes that it had stay.
    pub(super) fn describe_dir(
        &mut self,
        dir: NodeId,
        path: LayerPath<'_>,
        metadata: &Metadata,
        xattrs: &Xattrs,
    ) -> Result<()> {
        let (metadata, xattrs) = self.described(path, metadata, xattrs)?;
        self.redescribe(dir, metadata, &xattrs)
    }

    pub(super) fn redescribe(
        &mut self,
        node: NodeId,
        metadata: erofs_format::Metadata,
        added: &Xattrs,
    ) -> Result<()> {
        let mut all = Xattrs::new();
        for (name, value) in self.writer.tree().xattrs(node) {
            all.insert(name, value);
        }
        for (name, value) in added.iter() {
            all.insert(name, value);
        }
        self.writer.describe(node, metadata, &all)
    }

    /// Translates metadata and attributes of the layer.
    pub(super) fn described(
        &self,
        path: LayerPath<'_>,
        metadata: &Metadata,
        xattrs: &Xattrs,
    ) -> Result<Described> {
        let (uid, gid) = self.options.owner;
        let Timestamp { secs, nanos } = metadata.mtime;
        let described = erofs_format::Metadata {
            mode: (metadata.mode & MODE_MASK) as u16,
            uid: uid.unwrap_or(metadata.uid),
            gid: gid.unwrap_or(metadata.gid),
            mtime: erofs_format::Timestamp { seconds: secs, nanoseconds: nanos },
        };
        let mut kept = Xattrs::new();
        if !self.options.no_xattrs {
            for (name, value) in xattrs.iter() {
                if self.options.drop_xattrs.iter().any(|prefix| name.starts_with(prefix)) {
                    continue;
                }
                match self.stored_name(name) {
                    Some(stored) => drop(kept.insert(stored, value)),
                    None => self.warn(WarningKind::XattrDropped, path, name),
                }
            }
        }
        Ok((described, kept))
    }

    /// The name under which an attribute is stored, [`None`] when it is left out.
    fn stored_name(&self, name: &[u8]) -> Option<Vec<u8>> {
        // Only names with certain beginnings have a place in the format.
        erofs_format::raw::xattr::split_name(name)?;
        let marker_namespace = self.options.marker_namespace();
        let reserved = |namespace: Namespace| name.starts_with(namespace.prefix());
        match (self.options.whiteouts, self.options.overlay_xattrs) {
            (Whiteouts::Overlay, OverlayXattrs::Escape) if reserved(marker_namespace) => {
                marker::escape(marker_namespace, name)
            }
            (Whiteouts::Overlay, OverlayXattrs::Drop)
                if reserved(Namespace::Trusted) || reserved(Namespace::User) =>
            {
                None
            }
            _ => Some(name.to_vec()),
        }
    }
}

pub(super) fn number(device: Device) -> Result<DeviceNumber> {
    if !device.fits_linux() {
        let message = format!("device number {}:{} does not fit", device.major, device.minor);
        return Err(Error::new(ErrorKind::InvalidArchive, message));
    }
    Ok(DeviceNumber { major: device.major, minor: device.minor })
}

/// Content on its way into the image. Keeps the error of the source, which the writer would wrap.
struct Input<'a, R: ?Sized> {
    content: &'a mut R,
    failed: &'a mut Option<io::Error>,
}

impl<R: ?Sized> Input<'_, R> {
    fn note<T>(failed: &mut Option<io::Error>, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            let copy = io::Error::from(error.kind());
            if error.kind() != io::ErrorKind::Interrupted {
                *failed = Some(error);
            }
            copy
        })
    }
}

impl<R: Read + ?Sized> Read for Input<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Self::note(self.failed, self.content.read(buf))
    }
}

impl<R: BufRead + ?Sized> BufRead for Input<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Self::note(self.failed, self.content.fill_buf())
    }

    fn consume(&mut self, len: usize) {
        self.content.consume(len);
    }
}
