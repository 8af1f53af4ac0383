//! One layer blob: where it comes from, and applying it by itself.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use layer_apply::{ApplyOptions, FlatApplier, OverlayApplier, StagedDir};
use layer_model::{Applier, Base, IoContext, MediaType, Monitor, Result, media::LayerType};
use layer_tar::{BlobOptions, LayerBlob, ReadOptions};

use crate::{
    Format, Image, LayerDescriptor,
    changes::LayerChanges,
    erofs::{self, ErofsLayerOptions, LAYER, make_layer_dir},
    layers::{AnyTree, open_layers},
};

/// A layer blob, from wherever it comes, with what is known about it.
pub struct LayerInput {
    reader: Box<dyn Read + Send>,
    /// The file that `reader` reads, where it is one: it may be cloned instead of copied.
    file: Option<File>,
    media_type: MediaType,
    options: BlobOptions,
}

impl LayerInput {
    /// A blob that is read from `reader`. Without a media type it is a layer tar whose compression is found by
    /// looking.
    pub fn new(reader: Box<dyn Read + Send>, media_type: Option<MediaType>) -> Self {
        let media_type = media_type.unwrap_or_else(MediaType::layer_tar_detected);
        Self { reader, file: None, media_type, options: BlobOptions::default() }
    }

    /// A blob in a file.
    ///
    /// # Errors
    /// Those of opening the file.
    pub fn file(path: &Path, media_type: Option<MediaType>) -> Result<Self> {
        let open = || -> Result<Self> {
            let file = File::open(path).during("open the layer blob")?;
            let same = file.try_clone().during("duplicate descriptor")?;
            Ok(Self { file: Some(same), ..Self::new(Box::new(file), media_type) })
        };
        open().map_err(|e| e.entry(path.as_os_str().as_encoded_bytes()))
    }

    /// Layer `n` of an image, 0 the bottom one. It is checked on the way against all that the image says about it.
    ///
    /// # Errors
    /// As [`Image::open_layer`].
    pub fn of_image(image: &Image, n: usize) -> Result<Self> {
        let file = image.open_layer_file(n)?;
        let reader: Box<dyn Read + Send> = match &file {
            Some(file) => Box::new(file.try_clone().during("duplicate descriptor")?),
            None => image.open_layer(n)?,
        };
        let layer = &image.layers()[n];
        let options = BlobOptions::default()
            .expect_digest(layer.digest.clone())
            .expect_size(Some(layer.size))
            .expect_diff_id(Some(layer.diff_id.clone()));
        Ok(Self { reader, file, media_type: layer.media_type.clone(), options })
    }

    /// Takes the blob for one of this type, whatever an image says.
    #[must_use]
    pub fn media_type(mut self, media_type: MediaType) -> Self {
        self.media_type = media_type;
        self
    }

    /// What the blob says that it is.
    pub(crate) fn layer_type(&self) -> LayerType {
        self.media_type.layer_type()
    }

    /// Makes `to`, which is new and empty, share the blob's blocks, where both are files on a file system that can. What
    /// is read from then on is read from `to`.
    pub(crate) fn clone_to(&mut self, to: &File) -> Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        if rustix::fs::ioctl_ficlone(to, file).is_err() {
            return Ok(false);
        }
        self.reader = Box::new(to.try_clone().during("duplicate descriptor")?);
        Ok(true)
    }

    /// The changes of the layer, a tar or an EROFS image; the end of them means that the blob is what it was announced
    /// as. (An image is read whole before its first change.)
    ///
    /// # Errors
    /// [`ErrorKind::UnsupportedMediaType`](layer_model::ErrorKind::UnsupportedMediaType), and those of the first
    /// bytes.
    pub fn changes(self, read: ReadOptions, monitor: &dyn Monitor) -> Result<LayerChanges<'_>> {
        match self.layer_type() {
            LayerType::Erofs(_) => LayerChanges::of_image(self, monitor),
            _ => self.content(monitor)?.into_source(read).map(LayerChanges::of_tar),
        }
    }

    /// The blob as a file by itself, where it is one.
    pub(crate) fn as_file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// The layer as the processors leave it: uncompressed.
    ///
    /// # Errors
    /// As [`LayerInput::changes`].
    pub fn content(self, monitor: &dyn Monitor) -> Result<LayerBlob<'_>> {
        LayerBlob::open(self.reader, &self.media_type, self.options, monitor)
    }
}

impl std::fmt::Debug for LayerInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerInput").field("media_type", &self.media_type).finish_non_exhaustive()
    }
}

/// How one layer is applied.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ApplyLayerOptions {
    /// The form to apply it in.
    pub format: Format,
    /// The layers below, nearest first; none for the bottom layer. Directories in overlay form, those with a
    /// `layer.erofs`, and EROFS images. Not with [`Format::Flat`], whose target holds them.
    pub parents: Vec<PathBuf>,
    /// How it is applied to a directory.
    pub apply: ApplyOptions,
    /// How it becomes an EROFS image.
    pub erofs: ErofsLayerOptions,
    /// How the tar is read.
    pub read: ReadOptions,
}

impl ApplyLayerOptions {
    /// Sets [`Self::format`].
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Sets [`Self::parents`].
    #[must_use]
    pub fn parents(mut self, parents: impl IntoIterator<Item = PathBuf>) -> Self {
        self.parents = parents.into_iter().collect();
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

    /// Sets [`Self::read`].
    #[must_use]
    pub fn read(mut self, read: ReadOptions) -> Self {
        self.read = read;
        self
    }
}

/// What applying one layer did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LayerApplied {
    /// The blob.
    pub layer: LayerDescriptor,
    /// How many changes it had.
    pub entries: u64,
    /// How many bytes of content it had.
    pub bytes: u64,
}

/// Applies one layer to `dest`: with [`Format::Overlay`] and [`Format::Erofs`] a missing or empty directory becomes the
/// layer, whole or not at all; with [`Format::Flat`] the merged tree in `dest`, made when missing, is changed in place.
///
/// # Errors
/// Those of the blob and of the target. After an error of a flat apply `dest` may be partly changed; the message
/// says so.
pub fn apply_layer(
    input: LayerInput,
    dest: &Path,
    options: &ApplyLayerOptions,
    monitor: &dyn Monitor,
) -> Result<LayerApplied> {
    match options.format {
        Format::Overlay => {
            let namespace = options.apply.chosen_namespace();
            let parents = open_layers(&options.parents, Some(namespace))?;
            let applier = OverlayApplier::<AnyTree>::new(options.apply.clone().namespace(namespace));
            let mut source = input.changes(options.read.clone(), monitor)?;
            let base = Base::from_stack(parents.as_ref());
            let applied = applier.apply(&mut source, base, dest.to_owned(), monitor)?;
            let layer = source.summary()?.into();
            Ok(LayerApplied { layer, entries: applied.entries, bytes: applied.bytes })
        }
        Format::Erofs => {
            let parents = open_layers(&options.parents, None)?;
            let base = Base::from_stack(parents.as_ref());
            let stage = StagedDir::begin(dest)?;
            let file = make_layer_dir(&stage.path())?;
            let image = stage.path().join(LAYER);
            let erofs = options.erofs.clone().read(options.read.clone());
            let made = erofs::convert(input, base, file, &erofs, monitor)?.finish(base, &image, &erofs)?;
            stage.publish(false)?;
            Ok(LayerApplied { layer: made.summary.into(), entries: made.entries, bytes: made.bytes })
        }
        Format::Flat => {
            let mut source = input.changes(options.read.clone(), monitor)?;
            let existed = dest.exists();
            let applied = FlatApplier::new(options.apply.clone())
                .apply(&mut source, Base::Unknown, dest.to_owned(), monitor)
                .map_err(|e| if existed { e.context("the target may be partly changed") } else { e })?;
            let layer = source.summary()?.into();
            Ok(LayerApplied { layer, entries: applied.entries, bytes: applied.bytes })
        }
    }
}
