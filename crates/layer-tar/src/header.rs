//! The 512-byte tar header: fields, numbers, checksum, dialects. No input or output.
//!
//! Field names and offsets are those of POSIX `ustar` and of GNU tar's `tar.h`. Every dialect shares the V7
//! part; what follows at offset 257 depends on the magic. The rules for odd values are those of Go's
//! `archive/tar` (`reader.go`, `format.go`, `strconv.go`), because that is what published layers are read by.

use layer_model::{Error, ErrorKind, Result};

/// The unit of a tar: headers are one block, payloads are padded to whole blocks.
pub const BLOCK: usize = 512;

/// One header, as it stands in the archive.
pub type Block = [u8; BLOCK];

/// The type flags that mean something here.
pub mod typeflag {
    /// A regular file of a V7 archive, or a directory when the name ends in a slash.
    pub const REGULAR_V7: u8 = 0;
    /// A regular file.
    pub const REGULAR: u8 = b'0';
    /// A hard link.
    pub const HARD_LINK: u8 = b'1';
    /// A symbolic link.
    pub const SYMLINK: u8 = b'2';
    /// A character device.
    pub const CHAR: u8 = b'3';
    /// A block device.
    pub const BLOCK: u8 = b'4';
    /// A directory.
    pub const DIRECTORY: u8 = b'5';
    /// A FIFO.
    pub const FIFO: u8 = b'6';
    /// A regular file that was to lie contiguously on disk.
    pub const CONTIGUOUS: u8 = b'7';
    /// PAX records for the next entry.
    pub const PAX: u8 = b'x';
    /// PAX records for all that follow; without effect here.
    pub const PAX_GLOBAL: u8 = b'g';
    /// The long name of the next entry (GNU).
    pub const GNU_LONG_NAME: u8 = b'L';
    /// The long link target of the next entry (GNU).
    pub const GNU_LONG_LINK: u8 = b'K';
    /// A sparse file with its map in the header (GNU).
    pub const GNU_SPARSE: u8 = b'S';
}

/// Where a field lies in its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The first byte.
    pub at: usize,
    /// How many bytes.
    pub len: usize,
}

impl Field {
    const fn new(at: usize, len: usize) -> Self {
        Self { at, len }
    }

    /// The bytes of the field.
    pub fn of(self, block: &Block) -> &[u8] {
        &block[self.at..self.at + self.len]
    }

    /// The bytes of the field, to be written.
    pub fn of_mut(self, block: &mut Block) -> &mut [u8] {
        &mut block[self.at..self.at + self.len]
    }
}

/// The fields, named as in POSIX and in GNU's `tar.h`.
#[expect(missing_docs, reason = "the names are those of the standards")]
pub mod field {
    use super::Field;

    pub const NAME: Field = Field::new(0, 100);
    pub const MODE: Field = Field::new(100, 8);
    pub const UID: Field = Field::new(108, 8);
    pub const GID: Field = Field::new(116, 8);
    pub const SIZE: Field = Field::new(124, 12);
    pub const MTIME: Field = Field::new(136, 12);
    pub const CHECKSUM: Field = Field::new(148, 8);
    pub const TYPEFLAG: Field = Field::new(156, 1);
    pub const LINKNAME: Field = Field::new(157, 100);
    pub const MAGIC: Field = Field::new(257, 6);
    pub const VERSION: Field = Field::new(263, 2);
    pub const UNAME: Field = Field::new(265, 32);
    pub const GNAME: Field = Field::new(297, 32);
    pub const DEVMAJOR: Field = Field::new(329, 8);
    pub const DEVMINOR: Field = Field::new(337, 8);
    /// USTAR and PAX: the directory part of a long name.
    pub const PREFIX: Field = Field::new(345, 155);
    /// Schilling's star: a shorter prefix, then times.
    pub const STAR_PREFIX: Field = Field::new(345, 131);
    pub const STAR_ATIME: Field = Field::new(476, 12);
    pub const STAR_CTIME: Field = Field::new(488, 12);
    pub const STAR_TRAILER: Field = Field::new(508, 4);
    pub const GNU_ATIME: Field = Field::new(345, 12);
    pub const GNU_CTIME: Field = Field::new(357, 12);
    /// Old GNU sparse: four extents of two numbers of twelve bytes.
    pub const GNU_SPARSE: Field = Field::new(386, 96);
    pub const GNU_IS_EXTENDED: Field = Field::new(482, 1);
    pub const GNU_REAL_SIZE: Field = Field::new(483, 12);
    /// An extension block of an old GNU sparse map: 21 extents.
    pub const EXTENSION_SPARSE: Field = Field::new(0, 504);
    pub const EXTENSION_IS_EXTENDED: Field = Field::new(504, 1);
}

/// What a header says about everything behind the V7 part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// No magic: only the V7 part means something.
    V7,
    /// POSIX, PAX included; any version number.
    Ustar,
    /// Schilling's star.
    Star,
    /// GNU tar.
    Gnu,
}

/// A header whose checksum is right, with its fields still to be read.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    block: &'a Block,
    dialect: Dialect,
}

impl<'a> Header<'a> {
    /// Checks the checksum and tells the dialect.
    ///
    /// Historic writers summed signed bytes; both sums are accepted.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] when neither sum is the one in the header.
    pub fn parse(block: &'a Block) -> Result<Self> {
        let stored = octal(field::CHECKSUM.of(block)).ok();
        // The checksum counts its own field as spaces.
        let field_sum: u32 = field::CHECKSUM.of(block).iter().map(|b| u32::from(*b)).sum();
        let sum = block.iter().map(|b| u32::from(*b)).sum::<u32>() - field_sum + 8 * u32::from(b' ');
        if stored != Some(i64::from(sum)) && stored != Some(signed_checksum(block)) {
            return Err(Error::new(ErrorKind::InvalidArchive, "header checksum is wrong"));
        }
        Ok(Self::of_checked(block))
    }

    /// A header that passed [`Header::parse`] before.
    pub(crate) fn of_checked(block: &'a Block) -> Self {
        let dialect = match (field::MAGIC.of(block), field::VERSION.of(block)) {
            (b"ustar\0", _) if field::STAR_TRAILER.of(block) == b"tar\0" => Dialect::Star,
            (b"ustar\0", _) => Dialect::Ustar,
            (b"ustar ", b" \0") => Dialect::Gnu,
            _ => Dialect::V7,
        };
        Self { block, dialect }
    }

    /// The dialect.
    pub fn dialect(self) -> Dialect {
        self.dialect
    }

    /// The block.
    pub fn block(self) -> &'a Block {
        self.block
    }

    /// The type flag.
    pub fn typeflag(self) -> u8 {
        self.block[field::TYPEFLAG.at]
    }

    /// A field as text: up to its first NUL.
    pub fn text(self, field: Field) -> &'a [u8] {
        until_nul(field.of(self.block))
    }

    /// A field as a number, octal or base-256.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] when it is neither, or does not fit.
    pub fn number(self, field: Field) -> Result<i64> {
        number(field.of(self.block))
    }
}

#[cold]
fn signed_checksum(block: &Block) -> i64 {
    let blank = |(at, byte): (usize, &u8)| {
        let in_field = (field::CHECKSUM.at..field::CHECKSUM.at + field::CHECKSUM.len).contains(&at);
        i64::from(if in_field { b' ' } else { *byte } as i8)
    };
    block.iter().enumerate().map(blank).sum()
}

/// What stands before the first NUL.
pub fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

/// A number as headers hold it: octal digits, or base-256 when the first bit is set.
///
/// # Errors
/// [`ErrorKind::InvalidArchive`] when it is neither, or does not fit.
pub fn number(bytes: &[u8]) -> Result<i64> {
    match bytes.first() {
        Some(first) if first & 0x80 != 0 => base256(bytes),
        _ => octal(bytes),
    }
}

/// Octal digits between any number of NULs and spaces; nothing at all is zero.
fn octal(bytes: &[u8]) -> Result<i64> {
    let padding = |b: &u8| *b == b' ' || *b == 0;
    let start = bytes.iter().position(|b| !padding(b)).unwrap_or(bytes.len());
    let mut value = 0_i64;
    for (at, byte) in bytes.iter().enumerate().skip(start) {
        let digit = match byte {
            b'0'..=b'7' => i64::from(byte - b'0'),
            // A NUL ends the text also when something follows it inside the field; spaces only at the end.
            0 => break,
            b' ' if bytes[at..].iter().all(padding) => break,
            _ => return Err(Error::new(ErrorKind::InvalidArchive, "number in the header is not octal")),
        };
        if value >> 60 != 0 {
            return Err(too_large());
        }
        value = value << 3 | digit;
    }
    Ok(value)
}

/// Two's complement in big-endian order, of which the first bit is only the mark of the encoding.
fn base256(bytes: &[u8]) -> Result<i64> {
    // Working on the complement of a negative number keeps the arithmetic unsigned: -a-1 == !a.
    let invert = if bytes[0] & 0x40 != 0 { 0xff } else { 0 };
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().enumerate() {
        let byte = if at == 0 { (byte ^ invert) & 0x7f } else { byte ^ invert };
        if value >> 56 != 0 {
            return Err(too_large());
        }
        value = value << 8 | u64::from(byte);
    }
    let value = i64::try_from(value).map_err(|_| too_large())?;
    Ok(if invert == 0 { value } else { !value })
}

fn too_large() -> Error {
    Error::new(ErrorKind::InvalidArchive, "number in the header is too large")
}

/// How many bytes pad a payload of `len` bytes to whole blocks.
pub fn padding(len: u64) -> u64 {
    len.wrapping_neg() % BLOCK as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_numbers_are_read_as_go_reads_them() {
        for (bytes, want) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"", Some(0)),
            (b"7777777777777777777777", None),
            (b"12\x0034\0\0", Some(0o12)),
            (b"128\0", None),
            (b"-1\0", None),
            (b"+1\0", None),
        ] {
            assert_eq!(number(bytes).ok(), want, "{bytes:?}");
        }
    }

    #[test]
    fn base_256_numbers_are_twos_complement() {
        for (bytes, want) in [
            (&b"\x80\0\0\0\0\0\0\x05"[..], Some(5)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Some(i64::MIN)),
        ] {
            assert_eq!(number(bytes).ok(), want, "{bytes:?}");
        }
    }

    #[test]
    fn both_checksums_are_accepted_and_no_other() {
        let mut block = [0_u8; BLOCK];
        block[0] = 0xff;
        let unsigned = 0xff + 8 * 32;
        let signed = 8 * 32 - 1;
        for (sum, ok) in [(unsigned, true), (signed, true), (unsigned + 1, false)] {
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            assert_eq!(Header::parse(&block).is_ok(), ok);
        }
    }

    #[test]
    fn padding_fills_whole_blocks() {
        for (len, want) in [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511), (u64::MAX, 1)] {
            assert_eq!(padding(len), want);
        }
    }
}
