//! A layer on top of an image: the blob, the config that lists it, the manifest, the tag.

use std::{path::Path, time::Duration};

use content_store::{Document, Documents, LeaseOptions, LocalStore, document, oci};
use layer_model::{Error, ErrorKind, Monitor, Result, media};
use serde_json::{Value, json};

use crate::{
    Changed, ImageRef,
    diff::{DiffOptions, Diffed, LayerDescriptor, diff_to_store, unique},
};

/// How a layer is committed.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ImageCommitOptions {
    /// How the blob is made.
    pub diff: DiffOptions,
    /// What the history says to have made the layer.
    pub created_by: String,
    /// The time that history and config say, in seconds since 1970. Without one the image has no new time, so that
    /// the same input gives the same image.
    pub created: Option<i64>,
}

impl ImageCommitOptions {
    /// Sets [`Self::diff`].
    #[must_use]
    pub fn diff(mut self, diff: DiffOptions) -> Self {
        self.diff = diff;
        self
    }

    /// Sets [`Self::created_by`].
    #[must_use]
    pub fn created_by(mut self, text: impl Into<String>) -> Self {
        self.created_by = text.into();
        self
    }

    /// Sets [`Self::created`].
    #[must_use]
    pub fn created(mut self, seconds: i64) -> Self {
        self.created = Some(seconds);
        self
    }
}

/// What a commit made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CommittedImage {
    /// The new layer.
    pub diffed: Diffed,
    /// The new manifest.
    pub manifest: oci::Descriptor,
}

/// Appends the layer of `changed` to `image`, an image in an OCI layout, and names the result `tag` in the same
/// layout. The image itself stays as it is, unless it had that name.
///
/// # Errors
/// [`ErrorKind::NotSupported`] for an image that is not in an OCI layout; as [`diff_to_store`]; those of reading the
/// image's documents.
pub fn commit(
    image: &ImageRef,
    changed: &Changed,
    tag: &str,
    options: &ImageCommitOptions,
    monitor: &dyn Monitor,
) -> Result<CommittedImage> {
    let ImageRef::Oci { layout, tag: from } = image else {
        let message = "only an image in an OCI layout can be committed to";
        return Err(Error::new(ErrorKind::NotSupported, message));
    };
    let store = LocalStore::open(layout)?;
    let descriptor = match from {
        Some(from) => store.resolve(from)?,
        None => crate::image::only(&store)?,
    };
    let descriptor = store.read_image(&descriptor, None)?.descriptor;
    let manifest = store.read_document(&descriptor)?;
    let config_descriptor = document::descriptor_from(&manifest.value["config"])?;
    let config = store.read_document(&config_descriptor)?;
    append(&store, manifest, config, changed, tag, options, monitor)
}

/// Makes the layer of `changed` the first one of a new image, named `tag`, in the layout at `layout`, which is made
/// when it is missing.
///
/// # Errors
/// As [`diff_to_store`].
pub fn commit_new(
    layout: &Path,
    changed: &Changed,
    tag: &str,
    options: &ImageCommitOptions,
    monitor: &dyn Monitor,
) -> Result<CommittedImage> {
    let store = LocalStore::open_or_create(layout)?;
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [] },
        "history": [],
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": document::MANIFEST,
        "config": { "mediaType": document::CONFIG, "digest": layer_model::Digest::sha256(b"").as_str(), "size": 0 },
        "layers": [],
    });
    let parse = |media_type: &str, value: Value| Document::parse(media_type, value.to_string().into_bytes());
    let (manifest, config) = (parse(document::MANIFEST, manifest)?, parse(document::CONFIG, config)?);
    append(&store, manifest, config, changed, tag, options, monitor)
}

fn append(
    store: &LocalStore,
    manifest: Document,
    config: Document,
    changed: &Changed,
    tag: &str,
    options: &ImageCommitOptions,
    monitor: &dyn Monitor,
) -> Result<CommittedImage> {
    // Until the tag is there, nothing refers to the new blobs: the lease keeps a collector away from them.
    let lease = lease(store, "commit")?;
    let diffed = diff_to_store(changed, &lease, &options.diff, monitor)?;

    let mut config_value = config.value;
    add_to_config(&mut config_value, &diffed.layer, options)?;
    let config_descriptor = lease.put_document(&config.media_type, &config_value)?;

    let mut manifest_value = manifest.value;
    manifest_value["config"]["digest"] = json!(config_descriptor.digest().to_string());
    manifest_value["config"]["size"] = json!(config_descriptor.size());
    list(&mut manifest_value, "layers")?.push(manifest_entry(&diffed.layer));
    let manifest_descriptor = lease.put_document(&manifest.media_type, &manifest_value)?;
    store.put_tag(tag, &manifest_descriptor)?;
    lease.release()?;
    Ok(CommittedImage { diffed, manifest: manifest_descriptor })
}

/// A layer as a manifest lists it.
pub(crate) fn manifest_entry(layer: &LayerDescriptor) -> Value {
    let LayerDescriptor { media_type, digest, size, .. } = layer;
    json!({ "mediaType": media_type.as_str(), "digest": digest.as_str(), "size": size })
}

fn add_to_config(config: &mut Value, layer: &LayerDescriptor, options: &ImageCommitOptions) -> Result<()> {
    let diff_ids = list(&mut config["rootfs"], "diff_ids")?;
    diff_ids.push(json!(layer.diff_id.as_str()));
    if needs_feature(layer) {
        add_feature(config, EROFS_FEATURE);
    }
    let mut entry = json!({ "created_by": options.created_by });
    if let Some(seconds) = options.created {
        let time = content_store::local::rfc3339(seconds, 0);
        entry["created"] = json!(time);
        config["created"] = json!(time);
    }
    // A history that does not fit the layers is worse than none; images without one stay so.
    if let Some(Value::Array(history)) = config.get_mut("history") {
        history.push(entry);
    }
    Ok(())
}

pub(crate) fn list<'a>(object: &'a mut Value, name: &str) -> Result<&'a mut Vec<Value>> {
    let list = object.get_mut(name).and_then(Value::as_array_mut);
    list.ok_or_else(|| Error::new(ErrorKind::InvalidArchive, format!("the image's documents have no {name}")))
}

/// A lease of this call's own, which ends by itself should the process be killed.
pub(crate) fn lease(store: &LocalStore, what: &str) -> Result<content_store::Lease> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    store.lease(&format!("{what}-{:x}", unique()), &LeaseOptions::new().ttl(DAY))
}

/// This machine's architecture as Go, and so OCI, names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// What a platform has to know to use layers that are EROFS images.
pub(crate) const EROFS_FEATURE: &str = "erofs";

/// Whether a layer asks for [`EROFS_FEATURE`]. Those of the older type do not: the releases of containerd that know it
/// refuse images that ask for any feature.
pub(crate) fn needs_feature(layer: &LayerDescriptor) -> bool {
    layer.media_type.base() == media::LAYER_EROFS
}

/// Lists a feature among those that the image needs of its platform.
pub(crate) fn add_feature(config: &mut Value, feature: &str) {
    match config.get_mut("os.features").and_then(Value::as_array_mut) {
        Some(features) if features.iter().any(|have| have == feature) => {}
        Some(features) => features.push(json!(feature)),
        None => config["os.features"] = json!([feature]),
    }
}
