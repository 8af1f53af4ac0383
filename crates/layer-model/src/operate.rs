//! Operations on typed handles: compute a layer, apply a layer.

use crate::{Base, Layer, LayerSource, LayerTree, Monitor, Result};

/// Computes the layer that turns a base into what an upper holds.
///
/// `L` is the form of the base's layers: one differ may take several, each by an `impl` of its own.
///
/// # Laws
/// - Applying the changes to the base gives the merged tree of the upper over the base, in every respect
///   that the differ's options say is carried.
/// - With [`Base::Unknown`] that holds for every base that the upper can have been made on; where it cannot,
///   the differ fails with [`ErrorKind::UnsupportedMarker`](crate::ErrorKind::UnsupportedMarker) instead of
///   guessing.
/// - The changes come in [`LayerPath`](crate::LayerPath) order (a hard link may follow its first name), the
///   same for every thread count and directory order.
/// - [`ErrorKind::NotSupported`](crate::ErrorKind::NotSupported) means: nothing was done, another differ may
///   try.
pub trait Differ<L> {
    /// The handle of what changed.
    type Upper;

    /// The changes, as a source that does its work as it is read.
    ///
    /// # Errors
    /// What can be seen at the start; the rest comes from the source.
    fn diff<'a>(
        &'a self,
        upper: &'a Self::Upper,
        base: Base<'a, L>,
        monitor: &'a dyn Monitor,
    ) -> Result<Box<dyn LayerSource + 'a>>;
}

/// Makes a layer usable in one form, on top of parents of one form.
///
/// # Laws
/// - On success the target is complete; the handle given has been opened from it.
/// - On an error, a target that the applier made is gone again, and parents are as they were.
/// - Nothing outside the target is created, changed or removed, whatever the changes say.
/// - Directories above an entry that the layer does not mention take their metadata from the nearest parent
///   that has them.
pub trait Applier {
    /// The handle of a parent layer.
    type Parent: LayerTree;
    /// The handle of the layer made.
    type Layer: Layer;
    /// Where the layer is made.
    type Target;

    /// Applies all changes of `source`.
    ///
    /// With [`Base::Unknown`] the parents' rule cannot be kept yet; the appliers of this project then
    /// report what they implied, so that it can be mended once the parents are there.
    ///
    /// # Errors
    /// Those of the source, of the target, and what the form cannot hold.
    fn apply(
        &self,
        source: &mut dyn LayerSource,
        parents: Base<'_, Self::Parent>,
        target: Self::Target,
        monitor: &dyn Monitor,
    ) -> Result<Applied<Self::Layer>>;
}

/// What an [`Applier`] did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Applied<L> {
    /// The layer, open.
    pub layer: L,
    /// How many changes were applied.
    pub entries: u64,
    /// How many bytes of content they had.
    pub bytes: u64,
    /// Directories that the layer implied and no parent could describe, because the parents were unknown:
    /// in [`LayerPath`](crate::LayerPath) order.
    pub implied_dirs: Vec<crate::LayerPathBuf>,
}

impl<L> Applied<L> {
    /// A layer of which nothing else is known.
    pub fn new(layer: L) -> Self {
        Self { layer, entries: 0, bytes: 0, implied_dirs: Vec::new() }
    }
}
