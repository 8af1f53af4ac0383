//! An image, opened: its layers in order, each with its blob.

use std::{fs::File, io::Read};

use content_store::{Document, Documents, LocalStore, document, oci};
use layer_model::{Digest, Error, ErrorKind, MediaType, Result};

use crate::{
    docker_archive::{DockerArchive, Extent},
    image_ref::ImageRef,
};

/// An image: what its manifest and its config say, and the blobs of its layers.
pub struct Image {
    name: String,
    tag: Option<String>,
    source: Source,
    config: oci::ImageConfiguration,
    layers: Vec<ImageLayer>,
}

enum Source {
    Layout { store: LocalStore, manifest: Box<oci::Descriptor> },
    Archive { archive: DockerArchive },
}

/// One layer of an image.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImageLayer {
    /// The media type of the blob.
    pub media_type: MediaType,
    /// The digest of the blob; archives of Docker do not say it.
    pub digest: Option<Digest>,
    /// The size of the blob in bytes.
    pub size: u64,
    /// The digest of the uncompressed layer tar, from the image's config.
    pub diff_id: Digest,
}

impl Image {
    /// Opens the image that `reference` names.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for what is not there, [`ErrorKind::InvalidArgument`] when a tag is needed to choose,
    /// [`ErrorKind::InvalidArchive`] and digest errors for documents that are not as they have to be.
    pub fn open(reference: &ImageRef) -> Result<Self> {
        match reference {
            ImageRef::Oci { layout, tag } => {
                let store = LocalStore::open(layout)?;
                Self::in_store(&store, tag.as_deref(), reference.to_string())
            }
            ImageRef::DockerArchive { file } => {
                let archive = DockerArchive::open(file)?;
                let document = Document::parse(document::CONFIG, archive.config.clone())?;
                let config = document.config()?;
                // What `docker save` writes are plain tars, but tools that imitate it compress them.
                let media_type = MediaType::layer_tar_detected();
                let blobs: Vec<_> =
                    archive.layers.iter().map(|l| (media_type.clone(), None, l.size)).collect();
                let layers = pair(blobs, &config)?;
                let (name, source) = (reference.to_string(), Source::Archive { archive });
                Ok(Self { name, tag: None, source, config, layers })
            }
        }
    }

    /// Opens the image `tag` of a store; without a tag the only one.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn in_store(store: &LocalStore, tag: Option<&str>, name: String) -> Result<Self> {
        let descriptor = match tag {
            Some(tag) => store.resolve(tag)?,
            None => only(store)?,
        };
        let image = store.read_image(&descriptor, None)?;
        let blobs = image.manifest.layers().iter().map(|layer| {
            let media_type = layer.media_type().as_ref().parse()?;
            Ok((media_type, Some(document::digest_of(layer)?), layer.size()))
        });
        let layers = pair(blobs.collect::<Result<_>>()?, &image.config)?;
        let source = Source::Layout { store: store.clone(), manifest: Box::new(image.descriptor) };
        Ok(Self { name, tag: tag.map(str::to_owned), source, config: image.config, layers })
    }

    /// How the image was named.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The layers, bottom first.
    pub fn layers(&self) -> &[ImageLayer] {
        &self.layers
    }

    /// The config.
    pub fn config(&self) -> &oci::ImageConfiguration {
        &self.config
    }

    /// The config with all of its fields, also those that are not known here.
    pub(crate) fn config_document(&self) -> Result<Document> {
        match &self.source {
            Source::Archive { archive } => Document::parse(document::CONFIG, archive.config.clone()),
            Source::Layout { store, manifest } => {
                let manifest = store.read_document(manifest)?;
                store.read_document(&document::descriptor_from(&manifest.value["config"])?)
            }
        }
    }

    /// The name of the image in its layout, if it was opened by one.
    pub(crate) fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The descriptor of the manifest, where the image has one.
    pub fn manifest(&self) -> Option<&oci::Descriptor> {
        match &self.source {
            Source::Layout { manifest, .. } => Some(manifest),
            Source::Archive { .. } => None,
        }
    }

    /// The names that the image says it has; only an archive of Docker says them.
    pub fn repo_tags(&self) -> &[String] {
        match &self.source {
            Source::Layout { .. } => &[],
            Source::Archive { archive } => &archive.tags,
        }
    }

    /// The bytes of the blob of layer `n`, 0 the bottom one. They are not checked here: a
    /// [`LayerBlob`](layer_tar::LayerBlob) checks them on the way.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such layer or the store lacks its blob.
    pub fn open_layer(&self, n: usize) -> Result<Box<dyn Read + Send>> {
        match (self.open_layer_file(n)?, &self.source) {
            (Some(file), _) => Ok(Box::new(file)),
            (None, Source::Archive { archive }) => {
                let extent: Extent = archive.layers[n];
                Ok(Box::new(archive.read(extent)))
            }
            (None, Source::Layout { .. }) => Err(self.no_layer(n)),
        }
    }

    /// The file that is the blob of layer `n`, where it is a file of its own.
    pub(crate) fn open_layer_file(&self, n: usize) -> Result<Option<File>> {
        let layer = self.layers.get(n).ok_or_else(|| self.no_layer(n))?;
        match (&self.source, &layer.digest) {
            (Source::Layout { store, .. }, Some(digest)) => store.open_blob(digest).map(Some),
            _ => Ok(None),
        }
    }

    fn no_layer(&self, n: usize) -> Error {
        Error::new(ErrorKind::NotFound, format!("the image has no layer {n}")).entry(&self.name)
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image")
            .field("name", &self.name)
            .field("layers", &self.layers)
            .finish_non_exhaustive()
    }
}

/// The only image of a layout; where there are several, a name is needed.
pub(crate) fn only(store: &LocalStore) -> Result<oci::Descriptor> {
    let mut tagged = store.tags()?;
    match tagged.len() {
        1 => Ok(tagged.remove(0).descriptor),
        n => Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("the layout holds {n} images: name one of them"),
        )),
    }
}

/// Puts blobs and the diff ids of the config side by side.
fn pair(
    blobs: Vec<(MediaType, Option<Digest>, u64)>,
    config: &oci::ImageConfiguration,
) -> Result<Vec<ImageLayer>> {
    let diff_ids = config.rootfs().diff_ids();
    if blobs.len() != diff_ids.len() {
        let message = format!("{} layers, but {} diff ids in the config", blobs.len(), diff_ids.len());
        return Err(Error::new(ErrorKind::InvalidArchive, message));
    }
    let pairs = blobs.into_iter().zip(diff_ids);
    pairs
        .map(|((media_type, digest, size), id)| {
            Ok(ImageLayer { media_type, digest, size, diff_id: id.parse()? })
        })
        .collect()
}
