//! Container-image layers as one library: unpack, apply, diff, commit, keep.
//!
//! This crate is what most programs name. It puts the others together into whole-image verbs, and re-exports them
//! for everything in between:
//!
//! | I want to ... | use |
//! |---|---|
//! | unpack an image, a directory a layer or one merged tree | [`unpack()`] |
//! | mount what was unpacked | [`mount()`], [`umount`] |
//! | apply one layer blob | [`apply_layer`] with a [`LayerInput`] |
//! | compute the layer that an upper directory or a tree makes | [`diff()`], [`diff_to_file`], [`diff_to_store`] with a [`Changed`] |
//! | append that layer to an image | [`commit()`], [`commit_new`] |
//! | convert the layers of an image, to EROFS images or another compression | [`convert()`] |
//! | import layers of Windows into CIMs | [`cim`] |
//! | look at an image, read its blobs | [`Image`] |
//! | keep blobs | [`store::LocalStore`] |
//! | read or write layer tars, compress, check digests | [`tar`] |
//! | write a differ or an applier of my own | [`model`]: [`LayerSource`], [`LayerSink`], [`Differ`], [`Applier`] |
//! | look into layers without mounting | [`overlay::OverlayDir`], [`model::merged::Merged`] |
//! | understand the mounts that containerd hands out | [`mounts`] |
//!
//! It refuses to fetch anything from a network, to start other programs, to read the environment, and to keep state
//! of its own: all calls block, helper threads end before a call returns, and what a call makes appears whole or
//! not at all.
//!
//! ```
//! use layerkit::{Changed, DiffOptions, Image, ImageCommitOptions, Silent, UnpackOptions, commit_new, unpack};
//!
//! # fn main() -> layerkit::Result<()> {
//! # let scratch = tempfile::tempdir().unwrap();
//! # let (tree, layout, dest) = (scratch.path().join("tree"), scratch.path().join("image"), scratch.path().join("dest"));
//! # std::fs::create_dir(&tree).unwrap();
//! # std::fs::write(tree.join("motd"), "hello").unwrap();
//! // A tree becomes an image of one layer ...
//! let changed = Changed::in_tree(&tree).over_nothing();
//! commit_new(&layout, &changed, "v1", &ImageCommitOptions::default(), &Silent)?;
//! // ... and the image a directory for each layer.
//! let image = Image::open(&format!("oci:{}:v1", layout.display()).parse()?)?;
//! let stack = unpack(&image, &dest, &UnpackOptions::default(), &Silent)?;
//! assert!(dest.join(&stack.layers[0].path).join("fs/motd").exists());
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod blob;
mod changed;
mod changes;
pub mod cim;
mod commit;
mod convert;
mod diff;
mod docker_archive;
pub mod erofs;
mod image;
mod image_ref;
mod layers;
mod mount;
mod parallel;
mod stack_file;
mod unpack;

pub use cim_writer_abstraction as cim_format;
pub use content_store as store;
pub use erofs_format as format;
pub use kernel_mount as kernel;
pub use layer_apply as apply;
pub use layer_model as model;
pub use layer_mounts as mounts;
pub use layer_tar as tar;
pub use overlay_diff as differ;
pub use overlay_dir as overlay;

pub use blob::{ApplyLayerOptions, LayerApplied, LayerInput, apply_layer};
pub use changed::Changed;
pub use changes::LayerChanges;
pub use commit::{CommittedImage, ImageCommitOptions, commit, commit_new};
pub use convert::{ConvertOptions, ConvertedImage, convert};
pub use diff::{DiffOptions, Diffed, LayerDescriptor, LayerForm, diff, diff_to_file, diff_to_store};
pub use image::{Image, ImageLayer};
pub use image_ref::ImageRef;
pub use layer_apply::write_file;
pub use layer_model::{
    Applied, Applier, Base, Change, Content, Differ, Digest, Entry, EntryKind, Error, ErrorKind, IoContext,
    LayerPath, LayerPathBuf, LayerSink, LayerSource, MediaType, Metadata, Monitor, Profile, Result, Silent,
    Stack, Warning,
};
pub use mount::{Upper, mount, umount};
pub use overlay_dir::OverlayDir;
pub use stack_file::{Format, STACK_FILE, StackFile, StackLayer, XattrNamespace};
pub use unpack::{UnpackOptions, unpack};
