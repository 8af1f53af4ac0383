//! The first phase: every position is fixed before the first byte is written.
//!
//! Sizes depend on nothing but the tree and the options, positions on nothing but sizes and order. Inodes are
//! placed breadth first with siblings in the order of their names, so that listing a directory reads its
//! inodes from adjacent blocks.

use crate::{
    error::{Error, Result},
    raw::{SLOT_SIZE, device, superblock::OFFSET},
    tree::{BlockAddress, Data, Node, PairId, Tree, unrepresentable},
    types::{FileType, Nid},
};

use super::{
    Contents,
    data::{DataPlacer, HOLE},
    directory::Directories,
    inode::{self, Content},
    options::{Target, WriteOptions},
    packer::Packer,
    sparse,
    xattrs::{XattrLayout, prefix_table},
};

/// The plan of an image: what [`ImagePlan::write`] will write, and how large it is.
#[derive(Debug)]
pub struct ImagePlan {
    pub(super) tree: Tree,
    pub(super) options: WriteOptions,
    pub(super) head: Head,
    pub(super) directories: Directories,
    /// The files whose inodes are to be written, ascending by position.
    pub(super) order: Vec<u32>,
    /// The files whose data is to be written, in the order of the data.
    pub(super) data: Vec<u32>,
    /// Links whose target has a block of its own.
    pub(super) far_links: Vec<u32>,
    /// Chunk maps into the data area.
    pub(super) local: Vec<u32>,
    pub(super) xattrs: XattrLayout,
    /// The shared xattrs, in the order of their table.
    pub(super) shared: Vec<PairId>,
    pub(super) shared_start: u64,
    pub(super) zone: Zone,
    pub(super) meta_block: u64,
    /// The first block that is neither inode nor shared xattr.
    pub(super) far_start: u64,
    /// The first block of link targets.
    pub(super) link_start: u64,
    pub(super) data_start: u64,
    pub(super) blocks: u64,
    pub(super) inodes: u64,
    pub(super) has_chunks: bool,
}

/// What lies before the metadata: superblock, device table, prefix table.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) device_table: u64,
    pub(super) devices: usize,
    pub(super) prefix_start: u64,
    pub(super) prefixes: Vec<u8>,
    pub(super) end: u64,
}

impl Head {
    pub(super) fn new(options: &WriteOptions, devices: usize) -> Self {
        let superblock_end = OFFSET + size_of::<crate::raw::superblock::Superblock>() as u64;
        let device_table = superblock_end.next_multiple_of(device::SLOT_SIZE);
        let prefix_start = device_table + devices as u64 * device::SLOT_SIZE;
        let prefixes = prefix_table(options);
        let end = prefix_start + prefixes.len() as u64;
        Self { device_table, devices, prefix_start, prefixes, end }
    }
}

/// Where metadata may go.
#[derive(Debug, Default)]
pub(super) struct Zone {
    /// From here on everything is free.
    pub(super) start: u64,
    /// The place for the root's inode, if it has to be at a certain one, and the room there.
    pub(super) root: Option<(u64, u64)>,
    /// Free space before `start`: what this packer has left up to a position.
    pub(super) before: Option<(Packer, u64)>,
    /// Shared xattrs that are written already.
    pub(super) shared: Vec<(PairId, u64)>,
    /// How many inodes are written already.
    pub(super) settled: u32,
}

/// How a file is stored, as far as that does not depend on where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) extended: bool,
    pub(super) xattr_area: u64,
    /// Format and entry size of the chunk map.
    pub(super) map: Option<(u16, u64)>,
    pub(super) chunks: u64,
    /// Bytes of the inline tail.
    pub(super) tail: u64,
}

impl Shape {
    /// The bytes from the inode to where map or tail start.
    pub(super) fn body(&self) -> u64 {
        let inode = if self.extended { 64 } else { 32 };
        (inode + self.xattr_area).next_multiple_of(self.map.map_or(1, |(_, entry)| entry))
    }

    fn size(&self) -> u64 {
        self.body() + self.chunks * self.map.map_or(0, |(_, entry)| entry) + self.tail
    }
}

impl ImagePlan {
    /// Plans an image of `tree`: metadata first, then the data that comes from `contents`.
    ///
    /// The contents are read here only if [`WriteOptions::chunk_size`] asks to find equal chunks.
    ///
    /// # Errors
    /// `Unrepresentable` for what the format, the target or the options cannot express; reading contents.
    pub fn new(tree: Tree, options: &WriteOptions, contents: &dyn Contents) -> Result<Self> {
        let head = Head::new(options, tree.devices.len());
        let zone = Zone { start: head.end, ..Zone::default() };
        Self::within(tree, options, head, zone, contents)
    }

    /// The size of the image in bytes, a whole number of blocks.
    pub fn size(&self) -> u64 {
        self.blocks << self.options.block_bits
    }

    /// The size in blocks.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// How many inodes the image has.
    pub fn inodes(&self) -> u64 {
        self.inodes
    }

    /// Where the data starts, in bytes; everything before is metadata.
    pub fn metadata_size(&self) -> u64 {
        self.data_start << self.options.block_bits
    }

    /// The tree.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The inode number that a file gets.
    pub fn nid(&self, node: crate::NodeId) -> Nid {
        Nid(self.nid_of(node.0))
    }

    pub(super) fn nid_of(&self, node: u32) -> u64 {
        self.tree.nodes[node as usize].slot - (self.meta_block << self.options.block_bits) / SLOT_SIZE
    }

    pub(super) fn within(
        tree: Tree,
        options: &WriteOptions,
        head: Head,
        zone: Zone,
        contents: &dyn Contents,
    ) -> Result<Self> {
        options.check()?;
        if options.target < Target::Linux5_16 && !tree.devices.is_empty() {
            return Err(unrepresentable("superblock", "extra devices take Linux5_16"));
        }
        let mut plan = Self {
            tree,
            options: options.clone(),
            head,
            directories: Directories::default(),
            order: Vec::new(),
            data: Vec::new(),
            far_links: Vec::new(),
            local: Vec::new(),
            xattrs: XattrLayout::new(options),
            shared: Vec::new(),
            shared_start: 0,
            zone,
            meta_block: 0,
            far_start: 0,
            link_start: 0,
            data_start: 0,
            blocks: 0,
            inodes: 0,
            has_chunks: false,
        };
        plan.options.choose_epoch(plan.tree.nodes.iter().map(|node| node.metadata().mtime));
        plan.visit();
        plan.place_shared_xattrs()?;
        plan.place_inodes(contents)?;
        Ok(plan)
    }

    /// Finds what is reachable, sorts directories, counts links.
    fn visit(&mut self) {
        for node in &mut self.tree.nodes {
            node.nlink = 0;
        }
        self.tree.nodes[0].nlink = 2;
        self.order.push(0);
        self.directories.push(&self.tree, 0, 0);
        let mut next = 0;
        let mut entries = 0..self.directories.len();
        while let Some(&super::directory::Directory { node, .. }) = self.directories.list.get(next) {
            self.tree.nodes[node as usize].small = next as u32;
            for at in entries {
                let Some(child) = self.directories.child(&self.tree, at) else { continue };
                let found = &mut self.tree.nodes[child as usize];
                found.nlink += 1;
                if found.file_type() == FileType::Directory {
                    found.nlink = 2;
                    self.tree.nodes[node as usize].nlink += 1;
                    self.order.push(child);
                    self.directories.push(&self.tree, child, node);
                } else if found.nlink == 1 {
                    self.inodes += 1;
                    if !matches!((found.file_type(), found.data()), (FileType::Regular, Data::Settled(_))) {
                        self.order.push(child);
                    }
                }
            }
            next += 1;
            entries = match self.directories.list.get(next) {
                Some(directory) => directory.entries(),
                None => break,
            };
        }
        self.inodes += self.directories.list.len() as u64;
    }

    fn place_shared_xattrs(&mut self) -> Result<()> {
        for &(pair, position) in &self.zone.shared {
            self.xattrs.share(pair, position);
        }
        let mut uses = vec![0; self.tree.xattrs.set_count()];
        for &node in &self.order {
            uses[self.tree.nodes[node as usize].xattrs.0 as usize] += 1;
        }
        let root_set = self.tree.nodes[0].xattrs;
        let mut chosen = self.xattrs.choose(&self.tree, &self.options, &uses);
        if let Some((_, room)) = self.zone.root {
            let mut wanted = vec![false; self.tree.xattrs.pair_count()];
            chosen.iter().for_each(|pair| wanted[pair.0 as usize] = true);
            self.xattrs.make_room(&self.tree.xattrs, self.tree.xattrs.set(root_set), room - 64, &mut wanted);
            let more = (0..wanted.len() as u32).map(PairId);
            chosen = more.filter(|&pair| wanted[pair.0 as usize] && !self.xattrs.is_shared(pair)).collect();
            let pool = &self.tree.xattrs;
            chosen.sort_unstable_by(|&a, &b| pool.pair(a).cmp(&pool.pair(b)));
        }
        let streamed = self.zone.root.is_some();
        self.shared_start = self.zone.start.next_multiple_of(4);
        self.xattrs.base = if streamed { 0 } else { self.shared_start & !(self.options.block() - 1) };
        let mut at = self.shared_start;
        for &pair in &chosen {
            self.xattrs.share(pair, at);
            at += self.xattrs.stored_size(&self.tree.xattrs, pair);
        }
        self.shared = chosen;
        self.zone.start = at;
        self.xattrs.measure(&self.tree.xattrs);
        Ok(())
    }

    fn place_inodes(&mut self, contents: &dyn Contents) -> Result<()> {
        let (block, bits) = (self.options.block(), self.options.block_bits);
        let mut start = self.zone.start.next_multiple_of(SLOT_SIZE);
        if start.is_multiple_of(block) {
            // Inode number 0 stands for "none" in some places.
            start += SLOT_SIZE;
        }
        let streamed = self.zone.root.is_some();
        self.meta_block = if streamed { 0 } else { start >> bits };
        let mut packer = Packer::new(start, block);
        if let Some((before, end)) = self.zone.before.take() {
            packer.take_over(before, end);
        }
        let mut placer = DataPlacer::new(self.options.chunk_bits);
        if self.options.data_by_token {
            self.place_data_by_token(&mut placer)?;
        }
        let mut far = Vec::new();
        let mut far_blocks = 0;
        for index in 0..self.order.len() {
            let id = self.order[index];
            let fixed = self.zone.root.filter(|_| id == 0);
            let shape = self.shape(id, fixed, &mut placer, contents)?;
            let position = match self.zone.root {
                Some((position, room)) if id == 0 => {
                    if shape.size() > room {
                        return Err(unrepresentable("inode", "the root's xattrs take too much room"));
                    }
                    position
                }
                _ => packer.place(shape.size()),
            };
            let node = &mut self.tree.nodes[id as usize];
            node.slot = position / SLOT_SIZE;
            match node.file_type() {
                FileType::Symlink if shape.tail == 0 => {
                    node.small = far_blocks as u32;
                    far_blocks += node.size.div_ceil(block);
                    self.far_links.push(id);
                }
                FileType::Directory => {
                    let directory = &mut self.directories.list[node.small as usize];
                    directory.blocks = (node.size - shape.tail).div_ceil(block) as u32;
                    if directory.blocks > 0 {
                        far.push(node.small);
                    }
                }
                _ => {}
            }
        }
        self.far_start = packer.end() >> bits;
        let mut next = self.far_start;
        for index in far {
            let directory = &mut self.directories.list[index as usize];
            directory.block = next;
            next += u64::from(directory.blocks);
        }
        self.link_start = next;
        self.data_start = next + far_blocks;
        self.blocks = self.data_start + placer.next;
        (self.data, self.local) = (placer.files, placer.local);
        if self.blocks > u64::from(u32::MAX) {
            return Err(Error::limit("2^32 blocks", "image", "too much data"));
        }
        let nodes = &self.tree.nodes;
        self.order.sort_unstable_by_key(|&node| nodes[node as usize].slot);
        Ok(())
    }

    /// Gives the data of all files its place before any inode has one.
    fn place_data_by_token(&mut self, placer: &mut DataPlacer) -> Result<()> {
        let files = self.order.iter().filter_map(|&id| Some((self.tree.token(id)?, id)));
        let mut files: Vec<(u64, u32)> = files.collect();
        files.sort_unstable();
        for (_, id) in files {
            placer.place_chunks(&mut self.tree, id, &self.options, &())?;
            let node = &mut self.tree.nodes[id as usize];
            if matches!(node.data(), Data::Source { .. }) {
                placer.place_blocks(node, id, node.size.div_ceil(self.options.block()))?;
            }
        }
        Ok(())
    }

    /// Decides how a file is stored, and gives its data a place.
    fn shape(
        &mut self,
        id: u32,
        fixed: Option<(u64, u64)>,
        placer: &mut DataPlacer,
        contents: &dyn Contents,
    ) -> Result<Shape> {
        let block = self.options.block();
        let mut tail = 0;
        match self.tree.nodes[id as usize].file_type() {
            FileType::Directory => {
                let index = self.tree.nodes[id as usize].small as usize;
                let (size, last) = self.directories.measure(&self.tree, index, block);
                self.tree.nodes[id as usize].size = size;
                tail = last % block;
            }
            FileType::Symlink => tail = self.tree.nodes[id as usize].size,
            FileType::Regular => {
                if !self.options.data_by_token {
                    placer.place_chunks(&mut self.tree, id, &self.options, contents)?;
                }
                let node = &self.tree.nodes[id as usize];
                let local = matches!(node.data(), Data::Source { .. } | Data::Bytes { .. });
                if local && self.options.inline_data && self.options.chunk_bits.is_none() {
                    tail = node.size % block;
                }
            }
            _ => {}
        }
        let mut shape = self.shape_without_tail(id, &placer.local)?;
        self.has_chunks |= shape.map.is_some();
        let body = shape.body();
        let fits = match fixed {
            Some((position, room)) => (position + body) % block + tail <= block && body + tail <= room,
            // Old kernels want a link's target in the block of its inode.
            None if self.tree.nodes[id as usize].file_type() == FileType::Symlink => body + tail <= block,
            // What is larger than a block starts at the start of one.
            None => body % block + tail <= block,
        };
        if fits {
            shape.tail = tail;
        }
        let node = &mut self.tree.nodes[id as usize];
        node.inline = shape.tail > 0;
        if node.file_type() == FileType::Regular && shape.map.is_none() && !self.options.data_by_token {
            placer.place_blocks(node, id, (node.size - shape.tail).div_ceil(block))?;
        }
        Ok(shape)
    }

    /// How a file is stored, but for its tail. The same before and after placing.
    pub(super) fn shape_without_tail(&self, id: u32, local: &[u32]) -> Result<Shape> {
        let node = &self.tree.nodes[id as usize];
        let high =
            matches!(node.data(), Data::Blocks(address) if address.device == 0 && address.block >> 32 != 0);
        let high = high && node.file_type() == FileType::Regular;
        if high && !self.options.large {
            return Err(unrepresentable("inode", "an address beyond 2^32 blocks takes a 48-bit image"));
        }
        let (count, bits) = self.chunk_count(node)?;
        let map = match count {
            0 => None,
            _ => Some(inode::chunk_format(self.chunks(node, local, 0), bits, &self.options)?),
        };
        if map.is_some() && self.options.target < Target::Linux5_16 {
            return Err(unrepresentable("inode", "a chunk-based file takes Linux5_16"));
        }
        Ok(Shape {
            extended: inode::is_extended(node, &self.options, high)?,
            xattr_area: self.xattrs.area(node.xattrs)?,
            map,
            chunks: count,
            tail: 0,
        })
    }

    /// How many chunks a file has, and their size as a power of two of blocks. 0: it is flat.
    pub(super) fn chunk_count(&self, node: &Node) -> Result<(u64, u8)> {
        if node.file_type() != FileType::Regular || node.size == 0 {
            return Ok((0, 0));
        }
        let block_bits = self.options.block_bits;
        let single = sparse::single_chunk_bits(node.size, block_bits);
        let bits = match node.data() {
            Data::Blocks(BlockAddress { device: 0, .. }) => return Ok((0, 0)),
            Data::Source { .. } | Data::Bytes { .. } if self.options.chunk_bits.is_none() => {
                return Ok((0, 0));
            }
            Data::Source { .. } | Data::Bytes { .. } | Data::Sparse { .. } => node.bits,
            Data::Hole | Data::Blocks(_) | Data::Settled(_) => single,
            Data::Chunks { bits, .. } => bits,
        };
        let count = node.size.div_ceil(1 << (bits + block_bits));
        match node.data() {
            Data::Chunks { count: given, .. } if given != count => {
                Err(Error::invalid(format!("a file of {count} chunks was given {given}")))
            }
            _ => Ok((count, bits)),
        }
    }

    /// The chunks of a chunk-based file; `base` is where the data area starts.
    pub(super) fn chunks<'a>(
        &'a self,
        node: &'a Node,
        local: &'a [u32],
        base: u64,
    ) -> Box<dyn Iterator<Item = Option<BlockAddress>> + 'a> {
        let (count, bits) = self.chunk_count(node).unwrap_or_default();
        match node.data() {
            Data::Hole | Data::Settled(_) => Box::new((0..count).map(|_| None)),
            Data::Blocks(BlockAddress { device, block }) => {
                Box::new((0..count).map(move |k| Some(BlockAddress { device, block: block + (k << bits) })))
            }
            Data::Chunks { start, .. } => {
                Box::new(self.tree.chunks[start as usize..][..count as usize].iter().copied())
            }
            Data::Source { .. } | Data::Bytes { .. } | Data::Sparse { .. } => {
                let address = move |&block: &u32| BlockAddress { device: 0, block: base + u64::from(block) };
                let chunks = &local[node.small as usize..][..count as usize];
                Box::new(chunks.iter().map(move |block| Some(block).filter(|&&b| b != HOLE).map(address)))
            }
        }
    }

    /// What an inode says about its content, once everything is placed.
    pub(super) fn content(&self, id: u32, shape: &Shape) -> Content {
        let node = &self.tree.nodes[id as usize];
        if let Some(content) = inode::special(node) {
            return content;
        }
        if let Some((format, _)) = shape.map {
            return Content::Chunked { format };
        }
        let start = match (node.file_type(), node.data()) {
            _ if node.size == shape.tail => None,
            (FileType::Directory, _) => Some(self.directories.list[node.small as usize].block),
            (FileType::Symlink, _) => Some(self.link_start + u64::from(node.small)),
            (_, Data::Blocks(address)) => Some(address.block),
            _ => Some(self.data_start + u64::from(node.small)),
        };
        if shape.tail > 0 { Content::Inline { start } } else { Content::Plain { start } }
    }
}
