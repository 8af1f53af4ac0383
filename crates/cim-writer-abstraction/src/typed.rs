//! Layers in CIMs as typed values: what cannot work does not compile.
//!
//! | who | what |
//! |---|---|
//! | [`Forked`], [`SingleFile`], [`Device`] | where an image is: in a directory with others, in a file, on a device |
//! | [`Unverified`], [`Verified`] | whether it has a root digest |
//! | [`ForkedCim`], [`BlockCim`] | one layer, complete |
//! | [`Import`], [`Writer`], [`StreamWriter`] | a layer while it is written |
//! | [`AtLeastTwo`], [`merge`], [`Merged`] | block CIMs merged into one |
//!
//! A writer is made with the parents' stack, so that a parent of another kind, another container or another
//! integrity is a type error; it takes a token of [`Capabilities`](crate::Capabilities), so that a Windows that is too
//! old is found out first; it lends one [`StreamWriter`] at a time; and only [`Writer::commit`], which takes the writer
//! itself, makes an image. Dropping a writer discards.

mod import;
mod layers;
mod marker;
mod merged;
mod mounted;
mod place;
mod refusals;
mod writer;

pub use import::{Import, ImportOptions};
pub use layers::{BlockCim, CimLayer, ForkedCim};
pub use marker::{
    BaseRole, BlockStorage, ChildRole, Device, Forked, Integrity, Role, RootDigest, SingleFile, Storage,
    Unverified, Verified, WritableStorage,
};
pub use merged::{AtLeastTwo, Merged, MountArguments, merge};
pub use place::{Container, ImageDir, Target};
pub use writer::{Committed, StreamWriter, Writer};
