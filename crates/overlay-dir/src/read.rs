//! What the overlay attributes of one entry say.
//!
//! The rules are those of the kernel's `fs/overlayfs/namei.c` and `util.c`, where "refused" means that a
//! look-up in the mount fails: such a layer is [`ErrorKind::InvalidUpper`] here.

use layer_model::{
    Error, ErrorKind, LayerPath, NodeKind, Result, Xattrs,
    tree::{Markers, Metacopy, NlinkDelta, Redirect},
};
use rustix::io;

use crate::{Namespace, marker, xattr};

/// What an entry's attributes come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "attributes say nothing else")]
pub struct Decoded {
    /// The attributes that the merged file has.
    pub xattrs: Xattrs,
    /// The markers.
    pub markers: Markers,
    /// The entry is a whiteout in its other form, an empty file with an attribute.
    pub whiteout: bool,
}

/// Tells the markers in `raw`, all attributes of an entry of one layer, from what the merged file has: for layers
/// that are no directories.
///
/// # Errors
/// [`ErrorKind::InvalidUpper`] and [`ErrorKind::UnsupportedMarker`] for markers that the kernel refuses.
pub fn decode_xattrs(namespace: Namespace, kind: &NodeKind, raw: &Xattrs) -> Result<Decoded> {
    decode(View::Overlay { namespace, fuse: false }, kind, raw)
}

/// Where the attributes of an entry come from.
pub(crate) trait RawXattrs {
    /// All names, each with a NUL after it.
    fn names(&self) -> io::Result<Vec<u8>>;

    /// The value of `name`, [`None`] where it is not there (any more).
    fn value(&self, name: &[u8]) -> io::Result<Option<Vec<u8>>>;
}

impl RawXattrs for Xattrs {
    fn names(&self) -> io::Result<Vec<u8>> {
        Ok(self.iter().flat_map(|(name, _)| [name, b"\0"].concat()).collect())
    }

    fn value(&self, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.get(name).map(<[u8]>::to_vec))
    }
}

/// How the attributes are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// As they are.
    Plain,
    /// As one overlay layer.
    Overlay {
        /// Where the markers are.
        namespace: Namespace,
        /// Whether the markers of fuse-overlayfs count too.
        fuse: bool,
    },
}

/// Reads all attributes of an entry of this kind.
pub(crate) fn decode(view: View, kind: &NodeKind, attributes: &impl RawXattrs) -> Result<Decoded> {
    let failed = |error: io::Errno| Error::io("read extended attributes", error);
    let names = attributes.names().map_err(failed)?;
    let mut decoded = Decoded::default();
    let mut raw = RawMarkers::default();
    for name in xattr::split(&names) {
        let shown = match place(view, name) {
            Place::Shown(shown) => shown,
            Place::Hidden => continue,
            // The value of a whiteout attribute is ignored; an origin's may be long and is of no use.
            Place::Whiteout => {
                decoded.whiteout = matches!(kind, NodeKind::File { size: 0 });
                continue;
            }
            Place::Marker(slot) => {
                *raw.slot(slot) = attributes.value(name).map_err(failed)?;
                continue;
            }
            Place::FuseOpaque => {
                raw.fuse_opaque |= attributes.value(name).map_err(failed)?.is_some_and(|v| v == b"y");
                continue;
            }
        };
        if let Some(value) = attributes.value(name).map_err(failed)? {
            decoded.xattrs.insert(shown, value);
        }
    }
    decoded.markers = raw.markers(kind)?;
    Ok(decoded)
}

/// Where one attribute goes.
enum Place<'a> {
    /// The merged file has it, under this name.
    Shown(Box<[u8]>),
    /// Overlayfs's own, and of no use to others: `origin`, `impure`, `uuid`, `upper`, `protattr`.
    Hidden,
    Whiteout,
    Marker(&'a [u8]),
    FuseOpaque,
}

fn place(view: View, name: &[u8]) -> Place<'_> {
    let View::Overlay { namespace, fuse } = view else { return Place::Shown(name.into()) };
    if let Some(suffix) = name.strip_prefix(namespace.prefix()) {
        return match suffix {
            b"whiteout" => Place::Whiteout,
            b"opaque" | b"redirect" | b"metacopy" | b"nlink" => Place::Marker(suffix),
            _ => match marker::unescape(namespace, name) {
                Some(shown) => Place::Shown(shown.into()),
                None => Place::Hidden,
            },
        };
    }
    if fuse {
        match name {
            b"user.fuseoverlayfs.opaque" | b"trusted.overlay.opaque" | b"user.overlay.opaque" => {
                return Place::FuseOpaque;
            }
            _ if name.starts_with(b"user.fuseoverlayfs.") => return Place::Hidden,
            _ => {}
        }
    }
    Place::Shown(name.into())
}

/// The values of the marker attributes.
#[derive(Default)]
struct RawMarkers {
    opaque: Option<Vec<u8>>,
    redirect: Option<Vec<u8>>,
    metacopy: Option<Vec<u8>>,
    nlink: Option<Vec<u8>>,
    fuse_opaque: bool,
}

impl RawMarkers {
    fn slot(&mut self, suffix: &[u8]) -> &mut Option<Vec<u8>> {
        match suffix {
            b"opaque" => &mut self.opaque,
            b"redirect" => &mut self.redirect,
            b"metacopy" => &mut self.metacopy,
            _ => &mut self.nlink,
        }
    }

    /// The markers that count on an entry of this kind.
    fn markers(&self, kind: &NodeKind) -> Result<Markers> {
        let mut markers = Markers::default();
        match kind {
            NodeKind::Directory => {
                // "x" only says that there may be whiteouts in attribute form inside.
                markers.opaque = self.fuse_opaque || self.opaque.as_deref() == Some(b"y");
                // Nothing below an opaque directory is looked at, so the kernel does not read its redirect.
                if !markers.opaque {
                    markers.redirect = self.redirect.as_deref().map(parse_redirect).transpose()?;
                }
            }
            NodeKind::File { .. } => {
                markers.nlink = self.nlink.as_deref().and_then(parse_nlink);
                if let Some(value) = &self.metacopy {
                    markers.metacopy = Some(parse_metacopy(value)?);
                    markers.redirect = self.redirect.as_deref().map(parse_redirect).transpose()?;
                }
            }
            _ => markers.nlink = self.nlink.as_deref().and_then(parse_nlink),
        }
        Ok(markers)
    }
}

/// `/a/b`, from the root of the lower layers, or a single name in the same directory.
///
/// The kernel takes the value as a C string. It refuses empty components, a relative value with a slash, and
/// `.` and `..`, which it never looks up.
fn parse_redirect(value: &[u8]) -> Result<Redirect> {
    let refused = || Error::new(ErrorKind::InvalidUpper, "unusable overlay redirect");
    let value = value.split(|b| *b == 0).next().unwrap_or_default();
    let (path, absolute) = match value.strip_prefix(b"/") {
        Some(path) => (path, true),
        None => (value, false),
    };
    if path.is_empty() || (!absolute && path.contains(&b'/')) {
        return Err(refused());
    }
    let path = LayerPath::new(path).map_err(|_| refused())?;
    Ok(if absolute { Redirect::Absolute(path.to_owned()) } else { Redirect::Sibling(path.as_bytes().into()) })
}

/// Nothing, or a header (version, length of the whole, flags, digest algorithm) and a fs-verity digest:
/// `struct ovl_metacopy` in the kernel's `fs/overlayfs/overlayfs.h`.
fn parse_metacopy(value: &[u8]) -> Result<Metacopy> {
    const SHA256: u8 = 1;
    let refused =
        |why: &str| Err(Error::new(ErrorKind::InvalidUpper, format!("unusable overlay metacopy: {why}")));
    let unknown = |what: String| {
        Err(Error::new(
            ErrorKind::UnsupportedMarker { marker: "metacopy" },
            format!("unknown {what} in overlay metacopy"),
        ))
    };
    let (version, len, algorithm, digest) = match value {
        [] => return Ok(Metacopy::default()),
        [version, len, _flags, algorithm, digest @ ..] => (*version, *len, *algorithm, digest),
        _ => return refused("shorter than its header"),
    };
    if version != 0 {
        return unknown(format!("version {version}"));
    }
    if usize::from(len) != value.len() {
        return refused("its length is another one than it says");
    }
    match (algorithm, digest) {
        (_, []) => Ok(Metacopy::default()),
        (SHA256, digest) => match digest.try_into() {
            Ok(digest) => Ok(Metacopy { digest: Some(digest) }),
            Err(_) => refused("its digest is no SHA-256"),
        },
        (other, _) => unknown(format!("digest algorithm {other}")),
    }
}

/// `L` or `U`, then a signed number. The kernel ignores other values, and goes by the inode's own count.
fn parse_nlink(value: &[u8]) -> Option<NlinkDelta> {
    let text = std::str::from_utf8(value.get(1..)?).ok()?;
    if !text.starts_with(['+', '-']) {
        return None;
    }
    let delta = text.strip_suffix('\n').unwrap_or(text).parse().ok()?;
    match value[0] {
        b'U' => Some(NlinkDelta::Upper(delta)),
        b'L' => Some(NlinkDelta::Lower(delta)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use layer_model::LayerPathBuf;

    use super::*;

    #[test]
    fn redirects_are_a_sibling_or_an_absolute_path() {
        let absolute = |p: &[u8]| Redirect::Absolute(LayerPathBuf::clean(p).unwrap());
        assert_eq!(parse_redirect(b"/a/b").unwrap(), absolute(b"a/b"));
        assert_eq!(parse_redirect(b"name").unwrap(), Redirect::Sibling((*b"name").into()));
        assert_eq!(parse_redirect(b"name\0/../x").unwrap(), Redirect::Sibling((*b"name").into()));
        let long = [b"/".as_slice(), &[b'n'; 300]].concat();
        assert!(parse_redirect(&long).is_ok(), "a name that cannot exist is only never found");
    }

    #[test]
    fn redirects_that_the_kernel_refuses_make_the_layer_invalid() {
        for bad in
            [&b""[..], b"/", b"//a", b"/a/", b"/a//b", b"a/b", b"../x", b"..", b".", b"/a/../b", b"\0a"]
        {
            let error = parse_redirect(bad).unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::InvalidUpper, "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn metacopy_is_empty_or_has_a_header_and_maybe_a_digest() {
        assert_eq!(parse_metacopy(b"").unwrap().digest, None);
        assert_eq!(parse_metacopy(&[0, 4, 0, 0]).unwrap().digest, None);
        let with_digest = [&[0, 36, 0, 1][..], &[7; 32]].concat();
        assert_eq!(parse_metacopy(&with_digest).unwrap().digest, Some([7; 32]));

        let kind = |value: &[u8]| parse_metacopy(value).unwrap_err().kind().clone();
        assert_eq!(kind(&[0, 3, 0]), ErrorKind::InvalidUpper);
        assert_eq!(kind(&[0, 5, 0, 0]), ErrorKind::InvalidUpper);
        assert_eq!(kind(&[&[0, 24, 0, 1][..], &[7; 20]].concat()), ErrorKind::InvalidUpper);
        let unsupported = ErrorKind::UnsupportedMarker { marker: "metacopy" };
        assert_eq!(kind(&[1, 4, 0, 0]), unsupported, "a version of the future");
        assert_eq!(kind(&[&[0, 68, 0, 2][..], &[7; 64]].concat()), unsupported, "SHA-512");
    }

    #[test]
    fn link_counts_are_relative_to_one_of_the_inodes() {
        assert_eq!(parse_nlink(b"U+1"), Some(NlinkDelta::Upper(1)));
        assert_eq!(parse_nlink(b"L-12"), Some(NlinkDelta::Lower(-12)));
        for ignored in [&b""[..], b"U", b"U1", b"X+1", b"U+", b"U+1x", b"L+99999999999", b"U+\xff"] {
            assert_eq!(parse_nlink(ignored), None, "{}", ignored.escape_ascii());
        }
    }

    #[test]
    fn markers_count_only_on_the_types_that_can_have_them() {
        let raw = RawMarkers {
            opaque: Some(b"y".into()),
            redirect: Some(b"../refused".into()),
            metacopy: None,
            nlink: Some(b"U+1".into()),
            fuse_opaque: false,
        };
        let opaque = raw.markers(&NodeKind::Directory).unwrap();
        assert!(opaque.opaque && opaque.redirect.is_none() && opaque.nlink.is_none());
        let file = raw.markers(&NodeKind::File { size: 1 }).unwrap();
        assert_eq!(file, Markers { nlink: Some(NlinkDelta::Upper(1)), ..Markers::default() });
        let merged = RawMarkers { opaque: Some(b"x".into()), ..raw };
        assert!(
            merged.markers(&NodeKind::Directory).is_err(),
            "an x is not opaque, so the redirect is looked at"
        );
    }
}
