//! Layers held in memory.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Action, Change, Content, Device, Entry, EntryKind, Error, ErrorKind, Form, Layer, LayerDir, LayerPath,
    LayerPathBuf, LayerSource, LayerTree, Metadata, Node, NodeKind, ReadAt, Result, Timestamp, tree::InodeId,
};

/// A layer, or a merged tree, in memory. Building it by hand reads like a listing:
///
/// ```
/// use layer_model::testing::MemoryLayer;
/// let layer = MemoryLayer::new().dir("etc", 0o755).file("etc/motd", "hello\n").whiteout("etc/issue");
/// ```
///
/// Parents are made as they are needed (mode 0755). Cloning shares nothing, but is cheap enough for tests.
#[derive(Clone, Debug, Default)]
pub struct MemoryLayer {
    nodes: BTreeMap<LayerPathBuf, (Node, Vec<u8>)>,
    next_ino: u64,
    dev: u64,
}

impl MemoryLayer {
    /// A layer with nothing but a root.
    pub fn new() -> Self {
        let mut layer = Self { next_ino: 1, ..Self::default() };
        layer.put(LayerPathBuf::root(), NodeKind::Directory, 0o755, b"");
        layer
    }

    /// The same layer on another device, so that none of its inodes is equal to one of another layer.
    #[must_use]
    pub fn on_device(mut self, dev: u64) -> Self {
        self.dev = dev;
        for (node, _) in self.nodes.values_mut() {
            if let Some(inode) = &mut node.inode {
                inode.dev = dev;
            }
        }
        self
    }

    /// With a directory.
    #[must_use]
    pub fn dir(mut self, path: &str, mode: u32) -> Self {
        self.put(parse(path), NodeKind::Directory, mode, b"");
        self
    }

    /// With a regular file of mode 0644.
    #[must_use]
    pub fn file(mut self, path: &str, content: &str) -> Self {
        self.put(parse(path), NodeKind::File { size: content.len() as u64 }, 0o644, content.as_bytes());
        self
    }

    /// With a symbolic link.
    #[must_use]
    pub fn symlink(mut self, path: &str, target: &str) -> Self {
        self.put(parse(path), NodeKind::Symlink { target: target.as_bytes().into() }, 0o777, b"");
        self
    }

    /// With another name for `target`, which exists.
    ///
    /// # Panics
    /// When `target` does not exist.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        let (path, target) = (parse(path), parse(target));
        self.ensure_parents(path.as_path());
        let found = self.nodes.get(&target).expect("the target of a link exists, as the test says").clone();
        let inode = found.0.inode;
        self.nodes.insert(path, found);
        let same = |node: &Node| node.inode == inode;
        let names = self.nodes.values().filter(|(node, _)| same(node)).count();
        for (node, _) in self.nodes.values_mut().filter(|(node, _)| same(node)) {
            node.nlink = u32::try_from(names).unwrap_or(u32::MAX);
        }
        self
    }

    /// With a character device.
    #[must_use]
    pub fn char_device(mut self, path: &str, major: u32, minor: u32) -> Self {
        self.put(parse(path), NodeKind::CharDevice(Device::new(major, minor)), 0o600, b"");
        self
    }

    /// With a FIFO.
    #[must_use]
    pub fn fifo(mut self, path: &str) -> Self {
        self.put(parse(path), NodeKind::Fifo, 0o600, b"");
        self
    }

    /// With a socket.
    #[must_use]
    pub fn socket(mut self, path: &str) -> Self {
        self.put(parse(path), NodeKind::Socket, 0o600, b"");
        self
    }

    /// With a whiteout.
    #[must_use]
    pub fn whiteout(mut self, path: &str) -> Self {
        self.put(parse(path), NodeKind::Whiteout, 0, b"");
        self
    }

    /// With an opaque directory of mode 0755.
    #[must_use]
    pub fn opaque(self, path: &str) -> Self {
        let layer = if self.nodes.contains_key(&parse(path)) { self } else { self.dir(path, 0o755) };
        layer.edit(path, |node| node.markers.opaque = true)
    }

    /// With the node at `path` changed.
    ///
    /// # Panics
    /// When nothing is there.
    #[must_use]
    pub fn edit(mut self, path: &str, change: impl FnOnce(&mut Node)) -> Self {
        let found = self.nodes.get_mut(&parse(path));
        change(&mut found.expect("the path to edit exists, as the test says").0);
        self
    }

    /// With this mode at `path`.
    #[must_use]
    pub fn mode(self, path: &str, mode: u32) -> Self {
        self.edit(path, |node| node.metadata.mode = mode)
    }

    /// With this owner at `path`.
    #[must_use]
    pub fn owner(self, path: &str, uid: u32, gid: u32) -> Self {
        self.edit(path, |node| (node.metadata.uid, node.metadata.gid) = (uid, gid))
    }

    /// With this time at `path`.
    #[must_use]
    pub fn mtime(self, path: &str, secs: i64, nanos: u32) -> Self {
        self.edit(path, |node| node.metadata.mtime = Timestamp::new(secs, nanos))
    }

    /// With this extended attribute at `path`.
    #[must_use]
    pub fn xattr(self, path: &str, name: &str, value: &[u8]) -> Self {
        self.edit(path, |node| {
            node.xattrs.insert(name.as_bytes(), value);
        })
    }

    /// Without `path` and all below it.
    #[must_use]
    pub fn without(self, path: &str) -> Self {
        self.without_path(parse(path).as_path(), true)
    }

    /// The nodes in layer order, the root first.
    pub fn iter(&self) -> impl Iterator<Item = (LayerPath<'_>, &Node, &[u8])> {
        self.nodes.iter().map(|(path, (node, content))| (path.as_path(), node, &content[..]))
    }

    /// The layer as changes: whiteouts are removals, opaque directories are followed by
    /// [`Action::Opaque`], later names of an inode are hard links. The root is left out.
    pub fn changes(&self) -> MemoryChanges {
        let mut first: BTreeMap<InodeId, LayerPathBuf> = BTreeMap::new();
        let mut list = Vec::new();
        for (path, node, content) in self.iter().filter(|(path, ..)| !path.is_root()) {
            let mut push = |action| list.push(OwnedChange { path: path.to_owned(), action });
            if node.is_whiteout() {
                push(OwnedAction::Remove);
                continue;
            }
            let earlier = node.inode.filter(|_| node.nlink > 1 && !node.is_dir()).and_then(|inode| {
                let name = first.get(&inode).cloned();
                first.entry(inode).or_insert_with(|| path.to_owned());
                name
            });
            push(OwnedAction::Upsert { node: node.clone(), content: content.to_vec(), link: earlier });
            if node.markers.opaque {
                push(OwnedAction::Opaque);
            }
        }
        MemoryChanges::new(list)
    }

    /// This merged tree with `changes` applied to it, by the rules of [`Action`]: removals and opaque marks
    /// act on what was there before, wherever they stand.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a hard link to nothing.
    pub fn applied(&self, changes: &MemoryChanges) -> Result<MemoryLayer> {
        let mut tree = self.clone();
        for change in &changes.list {
            match change.action {
                OwnedAction::Remove => tree = tree.without_path(change.path.as_path(), true),
                OwnedAction::Opaque => tree = tree.without_path(change.path.as_path(), false),
                OwnedAction::Upsert { .. } => {}
            }
        }
        for OwnedChange { path, action } in &changes.list {
            let OwnedAction::Upsert { node, content, link } = action else { continue };
            let stays = node.is_dir() && tree.nodes.get(path).is_some_and(|(old, _)| old.is_dir());
            if !stays {
                tree = tree.without_path(path.as_path(), true);
            }
            let mut node = node.clone();
            let mut content = content.clone();
            match link {
                Some(target) => {
                    let missing =
                        || Error::new(ErrorKind::NotFound, "no target for the hard link").at(path.as_path());
                    (node, content) = tree.nodes.get(target).ok_or_else(missing)?.clone();
                }
                None => {
                    node.inode = Some(InodeId { dev: tree.dev, ino: tree.next_ino });
                    tree.next_ino += 1;
                }
            }
            tree.ensure_parents(path.as_path());
            tree.nodes.insert(path.clone(), (node, content));
        }
        Ok(tree)
    }

    /// Without what is below `path`, and without `path` itself if `whole`.
    fn without_path(mut self, gone: LayerPath<'_>, whole: bool) -> Self {
        self.nodes.retain(|path, _| {
            let path = path.as_path();
            !path.starts_with(gone) || path.is_root() || (path == gone && !whole)
        });
        self
    }

    fn put(&mut self, path: LayerPathBuf, kind: NodeKind, mode: u32, content: &[u8]) {
        self.ensure_parents(path.as_path());
        let mut node = Node::new(kind, Metadata::file(mode));
        node.inode = Some(InodeId { dev: self.dev, ino: self.next_ino });
        self.next_ino += 1;
        self.nodes.insert(path, (node, content.to_vec()));
    }

    fn ensure_parents(&mut self, path: LayerPath<'_>) {
        for parent in path.ancestors() {
            if !self.nodes.get(&parent.to_owned()).is_some_and(|(node, _)| node.is_dir()) {
                self.put(parent.to_owned(), NodeKind::Directory, 0o755, b"");
            }
        }
    }
}

fn parse(path: &str) -> LayerPathBuf {
    LayerPathBuf::clean(path.as_bytes()).expect("test paths hold no NUL")
}

impl Layer for MemoryLayer {
    const FORM: Form = Form("memory");

    fn as_tree(&self) -> Option<&dyn LayerTree> {
        Some(self)
    }
}

impl LayerTree for MemoryLayer {
    fn root(&self) -> Result<Arc<dyn LayerDir>> {
        Ok(Arc::new(MemoryDir { layer: Arc::new(self.clone()), path: LayerPathBuf::root() }))
    }
}

struct MemoryDir {
    layer: Arc<MemoryLayer>,
    path: LayerPathBuf,
}

impl MemoryDir {
    fn child(&self, name: &[u8]) -> Result<(LayerPathBuf, &(Node, Vec<u8>))> {
        let path = self.path.as_path().join(name)?;
        let missing = || Error::new(ErrorKind::NotFound, "no such entry").at(path.as_path());
        let found = self.layer.nodes.get(&path).ok_or_else(missing)?;
        Ok((path, found))
    }
}

impl LayerDir for MemoryDir {
    fn node(&self) -> Result<Node> {
        Ok(self.layer.nodes[&self.path].0.clone())
    }

    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        match self.child(name) {
            Ok((_, (node, _))) => Ok(Some(node.clone())),
            Err(error) if error.kind() == &ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn names(&self) -> Result<Vec<Box<[u8]>>> {
        let children = self.layer.nodes.keys().filter_map(|path| {
            let (parent, name) = path.as_path().split_last()?;
            (parent == self.path.as_path()).then(|| name.into())
        });
        Ok(children.collect())
    }

    fn open_dir(&self, name: &[u8]) -> Result<Arc<dyn LayerDir>> {
        let (path, (node, _)) = self.child(name)?;
        if !node.is_dir() {
            return Err(Error::new(ErrorKind::NotDirectory, "not a directory").at(path.as_path()));
        }
        Ok(Arc::new(MemoryDir { layer: self.layer.clone(), path }))
    }

    fn open_file(&self, name: &[u8]) -> Result<Box<dyn ReadAt>> {
        let (path, (node, content)) = self.child(name)?;
        if node.markers.metacopy.is_some() {
            let kind = ErrorKind::UnsupportedMarker { marker: "metacopy" };
            return Err(Error::new(kind, "the data is in a lower layer").at(path.as_path()));
        }
        if !matches!(node.kind, NodeKind::File { .. }) {
            return Err(Error::new(ErrorKind::InvalidArgument, "not a regular file").at(path.as_path()));
        }
        Ok(Box::new(content.clone()))
    }
}

/// A change that owns what it says.
#[derive(Clone, Debug)]
pub struct OwnedChange {
    /// The path.
    pub path: LayerPathBuf,
    /// What happens there.
    pub action: OwnedAction,
}

/// What happens at a path.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "most are entries, and a test has few")]
pub enum OwnedAction {
    /// This is there now.
    Upsert {
        /// Type, metadata, attributes.
        node: Node,
        /// The content of a regular file.
        content: Vec<u8>,
        /// The name that this is a hard link to.
        link: Option<LayerPathBuf>,
    },
    /// What lower layers have is gone.
    Remove,
    /// The directory hides lower layers.
    Opaque,
}

/// A [`LayerSource`] over a list.
#[derive(Clone, Debug)]
pub struct MemoryChanges {
    list: Vec<OwnedChange>,
    at: usize,
}

impl MemoryChanges {
    /// The changes of `list`, in its order.
    pub fn new(list: Vec<OwnedChange>) -> Self {
        Self { list, at: 0 }
    }

    /// Reads a source to its end, and keeps what it said.
    ///
    /// # Errors
    /// Those of the source.
    pub fn collect(source: &mut dyn LayerSource) -> Result<Self> {
        let mut list = Vec::new();
        while let Some(change) = source.next_change()? {
            let path = change.path.to_owned();
            let action = match change.action {
                Action::Remove => OwnedAction::Remove,
                Action::Opaque => OwnedAction::Opaque,
                Action::Upsert(entry) => own(entry)?,
            };
            list.push(OwnedChange { path, action });
        }
        Ok(Self::new(list))
    }

    /// The changes as short lines: `d etc/ 755`, `f etc/motd 644 "hello\n"`, `h b=a`, `wh a`, `opq d`.
    pub fn lines(&self) -> Vec<String> {
        self.list.iter().map(line).collect()
    }

    /// The changes.
    pub fn as_slice(&self) -> &[OwnedChange] {
        &self.list
    }
}

fn own(entry: Entry<'_>) -> Result<OwnedAction> {
    let mut content = Vec::new();
    let mut link = None;
    let kind = match entry.kind {
        EntryKind::Directory => NodeKind::Directory,
        EntryKind::File(data) => {
            let size = data.len();
            data.write_to(&mut content)?;
            NodeKind::File { size }
        }
        EntryKind::Symlink { target } => NodeKind::Symlink { target: target.into() },
        EntryKind::HardLink { target } => {
            link = Some(target.to_owned());
            NodeKind::File { size: 0 }
        }
        EntryKind::CharDevice(device) => NodeKind::CharDevice(device),
        EntryKind::BlockDevice(device) => NodeKind::BlockDevice(device),
        EntryKind::Fifo => NodeKind::Fifo,
    };
    let mut node = Node::new(kind, entry.metadata);
    node.xattrs = entry.xattrs.clone();
    Ok(OwnedAction::Upsert { node, content, link })
}

fn line(change: &OwnedChange) -> String {
    let path = change.path.as_path().display();
    match &change.action {
        OwnedAction::Remove => format!("wh {path}"),
        OwnedAction::Opaque => format!("opq {path}"),
        OwnedAction::Upsert { link: Some(target), .. } => format!("h {path}={}", target.as_path().display()),
        OwnedAction::Upsert { node, content, .. } => {
            let mode = node.metadata.mode;
            match &node.kind {
                NodeKind::Directory => format!("d {path}/ {mode:o}"),
                NodeKind::File { .. } => format!("f {path} {mode:o} {:?}", String::from_utf8_lossy(content)),
                NodeKind::Symlink { target } => format!("l {path}>{}", String::from_utf8_lossy(target)),
                NodeKind::CharDevice(d) => format!("c {path} {}:{}", d.major, d.minor),
                NodeKind::BlockDevice(d) => format!("b {path} {}:{}", d.major, d.minor),
                NodeKind::Fifo => format!("p {path}"),
                NodeKind::Socket => format!("s {path}"),
                NodeKind::Whiteout => format!("wh {path}"),
            }
        }
    }
}

impl LayerSource for MemoryChanges {
    fn next_change(&mut self) -> Result<Option<Change<'_>>> {
        let Some(change) = self.list.get(self.at) else { return Ok(None) };
        self.at += 1;
        let path = change.path.as_path();
        Ok(Some(match &change.action {
            OwnedAction::Remove => Change::remove(path),
            OwnedAction::Opaque => Change::opaque(path),
            OwnedAction::Upsert { node, content, link } => {
                let kind = match (&node.kind, link) {
                    (_, Some(target)) => EntryKind::HardLink { target: target.as_path() },
                    (NodeKind::Directory, _) => EntryKind::Directory,
                    (NodeKind::File { .. }, _) => EntryKind::File(Content::from_bytes(content)),
                    (NodeKind::Symlink { target }, _) => EntryKind::Symlink { target },
                    (NodeKind::CharDevice(device), _) => EntryKind::CharDevice(*device),
                    (NodeKind::BlockDevice(device), _) => EntryKind::BlockDevice(*device),
                    (NodeKind::Fifo, _) => EntryKind::Fifo,
                    (NodeKind::Socket | NodeKind::Whiteout, _) => {
                        return Err(Error::new(ErrorKind::Unrepresentable, "no entry for a layer").at(path));
                    }
                };
                Change::upsert(path, Entry::new(kind, node.metadata).with_xattrs(&node.xattrs))
            }
        }))
    }
}
