//! Images into layers, directories and other images.

use std::{
    io::{BufWriter, Write},
    path::Path,
};

use erofs_format::{MergeOptions, Summary, WriteOptions, flatten_layers, merge_layers};
use layer_apply::{
    ApplyOptions, ErofsImage, FlatApplier, OverlayXattrs, XattrPolicy, erofs_error, write_file,
};
use layer_model::{Applier, Base, Error, ErrorKind, IoContext, Monitor, Result, TreeSource};

use crate::{DiffOptions, LayerDescriptor, diff::write_layer};

/// Writes the layer in `image` to `out` as a layer tar: whiteouts and opaque directories in the words of the OCI
/// specification. The same image gives the same bytes.
///
/// # Errors
/// Those of the image and of `out`; [`ErrorKind::UnsupportedMarker`](layer_model::ErrorKind::UnsupportedMarker) for
/// markers that no layer tar has (redirect, metacopy).
pub fn to_tar<W: Write>(
    image: &ErofsImage,
    out: W,
    options: &DiffOptions,
    monitor: &dyn Monitor,
) -> Result<(W, LayerDescriptor)> {
    write_layer(&mut TreeSource::new(image, monitor), out, options, monitor)
}

/// Makes the directory `dest` of what is in `image`, as a mount of the image would show it: markers of overlayfs stay
/// what they are. A missing `dest` appears whole or not at all; in one that is there and empty, a failure leaves what was
/// made so far.
///
/// # Errors
/// [`ErrorKind::Exists`] when `dest` is there and not an empty directory; those of the image and of the file system.
pub fn extract(image: &ErofsImage, dest: &Path, monitor: &dyn Monitor) -> Result<u64> {
    if std::fs::read_dir(dest).is_ok_and(|mut entries| entries.next().is_some()) {
        let error = Error::new(ErrorKind::Exists, "the target is not an empty directory");
        return Err(error.entry(dest.as_os_str().as_encoded_bytes()));
    }
    let options = ApplyOptions::new()
        .xattr_policy(XattrPolicy::Verbatim)
        .overlay_xattrs(OverlayXattrs::Escape)
        .keep_trusted_xattrs(true)
        .apply_root_metadata(true)
        .keep_early_times(true);
    let plain = image.plain();
    let mut source = TreeSource::new(&plain, monitor);
    let applied = FlatApplier::new(options).apply(&mut source, Base::Unknown, dest.to_owned(), monitor)?;
    Ok(applied.entries)
}

/// What a merge becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MergeForm {
    /// Metadata only: the layers are its devices.
    #[default]
    OverDevices,
    /// A copy of all that the layers show, which needs nothing else.
    Flat,
}

/// Makes the image `out` of `layers`, bottom first: what an overlay mount of them shows. Whole or not at all.
///
/// # Errors
/// Those of the images and of the file system.
pub fn merge(
    layers: &[ErofsImage],
    out: &Path,
    form: MergeForm,
    merge: &MergeOptions,
    options: &WriteOptions,
) -> Result<Summary> {
    let images: Vec<_> = layers.iter().map(|layer| layer.image().clone()).collect();
    write_file(out, |file| {
        let file = BufWriter::with_capacity(1 << 20, file);
        let (mut file, summary) = match form {
            MergeForm::OverDevices => {
                let plan = merge_layers(&images, merge, options).map_err(erofs_error)?;
                plan.write(file, &()).map_err(erofs_error)?
            }
            MergeForm::Flat => {
                let (plan, contents) = flatten_layers(&images, merge, options).map_err(erofs_error)?;
                plan.write(file, &contents).map_err(erofs_error)?
            }
        };
        file.flush().during("write image")?;
        Ok(summary)
    })
}
