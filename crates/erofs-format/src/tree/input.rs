//! What callers put into a tree.

use crate::types::{DeviceNumber, Timestamp};

/// What every file has besides its type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "EROFS has no more")]
pub struct Metadata {
    /// Permission bits, `0o7777`. Type bits are ignored.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The modification time.
    pub mtime: Timestamp,
}

/// A file to be added to a [`Tree`](super::Tree).
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "POSIX has no more types")]
pub enum NewFile<'a> {
    /// A directory without entries.
    Directory,
    /// A regular file.
    Regular {
        /// Its size in bytes.
        size: u64,
        /// Where its content is.
        data: FileData,
    },
    /// A symbolic link with that target.
    Symlink(&'a [u8]),
    /// A character device.
    CharDevice(DeviceNumber),
    /// A block device.
    BlockDevice(DeviceNumber),
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
}

impl NewFile<'_> {
    /// An overlay whiteout.
    pub const WHITEOUT: NewFile<'static> = NewFile::CharDevice(DeviceNumber { major: 0, minor: 0 });
}

/// Where the content of a regular file is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileData {
    /// Nowhere: the file is empty or all zeros.
    Hole,
    /// In memory: to be written with the image.
    Bytes(Vec<u8>),
    /// With the [`Contents`](crate::Contents) that the image is written from.
    Source {
        /// What the contents know it by.
        token: u64,
    },
    /// With the contents, but only some ranges; the rest is zeros.
    SparseSource {
        /// What the contents know it by.
        token: u64,
        /// Offset and length of each range with data, ascending, not overlapping, within the size.
        ranges: Vec<(u64, u64)>,
    },
    /// In consecutive blocks that exist already.
    Blocks(BlockAddress),
    /// In equal chunks that exist already.
    Chunks {
        /// The chunk size is the block size shifted by this, at most 31.
        bits: u8,
        /// Where each chunk is; `None` for a hole.
        chunks: Vec<Option<BlockAddress>>,
    },
}

/// A block that exists already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "this is what the format can say")]
pub struct BlockAddress {
    /// 0: the image itself; n: the device added as number n.
    pub device: u16,
    /// The block on that device, less than `2^48`.
    pub block: u64,
}

/// An extra device of an image to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "this is what the format can say")]
pub struct NewDevice {
    /// Free text of at most 64 bytes: a digest, a path, a UUID.
    pub tag: Vec<u8>,
    /// The size in blocks.
    pub blocks: u64,
}
