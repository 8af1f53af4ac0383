//! Snapshots whose layers are EROFS images: what containerd's EROFS snapshotter is, as a library.
//!
//! A snapshotter keeps the file systems of containers and the layers that they are made of: each snapshot is a
//! directory, each committed one a layer that others are made over, and a list of mounts says how to show it. Here
//! layers are EROFS images, in directories as containerd lays them out, and parents are typed handles that appliers
//! and differs take. Three levels, each usable alone:
//!
//! | I want to … | use … |
//! |---|---|
//! | put a layer into a directory that containerd prepared, or one that it will take | [`SnapshotDir`] |
//! | find the directory that a list of mounts is of | [`SnapshotDir::from_mounts`] |
//! | know how layers are mounted, merged metadata and layers that are directories included | [`lists`] |
//! | keep snapshots under their keys, over restarts and crashes | [`Snapshotter`] |
//!
//! ```
//! # #[cfg(target_os = "linux")] {
//! use erofs_snapshotter::{Labels, Snapshotter, SnapshotterOptions};
//! use layer_model::{LayerTree, Silent};
//!
//! # fn main() -> layer_model::Result<()> {
//! # let temp = tempfile::tempdir().unwrap();
//! # let root = temp.path();
//! # let options = SnapshotterOptions::new().ovl_mount_options(["userxattr"]);
//! let snapshots = Snapshotter::open(root, options)?;
//! let mounts = snapshots.prepare("build-1", None, Labels::new())?;
//! assert_eq!(mounts[0].kind, "bind"); // mounted and changed by somebody else
//! std::fs::write(snapshots.snapshot_dir("build-1")?.upper_path().join("motd"), "hello").unwrap();
//! snapshots.commit("layer-1", "build-1", Labels::new(), &Silent)?;
//!
//! assert_eq!(snapshots.view("look", Some("layer-1"), Labels::new())?[0].kind, "erofs");
//! let parents = snapshots.layer_stack("look")?.expect("there is a layer below");
//! assert!(parents.nearest().root()?.lookup(b"motd")?.is_some());
//! # Ok(()) }
//! # main().unwrap();
//! # }
//! ```
//!
//! # What it refuses
//!
//! - To mount, and to start programs. The lists are for whoever mounts; images are made in the process.
//! - To show something half-made. An image gets its name when it is on disk; a snapshot is recorded when its directory
//!   is there, and its directory goes when its record is gone. A commit that is cut off has not been: what it made of
//!   the upper directory is not taken for the layer later.
//! - To guess. A directory that no EROFS snapshotter prepared is [`NotSupported`](layer_model::ErrorKind::NotSupported);
//!   an image that was cut is an error, and neither missing nor there; a directory with snapshots and no records, or
//!   with containerd's, is not opened, as all in it would look left over.
//! - To write through a link, or to replace an image: somebody may have it mounted.
//! - To share. One snapshotter has a directory open; another one, in this process or elsewhere, is
//!   [`Unavailable`](layer_model::ErrorKind::Unavailable).
//!
//! # Where it parts with containerd
//!
//! - The rules for keys, names and parents are those of containerd 2.1, and removing what is not there is an error, as
//!   it is there (later versions pass over it). The mount lists are those of containerd 2.2 and later, with templates
//!   for its mount manager; those of 2.1 are [`MountForm::Premounted`].
//! - containerd takes any file of the image's name for the layer when it commits. Here it has to be an image, and none
//!   that a commit left which was cut off.
//! - Upper directories become images by what they change, not file by file: copies that are as the layer below has
//!   them are left out, redirects and files without data are resolved, sockets are not kept.
//! - What an active snapshot takes includes an image that was put there.
//! - Writable file systems in a file (block mode) are recognised and not made.
//!
//! # What it costs
//!
//! Preparing, committing and removing are a change of the records each, which is on disk when they return; a commit
//! that makes an image is two. Reads never wait for changes. The records of all snapshots are in memory while a walk or
//! a cleanup runs: some hundred bytes and the labels each.
#![deny(unsafe_code)]
#![cfg(target_os = "linux")]

mod db;
pub mod dir;
mod immutable;
pub mod info;
pub mod lists;
mod options;
mod remove;
mod snapshotter;
mod sys;
mod usage;
mod verity;

/// Filters of [`Snapshotter::walk`], and labels, as of a content store.
pub use content_store::{Filters, Labels};
pub use dir::{DirState, SnapshotDir, layer_image_options};
pub use info::{Info, Kind};
pub use lists::{LayerForm, MountForm};
pub use options::SnapshotterOptions;
pub use snapshotter::{Cleaned, Snapshotter};
pub use usage::Usage;
