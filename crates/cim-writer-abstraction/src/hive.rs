//! Registry hives of layers: which files they are, and who merges them.
//!
//! A base layer has five hives. A layer above it has *deltas*, and Windows wants the whole hive beside them: the
//! nearest parent's merged with the delta. The rules of that merge are not public; only `offreg.dll` knows them.

use std::{fmt, path::Path};

use layer_model::Result;

/// One of the hives of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hive {
    /// Its name below `Files\Windows\System32\config`.
    pub name: &'static str,
    /// The whole hive, below `Hives`.
    pub base: &'static str,
    /// What a layer changes in it, below `Hives`.
    pub delta: &'static str,
}

/// All hives, in the order in which everything works through them (hcsshim, `internal/wclayer/cim`).
pub const HIVES: [Hive; 5] = [
    Hive { name: "SYSTEM", base: "SYSTEM_BASE", delta: "SYSTEM_DELTA" },
    Hive { name: "SOFTWARE", base: "SOFTWARE_BASE", delta: "SOFTWARE_DELTA" },
    Hive { name: "SAM", base: "SAM_BASE", delta: "SAM_DELTA" },
    Hive { name: "SECURITY", base: "SECURITY_BASE", delta: "SECURITY_DELTA" },
    // Not DEFAULT_BASE: the file has had another name in layers from the beginning.
    Hive { name: "DEFAULT", base: "DEFAULTUSER_BASE", delta: "DEFAULTUSER_DELTA" },
];

/// Merges a hive with its delta.
pub trait HiveMerger {
    /// Reads the hive `base` and the changes `delta`, and writes the whole hive to `out`, which is not there yet.
    ///
    /// # Errors
    /// Those of reading and writing hives; `out` may be left then, and its caller takes it away.
    fn merge(&self, base: &Path, delta: &Path, out: &Path) -> Result<()>;
}

/// What is done about hives that have to be merged.
#[derive(Clone, Copy, Default)]
pub enum HivePolicy<'a> {
    /// It is written down that they have to be. Who has a merger can finish the layer later.
    #[default]
    Record,
    /// They are merged while the layer is imported.
    Merge(&'a dyn HiveMerger),
}

impl fmt::Debug for HivePolicy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Record => "Record",
            Self::Merge(_) => "Merge",
        })
    }
}
