//! From paths of the layer to directories of the image's tree.

use std::io::{Read, Seek, Write};

use erofs_format::{FileType, NodeId};
use layer_model::{ErrorKind, LayerPath, LayerPathBuf, NodeKind, Result};

use super::{erofs_error, tree::Builder};
use crate::walk::{self, Below, Place, Step, Walk, Walked, Walker, not_directory};

impl<W: Read + Write + Seek> Builder<'_, W> {
    /// The directory `path`, with links followed; made if it is missing.
    pub(super) fn parent_dir(&mut self, path: LayerPath<'_>) -> Result<(LayerPathBuf, NodeId)> {
        if let Some((asked, dir)) = &self.last
            && asked.as_path() == path
        {
            return Ok((asked.clone(), *dir));
        }
        let walked = self.walk(path)?;
        let dir = match walked.place {
            Place::Here(dir) => dir,
            Place::Below | Place::Nowhere { .. } => self.make_dirs(walked.path.as_path())?,
        };
        if walked.path.as_path() == path {
            self.last = Some((walked.path.clone(), dir));
        }
        Ok((walked.path, dir))
    }

    /// Looks for the directory `path`, following links, changing nothing.
    pub(super) fn walk(&mut self, path: LayerPath<'_>) -> Result<Walked<NodeId>> {
        let start = (LayerPathBuf::root(), self.root());
        let Walk { at, .. } = walk::walk(self, start, path.components())?;
        Ok(at)
    }

    /// As [`Builder::walk`], for a deletion: below something that is no directory there is nothing to delete.
    pub(super) fn walk_to_remove(&mut self, path: LayerPath<'_>) -> Result<Option<Walked<NodeId>>> {
        match self.walk(path) {
            Err(error) if error.kind() == &ErrorKind::NotDirectory => Ok(None),
            walked => walked.map(Some),
        }
    }

    /// Makes the directory `path`, which has no links, with all that is missing above it.
    pub(super) fn make_dirs(&mut self, path: LayerPath<'_>) -> Result<NodeId> {
        self.budget.path(path)?;
        let mut at = LayerPathBuf::root();
        let mut dir = self.root();
        for name in path.components() {
            at.push(name)?;
            dir = match self.writer.tree().find(dir, name) {
                Some(found) if self.writer.tree().file_type(found) == FileType::Directory => found,
                Some(found) if self.is_whiteout(found) => {
                    self.writer.tree_mut().remove(dir, name);
                    let made = self.imply(dir, name, at.as_path(), true)?;
                    self.hide(made, at.as_path())?;
                    made
                }
                Some(_) => return Err(not_directory(at.as_path())),
                None => self.imply(dir, name, at.as_path(), false)?,
            };
        }
        Ok(dir)
    }

    /// Makes a directory that no entry describes. What was deleted (`opaque`) is no model for what takes its place.
    fn imply(&mut self, dir: NodeId, name: &[u8], path: LayerPath<'_>, opaque: bool) -> Result<NodeId> {
        let hidden = opaque || path.parent().is_some_and(|parent| self.lowers.is_hidden(parent));
        let known = if hidden { None } else { self.lowers.describe(path, true)? };
        let (metadata, xattrs) = known.unwrap_or_else(|| self.options.implied_dir());
        let maybe = !opaque && self.lowers.may_shine_through(path);
        let (metadata, xattrs) = self.described(path, &metadata, &xattrs)?;
        let tree = self.writer.tree_mut();
        let made = tree.add(dir, name, metadata, erofs_format::NewFile::Directory).map_err(erofs_error)?;
        tree.set_xattrs(made, xattrs.iter()).map_err(erofs_error)?;
        self.implied.insert(path.to_owned(), maybe);
        Ok(made)
    }
}

impl<W: Read + Write + Seek> Walker for Builder<'_, W> {
    type Dir = NodeId;

    fn root(&self) -> NodeId {
        self.writer.tree().root()
    }

    fn step_here(&mut self, dir: NodeId, path: LayerPath<'_>, name: &[u8]) -> Result<Option<Step<NodeId>>> {
        let tree = self.writer.tree();
        let Some(found) = tree.find(dir, name) else { return Ok(None) };
        Ok(Some(match tree.file_type(found) {
            FileType::Directory => Step::Down(Place::Here(found)),
            FileType::Symlink => Step::Link { target: tree.link_target(found).into(), below: false },
            _ if self.is_whiteout(found) => Step::Down(Place::Nowhere { whiteout: true }),
            _ => return Err(not_directory(path.join(name)?.as_path())),
        }))
    }

    fn below(&mut self, parent: LayerPath<'_>, name: &[u8]) -> Result<Below> {
        let Some(dir) = self.lowers.visible_dir(parent)? else { return Ok(Below::Nothing) };
        Ok(match dir.lookup(name)?.map(|node| node.kind) {
            None | Some(NodeKind::Whiteout) => Below::Nothing,
            Some(NodeKind::Directory) => Below::Directory,
            Some(NodeKind::Symlink { target }) => Below::Link(target),
            Some(_) => Below::Other,
        })
    }

    fn nearest(&mut self, _: LayerPath<'_>) -> (LayerPathBuf, NodeId) {
        (LayerPathBuf::root(), self.root())
    }

    fn check_path(&self, path: LayerPath<'_>) -> Result<()> {
        self.budget.path(path)
    }
}
