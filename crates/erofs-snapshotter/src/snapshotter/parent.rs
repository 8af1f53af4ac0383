//! Parents of any form, for making an image over them.

use std::sync::Arc;

use layer_model::{AnyLayer, Error, ErrorKind, LayerDir, LayerTree, Node, Result, Xattrs};

/// A layer of any form, as something to look into.
///
/// Its root shows no extended attributes: a mount shows the root of the topmost layer alone, and an image that is
/// made over others would take theirs.
#[derive(Clone, Debug)]
pub(super) struct Parent(AnyLayer);

impl Parent {
    pub(super) fn new(layer: AnyLayer) -> Result<Self> {
        let parent = Self(layer);
        parent.tree()?;
        Ok(parent)
    }

    fn tree(&self) -> Result<&dyn LayerTree> {
        let opaque = || Error::new(ErrorKind::NotSupported, "the layer cannot be looked into");
        self.0.as_tree().ok_or_else(opaque)
    }
}

impl LayerTree for Parent {
    fn root(&self) -> Result<Arc<dyn LayerDir>> {
        Ok(Arc::new(Root(self.tree()?.root()?)))
    }
}

/// A root, but for its attributes.
struct Root(Arc<dyn LayerDir>);

impl LayerDir for Root {
    fn node(&self) -> Result<Node> {
        let mut node = self.0.node()?;
        node.xattrs = Xattrs::new();
        Ok(node)
    }

    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        self.0.lookup(name)
    }

    fn names(&self) -> Result<Vec<Box<[u8]>>> {
        self.0.names()
    }

    fn entries(&self) -> Result<Vec<(Box<[u8]>, Node)>> {
        self.0.entries()
    }

    fn open_dir(&self, name: &[u8]) -> Result<Arc<dyn LayerDir>> {
        self.0.open_dir(name)
    }

    fn open_file(&self, name: &[u8]) -> Result<Box<dyn layer_model::ReadAt>> {
        self.0.open_file(name)
    }
}
