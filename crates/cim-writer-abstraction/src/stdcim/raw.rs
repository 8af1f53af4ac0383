//! The structures on disk, exactly as they lie there.
//!
//! Everything here is a view of bytes: alignment 1, little endian, no I/O, no allocation, no checks beyond the size.
//! Names follow the reader that hcsshim once had; the documentation of a field is the rule for it. The checked level
//! is [`Image`](super::Image).
//!
//! Reserved fields are written as zero and ignored when read.

use std::fmt;

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{I64, U16, U32, U64},
};

use crate::Guid;

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

/// What every file of an image starts with.
pub const MAGIC: [u8; 8] = *b"cimfile0";

/// Of a page-aligned region, each object starts at a multiple of this.
pub const PAGE_SIZE: u64 = 4096;
/// In all other regions, each object starts at a multiple of this.
pub const OBJECT_ALIGN: u64 = 8;
/// How many entries an upcase table has: one for each UTF-16 unit.
pub const UPCASE_LENGTH: usize = 0x1_0000;
/// How many file records a file table has room for.
pub const FILES_PER_TABLE: u32 = 1024;
/// The most regions that an image can be made of: the index has 16 bits.
pub const REGIONS_MAX: u32 = 0x1_0000;
/// The largest byte offset and the longest stream: both have 48 bits.
pub const LENGTH_MAX: u64 = (1 << 48) - 1;

/// The file type of the file-system file, `*.cim`.
pub const FILE_TYPE_IMAGE: u8 = 0;
/// The file type of a region file.
pub const FILE_TYPE_REGION: u8 = 1;
/// The file type of an object id file.
pub const FILE_TYPE_OBJECT_ID: u8 = 2;

/// The region type of metadata: everything but the data of files.
pub const REGION_METADATA: u8 = 0;
/// The region type of page-aligned file data.
pub const REGION_DATA: u8 = 1;
/// The region type of the data of small files.
pub const REGION_SMALL_DATA: u8 = 2;

/// Where an object is: bits 63 to 48 are the index of its region, bits 47 to 0 the byte in the region's file, header
/// included. 0 is no object; byte 0 of a region is never one.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(transparent)]
pub struct RegionOffset(pub U64);

impl RegionOffset {
    /// No object.
    pub const NULL: Self = Self(U64::ZERO);

    /// Byte `byte`, at most [`LENGTH_MAX`], of region `region`.
    pub const fn new(region: u16, byte: u64) -> Self {
        Self(U64::new((region as u64) << 48 | byte & LENGTH_MAX))
    }

    /// The index of the region, over the regions of all parents and then the image's own.
    pub const fn region(self) -> u16 {
        (self.0.get() >> 48) as u16
    }

    /// The byte in the region's file.
    pub const fn byte(self) -> u64 {
        self.0.get() & LENGTH_MAX
    }

    /// Whether this is no object.
    pub const fn is_null(self) -> bool {
        self.0.get() == 0
    }
}

impl fmt::Debug for RegionOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:#x}", self.region(), self.byte())
    }
}

/// The header that all files of an image have.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommonHeader {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// The length of the whole header of this type of file. Readers ignore it.
    pub header_length: U32,
    /// One of the `FILE_TYPE_` constants.
    pub file_type: u8,
    /// Reserved.
    pub reserved: [u8; 3],
    /// 1 (the era of Windows 10), 2 or 3; anything else means: refuse the image.
    pub major: U32,
    /// Ignored when read.
    pub minor: U32,
    /// Reserved.
    pub reserved2: U64,
}

layout!(CommonHeader, size 32, header_length at 8, file_type at 12, major at 16, minor at 20);

/// A set of region files: `region_<id>_0`, `region_<id>_1` and so on, each with an `objectid_<id>_<n>` beside it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct RegionSet {
    /// What the files are named by: a GUID as Windows keeps it in memory, see [`RegionSet::guid`].
    pub id: [u8; 16],
    /// How many files there are.
    pub count: U16,
    /// Reserved.
    pub reserved: U16,
    /// Reserved.
    pub reserved2: U32,
}

layout!(RegionSet, size 24, count at 16);

impl RegionSet {
    /// `count` region files named by `id`.
    pub const fn new(id: Guid, count: u16) -> Self {
        Self { id: id.to_mixed(), count: U16::new(count), reserved: U16::ZERO, reserved2: U32::ZERO }
    }

    /// What the files are named by.
    pub const fn guid(&self) -> Guid {
        Guid::from_mixed(self.id)
    }

    /// The name of region file `index`, counted in this set.
    pub fn region_name(&self, index: u16) -> String {
        format!("region_{}_{index}", self.guid())
    }

    /// The name of the object id file that belongs to it.
    pub fn object_id_name(&self, index: u16) -> String {
        format!("objectid_{}_{index}", self.guid())
    }
}

/// The header of the file-system file. `parent_count` region sets follow it: those of the parents, which are numbered
/// before the image's own.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ImageHeader {
    /// Type [`FILE_TYPE_IMAGE`].
    pub common: CommonHeader,
    /// The regions that were made with this image.
    pub regions: RegionSet,
    /// The [`FileSystem`].
    pub file_system: RegionOffset,
    /// Reserved.
    pub reserved: [u8; 6],
    /// How many region sets of parents follow.
    pub parent_count: U16,
}

layout!(ImageHeader, size 72, regions at 32, file_system at 56, parent_count at 70);

/// The header of a region file. Objects follow in no order, each aligned as the type of the region says.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RegionHeader {
    /// Type [`FILE_TYPE_REGION`].
    pub common: CommonHeader,
    /// The index, written as that within its set. Not public whether Windows counts so; ignored when read.
    pub index: U16,
    /// One of the `REGION_` constants. Which number means which kind of data is inferred; ignored when read.
    pub region_type: u8,
    /// Reserved.
    pub reserved: [u8; 5],
}

layout!(RegionHeader, size 40, index at 32, region_type at 34);

/// The header of an object id file, which is for whoever extends the image and wants to find data that is there
/// already. The digest in it is not public; readers need none of this.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ObjectIdHeader {
    /// Type [`FILE_TYPE_OBJECT_ID`].
    pub common: CommonHeader,
    /// As in the region file.
    pub index: U16,
    /// As in the region file.
    pub region_type: u8,
    /// Reserved.
    pub reserved: [u8; 5],
    /// Where the entries begin in this file.
    pub table_offset: U32,
    /// How many [`ObjectIdEntry`]s there are.
    pub count: U32,
}

layout!(ObjectIdHeader, size 48, index at 32, region_type at 34, table_offset at 40, count at 44);

/// One object of a region.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ObjectIdEntry {
    /// The object's length.
    pub length: U64,
    /// A digest of it, by an algorithm that is not public.
    pub digest: [u8; 24],
    /// The byte in the region file.
    pub offset: U64,
}

layout!(ObjectIdEntry, size 40, digest at 8, offset at 32);

/// The file-system object.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FileSystem {
    /// [`UPCASE_LENGTH`] units, by which names are compared and sorted.
    pub upcase: RegionOffset,
    /// The directory of the file tables: [`FileTableEntry`]s.
    pub file_tables: RegionOffset,
    /// How many of those there are.
    pub file_table_count: U32,
    /// The root directory.
    pub root: U32,
}

layout!(FileSystem, size 24, file_tables at 8, file_table_count at 16, root at 20);

/// One file table. File `f`, 1 being the first, is in table `(f - 1) / 1024` at `(f - 1) % 1024`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FileTableEntry {
    /// The records.
    pub table: RegionOffset,
    /// How many records are valid.
    pub count: U16,
    /// How large a record is: at least [`FileRecord::V1_SIZE`]. What is beyond the known fields is ignored, fields that
    /// are not there are zero.
    pub record_size: U16,
    /// Reserved.
    pub reserved: U32,
}

layout!(FileTableEntry, size 16, count at 8, record_size at 10);

/// A stream: where its bytes are, how many, and in which form.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct StreamRecord {
    /// The bytes, the link table, or the [`PeImage`]. Of an empty stream it may be anything, also null; it is written
    /// as that of some object, as older readers want one.
    pub data: RegionOffset,
    /// Bits 47 to 0 are the length, bits 55 to 48 the type (`STREAM_` constants), bit 56 says that the stream is sparse.
    pub length_and_type: U64,
}

layout!(StreamRecord, size 16, length_and_type at 8);

/// The type of a stream: bytes.
pub const STREAM_DATA: u8 = 0;
/// The type of a stream: a link table, which makes the file a directory.
pub const STREAM_LINK_TABLE: u8 = 1;
/// The type of a stream: a [`PeImage`].
pub const STREAM_PE_IMAGE: u8 = 2;

impl StreamRecord {
    /// The bit of a sparse stream.
    const SPARSE: u64 = 1 << 56;

    /// A stream of `length` bytes, at most [`LENGTH_MAX`].
    pub const fn new(data: RegionOffset, length: u64, stream_type: u8, sparse: bool) -> Self {
        let sparse = if sparse { Self::SPARSE } else { 0 };
        Self { data, length_and_type: U64::new(length & LENGTH_MAX | (stream_type as u64) << 48 | sparse) }
    }

    /// How many bytes the stream has.
    pub const fn length(self) -> u64 {
        self.length_and_type.get() & LENGTH_MAX
    }

    /// One of the `STREAM_` constants.
    pub const fn stream_type(self) -> u8 {
        (self.length_and_type.get() >> 48) as u8
    }

    /// Whether all bytes are zero, and none are stored.
    pub const fn is_sparse(self) -> bool {
        self.length_and_type.get() & Self::SPARSE != 0
    }
}

/// A file or directory.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct FileRecord {
    /// [`file_flags`]. That it is a directory says the type of `stream`, that it is a reparse point says `reparse`.
    pub flags: U16,
    /// How many bytes `ea` has.
    pub ea_length: U16,
    /// The tag that the reparse data begins with, 0 without any.
    pub reparse_tag: U32,
    /// When it was made, a `FILETIME` like the next three.
    pub creation_time: I64,
    /// When its content last changed.
    pub last_write_time: I64,
    /// When anything of it last changed.
    pub change_time: I64,
    /// When it was last read.
    pub last_access_time: I64,
    /// The main stream; of a directory the link table of what is in it, length 0 for an empty one.
    pub stream: StreamRecord,
    /// A length of 16 bits, then a self-relative security descriptor.
    pub security: RegionOffset,
    /// `ea_length` bytes of extended attributes.
    pub ea: RegionOffset,
    /// A length of 16 bits, then a `REPARSE_DATA_BUFFER`.
    pub reparse: RegionOffset,
    /// A link table of [`StreamRecord`]s: the alternate streams.
    pub streams: RegionOffset,
    /// The directory that the file is in. Since version 2; what it is for files of several names is not public.
    pub parent: U32,
    /// Not public. Since version 2.
    pub base_region: U16,
    /// Reserved. Since version 2.
    pub reserved: U16,
    /// Not public. Since version 3.
    pub unknown: U64,
}

layout!(FileRecord, size 0x68, ea_length at 2, reparse_tag at 4, creation_time at 8, last_write_time at 16,
    change_time at 24, last_access_time at 32, stream at 40, security at 56, ea at 64, reparse at 72, streams at 80,
    parent at 88, base_region at 92, unknown at 96);

impl FileRecord {
    /// The size of a record in version 1, the smallest there is.
    pub const V1_SIZE: u16 = 0x58;
    /// The size of a record in version 2.
    pub const V2_SIZE: u16 = 0x60;
    /// The size of a record in version 3.
    pub const V3_SIZE: u16 = 0x68;
}

/// The bits of [`FileRecord::flags`].
pub mod file_flags {
    /// `FILE_ATTRIBUTE_READONLY`.
    pub const READONLY: u16 = 0x1;
    /// `FILE_ATTRIBUTE_HIDDEN`.
    pub const HIDDEN: u16 = 0x2;
    /// `FILE_ATTRIBUTE_SYSTEM`.
    pub const SYSTEM: u16 = 0x4;
    /// `FILE_ATTRIBUTE_ARCHIVE`.
    pub const ARCHIVE: u16 = 0x8;
    /// `FILE_ATTRIBUTE_SPARSE_FILE`.
    pub const SPARSE: u16 = 0x10;
}

/// The header of a link table. `count` values follow (file ids of 32 bits, or [`StreamRecord`]s), then as many offsets
/// of names, 32 bits from the start of the table, then the names: a length of 16 bits in UTF-16 units, and the units.
///
/// Names ascend strictly, compared unit by unit after each was looked up in the upcase table.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LinkTableHeader {
    /// The length of all of it, header included.
    pub length: U32,
    /// How many links there are.
    pub count: U32,
}

layout!(LinkTableHeader, size 8, count at 4);

/// The stream of an executable, stored as it is laid out in memory. `mapping_count` [`PeImageMapping`]s follow.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PeImage {
    /// The bytes.
    pub data: RegionOffset,
    /// How many bytes are stored.
    pub data_length: U64,
    /// The length of the image in memory.
    pub image_length: U32,
    /// How many mappings follow.
    pub mapping_count: U16,
    /// Not public.
    pub flags: U16,
}

layout!(PeImage, size 24, data_length at 8, image_length at 16, mapping_count at 20, flags at 22);

/// From this byte of the file on, up to the next mapping, byte `p` of the file is byte `p + delta` of the data. Before
/// the first mapping it is byte `p`. Mappings ascend.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PeImageMapping {
    /// The first byte of the file.
    pub file_offset: U32,
    /// How much further its byte is in the data.
    pub delta: U32,
}

layout!(PeImageMapping, size 8, delta at 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_guid_and_index() {
        let set =
            RegionSet { id: [4, 3, 2, 1, 6, 5, 8, 7, 9, 10, 11, 12, 13, 14, 15, 16], ..RegionSet::default() };
        assert_eq!(set.region_name(0), "region_01020304-0506-0708-090a-0b0c0d0e0f10_0");
        assert_eq!(set.object_id_name(12), "objectid_01020304-0506-0708-090a-0b0c0d0e0f10_12");
        assert_eq!(RegionSet::new(set.guid(), 0), set);
    }

    #[test]
    fn offsets_have_an_index_and_a_byte() {
        let offset = RegionOffset::new(2, 0x28);
        assert_eq!(offset.0.get(), 0x0002_0000_0000_0028);
        assert_eq!((offset.region(), offset.byte()), (2, 0x28));
        assert!(RegionOffset::NULL.is_null() && !offset.is_null());
    }

    #[test]
    fn streams_have_a_length_a_type_and_a_bit() {
        let stream = StreamRecord::new(RegionOffset::NULL, LENGTH_MAX, STREAM_PE_IMAGE, true);
        assert_eq!(stream.length_and_type.get(), 0x0102_ffff_ffff_ffff);
        assert_eq!(
            (stream.length(), stream.stream_type(), stream.is_sparse()),
            (LENGTH_MAX, STREAM_PE_IMAGE, true)
        );
    }
}
