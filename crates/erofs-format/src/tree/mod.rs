//! The tree of an image to be written, in memory.
//!
//! Compact, because trees have millions of files: a node is 64 bytes, a name in a directory 20 bytes and the
//! name itself; names, link targets and xattrs lie in shared buffers, equal xattr sets are kept once. With
//! the index for lookups that is about 100 bytes a file.
//!
//! The tree knows nothing of archives: callers decide what a repeated path or a missing parent means, and
//! say so with [`Tree::add`], [`Tree::link`], [`Tree::remove`] and [`Tree::set_metadata`].

mod input;
mod node;
mod xattrs;

use std::hash::{BuildHasher, Hasher, RandomState};

use hashbrown::HashTable;

use crate::{
    error::{Error, ErrorKind, Result},
    raw::dirent::NAME_MAX,
    types::{DeviceNumber, FileType, Timestamp},
};

pub use input::{BlockAddress, FileData, Metadata, NewDevice, NewFile};
pub(crate) use node::{Data, Node};
pub(crate) use xattrs::{PairId, SetId, XattrPool};

/// A file in a [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) u32);

/// Where an inode was written while its file was streamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SettledInode {
    pub(crate) slot: u64,
    pub(crate) extended: bool,
}

/// A directory tree that becomes an image.
#[derive(Debug)]
pub struct Tree {
    pub(crate) nodes: Vec<Node>,
    pub(crate) entries: Vec<Entry>,
    /// Names and link targets.
    text: Vec<u8>,
    /// Content that is kept in memory.
    pub(crate) bytes: Vec<u8>,
    /// Ranges of sparse sources: the token, the count, then offsets and lengths.
    pub(crate) ranges: Vec<u64>,
    /// Entries of chunk maps.
    pub(crate) chunks: Vec<Option<BlockAddress>>,
    pub(crate) xattrs: XattrPool,
    pub(crate) devices: Vec<NewDevice>,
    /// Finds entries by parent and name.
    index: HashTable<u32>,
    hasher: RandomState,
}

/// A name in a directory. Entries of a directory form a list; removed ones stay in it without node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    parent: u32,
    node: u32,
    next: u32,
    name: u32,
    name_len: u8,
}

/// No node, no entry.
pub(crate) const NONE: u32 = u32::MAX;

const _: () = assert!(size_of::<Entry>() == 20 && size_of::<Node>() == 64);

impl Tree {
    /// A tree with nothing but its root.
    pub fn new(root: Metadata) -> Self {
        Self {
            nodes: vec![Node::new(FileType::Directory, root)],
            entries: Vec::new(),
            text: Vec::new(),
            bytes: Vec::new(),
            ranges: Vec::new(),
            chunks: Vec::new(),
            xattrs: XattrPool::new(),
            devices: Vec::new(),
            index: HashTable::new(),
            hasher: RandomState::new(),
        }
    }

    /// The root.
    pub fn root(&self) -> NodeId {
        NodeId(0)
    }

    /// How many files were added, removed ones included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Always `false`: there is a root.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Finds a name in a directory.
    pub fn find(&self, dir: NodeId, name: &[u8]) -> Option<NodeId> {
        let entry = self.index.find(self.hash(dir.0, name), |&entry| self.is(entry, dir.0, name))?;
        Some(NodeId(self.entries[*entry as usize].node))
    }

    /// Adds a file to a directory.
    ///
    /// # Errors
    /// `Exists` if the name is taken; `NotDirectory`; `InvalidArgument` for a name that is none, or data that
    /// does not fit the size; `Unrepresentable` for link targets and device numbers that EROFS cannot store;
    /// `LimitExceeded` beyond 4 GiB of names or 2^32 files.
    pub fn add(&mut self, dir: NodeId, name: &[u8], metadata: Metadata, file: NewFile<'_>) -> Result<NodeId> {
        self.check_free(dir, name)?;
        let id = u32::try_from(self.nodes.len()).ok().filter(|&id| id < NONE);
        let id = id.ok_or_else(|| Error::limit("2^32 - 1", "tree", "too many files"))?;
        let node = self.new_node(metadata, file)?;
        self.nodes.push(node);
        self.enter(dir, name, id)?;
        Ok(NodeId(id))
    }

    /// Adds another name for a file.
    ///
    /// # Errors
    /// As [`Tree::add`]; `WrongType` for a directory.
    pub fn link(&mut self, dir: NodeId, name: &[u8], node: NodeId) -> Result<()> {
        if self.file_type(node) == FileType::Directory {
            return Err(Error::new(ErrorKind::WrongType, "tree", "a directory cannot have two names"));
        }
        self.check_free(dir, name)?;
        self.enter(dir, name, node.0)
    }

    /// Removes a name and, if it is a directory's, everything below. Returns whether it was there.
    pub fn remove(&mut self, dir: NodeId, name: &[u8]) -> bool {
        let hash = self.hash(dir.0, name);
        let (entries, text) = (&self.entries, &self.text);
        let found = self.index.find_entry(hash, |&entry| is(entries, text, entry, dir.0, name));
        let Ok(found) = found else { return false };
        let (entry, _) = found.remove();
        let mut doomed = vec![self.unlink(entry)];
        while let Some(node) = doomed.pop() {
            if self.nodes[node as usize].file_type() == FileType::Directory {
                let mut entry = self.nodes[node as usize].first_entry();
                while entry != NONE {
                    let next = self.entries[entry as usize].next;
                    if self.entries[entry as usize].node != NONE {
                        self.forget(entry);
                        doomed.push(self.unlink(entry));
                    }
                    entry = next;
                }
            }
        }
        true
    }

    /// Gives a file another name, in the same directory or in another one. What is below a directory goes with it.
    ///
    /// # Errors
    /// `NotFound` if there is nothing at `name`; as [`Tree::add`] for the new name; `InvalidArgument` for a directory
    /// that would go into itself.
    pub fn rename(&mut self, dir: NodeId, name: &[u8], to_dir: NodeId, to_name: &[u8]) -> Result<()> {
        self.check_free(to_dir, to_name)?;
        let hash = self.hash(dir.0, name);
        let found = self.index.find(hash, |&entry| self.is(entry, dir.0, name)).copied();
        let entry = found.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "tree", "there is nothing to rename").path(name)
        })?;
        let node = NodeId(self.entries[entry as usize].node);
        if self.holds(node, to_dir) {
            return Err(Error::invalid("a directory cannot go into itself"));
        }
        self.enter(to_dir, to_name, node.0)?;
        self.forget(entry);
        self.unlink(entry);
        Ok(())
    }

    /// Whether `node` is at `top` or below it.
    fn holds(&self, top: NodeId, node: NodeId) -> bool {
        let mut todo = vec![top];
        while let Some(at) = todo.pop() {
            if at == node {
                return true;
            }
            let below = self.children(at).map(|(_, child)| child);
            todo.extend(below.filter(|&child| self.file_type(child) == FileType::Directory));
        }
        false
    }

    /// Takes an entry out of the index.
    fn forget(&mut self, entry: u32) {
        let hash = self.hash(self.entries[entry as usize].parent, self.name(entry));
        if let Ok(found) = self.index.find_entry(hash, |&other| other == entry) {
            found.remove();
        }
    }

    /// Takes the node from an entry, and returns it.
    fn unlink(&mut self, entry: u32) -> u32 {
        let node = std::mem::replace(&mut self.entries[entry as usize].node, NONE);
        self.nodes[node as usize].nlink -= 1;
        node
    }

    /// The names of a directory, in the order in which they were added.
    pub fn children(&self, dir: NodeId) -> impl Iterator<Item = (&[u8], NodeId)> {
        let first = match self.nodes[dir.0 as usize].file_type() {
            FileType::Directory => self.nodes[dir.0 as usize].first_entry(),
            _ => NONE,
        };
        self.entry_list(first).map(|entry| (self.name(entry), NodeId(self.entries[entry as usize].node)))
    }

    fn entry_list(&self, first: u32) -> impl Iterator<Item = u32> {
        let step = |&entry: &u32| Some(self.entries[entry as usize].next).filter(|&next| next != NONE);
        std::iter::successors(Some(first).filter(|&first| first != NONE), step)
            .filter(|&entry| self.entries[entry as usize].node != NONE)
    }

    /// The entries of a directory that are not removed.
    pub(crate) fn dir_entries(&self, dir: u32) -> impl Iterator<Item = u32> {
        self.entry_list(self.nodes[dir as usize].first_entry())
    }

    /// The type of a file.
    pub fn file_type(&self, node: NodeId) -> FileType {
        self.nodes[node.0 as usize].file_type()
    }

    /// The size of a regular file or of a link's target; 0 for others.
    pub fn size(&self, node: NodeId) -> u64 {
        let node = &self.nodes[node.0 as usize];
        if node.file_type() == FileType::Directory { 0 } else { node.size }
    }

    /// How many names a file has. 0: it was removed.
    pub fn names(&self, node: NodeId) -> u32 {
        self.nodes[node.0 as usize].nlink
    }

    /// The target of a symbolic link; nothing for others.
    pub fn link_target(&self, node: NodeId) -> &[u8] {
        match self.file_type(node) {
            FileType::Symlink => self.target(&self.nodes[node.0 as usize]),
            _ => &[],
        }
    }

    /// Whether a file is an overlay whiteout: a character device 0:0.
    pub fn is_whiteout(&self, node: NodeId) -> bool {
        self.file_type(node) == FileType::CharDevice && self.nodes[node.0 as usize].device() == 0
    }

    /// The metadata of a file.
    pub fn metadata(&self, node: NodeId) -> Metadata {
        self.nodes[node.0 as usize].metadata()
    }

    /// Replaces the metadata of a file; its type stays.
    ///
    /// # Errors
    /// `InvalidArgument` if the inode is written already.
    pub fn set_metadata(&mut self, node: NodeId, metadata: Metadata) -> Result<()> {
        check_time(metadata.mtime)?;
        self.changeable(node)?.set_metadata(metadata);
        Ok(())
    }

    /// The xattrs of a file, in bytewise order of their names.
    pub fn xattrs(&self, node: NodeId) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.xattrs.set(self.nodes[node.0 as usize].xattrs).iter().map(|&pair| self.xattrs.pair(pair))
    }

    /// Sets one xattr of a file, by its full name.
    ///
    /// # Errors
    /// `Unrepresentable` for a name outside `user.`, `trusted.`, `security.` and the POSIX ACLs, a name that is
    /// too long, a value of more than 65535 bytes; `InvalidArgument` if the inode is written already.
    pub fn set_xattr(&mut self, node: NodeId, name: &[u8], value: &[u8]) -> Result<()> {
        self.changeable(node)?;
        let set = self.nodes[node.0 as usize].xattrs;
        self.nodes[node.0 as usize].xattrs = self.xattrs.with(set, name, value)?;
        Ok(())
    }

    /// Replaces all xattrs of a file. Of a repeated name the last value counts.
    ///
    /// # Errors
    /// As [`Tree::set_xattr`].
    pub fn set_xattrs<'x>(
        &mut self,
        node: NodeId,
        xattrs: impl IntoIterator<Item = (&'x [u8], &'x [u8])>,
    ) -> Result<()> {
        self.changeable(node)?;
        self.nodes[node.0 as usize].xattrs = self.xattrs.intern(xattrs)?;
        Ok(())
    }

    /// Removes one xattr of a file. Returns whether it was there.
    ///
    /// # Errors
    /// `InvalidArgument` if the inode is written already.
    pub fn remove_xattr(&mut self, node: NodeId, name: &[u8]) -> Result<bool> {
        self.changeable(node)?;
        let set = self.nodes[node.0 as usize].xattrs;
        let without = self.xattrs.without(set, name);
        self.nodes[node.0 as usize].xattrs = without;
        Ok(without != set)
    }

    /// Adds an extra device, and returns its number for [`BlockAddress::device`].
    ///
    /// # Errors
    /// `Unrepresentable` for a tag of more than 64 bytes or too many devices.
    pub fn add_device(&mut self, device: NewDevice) -> Result<u16> {
        check_tag(&device.tag)?;
        let number = u16::try_from(self.devices.len() + 1);
        let number = number.map_err(|_| unrepresentable("device table", "more than 65535 devices"))?;
        self.devices.push(device);
        Ok(number)
    }

    /// Gives a device its tag, where that was not known when it was added.
    ///
    /// # Errors
    /// `Unrepresentable` for one of more than 64 bytes.
    pub fn set_device_tag(&mut self, device: u16, tag: Vec<u8>) -> Result<()> {
        check_tag(&tag)?;
        if let Some(device) = usize::from(device).checked_sub(1).and_then(|slot| self.devices.get_mut(slot)) {
            device.tag = tag;
        }
        Ok(())
    }

    /// Says how many blocks a device has, where that was not known when it was added.
    pub fn set_device_blocks(&mut self, device: u16, blocks: u64) {
        if let Some(device) = usize::from(device).checked_sub(1).and_then(|slot| self.devices.get_mut(slot)) {
            device.blocks = blocks;
        }
    }

    pub(crate) fn changeable(&mut self, node: NodeId) -> Result<&mut Node> {
        let node = &mut self.nodes[node.0 as usize];
        match node.data() {
            Data::Settled(_) => Err(Error::invalid("the inode is written already")),
            _ => Ok(node),
        }
    }

    /// What the contents know a regular file by, if its data comes from there.
    pub(crate) fn token(&self, node: u32) -> Option<u64> {
        let node = &self.nodes[node as usize];
        match node.data() {
            _ if node.file_type() != FileType::Regular || node.size == 0 => None,
            Data::Source { token } => Some(token),
            Data::Sparse { start } => Some(self.ranges[start as usize]),
            _ => None,
        }
    }

    pub(crate) fn name(&self, entry: u32) -> &[u8] {
        self.entries[entry as usize].text(&self.text)
    }

    pub(crate) fn entry_node(&self, entry: u32) -> u32 {
        self.entries[entry as usize].node
    }

    /// The target of a symbolic link.
    pub(crate) fn target(&self, node: &Node) -> &[u8] {
        let start = node.text_start() as usize;
        &self.text[start..start + node.size as usize]
    }

    fn hash(&self, dir: u32, name: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u32(dir);
        hasher.write(name);
        hasher.finish()
    }

    fn is(&self, entry: u32, dir: u32, name: &[u8]) -> bool {
        is(&self.entries, &self.text, entry, dir, name)
    }

    pub(crate) fn check_free(&self, dir: NodeId, name: &[u8]) -> Result<()> {
        if self.file_type(dir) != FileType::Directory {
            return Err(Error::new(ErrorKind::NotDirectory, "tree", "a parent is not a directory").path(name));
        }
        let forbidden = |&byte: &u8| byte == b'/' || byte == 0;
        if name.is_empty()
            || name.len() > NAME_MAX
            || name.iter().any(forbidden)
            || matches!(name, b"." | b"..")
        {
            return Err(Error::invalid(format!("\"{}\" is not a name", name.escape_ascii())));
        }
        match self.find(dir, name) {
            Some(_) => Err(Error::new(ErrorKind::Exists, "tree", "the name is taken").path(name)),
            None => Ok(()),
        }
    }

    fn enter(&mut self, dir: NodeId, name: &[u8], node: u32) -> Result<()> {
        let entry = u32::try_from(self.entries.len()).ok().filter(|&entry| entry < NONE - 2);
        let entry = entry.ok_or_else(|| Error::limit("2^32 - 3", "tree", "too many names"))?;
        let name_at = self.store_text(name)?;
        self.entries.push(Entry {
            parent: dir.0,
            node,
            next: NONE,
            name: name_at,
            name_len: name.len() as u8,
        });
        match self.nodes[dir.0 as usize].append_entry(entry) {
            NONE => {}
            last => self.entries[last as usize].next = entry,
        }
        self.nodes[node as usize].nlink += 1;
        let hash = self.hash(dir.0, name);
        let (entries, text, hasher) = (&self.entries, &self.text, &self.hasher);
        self.index.insert_unique(hash, entry, |&entry| {
            let entry = &entries[entry as usize];
            let mut state = hasher.build_hasher();
            state.write_u32(entry.parent);
            state.write(entry.text(text));
            state.finish()
        });
        Ok(())
    }

    fn store_text(&mut self, text: &[u8]) -> Result<u32> {
        let at = u32::try_from(self.text.len()).ok().filter(|at| at.checked_add(text.len() as u32).is_some());
        let at =
            at.ok_or_else(|| Error::limit("4 GiB", "tree", "too many bytes of names and link targets"))?;
        self.text.extend_from_slice(text);
        Ok(at)
    }

    fn new_node(&mut self, metadata: Metadata, file: NewFile<'_>) -> Result<Node> {
        check_time(metadata.mtime)?;
        let device = |number: DeviceNumber| {
            number.encode().ok_or_else(|| unrepresentable("inode", "the device number has too many bits"))
        };
        Ok(match file {
            NewFile::Directory => Node::new(FileType::Directory, metadata),
            NewFile::Fifo => Node::new(FileType::Fifo, metadata),
            NewFile::Socket => Node::new(FileType::Socket, metadata),
            NewFile::CharDevice(number) => {
                Node::new(FileType::CharDevice, metadata).with_device(device(number)?)
            }
            NewFile::BlockDevice(number) => {
                Node::new(FileType::BlockDevice, metadata).with_device(device(number)?)
            }
            NewFile::Symlink(target) => {
                if target.is_empty() || target.len() > 4095 || target.contains(&0) {
                    return Err(unrepresentable(
                        "inode",
                        "the link target is empty, too long or contains NUL",
                    ));
                }
                Node::new(FileType::Symlink, metadata)
                    .with_text(self.store_text(target)?, target.len() as u64)
            }
            NewFile::Regular { size, data } => {
                let data = self.store_data(size, data)?;
                Node::new(FileType::Regular, metadata).with_data(size, data)
            }
        })
    }

    /// A regular file that is in no directory yet.
    pub(crate) fn new_regular(&mut self, metadata: Metadata, size: u64) -> Result<Node> {
        self.new_node(metadata, NewFile::Regular { size, data: FileData::Hole })
    }

    pub(crate) fn store_data(&mut self, size: u64, data: FileData) -> Result<Data> {
        if size > i64::MAX as u64 {
            return Err(unrepresentable("inode", "the size exceeds 2^63 - 1"));
        }
        Ok(match data {
            _ if size == 0 => Data::Hole,
            FileData::Hole => Data::Hole,
            FileData::Source { token } => Data::Source { token },
            FileData::Bytes(bytes) => {
                if bytes.len() as u64 != size {
                    return Err(Error::invalid("the bytes are not as many as the size says"));
                }
                let start = self.bytes.len() as u64;
                self.bytes.extend_from_slice(&bytes);
                Data::Bytes { start }
            }
            FileData::Blocks(address) => {
                self.check_address(address)?;
                Data::Blocks(address)
            }
            FileData::Chunks { bits, chunks } => {
                // The map is held against the size when the block size is known.
                chunks.iter().flatten().try_for_each(|&address| self.check_address(address))?;
                if bits > 31 {
                    return Err(unrepresentable("chunk map", "chunks are too large"));
                }
                let start = self.chunks.len() as u64;
                self.chunks.extend_from_slice(&chunks);
                Data::Chunks { start, count: chunks.len() as u64, bits }
            }
            FileData::SparseSource { token, ranges } => {
                let mut end = 0;
                for &(offset, len) in &ranges {
                    let next = offset.checked_add(len).filter(|&next| offset >= end && next <= size);
                    end = next.ok_or_else(|| Error::invalid("ranges overlap or exceed the size"))?;
                }
                let start = self.ranges.len() as u64;
                self.ranges.extend([token, ranges.len() as u64]);
                self.ranges.extend(ranges.iter().flat_map(|&(offset, len)| [offset, len]));
                Data::Sparse { start }
            }
        })
    }

    fn check_address(&self, address: BlockAddress) -> Result<()> {
        if usize::from(address.device) > self.devices.len() || address.block >= (1 << 48) - 1 {
            return Err(Error::invalid(format!(
                "there is no block {} on device {}",
                address.block, address.device
            )));
        }
        Ok(())
    }
}

impl Entry {
    fn text<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        &text[self.name as usize..][..usize::from(self.name_len)]
    }
}

fn is(entries: &[Entry], text: &[u8], entry: u32, dir: u32, name: &[u8]) -> bool {
    let entry = &entries[entry as usize];
    entry.parent == dir && entry.text(text) == name
}

fn check_tag(tag: &[u8]) -> Result<()> {
    match tag.len() {
        0..=64 => Ok(()),
        _ => Err(unrepresentable("device slot", "the tag has more than 64 bytes")),
    }
}

pub(crate) fn check_time(time: Timestamp) -> Result<()> {
    if time.nanoseconds >= 1_000_000_000 {
        return Err(Error::invalid("a second has fewer nanoseconds"));
    }
    Ok(())
}

pub(crate) fn unrepresentable(
    structure: &'static str,
    message: impl Into<std::borrow::Cow<'static, str>>,
) -> Error {
    Error::new(ErrorKind::Unrepresentable, structure, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64) -> NewFile<'static> {
        NewFile::Regular { size, data: FileData::Source { token: 0 } }
    }

    #[test]
    fn removing_a_directory_removes_names_below_and_keeps_links_elsewhere() {
        let mut tree = Tree::new(Metadata::default());
        let root = tree.root();
        let dir = tree.add(root, b"dir", Metadata::default(), NewFile::Directory).unwrap();
        let inner = tree.add(dir, b"inner", Metadata::default(), NewFile::Directory).unwrap();
        let linked = tree.add(inner, b"file", Metadata::default(), file(1)).unwrap();
        tree.link(root, b"outside", linked).unwrap();
        assert_eq!(tree.names(linked), 2);
        assert!(tree.remove(root, b"dir"));
        assert!(!tree.remove(root, b"dir"));
        assert_eq!((tree.names(linked), tree.names(inner)), (1, 0));
        assert_eq!(tree.find(inner, b"file"), None);
        assert_eq!(tree.children(root).collect::<Vec<_>>(), [(&b"outside"[..], linked)]);
        let again = tree.add(root, b"dir", Metadata::default(), NewFile::Directory).unwrap();
        assert_eq!(tree.children(again).count(), 0);
    }

    #[test]
    fn names_and_data_that_cannot_be_stored_are_refused() {
        let mut tree = Tree::new(Metadata::default());
        let root = tree.root();
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
            let kind = tree.add(root, name, Metadata::default(), NewFile::Fifo).unwrap_err().kind();
            assert_eq!(kind, ErrorKind::InvalidArgument);
        }
        let fifo = tree.add(root, b"fifo", Metadata::default(), NewFile::Fifo).unwrap();
        assert_eq!(
            tree.add(root, b"fifo", Metadata::default(), file(0)).unwrap_err().kind(),
            ErrorKind::Exists
        );
        assert_eq!(
            tree.add(fifo, b"x", Metadata::default(), file(0)).unwrap_err().kind(),
            ErrorKind::NotDirectory
        );
        assert_eq!(tree.link(root, b"x", root).unwrap_err().kind(), ErrorKind::WrongType);
        for target in [&b""[..], b"a\0b", &[b'x'; 4096]] {
            let error = tree.add(root, b"link", Metadata::default(), NewFile::Symlink(target)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unrepresentable);
        }
        let elsewhere = FileData::Blocks(BlockAddress { device: 1, block: 0 });
        let data = NewFile::Regular { size: 1, data: elsewhere };
        assert_eq!(
            tree.add(root, b"x", Metadata::default(), data).unwrap_err().kind(),
            ErrorKind::InvalidArgument
        );
    }
}
