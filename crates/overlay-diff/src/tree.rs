//! The double-walk differ: two trees, compared name by name.

use std::sync::{Arc, atomic::AtomicBool};

use layer_model::{
    Base, Differ, Error, ErrorKind, LayerPathBuf, LayerSource, LayerTree, Monitor, Result, merged::Merged,
};

use crate::{
    options::{OpaqueStyle, TreeOptions},
    pair::{Below, Old, Pair},
    policy::Filter,
    report::{DiffMethod, DiffReport},
    source::DiffSource,
    step::Rules,
    topology::{self, Topology},
};

/// Computes what changed between two merged trees.
///
/// Markers have no meaning to it: both sides are what a mount shows, and a character device 0:0 is a device.
/// It works on anything, and reads both trees for it; where the upper directory of an overlay is at hand,
/// [`UpperDiffer`](crate::UpperDiffer) looks at the changes alone.
///
/// ```
/// use std::sync::Arc;
/// use layer_model::{Silent, testing::{MemoryChanges, MemoryLayer}};
/// use overlay_diff::{TreeDiffer, TreeOptions};
///
/// let old = MemoryLayer::new().file("etc/issue", "1").file("etc/motd", "hello");
/// let new = MemoryLayer::new().file("etc/hosts", "2").file("etc/motd", "hello");
/// let differ = TreeDiffer::new(TreeOptions::new());
/// let mut source = differ.between(Some(&old), &new, &Silent)?;
/// let changes = MemoryChanges::collect(&mut source)?;
/// assert_eq!(changes.lines(), ["d etc/ 755", "f etc/hosts 644 \"2\"", "wh etc/issue"]);
/// assert_eq!(source.report().removals, 1);
/// # Ok::<(), layer_model::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct TreeDiffer {
    options: TreeOptions,
}

impl TreeDiffer {
    /// A differ with these options.
    pub fn new(options: TreeOptions) -> Self {
        Self { options }
    }

    /// The changes from `old` to `new`; without an old tree, everything is an addition.
    ///
    /// # Errors
    /// Those of opening the roots; with
    /// [`detect_link_topology`](TreeOptions::detect_link_topology), those of reading both trees.
    pub fn between<'a>(
        &self,
        old: Option<&dyn LayerTree>,
        new: &dyn LayerTree,
        monitor: &'a dyn Monitor,
    ) -> Result<DiffSource<'a>> {
        let topology = match old {
            Some(old) if self.options.detect_link_topology => {
                Topology::Names(topology::relinked(old, new, monitor)?)
            }
            _ => Topology::Ignored,
        };
        let common = &self.options.common;
        let dir = new.root()?;
        let rules = Rules {
            profile: common.profile,
            filter: Filter::new(common),
            style: OpaqueStyle::Explicit,
            follow_redirects: true,
            whiteouts_first: common.whiteouts_first,
            small_file: common.read_at_once(),
            upper_walk: false,
            lowers: None,
            view: Arc::new(Rooted(dir.clone())),
            topology,
            stop: Arc::new(AtomicBool::new(false)),
        };
        let (base, method) = match old {
            Some(old) => (Old::Dir(old.root()?), DiffMethod::DoubleWalk),
            None => (Old::Absent, DiffMethod::SingleWalk),
        };
        let root = Pair::new(LayerPathBuf::root(), None, Below::Dir(dir), base);
        let report = DiffReport { method, ..DiffReport::default() };
        Ok(DiffSource::new(rules, root, common, false, report, monitor))
    }

    /// The changes from the merged view of `base` to `new`.
    ///
    /// # Errors
    /// [`ErrorKind::NotSupported`] for [`Base::Unknown`]: what is not known cannot be walked. Else as
    /// [`TreeDiffer::between`].
    pub fn changes<'a, L: LayerTree + Clone + 'static>(
        &self,
        new: &dyn LayerTree,
        base: Base<'_, L>,
        monitor: &'a dyn Monitor,
    ) -> Result<DiffSource<'a>> {
        match base {
            Base::Empty => self.between(None, new, monitor),
            Base::Layers(stack) => self.between(Some(&Merged::of_stack(stack)), new, monitor),
            Base::Unknown => {
                let message = "two trees cannot be compared when one of them is not known";
                Err(Error::new(ErrorKind::NotSupported, message))
            }
        }
    }
}

impl<L: LayerTree + Clone + 'static> Differ<L> for TreeDiffer {
    type Upper = Arc<dyn LayerTree>;

    fn diff<'a>(
        &'a self,
        upper: &'a Self::Upper,
        base: Base<'a, L>,
        monitor: &'a dyn Monitor,
    ) -> Result<Box<dyn LayerSource + 'a>> {
        Ok(Box::new(self.changes(upper, base, monitor)?))
    }
}

/// A tree by its open root.
pub(crate) struct Rooted(pub(crate) Arc<dyn layer_model::LayerDir>);

impl LayerTree for Rooted {
    fn root(&self) -> Result<Arc<dyn layer_model::LayerDir>> {
        Ok(self.0.clone())
    }
}
