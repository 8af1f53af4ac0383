//! The inodes of an image, each on its own.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use crate::{
    error::Result,
    hash,
    raw::xattr::split_name,
    read::{Inode, Layout, Location},
    types::{FileType, Nid},
};

use super::{
    Check, CheckReport,
    ranges::{self, Metadata, Used},
    tree::{Link, Tree},
};

/// An inode with what names say about it.
#[derive(Clone, Copy)]
pub(super) struct Named {
    nid: Nid,
    file_type: u8,
    /// The link count that it should have.
    links: u32,
}

/// Every inode once, in the order of the image.
pub(super) fn unique(tree: &Tree) -> Vec<Named> {
    let mut links = tree.links.clone();
    links.sort_unstable();
    let mut unique: Vec<Named> = Vec::new();
    for Link { nid, file_type, subdirectories } in links {
        let is_dir = FileType::from_dirent(file_type) == Some(FileType::Directory);
        match unique.last_mut() {
            Some(last) if last.nid == nid && last.file_type == file_type && !is_dir => last.links += 1,
            _ => unique.push(Named { nid, file_type, links: if is_dir { 2 + subdirectories } else { 1 } }),
        }
    }
    unique
}

/// What one thread found.
#[derive(Default)]
struct Part {
    data: Vec<Range<u64>>,
    /// Shared xattrs in use, and where they are in the plain image.
    shared: BTreeMap<u32, Option<Range<u64>>>,
    compressed: u64,
}

impl Check<'_> {
    /// Checks all inodes and returns what of the image they use.
    pub(super) fn inodes(&self, unique: &[Named], report: &mut CheckReport) -> Result<Used> {
        let parts = self
            .spread(unique, |part| part.iter().map(|named| self.inode(named)).collect::<Result<Vec<_>>>())?;
        let mut inodes: Vec<Inode> = parts.into_iter().flatten().flatten().collect();
        let mut metadata: Vec<Metadata> = self.fixed_ranges().into_iter().map(Metadata::fixed).collect();
        metadata.extend(inodes.iter().filter(|inode| !inode.nid().in_metabox()).map(Metadata::of));
        // Inodes that overlap could share a huge map a million times: they are not looked into.
        let overlapping = self.overlaps(&mut metadata);
        inodes.retain(|inode| !overlapping.contains(&inode.nid()));
        let mut used = Used { metadata, data: Vec::new() };
        let mut shared = BTreeMap::new();
        for part in self.spread(&inodes, |part| self.contents(part))? {
            used.data.extend(part.data);
            shared.extend(part.shared);
            report.compressed += part.compressed;
        }
        let shared: Vec<Range<u64>> = shared.into_values().flatten().collect();
        self.shared_overlaps(&mut used, shared);
        ranges::merge(&mut used.data);
        self.data_overlaps(&used);
        Ok(used)
    }

    fn inode(&self, named: &Named) -> Result<Option<Inode>> {
        let inode = match self.image.inode(named.nid) {
            Ok(inode) => inode,
            Err(error) => {
                self.note(named.nid, error)?;
                return Ok(None);
            }
        };
        let (at, nid) = (inode.position(), Some(named.nid));
        if named.file_type != 0 && named.file_type != inode.file_type().dirent_type() {
            self.error("directory entry", at, nid, "has another type than its inode");
        }
        let unknown = inode.is_dir() && inode.nlink() == 1;
        if inode.nlink() != named.links && !unknown {
            let message = format!("the link count is {}, not {}", inode.nlink(), named.links);
            self.warn("inode", at, nid, message);
        }
        let special = !inode.file_type().has_content();
        if special && (inode.size() != 0 || !matches!(inode.layout(), Layout::Plain { .. })) {
            self.warn("inode", at, nid, "a special file has a size or a layout");
        }
        if inode.xattr_size == 12 {
            self.warn("xattrs", at, nid, "the area has nothing in it");
        }
        if inode.is_dir() && matches!(inode.layout(), Layout::Chunked { .. }) {
            self.warn("inode", at, nid, "a directory is chunk-based");
        }
        Ok(Some(inode))
    }

    fn contents(&self, inodes: &[Inode]) -> Result<Part> {
        let mut part = Part::default();
        let mut names = HashMap::new();
        for inode in inodes {
            if let Err(error) = self.check_xattrs(inode, &mut part, &mut names) {
                self.note(inode.nid(), error)?;
            }
            if let Layout::Compressed { .. } = inode.layout() {
                part.compressed += 1;
                continue;
            }
            if inode.file_type() == FileType::Symlink
                && let Err(error) = self.image.read_link(inode)
            {
                self.note(inode.nid(), error)?;
            }
            let inline = inode.body_end();
            for extent in self.image.extents(inode) {
                match extent {
                    Err(error) => self.note(inode.nid(), error)?,
                    // The inline part belongs to the inode.
                    Ok(extent) => match extent.location {
                        Location::Source { number: 0, offset } if offset != inline => {
                            part.data.push(offset..offset + extent.length);
                        }
                        _ => {}
                    },
                }
            }
        }
        Ok(part)
    }

    fn check_xattrs(
        &self,
        inode: &Inode,
        part: &mut Part,
        known: &mut HashMap<u32, Option<Vec<u8>>>,
    ) -> Result<()> {
        if inode.xattr_size <= 12 {
            return Ok(());
        }
        let mut names = self.image.inline_xattr_names(inode)?;
        for id in self.image.shared_xattrs(inode)? {
            let name = match known.get(&id) {
                Some(name) => name.clone(),
                None => {
                    let (name, range, in_image) = self.image.shared_xattr(id)?;
                    part.shared.insert(id, in_image.then_some(range));
                    known.insert(id, name.clone());
                    name
                }
            };
            names.push(name);
        }
        let (at, nid) = (inode.position(), Some(inode.nid()));
        if names.iter().any(Option::is_none) {
            self.warn("xattrs", at, nid, "a name has an unknown prefix");
        }
        let mut names: Vec<Vec<u8>> = names.into_iter().flatten().collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let message = format!("the name \"{}\" appears twice", pair[0].escape_ascii());
            self.error("xattrs", at, nid, message);
        }
        if self.image.uses_filter() {
            let filter = self.image.xattr_filter(inode)?;
            let hidden = |name: &&Vec<u8>| {
                split_name(name).is_some_and(|(index, rest)| filter & hash::filter_bit(index, rest) != 0)
            };
            if let Some(name) = names.iter().find(hidden) {
                let message = format!("the filter hides \"{}\"", name.escape_ascii());
                self.error("xattrs", at, nid, message);
            }
        }
        Ok(())
    }
}
