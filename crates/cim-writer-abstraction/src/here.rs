//! The CimFS of the machine at hand: that of Windows, and none anywhere else.

use layer_model::Result;

use crate::table::{CimApi, OfflineRegistry};

/// The functions of CimFS.
///
/// # Errors
/// [`NotSupported`](layer_model::ErrorKind::NotSupported) where there are none.
pub fn cimfs() -> Result<CimApi> {
    #[cfg(windows)]
    return crate::windows::cimfs();
    #[cfg(not(windows))]
    Err(missing())
}

/// What merges hives.
///
/// # Errors
/// [`NotSupported`](layer_model::ErrorKind::NotSupported) where there is none.
pub fn offline_registry() -> Result<OfflineRegistry> {
    #[cfg(windows)]
    return crate::windows::offline_registry();
    #[cfg(not(windows))]
    Err(missing())
}

#[cfg(not(windows))]
fn missing() -> layer_model::Error {
    layer_model::Error::new(layer_model::ErrorKind::NotSupported, "CimFS is part of Windows")
}
