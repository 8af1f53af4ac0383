//! An image with the same layers in another form.

use std::{
    fs::File,
    io::Write,
    num::NonZeroUsize,
    os::fd::AsRawFd,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use content_store::{ContentStore, Documents, LocalStore, Writer, document, oci};
use layer_model::{Error, ErrorKind, IoContext, MediaType, Monitor, Result, media::LayerType};
use layer_tar::{
    WriteOptions as TarOptions,
    compress::{Codec, Plain},
};
use serde_json::{Value, json};

use crate::{
    DiffOptions, Image, ImageRef, LayerDescriptor, LayerForm, LayerInput,
    commit::{EROFS_FEATURE, add_feature, lease, list, manifest_entry, needs_feature},
    diff::{blob_writer, store_layer, write_layer},
    erofs::{Conversion, ErofsLayerOptions, Finished, Target, erofs_media_type},
    parallel::in_layer,
};

/// What the layers of an image become.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConvertOptions {
    /// What a layer is. Default: a layer tar. A tar stays the same tar, so that only its compression changes.
    pub form: LayerForm,
    /// How the layers are compressed. Default: not at all. EROFS layers may be compressed by zstd, or not at all.
    pub codec: Arc<dyn Codec>,
    /// How layers become EROFS images.
    pub erofs: ErofsLayerOptions,
    /// As [`DiffOptions::erofs_type`].
    pub erofs_type: Option<MediaType>,
    /// How many layers are converted at once, and how many threads compress. Default: as many as the machine has
    /// processors.
    pub jobs: Option<NonZeroUsize>,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            form: LayerForm::Tar,
            codec: Arc::new(Plain),
            erofs: ErofsLayerOptions::default(),
            erofs_type: None,
            jobs: None,
        }
    }
}

impl ConvertOptions {
    /// Sets [`Self::form`].
    #[must_use]
    pub fn form(mut self, form: LayerForm) -> Self {
        self.form = form;
        self
    }

    /// Sets [`Self::codec`].
    #[must_use]
    pub fn codec(mut self, codec: impl Codec + 'static) -> Self {
        self.codec = Arc::new(codec);
        self
    }

    /// Sets [`Self::erofs`].
    #[must_use]
    pub fn erofs(mut self, erofs: ErofsLayerOptions) -> Self {
        self.erofs = erofs;
        self
    }

    /// Sets [`Self::erofs_type`].
    #[must_use]
    pub fn erofs_type(mut self, media_type: MediaType) -> Self {
        self.erofs_type = Some(media_type);
        self
    }

    /// Sets [`Self::jobs`].
    #[must_use]
    pub fn jobs(mut self, jobs: NonZeroUsize) -> Self {
        self.jobs = Some(jobs);
        self
    }

    /// How single layers are written.
    fn layer(&self) -> DiffOptions {
        let mut options = DiffOptions::default().form(self.form);
        options.codec = self.codec.clone();
        options.erofs_type = self.erofs_type.clone();
        options.jobs = self.jobs;
        options
    }
}

/// What a conversion made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConvertedImage {
    /// The layers, bottom first.
    pub layers: Vec<LayerDescriptor>,
    /// The manifest.
    pub manifest: oci::Descriptor,
    /// The name of the image in its layout.
    pub tag: String,
}

/// Makes the image `to`, in an OCI layout that is made when it is missing, of the layers of `image` in another form.
/// Without a tag it has that of `image`. The tag appears when all is there.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] when `to` is not in an OCI layout, or nothing says its tag; those of the layers and
/// of the store.
pub fn convert(
    image: &Image,
    to: &ImageRef,
    options: &ConvertOptions,
    monitor: &dyn Monitor,
) -> Result<ConvertedImage> {
    let unusable = |message: &str| Error::new(ErrorKind::InvalidArgument, message).entry(to.to_string());
    let ImageRef::Oci { layout, tag } = to else {
        return Err(unusable("an image is converted into an OCI layout"));
    };
    let tag = tag.as_deref().or(image.tag()).ok_or_else(|| unusable("the new image needs a tag"))?;
    let store = LocalStore::open_or_create(layout)?;
    // Until the tag is there, nothing refers to the new blobs: the lease keeps a collector away from them.
    let lease = lease(&store, "convert")?;
    let layers = match options.form {
        LayerForm::Tar => to_tars(image, &lease, options, monitor)?,
        LayerForm::Erofs => to_images(image, &store, &lease, options, monitor)?,
    };

    let config = config_of(image.config_document()?.value, &layers)?;
    let platform = platform_of(&config);
    let config = lease.put_document(document::CONFIG, &config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": document::MANIFEST,
        "config": document::to_value(&config)?,
        "layers": layers.iter().map(manifest_entry).collect::<Vec<_>>(),
    });
    let manifest = lease.put_document(document::MANIFEST, &manifest)?;
    let manifest = match layers.iter().any(needs_feature) {
        false => manifest,
        // Who chooses among manifests has to see what this one takes.
        true => {
            let mut value = document::to_value(&manifest)?;
            value["platform"] = platform;
            document::descriptor_from(&value)?
        }
    };
    store.put_tag(tag, &manifest)?;
    lease.release()?;
    Ok(ConvertedImage { layers, manifest, tag: tag.to_owned() })
}

/// The config for other layers.
fn config_of(mut config: Value, layers: &[LayerDescriptor]) -> Result<Value> {
    *list(&mut config["rootfs"], "diff_ids")? =
        layers.iter().map(|layer| json!(layer.diff_id.as_str())).collect();
    if layers.iter().any(needs_feature) {
        add_feature(&mut config, EROFS_FEATURE);
    } else if let Some(features) = config.get_mut("os.features").and_then(Value::as_array_mut) {
        features.retain(|feature| feature != EROFS_FEATURE);
    }
    Ok(config)
}

/// What a config says of its platform.
fn platform_of(config: &Value) -> Value {
    let mut platform = json!({ "architecture": config["architecture"], "os": config["os"] });
    for field in ["variant", "os.version", "os.features"] {
        if let Some(value) = config.get(field) {
            platform[field] = value.clone();
        }
    }
    platform
}

/// Layers one after the other, each compressed by several threads.
fn to_tars(
    image: &Image,
    store: &dyn ContentStore,
    options: &ConvertOptions,
    monitor: &dyn Monitor,
) -> Result<Vec<LayerDescriptor>> {
    // What an image says of its root and of the fractions of seconds is not to be lost.
    let layer = options.layer().tar(TarOptions::default().root(true).nanoseconds(true));
    let convert = |n: usize| -> Result<LayerDescriptor> {
        let input = LayerInput::of_image(image, n)?;
        let (made, ()) = store_layer(store, monitor, |writer| {
            let (writer, made) = match input.layer_type() {
                LayerType::Erofs(_) => {
                    let mut source = input.changes(Default::default(), monitor)?;
                    write_layer(&mut source, writer, &layer, monitor)?
                }
                _ => recompress(input, writer, &layer, monitor)?,
            };
            Ok((writer, made, ()))
        })?;
        Ok(made)
    };
    (0..image.layers().len()).map(|n| convert(n).map_err(|error| in_layer(error, image, n))).collect()
}

/// Writes the same tar in another compression.
fn recompress(
    input: LayerInput,
    out: Box<dyn Writer>,
    options: &DiffOptions,
    monitor: &dyn Monitor,
) -> Result<(Box<dyn Writer>, LayerDescriptor)> {
    let mut blob = blob_writer(out, options, None)?;
    let mut content = input.content(monitor)?;
    while let Some(piece) = content.next_chunk()? {
        blob.write_all(&piece).during("write blob")?;
    }
    content.finish()?;
    let (out, summary) = blob.finish()?;
    Ok((out, summary.into()))
}

/// Layers side by side, each into the store as soon as it is complete.
fn to_images(
    image: &Image,
    store: &LocalStore,
    lease: &dyn ContentStore,
    options: &ConvertOptions,
    monitor: &dyn Monitor,
) -> Result<Vec<LayerDescriptor>> {
    let layer = options.layer();
    // Before any work.
    erofs_media_type(&layer)?;
    let target = Blobs { store, lease, options: layer, monitor, done: Mutex::default() };
    Conversion { image, options: &options.erofs, jobs: options.jobs }.run(&target, monitor)?;
    Ok(target.done.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// A blob for each layer, by way of a file without a name.
struct Blobs<'a> {
    store: &'a LocalStore,
    lease: &'a dyn ContentStore,
    options: DiffOptions,
    monitor: &'a dyn Monitor,
    done: Mutex<Vec<LayerDescriptor>>,
}

impl Target for Blobs<'_> {
    fn create(&self, _: usize) -> Result<(File, PathBuf)> {
        let file = tempfile::tempfile_in(self.store.path()).during("make a file for the layer")?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
        Ok((file, path))
    }

    fn complete(&self, _: usize, finished: Finished) -> Result<()> {
        let file = finished.file;
        let len = file.metadata().during("look at the image")?.len();
        let (layer, ()) = store_layer(self.lease, self.monitor, |writer| {
            let mut blob = blob_writer(writer, &self.options, Some(erofs_media_type(&self.options)?))?;
            let mut at = 0;
            while at < len {
                let most = usize::try_from(len - at).unwrap_or(usize::MAX);
                let read = |memory: &mut [u8]| {
                    std::os::unix::fs::FileExt::read_at(&file, memory, at).during("read the image")
                };
                match blob.fill_with(most, read)? {
                    0 => return Err(Error::new(ErrorKind::Truncated, "the image has become shorter")),
                    n => at += n as u64,
                }
            }
            let (writer, summary) = blob.finish()?;
            Ok((writer, summary.into(), ()))
        })?;
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push(layer);
        Ok(())
    }
}
