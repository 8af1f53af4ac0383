//! The footer that makes a container a fixed VHD, so that it can be attached to a utility VM as a disk.
//!
//! It is 512 bytes behind everything else, outside of what a verified image's digest covers; numbers are big-endian.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
};

use layer_model::{Error, ErrorKind, IoContext, ReadAt, Result};

/// The length of the footer.
pub const FOOTER_LEN: usize = 512;
/// What the footer begins with.
const COOKIE: [u8; 8] = *b"conectix";
/// Where the checksum is.
const CHECKSUM: usize = 64;

/// Where the identifier in a footer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UniqueId {
    /// Random bytes, another time others, as the reference has it: the container's digest differs on every run. The
    /// caller draws them; what this library makes depends on its arguments alone.
    Random([u8; 16]),
    /// These bytes, always.
    Fixed([u8; 16]),
    /// The first half of the image's root digest: as reproducible as the image.
    FromDigest,
}

impl UniqueId {
    /// The bytes.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for [`UniqueId::FromDigest`] without a digest.
    pub fn resolve(self, root_digest: Option<&[u8; 32]>) -> Result<[u8; 16]> {
        match (self, root_digest) {
            (Self::Random(id) | Self::Fixed(id), _) => Ok(id),
            (Self::FromDigest, Some(digest)) => {
                let mut id = [0; 16];
                id.copy_from_slice(&digest[..16]);
                Ok(id)
            }
            (Self::FromDigest, None) => {
                let what = "the identifier of the footer comes from a root digest, and there is none";
                Err(Error::new(ErrorKind::InvalidArgument, what))
            }
        }
    }
}

/// What differs between footers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Footer {
    /// How many bytes are in front of the footer.
    pub size: u64,
    /// The identifier of the disk.
    pub unique_id: [u8; 16],
}

impl Footer {
    /// The bytes.
    pub fn to_bytes(&self) -> [u8; FOOTER_LEN] {
        let mut bytes = [0; FOOTER_LEN];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &COOKIE);
        put(8, &2_u32.to_be_bytes()); // features: the bit that is always set
        put(12, &0x0001_0000_u32.to_be_bytes()); // version of the format
        put(16, &u64::MAX.to_be_bytes()); // a fixed disk has no other header
        put(32, &0x000a_0000_u32.to_be_bytes()); // version of the creator
        put(40, &self.size.to_be_bytes());
        put(48, &self.size.to_be_bytes());
        put(60, &2_u32.to_be_bytes()); // fixed
        put(68, &self.unique_id);
        let sum = checksum(&bytes);
        bytes[CHECKSUM..CHECKSUM + 4].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// Reads a footer of a fixed disk, whoever made it.
    ///
    /// # Errors
    /// [`ErrorKind::CorruptImage`] for another cookie, a wrong checksum, or another kind of disk.
    pub fn parse(bytes: &[u8; FOOTER_LEN]) -> Result<Self> {
        let refuse = |what: &str, at: u64| Err(Error::new(ErrorKind::CorruptImage, what).offset(at));
        let array = |at: usize| bytes[at..].first_chunk().copied().unwrap_or_default();
        if bytes[..8] != COOKIE {
            return refuse("no VHD footer", 0);
        }
        if bytes[CHECKSUM..CHECKSUM + 4] != checksum(bytes).to_be_bytes() {
            return refuse("the checksum of a VHD footer is wrong", CHECKSUM as u64);
        }
        if bytes[60..64] != 2_u32.to_be_bytes() {
            return refuse("the VHD footer is not that of a fixed disk", 60);
        }
        let mut unique_id = [0; 16];
        unique_id.copy_from_slice(&bytes[68..84]);
        Ok(Self { size: u64::from_be_bytes(array(48)), unique_id })
    }

    /// The footer at the end of `file`, [`None`] where there is none.
    ///
    /// # Errors
    /// As [`Footer::parse`] for a footer that is damaged, [`ErrorKind::SizeMismatch`] for one that is not about what is
    /// in front of it, and errors of reading.
    pub fn find(file: &dyn ReadAt) -> Result<Option<Self>> {
        let Some((bytes, size)) = tail(file)? else { return Ok(None) };
        if bytes[..8] != COOKIE {
            return Ok(None);
        }
        let footer = Self::parse(&bytes).map_err(|error| {
            let at = size + error.byte_offset().unwrap_or_default();
            Error::new(error.kind().clone(), error.message()).offset(at)
        })?;
        if footer.size != size {
            let kind = ErrorKind::SizeMismatch { expected: footer.size, got: size };
            return Err(Error::new(kind, "the VHD footer is about another size").offset(size));
        }
        Ok(Some(footer))
    }

    /// Appends a footer to `file`, which is open for reading and writing, and waits until it is on disk. Says what was
    /// appended.
    ///
    /// The footer is one write. When it fails the file is cut back to what it was.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when the file ends in a footer, be it damaged: a second one would make the first
    /// part of the disk. Errors of reading and writing.
    pub fn append(file: &mut File, unique_id: [u8; 16]) -> Result<Self> {
        if tail(file)?.is_some_and(|(bytes, _)| bytes[..8] == COOKIE) {
            return Err(Error::new(ErrorKind::AlreadyExists, "the container has a VHD footer"));
        }
        let size = file.seek(SeekFrom::End(0)).during("find the end of the container")?;
        let footer = Self { size, unique_id };
        let written = file.write_all(&footer.to_bytes()).and_then(|()| file.sync_all());
        written.during("append a VHD footer").inspect_err(|_| {
            // The error of the write is what the caller has to know.
            let _ = file.set_len(size);
        })?;
        Ok(footer)
    }
}

/// The last 512 bytes, and how many are in front of them.
fn tail(file: &dyn ReadAt) -> Result<Option<([u8; FOOTER_LEN], u64)>> {
    let len = file.len().during("measure the container")?;
    let Some(size) = len.checked_sub(FOOTER_LEN as u64) else { return Ok(None) };
    let mut bytes = [0; FOOTER_LEN];
    file.read_exact_at(&mut bytes, size).during("read the end of the container")?;
    Ok(Some((bytes, size)))
}

/// The complement of the sum of all bytes but the checksum's own.
fn checksum(bytes: &[u8; FOOTER_LEN]) -> u32 {
    let others = bytes.iter().enumerate().filter(|(at, _)| !(CHECKSUM..CHECKSUM + 4).contains(at));
    !others.map(|(_, byte)| u32::from(*byte)).sum::<u32>()
}
