//! What a caller can choose.

use std::{fmt, num::NonZeroUsize, sync::Arc, thread};

use layer_model::{LayerTree, Profile};

/// Which extended attributes a layer carries, and therefore also which ones are compared.
///
/// No policy ever carries overlay markers, `user.fuseoverlayfs.*`, `user.containers.override_stat` or
/// `system.nfs4_acl`; `security.selinux` and `trusted.*` need an option of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum XattrPolicy {
    /// `security.capability`, as containerd and moby do.
    CapabilityOnly,
    /// `security.capability` and `user.*`.
    Portable,
    /// Everything but what is never carried.
    All,
}

/// How a directory that hides what lower layers have in it is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpaqueStyle {
    /// One removal for each name that is gone. What is in both is compared as elsewhere. Needs a known base.
    Explicit,
    /// One [`Action::Opaque`](layer_model::Action::Opaque) after the directory, and everything in it in full.
    Marker,
}

/// The options that both differs have.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) profile: Profile,
    pub(crate) xattrs: Option<XattrPolicy>,
    pub(crate) keep_selinux: bool,
    pub(crate) keep_trusted: bool,
    pub(crate) lossy_ok: bool,
    pub(crate) container_root: Option<u32>,
    pub(crate) whiteouts_first: bool,
    pub(crate) jobs: NonZeroUsize,
    pub(crate) small_file: usize,
    pub(crate) read_ahead: usize,
    pub(crate) content: bool,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            profile: Profile::Spec,
            xattrs: None,
            keep_selinux: false,
            keep_trusted: false,
            lossy_ok: false,
            container_root: None,
            whiteouts_first: false,
            jobs: half_of_the_machine(),
            // Below this, a read by a helper thread and a copy cost less than a trip into the kernel by
            // the thread that also feeds the sink.
            small_file: 64 * 1024,
            read_ahead: 16 * 1024 * 1024,
            content: true,
        }
    }
}

/// What reads the changes also writes and hashes them, on threads of its own, and wants the other half. On a
/// machine with two processors a second thread that walks makes a diff a quarter slower, as it shares the
/// directories' locks with the first and takes its place beside the hash.
fn half_of_the_machine() -> NonZeroUsize {
    let all = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    NonZeroUsize::new(all.get() / 2).unwrap_or(NonZeroUsize::MIN)
}

impl Common {
    /// The size up to which files are read by the threads.
    pub(crate) fn read_at_once(&self) -> u64 {
        if self.content { u64::try_from(self.small_file).unwrap_or(u64::MAX) } else { 0 }
    }

    pub(crate) fn policy(&self) -> XattrPolicy {
        self.xattrs.unwrap_or(match self.profile {
            Profile::Spec => XattrPolicy::Portable,
            Profile::Containerd => XattrPolicy::CapabilityOnly,
        })
    }
}

macro_rules! common_setters {
    () => {
        /// Whose behaviour to follow where the OCI specification and containerd part; it also sets the
        /// defaults of the attribute policy and of the opaque style. Default: [`Profile::Spec`].
        #[must_use]
        pub fn profile(mut self, profile: Profile) -> Self {
            self.common.profile = profile;
            self
        }

        /// Which extended attributes are compared and carried. Default: [`XattrPolicy::Portable`], and
        /// [`XattrPolicy::CapabilityOnly`] under [`Profile::Containerd`].
        #[must_use]
        pub fn xattrs(mut self, policy: XattrPolicy) -> Self {
            self.common.xattrs = Some(policy);
            self
        }

        /// Under [`XattrPolicy::All`], whether `security.selinux` is carried. Default: no, as the label
        /// belongs to the host's policy.
        #[must_use]
        pub fn keep_selinux(mut self, keep: bool) -> Self {
            self.common.keep_selinux = keep;
            self
        }

        /// Under [`XattrPolicy::All`], whether `trusted.*` is carried. Default: no.
        #[must_use]
        pub fn keep_trusted(mut self, keep: bool) -> Self {
            self.common.keep_trusted = keep;
            self
        }

        /// Whether attributes whose name no archive can hold (it contains `=`) are left out with a warning
        /// instead of failing with [`ErrorKind::Unrepresentable`](layer_model::ErrorKind). Default: no.
        #[must_use]
        pub fn lossy_ok(mut self, ok: bool) -> Self {
            self.common.lossy_ok = ok;
            self
        }

        /// The id that the container's root has on disk. A file capability of revision 3 that belongs to
        /// this id becomes one of revision 2, which is what the container sees. Default: none, and the
        /// bytes are carried as they are.
        #[must_use]
        pub fn container_root(mut self, id: Option<u32>) -> Self {
            self.common.container_root = id;
            self
        }

        /// Whether the removals in a directory come before its other entries, as the OCI specification
        /// prefers. It changes the digest of the layer, and looks every name up twice. Default: no.
        #[must_use]
        pub fn whiteouts_first(mut self, first: bool) -> Self {
            self.common.whiteouts_first = first;
            self
        }

        /// How many threads work, the one that reads the source included. 1 starts none. The changes are the
        /// same for every number. Default: half of what the machine has.
        #[must_use]
        pub fn jobs(mut self, jobs: NonZeroUsize) -> Self {
            self.common.jobs = jobs;
            self
        }

        /// Files of up to this many bytes are read by the threads and given as bytes; longer ones are given
        /// as a range of the open file, for the sink to copy. Default: 64 KiB.
        #[must_use]
        pub fn small_file(mut self, bytes: usize) -> Self {
            self.common.small_file = bytes;
            self
        }

        /// How many bytes of small files may be read ahead of the sink. Default: 16 MiB.
        #[must_use]
        pub fn read_ahead(mut self, bytes: usize) -> Self {
            self.common.read_ahead = bytes;
            self
        }

        /// Whether files come with their content. Without it they are not opened for that: their content has its
        /// length, and reading it fails. For who only wants to know what changed. Default: yes.
        #[must_use]
        pub fn content(mut self, content: bool) -> Self {
            self.common.content = content;
            self
        }
    };
}

/// Options of [`UpperDiffer`](crate::UpperDiffer).
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct UpperOptions {
    pub(crate) common: Common,
    pub(crate) opaque_style: Option<OpaqueStyle>,
    pub(crate) nofollow_redirects: bool,
    pub(crate) allow_incomplete_links: bool,
    pub(crate) allow_volatile: bool,
    pub(crate) detect_link_topology: bool,
    pub(crate) no_verity: bool,
    pub(crate) data_only: Vec<Arc<dyn LayerTree>>,
}

impl UpperOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    common_setters!();

    /// How opaque directories are written where the base is known. Default: [`OpaqueStyle::Explicit`], and
    /// [`OpaqueStyle::Marker`] under [`Profile::Containerd`].
    #[must_use]
    pub fn opaque_style(mut self, style: OpaqueStyle) -> Self {
        self.opaque_style = Some(style);
        self
    }

    /// Whether the overlay was mounted so that it follows redirects; where not, a redirected directory
    /// hides what is below it. An [`OverlayUpper`](overlay_dir::OverlayUpper) that says `nofollow` decides
    /// for itself. Default: yes.
    #[must_use]
    pub fn follow_redirects(mut self, follow: bool) -> Self {
        self.nofollow_redirects = !follow;
        self
    }

    /// Whether a hard-linked file of which not all names can be found is carried with those that are known,
    /// with a warning, instead of failing with
    /// [`ErrorKind::UnsupportedMarker`](layer_model::ErrorKind::UnsupportedMarker). Default: no.
    #[must_use]
    pub fn allow_incomplete_links(mut self, allow: bool) -> Self {
        self.allow_incomplete_links = allow;
        self
    }

    /// Whether an upper directory that was mounted `volatile` is taken, with a warning: after a crash of the
    /// machine its files may be torn. Default: no.
    #[must_use]
    pub fn allow_volatile(mut self, allow: bool) -> Self {
        self.allow_volatile = allow;
        self
    }

    /// Whether the data of a metacopy file is checked against the fs-verity digest in its marker, where there
    /// is one; data that fails is [`ErrorKind::InvalidUpper`](layer_model::ErrorKind::InvalidUpper). A mount
    /// with `verity=off` does not check. Default: yes.
    #[must_use]
    pub fn verify_metacopy(mut self, verify: bool) -> Self {
        self.no_verity = !verify;
        self
    }

    /// Whether a file with links counts as modified when an otherwise unchanged copy of it in the upper has
    /// parted from, or joined, other names. Default: no, and such a copy is left out like any other.
    #[must_use]
    pub fn detect_link_topology(mut self, detect: bool) -> Self {
        self.detect_link_topology = detect;
        self
    }

    /// The data-only lower layers (`::` in `lowerdir=`), nearest first, where metacopy files can have their
    /// data. Default: none.
    #[must_use]
    pub fn data_only(mut self, layers: Vec<Arc<dyn LayerTree>>) -> Self {
        self.data_only = layers;
        self
    }

    pub(crate) fn style(&self) -> OpaqueStyle {
        self.opaque_style.unwrap_or(match self.common.profile {
            Profile::Spec => OpaqueStyle::Explicit,
            Profile::Containerd => OpaqueStyle::Marker,
        })
    }
}

impl fmt::Debug for UpperOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpperOptions")
            .field("common", &self.common)
            .field("opaque_style", &self.style())
            .field("follow_redirects", &!self.nofollow_redirects)
            .field("allow_incomplete_links", &self.allow_incomplete_links)
            .field("allow_volatile", &self.allow_volatile)
            .field("detect_link_topology", &self.detect_link_topology)
            .field("verify_metacopy", &!self.no_verity)
            .field("data_only", &self.data_only.len())
            .finish()
    }
}

/// Options of [`TreeDiffer`](crate::TreeDiffer).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TreeOptions {
    pub(crate) common: Common,
    pub(crate) detect_link_topology: bool,
}

impl TreeOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    common_setters!();

    /// Whether a file counts as modified when it is a hard link to other names than before, and nothing else
    /// changed. Reads both trees once more, and remembers every name that has a link. Default: no.
    #[must_use]
    pub fn detect_link_topology(mut self, detect: bool) -> Self {
        self.detect_link_topology = detect;
        self
    }
}
