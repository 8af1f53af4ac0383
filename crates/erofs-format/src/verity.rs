//! dm-verity: a hash tree behind an image, and a reader that checks every block against it.
//!
//! The layout is that of `veritysetup` with a superblock, as containerd appends it to layers: the image, zeros to
//! a block, the superblock in a block of its own, the tree from its top level down. SHA-256, hash type 1. The
//! root hash is the only thing to be trusted; everything else is checked against it.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    sync::{Mutex, PoisonError},
};

use sha2::{Digest, Sha256};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{
    error::{Error, ErrorKind, Result},
    raw::{U16, U32, U64, layout},
    source::ReadAt,
};

/// A SHA-256 digest.
pub type Hash = [u8; 32];

/// The size of the superblock.
const SUPERBLOCK: u64 = 512;

/// The superblock of a verity device, at the start of the hash area.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VeritySuperblock {
    /// `verity` and two zeros.
    pub signature: [u8; 8],
    /// 1.
    pub version: U32,
    /// 1: the salt comes before the data.
    pub hash_type: U32,
    /// Not all zero.
    pub uuid: [u8; 16],
    /// `sha256`, padded with zeros.
    pub algorithm: [u8; 32],
    /// Size of a data block in bytes.
    pub data_block_size: U32,
    /// Size of a hash block in bytes.
    pub hash_block_size: U32,
    /// How many data blocks there are.
    pub data_blocks: U64,
    /// How many bytes of `salt` count.
    pub salt_size: U16,
    /// Reserved.
    pub reserved: [u8; 6],
    /// The salt.
    pub salt: [u8; 256],
    /// Reserved.
    pub reserved2: [u8; 168],
}

layout!(VeritySuperblock, size 512, version at 8, uuid at 16, algorithm at 32, data_block_size at 64,
    data_blocks at 72, salt_size at 80, salt at 88);

impl std::fmt::Debug for VeritySuperblock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VeritySuperblock")
            .field("data_block_size", &self.data_block_size.get())
            .field("hash_block_size", &self.hash_block_size.get())
            .field("data_blocks", &self.data_blocks.get())
            .finish_non_exhaustive()
    }
}

/// How to build a hash tree.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VerityOptions {
    block: u64,
    salt: Vec<u8>,
    uuid: Option<[u8; 16]>,
}

impl Default for VerityOptions {
    fn default() -> Self {
        Self { block: 4096, salt: vec![0; 32], uuid: None }
    }
}

impl VerityOptions {
    /// Blocks of 4096 bytes, a salt of 32 zeros, a UUID derived from the root hash: as containerd does it.
    pub fn new() -> Self {
        Self::default()
    }

    /// The size of data and hash blocks: a power of two from 512 to 65536, not larger than the image's blocks.
    ///
    /// # Errors
    /// `InvalidArgument` for other sizes.
    pub fn block_size(mut self, bytes: u32) -> Result<Self> {
        if !bytes.is_power_of_two() || !(512..=65536).contains(&bytes) {
            return Err(Error::invalid(format!("verity blocks of {bytes} bytes")));
        }
        self.block = bytes.into();
        Ok(self)
    }

    /// The size of data and hash blocks in bytes.
    pub fn block(&self) -> u64 {
        self.block
    }

    /// The salt, at most 256 bytes.
    ///
    /// # Errors
    /// `InvalidArgument` for more.
    pub fn salt(mut self, salt: impl Into<Vec<u8>>) -> Result<Self> {
        self.salt = salt.into();
        if self.salt.len() > 256 {
            return Err(Error::invalid("a verity salt has at most 256 bytes"));
        }
        Ok(self)
    }

    /// The UUID of the superblock.
    #[must_use]
    pub fn uuid(mut self, uuid: [u8; 16]) -> Self {
        self.uuid = Some(uuid);
        self
    }
}

/// A finished hash tree.
#[derive(Clone, Debug)]
pub struct VerityTree {
    options: VerityOptions,
    data_size: u64,
    /// Hash blocks of each level, the leaves first.
    levels: Vec<Vec<u8>>,
    root: Hash,
}

impl VerityTree {
    /// The tree over the digests of blocks.
    fn over(options: VerityOptions, leaves: Vec<u8>, data_size: u64) -> Result<Self> {
        let mut levels = Vec::new();
        let mut hashes = leaves;
        while hashes.len() > 32 {
            hashes.resize(hashes.len().next_multiple_of(options.block as usize), 0);
            let above = hashes.chunks_exact(options.block as usize);
            let above = above.flat_map(|block| salted(&options.salt, block)).collect();
            levels.push(std::mem::replace(&mut hashes, above));
        }
        let mut root = [0; 32];
        root.copy_from_slice(&hashes);
        Ok(Self { options, data_size, levels, root })
    }

    /// The root hash.
    pub fn root(&self) -> Hash {
        self.root
    }

    /// Where the superblock goes: the size of the data, rounded up to a block. (`hashoffset`)
    pub fn offset(&self) -> u64 {
        self.data_size.next_multiple_of(self.options.block)
    }

    /// The bytes that [`VerityTree::append_to`] writes.
    pub fn appended_size(&self) -> u64 {
        let tree: u64 = self.levels.iter().map(|level| level.len() as u64).sum();
        self.offset() - self.data_size + SUPERBLOCK.next_multiple_of(self.options.block) + tree
    }

    /// Writes what comes behind the data: padding, superblock, tree.
    ///
    /// # Errors
    /// `Io` if writing fails.
    pub fn append_to(&self, out: &mut dyn Write) -> Result<()> {
        let mut head = vec![0; (self.offset() - self.data_size) as usize];
        head.extend_from_slice(self.superblock().as_bytes());
        head.resize(head.len() + (SUPERBLOCK.next_multiple_of(self.options.block) - SUPERBLOCK) as usize, 0);
        let mut write =
            |bytes: &[u8]| out.write_all(bytes).map_err(|error| Error::io("write verity tree", error));
        write(&head)?;
        self.levels.iter().rev().try_for_each(|level| write(level))
    }

    /// The superblock.
    pub fn superblock(&self) -> VeritySuperblock {
        let mut algorithm = [0; 32];
        algorithm[..6].copy_from_slice(b"sha256");
        let mut salt = [0; 256];
        salt[..self.options.salt.len()].copy_from_slice(&self.options.salt);
        let hex: String = self.root.iter().map(|byte| format!("{byte:02x}")).collect();
        VeritySuperblock {
            signature: *b"verity\0\0",
            version: 1.into(),
            hash_type: 1.into(),
            uuid: self.options.uuid.unwrap_or_else(|| crate::uuid_from_url(&format!("erofs:verity/{hex}"))),
            algorithm,
            data_block_size: (self.options.block as u32).into(),
            hash_block_size: (self.options.block as u32).into(),
            data_blocks: (self.offset() / self.options.block).into(),
            salt_size: (self.options.salt.len() as u16).into(),
            reserved: [0; 6],
            salt,
            reserved2: [0; 168],
        }
    }
}

/// Builds a hash tree while data is written: a `Write` that takes the data from its start.
///
/// Memory is the tree, 32 bytes a block.
#[derive(Debug)]
pub struct VerityBuilder {
    options: VerityOptions,
    hasher: Sha256,
    leaves: Vec<u8>,
    /// Bytes of the current block.
    filled: u64,
    size: u64,
}

impl VerityBuilder {
    /// Starts with no data.
    pub fn new(options: &VerityOptions) -> Self {
        let hasher = Sha256::new_with_prefix(&options.salt);
        Self { options: options.clone(), hasher, leaves: Vec::new(), filled: 0, size: 0 }
    }

    /// Takes more data.
    pub fn update(&mut self, mut data: &[u8]) {
        self.size += data.len() as u64;
        while !data.is_empty() {
            let len = ((self.options.block - self.filled) as usize).min(data.len());
            self.hasher.update(&data[..len]);
            self.filled += len as u64;
            data = &data[len..];
            if self.filled == self.options.block {
                self.end_block();
            }
        }
    }

    fn end_block(&mut self) {
        let next = Sha256::new_with_prefix(&self.options.salt);
        self.leaves.extend_from_slice(&std::mem::replace(&mut self.hasher, next).finalize());
        self.filled = 0;
    }

    /// Ends the data; its last block counts as padded with zeros.
    ///
    /// # Errors
    /// `InvalidArgument` without data.
    pub fn finish(mut self) -> Result<VerityTree> {
        if self.size == 0 {
            return Err(Error::invalid("there is nothing to build a verity tree of"));
        }
        if self.filled > 0 {
            let padding = (self.options.block - self.filled) as usize;
            self.hasher.update(vec![0; padding]);
            self.end_block();
        }
        VerityTree::over(self.options, self.leaves, self.size)
    }
}

/// Builds a hash tree of blocks that come in any order, and more than once if their data changed.
///
/// Memory is the tree, 32 bytes a block.
#[derive(Debug)]
pub struct VerityBlocks {
    options: VerityOptions,
    leaves: Vec<u8>,
}

impl VerityBlocks {
    /// Starts with no blocks.
    pub fn new(options: &VerityOptions) -> Self {
        Self { options: options.clone(), leaves: Vec::new() }
    }

    /// Takes the blocks from number `first` on. The last one counts as padded with zeros if it is not whole.
    pub fn set(&mut self, first: u64, data: &[u8]) {
        let block = self.options.block as usize;
        let start = first as usize * 32;
        self.leaves.resize(self.leaves.len().max(start + data.len().div_ceil(block) * 32), 0);
        let blocks = data.chunks_exact(block);
        let mut last = blocks.remainder().to_vec();
        if !last.is_empty() {
            last.resize(block, 0);
        }
        let blocks = blocks.chain(last.chunks_exact(block));
        for (data, leaf) in blocks.zip(self.leaves[start..].chunks_exact_mut(32)) {
            leaf.copy_from_slice(&salted(&self.options.salt, data));
        }
    }

    /// The tree of `size` bytes of data, all of whose blocks were [set](VerityBlocks::set).
    ///
    /// # Errors
    /// `InvalidArgument` without data, and when blocks are missing at the end, or there are more.
    pub fn finish(self, size: u64) -> Result<VerityTree> {
        if size == 0 || size.div_ceil(self.options.block) * 32 != self.leaves.len() as u64 {
            return Err(Error::invalid("the blocks of a verity tree are not those of its data"));
        }
        VerityTree::over(self.options, self.leaves, size)
    }
}

impl Write for VerityBuilder {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.update(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Builds the hash tree of everything that `data` gives.
///
/// # Errors
/// `Io` if reading fails; `InvalidArgument` without data.
pub fn verity_tree(data: &mut dyn Read, options: &VerityOptions) -> Result<VerityTree> {
    let mut builder = VerityBuilder::new(options);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match data.read(&mut buffer) {
            Ok(0) => return builder.finish(),
            Ok(len) => builder.update(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read data", error)),
        }
    }
}

/// How many verified hash blocks are kept.
const CACHED: usize = 1024;

/// Data that is checked against its hash tree whenever it is read.
///
/// A [`ReadAt`] of the data only. What does not fit the root hash is not returned: reading fails with an
/// [`Error`] of kind `VerityMismatch` (inside the `io::Error`).
pub struct VerityReader<S> {
    source: S,
    options: VerityOptions,
    data_blocks: u64,
    /// Position and number of blocks of each level, the leaves first.
    levels: Vec<(u64, u64)>,
    root: Hash,
    /// Hash blocks that were found right.
    cache: Mutex<HashMap<u64, Box<[u8]>>>,
}

impl<S: ReadAt> VerityReader<S> {
    /// Opens data with a tree whose superblock is at `offset`, to be checked against `root`.
    ///
    /// # Errors
    /// `Corrupt` or `Unsupported` if the superblock is none that can be read, or the tree is cut off. Whether the
    /// tree belongs to the root hash is found when data is read.
    pub fn open(source: S, offset: u64, root: Hash) -> Result<Self> {
        let damage = |message: &'static str| Error::corrupt("verity superblock", offset, message);
        let mut bytes = [0; SUPERBLOCK as usize];
        source
            .read_exact_at(&mut bytes, offset)
            .map_err(|error| Error::io("read verity superblock", error))?;
        let raw = VeritySuperblock::read_from_bytes(&bytes).map_err(|_| damage("is cut off"))?;
        if raw.signature != *b"verity\0\0" {
            return Err(damage("has another signature"));
        }
        let mut algorithm = [0; 32];
        algorithm[..6].copy_from_slice(b"sha256");
        if raw.version.get() != 1 || raw.hash_type.get() != 1 || raw.algorithm != algorithm {
            return Err(Error::unsupported(
                "verity superblock",
                offset,
                "another version, type or algorithm",
            ));
        }
        let block = u64::from(raw.data_block_size.get());
        let sizes_fit = block == u64::from(raw.hash_block_size.get())
            && block.is_power_of_two()
            && (512..=65536).contains(&block)
            && raw.salt_size.get() <= 256;
        if !sizes_fit {
            return Err(Error::unsupported("verity superblock", offset, "block or salt sizes"));
        }
        let data_blocks = raw.data_blocks.get();
        if data_blocks == 0 || data_blocks > offset / block {
            return Err(damage("the data does not end before it"));
        }
        let mut counts = vec![];
        let mut count = data_blocks;
        while count > 1 {
            count = count.div_ceil(block / 32);
            counts.push(count);
        }
        let mut position = offset + SUPERBLOCK.next_multiple_of(block);
        let mut levels = Vec::new();
        for &count in counts.iter().rev() {
            levels.push((position, count));
            position += count * block;
        }
        if position > source.size() {
            return Err(damage("the tree is cut off"));
        }
        levels.reverse();
        let salt = raw.salt[..usize::from(raw.salt_size.get())].to_vec();
        let options = VerityOptions { block, salt, uuid: Some(raw.uuid) };
        Ok(Self { source, options, data_blocks, levels, root, cache: Mutex::new(HashMap::new()) })
    }

    /// Reads and checks everything.
    ///
    /// # Errors
    /// As reading.
    pub fn verify(&self) -> Result<()> {
        let mut block = vec![0; self.options.block as usize];
        (0..self.data_blocks).try_for_each(|number| self.read_block(number, &mut block))
    }

    fn read_block(&self, number: u64, buf: &mut [u8]) -> Result<()> {
        let offset = number * self.options.block;
        self.source.read_exact_at(buf, offset).map_err(|error| Error::io("read data", error).at(offset))?;
        let expected = self.expected(0, number)?;
        self.compare(buf, expected, offset)
    }

    /// The hash that block `number` below `level` must have.
    fn expected(&self, level: usize, number: u64) -> Result<Hash> {
        let Some(&(start, _)) = self.levels.get(level) else { return Ok(self.root) };
        let per_block = self.options.block / 32;
        let position = start + number / per_block * self.options.block;
        let at = (number % per_block) as usize * 32;
        let pick = |block: &[u8]| {
            let mut hash = [0; 32];
            hash.copy_from_slice(&block[at..at + 32]);
            hash
        };
        // A poisoned cache holds whole blocks only.
        if let Some(block) = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(&position) {
            return Ok(pick(block));
        }
        let mut block = vec![0; self.options.block as usize];
        self.source.read_exact_at(&mut block, position).map_err(|error| Error::io("read hashes", error))?;
        let expected = self.expected(level + 1, number / per_block)?;
        self.compare(&block, expected, position)?;
        let hash = pick(&block);
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHED {
            cache.clear();
        }
        cache.insert(position, block.into());
        Ok(hash)
    }

    fn compare(&self, block: &[u8], expected: Hash, offset: u64) -> Result<()> {
        match salted(&self.options.salt, block) == expected {
            true => Ok(()),
            false => {
                Err(Error::new(ErrorKind::VerityMismatch, "verity tree", "a block has another hash")
                    .at(offset))
            }
        }
    }
}

impl<S: ReadAt> ReadAt for VerityReader<S> {
    fn size(&self) -> u64 {
        self.data_blocks * self.options.block
    }

    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut block = vec![0; self.options.block as usize];
        while !buf.is_empty() {
            let (number, skip) = (offset / self.options.block, (offset % self.options.block) as usize);
            let len = (block.len() - skip).min(buf.len());
            self.read_block(number, &mut block)?;
            buf[..len].copy_from_slice(&block[skip..skip + len]);
            buf = &mut buf[len..];
            offset += len as u64;
        }
        Ok(())
    }
}

impl<S> std::fmt::Debug for VerityReader<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerityReader").field("data_blocks", &self.data_blocks).finish_non_exhaustive()
    }
}

fn salted(salt: &[u8], block: &[u8]) -> Hash {
    Sha256::new_with_prefix(salt).chain_update(block).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Memory;

    fn hex(hash: &[u8]) -> String {
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn blocks(count: usize, size: usize) -> Vec<u8> {
        (0..count).flat_map(|number| std::iter::repeat_n(number as u8, size)).collect()
    }

    #[test]
    fn root_hashes_are_those_of_veritysetup() {
        let cases = [
            (1, 4096, "2e534ef0107d592d1706ac38ad58596b85ef3375d360a6d669f974792df5cb5a"),
            (3, 4096, "9145e2aed99138b7fc555890e7c7226afdf24a21eba770444dfc32a21d29c46f"),
            (129, 4096, "1f80296d52e9502d1ec420acbe5c1c4f170ae9d262e899e57991ed8346ebc1a8"),
            (16385, 4096, "326715ad6025236d636af98bfb12fdbf493affcba625edf1e7d7caa49891b2e9"),
            (17, 512, "01ebec501143935a8a284b7d9114937b69e0bfeb87089085436dc134ef77ab5b"),
        ];
        for (count, size, root) in cases {
            let options = VerityOptions::new().block_size(size as u32).unwrap();
            let tree = verity_tree(&mut &blocks(count, size)[..], &options).unwrap();
            assert_eq!(hex(&tree.root()), root, "{count} blocks of {size}");
        }
    }

    #[test]
    fn every_changed_byte_is_found_before_it_is_returned() {
        let mut data = blocks(20, 512);
        data.truncate(data.len() - 100);
        let tree = verity_tree(&mut &data[..], &VerityOptions::new().block_size(512).unwrap()).unwrap();
        let mut file = data.clone();
        tree.append_to(&mut file).unwrap();
        assert_eq!(file.len() as u64, data.len() as u64 + tree.appended_size());
        let open = |file: Vec<u8>| VerityReader::open(Memory(file), tree.offset(), tree.root());
        let reader = open(file.clone()).unwrap();
        let mut read = vec![0; data.len()];
        reader.read_exact_at(&mut read, 0).unwrap();
        assert!(read == data && reader.verify().is_ok());
        let hashes = tree.offset() as usize + 512;
        for at in (0..data.len()).step_by(97).chain((hashes..file.len()).step_by(31)) {
            let mut changed = file.clone();
            changed[at] ^= 1;
            let Ok(reader) = open(changed) else { panic!("the superblock is whole") };
            assert_eq!(reader.verify().unwrap_err().kind(), ErrorKind::VerityMismatch, "{at}");
        }
    }

    #[test]
    fn superblocks_that_lie_are_refused() {
        let data = blocks(4, 512);
        let tree = verity_tree(&mut &data[..], &VerityOptions::new().block_size(512).unwrap()).unwrap();
        let mut file = data;
        tree.append_to(&mut file).unwrap();
        let at = tree.offset() as usize;
        for (field, value) in
            [(0, 1), (8, 2), (12, 0), (32, b'x'), (64, 1), (68, 1), (72, 200), (79, 1), (81, 2)]
        {
            let mut changed = file.clone();
            changed[at + field] = value;
            assert!(VerityReader::open(Memory(changed), tree.offset(), tree.root()).is_err(), "{field}");
        }
        assert!(VerityReader::open(Memory(vec![0; 100]), 50, tree.root()).is_err());
        assert!(VerityReader::open(Memory(vec![0; 100]), u64::MAX, tree.root()).is_err());
    }
}
