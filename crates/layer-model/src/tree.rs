//! Layers and trees that can be looked into.
//!
//! [`LayerTree`] is the one view on everything that has directories: an overlay upper directory, an EROFS
//! image, a plain directory, or a whole stack of layers seen as one ([`Merged`](crate::merged::Merged)). A
//! single layer shows its markers ([`NodeKind::Whiteout`], [`Markers`]); a merged view has none left.
//! Nothing needs to be mounted to look.

use std::sync::Arc;

use crate::{Device, Error, ErrorKind, LayerPath, Metadata, ReadAt, Result, Xattrs};

/// A tree of directories.
///
/// # Laws
/// - The tree does not change while it is looked into; where it does, the outcome is an error or either
///   state, never a panic.
/// - Nothing outside the tree is ever looked at: symbolic links are shown, not followed.
pub trait LayerTree: Send + Sync {
    /// The root directory.
    ///
    /// # Errors
    /// Those of reading the form.
    fn root(&self) -> Result<Arc<dyn LayerDir>>;
}

/// One open directory of a [`LayerTree`].
pub trait LayerDir: Send + Sync {
    /// The directory itself.
    ///
    /// # Errors
    /// Those of reading the form.
    fn node(&self) -> Result<Node>;

    /// What `name` is, [`None`] where there is nothing.
    ///
    /// # Errors
    /// Those of reading the form.
    fn lookup(&self, name: &[u8]) -> Result<Option<Node>>;

    /// All names in bytewise order, without `.` and `..`; whiteouts included where the tree is one layer.
    ///
    /// # Errors
    /// Those of reading the form.
    fn names(&self) -> Result<Vec<Box<[u8]>>>;

    /// All names with what they are, in bytewise order: [`LayerDir::names`] and [`LayerDir::lookup`] in one.
    ///
    /// For whoever wants both, as a form may have the second at hand while it finds the first: a merged view
    /// has to know which names are whiteouts. Names that are gone by the time they are looked at are left
    /// out.
    ///
    /// # Errors
    /// Those of reading the form.
    fn entries(&self) -> Result<Vec<(Box<[u8]>, Node)>> {
        let names = self.names()?.into_iter();
        names.filter_map(|name| self.lookup(&name).map(|node| Some((name, node?))).transpose()).collect()
    }

    /// Opens the directory `name`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::NotDirectory`], those of reading the form.
    fn open_dir(&self, name: &[u8]) -> Result<Arc<dyn LayerDir>>;

    /// Opens the data of the regular file `name`. In a single layer, a metacopy file has no data of its own
    /// and gives [`ErrorKind::UnsupportedMarker`].
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::InvalidArgument`] for what is no regular file, those of reading
    /// the form.
    fn open_file(&self, name: &[u8]) -> Result<Box<dyn ReadAt>>;
}

/// What there is to know about one name, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// The type, and what only that type has.
    pub kind: NodeKind,
    /// Mode, owner, times; owners as the container sees them.
    pub metadata: Metadata,
    /// Extended attributes as the merged tree has them: markers are taken out, escaped names unescaped.
    pub xattrs: Xattrs,
    /// The inode, where the form has such a thing: names with the same identity are hard links.
    pub inode: Option<InodeId>,
    /// How many names the inode has, as the form says.
    pub nlink: u32,
    /// Where the content comes from, if not from `inode`: the inode below a metacopy.
    pub data: Option<InodeId>,
    /// The overlay markers, all unset in a merged view.
    pub markers: Markers,
}

/// The types of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its size in bytes.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// The raw target.
        target: Box<[u8]>,
    },
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A FIFO.
    Fifo,
    /// A socket: exists in trees, never in a layer tar.
    Socket,
    /// A marker, not an entry: what lower layers have here is gone.
    Whiteout,
}

/// A file in its file system. Two names are hard links if and only if these are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeId {
    /// The device, or a number for the image.
    pub dev: u64,
    /// The inode, or the nid.
    pub ino: u64,
}

/// The overlay markers that an entry of one layer can carry besides being a whiteout.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Markers {
    /// The directory hides everything below it in lower layers.
    pub opaque: bool,
    /// The lower layers' part of this directory, or of a metacopy file, is found elsewhere.
    pub redirect: Option<Redirect>,
    /// The file is metadata only; its data is in a lower layer.
    pub metacopy: Option<Metacopy>,
    /// How many more names the merged file has than the layer's inode (`nlink` of an index-enabled overlay).
    pub nlink: Option<NlinkDelta>,
}

impl Markers {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Refuses what a layer by itself cannot show, as it lies in a lower one.
    ///
    /// # Errors
    /// [`ErrorKind::UnsupportedMarker`] for a redirect and for a metacopy.
    pub fn check_self_contained(&self) -> Result<()> {
        let marker = match self {
            Self { redirect: Some(_), .. } => "redirect",
            Self { metacopy: Some(_), .. } => "metacopy",
            _ => return Ok(()),
        };
        Err(Error::new(ErrorKind::UnsupportedMarker { marker }, "what the file holds is in a lower layer"))
    }
}

/// Where in the lower layers a renamed directory or file comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// Another name in the same parent directory.
    Sibling(Box<[u8]>),
    /// A path from the root of the lower layers.
    Absolute(crate::LayerPathBuf),
}

/// A metadata-only copy.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Metacopy {
    /// The fs-verity digest that the data has to have (SHA-256), where the marker carries one.
    pub digest: Option<[u8; 32]>,
}

/// The merged link count, relative to an inode's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NlinkDelta {
    /// The merged count is the upper inode's count plus this.
    Upper(i32),
    /// The merged count is the lower inode's count plus this.
    Lower(i32),
}

impl Node {
    /// A node of this type with no attributes, no inode and one name.
    pub fn new(kind: NodeKind, metadata: Metadata) -> Self {
        Self {
            kind,
            metadata,
            xattrs: Xattrs::new(),
            inode: None,
            nlink: 1,
            data: None,
            markers: Markers::default(),
        }
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == NodeKind::Directory
    }

    /// Whether this is a whiteout.
    pub fn is_whiteout(&self) -> bool {
        self.kind == NodeKind::Whiteout
    }

    /// The inode that holds the content: of a metacopy the one below.
    pub fn content_id(&self) -> Option<InodeId> {
        self.data.or(self.inode)
    }
}

impl<T: LayerTree + ?Sized> LayerTree for &T {
    fn root(&self) -> Result<Arc<dyn LayerDir>> {
        (**self).root()
    }
}

impl<T: LayerTree + ?Sized> LayerTree for Arc<T> {
    fn root(&self) -> Result<Arc<dyn LayerDir>> {
        (**self).root()
    }
}

impl<T: LayerTree + ?Sized> LayerTree for Box<T> {
    fn root(&self) -> Result<Arc<dyn LayerDir>> {
        (**self).root()
    }
}

/// Look-ups by path, for any [`LayerTree`].
pub trait LayerTreeExt: LayerTree {
    /// What is at `path`, [`None`] where there is nothing or an ancestor is no directory.
    ///
    /// # Errors
    /// Those of reading the form.
    fn lookup_path(&self, path: LayerPath<'_>) -> Result<Option<Node>> {
        match path.split_last() {
            None => self.root()?.node().map(Some),
            Some((parent, name)) => match self.find_dir(parent)? {
                Some(dir) => dir.lookup(name).map_err(|e| e.at(path)),
                None => Ok(None),
            },
        }
    }

    /// The directory at `path`, [`None`] where there is none.
    ///
    /// # Errors
    /// Those of reading the form.
    fn find_dir(&self, path: LayerPath<'_>) -> Result<Option<Arc<dyn LayerDir>>> {
        let mut dir = self.root()?;
        for name in path.components() {
            match dir.lookup(name).map_err(|e| e.at(path))? {
                Some(node) if node.is_dir() => dir = dir.open_dir(name).map_err(|e| e.at(path))?,
                _ => return Ok(None),
            }
        }
        Ok(Some(dir))
    }

    /// Opens the regular file at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], and as [`LayerDir::open_file`].
    fn open_path(&self, path: LayerPath<'_>) -> Result<Box<dyn ReadAt>> {
        let missing = || Error::new(ErrorKind::NotFound, "no such file").at(path);
        let (parent, name) = path.split_last().ok_or_else(missing)?;
        let dir = self.find_dir(parent)?.ok_or_else(missing)?;
        dir.open_file(name).map_err(|e| e.at(path))
    }
}

impl<T: LayerTree + ?Sized> LayerTreeExt for T {}
