//! Directories by descriptor, and names in them that are never followed.

use std::{
    ffi::OsStr,
    fs::File,
    hash::{BuildHasher, RandomState},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use layer_model::{Error, Result};
use rustix::{
    fs::{
        AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat, flock, fsync, openat,
        renameat, renameat_with, statat, unlinkat,
    },
    io::Errno,
};

pub(crate) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// `NONBLOCK` so that a pipe in the place of a file does not hang the open.
const FILE: OFlags = OFlags::NONBLOCK.union(OFlags::CLOEXEC);

/// The error of doing something to a path.
pub(crate) fn failed(operation: &str, path: &Path, error: impl Into<std::io::Error>) -> Error {
    named(Error::io(operation, error), path)
}

/// The error with the path that it is about.
pub(crate) fn named(error: Error, path: &Path) -> Error {
    error.entry(path.as_os_str().as_bytes())
}

/// Opens a directory of the caller's: links on the way there are followed.
pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = DIRECTORY.difference(OFlags::NOFOLLOW);
    openat(CWD, path, flags, Mode::empty()).map_err(|error| failed("open directory", path, error))
}

/// What is at a name, not followed.
pub(crate) fn stat(dir: impl AsFd, name: &str) -> Result<Option<Stat>, Errno> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Opens a file for reading; `follow` says whether it may be a link.
pub(crate) fn open_file(dir: impl AsFd, name: &str, follow: bool) -> Result<File, Errno> {
    let nofollow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
    openat(dir, name, FILE | OFlags::RDONLY | nofollow, Mode::empty()).map(File::from)
}

/// A number that nobody else has, for a name.
pub(crate) fn unique() -> String {
    // The keys of the hasher are random for each call.
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
}

/// Makes a file of a name that nobody else has, and locks it: see [`remove_unlocked`].
pub(crate) fn create_unique(dir: impl AsFd, prefix: &str) -> Result<(String, File), Errno> {
    loop {
        let name = format!("{prefix}{}", unique());
        let flags = FILE | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = match openat(&dir, &*name, flags, Mode::from_raw_mode(0o644)) {
            Ok(fd) => File::from(fd),
            Err(Errno::EXIST) => continue,
            Err(error) => return Err(error),
        };
        // Between the two calls somebody who cleans up may have come: then it is gone.
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if locked && stat(&dir, &name)?.is_some() {
            return Ok((name, file));
        }
    }
}

/// Removes the files of this prefix that nobody holds: what was left by processes that were killed.
pub(crate) fn remove_unlocked(dir: impl AsFd, prefix: &str) -> Result<(), Errno> {
    for name in names(&dir)? {
        let Some(text) = name.to_str().filter(|text| text.starts_with(prefix)) else { continue };
        // What cannot be opened or locked belongs to somebody else.
        let Ok(file) = open_file(&dir, text, false) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            unlink(&dir, text)?;
        }
    }
    Ok(())
}

/// Removes a file, if it is there.
pub(crate) fn unlink(dir: impl AsFd, name: &str) -> Result<(), Errno> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Renames to where nothing is.
pub(crate) fn rename_new(dir: impl AsFd, name: &str, new: &str) -> Result<(), Errno> {
    match renameat_with(&dir, name, &dir, new, RenameFlags::NOREPLACE) {
        // KERNEL: file systems without the flag (NFS, some FUSE) say so.
        Err(Errno::INVAL | Errno::NOSYS) if stat(&dir, new)?.is_none() => renameat(&dir, name, &dir, new),
        Err(Errno::INVAL | Errno::NOSYS) => Err(Errno::EXIST),
        result => result,
    }
}

/// Makes the names in a directory survive a power failure.
pub(crate) fn sync(dir: impl AsFd) -> Result<(), Errno> {
    match fsync(dir) {
        // File systems that cannot do that for directories say so.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The names in a directory, sorted.
pub(crate) fn names(dir: impl AsFd) -> Result<Vec<std::ffi::OsString>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}
