//! Extended attributes: the area after an inode, entries, and the table of long name prefixes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{U16, U32, layout};

/// The head of the xattr area. `shared_count` shared ids of 4 bytes follow, then inline entries to the end.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IbodyHeader {
    /// A bloom filter over the names, inverted: a set bit says that no xattr has this hash. 0 says nothing.
    /// Valid only with [`compat::XATTR_FILTER`](super::superblock::compat::XATTR_FILTER).
    pub name_filter: U32,
    /// How many shared ids follow.
    pub shared_count: u8,
    /// Reserved.
    pub reserved: [u8; 7],
}

layout!(IbodyHeader, size 12, shared_count at 4);

/// An xattr, inline or shared: this, the rest of the name, the value, zeros to a multiple of 4.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Entry {
    /// Bytes of the name after its prefix.
    pub name_len: u8,
    /// Bit 7 clear: a base prefix, one of the `INDEX_` constants. Bit 7 set: a long prefix.
    pub name_index: u8,
    /// Bytes of the value.
    pub value_size: U16,
}

layout!(Entry, size 4, name_index at 1, value_size at 2);

impl Entry {
    /// The whole entry with name, value and padding, in bytes.
    pub const fn stored_size(name_len: usize, value_size: usize) -> usize {
        (size_of::<Entry>() + name_len + value_size).next_multiple_of(4)
    }
}

/// `name_index` bit 7: the low bits are the number of a long prefix.
pub const LONG_PREFIX: u8 = 0x80;

/// The most long prefixes that an image can have.
pub const LONG_PREFIX_MAX: usize = 128;

/// Prefix `user.`
pub const INDEX_USER: u8 = 1;
/// The whole name `system.posix_acl_access`.
pub const INDEX_POSIX_ACL_ACCESS: u8 = 2;
/// The whole name `system.posix_acl_default`.
pub const INDEX_POSIX_ACL_DEFAULT: u8 = 3;
/// Prefix `trusted.`
pub const INDEX_TRUSTED: u8 = 4;
/// Reserved for lustre; never written, ignored when read.
pub const INDEX_LUSTRE: u8 = 5;
/// Prefix `security.`
pub const INDEX_SECURITY: u8 = 6;

/// The seed of the bloom filter's hash; the base prefix number is added.
pub const FILTER_SEED: u32 = 0x25BB_E08F;

/// A record of the table of long prefixes, 4-byte aligned; `size - 1` bytes of infix follow.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LongPrefix {
    /// Bytes that follow this field: 1 for the base index, and the infix.
    pub size: U16,
    /// The base prefix that the infix is appended to, or 0 for none.
    pub base_index: u8,
}

layout!(LongPrefix, size 3, base_index at 2);

/// The longest infix of a long prefix.
pub const INFIX_MAX: usize = 254;

/// The text that a base prefix stands for.
pub const fn base_prefix(index: u8) -> Option<&'static [u8]> {
    match index {
        INDEX_USER => Some(b"user."),
        INDEX_POSIX_ACL_ACCESS => Some(b"system.posix_acl_access"),
        INDEX_POSIX_ACL_DEFAULT => Some(b"system.posix_acl_default"),
        INDEX_TRUSTED => Some(b"trusted."),
        INDEX_SECURITY => Some(b"security."),
        _ => None,
    }
}

/// Splits a full name into the number of its base prefix and the rest; `None` if EROFS cannot store it.
pub fn split_name(name: &[u8]) -> Option<(u8, &[u8])> {
    for index in [INDEX_USER, INDEX_TRUSTED, INDEX_SECURITY] {
        let prefix = base_prefix(index)?;
        if let Some(rest) = name.strip_prefix(prefix) {
            return (!rest.is_empty()).then_some((index, rest));
        }
    }
    [INDEX_POSIX_ACL_ACCESS, INDEX_POSIX_ACL_DEFAULT]
        .into_iter()
        .find(|&index| base_prefix(index) == Some(name))
        .map(|index| (index, &name[name.len()..]))
}
