//! Standard CIMs as they lie on disk: a file-system file `NAME.cim` and the region files beside it.
//!
//! [`Image`] reads them on every platform. It is checked as far as it is looked at: an error that concerns one file
//! comes when that file is reached. What is known of the format is from the readers that hcsshim once had, and has not
//! been compared with images made by Windows.
//!
//! ```no_run
//! use cim_writer_abstraction::{CimName, CimPath, stdcim::Image};
//!
//! let image = Image::open("C:\\cims", &CimName::new("1.cim")?)?;
//! for entry in image.walk() {
//!     let entry = entry?;
//!     println!("{} {}", entry.path, entry.file.size());
//! }
//! if let Some(file) = image.lookup(&CimPath::new("Files\\Windows\\win.ini")?)? {
//!     let content = file.open()?;
//! }
//! # Ok::<(), layer_model::Error>(())
//! ```
//!
//! Block CIMs, merged and verified ones are not public: they are not read here, and not written.

mod events;
mod files;
pub mod raw;
mod read;
mod tree;
mod usage;
mod write;

pub use events::ImageEvents;
pub use files::{ImageDir, ImageFiles};
pub use read::{DirEntry, Entries, File, FileId, Image, Stream, StreamEntry, Version, Walk, WalkEntry};
pub use usage::{OwnFile, OwnFiles, destroy};
pub use write::{Major, StdCimSink, UpcaseTable, WriteOptions};
