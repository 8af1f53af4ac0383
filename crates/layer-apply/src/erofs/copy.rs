//! A whole tree into an image, without the detour over changes.

use std::{
    collections::HashMap,
    io::{Read, Seek, Write},
    sync::Arc,
};

use erofs_format::{NewFile, NodeId};
use layer_model::{
    Content, Error, LayerDir, LayerPath, LayerPathBuf, LayerTree, Node, NodeKind, Result, tree::InodeId,
};

use super::{
    erofs_error,
    tree::{Builder, number},
};

/// A directory whose turn comes: the one above it, its name in there, and its path.
type Waiting = (Arc<dyn LayerDir>, Box<[u8]>, LayerPathBuf);

impl<W: Read + Write + Seek> Builder<'_, W> {
    pub(super) fn add_tree(&mut self, tree: &dyn LayerTree) -> Result<()> {
        let root = tree.root()?;
        let node = root.node()?;
        self.implied.remove(&LayerPathBuf::root());
        self.describe_dir(self.writer.tree().root(), LayerPath::ROOT, &node.metadata, &node.xattrs)?;
        let mut links = HashMap::new();
        // Directories wait with the one above them, and are opened when their turn comes: only those on the way are
        // open at once.
        let mut todo: Vec<Waiting> = Vec::new();
        let mut next = Some((root, LayerPathBuf::root()));
        while let Some((dir, path)) = next {
            if self.monitor.should_stop() {
                return Err(Error::cancelled());
            }
            let before = todo.len();
            for (name, node) in dir.entries()? {
                let path = path.as_path().join(&name)?;
                if self.options.excludes(path.as_path()) {
                    continue;
                }
                self.monitor.entry(path.as_path());
                self.budget.entry(path.as_path())?;
                self.add_node(&*dir, path.as_path(), &name, &node, &mut links)
                    .map_err(|error| error.at(path.as_path()))?;
                if node.is_dir() {
                    todo.push((dir.clone(), name, path));
                }
            }
            // The first directory next, so that data lies in the order of the paths.
            todo[before..].reverse();
            next = match todo.pop() {
                Some((above, name, path)) => Some((above.open_dir(&name)?, path)),
                None => None,
            };
        }
        Ok(())
    }

    fn add_node(
        &mut self,
        dir: &dyn LayerDir,
        path: LayerPath<'_>,
        name: &[u8],
        node: &Node,
        links: &mut HashMap<InodeId, NodeId>,
    ) -> Result<()> {
        node.markers.check_self_contained()?;
        if node.is_whiteout() {
            return self.remove(path);
        }
        let shared = node.inode.filter(|_| node.nlink > 1 && !node.is_dir());
        let Some((parent, _)) = path.split_last() else { return Ok(()) };
        if let Some(&first) = shared.and_then(|inode| links.get(&inode)) {
            let (_, above) = self.parent_dir(parent)?;
            return self.writer.tree_mut().link(above, name, first).map_err(erofs_error);
        }
        let made = self.bring(parent, name, node, dir)?;
        if let Some(inode) = shared {
            links.insert(inode, made);
        }
        if node.markers.opaque { self.hide(made, path) } else { Ok(()) }
    }

    /// Adds what `node` is, the entry `name` of `dir`, under the same name to `parent`.
    pub(super) fn bring(
        &mut self,
        parent: LayerPath<'_>,
        name: &[u8],
        node: &Node,
        dir: &dyn LayerDir,
    ) -> Result<NodeId> {
        let (metadata, xattrs) = (&node.metadata, &node.xattrs);
        let file = match &node.kind {
            NodeKind::File { size } => {
                let data = dir.open_file(name)?;
                let content = Content::from_range(&*data, 0, *size);
                return self.file(parent, name, metadata, xattrs, content, None);
            }
            NodeKind::Directory => NewFile::Directory,
            NodeKind::Symlink { target } => NewFile::Symlink(target),
            NodeKind::CharDevice(device) => NewFile::CharDevice(number(*device)?),
            NodeKind::BlockDevice(device) => NewFile::BlockDevice(number(*device)?),
            NodeKind::Fifo => NewFile::Fifo,
            NodeKind::Socket => NewFile::Socket,
            NodeKind::Whiteout => NewFile::WHITEOUT,
        };
        self.special(parent, name, metadata, xattrs, file)
    }
}
