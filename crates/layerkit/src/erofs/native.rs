//! EROFS layers as blobs, written from start to end.

use std::io::{self, Write};

use erofs_format::{Times, Timestamp, WriteOptions};
use layer_apply::{ErofsImage, ErofsOptions, ErofsPlan, ErofsPlanner, ImageWrite};
use layer_model::{
    Base, Error, ErrorKind, LayerSource, LayerTree, MediaType, Monitor, Result,
    media::{self, Compression, LayerType},
    road,
};
use layer_tar::BlobWriter;

use crate::{DiffOptions, LayerDescriptor, diff::blob_writer};

/// Learns from the changes of `source` what the image will be, but for the content of files.
pub(crate) fn plan(
    source: &mut dyn LayerSource,
    options: &DiffOptions,
    monitor: &dyn Monitor,
) -> Result<ErofsPlan> {
    let mut write = WriteOptions::new().epoch_from_files(true).inline_data(false);
    if let Some(seconds) = options.tar.source_date_epoch {
        write = write.times(Times::AtMost(Timestamp { seconds, nanoseconds: 0 }));
    }
    let image = ErofsOptions::new().write(write);
    let planner = ErofsPlanner::new(Base::<ErofsImage>::Unknown, image, monitor)?;
    road::pump(source, planner, monitor)
}

/// Writes the planned image with the content that `tree` has, compressed and hashed on the way.
pub(crate) fn write_planned<W: Write>(
    plan: &ErofsPlan,
    tree: &dyn LayerTree,
    out: W,
    options: &DiffOptions,
    monitor: &dyn Monitor,
) -> Result<(W, LayerDescriptor)> {
    let out = Blob(blob_writer(out, options, Some(erofs_media_type(options)?))?);
    let (Blob(blob), _) = plan.write(tree, out, monitor)?;
    let (out, summary) = blob.finish()?;
    Ok((out, summary.into()))
}

/// The type of an EROFS layer in the codec's compression.
pub(crate) fn erofs_media_type(options: &DiffOptions) -> Result<MediaType> {
    let codec = options.codec.media_type();
    let (suffix, compression) = match codec.suffixes().next_back() {
        None => ("", Compression::None),
        Some("zstd") => ("+zstd", Compression::Zstd),
        Some(other) => {
            let message = format!("an EROFS layer is compressed by zstd or not at all, not by {other}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
    };
    match &options.erofs_type {
        None => format!("{}{suffix}", media::LAYER_EROFS).parse(),
        Some(wanted) if wanted.layer_type() == LayerType::Erofs(compression) => Ok(wanted.clone()),
        Some(wanted) => {
            let message = format!("{wanted} is no type of an EROFS layer in this compression");
            Err(Error::new(ErrorKind::InvalidArgument, message))
        }
    }
}

/// A blob as the output of an image: files are read right into the memory that is hashed and compressed.
struct Blob<W>(BlobWriter<W>);

impl<W: Write> Write for Blob<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write> ImageWrite for Blob<W> {
    fn fill_with(&mut self, most: u64, read: &mut dyn FnMut(&mut [u8]) -> Result<usize>) -> Result<usize> {
        self.0.fill_with(usize::try_from(most).unwrap_or(usize::MAX), read)
    }
}
