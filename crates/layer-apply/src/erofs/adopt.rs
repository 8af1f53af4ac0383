//! Parents that are there only at the end of the layer.
//!
//! Most layers never need their parents: what is asked of them concerns directories without an entry, links to other
//! layers, whiteouts that hide nothing. So layers are read side by side, as if nothing was known of what is below, and
//! what that left open is settled here, in the tree, before it is written down.

use std::{
    collections::BTreeSet,
    io::{Read, Seek, Write},
};

use erofs_format::{FileType, NodeId};
use layer_model::{Error, ErrorKind, LayerPath, LayerPathBuf, Result};

use super::{erofs_error, tree::Builder};
use crate::{
    lowers::{Parents, below},
    walk::{Below, Place, Walker},
};

/// The name that a directory has in the root while it moves.
const ASIDE: &[u8] = b".layerkit-moved";

impl<W: Read + Write + Seek> Builder<'_, W> {
    /// Learns what lies below the layer: the tree becomes what it would be had that been known from the start.
    pub(super) fn adopt(&mut self, parents: Parents) -> Result<()> {
        self.lowers.learn(parents);
        self.last = None;
        let mut open: BTreeSet<LayerPathBuf> =
            self.implied.iter().filter(|(_, maybe)| **maybe).map(|(path, _)| path.clone()).collect();
        let mut settled = Vec::new();
        // Outermost first: what is below a link of the parents goes where that leads.
        while let Some(path) = open.pop_first() {
            let moved = self.settle_implied(path.as_path()).map_err(|error| error.at(path.as_path()))?;
            match moved {
                Some(to) => {
                    open = open.into_iter().map(|have| moved_to(have, &path, &to)).collect::<Result<_>>()?
                }
                None => settled.push(path),
            }
        }
        for path in self.whiteout_dirs.clone() {
            self.drop_needless_whiteouts(path.as_path())?;
        }
        // Innermost first: a directory that only held such whiteouts was never needed.
        for path in settled.iter().rev() {
            self.drop_needless_dir(path.as_path())?;
        }
        Ok(())
    }

    /// Gives a directory without an entry what the parents know of it, or moves what is in it: then it says where to.
    fn settle_implied(&mut self, path: LayerPath<'_>) -> Result<Option<LayerPathBuf>> {
        let Some(dir) = self.dir_at(path) else { return Ok(None) };
        let below = match path.split_last() {
            // Hidden by a mark that came after it was made: what it looks like was settled before that.
            Some((parent, name)) if !self.lowers.is_hidden(parent) => self.below(parent, name)?,
            _ => Below::Directory,
        };
        match (below, path.split_last()) {
            (Below::Directory, _) => {
                if let Some((metadata, xattrs)) = self.lowers.describe(path, true)? {
                    self.describe_dir(dir, path, &metadata, &xattrs)?;
                }
                self.implied.insert(path.to_owned(), false);
            }
            (Below::Nothing, _) => drop(self.implied.insert(path.to_owned(), false)),
            (Below::Link(_), _) => return self.move_through_link(path).map(Some),
            (Below::Other, Some((parent, name))) => {
                if self.holds_placed(dir, path) {
                    return Err(Error::new(ErrorKind::NotDirectory, "a parent has something else there"));
                }
                // Below something else there is nothing to delete.
                if let Some(above) = self.dir_at(parent) {
                    self.remove_object(above, name, path);
                }
            }
            (Below::Other, None) => {}
        }
        Ok(None)
    }

    /// The directory that the image has at exactly this path.
    fn dir_at(&self, path: LayerPath<'_>) -> Option<NodeId> {
        let tree = self.writer.tree();
        let found = path.components().try_fold(tree.root(), |dir, name| tree.find(dir, name))?;
        (tree.file_type(found) == FileType::Directory).then_some(found)
    }

    /// Moves what is in the directory `path` to where the parents' link of that name leads.
    fn move_through_link(&mut self, path: LayerPath<'_>) -> Result<LayerPathBuf> {
        let (Some((parent, name)), Some(from)) = (path.split_last(), self.dir_at(path)) else {
            return Ok(path.to_owned());
        };
        let above = self.dir_at(parent).unwrap_or(self.root());
        // Out of the way: only then the parents' link is seen.
        let root = self.root();
        let aside = (0..).map(|n: u64| [ASIDE, n.to_string().as_bytes()].concat());
        let aside =
            aside.into_iter().find(|name| self.writer.tree().find(root, name).is_none()).unwrap_or_default();
        self.writer.tree_mut().rename(above, name, root, &aside).map_err(erofs_error)?;
        let to = self.walk(path)?;
        let into = match to.place {
            Place::Here(dir) => dir,
            Place::Below | Place::Nowhere { .. } => self.make_dirs(to.path.as_path())?,
        };
        self.rekey(path, &to.path)?;
        self.merge_children(from, into, to.path.as_path())?;
        self.writer.tree_mut().remove(root, &aside);
        Ok(to.path)
    }

    /// Calls what is known of paths below `from` by their new names.
    fn rekey(&mut self, from: LayerPath<'_>, to: &LayerPathBuf) -> Result<()> {
        let from = from.to_owned();
        for set in [&mut self.whiteout_dirs, &mut self.fetched, &mut self.lowers.opaque] {
            for path in below(set, from.as_path()) {
                set.remove(&path);
                set.insert(moved_to(path, &from, to)?);
            }
        }
        let implied = self.implied.keys().filter(|path| path.as_path().starts_with(from.as_path()));
        for path in implied.cloned().collect::<Vec<_>>() {
            let maybe = self.implied.remove(&path).unwrap_or_default();
            // Where it goes there may be a directory with an entry of its own.
            let path = moved_to(path, &from, to)?;
            if self.dir_at(path.as_path()).is_none() {
                self.implied.insert(path, maybe);
            }
        }
        Ok(())
    }

    /// Moves all that is in `from` into `into`, the directory `path`; directories of the same name are merged.
    fn merge_children(&mut self, from: NodeId, into: NodeId, path: LayerPath<'_>) -> Result<()> {
        let children = self.writer.tree().children(from);
        let children: Vec<(Box<[u8]>, NodeId)> = children.map(|(name, child)| (name.into(), child)).collect();
        for (name, child) in children {
            let path = path.join(&name)?;
            let taken = self.writer.tree().find(into, &name);
            let is_dir = |node| self.writer.tree().file_type(node) == FileType::Directory;
            match taken {
                None => {}
                Some(_) if self.is_whiteout(child) => {
                    self.writer.tree_mut().remove(from, &name);
                    let Some((above, _)) = path.as_path().split_last() else { continue };
                    self.delete(into, above, &name)?;
                    continue;
                }
                Some(there) if self.is_whiteout(there) => {
                    self.writer.tree_mut().remove(into, &name);
                    self.writer.tree_mut().rename(from, &name, into, &name).map_err(erofs_error)?;
                    if self.writer.tree().file_type(child) == FileType::Directory {
                        self.hide(child, path.as_path())?;
                    }
                    continue;
                }
                Some(there) if is_dir(there) && is_dir(child) => {
                    // As deep as paths may be, which is bounded.
                    self.merge_children(child, there, path.as_path())?;
                    self.writer.tree_mut().remove(from, &name);
                    continue;
                }
                Some(_) => {
                    let error = Error::new(ErrorKind::Exists, "two names of the layer are one");
                    return Err(error.at(path.as_path()));
                }
            }
            self.writer.tree_mut().rename(from, &name, into, &name).map_err(erofs_error)?;
        }
        Ok(())
    }

    /// Removes the whiteouts of a directory that no parent has: they would be listed.
    fn drop_needless_whiteouts(&mut self, path: LayerPath<'_>) -> Result<()> {
        let Some(dir) = self.dir_at(path).filter(|_| !path.is_root()) else { return Ok(()) };
        if self.lowers.visible_dir(path)?.is_some() {
            return Ok(());
        }
        let whiteouts = self.writer.tree().children(dir).filter(|(_, child)| self.is_whiteout(*child));
        for name in whiteouts.map(|(name, _)| Box::from(name)).collect::<Vec<Box<[u8]>>>() {
            self.writer.tree_mut().remove(dir, &name);
        }
        self.whiteout_dirs.remove(&path.to_owned());
        Ok(())
    }

    /// Removes a directory without an entry that holds nothing and hides nothing: without it the layer says the same.
    fn drop_needless_dir(&mut self, path: LayerPath<'_>) -> Result<()> {
        let Some((parent, name)) = path.split_last() else { return Ok(()) };
        let Some(dir) = self.dir_at(path) else { return Ok(()) };
        if self.writer.tree().children(dir).next().is_some() || !self.implied.contains_key(&path.to_owned()) {
            return Ok(());
        }
        let hides = self.lowers.opaque.contains(&path.to_owned()) && !self.lowers.is_hidden(parent);
        if hides && self.lowers.dir(path)?.is_some() {
            return Ok(());
        }
        if let Some(above) = self.dir_at(parent) {
            self.remove_object(above, name, path);
        }
        Ok(())
    }
}

/// Where `path` is after all below `from` went to `to`.
fn moved_to(path: LayerPathBuf, from: &LayerPathBuf, to: &LayerPathBuf) -> Result<LayerPathBuf> {
    if !path.as_path().starts_with(from.as_path()) {
        return Ok(path);
    }
    let mut there = to.clone();
    for name in path.as_path().components().skip(from.as_path().depth()) {
        there.push(name)?;
    }
    Ok(there)
}
