//! Removes trees that containers left: of any depth, and never across a mount point.

use std::{ffi::OsStr, os::fd::OwnedFd, path::Path};

use layer_model::Result;
use rustix::{
    fs::{AtFlags, Mode, OFlags, chmodat, openat, renameat_with, unlinkat},
    io::Errno,
};

use crate::{
    sys::{self, failed},
    usage::open_below,
};

/// Removes a directory with all that is in it, if it is there.
pub(crate) fn remove_dir(parent: &OwnedFd, name: &str, path: &Path) -> Result<()> {
    let removed = || -> Result<(), Errno> {
        let dir = match open_below(parent, OsStr::new(name)) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(()),
            // No directory of ours then.
            Err(Errno::NOTDIR | Errno::LOOP) => return sys::unlink(parent, name),
            Err(error) => return Err(error),
        };
        empty(&dir)?;
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
        }
    };
    removed().map_err(|error| failed("remove directory", path, error))
}

/// Removes all that is in a directory.
///
/// Directories in directories are moved up before their turn comes: no depth takes more than two descriptors,
/// and no path gets too long. Whoever is interrupted leaves a directory that is still to be emptied.
pub(crate) fn empty(dir: &OwnedFd) -> Result<(), Errno> {
    loop {
        let names = sys::names(dir)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            match unlinkat(dir, &*name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                // The second is what POSIX has for directories.
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(error) => return Err(error),
            }
            match unlinkat(dir, &*name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                // What is no directory could not be removed above.
                Err(Errno::NOTDIR) => return Err(Errno::PERM),
                Err(error) => return Err(error),
            }
            move_up(dir, &name)?;
        }
    }
}

/// Removes the files in a directory, and moves its directories beside it.
fn move_up(dir: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    let below = match open_below(dir, name) {
        Ok(below) => below,
        // Its owner may have locked himself out; whoever may remove it may change that.
        Err(Errno::ACCESS) => {
            chmodat(dir, name, Mode::RWXU, AtFlags::empty())?;
            open_below(dir, name)?
        }
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut writable = false;
    for entry in sys::names(&below)? {
        loop {
            let done = match unlinkat(&below, &*entry, AtFlags::empty()) {
                Err(Errno::ISDIR | Errno::PERM) => {
                    renameat_with(&below, &*entry, dir, sys::unique(), rustix::fs::RenameFlags::NOREPLACE)
                }
                done => done,
            };
            match done {
                Ok(()) | Err(Errno::NOENT) => break,
                Err(Errno::EXIST) => {}
                Err(Errno::ACCESS) if !writable => {
                    writable = true;
                    rustix::fs::fchmod(&below, Mode::RWXU)?;
                    // Moving a directory changes its entry for the one above it.
                    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    if openat(&below, &*entry, flags, Mode::empty()).is_ok() {
                        chmodat(&below, &*entry, Mode::RWXU, AtFlags::empty())?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
    match unlinkat(dir, name, AtFlags::REMOVEDIR) {
        // Whatever came meanwhile is for the next round.
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Empties the directory `name` in `parent`, if it is there, and nothing is mounted on it.
pub(crate) fn empty_dir(parent: &OwnedFd, name: &str, path: &Path) -> Result<()> {
    let emptied = || match open_below(parent, OsStr::new(name)) {
        Ok(dir) => empty(&dir),
        Err(Errno::NOENT | Errno::XDEV) => Ok(()),
        Err(error) => Err(error),
    };
    emptied().map_err(|error| failed("empty directory", path, error))
}
