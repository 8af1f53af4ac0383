//! `tombstones.txt`: what a layer removes, one path a line, relative to `Files`.

use layer_model::{Error, ErrorKind, Result};

use crate::CimPath;

/// A byte order mark, as the file begins with in UTF-8, and the only version there is.
const FIRST_LINE: &[u8] = b"\xef\xbb\xbfVersion 1.0";
/// What the paths are relative to.
const FILES: &[u8] = b"Files";

/// Reads the list: paths of the layer, with `Files\` in front, in the order of the file.
///
/// # Errors
/// [`ErrorKind::InvalidArchive`] for another version, and for a line that is no path with a backslash in front; with the
/// offset of the line.
pub fn parse(text: &[u8]) -> Result<Vec<CimPath>> {
    let invalid = |what: &str, at: usize| {
        Error::new(ErrorKind::InvalidArchive, format!("tombstones.txt: {what}")).offset(at as u64)
    };
    let mut paths = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let end = line.strip_suffix(b"\n").unwrap_or(line);
        let end = end.strip_suffix(b"\r").unwrap_or(end);
        if at == 0 {
            if end != FIRST_LINE {
                return Err(invalid("its first line is not that of version 1.0", 0));
            }
        } else {
            let path = end.strip_prefix(b"\\").filter(|path| !path.is_empty());
            let path = path.ok_or_else(|| invalid("a line is no path with a backslash in front", at))?;
            let path = CimPath::new([FILES, path].join(&b'\\'));
            paths.push(path.map_err(|error| invalid(error.message(), at).cause(error))?);
        }
        at += line.len();
    }
    if at == 0 {
        return Err(invalid("it is empty", 0));
    }
    Ok(paths)
}

/// Writes the list.
///
/// # Errors
/// [`ErrorKind::InvalidArchive`] for a path that is not below `Files`, [`ErrorKind::Unrepresentable`] for one that is no
/// Unicode text.
pub fn to_bytes(paths: &[CimPath]) -> Result<Vec<u8>> {
    let mut text = [FIRST_LINE, b"\n"].concat();
    for path in paths {
        let mut components = path.components();
        let is_below = components.next().is_some_and(|top| top.eq_ignore_ascii_case(FILES));
        let rest: Vec<&[u8]> = components.collect();
        let refuse = |kind, what| Error::new(kind, what).entry(path.as_bytes());
        if !is_below || rest.is_empty() {
            return Err(refuse(ErrorKind::InvalidArchive, "only what is below Files can be removed"));
        }
        if str::from_utf8(path.as_bytes()).is_err() {
            return Err(refuse(ErrorKind::Unrepresentable, "the name is no Unicode text"));
        }
        text.push(b'\\');
        text.extend(rest.join(&b'\\'));
        text.push(b'\n');
    }
    Ok(text)
}
