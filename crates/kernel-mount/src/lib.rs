//! Mounts container layers with the kernel: EROFS images, overlays over them and over directories, and the mount
//! lists that containerd hands out.
//!
//! Everything is made *detached* first: a [`Detached`] mount is a descriptor, attached nowhere and seen by nobody,
//! and it is gone with the descriptor. What fails on the way, and a program that is killed, leaves nothing
//! mounted; [`Detached::attach`] is the one step that others see.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use kernel_mount::{ErofsOptions, Lower, OverlayOptions, Upper, erofs, overlay, umount};
//!
//! # fn main() -> layer_model::Result<()> {
//! let mut lowers = Vec::new();
//! for image in ["top.erofs", "base.erofs"] {
//!     lowers.push(Lower::Mount(erofs(Path::new(image), &[], &ErofsOptions::new())?));
//! }
//! let merged = overlay(lowers, Some(&Upper::new("changes")), &OverlayOptions::new())?;
//! merged.attach(Path::new("/mnt/merged"))?;
//! umount(Path::new("/mnt/merged"))?;
//! # Ok(()) }
//! ```
//!
//! | I want to … | use … |
//! |---|---|
//! | mount an EROFS image, with the further devices that it names | [`erofs()`] |
//! | mount layers on top of each other, read-only or writable | [`overlay()`] with [`Lower`], [`Upper`] |
//! | show a directory elsewhere, read-only too | [`bind()`] |
//! | mount what containerd's snapshotters describe | [`activate()`] |
//! | unmount | [`umount`] |
//!
//! # What it refuses
//!
//! - To start programs: no `mount`, `losetup`, `mkfs` or `veritysetup`. Lists that need a file system made, or a
//!   dm-verity device, are [`NotSupported`](layer_model::ErrorKind::NotSupported).
//! - To leave things behind. Loop devices are bound so that they go away with the mount; directories for a
//!   moment are removed again.
//! - To keep a list of mounts: what is mounted is known to the kernel.
//!
//! # What it needs
//!
//! Linux 5.2, 5.8 for loop devices, and `CAP_SYS_ADMIN`. What is newer has a fallback with the same result ([`KernelFeatures`]). The
//! fallbacks attach mounts to a directory of their own for a moment (`scratch` in the options, `/tmp` by default);
//! there, and nowhere else, a program that is killed may leave something mounted.
#![cfg(target_os = "linux")]
#![deny(unsafe_code)]

mod activate;
mod bind;
mod context;
mod detached;
mod erofs;
mod error;
mod ext4;
mod features;
mod flags;
mod loop_device;
mod loop_ioctl;
mod mkdir;
mod overlay;
mod staging;
mod umount;
mod upper;

pub use activate::{ActivateOptions, activate};
pub use bind::{BindOptions, bind};
pub use detached::Detached;
pub use erofs::{Backing, ErofsOptions, erofs};
pub use features::KernelFeatures;
pub use overlay::{Lower, OverlayOptions, overlay};
pub use umount::umount;
pub use upper::Upper;
