//! One directory, opened on both sides of a diff.
//!
//! The new side is an upper directory with markers over the lower directory that it merges with; the old
//! side is what the base has at the path. Mostly the two lower directories are one, and then only names of
//! the upper can differ. They are not one below an opaque directory (nothing is merged), and below a redirected
//! one (another directory is merged); there, all names of all sides count. A diff of two trees is the
//! case without an upper.

use std::sync::{Arc, OnceLock};

use layer_model::{
    Error, ErrorKind, LayerPathBuf, LayerTree, Node, ReadAt, Result,
    merged::Merged,
    tree::{LayerDir, LayerTreeExt},
};

/// Names of a directory, in order.
pub(crate) type Names = Arc<Vec<Box<[u8]>>>;

/// A directory on both sides.
pub(crate) struct Pair {
    pub(crate) path: LayerPathBuf,
    pub(crate) upper: Option<Arc<dyn LayerDir>>,
    pub(crate) below: Below,
    pub(crate) base: Old,
    /// The same directory in the merged view of the new side, opened when a metacopy file needs it.
    view: OnceLock<Arc<dyn LayerDir>>,
}

/// What the upper directory is merged with.
pub(crate) enum Below {
    /// Nothing.
    Nothing,
    /// The same directory that the base has here, be it known or not.
    Base,
    /// Another one.
    Dir(Arc<dyn LayerDir>),
}

/// What the base has at the path.
pub(crate) enum Old {
    /// It is not known.
    Unknown,
    /// No directory.
    Absent,
    /// This directory.
    Dir(Arc<dyn LayerDir>),
}

/// What the base has under one name.
pub(crate) enum OldNode {
    Unknown,
    Absent,
    Node(Box<Node>),
}

impl OldNode {
    pub(crate) fn node(&self) -> Option<&Node> {
        match self {
            Self::Node(node) => Some(node),
            Self::Unknown | Self::Absent => None,
        }
    }
}

/// How a child directory is opened.
#[derive(Debug)]
pub(crate) struct ChildPlan {
    pub(crate) upper: bool,
    pub(crate) below: BelowPlan,
    pub(crate) base: OldPlan,
}

/// What the child merges with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BelowPlan {
    Nothing,
    Base,
    /// The directory of this name in what the parent merges with.
    Sibling(Box<[u8]>),
    /// The directory of this path in the lower layers.
    Absolute(LayerPathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OldPlan {
    Unknown,
    Absent,
    Child,
}

impl Pair {
    pub(crate) fn new(path: LayerPathBuf, upper: Option<Arc<dyn LayerDir>>, below: Below, base: Old) -> Self {
        Self { path, upper, below, base, view: OnceLock::new() }
    }

    /// Whether only names of the upper can differ.
    pub(crate) fn shared(&self) -> bool {
        matches!(self.below, Below::Base)
    }

    /// Every name that can differ.
    pub(crate) fn names(&self) -> Result<Vec<Box<[u8]>>> {
        let mut names = match &self.upper {
            Some(upper) => upper.names()?,
            None => Vec::new(),
        };
        if !self.shared() {
            if let Below::Dir(below) = &self.below {
                names = union(names, below.names()?);
            }
            if let Old::Dir(base) = &self.base {
                names = union(names, base.names()?);
            }
        }
        if u32::try_from(names.len()).is_ok_and(|len| len <= u32::MAX / 2) {
            Ok(names)
        } else {
            Err(Error::new(
                ErrorKind::LimitExceeded { limit: "names in a directory" },
                "directory is too large",
            ))
        }
    }

    /// What the new side has under `name`, and whether the upper has it.
    pub(crate) fn new_node(&self, name: &[u8]) -> Result<Option<(Node, bool)>> {
        if let Some(upper) = &self.upper
            && let Some(node) = upper.lookup(name)?
        {
            return Ok((!node.is_whiteout()).then_some((node, true)));
        }
        match &self.below {
            Below::Dir(below) => Ok(below.lookup(name)?.map(|node| (node, false))),
            Below::Nothing | Below::Base => Ok(None),
        }
    }

    /// What the base has under `name`.
    pub(crate) fn old_node(&self, name: &[u8]) -> Result<OldNode> {
        Ok(match &self.base {
            Old::Unknown => OldNode::Unknown,
            Old::Absent => OldNode::Absent,
            Old::Dir(base) => match base.lookup(name)? {
                Some(node) => OldNode::Node(Box::new(node)),
                None => OldNode::Absent,
            },
        })
    }

    /// Opens the content of the file `name` of the new side.
    pub(crate) fn open_new(&self, name: &[u8], node: &Node, view: &dyn LayerTree) -> Result<Box<dyn ReadAt>> {
        if node.markers.metacopy.is_some() {
            return self.view(view)?.open_file(name);
        }
        match (&self.upper, &self.below) {
            (Some(upper), Below::Nothing | Below::Base) => upper.open_file(name),
            (Some(upper), Below::Dir(below)) => match upper.lookup(name)? {
                Some(_) => upper.open_file(name),
                None => below.open_file(name),
            },
            (None, Below::Dir(below)) => below.open_file(name),
            (None, Below::Nothing | Below::Base) => {
                Err(Error::new(ErrorKind::NotFound, "no such file").entry(name))
            }
        }
    }

    /// Opens the content of the file `name` of the base.
    pub(crate) fn open_old(&self, name: &[u8]) -> Result<Box<dyn ReadAt>> {
        match &self.base {
            Old::Dir(base) => base.open_file(name),
            Old::Unknown | Old::Absent => Err(Error::new(ErrorKind::NotFound, "no such file").entry(name)),
        }
    }

    /// This directory in `view`, the merged view of the new side.
    pub(crate) fn view(&self, view: &dyn LayerTree) -> Result<&Arc<dyn LayerDir>> {
        if let Some(dir) = self.view.get() {
            return Ok(dir);
        }
        let gone = || Error::new(ErrorKind::FileChanged, "directory went away").at(self.path.as_path());
        let dir = view.find_dir(self.path.as_path())?.ok_or_else(gone)?;
        Ok(self.view.get_or_init(|| dir))
    }

    /// Opens the child directory `name` as planned. What a plan hopes for and is not there is nothing.
    pub(crate) fn open_child(&self, name: &[u8], plan: ChildPlan, lowers: Option<&Merged>) -> Result<Pair> {
        let path = self.path.as_path().join(name)?;
        let upper = match &self.upper {
            Some(upper) if plan.upper => Some(upper.open_dir(name)?),
            _ => None,
        };
        let base = match (plan.base, &self.base) {
            (OldPlan::Unknown, _) => Old::Unknown,
            (OldPlan::Child, Old::Dir(base)) => Old::Dir(base.open_dir(name)?),
            (OldPlan::Child | OldPlan::Absent, _) => Old::Absent,
        };
        let dir = |found: Option<Arc<dyn LayerDir>>| found.map_or(Below::Nothing, Below::Dir);
        let below = match (plan.below, &self.below, &self.base) {
            (BelowPlan::Nothing, ..) => Below::Nothing,
            (BelowPlan::Base, ..) => Below::Base,
            (BelowPlan::Sibling(name), Below::Dir(below), _) => dir(existing(below.open_dir(&name))?),
            (BelowPlan::Sibling(name), Below::Base, Old::Dir(base)) => dir(existing(base.open_dir(&name))?),
            (BelowPlan::Sibling(_), ..) => Below::Nothing,
            (BelowPlan::Absolute(path), ..) => match lowers {
                Some(lowers) => dir(lowers.find_dir(path.as_path())?),
                None => Below::Nothing,
            },
        };
        Ok(Pair::new(path, upper, below, base))
    }
}

/// A directory that need not be there.
fn existing(opened: Result<Arc<dyn LayerDir>>) -> Result<Option<Arc<dyn LayerDir>>> {
    match opened {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All names of two sorted lists, sorted, each once.
fn union(a: Vec<Box<[u8]>>, b: Vec<Box<[u8]>>) -> Vec<Box<[u8]>> {
    if a.is_empty() || b.is_empty() {
        return if a.is_empty() { b } else { a };
    }
    let mut all = Vec::with_capacity(a.len().max(b.len()));
    let (mut a, mut b) = (a.into_iter().peekable(), b.into_iter().peekable());
    loop {
        match (a.peek(), b.peek()) {
            (Some(x), Some(y)) => {
                let order = x.cmp(y);
                if order.is_le() {
                    all.extend(a.next());
                }
                if order.is_eq() {
                    b.next();
                } else if order.is_gt() {
                    all.extend(b.next());
                }
            }
            (Some(_), None) => all.extend(a.by_ref()),
            (None, Some(_)) => all.extend(b.by_ref()),
            (None, None) => return all,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_union_is_sorted_and_has_each_name_once() {
        let list = |names: &[&str]| names.iter().map(|n| n.as_bytes().into()).collect::<Vec<Box<[u8]>>>();
        for (a, b, want) in [
            (&[][..], &[][..], &[][..]),
            (&["a", "c"], &[], &["a", "c"]),
            (&["a", "c"], &["b", "c", "d"], &["a", "b", "c", "d"]),
            (&["z"], &["a", "b"], &["a", "b", "z"]),
        ] {
            assert_eq!(union(list(a), list(b)), list(want));
        }
    }
}
