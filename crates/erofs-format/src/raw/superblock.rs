//! The superblock, and the bits that say which features an image uses.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{I64, U16, U32, U64, layout};

/// Where the superblock lies, in bytes from the start of the image. What is before it belongs to others.
pub const OFFSET: u64 = 1024;

/// The magic number, bytes `e2 e1 f5 e0`.
pub const MAGIC: u32 = 0xE0F5_E1E2;

/// The size of one extension slot.
pub const EXT_SLOT_SIZE: u64 = 16;

/// The smallest block size that exists, as a power of two.
pub const MIN_BLOCK_BITS: u8 = 9;

/// The largest block size that exists, as a power of two. The kernel mounts at most its page size.
pub const MAX_BLOCK_BITS: u8 = 16;

/// The superblock, at byte 1024. `sb_extslots` slots of 16 bytes follow it.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Superblock {
    /// [`MAGIC`].
    pub magic: U32,
    /// CRC-32C without final inversion, from byte 1024 to the end of the first block (of one whole block when
    /// blocks are 512 or 1024 bytes), these four bytes taken as zero. 0 without [`compat::SB_CHKSUM`].
    pub checksum: U32,
    /// [`compat`] bits; unknown ones are ignored.
    pub feature_compat: U32,
    /// The block size as a power of two, 9 to 16.
    pub blkszbits: u8,
    /// How many 16-byte slots follow the base part.
    pub sb_extslots: u8,
    /// The root's nid; or, with [`incompat::FORMAT_48BIT`] and `rootnid_8b` not 0, bits 32 to 47 of `blocks`.
    pub rootnid_2b: U16,
    /// How many inodes there are. Statistics only.
    pub inos: U64,
    /// Seconds since 1970 that the times of compact inodes start from.
    pub epoch: I64,
    /// The nanoseconds that go with times made from `epoch`.
    pub fixed_nsec: U32,
    /// How many blocks the primary image has. Statistics only: images with 0 here are read like any other.
    pub blocks_lo: U32,
    /// The block that nid 0 refers to.
    pub meta_blkaddr: U32,
    /// The block that shared xattr 0 refers to.
    pub xattr_blkaddr: U32,
    /// RFC 4122 byte order; all zero is allowed.
    pub uuid: [u8; 16],
    /// NUL padded. Current kernels take 16 characters without NUL; writers keep to 15.
    pub volume_name: [u8; 16],
    /// [`incompat`] bits; an unknown one means: refuse the image.
    pub feature_incompat: U32,
    /// With [`incompat::COMPR_CFGS`] the algorithms used, one bit each; otherwise the largest LZ4 distance,
    /// 0 for 65535.
    pub u1: U16,
    /// How many device slots there are.
    pub extra_devices: U16,
    /// The device table is at this times 128.
    pub devt_slotoff: U16,
    /// 0: a directory block is a block. Anything else is refused.
    pub dirblkbits: u8,
    /// How many long xattr name prefixes there are.
    pub xattr_prefix_count: u8,
    /// The table of long xattr name prefixes is at this times 4, in the container that the feature bits name.
    pub xattr_prefix_start: U32,
    /// The packed inode, 0 for none. Means something only with [`incompat::FRAGMENTS`].
    pub packed_nid: U64,
    /// Must be 0 for bloom filters to be used.
    pub xattr_filter_reserved: u8,
    /// With [`compat::ISHARE_XATTRS`]: the long prefix that is the name of the content fingerprint xattr.
    pub ishare_xattr_prefix_id: u8,
    /// Reserved.
    pub reserved: [u8; 2],
    /// Seconds after `epoch` at which the image was built; 48-bit images only.
    pub build_time: U32,
    /// The root's nid if not 0 and [`incompat::FORMAT_48BIT`] is set.
    pub rootnid_8b: U64,
    /// Reserved.
    pub reserved2: U64,
}

layout!(Superblock, size 128, checksum at 4, blkszbits at 12, rootnid_2b at 14, inos at 16, epoch at 24,
    fixed_nsec at 32, blocks_lo at 36, meta_blkaddr at 40, xattr_blkaddr at 44, uuid at 48, volume_name at 64,
    feature_incompat at 80, u1 at 84, extra_devices at 86, devt_slotoff at 88, dirblkbits at 90,
    xattr_prefix_count at 91, xattr_prefix_start at 92, packed_nid at 96, xattr_filter_reserved at 104,
    ishare_xattr_prefix_id at 105, build_time at 108, rootnid_8b at 112);

/// The first extension slot, directly after the superblock if `sb_extslots` is at least 1.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SuperblockExt {
    /// With [`incompat::METABOX`]: the inode whose content is the metabox. Bit 63 must be clear.
    pub metabox_nid: U64,
    /// Reserved.
    pub reserved: U64,
}

layout!(SuperblockExt, size 16, metabox_nid at 0);

/// Features that a reader may ignore.
pub mod compat {
    /// The checksum is valid.
    pub const SB_CHKSUM: u32 = 0x01;
    /// Times are modification times. Informational.
    pub const MTIME: u32 = 0x02;
    /// The bloom filters of xattr names are valid (Linux 6.6).
    pub const XATTR_FILTER: u32 = 0x04;
    /// Shared xattrs are in the metabox (Linux 6.17).
    pub const SHARED_EA_IN_METABOX: u32 = 0x08;
    /// The table of long prefixes is in the plain image even if there is a packed inode or a metabox.
    pub const PLAIN_XATTR_PFX: u32 = 0x10;
    /// Content fingerprints for sharing page cache exist (Linux 7.0).
    pub const ISHARE_XATTRS: u32 = 0x20;
}

/// Features that a reader must know, or refuse the image.
pub mod incompat {
    /// Compressed data is at the end of its cluster, zeros in front (Linux 5.4).
    pub const LZ4_0PADDING: u32 = 0x001;
    /// Algorithm records follow the superblock; clusters may exceed a block (Linux 5.13).
    pub const COMPR_CFGS: u32 = 0x002;
    /// Chunk-based files exist (Linux 5.15). Images without this bit may have such files nevertheless.
    pub const CHUNKED_FILE: u32 = 0x004;
    /// There is a device table, or a second algorithm per file (Linux 5.16).
    pub const DEVICE_TABLE: u32 = 0x008;
    /// The last cluster of a file may be inline (Linux 5.17).
    pub const ZTAILPACKING: u32 = 0x010;
    /// There is a packed inode with fragments, or clusters are shared (Linux 6.1).
    pub const FRAGMENTS: u32 = 0x020;
    /// There is a table of long xattr name prefixes (Linux 6.4).
    pub const XATTR_PREFIXES: u32 = 0x040;
    /// Addresses have 48 bits, compact inodes have times (Linux 6.15).
    pub const FORMAT_48BIT: u32 = 0x080;
    /// Inodes may be in the metabox (Linux 6.17).
    pub const METABOX: u32 = 0x100;

    /// All bits that have a meaning.
    pub const ALL: u32 = 0x1ff;
}
