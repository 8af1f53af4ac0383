//! Takes trees away, whatever is in them.
//!
//! By descriptor, never by a longer name than one component, without following anything, without a call stack
//! that grows with the tree, with a bounded number of descriptors, and never across a mount point.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use layer_model::{Error, ErrorKind, LayerPath, LayerPathBuf, Result};
use rustix::{
    fs::{AtFlags, FileType, Mode, RawDir, fchmod, fstat, futimens, openat, statat, unlinkat},
    io::Errno,
};

use crate::fs::{
    dirs::{mtime, timestamps},
    kernel::{DIRECTORY, Kernel},
};

/// How many levels keep a descriptor; above them `..` leads back, checked by identity.
const OPEN_LEVELS: usize = 32;

/// Room for about a thousand names.
const LISTING: usize = 32 * 1024;

/// What becomes of one object of a tree that is swept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes, with all below it.
    Remove,
    /// It stays, with all below it.
    Keep,
    /// The directory stays, what is in it is asked about.
    KeepDirectory,
    /// What is in the directory is asked about; if all of it goes, the directory goes too.
    RemoveIfEmpty,
}

/// Says what becomes of each object, by its path and whether it is a directory.
type Decide<'a> = &'a mut dyn FnMut(LayerPath<'_>, bool) -> Fate;

/// Removes `name` in `dir`, with all below it. `path` is for messages.
///
/// # Errors
/// `EBUSY` at a mount point; those of the operating system. What was removed until then is gone.
pub(crate) fn remove(
    kernel: &mut Kernel,
    dir: BorrowedFd<'_>,
    name: &[u8],
    path: LayerPath<'_>,
) -> Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        // A directory: EISDIR on Linux, EPERM elsewhere and for what is immutable.
        Err(Errno::ISDIR | Errno::PERM) => {
            let is_dir = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
            if !is_dir {
                return Err(failed("remove", Errno::PERM, path));
            }
            match unlinkat(dir, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(error) => return Err(failed("remove directory", error, path)),
            }
            let dev = fstat(dir).map_err(|e| failed("stat directory", e, path))?.st_dev;
            let top = open_level(kernel, dir, name, dev, path)?;
            Sweep::new(kernel, top, dev, path)?.run(None)?;
            unlinkat(dir, name, AtFlags::REMOVEDIR).map_err(|e| failed("remove directory", e, path))
        }
        Err(error) => Err(failed("remove", error, path)),
    }
}

/// Removes what `decide` says of all that is in `dir`, which itself stays. `path` is that of the directory.
///
/// Directories that stay keep their modification time.
///
/// # Errors
/// As [`remove`].
pub(crate) fn sweep(
    kernel: &mut Kernel,
    dir: BorrowedFd<'_>,
    path: LayerPath<'_>,
    decide: Decide<'_>,
) -> Result<()> {
    let dev = fstat(dir).map_err(|e| failed("stat directory", e, path))?.st_dev;
    // A descriptor of its own, as reading a directory moves its position.
    let top = openat(dir, c".", DIRECTORY, Mode::empty()).map_err(|e| failed("open directory", e, path))?;
    Sweep::new(kernel, top, dev, path)?.run(Some(decide))
}

fn failed(operation: &str, error: Errno, path: LayerPath<'_>) -> Error {
    match error {
        Errno::XDEV | Errno::BUSY => {
            let kind = ErrorKind::Io(Some(Errno::BUSY.raw_os_error()));
            Error::new(kind, "a mount point is in the way").at(path)
        }
        error => Error::io(operation, error).at(path),
    }
}

/// Opens the directory `name` to empty it, also if its mode keeps its owner out.
fn open_level(
    kernel: &mut Kernel,
    dir: BorrowedFd<'_>,
    name: &[u8],
    dev: u64,
    path: LayerPath<'_>,
) -> Result<OwnedFd> {
    let opened = match kernel.open_same_mount(dir, name, dev) {
        Err(Errno::ACCESS) => kernel.force_open(dir, name).map(|(fd, _)| fd),
        opened => opened,
    };
    opened.map_err(|e| failed("open directory", e, path))
}

struct Sweep<'k> {
    kernel: &'k mut Kernel,
    dev: u64,
    levels: Vec<Level>,
    /// The path of the last level.
    path: LayerPathBuf,
}

/// One directory on the way down.
struct Level {
    /// Only the last [`OPEN_LEVELS`] are open.
    fd: Option<OwnedFd>,
    ino: u64,
    /// Directories in here that are still to be swept.
    todo: Vec<(Box<[u8]>, Fate)>,
    /// What becomes of this directory.
    fate: Fate,
    /// Whether this directory was read to its end.
    listed: bool,
    /// The time to set again if the directory stays.
    mtime: layer_model::Timestamp,
    touched: bool,
    /// The mode to set again if the directory stays, where it kept its owner out.
    mode: Option<u32>,
}

impl<'k> Sweep<'k> {
    fn new(kernel: &'k mut Kernel, top: OwnedFd, dev: u64, path: LayerPath<'_>) -> Result<Self> {
        let mut sweep = Self { kernel, dev, levels: Vec::new(), path: path.to_owned() };
        sweep.enter(top, Fate::KeepDirectory)?;
        Ok(sweep)
    }

    fn enter(&mut self, fd: OwnedFd, fate: Fate) -> Result<()> {
        let stat = fstat(&fd).map_err(|e| failed("stat directory", e, self.path.as_path()))?;
        let mut mode = None;
        if !self.kernel.ignores_modes && stat.st_uid == self.kernel.uid && stat.st_mode & 0o700 != 0o700 {
            let open = Mode::from_raw_mode((stat.st_mode & 0o7777) | 0o700);
            fchmod(&fd, open).map_err(|e| failed("change mode of directory", e, self.path.as_path()))?;
            mode = Some(stat.st_mode & 0o7777);
        }
        if let Some(level) = self.levels.len().checked_sub(OPEN_LEVELS).and_then(|at| self.levels.get_mut(at))
        {
            level.fd = None;
        }
        self.levels.push(Level {
            fd: Some(fd),
            ino: stat.st_ino,
            todo: Vec::new(),
            fate,
            listed: false,
            mtime: mtime(&stat),
            touched: false,
            mode,
        });
        Ok(())
    }

    /// Sweeps all levels. Without `decide` everything goes.
    fn run(mut self, mut decide: Option<Decide<'_>>) -> Result<()> {
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(()) };
            if let Some((name, fate)) = level.todo.pop() {
                self.path.push(&name)?;
                let fd = level.fd.as_ref().expect("the last level is open");
                let fd = open_level(self.kernel, fd.as_fd(), &name, self.dev, self.path.as_path())?;
                self.enter(fd, fate)?;
                continue;
            }
            if !level.listed {
                let asked = level.fate != Fate::Remove && decide.is_some();
                let chosen = if asked { decide.as_mut() } else { None };
                self.list(chosen)?;
                continue;
            }
            if self.levels.len() == 1 {
                return self.settle();
            }
            self.leave()?;
        }
    }

    /// Reads the last level, removes files, and keeps directories for later.
    ///
    /// When everything goes it is read in pieces, again and again from its start, until nothing is left: no list
    /// of names needs to be held. When something may stay the names are read at once.
    fn list(&mut self, mut decide: Option<&mut Decide<'_>>) -> Result<()> {
        let path = &mut self.path;
        let level = self.levels.last_mut().expect("a sweep has a level until it ends");
        let fd = level.fd.as_ref().expect("the last level is open");
        rustix::fs::seek(fd, rustix::fs::SeekFrom::Start(0))
            .map_err(|e| failed("read directory", e, path.as_path()))?;
        let mut names: Vec<(Box<[u8]>, FileType)> = Vec::new();
        let mut buffer = Vec::with_capacity(LISTING);
        let mut entries = RawDir::new(fd, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|e| failed("read directory", e, path.as_path()))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push((entry.file_name().to_bytes().into(), entry.file_type()));
            }
            if decide.is_none() && entries.is_buffer_empty() && !names.is_empty() {
                break;
            }
        }
        level.listed = names.is_empty() || decide.is_some();
        for (name, file_type) in names {
            path.push(&name)?;
            let is_dir = match file_type {
                FileType::Unknown => statat(fd, &*name, AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
                known => known == FileType::Directory,
            };
            let fate = decide.as_mut().map_or(Fate::Remove, |decide| decide(path.as_path(), is_dir));
            match fate {
                Fate::Keep => {}
                fate if is_dir => level.todo.push((name, fate)),
                Fate::KeepDirectory => {}
                Fate::Remove | Fate::RemoveIfEmpty => {
                    level.touched = true;
                    match unlinkat(fd, &*name, AtFlags::empty()) {
                        Ok(()) | Err(Errno::NOENT) => {}
                        Err(error) => return Err(failed("remove", error, path.as_path())),
                    }
                }
            }
            path.pop();
        }
        Ok(())
    }

    /// Goes back to the level above, and removes the one that was left if it shall go.
    fn leave(&mut self) -> Result<()> {
        let name = self.path.as_path().file_name().unwrap_or_default().to_vec();
        self.reopen_parent()?;
        let fate = self.levels[self.levels.len() - 1].fate;
        if fate == Fate::KeepDirectory {
            self.settle()?;
            self.levels.pop();
            self.path.pop();
            return Ok(());
        }
        let above = &self.levels[self.levels.len() - 2];
        let above = above.fd.as_ref().expect("the parent was opened again");
        match unlinkat(above, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {
                let at = self.levels.len() - 2;
                self.levels[at].touched = true;
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) if fate == Fate::RemoveIfEmpty => self.settle()?,
            Err(error) => return Err(failed("remove directory", error, self.path.as_path())),
        }
        self.levels.pop();
        self.path.pop();
        Ok(())
    }

    /// Sets time and mode of the last level again, which stays.
    fn settle(&mut self) -> Result<()> {
        let Some(level) = self.levels.last() else { return Ok(()) };
        let fd = level.fd.as_ref().expect("the last level is open");
        let mode = level.mode.map_or(Ok(()), |mode| fchmod(fd, Mode::from_raw_mode(mode)));
        let time = if level.touched { futimens(fd, &timestamps(None, level.mtime)) } else { Ok(()) };
        mode.and(time).map_err(|e| failed("set mode and times of directory", e, self.path.as_path()))?;
        if self.levels.len() == 1 {
            self.levels.clear();
        }
        Ok(())
    }

    fn reopen_parent(&mut self) -> Result<()> {
        let [.., above, last] = &mut self.levels[..] else { return Ok(()) };
        if above.fd.is_some() {
            return Ok(());
        }
        let last = last.fd.as_ref().expect("the last level is open");
        let opened = openat(last, c"..", DIRECTORY, Mode::empty()).and_then(|fd| Ok((fstat(&fd)?, fd)));
        let (stat, fd) = opened.map_err(|e| failed("open directory", e, self.path.as_path()))?;
        if (stat.st_dev, stat.st_ino) != (self.dev, above.ino) {
            let kind = ErrorKind::FileChanged;
            return Err(Error::new(kind, "moved while it was removed").at(self.path.as_path()));
        }
        above.fd = Some(fd);
        Ok(())
    }
}
