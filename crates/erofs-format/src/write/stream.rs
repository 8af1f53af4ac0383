//! Writing while files arrive, in one pass and in little memory.
//!
//! The data of a file goes to its final place at once. If its last part is to be inline, the whole inode is
//! written right then, into a group of blocks that are kept in memory until full: everything is known of it
//! but the number of its names, which is corrected at the end. Directories, and files without inline part,
//! wait for the end: their metadata is small.

use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};

use crate::{
    error::{Error, Result},
    raw::SLOT_SIZE,
    tree::{
        Data, FileData, Metadata, NewDevice, NewFile, NodeId, PairId, SetId, SettledInode, Tree,
        unrepresentable,
    },
    types::FileType,
};

use super::{
    Contents, ImagePlan, Summary, WriteOptions,
    blob::BlobWriter,
    emit::{Output, seal},
    inode::{self, Content},
    packer::Packer,
    plan::{Head, Zone},
    xattrs::XattrLayout,
};

/// The blocks of the first group of inodes; each next one has twice as many.
const GROUP_MIN: u64 = 8;

/// The bytes of the largest group.
const GROUP_MAX: u64 = 1 << 20;

/// What the root's inode needs at most: 64 bytes, and xattrs that are all shared.
const ROOT_ROOM: u64 = 64 + 12 + 4 * 255;

/// Writes an image to a seekable output while its files arrive. The output is read too, for files that are
/// described again after they were written.
///
/// What a removed or replaced file had written stays in the image as garbage. Everything that is no regular
/// file with content is added to [`StreamWriter::tree`].
#[derive(Debug)]
pub struct StreamWriter<W> {
    pub(super) data: BlobWriter<Positioned<W>>,
    pub(super) tree: Tree,
    pub(super) options: WriteOptions,
    head: Head,
    head_size: u64,
    pub(super) group: Option<Group>,
    group_blocks: u64,
    pub(super) xattrs: XattrLayout,
    /// How often each pair was used by inodes written already.
    uses: Vec<u32>,
    shared: Vec<(PairId, u64)>,
    pub(super) settled: u32,
}

/// Inodes that are written together.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) start: u64,
    pub(super) bytes: Vec<u8>,
    packer: Packer,
}

impl Group {
    pub(super) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn put(&mut self, position: u64, bytes: &[u8]) {
        let at = (position - self.start) as usize;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

impl<W: Read + Write + Seek> StreamWriter<W> {
    /// Starts an image where `out` stands. Extra devices have to be known now.
    ///
    /// # Errors
    /// `Unrepresentable` for options that the target does not know; `Io`.
    pub fn new(out: W, options: &WriteOptions, root: Metadata, devices: Vec<NewDevice>) -> Result<Self> {
        options.check()?;
        let mut tree = Tree::new(root);
        for device in devices {
            tree.add_device(device)?;
        }
        let head = Head::new(options, tree.devices.len());
        let mut data = BlobWriter::new(Positioned::new(out)?, options, 0);
        let settles = options.inline_data && options.chunk_bits.is_none();
        let least = if settles { (root_position(&head, options) + ROOT_ROOM).max(4096) } else { head.end };
        let head_size = least.next_multiple_of(options.block());
        data.skip(head_size >> options.block_bits);
        data.out().go_to(head_size);
        Ok(Self {
            data,
            tree,
            head,
            head_size,
            group: None,
            group_blocks: GROUP_MIN,
            xattrs: XattrLayout::new(options),
            uses: Vec::new(),
            shared: Vec::new(),
            settled: 0,
            options: options.clone(),
        })
    }

    /// The tree so far.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The tree so far, to be changed. Files that were added with content can get more names or be removed, but their
    /// metadata may be written already: for that there is [`StreamWriter::describe`].
    pub fn tree_mut(&mut self) -> &mut Tree {
        &mut self.tree
    }

    /// Sets [`WriteOptions::uuid`], which may be known only at the end.
    pub fn set_uuid(&mut self, uuid: [u8; 16]) {
        self.options.uuid = uuid;
    }

    /// Where the next data goes, in bytes from the start of the image; a whole number of blocks.
    pub fn position(&self) -> u64 {
        self.data_end()
    }

    /// Leaves the next `len` bytes of the image to somebody else, who writes them to the output until
    /// [`StreamWriter::finish`]: an archive, say, whose content files of the tree refer to by
    /// [`BlockAddress`](crate::BlockAddress). What remains of the last block is to be zeros.
    pub fn leave(&mut self, len: u64) {
        self.data.skip(len.div_ceil(self.options.block()));
        let end = self.data_end();
        self.data.out().go_to(end);
    }

    /// Adds a regular file, and writes its `size` bytes from `content`.
    ///
    /// # Errors
    /// As [`Tree::add`] and [`Tree::set_xattrs`], before anything is read; `Io` if reading or writing fails or
    /// the content ends early.
    pub fn add_file<'x>(
        &mut self,
        dir: NodeId,
        name: &[u8],
        metadata: Metadata,
        xattrs: impl IntoIterator<Item = (&'x [u8], &'x [u8])>,
        size: u64,
        content: &mut dyn BufRead,
    ) -> Result<NodeId> {
        self.tree.check_free(dir, name)?;
        let set = self.tree.xattrs.intern(xattrs)?;
        let settled = match size % self.options.block() {
            0 => None,
            _ if !self.options.inline_data || self.options.chunk_bits.is_some() => None,
            tail => self.settle(metadata, set, size, tail, content)?,
        };
        let data = match settled {
            Some(_) => FileData::Hole,
            None => self.data.append(size, content)?,
        };
        let node = self.add(dir, name, metadata, set, size, data)?;
        if let Some(inode) = settled {
            self.tree.nodes[node.0 as usize].set_data(Data::Settled(inode));
        }
        Ok(node)
    }

    /// Adds a regular file with holes: `content` gives the bytes of the ranges (offset and length, ascending)
    /// back to back.
    ///
    /// # Errors
    /// As [`StreamWriter::add_file`], and [`BlobWriter::append_sparse`].
    #[expect(clippy::too_many_arguments, reason = "each is a different thing, and all are needed")]
    pub fn add_sparse_file<'x>(
        &mut self,
        dir: NodeId,
        name: &[u8],
        metadata: Metadata,
        xattrs: impl IntoIterator<Item = (&'x [u8], &'x [u8])>,
        size: u64,
        ranges: &[(u64, u64)],
        content: &mut dyn BufRead,
    ) -> Result<NodeId> {
        self.tree.check_free(dir, name)?;
        let set = self.tree.xattrs.intern(xattrs)?;
        let data = self.data.append_sparse(size, ranges, content)?;
        self.add(dir, name, metadata, set, size, data)
    }

    fn add(
        &mut self,
        dir: NodeId,
        name: &[u8],
        metadata: Metadata,
        set: SetId,
        size: u64,
        data: FileData,
    ) -> Result<NodeId> {
        let node = self.tree.add(dir, name, metadata, NewFile::Regular { size, data })?;
        self.tree.nodes[node.0 as usize].xattrs = set;
        Ok(node)
    }

    /// Writes a file with its inode, if inode and tail fit a block.
    fn settle(
        &mut self,
        metadata: Metadata,
        set: SetId,
        size: u64,
        tail: u64,
        content: &mut dyn BufRead,
    ) -> Result<Option<SettledInode>> {
        self.options.choose_epoch(std::iter::once(metadata.mtime));
        let mut node = self.tree.new_regular(metadata, size)?;
        node.nlink = 1;
        let extended = inode::is_extended(&node, &self.options, false)?;
        self.share_xattrs(set)?;
        // Many large ones can only be shared, which is for the end to arrange.
        let Some(area) = self.xattrs.area_size(&self.tree.xattrs, set).map(u64::from) else {
            return Ok(None);
        };
        let body = if extended { 64 } else { 32 } + area;
        if body + tail > self.options.block() {
            return Ok(None);
        }
        let full = size - tail;
        let start = match full {
            0 => None,
            full => Some(self.data.append_blocks(full, content)?),
        };
        if start.is_some_and(|start| start >> 32 != 0) {
            return Err(Error::limit("2^32 blocks", "image", "too much data"));
        }
        self.settled += 1;
        let mut bytes = Vec::with_capacity((body + tail) as usize);
        let content_at = Content::Inline { start };
        inode::write(&node, extended, content_at, area, self.settled, &self.options, &mut bytes);
        self.xattrs.write_area(&self.tree.xattrs, set, &mut bytes)?;
        bytes.resize((body + tail) as usize, 0);
        content.read_exact(&mut bytes[body as usize..]).map_err(|error| Error::io("read content", error))?;
        let position = self.put(&bytes)?;
        Ok(Some(SettledInode { slot: position / SLOT_SIZE, extended }))
    }

    /// Counts the uses of xattrs, and stores one for all as soon as it is used often enough.
    pub(super) fn share_xattrs(&mut self, set: SetId) -> Result<()> {
        let Some(least) = self.options.share_xattrs else { return Ok(()) };
        for pair in self.tree.xattrs.set(set).to_vec() {
            let index = pair.0 as usize;
            self.uses.resize(self.uses.len().max(index + 1), 0);
            self.uses[index] = self.uses[index].saturating_add(1);
            let mut bytes = Vec::new();
            self.xattrs.write_pair(&self.tree.xattrs, pair, &mut bytes);
            let fits = bytes.len() as u64 <= self.options.block();
            // Ids of 32 bits count units of 4 bytes.
            let reachable = self.data.blocks() << self.options.block_bits < 1 << 33;
            if self.uses[index] >= least && fits && reachable && !self.xattrs.is_shared(pair) {
                let position = self.put(&bytes)?;
                self.xattrs.share(pair, position);
                self.shared.push((pair, position));
            }
        }
        Ok(())
    }

    /// Puts bytes that fit a block into the current group, or a new one, and returns where.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<u64> {
        let size = bytes.len() as u64;
        let place = |group: &mut Group| {
            let limit = group.end();
            group.packer.place_before(size, limit)
        };
        let position = match self.group.as_mut().and_then(place) {
            Some(position) => position,
            None => {
                self.new_group()?;
                let position = self.group.as_mut().and_then(place);
                position.ok_or_else(|| Error::limit("block size", "inode", "does not fit a block"))?
            }
        };
        if let Some(group) = &mut self.group {
            group.put(position, bytes);
        }
        Ok(position)
    }

    fn new_group(&mut self) -> Result<()> {
        if let Some(full) = self.group.take() {
            self.data.out().write_at(full.start, &full.bytes)?;
        }
        let bits = self.options.block_bits;
        let start = self.data.skip(self.group_blocks) << bits;
        let bytes = vec![0; (self.group_blocks << bits) as usize];
        self.group = Some(Group { start, bytes, packer: Packer::new(start, self.options.block()) });
        self.group_blocks = (self.group_blocks * 2).min(GROUP_MAX >> bits).max(GROUP_MIN);
        let end = self.data_end();
        self.data.out().go_to(end);
        Ok(())
    }

    fn data_end(&self) -> u64 {
        self.data.blocks() << self.options.block_bits
    }

    /// Writes what is left: directories, the other inodes, the superblock. Content that the tree says to be with
    /// `contents` is written last.
    ///
    /// # Errors
    /// As [`ImagePlan::new`] and [`ImagePlan::write`].
    pub fn finish(mut self, contents: &dyn Contents) -> Result<(W, Summary)> {
        self.restate_popular()?;
        let settles = self.options.inline_data && self.options.chunk_bits.is_none();
        let mut zone = Zone { start: self.data_end(), settled: self.settled, ..Zone::default() };
        zone.shared = std::mem::take(&mut self.shared);
        if settles {
            let position = root_position(&self.head, &self.options);
            zone.root = Some((position, self.head_size - position));
        }
        if let Some(group) = &mut self.group {
            if group.end() == zone.start {
                zone.start = group.packer.end();
                group.bytes.truncate((zone.start - group.start) as usize);
            }
            let packer = std::mem::replace(&mut group.packer, Packer::new(0, self.options.block()));
            zone.before = Some((packer, group.end()));
        }
        self.data.out().go_to(zone.start);
        let plan = ImagePlan::within(self.tree, &self.options, self.head, zone, contents)?;
        let mut out =
            Patched { head: vec![0; self.head_size as usize], group: self.group, out: self.data.into_out() };
        plan.write_metadata(plan.zone.settled, contents, &mut out)?;
        plan.write_data(contents, &mut out)?;
        out.out.fill_to(plan.size())?;
        out.correct_link_counts(&plan)?;
        plan.write_head(&plan.superblock(), &mut out.head);
        let covered = super::emit::checksum_end(self.options.block_bits);
        let checksum = self.options.checksum.then(|| seal(&mut out.head[..covered]));
        let summary = plan.summary(checksum);
        Ok((out.finish()?, summary))
    }
}

/// Where the root's inode is if it has to be near the start: after what else is there, in one block.
fn root_position(head: &Head, options: &WriteOptions) -> u64 {
    let position = head.end.next_multiple_of(SLOT_SIZE);
    if position % options.block() + 64 > options.block() {
        position.next_multiple_of(options.block())
    } else {
        position
    }
}

/// The output at the end: pieces go to the first blocks, the last group, or behind everything.
struct Patched<W> {
    head: Vec<u8>,
    group: Option<Group>,
    out: Positioned<W>,
}

impl<W: Write + Seek> Patched<W> {
    fn correct_link_counts(&mut self, plan: &ImagePlan) -> Result<()> {
        for node in &plan.tree.nodes {
            let Data::Settled(inode) = node.data() else { continue };
            if node.file_type() != FileType::Regular || node.nlink <= 1 {
                continue;
            }
            let position = inode.slot * SLOT_SIZE;
            if inode.extended {
                self.patch(position + 44, &node.nlink.to_le_bytes())?;
            } else {
                let count = u16::try_from(node.nlink);
                let count =
                    count.map_err(|_| unrepresentable("inode", "too many names for a compact inode"))?;
                self.patch(position + 6, &count.to_le_bytes())?;
            }
        }
        Ok(())
    }

    /// Changes bytes that were written before.
    fn patch(&mut self, position: u64, bytes: &[u8]) -> Result<()> {
        match &mut self.group {
            Some(group) if (group.start..group.end()).contains(&position) => group.put(position, bytes),
            _ => self.out.write_at(position, bytes)?,
        }
        Ok(())
    }

    fn finish(mut self) -> Result<W> {
        if let Some(group) = self.group.take() {
            self.out.write_at(group.start, &group.bytes)?;
        }
        self.out.write_at(0, &self.head)?;
        self.out.finish()
    }
}

impl<W: Write + Seek> Output for Patched<W> {
    fn put(&mut self, position: u64, bytes: &[u8]) -> Result<()> {
        if position < self.head.len() as u64 {
            self.head[position as usize..][..bytes.len()].copy_from_slice(bytes);
            return Ok(());
        }
        match &mut self.group {
            Some(group) if (group.start..group.end()).contains(&position) => {
                group.put(position, bytes);
                Ok(())
            }
            _ => {
                self.out.fill_to(position)?;
                self.out.write_at(position, bytes)
            }
        }
    }
}

/// A seekable output that is mostly appended to.
#[derive(Debug)]
pub(super) struct Positioned<W> {
    out: W,
    /// Where the image starts in the output.
    base: u64,
    /// Where the output stands, from there.
    at: u64,
    /// Where the buffer starts.
    start: u64,
    buffer: Vec<u8>,
    /// Where the next byte belongs.
    next: u64,
}

/// How much is written at once.
const BUFFER: usize = 1 << 20;

/// From this size on pieces are not copied into the buffer first.
const DIRECT: usize = 128 << 10;

impl<W: Write + Seek> Positioned<W> {
    fn new(mut out: W) -> Result<Self> {
        let base = out.stream_position().map_err(|error| Error::io("seek in image", error))?;
        Ok(Self { out, base, at: 0, start: 0, buffer: Vec::with_capacity(BUFFER), next: 0 })
    }

    fn go_to(&mut self, position: u64) {
        self.next = position;
    }

    fn write_at(&mut self, position: u64, bytes: &[u8]) -> Result<()> {
        self.go_to(position);
        self.write_all(bytes).map_err(|error| Error::io("write image", error))
    }

    /// Writes zeros up to `position`: the output may have had other content there.
    fn fill_to(&mut self, position: u64) -> Result<()> {
        while self.next < position {
            let len = (position - self.next).min(4096) as usize;
            self.write_all(&[0; 4096][..len]).map_err(|error| Error::io("write image", error))?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<W> {
        self.flush().map_err(|error| Error::io("write image", error))?;
        Ok(self.out)
    }

    fn spill(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            if self.at != self.start {
                self.out.seek(SeekFrom::Start(self.base + self.start))?;
            }
            self.out.write_all(&self.buffer)?;
            self.at = self.start + self.buffer.len() as u64;
            self.buffer.clear();
        }
        self.start = self.next;
        Ok(())
    }
}

impl<W: Read + Write + Seek> Positioned<W> {
    /// Reads what was written before.
    pub(super) fn read_exact_at(&mut self, position: u64, buf: &mut [u8]) -> io::Result<()> {
        self.spill()?;
        self.out.seek(SeekFrom::Start(self.base + position))?;
        self.at = position;
        self.out.read_exact(buf)?;
        self.at += buf.len() as u64;
        Ok(())
    }
}

impl<W: Write + Seek> Write for Positioned<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let contiguous = self.start + self.buffer.len() as u64 == self.next;
        if !contiguous || self.buffer.len() + bytes.len() > BUFFER || bytes.len() >= DIRECT {
            self.spill()?;
        }
        if self.buffer.is_empty() && bytes.len() >= DIRECT {
            if self.at != self.next {
                self.out.seek(SeekFrom::Start(self.base + self.next))?;
            }
            self.out.write_all(bytes)?;
            self.next += bytes.len() as u64;
            (self.at, self.start) = (self.next, self.next);
            return Ok(bytes.len());
        }
        self.buffer.extend_from_slice(bytes);
        self.next += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.spill()?;
        self.out.flush()
    }
}
