//! The changes of a layer blob, whatever it holds.

use std::{fmt, fs::File, os::unix::fs::FileExt};

use erofs_format::FileSource;
use layer_apply::{ErofsImage, erofs_error};
use layer_model::{
    Change, Error, ErrorKind, IoContext, LayerSource, Monitor, Result, TreeSource,
    media::{Compression, LayerType},
};
use layer_tar::{BlobSource, BlobSummary};

use crate::LayerInput;

/// The changes of a layer blob: of the tar that it holds, or of the EROFS image that it is.
pub struct LayerChanges<'m>(Form<'m>);

enum Form<'m> {
    Tar(Box<BlobSource<'m>>),
    Image(Box<(TreeSource<'m>, BlobSummary)>),
}

impl<'m> LayerChanges<'m> {
    pub(crate) fn of_tar(source: BlobSource<'m>) -> Self {
        Self(Form::Tar(Box::new(source)))
    }

    /// An image is looked into all over, so it has to be a file: the blob itself, or a copy of what it holds that goes
    /// when it is closed.
    pub(crate) fn of_image(input: LayerInput, monitor: &'m dyn Monitor) -> Result<Self> {
        let is_bare = input.layer_type() == LayerType::Erofs(Compression::None);
        let blob = input.as_file().filter(|_| is_bare);
        let (file, copied) = match blob {
            Some(file) => (file.try_clone().during("duplicate descriptor")?, false),
            None => (tempfile::tempfile().during("make a file for the layer")?, true),
        };
        let summary = copy(input, copied.then_some(&file), monitor)?;
        let source = FileSource::new(file).during("open the layer")?;
        let image = erofs_format::Image::open(source).map_err(erofs_error)?;
        let tree = TreeSource::new(ErofsImage::new(image, "layer"), monitor);
        Ok(Self(Form::Image(Box::new((tree, summary)))))
    }

    /// Digests and sizes of the blob, after the source gave `Ok(None)`.
    ///
    /// # Errors
    /// [`ErrorKind::FailedPrecondition`] before that.
    pub fn summary(&self) -> Result<BlobSummary> {
        let summary = match &self.0 {
            Form::Tar(source) => source.summary(),
            Form::Image(image) => Some(&image.1),
        };
        let unread = || Error::new(ErrorKind::FailedPrecondition, "the layer was not read to its end");
        summary.cloned().ok_or_else(unread)
    }
}

/// Reads the blob to its end, and writes what it holds to `to`.
pub(crate) fn copy(input: LayerInput, to: Option<&File>, monitor: &dyn Monitor) -> Result<BlobSummary> {
    let mut content = input.content(monitor)?;
    let mut at = 0;
    while let Some(piece) = content.next_chunk()? {
        if let Some(to) = to {
            to.write_all_at(&piece, at).during("write the layer")?;
        }
        at += piece.len() as u64;
    }
    content.finish()
}

impl LayerSource for LayerChanges<'_> {
    fn next_change(&mut self) -> Result<Option<Change<'_>>> {
        match &mut self.0 {
            Form::Tar(source) => source.next_change(),
            Form::Image(image) => image.0.next_change(),
        }
    }
}

impl fmt::Debug for LayerChanges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Tar(source) => source.fmt(f),
            Form::Image(image) => f.debug_tuple("LayerChanges").field(&image.1).finish(),
        }
    }
}
