//! From what a layer says to what is done to its image.
//!
//! A CIM takes files as they come, but a layer cannot be written that way alone: hives and boot files are kept in the
//! layer directory, too, and go into the image at the end; links may come before their targets; a base layer gets
//! files that its archive lacks, and a layer above it needs hives of its parents. [`Planner`] does all of that, for any
//! [`CimSink`]. The rules are those of hcsshim's layer writers, less their mistakes.
//!
//! Operations come in the order of the events; at the end follow merged hives, then what was queued (files of the
//! layer directory and links, those before others that depend on them), then what the role of the layer adds.

use std::{collections::HashMap, fmt, hash::BuildHasher};

use layer_model::{Content, Error, ErrorKind, Monitor, Result, Warning, WarningKind};

use crate::{
    Attributes, CimKind, CimOp, CimPath, CimProfile, CimSink, FileMeta, LayerEvent, StreamName,
    hive::HivePolicy, path::PathKey,
};

mod close;
mod layer_dir;
mod links;
mod parents;
mod std_files;

pub use layer_dir::LayerDir;
pub use parents::{HiveSource, ParentView, Parents};

use layer_dir::Spool;
use links::Link;
use std_files::{StdFile, StdFiles};

/// How layers are imported.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct PlanOptions<'a> {
    profile: CimProfile,
    hives: HivePolicy<'a>,
}

impl<'a> PlanOptions<'a> {
    /// Which behaviour is followed.
    #[must_use]
    pub fn profile(mut self, profile: CimProfile) -> Self {
        self.profile = profile;
        self
    }

    /// What is done about hives that have to be merged.
    #[must_use]
    pub fn hives(mut self, policy: HivePolicy<'a>) -> Self {
        self.hives = policy;
        self
    }
}

/// What a layer is imported on top of.
#[derive(Debug)]
pub enum Role<'a> {
    /// Nothing: it brings the hives.
    Base,
    /// These parents.
    Child(Parents<'a>),
}

/// What a finished plan comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Planned {
    /// How many events there were.
    pub entries: u64,
    /// The sizes of the main streams of all files added.
    pub bytes: u64,
    /// Directories that the layer implied and no parent could describe, as the parents could not be looked into.
    pub implied: Vec<CimPath>,
    /// Hives that are still to be merged, by their names below `Hives`.
    pub recorded_hives: Vec<&'static str>,
}

/// Turns what a layer says into operations.
///
/// The image has been created already ([`CimOp::CreateImage`]). One file or stream can be open at a time; its bytes
/// come through [`Planner::write`]. After an error the plan is spent: [`Planner::discard`] it.
pub struct Planner<'a, K> {
    sink: K,
    kind: CimKind,
    role: Role<'a>,
    dir: LayerDir,
    options: PlanOptions<'a>,
    monitor: &'a dyn Monitor,
    std_files: StdFiles,
    seen: HashMap<PathKey, Seen>,
    queue: Vec<Queued>,
    open: Option<Open>,
    planned: Planned,
    failed: bool,
}

/// What the layer has said about a path.
#[derive(Clone, Copy, Debug)]
struct Seen {
    what: What,
    /// A hash of the spelling: two spellings of one path in one layer are a mistake.
    spelling: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Dir,
    /// A directory that the layer only implied.
    ImpliedDir,
    File,
    /// A file of the layer directory, which is added at the end: its place in the queue.
    StdFile(usize),
    /// A link that is made at the end: its place in the queue.
    Link(usize),
    Removed,
}

/// What is done at the end.
#[derive(Debug)]
enum Queued {
    /// A file of the layer directory is added.
    Spooled { path: CimPath, host: CimPath, meta: FileMeta },
    /// A link is made.
    Link(Link),
    /// A directory is added.
    Dir { path: CimPath, meta: FileMeta },
    /// A hive is added that somebody else will merge.
    MergedHive { path: CimPath, meta: FileMeta },
}

/// The stream that bytes go to.
#[derive(Debug)]
struct Open {
    size: u64,
    left: u64,
    to: Destination,
}

#[derive(Debug)]
enum Destination {
    Image,
    Host { spool: Spool, path: CimPath },
}

impl<K> fmt::Debug for Planner<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Planner")
            .field("kind", &self.kind)
            .field("role", &self.role)
            .field("planned", &self.planned)
            .finish_non_exhaustive()
    }
}

impl<'a, K: CimSink> Planner<'a, K> {
    /// A plan for an image that `sink` has just created, with `dir` for the files kept outside of it.
    pub fn new(
        sink: K,
        kind: CimKind,
        role: Role<'a>,
        dir: LayerDir,
        options: PlanOptions<'a>,
        monitor: &'a dyn Monitor,
    ) -> Self {
        let planned = Planned { entries: 0, bytes: 0, implied: Vec::new(), recorded_hives: Vec::new() };
        let std_files = StdFiles::new(options.profile);
        let (seen, queue) = (HashMap::new(), Vec::new());
        Self {
            sink,
            kind,
            role,
            dir,
            options,
            monitor,
            std_files,
            seen,
            queue,
            open: None,
            planned,
            failed: false,
        }
    }

    /// Takes one event of the layer, content and all.
    ///
    /// # Errors
    /// What the layer may not say, and errors of the sink; each names the entry.
    pub fn event(&mut self, event: LayerEvent<'_>) -> Result<()> {
        let path = event.path().clone();
        let done = match event {
            LayerEvent::Add { path, meta, content } => {
                self.begin_file(&path, &meta, content.len()).and_then(|()| self.content(content))
            }
            LayerEvent::Stream { of, name, content } => {
                self.begin_stream(&of, &name, content.len()).and_then(|()| self.content(content))
            }
            LayerEvent::Link { path, target } => self.link(&path, &target),
            LayerEvent::Remove { path } => self.remove(&path),
            LayerEvent::Opaque { path } => self.opaque(&path),
        };
        done.map_err(|error| error.entry(path.as_bytes()))
    }

    fn content(&mut self, content: Content<'_>) -> Result<()> {
        content.read_into(&mut |bytes| {
            if self.monitor.should_stop() {
                return Err(Error::cancelled());
            }
            self.write(bytes)
        })?;
        self.end()
    }

    /// Begins a file or directory. Its bytes follow, then [`Planner::end`], for directories as well.
    ///
    /// # Errors
    /// [`ErrorKind::ConflictingEntries`] where the layer said something else about the path,
    /// [`ErrorKind::NotDirectory`] below a file, and errors of the sink.
    pub fn begin_file(&mut self, path: &CimPath, meta: &FileMeta, size: u64) -> Result<()> {
        self.guard(|this| this.try_begin_file(path, meta, size))
    }

    fn try_begin_file(&mut self, path: &CimPath, meta: &FileMeta, size: u64) -> Result<()> {
        self.nothing_open()?;
        let key = path.key();
        if path.is_root() {
            return Err(Error::new(ErrorKind::InvalidArgument, "the root of an image is there already"));
        }
        if meta.is_dir() && size > 0 {
            return Err(Error::new(ErrorKind::InvalidArgument, "a directory has no content"));
        }
        let std_file = self.std_files.find(path, &key).filter(|_| !meta.is_dir()).cloned();
        self.check_add(path, &key, meta.holds_entries(), std_file.is_some())?;
        self.add_parents(path)?;
        self.planned.entries += 1;
        self.planned.bytes += size;
        match std_file {
            Some(file) => self.begin_std_file(path, key, meta, size, &file),
            None => {
                self.sink.op(&CimOp::CreateFile { path, meta, size })?;
                let what = if meta.holds_entries() { What::Dir } else { What::File };
                self.saw(path, key, what);
                self.open = Some(Open { size, left: size, to: Destination::Image });
                Ok(())
            }
        }
    }

    fn begin_std_file(
        &mut self,
        path: &CimPath,
        key: PathKey,
        meta: &FileMeta,
        size: u64,
        file: &StdFile,
    ) -> Result<()> {
        if file.is_delta && matches!(self.role, Role::Base) {
            let what = "a base layer has hives, and nothing to change in them";
            return Err(Error::new(ErrorKind::InvalidArchive, what));
        }
        let spool = self.dir.create(&file.path)?;
        self.saw(path, key, What::StdFile(self.queue.len()));
        self.queue.push(Queued::Spooled { path: path.clone(), host: file.path.clone(), meta: meta.clone() });
        self.open = Some(Open { size, left: size, to: Destination::Host { spool, path: path.clone() } });
        Ok(())
    }

    /// Begins an alternate stream of a file or directory that this layer has. Its bytes follow, then
    /// [`Planner::end`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] for a file that is kept in the layer directory, [`ErrorKind::NotFound`] for one
    /// that the layer does not have, and errors of the sink.
    pub fn begin_stream(&mut self, of: &CimPath, name: &StreamName, size: u64) -> Result<()> {
        self.guard(|this| {
            this.nothing_open()?;
            let refuse = |kind, what| Err(Error::new(kind, what));
            match this.seen.get(&of.key()).map(|seen| seen.what) {
                Some(What::File | What::Dir | What::ImpliedDir) => {}
                Some(What::StdFile(_)) => {
                    return refuse(
                        ErrorKind::InvalidArchive,
                        "a file of the layer directory has no alternate streams",
                    );
                }
                Some(What::Link(_)) => {
                    return refuse(
                        ErrorKind::InvalidArchive,
                        "an alternate stream belongs to a file, not to a link",
                    );
                }
                Some(What::Removed) | None => {
                    return refuse(
                        ErrorKind::NotFound,
                        "the file of the alternate stream is not in this layer",
                    );
                }
            }
            this.sink.op(&CimOp::CreateStream { of, name, size })?;
            this.open = Some(Open { size, left: size, to: Destination::Image });
            Ok(())
        })
    }

    /// Gives the next bytes of the open file or stream.
    ///
    /// # Errors
    /// [`ErrorKind::SizeMismatch`] for more than were announced, and errors of the sink.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.guard(|this| {
            let Some(open) = &mut this.open else {
                return Err(Error::new(ErrorKind::FailedPrecondition, "no stream is open"));
            };
            let Some(left) = open.left.checked_sub(bytes.len() as u64) else {
                let got = open.size - open.left + bytes.len() as u64;
                return Err(Error::new(
                    ErrorKind::SizeMismatch { expected: open.size, got },
                    "the stream is too long",
                ));
            };
            open.left = left;
            match &mut open.to {
                Destination::Image => this.sink.write(bytes),
                Destination::Host { spool, .. } => spool.write(bytes),
            }
        })
    }

    /// Ends the open file or stream.
    ///
    /// # Errors
    /// [`ErrorKind::SizeMismatch`] when bytes are missing, and errors of the sink.
    pub fn end(&mut self) -> Result<()> {
        self.guard(|this| {
            let Some(open) = this.open.take() else {
                return Err(Error::new(ErrorKind::FailedPrecondition, "no stream is open"));
            };
            if open.left > 0 {
                let kind = ErrorKind::SizeMismatch { expected: open.size, got: open.size - open.left };
                return Err(Error::new(kind, "the stream is too short"));
            }
            match open.to {
                Destination::Image => this.sink.op(&CimOp::EndStream),
                Destination::Host { spool, path } => {
                    let sha256 = spool.finish()?;
                    this.sink.op(&CimOp::Spool { path: &path, len: open.size, sha256 })
                }
            }
        })
    }

    /// Takes what the parents have at `path` away.
    ///
    /// # Errors
    /// [`ErrorKind::ConflictingEntries`] where the layer itself has something there,
    /// [`ErrorKind::MissingParentEntry`] where the directory has to be in the image, and neither layer nor parents say
    /// how; errors of the sink.
    pub fn remove(&mut self, path: &CimPath) -> Result<()> {
        self.guard(|this| {
            this.nothing_open()?;
            let key = path.key();
            match this.seen.get(&key) {
                Some(Seen { what: What::Removed, .. }) => return Ok(()),
                Some(_) => return Err(conflict("the layer has and removes it")),
                None if path.is_root() => {
                    return Err(Error::new(ErrorKind::InvalidArchive, "the root cannot be removed"));
                }
                None => {}
            }
            this.planned.entries += 1;
            if matches!(this.role, Role::Base) {
                this.warn(WarningKind::NeedlessWhiteout, path);
            }
            match this.kind {
                CimKind::Block => {
                    this.add_parents(path)?;
                    this.sink.op(&CimOp::Tombstone { path })?;
                }
                CimKind::Forked => this.delete(path)?,
            }
            this.saw(path, key, What::Removed);
            Ok(())
        })
    }

    /// Deletes from a fork. Windows does nothing, and says nothing, unless the directory itself is in the fork.
    fn delete(&mut self, path: &CimPath) -> Result<()> {
        let Role::Child(parents) = &self.role else { return Ok(()) };
        if let Some(view) = &parents.view
            && view.find(path)?.is_none()
        {
            return Ok(());
        }
        for dir in ancestors(path) {
            let key = dir.key();
            if self.seen.contains_key(&key) {
                continue;
            }
            let Some(meta) = self.inherited(&dir)? else {
                let what = format!(
                    "the directory {dir} has to be in the layer, and the parents cannot be looked into"
                );
                return Err(Error::new(ErrorKind::MissingParentEntry, what));
            };
            self.create_dir(&dir, &meta)?;
            self.saw(&dir, key, What::ImpliedDir);
        }
        match self.sink.op(&CimOp::Delete { path }) {
            Err(error) if *error.kind() == ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Hides what the parents have below the directory `dir`: each child is removed.
    ///
    /// # Errors
    /// [`ErrorKind::UnsupportedMarker`] where the parents cannot be looked into; those of [`Planner::remove`].
    pub fn opaque(&mut self, dir: &CimPath) -> Result<()> {
        self.guard(|this| {
            this.nothing_open()?;
            let children = match &this.role {
                Role::Base => Vec::new(),
                Role::Child(Parents { view: Some(view), .. }) => view.children(dir)?,
                Role::Child(Parents { view: None, .. }) => {
                    let kind = ErrorKind::UnsupportedMarker { marker: "opaque" };
                    let what = "what it hides is not known, as the parents cannot be looked into";
                    return Err(Error::new(kind, what));
                }
            };
            for child in children {
                match this.seen.get(&child.key()).map(|seen| seen.what) {
                    // What the layer has there stays; what is below it in the parents would come through.
                    Some(What::Dir | What::ImpliedDir) => {
                        return Err(conflict("an opaque mark that comes after what is in its directory"));
                    }
                    Some(_) => {}
                    None => this.remove(&child)?,
                }
            }
            Ok(())
        })
    }

    /// Checks that what is added goes with what the layer said before.
    fn check_add(&mut self, path: &CimPath, key: &PathKey, is_dir: bool, is_std: bool) -> Result<()> {
        let Some(seen) = self.seen.get(key).copied() else { return Ok(()) };
        match seen.what {
            // A fork forgets what it had; in a block CIM nobody knows which of the two would count.
            What::Removed if self.kind == CimKind::Forked => Ok(()),
            What::Removed => Err(conflict("the layer removes it and has it")),
            What::ImpliedDir if is_dir => Ok(()),
            _ if seen.spelling != self.spelling(path) => {
                Err(conflict("two entries of the layer differ in case only, which is one name to Windows"))
            }
            What::StdFile(_) | What::Link(_) => Err(conflict("the layer has it twice")),
            What::Dir if is_dir => Ok(()),
            What::File if !is_dir && !is_std => {
                self.warn(WarningKind::DuplicateEntry, path);
                Ok(())
            }
            What::Dir | What::ImpliedDir | What::File => {
                Err(conflict("the layer has a file and a directory of this name"))
            }
        }
    }

    /// Adds the directories above `path` that the image has to have, and has not.
    fn add_parents(&mut self, path: &CimPath) -> Result<()> {
        let Some(parent) = path.parent().filter(|parent| !parent.is_root()) else { return Ok(()) };
        match self.seen.get(&parent.key()).map(|seen| seen.what) {
            Some(What::Dir | What::ImpliedDir) => return Ok(()),
            Some(What::Removed) if self.kind == CimKind::Forked => {}
            Some(What::Removed) => return Err(conflict("the layer removes the directory that it is in")),
            Some(_) => return Err(Error::new(ErrorKind::NotDirectory, format!("{parent} is no directory"))),
            None => {}
        }
        let removed = self.seen.contains_key(&parent.key());
        self.add_parents(&parent)?;
        let inherited = if removed { None } else { self.inherited(&parent)? };
        match (self.kind, &self.role, &inherited) {
            // A fork has what its parent has.
            (CimKind::Forked, Role::Child(_), Some(_)) => return Ok(()),
            (CimKind::Forked, Role::Child(Parents { view: None, .. }), None) if !removed => return Ok(()),
            (_, Role::Child(Parents { view: None, .. }), None) => self.planned.implied.push(parent.clone()),
            _ => {}
        }
        let meta = inherited.unwrap_or_else(|| FileMeta::new(Attributes::DIRECTORY));
        self.create_dir(&parent, &meta)?;
        self.saw(&parent, parent.key(), What::ImpliedDir);
        Ok(())
    }

    /// The metadata of a directory of the parents.
    fn inherited(&self, dir: &CimPath) -> Result<Option<FileMeta>> {
        let Role::Child(Parents { view: Some(view), .. }) = &self.role else { return Ok(None) };
        Ok(view.find(dir)?.filter(FileMeta::holds_entries))
    }

    fn create_dir(&mut self, path: &CimPath, meta: &FileMeta) -> Result<()> {
        self.sink.op(&CimOp::CreateFile { path, meta, size: 0 })?;
        self.sink.op(&CimOp::EndStream)
    }

    fn saw(&mut self, path: &CimPath, key: PathKey, what: What) {
        let spelling = self.spelling(path);
        self.seen.insert(key, Seen { what, spelling });
    }

    fn spelling(&self, path: &CimPath) -> u64 {
        self.seen.hasher().hash_one(path)
    }

    fn nothing_open(&self) -> Result<()> {
        match self.open {
            Some(_) => Err(Error::new(ErrorKind::FailedPrecondition, "a stream is open")),
            None => Ok(()),
        }
    }

    fn warn(&self, kind: WarningKind, path: &CimPath) {
        self.monitor.warn(&Warning::new(kind, path.to_layer().as_path()));
    }

    /// Makes the plan fail, as whoever writes it left a stream unfinished.
    pub(crate) fn fail(&mut self) {
        self.failed = true;
    }

    /// Runs `step`; after an error nothing else is taken.
    fn guard<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.failed {
            return Err(Error::new(ErrorKind::FailedPrecondition, "the layer failed before"));
        }
        let done = step(self);
        self.failed = done.is_err();
        done
    }

    /// Forgets the image.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn discard(mut self) -> Result<()> {
        self.sink.op(&CimOp::Discard)
    }
}

fn conflict(what: &str) -> Error {
    Error::new(ErrorKind::ConflictingEntries, what)
}

/// The directories above `path`, outermost first, without the root.
fn ancestors(path: &CimPath) -> Vec<CimPath> {
    let mut above: Vec<_> =
        std::iter::successors(path.parent(), CimPath::parent).filter(|dir| !dir.is_root()).collect();
    above.reverse();
    above
}
