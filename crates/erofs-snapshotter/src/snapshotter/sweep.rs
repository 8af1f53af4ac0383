//! What nobody needs any more is removed.

use std::{
    collections::HashSet,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use layer_model::{Error, ErrorKind, Result};
use rustix::{fs::RenameFlags, io::Errno};

use super::Snapshotter;
use crate::{
    SnapshotDir,
    dir::IMAGE,
    immutable,
    info::{Kind, Record},
    lists::LayerForm,
    remove::remove_dir,
    sys::{self, failed},
};

/// What the names of directories in the making start with, as in containerd.
pub(super) const NEW: &str = "new-";

/// What the names of directories start with that are being removed.
const OLD: &str = "rm-";

/// What [`Snapshotter::cleanup`] did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Cleaned {
    /// How many directories were removed that no snapshot has.
    pub removed: usize,
    /// What could not be removed or emptied, and why.
    pub failed: Vec<(PathBuf, Error)>,
}

impl Snapshotter {
    /// Removes the directories that no snapshot has, and empties upper directories whose layer is an image: what a
    /// crash, or something that was mounted, has left.
    ///
    /// # Errors
    /// Those of the records and of listing the directories; what could not be removed is in the result.
    pub fn cleanup(&self) -> Result<Cleaned> {
        let listed = |error| failed("list snapshots", &self.path, error);
        // While nobody else changes anything: a directory gets its name before its snapshot is recorded.
        let changes = self.db.write()?;
        let records = changes.all()?;
        let known: HashSet<String> = records.iter().map(|(_, record)| record.id.to_string()).collect();
        let mut orphans = Vec::new();
        let mut cleaned = Cleaned::default();
        for name in sys::names(&self.folder).map_err(listed)? {
            match name.into_string() {
                Ok(name) if known.contains(&name) => {}
                Ok(name) => match move_away(&self.folder, &name) {
                    Ok(away) => orphans.extend(away),
                    Err(error) => {
                        let path = self.path.join(&name);
                        cleaned.failed.push((path.clone(), failed("move away", &path, error)));
                    }
                },
                // None of ours.
                Err(_) => {}
            }
        }
        drop(changes);
        for name in orphans {
            match remove_moved(&self.folder, &name, &self.path) {
                Ok(()) => cleaned.removed += 1,
                Err(error) => cleaned.failed.push((self.path.join(name), error)),
            }
        }
        for (_, record) in records.iter().filter(|(_, record)| record.kind == Kind::Committed) {
            // A layer stays what it is, so that it does not matter who does this, or how often.
            let finished = self.dir(record).and_then(|dir| self.after_commit(&dir, record.form));
            match finished {
                Err(error) if *error.kind() != ErrorKind::NotFound => {
                    cleaned.failed.push((self.path.join(record.id.to_string()), error));
                }
                // What was removed meanwhile needs nothing.
                _ => {}
            }
        }
        Ok(cleaned)
    }

    /// Takes away what a committed layer does not need: what is in the image, or the marker of a directory.
    pub(super) fn after_commit(&self, dir: &SnapshotDir, form: Option<LayerForm>) -> Result<()> {
        match form {
            Some(LayerForm::Directory) => dir.unmark(),
            _ => dir.clear_upper(),
        }
    }

    /// Puts right what a crash left.
    pub(super) fn recover(&self) -> Result<()> {
        let converting = self.db.read()?.all()?.into_iter().filter(|(_, record)| record.converting);
        for (key, record) in converting {
            self.undo_conversion(&key, &record)?;
        }
        // What cannot be removed now may be so later.
        self.cleanup().map(drop)
    }

    /// Takes an image away that was made of an upper directory and not committed.
    pub(super) fn undo_conversion(&self, key: &str, record: &Record) -> Result<()> {
        let dir = self.dir(record)?;
        clear_immutable(&dir)?;
        dir.remove_image()?;
        dir.remove_fsmeta()?;
        let changes = self.db.write()?;
        let mut record = Self::get_same(&changes, key, record.id)?;
        record.converting = false;
        changes.put(key, &record)?;
        changes.commit()
    }
}

/// Makes the image of a layer removable. One that is a link is somebody else's.
pub(super) fn clear_immutable(dir: &SnapshotDir) -> Result<()> {
    match sys::open_file(dir.fd(), IMAGE, false) {
        Ok(file) => {
            immutable::clear(&file).map_err(|error| failed("make image removable", &dir.image_path(), error))
        }
        Err(Errno::NOENT | Errno::LOOP) => Ok(()),
        Err(error) => Err(failed("open image", &dir.image_path(), error)),
    }
}

/// Removes a directory of a snapshot, if it is there: it is out of the way at once, whatever happens then.
pub(super) fn remove(folder: &OwnedFd, name: &str, path: &Path) -> Result<()> {
    let away = move_away(folder, name).map_err(|error| failed("move away", &path.join(name), error))?;
    away.map_or(Ok(()), |away| remove_moved(folder, &away, path))
}

/// Gives a directory a name that no snapshot has. [`None`] when it is not there.
fn move_away(folder: &OwnedFd, name: &str) -> Result<Option<String>, Errno> {
    if name.starts_with(OLD) {
        return Ok(Some(name.to_owned()));
    }
    let away = format!("{OLD}{name}-{}", sys::unique());
    match rustix::fs::renameat_with(folder, name, folder, &*away, RenameFlags::empty()) {
        Ok(()) => Ok(Some(away)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove_moved(folder: &OwnedFd, name: &str, path: &Path) -> Result<()> {
    let path = path.join(name);
    if let Ok(dir) = SnapshotDir::open_any(&path) {
        clear_immutable(&dir)?;
    }
    remove_dir(folder, name, &path)
}
