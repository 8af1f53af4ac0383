//! The content of files: where each part is, and reading it.

use std::io::{self, Read, Seek, SeekFrom};

use crate::{
    error::{Error, ErrorKind, Result},
    raw::{NULL_ADDR, chunk},
    tree::BlockAddress,
};

use super::{Bytes, Image, Inode, Layout, Space, inode::ChunkMap, meta::structure};

/// How many chunk entries are looked at in one step. Larger runs come as several extents.
const MAP_BATCH: u64 = 4096;

/// A part of a file that is in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extent {
    /// Where it starts in the file.
    pub offset: u64,
    /// How many bytes it has, at least 1.
    pub length: u64,
    /// Where the bytes are.
    pub location: Location,
}

/// Where the bytes of an extent are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Location {
    /// Nowhere: zeros.
    Hole,
    /// In a source, which has all of them.
    Source {
        /// 0: the primary source; n: the source given for device slot n.
        number: usize,
        /// The offset in that source.
        offset: u64,
    },
    /// In the content of the metabox.
    Metabox {
        /// The offset in that content.
        offset: u64,
    },
}

impl Location {
    /// Whether an extent at `next`, `length` bytes further on in the file, continues one at `self`.
    fn continues(self, length: u64, next: Self) -> bool {
        match (self, next) {
            (Self::Hole, Self::Hole) => true,
            (Self::Source { number: a, offset: x }, Self::Source { number: b, offset: y }) => {
                a == b && x.checked_add(length) == Some(y)
            }
            _ => false,
        }
    }
}

impl Image {
    /// The part of a file's content that contains byte `offset`, from that byte on; `None` at the end.
    ///
    /// # Errors
    /// `Unsupported` for compressed files, `Corrupt` if the data is not where the image says.
    pub fn extent_at(&self, inode: &Inode, offset: u64) -> Result<Option<Extent>> {
        if !inode.file_type().has_content() || offset >= inode.size() {
            return Ok(None);
        }
        let rest = inode.size() - offset;
        let (length, location) = match inode.layout() {
            Layout::Plain { start: None } => (rest, Location::Hole),
            Layout::Plain { start: Some(block) } => (rest, self.flat(inode, block, offset, rest)?),
            Layout::Inline { start } => {
                let full = inode.size() & !(self.superblock().block_size() - 1);
                if offset < full {
                    (full - offset, self.flat(inode, start, offset, full - offset)?)
                } else {
                    (rest, inline(inode, offset - full))
                }
            }
            Layout::Chunked { .. } => {
                let map = inode.chunk_map().ok_or_else(|| not_readable(inode))?;
                return self.chunk_extent(inode, &map, offset).map(Some);
            }
            Layout::Compressed { .. } => return Err(not_readable(inode)),
        };
        Ok(Some(Extent { offset, length, location }))
    }

    /// All parts of a file's content, in order. Nothing for files without content.
    pub fn extents<'a>(&'a self, inode: &'a Inode) -> Extents<'a> {
        Extents { image: self, inode, offset: 0 }
    }

    /// Fills `buf` from `offset` of a file's content, up to the file's end; returns how many bytes that were.
    ///
    /// # Errors
    /// As [`Image::extent_at`], or reading failed.
    pub fn read_at(&self, inode: &Inode, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let Some(extent) = self.extent_at(inode, offset.saturating_add(done as u64))? else { break };
            let len = usize::try_from(extent.length).unwrap_or(usize::MAX).min(buf.len() - done);
            self.read_location(extent.location, &mut buf[done..done + len])?;
            done += len;
        }
        Ok(done)
    }

    /// A reader of a file's content, from its start.
    pub fn file(&self, inode: Inode) -> FileReader {
        FileReader { image: self.clone(), inode, position: 0, extent: None }
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `WrongType` if it is none; `Corrupt` if it contains NUL; as [`Image::read_at`].
    pub fn read_link(&self, inode: &Inode) -> Result<Vec<u8>> {
        if inode.file_type() != crate::FileType::Symlink {
            return Err(
                Error::new(ErrorKind::WrongType, "inode", "is not a symbolic link").at(inode.position())
            );
        }
        // At most 4095 bytes: inodes of other links are refused.
        let target = self.content(inode, 0, inode.size() as usize, "symbolic link")?;
        if target.contains(&0) {
            return Err(Error::corrupt("symbolic link", inode.position(), "the target contains NUL"));
        }
        Ok(target.to_vec())
    }

    /// `len` bytes of content, borrowed or from the cache where they are in one piece in the primary image.
    pub(super) fn content(
        &self,
        inode: &Inode,
        offset: u64,
        len: usize,
        what: &'static str,
    ) -> Result<Bytes<'_>> {
        if let Some(Extent { length, location: Location::Source { number: 0, offset }, .. }) =
            self.extent_at(inode, offset)?
            && length >= len as u64
        {
            return self.meta(Space::Image, offset, len, what);
        }
        let mut bytes = vec![0; len];
        if self.read_at(inode, &mut bytes, offset)? < len {
            return Err(Error::corrupt(what, inode.position(), "ends early"));
        }
        Ok(Bytes::owned(bytes))
    }

    fn read_location(&self, location: Location, buf: &mut [u8]) -> Result<()> {
        match location {
            Location::Hole => buf.fill(0),
            Location::Metabox { offset } => {
                buf.copy_from_slice(&self.meta(Space::Metabox, offset, buf.len(), "inline data")?);
            }
            Location::Source { number, offset } => {
                let source = self.source(number).ok_or_else(|| no_device(offset))?;
                let read = source.read_exact_at(buf, offset);
                read.map_err(|error| Error::io("read data", error).at(offset))?;
            }
        }
        Ok(())
    }

    /// Where byte `offset` of a flat file is, if the `length` bytes from there are.
    fn flat(&self, inode: &Inode, start: u64, offset: u64, length: u64) -> Result<Location> {
        let bits = self.superblock().block_bits;
        let target = BlockAddress { device: 0, block: start };
        self.resolve(target, offset, length, bits).map_err(|error| error.at(inode.position()))
    }

    fn chunk_extent(&self, inode: &Inode, map: &ChunkMap, offset: u64) -> Result<Extent> {
        let first = offset >> map.chunk_bits;
        let count = (map.count - first).min(MAP_BATCH);
        let at = map.position + first * map.entry_size;
        let entries = self.meta(inode.space(), at, (count * map.entry_size) as usize, "chunk map")?;
        let chunk_size = 1u64 << map.chunk_bits;
        let mut extent: Option<Extent> = None;
        for (entry, number) in entries.chunks_exact(map.entry_size as usize).zip(first..) {
            let start = (number << map.chunk_bits).max(offset);
            let length = ((number << map.chunk_bits) + chunk_size).min(inode.size()) - start;
            let location = match chunk_target(entry, map.wide)? {
                None => Location::Hole,
                Some(target) => {
                    let bits = self.superblock().block_bits;
                    let found = self.resolve(target, start - (number << map.chunk_bits), length, bits);
                    match (found, extent) {
                        (Ok(location), _) => location,
                        // What comes before is sound; the fault is reported when it is reached.
                        (Err(_), Some(extent)) => return Ok(extent),
                        (Err(error), None) => {
                            return Err(error.at(map.position + number * map.entry_size));
                        }
                    }
                }
            };
            match &mut extent {
                None => extent = Some(Extent { offset: start, length, location }),
                Some(extent) if extent.location.continues(extent.length, location) => extent.length += length,
                Some(_) => break,
            }
        }
        extent.ok_or_else(|| Error::corrupt("chunk map", at, "is empty"))
    }

    /// The targets of all chunks of a file, a batch at a time: `None` is a hole.
    pub(crate) fn chunk_targets(&self, inode: &Inode, first: u64) -> Result<Vec<Option<BlockAddress>>> {
        let Some(map) = inode.chunk_map() else { return Ok(Vec::new()) };
        let count = map.count.saturating_sub(first).min(MAP_BATCH);
        let at = map.position + first * map.entry_size;
        let entries = self.meta(inode.space(), at, (count * map.entry_size) as usize, "chunk map")?;
        entries.chunks_exact(map.entry_size as usize).map(|entry| chunk_target(entry, map.wide)).collect()
    }

    /// Looks a target up in the device table; `length` bytes must be there, `skip` bytes behind its start.
    pub(crate) fn resolve(&self, target: BlockAddress, skip: u64, length: u64, bits: u8) -> Result<Location> {
        let damage = |message: String| Error::new(ErrorKind::Corrupt, "data", message);
        // Only as many low bits count as it takes to number the devices; Nydus keeps its own data above.
        let mask = (self.devices().len() + 1).next_power_of_two() - 1;
        let mut number = usize::from(target.device) & mask;
        if number > self.devices().len() || (self.devices().is_empty() && target.device != 0) {
            return Err(damage(format!("there is no device {}", target.device)));
        }
        let mut block = target.block;
        if number > 0 && self.is_flat() {
            let device = &self.devices()[number - 1];
            if device.uniaddr == 0 {
                return Err(damage(format!("device {number} is neither given nor mapped")));
            }
            block += device.uniaddr;
            number = 0;
        } else if number == 0 && !self.is_flat() {
            let slot =
                |d: &super::Device| d.uniaddr != 0 && block >= d.uniaddr && block - d.uniaddr < d.blocks;
            if let Some(slot) = self.devices().iter().position(slot) {
                block -= self.devices()[slot].uniaddr;
                number = slot + 1;
            }
        }
        let size = self.source(number).map_or(0, |source| source.size());
        let offset = block.checked_mul(1 << bits).and_then(|start| start.checked_add(skip));
        match offset.and_then(|offset| Some((offset, offset.checked_add(length)?))) {
            Some((offset, end)) if end <= size => Ok(Location::Source { number, offset }),
            _ => {
                Err(damage(format!("block {block} and {length} bytes are beyond the end of source {number}")))
            }
        }
    }
}

fn inline(inode: &Inode, offset: u64) -> Location {
    let offset = inode.body_end() + offset;
    match inode.space() {
        Space::Image => Location::Source { number: 0, offset },
        Space::Metabox => Location::Metabox { offset },
    }
}

fn chunk_target(entry: &[u8], wide: bool) -> Result<Option<BlockAddress>> {
    if entry.len() == 4 {
        let block = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
        return Ok((block != NULL_ADDR).then_some(BlockAddress { device: 0, block: block.into() }));
    }
    let index: chunk::Index = structure(entry, "chunk map", 0)?;
    let (low, high) = (index.startblk_lo.get(), index.startblk_hi.get());
    let hole = low == NULL_ADDR && (!wide || high == u16::MAX);
    let high = if wide { u64::from(high) << 32 } else { 0 };
    Ok((!hole).then(|| BlockAddress { device: index.device_id.get(), block: high | u64::from(low) }))
}

fn not_readable(inode: &Inode) -> Error {
    Error::unsupported("inode", inode.position(), "the content is compressed")
}

fn no_device(offset: u64) -> Error {
    Error::corrupt("data", offset, "the device is missing")
}

/// All parts of a file's content. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Extents<'a> {
    image: &'a Image,
    inode: &'a Inode,
    offset: u64,
}

impl Iterator for Extents<'_> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.image.extent_at(self.inode, self.offset).transpose()?;
        self.offset = match &next {
            Ok(extent) => extent.offset + extent.length,
            Err(_) => u64::MAX,
        };
        Some(next)
    }
}

/// Reads a file's content. Owns what it needs, so it can travel.
#[derive(Clone, Debug)]
pub struct FileReader {
    image: Image,
    inode: Inode,
    position: u64,
    extent: Option<Extent>,
}

impl FileReader {
    /// The file.
    pub fn inode(&self) -> &Inode {
        &self.inode
    }

    /// The rest of the current extent, looked up if need be.
    fn current(&mut self) -> Result<Option<Extent>> {
        if let Some(extent) = self.extent
            && self.position >= extent.offset
            && self.position - extent.offset < extent.length
        {
            return Ok(Some(extent));
        }
        self.extent = self.image.extent_at(&self.inode, self.position)?;
        Ok(self.extent)
    }
}

impl Read for FileReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(extent) = self.current()? else { return Ok(0) };
        let skip = self.position - extent.offset;
        let len = usize::try_from(extent.length - skip).unwrap_or(usize::MAX).min(buf.len());
        let location = match extent.location {
            Location::Hole => Location::Hole,
            Location::Source { number, offset } => Location::Source { number, offset: offset + skip },
            Location::Metabox { offset } => Location::Metabox { offset: offset + skip },
        };
        self.image.read_location(location, &mut buf[..len])?;
        self.position += len as u64;
        Ok(len)
    }
}

impl Seek for FileReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(delta) => self.inode.size().checked_add_signed(delta),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
