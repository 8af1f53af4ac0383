//! Changing the mind about a file whose inode is written already.
//!
//! An archive may describe a file again with each of its names. The inode is then written once more, with the same
//! tail; its blocks stay where they are, and the first inode stays behind as garbage.

use std::io::{Read, Seek, Write};

use crate::{
    error::{Error, Result},
    raw::SLOT_SIZE,
    tree::{BlockAddress, Data, FileData, Metadata, NodeId, SettledInode, check_time},
};

use super::{
    inode::{self, Content},
    stream::StreamWriter,
};

/// What was read back of an inode with an inline tail.
struct Written {
    ino: u32,
    /// The first of the full blocks.
    start: u32,
    tail: Vec<u8>,
}

impl<W: Read + Write + Seek> StreamWriter<W> {
    /// Replaces metadata and xattrs of a file, of one too whose inode is written already.
    ///
    /// # Errors
    /// As [`Tree::set_metadata`](crate::Tree::set_metadata) and [`Tree::set_xattrs`](crate::Tree::set_xattrs), but for
    /// the inode being written; `Io` if reading it back or writing fails.
    pub fn describe<'x>(
        &mut self,
        node: NodeId,
        metadata: Metadata,
        xattrs: impl IntoIterator<Item = (&'x [u8], &'x [u8])>,
    ) -> Result<()> {
        check_time(metadata.mtime)?;
        let set = self.tree.xattrs.intern(xattrs)?;
        let file = &mut self.tree.nodes[node.0 as usize];
        let before = (file.metadata(), file.xattrs);
        file.set_metadata(metadata);
        file.xattrs = set;
        match file.data() {
            Data::Settled(inode) if before != (file.metadata(), set) => self.restate(node, inode),
            _ => Ok(()),
        }
    }

    /// Writes the inodes again that got more names than their form can count.
    pub(super) fn restate_popular(&mut self) -> Result<()> {
        for index in 0..self.tree.nodes.len() as u32 {
            let node = self.tree.nodes[index as usize];
            match node.data() {
                Data::Settled(inode) if !inode.extended && node.nlink > u32::from(u16::MAX) => {
                    self.restate(NodeId(index), inode)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn restate(&mut self, id: NodeId, inode: SettledInode) -> Result<()> {
        let node = self.tree.nodes[id.0 as usize];
        let block = self.options.block();
        let tail = (node.size % block) as usize;
        let written = self.read_back(inode, tail)?;
        let extended = inode::is_extended(&node, &self.options, false)?;
        self.share_xattrs(node.xattrs)?;
        let full_blocks = node.size / block;
        let head = if extended { 64 } else { 32 };
        let area = self.xattrs.area_size(&self.tree.xattrs, node.xattrs).map(u64::from);
        let Some(area) = area.filter(|area| head + area + tail as u64 <= block) else {
            return self.unsettle(id, &written, full_blocks);
        };
        let body = head + area;
        let start = (full_blocks > 0).then_some(u64::from(written.start));
        let mut bytes = Vec::with_capacity(body as usize + tail);
        inode::write(
            &node,
            extended,
            Content::Inline { start },
            area,
            written.ino,
            &self.options,
            &mut bytes,
        );
        self.xattrs.write_area(&self.tree.xattrs, node.xattrs, &mut bytes)?;
        bytes.resize(body as usize, 0);
        bytes.extend_from_slice(&written.tail);
        let position = self.put(&bytes)?;
        let data = Data::Settled(SettledInode { slot: position / SLOT_SIZE, extended });
        self.tree.nodes[id.0 as usize].set_data(data);
        Ok(())
    }

    /// Gives the tail a block of its own, as there is no room beside the inode any more, and leaves the inode to the
    /// end. The blocks of the file are then in two places, which takes chunks.
    fn unsettle(&mut self, id: NodeId, written: &Written, full_blocks: u64) -> Result<()> {
        let last = self.data.append_blocks(written.tail.len() as u64, &mut &written.tail[..])?;
        let first = u64::from(written.start);
        let blocks = (first..first + full_blocks).chain([last]);
        let chunks = blocks.map(|block| Some(BlockAddress { device: 0, block })).collect();
        let size = self.tree.nodes[id.0 as usize].size;
        let data = self.tree.store_data(size, FileData::Chunks { bits: 0, chunks })?;
        self.tree.nodes[id.0 as usize].set_data(data);
        self.settled -= 1;
        Ok(())
    }

    fn read_back(&mut self, inode: SettledInode, tail: usize) -> Result<Written> {
        let position = inode.slot * SLOT_SIZE;
        let mut head = [0; 32];
        self.read_written(position, &mut head)?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        // i_xattr_icount, i_u and i_ino are at the same places in both forms.
        let area = match u16::from_le_bytes([head[2], head[3]]) {
            0 => 0,
            count => 12 + 4 * (u64::from(count) - 1),
        };
        let mut bytes = vec![0; tail];
        self.read_written(position + if inode.extended { 64 } else { 32 } + area, &mut bytes)?;
        Ok(Written { ino: word(20), start: word(16), tail: bytes })
    }

    fn read_written(&mut self, position: u64, buf: &mut [u8]) -> Result<()> {
        match &self.group {
            Some(group) if (group.start..group.end()).contains(&position) => {
                let at = (position - group.start) as usize;
                buf.copy_from_slice(&group.bytes[at..at + buf.len()]);
                Ok(())
            }
            _ => {
                let read = self.data.out().read_exact_at(position, buf);
                read.map_err(|error| Error::io("read image back", error).at(position))
            }
        }
    }
}
