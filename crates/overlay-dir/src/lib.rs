//! Overlayfs layers on disk: directory handles, whiteouts and other markers, read and written.
//!
//! Overlayfs keeps a layer as a plain directory, and what a plain directory cannot say as markers: a
//! character device 0:0 is a deletion, an extended attribute makes a directory opaque, another one says
//! where a renamed directory came from. This crate opens such directories as typed layers and translates
//! the markers into [`layer_model`]'s terms, so that nobody else needs to know how they look:
//!
//! | type | is | a character device 0:0 is |
//! |---|---|---|
//! | [`OverlayDir`] | one layer, with markers | a whiteout |
//! | [`PlainDir`] | a merged tree, without | a device |
//! | [`OverlayUpper`] | an [`OverlayDir`] with the work directory and the features of its mount | a whiteout |
//!
//! [`marker`] is the writing side: whiteouts, opaque directories, escaped names.
//!
//! It refuses to merge layers ([`layer_model::merged::Merged`] does that over any [`LayerTree`]), to mount
//! anything, and to guess: a marker that the kernel refuses is an error, and where the caller may not see
//! `trusted.*` attributes, a layer that needs them does not open.
//!
//! ```
//! # #[cfg(target_os = "linux")] {
//! use layer_model::{LayerDir, LayerTree};
//! use overlay_dir::{Namespace, OverlayDir, OverlayDirOptions};
//!
//! # fn main() -> layer_model::Result<()> {
//! # let temp = tempfile::tempdir().unwrap();
//! # let upper = temp.path();
//! let layer = OverlayDir::open(upper, OverlayDirOptions::default().namespace(Namespace::User))?;
//! let root = layer.root()?;
//! for name in root.names()? {
//!     let node = root.lookup(&name)?;
//!     println!("{}: {:?}", name.escape_ascii(), node.map(|node| node.kind));
//! }
//! # Ok(()) }
//! # main().unwrap();
//! # }
//! ```
//!
//! # How it looks at files
//!
//! Every directory is an `O_PATH` descriptor, and everything in it is reached by its last component, without
//! following links: no path is ever put together from strings, so that nothing outside the layer can be
//! reached by swapping a component for a link. Devices, FIFOs and sockets are never opened.
//!
//! An entry costs one `statx` and one `listxattrat`, and one `lgetxattr` for each attribute whose value
//! counts. The second came with Linux 6.13; before, and for the third, the path given is
//! `/proc/thread-self/fd/N/name`, which takes four times as long. Where `/proc` is not mounted,
//! regular files and directories are opened for it, and other files show no attributes: those that a layer
//! carries (`user.*`, `security.capability`) exist on regular files and directories only.
//!
//! [`LayerTree`]: layer_model::LayerTree
#![deny(unsafe_code)]
#![cfg(target_os = "linux")]

mod dir;
pub mod marker;
mod namespace;
mod overlay;
mod owners;
mod plain;
mod proc;
mod raw;
mod read;
mod upper;
mod xattr;

pub use namespace::Namespace;
pub use overlay::{OverlayDir, OverlayDirOptions};
pub use owners::Owners;
pub use plain::{PlainDir, PlainDirOptions};
pub use read::{Decoded, decode_xattrs};
pub use upper::{OverlayFeatures, OverlayUpper, OverlayUpperOptions, RedirectDir};
