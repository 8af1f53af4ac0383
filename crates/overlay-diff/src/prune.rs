//! A layer that was made without knowing its base, cut down once the base is there.
//!
//! With an unknown base a differ has to be generous: removals of what may not exist, opaque marks on new
//! directories, files that were copied up and not changed. Given the base, what changes nothing is left out,
//! while the layer streams by.
//!
//! It stands in front of a sink, not behind a source: whether a file is left out shows only while its content is
//! read, and a source could not take back the borrow of what it decides not to give.

use std::{
    collections::{BTreeMap, HashSet},
    io::{BufReader, Read},
    sync::Arc,
};

use layer_model::{
    Action, Base, Change, Content, Entry, EntryKind, Error, ErrorKind, IoContext, LayerDir, LayerPath,
    LayerPathBuf, LayerSink, LayerSource, LayerTree, Metadata, Monitor, Node, NodeKind, Origin, Profile,
    ReadAt, Result, Xattrs, content::Body, merged::Merged, road, tree::LayerTreeExt,
};

use crate::{
    fingerprints::Fingerprints,
    options::{Common, XattrPolicy},
    policy::Filter,
    same::{self, Verdict},
};

/// How much content is compared at once.
const CHUNK: usize = 64 * 1024;

/// Options of [`prune`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PruneOptions {
    common: Common,
}

impl PruneOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// By whose rule two files are the same. Default: [`Profile::Spec`].
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.common.profile = profile;
        self
    }

    /// Which extended attributes the layer was made with. Default: as for
    /// [`UpperOptions::xattrs`](crate::UpperOptions::xattrs).
    #[must_use]
    pub fn xattrs(mut self, policy: XattrPolicy) -> Self {
        self.common.xattrs = Some(policy);
        self
    }

    /// Whether the layer was made with `trusted.*`. Default: no.
    #[must_use]
    pub fn keep_trusted(mut self, keep: bool) -> Self {
        self.common.keep_trusted = keep;
        self
    }
}

/// What was left out of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pruned {
    /// Removals of what the base does not have.
    pub removals: u64,
    /// Opaque marks on what is no directory in the base.
    pub opaques: u64,
    /// Entries that the base has just so.
    pub entries: u64,
}

/// Moves the layer of `source` into `sink`, without what changes nothing on `base`.
///
/// Applied to the base, the outcome gives the same tree as the layer itself, but for times of directories.
/// Entries for files that have several names, there or here, are not left out.
/// Memory: about 150 bytes and the path for each entry left out, 40 bytes for each entry kept.
///
/// # Errors
/// [`ErrorKind::NotSupported`] for [`Base::Unknown`]; those of the source, of the sink, and of reading the base.
pub fn prune<S, K, L>(
    source: &mut S,
    base: Base<'_, L>,
    sink: K,
    options: &PruneOptions,
    monitor: &dyn Monitor,
) -> Result<(K::Output, Pruned)>
where
    S: LayerSource + ?Sized,
    K: LayerSink,
    L: LayerTree + Clone + 'static,
{
    road::pump(source, Prune::new(sink, base, options)?, monitor)
}

/// The filter of [`prune`], as a sink in front of a sink.
#[derive(Debug)]
pub struct Prune<K> {
    out: Out<K>,
    base: Lookup,
    filter: Filter,
    profile: Profile,
    /// What was left out, in case that it turns out to be needed.
    held: BTreeMap<LayerPathBuf, Held>,
    /// Where the layer hides the base.
    hidden: HashSet<LayerPathBuf>,
    pruned: Pruned,
}

/// Something left out.
#[derive(Debug)]
enum Held {
    /// A directory, which is needed when something in it is kept.
    Directory(Metadata, Xattrs),
    /// Something that the base has just so, content and all.
    Other,
}

/// The sink, and what it was given.
#[derive(Debug)]
struct Out<K> {
    sink: K,
    given: Fingerprints,
}

/// An entry but for its kind, which alone holds borrows that cannot be shortened.
#[derive(Clone, Copy)]
struct Head<'a> {
    path: LayerPath<'a>,
    metadata: Metadata,
    xattrs: &'a Xattrs,
    origin: Origin,
}

impl<'a> Head<'a> {
    fn change(self, kind: EntryKind<'a>) -> Change<'a> {
        let entry = Entry::new(kind, self.metadata).with_xattrs(self.xattrs);
        Change::upsert(self.path, entry).from_origin(self.origin)
    }
}

impl<K: LayerSink> Out<K> {
    fn give(&mut self, change: Change<'_>) -> Result<()> {
        self.given.insert(change.path);
        self.sink.change(change)
    }
}

impl<K: LayerSink> Prune<K> {
    /// A filter in front of `sink`.
    ///
    /// # Errors
    /// [`ErrorKind::NotSupported`] for [`Base::Unknown`], and those of opening the base.
    pub fn new<L: LayerTree + Clone + 'static>(
        sink: K,
        base: Base<'_, L>,
        options: &PruneOptions,
    ) -> Result<Self> {
        let view = match base {
            Base::Layers(stack) => Some(Merged::of_stack(stack)),
            Base::Empty => None,
            Base::Unknown => {
                return Err(Error::new(
                    ErrorKind::NotSupported,
                    "a layer is pruned by its base, which is not known",
                ));
            }
        };
        Ok(Self {
            out: Out { sink, given: Fingerprints::default() },
            base: Lookup { view, last: None },
            filter: Filter::new(&options.common),
            profile: options.common.profile,
            held: BTreeMap::new(),
            hidden: HashSet::new(),
            pruned: Pruned::default(),
        })
    }

    fn remove(&mut self, path: LayerPath<'_>, origin: Origin) -> Result<()> {
        if self.is_hidden(path) || self.base.node(path)?.is_none() {
            self.pruned.removals += 1;
            return Ok(());
        }
        self.give_directories_of(path)?;
        self.out.give(Change::remove(path).from_origin(origin))?;
        self.hide(path, true)
    }

    fn opaque(&mut self, path: LayerPath<'_>, origin: Origin) -> Result<()> {
        if self.is_hidden(path) || !self.base.node(path)?.is_some_and(|node| node.is_dir()) {
            self.pruned.opaques += 1;
            return Ok(());
        }
        self.give_directories_of(path)?;
        self.give_held(path)?;
        self.out.give(Change::opaque(path).from_origin(origin))?;
        self.hide(path, false)
    }

    /// Remembers that the base does not show at `path` any more, and gives what was left out because it did.
    fn hide(&mut self, path: LayerPath<'_>, whole: bool) -> Result<()> {
        self.hidden.insert(path.to_owned());
        let below = self.held.keys().map(LayerPathBuf::as_path).filter(|held| held.starts_with(path));
        let lost: Vec<_> = below.filter(|held| whole || *held != path).map(LayerPath::to_owned).collect();
        lost.iter().try_for_each(|path| self.give_held(path.as_path()))
    }

    fn is_hidden(&self, path: LayerPath<'_>) -> bool {
        !self.hidden.is_empty()
            && (self.hidden.contains(&path.to_owned())
                || self.hidden.contains(&LayerPathBuf::root())
                || path.ancestors().any(|dir| self.hidden.contains(&dir.to_owned())))
    }

    fn upsert<'a>(&mut self, path: LayerPath<'a>, entry: Entry<'a>, origin: Origin) -> Result<()> {
        let Entry { kind, metadata, xattrs, .. } = entry;
        let head = Head { path, metadata, xattrs, origin };
        let old = match path.is_root() || self.is_hidden(path) || self.out.given.contains(path) {
            true => None,
            false => self.base.node(path)?,
        };
        let Some(mut old) = old else { return self.keep(head.change(kind)) };
        // Whether a file with several names is still one with them, no single entry says.
        if matches!(kind, EntryKind::HardLink { .. }) || (old.nlink > 1 && !old.is_dir()) {
            return self.keep(head.change(kind));
        }
        self.filter.apply_silently(&mut old.xattrs);
        let mut new = Node::new(node_kind(&kind), metadata);
        new.xattrs = xattrs.clone();
        self.filter.apply_silently(&mut new.xattrs);
        match (same::compare(&new, &old, self.profile), kind) {
            (Verdict::Same, EntryKind::Directory) => {
                self.hold(path, Held::Directory(metadata, xattrs.clone()))
            }
            (Verdict::Same, _) => self.hold(path, Held::Other),
            (Verdict::Content(_), EntryKind::File(content)) => {
                let file = self.base.open(path)?;
                return match compare(content, &*file)? {
                    Compared::Same => {
                        self.hold(path, Held::Other);
                        Ok(())
                    }
                    Compared::Whole(content) => self.keep(head.change(EntryKind::File(content))),
                    Compared::Parts { equal, chunk, rest, len } => {
                        let start = Content::from_range(&*file, 0, equal).into_reader();
                        let mut stream = BufReader::with_capacity(CHUNK, start.chain(&chunk[..]).chain(rest));
                        self.keep(head.change(EntryKind::File(Content::from_stream(&mut stream, len))))
                    }
                };
            }
            (_, kind) => return self.keep(head.change(kind)),
        }
        Ok(())
    }

    fn hold(&mut self, path: LayerPath<'_>, held: Held) {
        self.pruned.entries += 1;
        self.held.insert(path.to_owned(), held);
    }

    /// Gives a change that counts, after what it needs.
    fn keep(&mut self, change: Change<'_>) -> Result<()> {
        let path = change.path;
        self.give_directories_of(path)?;
        if let Action::Upsert(entry) = &change.action {
            match entry.kind {
                // Layers that are used as directories cannot link to files of other layers.
                EntryKind::HardLink { target } if target != path => {
                    self.give_directories_of(target)?;
                    self.give_held(target)?;
                }
                EntryKind::Directory => {}
                // What was left out below is gone with the directory that this takes the place of.
                _ => self.held.retain(|held, _| !held.as_path().starts_with(path)),
            }
        }
        self.held.remove(&path.to_owned());
        self.out.give(change)
    }

    fn give_directories_of(&mut self, path: LayerPath<'_>) -> Result<()> {
        path.ancestors().try_for_each(|dir| self.give_held(dir))
    }

    /// Gives what was left out at `path` after all.
    fn give_held(&mut self, path: LayerPath<'_>) -> Result<()> {
        let (metadata, xattrs) = match self.held.remove(&path.to_owned()) {
            None => return Ok(()),
            Some(Held::Directory(metadata, xattrs)) => (metadata, xattrs),
            Some(Held::Other) => {
                self.pruned.entries -= 1;
                return self.give_from_base(path);
            }
        };
        self.pruned.entries -= 1;
        let entry = Entry::new(EntryKind::Directory, metadata).with_xattrs(&xattrs);
        self.out.give(Change::upsert(path, entry))
    }

    fn give_from_base(&mut self, path: LayerPath<'_>) -> Result<()> {
        let gone = || Error::new(ErrorKind::FileChanged, "the base changed").at(path);
        let mut node = self.base.node(path)?.ok_or_else(gone)?;
        self.filter.apply_silently(&mut node.xattrs);
        let file;
        let kind = match &node.kind {
            NodeKind::Directory => EntryKind::Directory,
            NodeKind::File { size } => {
                file = self.base.open(path)?;
                EntryKind::File(Content::from_range(&*file, 0, *size))
            }
            NodeKind::Symlink { target } => EntryKind::Symlink { target },
            NodeKind::CharDevice(device) => EntryKind::CharDevice(*device),
            NodeKind::BlockDevice(device) => EntryKind::BlockDevice(*device),
            NodeKind::Fifo => EntryKind::Fifo,
            NodeKind::Socket | NodeKind::Whiteout => return Err(gone()),
        };
        self.out.give(Change::upsert(path, Entry::new(kind, node.metadata).with_xattrs(&node.xattrs)))
    }
}

impl<K: LayerSink> LayerSink for Prune<K> {
    type Output = (K::Output, Pruned);

    fn change(&mut self, change: Change<'_>) -> Result<()> {
        let Change { path, action, origin, .. } = change;
        match action {
            Action::Remove => self.remove(path, origin),
            Action::Opaque => self.opaque(path, origin),
            Action::Upsert(entry) => self.upsert(path, entry, origin),
        }
        .map_err(|error| error.at(path))
    }

    fn finish(self) -> Result<Self::Output> {
        Ok((self.out.sink.finish()?, self.pruned))
    }
}

/// Look-ups in the base. Entries of a layer mostly follow their neighbours, so the last directory stays open.
struct Lookup {
    view: Option<Merged>,
    last: Option<(LayerPathBuf, Option<Arc<dyn LayerDir>>)>,
}

impl Lookup {
    fn dir(&mut self, path: LayerPath<'_>) -> Result<Option<Arc<dyn LayerDir>>> {
        let Some(view) = &self.view else { return Ok(None) };
        if let Some((last, dir)) = &self.last
            && last.as_path() == path
        {
            return Ok(dir.clone());
        }
        let dir = view.find_dir(path)?;
        self.last = Some((path.to_owned(), dir.clone()));
        Ok(dir)
    }

    fn node(&mut self, path: LayerPath<'_>) -> Result<Option<Node>> {
        let Some((parent, name)) = path.split_last() else {
            return self.view.as_ref().map(|view| view.root()?.node()).transpose();
        };
        self.dir(parent)?.map_or(Ok(None), |dir| dir.lookup(name))
    }

    fn open(&mut self, path: LayerPath<'_>) -> Result<Box<dyn ReadAt>> {
        let gone = || Error::new(ErrorKind::NotFound, "no such file in the base").at(path);
        let (parent, name) = path.split_last().ok_or_else(gone)?;
        self.dir(parent)?.ok_or_else(gone)?.open_file(name)
    }
}

impl std::fmt::Debug for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookup").field("view", &self.view).finish_non_exhaustive()
    }
}

/// The type of an entry that is no hard link.
fn node_kind(kind: &EntryKind<'_>) -> NodeKind {
    match kind {
        EntryKind::Directory => NodeKind::Directory,
        EntryKind::File(content) => NodeKind::File { size: content.len() },
        EntryKind::Symlink { target } => NodeKind::Symlink { target: (*target).into() },
        EntryKind::CharDevice(device) => NodeKind::CharDevice(*device),
        EntryKind::BlockDevice(device) => NodeKind::BlockDevice(*device),
        EntryKind::Fifo | EntryKind::HardLink { .. } => NodeKind::Fifo,
    }
}

/// The outcome of comparing content that can be read once with a file of the same size.
enum Compared<'a> {
    Same,
    /// Different, and still whole.
    Whole(Content<'a>),
    /// Different: as many bytes as the file has, then this chunk, then the rest.
    Parts {
        equal: u64,
        chunk: Vec<u8>,
        rest: Box<dyn Read + 'a>,
        len: u64,
    },
}

fn compare<'a>(content: Content<'a>, file: &dyn ReadAt) -> Result<Compared<'a>> {
    let (len, body) = content.into_parts();
    let content = match body {
        Body::Bytes(bytes) => {
            let mut old = vec![0; bytes.len()];
            file.read_exact_at(&mut old, 0).during("read the base")?;
            let same = old == bytes;
            return Ok(if same { Compared::Same } else { Compared::Whole(Content::from_bytes(bytes)) });
        }
        Body::Range { file, offset } => Content::from_range(file, offset, len),
        Body::Stream(stream) => Content::from_stream(stream, len),
        Body::Sparse { extents, packed } => Content::sparse(extents, packed, len)?,
        _ => return Err(Error::new(ErrorKind::NotSupported, "content of a form that is not known here")),
    };
    let mut reader = content.into_reader();
    let (mut chunk, mut old) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut equal = 0;
    while equal < len {
        let want = CHUNK.min(usize::try_from(len - equal).unwrap_or(CHUNK));
        reader.read_exact(&mut chunk[..want]).during("read content")?;
        file.read_exact_at(&mut old[..want], equal).during("read the base")?;
        if chunk[..want] != old[..want] {
            chunk.truncate(want);
            return Ok(Compared::Parts { equal, chunk, rest: Box::new(reader), len });
        }
        equal += want as u64;
    }
    Ok(Compared::Same)
}
