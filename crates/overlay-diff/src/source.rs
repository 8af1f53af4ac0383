//! The source: puts what the helpers found into a stream of changes.
//!
//! Here is what depends on more than one name: directories that did not change are held back until
//! something in them did, names of hard-linked files find their first name, and names that no walk over an
//! upper directory can meet are looked for at the end.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use layer_model::{
    Change, Error, ErrorKind, LayerPath, LayerPathBuf, LayerSource, LayerTree, Monitor, Node, NodeKind,
    Origin, Profile, Result, Warning, WarningKind, tree::LayerTreeExt,
};

use crate::{
    elsewhere,
    fingerprints::Fingerprints,
    links::{Elsewhere, LinkTable, Linked, Place},
    options::Common,
    ordered::{Key, Limits, Ordered},
    pair::{Names, Pair},
    policy::Note,
    ready::{Emit, Lent, Payload, Ready},
    report::DiffReport,
    step::{Bytes, Entity, Item, Out, RUN, Rules, Unit, What, position},
};

/// How many directories, or runs of names in one, helpers may be ahead. Each can hold a descriptor for
/// every layer that has the directory, so this also bounds descriptors.
const UNITS_AHEAD: usize = 32;

/// The changes of one diff, found as they are read.
///
/// Helper threads look ahead by a bounded amount; they are joined when the source is dropped.
///
/// # Memory
/// Besides what is read ahead: the names of the directories on the way to the current entry (about 50 bytes a
/// name), at most 40 bytes for each directory emitted, and for each file with several names, of which not all
/// were met yet, its names and about 250 bytes.
pub struct DiffSource<'a> {
    work: Ordered<Rules>,
    monitor: &'a dyn Monitor,
    allow_incomplete_links: bool,
    content: bool,
    /// The directories from the root to the current one.
    frames: Vec<Frame>,
    /// How many of them are emitted; a directory is never emitted without those above it.
    emitted: usize,
    written: Fingerprints,
    links: LinkTable,
    ready: VecDeque<Ready>,
    lent: Option<Lent>,
    given: u64,
    report: DiffReport,
    started: Option<Instant>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Start,
    Walk,
    /// The walk is over; names elsewhere are looked for.
    Elsewhere,
    End,
}

/// A directory on the way.
struct Frame {
    pair: Arc<Pair>,
    names: Names,
    key: Key,
    items: std::vec::IntoIter<Item>,
    /// The position of the next run of names, and that after the last.
    next: u32,
    end: u32,
    /// The directory itself; none for the root.
    entity: Option<Entity>,
    /// Whether containerd's upper walk has reported the directory as changed.
    recorded: bool,
}

impl<'a> DiffSource<'a> {
    pub(crate) fn new(
        rules: Rules,
        root: Pair,
        common: &Common,
        allow_incomplete_links: bool,
        report: DiffReport,
        monitor: &'a dyn Monitor,
    ) -> Self {
        let limits = Limits { units: UNITS_AHEAD, bytes: common.read_ahead.max(1) };
        let work = Ordered::start(rules, limits, common.jobs.get() - 1, vec![0], Unit::Root(root));
        Self {
            work,
            monitor,
            allow_incomplete_links,
            content: common.content,
            frames: Vec::new(),
            emitted: 0,
            written: Fingerprints::default(),
            links: LinkTable::default(),
            ready: VecDeque::new(),
            lent: None,
            given: 0,
            report,
            started: None,
            phase: Phase::Start,
        }
    }

    /// What the diff did so far; complete once [`LayerSource::next_change`] has given `Ok(None)`.
    pub fn report(&self) -> &DiffReport {
        &self.report
    }

    /// The new side of the diff as it is seen with all that lies below it: the content of a file that was given is what this
    /// has at its path.
    pub fn tree(&self) -> Arc<dyn LayerTree> {
        self.work.work().view.clone()
    }

    /// The report with a reason why no better method was taken.
    #[cfg(target_os = "linux")]
    pub(crate) fn with_fallback_reason(mut self, reason: Option<String>) -> Self {
        self.report.fallback_reason = reason;
        self
    }

    /// Makes the next change ready to lend. False when there is none.
    fn advance(&mut self) -> Result<bool> {
        if let Some(lent) = self.lent.take() {
            lent.check_size()?;
        }
        let begun = Instant::now();
        while self.ready.is_empty() && self.phase != Phase::End {
            if self.monitor.should_stop() {
                return Err(Error::cancelled());
            }
            match self.phase {
                Phase::Start => {
                    self.phase = Phase::Walk;
                    self.enter(vec![0], None, true)?;
                }
                Phase::Walk => self.walk()?,
                Phase::Elsewhere | Phase::End => {
                    self.names_elsewhere()?;
                    self.phase = Phase::End;
                }
            }
        }
        let next = match self.ready.pop_front() {
            None => None,
            Some(_) if self.monitor.should_stop() => return Err(Error::cancelled()),
            Some(ready) => Some(ready.open(&*self.work.work().view)?),
        };
        self.lent = next;
        self.report.walking += begun.elapsed();
        self.report.elapsed = self.started.get_or_insert(begun).elapsed();
        self.report.hard_link_groups = self.links.linked;
        Ok(self.lent.is_some())
    }

    /// Takes one step of the walk.
    fn walk(&mut self) -> Result<()> {
        let Some(frame) = self.frames.last_mut() else {
            self.phase = Phase::Elsewhere;
            return Ok(());
        };
        if let Some(item) = frame.items.next() {
            return self.item(item);
        }
        if frame.next == frame.end {
            self.frames.pop();
            self.emitted = self.emitted.min(self.frames.len());
            return Ok(());
        }
        let key = [&frame.key[..], &[frame.next]].concat();
        frame.next = frame.next.saturating_add(RUN).min(frame.end);
        let out = self.take(&key)?;
        if let Some(frame) = self.frames.last_mut() {
            frame.items = out.items.into_iter();
        }
        Ok(())
    }

    /// Goes into the directory whose first unit is at `key`.
    fn enter(&mut self, mut key: Key, entity: Option<Entity>, recorded: bool) -> Result<()> {
        let out = self.take(&key)?;
        key.pop();
        let end = self.work.work().positions(&out.names);
        let items = out.items.into_iter();
        self.frames.push(Frame {
            pair: out.pair,
            names: out.names,
            key,
            items,
            next: RUN.min(end),
            end,
            entity,
            recorded,
        });
        if self.frames.len() == 1 {
            // The root is no entry.
            self.emitted = 1;
        }
        Ok(())
    }

    fn take(&mut self, key: &Key) -> Result<Out> {
        let out = self.work.take(key)?;
        self.report.unchanged += out.unchanged;
        for at in &out.sockets {
            let path = out.pair.path.as_path().join(&out.names[position(*at, &out.names)])?;
            self.socket(path.as_path());
        }
        Ok(out)
    }

    fn item(&mut self, item: Item) -> Result<()> {
        let Some(frame) = self.frames.last() else { return Ok(()) };
        let (pair, at) = (frame.pair.clone(), item.at);
        let path = pair.path.as_path().join(&frame.names[position(at, &frame.names)])?;
        match item.what {
            What::Remove { socket } => {
                if socket {
                    self.socket(path.as_path());
                }
                self.record_parent(true);
                self.emit_ancestors();
                self.report.removals += 1;
                self.ready.push_back(Ready { path, what: Emit::Remove });
            }
            What::Unchanged(unchanged) => {
                let (linked, node) = *unchanged;
                if let Some(first) = self.links.unchanged(path.as_path(), &linked) {
                    self.emit_ancestors();
                    self.push_link(path, first, node);
                }
            }
            What::Upsert { entity, content, linked, added } => {
                self.record_parent(added);
                self.emit_ancestors();
                let content = match (content, &entity.node.kind) {
                    (Bytes::Read(bytes), _) => Payload::Bytes(bytes),
                    (Bytes::Unread, NodeKind::File { size }) if *size > 0 => match path.as_path().file_name()
                    {
                        Some(name) if self.content => Payload::File { pair, name: name.into() },
                        _ => Payload::Announced,
                    },
                    (Bytes::Unread, _) => Payload::Empty,
                };
                self.push_file(path, entity, content, linked)?;
            }
            What::Dir { entity, changed, opaque, added } => {
                let key = [&frame.key[..], &[at, 0]].concat();
                self.directory(path, entity, changed, opaque, added, key)?;
            }
        }
        Ok(())
    }

    fn directory(
        &mut self,
        path: LayerPathBuf,
        entity: Entity,
        changed: bool,
        opaque: bool,
        added: bool,
        key: Key,
    ) -> Result<()> {
        let mut emit = changed;
        if opaque {
            self.emit_ancestors();
            self.push_directory(path.clone(), entity.clone());
            self.report.opaques += 1;
            self.ready.push_back(Ready { path: path.clone(), what: Emit::Opaque });
            // containerd's upper walk reports the mark first, whose ancestors the writer adds, and then the
            // directory itself once more.
            emit = changed && self.is_reference_walk();
        }
        if emit {
            self.record_parent(added);
            self.emit_ancestors();
            self.push_directory(path, entity.clone());
        }
        self.enter(key, Some(entity), changed)?;
        if emit || opaque {
            self.emitted = self.frames.len();
        }
        Ok(())
    }

    /// Emits the directories above the current entry that are not emitted yet, outermost first.
    fn emit_ancestors(&mut self) {
        for at in self.emitted..self.frames.len() {
            let path = self.frames[at].pair.path.clone();
            if let Some(entity) = self.frames[at].entity.clone() {
                self.push_directory(path, entity);
            }
        }
        self.emitted = self.frames.len();
    }

    /// What containerd's upper walk does before it reports an addition or a removal: it reports the directory,
    /// unless it has done so. Where the directory was written before, as an ancestor, it is written again.
    fn record_parent(&mut self, added: bool) {
        if !added || !self.is_reference_walk() {
            return;
        }
        let again = self.emitted == self.frames.len();
        let Some(frame) = self.frames.last_mut() else { return };
        if std::mem::replace(&mut frame.recorded, true) || !again {
            return;
        }
        if let Some(entity) = frame.entity.clone() {
            let path = frame.pair.path.clone();
            self.push_directory(path, entity);
        }
    }

    fn is_reference_walk(&self) -> bool {
        let rules = self.work.work();
        rules.upper_walk && rules.profile == Profile::Containerd
    }

    fn push_directory(&mut self, path: LayerPathBuf, entity: Entity) {
        self.written.insert(path.as_path());
        self.report.directories += 1;
        self.notes(path.as_path(), entity.notes);
        let what = Emit::Upsert { node: entity.node, content: Payload::Empty };
        self.ready.push_back(Ready { path, what });
    }

    /// Emits a file, or whatever else is no directory, that changed.
    fn push_file(
        &mut self,
        path: LayerPathBuf,
        entity: Entity,
        content: Payload,
        linked: Option<Linked>,
    ) -> Result<()> {
        let Entity { node, notes } = entity;
        let place = linked.map(|linked| self.links.changed(path.as_path(), &linked, &node));
        self.notes(path.as_path(), notes);
        let unchanged = match place {
            Some(Place::LinkTo(first)) => {
                self.push_link(path, first, node);
                return Ok(());
            }
            Some(Place::First(unchanged)) => unchanged,
            None => Vec::new(),
        };
        match node.kind {
            NodeKind::File { size } => {
                self.report.files += 1;
                self.report.bytes += size;
                if self.content {
                    self.monitor.bytes(size);
                }
            }
            NodeKind::Symlink { .. } => self.report.symlinks += 1,
            NodeKind::CharDevice(_) | NodeKind::BlockDevice(_) => self.report.devices += 1,
            NodeKind::Fifo => self.report.fifos += 1,
            NodeKind::Directory | NodeKind::Socket | NodeKind::Whiteout => {}
        }
        let target = path.clone();
        let links = (!unchanged.is_empty()).then(|| node.clone());
        self.ready.push_back(Ready { path, what: Emit::Upsert { node, content } });
        if let Some(node) = links {
            for name in unchanged {
                self.emit_directories_of(name.as_path())?;
                self.push_link(name, target.clone(), node.clone());
            }
        }
        Ok(())
    }

    fn push_link(&mut self, path: LayerPathBuf, target: LayerPathBuf, node: Node) {
        self.report.hard_links += 1;
        self.ready.push_back(Ready { path, what: Emit::Link { node, target } });
    }

    /// Emits the directories above a name that is not where the walk is.
    fn emit_directories_of(&mut self, path: LayerPath<'_>) -> Result<()> {
        for dir in path.ancestors() {
            if self.written.contains(dir) {
                continue;
            }
            let rules = self.work.work();
            let gone = || Error::new(ErrorKind::FileChanged, "directory went away").at(dir);
            let mut node = rules.view.lookup_path(dir)?.ok_or_else(gone)?;
            let mut notes = Vec::new();
            rules.filter.apply(&mut node.xattrs, &mut notes);
            rules.filter.check_names(&mut node.xattrs, &mut notes).map_err(|error| error.at(dir))?;
            self.push_directory(dir.to_owned(), Entity { node, notes });
        }
        Ok(())
    }

    /// Emits the names of emitted files that the walk could not meet.
    fn names_elsewhere(&mut self) -> Result<()> {
        let mut groups = self.links.incomplete();
        if groups.is_empty() {
            return Ok(());
        }
        let rules = self.work.work();
        let found = match rules.lowers {
            Some(_) => elsewhere::find(&*rules.view, &mut groups, self.monitor)?,
            None => Vec::new(),
        };
        for group in groups.iter().filter(|group| group.missing > 0) {
            // A lower file may well have names outside the layers; only an index says what the mount shows.
            if !matches!(group.linked.elsewhere, Some(Elsewhere::Indexed(_))) {
                continue;
            }
            let path = group.first.as_path();
            if !self.allow_incomplete_links {
                let message = format!("{} more names of the file are not to be found", group.missing);
                return Err(Error::new(ErrorKind::UnsupportedMarker { marker: "index" }, message).at(path));
            }
            self.warn(Warning::new(WarningKind::IncompleteLinks, path));
        }
        for (path, at) in found {
            self.emit_directories_of(path.as_path())?;
            self.push_link(path, groups[at].first.clone(), groups[at].node.clone());
        }
        Ok(())
    }

    fn socket(&mut self, path: LayerPath<'_>) {
        self.report.dropped_sockets += 1;
        if self.work.work().profile == Profile::Spec {
            self.warn(Warning::new(WarningKind::SocketDropped, path));
        }
    }

    fn notes(&mut self, path: LayerPath<'_>, notes: Vec<Note>) {
        for note in notes {
            let dropped = matches!(note.kind, WarningKind::XattrDropped | WarningKind::EmptyXattrDropped);
            if dropped {
                *self.report.dropped_xattrs.entry(note.detail.to_vec()).or_default() += 1;
            }
            // What the reference leaves out by design, it does so without a word.
            if !dropped || self.work.work().profile == Profile::Spec {
                self.warn(Warning::new(note.kind, path).detail(&note.detail));
            }
        }
    }

    pub(crate) fn warn(&mut self, warning: Warning<'_>) {
        self.report.warnings += 1;
        self.monitor.warn(&warning);
    }
}

impl LayerSource for DiffSource<'_> {
    fn next_change(&mut self) -> Result<Option<Change<'_>>> {
        match self.advance() {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => {
                self.phase = Phase::End;
                self.ready.clear();
                self.frames.clear();
                self.work.work().stop.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
        let Some(lent) = &self.lent else { return Ok(None) };
        let origin = Origin { index: self.given, ..Origin::default() };
        self.given += 1;
        Ok(Some(lent.change()?.from_origin(origin)))
    }
}

impl Drop for DiffSource<'_> {
    fn drop(&mut self) {
        // A helper that compares two large files should not be waited for.
        self.work.work().stop.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for DiffSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiffSource")
            .field("given", &self.given)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}
