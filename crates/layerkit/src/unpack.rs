//! A whole image into a directory: one directory a layer, with its tree or its image, or one merged tree.

mod erofs;
mod overlay;

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use layer_apply::{ApplyOptions, FlatApplier, StagedDir};
use layer_model::{Applied, Applier, Base, Monitor, Result};
use layer_tar::{BlobSummary, ReadOptions};
use overlay_dir::PlainDir;

use crate::{
    Image, LayerInput,
    erofs::ErofsLayerOptions,
    parallel::in_layer,
    stack_file::{Format, StackFile, StackLayer},
};

/// How an image is unpacked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UnpackOptions {
    /// The form of the layers.
    pub format: Format,
    /// How layers are applied, in directories.
    pub apply: ApplyOptions,
    /// How layers are applied, in EROFS images.
    pub erofs: ErofsLayerOptions,
    /// With [`Format::Erofs`], whether the merged metadata of all layers is written besides, so that one mount shows
    /// them. Default: no.
    pub merge: bool,
    /// How layer tars are read, into directories.
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
        Self {
            format: Format::default(),
            apply,
            erofs: ErofsLayerOptions::default(),
            merge: false,
            read: ReadOptions::default(),
            jobs: None,
            sync: false,
        }
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

    /// Sets [`Self::erofs`].
    #[must_use]
    pub fn erofs(mut self, erofs: ErofsLayerOptions) -> Self {
        self.erofs = erofs;
        self
    }

    /// Sets [`Self::merge`].
    #[must_use]
    pub fn merge(mut self, on: bool) -> Self {
        self.merge = on;
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
/// [`Exists`](layer_model::ErrorKind::Exists) when something is in `dest`; digest and size errors; what the archives and
/// the file system say, with the layer, the entry and the offset.
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
            (Some(namespace.into()), overlay::unpack(image, &stage.path(), namespace, options, monitor)?)
        }
        Format::Erofs => (None, erofs::unpack(image, &stage.path(), options, monitor)?),
        Format::Flat => (None, unpack_flat(image, &stage.path(), options, monitor)?),
    };
    let file = StackFile { format: options.format, xattrs, layers };
    file.write(&stage.path())?;
    stage.publish(options.sync)?;
    Ok(file)
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
            source.summary()
        };
        let summary = apply().map_err(|e| in_layer(e, image, n))?;
        layers.push(stack_layer("rootfs".into(), summary));
    }
    Ok(layers)
}

fn stack_layer(path: PathBuf, summary: BlobSummary) -> StackLayer {
    let BlobSummary { diff_id, digest, size, .. } = summary;
    StackLayer { path, diff_id, digest, size, verity: None }
}

/// `layers/NN-HEX`: the number of the layer, and the start of its diff id.
fn layer_path(image: &Image, n: usize) -> PathBuf {
    let hex = image.layers()[n].diff_id.encoded();
    Path::new("layers").join(format!("{n:02}-{}", &hex[..hex.len().min(12)]))
}
