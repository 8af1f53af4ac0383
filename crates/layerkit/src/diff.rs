//! From directories to a layer blob: in a writer, a file, or a store.

use std::{io::Write, num::NonZeroUsize, path::Path, sync::Arc, thread};

use content_store::{
    CommitOptions, ContentStore, ContentStoreExt, Hashing, TrustedDigest, Writer, WriterOptions, labels,
};
use layer_model::{Digest, LayerSource, MediaType, Monitor, Profile, Result, digest::Algorithm, road};
use layer_tar::{
    BlobSummary, BlobWriter, BlobWriterOptions, TarSink, WriteOptions,
    compress::{Codec, Plain},
};
use overlay_diff::DiffReport;
use serde::{Serialize, Serializer};

use crate::{Changed, erofs, write_file};

/// How a layer blob is made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DiffOptions {
    /// Whose behaviour to follow where the specification and containerd part.
    pub profile: Profile,
    /// What the layer is. Default: a layer tar.
    pub form: LayerForm,
    /// The type of an EROFS layer, in place of `application/vnd.erofs.layer.v1`. containerd before 2.3 takes
    /// `application/vnd.oci.image.layer.v1.erofs` instead.
    pub erofs_type: Option<MediaType>,
    /// How a tar is written. Its time limit counts for every form.
    pub tar: WriteOptions,
    /// How the layer is compressed. Default: not at all. EROFS layers may be compressed by zstd, or not at all.
    pub codec: Arc<dyn Codec>,
    /// What the blob and the content in it are known by. containerd takes no other than those of the SHA-2 family.
    pub algorithm: Algorithm,
    /// How many threads walk, and how many compress. Default: as many as the machine has processors compress, and half as
    /// many walk meanwhile; for an EROFS layer, which is walked first, all.
    pub jobs: Option<NonZeroUsize>,
}

impl Default for DiffOptions {
    fn default() -> Self {
        Self {
            profile: Profile::default(),
            form: LayerForm::default(),
            erofs_type: None,
            tar: WriteOptions::default(),
            codec: Arc::new(Plain),
            algorithm: Algorithm::default(),
            jobs: None,
        }
    }
}

impl DiffOptions {
    /// Sets [`Self::profile`].
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// Sets [`Self::form`].
    #[must_use]
    pub fn form(mut self, form: LayerForm) -> Self {
        self.form = form;
        self
    }

    /// Sets [`Self::erofs_type`].
    #[must_use]
    pub fn erofs_type(mut self, media_type: MediaType) -> Self {
        self.erofs_type = Some(media_type);
        self
    }

    /// Sets [`Self::tar`].
    #[must_use]
    pub fn tar(mut self, tar: WriteOptions) -> Self {
        self.tar = tar;
        self
    }

    /// Sets [`Self::codec`].
    #[must_use]
    pub fn codec(mut self, codec: impl Codec + 'static) -> Self {
        self.codec = Arc::new(codec);
        self
    }

    /// Sets [`Self::algorithm`].
    #[must_use]
    pub fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.algorithm = algorithm;
        self
    }

    /// Sets [`Self::jobs`].
    #[must_use]
    pub fn jobs(mut self, jobs: NonZeroUsize) -> Self {
        self.jobs = Some(jobs);
        self
    }
}

/// What a layer blob holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerForm {
    /// A layer tar.
    #[default]
    Tar,
    /// An EROFS image, in overlay form: a native EROFS layer.
    Erofs,
}

/// A layer blob, as a manifest names it, and the digest of the tar inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LayerDescriptor {
    /// What the blob is.
    #[serde(serialize_with = "display")]
    pub media_type: MediaType,
    /// The digest of the blob.
    #[serde(serialize_with = "display")]
    pub digest: Digest,
    /// The size of the blob in bytes.
    pub size: u64,
    /// The digest of the uncompressed layer tar.
    #[serde(rename = "diff_id", serialize_with = "display")]
    pub diff_id: Digest,
}

fn display<S: Serializer>(value: &impl std::fmt::Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

impl From<BlobSummary> for LayerDescriptor {
    fn from(summary: BlobSummary) -> Self {
        let BlobSummary { media_type, digest, size, diff_id, .. } = summary;
        Self { media_type, digest, size, diff_id }
    }
}

/// What a diff made: the blob, and how it came about.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Diffed {
    /// The blob.
    pub layer: LayerDescriptor,
    /// What the differ found.
    pub report: DiffReport,
}

/// Writes the layer of `changed` to `out`.
///
/// An EROFS layer is written as it will be, from start to end, without a tar between: once the directories are walked, all
/// but the content of files is known, and goes ahead of it.
///
/// # Errors
/// Those of the differ and of `out`; `out` then holds a part of a blob.
/// [`ErrorKind::FileChanged`](layer_model::ErrorKind::FileChanged) if something changes meanwhile.
pub fn diff<W: Write>(
    changed: &Changed,
    out: W,
    options: &DiffOptions,
    monitor: &dyn Monitor,
) -> Result<(W, Diffed)> {
    let ((out, layer), report) = match options.form {
        LayerForm::Tar => {
            let mut source = changed.open(options.profile, options.jobs, monitor)?;
            (write_layer(&mut source, out, options, monitor)?, source.report().clone())
        }
        LayerForm::Erofs => {
            // Nothing is hashed or written before the walk is over.
            let jobs = options.jobs.or_else(|| thread::available_parallelism().ok());
            let mut source = changed.open_with(options.profile, jobs, false, monitor)?;
            let plan = erofs::plan(&mut source, options, monitor)?;
            let tree = source.tree();
            (erofs::write_planned(&plan, &*tree, out, options, monitor)?, source.report().clone())
        }
    };
    Ok((out, Diffed { layer, report }))
}

/// Writes the changes of `source` to `out` as a layer blob.
pub(crate) fn write_layer<W: Write>(
    source: &mut dyn LayerSource,
    out: W,
    options: &DiffOptions,
    monitor: &dyn Monitor,
) -> Result<(W, LayerDescriptor)> {
    let blob = blob_writer(out, options, None)?;
    let sink = TarSink::to_blob(blob, options.tar.clone(), monitor);
    let (blob, _) = road::pump(source, sink, monitor)?;
    let (out, summary) = blob.finish()?;
    Ok((out, summary.into()))
}

/// A writer that compresses and hashes as `options` say, of a blob of their codec's type or another.
pub(crate) fn blob_writer<W: Write>(
    out: W,
    options: &DiffOptions,
    media_type: Option<MediaType>,
) -> Result<BlobWriter<W>> {
    let mut blob = BlobWriterOptions::default().media_type(media_type).algorithm(options.algorithm);
    blob.jobs = options.jobs.map_or(blob.jobs, NonZeroUsize::get);
    BlobWriter::new(out, options.codec.clone(), blob)
}

/// Writes the layer of `changed` to the file `path`, which appears whole or not at all, and replaces one that is
/// there.
///
/// # Errors
/// Those of the differ and of the file system.
pub fn diff_to_file(
    changed: &Changed,
    path: &Path,
    options: &DiffOptions,
    monitor: &dyn Monitor,
) -> Result<Diffed> {
    write_file(path, |file| diff(changed, file, options, monitor).map(|(_, diffed)| diffed))
}

/// Commits the layer of `changed` to `store`, labelled with its diff id when it is compressed.
///
/// # Errors
/// Those of the differ and of the store. A blob that is there already is no error.
pub fn diff_to_store(
    changed: &Changed,
    store: &dyn ContentStore,
    options: &DiffOptions,
    monitor: &dyn Monitor,
) -> Result<Diffed> {
    let made = store_layer(store, monitor, |writer| {
        let (writer, diffed) = diff(changed, writer, options, monitor)?;
        Ok((writer, diffed.layer.clone(), diffed))
    });
    made.map(|(_, diffed)| diffed)
}

/// Commits the layer that `make` writes to `store`, labelled with its diff id when it is compressed.
pub(crate) fn store_layer<T>(
    store: &dyn ContentStore,
    monitor: &dyn Monitor,
    make: impl FnOnce(Box<dyn Writer>) -> Result<(Box<dyn Writer>, LayerDescriptor, T)>,
) -> Result<(LayerDescriptor, T)> {
    // The reference is this call's own: the bytes of a layer that was cut off cannot be resumed.
    let reference = format!("layer-{:x}", unique());
    let writer = store.open_writer(&reference, &WriterOptions::new().hashing(Hashing::AtCommit), monitor)?;
    let (writer, layer, made) = make(writer).inspect_err(|_| {
        // The error that ended the layer is the one to report.
        let _ = store.abort(&reference);
    })?;
    let trusted = TrustedDigest::computed_over(layer.size, layer.digest.clone());
    let mut commit = CommitOptions::new().size(layer.size).trusted(trusted);
    if layer.diff_id != layer.digest {
        commit = commit.label(labels::UNCOMPRESSED, layer.diff_id.as_str());
    }
    store.publish(writer, &commit)?;
    Ok((layer, made))
}

/// A number that no other call has, for names that must not meet.
pub(crate) fn unique() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}
