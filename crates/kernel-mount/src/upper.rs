//! Where a writable overlay keeps its changes.

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use layer_model::{IoContext, Result};
use rustix::fs::{
    CWD, Gid, Mode, RenameFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, fchmod, fchown, futimens,
    renameat_with,
};

use crate::error::at;

/// Where a writable mount keeps its changes.
#[derive(Clone, Debug)]
pub struct Upper {
    /// Receives the changes: additions, and marks for what was deleted. What differs is read from here.
    pub dir: PathBuf,
    /// The kernel's work directory, on the same file system.
    pub work: PathBuf,
}

impl Upper {
    /// `dir` for the changes, and `dir` with `.work` appended beside it.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        let mut work = dir.clone().into_os_string();
        work.push(".work");
        Self { dir, work: work.into() }
    }

    /// Makes what is missing of the two directories. The root of the merged view is the root of the upper, so a
    /// new one takes mode, owner and time of `nearest`, the root of the nearest layer. It appears complete, or not
    /// at all: a half-made one would pass for an old one the next time.
    pub(crate) fn prepare(&self, nearest: &Stat) -> Result<()> {
        if !self.dir.exists() {
            self.make_dir(nearest)?;
        }
        fs::create_dir_all(&self.work).map_err(|e| at(&self.work, "make the work directory", e))
    }

    fn make_dir(&self, nearest: &Stat) -> Result<()> {
        let failed = |operation: &str, error: std::io::Error| at(&self.dir, operation, error);
        let parent = match self.dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(|e| failed("make the upper directory", e))?;
        let new = tempfile::Builder::new()
            .prefix(".upper-")
            .tempdir_in(parent)
            .map_err(|e| failed("make the upper directory", e))?;
        let dir = fs::File::open(new.path()).map_err(|e| failed("open the upper directory", e))?;
        let owner = (Some(Uid::from_raw(nearest.st_uid)), Some(Gid::from_raw(nearest.st_gid)));
        fchown(&dir, owner.0, owner.1).map_err(|e| failed("set the owner", e.into()))?;
        let mode = Mode::from_raw_mode(nearest.st_mode & 0o7777);
        fchmod(&dir, mode).map_err(|e| failed("set the mode", e.into()))?;
        futimens(&dir, &times(nearest)).map_err(|e| failed("set the time", e.into()))?;
        renameat_with(CWD, new.path(), CWD, &self.dir, RenameFlags::NOREPLACE)
            .map_err(|e| failed("make the upper directory", e.into()))?;
        let _ = new.keep();
        Ok(())
    }
}

/// The time of last modification; that of the last access is the kernel's.
fn times(of: &Stat) -> Timestamps {
    #[allow(clippy::unnecessary_cast, reason = "types differ by architecture")]
    let modification = Timespec { tv_sec: of.st_mtime as i64, tv_nsec: of.st_mtime_nsec as _ };
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: modification }
}

/// What the root of a layer looks like.
pub(crate) fn root_of(layer: impl AsFd) -> Result<Stat> {
    rustix::fs::fstat(layer).during("look at the nearest layer")
}
