//! The upper layer of an overlay mount.

use std::path::PathBuf;

use layer_model::{Error, ErrorKind, Form, Layer, LayerTree, Result};
use rustix::{
    fs::{AtFlags, StatxFlags, statx},
    io::Errno,
};

use crate::{OverlayDir, dir};

/// An overlay upper directory, with what the layer itself cannot say: which features its mount had.
///
/// The layers below it are not part of the handle: they are the base of a diff, the caller's to name.
#[derive(Clone, Debug)]
pub struct OverlayUpper {
    dir: OverlayDir,
    features: OverlayFeatures,
    torn: bool,
}

/// How an [`OverlayUpper`] is opened.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct OverlayUpperOptions {
    /// The mount's `workdir`. With it, a mount that was volatile is recognised by what it left there.
    pub work: Option<PathBuf>,
    /// What the mount was given, or the kernel's defaults.
    pub features: OverlayFeatures,
    /// Whether the upper of a volatile mount may be used. After a crash of the machine such an upper can
    /// hold files that were cut.
    pub allow_volatile: bool,
}

/// The features of an overlay mount that change what its upper layer means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OverlayFeatures {
    /// What happened to renamed directories.
    pub redirect: RedirectDir,
    /// Whether a change of metadata alone left the data below.
    pub metacopy: bool,
    /// Whether hard links of lower files stayed together when one of them was changed.
    pub index: bool,
    /// Whether the mount did not sync anything.
    pub volatile: bool,
}

/// The mount option `redirect_dir`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedirectDir {
    /// Redirects are not made. They are followed all the same, unless the kernel was built or loaded with
    /// `redirect_always_follow=off`.
    #[default]
    Off,
    /// Redirects are neither made nor followed.
    NoFollow,
    /// Redirects are followed, new ones not made.
    Follow,
    /// Redirects are followed, and made by renames of directories.
    On,
}

impl RedirectDir {
    /// Whether the mount follows redirects, on a kernel as it comes.
    pub fn follows(self) -> bool {
        self != Self::NoFollow
    }
}

impl OverlayFeatures {
    /// With this option `redirect_dir`.
    #[must_use]
    pub fn redirect(mut self, redirect: RedirectDir) -> Self {
        self.redirect = redirect;
        self
    }

    /// With `metacopy`, or without.
    #[must_use]
    pub fn metacopy(mut self, on: bool) -> Self {
        self.metacopy = on;
        self
    }

    /// With `index`, or without.
    #[must_use]
    pub fn index(mut self, on: bool) -> Self {
        self.index = on;
        self
    }

    /// With `volatile`, or without.
    #[must_use]
    pub fn volatile(mut self, on: bool) -> Self {
        self.volatile = on;
        self
    }
}

impl OverlayUpperOptions {
    /// Names the mount's `workdir`.
    #[must_use]
    pub fn work(mut self, path: impl Into<PathBuf>) -> Self {
        self.work = Some(path.into());
        self
    }

    /// Says what the mount was given.
    #[must_use]
    pub fn features(mut self, features: OverlayFeatures) -> Self {
        self.features = features;
        self
    }

    /// Says whether the upper of a volatile mount may be used.
    #[must_use]
    pub fn allow_volatile(mut self, allow: bool) -> Self {
        self.allow_volatile = allow;
        self
    }
}

impl OverlayUpper {
    /// Takes `dir` as the upper layer of a mount.
    ///
    /// # Errors
    /// [`ErrorKind::FailedPrecondition`] when the mount was volatile and that is not allowed; errors of the
    /// operating system when the work directory cannot be looked into.
    pub fn new(dir: OverlayDir, options: OverlayUpperOptions) -> Result<Self> {
        let left_behind = options.work.as_deref().map_or(Ok(false), was_volatile)?;
        let torn = left_behind || options.features.volatile;
        if torn && !options.allow_volatile {
            let kind = ErrorKind::FailedPrecondition;
            return Err(Error::new(kind, "the upper directory was mounted volatile, it may be torn"));
        }
        Ok(Self { dir, features: options.features, torn })
    }

    /// The layer itself.
    pub fn dir(&self) -> &OverlayDir {
        &self.dir
    }

    /// What the mount was given.
    pub fn features(&self) -> OverlayFeatures {
        self.features
    }

    /// Whether the mount was volatile, so that a crash may have torn the layer.
    pub fn is_volatile(&self) -> bool {
        self.torn
    }
}

/// Whether a volatile mount used this work directory; the kernel leaves a directory there that only people
/// take away.
fn was_volatile(work: &std::path::Path) -> Result<bool> {
    let dir = dir::open_root(work)?;
    match statx(&dir, "work/incompat/volatile", AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(error) => {
            Err(Error::io("look for work/incompat/volatile", error)
                .entry(work.as_os_str().as_encoded_bytes()))
        }
    }
}

impl Layer for OverlayUpper {
    const FORM: Form = Form::OVERLAY_UPPER;

    fn as_tree(&self) -> Option<&dyn LayerTree> {
        Some(&self.dir)
    }
}
