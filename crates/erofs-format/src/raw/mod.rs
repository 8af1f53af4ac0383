//! The structures on disk, exactly as they lie there.
//!
//! Everything here is a view of bytes: alignment 1, little endian, no I/O, no allocation, no checks beyond
//! the size. Names are those of the kernel's `fs/erofs/erofs_fs.h`; the documentation of a field is the rule
//! for it. The checked level is [`Image`](crate::Image), which interprets these structures.
//!
//! Reserved fields are written as zero and ignored when read, unless their documentation says otherwise.
//!
//! Compressed files have their structures here too ([`compress`]); nothing above interprets them yet.

pub mod chunk;
pub mod compress;
pub mod device;
pub mod dirent;
pub mod inode;
pub mod superblock;
pub mod xattr;

pub use zerocopy::little_endian::{I64, U16, U32, U64};

/// Inodes lie in slots of this size, and an inode number counts slots.
pub const SLOT_BITS: u32 = 5;

/// The size of an inode slot in bytes.
pub const SLOT_SIZE: u64 = 1 << SLOT_BITS;

/// The block number that stands for "no block" wherever a block number has 32 bits.
pub const NULL_ADDR: u32 = u32::MAX;

/// The bit of an inode number that says: the inode is in the metabox, not in the plain image.
pub const NID_IN_METABOX: u64 = 1 << 63;

/// Asserts a size and the offsets of fields when the crate is compiled.
macro_rules! layout {
    ($type:ty, size $size:literal $(, $field:ident at $offset:literal)* $(,)?) => {
        const _: () = {
            assert!(size_of::<$type>() == $size);
            assert!(align_of::<$type>() == 1);
            $(assert!(core::mem::offset_of!($type, $field) == $offset);)*
        };
    };
}
pub(crate) use layout;
