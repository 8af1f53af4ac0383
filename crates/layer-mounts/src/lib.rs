//! The mount lists that containerd hands out, parsed once and written back byte for byte.
//!
//! A containerd snapshotter describes a snapshot as a list of mounts, and differs get such lists instead of
//! layers: what was a list of directories has become options like `lowerdir=a:b`, and each consumer takes it
//! apart again. This crate does that in one place. [`from_mounts`] turns a list into a [`MountShape`]: what
//! it is (a directory, an overlay, an EROFS image, a stack that is not mounted yet, a Windows layer), with
//! paths, orders and escapes resolved. [`MountShape::to_mounts`] gives the very same list back.
//!
//! It is text only: no path is opened and nothing is mounted, so it works the same everywhere. It refuses to
//! guess: a list that no known snapshotter makes is [`ErrorKind::NotSupported`], a template that is not
//! expanded yet is never taken for a path, and whether a bind-mounted directory is a layer or a whole tree
//! is not visible here: the caller says so when he opens it.
//!
//! ```
//! use layer_mounts::{LayerRef, Mount, MountShape, from_mounts};
//!
//! # fn main() -> layer_model::Result<()> {
//! let mounts = [Mount::new("overlay", "overlay", ["workdir=/w", "upperdir=/u", "lowerdir=/2:/1", "index=off"])];
//! let shape = from_mounts(&mounts)?;
//! let MountShape::Overlay(overlay) = &shape else { panic!("an overlay") };
//! assert_eq!(overlay.upper(), Some("/u"));
//! assert_eq!(shape.parents()?, [LayerRef::Dir("/2"), LayerRef::Dir("/1")]); // nearest first
//! assert_eq!(shape.to_mounts(), mounts);
//! # Ok(()) }
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`mount`] | [`Mount`], and the steps in front of its type (`format/mkdir/overlay`) |
//! | [`template`] | `{{ mount 0 }}` and its three siblings |
//! | [`managed`] | options that the mount manager takes for itself (`X-containerd.mkdir.path=`) |
//! | [`overlay`] | overlay mounts: layer lists with their escapes, features |
//! | [`erofs`] | EROFS mounts, and merged metadata over many blobs |
//! | [`windows`] | the Windows rows, as data |
//! | [`shape`] | [`from_mounts`], [`MountShape`] |
//!
//! [`ErrorKind::NotSupported`]: layer_model::ErrorKind::NotSupported
#![forbid(unsafe_code)]

pub mod erofs;
pub mod managed;
pub mod mount;
pub mod overlay;
pub mod shape;
pub mod template;
pub mod windows;

pub use erofs::ErofsMount;
pub use mount::{Kind, Mount, Step};
pub use overlay::OverlayMount;
pub use shape::{BindMount, BlockImage, LayerRef, MountShape, UnresolvedMounts, from_mounts};
pub use template::{Activated, Template};
pub use windows::WindowsMount;
