//! Hard links, also to what comes later or lies in another layer.

use std::io::{Read, Seek, Write};

use erofs_format::{FileType, NodeId};
use layer_model::{LayerPath, Metadata, NodeKind, Result, WarningKind, Xattrs};

use super::{erofs_error, tree::Builder};
use crate::{
    engine::{LateLink, check_link, invalid, missing},
    walk::Place,
};

impl<W: Read + Write + Seek> Builder<'_, W> {
    pub(super) fn hard_link(
        &mut self,
        path: LayerPath<'_>,
        target: LayerPath<'_>,
        metadata: &Metadata,
        xattrs: &Xattrs,
    ) -> Result<()> {
        check_link(path, target)?;
        if !self.try_link(path, target, metadata, xattrs)? {
            self.late.push(LateLink::new(path, target, metadata, xattrs, self.budget.entries));
        }
        Ok(())
    }

    /// Makes the link if its target is there.
    fn try_link(
        &mut self,
        path: LayerPath<'_>,
        target: LayerPath<'_>,
        metadata: &Metadata,
        xattrs: &Xattrs,
    ) -> Result<bool> {
        let Some(node) = self.link_target(target)? else { return Ok(false) };
        let Some((parent, name)) = path.split_last() else { return Err(invalid("hard link over the root")) };
        let (above, dir) = self.parent_dir(parent)?;
        let path = above.as_path().join(name)?;
        if self.writer.tree().find(dir, name) == Some(node) {
            // The same file by another of its names, or by the same: only what describes it counts.
            if self.writer.tree().names(node) == 1 {
                return Err(invalid("hard link to itself"));
            }
        } else {
            self.clear(dir, name, path.as_path())?;
            self.writer.tree_mut().link(dir, name, node).map_err(erofs_error)?;
        }
        let (metadata, added) = self.described(path.as_path(), metadata, xattrs)?;
        self.redescribe(node, metadata, &added)?;
        Ok(true)
    }

    fn link_target(&mut self, target: LayerPath<'_>) -> Result<Option<NodeId>> {
        let Some((parent, name)) = target.split_last() else { return Ok(None) };
        let walked = self.walk(parent)?;
        if let Place::Here(dir) = walked.place
            && let Some(found) = self.writer.tree().find(dir, name)
        {
            return match self.writer.tree().file_type(found) {
                FileType::Directory => Err(invalid("hard link to a directory")),
                _ if self.is_whiteout(found) => Ok(None),
                _ => Ok(Some(found)),
            };
        }
        if matches!(walked.place, Place::Nowhere { .. }) || !self.writer.takes_content() {
            return Ok(None);
        }
        self.fetch(walked.path.as_path(), name)
    }

    /// Brings up what lower layers have at `name` in `parent`, for a hard link to it.
    fn fetch(&mut self, parent: LayerPath<'_>, name: &[u8]) -> Result<Option<NodeId>> {
        let Some(lower) = self.lowers.visible_dir(parent)? else { return Ok(None) };
        let Some(node) = lower.lookup(name)? else { return Ok(None) };
        match node.kind {
            NodeKind::Directory => return Err(invalid("hard link to a directory")),
            NodeKind::Socket | NodeKind::Whiteout => return Ok(None),
            _ => {}
        }
        let made = self.bring(parent, name, &node, &*lower)?;
        self.fetched.insert(parent.join(name)?);
        Ok(Some(made))
    }

    /// Makes the links whose targets came after them.
    pub(super) fn late_links(&mut self) -> Result<()> {
        let left = LateLink::settle_all(std::mem::take(&mut self.late), |link| {
            let (path, target) = (link.path.as_path(), link.target.as_path());
            if self.is_overtaken(path)? {
                self.warn(WarningKind::DuplicateEntry, path, b"");
                return Ok(true);
            }
            self.try_link(path, target, &link.metadata, &link.xattrs)
        })?;
        left.first().map_or(Ok(()), |link| Err(missing(link)))
    }

    /// Whether a later entry of the layer is at a link's path: the last one counts.
    fn is_overtaken(&mut self, path: LayerPath<'_>) -> Result<bool> {
        let Some((parent, name)) = path.split_last() else { return Ok(true) };
        let walked = self.walk(parent)?;
        let Place::Here(dir) = walked.place else { return Ok(false) };
        let fetched = self.fetched.contains(&walked.path.as_path().join(name)?);
        let found = self.writer.tree().find(dir, name);
        Ok(found.is_some_and(|found| !fetched && !self.is_whiteout(found)))
    }
}
