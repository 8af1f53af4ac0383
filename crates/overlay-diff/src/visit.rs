//! Every file of a tree, in path order, by one thread.

use std::{ops::ControlFlow, sync::Arc};

use layer_model::{Error, LayerDir, LayerPath, LayerPathBuf, LayerTree, Monitor, Node, Result};

/// Hands everything in `tree` that is no directory to `see`, until that breaks off.
///
/// # Errors
/// Those of the tree; [`ErrorKind::Cancelled`](layer_model::ErrorKind::Cancelled) when `monitor` says stop.
pub(crate) fn files(
    tree: &dyn LayerTree,
    monitor: &dyn Monitor,
    see: &mut dyn FnMut(LayerPathBuf, &Node) -> ControlFlow<()>,
) -> Result<()> {
    // A stack of its own: the depth of a tree is up to whoever made it.
    let mut stack = vec![Level::open(tree.root()?, LayerPath::ROOT)?];
    while let Some(level) = stack.last_mut() {
        if monitor.should_stop() {
            return Err(Error::cancelled());
        }
        let Some(name) = level.names.next() else {
            stack.pop();
            continue;
        };
        let path = level.path.as_path().join(&name)?;
        let place = |error: Error| error.at(path.as_path());
        let Some(node) = level.dir.lookup(&name).map_err(place)? else { continue };
        if node.is_dir() {
            let dir = level.dir.open_dir(&name).map_err(place)?;
            stack.push(Level::open(dir, path.as_path()).map_err(place)?);
        } else if see(path, &node).is_break() {
            break;
        }
    }
    Ok(())
}

/// A directory on the way.
struct Level {
    dir: Arc<dyn LayerDir>,
    names: std::vec::IntoIter<Box<[u8]>>,
    path: LayerPathBuf,
}

impl Level {
    fn open(dir: Arc<dyn LayerDir>, path: LayerPath<'_>) -> Result<Self> {
        let names = dir.names()?.into_iter();
        Ok(Self { dir, names, path: path.to_owned() })
    }
}
