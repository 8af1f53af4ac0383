//! Makes the objects of the target.

use std::os::fd::{BorrowedFd, OwnedFd};

use layer_model::{Content, EntryKind, Error, Result};
use rustix::{
    fs::{FileType, Mode, OFlags, makedev, mkdirat, mknodat, openat, symlinkat},
    io::Errno,
};

use super::{Attrs, Cleared, Engine, Form, Placed};
use crate::{data::write_content, fs::dirs::DirId};

/// How often what is in the way is removed. More than once means that somebody else makes it again.
const ATTEMPTS: usize = 8;

const NEW_FILE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl<F: Form> Engine<'_, F> {
    /// Makes what is no directory at `name` in `dir`; what is there goes.
    ///
    /// Nothing is looked at before: almost always there is nothing, and the kernel says so if not.
    pub(crate) fn make<T>(
        &mut self,
        dir: DirId,
        name: &[u8],
        operation: &str,
        mut make: impl FnMut(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T> {
        let uid = self.kernel.uid;
        for _ in 0..ATTEMPTS {
            match self.dirs.work(dir, uid, &mut make) {
                Ok(made) => {
                    if !self.aliases.is_empty() {
                        let path = self.dirs.join(dir, name)?;
                        self.made_name(path.as_path());
                    }
                    F::placed(self, dir, name)?;
                    return Ok(made);
                }
                Err(Errno::EXIST) => {
                    F::clear(self, dir, name, false)?;
                }
                Err(error) => return Err(Error::io(operation, error)),
            }
        }
        Err(Error::io(operation, Errno::EXIST))
    }

    pub(crate) fn file(
        &mut self,
        dir: DirId,
        name: &[u8],
        attrs: &Attrs<'_>,
        mut content: Content<'_>,
    ) -> Result<()> {
        self.budget.content(&mut content)?;
        // Who is bound by modes needs to be allowed to write to set attributes.
        let owner_writes = if self.kernel.ignores_modes || !attrs.has_xattrs() { 0 } else { 0o600 };
        let mode = (attrs.mode & 0o777) | owner_writes;
        let file: OwnedFd =
            self.make(dir, name, "create file", |fd| openat(fd, name, NEW_FILE, Mode::from_raw_mode(mode)))?;
        write_content(&file, content, &self.kernel, self.monitor)?;
        let path = self.dirs.join(dir, name)?;
        self.describe_file(&file, dir, path.as_path(), attrs, mode)
    }

    pub(crate) fn symlink(
        &mut self,
        dir: DirId,
        name: &[u8],
        attrs: &Attrs<'_>,
        target: &[u8],
    ) -> Result<()> {
        self.make(dir, name, "create symbolic link", |fd| symlinkat(target, fd, name))?;
        let path = self.dirs.join(dir, name)?;
        self.describe_special(dir, name, path.as_path(), attrs, None)
    }

    /// A device or a FIFO.
    pub(crate) fn special(
        &mut self,
        dir: DirId,
        name: &[u8],
        attrs: &Attrs<'_>,
        kind: &EntryKind<'_>,
    ) -> Result<()> {
        let (file_type, device) = match kind {
            EntryKind::CharDevice(device) => (FileType::CharacterDevice, makedev(device.major, device.minor)),
            EntryKind::BlockDevice(device) => (FileType::BlockDevice, makedev(device.major, device.minor)),
            _ => (FileType::Fifo, 0),
        };
        let mode = attrs.mode & 0o777;
        self.make(dir, name, "create special file", |fd| {
            mknodat(fd, name, file_type, Mode::from_raw_mode(mode), device)
        })?;
        let path = self.dirs.join(dir, name)?;
        self.describe_special(dir, name, path.as_path(), attrs, Some(mode))
    }

    pub(crate) fn directory(&mut self, dir: DirId, name: &[u8], attrs: &Attrs<'_>) -> Result<()> {
        let path = self.dirs.join(dir, name)?;
        self.budget.path(path.as_path())?;
        let uid = self.kernel.uid;
        let owner_enters = if self.kernel.ignores_modes { 0 } else { 0o700 };
        let mode = Mode::from_raw_mode((attrs.mode & 0o1777) | owner_enters);
        let mut opaque = false;
        let mut merge = false;
        for attempt in 0.. {
            match self.dirs.work(dir, uid, |fd| mkdirat(fd, name, mode)) {
                Ok(()) => break,
                Err(Errno::EXIST) if attempt < ATTEMPTS => match F::clear(self, dir, name, true)? {
                    Cleared::Merge => {
                        merge = true;
                        break;
                    }
                    Cleared::Gone { opaque: hid } => opaque |= hid,
                },
                Err(error) => return Err(Error::io("make directory", error)),
            }
        }
        let id = if merge {
            match self.dirs.find(path.as_path()) {
                Some(open) => open,
                None => self.open_child(dir, name)?,
            }
        } else {
            self.made_name(path.as_path());
            self.open_child(dir, name)?
        };
        self.describe_dir(id, attrs, !merge)?;
        F::placed_dir(self, id, if merge { Placed::Merged } else { Placed::Made { opaque } })
    }
}
