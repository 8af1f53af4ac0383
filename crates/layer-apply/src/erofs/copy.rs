//! A whole tree into an image, without the detour over changes.

use std::{
    collections::HashMap,
    io::{Read, Seek, Write},
};

use erofs_format::{NewFile, NodeId};
use layer_model::{
    Content, Error, ErrorKind, LayerDir, LayerPath, LayerPathBuf, LayerTree, Node, NodeKind, Result,
    tree::InodeId,
};

use super::{model_error, tree::Builder};

impl<W: Read + Write + Seek> Builder<'_, W> {
    pub(super) fn add_tree(&mut self, tree: &dyn LayerTree) -> Result<()> {
        let root = tree.root()?;
        let node = root.node()?;
        self.implied.remove(&LayerPathBuf::root());
        self.describe_dir(self.writer.tree().root(), LayerPath::ROOT, &node.metadata, &node.xattrs)?;
        let mut links = HashMap::new();
        let mut open = vec![(root, LayerPathBuf::root())];
        while let Some((dir, path)) = open.pop() {
            if self.monitor.should_stop() {
                return Err(Error::cancelled());
            }
            let before = open.len();
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
                    open.push((dir.open_dir(&name)?, path));
                }
            }
            // The first directory next, so that data lies in the order of the paths.
            open[before..].reverse();
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
        let markers = &node.markers;
        for (set, marker) in
            [(markers.redirect.is_some(), "redirect"), (markers.metacopy.is_some(), "metacopy")]
        {
            if set {
                let message = "what the file holds is in a lower layer";
                return Err(Error::new(ErrorKind::UnsupportedMarker { marker }, message));
            }
        }
        let shared = node.inode.filter(|_| node.nlink > 1 && !node.is_dir());
        let Some((parent, _)) = path.split_last() else { return Ok(()) };
        let (_, above) = self.parent_dir(parent)?;
        if let Some(&first) = shared.and_then(|inode| links.get(&inode)) {
            return self.writer.tree_mut().link(above, name, first).map_err(model_error);
        }
        let (metadata, xattrs) = (&node.metadata, &node.xattrs);
        let mut special = |file| self.special(parent, name, metadata, xattrs, file);
        let device = |device: layer_model::Device| erofs_format::DeviceNumber {
            major: device.major,
            minor: device.minor,
        };
        match &node.kind {
            NodeKind::Directory => special(NewFile::Directory)?,
            NodeKind::File { size } => {
                let data = dir.open_file(name)?;
                self.file(parent, name, metadata, xattrs, Content::from_range(&*data, 0, *size), None)?;
            }
            NodeKind::Symlink { target } => special(NewFile::Symlink(target))?,
            NodeKind::CharDevice(number) => special(NewFile::CharDevice(device(*number)))?,
            NodeKind::BlockDevice(number) => special(NewFile::BlockDevice(device(*number)))?,
            NodeKind::Fifo => special(NewFile::Fifo)?,
            NodeKind::Socket => special(NewFile::Socket)?,
            NodeKind::Whiteout => return self.remove(path),
        }
        let made = self.writer.tree().find(above, name);
        if let (Some(inode), Some(made)) = (shared, made) {
            links.insert(inode, made);
        }
        match made {
            Some(made) if markers.opaque => self.hide(made, path),
            _ => Ok(()),
        }
    }
}
