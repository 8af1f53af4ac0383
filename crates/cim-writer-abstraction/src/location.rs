//! Where a CIM is: a directory or a container of the host, joined with the CIM's name as persisted descriptions and
//! mount options have it.

use std::{fmt, str::FromStr};

use layer_model::{Error, ErrorKind, Result};

use crate::CimName;

/// A CIM on the host: `C:\cims\2.cim` is `2.cim` in the directory `C:\cims`, `C:\s\2\layer.vhd\layer.cim` is
/// `layer.cim` in the container `C:\s\2\layer.vhd`. The text does not say which of the two it is.
///
/// [`Display`](fmt::Display) gives the joined text, [`CimLocation::parse`] takes it apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CimLocation {
    container: Box<str>,
    name: CimName,
}

impl CimLocation {
    /// `name` in `container`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for an empty container, a drive without its root, and one that ends in a
    /// separator without being a root.
    pub fn new(container: impl Into<Box<str>>, name: CimName) -> Result<Self> {
        let container = container.into();
        let tail = container.trim_end_matches(is_separator);
        let is_drive = container.len() == 2 && container.ends_with(':');
        if container.is_empty() || is_drive || tail.len() != container.len() && !is_root(&container) {
            let what = "no path of a directory or container that holds a CIM";
            return Err(Error::new(ErrorKind::InvalidArgument, what).entry(&*container));
        }
        Ok(Self { container, name })
    }

    /// Takes the joined text apart at its last separator.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] without a separator, and as [`CimLocation::new`] and [`CimName::new`].
    pub fn parse(path: &str) -> Result<Self> {
        let at = path.rfind(is_separator).ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "the path of a CIM has no container").entry(path)
        })?;
        let name = CimName::new(&path[at + 1..]).map_err(|error| error.entry(path))?;
        // The separator of a root is part of it.
        let container = if is_root(&path[..=at]) { &path[..=at] } else { &path[..at] };
        Self::new(container, name)
    }

    /// The directory or container.
    pub fn container(&self) -> &str {
        &self.container
    }

    /// The CIM in it.
    pub fn name(&self) -> &CimName {
        &self.name
    }
}

impl fmt::Display for CimLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match &*self.container {
            path if path.ends_with(is_separator) => "",
            path if path.contains('/') && !path.contains('\\') => "/",
            _ => "\\",
        };
        write!(f, "{}{separator}{}", self.container, self.name)
    }
}

impl FromStr for CimLocation {
    type Err = Error;

    fn from_str(path: &str) -> Result<Self> {
        Self::parse(path)
    }
}

/// Makes sure that `path` says where something is, wherever the reader stands: `C:\x`, `\\server\share`, `\\?\x`, and
/// `/x` of a Unix, where journals and models are.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for other paths, and for one with a component that is empty, `.` or `..`.
pub(crate) fn check_absolute(path: &str) -> Result<()> {
    let refuse = |what: &str| Err(Error::new(ErrorKind::InvalidArgument, what).entry(path));
    let rest = match path.as_bytes() {
        [b'\\', b'\\', _, ..] => &path[2..],
        [b'/', ..] => &path[1..],
        [drive, b':', b'\\' | b'/', ..] if drive.is_ascii_alphabetic() => &path[3..],
        _ => return refuse("the path is not absolute"),
    };
    if rest.is_empty() {
        return Ok(());
    }
    match rest.split(is_separator).find(|component| matches!(*component, "" | "." | "..")) {
        Some(component) => refuse(&format!("the path has the component {component:?}")),
        None => Ok(()),
    }
}

fn is_separator(char: char) -> bool {
    matches!(char, '\\' | '/')
}

/// Whether the path, which ends in a separator, means something else without it.
fn is_root(path: &str) -> bool {
    match path.as_bytes() {
        [b'/' | b'\\'] => true,
        [drive, b':', b'\\' | b'/'] => drive.is_ascii_alphabetic(),
        _ => false,
    }
}
