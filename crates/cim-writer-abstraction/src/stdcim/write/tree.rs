//! The tree that becomes an image: what its operations have made so far, over what it inherits.

use std::collections::{BTreeMap, HashMap};

use layer_model::{Error, ErrorKind, Result};

use super::super::{
    File, FileId, Image,
    raw::{FileRecord, RegionOffset, StreamRecord},
    read::{FLAGS, ROOT_AT, Visits},
};
use crate::{Attributes, CimPath, FileMeta, StreamName, metadata::NAME_SURROGATE, path::utf16};

/// All files and directories, reachable or not, by number; 0 is the root.
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
    upcase: Vec<u16>,
}

pub(super) type NodeId = usize;

/// A file or directory.
pub(super) struct Node {
    /// Flags, times and lengths; no offsets, but for the stream of a file.
    pub(super) record: FileRecord,
    pub(super) security: Buffer,
    pub(super) ea: Buffer,
    pub(super) reparse: Buffer,
    pub(super) streams: BTreeMap<Box<[u16]>, Stream>,
    /// What is in it, of a directory.
    pub(super) children: Option<BTreeMap<Box<[u16]>, Child>>,
}

/// Metadata of its own, or that of a parent image.
#[derive(Clone)]
pub(super) enum Buffer {
    New(Box<[u8]>),
    At(RegionOffset),
}

/// An alternate stream.
pub(super) struct Stream {
    pub(super) name: Box<[u16]>,
    pub(super) record: StreamRecord,
}

/// A name in a directory.
pub(super) struct Child {
    pub(super) name: Box<[u16]>,
    pub(super) node: NodeId,
}

impl Tree {
    pub(super) const ROOT: NodeId = 0;

    /// A tree of an empty root, whose names are compared by this table.
    pub(super) fn new(upcase: Vec<u16>) -> Result<Self> {
        let root = Node::new(&FileMeta::new(Attributes::DIRECTORY))?;
        Ok(Self { nodes: vec![root], upcase })
    }

    /// The tree of an image, whose data and buffers stay where they are.
    pub(super) fn inherit(image: &Image) -> Result<Self> {
        let upcase = (0..=u16::MAX).map(|unit| image.upcase(unit)).collect();
        let root = image.root();
        let mut tree = Self { nodes: vec![Node::inherit(&root)?], upcase };
        let mut visits = Visits::default();
        visits.enter_charged(&root, root.id(), ROOT_AT)?;
        let mut known: HashMap<FileId, NodeId> = HashMap::new();
        let mut open = vec![(root, Self::ROOT)];
        while let Some((dir, parent)) = open.pop() {
            for (at, entry) in (0..).zip(dir.entries()?) {
                let entry = entry?;
                let file = image.file(entry.id)?;
                let node = match known.get(&entry.id) {
                    Some(node) if !file.is_dir() => *node,
                    _ => {
                        tree.nodes.push(Node::inherit(&file)?);
                        known.insert(entry.id, tree.nodes.len() - 1);
                        tree.nodes.len() - 1
                    }
                };
                if file.is_dir() {
                    visits.enter_charged(&file, dir.id(), at)?;
                    open.push((file, node));
                }
                let name: Box<[u16]> = utf16(&entry.name).into();
                let key = tree.key(&name);
                if let Some(children) = &mut tree.nodes[parent].children {
                    children.insert(key, Child { name, node });
                }
            }
        }
        Ok(tree)
    }

    pub(super) fn upcase(&self) -> &[u16] {
        &self.upcase
    }

    fn key(&self, name: &[u16]) -> Box<[u16]> {
        name.iter().map(|unit| self.upcase[usize::from(*unit)]).collect()
    }

    /// The node at `path`.
    pub(super) fn find(&self, path: &CimPath) -> Option<NodeId> {
        let mut node = Self::ROOT;
        for name in path.components() {
            node = self.nodes[node].children.as_ref()?.get(&self.key(&utf16(name)))?.node;
        }
        Some(node)
    }

    /// The directory that `path` is in, and its name there.
    fn place(&self, path: &CimPath) -> Result<(NodeId, Box<[u16]>)> {
        let Some((parent, name)) = path.split_last() else {
            return Err(Error::new(ErrorKind::InvalidArgument, "the root cannot be replaced"));
        };
        match self.find(&parent).filter(|node| self.nodes[*node].holds_entries()) {
            Some(parent) => Ok((parent, utf16(name).into())),
            None => {
                Err(Error::new(ErrorKind::NotFound, "its directory is not in the image")
                    .entry(path.as_bytes()))
            }
        }
    }

    fn put(&mut self, (parent, name): (NodeId, Box<[u16]>), node: NodeId) {
        let key = self.key(&name);
        if let Some(children) = &mut self.nodes[parent].children {
            children.insert(key, Child { name, node });
        }
    }

    /// A file or directory is at `path`. A directory over a directory keeps what is in it; everything else replaces
    /// what was there.
    pub(super) fn create(&mut self, path: &CimPath, meta: &FileMeta) -> Result<NodeId> {
        let mut node = Node::new(meta).map_err(|error| error.entry(path.as_bytes()))?;
        let there = self.find(path).filter(|there| self.nodes[*there].holds_entries());
        match there {
            Some(there) if node.holds_entries() => {
                node.children = self.nodes[there].children.take();
                self.nodes[there] = node;
                if !path.is_root() {
                    // The spelling is the new one's.
                    let place = self.place(path)?;
                    self.put(place, there);
                }
                Ok(there)
            }
            _ => {
                let place = self.place(path)?;
                self.nodes.push(node);
                let node = self.nodes.len() - 1;
                self.put(place, node);
                Ok(node)
            }
        }
    }

    /// The file or directory that gets an alternate stream.
    pub(super) fn stream_of(&self, of: &CimPath) -> Result<NodeId> {
        self.find(of)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "a stream of no file").entry(of.as_bytes()))
    }

    /// A file or directory has an alternate stream.
    pub(super) fn put_stream(&mut self, of: NodeId, name: &StreamName, record: StreamRecord) {
        let name: Box<[u16]> = name.to_utf16().into();
        let key = self.key(&name);
        self.nodes[of].streams.insert(key, Stream { name, record });
    }

    /// Another name for a file, over whatever file is there.
    pub(super) fn link(&mut self, path: &CimPath, target: &CimPath) -> Result<()> {
        let refuse = |kind, what: &str| Err(Error::new(kind, what).entry(path.as_bytes()));
        let Some(node) = self.find(target) else {
            return refuse(ErrorKind::NotFound, "a hard link to what is not in the image");
        };
        if self.nodes[node].children.is_some() {
            return refuse(ErrorKind::IsDirectory, "a hard link to a directory");
        }
        match self.find(path) {
            // Its name already, however it is spelled.
            Some(there) if there == node => return Ok(()),
            Some(there) if self.nodes[there].children.is_some() => {
                return refuse(ErrorKind::IsDirectory, "a hard link where a directory is");
            }
            _ => {}
        }
        let place = self.place(path)?;
        self.put(place, node);
        Ok(())
    }

    /// What is at `path` is gone, with everything below it.
    pub(super) fn delete(&mut self, path: &CimPath) -> Result<()> {
        let missing = || Error::new(ErrorKind::NotFound, "nothing to delete").entry(path.as_bytes());
        if self.find(path).is_none() {
            return Err(missing());
        }
        let (parent, name) = self.place(path)?;
        let key = self.key(&name);
        let children = self.nodes[parent].children.as_mut().ok_or_else(missing)?;
        children.remove(&key).map(drop).ok_or_else(missing)
    }
}

impl Node {
    fn new(meta: &FileMeta) -> Result<Self> {
        let length = |what: &'static str, buffer: &[u8]| {
            u16::try_from(buffer.len()).map_err(|_| {
                let what = format!("{what} of {} bytes, an image takes 65535", buffer.len());
                Error::new(ErrorKind::LimitExceeded { limit: "16-bit length" }, what)
            })
        };
        let security = meta.security_or_default();
        length("a security descriptor", security)?;
        length("reparse data", &meta.reparse)?;
        let mut record = FileRecord {
            flags: flags(meta.attributes).into(),
            ea_length: length("extended attributes", &meta.ea)?.into(),
            creation_time: meta.creation.0.into(),
            last_write_time: meta.write.0.into(),
            change_time: meta.change.0.into(),
            last_access_time: meta.access.0.into(),
            ..FileRecord::default()
        };
        match meta.reparse.first_chunk() {
            Some(tag) => record.reparse_tag = u32::from_le_bytes(*tag).into(),
            None if meta.reparse.is_empty() => {}
            None => return Err(Error::new(ErrorKind::InvalidArgument, "reparse data without a tag")),
        }
        let buffer = |bytes: &[u8]| match bytes {
            [] => Buffer::At(RegionOffset::NULL),
            bytes => Buffer::New(bytes.into()),
        };
        Ok(Self {
            record,
            security: buffer(security),
            ea: buffer(&meta.ea),
            reparse: buffer(&meta.reparse),
            streams: BTreeMap::new(),
            children: meta.is_dir().then(BTreeMap::new),
        })
    }

    /// Whether it is a directory of its own, and none that stands for another one.
    fn holds_entries(&self) -> bool {
        self.children.is_some() && self.record.reparse_tag.get() & NAME_SURROGATE == 0
    }

    fn inherit(file: &File) -> Result<Self> {
        let record = *file.record();
        let mut streams = BTreeMap::new();
        for entry in file.streams()? {
            let name: Box<[u16]> = entry.name.to_utf16().into();
            let key = name.iter().map(|unit| file.image().upcase(*unit)).collect();
            streams.insert(key, Stream { name, record: *entry.record() });
        }
        Ok(Self {
            security: Buffer::At(record.security),
            ea: Buffer::At(record.ea),
            reparse: Buffer::At(record.reparse),
            record,
            streams,
            children: file.is_dir().then(BTreeMap::new),
        })
    }
}

fn flags(attributes: Attributes) -> u16 {
    let has = FLAGS.iter().filter(|(_, attribute)| attributes.contains(*attribute));
    has.fold(0, |flags, (flag, _)| flags | flag)
}
