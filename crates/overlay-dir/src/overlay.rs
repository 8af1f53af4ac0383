//! One overlay layer.

use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use layer_model::{Form, IoContext, Layer, LayerDir, LayerTree, Result, tree::InodeId};

use crate::{
    Namespace, Owners,
    dir::{self, Dir},
    read::View,
};

/// A directory that holds one layer in overlayfs's form: a former upper directory, or what an applier made.
///
/// The handle owns the directory; its name is kept for messages only. As a [`LayerTree`] it shows one layer,
/// with [whiteouts](layer_model::NodeKind::Whiteout) and [markers](layer_model::tree::Markers): attributes of
/// overlayfs are taken out, escaped ones are shown as the merged file has them.
///
/// Markers on the root are shown, and mean nothing: overlayfs ignores them there.
#[derive(Clone)]
pub struct OverlayDir {
    root: Arc<Dir>,
    namespace: Namespace,
    name: Arc<Path>,
}

/// How an [`OverlayDir`] is opened.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct OverlayDirOptions {
    /// Where the markers are. [`None`] finds out; that may mean a walk through the whole layer, as only
    /// layers that an overlay mount has copied something up into have a sign of it at the root.
    pub namespace: Option<Namespace>,
    /// How owners on disk are shown.
    pub owners: Owners,
    /// Whether the markers of fuse-overlayfs count too: `.wh.NAME`, `.wh..wh..opq`,
    /// `user.fuseoverlayfs.opaque`, and `opaque` in both namespaces. Without it a name that starts with
    /// `.wh.` is a name like any other, which a layer tar cannot carry.
    pub fuse_whiteouts: bool,
}

impl OverlayDirOptions {
    /// Says where the markers are.
    #[must_use]
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// Says how owners on disk are shown.
    #[must_use]
    pub fn owners(mut self, owners: Owners) -> Self {
        self.owners = owners;
        self
    }

    /// Says whether the markers of fuse-overlayfs count.
    #[must_use]
    pub fn fuse_whiteouts(mut self, on: bool) -> Self {
        self.fuse_whiteouts = on;
        self
    }
}

impl OverlayDir {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`](layer_model::ErrorKind::PermissionDenied) when the markers are in
    /// `trusted.*` and this process cannot see them; else those of the operating system.
    pub fn open(path: impl AsRef<Path>, options: OverlayDirOptions) -> Result<Self> {
        Self::from_fd(dir::open_root(path.as_ref())?, path.as_ref(), options)
    }

    /// Takes an open directory (`O_PATH` is enough); `name` is what messages call it.
    ///
    /// # Errors
    /// As [`OverlayDir::open`].
    pub fn from_fd(dir: OwnedFd, name: impl Into<PathBuf>, options: OverlayDirOptions) -> Result<Self> {
        let namespace = match options.namespace {
            Some(namespace) => namespace,
            None => {
                let dir = dir.try_clone().during("duplicate descriptor")?;
                Namespace::detect(Dir::root(dir, View::Plain, Owners::default()))?
            }
        };
        namespace.check_readable()?;
        let view = View::Overlay { namespace, fuse: options.fuse_whiteouts };
        let root = Arc::new(Dir::root(dir, view, options.owners));
        Ok(Self { root, namespace, name: name.into().into() })
    }

    /// Where the markers are.
    pub fn namespace(&self) -> Namespace {
        self.namespace
    }

    /// The name that the directory was opened by, for messages.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// The identity of the directory: two handles with the same are the same layer, whatever their names.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn id(&self) -> Result<InodeId> {
        self.root.id()
    }
}

impl Layer for OverlayDir {
    const FORM: Form = Form::OVERLAY_DIR;

    fn as_tree(&self) -> Option<&dyn LayerTree> {
        Some(self)
    }
}

impl LayerTree for OverlayDir {
    fn root(&self) -> Result<Arc<dyn LayerDir>> {
        Ok(self.root.clone())
    }
}

/// The `O_PATH` descriptor of the directory.
impl AsFd for OverlayDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl fmt::Debug for OverlayDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverlayDir").field("name", &self.name).field("namespace", &self.namespace).finish()
    }
}
