//! What lower layers have, and what of it shows.

use std::{collections::BTreeSet, sync::Arc};

use layer_model::{
    Base, LayerDir, LayerPath, LayerPathBuf, LayerTree, Metadata, Result, Xattrs, merged::Merged,
    tree::LayerTreeExt,
};

/// What lies below the layer.
#[derive(Debug)]
pub(crate) enum Parents {
    /// These layers as one tree, or nothing.
    Known(Option<Merged>),
    /// Something that cannot be asked yet.
    Unknown,
}

impl Parents {
    /// The layers of a base, as one tree.
    pub(crate) fn of<P: LayerTree + Clone + 'static>(base: Base<'_, P>) -> Self {
        match base {
            Base::Empty => Self::Known(None),
            Base::Layers(stack) => Self::Known(Some(Merged::of_stack(stack))),
            Base::Unknown => Self::Unknown,
        }
    }
}

/// The layers below a layer in the making, and the directories of it that hide them.
pub(crate) struct Lowers {
    parents: Parents,
    /// Directories that hide what lower layers have below them, whether they carry the marker or need none.
    pub(crate) opaque: BTreeSet<LayerPathBuf>,
    /// The directory of the lower layers that was asked last.
    asked: Option<(LayerPathBuf, Option<Arc<dyn LayerDir>>)>,
}

impl Lowers {
    pub(crate) fn new(parents: Parents) -> Self {
        Self { parents, opaque: BTreeSet::new(), asked: None }
    }

    /// Says what is below, where that was unknown. What is opaque stays so.
    pub(crate) fn learn(&mut self, parents: Parents) {
        self.parents = parents;
        self.asked = None;
    }

    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self.parents, Parents::Unknown)
    }

    /// Whether the root hides all lower layers, which overlayfs cannot say with a marker.
    pub(crate) fn is_root_opaque(&self) -> bool {
        self.opaque.contains(&LayerPathBuf::root())
    }

    /// Whether nothing of lower layers shines through below the directory `path`.
    pub(crate) fn is_hidden(&self, path: LayerPath<'_>) -> bool {
        let is_opaque = |path: LayerPath<'_>| self.opaque.contains(&path.to_owned());
        !self.opaque.is_empty()
            && (self.is_root_opaque() || path.ancestors().any(is_opaque) || is_opaque(path))
    }

    /// Whether lower layers that cannot be asked yet may have something at `path`.
    pub(crate) fn may_shine_through(&self, path: LayerPath<'_>) -> bool {
        self.is_unknown() && !path.parent().is_some_and(|parent| self.is_hidden(parent))
    }

    /// The directory that lower layers have at `path`, whether it is hidden or not.
    pub(crate) fn dir(&mut self, path: LayerPath<'_>) -> Result<Option<Arc<dyn LayerDir>>> {
        let Parents::Known(Some(merged)) = &self.parents else { return Ok(None) };
        if let Some((asked, found)) = &self.asked
            && asked.as_path() == path
        {
            return Ok(found.clone());
        }
        let found = match (&self.asked, path.split_last()) {
            // One step down from the last directory, as on the way down a path.
            (Some((above, dir)), Some((parent, name))) if above.as_path() == parent => match dir {
                Some(dir) if dir.lookup(name)?.is_some_and(|node| node.is_dir()) => Some(dir.open_dir(name)?),
                _ => None,
            },
            (_, None) => Some(merged.root()?),
            _ => merged.find_dir(path)?,
        };
        self.asked = Some((path.to_owned(), found.clone()));
        Ok(found)
    }

    /// The directory of lower layers that the target's directory `path` is merged with.
    pub(crate) fn visible_dir(&mut self, path: LayerPath<'_>) -> Result<Option<Arc<dyn LayerDir>>> {
        if self.is_hidden(path) { Ok(None) } else { self.dir(path) }
    }

    /// Metadata and attributes of the directory `path` as lower layers have it, whether it is hidden or not;
    /// [`None`] where they have none.
    pub(crate) fn describe(
        &mut self,
        path: LayerPath<'_>,
        keep_trusted: bool,
    ) -> Result<Option<(Metadata, Xattrs)>> {
        let Some(lower) = self.dir(path)? else { return Ok(None) };
        let node = lower.node().map_err(|e| e.at(path))?;
        let mut xattrs = node.xattrs;
        xattrs.retain(|name, _| keep_trusted || !name.starts_with(b"trusted."));
        Ok(Some((node.metadata, xattrs)))
    }

    /// Lets go of what is known of `path` and below it, as it is about to go.
    pub(crate) fn forget(&mut self, path: LayerPath<'_>) {
        for gone in below(&self.opaque, path) {
            self.opaque.remove(&gone);
        }
    }
}

/// What of `set` is at or below `path`.
pub(crate) fn below(set: &BTreeSet<LayerPathBuf>, path: LayerPath<'_>) -> Vec<LayerPathBuf> {
    set.range(path.to_owned()..).take_while(|have| have.as_path().starts_with(path)).cloned().collect()
}
