//! The data area of a planned image: which file's data goes where, and its content.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Result},
    tree::{Data, Node, Tree},
};

use super::{Contents, options::WriteOptions, sparse};

/// A hole among the chunks that are placed in the data area.
pub(super) const HOLE: u32 = u32::MAX;

/// Gives data its place in the data area, in blocks from its start.
pub(super) struct DataPlacer {
    /// The next block.
    pub(super) next: u64,
    /// Files with data, in its order.
    pub(super) files: Vec<u32>,
    /// The blocks of chunks, or `HOLE`.
    pub(super) local: Vec<u32>,
    chunk_bits: Option<u8>,
    /// The chunks seen so far, by hash and length.
    seen: HashMap<([u8; 32], u32), u32>,
    buffer: Vec<u8>,
}

impl DataPlacer {
    pub(super) fn new(chunk_bits: Option<u8>) -> Self {
        let (files, local, buffer) = (Vec::new(), Vec::new(), Vec::new());
        Self { next: 0, files, local, chunk_bits, seen: HashMap::new(), buffer }
    }

    fn advance(&mut self, blocks: u64) -> Result<u32> {
        let start = self.next;
        self.next += blocks;
        if self.next >= u64::from(HOLE) {
            return Err(Error::limit("2^32 blocks", "image", "too much data"));
        }
        Ok(start as u32)
    }

    /// Consecutive blocks for a flat file.
    pub(super) fn place_blocks(&mut self, node: &mut Node, id: u32, blocks: u64) -> Result<()> {
        if blocks > 0 && matches!(node.data(), Data::Source { .. } | Data::Bytes { .. }) {
            node.small = self.advance(blocks)?;
            self.files.push(id);
        }
        Ok(())
    }

    /// Chunks for a sparse file, or for any if equal chunks are to be found.
    pub(super) fn place_chunks(
        &mut self,
        tree: &mut Tree,
        id: u32,
        options: &WriteOptions,
        contents: &dyn Contents,
    ) -> Result<()> {
        let node = tree.nodes[id as usize];
        let (size, block_bits) = (node.size, options.block_bits);
        let ranges = match node.data() {
            _ if size == 0 => return Ok(()),
            Data::Sparse { start } => sparse_ranges(tree, start).collect(),
            Data::Source { .. } | Data::Bytes { .. } if self.chunk_bits.is_some() => vec![(0, size)],
            _ => return Ok(()),
        };
        let bits = match self.chunk_bits {
            Some(bits) => bits - block_bits,
            None => sparse::best_chunk_bits(size, &ranges, block_bits),
        };
        let first = u32::try_from(self.local.len());
        let first = first.map_err(|_| Error::limit("2^32 chunks", "chunk map", "too many chunks"))?;
        let chunk_size = 1u64 << (bits + block_bits);
        let mut ranges = ranges.into_iter().filter(|(_, len)| *len > 0).peekable();
        for number in 0..size.div_ceil(chunk_size) {
            let (start, end) = (number * chunk_size, ((number + 1) * chunk_size).min(size));
            while ranges.next_if(|(offset, len)| offset + len <= start).is_some() {}
            let place = match ranges.peek() {
                Some((offset, _)) if *offset < end => {
                    self.place_chunk(tree, id, (start, end), contents, options)?
                }
                _ => HOLE,
            };
            self.local.push(place);
        }
        let node = &mut tree.nodes[id as usize];
        (node.small, node.bits) = (first, bits);
        self.files.push(id);
        Ok(())
    }

    fn place_chunk(
        &mut self,
        tree: &Tree,
        id: u32,
        (start, end): (u64, u64),
        contents: &dyn Contents,
        options: &WriteOptions,
    ) -> Result<u32> {
        let blocks = (end - start).div_ceil(options.block());
        if self.chunk_bits.is_none() {
            return self.advance(blocks);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize((end - start) as usize, 0);
        read_content(tree, id, start, &mut buffer, contents)?;
        let zeros = buffer.iter().all(|&byte| byte == 0);
        let key = (Sha256::digest(&buffer).into(), buffer.len() as u32);
        self.buffer = buffer;
        if zeros {
            return Ok(HOLE);
        }
        if let Some(&place) = self.seen.get(&key) {
            return Ok(place);
        }
        let place = self.advance(blocks)?;
        self.seen.insert(key, place);
        Ok(place)
    }
}

/// The ranges of a sparse source.
pub(super) fn sparse_ranges(tree: &Tree, start: u64) -> impl Iterator<Item = (u64, u64)> {
    let start = start as usize;
    let count = tree.ranges[start + 1] as usize;
    tree.ranges[start + 2..][..2 * count].chunks_exact(2).map(|range| (range[0], range[1]))
}

/// Fills `buf` with the content of a file that is to be written, from `offset` on.
pub(super) fn read_content(
    tree: &Tree,
    id: u32,
    offset: u64,
    buf: &mut [u8],
    contents: &dyn Contents,
) -> Result<()> {
    let read = |token: u64, offset: u64, buf: &mut [u8]| {
        contents.read_exact_at(token, offset, buf).map_err(|error| Error::io("read content", error))
    };
    match tree.nodes[id as usize].data() {
        Data::Bytes { start } => buf.copy_from_slice(&tree.bytes[(start + offset) as usize..][..buf.len()]),
        Data::Source { token } => read(token, offset, buf)?,
        Data::Sparse { start } => {
            buf.fill(0);
            let token = tree.ranges[start as usize];
            let end = offset + buf.len() as u64;
            for (from, len) in sparse_ranges(tree, start) {
                let (from, to) = (from.max(offset), (from + len).min(end));
                if from < to {
                    read(token, from, &mut buf[(from - offset) as usize..(to - offset) as usize])?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}
