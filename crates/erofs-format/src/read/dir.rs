//! Directories, block by block.

use std::cmp::Ordering;

use crate::{
    error::{Error, ErrorKind, Result},
    raw::dirent::{Dirent, NAME_MAX},
    types::{FileType, Nid},
};

use super::{Bytes, Image, Inode, meta::structure};

const ENTRY: usize = size_of::<Dirent>();

/// One block of a directory, its entry count checked.
#[derive(Clone, Debug)]
pub(crate) struct DirBlock<'a> {
    bytes: Bytes<'a>,
    count: usize,
    /// Where the inode is, for errors: a block may be anywhere.
    at: u64,
}

impl<'a> DirBlock<'a> {
    fn parse(bytes: Bytes<'a>, at: u64) -> Result<Self> {
        let first: Dirent = structure(&bytes, "directory block", at)?;
        let names = usize::from(first.nameoff.get());
        if names == 0 || names % ENTRY != 0 || names >= bytes.len() {
            let message = format!("the first name cannot be at {names}");
            return Err(Error::corrupt("directory block", at, message));
        }
        Ok(Self { count: names / ENTRY, bytes, at })
    }

    /// How many entries there are, at least 1.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    fn raw(&self, index: usize) -> Result<Dirent> {
        structure(&self.bytes[index * ENTRY..], "directory entry", self.at)
    }

    /// Entry `index`, which must be less than the count: its name, nid and stored type.
    pub(crate) fn entry(&self, index: usize) -> Result<(&[u8], Dirent)> {
        let entry = self.raw(index)?;
        let start = usize::from(entry.nameoff.get());
        let last = index + 1 == self.count;
        let end = if last { self.bytes.len() } else { usize::from(self.raw(index + 1)?.nameoff.get()) };
        if start < self.count * ENTRY || start >= end || end > self.bytes.len() {
            return Err(self.damage("name offsets do not increase"));
        }
        let mut name = &self.bytes[start..end];
        if let Some(nul) = name.iter().position(|&byte| byte == 0) {
            if !last {
                return Err(self.damage("a name contains NUL"));
            }
            name = &name[..nul];
        }
        if name.is_empty() || name.len() > NAME_MAX || name.contains(&b'/') {
            return Err(self.damage(format!("\"{}\" is not a name", name.escape_ascii())));
        }
        Ok((name, entry))
    }

    fn damage(&self, message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
        Error::corrupt("directory block", self.at, message)
    }
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirEntry {
    /// The name.
    pub name: Vec<u8>,
    /// The inode.
    pub nid: Nid,
    /// The type, as the entry claims; `None` if it does not say.
    pub file_type: Option<FileType>,
}

/// An entry of a directory, its name borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirEntryRef<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The inode.
    pub nid: Nid,
    /// The type, as the entry claims; `None` if it does not say.
    pub file_type: Option<FileType>,
}

impl Image {
    /// Lists a directory in its order (bytewise by name), without "." and "..".
    ///
    /// # Errors
    /// `NotDirectory` if it is none. Damage of the content is found while listing.
    pub fn read_dir(&self, inode: &Inode) -> Result<ReadDir<'_>> {
        let mut list = self.read_dir_with_dots(inode)?;
        list.dots = false;
        Ok(list)
    }

    pub(crate) fn read_dir_with_dots(&self, inode: &Inode) -> Result<ReadDir<'_>> {
        if !inode.is_dir() {
            return Err(
                Error::new(ErrorKind::NotDirectory, "inode", "is not a directory").at(inode.position())
            );
        }
        Ok(ReadDir {
            image: self,
            inode: inode.clone(),
            block: None,
            next_block: 0,
            next: 0,
            last: Vec::new(),
            dots: true,
            failed: false,
        })
    }

    /// Finds a name in a directory.
    ///
    /// # Errors
    /// `NotDirectory`; `Corrupt` if a block that was looked at is damaged.
    pub fn lookup_in(&self, inode: &Inode, name: &[u8]) -> Result<Option<DirEntry>> {
        if !inode.is_dir() {
            return Err(
                Error::new(ErrorKind::NotDirectory, "inode", "is not a directory").at(inode.position())
            );
        }
        // The last block whose first name is not greater.
        let (mut low, mut high) = (0, self.dir_blocks(inode));
        let mut candidate = None;
        while low < high {
            let middle = low + (high - low) / 2;
            let block = self.dir_block(inode, middle)?;
            if block.entry(0)?.0 <= name {
                candidate = Some(block);
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let Some(block) = candidate else { return Ok(None) };
        let (mut low, mut high) = (0, block.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let (found, entry) = block.entry(middle)?;
            match found.cmp(name) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(Some(dir_entry(found, &entry))),
            }
        }
        Ok(None)
    }

    fn dir_blocks(&self, inode: &Inode) -> u64 {
        inode.size().div_ceil(self.superblock().block_size())
    }

    fn dir_block(&self, inode: &Inode, index: u64) -> Result<DirBlock<'_>> {
        let size = self.superblock().block_size();
        let start = index * size;
        let len = (inode.size() - start).min(size) as usize;
        DirBlock::parse(self.content(inode, start, len, "directory block")?, inode.position())
    }
}

fn dir_entry(name: &[u8], entry: &Dirent) -> DirEntry {
    DirEntry {
        name: name.to_vec(),
        nid: Nid(entry.nid.get()),
        file_type: FileType::from_dirent(entry.file_type),
    }
}

/// Lists a directory. Ends after the first error.
#[derive(Clone, Debug)]
pub struct ReadDir<'a> {
    image: &'a Image,
    inode: Inode,
    block: Option<DirBlock<'a>>,
    next_block: u64,
    next: usize,
    /// The last name of the block before.
    last: Vec<u8>,
    dots: bool,
    failed: bool,
}

impl ReadDir<'_> {
    /// The directory.
    pub fn inode(&self) -> &Inode {
        &self.inode
    }

    /// The next entry, its name borrowed: the cheap form of the iterator.
    ///
    /// # Errors
    /// `Corrupt` if the content is damaged, or (unless lenient) not in order.
    pub fn next_entry(&mut self) -> Result<Option<DirEntryRef<'_>>> {
        if self.failed {
            return Ok(None);
        }
        match self.advance() {
            Err(error) => {
                self.failed = true;
                Err(error)
            }
            Ok(false) => Ok(None),
            Ok(true) => match &self.block {
                None => Ok(None),
                Some(block) => {
                    let (name, entry) = block.entry(self.next - 1)?;
                    let file_type = FileType::from_dirent(entry.file_type);
                    Ok(Some(DirEntryRef { name, nid: Nid(entry.nid.get()), file_type }))
                }
            },
        }
    }

    /// Moves to the next entry to be shown and checks it.
    fn advance(&mut self) -> Result<bool> {
        loop {
            if self.block.as_ref().is_none_or(|block| self.next == block.len()) && !self.next_block()? {
                return Ok(false);
            }
            let Some(block) = &self.block else { return Ok(false) };
            let (name, _) = block.entry(self.next)?;
            let before = match self.next {
                0 => &self.last[..],
                next => block.entry(next - 1)?.0,
            };
            if !before.is_empty() && before >= name && !self.image.is_lenient() {
                let fault = if before == name { "appears twice" } else { "is out of order" };
                return Err(block.damage(format!("the name \"{}\" {fault}", name.escape_ascii())));
            }
            self.next += 1;
            if self.dots || (name != b"." && name != b"..") {
                return Ok(true);
            }
        }
    }

    fn next_block(&mut self) -> Result<bool> {
        if let Some(block) = &self.block {
            self.last.clear();
            self.last.extend_from_slice(block.entry(block.len() - 1)?.0);
        }
        if self.next_block >= self.image.dir_blocks(&self.inode) {
            return Ok(false);
        }
        self.block = Some(self.image.dir_block(&self.inode, self.next_block)?);
        self.next_block += 1;
        self.next = 0;
        Ok(true)
    }
}

impl Iterator for ReadDir<'_> {
    type Item = Result<DirEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        let owned = |entry: DirEntryRef<'_>| DirEntry {
            name: entry.name.to_vec(),
            nid: entry.nid,
            file_type: entry.file_type,
        };
        self.next_entry().map(|entry| entry.map(owned)).transpose()
    }
}
