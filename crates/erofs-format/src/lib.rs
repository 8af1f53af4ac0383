#![forbid(unsafe_code)]
//! The EROFS file system format.
mod error;
mod hash;
pub mod raw;
mod read;
mod source;
mod types;
pub use error::*;
pub use read::*;
pub use source::*;
pub use types::*;
