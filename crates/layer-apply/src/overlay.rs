//! Layers in overlayfs's form.

mod form;
mod reconcile;

use std::{
    marker::PhantomData,
    path::{Path, PathBuf},
};

use layer_model::{
    Applied, Applier, Base, Change, Error, ErrorKind, IoContext, LayerPath, LayerPathBuf, LayerSink,
    LayerSource, LayerTree, Monitor, Result, road,
};
use overlay_dir::{Namespace, OverlayDir, OverlayDirOptions, Owners};
use rustix::fs::{Mode, OFlags, openat};

use self::form::OverlayForm;
pub use self::reconcile::{Pending, reconcile};
use crate::{
    engine::{Engine, Form},
    fs::{dirs::OpenDir, kernel::Kernel, stage::Stage},
    lowers::Parents,
    options::ApplyOptions,
};

/// Makes a layer directory of overlayfs: deletions become whiteouts, opaque directories get their marker.
///
/// The target is a new or empty directory. It is made beside it, under a name that starts with
/// [`STAGING_PREFIX`](crate::STAGING_PREFIX), and appears whole or not at all; a directory that a killed process
/// left under such a name is removed by the next apply into the same folder.
///
/// `P` is the form of the parents, nearest first: any layer that can be looked into. They say what directories
/// look like that the layer does not describe, where links of lower layers lead, and what a hard link to a name
/// of another layer means. With [`Base::Unknown`] (layers applied in parallel) that is left to [`reconcile`].
pub struct OverlayApplier<P> {
    options: ApplyOptions,
    parents: PhantomData<fn() -> P>,
}

impl<P> std::fmt::Debug for OverlayApplier<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OverlayApplier").field("options", &self.options).finish()
    }
}

impl<P> Clone for OverlayApplier<P> {
    fn clone(&self) -> Self {
        Self::new(self.options.clone())
    }
}

impl<P> Default for OverlayApplier<P> {
    fn default() -> Self {
        Self::new(ApplyOptions::default())
    }
}

impl<P> OverlayApplier<P> {
    /// An applier with these options.
    pub fn new(options: ApplyOptions) -> Self {
        Self { options, parents: PhantomData }
    }
}

impl<P: LayerTree + Clone + 'static> OverlayApplier<P> {
    /// Begins a layer that is made by handing in its changes.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`] when `target` is there and not an empty directory; those of the operating system.
    pub fn sink<'m>(
        &self,
        parents: Base<'_, P>,
        target: impl AsRef<Path>,
        monitor: &'m dyn Monitor,
    ) -> Result<OverlaySink<'m>> {
        OverlaySink::begin(self.options.clone(), Parents::of(parents), target.as_ref(), monitor)
    }

    /// Applies a layer before its parents are there, and says what they will have to be asked.
    ///
    /// # Errors
    /// As [`Applier::apply`].
    pub fn apply_detached(
        &self,
        source: &mut dyn LayerSource,
        target: impl AsRef<Path>,
        monitor: &dyn Monitor,
    ) -> Result<(Applied<OverlayDir>, Pending)> {
        let sink = self.sink(Base::Unknown, target, monitor)?;
        road::pump(source, sink, monitor)
    }
}

impl<P: LayerTree + Clone + 'static> Applier for OverlayApplier<P> {
    type Parent = P;
    type Layer = OverlayDir;
    type Target = PathBuf;

    /// With [`Base::Unknown`] the directories that were implied are reported. A layer that needs more of its parents
    /// fails then (`NotFound` for a hard link to another layer, `UnsupportedMarker` for an opaque root);
    /// [`OverlayApplier::apply_detached`] does not.
    fn apply(
        &self,
        source: &mut dyn LayerSource,
        parents: Base<'_, P>,
        target: PathBuf,
        monitor: &dyn Monitor,
    ) -> Result<Applied<OverlayDir>> {
        let mut sink = self.sink(parents, target, monitor)?;
        sink.only_directories = true;
        Ok(road::pump(source, sink, monitor)?.0)
    }
}

/// A layer directory in the making. Dropped unfinished, nothing is left of it.
pub struct OverlaySink<'m> {
    // Dropped before the directory is removed.
    engine: Engine<'m, OverlayForm>,
    stage: Stage,
    target: PathBuf,
    namespace: Namespace,
    /// Whether the caller can only be told of implied directories.
    only_directories: bool,
}

impl std::fmt::Debug for OverlaySink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OverlaySink").field("target", &self.target).finish_non_exhaustive()
    }
}

impl<'m> OverlaySink<'m> {
    fn begin(
        options: ApplyOptions,
        parents: Parents,
        target: &Path,
        monitor: &'m dyn Monitor,
    ) -> Result<Self> {
        let mut kernel = Kernel::probe(options.kernel);
        let namespace = options.chosen_namespace();
        let stage = Stage::begin(target, &mut kernel)?;
        let root = stage.root().try_clone_to_owned().during("duplicate descriptor")?;
        let root = OpenDir::new(root, LayerPathBuf::root(), false)?;
        let mut engine =
            Engine::new(options, kernel, root, OverlayForm::new(parents, namespace), true, monitor);
        let implied = OverlayForm::implied(&mut engine, LayerPath::ROOT)?;
        engine.describe_new_root(&implied)?;
        Ok(Self { engine, stage, target: target.to_owned(), namespace, only_directories: false })
    }
}

impl LayerSink for OverlaySink<'_> {
    type Output = (Applied<OverlayDir>, Pending);

    fn change(&mut self, change: Change<'_>) -> Result<()> {
        self.engine.change(change)
    }

    fn finish(mut self) -> Result<Self::Output> {
        self.engine.finish()?;
        let pending = Pending::of(&self.engine.form);
        if self.only_directories {
            pending.refuse_more_than_directories()?;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = openat(self.stage.root(), c".", flags, Mode::empty()).during("open the layer made")?;
        let options = &self.engine.options;
        let owners = Owners::mapped(options.uid_map.clone(), options.gid_map.clone());
        let open = OverlayDirOptions::default().namespace(self.namespace).owners(owners);
        let layer = OverlayDir::from_fd(handle, &self.target, open)?;
        let mut applied = Applied::new(layer);
        (applied.entries, applied.bytes) = self.engine.counts();
        applied.implied_dirs = pending.implied_dirs.clone();
        let sync = options.sync;
        // The descriptors are closed before the directory has its name.
        drop(self.engine);
        self.stage.publish(sync)?;
        Ok((applied, pending))
    }
}

fn root_opaque_unsupported() -> Error {
    let kind = ErrorKind::UnsupportedMarker { marker: "root opaque" };
    Error::new(kind, "an opaque root needs the parents to be written down").at(LayerPath::ROOT)
}
