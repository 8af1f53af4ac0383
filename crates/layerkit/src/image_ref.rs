//! How an image is named on a command line.

use std::{fmt, path::PathBuf, str::FromStr};

use layer_model::{Error, ErrorKind, Result};

/// Where an image is: `oci:DIR[:TAG]`, `docker-archive:FILE`, or the directory of an OCI layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageRef {
    /// An image in an OCI layout.
    Oci {
        /// The directory of the layout.
        layout: PathBuf,
        /// The image's name in it; not needed where there is only one.
        tag: Option<String>,
    },
    /// What `docker save` writes.
    DockerArchive {
        /// The archive.
        file: PathBuf,
    },
}

impl FromStr for ImageRef {
    type Err = Error;

    /// A colon in the directory of `oci:DIR[:TAG]` cannot be told from the one in front of the tag: the last one
    /// counts, unless a slash comes after it.
    fn from_str(text: &str) -> Result<Self> {
        let empty = || Error::new(ErrorKind::InvalidArgument, format!("{text:?} names no image"));
        if let Some(file) = text.strip_prefix("docker-archive:") {
            return if file.is_empty() {
                Err(empty())
            } else {
                Ok(Self::DockerArchive { file: file.into() })
            };
        }
        let (layout, tag) = match text.strip_prefix("oci:") {
            None => (text, None),
            Some(rest) => match rest.rsplit_once(':') {
                Some((layout, tag)) if !tag.is_empty() && !tag.contains('/') => {
                    (layout, Some(tag.to_owned()))
                }
                _ => (rest, None),
            },
        };
        if layout.is_empty() { Err(empty()) } else { Ok(Self::Oci { layout: layout.into(), tag }) }
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oci { layout, tag: Some(tag) } => write!(f, "oci:{}:{tag}", layout.display()),
            Self::Oci { layout, tag: None } => write!(f, "oci:{}", layout.display()),
            Self::DockerArchive { file } => write!(f, "docker-archive:{}", file.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_documented() {
        let oci = |layout: &str, tag: Option<&str>| ImageRef::Oci {
            layout: layout.into(),
            tag: tag.map(Into::into),
        };
        for (text, want) in [
            ("oci:dir", oci("dir", None)),
            ("oci:dir:v1", oci("dir", Some("v1"))),
            ("oci:/a:b/c", oci("/a:b/c", None)),
            ("oci:/a:b/c:v1", oci("/a:b/c", Some("v1"))),
            ("some/dir", oci("some/dir", None)),
            ("some:dir", oci("some:dir", None)),
            ("docker-archive:x.tar", ImageRef::DockerArchive { file: "x.tar".into() }),
        ] {
            assert_eq!(text.parse::<ImageRef>().unwrap(), want, "{text}");
        }
        for bad in ["", "oci:", "docker-archive:"] {
            assert_eq!(bad.parse::<ImageRef>().unwrap_err().kind(), &ErrorKind::InvalidArgument, "{bad:?}");
        }
    }
}
