//! The bytes of an inode.

use zerocopy::IntoBytes;

use crate::{
    error::Result,
    raw::{NULL_ADDR, chunk, inode as raw},
    tree::{BlockAddress, Node, unrepresentable},
    types::FileType,
};

use super::options::{InodeForm, WriteOptions};

/// What an inode says about its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// No blocks, or blocks in one piece.
    Plain { start: Option<u64> },
    /// The same, and a tail after the inode.
    Inline { start: Option<u64> },
    /// Chunks.
    Chunked { format: u16 },
    /// None: a device with its number, or a FIFO or socket.
    Special { device: u32 },
}

/// Whether an inode has to be extended. `high_address`: its first block exceeds 32 bits.
pub(super) fn is_extended(node: &Node, options: &WriteOptions, high_address: bool) -> Result<bool> {
    let fits = node.size <= u64::from(u32::MAX)
        && node.uid <= u32::from(u16::MAX)
        && node.gid <= u32::from(u16::MAX)
        && node.nlink <= u32::from(u16::MAX)
        && !high_address
        && options.compact_time(options.time(node.metadata().mtime)).is_some();
    match options.inodes {
        InodeForm::Auto => Ok(!fits),
        InodeForm::Extended => Ok(true),
        InodeForm::Compact if fits => Ok(false),
        InodeForm::Compact => Err(unrepresentable("inode", "a file does not fit a compact inode")),
    }
}

/// Appends an inode without what follows it. `ino` is its number for 32-bit `stat`.
pub(super) fn write(
    node: &Node,
    extended: bool,
    content: Content,
    xattr_area: u64,
    ino: u32,
    options: &WriteOptions,
    out: &mut Vec<u8>,
) {
    let (layout, data, high) = match content {
        Content::Plain { start } => (raw::LAYOUT_FLAT_PLAIN, low(start), high(start)),
        Content::Inline { start } => (raw::LAYOUT_FLAT_INLINE, low(start), high(start)),
        Content::Chunked { format } => (raw::LAYOUT_CHUNK_BASED, format.into(), 0),
        Content::Special { device } => (raw::LAYOUT_FLAT_PLAIN, device, 0),
    };
    let form = if extended { raw::FORMAT_EXTENDED } else { 0 };
    let i_format = (layout << raw::FORMAT_LAYOUT_SHIFT | form).into();
    // The area has 12 + 4 * n bytes, which is stored as n + 1.
    let i_xattr_icount = if xattr_area == 0 { 0 } else { ((xattr_area - 12) / 4 + 1) as u16 }.into();
    let mtime = options.time(node.metadata().mtime);
    if extended {
        let inode = raw::Extended {
            i_format,
            i_xattr_icount,
            i_mode: node.mode.into(),
            i_nb: high.into(),
            i_size: node.size.into(),
            i_u: data.into(),
            i_ino: ino.into(),
            i_uid: node.uid.into(),
            i_gid: node.gid.into(),
            i_mtime: mtime.seconds.into(),
            i_mtime_nsec: mtime.nanoseconds.into(),
            i_nlink: node.nlink.into(),
            i_reserved2: [0; 16],
        };
        out.extend_from_slice(inode.as_bytes());
    } else {
        let inode = raw::Compact {
            i_format,
            i_xattr_icount,
            i_mode: node.mode.into(),
            i_nb: (node.nlink as u16).into(),
            i_size: (node.size as u32).into(),
            i_mtime: options.compact_time(mtime).unwrap_or(0).into(),
            i_u: data.into(),
            i_ino: ino.into(),
            i_uid: (node.uid as u16).into(),
            i_gid: (node.gid as u16).into(),
            i_reserved: 0.into(),
        };
        out.extend_from_slice(inode.as_bytes());
    }
}

fn low(start: Option<u64>) -> u32 {
    start.map_or(NULL_ADDR, |start| start as u32)
}

fn high(start: Option<u64>) -> u16 {
    start.map_or(0, |start| (start >> 32) as u16)
}

/// The chunk format for a list of chunks, and the size of its entries.
pub(super) fn chunk_format(
    chunks: impl Iterator<Item = Option<BlockAddress>>,
    bits: u8,
    options: &WriteOptions,
) -> Result<(u16, u64)> {
    let (mut small, mut wide) = (options.small_chunk_maps, false);
    for chunk in chunks {
        let address = chunk.unwrap_or(BlockAddress { device: 1, block: 0 });
        small &= address.device == 0 && address.block < u64::from(NULL_ADDR);
        wide |= address.block >= u64::from(NULL_ADDR);
    }
    if wide && !options.large {
        return Err(unrepresentable("chunk map", "an address beyond 2^32 blocks takes a 48-bit image"));
    }
    let format = u16::from(bits)
        | if small { 0 } else { chunk::FORMAT_INDEXES }
        | if wide { chunk::FORMAT_48BIT } else { 0 };
    Ok((format, if small { 4 } else { 8 }))
}

/// Appends an entry of a chunk map.
pub(super) fn write_chunk(chunk: Option<BlockAddress>, format: u16, out: &mut Vec<u8>) {
    if format & chunk::FORMAT_INDEXES == 0 {
        out.extend_from_slice(&chunk.map_or(NULL_ADDR, |address| address.block as u32).to_le_bytes());
        return;
    }
    let wide = format & chunk::FORMAT_48BIT != 0;
    let index = match chunk {
        Some(BlockAddress { device, block }) => chunk::Index {
            startblk_hi: ((block >> 32) as u16).into(),
            device_id: device.into(),
            startblk_lo: (block as u32).into(),
        },
        None => chunk::Index {
            startblk_hi: if wide { u16::MAX } else { 0 }.into(),
            device_id: 0.into(),
            startblk_lo: NULL_ADDR.into(),
        },
    };
    out.extend_from_slice(index.as_bytes());
}

/// Whether the content of a type is described by blocks.
pub(super) fn special(node: &Node) -> Option<Content> {
    match node.file_type() {
        FileType::CharDevice | FileType::BlockDevice => Some(Content::Special { device: node.device() }),
        FileType::Fifo | FileType::Socket => Some(Content::Special { device: 0 }),
        _ => None,
    }
}
