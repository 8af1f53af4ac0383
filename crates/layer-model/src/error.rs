//! The error of the road: a kind to act on, and coordinates to find the place.
//!
//! Sources feed any sink, so an error travels through crates that know nothing of each other. There is
//! therefore one error type for the whole road, and it is small: one pointer.

use std::{error::Error as StdError, fmt, io};

use crate::{Digest, LayerPath, path::Printable};

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in terms that a caller can act on.
///
/// Kinds are stable: [`ErrorKind::name`] is what the command prints and what bindings map to integers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A malformed archive: bad header, forbidden name, unknown type, conflicting extension records.
    InvalidArchive,
    /// The input ends inside a header, a payload or a compressed frame.
    Truncated,
    /// Bytes do not have the digest that they were announced with.
    DigestMismatch {
        /// The digest announced.
        expected: Digest,
        /// The digest found.
        got: Digest,
    },
    /// Bytes are not as many as announced.
    SizeMismatch {
        /// The size announced, in bytes.
        expected: u64,
        /// The size found, in bytes.
        got: u64,
    },
    /// A limit from the options was reached; the name is that of the option.
    LimitExceeded {
        /// The option that sets the limit.
        limit: &'static str,
    },
    /// Resolving a path would leave the root where it must not be clamped.
    PathEscape,
    /// A component that has to be a directory is none.
    NotDirectory,
    /// More symbolic links in one resolution than the limit.
    TooManyLinks,
    /// Something is there already.
    Exists,
    /// Nothing is there.
    NotFound,
    /// An overlay marker that the inputs given cannot represent.
    UnsupportedMarker {
        /// `redirect`, `metacopy`, `index`, `root opaque`, ...
        marker: &'static str,
    },
    /// No processor chain leads from this media type to a layer.
    UnsupportedMediaType,
    /// This implementation does not do that for these inputs; another one may.
    NotSupported,
    /// A reference is locked by another writer.
    Unavailable,
    /// The state forbids the operation.
    FailedPrecondition,
    /// The content is committed already.
    AlreadyExists,
    /// An argument is unusable.
    InvalidArgument,
    /// A file changed while it was read.
    FileChanged,
    /// The thing cannot be written in the target form.
    Unrepresentable,
    /// An upper directory holds markers that the kernel refuses too.
    InvalidUpper,
    /// An owner that the id map has no counterpart for.
    UnmappedId {
        /// The id found.
        id: u32,
    },
    /// A run-time handle is of another form than the operation takes.
    WrongForm {
        /// The form that the operation takes.
        expected: &'static str,
        /// The form of the handle given.
        got: &'static str,
    },
    /// A directory is where only a file can be.
    IsDirectory,
    /// Two entries of one layer cannot both hold.
    ConflictingEntries,
    /// A parent directory has to be in the layer first, and nobody knows its metadata.
    MissingParentEntry,
    /// A link between images leads to nothing, or to no file.
    DanglingMergedLink,
    /// Somebody else is using the image.
    Busy,
    /// An image is malformed.
    CorruptImage,
    /// An image of a version that is not known here.
    UnsupportedVersion,
    /// The [`Monitor`](crate::Monitor) asked to stop.
    Cancelled,
    /// The kernel denied permission.
    PermissionDenied,
    /// Another error of the operating system, with its number where known.
    Io(Option<i32>),
}

impl ErrorKind {
    /// The stable name of the kind, as the command prints it in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::InvalidArchive => "InvalidArchive",
            Self::Truncated => "Truncated",
            Self::DigestMismatch { .. } => "DigestMismatch",
            Self::SizeMismatch { .. } => "SizeMismatch",
            Self::LimitExceeded { .. } => "LimitExceeded",
            Self::PathEscape => "PathEscape",
            Self::NotDirectory => "NotDirectory",
            Self::TooManyLinks => "TooManyLinks",
            Self::Exists => "Exists",
            Self::NotFound => "NotFound",
            Self::UnsupportedMarker { .. } => "UnsupportedMarker",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::NotSupported => "NotSupported",
            Self::Unavailable => "Unavailable",
            Self::FailedPrecondition => "FailedPrecondition",
            Self::AlreadyExists => "AlreadyExists",
            Self::InvalidArgument => "InvalidArgument",
            Self::FileChanged => "FileChanged",
            Self::Unrepresentable => "Unrepresentable",
            Self::InvalidUpper => "InvalidUpper",
            Self::UnmappedId { .. } => "UnmappedId",
            Self::WrongForm { .. } => "WrongForm",
            Self::IsDirectory => "IsDirectory",
            Self::ConflictingEntries => "ConflictingEntries",
            Self::MissingParentEntry => "MissingParentEntry",
            Self::DanglingMergedLink => "DanglingMergedLink",
            Self::Busy => "Busy",
            Self::CorruptImage => "CorruptImage",
            Self::UnsupportedVersion => "UnsupportedVersion",
            Self::Cancelled => "Cancelled",
            Self::PermissionDenied => "PermissionDenied",
            Self::Io(_) => "Io",
        }
    }
}

/// An error with its coordinates: the operation, the entry, the offset in the input, the cause.
///
/// [`Display`](fmt::Display) is one lower-case sentence without the cause; [`Error::chain`] prints both.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    entry: Option<Box<[u8]>>,
    index: Option<u64>,
    offset: Option<u64>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `message` says what was wrong, in lower case, without the path.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Box::new(Inner { kind, message, entry: None, index: None, offset: None, source: None }))
    }

    /// An error of the operating system while doing `operation` ("create file").
    ///
    /// A road error that travelled inside the `io::Error` (through a `Read`, say) comes out unchanged.
    pub fn io(operation: impl Into<String>, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let error = match error.downcast::<Error>() {
            Ok(inner) => return inner,
            Err(error) => error,
        };
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::Exists,
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            io::ErrorKind::NotADirectory => ErrorKind::NotDirectory,
            io::ErrorKind::UnexpectedEof => ErrorKind::Truncated,
            _ => ErrorKind::Io(error.raw_os_error()),
        };
        Self::new(kind, operation).cause(error)
    }

    /// The error that a cancelled operation returns.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled by the caller")
    }

    /// The error for a file that no longer has the `size` bytes that it was announced with.
    pub fn changed_size(size: u64) -> Self {
        Self::new(ErrorKind::FileChanged, format!("file no longer has the {size} bytes that it had"))
    }

    /// Names the entry concerned, by its raw path. A name set earlier, nearer to the fault, is kept.
    #[must_use]
    pub fn entry(mut self, path: impl AsRef<[u8]>) -> Self {
        self.0.entry.get_or_insert_with(|| path.as_ref().into());
        self
    }

    /// Names the entry concerned. A name set earlier, nearer to the fault, is kept.
    #[must_use]
    pub fn at(self, path: LayerPath<'_>) -> Self {
        if path.is_root() { self.entry(b"/") } else { self.entry(path.as_bytes()) }
    }

    /// The number of the entry in its archive, 0 first. A number set earlier is kept.
    #[must_use]
    pub fn index(mut self, index: u64) -> Self {
        self.0.index.get_or_insert(index);
        self
    }

    /// The byte offset in the (uncompressed) input. An offset set earlier is kept.
    #[must_use]
    pub fn offset(mut self, offset: u64) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// Says in which larger thing it happened ("layer 2"), in front of the message.
    #[must_use]
    pub fn context(mut self, place: impl fmt::Display) -> Self {
        self.0.message = format!("{place}: {}", self.0.message);
        self
    }

    /// The cause.
    #[must_use]
    pub fn cause(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The kind, to act on.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// What was wrong, without coordinates.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The raw path of the entry concerned.
    pub fn entry_path(&self) -> Option<&[u8]> {
        self.0.entry.as_deref()
    }

    /// The number of the entry concerned in its archive.
    pub fn entry_index(&self) -> Option<u64> {
        self.0.index
    }

    /// The byte offset in the (uncompressed) input.
    pub fn byte_offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// The number of the operating system's error, of this error or of its cause.
    pub fn os_error(&self) -> Option<i32> {
        match (&self.0.kind, &self.0.source) {
            (ErrorKind::Io(Some(number)), _) => Some(*number),
            (_, Some(source)) => source.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error),
            _ => None,
        }
    }

    /// The whole story in one line: this error, then its causes after colons.
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(entry) = &self.0.entry {
            write!(f, "{}: ", Printable(entry))?;
        }
        f.write_str(&self.0.message)?;
        match &self.0.kind {
            ErrorKind::DigestMismatch { expected, got } => write!(f, " (expected {expected}, got {got})")?,
            ErrorKind::SizeMismatch { expected, got } => {
                write!(f, " (expected {expected} bytes, got {got})")?
            }
            ErrorKind::LimitExceeded { limit } => write!(f, " (limit {limit})")?,
            ErrorKind::WrongForm { expected, got } => write!(f, " (expected {expected}, got {got})")?,
            _ => {}
        }
        match (self.0.index, self.0.offset) {
            (Some(index), Some(offset)) => write!(f, " (entry {index}, offset {offset})"),
            (Some(index), None) => write!(f, " (entry {index})"),
            (None, Some(offset)) => write!(f, " (offset {offset})"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.chain())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}

/// For a `Read` or `Write` on the road; [`Error::io`] takes the error out again, unchanged.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::Exists | ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
            ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
            ErrorKind::NotDirectory => io::ErrorKind::NotADirectory,
            ErrorKind::Truncated => io::ErrorKind::UnexpectedEof,
            ErrorKind::InvalidArgument => io::ErrorKind::InvalidInput,
            ErrorKind::InvalidArchive | ErrorKind::DigestMismatch { .. } | ErrorKind::SizeMismatch { .. } => {
                io::ErrorKind::InvalidData
            }
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// Says what was being done when the operating system failed.
pub trait IoContext<T> {
    /// Turns the error into [`Error`], naming the operation ("create file").
    ///
    /// # Errors
    /// The error given, as a road error.
    fn during(self, operation: &str) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn during(self, operation: &str) -> Result<T> {
        self.map_err(|error| Error::io(operation, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_pointer() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }

    #[test]
    fn the_sentence_names_entry_and_offset() {
        let error = Error::new(ErrorKind::Truncated, "payload ends early")
            .entry(b"etc/\xffpasswd")
            .index(3)
            .offset(1024);
        assert_eq!(error.to_string(), "etc/\\xffpasswd: payload ends early (entry 3, offset 1024)");
    }

    #[test]
    fn a_road_error_survives_a_trip_through_io() {
        let error = Error::new(ErrorKind::LimitExceeded { limit: "max_total_size" }, "too large");
        let back = Error::io("read", io::Error::from(error));
        assert_eq!(back.kind(), &ErrorKind::LimitExceeded { limit: "max_total_size" });
        assert_eq!(back.message(), "too large");
    }

    #[test]
    fn the_first_coordinate_wins() {
        let error = Error::new(ErrorKind::NotFound, "gone").entry("near").entry("far").offset(1).offset(2);
        assert_eq!((error.entry_path(), error.byte_offset()), (Some(&b"near"[..]), Some(1)));
    }
}
