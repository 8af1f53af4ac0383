//! Compressed files: the map header, the records of the three index forms, and the algorithm records.
//!
//! These are the structures only. The reader recognises compressed inodes, shows their metadata and refuses
//! their content; nothing is written in these forms.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{U16, U32, layout};

/// The map header, at the next multiple of 8 after the xattrs of a compressed inode.
///
/// If bit 7 of `h_clusterbits` is set, the whole header is one little-endian `u64` whose other bits are the
/// offset of the file in the packed inode.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MapHeader {
    /// With [`ADVISE_FRAGMENT_PCLUSTER`]: low part of the fragment's offset. With encoded extents: number of
    /// records. Otherwise the high half is the size of the inline cluster.
    pub h_fragmentoff: U32,
    /// The `ADVISE_` bits; with big encoded extents, bits 32 to 47 of their number are in the next two bytes.
    pub h_advise: U16,
    /// Low nibble: the first algorithm; high nibble: the second.
    pub h_algorithmtype: u8,
    /// Bits 0 to 3: logical cluster bits minus block bits. Bit 7: the whole file is one fragment.
    pub h_clusterbits: u8,
}

layout!(MapHeader, size 8, h_advise at 4, h_algorithmtype at 6, h_clusterbits at 7);

/// Compact indexes: packs of 2 bytes per cluster are used. Full indexes: encoded extents are used instead.
pub const ADVISE_COMPACTED_2B_OR_EXTENTS: u16 = 0x01;
/// Clusters of the first algorithm may exceed a block.
pub const ADVISE_BIG_PCLUSTER_1: u16 = 0x02;
/// Clusters of the second algorithm, and plain ones, may exceed a block.
pub const ADVISE_BIG_PCLUSTER_2: u16 = 0x04;
/// The last cluster is inline, after the indexes.
pub const ADVISE_INLINE_PCLUSTER: u16 = 0x08;
/// Plain data is placed at its logical offset within the block, wrapping around.
pub const ADVISE_INTERLACED_PCLUSTER: u16 = 0x10;
/// The last extent is a fragment.
pub const ADVISE_FRAGMENT_PCLUSTER: u16 = 0x20;

/// A full index: one per logical cluster.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LclusterIndex {
    /// Bits 0 to 1: type (0 plain, 1 first algorithm, 2 no head, 3 second algorithm); bit 15: partial.
    pub di_advise: U16,
    /// Where the extent starts in this logical cluster.
    pub di_clusterofs: U16,
    /// First block; or, for a cluster without head, distances back (low half) and forward (high half).
    pub di_u: U32,
}

layout!(LclusterIndex, size 8, di_clusterofs at 2, di_u at 4);

/// An encoded extent (48-bit images); shorter forms have only the first fields.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Extent {
    /// Bits 0 to 20: compressed bytes; 27: partial; 28 to 31: 0 plain, otherwise algorithm plus 1.
    pub plen: U32,
    /// Byte address, low half.
    pub pstart_lo: U32,
    /// Byte address, high half.
    pub pstart_hi: U32,
    /// Logical offset, low half.
    pub lstart_lo: U32,
    /// Logical offset, high half.
    pub lstart_hi: U32,
    /// Reserved.
    pub reserved: [u8; 12],
}

layout!(Extent, size 32, pstart_lo at 4, pstart_hi at 8, lstart_lo at 12, lstart_hi at 16);

/// The algorithm record of LZ4, after its 2-byte length. Records start at multiples of 4.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Lz4Config {
    /// The largest distance, 0 for 65535.
    pub max_distance: U16,
    /// The most blocks of a cluster.
    pub max_pclusterblks: U16,
    /// Reserved.
    pub reserved: [u8; 10],
}

layout!(Lz4Config, size 14, max_pclusterblks at 2);

/// The algorithm record of MicroLZMA.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LzmaConfig {
    /// 4096 to 8 MiB.
    pub dict_size: U32,
    /// 0.
    pub format: U16,
    /// Reserved.
    pub reserved: [u8; 8],
}

layout!(LzmaConfig, size 14, format at 4);

/// The algorithm record of DEFLATE.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DeflateConfig {
    /// At most 15.
    pub windowbits: u8,
    /// Reserved.
    pub reserved: [u8; 5],
}

layout!(DeflateConfig, size 6);

/// The algorithm record of Zstandard.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ZstdConfig {
    /// 0.
    pub format: u8,
    /// The window as a power of two, minus 10; at most 10.
    pub windowlog: u8,
    /// Reserved.
    pub reserved: [u8; 4],
}

layout!(ZstdConfig, size 6, windowlog at 1);
