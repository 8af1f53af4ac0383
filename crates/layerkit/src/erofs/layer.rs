//! A layer blob as an EROFS layer: decompressed, checked, converted and written at once.

use std::{fs::File, os::unix::fs::FileExt, path::Path, sync::Arc};

use erofs_format::{CheckOptions, Severity, WriteOptions, uuid_from_url};
use layer_apply::{ErofsImage, ErofsOptions, ErofsSink, erofs_error};
use layer_model::{
    Base, Digest, Error, ErrorKind, IoContext, LayerSink, LayerTree, Monitor, Result,
    media::{Compression, LayerType},
    road,
};
use layer_tar::{BlobSummary, ReadOptions};

use super::{
    hashed::{Blocks, HashedFile},
    verity::{protect, protect_with, verity_over},
};
use crate::{
    LayerInput,
    changes::{LayerChanges, copy},
};

/// How layers become EROFS images.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ErofsLayerOptions {
    /// How changes are written down. Default: as containerd has it done, so that images of layers can be merged: no file
    /// data beside inodes.
    pub image: ErofsOptions,
    /// Whether the layer tar becomes part of the image as it is, and the metadata an index of it. Default: no.
    pub tar_index: bool,
    /// Whether a dm-verity hash tree follows the image. Default: no.
    pub verity: bool,
    /// What the image's UUID is made of.
    pub uuid: UuidFrom,
    /// How layer tars are read.
    pub read: ReadOptions,
}

/// What the UUID of a layer's image is made of: a version 5 UUID of `erofs:blobs/DIGEST`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum UuidFrom {
    /// The digest of the uncompressed layer, as containerd's image converter does it. However the layer is compressed,
    /// the image is the same.
    #[default]
    DiffId,
    /// The digest of the blob, as containerd does it when it unpacks.
    Blob,
}

impl Default for ErofsLayerOptions {
    fn default() -> Self {
        let write = WriteOptions::new().epoch_from_files(true).inline_data(false);
        Self {
            image: ErofsOptions::new().write(write),
            tar_index: false,
            verity: false,
            uuid: UuidFrom::default(),
            read: ReadOptions::default(),
        }
    }
}

impl ErofsLayerOptions {
    /// Sets [`Self::image`].
    #[must_use]
    pub fn image(mut self, image: ErofsOptions) -> Self {
        self.image = image;
        self
    }

    /// Sets [`Self::tar_index`].
    #[must_use]
    pub fn tar_index(mut self, on: bool) -> Self {
        self.tar_index = on;
        self
    }

    /// Sets [`Self::verity`].
    #[must_use]
    pub fn verity(mut self, on: bool) -> Self {
        self.verity = on;
        self
    }

    /// Sets [`Self::uuid`].
    #[must_use]
    pub fn uuid(mut self, from: UuidFrom) -> Self {
        self.uuid = from;
        self
    }

    /// Sets [`Self::read`].
    #[must_use]
    pub fn read(mut self, read: ReadOptions) -> Self {
        self.read = read;
        self
    }
}

/// A layer whose blob was read to its end, and checked: all but what its parents say is done.
pub(crate) struct Converted<'m> {
    summary: BlobSummary,
    /// The image, to be open until it is complete.
    file: File,
    form: Form<'m>,
}

enum Form<'m> {
    /// The blob was an EROFS image.
    Native,
    Tar {
        sink: Box<ErofsSink<'m, HashedFile>>,
        blocks: Option<Arc<Blocks>>,
    },
}

/// What became of a layer.
pub(crate) struct Finished {
    pub(crate) summary: BlobSummary,
    /// The image.
    pub(crate) file: File,
    /// How many changes the layer had, and how many bytes of content; of an EROFS image its inodes and bytes.
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// The root hash of its hash tree, if it was to have one.
    pub(crate) verity: Option<String>,
}

/// Converts the layer `input` into `file`, which is new and empty; `parents` may be told later.
pub(crate) fn convert<'m, P: LayerTree + Clone + 'static>(
    input: LayerInput,
    parents: Base<'_, P>,
    file: File,
    options: &ErofsLayerOptions,
    monitor: &'m dyn Monitor,
) -> Result<Converted<'m>> {
    if matches!(input.layer_type(), LayerType::Erofs(_)) {
        return copy_native(input, file, monitor);
    }
    let blob = input.content(monitor)?;
    let image = options.image.clone();
    let duplicate = || file.try_clone().during("duplicate descriptor");
    // An index has the blocks of its archive.
    let block = if options.tar_index { 512 } else { image.write_options().block() };
    let verity = options.verity.then(|| verity_over(block)).transpose()?;
    let out = HashedFile::new(duplicate()?, verity.as_ref())?;
    let blocks = out.blocks();
    let (mut sink, blob) = if options.tar_index {
        let beside = duplicate()?;
        let sink = ErofsSink::around_archive(out, parents, image, monitor)?;
        let mut at = sink.archive_start().unwrap_or_default();
        let blocks = blocks.clone();
        let blob = blob.tee(move |piece| {
            beside.write_all_at(piece, at).during("write the archive into the image")?;
            if let Some(blocks) = &blocks {
                blocks.wrote(at, piece.len() as u64);
            }
            at += piece.len() as u64;
            Ok(())
        });
        (sink, blob)
    } else {
        (ErofsSink::new(out, parents, image, monitor)?, blob)
    };
    let mut source = LayerChanges::of_tar(blob.into_source(options.read.clone())?);
    road::drive(&mut source, &mut sink, monitor)?;
    let summary = source.summary()?;
    sink.set_archive(summary.diff_size, summary.diff_id.clone());
    sink.set_uuid(uuid(match options.uuid {
        UuidFrom::DiffId => &summary.diff_id,
        UuidFrom::Blob => &summary.digest,
    }));
    Ok(Converted { summary, file, form: Form::Tar { sink: Box::new(sink), blocks } })
}

/// The UUID that containerd gives to the image of this digest.
fn uuid(digest: &Digest) -> [u8; 16] {
    uuid_from_url(&format!("erofs:blobs/{digest}"))
}

/// Takes a blob that is an image, whole.
fn copy_native<'m>(mut input: LayerInput, file: File, monitor: &'m dyn Monitor) -> Result<Converted<'m>> {
    // Blocks that are shared need no writing; who reads them to check them reads the layer, not the blob.
    let shared = input.layer_type() == LayerType::Erofs(Compression::None) && input.clone_to(&file)?;
    let summary = copy(input, (!shared).then_some(&file), monitor)?;
    Ok(Converted { summary, file, form: Form::Native })
}

impl Converted<'_> {
    /// Completes the image at `path` with what the parents know, where they were unknown before.
    pub(crate) fn finish<P: LayerTree + Clone + 'static>(
        self,
        parents: Base<'_, P>,
        path: &Path,
        options: &ErofsLayerOptions,
    ) -> Result<Finished> {
        let Self { summary, mut file, form } = self;
        let (entries, bytes, protected) = match form {
            Form::Tar { mut sink, blocks } => {
                sink.adopt(parents)?;
                let (_, written) = sink.finish()?;
                let tree = blocks.map(|blocks| blocks.finish(&file)).transpose()?;
                let protected = tree.map(|tree| protect_with(path, &mut file, &tree)).transpose()?;
                (written.entries, written.bytes, protected)
            }
            Form::Native => {
                // Somebody else made it, and the kernel is to mount it.
                let inodes = check_native(path)?;
                (inodes, summary.diff_size, options.verity.then(|| protect(path)).transpose()?)
            }
        };
        let verity = protected.map(|tree| tree.root_hash);
        Ok(Finished { summary, file, entries, bytes, verity })
    }
}

/// Refuses a damaged image. Gives the number of its inodes.
fn check_native(path: &Path) -> Result<u64> {
    let image = ErofsImage::open::<&Path>(path, &[])?;
    let check = CheckOptions::new().unused_space(false);
    let report = image.image().check(&check).map_err(erofs_error)?;
    match report.findings.iter().find(|finding| finding.severity == Severity::Error) {
        None => Ok(report.inodes),
        Some(finding) => {
            let message = format!("the layer is a damaged EROFS image: {finding}");
            Err(Error::new(ErrorKind::InvalidArchive, message).offset(finding.offset))
        }
    }
}
