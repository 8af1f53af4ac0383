//! EROFS images as layers: made of changes, and looked into.

mod adopt;
mod ahead;
mod archive;
mod copy;
mod files;
mod hide;
mod image;
mod link;
mod options;
mod output;
mod planned;
mod resolve;
mod sink;
mod tree;

use layer_model::{Error, ErrorKind};

pub use self::{
    image::{ErofsImage, PlainErofs},
    options::{ErofsOptions, Whiteouts},
    output::BlobOutput,
    planned::{ErofsPlan, ErofsPlanner, ImageWrite},
    sink::{ErofsApplier, ErofsSink, ErofsWritten},
};

/// An error of the format in the terms of the road. The error itself is its cause.
pub fn erofs_error(error: erofs_format::Error) -> Error {
    use erofs_format::ErrorKind as Format;
    let kind = match error.kind() {
        Format::Unsupported => ErrorKind::NotSupported,
        Format::NotFound => ErrorKind::NotFound,
        Format::Exists => ErrorKind::Exists,
        Format::NotDirectory => ErrorKind::NotDirectory,
        Format::TooManyLinks => ErrorKind::TooManyLinks,
        Format::LimitExceeded { limit } => ErrorKind::LimitExceeded { limit },
        Format::InvalidArgument | Format::WrongType | Format::DeviceCount => ErrorKind::InvalidArgument,
        Format::Unrepresentable => ErrorKind::Unrepresentable,
        Format::UnsupportedMarker { marker } => ErrorKind::UnsupportedMarker { marker },
        Format::Io(number) => ErrorKind::Io(number),
        _ => ErrorKind::InvalidArchive,
    };
    let (offset, path) = (error.offset(), error.file_path().map(<[u8]>::to_vec));
    let mut model = Error::new(kind, error.structure());
    if let Some(offset) = offset {
        model = model.offset(offset);
    }
    if let Some(path) = path {
        model = model.entry(path);
    }
    model.cause(error)
}
