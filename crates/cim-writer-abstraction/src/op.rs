//! The operation model: what is done to a CIM, one value an operation, and who takes them.

use layer_model::Result;

use crate::{CimName, CimPath, FileMeta, StreamName};

bitflags::bitflags! {
    /// How an image is created: the flags of `CimCreateImage2`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct CreateFlags: u32 {
        /// PE images are stored as they are.
        const DO_NOT_EXPAND_PE_IMAGES = 0x1;
        /// Data is deduplicated in chunks of one size.
        const FIXED_SIZE_CHUNKS = 0x2;
        /// The container is a raw device.
        const BLOCK_DEVICE = 0x4;
        /// The container is an ordinary file.
        const SINGLE_FILE = 0x8;
        /// The same source gives the same bytes.
        const CONSISTENT = 0x10;
        /// The image has a hash tree, and is sealed when it is closed.
        const VERIFIED = 0x40;
    }
}

bitflags::bitflags! {
    /// How an image is added to a merged one: the flags of `CimAddFsToMergedImage2`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct MergeFlags: u32 {
        /// The container is an ordinary file.
        const SINGLE_FILE = 0x1;
        /// The container is a raw device.
        const BLOCK_DEVICE = 0x2;
        /// The image is verified.
        const VERIFIED = 0x4;
    }
}

bitflags::bitflags! {
    /// How an image is mounted: the flags of `CimMountImage` and its siblings.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct MountFlags: u32 {
        /// Meant to show only the leaf of a fork; never implemented by Windows.
        const CHILD_ONLY = 0x1;
        /// Direct access.
        const ENABLE_DAX = 0x2;
        /// Files are cached.
        const CACHE_FILES = 0x4;
        /// Regions are cached.
        const CACHE_REGIONS = 0x8;
        /// The container is a raw device.
        const BLOCK_DEVICE = 0x10;
        /// The container is an ordinary file.
        const SINGLE_FILE = 0x20;
        /// The image is verified. For `CimMountImage` only: the calls that take a root hash must not get it.
        const VERIFIED = 0x80;
    }
}

/// The two ways to keep layers in CIMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CimKind {
    /// A standard CIM, forked from that of its parent.
    Forked,
    /// A CIM in a container of its own.
    Block,
}

impl CimKind {
    /// `forked` or `block`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forked => "forked",
            Self::Block => "block",
        }
    }
}

/// One operation on a CIM, or beside it while a layer is imported.
///
/// `CreateFile` and `CreateStream` open a stream. The bytes follow through [`CimSink::write`], and
/// [`CimOp::EndStream`] closes it, also when there were none.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CimOp<'a> {
    /// The image is created: the first operation.
    CreateImage {
        /// Its kind.
        kind: CimKind,
        /// The image directory of a forked CIM, the container of a block CIM: a path of the host.
        container: &'a str,
        /// Its name in there.
        name: &'a CimName,
        /// The image that it is forked from.
        parent: Option<&'a CimName>,
        /// How.
        flags: CreateFlags,
    },
    /// A file or directory is created over whatever is there, and its stream is opened.
    CreateFile {
        /// Where; its parent directory is there.
        path: &'a CimPath,
        /// Its metadata.
        meta: &'a FileMeta,
        /// The size of its main stream; 0 for directories.
        size: u64,
    },
    /// An alternate data stream is created and opened.
    CreateStream {
        /// The file or directory.
        of: &'a CimPath,
        /// The stream.
        name: &'a StreamName,
        /// Its size.
        size: u64,
    },
    /// The open stream is closed.
    EndStream,
    /// Another name for a file of this image, or one that it inherits.
    HardLink {
        /// The new name.
        path: &'a CimPath,
        /// The name that is there.
        target: &'a CimPath,
    },
    /// Another name for a file that is found when images are merged.
    MergeLink {
        /// The new name.
        path: &'a CimPath,
        /// The name that is there then.
        target: &'a CimPath,
    },
    /// What is there is taken away.
    Delete {
        /// Where.
        path: &'a CimPath,
    },
    /// What other images have there is hidden when they are merged.
    Tombstone {
        /// Where.
        path: &'a CimPath,
    },
    /// A file was put into the layer directory; it goes into the image at the end.
    Spool {
        /// Which file.
        path: &'a CimPath,
        /// Its size.
        len: u64,
        /// The SHA-256 of its bytes.
        sha256: [u8; 32],
    },
    /// A registry hive is made of a parent's and what this layer changes in it.
    MergeHive {
        /// The parent's hive: a path of the host.
        base: &'a str,
        /// The changes, in the layer directory.
        delta: &'a CimPath,
        /// The result, in the layer directory.
        out: &'a CimPath,
    },
    /// A merged hive is added to the image, once somebody can merge it.
    AddMergedHive {
        /// Which.
        path: &'a CimPath,
        /// With which attributes.
        meta: &'a FileMeta,
    },
    /// An image is added to a merged one, topmost first.
    AddSource {
        /// Its container: a path of the host.
        container: &'a str,
        /// Its name in there.
        name: &'a CimName,
        /// Its kind.
        flags: MergeFlags,
    },
    /// What was done becomes the image.
    Commit,
    /// The image is closed.
    Close,
    /// What was done is forgotten.
    Discard,
    /// The root digest is written into the container.
    Seal {
        /// Which.
        container: &'a str,
    },
    /// A VHD footer is appended to the container.
    VhdFooter {
        /// How large the container was before; 0 where there is none, only a journal.
        size: u64,
        /// The identifier in the footer.
        unique_id: [u8; 16],
    },
    /// A small file is written beside the container.
    Sidecar {
        /// Its name.
        name: &'a str,
        /// What it holds.
        text: &'a str,
    },
}

/// Takes the operations of one image.
///
/// # Laws
/// - The first operation is [`CimOp::CreateImage`]. At most one stream is open; while it is, only
///   [`CimSink::write`] and [`CimOp::EndStream`] may come.
/// - Exactly as many bytes are written to a stream as were announced.
/// - Nothing is kept before [`CimOp::Commit`]: a sink that is dropped, or gets [`CimOp::Discard`], leaves no image.
/// - After an error the sink is spent: it gets [`CimOp::Discard`] or is dropped.
/// - The same operations have the same outcome.
pub trait CimSink {
    /// Takes one operation.
    ///
    /// # Errors
    /// What the image cannot take, and errors of where it is written.
    fn op(&mut self, op: &CimOp<'_>) -> Result<()>;

    /// Takes the next bytes of the open stream.
    ///
    /// # Errors
    /// [`ErrorKind::SizeMismatch`](layer_model::ErrorKind::SizeMismatch) for more than were announced, and errors of
    /// where they are written.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// The root digest of a sealed image, where there is one to be had: Windows alone makes them.
    ///
    /// # Errors
    /// Those of reading it.
    fn root_digest(&mut self) -> Result<Option<[u8; 32]>> {
        Ok(None)
    }

    /// How large the container is in bytes, where the sink makes one.
    ///
    /// # Errors
    /// Those of looking at it.
    fn container_len(&mut self) -> Result<Option<u64>> {
        Ok(None)
    }
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<S: CimSink + ?Sized> CimSink for $pointer {
            fn op(&mut self, op: &CimOp<'_>) -> Result<()> {
                (**self).op(op)
            }

            fn write(&mut self, bytes: &[u8]) -> Result<()> {
                (**self).write(bytes)
            }

            fn root_digest(&mut self) -> Result<Option<[u8; 32]>> {
                (**self).root_digest()
            }

            fn container_len(&mut self) -> Result<Option<u64>> {
                (**self).container_len()
            }
        }
    )*};
}

forward!(&mut S, Box<S>);

/// A sink that is there or not: without it, everything is taken and nothing is kept.
impl<S: CimSink> CimSink for Option<S> {
    fn op(&mut self, op: &CimOp<'_>) -> Result<()> {
        self.as_mut().map_or(Ok(()), |sink| sink.op(op))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.as_mut().map_or(Ok(()), |sink| sink.write(bytes))
    }

    fn root_digest(&mut self) -> Result<Option<[u8; 32]>> {
        self.as_mut().map_or(Ok(None), CimSink::root_digest)
    }

    fn container_len(&mut self) -> Result<Option<u64>> {
        self.as_mut().map_or(Ok(None), CimSink::container_len)
    }
}

/// Two sinks that get the same: a journal and a real image, say. An error of the first ends it for both.
impl<A: CimSink, B: CimSink> CimSink for (A, B) {
    fn op(&mut self, op: &CimOp<'_>) -> Result<()> {
        self.0.op(op)?;
        self.1.op(op)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write(bytes)?;
        self.1.write(bytes)
    }

    fn root_digest(&mut self) -> Result<Option<[u8; 32]>> {
        Ok(match self.0.root_digest()? {
            Some(digest) => Some(digest),
            None => self.1.root_digest()?,
        })
    }

    fn container_len(&mut self) -> Result<Option<u64>> {
        Ok(match self.0.container_len()? {
            Some(len) => Some(len),
            None => self.1.container_len()?,
        })
    }
}
