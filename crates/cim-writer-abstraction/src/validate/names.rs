//! The names of an image, and what they stand for.

use std::collections::BTreeMap;

use layer_model::{Error, ErrorKind, Result};

use crate::{CimKind, CimOp, CimPath, FileMeta, path::PathKey};

/// What names an image has: enough to say which operations it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    there: BTreeMap<PathKey, Name>,
    /// Nobody said what is there besides: a path that is not known may be there or not.
    guess: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    what: What,
    /// The image itself has written it, and did not inherit it.
    own: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Dir,
    File,
    /// Marked as a directory, but stands for another one.
    DirLink,
    MergeLink,
    Tombstone,
    /// Inherited, where nobody said what from.
    Unknown,
    /// Taken away from what is inherited, where nobody said what.
    Gone,
}

impl Default for Names {
    fn default() -> Self {
        Self::new()
    }
}

impl Names {
    /// Those of an empty image.
    pub fn new() -> Self {
        Self { there: BTreeMap::new(), guess: false }
    }

    /// Those of an image that nobody told anything about.
    pub fn unknown() -> Self {
        Self { there: BTreeMap::new(), guess: true }
    }

    /// The same, in an image that is forked from this one.
    pub(super) fn inherited(mut self) -> Self {
        for name in self.there.values_mut() {
            name.own = false;
        }
        self
    }

    fn get(&self, key: &PathKey) -> Option<What> {
        if key.units().is_empty() {
            return Some(What::Dir);
        }
        match self.there.get(key).map(|name| name.what) {
            Some(What::Gone) => None,
            Some(what) => Some(what),
            // What lies below a name that was taken away or replaced is gone with it.
            None if self.guess && self.parent_may_hold(key) => Some(What::Unknown),
            None => None,
        }
    }

    /// Whether the parent may have inherited something that nobody told about.
    fn parent_may_hold(&self, key: &PathKey) -> bool {
        let mut at = key.parent();
        while let Some(parent) = at {
            match self.there.get(&parent).map(|name| name.what) {
                Some(What::Dir | What::Unknown) | None => {}
                Some(_) => return false,
            }
            at = parent.parent();
        }
        true
    }

    /// Whether the image takes the operation.
    pub(super) fn check(&self, kind: CimKind, op: &CimOp<'_>) -> Result<()> {
        match op {
            CimOp::CreateFile { path, meta, size } => {
                if meta.is_dir() && *size != 0 {
                    return refuse(ErrorKind::InvalidArgument, "a directory has no content", path);
                }
                if i64::try_from(*size).is_err() {
                    return refuse(ErrorKind::InvalidArgument, "a file of 8 EiB or more", path);
                }
                self.check_create(path, meta)
            }
            CimOp::AddMergedHive { path, meta } => self.check_create(path, meta),
            CimOp::CreateStream { of, .. } => match self.get(&of.key()) {
                Some(What::Dir | What::File | What::DirLink | What::Unknown) => Ok(()),
                _ => refuse(ErrorKind::NotFound, "no file that the stream could belong to", of),
            },
            CimOp::HardLink { path, target } => {
                match self.get(&target.key()) {
                    Some(What::File | What::Unknown) => {}
                    Some(What::Dir | What::DirLink) => {
                        return refuse(ErrorKind::IsDirectory, "a hard link to a directory", target);
                    }
                    _ => return refuse(ErrorKind::NotFound, "no file for a hard link to", target),
                }
                self.check_link(path)
            }
            CimOp::MergeLink { path, .. } => {
                for_merging(kind, path)?;
                self.check_link(path)
            }
            CimOp::Delete { path } => match self.get(&path.key()) {
                _ if path.is_root() => refuse(ErrorKind::InvalidArgument, "the root cannot be deleted", path),
                None | Some(What::Tombstone) => refuse(ErrorKind::NotFound, "nothing there to delete", path),
                Some(_) => Ok(()),
            },
            CimOp::Tombstone { path } => {
                for_merging(kind, path)?;
                if path.is_root() {
                    return refuse(ErrorKind::InvalidArgument, "the root cannot be hidden", path);
                }
                self.check_parent(path)?;
                match self.get(&path.key()) {
                    None | Some(What::Tombstone | What::Unknown) => Ok(()),
                    Some(_) => {
                        let what = "a tombstone where the image has an entry";
                        refuse(ErrorKind::ConflictingEntries, what, path)
                    }
                }
            }
            _ => Ok(()),
        }
    }

    fn check_create(&self, path: &CimPath, meta: &FileMeta) -> Result<()> {
        if path.is_root() {
            return if meta.holds_entries() {
                Ok(())
            } else {
                refuse(ErrorKind::InvalidArgument, "the root can only be a directory", path)
            };
        }
        self.check_parent(path)?;
        match self.get(&path.key()) {
            Some(What::Tombstone) => {
                let what = "an entry where the image has a tombstone";
                refuse(ErrorKind::ConflictingEntries, what, path)
            }
            _ => Ok(()),
        }
    }

    fn check_link(&self, path: &CimPath) -> Result<()> {
        if path.is_root() {
            return refuse(ErrorKind::IsDirectory, "the root cannot be a link", path);
        }
        self.check_parent(path)?;
        match self.get(&path.key()) {
            None | Some(What::File | What::MergeLink | What::Unknown) => Ok(()),
            Some(What::Tombstone) => {
                refuse(ErrorKind::ConflictingEntries, "a link where the image has a tombstone", path)
            }
            Some(_) => refuse(ErrorKind::IsDirectory, "a link in place of a directory", path),
        }
    }

    fn check_parent(&self, path: &CimPath) -> Result<()> {
        match path.key().parent().map(|parent| self.get(&parent)) {
            Some(Some(What::Dir | What::Unknown)) => Ok(()),
            _ => refuse(ErrorKind::NotFound, "its parent directory is missing", path),
        }
    }

    /// Does what the operation does, which was checked.
    pub(super) fn apply(&mut self, op: &CimOp<'_>) {
        match op {
            CimOp::CreateFile { path, meta, .. } | CimOp::AddMergedHive { path, meta } => {
                let what = if meta.holds_entries() {
                    What::Dir
                } else if meta.is_dir() {
                    What::DirLink
                } else {
                    What::File
                };
                let key = path.key();
                // A directory over a directory keeps what is in it.
                if what != What::Dir || !matches!(self.get(&key), Some(What::Dir | What::Unknown)) {
                    self.remove_below(&key);
                }
                self.put(key, what);
            }
            CimOp::HardLink { path, target } => {
                // Another name of an inherited file is inherited: it is the file that has been written or not.
                let own = self.there.get(&target.key()).is_some_and(|name| name.own);
                self.there.insert(path.key(), Name { what: What::File, own });
            }
            CimOp::MergeLink { path, .. } => self.put(path.key(), What::MergeLink),
            CimOp::Tombstone { path } => self.put(path.key(), What::Tombstone),
            CimOp::Delete { path } => self.delete(&path.key()),
            _ => {}
        }
    }

    fn put(&mut self, key: PathKey, what: What) {
        if !key.units().is_empty() {
            self.there.insert(key, Name { what, own: true });
        }
    }

    fn delete(&mut self, key: &PathKey) {
        let inherited = !self.there.get(key).is_some_and(|name| name.own);
        let parent = key.parent().unwrap_or_default();
        let written = parent.units().is_empty() || self.there.get(&parent).is_some_and(|name| name.own);
        if inherited && !written {
            return; // Windows says that it did it, and does nothing.
        }
        self.remove_below(key);
        if self.guess {
            self.put(key.clone(), What::Gone);
        } else {
            self.there.remove(key);
        }
    }

    fn remove_below(&mut self, key: &PathKey) {
        let below: Vec<PathKey> = self
            .there
            .range(key.clone()..)
            .map(|(other, _)| other)
            // What sorts between a name and what is below it has the name as its beginning, too.
            .take_while(|other| other.units().starts_with(key.units()))
            .filter(|other| other.starts_with(key) && *other != key)
            .cloned()
            .collect();
        for other in below {
            self.there.remove(&other);
        }
    }
}

fn for_merging(kind: CimKind, path: &CimPath) -> Result<()> {
    match kind {
        CimKind::Block => Ok(()),
        CimKind::Forked => {
            refuse(ErrorKind::InvalidArgument, "only block CIMs have tombstones and merged links", path)
        }
    }
}

fn refuse<T>(kind: ErrorKind, what: &str, path: &CimPath) -> Result<T> {
    Err(Error::new(kind, what).entry(path.as_bytes()))
}
