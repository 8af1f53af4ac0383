//! Inodes, checked as far as one can without looking at anything else.

use crate::{
    error::{Error, Result},
    raw::{NULL_ADDR, SLOT_BITS, chunk, inode as raw, superblock::incompat},
    types::{DeviceNumber, FileType, Nid, Timestamp},
};

use super::{Image, Space, meta::structure};

/// The longest target of a symbolic link.
const SYMLINK_MAX: u64 = 4095;

/// A file's metadata. Plain data: everything that takes one also takes the [`Image`] that it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    nid: Nid,
    mode: u16,
    file_type: FileType,
    uid: u32,
    gid: u32,
    nlink: u32,
    size: u64,
    mtime: Timestamp,
    ino: u32,
    data: u32,
    extended: bool,
    pub(crate) dot_omitted: bool,
    layout: Layout,
    /// Where the inode is in its space.
    pub(super) position: u64,
    pub(crate) xattr_size: u32,
    block_size: u64,
}

/// How the content of a file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layout {
    /// Consecutive blocks; `None`: the whole file is a hole.
    Plain {
        /// The first block.
        start: Option<u64>,
    },
    /// Consecutive blocks, and the rest directly after the inode.
    Inline {
        /// The first block, meaningless if there is no full one.
        start: u64,
    },
    /// Equal chunks, each anywhere.
    Chunked {
        /// The chunk size as a power of two.
        chunk_bits: u8,
        /// Entries are 8 bytes and can name a device, instead of 4.
        indexes: bool,
        /// Entries have 48-bit addresses.
        wide: bool,
    },
    /// Compressed; the content cannot be read yet.
    Compressed {
        /// The index has one full record per logical cluster, or encoded extents; otherwise it is packed.
        full: bool,
    },
}

impl Inode {
    /// The inode number.
    pub fn nid(&self) -> Nid {
        self.nid
    }

    /// Type and permission bits.
    pub fn mode(&self) -> u16 {
        self.mode
    }

    /// The type.
    pub fn file_type(&self) -> FileType {
        self.file_type
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type == FileType::Directory
    }

    /// The owner.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The group.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// The link count, as the image claims. A directory with 1 has an unknown number of subdirectories.
    pub fn nlink(&self) -> u32 {
        self.nlink
    }

    /// The size in bytes. Up to `2^63 - 1`, whatever the image really holds: never allocate by it.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The modification time.
    pub fn mtime(&self) -> Timestamp {
        self.mtime
    }

    /// The number for 32-bit `stat`.
    pub fn ino(&self) -> u32 {
        self.ino
    }

    /// The device number of a device.
    pub fn device_number(&self) -> Option<DeviceNumber> {
        self.file_type.is_device().then(|| DeviceNumber::decode(self.data))
    }

    /// Whether this is an overlay whiteout: a character device 0:0.
    pub fn is_whiteout(&self) -> bool {
        self.file_type == FileType::CharDevice && self.data == 0
    }

    /// Whether the inode has 64 bytes instead of 32.
    pub fn is_extended(&self) -> bool {
        self.extended
    }

    /// How the content is laid out.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Where the inode is, in bytes, in the plain image or in the metabox.
    pub fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn space(&self) -> Space {
        if self.nid.in_metabox() { Space::Metabox } else { Space::Image }
    }

    /// The size of the structure on disk.
    pub(crate) fn stored_size(&self) -> u64 {
        if self.extended { 64 } else { 32 }
    }

    /// Where the xattr area starts.
    pub(super) fn xattr_position(&self) -> u64 {
        self.position + self.stored_size()
    }

    /// Where the xattrs end and inline data or maps start.
    pub(crate) fn body_end(&self) -> u64 {
        self.xattr_position() + u64::from(self.xattr_size)
    }

    /// How many bytes of the content are after the inode.
    pub(crate) fn inline_size(&self) -> u64 {
        match self.layout {
            Layout::Inline { .. } if self.file_type.has_content() => self.size & (self.block_size - 1),
            _ => 0,
        }
    }

    /// Size, number and place of the entries of the chunk map.
    pub(crate) fn chunk_map(&self) -> Option<ChunkMap> {
        let Layout::Chunked { chunk_bits, indexes, wide } = self.layout else { return None };
        let entry_size = if indexes { size_of::<chunk::Index>() as u64 } else { 4 };
        let position = self.body_end().next_multiple_of(entry_size);
        // Not `div_ceil` of shifted values: the size may be any 63-bit number, the chunk up to 2^47.
        let count = self.size.div_ceil(1 << chunk_bits);
        Some(ChunkMap { position, entry_size, count, chunk_bits, wide })
    }
}

/// The chunk map of an inode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkMap {
    pub(crate) position: u64,
    pub(crate) entry_size: u64,
    pub(crate) count: u64,
    pub(crate) chunk_bits: u8,
    pub(crate) wide: bool,
}

impl ChunkMap {
    /// Where the map ends; `None` if beyond all numbers.
    pub(crate) fn end(&self) -> Option<u64> {
        self.position.checked_add(self.count.checked_mul(self.entry_size)?)
    }
}

impl Image {
    /// The inode of that number.
    ///
    /// # Errors
    /// `Corrupt` if the number leads out of the image or the inode contradicts the format; `Unsupported` for
    /// reserved bits and layouts.
    pub fn inode(&self, nid: Nid) -> Result<Inode> {
        let position = self.position(nid)?;
        let space = if nid.in_metabox() { Space::Metabox } else { Space::Image };
        let head = self.meta(space, position, 32, "inode")?;
        let bits = head[0];
        let inode = if u16::from(bits) & raw::FORMAT_EXTENDED == 0 {
            let raw: raw::Compact = structure(&head, "inode", position)?;
            self.compact(nid, position, &raw)?
        } else {
            let whole = self.meta(space, position, 64, "inode")?;
            let raw: raw::Extended = structure(&whole, "inode", position)?;
            self.extended(nid, position, &raw)?
        };
        self.check_inode(&inode)?;
        Ok(inode)
    }

    fn position(&self, nid: Nid) -> Result<u64> {
        let base = if nid.in_metabox() { 0 } else { self.superblock().meta_start };
        if nid.in_metabox() && self.superblock().metabox.is_none() {
            return Err(Error::corrupt("inode", 0, format!("number {nid} needs a metabox")));
        }
        nid.slot()
            .checked_mul(1 << SLOT_BITS)
            .and_then(|offset| offset.checked_add(base))
            .ok_or_else(|| Error::corrupt("inode", base, format!("number {nid} is out of the image")))
    }

    fn compact(&self, nid: Nid, position: u64, raw: &raw::Compact) -> Result<Inode> {
        let sb = self.superblock();
        let format = raw.i_format.get();
        let (file_type, mode) = file_type(raw.i_mode.get(), position)?;
        let flag = format & raw::FORMAT_NLINK_1_OR_DOT_OMITTED != 0;
        let wide = sb.has(incompat::FORMAT_48BIT);
        let (nlink, high) = match flag && file_type != FileType::Directory {
            true => (1, raw.i_nb.get()),
            false => (u32::from(raw.i_nb.get()), 0),
        };
        let offset = if wide { i64::from(raw.i_mtime.get()) } else { 0 };
        Ok(Inode {
            nid,
            mode,
            file_type,
            uid: raw.i_uid.get().into(),
            gid: raw.i_gid.get().into(),
            nlink,
            size: raw.i_size.get().into(),
            mtime: Timestamp { seconds: sb.epoch.saturating_add(offset), nanoseconds: sb.fixed_nsec },
            ino: raw.i_ino.get(),
            data: raw.i_u.get(),
            extended: false,
            dot_omitted: flag && file_type == FileType::Directory,
            layout: self.layout(position, format, raw.i_u.get(), high)?,
            position,
            xattr_size: xattr_size(raw.i_xattr_icount.get()),
            block_size: self.superblock().block_size(),
        })
    }

    fn extended(&self, nid: Nid, position: u64, raw: &raw::Extended) -> Result<Inode> {
        let format = raw.i_format.get();
        let (file_type, mode) = file_type(raw.i_mode.get(), position)?;
        if raw.i_mtime_nsec.get() >= 1_000_000_000 {
            return Err(Error::corrupt("inode", position + 40, "a second has fewer nanoseconds"));
        }
        Ok(Inode {
            nid,
            mode,
            file_type,
            uid: raw.i_uid.get(),
            gid: raw.i_gid.get(),
            nlink: raw.i_nlink.get(),
            size: raw.i_size.get(),
            mtime: Timestamp { seconds: raw.i_mtime.get(), nanoseconds: raw.i_mtime_nsec.get() },
            ino: raw.i_ino.get(),
            data: raw.i_u.get(),
            extended: true,
            dot_omitted: format & raw::FORMAT_NLINK_1_OR_DOT_OMITTED != 0 && file_type == FileType::Directory,
            layout: self.layout(position, format, raw.i_u.get(), raw.i_nb.get())?,
            position,
            xattr_size: xattr_size(raw.i_xattr_icount.get()),
            block_size: self.superblock().block_size(),
        })
    }

    fn layout(&self, position: u64, format: u16, data: u32, high: u16) -> Result<Layout> {
        let wide = self.superblock().has(incompat::FORMAT_48BIT);
        let reserved = if wide { 0 } else { raw::FORMAT_NLINK_1_OR_DOT_OMITTED };
        if format & (raw::FORMAT_RESERVED | reserved) != 0 {
            return Err(Error::unsupported(
                "inode",
                position,
                format!("reserved format bits in {format:#x}"),
            ));
        }
        let start = if wide { u64::from(high) << 32 | u64::from(data) } else { u64::from(data) };
        Ok(match format >> raw::FORMAT_LAYOUT_SHIFT & raw::FORMAT_LAYOUT_MASK {
            raw::LAYOUT_FLAT_PLAIN => {
                let hole = start == u64::from(NULL_ADDR) || start == (1 << 48) - 1;
                Layout::Plain { start: (!hole).then_some(start) }
            }
            raw::LAYOUT_FLAT_INLINE => Layout::Inline { start },
            raw::LAYOUT_CHUNK_BASED => self.chunk_layout(position, data as u16)?,
            raw::LAYOUT_COMPRESSED_FULL => Layout::Compressed { full: true },
            raw::LAYOUT_COMPRESSED_COMPACT => Layout::Compressed { full: false },
            layout => {
                return Err(Error::unsupported("inode", position, format!("unknown data layout {layout}")));
            }
        })
    }

    fn chunk_layout(&self, position: u64, format: u16) -> Result<Layout> {
        if format & !chunk::FORMAT_ALL != 0 {
            let message = format!("reserved chunk format bits in {format:#x}");
            return Err(Error::unsupported("inode", position + 16, message));
        }
        let (indexes, wide) = (format & chunk::FORMAT_INDEXES != 0, format & chunk::FORMAT_48BIT != 0);
        if wide && !(indexes && self.superblock().has(incompat::FORMAT_48BIT)) {
            return Err(Error::corrupt("inode", position + 16, "48-bit chunks in an image that has none"));
        }
        let chunk_bits = self.superblock().block_bits + (format & chunk::FORMAT_BLKBITS_MASK) as u8;
        Ok(Layout::Chunked { chunk_bits, indexes, wide })
    }

    /// What every inode must fulfil on its own. Devices and the like may claim any size; it is ignored.
    fn check_inode(&self, inode: &Inode) -> Result<()> {
        let at = inode.position;
        if inode.size > i64::MAX as u64 {
            return Err(Error::corrupt("inode", at + 8, "the size is negative"));
        }
        let limit = self.space_size(inode.space());
        if inode.body_end() > limit {
            return Err(Error::corrupt("inode", at + 2, "the xattrs run out of the image"));
        }
        if !inode.file_type.has_content() {
            return Ok(());
        }
        if inode.file_type == FileType::Symlink && !(1..=SYMLINK_MAX).contains(&inode.size) {
            let message = format!("a symbolic link cannot have {} bytes", inode.size);
            return Err(Error::corrupt("inode", at + 8, message));
        }
        if let Layout::Inline { .. } = inode.layout {
            let block = self.superblock().block_size();
            let (tail, start) = (inode.size % block, inode.body_end());
            if tail > 0 && (start % block + tail > block || start + tail > limit) {
                return Err(Error::corrupt("inode", at, "the inline data crosses its block"));
            }
        }
        if let Some(map) = inode.chunk_map()
            && map.end().is_none_or(|end| end > limit)
        {
            return Err(Error::corrupt("inode", at, "the chunk map runs out of the image"));
        }
        Ok(())
    }
}

fn file_type(mode: u16, position: u64) -> Result<(FileType, u16)> {
    match FileType::from_mode(mode) {
        Some(file_type) => Ok((file_type, mode)),
        None => Err(Error::corrupt("inode", position + 4, format!("mode {mode:#o} has no file type"))),
    }
}

fn xattr_size(count: u16) -> u32 {
    if count == 0 { 0 } else { 12 + 4 * (u32::from(count) - 1) }
}
