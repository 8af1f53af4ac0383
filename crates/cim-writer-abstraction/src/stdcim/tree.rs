//! Standard CIMs as trees of layers.

use std::sync::{Arc, Mutex, PoisonError};

use layer_model::{
    Error, ErrorKind, LayerDir, LayerTree, Node, NodeKind, ReadAt, Result, Xattrs, tree::InodeId,
};

use super::{
    Entries, File, Image,
    read::{ROOT_AT, Visits},
};
use crate::{StreamName, wcow};

/// Metadata is in extended attributes as [`layer_model::windows`] has it; an alternate stream is a file `name:stream` in
/// the directory of its file, the root's own have no place. Symbolic links and junctions are links. Names are looked up
/// as Windows does, without regard to case.
///
/// As the order of names is that of their bytes, streams do not always follow their file:
/// [`ImageEvents`](super::ImageEvents) is the source for whoever wants an image as a layer.
impl LayerTree for Image {
    fn root(&self) -> Result<Arc<dyn LayerDir>> {
        self.link_counts()?;
        let root = Image::root(self);
        let mut visits = Visits::default();
        visits.enter_charged(&root, root.id(), ROOT_AT)?;
        let entries = root.entries()?;
        Ok(Arc::new(Dir { file: root, entries, visits: Arc::new(Mutex::new(visits)) }))
    }
}

/// An open directory.
struct Dir {
    file: File,
    entries: Entries,
    /// Shared by all that were opened from one root.
    visits: Arc<Mutex<Visits>>,
}

/// How much metadata one list of entries may have, besides twice the size of the image: descriptors are shared, and each
/// entry has its own copy here.
const METADATA_MAX: u64 = 64 << 20;

impl Dir {
    /// The file `name`, or the file that it is a stream of.
    fn find(&self, name: &[u8]) -> Result<Option<(u32, File, Option<StreamName>)>> {
        let (name, stream) = match name.iter().position(|byte| *byte == b':') {
            Some(at) => match StreamName::new(&name[at + 1..]) {
                Ok(stream) => (&name[..at], Some(stream)),
                Err(_) => return Ok(None),
            },
            None => (name, None),
        };
        let image = self.file.image();
        match self.entries.find(image, name)? {
            Some((at, id)) => Ok(Some((at, image.file(id)?, stream))),
            None => Ok(None),
        }
    }

    fn stream_node(&self, file: &File, size: u64, number: usize) -> Result<Node> {
        let mut node = node(file)?;
        wcow::keep_for_stream(&mut node.xattrs);
        node.kind = NodeKind::File { size };
        node.metadata.mode = 0o644;
        // Streams belong to the file, and so does each through all its names.
        node.inode = Some(InodeId { ino: (number as u64 + 1) << 32 | u64::from(file.id().0), ..inode(file) });
        Ok(node)
    }

    /// The streams of a file of this directory, by the names that they have here.
    fn streams(&self, file: &File, name: &[u8]) -> Result<Vec<(Box<[u8]>, Node)>> {
        let named = file.streams()?.into_iter().enumerate().map(|(number, stream)| {
            let full = [name, b":", stream.name.as_bytes()].concat();
            Ok((full.into(), self.stream_node(file, stream.size, number)?))
        });
        named.collect()
    }
}

fn inode(file: &File) -> InodeId {
    let id = file.image().own_set().id;
    let dev = id.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
    InodeId { dev, ino: file.id().0.into() }
}

fn node(file: &File) -> Result<Node> {
    let (mut xattrs, mut link) = (Xattrs::new(), Vec::new());
    let metadata = wcow::describe(&file.meta()?, &mut xattrs, &mut link)?;
    let kind = match link.is_empty() {
        false => NodeKind::Symlink { target: link.into() },
        true if file.is_dir() => NodeKind::Directory,
        true => NodeKind::File { size: file.size() },
    };
    let mut node = Node::new(kind, metadata);
    node.xattrs = xattrs;
    node.inode = Some(inode(file));
    node.nlink = file.image().link_counts()?.get(&file.id()).copied().unwrap_or(1);
    Ok(node)
}

fn xattr_bytes(node: &Node) -> u64 {
    node.xattrs.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum()
}

impl LayerDir for Dir {
    fn node(&self) -> Result<Node> {
        node(&self.file)
    }

    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        match self.find(name)? {
            None => Ok(None),
            Some((_, file, None)) => node(&file).map(Some),
            Some((_, file, Some(stream))) => {
                let key = stream.key();
                let streams = file.streams()?;
                let found = streams.iter().position(|stream| stream.name.key() == key);
                found.map(|at| self.stream_node(&file, streams[at].size, at)).transpose()
            }
        }
    }

    fn names(&self) -> Result<Vec<Box<[u8]>>> {
        let mut names = Vec::new();
        for entry in self.entries.iter() {
            let entry = entry?;
            for stream in self.file.image().file(entry.id)?.streams()? {
                names.push([&*entry.name, b":", stream.name.as_bytes()].concat().into());
            }
            names.push(entry.name);
        }
        names.sort_unstable();
        Ok(names)
    }

    fn entries(&self) -> Result<Vec<(Box<[u8]>, Node)>> {
        let max = self.file.image().region_bytes().saturating_mul(2).saturating_add(METADATA_MAX);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for entry in self.entries.iter() {
            let entry = entry?;
            let file = self.file.image().file(entry.id)?;
            let streams = self.streams(&file, &entry.name)?;
            let node = node(&file).map_err(|error| error.entry(&*entry.name))?;
            bytes += xattr_bytes(&node) + streams.iter().map(|(_, node)| xattr_bytes(node)).sum::<u64>();
            if bytes > max {
                let kind = ErrorKind::LimitExceeded { limit: "metadata of a directory" };
                return Err(Error::new(kind, "the metadata of the entries is many times that of the image"));
            }
            entries.push((entry.name, node));
            entries.extend(streams);
        }
        entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(entries)
    }

    fn open_dir(&self, name: &[u8]) -> Result<Arc<dyn LayerDir>> {
        let missing = || Error::new(ErrorKind::NotFound, "no such directory").entry(name);
        let (at, file, stream) = self.find(name)?.ok_or_else(missing)?;
        if stream.is_some() || !node(&file)?.is_dir() {
            return Err(Error::new(ErrorKind::NotDirectory, "not a directory").entry(name));
        }
        let mut visits = self.visits.lock().unwrap_or_else(PoisonError::into_inner);
        visits.enter_charged(&file, self.file.id(), at)?;
        drop(visits);
        let entries = file.entries()?;
        Ok(Arc::new(Dir { file, entries, visits: self.visits.clone() }))
    }

    fn open_file(&self, name: &[u8]) -> Result<Box<dyn ReadAt>> {
        let missing = || Error::new(ErrorKind::NotFound, "no such file").entry(name);
        match self.find(name)?.ok_or_else(missing)? {
            (_, file, Some(stream)) => match file.open_stream(&stream)? {
                Some(stream) => Ok(Box::new(stream)),
                None => Err(missing()),
            },
            (_, file, None) if matches!(node(&file)?.kind, NodeKind::File { .. }) => {
                Ok(Box::new(file.open()?))
            }
            _ => Err(Error::new(ErrorKind::InvalidArgument, "not a regular file").entry(name)),
        }
    }
}
