//! Inodes: a compact form of 32 bytes and an extended one of 64, told apart by bit 0 of `i_format`.
//!
//! An inode is followed directly by its xattr area, and that by what its layout asks for: the tail of the
//! data, the chunk map (aligned to its entries) or the compression map (aligned to 8).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{I64, U16, U32, U64, layout};

/// `i_format` bit 0: the inode is extended.
pub const FORMAT_EXTENDED: u16 = 1;

/// `i_format` bits 1 to 3 are the data layout.
pub const FORMAT_LAYOUT_SHIFT: u32 = 1;

/// The data layout, once shifted down.
pub const FORMAT_LAYOUT_MASK: u16 = 7;

/// `i_format` bit 4, 48-bit images only: a directory does not store "."; another compact inode has one link
/// and uses `i_nb` as the high part of its address.
pub const FORMAT_NLINK_1_OR_DOT_OMITTED: u16 = 1 << 4;

/// `i_format` bits that must be 0.
pub const FORMAT_RESERVED: u16 = !0x1f;

/// Data layout: consecutive blocks.
pub const LAYOUT_FLAT_PLAIN: u16 = 0;
/// Data layout: compressed, one 8-byte record per logical cluster, or encoded extents.
pub const LAYOUT_COMPRESSED_FULL: u16 = 1;
/// Data layout: consecutive blocks, the rest directly after the inode.
pub const LAYOUT_FLAT_INLINE: u16 = 2;
/// Data layout: compressed, packed records.
pub const LAYOUT_COMPRESSED_COMPACT: u16 = 3;
/// Data layout: equal chunks, each anywhere.
pub const LAYOUT_CHUNK_BASED: u16 = 4;

/// The compact inode. Never crosses a block.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Compact {
    /// Bit 0 clear; see the constants of this module.
    pub i_format: U16,
    /// Size of the xattr area: 0 for none, otherwise `12 + 4 * (i_xattr_icount - 1)` bytes. 1 is an area
    /// with nothing in it, which the kernel answers with "not supported"; do not write it.
    pub i_xattr_icount: U16,
    /// POSIX type and permission bits.
    pub i_mode: U16,
    /// Link count; with [`FORMAT_NLINK_1_OR_DOT_OMITTED`] on a non-directory, bits 32 to 47 of the address.
    /// A directory with more than 65535 links stores 1, "unknown".
    pub i_nb: U16,
    /// Size in bytes.
    pub i_size: U32,
    /// 48-bit images: seconds after the epoch. Otherwise 0, and the time is the superblock's.
    pub i_mtime: U32,
    /// First block (flat; ignored without full blocks), compressed blocks, chunk format, or device number.
    pub i_u: U32,
    /// A number for 32-bit `stat`.
    pub i_ino: U32,
    /// Owner.
    pub i_uid: U16,
    /// Group.
    pub i_gid: U16,
    /// Reserved.
    pub i_reserved: U32,
}

layout!(Compact, size 32, i_xattr_icount at 2, i_mode at 4, i_nb at 6, i_size at 8, i_mtime at 12, i_u at 16,
    i_ino at 20, i_uid at 24, i_gid at 26, i_reserved at 28);

/// The extended inode. May cross a block, though some old readers fail there: avoid it when writing.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Extended {
    /// Bit 0 set; see the constants of this module.
    pub i_format: U16,
    /// As in [`Compact`].
    pub i_xattr_icount: U16,
    /// POSIX type and permission bits.
    pub i_mode: U16,
    /// Bits 32 to 47 of the address in 48-bit images, otherwise 0.
    pub i_nb: U16,
    /// Size in bytes; bit 63 must be clear.
    pub i_size: U64,
    /// As in [`Compact`].
    pub i_u: U32,
    /// A number for 32-bit `stat`.
    pub i_ino: U32,
    /// Owner.
    pub i_uid: U32,
    /// Group.
    pub i_gid: U32,
    /// Seconds since 1970, possibly negative.
    pub i_mtime: I64,
    /// Nanoseconds after `i_mtime`.
    pub i_mtime_nsec: U32,
    /// Link count.
    pub i_nlink: U32,
    /// Reserved.
    pub i_reserved2: [u8; 16],
}

layout!(Extended, size 64, i_xattr_icount at 2, i_mode at 4, i_nb at 6, i_size at 8, i_u at 16, i_ino at 20,
    i_uid at 24, i_gid at 28, i_mtime at 32, i_mtime_nsec at 40, i_nlink at 44, i_reserved2 at 48);
