//! What a plan asks its parents.

use std::{fmt, path::PathBuf, sync::Arc};

use layer_model::Result;

use crate::{
    CimPath, FileMeta,
    hive::Hive,
    model::{EntryRef, View},
};

/// The parents of a layer, merged.
pub trait ParentView {
    /// What they have at `path`.
    ///
    /// # Errors
    /// Those of reading the images.
    fn find(&self, path: &CimPath) -> Result<Option<FileMeta>>;

    /// The paths of what they have in the directory `path`, in upper-cased order; none where there is no directory.
    ///
    /// # Errors
    /// Those of reading the images.
    fn children(&self, path: &CimPath) -> Result<Vec<CimPath>>;
}

impl ParentView for View {
    fn find(&self, path: &CimPath) -> Result<Option<FileMeta>> {
        Ok(self.lookup(path).and_then(EntryRef::meta).cloned())
    }

    fn children(&self, path: &CimPath) -> Result<Vec<CimPath>> {
        match self.lookup(path) {
            Some(EntryRef::Dir(dir)) => dir.names().map(|name| path.join(name)).collect(),
            _ => Ok(Vec::new()),
        }
    }
}

/// The parents of a layer.
#[derive(Clone, Default)]
pub struct Parents<'a> {
    /// What they have, where that can be looked into.
    pub view: Option<Arc<dyn ParentView + 'a>>,
    /// Where their hives are, nearest first.
    pub hives: Vec<HiveSource>,
}

impl fmt::Debug for Parents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parents").field("view", &self.view.is_some()).field("hives", &self.hives).finish()
    }
}

/// The hives of one parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HiveSource {
    /// Its layer directory.
    pub dir: PathBuf,
    /// The hives that it would have, had somebody merged them: their names below `Hives`.
    pub recorded: Vec<String>,
}

impl HiveSource {
    /// Whether the parent has the hive, on disk or recorded.
    pub(super) fn has(&self, hive: &Hive) -> bool {
        self.recorded.iter().any(|name| name == hive.base) || self.file(hive).is_file()
    }

    /// Where the hive is, when it has been merged.
    pub(super) fn file(&self, hive: &Hive) -> PathBuf {
        self.dir.join("Hives").join(hive.base)
    }
}
