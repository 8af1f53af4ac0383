//! One step on the road: what a layer says about one path.

use crate::{Content, Device, LayerPath, Metadata, Xattrs, path::LayerPathBuf};

/// What a layer says about one path.
///
/// A layer is a sequence of changes to the tree below it. Sources give them in the order of their input (a
/// walk gives [`LayerPath`] order); at most one change a path is the rule, and where an input breaks it the
/// last one wins.
#[derive(Debug)]
#[non_exhaustive]
pub struct Change<'a> {
    /// The path. It may run through symbolic links of this layer or of lower ones; sinks resolve it
    /// inside the root.
    pub path: LayerPath<'a>,
    /// What happens there.
    pub action: Action<'a>,
    /// Where the change stands in its input, for messages.
    pub origin: Origin,
}

/// What happens at a path.
#[derive(Debug)]
pub enum Action<'a> {
    /// This is there now. A directory over a directory replaces its metadata and keeps its children;
    /// everything else replaces what was there, with all below it.
    Upsert(Entry<'a>),
    /// What lower layers have there is gone. Never takes away what the same layer adds.
    Remove,
    /// The directory hides all that lower layers have below it, wherever among the changes this stands.
    Opaque,
}

/// What is at a path.
#[derive(Debug)]
#[non_exhaustive]
pub struct Entry<'a> {
    /// The type, and what only that type has.
    pub kind: EntryKind<'a>,
    /// Mode, owner, times. Those of a hard link are the shared inode's from then on.
    pub metadata: Metadata,
    /// Extended attributes as the merged tree has them: no overlay markers.
    pub xattrs: &'a Xattrs,
}

/// The types of entries that a layer carries.
#[derive(Debug)]
pub enum EntryKind<'a> {
    /// A directory.
    Directory,
    /// A regular file.
    File(Content<'a>),
    /// A symbolic link.
    Symlink {
        /// The raw target, not empty. It is data: nothing but a resolver ever looks into it.
        target: &'a [u8],
    },
    /// Another name for a non-directory of the merged tree.
    HardLink {
        /// The name that exists already. Its parents may be symbolic links, it is not followed itself.
        target: LayerPath<'a>,
    },
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A FIFO.
    Fifo,
}

/// Where a change stands in its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Origin {
    /// The number of the entry, 0 first.
    pub index: u64,
    /// The offset of the entry's first header in the uncompressed archive, where the input is one.
    pub offset: Option<u64>,
    /// Where the stored content of a file begins in there, without its holes.
    pub data_offset: Option<u64>,
}

impl<'a> Change<'a> {
    /// A change without a known origin.
    pub fn new(path: LayerPath<'a>, action: Action<'a>) -> Self {
        Self { path, action, origin: Origin::default() }
    }

    /// `entry` is at `path`.
    pub fn upsert(path: LayerPath<'a>, entry: Entry<'a>) -> Self {
        Self::new(path, Action::Upsert(entry))
    }

    /// `path` is gone.
    pub fn remove(path: LayerPath<'a>) -> Self {
        Self::new(path, Action::Remove)
    }

    /// The directory `path` hides lower layers.
    pub fn opaque(path: LayerPath<'a>) -> Self {
        Self::new(path, Action::Opaque)
    }

    /// The same change, with its place in the input.
    #[must_use]
    pub fn from_origin(mut self, origin: Origin) -> Self {
        self.origin = origin;
        self
    }
}

impl<'a> Entry<'a> {
    /// An entry without extended attributes.
    pub fn new(kind: EntryKind<'a>, metadata: Metadata) -> Self {
        Self { kind, metadata, xattrs: Xattrs::EMPTY }
    }

    /// The same entry with these extended attributes.
    #[must_use]
    pub fn with_xattrs(mut self, xattrs: &'a Xattrs) -> Self {
        self.xattrs = xattrs;
        self
    }
}

impl EntryKind<'_> {
    /// The type as a word: `directory`, `file`, `symlink`, `hardlink`, `char`, `block`, `fifo`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::File(_) => "file",
            Self::Symlink { .. } => "symlink",
            Self::HardLink { .. } => "hardlink",
            Self::CharDevice(_) => "char",
            Self::BlockDevice(_) => "block",
            Self::Fifo => "fifo",
        }
    }
}

/// The prefix of a name in a layer tar that marks a deletion (`.wh.foo` takes `foo` away).
pub const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// The name in a layer tar that makes its directory opaque.
pub const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";

/// The path of the whiteout entry that stands for the removal of `path`, [`None`] for the root.
pub fn whiteout_path(path: LayerPath<'_>) -> Option<LayerPathBuf> {
    let (parent, name) = path.split_last()?;
    parent.join(&[WHITEOUT_PREFIX, name].concat()).ok()
}
