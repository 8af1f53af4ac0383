//! What an applier is told besides the layer, its parents and the target.

use layer_model::{Metadata, Profile, Timestamp, Xattrs, idmap::IdMap};
use overlay_dir::Namespace;

/// How changes are written down in a directory. The default suits production: the rules of the OCI image
/// specification, nothing outside it, sane limits.
///
/// Setters chain: `ApplyOptions::new().profile(Profile::Containerd).strict(true)`.
#[derive(Clone, Debug)]
pub struct ApplyOptions {
    pub(crate) profile: Profile,
    pub(crate) namespace: Option<Namespace>,
    pub(crate) xattr_policy: XattrPolicy,
    pub(crate) overlay_xattrs: OverlayXattrs,
    pub(crate) keep_trusted_xattrs: bool,
    pub(crate) exact_xattrs: bool,
    pub(crate) device_policy: DevicePolicy,
    pub(crate) apply_root_metadata: bool,
    pub(crate) no_same_owner: Option<bool>,
    pub(crate) uid_map: IdMap,
    pub(crate) gid_map: IdMap,
    pub(crate) limits: Limits,
    pub(crate) implied_dir_time: Timestamp,
    pub(crate) whiteout_if_present_in_lowers: bool,
    pub(crate) whiteout_form: WhiteoutForm,
    pub(crate) strict: bool,
    pub(crate) sync: bool,
    pub(crate) no_xdev: bool,
    pub(crate) keep_early_times: bool,
    pub(crate) kernel: KernelFeatures,
}

/// What happens to extended attributes that cannot or should not be set.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum XattrPolicy {
    /// An attribute that the file system does not take (`ENOTSUP`), that only files and directories carry
    /// (`user.*` elsewhere), or that this process may not set for want of privilege (`security.*`, `trusted.*`), is
    /// left out with a warning. Other failures are errors.
    #[default]
    Tolerant,
    /// Every attribute that cannot be set is an error.
    Strict,
    /// Attributes whose names start with one of these are left out silently; else [`XattrPolicy::Tolerant`].
    Drop(Vec<Box<[u8]>>),
    /// Everything as the layer says, also `trusted.*`, and, in a flattened tree, attributes of overlayfs. Errors as
    /// for [`XattrPolicy::Tolerant`].
    Verbatim,
}

/// What happens to attributes of the layer that overlayfs would take for its own.
///
/// Stored as they are, they would be markers for the next mount: a layer could make directories opaque or
/// redirect them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OverlayXattrs {
    /// Left out, with a warning.
    #[default]
    Drop,
    /// Escaped as overlayfs does it, so that the merged file has them (`user.overlay.x` is stored as
    /// `user.overlay.overlay.x`). That exists for the namespace of the layer's own markers only; names in the
    /// other one are left out.
    Escape,
    /// Stored as they are: markers of the layer's author, who is trusted.
    Keep,
}

/// What happens to block and character devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DevicePolicy {
    /// Made where the process may; in a user namespace or without `CAP_MKNOD` left out with a warning.
    #[default]
    Auto,
    /// Made; where that is not permitted the layer fails.
    Create,
    /// Left out, with a warning.
    Skip,
    /// An empty file with mode 0 stands for each, with a warning.
    Placeholder,
    /// A layer with a device fails before anything is made for it.
    Fail,
}

/// How a whiteout is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WhiteoutForm {
    /// A character device 0:0; where that is not permitted an extended attribute, if the kernel knows the
    /// form (Linux 6.7).
    #[default]
    Auto,
    /// A character device 0:0, or failure.
    Device,
    /// An empty file with the attribute `overlay.whiteout`.
    Xattr,
}

/// Bounds on what a layer may demand. Reaching one is an error of kind `LimitExceeded` that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Entries of the layer. Default 16,777,216: ten times the largest images seen.
    pub max_entries: u64,
    /// Bytes of one file, holes included. Default 1 TiB.
    pub max_entry_size: u64,
    /// Bytes of all files, holes included. Default 4 TiB.
    pub max_total_size: u64,
    /// Bytes of the holes of all sparse files. Default 1 TiB, which a `lastlog` with large user ids needs.
    pub max_sparse_expansion: u64,
    /// Bytes of a path. Default 4096, what Linux takes in one call.
    pub max_path_len: usize,
    /// Components of a path, after links are resolved. Default 512.
    pub max_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_entries: 1 << 24,
            max_entry_size: 1 << 40,
            max_total_size: 1 << 42,
            max_sparse_expansion: 1 << 40,
            max_path_len: 4096,
            max_depth: 512,
        }
    }
}

macro_rules! limit_setters {
    ($($name:ident: $type:ty,)*) => {
        impl Limits {
            $(
                #[doc = concat!("Sets [`Limits::", stringify!($name), "`](Self#structfield.", stringify!($name), ").")]
                #[must_use]
                pub fn $name(mut self, limit: $type) -> Self {
                    self.$name = limit;
                    self
                }
            )*
        }
    };
}

limit_setters! {
    max_entries: u64,
    max_entry_size: u64,
    max_total_size: u64,
    max_sparse_expansion: u64,
    max_path_len: usize,
    max_depth: usize,
}

/// Which newer system calls may be used. All of them have a fallback with the same result; turning one off
/// is for tests of the fallback, and for sandboxes that kill a process for an unknown call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KernelFeatures {
    /// `openat2` (Linux 5.6): opens a path without links in one step. Fallback: component by component.
    pub openat2: bool,
    /// `fchmodat2` (Linux 6.6): changes the mode of a device or FIFO. Fallback: `/proc/self/fd`.
    pub fchmodat2: bool,
    /// `setxattrat` (Linux 6.13): attributes of links and devices. Fallback: `/proc/self/fd`.
    pub setxattrat: bool,
    /// `copy_file_range`: content that is a range of a file is copied (or shared) inside the kernel.
    /// Fallback: read and write.
    pub copy_file_range: bool,
    /// `mknod` of a device 0:0, which security modules may deny and user namespaces before Linux 5.8 do.
    /// Fallback: whiteouts in attribute form.
    pub device_whiteouts: bool,
    /// Whiteouts in attribute form (Linux 6.7). Without them and without devices, a deletion is an error.
    pub xattr_whiteouts: bool,
}

impl Default for KernelFeatures {
    fn default() -> Self {
        Self {
            openat2: true,
            fchmodat2: true,
            setxattrat: true,
            copy_file_range: true,
            device_whiteouts: true,
            xattr_whiteouts: true,
        }
    }
}

impl KernelFeatures {
    /// Only what Linux 4.19 has.
    pub const fn oldest() -> Self {
        Self {
            openat2: false,
            fchmodat2: false,
            setxattrat: false,
            copy_file_range: false,
            device_whiteouts: true,
            xattr_whiteouts: false,
        }
    }
}

impl Default for ApplyOptions {
    fn default() -> Self {
        Self {
            profile: Profile::Spec,
            namespace: None,
            xattr_policy: XattrPolicy::default(),
            overlay_xattrs: OverlayXattrs::default(),
            keep_trusted_xattrs: false,
            exact_xattrs: false,
            device_policy: DevicePolicy::default(),
            apply_root_metadata: false,
            no_same_owner: None,
            uid_map: IdMap::identity(),
            gid_map: IdMap::identity(),
            limits: Limits::default(),
            implied_dir_time: Timestamp::EPOCH,
            whiteout_if_present_in_lowers: false,
            whiteout_form: WhiteoutForm::default(),
            strict: false,
            sync: false,
            no_xdev: false,
            keep_early_times: false,
            kernel: KernelFeatures::default(),
        }
    }
}

impl ApplyOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which behaviour counts where the specification and containerd part. Default [`Profile::Spec`].
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// Where overlay markers are written. Default: [`Namespace::Trusted`] where the process may write that,
    /// else [`Namespace::User`]. Means nothing for a flattened tree.
    #[must_use]
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// What happens to attributes that cannot be set. Default [`XattrPolicy::Tolerant`].
    #[must_use]
    pub fn xattr_policy(mut self, policy: XattrPolicy) -> Self {
        self.xattr_policy = policy;
        self
    }

    /// What happens to attributes that overlayfs would take for its own. Default [`OverlayXattrs::Drop`].
    #[must_use]
    pub fn overlay_xattrs(mut self, policy: OverlayXattrs) -> Self {
        self.overlay_xattrs = policy;
        self
    }

    /// Whether `trusted.*` attributes are set, as umoci does, or left out with a warning, as containerd does
    /// (default).
    #[must_use]
    pub fn keep_trusted_xattrs(mut self, keep: bool) -> Self {
        self.keep_trusted_xattrs = keep;
        self
    }

    /// Whether a directory entry over an existing directory takes away the attributes that it does not have,
    /// as umoci does. Default: they stay, as in containerd.
    #[must_use]
    pub fn exact_xattrs(mut self, exact: bool) -> Self {
        self.exact_xattrs = exact;
        self
    }

    /// What happens to devices. Default [`DevicePolicy::Auto`].
    #[must_use]
    pub fn device_policy(mut self, policy: DevicePolicy) -> Self {
        self.device_policy = policy;
        self
    }

    /// Whether an entry for the root changes the root's own metadata, as umoci and containers/storage have it.
    /// Default: it is ignored, as in containerd.
    #[must_use]
    pub fn apply_root_metadata(mut self, apply: bool) -> Self {
        self.apply_root_metadata = apply;
        self
    }

    /// Whether everything belongs to the caller instead of the owners that the layer names. Unset (default)
    /// it is so for a process without `CAP_CHOWN`, as GNU tar and umoci's rootless mode have it, with one
    /// warning a layer.
    #[must_use]
    pub fn no_same_owner(mut self, on: bool) -> Self {
        self.no_same_owner = Some(on);
        self
    }

    /// The owners on disk for those in the container. Default: the same.
    #[must_use]
    pub fn id_maps(mut self, users: IdMap, groups: IdMap) -> Self {
        self.uid_map = users;
        self.gid_map = groups;
        self
    }

    /// Bounds on what the layer may demand.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The time of directories that nothing describes. Default: the epoch.
    #[must_use]
    pub fn implied_dir_time(mut self, time: Timestamp) -> Self {
        self.implied_dir_time = time;
        self
    }

    /// Whether whiteouts of names that no parent has are left out, as buildkit does. Default: they are kept.
    /// Means nothing where the parents are not known.
    #[must_use]
    pub fn whiteout_if_present_in_lowers(mut self, on: bool) -> Self {
        self.whiteout_if_present_in_lowers = on;
        self
    }

    /// How whiteouts are written. Default [`WhiteoutForm::Auto`].
    #[must_use]
    pub fn whiteout_form(mut self, form: WhiteoutForm) -> Self {
        self.whiteout_form = form;
        self
    }

    /// Whether entries that are only tolerated are errors: a character device 0:0, a hard link named as the
    /// root.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Whether everything is on disk before the call returns (`syncfs`). Default: no.
    #[must_use]
    pub fn sync(mut self, sync: bool) -> Self {
        self.sync = sync;
        self
    }

    /// Whether mount points inside the target are errors. Removal never crosses one, whatever this says.
    #[must_use]
    pub fn no_xdev(mut self, on: bool) -> Self {
        self.no_xdev = on;
        self
    }

    /// Whether times before 1970 are set. Default: they become 1970, as in containerd.
    #[must_use]
    pub fn keep_early_times(mut self, keep: bool) -> Self {
        self.keep_early_times = keep;
        self
    }

    /// Which newer system calls may be used.
    #[must_use]
    pub fn kernel_features(mut self, features: KernelFeatures) -> Self {
        self.kernel = features;
        self
    }

    /// Where overlay markers go: the namespace set, else the one that this process may write.
    pub fn chosen_namespace(&self) -> Namespace {
        self.namespace.unwrap_or_else(Namespace::of_this_process)
    }

    pub(crate) fn is_spec(&self) -> bool {
        self.profile == Profile::Spec
    }

    /// What a directory gets that nothing describes.
    pub(crate) fn implied_dir(&self) -> (Metadata, Xattrs) {
        implied_dir(self.implied_dir_time)
    }
}

/// A directory that nothing describes, with this time.
pub(crate) fn implied_dir(mtime: Timestamp) -> (Metadata, Xattrs) {
    (Metadata { mtime, ..Metadata::IMPLIED_DIR }, Xattrs::new())
}
