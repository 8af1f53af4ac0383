//! Images out of layers and directories.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use layer_apply::{BlobOutput, ErofsOptions, ErofsSink, ErofsWritten, write_file};
use layer_model::{Base, Digest, Error, ErrorKind, IoContext, LayerSink, Monitor, Result, road};
use layer_tar::ReadOptions;
use overlay_dir::{OverlayDir, PlainDir, PlainDirOptions};

use crate::{LayerDescriptor, LayerInput};

/// Where the content of files goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Data {
    /// Into the image.
    #[default]
    Inside,
    /// Into this file, which becomes the image's device.
    Blob(PathBuf),
    /// Nowhere: the image is an index of the uncompressed layer tar, which is its device.
    Archive,
    /// The same, and the tar follows the index in the same file, where it needs no device.
    ArchiveBehind,
}

/// How an image is built.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BuildOptions {
    /// What it becomes.
    pub image: ErofsOptions,
    /// Where content goes.
    pub data: Data,
    /// How a layer tar is read.
    pub read: ReadOptions,
}

impl BuildOptions {
    /// Sets [`Self::image`].
    #[must_use]
    pub fn image(mut self, image: ErofsOptions) -> Self {
        self.image = image;
        self
    }

    /// Sets [`Self::data`].
    #[must_use]
    pub fn data(mut self, data: Data) -> Self {
        self.data = data;
        self
    }

    /// Sets [`Self::read`].
    #[must_use]
    pub fn read(mut self, read: ReadOptions) -> Self {
        self.read = read;
        self
    }
}

/// What a build made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Built {
    /// The image.
    pub written: ErofsWritten,
    /// The layer that it was made of; none for a directory.
    pub layer: Option<LayerDescriptor>,
}

/// Builds the image `out` from one layer, whole or not at all.
///
/// `open` gives the layer: once, and twice for [`Data::ArchiveBehind`].
///
/// # Errors
/// Those of the blob and of the file system; [`ErrorKind::Unrepresentable`] for what EROFS cannot hold.
pub fn build_from_layer(
    open: &dyn Fn() -> Result<LayerInput>,
    out: &Path,
    options: &BuildOptions,
    monitor: &dyn Monitor,
) -> Result<Built> {
    build(out, options, |file, blob| {
        let mut sink = begin(&mut *file, blob, options, monitor)?;
        let mut source = open()?.changes(options.read.clone(), monitor)?;
        road::drive(&mut source, &mut sink, monitor)?;
        let summary = source.summary()?;
        sink.set_archive(summary.diff_size, summary.diff_id.clone());
        let (_, written) = sink.finish()?;
        if options.data == Data::ArchiveBehind {
            append_archive(open()?, &summary.diff_id, file, monitor)?;
        }
        Ok(Built { written, layer: Some(summary.into()) })
    })
}

/// Builds the image `out` from what is in the directory `dir`, whole or not at all. With `layer` its markers are
/// taken for those of an overlay layer; else they are devices and attributes like others.
///
/// # Errors
/// Those of the directory and of the file system; [`ErrorKind::InvalidArgument`] for an index, which takes an archive.
pub fn build_from_dir(
    dir: &Path,
    layer: bool,
    out: &Path,
    options: &BuildOptions,
    monitor: &dyn Monitor,
) -> Result<Built> {
    if matches!(options.data, Data::Archive | Data::ArchiveBehind) {
        return Err(Error::new(ErrorKind::InvalidArgument, "an index is of a layer tar, not of a directory"));
    }
    build(out, options, |file, blob| {
        let mut sink = begin(file, blob, options, monitor)?;
        match layer {
            true => sink.add_tree(&OverlayDir::open(dir, Default::default())?)?,
            false => sink.add_tree(&PlainDir::open(dir, PlainDirOptions::default())?)?,
        }
        let (_, written) = sink.finish()?;
        Ok(Built { written, layer: None })
    })
}

/// Makes the file `out`, and the one for the blob, with what `fill` writes.
fn build(
    out: &Path,
    options: &BuildOptions,
    fill: impl FnOnce(&mut File, Option<BlobOutput>) -> Result<Built>,
) -> Result<Built> {
    match &options.data {
        Data::Blob(path) => {
            if path == out {
                return Err(Error::new(ErrorKind::InvalidArgument, "image and blob are the same file"));
            }
            write_file(path, |blob| {
                let blob = blob.try_clone().during("duplicate descriptor")?;
                let blob: BlobOutput = Box::new(io::BufWriter::with_capacity(1 << 20, blob));
                write_file(out, |file| fill(file, Some(blob)))
            })
        }
        _ => write_file(out, |file| fill(file, None)),
    }
}

fn begin<'m, 'f>(
    file: &'f mut File,
    blob: Option<BlobOutput>,
    options: &BuildOptions,
    monitor: &'m dyn Monitor,
) -> Result<ErofsSink<'m, &'f mut File>> {
    // Of what lies below nothing is known: that is for appliers, which have parents.
    let parents = Base::<OverlayDir>::Unknown;
    let image = options.image.clone();
    match (&options.data, blob) {
        (Data::Archive | Data::ArchiveBehind, _) => ErofsSink::beside_archive(file, parents, image, monitor),
        (_, Some(blob)) => ErofsSink::beside_blob(file, blob, parents, image, monitor),
        (_, None) => ErofsSink::new(file, parents, image, monitor),
    }
}

/// Writes the uncompressed layer behind the index.
fn append_archive(
    layer: LayerInput,
    expected: &Digest,
    file: &mut File,
    monitor: &dyn Monitor,
) -> Result<()> {
    file.seek(SeekFrom::End(0)).during("seek in image")?;
    let mut content = layer.content(monitor)?;
    while let Some(chunk) = content.next_chunk()? {
        io::Write::write_all(file, &chunk).during("write the archive behind its index")?;
    }
    let found = content.finish()?.diff_id;
    if found != *expected {
        return Err(Error::new(ErrorKind::FileChanged, "the layer is another one when it is read again"));
    }
    Ok(())
}
