//! What is in an image, in memory: entries, identities, and what merging makes of them.
//!
//! [`ImageTree`] is one image, changed by the operations of [`CimOp`](crate::CimOp) as the API of CimFS changes a real
//! one. [`ModelSink`] is the [`CimSink`](crate::CimSink) that does so. A fork of a tree is a new tree that shares
//! everything with its parent until it is changed.
//!
//! Entries are looked up by upper-cased name, and keep their spelling. A tree holds no content: streams are known by
//! size and SHA-256, and their bytes are found in the [`Blobs`](crate::content::Blobs) of the fork that wrote them.

mod arena;
mod dump;
mod entry;
mod events;
mod layer_tree;
mod merge;
mod sink;
mod tree;
mod view;

pub use entry::{Dir, EntryRef, File, FileId, Stream};
pub use events::ViewEvents;
pub use merge::merge;
pub use sink::ModelSink;
pub use tree::{ImageTree, Rules, Source, StreamSlot};
pub use view::{Entries, View, ViewEntry};
