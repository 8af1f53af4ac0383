//! A merged tree.

use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use layer_model::{Form, Layer, LayerDir, LayerTree, Result, tree::InodeId};

use crate::{
    Owners,
    dir::{self, Dir},
    read::View,
};

/// A directory that holds a merged tree: a root file system, unpacked or mounted.
///
/// Nothing in it is a marker: a character device 0:0 is a device, attributes of overlayfs are attributes.
#[derive(Clone)]
pub struct PlainDir {
    root: Arc<Dir>,
    name: Arc<Path>,
}

/// How a [`PlainDir`] is opened.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PlainDirOptions {
    /// How owners on disk are shown.
    pub owners: Owners,
}

impl PlainDirOptions {
    /// Says how owners on disk are shown.
    #[must_use]
    pub fn owners(mut self, owners: Owners) -> Self {
        self.owners = owners;
        self
    }
}

impl PlainDir {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn open(path: impl AsRef<Path>, options: PlainDirOptions) -> Result<Self> {
        Ok(Self::from_fd(dir::open_root(path.as_ref())?, path.as_ref(), options))
    }

    /// Takes an open directory (`O_PATH` is enough); `name` is what messages call it.
    pub fn from_fd(dir: OwnedFd, name: impl Into<PathBuf>, options: PlainDirOptions) -> Self {
        let root = Arc::new(Dir::root(dir, View::Plain, options.owners));
        Self { root, name: name.into().into() }
    }

    /// The name that the directory was opened by, for messages.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// The identity of the directory: two handles with the same are the same tree, whatever their names.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn id(&self) -> Result<InodeId> {
        self.root.id()
    }
}

impl Layer for PlainDir {
    const FORM: Form = Form::PLAIN_DIR;

    fn as_tree(&self) -> Option<&dyn LayerTree> {
        Some(self)
    }
}

impl LayerTree for PlainDir {
    fn root(&self) -> Result<Arc<dyn LayerDir>> {
        Ok(self.root.clone())
    }
}

/// The `O_PATH` descriptor of the directory.
impl AsFd for PlainDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl fmt::Debug for PlainDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainDir").field("name", &self.name).finish()
    }
}
