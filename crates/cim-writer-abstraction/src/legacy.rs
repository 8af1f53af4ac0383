//! Layer directories of the Windows Container Isolation file system, as hcsshim's older tools export and import them.
//!
//! Such a directory has the files of a layer as files of the host, but with a form of their own, so that they survive
//! any file system:
//!
//! - A file below `Files` begins with its attributes, a 32-bit number; then comes a backup stream
//!   ([`backup`](crate::backup)) with the rest.
//! - A directory `D` has a side file `D.$wcidirs$` of the same form.
//! - Hives are files without any of that.
//! - `tombstones.txt` lists what the layer removes ([`tombstones`]).
//!
//! [`LegacySource`] reads one as events, in the order in which hcsshim exports it: a directory, what is removed in it,
//! what is in it, names in bytewise order. [`LegacyWriter`] makes one of events. Of times only the host's files know
//! some: on Windows all but the time of change, elsewhere the time of writing, which then stands for all four.
//!
//! What hcsshim keeps of a utility VM are files with their metadata on NTFS. Elsewhere that is nothing, so what is below
//! `UtilityVM` is written in the form of `Files`, and read in that form where the directory has a side file.

mod read;
pub mod tombstones;
mod write;

use std::time::{Duration, SystemTime};

use layer_model::Result;
#[cfg(not(windows))]
use layer_model::Timestamp;

pub use read::{LegacyOptions, LegacySource};
pub use write::LegacyWriter;

use crate::{CimPath, FileTime, path::PathKey};

/// What follows the name of a directory in that of its side file.
const SIDE_SUFFIX: &str = ".$wcidirs$";
/// The list of what is removed.
const TOMBSTONES: &str = "tombstones.txt";

/// Directories that are treated in their own ways.
#[derive(Debug)]
struct Places {
    files: PathKey,
    hives: PathKey,
    vm_files: PathKey,
}

impl Places {
    fn new() -> Result<Self> {
        let key = |path| CimPath::new(path).map(|path| path.key());
        Ok(Self { files: key("Files")?, hives: key("Hives")?, vm_files: key(r"UtilityVM\Files")? })
    }

    /// Whether `key` is strictly below `dir`.
    fn is_below(key: &PathKey, dir: &PathKey) -> bool {
        key != dir && key.starts_with(dir)
    }
}

/// The time of a host's file.
#[cfg(not(windows))]
fn time_of_host(time: SystemTime) -> FileTime {
    let (nanos, is_before) = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => (since.as_nanos(), false),
        Err(before) => (before.duration().as_nanos(), true),
    };
    let nanos = i128::try_from(nanos).map_or(i128::MAX, |nanos| if is_before { -nanos } else { nanos });
    let secs = i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or(i64::MAX);
    let rest = nanos.rem_euclid(1_000_000_000) as u32; // below a second
    FileTime::from_timestamp(Timestamp::new(secs, rest))
}

/// A time for a host's file, [`None`] where the host has none such.
fn time_for_host(time: FileTime) -> Option<SystemTime> {
    let stamp = time.to_timestamp();
    let whole = Duration::from_secs(stamp.secs.unsigned_abs());
    let second = match stamp.secs {
        0.. => SystemTime::UNIX_EPOCH.checked_add(whole),
        _ => SystemTime::UNIX_EPOCH.checked_sub(whole),
    };
    second?.checked_add(Duration::from_nanos(stamp.nanos.into()))
}
