//! From directories to a layer blob: in a writer, a file, or a store.

use std::{io::Write, num::NonZeroUsize, path::Path, sync::Arc};

use content_store::{
    CommitOptions, ContentStore, ContentStoreExt, Hashing, TrustedDigest, WriterOptions, labels,
};
use layer_model::{Digest, LayerSource, MediaType, Monitor, Profile, Result, road};
use layer_tar::{
    BlobSummary, BlobWriter, BlobWriterOptions, TarSink, WriteOptions,
    compress::{Codec, Plain},
};
use overlay_diff::DiffReport;
use serde::{Serialize, Serializer};

use crate::{Changed, write_file};

/// How a layer blob is made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DiffOptions {
    /// Whose behaviour to follow where the specification and containerd part.
    pub profile: Profile,
    /// How the tar is written.
    pub tar: WriteOptions,
    /// How the tar is compressed. Default: not at all.
    pub codec: Arc<dyn Codec>,
    /// How many threads walk, and how many compress. Default: half as many as the machine has processors walk, and
    /// as many compress.
    pub jobs: Option<NonZeroUsize>,
}

impl Default for DiffOptions {
    fn default() -> Self {
        Self { profile: Profile::default(), tar: WriteOptions::default(), codec: Arc::new(Plain), jobs: None }
    }
}

impl DiffOptions {
    /// Sets [`Self::profile`].
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
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

    /// Sets [`Self::jobs`].
    #[must_use]
    pub fn jobs(mut self, jobs: NonZeroUsize) -> Self {
        self.jobs = Some(jobs);
        self
    }
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
/// # Errors
/// Those of the differ and of `out`; `out` then holds a part of a blob.
pub fn diff<W: Write>(
    changed: &Changed,
    out: W,
    options: &DiffOptions,
    monitor: &dyn Monitor,
) -> Result<(W, Diffed)> {
    let mut source = changed.open(options.profile, options.jobs, monitor)?;
    let (out, layer) = write_layer(&mut source, out, options, monitor)?;
    Ok((out, Diffed { layer, report: source.report().clone() }))
}

/// Writes the changes of `source` to `out` as a layer blob.
pub(crate) fn write_layer<W: Write>(
    source: &mut dyn LayerSource,
    out: W,
    options: &DiffOptions,
    monitor: &dyn Monitor,
) -> Result<(W, LayerDescriptor)> {
    let mut blob = BlobWriterOptions::default();
    blob.jobs = options.jobs.map_or(blob.jobs, NonZeroUsize::get);
    let blob = BlobWriter::new(out, options.codec.clone(), blob)?;
    let sink = TarSink::to_blob(blob, options.tar.clone(), monitor);
    let (blob, _) = road::pump(source, sink, monitor)?;
    let (out, summary) = blob.finish()?;
    Ok((out, summary.into()))
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
    // The reference is this call's own: the bytes of a diff that was cut off cannot be resumed.
    let reference = format!("diff-{:x}", unique());
    let writer = store.open_writer(&reference, &WriterOptions::new().hashing(Hashing::AtCommit), monitor)?;
    let made = diff(changed, writer, options, monitor);
    let (writer, diffed) = match made {
        Ok(made) => made,
        Err(error) => {
            // The error that ended the diff is the one to report.
            let _ = store.abort(&reference);
            return Err(error);
        }
    };
    let LayerDescriptor { digest, size, diff_id, .. } = &diffed.layer;
    let mut commit =
        CommitOptions::new().size(*size).trusted(TrustedDigest::computed_over(*size, digest.clone()));
    if diff_id != digest {
        commit = commit.label(labels::UNCOMPRESSED, diff_id.as_str());
    }
    store.publish(writer, &commit)?;
    Ok(diffed)
}

/// A number that no other call has, for names that must not meet.
pub(crate) fn unique() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}
