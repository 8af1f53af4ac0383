//! An archive whose files are used where they lie.

use erofs_format::{BlockAddress, FileData};
use layer_model::{Error, ErrorKind, Result, content::Extent};

/// The block of an archive.
pub(super) const TAR_BLOCK: u64 = 512;

/// The most chunks of a file: a gigabyte of map would be for a petabyte.
const MAX_CHUNKS: u64 = 1 << 24;

/// An archive on a device, from one of its blocks on.
#[derive(Debug)]
pub(super) struct Archive {
    device: u16,
    first: u64,
    end: u64,
}

impl Archive {
    pub(super) fn new(device: u16, first: u64) -> Self {
        Self { device, first, end: 0 }
    }

    /// Where the last file found ends, in bytes of the archive.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Where a file of `size` bytes is, whose data begins at `offset` of the archive. If it has holes, only the
    /// `extents` are there, one behind the other.
    pub(super) fn find(
        &mut self,
        size: u64,
        extents: Option<&[Extent]>,
        offset: Option<u64>,
    ) -> Result<FileData> {
        let unaligned = || {
            let message = "the data of the file is not where an index can point to";
            Error::new(ErrorKind::Unrepresentable, message)
        };
        let stored = extents.map_or(size, |extents| extents.iter().map(|e| e.len).sum());
        if stored == 0 {
            return Ok(FileData::Hole);
        }
        let offset = offset.filter(|offset| offset.is_multiple_of(TAR_BLOCK)).ok_or_else(unaligned)?;
        self.end = self.end.max(offset + stored);
        let mut block = self.first + offset / TAR_BLOCK;
        let address = |block| BlockAddress { device: self.device, block };
        let Some(extents) = extents else { return Ok(FileData::Blocks(address(block))) };
        // All that begins or ends before the end of the file has to lie on the borders of chunks.
        let borders = extents.iter().flat_map(|e| [e.offset, e.end()]).filter(|&border| border < size);
        let zeros = borders.map(u64::trailing_zeros).min().unwrap_or(0).min(31 + 9);
        let bits = zeros.checked_sub(TAR_BLOCK.trailing_zeros()).ok_or_else(unaligned)?;
        let chunk = TAR_BLOCK << bits;
        let count = size.div_ceil(chunk);
        if count > MAX_CHUNKS {
            let kind = ErrorKind::LimitExceeded { limit: "chunks of a file in an archive" };
            return Err(Error::new(kind, "the sparse file is too large for an index"));
        }
        let mut chunks = vec![None; count as usize];
        for extent in extents {
            for number in extent.offset / chunk..extent.end().div_ceil(chunk) {
                chunks[number as usize] = Some(address(block + (number * chunk - extent.offset) / TAR_BLOCK));
            }
            block += extent.len.div_ceil(TAR_BLOCK);
        }
        Ok(FileData::Chunks { bits: bits as u8, chunks })
    }
}
