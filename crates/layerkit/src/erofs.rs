//! EROFS images by name: built from layers and directories, turned back into them, merged, protected.
//!
//! The format itself is [`format`](crate::format); an image as a layer is an [`ErofsImage`](crate::apply::ErofsImage).

mod build;
mod conversion;
mod convert;
mod dir;
mod hashed;
mod layer;
mod native;
mod verity;

pub use build::{BuildOptions, Built, Data, build_from_dir, build_from_layer};
pub(crate) use conversion::{Conversion, Target};
pub use convert::{MergeForm, extract, merge, to_tar};
pub(crate) use dir::{FSMETA, LAYER, make_layer_dir};
pub use layer::{ErofsLayerOptions, UuidFrom};
pub(crate) use layer::{Finished, convert};
pub(crate) use native::{erofs_media_type, plan, write_planned};
pub(crate) use verity::verify_appended;
pub use verity::{Protected, protect, verify};
