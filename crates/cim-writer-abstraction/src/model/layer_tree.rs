//! A view as a tree of layers.

use std::sync::Arc;

use layer_model::{
    Error, ErrorKind, LayerDir, LayerTree, Metadata, Node, NodeKind, ReadAt, Result, Xattrs, tree::InodeId,
};

use super::{
    Dir, EntryRef, Stream, View,
    entry::{Child, Node as Name, Streams},
    tree::ROOT,
};
use crate::{
    FileMeta,
    path::{CimPath, key_of},
    reparse,
    wcow::{describe, keep_for_stream},
};

/// A view as the road sees it: metadata of Windows as extended attributes ([`layer_model::windows`]), alternate
/// streams as files `name:stream`, tombstones of a single image as whiteouts.
///
/// Names are looked up without regard to case. Merged links of a single image, and reparse points that are neither
/// symbolic links nor junctions, are [`ErrorKind::Unrepresentable`]. For an archive, where a stream has to stand behind
/// its file, there are [`View::events`] instead.
impl LayerTree for View {
    fn root(&self) -> Result<Arc<dyn LayerDir>> {
        let dir = self.dir(ROOT).clone();
        Ok(Arc::new(ViewDir { view: self.clone(), dir, path: CimPath::root() }))
    }
}

struct ViewDir {
    view: View,
    dir: Arc<Dir>,
    path: CimPath,
}

/// What a name of a directory stands for.
enum Named<'a> {
    Entry(&'a Child, EntryRef<'a>),
    Stream(EntryRef<'a>, &'a Stream),
}

impl ViewDir {
    fn find(&self, name: &[u8]) -> Option<Named<'_>> {
        let colon = name.iter().position(|b| *b == b':');
        let child = self.dir.children.get(&*key_of(&name[..colon.unwrap_or(name.len())]))?;
        let entry = self.view.entry(child.node);
        match colon {
            None => Some(Named::Entry(child, entry)),
            Some(colon) => {
                let (_, stream) = streams(entry)?.get(&*key_of(&name[colon + 1..]))?;
                Some(Named::Stream(entry, stream))
            }
        }
    }

    fn node_of(&self, named: &Named<'_>) -> Result<Node> {
        match named {
            Named::Stream(entry, stream) => {
                let Some(meta) = entry.meta() else { return Err(unresolved("a stream")) };
                let (metadata, mut records, _) = described(meta)?;
                keep_for_stream(&mut records);
                let metadata = Metadata { mode: 0o644, ..metadata };
                let mut node = Node::new(NodeKind::File { size: stream.size }, metadata);
                node.xattrs = records;
                Ok(node)
            }
            Named::Entry(_, EntryRef::Dir(dir)) => node(&dir.meta, 0),
            Named::Entry(_, EntryRef::File(file, id)) => {
                let mut node = node(&file.meta, file.main.size)?;
                node.inode = Some(InodeId { dev: u64::from(id.source), ino: u64::from(id.id) + 1 });
                node.nlink = self.view.link_counts().get(id).copied().unwrap_or(1);
                Ok(node)
            }
            Named::Entry(_, EntryRef::Tombstone) => Ok(Node::new(NodeKind::Whiteout, Metadata::file(0))),
            Named::Entry(_, EntryRef::MergeLink(target)) => {
                Err(unresolved(&format!("a merged link to {target}")))
            }
        }
    }

    /// All names in bytewise order, with what they stand for.
    fn named(&self) -> Vec<(Box<[u8]>, Named<'_>)> {
        let mut all = Vec::with_capacity(self.dir.children.len());
        for child in self.dir.children.values() {
            let entry = self.view.entry(child.node);
            all.push((child.name.clone(), Named::Entry(child, entry)));
            for (name, stream) in entry.streams() {
                let whole = [&child.name, name.as_bytes()].join(&b':');
                all.push((whole.into(), Named::Stream(entry, stream)));
            }
        }
        all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        all
    }

    fn missing(&self, name: &[u8]) -> Error {
        Error::new(ErrorKind::NotFound, "no such file").entry(self.path.join_known(name))
    }
}

/// The alternate streams of an entry, of those that can have some.
fn streams(entry: EntryRef<'_>) -> Option<&Streams> {
    match entry {
        EntryRef::Dir(dir) => Some(&dir.streams),
        EntryRef::File(file, _) => Some(&file.streams),
        EntryRef::Tombstone | EntryRef::MergeLink(_) => None,
    }
}

/// What the road sees of an entry: mode and times, the rest as records, and where it leads if it is a link.
fn described(meta: &FileMeta) -> Result<(Metadata, Xattrs, Vec<u8>)> {
    let (mut records, mut link) = (Xattrs::new(), Vec::new());
    let metadata = describe(meta, &mut records, &mut link)?;
    Ok((metadata, records, link))
}

fn unresolved(what: &str) -> Error {
    Error::new(ErrorKind::Unrepresentable, format!("{what}, which only merging resolves"))
}

fn node_is_file(meta: &FileMeta) -> bool {
    !meta.is_dir() && reparse::tag(&meta.reparse).is_none()
}

fn node(meta: &FileMeta, size: u64) -> Result<Node> {
    let (metadata, records, link) = described(meta)?;
    let kind = match (link.is_empty(), meta.is_dir()) {
        (false, _) => NodeKind::Symlink { target: link.into() },
        (true, true) => NodeKind::Directory,
        (true, false) => NodeKind::File { size },
    };
    let mut node = Node::new(kind, metadata);
    node.xattrs = records;
    Ok(node)
}

impl LayerDir for ViewDir {
    fn node(&self) -> Result<Node> {
        node(&self.dir.meta, 0).map_err(|error| error.entry(&self.path))
    }

    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let node = self.find(name).map(|named| self.node_of(&named)).transpose();
        node.map_err(|error| error.entry(self.path.join_known(name)))
    }

    fn names(&self) -> Result<Vec<Box<[u8]>>> {
        Ok(self.named().into_iter().map(|(name, _)| name).collect())
    }

    fn entries(&self) -> Result<Vec<(Box<[u8]>, Node)>> {
        let node = |(name, named): (Box<[u8]>, Named<'_>)| match self.node_of(&named) {
            Ok(node) => Ok((name, node)),
            Err(error) => Err(error.entry(self.path.join_known(&name))),
        };
        self.named().into_iter().map(node).collect()
    }

    fn open_dir(&self, name: &[u8]) -> Result<Arc<dyn LayerDir>> {
        match self.find(name) {
            Some(Named::Entry(child, EntryRef::Dir(_))) => {
                let Name::Dir(id) = child.node else { return Err(self.missing(name)) };
                let (dir, path) = (self.view.dir(id).clone(), self.path.join_known(&child.name));
                Ok(Arc::new(Self { view: self.view.clone(), dir, path }))
            }
            Some(Named::Entry(_, EntryRef::Tombstone)) | None => Err(self.missing(name)),
            Some(_) => {
                Err(Error::new(ErrorKind::NotDirectory, "not a directory").entry(self.path.join_known(name)))
            }
        }
    }

    fn open_file(&self, name: &[u8]) -> Result<Box<dyn ReadAt>> {
        let blob = match self.find(name) {
            Some(Named::Stream(entry, stream)) => self.view.open(entry, stream),
            Some(Named::Entry(_, entry @ EntryRef::File(file, _))) if node_is_file(&file.meta) => {
                self.view.open(entry, &file.main)
            }
            Some(Named::Entry(_, EntryRef::Tombstone)) | None => Err(self.missing(name)),
            Some(_) => Err(Error::new(ErrorKind::InvalidArgument, "no regular file")),
        };
        blob.map(|blob| Box::new(blob) as Box<dyn ReadAt>)
            .map_err(|error| error.entry(self.path.join_known(name)))
    }
}
