//! What went wrong, and where.

use std::{borrow::Cow, error::Error as StdError, fmt, io};

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in terms that a caller can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The bytes are no EROFS image: too short, or another magic number.
    NotErofs,
    /// The superblock's checksum is not that of its block.
    ChecksumMismatch,
    /// The image uses something that this crate does not do: an unknown incompatible feature, a reserved
    /// bit, compressed content.
    Unsupported,
    /// The image contradicts the format.
    Corrupt,
    /// An image with extra devices was given another number of them.
    DeviceCount,
    /// Nothing is there.
    NotFound,
    /// Something is there already.
    Exists,
    /// A component that has to be a directory is none.
    NotDirectory,
    /// The operation does not apply to this type of file.
    WrongType,
    /// More symbolic links in one resolution than [`Limits`](crate::Limits) allow.
    TooManyLinks,
    /// A limit was reached; the name is that of the option.
    LimitExceeded {
        /// The option that sets the limit.
        limit: &'static str,
    },
    /// An argument is unusable.
    InvalidArgument,
    /// EROFS, or the target profile, cannot express this.
    Unrepresentable,
    /// An overlay marker that a merge cannot resolve.
    UnsupportedMarker {
        /// `redirect` or `metacopy`.
        marker: &'static str,
    },
    /// A block does not have the hash that the verity tree says.
    VerityMismatch,
    /// An error of the operating system, with its number where known.
    Io(Option<i32>),
}

impl ErrorKind {
    /// The stable name of the kind.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NotErofs => "NotErofs",
            Self::ChecksumMismatch => "ChecksumMismatch",
            Self::Unsupported => "Unsupported",
            Self::Corrupt => "Corrupt",
            Self::DeviceCount => "DeviceCount",
            Self::NotFound => "NotFound",
            Self::Exists => "Exists",
            Self::NotDirectory => "NotDirectory",
            Self::WrongType => "WrongType",
            Self::TooManyLinks => "TooManyLinks",
            Self::LimitExceeded { .. } => "LimitExceeded",
            Self::InvalidArgument => "InvalidArgument",
            Self::Unrepresentable => "Unrepresentable",
            Self::UnsupportedMarker { .. } => "UnsupportedMarker",
            Self::VerityMismatch => "VerityMismatch",
            Self::Io(_) => "Io",
        }
    }
}

/// An error with its coordinates: the structure concerned, its byte offset in the image, the path.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    structure: &'static str,
    offset: Option<u64>,
    path: Option<Box<[u8]>>,
    repr: Repr,
}

#[derive(Debug, thiserror::Error)]
enum Repr {
    #[error("{0}")]
    Message(Cow<'static, str>),
    #[error("{context}")]
    Io { context: &'static str, source: io::Error },
}

impl Error {
    /// An error of `kind` in `structure` ("inode", "device table"); `message` says what was wrong.
    pub fn new(kind: ErrorKind, structure: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let repr = Repr::Message(message.into());
        Self(Box::new(Inner { kind, structure, offset: None, path: None, repr }))
    }

    /// An error of the operating system while doing `context` ("write data").
    ///
    /// An error of this crate that travelled inside the `io::Error` comes out unchanged.
    pub fn io(context: &'static str, error: io::Error) -> Self {
        let source = match error.downcast::<Error>() {
            Ok(inner) => return inner,
            Err(error) => error,
        };
        let kind = ErrorKind::Io(source.raw_os_error());
        Self(Box::new(Inner {
            kind,
            structure: "file",
            offset: None,
            path: None,
            repr: Repr::Io { context, source },
        }))
    }

    pub(crate) fn corrupt(
        structure: &'static str,
        offset: u64,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(ErrorKind::Corrupt, structure, message).at(offset)
    }

    pub(crate) fn unsupported(
        structure: &'static str,
        offset: u64,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(ErrorKind::Unsupported, structure, message).at(offset)
    }

    pub(crate) fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidArgument, "argument", message)
    }

    pub(crate) fn limit(
        limit: &'static str,
        structure: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(ErrorKind::LimitExceeded { limit }, structure, message)
    }

    /// Sets the byte offset in the primary image. An offset set earlier, nearer to the fault, is kept.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// Names the file concerned. A name set earlier is kept.
    #[must_use]
    pub fn path(mut self, path: impl AsRef<[u8]>) -> Self {
        self.0.path.get_or_insert_with(|| path.as_ref().into());
        self
    }

    /// The kind, to act on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The structure concerned.
    pub fn structure(&self) -> &'static str {
        self.0.structure
    }

    /// The byte offset of the structure in the primary image (in the decoded metabox for what lies there).
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// The raw path of the file concerned, where known.
    pub fn file_path(&self) -> Option<&[u8]> {
        self.0.path.as_deref()
    }

    /// What was wrong, without coordinates.
    pub fn message(&self) -> String {
        self.0.repr.to_string()
    }

    /// The number of the operating system's error.
    pub fn os_error(&self) -> Option<i32> {
        match self.0.kind {
            ErrorKind::Io(number) => number,
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.0.path {
            write!(f, "{}: ", path.escape_ascii())?;
        }
        write!(f, "{}: {}", self.0.structure, self.0.repr)?;
        match self.0.offset {
            Some(offset) => write!(f, " (offset {offset:#x})"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.repr.source()
    }
}

/// For a `Read` or `Write` on top of an image; [`Error::io`] takes the error out again, unchanged.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::Exists => io::ErrorKind::AlreadyExists,
            ErrorKind::NotDirectory => io::ErrorKind::NotADirectory,
            ErrorKind::Unsupported | ErrorKind::Unrepresentable => io::ErrorKind::Unsupported,
            ErrorKind::InvalidArgument | ErrorKind::WrongType => io::ErrorKind::InvalidInput,
            ErrorKind::Io(Some(number)) => return io::Error::from_raw_os_error(number),
            ErrorKind::Io(None) => io::ErrorKind::Other,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
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
    fn the_sentence_names_structure_and_offset() {
        let error = Error::corrupt("inode", 0x480, "reserved bits are set").path("etc/\u{1}");
        assert_eq!(error.to_string(), "etc/\\x01: inode: reserved bits are set (offset 0x480)");
    }

    #[test]
    fn an_error_survives_a_trip_through_io() {
        let error = Error::io("read", io::Error::from(Error::corrupt("dirent", 7, "bad")));
        assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(7)));
    }
}
