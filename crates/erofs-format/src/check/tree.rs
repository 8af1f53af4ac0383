//! The directories of an image: their content, and what they lead to.

use std::collections::HashSet;

use crate::{
    error::{Error, Result},
    read::DirEntryRef,
    types::{FileType, Nid},
};

use super::Check;

/// Everything that names lead to.
pub(super) struct Tree {
    /// One for each name, the root included.
    pub(super) links: Vec<Link>,
    pub(super) directories: HashSet<Nid>,
}

/// A name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Link {
    pub(super) nid: Nid,
    /// The type that the entry says, as it is stored; 0 if it says none.
    pub(super) file_type: u8,
    /// For directories: how many subdirectories there are.
    pub(super) subdirectories: u32,
}

/// A directory to be read: its number, and its parent's.
type Pending = (Nid, Nid);

/// What a directory contains.
struct Content {
    directory: Nid,
    links: Vec<Link>,
    subdirectories: u32,
}

impl Check<'_> {
    pub(super) fn tree(&self) -> Result<Tree> {
        let root = self.image.superblock().root;
        let mut tree = Tree { links: Vec::new(), directories: HashSet::from([root]) };
        let mut level: Vec<Pending> = vec![(root, root)];
        let mut depth = 0;
        while !level.is_empty() {
            depth += 1;
            if depth > self.image.limits().max_depth {
                return Err(Error::limit("max_depth", "directory", "the tree is too deep"));
            }
            let bound = self.image.max_entries().saturating_sub(tree.links.len() as u64);
            let parts = self.spread(&level, |part| self.read_directories(part, bound))?;
            let mut below = Vec::new();
            for content in parts.into_iter().flatten() {
                let subdirectories = content.subdirectories;
                let file_type = FileType::Directory.dirent_type();
                tree.links.push(Link { nid: content.directory, file_type, subdirectories });
                for link in content.links {
                    if FileType::from_dirent(link.file_type) != Some(FileType::Directory) {
                        tree.links.push(link);
                    } else if tree.directories.insert(link.nid) {
                        below.push((link.nid, content.directory));
                    } else {
                        self.error("directory", 0, Some(link.nid), "two paths lead to it");
                    }
                }
                if tree.links.len() as u64 > self.image.max_entries() {
                    return Err(too_many());
                }
            }
            level = below;
        }
        Ok(tree)
    }

    fn read_directories(&self, part: &[Pending], bound: u64) -> Result<Vec<Content>> {
        let mut rest = bound;
        part.iter()
            .map(|&(nid, parent)| {
                let mut content = Content { directory: nid, links: Vec::new(), subdirectories: 0 };
                if let Err(error) = self.read_directory(&mut content, parent, &mut rest) {
                    self.note(nid, error)?;
                }
                if rest == 0 { Err(too_many()) } else { Ok(content) }
            })
            .collect()
    }

    fn read_directory(&self, content: &mut Content, parent: Nid, rest: &mut u64) -> Result<()> {
        let nid = content.directory;
        let inode = self.image.inode(nid)?;
        if !inode.is_dir() {
            // Found again, and reported, with all other inodes.
            return Ok(());
        }
        let at = inode.position();
        if inode.size() == 0 {
            self.warn("directory", at, Some(nid), "is empty, without even \"..\"");
            return Ok(());
        }
        let (mut dot, mut dot_dot) = (inode.dot_omitted, false);
        let mut list = self.image.read_dir_with_dots(&inode)?;
        while let Some(DirEntryRef { name, nid: target, file_type }) = list.next_entry()? {
            *rest = rest.saturating_sub(1);
            if *rest == 0 {
                return Ok(());
            }
            let expected = match name {
                b"." => Some((&mut dot, nid)),
                b".." => Some((&mut dot_dot, parent)),
                _ => None,
            };
            if let Some((seen, expected)) = expected {
                *seen = true;
                if target != expected || file_type != Some(FileType::Directory) {
                    let message = format!("\"{}\" leads elsewhere", name.escape_ascii());
                    self.warn("directory", at, Some(nid), message);
                }
                continue;
            }
            let file_type = file_type.map_or(0, FileType::dirent_type);
            // Without a type, the inode has to be asked whether it is to be entered.
            let file_type = match file_type {
                0 => self.image.inode(target).map_or(0, |inode| inode.file_type().dirent_type()),
                known => known,
            };
            content.subdirectories +=
                u32::from(FileType::from_dirent(file_type) == Some(FileType::Directory));
            content.links.push(Link { nid: target, file_type, subdirectories: 0 });
        }
        if !dot || !dot_dot {
            self.warn("directory", at, Some(nid), "has no \".\" or no \"..\"");
        }
        Ok(())
    }
}

fn too_many() -> Error {
    Error::limit("max_entries", "directory", "the image has too many entries")
}
