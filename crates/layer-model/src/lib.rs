//! The vocabulary of container-image layers.
//!
//! A container image is a stack of layers, and a layer is a set of *changes*: this path is now that,
//! this path is gone, this directory starts empty. Every program that handles layers turns one form of
//! that set into another: an overlay upper directory into a tar, a tar into a directory, into an EROFS
//! image, into a Windows CIM. This crate holds what those forms have in common, so that any *source* of
//! changes can feed any *sink* of changes:
//!
//! | module | holds |
//! |---|---|
//! | [`path`] | [`LayerPath`]: a checked relative path of bytes, ordered as layers are |
//! | [`metadata`] | [`Metadata`], [`Timestamp`], [`Xattrs`], [`Device`], [`idmap::IdMap`] |
//! | [`content`] | [`Content`]: bytes that know when they are a range of a file |
//! | [`change`] | [`Change`]: one step on the road |
//! | [`road`] | [`LayerSource`], [`LayerSink`], and [`road::pump`] between them |
//! | [`tree`] | [`LayerTree`]: a layer that can be looked into; [`merged::Merged`] stacks of them |
//! | [`layer`] | [`Layer`] handles, [`Stack`], [`Base`], and the run-time [`AnyLayer`] |
//! | [`operate`] | [`Differ`] and [`Applier`]: which handles an operation takes and gives |
//! | [`windows`] | what only layers of Windows have |
//! | [`monitor`] | [`Monitor`]: progress, warnings, cancellation |
//! | [`media`], [`mod@digest`], [`error`] | media types, digests, errors |
//!
//! It refuses to know any format and makes no system call of its own: implementations live in the
//! crates that import it. With the feature `testing` it ships in-memory layers and the conformance suites
//! that every differ and applier is expected to pass.
//!
//! ```
//! use layer_model::{Change, LayerPath, Metadata, Result, road::{LayerSource, Entry, EntryKind, Content}};
//!
//! /// A layer with one file in it.
//! struct Hello { done: bool }
//!
//! impl LayerSource for Hello {
//!     fn next_change(&mut self) -> Result<Option<Change<'_>>> {
//!         if std::mem::replace(&mut self.done, true) {
//!             return Ok(None);
//!         }
//!         let path = LayerPath::new(b"etc/motd")?;
//!         let kind = EntryKind::File(Content::from_bytes(b"hello\n"));
//!         Ok(Some(Change::upsert(path, Entry::new(kind, Metadata::file(0o644)))))
//!     }
//! }
//! ```
#![forbid(unsafe_code)]

pub mod change;
pub mod content;
pub mod digest;
pub mod error;
pub mod idmap;
pub mod layer;
pub mod media;
pub mod merged;
pub mod metadata;
pub mod monitor;
pub mod operate;
pub mod path;
pub mod profile;
pub mod road;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tree;
pub mod walk;
pub mod windows;

pub use change::{Action, Change, Entry, EntryKind, Origin};
pub use content::{Content, ReadAt};
pub use digest::{Digest, Digester};
pub use error::{Error, ErrorKind, IoContext, Result};
pub use layer::{AnyLayer, Base, Form, Layer, Stack};
pub use media::MediaType;
pub use metadata::{Device, Metadata, Timestamp, Xattrs};
pub use monitor::{Monitor, Silent, Warning, WarningKind};
pub use operate::{Applied, Applier, Differ};
pub use path::{LayerPath, LayerPathBuf};
pub use profile::Profile;
pub use road::{LayerSink, LayerSource};
pub use tree::{LayerDir, LayerTree, Node, NodeKind};
pub use walk::TreeSource;
