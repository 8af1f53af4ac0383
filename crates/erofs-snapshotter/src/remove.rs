//! Removes trees that containers left: of any depth, and never across a mount point.

use std::{ffi::OsStr, os::fd::OwnedFd, path::Path};

use layer_model::Result;
use rustix::{
    fs::{AtFlags, FileType, Mode, RenameFlags, chmodat, fchmod, renameat_with, statat, unlinkat},
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
            if !unlocked(dir, &name, || unlink(dir, &name))? {
                continue;
            }
            match unlinkat(dir, &*name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) => move_up(dir, &name)?,
                // What is no directory could not be removed above.
                Err(Errno::NOTDIR) => return Err(Errno::PERM),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Removes what is no directory; `true` for a directory, which stays.
fn unlink(dir: &OwnedFd, name: &OsStr) -> Result<bool, Errno> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(false),
        // The second is what POSIX has for directories.
        Err(Errno::ISDIR | Errno::PERM) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Removes the files in a directory, and moves its directories beside it.
fn move_up(dir: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    let below = match unlocked(dir, name, || open_below(dir, name)) {
        Ok(below) => below,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in sys::names(&below)? {
        let up = || -> Result<(), Errno> {
            if !unlink(&below, &entry)? {
                return Ok(());
            }
            let flags = RenameFlags::NOREPLACE;
            match renameat_with(&below, &*entry, dir, sys::unique(), flags) {
                // The next round finds it again.
                Err(Errno::NOENT | Errno::EXIST) => Ok(()),
                done => done,
            }
        };
        unlocked(&below, &entry, up)?;
    }
    match unlinkat(dir, name, AtFlags::REMOVEDIR) {
        // Whatever is there still is for the next round.
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Does something to `name` in `dir`, and again where their owner has locked himself out of one of them: whoever may
/// remove them may change that.
fn unlocked<T>(dir: &OwnedFd, name: &OsStr, action: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    let done = action();
    if !matches!(done, Err(Errno::ACCESS)) {
        return done;
    }
    fchmod(dir, Mode::RWXU)?;
    let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if sys::kind(&stat) == FileType::Directory {
        // Moving a directory changes what is in it.
        chmodat(dir, name, Mode::RWXU, AtFlags::empty())?;
    }
    action()
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

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn trees_of_any_depth_and_mode_are_removed_and_links_are_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("kept")).unwrap();
        fs::write(temp.path().join("kept/f"), "x").unwrap();
        let top = temp.path().join("top");
        fs::create_dir_all(top.join("locked/in/side")).unwrap();
        fs::write(top.join("locked/f"), "x").unwrap();
        std::os::unix::fs::symlink("../../kept", top.join("locked/link")).unwrap();
        for locked in ["locked/in/side", "locked/in", "locked"] {
            fs::set_permissions(top.join(locked), fs::Permissions::from_mode(0o000)).unwrap();
        }
        // Deeper than a path can say.
        let mut dir = sys::open_dir(&top).unwrap();
        for _ in 0..1200 {
            rustix::fs::mkdirat(&dir, "deep-down", Mode::RWXU).unwrap();
            rustix::fs::symlinkat("/etc", &dir, "etc").unwrap();
            dir = open_below(&dir, OsStr::new("deep-down")).unwrap();
        }
        let parent = sys::open_dir(temp.path()).unwrap();
        remove_dir(&parent, "top", &top).unwrap();
        assert!(!top.exists() && temp.path().join("kept/f").exists());
        remove_dir(&parent, "top", &top).unwrap();
    }
}
