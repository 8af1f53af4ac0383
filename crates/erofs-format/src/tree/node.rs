//! A file in 64 bytes.

use crate::types::{FileType, Timestamp};

use super::{BlockAddress, Metadata, NONE, SetId, SettledInode};

/// A file. What `word` and `small` mean depends on type and `form`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub(crate) size: u64,
    /// The slot of the inode in the image, once it has one.
    pub(crate) slot: u64,
    seconds: i64,
    word: u64,
    nanoseconds: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Names; for directories it becomes the link count when the image is planned.
    pub(crate) nlink: u32,
    pub(crate) xattrs: SetId,
    /// Device or number of chunks of data that exists. For what an image plan places: the first block in its
    /// data area, the first entry of its chunk maps, or the number of a directory.
    pub(crate) small: u32,
    pub(crate) mode: u16,
    form: Form,
    /// The chunk size in blocks, as a power of two.
    pub(crate) bits: u8,
    /// The last part of the content goes after the inode.
    pub(crate) inline: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Form {
    Hole,
    Bytes,
    Source,
    Sparse,
    Blocks,
    Chunks,
    Settled,
}

/// Where the content of a regular file is, or will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    Hole,
    /// From `start` in the tree's bytes.
    Bytes {
        start: u64,
    },
    Source {
        token: u64,
    },
    /// Described from `start` in the tree's ranges.
    Sparse {
        start: u64,
    },
    Blocks(BlockAddress),
    /// From `start` in the tree's chunks.
    Chunks {
        start: u64,
        count: u64,
        bits: u8,
    },
    Settled(SettledInode),
}

impl Node {
    pub(super) fn new(file_type: FileType, metadata: Metadata) -> Self {
        let mut node = Self {
            size: 0,
            slot: 0,
            seconds: 0,
            word: u64::MAX,
            nanoseconds: 0,
            uid: 0,
            gid: 0,
            nlink: 0,
            xattrs: SetId::EMPTY,
            small: 0,
            mode: file_type.mode_bits(),
            form: Form::Hole,
            bits: 0,
            inline: false,
        };
        node.set_metadata(metadata);
        node
    }

    pub(super) fn with_device(self, stored: u32) -> Self {
        Self { word: stored.into(), ..self }
    }

    pub(super) fn with_text(self, start: u32, size: u64) -> Self {
        Self { word: start.into(), size, ..self }
    }

    pub(super) fn with_data(mut self, size: u64, data: Data) -> Self {
        self.size = size;
        self.set_data(data);
        self
    }

    pub(crate) fn file_type(&self) -> FileType {
        // Only types make nodes.
        FileType::from_mode(self.mode).unwrap_or(FileType::Regular)
    }

    pub(crate) fn metadata(&self) -> Metadata {
        let mtime = Timestamp { seconds: self.seconds, nanoseconds: self.nanoseconds };
        Metadata { mode: self.mode & 0o7777, uid: self.uid, gid: self.gid, mtime }
    }

    pub(crate) fn set_metadata(&mut self, metadata: Metadata) {
        self.mode = (self.mode & !0o7777) | (metadata.mode & 0o7777);
        (self.uid, self.gid) = (metadata.uid, metadata.gid);
        (self.seconds, self.nanoseconds) = (metadata.mtime.seconds, metadata.mtime.nanoseconds);
    }

    /// The device number of a device, as stored.
    pub(crate) fn device(&self) -> u32 {
        self.word as u32
    }

    /// Where the target of a link starts in the tree's text.
    pub(super) fn text_start(&self) -> u32 {
        self.word as u32
    }

    /// The first entry of a directory, or `NONE`.
    pub(super) fn first_entry(&self) -> u32 {
        self.word as u32
    }

    /// Appends an entry to a directory's list; returns the one that was last, or `NONE`.
    pub(super) fn append_entry(&mut self, entry: u32) -> u32 {
        let (first, last) = (self.word as u32, (self.word >> 32) as u32);
        let first = if first == NONE { entry } else { first };
        self.word = u64::from(entry) << 32 | u64::from(first);
        last
    }

    pub(crate) fn data(&self) -> Data {
        let (start, count) = (self.word, u64::from(self.small));
        match self.form {
            Form::Hole => Data::Hole,
            Form::Bytes => Data::Bytes { start },
            Form::Source => Data::Source { token: start },
            Form::Sparse => Data::Sparse { start },
            Form::Blocks => Data::Blocks(BlockAddress { device: self.small as u16, block: start }),
            Form::Chunks => Data::Chunks { start, count, bits: self.bits },
            Form::Settled => Data::Settled(SettledInode { slot: start, extended: self.bits != 0 }),
        }
    }

    pub(crate) fn set_data(&mut self, data: Data) {
        (self.form, self.word) = match data {
            Data::Hole => (Form::Hole, 0),
            Data::Bytes { start } => (Form::Bytes, start),
            Data::Source { token } => (Form::Source, token),
            Data::Sparse { start } => (Form::Sparse, start),
            Data::Blocks(address) => {
                self.small = address.device.into();
                (Form::Blocks, address.block)
            }
            Data::Chunks { start, count, bits } => {
                (self.small, self.bits) = (u32::try_from(count).unwrap_or(u32::MAX), bits);
                (Form::Chunks, start)
            }
            Data::Settled(inode) => {
                (self.slot, self.bits) = (inode.slot, inode.extended.into());
                (Form::Settled, inode.slot)
            }
        };
    }
}
