//! Files that are hard links to other names than before, and are otherwise unchanged.

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
};

use layer_model::{LayerPath, LayerPathBuf, LayerTree, Monitor, Node, Result};

use crate::visit;

/// Which files count as modified because of their links alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    /// None do, as with the reference.
    Ignored,
    /// In an upper, those that have or had several names: the copy of one name of a lower file is a file of its
    /// own, unless the overlay's index keeps the names together.
    Copies,
    /// These names.
    Names(HashSet<LayerPathBuf>),
}

impl Topology {
    /// Whether the file at `path`, in which nothing else changed, is to count as modified.
    pub(crate) fn changed(&self, path: LayerPath<'_>, new: &Node, old: &Node) -> bool {
        let linked = new.nlink > 1 || old.nlink > 1;
        match self {
            Self::Ignored => false,
            Self::Copies => linked && !new.is_dir() && new.markers.nlink.is_none() && new.inode != old.inode,
            Self::Names(names) => !new.is_dir() && names.contains(&path.to_owned()),
        }
    }
}

/// The names in both trees that belong to another file than before: those whose first name, in path order,
/// is another one. That is enough to split and to join files: the first name stays what it is.
pub(crate) fn relinked(
    old: &dyn LayerTree,
    new: &dyn LayerTree,
    monitor: &dyn Monitor,
) -> Result<HashSet<LayerPathBuf>> {
    let [old, new] = [old, new].map(|tree| first_names(tree, monitor));
    let (old, new) = (old?, new?);
    let first = |names: &HashMap<LayerPathBuf, LayerPathBuf>, path: &LayerPathBuf| {
        names.get(path).unwrap_or(path).clone()
    };
    let names: HashSet<_> = old.keys().chain(new.keys()).cloned().collect();
    Ok(names.into_iter().filter(|path| first(&old, path) != first(&new, path)).collect())
}

/// For every name of a file with several, the first name of the file.
fn first_names(tree: &dyn LayerTree, monitor: &dyn Monitor) -> Result<HashMap<LayerPathBuf, LayerPathBuf>> {
    let mut files = HashMap::new();
    let mut names = HashMap::new();
    visit::files(tree, monitor, &mut |path, node| {
        if let (Some(inode), 2..) = (node.inode, node.nlink) {
            let first = files.entry(inode).or_insert_with(|| path.clone());
            names.insert(path, first.clone());
        }
        ControlFlow::Continue(())
    })?;
    Ok(names)
}
