//! A tree as a stream of changes: what makes it out of nothing.

use std::{collections::HashMap, fmt, sync::Arc};

use crate::{
    Action, Change, Content, Entry, EntryKind, LayerDir, LayerPathBuf, LayerSource, LayerTree, Monitor, Node,
    NodeKind, Origin, ReadAt, Result, Warning, WarningKind, tree::InodeId,
};

/// The changes that a tree consists of: of a single layer those that it makes, whiteouts and opaque marks included; of
/// a merged tree all that is in it.
///
/// Directories come before what is in them, siblings in bytewise order, the root first. Of a file with several names
/// the first has the content, the others are hard links. Sockets are left out with a warning; markers that refer to
/// lower layers (redirect, metacopy) are an error.
///
/// # Memory
/// The entries of the directories on the way, and a path for each file with several names.
pub struct TreeSource<'a> {
    monitor: &'a dyn Monitor,
    tree: Box<dyn LayerTree + 'a>,
    /// The directories from the root to the current one.
    open: Vec<Frame>,
    links: HashMap<InodeId, LayerPathBuf>,
    started: bool,
    failed: bool,
    /// What was given last; the change borrows from here.
    lent: Lent,
    given: u64,
}

struct Frame {
    dir: Arc<dyn LayerDir>,
    path: LayerPathBuf,
    entries: std::vec::IntoIter<(Box<[u8]>, Node)>,
}

#[derive(Default)]
struct Lent {
    path: Option<LayerPathBuf>,
    node: Option<Node>,
    link: Option<LayerPathBuf>,
    file: Option<Box<dyn ReadAt>>,
    /// The directory given last is opaque, which is a change of its own.
    opaque: bool,
}

impl<'a> TreeSource<'a> {
    /// The changes of `tree`, which may be borrowed, shared or given.
    pub fn new(tree: impl LayerTree + 'a, monitor: &'a dyn Monitor) -> Self {
        Self {
            monitor,
            tree: Box::new(tree),
            open: Vec::new(),
            links: HashMap::new(),
            started: false,
            failed: false,
            lent: Lent::default(),
            given: 0,
        }
    }

    /// Goes to the next change. False when there is none.
    fn advance(&mut self) -> Result<bool> {
        if std::mem::take(&mut self.lent.opaque) {
            self.lent.node = None;
            return Ok(true);
        }
        self.lent = Lent::default();
        if !self.started {
            self.started = true;
            let dir = self.tree.root()?;
            let node = dir.node()?;
            let entries = dir.entries()?.into_iter();
            self.open.push(Frame { dir, path: LayerPathBuf::root(), entries });
            self.lend(LayerPathBuf::root(), node);
            return Ok(true);
        }
        loop {
            let Some(frame) = self.open.last_mut() else { return Ok(false) };
            let Some((name, node)) = frame.entries.next() else {
                self.open.pop();
                continue;
            };
            let path = frame.path.as_path().join(&name)?;
            if node.kind == NodeKind::Socket {
                self.monitor.warn(&Warning::new(WarningKind::SocketDropped, path.as_path()));
                continue;
            }
            let dir = frame.dir.clone();
            self.enter(&*dir, &path, &name, &node).map_err(|error| error.at(path.as_path()))?;
            self.lend(path, node);
            return Ok(true);
        }
    }

    fn lend(&mut self, path: LayerPathBuf, node: Node) {
        self.lent.opaque = node.markers.opaque;
        (self.lent.path, self.lent.node) = (Some(path), Some(node));
    }

    /// Opens what the change to come needs.
    fn enter(&mut self, dir: &dyn LayerDir, path: &LayerPathBuf, name: &[u8], node: &Node) -> Result<()> {
        node.markers.check_self_contained()?;
        if node.is_dir() {
            let child = dir.open_dir(name)?;
            let entries = child.entries()?.into_iter();
            self.open.push(Frame { dir: child, path: path.clone(), entries });
            return Ok(());
        }
        if let Some(inode) = node.inode.filter(|_| node.nlink > 1 && !node.is_whiteout()) {
            if let Some(first) = self.links.get(&inode) {
                self.lent.link = Some(first.clone());
                return Ok(());
            }
            self.links.insert(inode, path.clone());
        }
        if matches!(node.kind, NodeKind::File { size } if size > 0) {
            self.lent.file = Some(dir.open_file(name)?);
        }
        Ok(())
    }

    fn change(&self) -> Option<Change<'_>> {
        let path = self.lent.path.as_ref()?.as_path();
        let Some(node) = &self.lent.node else { return Some(Change::opaque(path)) };
        let kind = match (&node.kind, &self.lent.link) {
            (_, Some(target)) => EntryKind::HardLink { target: target.as_path() },
            (NodeKind::Directory, _) => EntryKind::Directory,
            (NodeKind::File { size }, _) => EntryKind::File(match &self.lent.file {
                Some(file) => Content::from_range(&**file, 0, *size),
                None => Content::empty(),
            }),
            (NodeKind::Symlink { target }, _) => EntryKind::Symlink { target },
            (NodeKind::CharDevice(device), _) => EntryKind::CharDevice(*device),
            (NodeKind::BlockDevice(device), _) => EntryKind::BlockDevice(*device),
            (NodeKind::Fifo, _) => EntryKind::Fifo,
            (NodeKind::Whiteout | NodeKind::Socket, _) => return Some(Change::remove(path)),
        };
        let entry = Entry::new(kind, node.metadata).with_xattrs(&node.xattrs);
        Some(Change::new(path, Action::Upsert(entry)))
    }
}

impl LayerSource for TreeSource<'_> {
    fn next_change(&mut self) -> Result<Option<Change<'_>>> {
        if self.failed {
            return Ok(None);
        }
        match self.advance() {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => {
                self.failed = true;
                return Err(error);
            }
        }
        let origin = Origin { index: self.given, ..Origin::default() };
        self.given += 1;
        Ok(self.change().map(|change| change.from_origin(origin)))
    }
}

impl fmt::Debug for TreeSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TreeSource").field("given", &self.given).finish_non_exhaustive()
    }
}
