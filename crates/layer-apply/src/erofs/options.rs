//! How a layer becomes an EROFS image.

use std::{fmt, sync::Arc};

use erofs_format::WriteOptions;
use layer_model::{LayerPath, Metadata, Timestamp, Xattrs};
use overlay_dir::Namespace;

use crate::options::{Limits, OverlayXattrs, implied_dir};

/// What deletions of the layer become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Whiteouts {
    /// Whiteouts and opaque marks as overlayfs reads them: the image is one layer of several.
    #[default]
    Overlay,
    /// Nothing: the image is to be mounted by itself, and shows what the layer adds.
    Leave,
}

/// Says which paths are left out. See [`ErofsOptions::exclude`].
#[derive(Clone)]
struct Exclude(Arc<dyn Fn(LayerPath<'_>) -> bool + Send + Sync>);

impl fmt::Debug for Exclude {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exclude")
    }
}

/// How changes are written down in an EROFS image. The default suits layers: everything that the layer says, in
/// overlay form, with the writer's own defaults.
///
/// Setters chain: `ErofsOptions::new().whiteouts(Whiteouts::Leave)`.
#[derive(Clone, Debug)]
pub struct ErofsOptions {
    pub(crate) write: WriteOptions,
    pub(crate) whiteouts: Whiteouts,
    pub(crate) namespace: Option<Namespace>,
    pub(crate) overlay_xattrs: OverlayXattrs,
    pub(crate) drop_xattrs: Vec<Box<[u8]>>,
    pub(crate) no_xattrs: bool,
    pub(crate) ignore_root: bool,
    pub(crate) owner: (Option<u32>, Option<u32>),
    pub(crate) implied_dir_time: Timestamp,
    pub(crate) limits: Limits,
    pub(crate) sync: bool,
    exclude: Option<Exclude>,
}

impl Default for ErofsOptions {
    fn default() -> Self {
        Self {
            write: WriteOptions::new().epoch_from_files(true),
            whiteouts: Whiteouts::default(),
            namespace: None,
            overlay_xattrs: OverlayXattrs::default(),
            drop_xattrs: Vec::new(),
            no_xattrs: false,
            ignore_root: false,
            owner: (None, None),
            implied_dir_time: Timestamp::EPOCH,
            limits: Limits::default(),
            sync: false,
            exclude: None,
        }
    }
}

impl ErofsOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How the image is written: block size, inline data, chunks, UUID, times. Default: the writer's own, with the
    /// epoch taken from the files.
    #[must_use]
    pub fn write(mut self, write: WriteOptions) -> Self {
        self.write = write;
        self
    }

    /// What deletions become. Default [`Whiteouts::Overlay`].
    #[must_use]
    pub fn whiteouts(mut self, whiteouts: Whiteouts) -> Self {
        self.whiteouts = whiteouts;
        self
    }

    /// Where overlay markers are written. Default: [`Namespace::Trusted`], as every mount of an image is made by
    /// somebody who sees that.
    #[must_use]
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// What happens to attributes of the layer that overlayfs would take for its own. Default
    /// [`OverlayXattrs::Drop`]. With [`Whiteouts::Leave`] they are attributes like others.
    #[must_use]
    pub fn overlay_xattrs(mut self, policy: OverlayXattrs) -> Self {
        self.overlay_xattrs = policy;
        self
    }

    /// Leaves out, silently, the attributes whose names start with `prefix`.
    #[must_use]
    pub fn drop_xattrs(mut self, prefix: impl Into<Vec<u8>>) -> Self {
        self.drop_xattrs.push(prefix.into().into());
        self
    }

    /// Leaves out all attributes but the markers of overlayfs.
    #[must_use]
    pub fn no_xattrs(mut self, on: bool) -> Self {
        self.no_xattrs = on;
        self
    }

    /// Whether an entry for the root is ignored, as containerd does it in directories. Default: it counts, as in
    /// `mkfs.erofs`.
    #[must_use]
    pub fn ignore_root(mut self, ignore: bool) -> Self {
        self.ignore_root = ignore;
        self
    }

    /// The owner and the group of everything, whatever the layer says.
    #[must_use]
    pub fn owner(mut self, uid: Option<u32>, gid: Option<u32>) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// The time of directories that nothing describes. Default: the epoch.
    #[must_use]
    pub fn implied_dir_time(mut self, time: Timestamp) -> Self {
        self.implied_dir_time = time;
        self
    }

    /// Bounds on what the layer may demand.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Whether the image is on disk before the call returns. Default: no.
    #[must_use]
    pub fn sync(mut self, sync: bool) -> Self {
        self.sync = sync;
        self
    }

    /// Leaves out the paths for which `exclude` says so, and all that is below them.
    #[must_use]
    pub fn exclude(mut self, exclude: impl Fn(LayerPath<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.exclude = Some(Exclude(Arc::new(exclude)));
        self
    }

    /// How the image is written.
    pub fn write_options(&self) -> &WriteOptions {
        &self.write
    }

    pub(crate) fn excludes(&self, path: LayerPath<'_>) -> bool {
        let Some(Exclude(exclude)) = &self.exclude else { return false };
        path.ancestors().chain([path]).any(|path| !path.is_root() && exclude(path))
    }

    pub(crate) fn marker_namespace(&self) -> Namespace {
        self.namespace.unwrap_or(Namespace::Trusted)
    }

    /// What a directory gets that nothing describes.
    pub(crate) fn implied_dir(&self) -> (Metadata, Xattrs) {
        implied_dir(self.implied_dir_time)
    }
}
