//! Paths inside a layer: relative, clean, bytes.

use std::{cmp::Ordering, fmt};

use crate::{Error, ErrorKind, Result};

/// The longest component that a Linux file system takes (`NAME_MAX`).
pub const NAME_MAX: usize = 255;

/// A path inside a layer: components joined by `/`, relative to the layer's root.
///
/// No component is empty, `.` or `..`, and there is no NUL byte, so that a `LayerPath` cannot climb out of
/// a tree lexically. It may still run through a symbolic link; whoever resolves it guards against that. The
/// root itself is the empty path. Bytes need not be UTF-8: names in published layers are not.
///
/// The order is the order of a layer: by component, which is the same as bytewise with `/` below every
/// other byte, so that a directory's children follow it directly (`a/b` sorts before `a-b`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LayerPath<'a>(&'a [u8]);

/// An owned [`LayerPath`].
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct LayerPathBuf(Vec<u8>);

impl<'a> LayerPath<'a> {
    /// The root of a layer, the empty path.
    pub const ROOT: LayerPath<'static> = LayerPath(b"");

    /// Takes `bytes` as a path if they already are one.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when a component is empty, `.` or `..`, or a byte is NUL.
    /// [`LayerPathBuf::clean`] makes a path of anything that has no NUL.
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        if bytes.is_empty() || bytes.split(|b| *b == b'/').all(is_component) {
            Ok(Self(bytes))
        } else {
            Err(Error::new(ErrorKind::InvalidArgument, "not a clean relative path").entry(bytes))
        }
    }

    /// The bytes of the path, without a leading or trailing slash.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether this is the layer's root.
    pub fn is_root(self) -> bool {
        self.0.is_empty()
    }

    /// The components, outermost first; none for the root.
    pub fn components(self) -> impl DoubleEndedIterator<Item = &'a [u8]> + Clone {
        self.0.split(|b| *b == b'/').filter(|c| !c.is_empty())
    }

    /// The directory that holds this path, [`None`] for the root.
    pub fn parent(self) -> Option<LayerPath<'a>> {
        self.split_last().map(|(parent, _)| parent)
    }

    /// The last component, [`None`] for the root.
    pub fn file_name(self) -> Option<&'a [u8]> {
        self.split_last().map(|(_, name)| name)
    }

    /// The parent and the last component, [`None`] for the root.
    pub fn split_last(self) -> Option<(LayerPath<'a>, &'a [u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => (LayerPath(&self.0[..at]), &self.0[at + 1..]),
            None => (LayerPath::ROOT, self.0),
        })
    }

    /// Every directory above this path, outermost first, without the root and without itself.
    pub fn ancestors(self) -> impl Iterator<Item = LayerPath<'a>> {
        let bytes = self.0;
        bytes.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| LayerPath(&bytes[..at]))
    }

    /// Whether this path is `other` or lies below it. Everything lies below the root.
    pub fn starts_with(self, other: LayerPath<'_>) -> bool {
        match self.0.strip_prefix(other.0) {
            Some(rest) => rest.is_empty() || other.is_root() || rest[0] == b'/',
            None => false,
        }
    }

    /// How many components the path has.
    pub fn depth(self) -> usize {
        self.components().count()
    }

    /// This path with `name` below it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when `name` is not a single component.
    pub fn join(self, name: &[u8]) -> Result<LayerPathBuf> {
        let mut joined = LayerPathBuf(Vec::with_capacity(self.0.len() + 1 + name.len()));
        joined.0.extend_from_slice(self.0);
        joined.push(name)?;
        Ok(joined)
    }

    /// An owned copy.
    pub fn to_owned(self) -> LayerPathBuf {
        LayerPathBuf(self.0.to_vec())
    }

    /// The path as text for people: invalid UTF-8 and control characters are escaped, the root is `/`.
    pub fn display(self) -> impl fmt::Display + use<'a> {
        Printable(if self.is_root() { b"/" } else { self.0 })
    }
}

impl LayerPathBuf {
    /// The root, an empty path.
    pub fn root() -> Self {
        Self::default()
    }

    /// Makes a path of a name as archives hold it, lexically, as if the root were `/`: leading and doubled
    /// slashes and `.` vanish, `..` takes the component before it away and stays at the root there.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] when a byte is NUL.
    pub fn clean(name: &[u8]) -> Result<Self> {
        let mut path = Self(Vec::with_capacity(name.len()));
        path.set_clean(name)?;
        Ok(path)
    }

    /// Replaces the path by what [`LayerPathBuf::clean`] makes of `name`, in the memory that it has already: for
    /// readers that go through many names.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] when a byte is NUL; the path is the root then.
    pub fn set_clean(&mut self, name: &[u8]) -> Result<()> {
        self.0.clear();
        if name.contains(&0) {
            return Err(Error::new(ErrorKind::InvalidArchive, "name holds a NUL byte").entry(name));
        }
        for component in name.split(|b| *b == b'/') {
            match component {
                b"" | b"." => {}
                b".." => self.pop(),
                name => self.push_checked(name),
            }
        }
        Ok(())
    }

    /// Borrows the path.
    pub fn as_path(&self) -> LayerPath<'_> {
        LayerPath(&self.0)
    }

    /// Goes down to `name`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when `name` is not a single component.
    pub fn push(&mut self, name: &[u8]) -> Result<()> {
        if !is_component(name) || name.contains(&b'/') {
            return Err(Error::new(ErrorKind::InvalidArgument, "not a single path component").entry(name));
        }
        self.push_checked(name);
        Ok(())
    }

    /// Goes up to the parent; the root stays the root.
    pub fn pop(&mut self) {
        let keep = self.0.iter().rposition(|b| *b == b'/').unwrap_or(0);
        self.0.truncate(keep);
    }

    /// The bytes of the path.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn push_checked(&mut self, name: &[u8]) {
        if !self.0.is_empty() {
            self.0.push(b'/');
        }
        self.0.extend_from_slice(name);
    }
}

fn is_component(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&0)
}

impl Ord for LayerPath<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match self.0.iter().zip(other.0).find(|(a, b)| a != b) {
            // NUL never occurs in a path, so it can stand for the slash that sorts below all.
            Some((a, b)) => rank(*a).cmp(&rank(*b)),
            None => self.0.len().cmp(&other.0.len()),
        }
    }
}

fn rank(byte: u8) -> u8 {
    if byte == b'/' { 0 } else { byte }
}

impl PartialOrd for LayerPath<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for LayerPathBuf {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_path().cmp(&other.as_path())
    }
}

impl PartialOrd for LayerPathBuf {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<'a> From<&'a LayerPathBuf> for LayerPath<'a> {
    fn from(path: &'a LayerPathBuf) -> Self {
        path.as_path()
    }
}

impl fmt::Debug for LayerPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.display())
    }
}

impl fmt::Debug for LayerPathBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_path().fmt(f)
    }
}

/// Bytes as text for people: printable UTF-8 stays, everything else is escaped, so that a hostile name
/// cannot play with a terminal or a log.
#[derive(Clone, Copy)]
pub struct Printable<'a>(pub &'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() || c == '\\' {
                    write!(f, "{}", c.escape_default())?
                } else {
                    write!(f, "{c}")?
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn clean(name: &str) -> String {
        String::from_utf8(LayerPathBuf::clean(name.as_bytes()).unwrap().into_bytes()).unwrap()
    }

    #[test]
    fn archive_names_are_cleaned_and_clamped_at_the_root() {
        for (name, want) in [
            ("/abs", "abs"),
            ("../up", "up"),
            ("a/../../up2", "up2"),
            ("./", ""),
            ("", ""),
            ("a//b/./c/", "a/b/c"),
            ("..", ""),
            ("dne/../.wh.etc", ".wh.etc"),
        ] {
            assert_eq!(clean(name), want, "{name}");
        }
        assert_eq!(LayerPathBuf::clean(b"a\0b").unwrap_err().kind(), &ErrorKind::InvalidArchive);
    }

    #[test]
    fn only_clean_bytes_are_a_path() {
        for bad in ["/a", "a/", "a//b", ".", "..", "a/../b", "a\0"] {
            assert!(LayerPath::new(bad.as_bytes()).is_err(), "{bad:?}");
        }
        for good in ["", "a", "a/b", "...", "a/..b"] {
            assert!(LayerPath::new(good.as_bytes()).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn parents_come_before_children_and_children_before_later_siblings() {
        let sorted = ["", "a", "a/b", "a/b/c", "a/b-", "a-b", "a.b", "foo", "foo/1", "foo-1"];
        for pair in sorted.windows(2) {
            let [a, b] = [pair[0], pair[1]].map(|p| LayerPath::new(p.as_bytes()).unwrap());
            assert!(a < b, "{a:?} {b:?}");
        }
    }

    #[test]
    fn ancestors_are_listed_outermost_first() {
        let path = LayerPath::new(b"a/b/c").unwrap();
        let all: Vec<_> = path.ancestors().map(|p| p.as_bytes().to_vec()).collect();
        assert_eq!(all, [b"a".to_vec(), b"a/b".to_vec()]);
        assert!(path.starts_with(LayerPath::new(b"a/b").unwrap()));
        assert!(!LayerPath::new(b"a/bc").unwrap().starts_with(LayerPath::new(b"a/b").unwrap()));
    }

    proptest! {
        #[test]
        fn order_is_the_order_of_component_lists(a in "[a-c./-]{0,8}", b in "[a-c./-]{0,8}") {
            let (a, b) = (LayerPathBuf::clean(a.as_bytes()).unwrap(), LayerPathBuf::clean(b.as_bytes()).unwrap());
            let list = |p: &LayerPathBuf| p.as_path().components().map(<[u8]>::to_vec).collect::<Vec<_>>();
            prop_assert_eq!(a.cmp(&b), list(&a).cmp(&list(&b)));
        }

        #[test]
        fn cleaning_is_idempotent(name in proptest::collection::vec(1u8.., 0..40)) {
            let once = LayerPathBuf::clean(&name).unwrap();
            prop_assert_eq!(LayerPath::new(once.as_path().as_bytes()).unwrap(), once.as_path());
            prop_assert_eq!(&LayerPathBuf::clean(once.as_path().as_bytes()).unwrap(), &once);
        }
    }
}
