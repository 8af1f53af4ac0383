//! Snapshots whose layers are EROFS images: directories as containerd's EROFS snapshotter has them.
//!
//! containerd keeps each snapshot of its EROFS snapshotter in a directory of a certain layout, and hands the layer
//! from program to program as a list of mounts. [`SnapshotDir`] is such a directory as a value: made, opened and
//! recognised, found from a list of mounts; the layer's image put in place so that it is there whole or not at all,
//! and read as a typed [`ErofsImage`](layer_apply::ErofsImage).
//!
//! It refuses to guess: a directory that no EROFS snapshotter prepared is
//! [`ErrorKind::NotSupported`](layer_model::ErrorKind), an image that was cut is neither missing nor there. It never
//! writes through a link, replaces no image, mounts nothing and starts no program.
//!
//! ```
//! # #[cfg(target_os = "linux")] {
//! use erofs_snapshotter::{DirState, SnapshotDir, layer_image_options};
//! use layer_apply::ErofsImage;
//! use layer_model::{Base, LayerTree, Silent};
//!
//! # fn main() -> layer_model::Result<()> {
//! # let temp = tempfile::tempdir().unwrap();
//! # let mut layer = layer_model::testing::MemoryLayer::new().file("motd", "hi").changes();
//! let dir = SnapshotDir::create_active(temp.path().join("1"))?;
//! let applied = dir.apply::<ErofsImage>(&mut layer, Base::Empty, layer_image_options(), &Silent)?;
//! assert!(applied.layer.root()?.lookup(b"motd")?.is_some());
//! assert_eq!(dir.state()?, DirState::Committed);
//! # Ok(()) }
//! # main().unwrap();
//! # }
//! ```
#![deny(unsafe_code)]
#![cfg(target_os = "linux")]

pub mod dir;
mod remove;
mod sys;
mod usage;

pub use dir::{DirState, SnapshotDir, layer_image_options};
pub use usage::Usage;
