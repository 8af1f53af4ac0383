//! What a layer is computed from: directories, opened as typed handles.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use layer_model::{Base, Error, Monitor, Profile, Result, Stack};
use overlay_diff::{DiffSource, TreeDiffer, TreeOptions, UpperDiffer, UpperOptions, XattrPolicy};
use overlay_dir::{Namespace, OverlayUpper, OverlayUpperOptions, PlainDir, PlainDirOptions};

use crate::layers::{AnyTree, is_image, open_layers, open_overlay};

/// A directory with changes, and what it changes.
///
/// ```no_run
/// # use layerkit::Changed;
/// // An overlay upper directory over two layers, nearest first.
/// let changed = Changed::in_upper("upper").over(["layers/01/fs", "layers/00/fs"]);
/// // A merged tree against another one.
/// let changed = Changed::in_tree("rootfs-now").over(["rootfs-before"]);
/// ```
#[derive(Clone, Debug)]
pub struct Changed {
    dir: PathBuf,
    form: UpperForm,
    base: BaseDirs,
    namespace: Option<Namespace>,
}

#[derive(Clone, Copy, Debug)]
enum UpperForm {
    Overlay,
    Tree,
}

#[derive(Clone, Debug)]
enum BaseDirs {
    Unknown,
    Empty,
    Layers(Vec<PathBuf>),
}

impl Changed {
    /// The changes that an overlay upper directory holds. The base is unknown until it is named.
    pub fn in_upper(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), form: UpperForm::Overlay, base: BaseDirs::Unknown, namespace: None }
    }

    /// How a merged tree differs from its base, found by walking both.
    pub fn in_tree(dir: impl Into<PathBuf>) -> Self {
        Self { form: UpperForm::Tree, ..Self::in_upper(dir) }
    }

    /// Over these layers, nearest (topmost) first: directories in overlay form, those with a `layer.erofs`, EROFS images.
    /// For a merged tree one directory is the merged tree before.
    /// None at all leaves the base unknown.
    #[must_use]
    pub fn over<P: Into<PathBuf>>(mut self, lowers: impl IntoIterator<Item = P>) -> Self {
        let lowers: Vec<PathBuf> = lowers.into_iter().map(Into::into).collect();
        self.base = if lowers.is_empty() { BaseDirs::Unknown } else { BaseDirs::Layers(lowers) };
        self
    }

    /// Over nothing: this is the bottom layer.
    #[must_use]
    pub fn over_nothing(mut self) -> Self {
        self.base = BaseDirs::Empty;
        self
    }

    /// Where the overlay markers are, when it is known; else it is found out.
    #[must_use]
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// Opens the directories, and gives the changes as a source that works as it is read.
    ///
    /// # Errors
    /// [`ErrorKind::NotSupported`](layer_model::ErrorKind::NotSupported) for a merged tree over an unknown base,
    /// [`ErrorKind::PermissionDenied`](layer_model::ErrorKind::PermissionDenied) where markers may not be read, and
    /// those of opening the directories.
    pub fn open<'m>(
        &self,
        profile: Profile,
        jobs: Option<NonZeroUsize>,
        monitor: &'m dyn Monitor,
    ) -> Result<DiffSource<'m>> {
        self.open_with(profile, jobs, true, monitor)
    }

    /// The same, with the content of files or only its length.
    pub(crate) fn open_with<'m>(
        &self,
        profile: Profile,
        jobs: Option<NonZeroUsize>,
        content: bool,
        monitor: &'m dyn Monitor,
    ) -> Result<DiffSource<'m>> {
        // `unpack` keeps every attribute that a layer has; so does the way back.
        let (carried, trusted) = match profile {
            Profile::Spec => (XattrPolicy::All, true),
            Profile::Containerd => (XattrPolicy::CapabilityOnly, false),
        };
        match self.form {
            UpperForm::Overlay => {
                let upper = open_overlay(&self.dir, self.namespace)?;
                let namespace = upper.namespace();
                let mut options = UpperOptions::new()
                    .profile(profile)
                    .xattrs(carried)
                    .keep_trusted(trusted)
                    .content(content);
                if let Some(jobs) = jobs {
                    options = options.jobs(jobs);
                }
                let lowers = self.open_lowers(Some(namespace))?;
                let upper = OverlayUpper::new(upper, OverlayUpperOptions::default())?;
                UpperDiffer::new(options).changes(&upper, self.base_of(&lowers), monitor)
            }
            UpperForm::Tree => {
                let tree = open_plain(&self.dir)?;
                let mut options = TreeOptions::new()
                    .profile(profile)
                    .xattrs(carried)
                    .keep_trusted(trusted)
                    .content(content);
                if let Some(jobs) = jobs {
                    options = options.jobs(jobs);
                }
                let differ = TreeDiffer::new(options);
                match &self.base {
                    // One directory is the merged tree itself, where a device 0:0 is a device.
                    BaseDirs::Layers(lowers) if lowers.len() == 1 && !is_image(&lowers[0]) => {
                        differ.between(Some(&open_plain(&lowers[0])?), &tree, monitor)
                    }
                    _ => {
                        let lowers = self.open_lowers(self.namespace)?;
                        differ.changes(&tree, self.base_of(&lowers), monitor)
                    }
                }
            }
        }
    }

    fn open_lowers(&self, namespace: Option<Namespace>) -> Result<Option<Stack<AnyTree>>> {
        match &self.base {
            BaseDirs::Layers(lowers) => open_layers(lowers, namespace),
            BaseDirs::Unknown | BaseDirs::Empty => Ok(None),
        }
    }

    fn base_of<'a, L>(&self, lowers: &'a Option<Stack<L>>) -> Base<'a, L> {
        match (&self.base, lowers) {
            (BaseDirs::Empty, _) => Base::Empty,
            (_, Some(stack)) => Base::Layers(stack),
            (_, None) => Base::Unknown,
        }
    }
}

fn open_plain(dir: &Path) -> Result<PlainDir> {
    PlainDir::open(dir, PlainDirOptions::default()).map_err(|e| named(e, dir))
}

fn named(error: Error, dir: &Path) -> Error {
    error.entry(dir.as_os_str().as_encoded_bytes())
}
