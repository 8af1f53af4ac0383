#![forbid(unsafe_code)]
//! The EROFS file system format.
mod check;
mod error;
mod fsverity;
mod hash;
mod merge;
pub mod raw;
mod read;
mod source;
mod tree;
mod types;
mod uuid;
mod verity;
mod write;
pub use check::*;
pub use error::*;
pub use fsverity::*;
pub use merge::*;
pub use read::*;
pub use source::*;
pub use tree::{BlockAddress, FileData, Metadata, NewDevice, NewFile, NodeId, Tree};
pub use types::*;
pub use uuid::*;
pub use verity::*;
pub use write::*;
