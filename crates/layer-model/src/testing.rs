//! In-memory layers, and the suites that every differ and applier should pass.
//!
//! [`MemoryLayer`] is a layer held in memory: a [`LayerTree`] with or without markers, a [`Layer`] handle,
//! and through [`MemoryLayer::changes`] a [`LayerSource`]. [`Snapshot`] is the plain list of what a tree
//! holds, for comparisons with a readable difference.

mod conformance;
mod memory;
mod snapshot;

pub use conformance::{ApplierCase, DifferCase, applier_conformance, differ_conformance};
pub use memory::{MemoryChanges, MemoryLayer, OwnedAction, OwnedChange};
pub use snapshot::Snapshot;

#[cfg(doc)]
use crate::{Layer, LayerSource, LayerTree};
