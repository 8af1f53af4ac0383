//! EROFS images by name: built from layers and directories, turned back into them, merged, protected.
//!
//! The format itself is [`format`](crate::format); an image as a layer is an [`ErofsImage`](crate::apply::ErofsImage).

mod build;
mod convert;
mod dir;
mod layer;
mod verity;

pub use build::{BuildOptions, Built, Data, build_from_dir, build_from_layer};
pub use convert::{MergeForm, extract, merge, to_tar};
pub(crate) use dir::{FSMETA, LAYER, make_layer_dir};
pub(crate) use layer::{Converted, convert};
pub use layer::{ErofsLayerOptions, UuidFrom};
pub use verity::{Protected, protect, verify};
