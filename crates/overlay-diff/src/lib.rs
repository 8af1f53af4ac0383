//! From an overlay upper directory, or from two trees, to the changes of a layer.
//!
//! A container's changes are either at hand as overlayfs recorded them, in an upper directory, or they have to
//! be found by comparing two trees. Each has a differ here; both are sources of [`layer_model::Change`]s
//! and work on anything that is a [`LayerTree`](layer_model::LayerTree), without mounting it:
//!
//! | I have | use |
//! |---|---|
//! | an upper directory and the layers below it, or not even these | [`UpperDiffer`] |
//! | two trees as a mount would show them | [`TreeDiffer`] |
//! | the mounts of a snapshotter | [`choose`](choose()), which tells which of the two fits |
//! | a layer that was made without its base, and now the base | [`prune`](prune()) |
//!
//! Applying the changes to the base gives the merged view of the upper over it: names, types, owners, modes,
//! times of what is no directory, link groups, devices, contents, and the extended attributes that the
//! [`XattrPolicy`] carries. The changes come in path order, the same for every number of threads.
//!
//! It refuses to guess. A marker that cannot be resolved with what was given is an error, and so is a file
//! that changes while it is read. It knows nothing of archives, blobs and stores.
//!
//! ```no_run
//! # #[cfg(target_os = "linux")] {
//! use layer_model::{Base, LayerSource, Silent, Stack};
//! use overlay_diff::{UpperDiffer, UpperOptions};
//! use overlay_dir::{OverlayDir, OverlayDirOptions, OverlayUpper, OverlayUpperOptions};
//!
//! # fn main() -> layer_model::Result<()> {
//! let lower = OverlayDir::open("/layers/1", OverlayDirOptions::default())?;
//! let upper = OverlayDir::open("/layers/upper", OverlayDirOptions::default())?;
//! let upper = OverlayUpper::new(upper, OverlayUpperOptions::default())?;
//! let differ = UpperDiffer::new(UpperOptions::new());
//! let base = Stack::of(lower);
//! let mut source = differ.changes(&upper, Base::Layers(&base), &Silent)?;
//! while let Some(change) = source.next_change()? {
//!     println!("{}", change.path.display());
//! }
//! println!("{} removals", source.report().removals);
//! # Ok(()) }
//! # }
//! ```
//!
//! # How it is built
//!
//! One engine serves both differs. A directory is opened on both sides as a pair: the new side is an upper over
//! the lower directory that it merges with, the old side is the base's. Where the two lower directories are
//! one, only the upper's names can differ, and nothing else is looked at; below an addition there are no
//! look-ups in the base at all. Helper threads work through directories just ahead of the caller, who gets
//! one order. Files of up to [`small_file`](UpperOptions::small_file) bytes are read by the helpers, longer
//! ones are given as ranges of the open file, so that a sink can copy them in the kernel.
#![forbid(unsafe_code)]

#[cfg(target_os = "linux")]
mod choose;
mod elsewhere;
mod fingerprints;
mod links;
mod options;
mod ordered;
mod pair;
mod policy;
mod prune;
mod ready;
mod report;
mod same;
mod source;
mod step;
mod topology;
mod tree;
mod upper;
mod verity;
mod visit;

#[cfg(target_os = "linux")]
pub use choose::{Choice, TreeChoice, UpperChoice, choose};
pub use options::{OpaqueStyle, TreeOptions, UpperOptions, XattrPolicy};
pub use prune::{Prune, PruneOptions, Pruned, prune};
pub use report::{DiffMethod, DiffReport};
pub use source::DiffSource;
pub use tree::TreeDiffer;
pub use upper::UpperDiffer;
