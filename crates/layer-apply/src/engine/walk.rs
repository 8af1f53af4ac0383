//! The directories of a target directory: found by the walk, and made.

use layer_model::{Error, ErrorKind, LayerPath, LayerPathBuf, Result};
use rustix::{
    fs::{AtFlags, FileType, Mode, Stat, mkdirat, openat, readlinkat, statat},
    io::Errno,
};

use super::{Cleared, Engine, Form, Placed};
use crate::{
    fs::{
        dirs::{DirId, OpenDir, ROOT, Times},
        kernel::DIRECTORY,
    },
    walk::{self, Below, Place, Step, Walk, Walked, Walker, not_directory},
};

/// How many paths through links are remembered.
const MAX_ALIASES: usize = 16;

/// A path through links, and the directory that it led to. Let go when anything is removed or replaced.
#[derive(Debug)]
pub(crate) struct Alias {
    path: LayerPathBuf,
    /// Where the directory is really; a cached descriptor is found by it.
    real: LayerPathBuf,
    /// What was seen of lower layers on the way, which a new entry of the same name would hide.
    below: Vec<LayerPathBuf>,
}

impl<F: Form> Engine<'_, F> {
    /// The directory `path`, with links followed; made if it is missing.
    pub(crate) fn parent_dir(&mut self, path: LayerPath<'_>) -> Result<DirId> {
        if let Some(found) = self.dirs.find(path) {
            return Ok(found);
        }
        let walked = self.walk(path)?;
        match walked.place {
            Place::Here(dir) => Ok(dir),
            Place::Below | Place::Nowhere { .. } => self.make_dirs(walked.path.as_path()),
        }
    }

    /// Looks for the directory `path`, following links, changing nothing.
    ///
    /// # Errors
    /// `NotDirectory` when something else is in the way, `TooManyLinks`.
    pub(crate) fn walk(&mut self, path: LayerPath<'_>) -> Result<Walked<DirId>> {
        if let Some(found) = self.dirs.find(path) {
            return Ok(Walked { path: path.to_owned(), place: Place::Here(found) });
        }
        let alias = self.aliases.iter().find(|alias| alias.path.as_path() == path);
        if let Some(real) = alias.map(|alias| alias.real.clone())
            && let Some(found) = self.dirs.find(real.as_path())
        {
            return Ok(Walked { path: real, place: Place::Here(found) });
        }
        let start = self.dirs.nearest(path);
        let start_path = self.dirs.get(start).path.clone();
        let rest = path.components().skip(start_path.as_path().depth());
        // Two components and more are worth a try in one step. It fails where a link or nothing is.
        if rest.clone().count() > 1
            && let Some(fd) = self.kernel.open_path(self.dirs.fd(ROOT), path.as_bytes(), self.options.no_xdev)
        {
            let found = self.admit(fd, path.to_owned())?;
            return Ok(Walked { path: path.to_owned(), place: Place::Here(found) });
        }
        let rest: Vec<&[u8]> = rest.collect();
        let Walk { at, links, below } = walk::walk(self, (start_path, start), rest.into_iter())?;
        if links > 0 && matches!(at.place, Place::Here(_)) {
            if self.aliases.len() == MAX_ALIASES {
                self.aliases.remove(0);
            }
            self.aliases.push(Alias { path: path.to_owned(), real: at.path.clone(), below });
        }
        Ok(at)
    }

    /// As [`Engine::walk`], for a deletion: below something that is no directory there is nothing to delete.
    ///
    /// Differs write such deletions for the children of a directory that became a file; containerd fails there.
    pub(crate) fn walk_to_remove(&mut self, path: LayerPath<'_>) -> Result<Option<Walked<DirId>>> {
        match self.walk(path) {
            Err(error) if error.kind() == &ErrorKind::NotDirectory && self.options.is_spec() => Ok(None),
            walked => walked.map(Some),
        }
    }

    /// What the target has at `name` is no directory.
    fn step_aside(&mut self, dir: DirId, name: &[u8], path: LayerPath<'_>) -> Result<Step<DirId>> {
        let stat = self.stat(dir, name)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            let target = readlinkat(self.dirs.fd(dir), name, Vec::new());
            let target = target.map_err(|e| Error::io("read symbolic link", e).at(path))?;
            return Ok(Step::Link { target: target.into_bytes().into(), below: false });
        }
        if F::is_whiteout(self, dir, name)? {
            return Ok(Step::Down(Place::Nowhere { whiteout: true }));
        }
        Err(not_directory(path))
    }

    /// Opens the directory `name` in `dir`, without following a link.
    pub(crate) fn open_child(&mut self, dir: DirId, name: &[u8]) -> Result<DirId> {
        let path = self.dirs.join(dir, name)?;
        let at = |e: Errno| Error::io("open directory", e).at(path.as_path());
        let (fd, parent_dev) = (self.dirs.fd(dir), self.dirs.get(dir).dev);
        let opened = if self.options.no_xdev {
            self.kernel.open_same_mount(fd, name, parent_dev)
        } else {
            openat(fd, name, DIRECTORY, Mode::empty())
        };
        match opened {
            Err(Errno::ACCESS) => {
                // Either this directory keeps its owner out, or the one above it does.
                let uid = self.kernel.uid;
                let kernel = &mut self.kernel;
                let (fd, locked) = self.dirs.work(dir, uid, |fd| kernel.force_open(fd, name)).map_err(at)?;
                let found = self.admit(fd, path)?;
                let opened = self.dirs.get_mut(found);
                opened.mode_after = locked;
                Ok(found)
            }
            opened => self.admit(opened.map_err(at)?, path),
        }
    }

    /// Takes an open directory in.
    fn admit(&mut self, fd: rustix::fd::OwnedFd, path: LayerPathBuf) -> Result<DirId> {
        let keep = self.keeps_times() || self.describes(path.as_path());
        let id = self.dirs.insert(OpenDir::new(fd, path, keep)?)?;
        self.dirs.get_mut(id).default_acl = self.has_default_acl(id);
        Ok(id)
    }

    /// Makes the directory `path`, which has no links, with all that is missing above it.
    pub(crate) fn make_dirs(&mut self, path: LayerPath<'_>) -> Result<DirId> {
        self.budget.path(path)?;
        let mut dir = self.dirs.nearest(path);
        let have = self.dirs.get(dir).path.as_path().depth();
        for name in path.components().skip(have) {
            dir = match self.open_child(dir, name) {
                Ok(found) => found,
                Err(error) => match error.os_error().map(Errno::from_raw_os_error) {
                    Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => self.imply(dir, name)?,
                    _ => return Err(error),
                },
            };
        }
        Ok(dir)
    }

    /// Makes the directory `name` in `dir`, which no entry describes.
    fn imply(&mut self, dir: DirId, name: &[u8]) -> Result<DirId> {
        let path = self.dirs.join(dir, name)?;
        let uid = self.kernel.uid;
        let mode = Mode::from_raw_mode(0o755);
        let mut opaque = false;
        loop {
            match self.dirs.work(dir, uid, |fd| mkdirat(fd, name, mode)) {
                Ok(()) => break,
                // A whiteout of the same layer: the directory in its place goes on hiding what it hid.
                Err(Errno::EXIST) if self.options.is_spec() && F::is_whiteout(self, dir, name)? => {
                    match F::clear(self, dir, name, true)? {
                        Cleared::Merge => return Err(not_directory(path.as_path())),
                        Cleared::Gone { opaque: hid } => opaque |= hid,
                    }
                }
                Err(Errno::EXIST) => return Err(not_directory(path.as_path())),
                Err(error) => return Err(Error::io("make directory", error).at(path.as_path())),
            }
        }
        self.made_name(path.as_path());
        // What was deleted is no model for what takes its place.
        let (metadata, xattrs) =
            if opaque { self.options.implied_dir() } else { F::implied(self, path.as_path())? };
        let attrs = self.attrs(path.as_path(), &metadata, &xattrs)?;
        let made = self.open_child(dir, name)?;
        self.describe_dir(made, &attrs, true)?;
        if !self.options.is_spec() {
            // containerd leaves such a directory with the time at which its last child was made.
            self.dirs.get_mut(made).times = Times::Leave;
            self.described.remove(&path);
        }
        F::placed_dir(self, made, Placed::Implied { opaque })?;
        Ok(made)
    }

    /// Lets go of paths through links of lower layers that `path`, which is new, now hides.
    pub(crate) fn made_name(&mut self, path: LayerPath<'_>) {
        if !self.aliases.is_empty() {
            self.aliases.retain(|alias| alias.below.iter().all(|link| link.as_path() != path));
        }
    }

    /// What is at `name` in `dir`, not followed.
    pub(crate) fn stat(&mut self, dir: DirId, name: &[u8]) -> Result<Stat> {
        let path = self.dirs.join(dir, name)?;
        let uid = self.kernel.uid;
        let stat = self.dirs.look(dir, uid, |fd| statat(fd, name, AtFlags::SYMLINK_NOFOLLOW));
        stat.map_err(|e| Error::io("stat", e).at(path.as_path()))
    }

    /// Whether an entry gave the directory `path` its times, so that they are kept in every profile.
    fn describes(&self, path: LayerPath<'_>) -> bool {
        !self.described.is_empty() && self.described.contains(&path.to_owned())
    }
}

impl<F: Form> Walker for Engine<'_, F> {
    type Dir = DirId;

    fn root(&self) -> DirId {
        ROOT
    }

    fn step_here(&mut self, dir: DirId, path: LayerPath<'_>, name: &[u8]) -> Result<Option<Step<DirId>>> {
        let path = path.join(name)?;
        if let Some(found) = self.dirs.find(path.as_path()) {
            return Ok(Some(Step::Down(Place::Here(found))));
        }
        match self.open_child(dir, name) {
            Ok(found) => Ok(Some(Step::Down(Place::Here(found)))),
            Err(error) => match error.os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOENT) => Ok(None),
                Some(Errno::NOTDIR | Errno::LOOP) => self.step_aside(dir, name, path.as_path()).map(Some),
                _ => Err(error),
            },
        }
    }

    fn below(&mut self, parent: LayerPath<'_>, name: &[u8]) -> Result<Below> {
        F::below(self, parent, name)
    }

    fn nearest(&mut self, path: LayerPath<'_>) -> (LayerPathBuf, DirId) {
        let dir = self.dirs.nearest(path);
        (self.dirs.get(dir).path.clone(), dir)
    }

    fn check_path(&self, path: LayerPath<'_>) -> Result<()> {
        self.budget.path(path)
    }
}
