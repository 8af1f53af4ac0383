//! One layer blob: where it comes from, and applying it by itself.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use layer_apply::{ApplyOptions, FlatApplier, OverlayApplier};
use layer_model::{Applier, Base, Error, ErrorKind, IoContext, MediaType, Monitor, Result, Stack};
use layer_tar::{BlobOptions, BlobSource, BlobSummary, LayerBlob, ReadOptions};
use overlay_dir::{OverlayDir, OverlayDirOptions};

use crate::{Format, Image, LayerDescriptor};

/// A layer blob, from wherever it comes, with what is known about it.
pub struct LayerInput {
    reader: Box<dyn Read + Send>,
    media_type: MediaType,
    options: BlobOptions,
}

impl LayerInput {
    /// A blob that is read from `reader`. Without a media type it is a layer tar whose compression is found by
    /// looking.
    pub fn new(reader: Box<dyn Read + Send>, media_type: Option<MediaType>) -> Self {
        let media_type = media_type.unwrap_or_else(MediaType::layer_tar_detected);
        Self { reader, media_type, options: BlobOptions::default() }
    }

    /// A blob in a file.
    ///
    /// # Errors
    /// Those of opening the file.
    pub fn file(path: &Path, media_type: Option<MediaType>) -> Result<Self> {
        let file = File::open(path).during("open the layer blob");
        Ok(Self::new(Box::new(file.map_err(|e| e.entry(path.as_os_str().as_encoded_bytes()))?), media_type))
    }

    /// Layer `n` of an image, 0 the bottom one. It is checked on the way against all that the image says about it.
    ///
    /// # Errors
    /// As [`Image::open_layer`].
    pub fn of_image(image: &Image, n: usize) -> Result<Self> {
        let reader = image.open_layer(n)?;
        let layer = &image.layers()[n];
        let options = BlobOptions::default()
            .expect_digest(layer.digest.clone())
            .expect_size(Some(layer.size))
            .expect_diff_id(Some(layer.diff_id.clone()));
        Ok(Self { reader, media_type: layer.media_type.clone(), options })
    }

    /// Takes the blob for one of this type, whatever an image says.
    #[must_use]
    pub fn media_type(mut self, media_type: MediaType) -> Self {
        self.media_type = media_type;
        self
    }

    /// The changes of the layer; the end of them means that the blob is what it was announced as.
    ///
    /// # Errors
    /// [`ErrorKind::UnsupportedMediaType`](layer_model::ErrorKind::UnsupportedMediaType), and those of the first
    /// bytes.
    pub fn changes(self, read: ReadOptions, monitor: &dyn Monitor) -> Result<BlobSource<'_>> {
        self.content(monitor)?.into_source(read)
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
    /// With [`Format::Overlay`] the directories of the layers below, nearest first; none for the bottom layer.
    pub parents: Vec<PathBuf>,
    /// How it is applied.
    pub apply: ApplyOptions,
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

/// Applies one layer to `dest`: with [`Format::Overlay`] a missing or empty directory becomes the layer, whole or not
/// at all; with [`Format::Flat`] the merged tree in `dest`, made when missing, is changed in place.
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
    let mut source = input.changes(options.read.clone(), monitor)?;
    let (entries, bytes) = match options.format {
        Format::Overlay => {
            let namespace = options.apply.chosen_namespace();
            let open = |dir: &PathBuf| {
                let opened = OverlayDir::open(dir, OverlayDirOptions::default().namespace(namespace));
                opened.map_err(|e| e.entry(dir.as_os_str().as_encoded_bytes()))
            };
            let parents = Stack::from_nearest(options.parents.iter().map(open).collect::<Result<Vec<_>>>()?);
            let applier = OverlayApplier::<OverlayDir>::new(options.apply.clone().namespace(namespace));
            let base = Base::from_stack(parents.as_ref());
            let applied = applier.apply(&mut source, base, dest.to_owned(), monitor)?;
            (applied.entries, applied.bytes)
        }
        Format::Flat => {
            let existed = dest.exists();
            let applied = FlatApplier::new(options.apply.clone())
                .apply(&mut source, Base::Unknown, dest.to_owned(), monitor)
                .map_err(|e| if existed { e.context("the target may be partly changed") } else { e })?;
            (applied.entries, applied.bytes)
        }
    };
    Ok(LayerApplied { layer: summary_of(&source)?.into(), entries, bytes })
}

/// What was learnt of a blob whose changes were read to their end.
///
/// # Errors
/// [`ErrorKind::FailedPrecondition`] when they were not.
pub(crate) fn summary_of(source: &BlobSource<'_>) -> Result<BlobSummary> {
    let unread =
        || Error::new(ErrorKind::FailedPrecondition, "the applier did not read the layer to its end");
    source.summary().cloned().ok_or_else(unread)
}
