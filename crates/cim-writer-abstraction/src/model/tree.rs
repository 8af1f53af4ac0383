//! One image, and what the operations of the API do to it.

use std::{fmt, sync::Arc};

use layer_model::{Error, ErrorKind, Result};

use super::{
    arena::Arena,
    entry::{Child, Dir, EntryRef, File, FileId, Node, Stream},
};
use crate::{
    Attributes, CimName, CimPath, FileMeta, StreamName,
    content::{Blob, Blobs},
    op::{CimKind, MergeFlags},
    path::key_of,
};

/// How a tree takes operations where CimFS can be had in two ways.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rules {
    /// An entry needs its parent directory, as in Windows. Without, missing parents are implied: they are there, and
    /// an image below that describes them decides what they are like. On by default.
    pub strict_parents: bool,
    /// Deleting what a fork inherits does nothing, silently, when it is in a directory that the fork has not written
    /// itself: that is what Windows was seen to do. On by default.
    pub fork_delete_noop: bool,
    /// How many entries, streams and links may be made in one image. Bounds the memory that operations from outside
    /// take; far more than any layer has.
    pub max_entries: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self { strict_parents: true, fork_delete_noop: true, max_entries: 20_000_000 }
    }
}

impl Rules {
    /// Sets [`Rules::strict_parents`].
    #[must_use]
    pub fn strict_parents(mut self, strict: bool) -> Self {
        self.strict_parents = strict;
        self
    }

    /// Sets [`Rules::fork_delete_noop`].
    #[must_use]
    pub fn fork_delete_noop(mut self, noop: bool) -> Self {
        self.fork_delete_noop = noop;
        self
    }

    /// Sets [`Rules::max_entries`].
    #[must_use]
    pub fn max_entries(mut self, max: u32) -> Self {
        self.max_entries = max;
        self
    }
}

/// An image that a merged one is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its container: a path of the host.
    pub container: Box<str>,
    /// Its name in there.
    pub name: CimName,
    /// Its kind.
    pub flags: MergeFlags,
}

/// What is in one image.
///
/// A clone, and a fork, share what neither changes.
///
/// # Policies
/// Where nothing is known about CimFS, an operation does this:
/// - A tombstone where the image has an entry, and an entry where it has a tombstone, are
///   [`ErrorKind::ConflictingEntries`].
/// - An alternate stream of a name that the file has already replaces it.
/// - A directory over a directory loses its alternate streams: they are given again with it.
/// - A hard link over a directory, and from one, is [`ErrorKind::IsDirectory`]. A link to a file that has the name
///   already changes nothing.
#[derive(Clone)]
pub struct ImageTree {
    kind: CimKind,
    rules: Rules,
    /// How many forks lie below.
    pub(crate) generation: u32,
    pub(crate) dirs: Arena<Dir>,
    pub(crate) files: Arena<File>,
    pub(crate) links: Arena<CimPath>,
    /// By generation: where the streams' bytes are.
    contents: Vec<Option<Arc<dyn Blobs>>>,
    sources: Vec<Source>,
    /// What was made in this image, also what is gone again.
    made: u32,
    /// The directory that an entry was made in last: the next one is mostly made there, too.
    last: Option<(CimPath, u32)>,
}

/// The stream that an operation has opened, for [`ImageTree::finish_stream`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the digest of the stream has to be set once its bytes are known"]
pub struct StreamSlot(Slot);

#[derive(Debug, PartialEq, Eq)]
enum Slot {
    /// Of a directory, which has no main stream.
    None,
    Main(u32),
    OfFile(u32, StreamName),
    OfDir(u32, StreamName),
}

/// The number of a directory, and the key and the spelling of a name in it.
type Place<'p> = (u32, Box<[u16]>, &'p [u8]);

pub(crate) const ROOT: u32 = 0;

impl ImageTree {
    /// An empty image.
    pub fn new(kind: CimKind) -> Self {
        Self::with_rules(kind, Rules::default())
    }

    /// An empty image that takes operations by these rules.
    pub fn with_rules(kind: CimKind, rules: Rules) -> Self {
        let mut dirs = Arena::default();
        dirs.push(Dir { implied: true, ..Dir::new(implied_meta(), 0) });
        Self {
            kind,
            rules,
            generation: 0,
            dirs,
            files: Arena::default(),
            links: Arena::default(),
            contents: vec![None],
            sources: Vec::new(),
            made: 0,
            last: None,
        }
    }

    /// An image forked from this one: it shows what this one does, until it is changed.
    #[must_use]
    pub fn fork(&self) -> Self {
        let mut fork = self.clone();
        fork.generation += 1;
        fork.contents.push(None);
        fork.sources.clear();
        fork.made = 0;
        fork.last = None;
        fork
    }

    /// The same tree under other rules.
    #[must_use]
    pub fn under(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }

    /// Says where the bytes are that were written into this image; what it inherits is known already.
    pub fn set_contents(&mut self, blobs: Arc<dyn Blobs>) {
        self.contents[self.generation as usize] = Some(blobs);
    }

    /// Forked or block.
    pub fn kind(&self) -> CimKind {
        self.kind
    }

    /// How many forks lie below: 0 for an image that is no fork.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The images that this merged one is made of, topmost first.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// What is at `path`, [`None`] where there is nothing.
    pub fn lookup(&self, path: &CimPath) -> Option<EntryRef<'_>> {
        let Some((parent, name)) = path.split_last() else {
            return Some(EntryRef::Dir(self.dirs.get(ROOT)));
        };
        let child = self.dirs.get(self.find_dir(&parent)?).children.get(&*key_of(name))?;
        Some(self.entry(child.node))
    }

    /// Which fork wrote the bytes of `stream`, as the number of the image in the chain: 0 for this one, 1 for the one
    /// that it is forked from.
    pub fn source_of(&self, stream: &Stream) -> u32 {
        self.generation - stream.generation
    }

    /// The bytes of a stream of this image.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when nobody said where they are ([`ImageTree::set_contents`]), or they are not there;
    /// [`ErrorKind::FailedPrecondition`] for a stream whose bytes are not known yet; those of opening.
    pub fn open(&self, stream: &Stream) -> Result<Blob> {
        let Some(sha256) = &stream.sha256 else {
            return Err(Error::new(ErrorKind::FailedPrecondition, "the bytes are not known yet"));
        };
        if stream.size == 0 {
            return Ok(Blob::empty());
        }
        let blobs = self.contents.get(stream.generation as usize).and_then(Option::as_ref);
        let blobs = blobs
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "the content of the image is not at hand"))?;
        let blob = blobs.open(sha256)?;
        if blob.size() != stream.size {
            let kind = ErrorKind::SizeMismatch { expected: stream.size, got: blob.size() };
            return Err(Error::new(kind, "the content has another size"));
        }
        Ok(blob)
    }

    /// Makes a file or directory of `meta` at `path`, over whatever is there, and opens its main stream.
    ///
    /// A directory over a directory replaces its metadata and keeps what is in it. Everything else replaces what is
    /// there with all below it; other names of a replaced file are not affected. `size` does not count for directories.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without a parent directory, [`ErrorKind::ConflictingEntries`] over a tombstone,
    /// [`ErrorKind::InvalidArgument`] for a file at the root, [`ErrorKind::LimitExceeded`] from [`Rules::max_entries`].
    pub fn create_file(&mut self, path: &CimPath, meta: &FileMeta, size: u64) -> Result<StreamSlot> {
        let meta = normal(meta);
        if path.is_root() {
            if !meta.holds_entries() {
                return Err(Error::new(ErrorKind::InvalidArgument, "the root can only be a directory"));
            }
            self.describe(ROOT, meta);
            return Ok(StreamSlot(Slot::None));
        }
        let (dir, key, name) = self.place(path)?;
        self.count(path)?;
        let there = self.dirs.get(dir).children.get(&*key).map(|child| child.node);
        if there == Some(Node::Tombstone) {
            return Err(conflict("an entry where the image has a tombstone", path));
        }
        if meta.holds_entries() {
            let id = match there {
                Some(Node::Dir(id)) => {
                    self.describe(id, meta);
                    id
                }
                _ => self.dirs.push(Dir::new(meta, self.generation)),
            };
            self.put(dir, key, name, Node::Dir(id));
            return Ok(StreamSlot(Slot::None));
        }
        let size = if meta.is_dir() { 0 } else { size };
        let generation = self.generation;
        let main = Stream::open(size, generation);
        let file = File { meta, main, streams: Default::default(), generation, names: 1 };
        // A file of this image that nobody else names makes room for the new one: writing the same path over and over
        // takes no memory.
        let id = match there {
            Some(Node::File(old)) if self.only_name(old) => {
                *self.files.get_mut(old.id) = file;
                old.id
            }
            _ => self.files.push(file),
        };
        self.put(dir, key, name, Node::File(FileId { source: 0, id }));
        Ok(StreamSlot(if self.files.get(id).meta.is_dir() { Slot::None } else { Slot::Main(id) }))
    }

    /// Adds an alternate data stream to a file or directory, and opens it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such file, [`ErrorKind::LimitExceeded`] from [`Rules::max_entries`].
    pub fn create_stream(&mut self, of: &CimPath, name: &StreamName, size: u64) -> Result<StreamSlot> {
        let node = self.node(of);
        self.count(of)?;
        let entry = (name.clone(), Stream::open(size, self.generation));
        let slot = match node {
            Some(Node::File(file)) => {
                self.files.get_mut(file.id).streams.insert(name.key(), entry);
                Slot::OfFile(file.id, name.clone())
            }
            Some(Node::Dir(dir)) => {
                self.dirs.get_mut(dir).streams.insert(name.key(), entry);
                Slot::OfDir(dir, name.clone())
            }
            _ => return Err(missing("no file that the stream could belong to", of)),
        };
        Ok(StreamSlot(slot))
    }

    /// Says what the bytes of the stream are that an operation has opened.
    pub fn finish_stream(&mut self, slot: StreamSlot, sha256: [u8; 32]) {
        let stream = match slot.0 {
            Slot::None => None,
            Slot::Main(file) => Some(&mut self.files.get_mut(file).main),
            Slot::OfFile(file, name) => self.files.get_mut(file).streams.get_mut(&name.key()).map(|(_, s)| s),
            Slot::OfDir(dir, name) => self.dirs.get_mut(dir).streams.get_mut(&name.key()).map(|(_, s)| s),
        };
        if let Some(stream) = stream {
            stream.sha256 = Some(sha256);
        }
    }

    /// Gives the file at `target` another name, in place of a file that has it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such file or no parent directory, [`ErrorKind::IsDirectory`] when
    /// either is a directory, [`ErrorKind::ConflictingEntries`] over a tombstone, [`ErrorKind::LimitExceeded`] from
    /// [`Rules::max_entries`].
    pub fn hard_link(&mut self, path: &CimPath, target: &CimPath) -> Result<()> {
        let file = match self.node(target) {
            Some(Node::File(file)) if !self.files.get(file.id).meta.is_dir() => file,
            Some(Node::File(_) | Node::Dir(_)) => {
                return Err(Error::new(ErrorKind::IsDirectory, "a hard link to a directory").entry(target));
            }
            _ => return Err(missing("no file for a hard link to", target)),
        };
        let (dir, key, name) = self.link_place(path)?;
        if self.dirs.get(dir).children.get(&*key).is_some_and(|child| child.node == Node::File(file)) {
            return Ok(());
        }
        self.files.get_mut(file.id).names += 1;
        self.put(dir, key, name, Node::File(file));
        Ok(())
    }

    /// Notes another name for a file that is found when images are merged, in place of a file that has it.
    ///
    /// # Errors
    /// As [`ImageTree::hard_link`], but for the target, which is not looked at; [`ErrorKind::NotSupported`] in a
    /// forked image, which is never merged.
    pub fn merge_link(&mut self, path: &CimPath, target: &CimPath) -> Result<()> {
        self.for_merging("a merged link", path)?;
        let (dir, key, name) = self.link_place(path)?;
        let link = self.links.push(target.clone());
        self.put(dir, key, name, Node::Link(link));
        Ok(())
    }

    /// Takes away what is at `path`, with all below it. Other names of a file are not affected.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when nothing is there, [`ErrorKind::InvalidArgument`] for the root.
    pub fn delete(&mut self, path: &CimPath) -> Result<()> {
        let Some((parent, name)) = path.split_last() else {
            return Err(Error::new(ErrorKind::InvalidArgument, "the root cannot be deleted"));
        };
        let nothing = || missing("nothing there to delete", path);
        let dir = self.find_dir(&parent).ok_or_else(nothing)?;
        let key = key_of(name);
        let node = self.dirs.get(dir).children.get(&*key).map(|child| child.node);
        let inherited = match node {
            None | Some(Node::Tombstone) => return Err(nothing()),
            Some(Node::Dir(id)) => self.dirs.get(id).generation < self.generation,
            Some(Node::File(id)) => self.files.get(id.id).generation < self.generation,
            Some(Node::Link(_)) => false,
        };
        let written = parent.is_root() || self.dirs.get(dir).generation == self.generation;
        if self.rules.fork_delete_noop && inherited && !written {
            return Ok(());
        }
        self.last = None;
        self.unname(node);
        self.dirs.get_mut(dir).children.remove(&*key);
        Ok(())
    }

    /// Hides what other images have at `path` when this one is merged over them.
    ///
    /// # Errors
    /// [`ErrorKind::ConflictingEntries`] where this image has an entry, [`ErrorKind::NotFound`] without a parent
    /// directory, [`ErrorKind::NotSupported`] in a forked image, which is never merged,
    /// [`ErrorKind::InvalidArgument`] for the root, [`ErrorKind::LimitExceeded`] from [`Rules::max_entries`].
    pub fn tombstone(&mut self, path: &CimPath) -> Result<()> {
        self.for_merging("a tombstone", path)?;
        if path.is_root() {
            return Err(Error::new(ErrorKind::InvalidArgument, "the root cannot be hidden"));
        }
        let (dir, key, name) = self.place(path)?;
        self.count(path)?;
        match self.dirs.get(dir).children.get(&*key).map(|child| child.node) {
            None | Some(Node::Tombstone) => self.put(dir, key, name, Node::Tombstone),
            Some(_) => return Err(conflict("a tombstone where the image has an entry", path)),
        }
        Ok(())
    }

    /// Notes an image that this merged one is made of, topmost first.
    ///
    /// # Errors
    /// [`ErrorKind::NotSupported`] in a forked image, [`ErrorKind::LimitExceeded`] from [`Rules::max_entries`].
    pub fn add_source(&mut self, source: Source) -> Result<()> {
        self.for_merging("a source", &CimPath::root())?;
        self.count(&CimPath::root())?;
        self.sources.push(source);
        Ok(())
    }

    /// What `node` of this image is.
    pub(crate) fn entry(&self, node: Node) -> EntryRef<'_> {
        match node {
            Node::Dir(id) => EntryRef::Dir(self.dirs.get(id)),
            Node::File(id) => EntryRef::File(self.files.get(id.id), id),
            Node::Link(id) => EntryRef::MergeLink(self.links.get(id)),
            Node::Tombstone => EntryRef::Tombstone,
        }
    }

    /// The directory at `path`, [`None`] where there is none.
    pub(crate) fn find_dir(&self, path: &CimPath) -> Option<u32> {
        let (mut dir, mut names) = (ROOT, path.as_bytes());
        if let Some((last, id)) = &self.last
            && let Some(below) = names.strip_prefix(last.as_bytes())
            && (last.is_root() || matches!(below.first(), None | Some(b'\\')))
        {
            (dir, names) = (*id, below);
        }
        for name in names.split(|b| *b == b'\\').filter(|name| !name.is_empty()) {
            match self.dirs.get(dir).children.get(&*key_of(name))?.node {
                Node::Dir(id) => dir = id,
                _ => return None,
            }
        }
        Some(dir)
    }

    fn node(&self, path: &CimPath) -> Option<Node> {
        match path.split_last() {
            None => Some(Node::Dir(ROOT)),
            Some((parent, name)) => {
                let dir = self.find_dir(&parent)?;
                Some(self.dirs.get(dir).children.get(&*key_of(name))?.node)
            }
        }
    }

    /// The directory in which `path` is made, and its name there.
    fn place<'p>(&mut self, path: &'p CimPath) -> Result<Place<'p>> {
        let (parent, _) = path.split_last().expect("the root has been dealt with");
        let name = path.components().next_back().expect("a path that is not the root has a component");
        let dir = match self.find_dir(&parent) {
            Some(dir) => dir,
            None if self.rules.strict_parents => {
                return Err(missing("its parent directory is missing", path));
            }
            None => self.imply(&parent, path)?,
        };
        if self.last.as_ref().is_none_or(|(last, _)| *last != parent) {
            self.last = Some((parent, dir));
        }
        Ok((dir, key_of(name), name))
    }

    /// As [`ImageTree::place`], for a link.
    fn link_place<'p>(&mut self, path: &'p CimPath) -> Result<Place<'p>> {
        if path.is_root() {
            return Err(Error::new(ErrorKind::IsDirectory, "the root cannot be a link"));
        }
        let (dir, key, name) = self.place(path)?;
        self.count(path)?;
        match self.dirs.get(dir).children.get(&*key).map(|child| self.entry(child.node)) {
            None | Some(EntryRef::MergeLink(_)) => Ok((dir, key, name)),
            Some(EntryRef::File(file, _)) if !file.meta.is_dir() => Ok((dir, key, name)),
            Some(EntryRef::Tombstone) => Err(conflict("a link where the image has a tombstone", path)),
            Some(_) => Err(Error::new(ErrorKind::IsDirectory, "a link in place of a directory").entry(path)),
        }
    }

    /// Makes the directories up to `path` that are missing.
    fn imply(&mut self, path: &CimPath, wanted: &CimPath) -> Result<u32> {
        let mut dir = ROOT;
        for name in path.components() {
            let key = key_of(name);
            dir = match self.dirs.get(dir).children.get(&*key).map(|child| child.node) {
                Some(Node::Dir(id)) => id,
                None => {
                    self.count(wanted)?;
                    let new = Dir { implied: true, ..Dir::new(implied_meta(), self.generation) };
                    let id = self.dirs.push(new);
                    self.put(dir, key, name, Node::Dir(id));
                    id
                }
                Some(_) => return Err(missing("its parent is no directory", wanted)),
            };
        }
        Ok(dir)
    }

    fn put(&mut self, dir: u32, key: Box<[u16]>, name: &[u8], node: Node) {
        let child = Child { name: name.into(), node };
        let old = self.dirs.get_mut(dir).children.insert(key, child).map(|child| child.node);
        if old != Some(node) {
            if matches!(old, Some(Node::Dir(_))) {
                self.last = None;
            }
            self.unname(old);
        }
    }

    /// A file has one name fewer.
    fn unname(&mut self, node: Option<Node>) {
        if let Some(Node::File(id)) = node {
            let file = self.files.get_mut(id.id);
            file.names = file.names.saturating_sub(1);
        }
    }

    /// Whether the file was made in this image and has one name only.
    fn only_name(&self, id: FileId) -> bool {
        let file = self.files.get(id.id);
        file.generation == self.generation && file.names == 1
    }

    /// Replaces what is known about a directory, but for what is in it.
    fn describe(&mut self, dir: u32, meta: FileMeta) {
        let generation = self.generation;
        let dir = self.dirs.get_mut(dir);
        (dir.meta, dir.generation, dir.implied) = (meta, generation, false);
        dir.streams.clear();
    }

    fn count(&mut self, path: &CimPath) -> Result<()> {
        if self.made >= self.rules.max_entries {
            let kind = ErrorKind::LimitExceeded { limit: "max_entries" };
            return Err(Error::new(kind, "too many entries in one image").entry(path));
        }
        self.made += 1;
        Ok(())
    }

    fn for_merging(&self, what: &str, path: &CimPath) -> Result<()> {
        match self.kind {
            CimKind::Block => Ok(()),
            CimKind::Forked => {
                Err(Error::new(ErrorKind::NotSupported, format!("{what} in a forked image")).entry(path))
            }
        }
    }
}

impl fmt::Debug for ImageTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageTree")
            .field("kind", &self.kind)
            .field("generation", &self.generation)
            .field("made", &self.made)
            .finish_non_exhaustive()
    }
}

/// The metadata of a directory that nobody described.
fn implied_meta() -> FileMeta {
    normal(&FileMeta::new(Attributes::DIRECTORY))
}

/// The metadata as the API is given it: with a security descriptor.
fn normal(meta: &FileMeta) -> FileMeta {
    FileMeta { security: meta.security_or_default().into(), ..meta.clone() }
}

fn missing(what: &str, path: &CimPath) -> Error {
    Error::new(ErrorKind::NotFound, what).entry(path)
}

fn conflict(what: &str, path: &CimPath) -> Error {
    Error::new(ErrorKind::ConflictingEntries, what).entry(path)
}
