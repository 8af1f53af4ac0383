//! Layers flattened into one tree.

mod form;

use std::{
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use layer_model::{
    Applied, Applier, Base, Change, Error, ErrorKind, IoContext, LayerPathBuf, LayerSink, LayerSource,
    Monitor, Result, road,
};
use overlay_dir::{Owners, PlainDir, PlainDirOptions};
use rustix::{
    fs::{CWD, Mode, OFlags, openat, syncfs},
    io::Errno,
};

use self::form::FlatForm;
use crate::{
    engine::Engine,
    fs::{
        dirs::OpenDir,
        kernel::Kernel,
        stage::{self, Stage},
    },
    options::ApplyOptions,
};

/// Applies a layer to a directory that holds, or will hold, the merged tree: deletions delete.
///
/// An existing target is changed in place, so that layers are applied one after another by calling this again; it
/// keeps its root's metadata. When that fails, the tree may be partly changed. A missing target is made as
/// [`OverlayApplier`](crate::OverlayApplier) makes one: out of sight, and it appears whole or not at all.
///
/// The parents are what is in the target: handles of parents are refused.
#[derive(Clone, Debug, Default)]
pub struct FlatApplier {
    options: ApplyOptions,
}

impl FlatApplier {
    /// An applier with these options.
    pub fn new(options: ApplyOptions) -> Self {
        Self { options }
    }

    /// Begins a layer that is applied by handing in its changes.
    ///
    /// # Errors
    /// [`ErrorKind::NotDirectory`] when `target` is something else; those of the operating system.
    pub fn sink<'m>(&self, target: impl AsRef<Path>, monitor: &'m dyn Monitor) -> Result<FlatSink<'m>> {
        FlatSink::begin(self.options.clone(), target.as_ref(), monitor)
    }
}

impl Applier for FlatApplier {
    type Parent = PlainDir;
    type Layer = PlainDir;
    type Target = PathBuf;

    fn apply(
        &self,
        source: &mut dyn LayerSource,
        parents: Base<'_, PlainDir>,
        target: PathBuf,
        monitor: &dyn Monitor,
    ) -> Result<Applied<PlainDir>> {
        if parents.layers().is_some() {
            let message = "a flattened tree holds its parents: they cannot be given as handles";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        road::pump(source, self.sink(target, monitor)?, monitor)
    }
}

/// A layer that is being applied to a merged tree.
pub struct FlatSink<'m> {
    // Dropped before a directory in the making is removed.
    engine: Engine<'m, FlatForm>,
    stage: Option<Stage>,
    target: PathBuf,
}

impl std::fmt::Debug for FlatSink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlatSink").field("target", &self.target).finish_non_exhaustive()
    }
}

impl<'m> FlatSink<'m> {
    fn begin(options: ApplyOptions, target: &Path, monitor: &'m dyn Monitor) -> Result<Self> {
        let mut kernel = Kernel::probe(options.kernel);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // Links in the caller's own name of the target are followed: it is the caller's.
        let existing = match openat(CWD, target, flags, Mode::empty()) {
            Ok(fd) => Some(fd),
            Err(Errno::NOENT) => None,
            Err(error) => {
                return Err(Error::io("open the target", error).entry(target.as_os_str().as_bytes()));
            }
        };
        let (root, stage, empty) = match existing {
            Some(fd) => {
                let empty = stage::is_empty(fd.as_fd()).during("list the target")?;
                (fd, None, empty)
            }
            None => {
                let stage = Stage::begin(target, &mut kernel)?;
                (stage.root().try_clone_to_owned().during("duplicate descriptor")?, Some(stage), true)
            }
        };
        let keep_times = stage.is_none() && options.is_spec();
        let root = OpenDir::new(root, LayerPathBuf::root(), keep_times)?;
        let implied = options.implied_dir();
        let mut engine = Engine::new(options, kernel, root, FlatForm::new(empty), true, monitor);
        if stage.is_some() {
            engine.describe_new_root(&implied)?;
        }
        Ok(Self { engine, stage, target: target.to_owned() })
    }
}

impl LayerSink for FlatSink<'_> {
    type Output = Applied<PlainDir>;

    fn change(&mut self, change: Change<'_>) -> Result<()> {
        self.engine.change(change)
    }

    fn finish(mut self) -> Result<Applied<PlainDir>> {
        self.engine.finish()?;
        let root = self.engine.dirs.fd(crate::fs::dirs::ROOT);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = openat(root, c".", flags, Mode::empty()).during("open the tree made")?;
        let options = &self.engine.options;
        let owners = Owners::mapped(options.uid_map.clone(), options.gid_map.clone());
        let layer = PlainDir::from_fd(handle, &self.target, PlainDirOptions::default().owners(owners));
        let mut applied = Applied::new(layer);
        (applied.entries, applied.bytes) = self.engine.counts();
        let sync = options.sync;
        if sync && self.stage.is_none() {
            syncfs(root).during("write the target to disk")?;
        }
        drop(self.engine);
        if let Some(stage) = self.stage {
            stage.publish(sync)?;
        }
        Ok(applied)
    }
}
