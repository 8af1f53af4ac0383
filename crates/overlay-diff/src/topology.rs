//! Files that are hard links to other names than before, and are otherwise unchanged.

use std::collections::{HashMap, HashSet};

use layer_model::{
    Error, LayerPath, LayerPathBuf, LayerTree, Monitor, Node, Result,
    tree::{InodeId, LayerDir},
};

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
    walk(&*tree.root()?, LayerPath::ROOT, monitor, &mut |path, inode| {
        let first = files.entry(inode).or_insert_with(|| path.to_owned());
        names.insert(path.to_owned(), first.clone());
    })?;
    Ok(names)
}

fn walk(
    dir: &dyn LayerDir,
    path: LayerPath<'_>,
    monitor: &dyn Monitor,
    linked: &mut dyn FnMut(LayerPath<'_>, InodeId),
) -> Result<()> {
    if monitor.should_stop() {
        return Err(Error::cancelled());
    }
    for name in dir.names()? {
        let path = path.join(&name)?;
        let place = |error: Error| error.at(path.as_path());
        let Some(node) = dir.lookup(&name).map_err(place)? else { continue };
        if node.is_dir() {
            walk(&*dir.open_dir(&name).map_err(place)?, path.as_path(), monitor, linked)?;
        } else if let (Some(inode), 2..) = (node.inode, node.nlink) {
            linked(path.as_path(), inode);
        }
    }
    Ok(())
}
