//! Chunk-based files: `ceil(size / chunk size)` entries, each a block number or an [`Index`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{U16, U32, layout};

/// Chunk format bits 0 to 4: the chunk size is the block size shifted by this.
pub const FORMAT_BLKBITS_MASK: u16 = 0x1f;

/// Chunk format bit 5: entries are [`Index`]; otherwise they are block numbers of 4 bytes.
pub const FORMAT_INDEXES: u16 = 0x20;

/// Chunk format bit 6: start addresses have 48 bits. Needs 48-bit images and [`FORMAT_INDEXES`].
pub const FORMAT_48BIT: u16 = 0x40;

/// All chunk format bits that have a meaning; others are refused.
pub const FORMAT_ALL: u16 = 0x7f;

/// Where a chunk is. A hole has `startblk_lo` all ones (and `startblk_hi` too, in the 48-bit form).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Index {
    /// Bits 32 to 47 of the block number, in the 48-bit form; otherwise to be ignored.
    pub startblk_hi: U16,
    /// 0: the unified address space; n: device slot n. Mask before use.
    pub device_id: U16,
    /// The block number on that device.
    pub startblk_lo: U32,
}

layout!(Index, size 8, device_id at 2, startblk_lo at 4);
