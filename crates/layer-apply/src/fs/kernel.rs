//! What this process and this kernel can do, and the calls that depend on it.

use std::{
    ffi::CString,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, ResolveFlags, fstat, open, openat, openat2},
    io::Errno,
    process::{getegid, geteuid},
    thread::{CapabilitySet, capabilities},
};

use crate::{fs::raw, options::KernelFeatures};

/// Opens a directory to work in. `NONBLOCK` and `NOCTTY` have no effect on one, and keep anything else that
/// might be there from doing something.
pub(crate) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A handle that opens nothing: it has no side effects on devices and FIFOs.
pub(crate) const HANDLE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The facts about the process are read once, when an apply begins: they are expected to stay.
#[derive(Debug)]
pub(crate) struct Kernel {
    features: KernelFeatures,
    /// The bits that the kernel takes away from a new file's mode.
    pub(crate) umask: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) may_chown: bool,
    pub(crate) may_mknod: bool,
    /// Permissions of files do not count for this process.
    pub(crate) ignores_modes: bool,
    pub(crate) may_set_security: bool,
    pub(crate) may_set_trusted: bool,
    pub(crate) in_user_namespace: bool,
}

impl Kernel {
    pub(crate) fn probe(features: KernelFeatures) -> Self {
        let held = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
        let in_user_namespace = !identity_map(&read_proc(c"/proc/self/uid_map"));
        Self {
            features,
            umask: umask(&read_proc(c"/proc/self/status")),
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            may_chown: held.contains(CapabilitySet::CHOWN),
            may_mknod: held.contains(CapabilitySet::MKNOD) && !in_user_namespace,
            ignores_modes: held.contains(CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER),
            may_set_security: held.contains(CapabilitySet::SETFCAP) && !in_user_namespace,
            may_set_trusted: held.contains(CapabilitySet::SYS_ADMIN) && !in_user_namespace,
            in_user_namespace,
        }
    }

    /// Whether whiteouts may be made as devices.
    pub(crate) fn makes_device_whiteouts(&self) -> bool {
        self.features.device_whiteouts
    }

    /// Whether overlayfs knows whiteouts in attribute form.
    pub(crate) fn knows_xattr_whiteouts(&self) -> bool {
        // KERNEL(6.7)
        self.features.xattr_whiteouts && release(rustix::system::uname().release().to_bytes()) >= (6, 7)
    }

    /// Whether content is copied inside the kernel.
    pub(crate) fn copies_ranges(&self) -> bool {
        self.features.copy_file_range
    }

    /// Opens the directory `path` below `root` if no component is a link, in one step. [`None`]: the component
    /// walk has to tell.
    pub(crate) fn open_path(&mut self, root: BorrowedFd<'_>, path: &[u8], no_xdev: bool) -> Option<OwnedFd> {
        if !self.features.openat2 {
            return None;
        }
        let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        resolve.set(ResolveFlags::NO_XDEV, no_xdev);
        match openat2(root, path, DIRECTORY, Mode::empty(), resolve) {
            Ok(fd) => Some(fd),
            Err(error) => {
                // KERNEL(5.6), or a filter that does not know the call.
                if matches!(error, Errno::NOSYS | Errno::PERM) {
                    self.features.openat2 = false;
                }
                None
            }
        }
    }

    /// Opens the directory `name` in `dir`, of which `dev` is the device; a mount point is `EXDEV`.
    pub(crate) fn open_same_mount(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        dev: u64,
    ) -> Result<OwnedFd, Errno> {
        if self.features.openat2 {
            let resolve = ResolveFlags::BENEATH
                | ResolveFlags::NO_MAGICLINKS
                | ResolveFlags::NO_SYMLINKS
                | ResolveFlags::NO_XDEV;
            match openat2(dir, name, DIRECTORY, Mode::empty(), resolve) {
                Err(Errno::NOSYS | Errno::PERM) => self.features.openat2 = false,
                result => return result,
            }
        }
        let fd = openat(dir, name, DIRECTORY, Mode::empty())?;
        // A bind mount of the same file system has the same device: only the attribute tells (Linux 5.8).
        let stat = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, rustix::fs::StatxFlags::BASIC_STATS)?;
        let mount_root = rustix::fs::StatxAttributes::MOUNT_ROOT;
        if rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor) != dev
            || stat.stx_attributes.contains(mount_root)
        {
            return Err(Errno::XDEV);
        }
        Ok(fd)
    }

    /// Changes the mode of `name` in `dir`, which is no symbolic link, without opening it.
    pub(crate) fn chmod(&mut self, dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<(), Errno> {
        if self.features.fchmodat2 {
            let name = CString::new(name).map_err(|_| Errno::INVAL)?;
            match raw::fchmodat2(dir, &name, mode) {
                // KERNEL(6.6)
                Err(Errno::NOSYS | Errno::PERM) => self.features.fchmodat2 = false,
                result => return result,
            }
        }
        let handle = openat(dir, name, HANDLE, Mode::empty())?;
        rustix::fs::chmod(proc_path(&handle), Mode::from_raw_mode(mode))
    }

    /// Sets an extended attribute of `name` in `dir`, which may be a link or a device.
    pub(crate) fn set_xattr(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        attribute: &[u8],
        value: &[u8],
    ) -> Result<(), Errno> {
        if self.features.setxattrat {
            let [name, attribute] = [name, attribute].map(CString::new);
            let (name, attribute) = (name.map_err(|_| Errno::INVAL)?, attribute.map_err(|_| Errno::INVAL)?);
            match raw::setxattrat(dir, &name, &attribute, value) {
                // KERNEL(6.13)
                Err(Errno::NOSYS) => self.features.setxattrat = false,
                result => return result,
            }
        }
        let handle = openat(dir, name, HANDLE, Mode::empty())?;
        // Not `lsetxattr`: the last component is the link of /proc, which has to be followed to the file itself.
        rustix::fs::setxattr(proc_path(&handle), attribute, value, rustix::fs::XattrFlags::empty())
    }

    /// Removes an extended attribute of `name` in `dir`, which cannot be opened.
    pub(crate) fn remove_xattr(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        attribute: &[u8],
    ) -> Result<(), Errno> {
        let handle = openat(dir, name, HANDLE, Mode::empty())?;
        rustix::fs::removexattr(proc_path(&handle), attribute)
    }

    /// Opens the directory `name` in `dir` for its owner, whom its mode may keep out; then it is changed, and the
    /// mode that it had comes with it.
    pub(crate) fn force_open(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(OwnedFd, Option<u32>), Errno> {
        let handle = openat(dir, name, HANDLE | OFlags::DIRECTORY, Mode::empty())?;
        let stat = fstat(&handle)?;
        let mode = stat.st_mode & 0o7777;
        let locked = stat.st_uid == self.uid && mode & 0o700 != 0o700;
        if locked {
            self.chmod(dir, name, mode | 0o700)?;
        }
        // The handle is the directory that was looked at, whatever has the name by now.
        Ok((openat(&handle, c".", DIRECTORY, Mode::empty())?, locked.then_some(mode)))
    }
}

/// The first two numbers of a kernel's release.
fn release(text: &[u8]) -> (u32, u32) {
    let mut numbers = text
        .split(|b| !b.is_ascii_digit())
        .map(|digits| std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The name by which `/proc` leads to an open file.
fn proc_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// A file of `/proc`, empty where there is none.
fn read_proc(path: &std::ffi::CStr) -> Vec<u8> {
    let mut content = Vec::new();
    if let Ok(fd) = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        let mut file = std::fs::File::from(fd);
        // What was read of a file of /proc is all that there is to know.
        let _ = std::io::Read::read_to_end(&mut file, &mut content);
    }
    content
}

/// The umask. Reading it any other way would change it for a moment, for all threads. Where nothing says it
/// (Linux before 4.7, no `/proc`), every bit may be taken away, and modes are always set again.
fn umask(status: &[u8]) -> u32 {
    let line = status.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"Umask:"));
    let text = line.and_then(|line| std::str::from_utf8(line).ok());
    text.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0o777)
}

/// Whether a `uid_map` maps every id to itself, as outside all user namespaces. Without `/proc` that is assumed.
fn identity_map(map: &[u8]) -> bool {
    let mut lines = map.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let Some(first) = lines.next() else { return true };
    let numbers: Vec<&[u8]> = first.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
    lines.next().is_none() && numbers == [&b"0"[..], b"0", b"4294967295"]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_compared_by_its_numbers() {
        assert_eq!(release(b"6.18.44-fc-v445"), (6, 18));
        assert_eq!(release(b"5.4-rc1"), (5, 4));
        assert_eq!(release(b""), (0, 0));
    }

    #[test]
    fn the_umask_is_read_or_assumed_to_take_everything() {
        assert_eq!(umask(b"Name:\tx\nUmask:\t0027\nState:\tR\n"), 0o27);
        assert_eq!(umask(b""), 0o777);
        assert_eq!(umask(b"Umask:\tnonsense\n"), 0o777);
    }

    #[test]
    fn a_user_namespace_is_told_by_its_map() {
        assert!(identity_map(b"         0          0 4294967295\n"));
        assert!(identity_map(b""));
        assert!(!identity_map(b"         0       1000          1\n"));
        assert!(!identity_map(b"0 0 65536\n65536 65536 100\n"));
    }
}
