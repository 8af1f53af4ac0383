//! Names of a file that a walk over an upper directory does not meet.
//!
//! With `index=on`, the kernel copies a hard-linked lower file up once, under the one name that was written
//! to, and shows the copy under all names of the lower file. The upper only tells how many there are. The
//! others are those names of the merged view that still lead to the lower file. The same search finds the old
//! names of a linked file that a redirected directory shows under a new one.

use std::{collections::HashMap, sync::Arc};

use layer_model::{
    Error, LayerPath, LayerPathBuf, LayerTree, Monitor, Result,
    tree::{InodeId, LayerDir},
};

use crate::links::{Elsewhere, Incomplete};

/// Looks through `view` for the names that `groups` miss, until all are found. Gives them in path order, each
/// with the number of its group, and leaves in `missing` what was not found.
pub(crate) fn find(
    view: &dyn LayerTree,
    groups: &mut [Incomplete],
    monitor: &dyn Monitor,
) -> Result<Vec<(LayerPathBuf, usize)>> {
    let mut wanted: HashMap<InodeId, usize> = HashMap::new();
    for (at, group) in groups.iter().enumerate() {
        let lower = match group.linked.elsewhere {
            Some(Elsewhere::Indexed(lower)) => lower,
            Some(Elsewhere::Below) => Some(group.linked.inode),
            None => None,
        };
        wanted.extend(lower.map(|lower| (lower, at)));
    }
    let mut found = Vec::new();
    if wanted.is_empty() {
        return Ok(found);
    }
    let mut stack = vec![Level::open(view.root()?, LayerPath::ROOT)?];
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
            continue;
        }
        let Some((inode, at)) =
            node.inode.and_then(|inode| wanted.get_key_value(&inode)).map(|(k, v)| (*k, *v))
        else {
            continue;
        };
        let group = &mut groups[at];
        if group.met.contains(&path) {
            continue;
        }
        found.push((path, at));
        group.missing -= 1;
        if group.missing == 0 {
            wanted.remove(&inode);
            if wanted.is_empty() {
                break;
            }
        }
    }
    Ok(found)
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
