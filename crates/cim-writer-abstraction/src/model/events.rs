//! What a view or a layer says, as events: the way back into an archive.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use layer_model::{Content, Error, ErrorKind, Result};

use super::{EntryRef, FileId, ImageTree, Stream, View, ViewEntry, entry::File};
use crate::{
    Attributes, CimPath, FileMeta, LayerEvent, StreamName, content::Blob, hive::HIVES, path::PathKey,
    wcow::WcowEvents,
};

/// Where Windows keeps the registry of a running system.
const CONFIG: &str = "Files\\Windows\\System32\\config";

/// The events of a view ([`View::events`], [`View::base_layer`]), or of one layer ([`View::layer`]).
///
/// Entries come in the order of the upper-cased paths' units, so that directories come before what is in them;
/// removals come last. Of a file with several names the first has the content, the others are links.
pub struct ViewEvents<'a> {
    view: &'a View,
    steps: Box<dyn Iterator<Item = Step<'a>> + 'a>,
    /// The streams of the entry that was given last, the next one last.
    streams: Vec<(&'a StreamName, &'a Stream)>,
    of: Option<(CimPath, EntryRef<'a>)>,
    /// By path: streams that stand in for those of the view.
    replaced: HashMap<PathKey, (EntryRef<'a>, &'a Stream)>,
    /// What the event that was given last borrows.
    lent: Blob,
    failed: bool,
}

enum Step<'a> {
    Add(CimPath, EntryRef<'a>),
    Link { path: CimPath, target: CimPath },
    Remove(CimPath),
}

impl View {
    /// All that is in the view, as it is. Tombstones of a single image are removals, its merged links are links.
    pub fn events(&self) -> ViewEvents<'_> {
        ViewEvents::new(self, self.steps(|_| true))
    }

    /// The view as one base layer: what an archive has to have so that importing it gives this view.
    ///
    /// That is without `Hives` and `layout`, which importing makes; and the registry of the system is the one that
    /// layers have made of it, which is in `Hives`.
    pub fn base_layer(&self) -> ViewEvents<'_> {
        let hives = path("Hives");
        let outside =
            move |found: &ViewEntry<'_>| !found.path.starts_with(&hives) && !found.path.same(&path("layout"));
        let mut events = ViewEvents::new(self, self.steps(outside));
        for hive in HIVES {
            let made = self.lookup(&path(&format!("Hives\\{}", hive.base)));
            if let Some(entry @ EntryRef::File(file, _)) = made {
                let system = path(&format!("{CONFIG}\\{}", hive.name));
                events.replaced.insert(system.key(), (entry, &file.main));
            }
        }
        events
    }

    /// What the topmost image of the view adds to `parents`, the images below it: what an archive of that layer has.
    ///
    /// For a block image its own entries, tombstones and links: `parents` are not needed. For a forked image what is
    /// different from the one that it is forked from, with the directories above that; the parent is needed. The files
    /// that importing makes are left out: `layout`, whole hives in `Hives`, and `Hives` itself where nothing else is in
    /// it and importing made it.
    ///
    /// The view has to be that of a single image ([`View::of`]).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for the view of several images, and for a parent that the image is not forked
    /// from.
    pub fn layer(&self, parent: Option<&ImageTree>) -> Result<ViewEvents<'_>> {
        let [image] = self.images() else {
            return Err(Error::new(ErrorKind::InvalidArgument, "a view of several images is not one layer"));
        };
        match (parent, image.generation) {
            (None, 0) => Ok(ViewEvents::new(self, self.steps(self.made()))),
            (Some(parent), generation) if parent.generation + 1 == generation => {
                let steps = self.changes(&View::of(parent));
                Ok(ViewEvents::new(self, steps.into_iter()))
            }
            (None, _) => {
                Err(Error::new(ErrorKind::InvalidArgument, "a fork without the image it is forked from"))
            }
            (Some(_), _) => {
                Err(Error::new(ErrorKind::InvalidArgument, "the image is not forked from that parent"))
            }
        }
    }

    /// The entries for which `keep` says so, with links for the second and further names of files.
    fn steps<'a>(
        &'a self,
        keep: impl Fn(&ViewEntry<'a>) -> bool + 'a,
    ) -> impl Iterator<Item = Step<'a>> + 'a {
        let mut first: HashMap<FileId, Option<CimPath>> = HashMap::new();
        for (id, names) in self.link_counts() {
            if *names > 1 {
                first.insert(*id, None);
            }
        }
        self.entries().filter(move |found| keep(found)).map(move |ViewEntry { path, entry }| match entry {
            EntryRef::Tombstone => Step::Remove(path),
            EntryRef::MergeLink(target) => Step::Link { path, target: target.clone() },
            EntryRef::Dir(_) => Step::Add(path, entry),
            EntryRef::File(_, id) => match first.get_mut(&id) {
                Some(Some(target)) => Step::Link { path, target: target.clone() },
                Some(none) => {
                    *none = Some(path.clone());
                    Step::Add(path, entry)
                }
                None => Step::Add(path, entry),
            },
        })
    }

    /// Which entries were not made by importing.
    fn made<'a>(&'a self) -> impl Fn(&ViewEntry<'a>) -> bool + 'a {
        let mut made: HashSet<PathKey> =
            HIVES.iter().map(|hive| path(&format!("Hives\\{}", hive.base)).key()).collect();
        made.insert(path("layout").key());
        let hives = path("Hives");
        let zero = FileMeta { security: FileMeta::NULL_DACL.into(), ..FileMeta::new(Attributes::DIRECTORY) };
        if let Some(EntryRef::Dir(dir)) = self.lookup(&hives)
            && dir.meta == zero
            && dir.children.values().all(|child| made.contains(&hives.join_known(&child.name).key()))
        {
            made.insert(hives.key());
        }
        // Paths of two components and a little: all others are not even looked at.
        move |found| found.path.components().nth(2).is_some() || !made.contains(&found.path.key())
    }

    /// What is different from `parent`, which this single image is forked from.
    fn changes<'a>(&'a self, parent: &View) -> Vec<Step<'a>> {
        let keep = self.made();
        let generation = self.images()[0].generation;
        // Of files that are as they were: a name that they had and have.
        let mut kept: HashMap<FileId, CimPath> = HashMap::new();
        let mut changed: HashSet<FileId> = HashSet::new();
        for ViewEntry { path, entry } in self.entries() {
            let EntryRef::File(file, id) = entry else { continue };
            match parent.lookup(&path) {
                Some(EntryRef::File(before, was)) if was == id && same_file(file, before) => {
                    kept.entry(id).or_insert(path);
                }
                Some(EntryRef::File(before, was)) if was == id && !same_file(file, before) => {
                    changed.insert(id);
                }
                _ => {}
            }
        }
        // What the layer says, and the directories above.
        let mut first: HashMap<FileId, CimPath> = HashMap::new();
        let mut above: HashSet<PathKey> = HashSet::new();
        let mut told: HashMap<PathKey, Step<'a>> = HashMap::new();
        for found in self.entries().filter(|found| keep(found)) {
            let ViewEntry { path, entry } = found;
            let step = match entry {
                EntryRef::Dir(dir) => {
                    let before = parent.lookup(&path);
                    let has_streams =
                        matches!(before, Some(EntryRef::Dir(old)) if old.streams == dir.streams);
                    if dir.generation != generation && has_streams {
                        continue;
                    }
                    Step::Add(path.clone(), entry)
                }
                EntryRef::File(_, id) => {
                    let is_kept = !changed.contains(&id) && kept.contains_key(&id);
                    let before = parent.lookup(&path);
                    if is_kept && matches!(before, Some(EntryRef::File(_, was)) if was == id) {
                        continue;
                    }
                    let target = if is_kept { kept.get(&id) } else { first.get(&id) };
                    match target {
                        Some(target) => Step::Link { path: path.clone(), target: target.clone() },
                        None => {
                            first.insert(id, path.clone());
                            Step::Add(path.clone(), entry)
                        }
                    }
                }
                _ => continue,
            };
            ancestors(&path, &mut above);
            told.insert(path.key(), step);
        }
        let mut removed = Vec::new();
        for ViewEntry { path, .. } in parent.entries().filter(|found| keep(found)) {
            // What was in a directory that is gone, or is a file now, went with it.
            let dir = path.parent().and_then(|dir| self.lookup(&dir));
            if matches!(dir, Some(EntryRef::Dir(_))) && self.lookup(&path).is_none() {
                ancestors(&path, &mut above);
                removed.push(Step::Remove(path));
            }
        }
        let mut steps = Vec::new();
        for ViewEntry { path, entry } in self.entries() {
            let key = path.key();
            match told.remove(&key) {
                Some(step) => {
                    // A link never takes the place of a directory: a file does so first.
                    let before = parent.lookup(&path).and_then(EntryRef::meta);
                    if matches!(step, Step::Link { .. }) && before.is_some_and(FileMeta::is_dir) {
                        steps.push(Step::Add(path, entry));
                    }
                    steps.push(step);
                }
                None if above.contains(&key) => steps.push(Step::Add(path, entry)),
                None => {}
            }
        }
        steps.extend(removed);
        steps
    }
}

/// The directories above `path`, without the root.
fn ancestors(path: &CimPath, into: &mut HashSet<PathKey>) {
    let mut key = path.key();
    while let Some(parent) = key.parent() {
        if parent.units().is_empty() || !into.insert(parent.clone()) {
            return;
        }
        key = parent;
    }
}

/// Whether two states of a file are the same to see.
fn same_file(one: &File, other: &File) -> bool {
    one.meta == other.meta && one.main == other.main && one.streams == other.streams
}

fn path(text: &str) -> CimPath {
    CimPath::new(text).expect("names of Windows' own files are names that it takes")
}

impl<'a> ViewEvents<'a> {
    fn new(view: &'a View, steps: impl Iterator<Item = Step<'a>> + 'a) -> Self {
        Self {
            view,
            steps: Box::new(steps),
            streams: Vec::new(),
            of: None,
            replaced: HashMap::new(),
            lent: Blob::empty(),
            failed: false,
        }
    }

    /// The main stream of an entry.
    fn main(&self, path: &CimPath, entry: EntryRef<'a>) -> Result<Blob> {
        let EntryRef::File(file, _) = entry else { return Ok(Blob::empty()) };
        if file.meta.is_dir() {
            return Ok(Blob::empty());
        }
        let (entry, stream) = match self.replaced.is_empty() {
            true => (entry, &file.main),
            false => self.replaced.get(&path.key()).copied().unwrap_or((entry, &file.main)),
        };
        self.view.open(entry, stream)
    }
}

impl WcowEvents for ViewEvents<'_> {
    /// The next event, [`None`] after the last.
    ///
    /// # Errors
    /// [`ErrorKind::FailedPrecondition`] for a hive that nobody has merged, as its bytes are not known; those of
    /// opening content ([`ImageTree::open`]).
    fn next_event(&mut self) -> Result<Option<LayerEvent<'_>>> {
        if self.failed {
            return Err(Error::new(ErrorKind::FailedPrecondition, "reading the view has failed before"));
        }
        self.failed = true;
        if let (Some((of, entry)), Some((name, stream))) = (&self.of, self.streams.pop()) {
            self.lent = self.view.open(*entry, stream).map_err(|error| error.entry(of))?;
            self.failed = false;
            return Ok(Some(LayerEvent::Stream {
                of: of.clone(),
                name: name.clone(),
                content: self.lent.content(),
            }));
        }
        let event = match self.steps.next() {
            None => None,
            Some(Step::Link { path, target }) => Some(LayerEvent::Link { path, target }),
            Some(Step::Remove(path)) => Some(LayerEvent::Remove { path }),
            Some(Step::Add(path, entry)) => {
                let meta = entry.meta().cloned().unwrap_or_default();
                self.lent = self.main(&path, entry).map_err(|error| error.entry(&path))?;
                self.streams = entry.streams().collect();
                self.streams.reverse();
                self.of = Some((path.clone(), entry));
                let content = if self.lent.size() == 0 { Content::empty() } else { self.lent.content() };
                Some(LayerEvent::Add { path, meta, content })
            }
        };
        self.failed = false;
        Ok(event)
    }
}

impl fmt::Debug for ViewEvents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ViewEvents").field("view", &self.view).finish_non_exhaustive()
    }
}
