//! Applies the changes of a layer to directories, in overlayfs's form or flattened, and to EROFS images.
//!
//! A layer arrives as a [`LayerSource`](layer_model::LayerSource): an archive, a difference, anything that says
//! what changed. This crate writes it down:
//!
//! | type | target | deletions become |
//! |---|---|---|
//! | [`OverlayApplier`] | a new directory that holds this one layer | whiteouts and opaque marks, as the kernel reads them |
//! | [`FlatApplier`] | a directory that holds the merged tree | deletions |
//! | [`ErofsApplier`] | an EROFS image that holds this one layer | whiteouts and opaque marks, as the kernel reads them |
//! | [`CimApplier`] | a Windows CIM that holds this one layer, or a fork with it | deletions of a fork, or tombstones |
//!
//! An [`OverlayApplier`] holds its parents as typed handles and asks them for what the layer leaves out: what
//! the directories above its files look like, where links lead, what a hard link to another layer names. Layers
//! of an image may also be applied in parallel, each before its parents are there: then it says what is open
//! ([`Pending`]), and [`reconcile`] settles it.
//!
//! Both trees show the same: a stack of layers flattened one after another is the mount of the same layers in
//! overlay form.
//!
//! ```
//! # #[cfg(target_os = "linux")] {
//! # use layer_model::testing::MemoryLayer;
//! # fn main() -> layer_model::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let folder = folder.path();
//! # let mut bottom = MemoryLayer::new().dir("etc", 0o750).file("etc/issue", "old").changes();
//! # let mut top = MemoryLayer::new().file("etc/motd", "hi").whiteout("etc/issue").changes();
//! use layer_apply::{ApplyOptions, OverlayApplier};
//! use layer_model::{Applier, Base, Silent, Stack};
//! use overlay_dir::OverlayDir;
//!
//! let applier = OverlayApplier::<OverlayDir>::new(ApplyOptions::new());
//! let first = applier.apply(&mut bottom, Base::Empty, folder.join("0"), &Silent)?;
//! let parents = Stack::of(first.layer);
//! let second = applier.apply(&mut top, Base::Layers(&parents), folder.join("1"), &Silent)?;
//! println!("{} changes, {} bytes", second.entries, second.bytes);
//! # Ok(()) }
//! # main().unwrap();
//! # }
//! ```
//!
//! # What it refuses to do
//!
//! - Touch anything outside the target, whatever names, links and orders the layer comes with. Paths are resolved
//!   inside the target as in a chroot, component by component, by descriptors; nothing that a layer made is
//!   opened, but directories and new files. Removal never crosses a mount point.
//! - Show something half-made. A new target is made beside its place and appears whole or not at all
//!   ([`StagedDir`] does the same for what is made of several layers). Only [`FlatApplier`] on an existing directory works in place, and may leave it partly changed when it fails.
//! - Guess. A hard link without a target, a path through a file, a device number that the kernel would cut are
//!   errors, with the entry and its offset; what is lost without harm is a warning to the
//!   [`Monitor`](layer_model::Monitor).
//! - Start programs, mount, look users up by name, read the environment.
//!
//! # As another user than root
//!
//! What the kernel allows is done. Without `CAP_CHOWN` everything belongs to the caller; without `CAP_MKNOD`, and
//! in a user namespace, devices are left out; attributes of `security.*` and `trusted.*` that may not be set are
//! left out: each with a warning. Whiteouts may be made by everyone since Linux 5.8, their marks go to
//! `user.overlay.*` then (mount with `userxattr`). Directories whose modes keep their owner out get their mode
//! when the work in them is done.
//!
//! The umask of the process is read when an apply begins, and is expected to stay until it ends.
//!
//! # Cost
//!
//! A file takes four system calls (create, write, set times, close), and one each for an owner that is not the
//! caller's, attributes, set-id bits or a mode that the umask cuts. A directory takes five, a link two. Nothing is looked
//! up before it is made.
//!
//! Memory does not grow with the layer but for what it leaves open: about 100 bytes and the path for each directory
//! without an entry, with whiteouts or opaque; the hard links whose target comes later; and in place, over a tree
//! that is not empty, up to 20 bytes for each entry in a directory that was there before. At most 64 directories are
//! open at once, 32 more while a tree is removed.
//!
//! # Intended differences
//!
//! With [`Profile::Spec`](layer_model::Profile) the result is that of containerd's applier (`pkg/archive/tar.go`)
//! but for what it loses: deletions of what the same layer adds, lower children that show through a directory in the
//! place of a deletion, times of directories without an entry. [`Profile::Containerd`](layer_model::Profile) follows
//! it in all of these that do no harm, also where it fails.
#![deny(unsafe_code)]

#[cfg(target_os = "linux")]
mod budget;
pub mod cim;
#[cfg(target_os = "linux")]
mod data;
#[cfg(target_os = "linux")]
mod engine;
#[cfg(target_os = "linux")]
mod erofs;
#[cfg(target_os = "linux")]
mod flat;
#[cfg(target_os = "linux")]
mod fs;
#[cfg(target_os = "linux")]
mod lowers;
#[cfg(target_os = "linux")]
mod options;
#[cfg(target_os = "linux")]
mod overlay;
#[cfg(target_os = "linux")]
mod walk;

pub use self::cim::CimApplier;
#[cfg(target_os = "linux")]
pub use self::{
    erofs::{
        BlobOutput, ErofsApplier, ErofsImage, ErofsOptions, ErofsPlan, ErofsPlanner, ErofsSink, ErofsWritten,
        ImageWrite, PlainErofs, Whiteouts, erofs_error,
    },
    flat::{FlatApplier, FlatSink},
    fs::{
        new_file::write_file,
        stage::{STAGING_PREFIX, StagedDir},
    },
    options::{ApplyOptions, DevicePolicy, KernelFeatures, Limits, OverlayXattrs, WhiteoutForm, XattrPolicy},
    overlay::{OverlayApplier, OverlaySink, Pending, reconcile},
};
