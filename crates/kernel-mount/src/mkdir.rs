//! Directories that mounts want to be there (`X-containerd.mkdir.path`).

use std::path::Path;

use layer_model::Result;
use layer_mounts::managed::Mkdir;
use rustix::{
    fs::{CWD, Gid, Mode, OFlags, Uid, fchmod, fchown, mkdirat},
    io::Errno,
};

use crate::error::at;

/// Makes the directory, with mode and owner. One that is there already is left as it is, as it may be in use; a link in
/// its place is refused.
pub(crate) fn make(wanted: &Mkdir) -> Result<()> {
    let path = Path::new(&wanted.path);
    let mode = Mode::from_raw_mode(wanted.mode);
    let made = match mkdirat(CWD, path, mode) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(at(path, "make directory", error)),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| at(path, "open directory", e))?;
    if made {
        if let Some((user, group)) = wanted.owner {
            fchown(&dir, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
                .map_err(|e| at(path, "set the owner", e))?;
        }
        // The umask was in between, and a change of the owner takes bits away.
        fchmod(&dir, mode).map_err(|e| at(path, "set the mode", e))?;
    }
    Ok(())
}
