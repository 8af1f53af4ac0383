//! Image documents through a store: index, manifest, config, read with care and written the same every time.
//!
//! A document comes from the same place as the layers, and decides what is run. So nothing is handed out
//! whose size and digest are not those of its descriptor, which is larger than a limit, or which can be read
//! in two ways: a manifest that is also an index, that says of itself to be what its descriptor does not
//! say ([GHSA-77vh-xpmg-72qh]), or that has a field twice.
//!
//! [GHSA-77vh-xpmg-72qh]: https://github.com/opencontainers/image-spec/security/advisories/GHSA-77vh-xpmg-72qh

use layer_model::{Digest, Error, ErrorKind, Result, Silent};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, Platform};
use serde_json::{Map, Value};

use crate::{CommitOptions, ContentStore, ContentStoreExt, Source, json, labels::GC_REF_CONTENT};

/// The most bytes that a document may have: no real one comes near it, and it bounds what a hostile one takes.
pub const MAX_DOCUMENT: u64 = 8 * 1024 * 1024;

/// Media type of an OCI image index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an OCI image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI image config.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker's media type of a manifest list, which reads as an index.
pub const DOCKER_MANIFEST_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's media type of a manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// How many indexes may lie one in another; two are rare.
const MAX_NESTING: usize = 8;

/// What kind of document a media type promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A list of manifests.
    Index,
    /// An image.
    Manifest,
    /// Anything else.
    Other,
}

impl Kind {
    /// By media type.
    pub fn of(media_type: &str) -> Self {
        match media_type {
            INDEX | DOCKER_MANIFEST_LIST => Self::Index,
            MANIFEST | DOCKER_MANIFEST => Self::Manifest,
            _ => Self::Other,
        }
    }
}

/// A document that has been checked against its descriptor.
///
/// [`value`](Self::value) has all its fields, also those that no type here knows: to change a document, change
/// the value and [put](Documents::put_document) it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Document {
    /// The media type of its descriptor.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its fields.
    pub value: Value,
}

/// A manifest and its config.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Image {
    /// The descriptor of the manifest.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: ImageManifest,
    /// The config.
    pub config: ImageConfiguration,
}

impl Document {
    /// Parses a document whose digest has been checked.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`]: no JSON object, or one that can be read in two ways;
    /// [`ErrorKind::InvalidArgument`]: a descriptor in it has an impossible digest.
    pub fn parse(media_type: &str, bytes: Vec<u8>) -> Result<Self> {
        let value = json::parse(&bytes).map_err(|error| {
            Error::new(ErrorKind::InvalidArchive, format!("{media_type} is not JSON that reads in one way"))
                .cause(error)
        })?;
        let kind = Kind::of(media_type);
        let fields = value.as_object().ok_or_else(|| {
            Error::new(ErrorKind::InvalidArchive, format!("{media_type} is not a JSON object"))
        })?;
        unambiguous(kind, media_type, fields)?;
        let lists = match kind {
            Kind::Index => &["manifests", "subject"][..],
            Kind::Manifest => &["config", "layers", "subject"],
            Kind::Other => &[],
        };
        for field in lists.iter().filter_map(|name| fields.get(*name)) {
            let all = field.as_array().map_or(std::slice::from_ref(field), Vec::as_slice);
            all.iter().try_for_each(check_descriptor)?;
        }
        Ok(Self { media_type: media_type.to_owned(), bytes, value })
    }

    /// The document as an image manifest.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] when it is none.
    pub fn manifest(&self) -> Result<ImageManifest> {
        self.typed(Some(Kind::Manifest), "an image manifest")
    }

    /// The document as an image index.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] when it is none.
    pub fn index(&self) -> Result<ImageIndex> {
        self.typed(Some(Kind::Index), "an image index")
    }

    /// The document as an image config.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] when it is none.
    pub fn config(&self) -> Result<ImageConfiguration> {
        self.typed(None, "an image config")
    }

    fn typed<T: serde::de::DeserializeOwned>(&self, kind: Option<Kind>, what: &str) -> Result<T> {
        let fail = |why: &str| {
            Error::new(ErrorKind::InvalidArchive, format!("{} is not {what}{why}", self.media_type))
        };
        if kind.is_some_and(|kind| kind != Kind::of(&self.media_type)) {
            return Err(fail(""));
        }
        let mut value = self.value.clone();
        rename_platforms(&mut value, Direction::ToTypes);
        serde_json::from_value(value).map_err(|error| fail(" that can be read").cause(error))
    }
}

/// Image documents through any store.
pub trait Documents: ContentStore {
    /// Reads and checks a document of at most [`MAX_DOCUMENT`] bytes. Where the descriptor carries the bytes
    /// (`data`), those are taken.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::SizeMismatch`], [`ErrorKind::DigestMismatch`],
    /// [`ErrorKind::LimitExceeded`]; as [`Document::parse`].
    fn read_document(&self, descriptor: &Descriptor) -> Result<Document> {
        let digest = digest_of(descriptor)?;
        let bytes = match descriptor.data() {
            Some(data) => embedded(data, descriptor.size(), &digest)?,
            None => self.read_blob(&digest, Some(descriptor.size()), MAX_DOCUMENT)?,
        };
        Document::parse(descriptor.media_type().as_ref(), bytes).map_err(|error| error.entry(digest.as_str()))
    }

    /// Reads an image manifest.
    ///
    /// # Errors
    /// As [`read_document`](Self::read_document) and [`Document::manifest`].
    fn read_manifest(&self, descriptor: &Descriptor) -> Result<ImageManifest> {
        self.read_document(descriptor)?.manifest().map_err(|error| error.entry(name(descriptor)))
    }

    /// Reads an image index.
    ///
    /// # Errors
    /// As [`read_document`](Self::read_document) and [`Document::index`].
    fn read_index(&self, descriptor: &Descriptor) -> Result<ImageIndex> {
        self.read_document(descriptor)?.index().map_err(|error| error.entry(name(descriptor)))
    }

    /// Reads an image config.
    ///
    /// # Errors
    /// As [`read_document`](Self::read_document) and [`Document::config`].
    fn read_config(&self, descriptor: &Descriptor) -> Result<ImageConfiguration> {
        self.read_document(descriptor)?.config().map_err(|error| error.entry(name(descriptor)))
    }

    /// The image that a descriptor leads to: through indexes to the manifest of `platform`, or without one
    /// to the first manifest that is for any platform at all.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when an index has none; [`ErrorKind::LimitExceeded`] when indexes lie too
    /// deep in each other; as [`read_document`](Self::read_document).
    fn read_image(&self, descriptor: &Descriptor, platform: Option<&Platform>) -> Result<Image> {
        let mut descriptor = descriptor.clone();
        for _ in 0..MAX_NESTING {
            let document = self.read_document(&descriptor)?;
            if Kind::of(&document.media_type) != Kind::Index {
                let manifest = document.manifest().map_err(|error| error.entry(name(&descriptor)))?;
                let config = self.read_config(manifest.config())?;
                return Ok(Image { descriptor, manifest, config });
            }
            let index = document.index().map_err(|error| error.entry(name(&descriptor)))?;
            descriptor = select(index.manifests(), platform).cloned().ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "no manifest for this platform").entry(name(&descriptor))
            })?;
        }
        let message = "indexes lie too deep in each other";
        Err(Error::new(ErrorKind::LimitExceeded { limit: "max_nesting" }, message).entry(name(&descriptor)))
    }

    /// Stores a document: the same value gives the same bytes. The labels that lead the collector to what it
    /// refers to are set.
    ///
    /// # Errors
    /// As [`Document::parse`]; [`ErrorKind::LimitExceeded`]; those of the store.
    fn put_document(&self, media_type: &str, value: &Value) -> Result<Descriptor> {
        let mut value = value.clone();
        value.sort_all_objects();
        let bytes = serde_json::to_vec(&value).map_err(not_json)?;
        self.put_document_bytes(media_type, bytes)
    }

    /// Stores a document byte for byte: one that has a digest already.
    ///
    /// # Errors
    /// As [`put_document`](Self::put_document).
    fn put_document_bytes(&self, media_type: &str, bytes: Vec<u8>) -> Result<Descriptor> {
        let size = bytes.len() as u64;
        if size > MAX_DOCUMENT {
            let message = format!("{media_type} of {size} bytes");
            return Err(Error::new(ErrorKind::LimitExceeded { limit: "max_document" }, message));
        }
        let document = Document::parse(media_type, bytes)?;
        let digest = Digest::sha256(&document.bytes);
        let mut options = CommitOptions::new().digest(digest.clone()).size(size);
        for (key, child) in children(Kind::of(media_type), &document.value) {
            options.labels.insert(key, child);
        }
        if options.stored_labels().is_err() {
            // Thousands of layers: our collector reads the document itself, and needs no labels for it.
            options.labels.clear();
        }
        self.write_blob(&format!("document-{digest}"), Source::At(&document.bytes), &options, &Silent)?;
        let named = oci_spec::image::Digest::try_from(digest.as_str())
            .map_err(|error| Error::new(ErrorKind::InvalidArgument, "unusable digest").cause(error))?;
        Ok(Descriptor::new(media_type.into(), size, named))
    }

    /// Stores an image manifest. Its media type is the OCI one unless it says otherwise.
    ///
    /// # Errors
    /// As [`put_document`](Self::put_document).
    fn put_manifest(&self, manifest: &ImageManifest) -> Result<Descriptor> {
        let media_type = manifest.media_type().as_ref().map_or(MANIFEST, AsRef::as_ref);
        self.put_document(media_type, &to_value(manifest)?)
    }

    /// Stores an image index. Its media type is the OCI one unless it says otherwise.
    ///
    /// # Errors
    /// As [`put_document`](Self::put_document).
    fn put_index(&self, index: &ImageIndex) -> Result<Descriptor> {
        let media_type = index.media_type().as_ref().map_or(INDEX, AsRef::as_ref);
        self.put_document(media_type, &to_value(index)?)
    }

    /// Stores an image config.
    ///
    /// # Errors
    /// As [`put_document`](Self::put_document).
    fn put_config(&self, config: &ImageConfiguration) -> Result<Descriptor> {
        self.put_document(CONFIG, &to_value(config)?)
    }
}

impl<S: ContentStore + ?Sized> Documents for S {}

/// The digest of a descriptor.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] when it is none that could be a file name.
pub fn digest_of(descriptor: &Descriptor) -> Result<Digest> {
    descriptor.digest().as_ref().parse()
}

/// What errors call a document.
fn name(descriptor: &Descriptor) -> &str {
    descriptor.digest().as_ref()
}

/// The manifest for a platform: architecture, system and, where both say it, variant. Without a platform the
/// first that is not for `unknown/unknown`, as buildkit names what it adds beside the images.
pub fn select<'a>(manifests: &'a [Descriptor], platform: Option<&Platform>) -> Option<&'a Descriptor> {
    manifests.iter().find(|descriptor| match (platform, descriptor.platform()) {
        (None, None) => true,
        (None, Some(found)) => found.os().to_string() != "unknown",
        (Some(_), None) => false,
        (Some(wanted), Some(found)) => {
            let variants = (wanted.variant().as_ref(), found.variant().as_ref());
            wanted.os() == found.os()
                && wanted.architecture() == found.architecture()
                && !matches!(variants, (Some(wanted), Some(found)) if wanted != found)
        }
    })
}

/// A typed document as JSON, with the names of the specification.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] when it cannot be written as JSON.
pub fn to_value(document: &impl serde::Serialize) -> Result<Value> {
    let mut value = serde_json::to_value(document).map_err(not_json)?;
    rename_platforms(&mut value, Direction::ToJson);
    Ok(value)
}

/// A descriptor from JSON, checked.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for an impossible digest, [`ErrorKind::InvalidArchive`] for what is no
/// descriptor.
pub fn descriptor_from(value: &Value) -> Result<Descriptor> {
    check_descriptor(value)?;
    let mut value = value.clone();
    rename_platforms(&mut value, Direction::ToTypes);
    serde_json::from_value(value)
        .map_err(|error| Error::new(ErrorKind::InvalidArchive, "not a descriptor").cause(error))
}

fn not_json(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::InvalidArgument, "cannot be written as JSON").cause(error)
}

/// Refuses what one reader takes for a manifest and another for an index.
fn unambiguous(kind: Kind, media_type: &str, fields: &Map<String, Value>) -> Result<()> {
    if kind == Kind::Other {
        return Ok(());
    }
    // Go's decoder takes `Layers` for `layers`; a document that relies on that is read in two ways, too.
    let has = |name: &str| fields.keys().any(|key| key.eq_ignore_ascii_case(name));
    let spelled_otherwise = |name: &&&str| has(name) && !fields.contains_key(**name);
    let fail = |message: String| Err(Error::new(ErrorKind::InvalidArchive, message));
    let of_index = ["manifests"];
    let of_manifest = ["layers", "config", "fsLayers", "history"];
    let (own, foreign) = match kind {
        Kind::Index => (&of_index[..], &of_manifest[..]),
        _ => (&of_manifest[..2], &of_index[..]),
    };
    if let Some(name) = foreign.iter().find(|name| has(name)) {
        return fail(format!("{media_type} has {name:?}, which belongs to another kind of document"));
    }
    if let Some(name) = own.iter().chain(&["mediaType", "schemaVersion"]).find(spelled_otherwise) {
        return fail(format!("{media_type} has {name:?} in other letters"));
    }
    match fields.get("mediaType") {
        None | Some(Value::Null) => {}
        Some(Value::String(own)) if own == media_type => {}
        Some(own) => return fail(format!("{media_type} says to be {own}")),
    }
    match fields.get("schemaVersion").and_then(Value::as_u64) {
        Some(2) => Ok(()),
        _ => fail(format!("{media_type} is not of schema version 2")),
    }
}

/// The rules of a descriptor that a type does not check by itself, or not with the right error.
fn check_descriptor(value: &Value) -> Result<()> {
    let fail = |what: &str| Err(Error::new(ErrorKind::InvalidArchive, format!("a descriptor {what}")));
    let Some(fields) = value.as_object() else { return fail("is not an object") };
    let Some(digest) = fields.get("digest").and_then(Value::as_str) else { return fail("has no digest") };
    let digest: Digest = digest.parse()?;
    let Some(size) = fields.get("size").and_then(Value::as_u64) else {
        return fail("has no size, or a negative one").map_err(|error| error.entry(digest.as_str()));
    };
    match fields.get("data") {
        None => Ok(()),
        Some(Value::String(data)) => embedded(data, size, &digest).map(drop),
        Some(_) => fail("has data that is not text"),
    }
}

/// The bytes that a descriptor carries, checked against it.
fn embedded(data: &str, size: u64, digest: &Digest) -> Result<Vec<u8>> {
    let bytes = base64(data).ok_or_else(|| {
        Error::new(ErrorKind::InvalidArchive, "the data of a descriptor is not base64").entry(digest.as_str())
    })?;
    let got = bytes.len() as u64;
    if got != size {
        let kind = ErrorKind::SizeMismatch { expected: size, got };
        return Err(Error::new(kind, "the data of a descriptor has another size").entry(digest.as_str()));
    }
    let mut digester = layer_model::Digester::new(crate::store::computable(digest)?);
    digester.update(&bytes);
    let got = digester.finish();
    if got != *digest {
        let kind = ErrorKind::DigestMismatch { expected: digest.clone(), got };
        return Err(Error::new(kind, "the data of a descriptor is not its content").entry(digest.as_str()));
    }
    Ok(bytes)
}

/// Base 64 with the standard alphabet and padding (RFC 4648, section 4).
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    let padding = text.iter().rev().take_while(|b| **b == b'=').count();
    if !text.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for group in text[..text.len() - padding].chunks(4) {
        let mut bits = 0_u32;
        for b in group {
            let six = match b {
                b'A'..=b'Z' => b - b'A',
                b'a'..=b'z' => b - b'a' + 26,
                b'0'..=b'9' => b - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = (bits << 6) | u32::from(six);
        }
        bits <<= 6 * (4 - group.len());
        // What lies beyond the last whole byte has to be zero, so that one content has one text.
        let whole = group.len() * 6 / 8;
        let [_, packed @ ..] = bits.to_be_bytes();
        if packed[whole..].iter().any(|b| *b != 0) {
            return None;
        }
        bytes.extend_from_slice(&packed[..whole]);
    }
    Some(bytes)
}

/// What a document refers to, with the labels that containerd gives them.
fn children(kind: Kind, value: &Value) -> Vec<(String, String)> {
    let digest = |value: &Value| value.get("digest").and_then(Value::as_str).map(str::to_owned);
    let list = |name: &str| value.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let numbered = |name, short| {
        let each = move |(n, child)| Some((format!("{GC_REF_CONTENT}.{short}.{n}"), digest(child)?));
        list(name).iter().enumerate().filter_map(each).collect::<Vec<_>>()
    };
    match kind {
        Kind::Index => numbered("manifests", "m"),
        Kind::Manifest => {
            let config = value.get("config").and_then(digest);
            let mut all: Vec<_> =
                config.map(|config| (format!("{GC_REF_CONTENT}.config"), config)).into_iter().collect();
            all.extend(numbered("layers", "l"));
            all
        }
        Kind::Other => Vec::new(),
    }
}

#[derive(Clone, Copy)]
enum Direction {
    ToTypes,
    ToJson,
}

/// `oci-spec` 0.10 calls two fields of a platform `os_version` and `os_features` in JSON, where the
/// specification has `os.version` and `os.features`. Both ways they get their right names here.
fn rename_platforms(value: &mut Value, direction: Direction) {
    let Some(fields) = value.as_object_mut() else { return };
    if let Some(platform) = fields.get_mut("platform").and_then(Value::as_object_mut) {
        for (dotted, underscored) in [("os.version", "os_version"), ("os.features", "os_features")] {
            let (from, to) = match direction {
                Direction::ToTypes => (dotted, underscored),
                Direction::ToJson => (underscored, dotted),
            };
            if let Some(field) = platform.remove(from) {
                platform.insert(to.to_owned(), field);
            }
        }
    }
    for name in ["manifests", "layers"] {
        if let Some(list) = fields.get_mut(name).and_then(Value::as_array_mut) {
            list.iter_mut().for_each(|descriptor| rename_platforms(descriptor, direction));
        }
    }
    for name in ["config", "subject"] {
        if let Some(descriptor) = fields.get_mut(name) {
            rename_platforms(descriptor, direction);
        }
    }
}
