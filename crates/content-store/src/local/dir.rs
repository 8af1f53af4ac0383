//! Directories by descriptor: everything the store touches is one name below one of them.
//!
//! A layout may come from anywhere, with symbolic links or pipes planted where directories and files belong.
//! Nothing here follows a link, opens anything but directories and regular files, or uses a path of more
//! than one component; and a store that is renamed while it is open goes on working.

use std::{
    ffi::OsString,
    fs::File,
    hash::{BuildHasher, RandomState},
    io::{Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use layer_model::{Error, ErrorKind, Result};
use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, RawMode, Stat, Timespec, Timestamps},
    io::Errno,
};

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// `NONBLOCK` so that a pipe in the place of a file does not hang the open.
const FILE: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// An open directory.
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    /// Where it was when it was opened; for messages only.
    path: PathBuf,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    /// Opens the directory at a path, following links: it is the caller's.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = DIRECTORY.difference(OFlags::NOFOLLOW);
        match fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path: path.to_owned() }),
            Err(error) => Err(Error::io(format!("open directory {}", path.display()), error)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The error of doing something to `name` here.
    pub(super) fn error(&self, doing: &str, name: &str, error: impl Into<std::io::Error>) -> Error {
        Error::io(format!("{doing} {}", self.path.join(name).display()), error)
    }

    /// The directory below, if it is there.
    pub(super) fn find_dir(&self, name: &str) -> Result<Option<Self>> {
        match fs::openat(&self.fd, name, DIRECTORY, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { fd, path: self.path.join(name) })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.error("open directory", name, error)),
        }
    }

    /// The directory below, made (durably) if it is not there.
    pub(super) fn make_dir(&self, name: &str) -> Result<Self> {
        loop {
            if let Some(dir) = self.find_dir(name)? {
                return Ok(dir);
            }
            if self.create_dir(name)? {
                self.sync()?;
            }
        }
    }

    /// Creates a directory; `false` when something is there.
    pub(super) fn create_dir(&self, name: &str) -> Result<bool> {
        match fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o777)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(self.error("create directory", name, error)),
        }
    }

    /// Opens a regular file for reading, if it is there.
    pub(super) fn find_file(&self, name: &str) -> Result<Option<File>> {
        match fs::openat(&self.fd, name, FILE | OFlags::RDONLY, Mode::empty()) {
            Ok(fd) => self.regular(name, fd.into()).map(Some),
            Err(Errno::NOENT) => Ok(None),
            // What O_NOFOLLOW says of a symbolic link, and O_NONBLOCK of a socket.
            Err(Errno::LOOP | Errno::NXIO) => Err(self.not_regular(name)),
            Err(error) => Err(self.error("open", name, error)),
        }
    }

    /// Opens a regular file for reading and writing, made if it is not there.
    pub(super) fn make_file(&self, name: &str) -> Result<File> {
        let open = || {
            let flags = FILE | OFlags::RDWR | OFlags::CREATE;
            fs::openat(&self.fd, name, flags, Mode::from_raw_mode(0o666))
        };
        let fd = match open() {
            // A commit that was interrupted has taken the write permission away.
            Err(Errno::ACCESS) if self.stat(name)?.is_some_and(|stat| is_regular(&stat)) => {
                fs::chmodat(&self.fd, name, Mode::from_raw_mode(0o600), AtFlags::empty())
                    .and_then(|()| open())
                    .map_err(|error| self.error("open", name, error))?
            }
            Ok(fd) => fd,
            Err(Errno::LOOP | Errno::NXIO) => return Err(self.not_regular(name)),
            Err(error) => return Err(self.error("open", name, error)),
        };
        self.regular(name, fd.into())
    }

    fn regular(&self, name: &str, file: File) -> Result<File> {
        let stat = fs::fstat(&file).map_err(|error| self.error("stat", name, error))?;
        if is_regular(&stat) { Ok(file) } else { Err(self.not_regular(name)) }
    }

    fn not_regular(&self, name: &str) -> Error {
        let message = format!("{} is not a regular file", self.path.join(name).display());
        Error::new(ErrorKind::FailedPrecondition, message)
    }

    /// The whole of a small file, if it is there. Above `limit` bytes it is refused.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.find_file(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| self.error("read", name, error))?;
        if bytes.len() as u64 > limit {
            let message = format!("{} has more than {limit} bytes", self.path.join(name).display());
            return Err(Error::new(ErrorKind::LimitExceeded { limit: "max_document" }, message));
        }
        Ok(Some(bytes))
    }

    /// Writes a small file that may be lost or torn by a power failure, and whose reader minds that.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = self.make_file(name)?;
        file.set_len(0).and_then(|()| file.write_all(bytes)).map_err(|error| self.error("write", name, error))
    }

    /// Puts a small file in place, whole and durable: whoever looks sees the old bytes or the new ones.
    ///
    /// It is prepared in `staging`, which is on the same file system and holds nothing that is missed.
    pub(super) fn replace(&self, staging: &Dir, name: &str, bytes: &[u8]) -> Result<()> {
        let temporary = staging.stage(bytes)?;
        if let Err(error) = fs::renameat(&staging.fd, &temporary, &self.fd, name) {
            // The error that counts is the first; what stays in staging is swept later.
            let _ = staging.remove(&temporary);
            return Err(self.error("replace", name, error));
        }
        self.sync()
    }

    /// As [`replace`](Self::replace), but only where nothing is there; `false` when something is.
    pub(super) fn place(&self, staging: &Dir, name: &str, bytes: &[u8]) -> Result<bool> {
        let temporary = staging.stage(bytes)?;
        let placed = staging.rename_new(&temporary, self, name);
        if !matches!(placed, Ok(true)) {
            let _ = staging.remove(&temporary);
        }
        if placed? {
            self.sync()?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Writes a durable file of a name that nobody else has.
    fn stage(&self, bytes: &[u8]) -> Result<String> {
        let name = loop {
            // The keys of the hasher are random for each call.
            let name = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
            let flags = FILE | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            match fs::openat(&self.fd, &name, flags, Mode::from_raw_mode(0o666)) {
                Ok(fd) => {
                    let mut file = File::from(fd);
                    let written = file.write_all(bytes).and_then(|()| file.sync_all());
                    if let Err(error) = written {
                        let _ = self.remove(&name);
                        return Err(self.error("write", &name, error));
                    }
                    break name;
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(self.error("create", &name, error)),
            }
        };
        Ok(name)
    }

    /// Moves a file to where nothing is; `false` when something is there, and then nothing moves.
    pub(super) fn rename_new(&self, name: &str, to: &Dir, new: &str) -> Result<bool> {
        #[cfg(target_os = "linux")]
        match fs::renameat_with(&self.fd, name, &to.fd, new, fs::RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(true),
            Err(Errno::EXIST) => return Ok(false),
            // KERNEL: file systems without the flag (NFS, some FUSE) say so.
            Err(Errno::INVAL | Errno::NOSYS) => {}
            Err(error) => return Err(self.error("rename", name, error)),
        }
        match fs::linkat(&self.fd, name, &to.fd, new, AtFlags::empty()) {
            Ok(()) => {
                self.remove(name)?;
                Ok(true)
            }
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(self.error("link", name, error)),
        }
    }

    /// Removes a file; `false` when it was not there.
    pub(super) fn remove(&self, name: &str) -> Result<bool> {
        match fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(self.error("remove", name, error)),
        }
    }

    /// Removes a directory that holds only files, with them.
    pub(super) fn remove_dir(&self, name: &str) -> Result<()> {
        if let Some(dir) = self.find_dir(name)? {
            for file in dir.names()? {
                dir.remove(&file)?;
            }
        }
        match fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.error("remove directory", name, error)),
        }
    }

    /// What is at a name, not following a link.
    pub(super) fn stat(&self, name: &str) -> Result<Option<Stat>> {
        match fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.error("stat", name, error)),
        }
    }

    /// Whether `dir` is what is at `name` now.
    pub(super) fn still_is(&self, name: &str, dir: &Dir) -> Result<bool> {
        let opened = fs::fstat(&dir.fd).map_err(|error| self.error("stat", name, error))?;
        Ok(self.stat(name)?.is_some_and(|stat| (stat.st_dev, stat.st_ino) == (opened.st_dev, opened.st_ino)))
    }

    /// The names below, sorted. Names that are not UTF-8 come with their bad bytes replaced: no file of the
    /// store has one, and they are only ever reported.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let error = |error| self.error("list", "", error);
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.fd).map_err(error)? {
            let entry = entry.map_err(error)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                let name = OsString::from_vec(name.to_vec());
                names.push(name.into_string().unwrap_or_else(|name| name.to_string_lossy().into_owned()));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Moves the access time of a file to now, and with it the time of its last change.
    pub(super) fn touch(&self, name: &str) -> Result<()> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: fs::UTIME_NOW },
            last_modification: Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT },
        };
        fs::utimensat(&self.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| self.error("set the access time of", name, error))
    }

    /// Makes the names below survive a power failure.
    pub(super) fn sync(&self) -> Result<()> {
        match fs::fsync(&self.fd) {
            // File systems that cannot do that for directories say INVAL.
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(error) => Err(self.error("sync", "", error)),
        }
    }
}

pub(super) fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode as RawMode) == FileType::RegularFile
}

pub(super) fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode as RawMode) == FileType::Directory
}

#[expect(clippy::unnecessary_cast, reason = "the fields have other types on other systems")]
mod times {
    use super::*;

    fn time(secs: i64, nanos: i64) -> SystemTime {
        let since = Duration::new(secs.try_into().unwrap_or_default(), nanos.try_into().unwrap_or_default());
        UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
    }

    pub(in super::super) fn modified(stat: &Stat) -> SystemTime {
        time(stat.st_mtime as i64, stat.st_mtime_nsec as i64)
    }

    pub(in super::super) fn accessed(stat: &Stat) -> SystemTime {
        time(stat.st_atime as i64, stat.st_atime_nsec as i64)
    }

    pub(in super::super) fn changed(stat: &Stat) -> SystemTime {
        time(stat.st_ctime as i64, stat.st_ctime_nsec as i64)
    }
}

pub(super) use times::{accessed, changed, modified};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_opened_that_is_not_a_file_of_ours() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/tmp", root.path().join("dirlink")).unwrap();
        std::fs::create_dir(root.path().join("dir")).unwrap();
        fs::mknodat(fs::CWD, root.path().join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .unwrap();
        for name in ["link", "dir", "pipe"] {
            let error = dir.find_file(name).unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::FailedPrecondition, "{name}: {error:?}");
            assert!(dir.make_file(name).is_err(), "{name}");
        }
        assert!(dir.find_dir("dirlink").is_err());
        assert!(dir.make_dir("dirlink").is_err());
    }

    #[test]
    fn a_rename_never_replaces() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        std::fs::write(root.path().join("a"), "a").unwrap();
        std::fs::write(root.path().join("b"), "b").unwrap();
        assert!(!dir.rename_new("a", &dir, "b").unwrap());
        assert!(dir.rename_new("a", &dir, "c").unwrap());
        assert_eq!(std::fs::read(root.path().join("b")).unwrap(), b"b");
        assert_eq!(dir.names().unwrap(), ["b", "c"]);
    }
}
