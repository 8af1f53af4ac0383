//! Deletions and opaque directories.

use std::io::{Read, Seek, Write};

use erofs_format::{FileType, NewFile, NodeId};
use layer_model::{LayerPath, LayerPathBuf, Result, WarningKind};

use super::{erofs_error, options::Whiteouts, tree::Builder};
use crate::{
    engine::invalid,
    walk::{Place, Walked, Walker},
};

/// The attributes that mark a directory as opaque, and as one that may hold whiteouts.
pub(super) const OPAQUE: (&[u8], &[u8]) = (b"opaque", b"y");
pub(super) const ORIGIN: (&[u8], &[u8]) = (b"origin", b"");

impl<W: Read + Write + Seek> Builder<'_, W> {
    pub(super) fn remove(&mut self, path: LayerPath<'_>) -> Result<()> {
        let Some((parent, name)) = path.split_last() else { return Err(invalid("a deletion of the root")) };
        let Some(walked) = self.walk_to_remove(parent)? else { return Ok(()) };
        if self.options.whiteouts == Whiteouts::Leave {
            return Ok(());
        }
        let Some(dir) = self.dir_with_lowers(&walked)? else { return Ok(()) };
        let above = walked.path;
        if self.lowers.is_hidden(above.as_path()) {
            // Overlayfs would list the name.
            return Ok(());
        }
        let unknown = self.lowers.is_unknown();
        if !unknown && dir != self.root() && self.lowers.visible_dir(above.as_path())?.is_none() {
            return Ok(());
        }
        self.delete(dir, above.as_path(), name)
    }

    pub(super) fn opaque(&mut self, path: LayerPath<'_>) -> Result<()> {
        if self.options.whiteouts == Whiteouts::Leave {
            return Ok(());
        }
        if path.is_root() {
            // Overlayfs ignores the mark there: the end of the layer finds other words for it.
            self.lowers.opaque.insert(LayerPathBuf::root());
            return Ok(());
        }
        let Some(walked) = self.walk_to_remove(path)? else { return Ok(()) };
        let Some(dir) = self.dir_with_lowers(&walked)? else { return Ok(()) };
        self.hide(dir, walked.path.as_path())
    }

    /// The directory that a walk led to, made where lower layers may have it; [`None`] where there is nothing to hide.
    fn dir_with_lowers(&mut self, walked: &Walked<NodeId>) -> Result<Option<NodeId>> {
        match walked.place {
            Place::Here(dir) => Ok(Some(dir)),
            // Deleted with all below it already, or never there.
            Place::Nowhere { whiteout: true } => Ok(None),
            Place::Nowhere { .. } if !self.lowers.may_shine_through(walked.path.as_path()) => Ok(None),
            Place::Below | Place::Nowhere { .. } => self.make_dirs(walked.path.as_path()).map(Some),
        }
    }

    /// Hides what lower layers have at `name` in `dir`, which is at `above`.
    pub(super) fn delete(&mut self, dir: NodeId, above: LayerPath<'_>, name: &[u8]) -> Result<()> {
        let path = above.join(name)?;
        if let Some(there) = self.writer.tree().find(dir, name) {
            // Something of the same layer: that counts, and hides as much, but a directory must not show lower
            // children.
            let is_dir = self.writer.tree().file_type(there) == FileType::Directory;
            if self.is_whiteout(there) {
                return Ok(());
            }
            if is_dir && self.holds_placed(there, path.as_path()) {
                return self.hide(there, path.as_path());
            }
            if !is_dir && !self.fetched.contains(&path) {
                return Ok(());
            }
            self.remove_object(dir, name, path.as_path());
        }
        let metadata = erofs_format::Metadata::default();
        self.writer.tree_mut().add(dir, name, metadata, NewFile::WHITEOUT).map_err(erofs_error)?;
        self.whiteout_dirs.insert(above.to_owned());
        Ok(())
    }

    /// Whether the directory has an entry, or something with an entry is in it.
    pub(super) fn holds_placed(&self, dir: NodeId, path: LayerPath<'_>) -> bool {
        if !self.implied.contains_key(&path.to_owned()) {
            return true;
        }
        let tree = self.writer.tree();
        tree.children(dir).any(|(name, child)| {
            let Ok(path) = path.join(name) else { return false };
            match tree.file_type(child) {
                FileType::Directory => self.holds_placed(child, path.as_path()),
                _ => !self.is_whiteout(child) && !self.fetched.contains(&path),
            }
        })
    }

    /// Makes a directory opaque, unless the image is for itself. Whiteouts in it have no purpose from then on, and would
    /// be listed.
    pub(super) fn hide(&mut self, dir: NodeId, path: LayerPath<'_>) -> Result<()> {
        if self.options.whiteouts == Whiteouts::Leave {
            return Ok(());
        }
        self.mark(dir, OPAQUE)?;
        if self.lowers.opaque.insert(path.to_owned()) {
            self.drop_hidden(dir, path)?;
        }
        Ok(())
    }

    /// Takes away what is only in a directory because of lower layers: whiteouts, files brought up, directories made
    /// to hold such.
    fn drop_hidden(&mut self, dir: NodeId, path: LayerPath<'_>) -> Result<()> {
        let children = self.writer.tree().children(dir);
        let children: Vec<(Box<[u8]>, NodeId)> = children.map(|(name, child)| (name.into(), child)).collect();
        for (name, child) in children {
            let child_path = path.join(&name)?;
            let is_dir = self.writer.tree().file_type(child) == FileType::Directory;
            if is_dir {
                self.drop_hidden(child, child_path.as_path())?;
            }
            let unused = match is_dir {
                true => {
                    self.implied.contains_key(&child_path)
                        && self.writer.tree().children(child).next().is_none()
                }
                false => self.is_whiteout(child) || self.fetched.contains(&child_path),
            };
            if unused {
                self.remove_object(dir, &name, child_path.as_path());
            }
        }
        self.whiteout_dirs.remove(&path.to_owned());
        Ok(())
    }

    pub(super) fn mark(&mut self, dir: NodeId, (suffix, value): (&[u8], &[u8])) -> Result<()> {
        let name = self.options.marker_namespace().name(suffix);
        self.writer.tree_mut().set_xattr(dir, &name, value).map_err(erofs_error)
    }

    pub(super) fn write_root_opaque(&mut self) -> Result<()> {
        self.warn(WarningKind::RootOpaque, LayerPath::ROOT, b"");
        if self.lowers.is_unknown() {
            // Who merges images of layers knows the mark there, though overlayfs does not.
            return self.mark(self.root(), OPAQUE);
        }
        let Some(lower) = self.lowers.dir(LayerPath::ROOT)? else { return Ok(()) };
        for name in lower.names()? {
            self.delete(self.root(), LayerPath::ROOT, &name)?;
        }
        Ok(())
    }
}
