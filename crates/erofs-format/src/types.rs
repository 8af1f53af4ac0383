//! The small values that reader and writer share.

use crate::raw::{NID_IN_METABOX, dirent};

/// An inode number, which in EROFS is an address: slots of 32 bytes from the start of the metadata area.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nid(pub u64);

impl Nid {
    /// Whether the inode is in the metabox instead of the plain image.
    pub fn in_metabox(self) -> bool {
        self.0 & NID_IN_METABOX != 0
    }

    /// The slot in the area that the inode is in.
    pub fn slot(self) -> u64 {
        self.0 & !NID_IN_METABOX
    }
}

impl std::fmt::Display for Nid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.in_metabox() { write!(f, "metabox:{}", self.slot()) } else { write!(f, "{}", self.0) }
    }
}

/// The seven types of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "POSIX has no more")]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
}

/// The type bits of a mode.
pub(crate) const S_IFMT: u16 = 0o170_000;

impl FileType {
    /// The type that the bits of a mode say; `None` if there is none such.
    pub fn from_mode(mode: u16) -> Option<Self> {
        Some(match mode & S_IFMT {
            0o100_000 => Self::Regular,
            0o040_000 => Self::Directory,
            0o120_000 => Self::Symlink,
            0o020_000 => Self::CharDevice,
            0o060_000 => Self::BlockDevice,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            _ => return None,
        })
    }

    /// The type bits of a mode.
    pub fn mode_bits(self) -> u16 {
        match self {
            Self::Regular => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Symlink => 0o120_000,
            Self::CharDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
        }
    }

    /// The type as directory entries store it.
    pub fn dirent_type(self) -> u8 {
        match self {
            Self::Regular => dirent::FT_REG_FILE,
            Self::Directory => dirent::FT_DIR,
            Self::Symlink => dirent::FT_SYMLINK,
            Self::CharDevice => dirent::FT_CHRDEV,
            Self::BlockDevice => dirent::FT_BLKDEV,
            Self::Fifo => dirent::FT_FIFO,
            Self::Socket => dirent::FT_SOCK,
        }
    }

    /// The type that a directory entry says; `None` for "unknown" and for numbers that mean nothing.
    pub fn from_dirent(file_type: u8) -> Option<Self> {
        Some(match file_type {
            dirent::FT_REG_FILE => Self::Regular,
            dirent::FT_DIR => Self::Directory,
            dirent::FT_SYMLINK => Self::Symlink,
            dirent::FT_CHRDEV => Self::CharDevice,
            dirent::FT_BLKDEV => Self::BlockDevice,
            dirent::FT_FIFO => Self::Fifo,
            dirent::FT_SOCK => Self::Socket,
            _ => return None,
        })
    }

    /// Whether files of this type have content: regular files, directories, symbolic links.
    pub fn has_content(self) -> bool {
        matches!(self, Self::Regular | Self::Directory | Self::Symlink)
    }

    /// Whether files of this type have a device number.
    pub fn is_device(self) -> bool {
        matches!(self, Self::CharDevice | Self::BlockDevice)
    }
}

/// A moment: seconds since 1970, and nanoseconds after that second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// 0 to 999,999,999, always forward in time.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// A moment at a whole second.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self { seconds, nanoseconds: 0 }
    }
}

/// A device number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DeviceNumber {
    /// The driver; 12 bits are stored.
    pub major: u32,
    /// The device of that driver; 20 bits are stored.
    pub minor: u32,
}

impl DeviceNumber {
    /// The stored form of `i_u`.
    pub fn encode(self) -> Option<u32> {
        let fits = self.major < 1 << 12 && self.minor < 1 << 20;
        fits.then_some((self.minor & 0xff) | (self.major << 8) | ((self.minor & !0xff) << 12))
    }

    /// The number that `i_u` stores.
    pub fn decode(stored: u32) -> Self {
        Self { major: (stored >> 8) & 0xfff, minor: (stored & 0xff) | ((stored >> 12) & 0xf_ff00) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_stored_as_the_kernel_stores_them() {
        for (major, minor, stored) in
            [(8, 1, 0x801), (1, 300, 0x0010_012C), (4095, 1_048_575, u32::MAX), (0, 0, 0)]
        {
            let number = DeviceNumber { major, minor };
            assert_eq!(number.encode(), Some(stored));
            assert_eq!(DeviceNumber::decode(stored), number);
        }
        assert_eq!(DeviceNumber { major: 4096, minor: 0 }.encode(), None);
        assert_eq!(DeviceNumber { major: 0, minor: 1 << 20 }.encode(), None);
    }

    #[test]
    fn file_types_survive_both_encodings() {
        for mode in 0..16 {
            if let Some(file_type) = FileType::from_mode(mode << 12) {
                assert_eq!(file_type.mode_bits(), mode << 12);
                assert_eq!(FileType::from_dirent(file_type.dirent_type()), Some(file_type));
            }
        }
    }
}
