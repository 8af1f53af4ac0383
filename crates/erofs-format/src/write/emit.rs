//! The second phase: writing what was planned, in order.

use std::io::Write;

use zerocopy::IntoBytes;

use crate::{
    error::{Error, Result},
    hash,
    raw::{
        SLOT_SIZE,
        device::DeviceSlot,
        superblock::{MAGIC, OFFSET, Superblock, compat, incompat},
    },
    tree::Node,
    types::{FileType, Nid},
};

use super::{Contents, ImagePlan, data::read_content, inode};

/// How much content is read at once.
const PIECE: u64 = 1 << 20;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The size in bytes.
    pub size: u64,
    /// The size in blocks, as the superblock says.
    pub blocks: u64,
    /// How many inodes there are.
    pub inodes: u64,
    /// The root.
    pub root: Nid,
    /// The checksum in the superblock, if it has one.
    pub checksum: Option<u32>,
}

/// Takes the pieces of an image, each with its position. Positions ascend, but for what a [`super::Zone`] has
/// before its start.
pub(super) trait Output {
    fn put(&mut self, position: u64, bytes: &[u8]) -> Result<()>;
}

impl ImagePlan {
    /// Writes the image, start to end.
    ///
    /// # Errors
    /// Writing, or reading the contents failed.
    pub fn write<W: Write>(&self, out: W, contents: &dyn Contents) -> Result<(W, Summary)> {
        let mut out = InOrder::new(out, self);
        self.write_all_metadata(contents, &mut out)?;
        self.write_data(contents, &mut out)?;
        let checksum = out.finish(self.size())?;
        Ok((out.out, self.summary(checksum)))
    }

    /// Writes the image up to its data, [`ImagePlan::metadata_size`] bytes. What follows is for the caller: the
    /// [pieces](ImagePlan::pieces), and zeros between them and to the [end](ImagePlan::size).
    ///
    /// # Errors
    /// Writing failed; `InvalidArgument` if the metadata includes content, as inline data does.
    pub fn write_before_data<W: Write>(&self, out: W) -> Result<(W, Summary)> {
        if self.options.inline_data || self.options.chunk_bits.is_some() {
            return Err(Error::invalid("the metadata of this image includes content"));
        }
        let mut out = InOrder::new(out, self);
        self.write_all_metadata(&(), &mut out)?;
        let checksum = out.finish(self.metadata_size())?;
        Ok((out.out, self.summary(checksum)))
    }

    fn write_all_metadata<W: Write>(&self, contents: &dyn Contents, out: &mut InOrder<W>) -> Result<()> {
        let mut head = vec![0; self.head.end as usize];
        self.write_head(&self.superblock(), &mut head);
        out.put(0, &head)?;
        self.write_metadata(0, contents, out)
    }

    pub(super) fn summary(&self, checksum: Option<u32>) -> Summary {
        let root = Nid(self.nid_of(0));
        Summary { size: self.size(), blocks: self.blocks, inodes: self.inodes, root, checksum }
    }

    /// The superblock, without checksum.
    pub(super) fn superblock(&self) -> Superblock {
        let options = &self.options;
        let has_xattrs = self.tree.xattrs.pair_count() > 0;
        let mut feature_compat = compat::MTIME;
        let mut feature_incompat = 0;
        let mut features = |condition: bool, compat: u32, incompat: u32| {
            if condition {
                feature_compat |= compat;
                feature_incompat |= incompat;
            }
        };
        features(options.checksum, compat::SB_CHKSUM, 0);
        features(options.xattr_filter && has_xattrs, compat::XATTR_FILTER, 0);
        features(!options.prefixes.is_empty(), compat::PLAIN_XATTR_PFX, incompat::XATTR_PREFIXES);
        features(self.has_chunks, 0, incompat::CHUNKED_FILE);
        features(self.head.devices > 0, 0, incompat::DEVICE_TABLE);
        features(options.large, 0, incompat::FORMAT_48BIT);
        let mut volume_name = [0; 16];
        volume_name[..options.label.len()].copy_from_slice(&options.label);
        let build_time =
            u32::try_from(options.build_time.saturating_sub(options.epoch).max(0)).unwrap_or(u32::MAX);
        Superblock {
            magic: MAGIC.into(),
            feature_compat: feature_compat.into(),
            blkszbits: options.block_bits,
            rootnid_2b: (self.nid_of(0) as u16).into(),
            inos: self.inodes.into(),
            epoch: options.epoch.into(),
            blocks_lo: (self.blocks as u32).into(),
            meta_blkaddr: (self.meta_block as u32).into(),
            xattr_blkaddr: ((self.xattrs.base >> options.block_bits) as u32).into(),
            uuid: options.uuid,
            volume_name,
            feature_incompat: feature_incompat.into(),
            extra_devices: (self.head.devices as u16).into(),
            devt_slotoff: if self.head.devices > 0 { (self.head.device_table / 128) as u16 } else { 0 }
                .into(),
            xattr_prefix_count: options.prefixes.len() as u8,
            xattr_prefix_start: if options.prefixes.is_empty() {
                0
            } else {
                (self.head.prefix_start / 4) as u32
            }
            .into(),
            build_time: if options.large { build_time } else { 0 }.into(),
            ..Superblock::default()
        }
    }

    /// Puts superblock, device table and prefix table into the first bytes of an image.
    pub(super) fn write_head(&self, superblock: &Superblock, head: &mut [u8]) {
        let mut put = |at: u64, bytes: &[u8]| head[at as usize..][..bytes.len()].copy_from_slice(bytes);
        put(OFFSET, superblock.as_bytes());
        let mut uniaddr = self.blocks;
        for (slot, device) in self.tree.devices.iter().enumerate() {
            let mut raw = DeviceSlot::default();
            raw.tag[..device.tag.len()].copy_from_slice(&device.tag);
            raw.blocks_lo = (device.blocks as u32).into();
            raw.uniaddr_lo = (uniaddr as u32).into();
            if self.options.large {
                raw.blocks_hi = ((device.blocks >> 32) as u16).into();
                raw.uniaddr_hi = ((uniaddr >> 32) as u16).into();
            }
            put(self.head.device_table + 128 * slot as u64, raw.as_bytes());
            uniaddr += device.blocks;
        }
        put(self.head.prefix_start, &self.head.prefixes);
    }

    /// Writes shared xattrs, inodes with what follows them, directory blocks and link targets.
    pub(super) fn write_metadata(
        &self,
        first_ino: u32,
        contents: &dyn Contents,
        out: &mut dyn Output,
    ) -> Result<()> {
        let mut bytes = Vec::new();
        // What a zone has before its start comes first: positions ascend.
        let before = self.order.partition_point(|&node| self.position(node) < self.shared_start);
        let (early, late) = self.order.split_at(before);
        let mut ino = first_ino;
        for &node in early {
            ino += 1;
            self.write_inode(node, ino, contents, out, &mut bytes)?;
        }
        bytes.clear();
        for &pair in &self.shared {
            self.xattrs.write_pair(&self.tree.xattrs, pair, &mut bytes);
        }
        out.put(self.shared_start, &bytes)?;
        for &node in late {
            ino += 1;
            self.write_inode(node, ino, contents, out, &mut bytes)?;
        }
        let block = self.options.block();
        for directory in self.directories.list.iter().filter(|directory| directory.blocks > 0) {
            bytes.clear();
            let nid = |node| self.nid_of(node);
            self.directories.write_blocks(&self.tree, directory, block, nid, &mut bytes);
            out.put(directory.block << self.options.block_bits, &bytes)?;
        }
        for &link in &self.far_links {
            let node = &self.tree.nodes[link as usize];
            let position = (self.link_start + u64::from(node.small)) << self.options.block_bits;
            out.put(position, self.tree.target(node))?;
        }
        Ok(())
    }

    fn position(&self, node: u32) -> u64 {
        self.tree.nodes[node as usize].slot * SLOT_SIZE
    }

    fn write_inode(
        &self,
        id: u32,
        ino: u32,
        contents: &dyn Contents,
        out: &mut dyn Output,
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        let node = &self.tree.nodes[id as usize];
        let mut shape = self.shape_without_tail(id, &self.local)?;
        shape.tail = self.tail(node);
        let content = self.content(id, &shape);
        bytes.clear();
        inode::write(node, shape.extended, content, shape.xattr_area, ino, &self.options, bytes);
        self.xattrs.write_area(&self.tree.xattrs, node.xattrs, bytes)?;
        bytes.resize(shape.body() as usize, 0);
        if let Some((format, _)) = shape.map {
            for chunk in self.chunks(node, &self.local, self.data_start) {
                inode::write_chunk(chunk, format, bytes);
            }
        }
        if shape.tail > 0 {
            match node.file_type() {
                FileType::Directory => {
                    let directory = &self.directories.list[node.small as usize];
                    bytes
                        .extend(self.directories.last_block(&self.tree, directory, |node| self.nid_of(node)));
                }
                FileType::Symlink => bytes.extend_from_slice(self.tree.target(node)),
                _ => {
                    let start = bytes.len();
                    bytes.resize(start + shape.tail as usize, 0);
                    read_content(&self.tree, id, node.size - shape.tail, &mut bytes[start..], contents)?;
                }
            }
        }
        out.put(self.position(id), bytes)
    }

    /// Writes what `contents` has to give.
    pub(super) fn write_data(&self, contents: &dyn Contents, out: &mut dyn Output) -> Result<()> {
        let bits = self.options.block_bits;
        let mut next = 0;
        let mut buffer = Vec::new();
        for &id in &self.data {
            let node = &self.tree.nodes[id as usize];
            let (count, chunk_bits) = self.chunk_count(node)?;
            if count == 0 {
                let position = (self.data_start + u64::from(node.small)) << bits;
                let end = node.size - self.tail(node);
                self.copy(id, 0..end, position, contents, &mut buffer, out)?;
                next = u64::from(node.small) + end.div_ceil(1 << bits);
                continue;
            }
            let chunk_size = 1u64 << (chunk_bits + bits);
            for number in 0..count {
                let place = u64::from(self.local[node.small as usize + number as usize]);
                // Equal chunks point back; each new one is the next.
                if place == next {
                    let start = number * chunk_size;
                    let end = (start + chunk_size).min(node.size);
                    self.copy(id, start..end, (self.data_start + place) << bits, contents, &mut buffer, out)?;
                    next += (end - start).div_ceil(1 << bits);
                }
            }
        }
        Ok(())
    }

    /// Copies a range of a file's content to `position`.
    fn copy(
        &self,
        id: u32,
        range: std::ops::Range<u64>,
        position: u64,
        contents: &dyn Contents,
        buffer: &mut Vec<u8>,
        out: &mut dyn Output,
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(PIECE);
            buffer.resize(len as usize, 0);
            read_content(&self.tree, id, at, buffer, contents)?;
            out.put(position + (at - range.start), buffer)?;
            at += len;
        }
        Ok(())
    }

    /// The inline tail of a file that is placed.
    fn tail(&self, node: &Node) -> u64 {
        match node.file_type() {
            _ if !node.inline => 0,
            FileType::Symlink => node.size,
            _ => node.size % self.options.block(),
        }
    }
}

/// Writes to something that cannot go back: fills what lies between, and keeps the part that the checksum
/// covers until it is complete.
struct InOrder<W> {
    out: W,
    buffer: Vec<u8>,
    /// Where the buffer starts.
    start: u64,
    /// The end of what the checksum covers; 0 once that is written.
    held: usize,
    with_checksum: bool,
    checksum: Option<u32>,
}

/// How much is written at once.
const BUFFER: usize = 256 << 10;

impl<W: Write> InOrder<W> {
    fn new(out: W, plan: &ImagePlan) -> Self {
        let held = checksum_end(plan.options.block_bits);
        let with_checksum = plan.options.checksum;
        Self { out, buffer: Vec::with_capacity(BUFFER), start: 0, held, with_checksum, checksum: None }
    }

    fn fill_to(&mut self, position: u64) -> Result<()> {
        while self.start + (self.buffer.len() as u64) < position {
            let missing = position - self.start - self.buffer.len() as u64;
            let len = self.buffer.len() + missing.min(BUFFER as u64) as usize;
            self.buffer.resize(len, 0);
            self.spill()?;
        }
        Ok(())
    }

    /// Writes the buffer out if it is large.
    fn spill(&mut self) -> Result<()> {
        if self.buffer.len() < BUFFER || self.buffer.len() < self.held {
            return Ok(());
        }
        self.seal();
        self.flush()
    }

    fn seal(&mut self) {
        if self.held > 0 && self.with_checksum {
            self.checksum = Some(seal(&mut self.buffer[..self.held]));
        }
        self.held = 0;
    }

    fn flush(&mut self) -> Result<()> {
        self.out.write_all(&self.buffer).map_err(|error| Error::io("write image", error))?;
        self.start += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(&mut self, size: u64) -> Result<Option<u32>> {
        self.fill_to(size)?;
        // The smallest image has a root behind its superblock, and so all that the checksum covers.
        self.seal();
        self.flush()?;
        self.out.flush().map_err(|error| Error::io("write image", error))?;
        Ok(self.checksum)
    }
}

impl<W: Write> Output for InOrder<W> {
    fn put(&mut self, position: u64, bytes: &[u8]) -> Result<()> {
        self.fill_to(position)?;
        if bytes.len() >= BUFFER && self.held == 0 {
            self.flush()?;
            self.out.write_all(bytes).map_err(|error| Error::io("write image", error))?;
            self.start += bytes.len() as u64;
            return Ok(());
        }
        self.buffer.extend_from_slice(bytes);
        self.spill()
    }
}

/// Where the part of an image ends that the checksum covers.
pub(super) fn checksum_end(block_bits: u8) -> usize {
    let block = 1usize << block_bits;
    if block > OFFSET as usize { block } else { OFFSET as usize + block }
}

/// Puts the checksum into the first bytes of an image, up to [`checksum_end`].
pub(super) fn seal(head: &mut [u8]) -> u32 {
    let superblock = OFFSET as usize;
    head[superblock + 4..superblock + 8].fill(0);
    let sum = hash::crc32c(&[&head[superblock..]]);
    head[superblock + 4..superblock + 8].copy_from_slice(&sum.to_le_bytes());
    sum
}
