//! What changes become in a layer directory of overlayfs.

use std::collections::{BTreeMap, BTreeSet};

use layer_model::{
    Content, EntryKind, Error, ErrorKind, LayerPath, LayerPathBuf, Metadata, NodeKind, Result, WarningKind,
    Xattrs,
};
use overlay_dir::{Namespace, marker};
use rustix::{
    fs::{AtFlags, FileType, Mode, makedev, mknodat, unlinkat},
    io::Errno,
};

use crate::{
    engine::{Cleared, Engine, Form, LateLink, Placed},
    fs::dirs::{DirId, ROOT},
    lowers::{Lowers, Parents, below},
    options::WhiteoutForm,
    walk::{Below, Place},
};

/// The state of a layer directory in the making. Its size grows with the directories that no entry describes,
/// that are opaque, or that hold whiteouts (about 100 bytes and the path for each), not with the entries.
pub(crate) struct OverlayForm {
    pub(crate) lowers: Lowers,
    namespace: Namespace,
    /// Directories that no entry describes, and whether a parent may be able to.
    pub(crate) implied: BTreeMap<LayerPathBuf, bool>,
    /// Directories that hold whiteouts.
    pub(crate) whiteout_dirs: BTreeSet<LayerPathBuf>,
    /// Whiteouts in attribute form, which do not look like whiteouts.
    xattr_whiteouts: BTreeSet<LayerPathBuf>,
    /// Names of lower layers that were brought up for hard links. The layer says nothing of them: a deletion takes
    /// them away again.
    fetched: BTreeSet<LayerPathBuf>,
    pub(crate) deferred: Vec<LateLink>,
}

impl OverlayForm {
    pub(crate) fn new(parents: Parents, namespace: Namespace) -> Self {
        let maybe = matches!(parents, Parents::Unknown);
        Self {
            lowers: Lowers::new(parents),
            namespace,
            implied: BTreeMap::from([(LayerPathBuf::root(), maybe)]),
            whiteout_dirs: BTreeSet::new(),
            xattr_whiteouts: BTreeSet::new(),
            fetched: BTreeSet::new(),
            deferred: Vec::new(),
        }
    }
}

/// Metadata and attributes of the directory `path` as lower layers have it, whether it is hidden or not.
pub(crate) fn as_below(
    engine: &mut Engine<'_, OverlayForm>,
    path: LayerPath<'_>,
) -> Result<(Metadata, Xattrs)> {
    let known = engine.form.lowers.describe(path, engine.options.keep_trusted_xattrs)?;
    Ok(known.unwrap_or_else(|| engine.options.implied_dir()))
}

/// Takes everything at and below `path` out of a set.
fn remove_below<V>(map: &mut BTreeMap<LayerPathBuf, V>, path: LayerPath<'_>) {
    let below = map.range(path.to_owned()..).take_while(|(have, _)| have.as_path().starts_with(path));
    let gone: Vec<LayerPathBuf> = below.map(|(path, _)| path.clone()).collect();
    for path in gone {
        map.remove(&path);
    }
}

impl Form for OverlayForm {
    const ZERO_DEVICE_IS_WHITEOUT: bool = true;

    fn is_whiteout(engine: &mut Engine<'_, Self>, dir: DirId, name: &[u8]) -> Result<bool> {
        match engine.stat(dir, name) {
            Ok(stat) => {
                let file_type = FileType::from_raw_mode(stat.st_mode);
                let device = file_type == FileType::CharacterDevice && stat.st_rdev == makedev(0, 0);
                let marked = || -> Result<bool> {
                    let path = engine.dirs.join(dir, name)?;
                    Ok(engine.form.xattr_whiteouts.contains(&path))
                };
                Ok(device || (file_type == FileType::RegularFile && marked()?))
            }
            Err(error) if error.kind() == &ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn below(engine: &mut Engine<'_, Self>, parent: LayerPath<'_>, name: &[u8]) -> Result<Below> {
        let spec = engine.options.is_spec();
        let Some(dir) = engine.form.lowers.visible_dir(parent)? else { return Ok(Below::Nothing) };
        Ok(match dir.lookup(name)?.map(|node| node.kind) {
            None | Some(NodeKind::Whiteout) => Below::Nothing,
            Some(NodeKind::Directory) => Below::Directory,
            // containerd makes a real directory, which hides what was there.
            Some(_) if !spec => Below::Nothing,
            Some(NodeKind::Symlink { target }) => Below::Link(target),
            Some(_) => Below::Other,
        })
    }

    fn implied(engine: &mut Engine<'_, Self>, path: LayerPath<'_>) -> Result<(Metadata, Xattrs)> {
        let hidden = path.parent().is_some_and(|parent| engine.form.lowers.is_hidden(parent));
        if hidden { Ok(engine.options.implied_dir()) } else { as_below(engine, path) }
    }

    fn clear(engine: &mut Engine<'_, Self>, dir: DirId, name: &[u8], want_dir: bool) -> Result<Cleared> {
        let path = engine.dirs.join(dir, name)?;
        if Self::is_whiteout(engine, dir, name)? {
            engine.form.xattr_whiteouts.remove(&path);
            remove_file(engine, dir, name)?;
            return Ok(Cleared::Gone { opaque: true });
        }
        let is_dir = FileType::from_raw_mode(engine.stat(dir, name)?.st_mode) == FileType::Directory;
        if is_dir && want_dir {
            return Ok(Cleared::Merge);
        }
        engine.warn_replaced(dir, name, !engine.form.implied.contains_key(&path))?;
        engine.remove_object(dir, name)?;
        Ok(Cleared::Gone { opaque: true })
    }

    fn placed_dir(engine: &mut Engine<'_, Self>, dir: DirId, placed: Placed) -> Result<()> {
        let path = engine.dirs.get(dir).path.clone();
        let opaque = match placed {
            Placed::Made { opaque } => opaque,
            Placed::Merged => {
                if engine.form.implied.remove(&path).is_none() {
                    engine.warn(WarningKind::DuplicateEntry, path.as_path(), b"");
                }
                return Ok(());
            }
            Placed::Implied { opaque } => {
                let maybe = !opaque && engine.form.lowers.may_shine_through(path.as_path());
                engine.form.implied.insert(path, maybe);
                opaque
            }
        };
        if opaque { hide(engine, dir) } else { Ok(()) }
    }

    fn placed(_: &mut Engine<'_, Self>, _: DirId, _: &[u8]) -> Result<()> {
        // Whatever is in the directory, but for whiteouts, this layer placed.
        Ok(())
    }

    fn is_placed(engine: &mut Engine<'_, Self>, dir: DirId, name: &[u8]) -> Result<bool> {
        match engine.stat(dir, name) {
            Ok(_) if engine.form.fetched.contains(&engine.dirs.join(dir, name)?) => Ok(false),
            Ok(_) => Ok(!Self::is_whiteout(engine, dir, name)?),
            Err(error) if error.kind() == &ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn forget(&mut self, path: LayerPath<'_>) {
        remove_below(&mut self.implied, path);
        self.lowers.forget(path);
        for set in [&mut self.whiteout_dirs, &mut self.xattr_whiteouts, &mut self.fetched] {
            for gone in below(set, path) {
                set.remove(&gone);
            }
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
            Place::Below => engine.make_dirs(walked.path.as_path())?,
            // Deleted with all below it already, or never there.
            Place::Nowhere { whiteout: true } if spec => return Ok(()),
            Place::Nowhere { whiteout: false }
                if spec && !engine.form.lowers.may_shine_through(walked.path.as_path()) =>
            {
                return Ok(());
            }
            Place::Nowhere { .. } => engine.make_dirs(walked.path.as_path())?,
        };
        let above = engine.dirs.get(dir).path.clone();
        if spec && engine.form.lowers.is_hidden(above.as_path()) {
            // The kernel would list the name when this layer is a lower one.
            return Ok(());
        }
        if !engine.form.lowers.is_unknown() {
            let lower = engine.form.lowers.visible_dir(above.as_path())?;
            // In a directory that no lower layer has nothing filters whiteouts either. The root is always merged.
            if spec && lower.is_none() && dir != ROOT {
                return Ok(());
            }
            let wanted =
                || lower.as_ref().map_or(Ok(false), |lower| lower.lookup(name).map(|node| node.is_some()));
            if engine.options.whiteout_if_present_in_lowers && !wanted()? {
                return Ok(());
            }
        }
        if spec { delete(engine, dir, name) } else { make_whiteout(engine, dir, name) }
    }

    fn opaque(engine: &mut Engine<'_, Self>, path: LayerPath<'_>) -> Result<()> {
        if path.is_root() {
            // Overlayfs ignores the marker there: the end of the layer finds other words for it.
            engine.form.lowers.opaque.insert(LayerPathBuf::root());
            return Ok(());
        }
        let spec = engine.options.is_spec();
        let Some(walked) = engine.walk_to_remove(path)? else { return Ok(()) };
        let dir = match walked.place {
            Place::Here(dir) => dir,
            Place::Nowhere { whiteout: true } if spec => return Ok(()),
            Place::Nowhere { whiteout: false }
                if spec && !engine.form.lowers.may_shine_through(walked.path.as_path()) =>
            {
                return Ok(());
            }
            Place::Below | Place::Nowhere { .. } => engine.make_dirs(walked.path.as_path())?,
        };
        hide(engine, dir)
    }

    fn fetch(engine: &mut Engine<'_, Self>, target: LayerPath<'_>) -> Result<bool> {
        let Some((parent, name)) = target.split_last() else { return Ok(false) };
        if !engine.options.is_spec() {
            return Ok(false);
        }
        let Some(lower) = engine.form.lowers.visible_dir(parent)? else { return Ok(false) };
        let Some(node) = lower.lookup(name)? else { return Ok(false) };
        let kind = match &node.kind {
            NodeKind::Directory => {
                return Err(Error::new(ErrorKind::InvalidArchive, "hard link to a directory"));
            }
            NodeKind::Socket | NodeKind::Whiteout => return Ok(false),
            kind => kind.clone(),
        };
        let dir = engine.make_dirs(parent)?;
        let attrs = engine.attrs(target, &node.metadata, &node.xattrs)?;
        match kind {
            NodeKind::File { size } => {
                let data = lower.open_file(name)?;
                engine.file(dir, name, &attrs, Content::from_range(&*data, 0, size))?;
            }
            NodeKind::Symlink { target } => engine.symlink(dir, name, &attrs, &target)?,
            NodeKind::CharDevice(device) => {
                engine.special(dir, name, &attrs, &EntryKind::CharDevice(device))?
            }
            NodeKind::BlockDevice(device) => {
                engine.special(dir, name, &attrs, &EntryKind::BlockDevice(device))?
            }
            _ => engine.special(dir, name, &attrs, &EntryKind::Fifo)?,
        }
        engine.form.fetched.insert(target.to_owned());
        Ok(true)
    }

    fn defer(&mut self, link: LateLink) -> Option<LateLink> {
        if !self.lowers.is_unknown() {
            return Some(link);
        }
        self.deferred.push(link);
        None
    }

    fn complete(engine: &mut Engine<'_, Self>) -> Result<()> {
        if !engine.form.lowers.is_root_opaque() || engine.form.lowers.is_unknown() {
            return Ok(());
        }
        let Some(lower) = engine.form.lowers.dir(LayerPath::ROOT)? else { return Ok(()) };
        engine.warn(WarningKind::RootOpaque, LayerPath::ROOT, b"");
        for name in lower.names()? {
            delete(engine, ROOT, &name)?;
        }
        Ok(())
    }

    fn marker_namespace(&self) -> Option<Namespace> {
        Some(self.namespace)
    }
}

/// Hides what lower layers have at `name` in `dir`.
pub(crate) fn delete(engine: &mut Engine<'_, OverlayForm>, dir: DirId, name: &[u8]) -> Result<()> {
    match make_whiteout(engine, dir, name) {
        // Something of the same layer: that counts, and hides as much. containerd fails here.
        Err(error) if error.kind() == &ErrorKind::Exists => keep_placed(engine, dir, name),
        made => made,
    }
}

/// A deletion meets what the layer itself has there: that stays, but a directory must not show lower children.
fn keep_placed(engine: &mut Engine<'_, OverlayForm>, dir: DirId, name: &[u8]) -> Result<()> {
    let path = engine.dirs.join(dir, name)?;
    if engine.form.fetched.remove(&path) {
        remove_file(engine, dir, name)?;
        return make_whiteout(engine, dir, name);
    }
    let is_dir = FileType::from_raw_mode(engine.stat(dir, name)?.st_mode) == FileType::Directory;
    if !is_dir {
        return Ok(());
    }
    if !holds_placed(engine, dir, name)? {
        // It was only made to hold deletions, which this one is the sum of.
        engine.remove_object(dir, name)?;
        return make_whiteout(engine, dir, name);
    }
    engine.dirs.pin(dir);
    let child = open_dir(engine, dir, name, path.as_path());
    engine.dirs.unpin(dir);
    hide(engine, child?)
}

fn open_dir(
    engine: &mut Engine<'_, OverlayForm>,
    dir: DirId,
    name: &[u8],
    path: LayerPath<'_>,
) -> Result<DirId> {
    match engine.dirs.find(path) {
        Some(open) => Ok(open),
        None => engine.open_child(dir, name),
    }
}

/// Whether the directory `name` in `dir` has an entry, or something with an entry is in it.
pub(crate) fn holds_placed(engine: &mut Engine<'_, OverlayForm>, dir: DirId, name: &[u8]) -> Result<bool> {
    let path = engine.dirs.join(dir, name)?;
    if !engine.form.implied.contains_key(&path) {
        return Ok(true);
    }
    engine.dirs.pin(dir);
    let child = open_dir(engine, dir, name, path.as_path());
    let found = child.and_then(|child| {
        engine.dirs.pin(child);
        let mut found = Ok(false);
        for name in engine.names(child)? {
            found = match OverlayForm::is_placed(engine, child, &name) {
                Ok(true) => holds_placed(engine, child, &name),
                other => other,
            };
            if !matches!(found, Ok(false)) {
                break;
            }
        }
        engine.dirs.unpin(child);
        found
    });
    engine.dirs.unpin(dir);
    found
}

/// Makes a directory opaque. Whiteouts in it have no purpose from then on, and would be listed.
pub(crate) fn hide(engine: &mut Engine<'_, OverlayForm>, dir: DirId) -> Result<()> {
    let path = engine.dirs.get(dir).path.clone();
    marker::set_opaque(engine.dirs.fd(dir), engine.form.namespace).map_err(|e| e.at(path.as_path()))?;
    let again = !engine.form.lowers.opaque.insert(path.clone());
    if again || !engine.options.is_spec() {
        return Ok(());
    }
    for found in below(&engine.form.fetched, path.as_path()) {
        engine.form.fetched.remove(&found);
        if let Some((parent, name)) = found.as_path().split_last() {
            let above = engine.make_dirs(parent)?;
            remove_file(engine, above, name)?;
        }
    }
    for found in below(&engine.form.whiteout_dirs, path.as_path()) {
        engine.form.whiteout_dirs.remove(&found);
        remove_whiteouts(engine, found.as_path())?;
    }
    // So have directories that were only made to hold such, or to be opaque themselves. Innermost first.
    let inside = engine.form.implied.range(path.clone()..).map(|(path, _)| path);
    let inside: Vec<LayerPathBuf> = inside
        .take_while(|have| have.as_path().starts_with(path.as_path()))
        .skip_while(|have| **have == path)
        .cloned()
        .collect();
    for found in inside.iter().rev() {
        remove_if_empty(engine, found.as_path())?;
    }
    Ok(())
}

fn remove_if_empty(engine: &mut Engine<'_, OverlayForm>, path: LayerPath<'_>) -> Result<()> {
    let Some((parent, name)) = path.split_last() else { return Ok(()) };
    let dir = engine.make_dirs(parent)?;
    let uid = engine.kernel.uid;
    match engine.dirs.work(dir, uid, |fd| unlinkat(fd, name, AtFlags::REMOVEDIR)) {
        Ok(()) => engine.forget(path),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
        Err(error) => Err(Error::io("remove directory", error).at(path)),
    }
}

/// Removes the whiteouts in one directory of the target.
pub(crate) fn remove_whiteouts(engine: &mut Engine<'_, OverlayForm>, path: LayerPath<'_>) -> Result<()> {
    let dir = engine.make_dirs(path)?;
    engine.dirs.pin(dir);
    let names = engine.names(dir)?;
    for name in names {
        if OverlayForm::is_whiteout(engine, dir, &name)? {
            let path = engine.dirs.join(dir, &name)?;
            engine.form.xattr_whiteouts.remove(&path);
            remove_file(engine, dir, &name)?;
        }
    }
    engine.dirs.unpin(dir);
    Ok(())
}

pub(crate) fn remove_file(engine: &mut Engine<'_, OverlayForm>, dir: DirId, name: &[u8]) -> Result<()> {
    let uid = engine.kernel.uid;
    engine
        .dirs
        .work(dir, uid, |fd| unlinkat(fd, name, AtFlags::empty()))
        .map_err(|e| Error::io("remove whiteout", e))
}

fn make_whiteout(engine: &mut Engine<'_, OverlayForm>, dir: DirId, name: &[u8]) -> Result<()> {
    let path = engine.dirs.join(dir, name)?;
    let uid = engine.kernel.uid;
    let form = engine.options.whiteout_form;
    let device = match form {
        WhiteoutForm::Xattr => Err(Errno::PERM),
        _ if !engine.kernel.makes_device_whiteouts() => Err(Errno::PERM),
        _ => engine.dirs.work(dir, uid, |fd| mknodat(fd, name, FileType::CharacterDevice, Mode::empty(), 0)),
    };
    match device {
        Ok(()) => {}
        Err(Errno::PERM) if form != WhiteoutForm::Device && engine.kernel.knows_xattr_whiteouts() => {
            engine.dirs.get_mut(dir).touched = true;
            marker::make_xattr_whiteout(engine.dirs.fd(dir), name, engine.form.namespace)
                .map_err(|e| e.at(path.as_path()))?;
            engine.form.xattr_whiteouts.insert(path.clone());
        }
        Err(error) => return Err(Error::io("make whiteout", error).at(path.as_path())),
    }
    engine.made_name(path.as_path());
    let above = engine.dirs.get(dir).path.clone();
    engine.form.whiteout_dirs.insert(above);
    Ok(())
}
