//! Names of a file that a walk over an upper directory does not meet.
//!
//! With `index=on`, the kernel copies a hard-linked lower file up once, under the one name that was written
//! to, and shows the copy under all names of the lower file. The upper only tells how many there are. The
//! others are those names of the merged view that still lead to the lower file. The same search finds the old
//! names of a linked file that a redirected directory shows under a new one.

use std::{collections::HashMap, ops::ControlFlow};

use layer_model::{LayerPathBuf, LayerTree, Monitor, Result, tree::InodeId};

use crate::{
    links::{Elsewhere, Incomplete},
    visit,
};

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
    visit::files(view, monitor, &mut |path, node| {
        let Some(inode) = node.inode else { return ControlFlow::Continue(()) };
        let Some(&at) = wanted.get(&inode) else { return ControlFlow::Continue(()) };
        let group = &mut groups[at];
        if !group.met.contains(&path) {
            found.push((path, at));
            group.missing -= 1;
        }
        if group.missing == 0 {
            wanted.remove(&inode);
        }
        if wanted.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(found)
}
