//! Links: those that are made at once, and those that wait for their targets.

use layer_model::{Error, ErrorKind, Result};

use super::{Parents, Planner, Queued, Role, What, conflict};
use crate::{CimKind, CimOp, CimPath, CimProfile, CimSink};

/// A link that is made at the end.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) path: CimPath,
    pub(super) target: CimPath,
}

/// Where a link leads, once all of the layer is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leads {
    /// To a file of this image.
    Here,
    /// To a file that an image below has.
    Below,
}

impl<K: CimSink> Planner<'_, K> {
    /// Gives the file `target` another name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] for a link in the place of a hive, [`ErrorKind::ConflictingEntries`],
    /// [`ErrorKind::IsDirectory`], [`ErrorKind::NotFound`] for a target that nobody has, and errors of the sink. What
    /// can only be seen at the end is an error of [`Planner::finish`].
    pub fn link(&mut self, path: &CimPath, target: &CimPath) -> Result<()> {
        self.guard(|this| this.try_link(path, target))
    }

    fn try_link(&mut self, path: &CimPath, target: &CimPath) -> Result<()> {
        self.nothing_open()?;
        let (key, target_key) = (path.key(), target.key());
        if path.is_root() || target.is_root() {
            return Err(Error::new(ErrorKind::InvalidArchive, "the root is no link, nor linked"));
        }
        if key == target_key {
            return Err(Error::new(ErrorKind::InvalidArchive, "a link to itself"));
        }
        if self.std_files.find(path, &key).is_some() {
            let what = "a link in the place of a file that is kept in the layer directory";
            return Err(Error::new(ErrorKind::InvalidArchive, what));
        }
        match self.seen.get(&key).map(|seen| seen.what) {
            None => {}
            Some(What::File | What::Removed) if self.kind == CimKind::Forked => {}
            Some(What::Dir | What::ImpliedDir) => {
                return Err(conflict("the layer has a directory of this name"));
            }
            Some(_) => return Err(conflict("the layer says something else about this name")),
        }
        self.add_parents(path)?;
        self.planned.entries += 1;
        if self.kind == CimKind::Forked && self.is_there(target)? {
            self.sink.op(&CimOp::HardLink { path, target })?;
            self.saw(path, key, What::File);
        } else {
            self.saw(path, key, What::Link(self.queue.len()));
            self.queue.push(Queued::Link(Link { path: path.clone(), target: target.clone() }));
        }
        Ok(())
    }

    /// Whether a forked image has the file `target` already. What comes later is waited for.
    fn is_there(&self, target: &CimPath) -> Result<bool> {
        match self.seen.get(&target.key()).map(|seen| seen.what) {
            Some(What::File) => Ok(true),
            Some(What::Removed) => Err(missing(target, "the layer removes it")),
            Some(What::Dir | What::ImpliedDir) => Err(directory(target)),
            Some(What::StdFile(_) | What::Link(_)) => Ok(false),
            None => match &self.role {
                Role::Child(Parents { view: Some(view), .. }) => match view.find(target)? {
                    Some(meta) if meta.holds_entries() => Err(directory(target)),
                    found => Ok(found.is_some()),
                },
                _ => Ok(false),
            },
        }
    }

    /// Puts the queue into an order in which every link comes after what it leads to: the order in which things were
    /// queued, but for that.
    pub(super) fn ordered_queue(&self) -> Result<Vec<usize>> {
        let mut ordered = Vec::with_capacity(self.queue.len());
        if self.options.profile == CimProfile::Hcsshim {
            ordered.extend(0..self.queue.len());
            return Ok(ordered);
        }
        let mut done = vec![false; self.queue.len()];
        // Links whose target was not there yet, by what they wait for.
        let mut waiting: Vec<Vec<usize>> = vec![Vec::new(); self.queue.len()];
        for first in 0..self.queue.len() {
            match self.waits_for(first).filter(|before| !done[*before]) {
                Some(before) => waiting[before].push(first),
                None => {
                    let mut ready = vec![first];
                    while let Some(at) = ready.pop() {
                        done[at] = true;
                        ordered.push(at);
                        // popped from the end: the one queued first is next
                        ready.extend(waiting[at].drain(..).rev());
                    }
                }
            }
        }
        match done.iter().position(|done| !done) {
            None => Ok(ordered),
            Some(at) => {
                let what = "hard links that lead to each other";
                Err(Error::new(ErrorKind::InvalidArchive, what).entry(self.queue[at].path().as_bytes()))
            }
        }
    }

    /// The place in the queue of what the link at `at` leads to.
    fn waits_for(&self, at: usize) -> Option<usize> {
        let Queued::Link(link) = &self.queue[at] else { return None };
        match self.seen.get(&link.target.key())?.what {
            What::StdFile(before) | What::Link(before) => Some(before),
            _ => None,
        }
    }

    /// Makes a link of the queue, when all that is before it has been made.
    pub(super) fn make_link(&mut self, link: &Link) -> Result<()> {
        let (path, target) = (&link.path, &link.target);
        let leads = self.leads(target).map_err(|error| error.entry(path.as_bytes()))?;
        match leads {
            Leads::Here => {
                self.sink.op(&CimOp::HardLink { path, target })?;
                self.saw(path, path.key(), What::File);
            }
            Leads::Below => self.sink.op(&CimOp::MergeLink { path, target })?,
        }
        Ok(())
    }

    fn leads(&self, target: &CimPath) -> Result<Leads> {
        match (self.seen.get(&target.key()).map(|seen| seen.what), self.kind) {
            (Some(What::File), _) => Ok(Leads::Here),
            (Some(What::Dir | What::ImpliedDir), _) => Err(directory(target)),
            (Some(What::Removed), CimKind::Forked) => Err(missing(target, "the layer removes it")),
            (Some(What::Removed), CimKind::Block) => {
                Err(conflict(&format!("the layer removes {target}, and links to it")))
            }
            // One that was made stays a link only if it leads below.
            (Some(What::Link(_) | What::StdFile(_)), _) => Ok(Leads::Below),
            (None, kind) => match (&self.role, kind) {
                (Role::Base, _) => Err(missing(target, "it is not in this layer, which has no parents")),
                (Role::Child(_), CimKind::Block) => Ok(Leads::Below),
                // The image itself knows better than a view that is not there.
                (Role::Child(Parents { view: None, .. }), CimKind::Forked) => Ok(Leads::Here),
                (Role::Child(_), CimKind::Forked) => {
                    Err(missing(target, "neither the layer nor its parents have it"))
                }
            },
        }
    }
}

impl Queued {
    pub(super) fn path(&self) -> &CimPath {
        match self {
            Self::Spooled { path, .. } | Self::Dir { path, .. } | Self::MergedHive { path, .. } => path,
            Self::Link(link) => &link.path,
        }
    }
}

fn missing(target: &CimPath, why: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("a hard link to {target}: {why}"))
}

fn directory(target: &CimPath) -> Error {
    Error::new(ErrorKind::IsDirectory, format!("a hard link to {target}, which is a directory"))
}
