//! What an image holds: directories, files, streams.

use std::collections::BTreeMap;

use crate::{CimPath, FileMeta, StreamName, path::PathKey};

/// The bytes of one stream, by what is known about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stream {
    /// The size in bytes.
    pub size: u64,
    /// The SHA-256 of the bytes, and what they are found by. [`None`] while they are written, and for a hive that
    /// nobody has merged yet.
    pub sha256: Option<[u8; 32]>,
    /// In which fork they were written, 0 for an image that is no fork.
    pub(crate) generation: u32,
}

/// Alternate data streams by their upper-cased names.
pub(crate) type Streams = BTreeMap<PathKey, (StreamName, Stream)>;

/// A file, or a reparse point that stands for something else. All its names share it.
#[derive(Clone, Debug)]
pub struct File {
    pub(crate) meta: FileMeta,
    pub(crate) main: Stream,
    pub(crate) streams: Streams,
    /// The fork that it was made in.
    pub(crate) generation: u32,
    /// How many names it has in its image; never less than there are.
    pub(crate) names: u32,
}

/// A directory.
#[derive(Clone, Debug)]
pub struct Dir {
    pub(crate) meta: FileMeta,
    pub(crate) streams: Streams,
    /// The fork that its metadata is from.
    pub(crate) generation: u32,
    /// Which image of a merged view its metadata is from, 0 in an image.
    pub(crate) source: u32,
    /// Nobody described it: it is there because something is in it.
    pub(crate) implied: bool,
    pub(crate) children: BTreeMap<Box<[u16]>, Child>,
}

/// A name in a directory.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    /// As it was spelled.
    pub(crate) name: Box<[u8]>,
    pub(crate) node: Node,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Dir(u32),
    File(FileId),
    /// Of a merged link, the number of its target.
    Link(u32),
    Tombstone,
}

/// The identity of a file in its image or view: names that share it are hard links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// The image of a merged view, 0 topmost; 0 in an image.
    pub(crate) source: u32,
    pub(crate) id: u32,
}

/// What is at a path.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum EntryRef<'a> {
    /// A directory.
    Dir(&'a Dir),
    /// A file, or a reparse point that stands for something else: a symbolic link, a junction.
    File(&'a File, FileId),
    /// Nothing; and what other images have there is hidden when this one is merged over them.
    Tombstone,
    /// Another name for this file, which is found when images are merged.
    MergeLink(&'a CimPath),
}

impl<'a> EntryRef<'a> {
    /// The metadata, of entries that have some.
    pub fn meta(self) -> Option<&'a FileMeta> {
        match self {
            Self::Dir(dir) => Some(&dir.meta),
            Self::File(file, _) => Some(&file.meta),
            Self::Tombstone | Self::MergeLink(_) => None,
        }
    }

    /// The stream without a name, of a file.
    pub fn main(self) -> Option<&'a Stream> {
        match self {
            Self::File(file, _) => Some(&file.main),
            _ => None,
        }
    }

    /// The alternate data streams, by upper-cased name.
    pub fn streams(self) -> impl ExactSizeIterator<Item = (&'a StreamName, &'a Stream)> {
        static NONE: Streams = Streams::new();
        let streams = match self {
            Self::Dir(dir) => &dir.streams,
            Self::File(file, _) => &file.streams,
            Self::Tombstone | Self::MergeLink(_) => &NONE,
        };
        streams.values().map(|(name, stream)| (name, stream))
    }
}

impl Stream {
    /// A stream whose bytes are still to come.
    pub(crate) fn open(size: u64, generation: u32) -> Self {
        Self { size, sha256: None, generation }
    }
}

impl File {
    /// Its metadata.
    pub fn meta(&self) -> &FileMeta {
        &self.meta
    }

    /// The stream without a name.
    pub fn main(&self) -> &Stream {
        &self.main
    }
}

impl Dir {
    /// Its metadata.
    pub fn meta(&self) -> &FileMeta {
        &self.meta
    }

    /// Whether nobody described it, so that its metadata is made up.
    pub fn is_implied(&self) -> bool {
        self.implied
    }

    /// The names in it as they are spelled, in the order of their upper-cased units.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.children.values().map(|child| &*child.name)
    }

    pub(crate) fn new(meta: FileMeta, generation: u32) -> Self {
        let (streams, children) = Default::default();
        Self { meta, streams, generation, source: 0, implied: false, children }
    }
}
