//! How a snapshotter works.

use std::num::NonZeroUsize;

use layer_model::{Error, ErrorKind, Result};
use layer_mounts::{Mount, OverlayMount, overlay::Redirect};
use overlay_dir::{Namespace, OverlayFeatures, RedirectDir};

use crate::lists::MountForm;

/// Options of a [`Snapshotter`](crate::Snapshotter). Setters chain.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SnapshotterOptions {
    pub(crate) convert_on_commit: bool,
    pub(crate) set_immutable: bool,
    pub(crate) enable_fsverity: bool,
    pub(crate) ovl_mount_options: Vec<String>,
    pub(crate) merge_threshold: Option<NonZeroUsize>,
    pub(crate) remap_ids: bool,
    pub(crate) allow_volatile: bool,
    pub(crate) mount_form: MountForm,
}

impl Default for SnapshotterOptions {
    fn default() -> Self {
        Self {
            convert_on_commit: true,
            set_immutable: false,
            enable_fsverity: false,
            ovl_mount_options: Vec::new(),
            merge_threshold: None,
            remap_ids: false,
            allow_volatile: false,
            mount_form: MountForm::default(),
        }
    }
}

impl SnapshotterOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a commit makes an image of what is in the upper directory, unless there is an image. Default: yes.
    /// Without, such a layer stays a directory.
    #[must_use]
    pub fn convert_on_commit(mut self, convert: bool) -> Self {
        self.convert_on_commit = convert;
        self
    }

    /// Whether the images of committed layers are made immutable. Where that cannot be done, the commit warns.
    /// Default: no.
    #[must_use]
    pub fn set_immutable(mut self, immutable: bool) -> Self {
        self.set_immutable = immutable;
        self
    }

    /// Whether the images of committed layers are protected with fs-verity (sha256, blocks of 4096 bytes), and
    /// measured before they are handed out. Where that cannot be done, the commit fails. Default: no.
    #[must_use]
    pub fn enable_fsverity(mut self, enable: bool) -> Self {
        self.enable_fsverity = enable;
        self
    }

    /// Added to overlay mounts, at their end. They also say what an upper directory means when it is committed:
    /// `userxattr`, `redirect_dir=`, `metacopy=`, `index=`. Default: none.
    #[must_use]
    pub fn ovl_mount_options<O: Into<String>>(mut self, options: impl IntoIterator<Item = O>) -> Self {
        self.ovl_mount_options = options.into_iter().map(Into::into).collect();
        self
    }

    /// Writes merged metadata with a layer when it is committed, if it and the layers below it are at least so many.
    /// A stack that cannot be merged is committed without, and the commit warns. Default: never.
    #[must_use]
    pub fn merge_threshold(mut self, layers: Option<NonZeroUsize>) -> Self {
        self.merge_threshold = layers;
        self
    }

    /// Whether the id maps in a snapshot's labels become options of its overlay mount. Default: no.
    #[must_use]
    pub fn remap_ids(mut self, remap: bool) -> Self {
        self.remap_ids = remap;
        self
    }

    /// Whether an upper directory that was mounted `volatile` is committed, with a warning: after a crash of the
    /// machine its files may be torn. Default: no.
    #[must_use]
    pub fn allow_volatile(mut self, allow: bool) -> Self {
        self.allow_volatile = allow;
        self
    }

    /// Who mounts the images of layers. Default: [`MountForm::Managed`].
    #[must_use]
    pub fn mount_form(mut self, form: MountForm) -> Self {
        self.mount_form = form;
        self
    }

    /// The overlay mount options as what they mean.
    pub(crate) fn overlay(&self) -> Result<Overlay> {
        let ours = ["lowerdir", "upperdir", "workdir", "lowerdir+", "datadir+", "uidmap", "gidmap"];
        for option in &self.ovl_mount_options {
            let name = option.split_once('=').map_or(option.as_str(), |(name, _)| name);
            if ours.contains(&name) || option.contains("{{") || option.is_empty() {
                let message = format!("overlay mount option {option:?} cannot be added to a list");
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
        }
        let some_layer = ["lowerdir=/".to_owned()];
        let all = self.ovl_mount_options.iter().chain(&some_layer).cloned();
        let mount = OverlayMount::parse(Mount::new("overlay", "overlay", all))?;
        let redirect = match mount.redirect()? {
            None | Some(Redirect::Off) => RedirectDir::Off,
            Some(Redirect::NoFollow) => RedirectDir::NoFollow,
            Some(Redirect::Follow) => RedirectDir::Follow,
            Some(Redirect::On) => RedirectDir::On,
        };
        Ok(Overlay {
            namespace: if mount.has_user_xattrs() { Namespace::User } else { Namespace::Trusted },
            features: OverlayFeatures::default()
                .redirect(redirect)
                .metacopy(mount.metacopy()?.unwrap_or_default())
                .index(mount.index()?.unwrap_or_default())
                .volatile(mount.is_volatile()),
        })
    }
}

/// What upper directories mean.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overlay {
    pub(crate) namespace: Namespace,
    pub(crate) features: OverlayFeatures,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_options_say_what_an_upper_means() {
        let options = SnapshotterOptions::new().ovl_mount_options([
            "userxattr",
            "redirect_dir=on",
            "metacopy=on",
            "volatile",
            "index=off",
        ]);
        let overlay = options.overlay().unwrap();
        assert_eq!(overlay.namespace, Namespace::User);
        let want = OverlayFeatures::default().redirect(RedirectDir::On).metacopy(true).volatile(true);
        assert_eq!(overlay.features, want);
        assert_eq!(SnapshotterOptions::new().overlay().unwrap().features, OverlayFeatures::default());
        for bad in ["lowerdir=/x", "upperdir=/x", "index=maybe", "x={{ mount 0 }}", ""] {
            let error = SnapshotterOptions::new().ovl_mount_options([bad]).overlay().unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::InvalidArgument, "{bad}");
        }
    }
}
