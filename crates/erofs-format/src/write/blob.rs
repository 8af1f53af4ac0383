//! Writing data where it will stay, before anything else of the image is known.

use std::{
    collections::HashMap,
    io::{self, BufRead, Read, Write},
};

use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Result},
    tree::{BlockAddress, FileData},
};

use super::sparse;

/// Zeros for holes and for the ends of blocks.
static ZEROS: [u8; 1 << crate::raw::superblock::MAX_BLOCK_BITS] =
    [0; 1 << crate::raw::superblock::MAX_BLOCK_BITS];

/// Writes the data of files one after the other, each from a block of its own on.
///
/// The output is only appended to, so it can be a pipe, or be hashed on the way. The addresses that come back
/// go into a [`Tree`](crate::Tree) in which the output is a device.
///
/// ```
/// use erofs_format::{BlobWriter, FileData, ImagePlan, Metadata, NewDevice, NewFile, Tree, WriteOptions};
///
/// # fn main() -> erofs_format::Result<()> {
/// let mut tree = Tree::new(Metadata { mode: 0o755, ..Metadata::default() });
/// let device = tree.add_device(NewDevice::default())?;
/// let mut blob = BlobWriter::new(Vec::new(), &WriteOptions::new(), device);
/// let data = blob.append(5, &mut &b"hello"[..])?;
/// tree.add(tree.root(), b"greeting", Metadata::default(), NewFile::Regular { size: 5, data })?;
/// let (blob, blocks) = blob.finish()?;
/// tree.set_device_blocks(device, blocks);
/// let (image, _) = ImagePlan::new(tree, &WriteOptions::new(), &())?.write(Vec::new(), &())?;
/// # assert_eq!(blob.len(), 4096);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct BlobWriter<W> {
    out: W,
    device: u16,
    block_bits: u8,
    chunk_bits: Option<u8>,
    /// The next block.
    next: u64,
    /// The chunks written so far, by hash and length.
    seen: HashMap<([u8; 32], u32), u64>,
    buffer: Vec<u8>,
}

impl<W: Write> BlobWriter<W> {
    /// Starts at block 0 of what becomes the device of that number. Of the options the block and chunk size count.
    pub fn new(out: W, options: &super::WriteOptions, device: u16) -> Self {
        let (block_bits, chunk_bits) = (options.block_bits, options.chunk_bits);
        Self { out, device, block_bits, chunk_bits, next: 0, seen: HashMap::new(), buffer: Vec::new() }
    }

    /// How many blocks were written.
    pub fn blocks(&self) -> u64 {
        self.next
    }

    /// Writes `size` bytes from `content`.
    ///
    /// # Errors
    /// `Io` if reading or writing fails, or the content ends early.
    pub fn append(&mut self, size: u64, content: &mut dyn BufRead) -> Result<FileData> {
        match self.chunk_bits {
            _ if size == 0 => Ok(FileData::Hole),
            Some(bits) => self.append_chunks(size, &[(0, size)], content, bits - self.block_bits),
            None => {
                let block = self.append_blocks(size, content)?;
                Ok(FileData::Blocks(BlockAddress { device: self.device, block }))
            }
        }
    }

    /// Writes a file with holes: `content` gives the bytes of the ranges (offset and length, ascending) back to
    /// back.
    ///
    /// # Errors
    /// As [`BlobWriter::append`]; `InvalidArgument` for ranges that overlap or exceed the size.
    pub fn append_sparse(
        &mut self,
        size: u64,
        ranges: &[(u64, u64)],
        content: &mut dyn BufRead,
    ) -> Result<FileData> {
        let mut end = 0;
        for &(offset, len) in ranges {
            let next = offset.checked_add(len).filter(|&next| offset >= end && next <= size);
            end = next.ok_or_else(|| Error::invalid("ranges overlap or exceed the size"))?;
        }
        let ranges: Vec<_> = ranges.iter().copied().filter(|(_, len)| *len > 0).collect();
        let bits = match self.chunk_bits {
            _ if ranges.is_empty() => return Ok(FileData::Hole),
            Some(bits) => bits - self.block_bits,
            None => sparse::best_chunk_bits(size, &ranges, self.block_bits),
        };
        self.append_chunks(size, &ranges, content, bits)
    }

    /// Ends the device; returns the output and the number of blocks.
    ///
    /// # Errors
    /// `Io` if writing fails.
    pub fn finish(mut self) -> Result<(W, u64)> {
        self.out.flush().map_err(|error| Error::io("write data", error))?;
        Ok((self.out, self.next))
    }

    pub(super) fn out(&mut self) -> &mut W {
        &mut self.out
    }

    pub(super) fn into_out(self) -> W {
        self.out
    }

    /// Leaves blocks out, for something else; returns the first.
    pub(super) fn skip(&mut self, blocks: u64) -> u64 {
        let start = self.next;
        self.next += blocks;
        start
    }

    /// Writes bytes and zeros to the end of their last block, and returns the first block.
    pub(super) fn append_blocks(&mut self, size: u64, content: &mut dyn BufRead) -> Result<u64> {
        let block = self.next;
        self.copy(size, content)?;
        self.advance(size)?;
        Ok(block)
    }

    fn append_chunks(
        &mut self,
        size: u64,
        ranges: &[(u64, u64)],
        content: &mut dyn BufRead,
        bits: u8,
    ) -> Result<FileData> {
        let chunk_size = 1u64 << (bits + self.block_bits);
        let mut filled = Filled { ranges, content, position: 0 };
        let mut chunks = Vec::new();
        for number in 0..size.div_ceil(chunk_size) {
            let start = number * chunk_size;
            let end = (start + chunk_size).min(size);
            filled.position = start;
            let block = match filled.has_data_before(end) {
                false => None,
                true if self.chunk_bits.is_some() => self.append_unless_known(end - start, &mut filled)?,
                true => Some(self.append_blocks(end - start, &mut filled)?),
            };
            chunks.push(block.map(|block| BlockAddress { device: self.device, block }));
        }
        Ok(FileData::Chunks { bits, chunks })
    }

    /// Writes a chunk, unless it is all zeros or was written before.
    fn append_unless_known(&mut self, size: u64, content: &mut dyn BufRead) -> Result<Option<u64>> {
        let mut chunk = std::mem::take(&mut self.buffer);
        chunk.resize(size as usize, 0);
        content.read_exact(&mut chunk).map_err(|error| Error::io("read content", error))?;
        let key = (Sha256::digest(&chunk).into(), size as u32);
        let place = match self.seen.get(&key) {
            _ if chunk.iter().all(|&byte| byte == 0) => None,
            Some(&block) => Some(block),
            None => {
                let block = self.append_blocks(size, &mut &chunk[..])?;
                self.seen.insert(key, block);
                Some(block)
            }
        };
        self.buffer = chunk;
        Ok(place)
    }

    /// Writes `size` bytes and zeros to the end of the block.
    fn copy(&mut self, size: u64, content: &mut dyn BufRead) -> Result<()> {
        let mut rest = size;
        while rest > 0 {
            let piece = match content.fill_buf() {
                Ok([]) => Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                piece => piece,
            };
            let piece = piece.map_err(|error| Error::io("read content", error))?;
            let len = piece.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
            self.out.write_all(&piece[..len]).map_err(|error| Error::io("write data", error))?;
            content.consume(len);
            rest -= len as u64;
        }
        let padding = size.next_multiple_of(1 << self.block_bits) - size;
        self.out.write_all(&ZEROS[..padding as usize]).map_err(|error| Error::io("write data", error))
    }

    fn advance(&mut self, size: u64) -> Result<()> {
        self.next += size.div_ceil(1 << self.block_bits);
        if self.next >= (1 << 48) - 1 {
            return Err(Error::limit("2^48 blocks", "device", "too much data"));
        }
        Ok(())
    }
}

/// The content of a file with its holes filled in, from ranges that come back to back.
struct Filled<'a> {
    ranges: &'a [(u64, u64)],
    content: &'a mut dyn BufRead,
    position: u64,
}

impl Filled<'_> {
    /// Whether there is data between here and `end`.
    fn has_data_before(&mut self, end: u64) -> bool {
        while let Some((offset, len)) = self.ranges.first()
            && offset + len <= self.position
        {
            self.ranges = &self.ranges[1..];
        }
        self.ranges.first().is_some_and(|(offset, _)| *offset < end)
    }
}

impl BufRead for Filled<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let hole = match self.has_data_before(u64::MAX) {
            true => self.ranges[0].0.saturating_sub(self.position),
            false => u64::MAX,
        };
        if hole > 0 {
            return Ok(&ZEROS[..usize::try_from(hole).unwrap_or(usize::MAX).min(ZEROS.len())]);
        }
        let rest = self.ranges[0].0 + self.ranges[0].1 - self.position;
        let piece = self.content.fill_buf()?;
        Ok(&piece[..piece.len().min(usize::try_from(rest).unwrap_or(usize::MAX))])
    }

    fn consume(&mut self, len: usize) {
        // What was shown last is a hole, or data of the first range.
        if self.ranges.first().is_some_and(|(offset, _)| *offset <= self.position) {
            self.content.consume(len);
        }
        self.position += len as u64;
    }
}

impl Read for Filled<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let piece = self.fill_buf()?;
        let len = piece.len().min(buf.len());
        buf[..len].copy_from_slice(&piece[..len]);
        self.consume(len);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WriteOptions;

    fn blocks(data: FileData) -> Vec<Option<u64>> {
        match data {
            FileData::Chunks { chunks, .. } => {
                chunks.into_iter().map(|chunk| chunk.map(|c| c.block)).collect()
            }
            FileData::Blocks(address) => vec![Some(address.block)],
            _ => Vec::new(),
        }
    }

    #[test]
    fn equal_chunks_are_written_once_and_zeros_never() {
        let options = WriteOptions::new().chunk_size(4096).unwrap();
        let mut blob = BlobWriter::new(Vec::new(), &options, 1);
        let content = [&[1; 4096][..], &[2; 4096], &[0; 4096], &[1; 4096], &[1; 100]].concat();
        let data = blob.append(content.len() as u64, &mut &content[..]).unwrap();
        assert_eq!(blocks(data), [Some(0), Some(1), None, Some(0), Some(2)]);
        let (out, count) = blob.finish().unwrap();
        assert_eq!((out.len() as u64, count), (3 * 4096, 3));
    }

    #[test]
    fn ranges_that_cross_chunks_are_written_where_they_belong() {
        let mut blob = BlobWriter::new(Vec::new(), &WriteOptions::new().block_size(512).unwrap(), 1);
        blob.append(3, &mut &b"abc"[..]).unwrap();
        let size = 512 * 40;
        let data =
            blob.append_sparse(size, &[(500, 30), (5000, 0), (512 * 39, 512)], &mut &[7; 542][..]).unwrap();
        let found = blocks(data);
        assert_eq!((found[0], found[1], found[2], found[39]), (Some(1), Some(2), None, Some(3)));
        let (out, _) = blob.finish().unwrap();
        assert_eq!(&out[..4], b"abc\0");
        let sevens: Vec<usize> = (0..out.len()).filter(|&at| out[at] == 7).collect();
        assert_eq!((sevens.len(), sevens[0], sevens[29], sevens[30]), (542, 1012, 1041, 1536));
    }

    #[test]
    fn content_that_ends_early_is_an_error() {
        let mut blob = BlobWriter::new(Vec::new(), &WriteOptions::new(), 1);
        assert!(blob.append(6, &mut &b"short"[..]).is_err());
    }
}
