//! Makes a directory out of sight, and shows it whole or not at all.

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use layer_model::{Error, ErrorKind, IoContext, LayerPath, Result};
use rustix::{
    fs::{
        AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RawDir, flock, fstat, fsync, mkdirat, openat,
        renameat, statat, syncfs,
    },
    io::Errno,
};

use crate::{
    fs::{
        kernel::{DIRECTORY, Kernel},
        remove,
    },
    options::KernelFeatures,
};

/// What the names of directories in the making start with.
///
/// A directory of such a name that nobody holds locked was left by a process that was killed.
/// The next apply into the same folder removes it.
pub const STAGING_PREFIX: &str = ".layerkit-apply-";

/// How often another name is tried when somebody is faster.
const ATTEMPTS: u32 = 64;

/// A directory in the making: a temporary sibling of the target. Dropped unpublished, it is removed.
#[derive(Debug)]
pub(crate) struct Stage {
    target: PathBuf,
    /// The folder of the target; the work goes on in it if it is renamed.
    folder: OwnedFd,
    name: Vec<u8>,
    temporary: Vec<u8>,
    /// Locked while the work goes on, so that others leave it alone.
    root: OwnedFd,
    published: bool,
}

/// The folder of `target`, open, and the name in it.
pub(crate) fn split(target: &Path) -> Result<(OwnedFd, Vec<u8>)> {
    let at = |e: Error| e.entry(target.as_os_str().as_bytes());
    let Some(name) = target.file_name() else {
        return Err(at(Error::new(ErrorKind::InvalidArgument, "the target has no name")));
    };
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder =
        openat(CWD, folder, flags, Mode::empty()).during("open the folder of the target").map_err(at)?;
    Ok((folder, name.as_bytes().to_vec()))
}

/// Whether the open directory holds nothing.
pub(crate) fn is_empty(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    let listing = openat(dir, c".", DIRECTORY, Mode::empty())?;
    let mut buffer = Vec::with_capacity(1024);
    let mut entries = RawDir::new(listing, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Stage {
    /// Begins to make `target`, which has to be missing or an empty directory.
    pub(crate) fn begin(target: &Path, kernel: &mut Kernel) -> Result<Self> {
        let (folder, name) = split(target)?;
        let at = |e: Error| e.entry(target.as_os_str().as_bytes());
        match statat(&folder, &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Err(error) => return Err(at(Error::io("stat the target", error))),
            Ok(stat) => {
                let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                let empty = || {
                    let dir = openat(&folder, &*name, DIRECTORY, Mode::empty())?;
                    is_empty(dir.as_fd())
                };
                if !is_dir || !empty().during("list the target").map_err(at)? {
                    return Err(at(Error::new(ErrorKind::Exists, "the target is not an empty directory")));
                }
            }
        }
        remove_left_over(&folder, kernel).map_err(at)?;
        let (temporary, root) = make(&folder).map_err(at)?;
        Ok(Self { target: target.to_owned(), folder, name, temporary, root, published: false })
    }

    /// The directory in the making.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Gives the directory its name. With `sync` it and its name are on disk then.
    pub(crate) fn publish(mut self, sync: bool) -> Result<()> {
        let renamed = || -> Result<()> {
            if sync {
                syncfs(&self.root).during("write the target to disk")?;
            }
            match renameat(&self.folder, &*self.temporary, &self.folder, &*self.name) {
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {
                    return Err(Error::new(
                        ErrorKind::Exists,
                        "the target is not an empty directory any more",
                    ));
                }
                result => result.during("give the target its name")?,
            }
            if sync {
                fsync(&self.folder).during("write the folder of the target to disk")?;
            }
            Ok(())
        };
        renamed().map_err(|e| e.entry(self.target.as_os_str().as_bytes()))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.published {
            // The kernel features are found out anew: what is left here the next apply removes.
            let mut kernel = Kernel::probe(KernelFeatures::default());
            let _ = remove::remove(&mut kernel, self.folder.as_fd(), &self.temporary, LayerPath::ROOT);
        }
    }
}

/// A directory in the making, for what is more than one layer: a temporary sibling of the target, which gets the
/// target's name when it is complete, and is removed when it is dropped before that.
#[derive(Debug)]
pub struct StagedDir(Stage);

impl StagedDir {
    /// Begins to make `target`, which has to be missing or an empty directory. Only this user may look into it.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`] when something is there; those of the operating system.
    pub fn begin(target: &Path) -> Result<Self> {
        Stage::begin(target, &mut Kernel::probe(KernelFeatures::default())).map(Self)
    }

    /// Where it is until it is published.
    pub fn path(&self) -> PathBuf {
        self.0.target.with_file_name(OsStr::from_bytes(&self.0.temporary))
    }

    /// Gives the directory its name. With `sync` it and its name are on disk then.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`] when something has come to be there meanwhile; those of the operating system.
    pub fn publish(self, sync: bool) -> Result<()> {
        self.0.publish(sync)
    }
}

/// Makes a directory that is open to nobody else, and locks it.
fn make(folder: &OwnedFd) -> Result<(Vec<u8>, OwnedFd)> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_nanos() as u64);
    for attempt in 0..ATTEMPTS {
        let name =
            format!("{STAGING_PREFIX}{:x}-{:x}", std::process::id(), seed.wrapping_add(attempt.into()));
        match mkdirat(folder, &*name, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => continue,
            Err(error) => return Err(Error::io("make a directory beside the target", error)),
        }
        // Somebody who cleans up may have come between the two calls: then it is locked, or gone, or both.
        let Ok(root) = openat(folder, &*name, DIRECTORY, Mode::empty()) else { continue };
        if flock(&root, FlockOperation::NonBlockingLockExclusive).is_ok()
            && is_named(folder, name.as_bytes(), &root)
        {
            return Ok((name.into_bytes(), root));
        }
    }
    Err(Error::new(ErrorKind::Unavailable, "no directory beside the target could be had"))
}

fn is_named(folder: &OwnedFd, name: &[u8], dir: &OwnedFd) -> bool {
    let named = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    let open = fstat(dir);
    matches!((named, open), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// Removes what applies left that were killed.
fn remove_left_over(folder: &OwnedFd, kernel: &mut Kernel) -> Result<()> {
    let listing = openat(folder, c".", DIRECTORY, Mode::empty()).during("list the folder of the target")?;
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut entries = RawDir::new(listing, buffer.spare_capacity_mut());
    let mut found: Vec<Box<[u8]>> = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.during("list the folder of the target")?;
        if entry.file_name().to_bytes().starts_with(STAGING_PREFIX.as_bytes()) {
            found.push(entry.file_name().to_bytes().into());
        }
    }
    for name in found {
        // Whatever cannot be opened, locked or removed belongs to somebody else.
        let Ok(dir) = openat(folder, &*name, DIRECTORY, Mode::empty()) else { continue };
        if flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok() && is_named(folder, &name, &dir) {
            let _ = remove::remove(kernel, folder.as_fd(), &name, LayerPath::ROOT);
        }
    }
    Ok(())
}
