//! What a file of a CIM has besides its content: `CIMFS_FILE_METADATA`.

use layer_model::Timestamp;

bitflags::bitflags! {
    /// `FILE_ATTRIBUTE_*`. Bits without a name are carried as they are.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
    pub struct Attributes: u32 {
        /// The file cannot be written to.
        const READONLY = 0x1;
        /// Not shown in listings.
        const HIDDEN = 0x2;
        /// Part of the operating system.
        const SYSTEM = 0x4;
        /// A directory.
        const DIRECTORY = 0x10;
        /// To be backed up.
        const ARCHIVE = 0x20;
        /// No other attribute is set.
        const NORMAL = 0x80;
        /// Has unallocated ranges, which read as zero.
        const SPARSE_FILE = 0x200;
        /// Has reparse data.
        const REPARSE_POINT = 0x400;

        const _ = !0;
    }
}

/// A `FILETIME`: units of 100 ns since 1601-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct FileTime(pub i64);

/// 1970-01-01 as a [`FileTime`].
const UNIX_EPOCH: i64 = 116_444_736_000_000_000;
const TICKS_A_SECOND: i64 = 10_000_000;

impl FileTime {
    /// The time, cut to 100 ns towards 1970 as Go's `windows.NsecToFiletime` does. Saturates.
    pub fn from_timestamp(time: Timestamp) -> Self {
        let nanos = i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
        let ticks = nanos / 100 + i128::from(UNIX_EPOCH);
        Self(i64::try_from(ticks).unwrap_or(if ticks < 0 { i64::MIN } else { i64::MAX }))
    }

    /// The same time on the scale of layers.
    pub fn to_timestamp(self) -> Timestamp {
        let ticks = i128::from(self.0) - i128::from(UNIX_EPOCH);
        let a_second = i128::from(TICKS_A_SECOND);
        let secs = ticks.div_euclid(a_second) as i64; // a tenth of a microsecond is far more than a second
        let nanos = ticks.rem_euclid(a_second) as u32 * 100;
        Timestamp::new(secs, nanos)
    }
}

/// Set in tags of reparse points that stand for another file: `IsReparseTagNameSurrogate`.
pub(crate) const NAME_SURROGATE: u32 = 0x2000_0000;

/// The metadata of one file or directory.
///
/// Buffers are as the API takes them; empty means absent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct FileMeta {
    /// Attributes; [`Attributes::DIRECTORY`] makes it a directory.
    pub attributes: Attributes,
    /// When it was made.
    pub creation: FileTime,
    /// When its content last changed.
    pub write: FileTime,
    /// When anything of it last changed.
    pub change: FileTime,
    /// When it was last read.
    pub access: FileTime,
    /// A self-relative security descriptor. Empty stands for one without a DACL.
    pub security: Box<[u8]>,
    /// Extended attributes, a chain of `FILE_FULL_EA_INFORMATION`.
    pub ea: Box<[u8]>,
    /// A `REPARSE_DATA_BUFFER`.
    pub reparse: Box<[u8]>,
}

impl FileMeta {
    /// The self-relative descriptor without a DACL, which the API is given for an empty one: everyone may do everything.
    pub const NULL_DACL: [u8; 20] = [1, 0, 4, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    /// Metadata with these attributes, all times 0, and no buffers.
    pub fn new(attributes: Attributes) -> Self {
        Self { attributes, ..Self::default() }
    }

    /// Whether this is a directory's.
    pub fn is_dir(&self) -> bool {
        self.attributes.contains(Attributes::DIRECTORY)
    }

    /// Whether an entry of this metadata has things below it: it is a directory, and does not stand for something else.
    /// A junction is marked as a directory, and so is a symbolic link to one; both are leaves.
    pub fn holds_entries(&self) -> bool {
        let tag = self.reparse.first_chunk().map_or(0, |tag| u32::from_le_bytes(*tag));
        self.is_dir() && tag & NAME_SURROGATE == 0
    }

    /// Whether this is a link's, or another reparse point's.
    pub fn is_reparse_point(&self) -> bool {
        !self.reparse.is_empty()
    }

    /// The descriptor that the API is given: never empty.
    pub fn security_or_default(&self) -> &[u8] {
        if self.security.is_empty() { &Self::NULL_DACL } else { &self.security }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_times_are_those_of_go() {
        for (secs, nanos, expected) in [
            (0, 0, 116_444_736_000_000_000),
            (1, 123_456_789, 116_444_736_011_234_567),
            (1_577_836_800, 0, 132_223_104_000_000_000),
            (1_700_000_000, 0, 133_444_736_000_000_000),
        ] {
            let time = FileTime::from_timestamp(Timestamp::new(secs, nanos));
            assert_eq!(time, FileTime(expected));
            assert_eq!(time.to_timestamp(), Timestamp::new(secs, nanos / 100 * 100));
        }
        assert_eq!(FileTime(0).to_timestamp().secs, -11_644_473_600);
    }
}
