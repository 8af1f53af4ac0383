//! What changes become in a merged tree.

use std::{
    collections::{BTreeSet, HashSet},
    hash::{BuildHasher, RandomState},
};

use layer_model::{Error, ErrorKind, LayerPath, LayerPathBuf, Metadata, Result, WarningKind, Xattrs};
use overlay_dir::Namespace;
use rustix::{
    fs::{AtFlags, FileType, unlinkat},
    io::Errno,
};

use crate::{
    engine::{Cleared, Engine, Form, LateLink, Placed},
    fs::{
        dirs::{DirId, ROOT},
        remove::{Fate, sweep},
    },
    walk::{Below, Place},
};

/// What this layer placed in the tree: deletions of the same layer leave that alone.
///
/// In a target that was empty that is everything. Else it is a set of hashes of paths: of directories that the
/// layer made (all in them is of the layer, so nothing in them is remembered), and of names that it placed in
/// directories that were there before. That is at most 20 bytes an entry, whatever the path. The hash has a
/// random key, so that no layer can be written that makes two paths one.
#[derive(Debug)]
enum Placements {
    Everything,
    Some { key: RandomState, names: HashSet<u64>, dirs: HashSet<u64> },
}

impl Placements {
    fn place(&mut self, dir: LayerPath<'_>, name: &[u8]) -> bool {
        let Self::Some { key, names, dirs } = self else { return true };
        dirs.contains(&key.hash_one(dir.as_bytes())) || names.insert(hash_of(key, dir, name))
    }

    fn place_dir(&mut self, path: LayerPath<'_>) {
        if let Some((parent, name)) = path.split_last() {
            self.place(parent, name);
        }
        if let Self::Some { key, dirs, .. } = self {
            dirs.insert(key.hash_one(path.as_bytes()));
        }
    }

    /// Whether the layer placed something of that name.
    fn has(&self, dir: LayerPath<'_>, name: &[u8]) -> bool {
        match self {
            Self::Everything => true,
            Self::Some { key, names, dirs } => {
                dirs.contains(&key.hash_one(dir.as_bytes())) || names.contains(&hash_of(key, dir, name))
            }
        }
    }

    /// Whether the layer made the directory, and so all that is in it.
    fn made_dir(&self, path: LayerPath<'_>) -> bool {
        match self {
            Self::Everything => true,
            Self::Some { key, dirs, .. } => dirs.contains(&key.hash_one(path.as_bytes())),
        }
    }

    /// What a deletion of everything around it does to an object.
    fn fate(&self, path: LayerPath<'_>, is_dir: bool) -> Fate {
        let placed = path.split_last().is_none_or(|(dir, name)| self.has(dir, name));
        match (placed, is_dir) {
            (true, true) if self.made_dir(path) => Fate::Keep,
            (true, true) => Fate::KeepDirectory,
            (true, false) => Fate::Keep,
            (false, true) => Fate::RemoveIfEmpty,
            (false, false) => Fate::Remove,
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Some { names, .. } if names.is_empty())
    }
}

fn hash_of(key: &RandomState, dir: LayerPath<'_>, name: &[u8]) -> u64 {
    key.hash_one((dir.as_bytes(), name))
}

/// The state of a merged tree that a layer is applied to.
#[derive(Debug)]
pub(crate) struct FlatForm {
    placed: Placements,
    /// Directories that the layer made and that no entry describes.
    implied: BTreeSet<LayerPathBuf>,
}

impl FlatForm {
    /// For a target that holds nothing, or that does.
    pub(crate) fn new(empty: bool) -> Self {
        let placed = if empty {
            Placements::Everything
        } else {
            Placements::Some { key: RandomState::new(), names: HashSet::new(), dirs: HashSet::new() }
        };
        Self { placed, implied: BTreeSet::new() }
    }
}

impl Form for FlatForm {
    const ZERO_DEVICE_IS_WHITEOUT: bool = false;

    fn is_whiteout(_: &mut Engine<'_, Self>, _: DirId, _: &[u8]) -> Result<bool> {
        Ok(false)
    }

    fn below(_: &mut Engine<'_, Self>, _: LayerPath<'_>, _: &[u8]) -> Result<Below> {
        Ok(Below::Nothing)
    }

    fn implied(engine: &mut Engine<'_, Self>, _: LayerPath<'_>) -> Result<(Metadata, Xattrs)> {
        Ok(engine.options.implied_dir())
    }

    fn clear(engine: &mut Engine<'_, Self>, dir: DirId, name: &[u8], want_dir: bool) -> Result<Cleared> {
        let is_dir = FileType::from_raw_mode(engine.stat(dir, name)?.st_mode) == FileType::Directory;
        if is_dir && want_dir {
            return Ok(Cleared::Merge);
        }
        let path = engine.dirs.join(dir, name)?;
        let own = engine.form.placed.has(engine.dirs.get(dir).path.as_path(), name);
        engine.warn_replaced(dir, name, own && !engine.form.implied.contains(&path))?;
        engine.remove_object(dir, name)?;
        Ok(Cleared::Gone { opaque: false })
    }

    fn placed_dir(engine: &mut Engine<'_, Self>, dir: DirId, placed: Placed) -> Result<()> {
        let path = engine.dirs.get(dir).path.clone();
        let form = &mut engine.form;
        match placed {
            Placed::Made { .. } => form.placed.place_dir(path.as_path()),
            Placed::Implied { .. } => {
                form.placed.place_dir(path.as_path());
                form.implied.insert(path);
            }
            Placed::Merged => {
                let Some((parent, name)) = path.as_path().split_last() else { return Ok(()) };
                let again = form.placed.has(parent, name);
                form.placed.place(parent, name);
                if !form.implied.remove(&path) && again {
                    engine.warn(WarningKind::DuplicateEntry, path.as_path(), b"");
                }
            }
        }
        Ok(())
    }

    fn placed(engine: &mut Engine<'_, Self>, dir: DirId, name: &[u8]) -> Result<()> {
        if !matches!(engine.form.placed, Placements::Everything) {
            engine.form.placed.place(engine.dirs.get(dir).path.as_path(), name);
        }
        Ok(())
    }

    fn is_placed(engine: &mut Engine<'_, Self>, dir: DirId, name: &[u8]) -> Result<bool> {
        match engine.stat(dir, name) {
            Ok(_) => Ok(engine.form.placed.has(engine.dirs.get(dir).path.as_path(), name)),
            Err(error) if error.kind() == &ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn forget(&mut self, path: LayerPath<'_>) {
        let below = self.implied.range(path.to_owned()..).take_while(|have| have.as_path().starts_with(path));
        let gone: Vec<LayerPathBuf> = below.cloned().collect();
        for path in gone {
            self.implied.remove(&path);
        }
    }

    fn remove(engine: &mut Engine<'_, Self>, path: LayerPath<'_>) -> Result<()> {
        let Some((parent, name)) = path.split_last() else {
            return Err(Error::new(ErrorKind::InvalidArchive, "a deletion of the root"));
        };
        let spec = engine.options.is_spec();
        let Some(walked) = engine.walk_to_remove(parent)? else { return Ok(()) };
        let dir = match walked.place {
            Place::Here(dir) => dir,
            _ if spec => return Ok(()),
            // containerd makes the directories above a name that it then does not find.
            _ => engine.parent_dir(parent)?,
        };
        let stat = match engine.stat(dir, name) {
            Ok(stat) => stat,
            Err(error) if error.kind() == &ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if !spec || engine.form.placed.is_empty() {
            return engine.remove_object(dir, name);
        }
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let real = engine.dirs.join(dir, name)?;
        match engine.form.placed.fate(real.as_path(), is_dir) {
            Fate::Keep => Ok(()),
            Fate::Remove => engine.remove_object(dir, name),
            Fate::KeepDirectory => sweep_dir(engine, dir, name),
            Fate::RemoveIfEmpty => {
                engine.dirs.pin(dir);
                let swept = sweep_dir(engine, dir, name);
                engine.dirs.unpin(dir);
                swept?;
                let uid = engine.kernel.uid;
                match engine.dirs.work(dir, uid, |fd| unlinkat(fd, name, AtFlags::REMOVEDIR)) {
                    Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
                    Err(error) => Err(Error::io("remove directory", error)),
                }
            }
        }
    }

    fn opaque(engine: &mut Engine<'_, Self>, path: LayerPath<'_>) -> Result<()> {
        let Some(walked) = engine.walk_to_remove(path)? else { return Ok(()) };
        match walked.place {
            Place::Here(dir) => empty(engine, dir),
            _ if engine.options.is_spec() => Ok(()),
            _ => engine.make_dirs(walked.path.as_path()).map(|_| ()),
        }
    }

    fn fetch(_: &mut Engine<'_, Self>, _: LayerPath<'_>) -> Result<bool> {
        Ok(false)
    }

    fn defer(&mut self, link: LateLink) -> Option<LateLink> {
        Some(link)
    }

    fn complete(_: &mut Engine<'_, Self>) -> Result<()> {
        Ok(())
    }

    fn marker_namespace(&self) -> Option<Namespace> {
        None
    }
}

/// Takes away what the layer did not place in the directory `name` of `dir`.
fn sweep_dir(engine: &mut Engine<'_, FlatForm>, dir: DirId, name: &[u8]) -> Result<()> {
    let path = engine.dirs.join(dir, name)?;
    let child = match engine.dirs.find(path.as_path()) {
        Some(open) => open,
        None => engine.open_child(dir, name)?,
    };
    empty(engine, child)
}

/// Takes away what the layer did not place in the directory `dir`.
fn empty(engine: &mut Engine<'_, FlatForm>, dir: DirId) -> Result<()> {
    let path = engine.dirs.get(dir).path.clone();
    if engine.form.placed.made_dir(path.as_path()) {
        return Ok(());
    }
    let fd = engine.dirs.fd(dir).try_clone_to_owned().map_err(|e| Error::io("duplicate descriptor", e))?;
    // All below is closed first, so that times are as they shall be when they are looked at.
    engine.close_below(path.as_path())?;
    engine.dirs.get_mut(ROOT).touched |= path.as_path().is_root();
    let Engine { kernel, form, .. } = engine;
    sweep(kernel, std::os::fd::AsFd::as_fd(&fd), path.as_path(), &mut |path, is_dir| {
        form.placed.fate(path, is_dir)
    })
}
