//! What is different in a layer of Windows: names, and the records that stand for metadata.

use layer_model::{
    Error, ErrorKind, LayerPathBuf, Monitor, Result, Warning, WarningKind, Xattrs, change::OPAQUE_WHITEOUT,
    windows,
};

use super::{AUFS_PREFIX, invalid};
use crate::{RawEntry, pax};

/// Makes a path of a name, in which backslashes separate, too. `./` at the front and doubled separators vanish, and
/// so does a separator at the end; the root comes of `.` and `./`.
///
/// # Errors
/// [`ErrorKind::PathEscape`] for a name that is absolute, has a drive letter or a component `..`;
/// [`ErrorKind::InvalidArchive`] for an empty one, and for a NUL or a `.` inside of it.
pub(super) fn set_path(path: &mut LayerPathBuf, name: &[u8]) -> Result<()> {
    let escape = |what: &str| Err(Error::new(ErrorKind::PathEscape, what));
    // Emptied first: an error leaves no path of an earlier entry behind.
    path.set_clean(b"")?;
    match name {
        [] => return Err(invalid("a name is empty")),
        [b'/' | b'\\', ..] => return escape("a name is absolute"),
        [letter, b':'] | [letter, b':', b'/' | b'\\', ..] if letter.is_ascii_alphabetic() => {
            return escape("a name has a drive letter");
        }
        _ => {}
    }
    for component in name.split(|b| matches!(b, b'/' | b'\\')) {
        match component {
            b"" => {}
            b"." if path.as_path().is_root() => {}
            b"." => return Err(invalid("a component of a name is \".\"")),
            b".." => return escape("a component of a name is \"..\""),
            component if component.contains(&0) => return Err(invalid("a name holds a NUL byte")),
            component => path.push(component)?,
        }
    }
    Ok(())
}

/// Whether the path is, or is in, something whose name begins like AUFS's own: those mean nothing to Windows, at any
/// depth.
pub(super) fn is_ignored(path: &LayerPathBuf) -> bool {
    let path = path.as_path();
    let mut components = path.components();
    let last =
        components.next_back().is_some_and(|name| name != OPAQUE_WHITEOUT && name.starts_with(AUFS_PREFIX));
    last || components.any(|name| name.starts_with(AUFS_PREFIX))
}

/// Collects the records that only layers of Windows have; those without a value are none. Attributes of other
/// systems are left out with a warning, as nothing of Windows could hold them.
pub(super) fn records(
    raw: &RawEntry,
    path: &LayerPathBuf,
    xattrs: &mut Xattrs,
    monitor: &dyn Monitor,
) -> Result<()> {
    xattrs.clear();
    let mut records: Vec<(&[u8], &[u8])> = Vec::new();
    for (key, value) in raw.pax.iter() {
        if windows::is_windows_record(key) {
            records.push((key, value));
        } else if key.starts_with(pax::XATTR_PREFIX) {
            monitor.warn(&Warning::new(WarningKind::XattrDropped, path.as_path()).detail(key));
        }
    }
    // Sorted first, so that every insertion goes to the end; and the last record of a key counts, also an empty one.
    records.sort_by_key(|(key, _)| *key);
    for chunk in records.chunk_by(|(a, _), (b, _)| a == b) {
        let (key, value) = chunk[chunk.len() - 1];
        if key == windows::EXTENDED_ATTRIBUTE_PREFIX {
            return Err(invalid("extended attribute without a name"));
        }
        if !value.is_empty() {
            xattrs.insert(key, value);
        }
    }
    if let (Some(ctime), None) = (raw.ctime, xattrs.get(windows::CHANGE_TIME)) {
        xattrs.insert(windows::CHANGE_TIME, ctime.to_string().into_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &[u8]) -> Result<String> {
        let mut path = LayerPathBuf::clean(b"left/over").unwrap();
        set_path(&mut path, name)?;
        Ok(String::from_utf8(path.into_bytes()).unwrap())
    }

    #[test]
    fn names_are_normalised() {
        for (name, expected) in [
            (&b"Files/a"[..], "Files/a"),
            (b"Files\\a\\b", "Files/a/b"),
            (b"./././Files//a/", "Files/a"),
            (b".\\.\\Files\\\\a\\", "Files/a"),
            (b".", ""),
            (b"./", ""),
            (b".//", ""),
            (b"Files/a:b", "Files/a:b"),
            (b"f:stream", "f:stream"),
            (b"...", "..."),
        ] {
            assert_eq!(path(name).unwrap(), expected, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for (name, kind) in [
            (&b"/a"[..], ErrorKind::PathEscape),
            (b"\\a", ErrorKind::PathEscape),
            (b"\\\\server\\share", ErrorKind::PathEscape),
            (b"C:", ErrorKind::PathEscape),
            (b"c:\\a", ErrorKind::PathEscape),
            (b"C:/a", ErrorKind::PathEscape),
            (b"..", ErrorKind::PathEscape),
            (b"a/../b", ErrorKind::PathEscape),
            (b"a\\..\\b", ErrorKind::PathEscape),
            (b"", ErrorKind::InvalidArchive),
            (b"a/./b", ErrorKind::InvalidArchive),
            (b"a\0b", ErrorKind::InvalidArchive),
        ] {
            assert_eq!(path(name).unwrap_err().kind(), &kind, "{}", name.escape_ascii());
        }
    }
}
