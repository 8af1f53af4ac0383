//! Writing overlay markers: whiteouts, opaque directories, escaped names.
//!
//! Everything goes through the descriptor of the directory concerned (`O_PATH` is enough) and a single name
//! in it. Nothing is followed, and nothing that exists is replaced.

use std::os::fd::{AsFd, BorrowedFd};

use layer_model::{Error, ErrorKind, IoContext, Result};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, mknodat, openat, unlinkat},
    io::Errno,
};

use crate::{Namespace, xattr};

/// What stands between the prefix of a namespace and the name that an escaped attribute has in the merged
/// tree.
const ESCAPE: &[u8] = b"overlay.";

/// The two forms of a whiteout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhiteoutForm {
    /// A character device 0:0.
    CharDevice,
    /// An empty regular file with the attribute `whiteout`, in a directory that says that it has such files.
    /// KERNEL(6.7): older ones show an empty file.
    Xattr,
}

/// Whether an attribute of that name, on disk, is overlayfs's and not the file's: a marker or an escaped name.
pub fn is_marker_name(namespace: Namespace, name: &[u8]) -> bool {
    name.starts_with(namespace.prefix())
}

/// The name on disk of an attribute that the merged file has as `name`, where overlayfs would take that for
/// one of its own: `trusted.overlay.X` is kept as `trusted.overlay.overlay.X`. Every other name is [`None`]:
/// it is kept as it is.
pub fn escape(namespace: Namespace, name: &[u8]) -> Option<Vec<u8>> {
    let suffix = name.strip_prefix(namespace.prefix())?;
    Some([namespace.prefix(), ESCAPE, suffix].concat())
}

/// The name in the merged tree of an attribute that is escaped on disk, one level of it; [`None`] when it is
/// not.
pub fn unescape(namespace: Namespace, name: &[u8]) -> Option<Vec<u8>> {
    let suffix = name.strip_prefix(namespace.prefix())?.strip_prefix(ESCAPE)?;
    Some(namespace.name(suffix))
}

/// Makes a whiteout of `name` in the directory `parent`.
///
/// It is a character device 0:0, which every user may make since Linux 5.8. Where that is denied (an older
/// kernel, a security module), it is made in the other form, and `parent` is marked as having such.
///
/// # Errors
/// [`ErrorKind::Exists`] when the name is taken; [`ErrorKind::InvalidArgument`] when it is no name; those of
/// the operating system.
pub fn make_whiteout(parent: impl AsFd, name: &[u8], namespace: Namespace) -> Result<WhiteoutForm> {
    check_name(name)?;
    let made = mknodat(&parent, name, FileType::CharacterDevice, Mode::empty(), 0);
    match made {
        Ok(()) => Ok(WhiteoutForm::CharDevice),
        Err(Errno::PERM) => {
            make_xattr_whiteout(parent, name, namespace)?;
            Ok(WhiteoutForm::Xattr)
        }
        Err(error) => Err(Error::io("make whiteout", error).entry(name)),
    }
}

/// Makes a whiteout of `name` in the form of an empty file with an attribute.
///
/// # Errors
/// As [`make_whiteout`].
pub fn make_xattr_whiteout(parent: impl AsFd, name: &[u8], namespace: Namespace) -> Result<()> {
    check_name(name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Attributes of `user.*` can only be set on a file that may be written to; the mode is taken away after.
    let file = openat(&parent, name, flags, Mode::WUSR).during("make whiteout").map_err(|e| e.entry(name))?;
    let marked = xattr::set(file.as_fd(), &namespace.name(b"whiteout"), b"y")
        .and_then(|()| rustix::fs::fchmod(&file, Mode::empty()))
        .during("mark whiteout")
        .and_then(|()| announce_xattr_whiteouts(parent.as_fd(), namespace));
    marked.map_err(|error| {
        // The error is what counts; an empty file that stays is as wrong as none.
        let _ = unlinkat(&parent, name, AtFlags::empty());
        error.entry(name)
    })
}

/// Marks a directory as one that may have whiteouts in attribute form, unless it is opaque: then it needs
/// none to hide anything.
fn announce_xattr_whiteouts(dir: BorrowedFd<'_>, namespace: Namespace) -> Result<()> {
    let name = namespace.name(b"opaque");
    match xattr::get(dir, &name).during("read opaque marker")? {
        Some(value) if value == b"x" || value == b"y" => Ok(()),
        _ => xattr::set(dir, &name, b"x").during("mark directory of whiteouts"),
    }
}

/// Makes a directory opaque: it hides all that lower layers have below it.
///
/// # Errors
/// Those of the operating system.
pub fn set_opaque(dir: impl AsFd, namespace: Namespace) -> Result<()> {
    xattr::set(dir.as_fd(), &namespace.name(b"opaque"), b"y").during("mark directory opaque")
}

fn check_name(name: &[u8]) -> Result<()> {
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') || name.contains(&0) {
        return Err(Error::new(ErrorKind::InvalidArgument, "not a name for a whiteout").entry(name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_unescaped_by_one_level() {
        for (merged, disk) in [
            (&b"trusted.overlay.opaque"[..], &b"trusted.overlay.overlay.opaque"[..]),
            (b"trusted.overlay.overlay.opaque", b"trusted.overlay.overlay.overlay.opaque"),
            (b"trusted.overlay.", b"trusted.overlay.overlay."),
        ] {
            assert_eq!(escape(Namespace::Trusted, merged).unwrap(), disk);
            assert_eq!(unescape(Namespace::Trusted, disk).unwrap(), merged);
            assert_eq!(escape(Namespace::User, merged), None, "the other namespace is data");
        }
        for marker in [&b"user.overlay.opaque"[..], b"user.overlay.overlay", b"user.overlayX"] {
            assert_eq!(unescape(Namespace::User, marker), None);
        }
        assert!(is_marker_name(Namespace::User, b"user.overlay.overlay.x"));
        assert!(!is_marker_name(Namespace::User, b"user.overlayX"));
    }

    #[test]
    fn a_whiteout_needs_a_name() {
        let temp = tempfile::tempdir().unwrap();
        let dir = std::fs::File::open(temp.path()).unwrap();
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
            let error = make_whiteout(&dir, bad, Namespace::User).unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::InvalidArgument);
        }
    }
}
