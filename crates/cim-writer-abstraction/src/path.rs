//! Names inside a CIM: components joined by backslashes, compared without regard to case.

use std::{borrow::Borrow, fmt};

use layer_model::{Error, ErrorKind, LayerPath, LayerPathBuf, Result};

/// The longest component, in UTF-16 units.
pub const COMPONENT_MAX: usize = 255;
/// The longest path, in UTF-16 units.
pub const PATH_MAX: usize = 32_767;

/// A path inside a CIM, relative to its root, without a leading or trailing backslash. The root is the empty path.
///
/// Holds WTF-8: names of Windows may have unpaired surrogates. No component is empty, `.`, `..`, has a control
/// character or one of `< > : " | ? * / \`, or is longer than [`COMPONENT_MAX`].
///
/// Equality, order and hash are of the spelling. Windows takes two spellings that differ in case only for one path:
/// that is what [`CimPath::key`] is for.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct CimPath(Box<[u8]>);

/// What a path is looked up by: its UTF-16 units, upper-cased. Orders as a CIM's own tables do.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct PathKey(Box<[u16]>);

impl CimPath {
    /// The root.
    pub fn root() -> Self {
        Self::default()
    }

    /// Takes a path with backslashes; one leading backslash is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::PathEscape`] for `..` and drive letters, [`ErrorKind::InvalidArgument`] for everything else that
    /// Windows does not take as a name.
    pub fn new(path: impl AsRef<[u8]>) -> Result<Self> {
        let path = path.as_ref();
        let path = path.strip_prefix(b"\\").unwrap_or(path);
        if !path.is_empty() {
            check(path, |b| b == b'\\')?;
        }
        Ok(Self(path.into()))
    }

    /// The path of an entry of a layer, whose separators are slashes. Backslashes count as separators, too.
    ///
    /// # Errors
    /// As [`CimPath::new`].
    pub fn from_layer(path: LayerPath<'_>) -> Result<Self> {
        let mut bytes = path.as_bytes().to_vec();
        for byte in &mut bytes {
            if *byte == b'/' {
                *byte = b'\\';
            }
        }
        Self::new(bytes)
    }

    /// The path with slashes.
    ///
    /// # Panics
    /// Never: the rules for a CIM's paths are stricter than those for a layer's.
    pub fn to_layer(&self) -> LayerPathBuf {
        let slashed: Vec<u8> = self.0.iter().map(|b| if *b == b'\\' { b'/' } else { *b }).collect();
        LayerPath::new(&slashed).expect("a CIM path has clean components").to_owned()
    }

    /// The WTF-8 bytes, with backslashes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The UTF-16 units.
    pub fn to_utf16(&self) -> Vec<u16> {
        utf16(&self.0)
    }

    /// Takes UTF-16 units.
    ///
    /// # Errors
    /// As [`CimPath::new`].
    pub fn from_utf16(units: &[u16]) -> Result<Self> {
        Self::new(wtf8(units))
    }

    /// What the path is looked up by.
    pub fn key(&self) -> PathKey {
        PathKey(key_of(&self.0))
    }

    /// Whether Windows takes both for the same path.
    pub fn same(&self, other: &CimPath) -> bool {
        self.0 == other.0 || self.key() == other.key()
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The components, outermost first; none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> + Clone {
        self.0.split(|b| *b == b'\\').filter(|c| !c.is_empty())
    }

    /// The parent and the last component, [`None`] for the root.
    pub fn split_last(&self) -> Option<(CimPath, &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|b| *b == b'\\') {
            Some(at) => (Self(self.0[..at].into()), &self.0[at + 1..]),
            None => (Self::root(), &self.0),
        })
    }

    /// The directory that holds this path, [`None`] for the root.
    pub fn parent(&self) -> Option<CimPath> {
        self.split_last().map(|(parent, _)| parent)
    }

    /// This path with `name` below it.
    ///
    /// # Errors
    /// As [`CimPath::new`], and when `name` is more than one component.
    pub fn join(&self, name: impl AsRef<[u8]>) -> Result<CimPath> {
        let name = name.as_ref();
        if name.is_empty() || name.contains(&b'\\') {
            return Err(Error::new(ErrorKind::InvalidArgument, "not a single path component").entry(name));
        }
        if self.is_root() {
            return Self::new(name);
        }
        Self::new([&self.0, name].join(&b'\\'))
    }

    /// This path with `name` below it, which is a component of another path already.
    pub(crate) fn join_known(&self, name: &[u8]) -> CimPath {
        if self.is_root() { Self(name.into()) } else { Self([&self.0, name].join(&b'\\').into()) }
    }

    /// Whether this path is `other` or lies below it, for Windows.
    pub fn starts_with(&self, other: &CimPath) -> bool {
        self.key().starts_with(&other.key())
    }

    /// Components that end in a space or a dot: Windows itself cannot open them, backups carry them.
    pub fn has_untidy_component(&self) -> bool {
        self.components().any(|c| matches!(c.last(), Some(b' ' | b'.')))
    }
}

impl PathKey {
    /// The upper-cased units.
    pub fn units(&self) -> &[u16] {
        &self.0
    }

    /// Whether this is `other` or lies below it.
    pub fn starts_with(&self, other: &PathKey) -> bool {
        match self.0.strip_prefix(&*other.0) {
            Some(rest) => rest.is_empty() || other.0.is_empty() || rest[0] == u16::from(b'\\'),
            None => false,
        }
    }

    /// The key of the directory that holds this, [`None`] for the root.
    pub fn parent(&self) -> Option<PathKey> {
        if self.0.is_empty() {
            return None;
        }
        let end = self.0.iter().rposition(|unit| *unit == u16::from(b'\\')).unwrap_or(0);
        Some(Self(self.0[..end].into()))
    }
}

impl Borrow<[u16]> for PathKey {
    fn borrow(&self) -> &[u16] {
        &self.0
    }
}

impl AsRef<[u8]> for CimPath {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for CimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() { f.write_str("\\") } else { f.write_str(&String::from_utf8_lossy(&self.0)) }
    }
}

impl fmt::Debug for CimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// The name of a CIM, in its directory or its container.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CimName(Box<str>);

impl CimName {
    /// Takes a name of one component.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when it is empty or no file name of Windows.
    pub fn new(name: impl Into<Box<str>>) -> Result<Self> {
        let name = name.into();
        if name.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "the name of the CIM is empty"));
        }
        check(name.as_bytes(), |_| false)?;
        Ok(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CimName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of an alternate data stream, without its file's name and without `:$DATA`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName(Box<[u8]>);

impl StreamName {
    /// Takes `name` or `name:$DATA`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for another type than `$DATA`, an empty name, and what Windows does not take.
    pub fn new(name: impl AsRef<[u8]>) -> Result<Self> {
        let whole = name.as_ref();
        let name = match whole.iter().position(|b| *b == b':') {
            Some(at) if whole[at..].eq_ignore_ascii_case(b":$DATA") => &whole[..at],
            Some(_) => {
                return Err(
                    Error::new(ErrorKind::InvalidArgument, "a stream that is not of type $DATA").entry(whole)
                );
            }
            None => whole,
        };
        if name.is_empty() {
            return Err(
                Error::new(ErrorKind::InvalidArgument, "the name of the stream is empty").entry(whole)
            );
        }
        check(name, |_| false)?;
        Ok(Self(name.into()))
    }

    /// The WTF-8 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The UTF-16 units.
    pub fn to_utf16(&self) -> Vec<u16> {
        utf16(&self.0)
    }

    /// The upper-cased units, by which streams of a file are told apart.
    pub fn key(&self) -> PathKey {
        PathKey(key_of(&self.0))
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// The upper-case form of a UTF-16 unit: that of Unicode where it is a single unit, else the unit itself.
pub fn upcase(unit: u16) -> u16 {
    if unit < 0x80 {
        return u16::from((unit as u8).to_ascii_uppercase());
    }
    let Some(char) = char::from_u32(u32::from(unit)) else { return unit };
    let mut upper = char.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(one), None) => u16::try_from(u32::from(one)).unwrap_or(unit),
        _ => unit,
    }
}

/// What a name is looked up by: its UTF-16 units, upper-cased.
pub(crate) fn key_of(name: &[u8]) -> Box<[u16]> {
    if name.is_ascii() {
        return name.iter().map(|b| u16::from(b.to_ascii_uppercase())).collect();
    }
    utf16(name).into_iter().map(upcase).collect()
}

/// Checks the components of `path`, which `separates` says where to part.
fn check(path: &[u8], separates: impl Fn(u8) -> bool) -> Result<()> {
    let refuse = |kind, what: &str| Err(Error::new(kind, what).entry(path));
    if !is_wtf8(path) {
        return refuse(ErrorKind::InvalidArgument, "the name is no Unicode text");
    }
    if units(path) > PATH_MAX {
        return refuse(ErrorKind::InvalidArgument, "the path is longer than 32767 UTF-16 units");
    }
    if let [letter, b':', rest @ ..] = path
        && letter.is_ascii_alphabetic()
        && matches!(rest.first(), None | Some(b'\\'))
    {
        return refuse(ErrorKind::PathEscape, "a path with a drive letter");
    }
    for component in path.split(|b| separates(*b)) {
        match component {
            b"" => return refuse(ErrorKind::InvalidArgument, "a component of the path is empty"),
            b".." => return refuse(ErrorKind::PathEscape, "a component of the path is \"..\""),
            b"." => return refuse(ErrorKind::InvalidArgument, "a component of the path is \".\""),
            _ => {}
        }
        if let Some(bad) = component.iter().find(|b| **b < 0x20 || b"<>:\"|?*/\\".contains(b)) {
            let what = format!("a component of the path has the character {:?}", char::from(*bad));
            return refuse(ErrorKind::InvalidArgument, &what);
        }
        if units(component) > COMPONENT_MAX {
            return refuse(
                ErrorKind::InvalidArgument,
                "a component of the path is longer than 255 UTF-16 units",
            );
        }
    }
    Ok(())
}

/// How many UTF-16 units the WTF-8 text has.
fn units(text: &[u8]) -> usize {
    text.iter().map(|b| usize::from(*b & 0xc0 != 0x80) + usize::from(*b >= 0xf0)).sum()
}

/// Whether `text` is WTF-8: UTF-8, in which surrogates may occur, but no pairs of them.
pub(crate) fn is_wtf8(text: &[u8]) -> bool {
    str::from_utf8(text).is_ok() || wtf8(&utf16(text)) == text
}

/// The UTF-16 units of WTF-8 text. Bytes that are no text become U+FFFD.
pub(crate) fn utf16(text: &[u8]) -> Vec<u16> {
    let mut units = Vec::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let valid = match str::from_utf8(rest) {
            Ok(all) => all,
            Err(error) => str::from_utf8(&rest[..error.valid_up_to()]).unwrap_or_default(),
        };
        units.extend(valid.encode_utf16());
        rest = &rest[valid.len()..];
        match rest {
            [] => {}
            // A surrogate: U+D800 to U+DFFF as three bytes.
            [0xed, b @ 0xa0..=0xbf, c @ 0x80..=0xbf, after @ ..] => {
                units.push(0xd000 | u16::from(b & 0x3f) << 6 | u16::from(c & 0x3f));
                rest = after;
            }
            [_, after @ ..] => {
                units.push(0xfffd);
                rest = after;
            }
        }
    }
    units
}

/// The WTF-8 text of UTF-16 units.
pub(crate) fn wtf8(units: &[u16]) -> Vec<u8> {
    let mut text = Vec::with_capacity(units.len());
    for decoded in char::decode_utf16(units.iter().copied()) {
        match decoded {
            Ok(char) => text.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(error) => {
                let unit = error.unpaired_surrogate();
                text.extend_from_slice(&[0xed, 0x80 | (unit >> 6 & 0x3f) as u8, 0x80 | (unit & 0x3f) as u8]);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_windows_refuses_is_refused() {
        for (path, kind) in [
            ("a\\..\\b", ErrorKind::PathEscape),
            ("C:", ErrorKind::PathEscape),
            ("C:\\x", ErrorKind::PathEscape),
            ("a\\\\b", ErrorKind::InvalidArgument),
            ("a\\", ErrorKind::InvalidArgument),
            ("a/b", ErrorKind::InvalidArgument),
            ("a:b", ErrorKind::InvalidArgument),
            ("a?", ErrorKind::InvalidArgument),
            ("a\tb", ErrorKind::InvalidArgument),
        ] {
            assert_eq!(CimPath::new(path).unwrap_err().kind(), &kind, "{path}");
        }
        assert!(CimPath::new("x".repeat(255)).is_ok());
        assert!(CimPath::new("\u{1f980}".repeat(127)).is_ok());
        assert!(CimPath::new("\u{1f980}".repeat(128)).is_err());
        assert!(CimPath::new(b"a\xff").is_err());
        assert_eq!(CimPath::new("\\a\\b").unwrap().as_bytes(), b"a\\b");
    }

    #[test]
    fn case_does_not_count_for_keys() {
        let path = |text: &str| CimPath::new(text).unwrap();
        assert!(path("Files\\Größe").same(&path("FILES\\GRÖßE")));
        assert!(!path("a").same(&path("b")));
        assert!(path("files\\a\\b").starts_with(&path("Files\\A")));
        assert!(!path("files\\ab").starts_with(&path("Files\\A")));
    }

    #[test]
    fn unpaired_surrogates_survive() {
        let units = [0x61, 0xd800, 0x62];
        let path = CimPath::from_utf16(&units).unwrap();
        assert_eq!(path.to_utf16(), units);
        // A pair spelled as two surrogates is not WTF-8.
        assert!(CimPath::new(b"\xed\xa0\xbe\xed\xb6\x80").is_err());
    }

    #[test]
    fn streams_are_named_with_and_without_their_type() {
        assert_eq!(StreamName::new("x:$DATA").unwrap(), StreamName::new("x").unwrap());
        for bad in ["x:$INDEX_ALLOCATION", "", ":$DATA", "a\\b"] {
            assert!(StreamName::new(bad).is_err(), "{bad}");
        }
    }
}
