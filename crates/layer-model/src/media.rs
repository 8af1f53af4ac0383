//! Media types of layers: what a blob says that it is.

use std::{fmt, str::FromStr};

use crate::{Error, ErrorKind, Result};

/// The OCI type of an uncompressed layer tar; every processor chain ends here.
pub const LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// The OCI type of a gzip layer tar.
pub const LAYER_TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The OCI type of a zstd layer tar.
pub const LAYER_TAR_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// The type of a layer that is an EROFS image.
pub const LAYER_EROFS: &str = "application/vnd.erofs.layer.v1";

const OCI_PREFIX: &str = "application/vnd.oci.image.layer.";
const OCI_NONDISTRIBUTABLE_PREFIX: &str = "application/vnd.oci.image.layer.nondistributable.";
const OCI_NONDISTRIBUTABLE_TAR: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
const DOCKER_TAR: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_TAR_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const DOCKER_TAR_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
const DOCKER_FOREIGN_PREFIX: &str = "application/vnd.docker.image.rootfs.foreign.";
const DOCKER_FOREIGN_TAR: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
const DOCKER_FOREIGN_TAR_GZIP: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
const EROFS_PREFIX: &str = "application/vnd.erofs.layer";
/// The ending that older containerd releases took as a native EROFS layer.
const LEGACY_EROFS_SUFFIX: &str = ".erofs";

/// A media type, split at its `+` signs. The last suffix is the outermost wrapping.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MediaType(Box<str>);

/// How the bytes of a blob are wrapped, as far as its type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
    /// The type does not say; the bytes have to be looked at.
    Detect,
}

/// What a layer's type promises.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerType {
    /// A layer tar, so wrapped.
    Tar(Compression),
    /// An EROFS image, so wrapped.
    Erofs(Compression),
    /// A layer in a wrapping that only a processor takes off: `encrypted`, or a suffix unknown here.
    Wrapped {
        /// The outermost suffix.
        suffix: String,
    },
    /// Not the type of a layer.
    Other,
}

impl MediaType {
    /// The uncompressed OCI layer tar.
    pub fn layer_tar() -> Self {
        Self(LAYER_TAR.into())
    }

    /// The OCI layer tar in this compression. [`Compression::Detect`] gives the uncompressed type.
    pub fn layer_tar_in(compression: Compression) -> Self {
        Self(
            match compression {
                Compression::None | Compression::Detect => LAYER_TAR,
                Compression::Gzip => LAYER_TAR_GZIP,
                Compression::Zstd => LAYER_TAR_ZSTD,
            }
            .into(),
        )
    }

    /// A layer tar of which the compression is to be found by looking: Docker's type, which never said it.
    pub fn layer_tar_detected() -> Self {
        Self(DOCKER_TAR.into())
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part in front of the first `+`.
    pub fn base(&self) -> &str {
        self.0.split_once('+').map_or(&*self.0, |(base, _)| base)
    }

    /// The suffixes as written, innermost wrapping first.
    pub fn suffixes(&self) -> impl DoubleEndedIterator<Item = &str> {
        let wrapping = self.0.split_once('+').map(|(_, suffixes)| suffixes.split('+'));
        wrapping.into_iter().flatten()
    }

    /// The type without its last suffix, when it has one.
    pub fn unwrapped(&self) -> Option<MediaType> {
        self.0.rsplit_once('+').map(|(inner, _)| Self(inner.into()))
    }

    /// Whether this is exactly the uncompressed OCI layer tar.
    pub fn is_plain_layer_tar(&self) -> bool {
        &*self.0 == LAYER_TAR
    }

    /// Whether the layer was not meant to be pushed. It is applied like others.
    pub fn is_nondistributable(&self) -> bool {
        self.0.starts_with(OCI_NONDISTRIBUTABLE_PREFIX) || self.0.starts_with(DOCKER_FOREIGN_PREFIX)
    }

    /// What the type promises.
    ///
    /// Suffixes keep their written order: `tar+gzip+encrypted` is encrypted, though containerd sorts the
    /// suffixes first and takes it for gzip.
    pub fn layer_type(&self) -> LayerType {
        let last = self.suffixes().next_back();
        if self.base().starts_with(EROFS_PREFIX) || self.base().ends_with(LEGACY_EROFS_SUFFIX) {
            return match (self.suffixes().count(), last) {
                (0, _) => LayerType::Erofs(Compression::None),
                (1, Some("zstd")) => LayerType::Erofs(Compression::Zstd),
                (1, Some("gzip")) => LayerType::Erofs(Compression::Gzip),
                (_, suffix) => LayerType::Wrapped { suffix: suffix.unwrap_or_default().to_owned() },
            };
        }
        match (self.base(), last) {
            (DOCKER_TAR | DOCKER_FOREIGN_TAR, None) => LayerType::Tar(Compression::Detect),
            (DOCKER_TAR_GZIP | DOCKER_FOREIGN_TAR_GZIP, None) => LayerType::Tar(Compression::Gzip),
            (DOCKER_TAR_ZSTD, None) => LayerType::Tar(Compression::Zstd),
            (LAYER_TAR | OCI_NONDISTRIBUTABLE_TAR, None) => LayerType::Tar(Compression::None),
            (base, Some("gzip")) if base.starts_with(OCI_PREFIX) => LayerType::Tar(Compression::Gzip),
            (base, Some("zstd")) if base.starts_with(OCI_PREFIX) => LayerType::Tar(Compression::Zstd),
            (base, Some(suffix)) if base.starts_with(OCI_PREFIX) || is_docker_layer(base) => {
                LayerType::Wrapped { suffix: suffix.to_owned() }
            }
            _ => LayerType::Other,
        }
    }
}

fn is_docker_layer(base: &str) -> bool {
    [DOCKER_TAR, DOCKER_TAR_GZIP, DOCKER_TAR_ZSTD, DOCKER_FOREIGN_TAR, DOCKER_FOREIGN_TAR_GZIP]
        .contains(&base)
}

impl FromStr for MediaType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let ok = text.len() <= 255
            && text.split_once('/').is_some_and(|(kind, rest)| !kind.is_empty() && !rest.is_empty())
            && text.bytes().all(|b| b.is_ascii_graphic());
        if ok {
            Ok(Self(text.into()))
        } else {
            Err(Error::new(ErrorKind::InvalidArgument, format!("{text:?} is no media type")))
        }
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_promise_what_the_table_says() {
        use Compression::{Detect, Gzip, None, Zstd};
        let wrapped = |suffix: &str| LayerType::Wrapped { suffix: suffix.to_owned() };
        for (text, want) in [
            ("application/vnd.oci.image.layer.v1.tar", LayerType::Tar(None)),
            ("application/vnd.oci.image.layer.v1.tar+gzip", LayerType::Tar(Gzip)),
            ("application/vnd.oci.image.layer.v1.tar+zstd", LayerType::Tar(Zstd)),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar", LayerType::Tar(None)),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", LayerType::Tar(Gzip)),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", LayerType::Tar(Zstd)),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", wrapped("encrypted")),
            ("application/vnd.oci.image.layer.v1.tar+encrypted+gzip", LayerType::Tar(Gzip)),
            ("application/vnd.docker.image.rootfs.diff.tar", LayerType::Tar(Detect)),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", LayerType::Tar(Gzip)),
            ("application/vnd.docker.image.rootfs.diff.tar.zstd", LayerType::Tar(Zstd)),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar", LayerType::Tar(Detect)),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", LayerType::Tar(Gzip)),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip+encrypted", wrapped("encrypted")),
            ("application/vnd.erofs.layer.v1", LayerType::Erofs(None)),
            ("application/vnd.erofs.layer.v1+zstd", LayerType::Erofs(Zstd)),
            ("application/vnd.erofs.layer.v1+gzip", LayerType::Erofs(Gzip)),
            ("application/vnd.oci.image.layer.v1.erofs", LayerType::Erofs(None)),
            ("application/vnd.example.layer.erofs", LayerType::Erofs(None)),
            ("application/vnd.oci.image.config.v1+json", LayerType::Other),
            ("text/plain", LayerType::Other),
        ] {
            assert_eq!(text.parse::<MediaType>().unwrap().layer_type(), want, "{text}");
        }
    }

    #[test]
    fn foreign_layers_are_known() {
        for text in ["application/vnd.oci.image.layer.nondistributable.v1.tar", DOCKER_FOREIGN_TAR_GZIP] {
            assert!(text.parse::<MediaType>().unwrap().is_nondistributable());
        }
        assert!(!MediaType::layer_tar().is_nondistributable());
    }

    #[test]
    fn text_that_is_no_type_is_refused() {
        for bad in ["", "tar", "/x", "x/", "a/b c", "a/\n"] {
            assert!(bad.parse::<MediaType>().is_err(), "{bad:?}");
        }
    }
}
