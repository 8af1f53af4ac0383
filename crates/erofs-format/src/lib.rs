#![forbid(unsafe_code)]
//! The EROFS file system format.
mod error;
mod hash;
pub mod raw;
mod read;
mod source;
mod tree;
mod types;
mod write;
pub use error::*;
pub use read::*;
pub use source::*;
pub use tree::{BlockAddress, FileData, Metadata, NewDevice, NewFile, NodeId, Tree};
pub use types::*;
pub use write::*;
