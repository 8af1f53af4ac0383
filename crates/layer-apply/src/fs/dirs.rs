//! The directories of the target that are open.
//!
//! Layers name a directory's children one after another, so the last few directories are kept open and almost
//! every entry costs no resolution at all. What is kept is a descriptor, found by the directory's real path
//! (no component of it is a link); it is let go as soon as the apply removes or replaces something on that path.
//!
//! A directory also remembers the time that it shall have: work inside changes it, and it is set again when the
//! directory is closed. Nothing else has to be remembered for the end of the layer, however many directories
//! there are. The cost is [`CAPACITY`] descriptors and about 300 bytes for each.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use layer_model::{Error, IoContext, LayerPath, LayerPathBuf, Result, Timestamp};
use rustix::{
    fs::{Mode, Stat, Timespec, Timestamps, UTIME_OMIT, fchmod, fstat, futimens},
    io::Errno,
};

/// How many directories are open at once. Deep enough for the paths that images have, and small enough that
/// some appliers in parallel stay below the usual limit of 1024 descriptors.
pub(crate) const CAPACITY: usize = 64;

/// A directory of [`Dirs`]. Good until another one is opened, unless pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirId(usize);

/// The root: never closed before the end.
pub(crate) const ROOT: DirId = DirId(0);

/// One open directory.
#[derive(Debug)]
pub(crate) struct OpenDir {
    pub(crate) fd: OwnedFd,
    /// The path below the root, without links.
    pub(crate) path: LayerPathBuf,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Permission, set-id and sticky bits as they are now.
    pub(crate) mode: u32,
    pub(crate) dev: u64,
    /// The times to set when the directory is closed.
    pub(crate) times: Times,
    /// Whether what is new in here inherits an access control list.
    pub(crate) default_acl: bool,
    /// Whether names in here were added or taken away.
    pub(crate) touched: bool,
    /// The mode to set when the directory is closed, where it keeps its owner out until then.
    pub(crate) mode_after: Option<u32>,
}

/// The times that a directory shall have in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Times {
    /// Whatever the work in it makes of them.
    Leave,
    /// As they were when it was opened: nothing to do unless it was touched.
    Keep {
        /// The modification time.
        mtime: Timestamp,
    },
    /// As the layer says.
    Set {
        /// The access time.
        atime: Timestamp,
        /// The modification time.
        mtime: Timestamp,
    },
}

impl OpenDir {
    /// Takes what was opened at `path`. Its times are kept if `keep` says so.
    pub(crate) fn new(fd: OwnedFd, path: LayerPathBuf, keep: bool) -> Result<Self> {
        let stat = fstat(&fd).during("stat directory").map_err(|e| e.at(path.as_path()))?;
        let times = if keep { Times::Keep { mtime: mtime(&stat) } } else { Times::Leave };
        Ok(Self {
            fd,
            path,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            dev: stat.st_dev,
            times,
            default_acl: false,
            touched: false,
            mode_after: None,
        })
    }

    /// Lets the owner in, whom the mode keeps out. Whether that was possible, and of use.
    pub(crate) fn unlock(&mut self, uid: u32) -> bool {
        if self.uid != uid || self.mode & 0o700 == 0o700 {
            return false;
        }
        let open = self.mode | 0o700;
        if fchmod(&self.fd, Mode::from_raw_mode(open)).is_err() {
            return false;
        }
        self.mode_after.get_or_insert(self.mode);
        self.mode = open;
        true
    }

    /// Sets what was to be set when the work in the directory is done.
    fn close(&mut self) -> Result<()> {
        let times = match self.times {
            Times::Keep { mtime } if self.touched => Some((None, mtime)),
            Times::Set { atime, mtime } => Some((Some(atime), mtime)),
            Times::Keep { .. } | Times::Leave => None,
        };
        let set = || -> Result<(), Errno> {
            if let Some(mode) = self.mode_after {
                fchmod(&self.fd, Mode::from_raw_mode(mode))?;
            }
            if let Some((atime, mtime)) = times {
                futimens(&self.fd, &timestamps(atime, mtime))?;
            }
            Ok(())
        };
        set().during("set times and mode of directory").map_err(|e: Error| e.at(self.path.as_path()))?;
        if let (Some(mode), Times::Set { mtime, .. }) = (self.mode_after.take(), self.times) {
            self.mode = mode;
            self.times = Times::Keep { mtime };
        }
        self.touched = false;
        Ok(())
    }
}

/// The modification time of `stat`.
pub(crate) fn mtime(stat: &Stat) -> Timestamp {
    Timestamp::new(stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0))
}

/// Both times for the kernel; no access time leaves that alone.
pub(crate) fn timestamps(atime: Option<Timestamp>, mtime: Timestamp) -> Timestamps {
    let spec = |time: Timestamp| Timespec { tv_sec: time.secs, tv_nsec: time.nanos.into() };
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    Timestamps { last_access: atime.map_or(omit, spec), last_modification: spec(mtime) }
}

/// The open directories, the root among them.
#[derive(Debug)]
pub(crate) struct Dirs {
    slots: Vec<Option<Slot>>,
    clock: u64,
    /// The slot found last: mostly the next one, too.
    last: usize,
}

#[derive(Debug)]
struct Slot {
    dir: OpenDir,
    used: u64,
    pinned: bool,
}

impl Dirs {
    /// With the root open.
    pub(crate) fn new(root: OpenDir) -> Self {
        let root = Slot { dir: root, used: 0, pinned: true };
        Self { slots: vec![Some(root)], clock: 0, last: 0 }
    }

    /// The open directory `id`.
    pub(crate) fn get(&self, id: DirId) -> &OpenDir {
        &self.slots[id.0].as_ref().expect("an id in use is of an open directory").dir
    }

    /// The open directory `id`, to change what is known of it.
    pub(crate) fn get_mut(&mut self, id: DirId) -> &mut OpenDir {
        &mut self.slots[id.0].as_mut().expect("an id in use is of an open directory").dir
    }

    /// The descriptor of `id`.
    pub(crate) fn fd(&self, id: DirId) -> BorrowedFd<'_> {
        self.get(id).fd.as_fd()
    }

    /// The path of `name` in `id`.
    pub(crate) fn join(&self, id: DirId, name: &[u8]) -> Result<LayerPathBuf> {
        self.get(id).path.as_path().join(name)
    }

    /// The directory at `path`, if it is open.
    pub(crate) fn find(&mut self, path: LayerPath<'_>) -> Option<DirId> {
        let is = |slot: &Option<Slot>| slot.as_ref().is_some_and(|slot| slot.dir.path.as_path() == path);
        let at = match self.slots.get(self.last) {
            Some(slot) if is(slot) => self.last,
            _ => self.slots.iter().position(is)?,
        };
        self.touch(at);
        Some(DirId(at))
    }

    /// The open directory that is nearest above `path`, or at it.
    pub(crate) fn nearest(&mut self, path: LayerPath<'_>) -> DirId {
        let mut best = (0, 0);
        for (at, slot) in self.slots.iter().enumerate() {
            let Some(slot) = slot else { continue };
            let have = slot.dir.path.as_path();
            if have.as_bytes().len() > best.1 && path.starts_with(have) {
                best = (at, have.as_bytes().len());
            }
        }
        self.touch(best.0);
        DirId(best.0)
    }

    /// Takes a directory in; the one unused longest is closed if there are too many.
    pub(crate) fn insert(&mut self, dir: OpenDir) -> Result<DirId> {
        let free = self.slots.iter().position(Option::is_none);
        let at = match free {
            Some(at) => at,
            None if self.slots.len() < CAPACITY => {
                self.slots.push(None);
                self.slots.len() - 1
            }
            None => {
                let unpinned = self.slots.iter().enumerate().filter_map(|(at, slot)| {
                    slot.as_ref().filter(|slot| !slot.pinned).map(|slot| (slot.used, at))
                });
                match unpinned.min() {
                    Some((_, at)) => {
                        if let Some(mut slot) = self.slots[at].take() {
                            slot.dir.close()?;
                        }
                        at
                    }
                    // Pinned, all of them: a deep merge of two trees.
                    None => {
                        self.slots.push(None);
                        self.slots.len() - 1
                    }
                }
            }
        };
        self.slots[at] = Some(Slot { dir, used: 0, pinned: false });
        self.touch(at);
        Ok(DirId(at))
    }

    /// Keeps `id` open until [`Dirs::unpin`].
    pub(crate) fn pin(&mut self, id: DirId) {
        if let Some(slot) = &mut self.slots[id.0] {
            slot.pinned = true;
        }
    }

    /// Ends what [`Dirs::pin`] began.
    pub(crate) fn unpin(&mut self, id: DirId) {
        if let Some(slot) = &mut self.slots[id.0] {
            slot.pinned = id == ROOT;
        }
    }

    /// Closes all directories at and below `path`, as it is removed or replaced.
    pub(crate) fn forget(&mut self, path: LayerPath<'_>) -> Result<()> {
        for slot in self.slots.iter_mut().skip(1) {
            if let Some(found) = slot
                && found.dir.path.as_path().starts_with(path)
            {
                found.dir.close()?;
                *slot = None;
            }
        }
        Ok(())
    }

    /// Runs `work`, which adds or takes away names in `id`. Where permissions of the directory keep its owner
    /// (`uid`) out they are widened, until it is closed.
    pub(crate) fn work<T>(
        &mut self,
        id: DirId,
        uid: u32,
        mut work: impl FnMut(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.get_mut(id).touched = true;
        self.look(id, uid, &mut work)
    }

    /// As [`Dirs::work`], where nothing is changed.
    pub(crate) fn look<T>(
        &mut self,
        id: DirId,
        uid: u32,
        mut look: impl FnMut(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let dir = self.get_mut(id);
        match look(dir.fd.as_fd()) {
            Err(Errno::ACCESS) if dir.unlock(uid) => look(dir.fd.as_fd()),
            result => result,
        }
    }

    /// Closes all but the root, then sets the root's mode and times.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.forget(LayerPath::ROOT)?;
        self.get_mut(ROOT).close()
    }

    fn touch(&mut self, at: usize) {
        self.clock += 1;
        self.last = at;
        if let Some(slot) = &mut self.slots[at] {
            slot.used = self.clock;
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{OFlags, open};

    use super::*;

    fn dir(path: &str) -> OpenDir {
        let fd = open("/", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        OpenDir::new(fd, LayerPathBuf::clean(path.as_bytes()).unwrap(), true).unwrap()
    }

    fn path(text: &str) -> LayerPath<'_> {
        LayerPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_nearest_open_directory_is_found_by_components() {
        let mut dirs = Dirs::new(dir(""));
        let a = dirs.insert(dir("a")).unwrap();
        let ab = dirs.insert(dir("a/b")).unwrap();
        assert_eq!(dirs.nearest(path("a/b/c/d")), ab);
        assert_eq!(dirs.nearest(path("a/bc")), a);
        assert_eq!(dirs.nearest(path("ab")), ROOT);
        assert_eq!(dirs.find(path("a/b")), Some(ab));
        assert_eq!(dirs.find(path("a/b/c")), None);
    }

    #[test]
    fn what_is_removed_is_forgotten_with_all_below_it() {
        let mut dirs = Dirs::new(dir(""));
        for text in ["a", "a/b", "ab"] {
            dirs.insert(dir(text)).unwrap();
        }
        dirs.forget(path("a")).unwrap();
        assert_eq!((dirs.find(path("a")), dirs.find(path("a/b"))), (None, None));
        assert!(dirs.find(path("ab")).is_some() && dirs.find(LayerPath::ROOT).is_some());
    }

    #[test]
    fn the_number_of_open_directories_is_bounded_and_pins_hold() {
        let mut dirs = Dirs::new(dir(""));
        let pinned = dirs.insert(dir("pinned")).unwrap();
        dirs.pin(pinned);
        for n in 0..3 * CAPACITY {
            dirs.insert(dir(&format!("d{n}"))).unwrap();
        }
        assert_eq!(dirs.slots.len(), CAPACITY);
        assert_eq!(dirs.find(path("pinned")), Some(pinned));
        assert_eq!(dirs.find(path("d0")), None);
    }
}
