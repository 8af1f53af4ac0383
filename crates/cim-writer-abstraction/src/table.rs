//! The Win32 interface of CimFS, as a table of functions.
//!
//! Everything that there is to get right about calling Windows is here, and compiles and is tested everywhere: how
//! strings and metadata are handed over, which flags a call gets, what its errors mean, in which order handles are
//! closed. What fills the table differs: the DLLs of Windows, or the emulator.
//!
//! | level | type |
//! |---|---|
//! | as in `cimfs.h` | [`raw`]: structures, and [`CimTable`], a field for each function |
//! | one safe method a function | [`CimApi`], and [`OfflineRegistry`] for hives |
//! | a [`CimSink`](crate::CimSink) | [`TableSink`] |
//!
//! A table may lack functions: those of Windows grew over the years. Calling one that is not there is
//! [`ErrorKind::NotSupported`](layer_model::ErrorKind::NotSupported).
#![expect(unsafe_code, reason = "calls into Windows go through pointers")]

mod api;
mod containers;
mod hives;
mod hresult;
mod mount;
pub mod raw;
mod sink;
mod wide;

pub use api::{CimApi, Image, Messages, OpenStream, Verification};
pub use containers::{Containers, HostFiles};
pub use hives::OfflineRegistry;
pub use hresult::HResult;
pub use mount::{ImageRef, Mount, Trust};
pub use raw::{CimTable, OffregTable};
pub use sink::TableSink;
pub(crate) use sink::check_create;
