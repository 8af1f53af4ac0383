//! An EROFS image as a layer, and as a tree by itself.

use std::{
    fmt, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use erofs_format::{FileSource, FileType, Image, Inode, OpenOptions};
use layer_model::{
    Device, Error, ErrorKind, Form, Layer, LayerDir, LayerPathBuf, LayerTree, Metadata, Node, NodeKind,
    ReadAt, Result, Timestamp, Xattrs, tree::InodeId,
};
use overlay_dir::{Namespace, decode_xattrs};

use super::erofs_error;

/// A handle to one layer in an EROFS image: open, superblock and devices checked.
///
/// As a [`LayerTree`] it shows one layer, with [whiteouts](NodeKind::Whiteout) and
/// [markers](layer_model::tree::Markers). [`PlainErofs`] shows the same image as it would be mounted by itself.
#[derive(Clone)]
pub struct ErofsImage {
    view: View,
    name: Arc<Path>,
}

/// An EROFS image as a merged tree: a character device 0:0 is a device, attributes of overlayfs are attributes.
#[derive(Clone)]
pub struct PlainErofs(View);

/// How an image is looked at.
#[derive(Clone)]
struct View {
    image: Image,
    /// Tells the inodes of this image from those of others.
    number: u64,
    /// Where the markers are, if it is a layer.
    markers: Option<Namespace>,
}

impl ErofsImage {
    /// Opens the image in the file `path`, with `devices` for the slots of its device table, in their order.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] for what is no image, or a damaged one; [`ErrorKind::NotSupported`] for features
    /// that are not known; those of opening the files.
    pub fn open<P: AsRef<Path>>(path: impl AsRef<Path>, devices: &[P]) -> Result<Self> {
        Self::open_with(OpenOptions::new(), path, devices)
    }

    /// The same, in the way that `options` say.
    ///
    /// # Errors
    /// As [`ErofsImage::open`].
    pub fn open_with<P: AsRef<Path>>(
        mut options: OpenOptions,
        path: impl AsRef<Path>,
        devices: &[P],
    ) -> Result<Self> {
        let path = path.as_ref();
        let name = |path: &Path, error: Error| error.entry(path.as_os_str().as_encoded_bytes());
        let file = |path: &Path| {
            FileSource::open(path).map_err(|error| name(path, Error::io("open EROFS image", error)))
        };
        for device in devices {
            options = options.device(file(device.as_ref())?);
        }
        let image = options.open(file(path)?).map_err(|error| name(path, erofs_error(error)))?;
        Ok(Self::new(image, path))
    }

    /// A handle to an image that is open already. `name` is what messages call it.
    pub fn new(image: Image, name: impl AsRef<Path>) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let view = View { image, number, markers: Some(Namespace::Trusted) };
        Self { view, name: name.as_ref().into() }
    }

    /// The same layer, with its markers in `user.overlay.*`.
    #[must_use]
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.view.markers = Some(namespace);
        self
    }

    /// The image.
    pub fn image(&self) -> &Image {
        &self.view.image
    }

    /// What messages call it.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// The image as a tree by itself.
    pub fn plain(&self) -> PlainErofs {
        PlainErofs(View { markers: None, ..self.view.clone() })
    }
}

impl Layer for ErofsImage {
    const FORM: Form = Form::EROFS_IMAGE;

    fn as_tree(&self) -> Option<&dyn LayerTree> {
        Some(self)
    }
}

impl LayerTree for ErofsImage {
    fn root(&self) -> Result<Arc<dyn LayerDir>> {
        self.view.root()
    }
}

impl LayerTree for PlainErofs {
    fn root(&self) -> Result<Arc<dyn LayerDir>> {
        self.0.root()
    }
}

impl fmt::Debug for ErofsImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErofsImage").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for PlainErofs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainErofs").field("image", &self.0.image).finish()
    }
}

impl View {
    fn root(&self) -> Result<Arc<dyn LayerDir>> {
        let inode = self.image.root().map_err(erofs_error)?;
        Ok(Arc::new(Dir { view: self.clone(), inode, path: LayerPathBuf::root() }))
    }

    fn node(&self, inode: &Inode) -> Result<Node> {
        let device = || {
            let number = inode.device_number().unwrap_or_default();
            Device::new(number.major, number.minor)
        };
        let kind = match inode.file_type() {
            FileType::Directory => NodeKind::Directory,
            FileType::Regular => NodeKind::File { size: inode.size() },
            FileType::Symlink => {
                NodeKind::Symlink { target: self.image.read_link(inode).map_err(erofs_error)?.into() }
            }
            FileType::CharDevice if self.markers.is_some() && inode.is_whiteout() => NodeKind::Whiteout,
            FileType::CharDevice => NodeKind::CharDevice(device()),
            FileType::BlockDevice => NodeKind::BlockDevice(device()),
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
        };
        let mtime = Timestamp::new(inode.mtime().seconds, inode.mtime().nanoseconds);
        let mode = u32::from(inode.mode() & 0o7777);
        let metadata = Metadata { mode, uid: inode.uid(), gid: inode.gid(), mtime, atime: None };
        let mut node = Node::new(kind, metadata);
        node.inode = Some(InodeId { dev: self.number, ino: inode.nid().0 });
        node.nlink = inode.nlink();
        if node.is_whiteout() {
            return Ok(node);
        }
        let mut xattrs = Xattrs::new();
        for xattr in self.image.xattrs(inode).map_err(erofs_error)? {
            xattrs.insert(&*xattr.name, &*xattr.value);
        }
        match self.markers {
            Some(namespace) if !xattrs.is_empty() => {
                let decoded = decode_xattrs(namespace, &node.kind, &xattrs)?;
                if decoded.whiteout {
                    node.kind = NodeKind::Whiteout;
                }
                (node.xattrs, node.markers) = (decoded.xattrs, decoded.markers);
            }
            _ => node.xattrs = xattrs,
        }
        Ok(node)
    }
}

/// A directory of an image.
struct Dir {
    view: View,
    inode: Inode,
    path: LayerPathBuf,
}

impl Dir {
    fn find(&self, name: &[u8]) -> Result<Option<Inode>> {
        let found = self.view.image.lookup_in(&self.inode, name).map_err(erofs_error)?;
        found.map(|entry| self.view.image.inode(entry.nid).map_err(erofs_error)).transpose()
    }

    fn missing(&self, name: &[u8]) -> Error {
        self.at(Error::new(ErrorKind::NotFound, "no such file"), name)
    }

    fn at(&self, error: Error, name: &[u8]) -> Error {
        match self.path.as_path().join(name) {
            Ok(path) => error.at(path.as_path()),
            Err(_) => error.at(self.path.as_path()),
        }
    }
}

impl LayerDir for Dir {
    fn node(&self) -> Result<Node> {
        self.view.node(&self.inode).map_err(|error| error.at(self.path.as_path()))
    }

    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let found = self.find(name).and_then(|inode| inode.map(|inode| self.view.node(&inode)).transpose());
        found.map_err(|error| self.at(error, name))
    }

    fn names(&self) -> Result<Vec<Box<[u8]>>> {
        let entries = self.view.image.read_dir(&self.inode).map_err(erofs_error)?;
        entries.map(|entry| Ok(entry.map_err(erofs_error)?.name.into())).collect()
    }

    fn entries(&self) -> Result<Vec<(Box<[u8]>, Node)>> {
        let mut entries = self.view.image.read_dir(&self.inode).map_err(erofs_error)?;
        let mut found = Vec::new();
        while let Some(entry) = entries.next_entry().map_err(erofs_error)? {
            let inode = self.view.image.inode(entry.nid).map_err(erofs_error);
            let node = inode.and_then(|inode| self.view.node(&inode));
            found.push((entry.name.into(), node.map_err(|error| self.at(error, entry.name))?));
        }
        Ok(found)
    }

    fn open_dir(&self, name: &[u8]) -> Result<Arc<dyn LayerDir>> {
        let inode = self.find(name)?.ok_or_else(|| self.missing(name))?;
        if !inode.is_dir() {
            return Err(self.at(Error::new(ErrorKind::NotDirectory, "not a directory"), name));
        }
        let path = self.path.as_path().join(name)?;
        // A directory above itself would be listed without end.
        if path.as_path().depth() > self.view.image.limits().max_depth {
            let kind = ErrorKind::LimitExceeded { limit: "max_depth" };
            return Err(Error::new(kind, "the tree is too deep").at(path.as_path()));
        }
        Ok(Arc::new(Dir { view: self.view.clone(), inode, path }))
    }

    fn open_file(&self, name: &[u8]) -> Result<Box<dyn ReadAt>> {
        let inode = self.find(name)?.ok_or_else(|| self.missing(name))?;
        if inode.file_type() != FileType::Regular {
            return Err(self.at(Error::new(ErrorKind::InvalidArgument, "not a regular file"), name));
        }
        if self.view.markers.is_some() {
            let node = self.view.node(&inode).map_err(|error| self.at(error, name))?;
            if node.markers.metacopy.is_some() {
                let kind = ErrorKind::UnsupportedMarker { marker: "metacopy" };
                return Err(self.at(Error::new(kind, "the data is in a lower layer"), name));
            }
            if node.is_whiteout() {
                return Err(self.missing(name));
            }
        }
        Ok(Box::new(File { image: self.view.image.clone(), inode }))
    }
}

/// The content of a file of an image.
struct File {
    image: Image,
    inode: Inode,
}

impl ReadAt for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.image.read_at(&self.inode, buf, offset).map_err(|error| erofs_error(error).into())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.inode.size())
    }
}
