//! Hard links, also to what comes later or lies in another layer.

use layer_model::{
    Error, ErrorKind, LayerPath, LayerPathBuf, Metadata, Result, WarningKind, Xattrs, path::Printable,
};
use rustix::{
    fs::{AtFlags, FileType, Stat, linkat},
    io::Errno,
};

use super::{Attrs, Engine, Form};
use crate::{fs::dirs::DirId, walk::Place};

/// A hard link whose target was not there when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LateLink {
    pub(crate) path: LayerPathBuf,
    pub(crate) target: LayerPathBuf,
    pub(crate) metadata: Metadata,
    pub(crate) xattrs: Xattrs,
    pub(crate) index: u64,
}

impl LateLink {
    /// Of the `entries`th entry of a layer.
    pub(crate) fn new(
        path: LayerPath<'_>,
        target: LayerPath<'_>,
        metadata: &Metadata,
        xattrs: &Xattrs,
        entries: u64,
    ) -> Self {
        Self {
            path: path.to_owned(),
            target: target.to_owned(),
            metadata: *metadata,
            xattrs: xattrs.clone(),
            index: entries.saturating_sub(1),
        }
    }

    /// Settles the links whose targets came after them, and gives those that are left. `settle` says whether one is
    /// done with; each round may provide targets for the next.
    pub(crate) fn settle_all(
        mut links: Vec<Self>,
        mut settle: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<Vec<Self>> {
        loop {
            let before = links.len();
            let mut missed = Vec::new();
            for link in links {
                if !settle(&link)? {
                    missed.push(link);
                }
            }
            links = missed;
            if links.is_empty() || links.len() == before {
                return Ok(links);
            }
        }
    }
}

/// Refuses what no hard link can be, before anything is looked at.
pub(crate) fn check_link(path: LayerPath<'_>, target: LayerPath<'_>) -> Result<()> {
    if target.is_root() {
        return Err(invalid("hard link to a directory"));
    }
    if target.starts_with(path) {
        // What is at the path would be removed before the link could be made.
        return Err(invalid("hard link to itself or to what it replaces"));
    }
    Ok(())
}

pub(crate) fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidArchive, message)
}

impl<F: Form> Engine<'_, F> {
    pub(crate) fn hard_link(
        &mut self,
        path: LayerPath<'_>,
        target: LayerPath<'_>,
        metadata: &Metadata,
        xattrs: &Xattrs,
    ) -> Result<()> {
        check_link(path, target)?;
        if self.skipped_devices.contains(&target.to_owned()) {
            self.warn(WarningKind::DeviceSkipped, path, b"hardlink");
            self.skipped_devices.insert(path.to_owned());
            return Ok(());
        }
        if self.try_link(path, target, metadata, xattrs)? {
            return Ok(());
        }
        let link = LateLink::new(path, target, metadata, xattrs, self.budget.entries);
        if !self.options.is_spec() {
            return Err(missing(&link));
        }
        self.late.push(link);
        Ok(())
    }

    /// Makes the link if its target is there.
    pub(crate) fn try_link(
        &mut self,
        path: LayerPath<'_>,
        target: LayerPath<'_>,
        metadata: &Metadata,
        xattrs: &Xattrs,
    ) -> Result<bool> {
        let Some((from, stat)) = self.link_target(target)? else { return Ok(false) };
        let (Some(target_name), Some((parent, name))) = (target.file_name(), path.split_last()) else {
            return Err(invalid("hard link over the root"));
        };
        let attrs = self.attrs(path, metadata, xattrs)?;
        self.dirs.pin(from);
        let linked = self.link_into(from, target_name, &stat, parent, name, &attrs);
        self.dirs.unpin(from);
        linked.map(|()| true)
    }

    /// The directory that holds the target, and what the target is; [`None`] when there is none.
    fn link_target(&mut self, target: LayerPath<'_>) -> Result<Option<(DirId, Stat)>> {
        let Some((parent, name)) = target.split_last() else { return Ok(None) };
        // The second look is after the target was fetched from a lower layer.
        for _ in 0..2 {
            let walked = self.walk(parent)?;
            let place = match walked.place {
                Place::Here(dir) => match self.stat(dir, name) {
                    Ok(stat) => Some((dir, stat)),
                    Err(error) if error.kind() == &ErrorKind::NotFound => None,
                    Err(error) => return Err(error),
                },
                Place::Below => None,
                Place::Nowhere { .. } => return Ok(None),
            };
            if let Some((dir, stat)) = place {
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    return Err(invalid("hard link to a directory"));
                }
                if F::is_whiteout(self, dir, name)? {
                    return Ok(None);
                }
                return Ok(Some((dir, stat)));
            }
            if !F::fetch(self, walked.path.as_path().join(name)?.as_path())? {
                return Ok(None);
            }
        }
        Ok(None)
    }

    fn link_into(
        &mut self,
        from: DirId,
        target_name: &[u8],
        stat: &Stat,
        parent: LayerPath<'_>,
        name: &[u8],
        attrs: &Attrs<'_>,
    ) -> Result<()> {
        let dir = self.parent_dir(parent)?;
        if dir == from && name == target_name {
            return Err(invalid("hard link to itself"));
        }
        self.dirs.pin(dir);
        let from_fd =
            self.dirs.fd(from).try_clone_to_owned().map_err(|e| Error::io("duplicate descriptor", e))?;
        let made = self.make(dir, name, "create hard link", |fd| {
            linkat(&from_fd, target_name, fd, name, AtFlags::empty())
        });
        self.dirs.unpin(dir);
        made?;
        let path = self.dirs.join(dir, name)?;
        self.describe_shared(dir, name, path.as_path(), attrs, stat)
    }

    /// Makes the links whose targets came after them.
    pub(crate) fn late_links(&mut self) -> Result<()> {
        let left = LateLink::settle_all(std::mem::take(&mut self.late), |link| {
            let (path, target) = (link.path.as_path(), link.target.as_path());
            if self.is_overtaken(link)? {
                self.warn(WarningKind::DuplicateEntry, path, b"");
                return Ok(true);
            }
            self.try_link(path, target, &link.metadata, &link.xattrs)
        })?;
        for link in left {
            if let Some(link) = self.form.defer(link) {
                return Err(missing(&link));
            }
        }
        Ok(())
    }

    /// Whether a later entry of the layer is at the link's path: the last one counts.
    fn is_overtaken(&mut self, link: &LateLink) -> Result<bool> {
        let Some((parent, name)) = link.path.as_path().split_last() else { return Ok(true) };
        match self.walk(parent)?.place {
            Place::Here(dir) => F::is_placed(self, dir, name),
            Place::Below | Place::Nowhere { .. } => Ok(false),
        }
    }
}

/// The error of a link that found no target.
pub(crate) fn missing(link: &LateLink) -> Error {
    let message =
        format!("hard link to {}, which does not exist", Printable(link.target.as_path().as_bytes()));
    Error::new(ErrorKind::NotFound, message)
        .at(link.path.as_path())
        .index(link.index)
        .cause(std::io::Error::from(Errno::NOENT))
}
