//! What is to be seen of an image, or of several merged ones.

use std::{
    collections::{HashMap, btree_map},
    fmt,
    iter::Peekable,
    sync::{Arc, OnceLock},
};

use layer_model::Result;

use super::{
    ImageTree,
    arena::Arena,
    entry::{Child, Dir, EntryRef, FileId, Node, Stream},
    tree::ROOT,
};
use crate::{CimPath, content::Blob, path::key_of};

/// What is to be seen of one image ([`View::of`]), or of several merged ones ([`merge`](super::merge())).
///
/// It shares the entries with the images, and does not see what is done to them later.
#[derive(Clone)]
pub struct View {
    seen: Arc<Seen>,
}

struct Seen {
    /// Topmost first.
    images: Vec<ImageTree>,
    dirs: Arena<Dir>,
    /// How many names each file has, counted when somebody wants to know.
    names: OnceLock<HashMap<FileId, u32>>,
}

/// A path of a view, and what is there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ViewEntry<'a> {
    /// The path, as it is spelled.
    pub path: CimPath,
    /// What is there.
    pub entry: EntryRef<'a>,
}

impl View {
    /// One image by itself: its tombstones and merged links are shown as such.
    pub fn of(image: &ImageTree) -> Self {
        Self::from_parts(vec![image.clone()], image.dirs.clone())
    }

    pub(super) fn from_parts(images: Vec<ImageTree>, dirs: Arena<Dir>) -> Self {
        Self { seen: Arc::new(Seen { images, dirs, names: OnceLock::new() }) }
    }

    /// The images of the view, topmost first.
    pub fn images(&self) -> &[ImageTree] {
        &self.seen.images
    }

    /// What is at `path`, [`None`] where there is nothing.
    pub fn lookup(&self, path: &CimPath) -> Option<EntryRef<'_>> {
        let mut node = Node::Dir(ROOT);
        for name in path.components() {
            let Node::Dir(dir) = node else { return None };
            node = self.seen.dirs.get(dir).children.get(&*key_of(name))?.node;
        }
        Some(self.entry(node))
    }

    /// All that is in the view but the root, in the order of the upper-cased paths' units.
    pub fn entries(&self) -> Entries<'_> {
        Entries { view: self, frames: vec![Frame::of(self.seen.dirs.get(ROOT), CimPath::root())] }
    }

    /// Where an entry comes from: the number of the image, 0 topmost. For a fork that is shown by itself, the number
    /// of the fork in its chain.
    pub fn source_of(&self, entry: EntryRef<'_>) -> u32 {
        match entry {
            EntryRef::Dir(dir) => self.source(dir.source, dir.generation),
            EntryRef::File(file, id) => self.source(id.source, file.main.generation),
            EntryRef::Tombstone | EntryRef::MergeLink(_) => 0,
        }
    }

    /// Where the bytes of a stream of `entry` come from, as [`View::source_of`].
    pub fn stream_source(&self, entry: EntryRef<'_>, stream: &Stream) -> u32 {
        self.source(image_of(entry), stream.generation)
    }

    /// The bytes of a stream of `entry`.
    ///
    /// # Errors
    /// As [`ImageTree::open`].
    pub fn open(&self, entry: EntryRef<'_>, stream: &Stream) -> Result<Blob> {
        self.seen.images[image_of(entry) as usize].open(stream)
    }

    /// How many names each file has in the view.
    pub fn link_counts(&self) -> &HashMap<FileId, u32> {
        self.seen.names.get_or_init(|| {
            let mut counts = HashMap::new();
            for entry in self.entries() {
                if let EntryRef::File(_, id) = entry.entry {
                    *counts.entry(id).or_insert(0) += 1;
                }
            }
            counts
        })
    }

    pub(super) fn dir(&self, id: u32) -> &Arc<Dir> {
        self.seen.dirs.get(id)
    }

    pub(super) fn entry(&self, node: Node) -> EntryRef<'_> {
        match node {
            Node::Dir(id) => EntryRef::Dir(self.seen.dirs.get(id)),
            Node::File(id) => EntryRef::File(self.seen.images[id.source as usize].files.get(id.id), id),
            // Only a single image has links left.
            Node::Link(id) => EntryRef::MergeLink(self.seen.images[0].links.get(id)),
            Node::Tombstone => EntryRef::Tombstone,
        }
    }

    fn source(&self, image: u32, generation: u32) -> u32 {
        if self.seen.images.len() == 1 { self.seen.images[0].generation - generation } else { image }
    }
}

/// The image of a view that has the entry.
fn image_of(entry: EntryRef<'_>) -> u32 {
    match entry {
        EntryRef::Dir(dir) => dir.source,
        EntryRef::File(_, id) => id.source,
        EntryRef::Tombstone | EntryRef::MergeLink(_) => 0,
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("images", &self.seen.images).finish_non_exhaustive()
    }
}

/// The entries of a [`View`], in the order of the upper-cased paths' units.
///
/// That is not the order of a walk: what is in `a` comes behind `a`, but `a b` comes between, as a space sorts before
/// a backslash.
pub struct Entries<'a> {
    view: &'a View,
    frames: Vec<Frame<'a>>,
}

/// A directory on the way.
struct Frame<'a> {
    path: CimPath,
    children: Peekable<btree_map::Iter<'a, Box<[u16]>, Child>>,
    /// Directories that were given, and whose entries are still to come. The last one's come first: its name is
    /// between the other's name and the other's backslash.
    pending: Vec<(&'a [u16], CimPath, &'a Dir)>,
}

impl<'a> Frame<'a> {
    fn of(dir: &'a Dir, path: CimPath) -> Self {
        Self { path, children: dir.children.iter().peekable(), pending: Vec::new() }
    }

    /// The directory to go into before the next child, if any.
    fn descend(&mut self) -> Option<Frame<'a>> {
        let (key, ..) = self.pending.last()?;
        if let Some((next, _)) = self.children.peek()
            && let Some([unit, ..]) = next.strip_prefix(*key)
            && *unit < u16::from(b'\\')
        {
            return None;
        }
        let (_, path, dir) = self.pending.pop()?;
        Some(Frame::of(dir, path))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = ViewEntry<'a>;

    fn next(&mut self) -> Option<ViewEntry<'a>> {
        loop {
            let frame = self.frames.last_mut()?;
            if let Some(child) = frame.descend() {
                self.frames.push(child);
                continue;
            }
            let Some((key, child)) = frame.children.next() else {
                self.frames.pop();
                continue;
            };
            let path = frame.path.join_known(&child.name);
            let entry = self.view.entry(child.node);
            if let EntryRef::Dir(dir) = entry
                && !dir.children.is_empty()
            {
                frame.pending.push((key, path.clone(), dir));
            }
            return Some(ViewEntry { path, entry });
        }
    }
}

impl fmt::Debug for Entries<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").field("depth", &self.frames.len()).finish_non_exhaustive()
    }
}
