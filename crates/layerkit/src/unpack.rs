//! A whole image into a directory: one directory a layer, or one merged tree.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use layer_apply::{ApplyOptions, FlatApplier, OverlayApplier, Pending, StagedDir, reconcile};
use layer_model::{
    Applied, Applier, Base, Error, ErrorKind, IoContext, LayerPath, Monitor, Result, Stack, Warning,
};
use layer_tar::{BlobSummary, ReadOptions};
use overlay_dir::{Namespace, OverlayDir, PlainDir};

use crate::{
    Image, LayerInput,
    blob::summary_of,
    stack_file::{Format, StackFile, StackLayer},
};

/// How an image is unpacked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UnpackOptions {
    /// The form of the layers.
    pub format: Format,
    /// How layers are applied.
    pub apply: ApplyOptions,
    /// How layer tars are read.
    pub read: ReadOptions,
    /// How many layers are worked on at once; each has a thread that inflates and one that hashes besides.
    /// Default: as many as the machine has processors.
    pub jobs: Option<NonZeroUsize>,
    /// Whether everything is on disk before the call returns. Default: no.
    pub sync: bool,
}

impl Default for UnpackOptions {
    /// Like umoci, and unlike containerd, `unpack` takes the root's own metadata and `trusted.*` attributes from
    /// the layers: the result is to be the image, whole.
    fn default() -> Self {
        let apply = ApplyOptions::new().apply_root_metadata(true).keep_trusted_xattrs(true);
        Self { format: Format::default(), apply, read: ReadOptions::default(), jobs: None, sync: false }
    }
}

impl UnpackOptions {
    /// Sets [`Self::format`].
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Sets [`Self::apply`].
    #[must_use]
    pub fn apply(mut self, apply: ApplyOptions) -> Self {
        self.apply = apply;
        self
    }

    /// Sets [`Self::read`].
    #[must_use]
    pub fn read(mut self, read: ReadOptions) -> Self {
        self.read = read;
        self
    }

    /// Sets [`Self::jobs`].
    #[must_use]
    pub fn jobs(mut self, jobs: NonZeroUsize) -> Self {
        self.jobs = Some(jobs);
        self
    }

    /// Sets [`Self::sync`].
    #[must_use]
    pub fn sync(mut self, sync: bool) -> Self {
        self.sync = sync;
        self
    }
}

/// Unpacks `image` into `dest`, which has to be missing or an empty directory. It appears whole, or not at all.
///
/// # Errors
/// [`ErrorKind::Exists`] when something is in `dest`; digest and size errors; what the archives and the file system
/// say, with the layer, the entry and the offset.
pub fn unpack(
    image: &Image,
    dest: &Path,
    options: &UnpackOptions,
    monitor: &dyn Monitor,
) -> Result<StackFile> {
    let stage = StagedDir::begin(dest)?;
    let (xattrs, layers) = match options.format {
        Format::Overlay => {
            let namespace = options.apply.chosen_namespace();
            (Some(namespace.into()), unpack_overlay(image, &stage.path(), namespace, options, monitor)?)
        }
        Format::Flat => (None, unpack_flat(image, &stage.path(), options, monitor)?),
    };
    let file = StackFile { format: options.format, xattrs, layers };
    file.write(&stage.path())?;
    stage.publish(options.sync)?;
    Ok(file)
}

/// Layers go to directories of their own, so they are applied at the same time, the largest first: it is the one
/// that all wait for. What a layer needs to know of its parents is put right when all are there.
fn unpack_overlay(
    image: &Image,
    root: &Path,
    namespace: Namespace,
    options: &UnpackOptions,
    monitor: &dyn Monitor,
) -> Result<Vec<StackLayer>> {
    let applier = OverlayApplier::<OverlayDir>::new(options.apply.clone().namespace(namespace));
    let paths: Vec<PathBuf> = (0..image.layers().len()).map(|n| layer_path(image, n)).collect();
    let apply = |n: usize, monitor: &dyn Monitor| -> Result<Done> {
        let dir = root.join(&paths[n]);
        std::fs::create_dir_all(&dir).during("make the directory of a layer")?;
        let mut source = LayerInput::of_image(image, n)?.changes(options.read.clone(), monitor)?;
        let target = dir.join("fs");
        let (applied, pending) = match n {
            0 => (applier.apply(&mut source, Base::Empty, target, monitor)?, Pending::default()),
            _ => applier.apply_detached(&mut source, &target, monitor)?,
        };
        Ok(Done { layer: applied.layer, pending, summary: summary_of(&source)? })
    };
    let done = in_parallel(image, options.jobs, monitor, apply)?;

    let mut parents: Option<Stack<OverlayDir>> = None;
    let mut layers = Vec::with_capacity(done.len());
    for (n, (Done { layer, pending, summary }, path)) in done.into_iter().zip(paths).enumerate() {
        let base = Base::from_stack(parents.as_ref());
        reconcile(&layer, &pending, base, &options.apply, monitor).map_err(|e| in_layer(e, image, n))?;
        layers.push(stack_layer(path, summary));
        parents = Some(match parents {
            Some(stack) => stack.with_nearest(layer),
            None => Stack::of(layer),
        });
    }
    Ok(layers)
}

/// A layer that was applied without looking at its parents.
struct Done {
    layer: OverlayDir,
    pending: Pending,
    summary: BlobSummary,
}

fn unpack_flat(
    image: &Image,
    root: &Path,
    options: &UnpackOptions,
    monitor: &dyn Monitor,
) -> Result<Vec<StackLayer>> {
    let applier = FlatApplier::new(options.apply.clone());
    let target = root.join("rootfs");
    let mut layers = Vec::with_capacity(image.layers().len());
    for n in 0..image.layers().len() {
        let apply = || -> Result<BlobSummary> {
            let mut source = LayerInput::of_image(image, n)?.changes(options.read.clone(), monitor)?;
            let _: Applied<PlainDir> = applier.apply(&mut source, Base::Unknown, target.clone(), monitor)?;
            summary_of(&source)
        };
        let summary = apply().map_err(|e| in_layer(e, image, n))?;
        layers.push(stack_layer("rootfs".into(), summary));
    }
    Ok(layers)
}

fn stack_layer(path: PathBuf, summary: BlobSummary) -> StackLayer {
    let BlobSummary { diff_id, digest, size, .. } = summary;
    StackLayer { path, diff_id, digest, size }
}

/// `layers/NN-HEX`: the number of the layer, and the start of its diff id.
fn layer_path(image: &Image, n: usize) -> PathBuf {
    let hex = image.layers()[n].diff_id.encoded();
    Path::new("layers").join(format!("{n:02}-{}", &hex[..hex.len().min(12)]))
}

/// Runs `work` for every layer, on as many threads as may run, and gives the results bottom first. The first error
/// stops the others.
fn in_parallel<T: Send>(
    image: &Image,
    jobs: Option<NonZeroUsize>,
    monitor: &dyn Monitor,
    work: impl Fn(usize, &dyn Monitor) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let count = image.layers().len();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|n| std::cmp::Reverse(image.layers()[*n].size));
    let jobs = jobs.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get).min(count);

    let next = AtomicUsize::new(0);
    let group = Group { monitor, failed: AtomicBool::new(false) };
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let results: Vec<Mutex<Option<T>>> = (0..count).map(|_| Mutex::new(None)).collect();
    let worker = || {
        while let Some(n) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            if group.should_stop() {
                return;
            }
            match work(*n, &group) {
                Ok(result) => *results[*n].lock().unwrap_or_else(PoisonError::into_inner) = Some(result),
                Err(error) => {
                    group.failed.store(true, Ordering::Relaxed);
                    // Layers that were stopped because of the first error report that they were.
                    let mut first = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    if first.as_ref().is_none_or(|e| e.kind() == &ErrorKind::Cancelled) {
                        *first = Some(in_layer(error, image, *n));
                    }
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..jobs {
            scope.spawn(worker);
        }
        worker();
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let results = results.into_iter().map(|r| r.into_inner().unwrap_or_else(PoisonError::into_inner));
    results.map(|r| r.ok_or_else(Error::cancelled)).collect()
}

/// Says which layer an error is about; the kind and the coordinates stay those of the error.
fn in_layer(error: Error, image: &Image, n: usize) -> Error {
    error.context(format!("layer {n} ({})", image.layers()[n].diff_id))
}

/// The caller's monitor, for several workers of which one may fail.
struct Group<'a> {
    monitor: &'a dyn Monitor,
    failed: AtomicBool,
}

impl Monitor for Group<'_> {
    fn bytes(&self, n: u64) {
        self.monitor.bytes(n);
    }

    fn entry(&self, path: LayerPath<'_>) {
        self.monitor.entry(path);
    }

    fn warn(&self, warning: &Warning<'_>) {
        self.monitor.warn(warning);
    }

    fn should_stop(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.monitor.should_stop()
    }
}
