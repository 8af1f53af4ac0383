//! Mends a layer that was applied before its parents were there.

use std::os::fd::AsFd;

use layer_model::{
    Base, Error, ErrorKind, IoContext, LayerPath, LayerPathBuf, LayerTree, Monitor, Result,
    tree::LayerTreeExt,
};
use overlay_dir::OverlayDir;
use rustix::{
    fs::{AtFlags, Mode, RenameFlags, openat, renameat_with, unlinkat},
    io::Errno,
};

use super::{
    form::{OverlayForm, as_below, delete, hide, holds_placed, remove_file, remove_whiteouts},
    root_opaque_unsupported,
};
use crate::{
    engine::{Engine, Form, LateLink},
    fs::{
        dirs::{DirId, OpenDir},
        kernel::{DIRECTORY, Kernel},
    },
    lowers::Parents,
    options::ApplyOptions,
    walk::{Below, Place},
};

/// What a layer that was applied without its parents needs them for.
///
/// Plain data: it may be kept until the parents are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pending {
    /// Directories that no entry describes, in layer order; they look like [`layer_model::Metadata::IMPLIED_DIR`]
    /// until then. The root is among them unless it has an entry that counts.
    pub implied_dirs: Vec<LayerPathBuf>,
    /// Directories with whiteouts. Where no parent has the directory they hide nothing, and would be listed.
    pub whiteout_dirs: Vec<LayerPathBuf>,
    /// Whether the layer hides everything below it.
    pub root_opaque: bool,
    links: Vec<LateLink>,
}

impl Pending {
    /// Of a layer of which only the implied directories are known, as [`layer_model::Applied`] reports them.
    pub fn from_implied_dirs(implied_dirs: Vec<LayerPathBuf>) -> Self {
        Self { implied_dirs, ..Self::default() }
    }

    /// Whether no parent needs to be asked.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The hard links that are not made yet, as their target is in another layer: name and target.
    pub fn links(&self) -> impl Iterator<Item = (LayerPath<'_>, LayerPath<'_>)> {
        self.links.iter().map(|link| (link.path.as_path(), link.target.as_path()))
    }

    pub(super) fn of(form: &OverlayForm) -> Self {
        if !form.lowers.is_unknown() {
            return Self::default();
        }
        let implied = form.implied.iter().filter(|(_, maybe)| **maybe);
        Self {
            implied_dirs: implied.map(|(path, _)| path.clone()).collect(),
            whiteout_dirs: form
                .whiteout_dirs
                .iter()
                .filter(|path| !path.as_path().is_root())
                .cloned()
                .collect(),
            root_opaque: form.lowers.is_root_opaque(),
            links: form.deferred.clone(),
        }
    }

    pub(super) fn refuse_more_than_directories(&self) -> Result<()> {
        if self.root_opaque {
            return Err(root_opaque_unsupported());
        }
        match self.links.first() {
            Some(link) => {
                let message = "hard link to another layer, and the parents are not known";
                Err(Error::new(ErrorKind::NotFound, message).at(link.path.as_path()))
            }
            None => Ok(()),
        }
    }
}

/// Completes a layer that was applied with its parents unknown, now that they are there: the result is what
/// applying it to them would have given.
///
/// Implied directories get the metadata of the nearest parent that has them, hard links to other layers are made
/// (their target is copied up), an opaque root is written as whiteouts, whiteouts without a purpose go. Where a parent
/// has a symbolic link, what the layer has below is moved to where the link leads.
///
/// `options` are those of the apply. An error leaves the layer partly mended; it may be tried again.
///
/// # Errors
/// [`ErrorKind::NotDirectory`] where a parent has a file; [`ErrorKind::Exists`] when two names of the layer turn out
/// to be one; [`ErrorKind::NotFound`] for a hard link to nothing; those of the operating system.
pub fn reconcile<P: LayerTree + Clone + 'static>(
    layer: &OverlayDir,
    pending: &Pending,
    parents: Base<'_, P>,
    options: &ApplyOptions,
    monitor: &dyn Monitor,
) -> Result<()> {
    if matches!(parents, Base::Unknown) {
        return Err(Error::new(ErrorKind::InvalidArgument, "the parents are still unknown"));
    }
    if pending.is_empty() {
        return Ok(());
    }
    let kernel = Kernel::probe(options.kernel);
    let root = openat(layer.as_fd(), c".", DIRECTORY, Mode::empty()).during("open layer")?;
    let root = OpenDir::new(root, LayerPathBuf::root(), true)?;
    let mut form = OverlayForm::new(Parents::of(parents), layer.namespace());
    form.implied.extend(pending.implied_dirs.iter().map(|path| (path.clone(), false)));
    let mut engine = Engine::new(options.clone(), kernel, root, form, true, monitor);
    Mending { engine: &mut engine, layer, moved: Vec::new() }.run(pending)
}

struct Mending<'e, 'm> {
    engine: &'e mut Engine<'m, OverlayForm>,
    layer: &'e OverlayDir,
    /// Directories that are elsewhere now.
    moved: Vec<(LayerPathBuf, LayerPathBuf)>,
}

impl Mending<'_, '_> {
    fn run(&mut self, pending: &Pending) -> Result<()> {
        if pending.root_opaque {
            self.engine.form.lowers.opaque.insert(LayerPathBuf::root());
        }
        // Outermost first: what is below a link goes with the directory.
        for path in &pending.implied_dirs {
            if self.engine.monitor.should_stop() {
                return Err(Error::cancelled());
            }
            let path = self.now_at(path)?;
            self.implied_dir(path.as_path()).map_err(|e| e.at(path.as_path()))?;
        }
        for path in &pending.whiteout_dirs {
            let path = self.now_at(path)?;
            self.whiteouts(path.as_path())?;
        }
        // Innermost first: a directory that only held such whiteouts was never needed.
        for path in pending.implied_dirs.iter().rev() {
            let path = self.now_at(path)?;
            self.drop_if_unused(path.as_path())?;
        }
        for link in &pending.links {
            let (path, target) = (self.now_at(&link.path)?, self.now_at(&link.target)?);
            self.engine.hard_link(path.as_path(), target.as_path(), &link.metadata, &link.xattrs)?;
        }
        self.engine.finish()
    }

    /// Where `path` is after the moves.
    fn now_at(&self, path: &LayerPathBuf) -> Result<LayerPathBuf> {
        let mut path = path.clone();
        for (from, to) in &self.moved {
            if path.as_path().starts_with(from.as_path()) {
                let rest = path.as_path().components().skip(from.as_path().depth());
                let mut there = to.clone();
                for name in rest {
                    there.push(name)?;
                }
                path = there;
            }
        }
        Ok(path)
    }

    /// Learns from the layer whether `path` or something above it is opaque.
    fn learn_opaque(&mut self, path: LayerPath<'_>) -> Result<()> {
        for above in path.ancestors().chain([path]) {
            if let Some(node) = self.layer.lookup_path(above)?
                && node.markers.opaque
                && !above.is_root()
            {
                self.engine.form.lowers.opaque.insert(above.to_owned());
            }
        }
        Ok(())
    }

    /// Gives one directory what the parents know of it.
    fn implied_dir(&mut self, path: LayerPath<'_>) -> Result<()> {
        self.learn_opaque(path)?;
        let Some((parent, name)) = path.split_last() else {
            let implied = OverlayForm::implied(self.engine, path)?;
            return self.engine.describe_implied(path, &implied);
        };
        if !self.layer.lookup_path(path)?.is_some_and(|node| node.is_dir()) {
            return Ok(());
        }
        if self.engine.form.lowers.is_hidden(parent) {
            // Hidden by a mark that came after it was made: what it looks like was settled before that.
            let implied = as_below(self.engine, path)?;
            return self.engine.describe_implied(path, &implied);
        }
        match OverlayForm::below(self.engine, parent, name)? {
            Below::Directory => {
                let implied = as_below(self.engine, path)?;
                self.engine.describe_implied(path, &implied)
            }
            Below::Nothing => Ok(()),
            Below::Link(_) => self.move_through_link(path),
            Below::Other => {
                let Place::Here(dir) = self.engine.walk(parent)?.place else { return Ok(()) };
                if holds_placed(self.engine, dir, name)? {
                    return Err(Error::new(ErrorKind::NotDirectory, "a parent has something else there"));
                }
                // Below something else there is nothing to delete.
                self.engine.remove_object(dir, name)
            }
        }
    }

    /// Moves what the layer has in the directory `path` to where the parents' link of that name leads.
    fn move_through_link(&mut self, path: LayerPath<'_>) -> Result<()> {
        let Some((parent, name)) = path.split_last() else { return Ok(()) };
        let engine = &mut *self.engine;
        let above = engine.parent_dir(parent)?;
        engine.dirs.pin(above);
        let uid = engine.kernel.uid;
        // Out of the way, under a name that no layer has: only then the parents' link is seen.
        let aside = [b".layerkit-moved-".as_slice(), name].concat();
        let aside = &aside[..aside.len().min(255)];
        engine.forget(path)?;
        let io = |e: Errno| Error::io("move directory", e);
        engine
            .dirs
            .work(above, uid, |fd| renameat_with(fd, name, fd, aside, RenameFlags::NOREPLACE))
            .map_err(io)?;
        let to = engine.walk(path)?;
        let into = match to.place {
            Place::Here(dir) => dir,
            _ => engine.make_dirs(to.path.as_path())?,
        };
        engine.dirs.pin(into);
        let from = engine.open_child(above, aside)?;
        engine.dirs.pin(from);
        let merged = merge_children(engine, from, into);
        engine.dirs.unpin(from);
        engine.dirs.unpin(into);
        let aside_path = engine.dirs.join(above, aside)?;
        engine.forget(aside_path.as_path())?;
        merged?;
        engine.dirs.work(above, uid, |fd| unlinkat(fd, aside, AtFlags::REMOVEDIR)).map_err(io)?;
        engine.dirs.unpin(above);
        self.moved.push((path.to_owned(), to.path));
        Ok(())
    }

    /// Removes whiteouts of `path` if no parent has the directory.
    fn whiteouts(&mut self, path: LayerPath<'_>) -> Result<()> {
        self.learn_opaque(path)?;
        if !self.layer.lookup_path(path)?.is_some_and(|node| node.is_dir()) {
            return Ok(());
        }
        if self.engine.form.lowers.is_hidden(path) || self.engine.form.lowers.dir(path)?.is_none() {
            remove_whiteouts(self.engine, path)?;
        }
        Ok(())
    }

    /// Removes the directory `path` if it is empty and hides nothing: it looks as if it was not there.
    fn drop_if_unused(&mut self, path: LayerPath<'_>) -> Result<()> {
        let Some((parent, name)) = path.split_last() else { return Ok(()) };
        let hides = self.engine.form.lowers.is_hidden(path) && !self.engine.form.lowers.is_hidden(parent);
        if hides && self.engine.form.lowers.dir(path)?.is_some() {
            return Ok(());
        }
        let above = self.engine.walk_to_remove(parent)?.map(|walked| walked.place);
        let Some(Place::Here(dir)) = above else { return Ok(()) };
        let uid = self.engine.kernel.uid;
        match self.engine.dirs.work(dir, uid, |fd| unlinkat(fd, name, AtFlags::REMOVEDIR)) {
            Ok(()) => self.engine.forget(path),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(Error::io("remove directory", error).at(path)),
        }
    }
}

/// Moves all that is in `from` into `into`; directories of the same name are merged.
fn merge_children(engine: &mut Engine<'_, OverlayForm>, from: DirId, into: DirId) -> Result<()> {
    let uid = engine.kernel.uid;
    for name in engine.names(from)? {
        let path = engine.dirs.join(into, &name)?;
        if OverlayForm::is_whiteout(engine, from, &name)? {
            remove_file(engine, from, &name)?;
            delete(engine, into, &name)?;
            continue;
        }
        let source =
            engine.dirs.fd(from).try_clone_to_owned().map_err(|e| Error::io("duplicate descriptor", e))?;
        let mut in_place_of_whiteout = false;
        loop {
            engine.dirs.get_mut(from).touched = true;
            let moved = engine
                .dirs
                .work(into, uid, |fd| renameat_with(&source, &*name, fd, &*name, RenameFlags::NOREPLACE));
            match moved {
                Ok(()) => break engine.made_name(path.as_path()),
                Err(Errno::EXIST) if OverlayForm::is_whiteout(engine, into, &name)? => {
                    remove_file(engine, into, &name)?;
                    in_place_of_whiteout = true;
                }
                Err(Errno::EXIST) => break merge_directories(engine, from, into, &name)?,
                Err(error) => return Err(Error::io("move", error).at(path.as_path())),
            }
        }
        if in_place_of_whiteout && let Ok(dir) = engine.open_child(into, &name) {
            hide(engine, dir)?;
        }
    }
    Ok(())
}

/// Moves what is in the directory `name` of `from` into that of `into`.
fn merge_directories(
    engine: &mut Engine<'_, OverlayForm>,
    from: DirId,
    into: DirId,
    name: &[u8],
) -> Result<()> {
    let path = engine.dirs.join(into, name)?;
    let (Ok(sub_from), Ok(sub_into)) = (engine.open_child(from, name), engine.open_child(into, name)) else {
        return Err(Error::new(ErrorKind::Exists, "two names of the layer are one").at(path.as_path()));
    };
    for dir in [sub_from, sub_into] {
        engine.dirs.pin(dir);
    }
    // As deep as paths may be, which is bounded.
    let merged = merge_children(engine, sub_from, sub_into);
    for dir in [sub_from, sub_into] {
        engine.dirs.unpin(dir);
    }
    merged?;
    let left = engine.dirs.join(from, name)?;
    engine.forget(left.as_path())?;
    let uid = engine.kernel.uid;
    engine
        .dirs
        .work(from, uid, |fd| unlinkat(fd, name, AtFlags::REMOVEDIR))
        .map_err(|e| Error::io("remove directory", e).at(left.as_path()))
}
