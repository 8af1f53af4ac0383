//! A file system that is being configured.

use std::{
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use layer_model::{Error, ErrorKind, Result};
use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
        fsconfig_set_string, fsmount, fsopen,
    },
};

use crate::{
    detached::Detached,
    error::{at, fd_name},
};

/// The longest value that fsconfig(2) takes.
const LONGEST_VALUE: usize = 255;

/// A file system context of fsopen(2). `place` is what errors name.
pub(crate) struct Context<'a> {
    context: OwnedFd,
    file_system: &'static str,
    place: &'a Path,
    /// Descriptors that values name.
    held: Vec<OwnedFd>,
}

impl<'a> Context<'a> {
    pub(crate) fn open(file_system: &'static str, place: &'a Path) -> Result<Self> {
        let context = fsopen(file_system, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| match errno {
            Errno::NODEV => Error::new(
                ErrorKind::NotSupported,
                format!("the kernel does not know the file system {file_system}"),
            )
            .entry(place.as_os_str().as_bytes())
            .cause(std::io::Error::from(errno)),
            errno => at(place, format!("open the file system {file_system}"), errno),
        })?;
        Ok(Self { context, file_system, place, held: Vec::new() })
    }

    /// Sets an option, `name` or `name=value`.
    pub(crate) fn option(&self, option: &str) -> Result<()> {
        let context = self.context.as_fd();
        let set = match option.split_once('=') {
            Some((name, value)) => fsconfig_set_string(context, name, value),
            None => fsconfig_set_flag(context, option),
        };
        set.map_err(|errno| self.error(self.place, &format!("set the mount option {option}"), errno))
    }

    /// Sets an option whose value is a path.
    pub(crate) fn path(&mut self, name: &str, path: &Path) -> Result<()> {
        let value = self.name_of(path)?;
        fsconfig_set_string(self.context.as_fd(), name, &value)
            .map_err(|errno| self.error(path, &format!("set {name}"), errno))
    }

    /// Sets an option whose value is a descriptor.
    pub(crate) fn descriptor(&self, name: &str, fd: BorrowedFd<'_>) -> Result<()> {
        fsconfig_set_fd(self.context.as_fd(), name, fd)
            .map_err(|errno| self.error(self.place, &format!("set {name}"), errno))
    }

    /// Makes the file system, and a mount of it that is attached nowhere.
    pub(crate) fn mount(self, attributes: MountAttrFlags) -> Result<Detached> {
        fsconfig_create(self.context.as_fd())
            .and_then(|()| fsmount(self.context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes))
            .map(Detached::new)
            .map_err(|errno| self.error(self.place, &format!("mount {}", self.file_system), errno))
    }

    /// The absolute path, or the name of a descriptor where the path is too long to be a value, or has a backslash,
    /// which some options take for the beginning of an escape and others do not.
    fn name_of(&mut self, path: &Path) -> Result<PathBuf> {
        // Links stay: to resolve the name of a descriptor of a detached mount would lose the mount.
        let absolute = std::path::absolute(path).map_err(|e| at(path, "make absolute", e))?;
        let bytes = absolute.as_os_str().as_bytes();
        if bytes.len() <= LONGEST_VALUE && !bytes.contains(&b'\\') {
            return Ok(absolute);
        }
        let fd = rustix::fs::openat(CWD, &absolute, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| at(path, "open", e))?;
        let name = fd_name(&fd);
        self.held.push(fd);
        Ok(name)
    }

    /// The error, with what the kernel explains in the context's log.
    fn error(&self, path: &Path, operation: &str, errno: Errno) -> Error {
        let mut said = String::new();
        let mut line = [0; 512];
        // A read gives one message, "e " in front of errors; the log has at most eight.
        while let Ok(len @ 1..) = rustix::io::read(&self.context, &mut line) {
            let line = String::from_utf8_lossy(&line[..len]);
            if let Some(text) = line.strip_prefix("e ") {
                said.push_str(if said.is_empty() { " (" } else { "; " });
                said.push_str(text.trim_end());
            }
        }
        if !said.is_empty() {
            said.push(')');
        }
        at(path, format!("{operation}{said}"), errno)
    }
}
