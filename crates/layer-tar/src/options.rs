//! What can be chosen when layers are read and written.

use std::path::PathBuf;

use layer_model::{Profile, path};

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $name: $type) -> Self {
            self.$name = $name;
            self
        })*
    };
}
pub(crate) use setters;

/// How a layer tar is read.
///
/// Limits guard memory and time, not quality: each default is far above what real layers hold. An archive
/// that passes one is refused with [`LimitExceeded`](layer_model::ErrorKind::LimitExceeded), which names the
/// option.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReadOptions {
    /// Whose behaviour to follow where the specification and containerd part.
    pub profile: Profile,
    /// Whether the layer is one of Windows: see [`TarSource`](crate::TarSource). Off by default.
    pub windows: bool,
    /// Whether to refuse what is otherwise only warned of: extension headers without an entry.
    pub strict: bool,
    /// Whether to warn of paths that come twice. Costs nine bytes of memory and more for every entry.
    pub report_duplicates: bool,
    /// What to do with AUFS's hard-link store.
    pub aufs_store: AufsStore,
    /// How many entries an archive may have. Default 16,777,216, sixteen times what the largest images have.
    pub max_entries: u64,
    /// How large a file may be, holes included, in bytes. Default 1 TiB.
    pub max_entry_size: u64,
    /// How large all files together may be, holes included, in bytes. Default 4 TiB.
    pub max_total_size: u64,
    /// How many bytes of holes all sparse files together may have: they cost an archive nothing, but sinks that
    /// cannot hold holes have to write them. Default 256 GiB.
    pub max_sparse_expansion: u64,
    /// How long a path or link target may be, in bytes. Default 4096, Linux's `PATH_MAX`.
    pub max_path_len: usize,
    /// How many components a path may have. Default 512.
    pub max_depth: usize,
    /// How long a component may be, in bytes. Default 255, Linux's `NAME_MAX`.
    pub max_name_len: usize,
    /// How long the payload of one extension header (`x`, `g`, `L`, `K`) may be, in bytes. Default 1 MiB, as in
    /// Go; without one, a header can ask for all memory (CVE-2022-2879).
    pub max_extension_size: u32,
}

/// What to do with `.wh..wh.plnk`, where AUFS kept the data of files with several names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AufsStore {
    /// Leave it out; a hard link into it makes the archive invalid.
    #[default]
    Reject,
    /// Keep it aside, and give its data to the links into it: the first becomes the file, the others links to
    /// that. Old Docker versions wrote such layers.
    Resolve {
        /// A directory for one unnamed temporary file with the data.
        spool: PathBuf,
    },
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            profile: Profile::default(),
            windows: false,
            strict: false,
            report_duplicates: true,
            aufs_store: AufsStore::default(),
            max_entries: 1 << 24,
            max_entry_size: 1 << 40,
            max_total_size: 1 << 42,
            max_sparse_expansion: 1 << 38,
            max_path_len: 4096,
            max_depth: 512,
            max_name_len: path::NAME_MAX,
            max_extension_size: 1 << 20,
        }
    }
}

impl ReadOptions {
    /// Sets [`Self::windows`]. For a layer of Windows this also raises [`Self::max_path_len`] and
    /// [`Self::max_name_len`] to what Windows takes: 32,767 UTF-16 units a path, and 255 a file and a stream of it.
    #[must_use]
    pub fn windows(mut self, windows: bool) -> Self {
        self.windows = windows;
        if windows {
            // A unit is at most three bytes. `file:stream:$DATA` is a name on the road, and so is `.wh.file`.
            self.max_path_len = 3 * (32_767 + 255) + ":".len() + ":$DATA".len();
            self.max_name_len = 3 * (255 + 255) + ":".len() + ":$DATA".len();
        }
        self
    }

    setters! {
        /// Sets [`Self::profile`].
        profile: Profile,
        /// Sets [`Self::strict`].
        strict: bool,
        /// Sets [`Self::report_duplicates`].
        report_duplicates: bool,
        /// Sets [`Self::aufs_store`].
        aufs_store: AufsStore,
        /// Sets [`Self::max_entries`].
        max_entries: u64,
        /// Sets [`Self::max_entry_size`].
        max_entry_size: u64,
        /// Sets [`Self::max_total_size`].
        max_total_size: u64,
        /// Sets [`Self::max_sparse_expansion`].
        max_sparse_expansion: u64,
        /// Sets [`Self::max_path_len`].
        max_path_len: usize,
        /// Sets [`Self::max_depth`].
        max_depth: usize,
        /// Sets [`Self::max_name_len`].
        max_name_len: usize,
        /// Sets [`Self::max_extension_size`].
        max_extension_size: u32,
    }
}

/// How a layer tar is written.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct WriteOptions {
    /// Whether the layer is one of Windows: see [`TarSink`](crate::TarSink). Off by default.
    pub windows: bool,
    /// Whether to keep nanoseconds, as PAX `mtime` records. containerd cuts them off, which is the default:
    /// entries then need no extended header, and the bytes are containerd's.
    pub nanoseconds: bool,
    /// The latest modification time to write, in seconds since 1970: later ones are set back to it.
    pub source_date_epoch: Option<i64>,
    /// Whether a directory entry for the root, `./`, is written where the changes have one. Default: no, as in containerd.
    pub root: bool,
    /// Whether to write attributes without a value. Many readers take such a record for a deleted one, so that
    /// they are left out with a warning by default.
    pub empty_xattrs: bool,
    /// Whether to leave out attributes whose names PAX cannot carry (those with `=`), with a warning, instead of
    /// failing.
    pub lossy: bool,
}

impl WriteOptions {
    setters! {
        /// Sets [`Self::windows`].
        windows: bool,
        /// Sets [`Self::nanoseconds`].
        nanoseconds: bool,
        /// Sets [`Self::source_date_epoch`].
        source_date_epoch: Option<i64>,
        /// Sets [`Self::root`].
        root: bool,
        /// Sets [`Self::empty_xattrs`].
        empty_xattrs: bool,
        /// Sets [`Self::lossy`].
        lossy: bool,
    }
}
