//! The upper walk: what an overlay upper directory changed, looked up in the layers below it.

use std::sync::{Arc, atomic::AtomicBool};

use layer_model::{
    Base, ErrorKind, LayerPath, LayerPathBuf, LayerTree, Monitor, Result, Warning, WarningKind,
    merged::Merged,
};
#[cfg(target_os = "linux")]
use {
    layer_model::{Differ, Error, LayerSource},
    overlay_dir::OverlayUpper,
};

use crate::{
    options::UpperOptions,
    pair::{Below, Old, Pair},
    policy::Filter,
    report::{DiffMethod, DiffReport},
    source::DiffSource,
    step::Rules,
    topology::Topology,
    tree::Rooted,
    verity,
};

/// Computes what an overlay upper directory changed.
///
/// It reads the upper, and looks up in the base what it finds there; the base is a stack of handles of any
/// form that can be looked into, and nothing is mounted. Redirects, metacopy files and indexed hard links
/// are resolved through those handles. An upper's copy of a file that is as the base has it is left out.
///
/// With [`Base::Unknown`] the layer is right on every base that the upper can have been made on, at the price
/// of some redundancy: every entry of the upper is emitted, whiteouts that hide nothing included, and
/// opaque directories as marks. What cannot be right without a base (redirects, metacopy files, indexed hard
/// links with missing names) fails with
/// [`ErrorKind::UnsupportedMarker`](layer_model::ErrorKind::UnsupportedMarker).
///
/// ```
/// use layer_model::{Base, Silent, Stack, testing::{MemoryChanges, MemoryLayer}};
/// use overlay_diff::{UpperDiffer, UpperOptions};
///
/// let base = Stack::of(MemoryLayer::new().file("etc/issue", "1").file("d/gone", "2"));
/// let upper = MemoryLayer::new().on_device(1).file("etc/motd", "hello").opaque("d").whiteout("nothing");
/// let differ = UpperDiffer::new(UpperOptions::new());
/// let mut source = differ.changes_of(&upper, Base::Layers(&base), &Silent)?;
/// let changes = MemoryChanges::collect(&mut source)?;
/// assert_eq!(changes.lines(), ["d d/ 755", "wh d/gone", "d etc/ 755", "f etc/motd 644 \"hello\""]);
/// # Ok::<(), layer_model::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct UpperDiffer {
    options: UpperOptions,
}

impl UpperDiffer {
    /// A differ with these options.
    pub fn new(options: UpperOptions) -> Self {
        Self { options }
    }

    /// The changes that `upper` makes to `base`, as a source that also reports.
    ///
    /// # Errors
    /// [`ErrorKind::FailedPrecondition`] for a volatile upper without
    /// [`UpperOptions::allow_volatile`], and those of opening the roots.
    #[cfg(target_os = "linux")]
    pub fn changes<'a, L: LayerTree + Clone + 'static>(
        &self,
        upper: &OverlayUpper,
        base: Base<'_, L>,
        monitor: &'a dyn Monitor,
    ) -> Result<DiffSource<'a>> {
        let mut options = self.options.clone();
        options.nofollow_redirects |= !upper.features().redirect.follows();
        if upper.is_volatile() && !options.allow_volatile {
            return Err(volatile());
        }
        let mut source = Self { options }.changes_of(upper.dir(), base, monitor)?;
        if upper.is_volatile() {
            source.warn(Warning::new(WarningKind::VolatileUpper, LayerPath::ROOT));
        }
        Ok(source)
    }

    /// The changes that any tree with markers makes to `base`.
    ///
    /// # Errors
    /// Those of opening the roots; the rest comes from the source.
    pub fn changes_of<'a, L: LayerTree + Clone + 'static>(
        &self,
        upper: &dyn LayerTree,
        base: Base<'_, L>,
        monitor: &'a dyn Monitor,
    ) -> Result<DiffSource<'a>> {
        let options = &self.options;
        let dir = upper.root()?;
        let root_is_opaque = match dir.node() {
            Ok(node) => node.markers.opaque,
            // The root is no entry, so nobody asks whose it is.
            Err(error) if matches!(error.kind(), ErrorKind::UnmappedId { .. }) => false,
            Err(error) => return Err(error),
        };
        let top: Arc<dyn LayerTree> = Arc::new(Rooted(dir.clone()));
        let follow = |merged: Merged| match options.nofollow_redirects {
            true => merged.without_redirects(),
            false => merged,
        };
        let lowers = match base {
            Base::Layers(stack) => {
                Some(follow(Merged::of_stack(stack).with_data_only(options.data_only.clone())))
            }
            Base::Empty | Base::Unknown => None,
        };
        let (below, old) = match (&base, &lowers) {
            (Base::Layers(_), Some(lowers)) => (Below::Base, Old::Dir(lowers.root()?)),
            (Base::Unknown, _) => (Below::Base, Old::Unknown),
            _ => (Below::Nothing, Old::Absent),
        };
        let mut layers = vec![top];
        if let Base::Layers(stack) = base {
            layers.extend(stack.iter().map(|layer| Arc::new(layer.clone()) as Arc<dyn LayerTree>));
        }
        let mut view = follow(Merged::new(layers)?.with_data_only(options.data_only.clone()));
        if !options.no_verity {
            view = view.with_verified_data(verity::verify);
        }
        let common = &options.common;
        let rules = Rules {
            profile: common.profile,
            filter: Filter::new(common),
            style: options.style(),
            follow_redirects: !options.nofollow_redirects,
            whiteouts_first: common.whiteouts_first,
            small_file: common.read_at_once(),
            upper_walk: true,
            lowers,
            view: Arc::new(view),
            topology: if options.detect_link_topology { Topology::Copies } else { Topology::Ignored },
            stop: Arc::new(AtomicBool::new(false)),
        };
        let root = Pair::new(LayerPathBuf::root(), Some(dir), below, old);
        let report = DiffReport { method: DiffMethod::UpperWalk, ..DiffReport::default() };
        let links = options.allow_incomplete_links;
        let mut source = DiffSource::new(rules, root, common, links, report, monitor);
        if root_is_opaque {
            // Overlayfs ignores the mark there, and so the merged view that the layer has to give.
            source.warn(Warning::new(WarningKind::RootOpaque, LayerPath::ROOT));
        }
        Ok(source)
    }
}

/// The error for a volatile upper that the caller has not allowed.
#[cfg(target_os = "linux")]
pub(crate) fn volatile() -> Error {
    Error::new(
        ErrorKind::FailedPrecondition,
        "the upper directory was mounted volatile, its files may be torn",
    )
}

#[cfg(target_os = "linux")]
impl<L: LayerTree + Clone + 'static> Differ<L> for UpperDiffer {
    type Upper = OverlayUpper;

    fn diff<'a>(
        &'a self,
        upper: &'a Self::Upper,
        base: Base<'a, L>,
        monitor: &'a dyn Monitor,
    ) -> Result<Box<dyn LayerSource + 'a>> {
        Ok(Box::new(self.changes(upper, base, monitor)?))
    }
}
