//! Directory entries.
//!
//! The content of a directory is cut into blocks; each starts with its entries, their names follow back to
//! back in entry order. The first name's offset therefore says how many entries there are. The last name ends
//! at the first NUL or at the end of the block. Names are sorted by unsigned bytes over the whole directory,
//! `.` and `..` among them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{U16, U64, layout};

/// The longest name, in bytes.
pub const NAME_MAX: usize = 255;

/// The file type of an entry: unknown.
pub const FT_UNKNOWN: u8 = 0;
/// The file type of an entry: regular file.
pub const FT_REG_FILE: u8 = 1;
/// The file type of an entry: directory.
pub const FT_DIR: u8 = 2;
/// The file type of an entry: character device.
pub const FT_CHRDEV: u8 = 3;
/// The file type of an entry: block device.
pub const FT_BLKDEV: u8 = 4;
/// The file type of an entry: FIFO.
pub const FT_FIFO: u8 = 5;
/// The file type of an entry: socket.
pub const FT_SOCK: u8 = 6;
/// The file type of an entry: symbolic link.
pub const FT_SYMLINK: u8 = 7;

/// A directory entry without its name.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Dirent {
    /// The inode; bit 63 says that it is in the metabox.
    pub nid: U64,
    /// Where the name starts, in bytes from the start of this directory block. In the first entry of a block:
    /// a non-zero multiple of 12 within the block. Strictly increasing.
    pub nameoff: U16,
    /// One of the `FT_` constants.
    pub file_type: u8,
    /// Reserved.
    pub reserved: u8,
}

layout!(Dirent, size 12, nameoff at 8, file_type at 10, reserved at 11);
