//! A walk over a whole image, for those who convert it into something else.

use std::collections::{HashMap, HashSet};

use crate::{
    error::{Error, Result},
    types::Nid,
};

use super::{DirEntryRef, Image, Inode, ReadDir};

/// One step of a [`Walk`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WalkEntry {
    /// The path from the root, without leading slash; empty for the root.
    pub path: Vec<u8>,
    /// The file.
    pub inode: Inode,
    /// The path under which the same file came before: this one is a hard link to it.
    pub link_to: Option<Vec<u8>>,
}

/// Walks an image depth first, directories before their content, siblings in bytewise order: the order in
/// which layer tars are written.
///
/// Every directory is entered once; an image in which two paths lead to one directory is refused. Memory is
/// 16 bytes a file, plus the path of each file with several names.
#[derive(Debug)]
pub struct Walk<'a> {
    image: &'a Image,
    stack: Vec<(ReadDir<'a>, usize)>,
    path: Vec<u8>,
    directories: HashSet<Nid>,
    links: HashMap<Nid, Vec<u8>>,
    singles: HashSet<Nid>,
    entries: u64,
    started: bool,
    /// The entry returned last is the directory on top of the stack.
    entered: bool,
    failed: bool,
}

impl Image {
    /// Walks the whole image.
    pub fn walk(&self) -> Walk<'_> {
        Walk {
            image: self,
            stack: Vec::new(),
            path: Vec::new(),
            directories: HashSet::new(),
            links: HashMap::new(),
            singles: HashSet::new(),
            entries: 0,
            started: false,
            entered: false,
            failed: false,
        }
    }
}

impl Walk<'_> {
    /// Leaves out what is below the directory returned last. Does nothing after other files.
    pub fn skip_children(&mut self) {
        if std::mem::take(&mut self.entered) {
            self.stack.pop();
        }
    }

    fn step(&mut self) -> Result<Option<WalkEntry>> {
        self.entered = false;
        if !self.started {
            self.started = true;
            let root = self.image.root()?;
            self.enter(&root)?;
            return Ok(Some(WalkEntry { path: Vec::new(), inode: root, link_to: None }));
        }
        loop {
            let Some((list, len)) = self.stack.last_mut() else { return Ok(None) };
            self.path.truncate(*len);
            let Some(DirEntryRef { name, nid, file_type: stored }) = list.next_entry()? else {
                self.stack.pop();
                continue;
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
            let inode = self.image.inode(nid)?;
            if stored.is_some_and(|stored| stored != inode.file_type()) && !self.image.is_lenient() {
                return Err(Error::corrupt(
                    "directory entry",
                    inode.position(),
                    "has another type than its inode",
                ));
            }
            self.entries += 1;
            if self.entries > self.image.max_entries() {
                return Err(Error::limit("max_entries", "directory", "the image has too many entries"));
            }
            let link_to = if inode.is_dir() {
                self.enter(&inode)?;
                None
            } else {
                self.name(&inode)?
            };
            return Ok(Some(WalkEntry { path: self.path.clone(), inode, link_to }));
        }
    }

    fn enter(&mut self, inode: &Inode) -> Result<()> {
        if !self.directories.insert(inode.nid()) {
            return Err(Error::corrupt("directory", inode.position(), "two paths lead to it"));
        }
        if self.stack.len() >= self.image.limits().max_depth {
            return Err(Error::limit("max_depth", "directory", "the tree is too deep"));
        }
        self.stack.push((self.image.read_dir(inode)?, self.path.len()));
        self.entered = true;
        Ok(())
    }

    /// Notes another name of a file, and returns the first one.
    fn name(&mut self, inode: &Inode) -> Result<Option<Vec<u8>>> {
        if inode.nlink() > 1 {
            if let Some(first) = self.links.get(&inode.nid()) {
                return Ok(Some(first.clone()));
            }
            self.links.insert(inode.nid(), self.path.clone());
        } else if !self.singles.insert(inode.nid()) && !self.image.is_lenient() {
            return Err(Error::corrupt(
                "inode",
                inode.position(),
                "has several names, but a link count of one",
            ));
        }
        Ok(None)
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<WalkEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let step = self.step().map_err(|error| error.path(&self.path));
        self.failed = step.is_err();
        step.transpose()
    }
}
