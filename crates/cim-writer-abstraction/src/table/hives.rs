//! The offline registry: hives merged as Windows does it.

use std::{fmt, path::Path, ptr};

use layer_model::{Error, ErrorKind, Result};

use super::{
    HResult,
    api::{Messages, missing},
    raw::{OffregTable, RegistryHandle},
    wide::Wide,
};
use crate::{caps::OsVersion, hive::HiveMerger};

/// `offreg.dll`, or what stands in for it. Merges hives for the Windows that it runs on.
///
/// What the merge makes of keys and values that a delta deletes is not documented; this is the only merge that
/// containers were ever run with. Merged hives carry a time stamp, so that images with them differ between runs.
#[derive(Clone, Copy)]
pub struct OfflineRegistry {
    table: OffregTable,
    messages: Messages,
    os: OsVersion,
}

impl fmt::Debug for OfflineRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfflineRegistry")
            .field("table", &self.table)
            .field("os", &self.os)
            .finish_non_exhaustive()
    }
}

/// Calls a function of the table, and makes its Win32 code an error where it is one.
macro_rules! call {
    ($registry:expr, $field:ident, $name:literal ($($arg:expr),* $(,)?)) => {{
        let registry: &OfflineRegistry = $registry;
        match registry.table.$field {
            None => Err(missing($name)),
            Some(function) => {
                // SAFETY: the table's functions are those of the offline registry, as whoever made the
                // `OfflineRegistry` promised. They are given open keys and pointers to what lives in the calling
                // method until after the call.
                match unsafe { function($($arg),*) } {
                    0 => Ok(()),
                    code => {
                        let code = HResult::win32(code as u16); // Win32 errors have 16 bits
                        Err(code.error($name, (registry.messages)(code)))
                    }
                }
            }
        }
    }};
}

impl OfflineRegistry {
    /// Calls go to the functions of `table`; hives are saved for the system `os`.
    ///
    /// # Safety
    /// The functions are those of the offline registry, or behave as Microsoft documents them, and can be called as
    /// long as this value or a copy is there.
    pub unsafe fn new(table: OffregTable, messages: Messages, os: OsVersion) -> Self {
        Self { table, messages, os }
    }

    /// The functions.
    pub fn table(&self) -> &OffregTable {
        &self.table
    }

    fn open(&self, path: &Path) -> Result<Key<'_>> {
        let wide = host(path)?;
        self.key(|key| call!(self, open_hive, "OROpenHive"(wide.as_ptr(), key)))
            .map_err(|error| error.entry(path.as_os_str().as_encoded_bytes()))
    }

    fn key(&self, open: impl FnOnce(*mut RegistryHandle) -> Result<()>) -> Result<Key<'_>> {
        if self.table.close_hive.is_none() {
            return Err(missing("ORCloseHive"));
        }
        let mut key = ptr::null_mut();
        open(&mut key)?;
        Ok(Key(self, key))
    }
}

/// A hive that is open; dropped, it is closed.
struct Key<'r>(&'r OfflineRegistry, RegistryHandle);

impl Drop for Key<'_> {
    fn drop(&mut self) {
        // A hive that cannot be closed is no reason to throw away the result.
        let _ = call!(self.0, close_hive, "ORCloseHive"(self.1));
    }
}

impl HiveMerger for OfflineRegistry {
    fn merge(&self, base: &Path, delta: &Path, out: &Path) -> Result<()> {
        let wide = host(out)?;
        let (base, delta) = (self.open(base)?, self.open(delta)?);
        let keys = [base.1, delta.1]; // the later one changes the earlier one
        let merged = self.key(|key| call!(self, merge_hives, "ORMergeHives"(keys.as_ptr(), 2, key)))?;
        let OsVersion { major, minor, .. } = self.os;
        call!(self, save_hive, "ORSaveHive"(merged.1, wide.as_ptr(), major, minor))
            .map_err(|error| error.entry(out.as_os_str().as_encoded_bytes()))
    }
}

fn host(path: &Path) -> Result<Wide> {
    let text = path.to_str().ok_or_else(|| {
        let error = Error::new(ErrorKind::InvalidArgument, "the path of a hive is no Unicode text");
        error.entry(path.as_os_str().as_encoded_bytes())
    })?;
    Wide::host(text)
}
