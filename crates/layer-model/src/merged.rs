//! A stack of layers, seen as one tree: overlayfs's look-up rules, in process.
//!
//! The rules are those of the kernel's `fs/overlayfs/namei.c`: the nearest layer that has a name decides
//! what it is; directories of the same name merge until one is opaque, a whiteout or no directory; a
//! redirect changes where the layers below are looked into; a metacopy file takes its data from the first
//! layer below that has some, data-only layers last.
//!
//! What is not here is what the kernel does for a mounted upper directory only: with `index=on` it shows
//! the changed content under every name of a hard-linked lower file, with the help of its work directory.

use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map},
    sync::Arc,
};

use crate::{
    Error, ErrorKind, LayerPath, LayerPathBuf, ReadAt, Result,
    layer::Stack,
    tree::{LayerDir, LayerTree, LayerTreeExt, Markers, Node, NodeKind, Redirect},
};

/// The merged view of layers. It is itself a [`LayerTree`], without markers.
///
/// Looking costs no more than the look-ups in the layers; nothing is cached but open directories.
#[derive(Clone)]
pub struct Merged {
    layers: Arc<Layers>,
}

struct Layers {
    /// Nearest first.
    merged: Vec<Arc<dyn LayerTree>>,
    /// Layers that are only asked for the data of metacopy files with an absolute redirect.
    data_only: Vec<Arc<dyn LayerTree>>,
    follow_redirects: bool,
}

impl std::fmt::Debug for Merged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Merged")
            .field("layers", &self.layers.merged.len())
            .field("data_only", &self.layers.data_only.len())
            .finish()
    }
}

impl Merged {
    /// The view of `layers`, nearest first; none gives a view of an empty root.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when there is no layer.
    pub fn new(layers: Vec<Arc<dyn LayerTree>>) -> Result<Self> {
        if layers.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "a merged view needs a layer"));
        }
        Ok(Self {
            layers: Arc::new(Layers { merged: layers, data_only: Vec::new(), follow_redirects: true }),
        })
    }

    /// The view of a stack.
    pub fn of_stack<L: LayerTree + Clone + 'static>(stack: &Stack<L>) -> Self {
        let merged = stack.iter().map(|layer| Arc::new(layer.clone()) as Arc<dyn LayerTree>).collect();
        Self { layers: Arc::new(Layers { merged, data_only: Vec::new(), follow_redirects: true }) }
    }

    /// The same view with data-only layers below, nearest first (overlay's `::` layers).
    #[must_use]
    pub fn with_data_only(self, data_only: Vec<Arc<dyn LayerTree>>) -> Self {
        let follow_redirects = self.layers.follow_redirects;
        Self { layers: Arc::new(Layers { merged: self.layers.merged.clone(), data_only, follow_redirects }) }
    }

    /// The same view as a mount with `redirect_dir=nofollow` shows it: a redirected directory is opaque.
    #[must_use]
    pub fn without_redirects(self) -> Self {
        let Layers { merged, data_only, .. } = &*self.layers;
        let layers = Layers { merged: merged.clone(), data_only: data_only.clone(), follow_redirects: false };
        Self { layers: Arc::new(layers) }
    }

    /// The view of the layers below the nearest `skip` ones; [`None`] when nothing is left.
    pub fn below(&self, skip: usize) -> Option<Merged> {
        let Layers { merged, data_only, follow_redirects } = &*self.layers;
        let merged = merged.get(skip..).filter(|rest| !rest.is_empty())?.to_vec();
        let layers = Layers { merged, data_only: data_only.clone(), follow_redirects: *follow_redirects };
        Some(Merged { layers: Arc::new(layers) })
    }
}

impl LayerTree for Merged {
    fn root(&self) -> Result<Arc<dyn LayerDir>> {
        Ok(Arc::new(MergedDir::root(&self.layers, 0)?))
    }
}

/// A directory of a merged view: the directories of single layers that it is made of.
struct MergedDir {
    layers: Arc<Layers>,
    /// Nearest first, never empty.
    parts: Vec<Part>,
}

/// A directory of one layer, with the number of the layer.
#[derive(Clone)]
struct Part {
    layer: usize,
    dir: Arc<dyn LayerDir>,
}

/// One layer's share of an entry: what `name` is in `part`.
struct Hit {
    part: Part,
    name: Box<[u8]>,
    node: Node,
}

impl Hit {
    /// Whether layers below are looked into for more of the entry.
    fn goes_on(&self) -> bool {
        match self.node.kind {
            NodeKind::Directory => !self.node.markers.opaque,
            _ => self.node.markers.metacopy.is_some(),
        }
    }

    /// Whether what a layer below has can be a part of the same entry.
    fn takes(&self, below: &Node) -> bool {
        match self.node.kind {
            NodeKind::Directory => below.is_dir(),
            _ => matches!(below.kind, NodeKind::File { .. }),
        }
    }
}

/// The way of one look-up through the layers: gives a [`Hit`] for each layer that has a share of the entry,
/// nearest first. Each step goes down at least one layer, so that no redirect leads in a circle.
struct Descent<'a> {
    layers: &'a Arc<Layers>,
    /// The directories to look into, nearest first.
    parts: Cow<'a, [Part]>,
    /// How many of them were looked into.
    done: usize,
    /// The name there.
    name: Box<[u8]>,
    /// The last absolute redirect, which is also how data-only layers know the file.
    absolute: Option<LayerPathBuf>,
    last: Option<Hit>,
}

impl Descent<'_> {
    /// Goes down to the next layer with a share of the entry; [`None`] when there is none left.
    fn step(&mut self) -> Result<Option<&Hit>> {
        if self.last.as_ref().is_some_and(|hit| !hit.goes_on()) {
            return Ok(None);
        }
        if let Some(hit) = &self.last
            && let Some(redirect) = hit.node.markers.redirect.clone()
        {
            self.follow(hit.part.layer, redirect)?;
        }
        while let Some(part) = self.parts.get(self.done) {
            self.done += 1;
            let Some(node) = part.dir.lookup(&self.name)? else { continue };
            let fits = match &self.last {
                Some(above) => above.takes(&node),
                None => !node.is_whiteout(),
            };
            if !fits {
                break;
            }
            let hit = Hit { part: part.clone(), name: self.name.clone(), node };
            return Ok(Some(self.last.insert(hit)));
        }
        self.done = self.parts.len();
        Ok(None)
    }

    /// Looks for the rest of the entry where a redirect found in `layer` points to.
    fn follow(&mut self, layer: usize, redirect: Redirect) -> Result<()> {
        match redirect {
            _ if !self.layers.follow_redirects => self.done = self.parts.len(),
            Redirect::Sibling(sibling) => self.name = sibling,
            Redirect::Absolute(path) => {
                // A redirect to the root resolves to nothing; no overlay makes one.
                let (parent, name) = path.as_path().split_last().unwrap_or_default();
                self.parts = MergedDir::at_path(self.layers, layer + 1, parent)?.into();
                self.done = 0;
                self.name = name.into();
                self.absolute = Some(path);
            }
        }
        Ok(())
    }
}

impl MergedDir {
    /// The root of the layers from number `from` on. `opaque` on a root has no effect, as in the kernel.
    fn root(layers: &Arc<Layers>, from: usize) -> Result<Self> {
        let parts = layers.merged.iter().enumerate().skip(from);
        let parts =
            parts.map(|(layer, tree)| Ok(Part { layer, dir: tree.root()? })).collect::<Result<_>>()?;
        Ok(Self { layers: layers.clone(), parts })
    }

    /// The directories that make up `path` in the layers from number `from` on; none where there is none.
    fn at_path(layers: &Arc<Layers>, from: usize, path: LayerPath<'_>) -> Result<Vec<Part>> {
        let mut dir = Self::root(layers, from)?;
        for name in path.components() {
            dir.parts = dir.merge(name)?;
        }
        Ok(dir.parts)
    }

    fn descend(&self, name: &[u8]) -> Descent<'_> {
        let parts = Cow::Borrowed(&self.parts[..]);
        Descent { layers: &self.layers, parts, done: 0, name: name.into(), absolute: None, last: None }
    }

    /// The directories that make up the directory `name`, nearest first; none where there is no directory.
    fn merge(&self, name: &[u8]) -> Result<Vec<Part>> {
        let mut found = Vec::new();
        let mut descent = self.descend(name);
        while let Some(hit) = descent.step()?.filter(|hit| hit.node.is_dir()) {
            found.push(Part { layer: hit.part.layer, dir: hit.part.dir.open_dir(&hit.name)? });
        }
        Ok(found)
    }

    /// The nearest share of `name`.
    fn nearest(&self, name: &[u8]) -> Result<Option<Hit>> {
        let mut descent = self.descend(name);
        descent.step()?;
        Ok(descent.last)
    }

    /// The share of the metacopy file `name` that has the data.
    fn data_of(&self, name: &[u8]) -> Result<Data> {
        let mut descent = self.descend(name);
        while descent.step()?.is_some() {}
        if let Some(hit) = descent.last.filter(|hit| !hit.goes_on()) {
            return Ok(Data::Found(Box::new(hit)));
        }
        // KERNEL(6.5): layers below `::`. Only there the file may be missing and still be shown.
        let Some(path) = descent.absolute.filter(|_| !self.layers.data_only.is_empty()) else {
            return Ok(Data::Nowhere);
        };
        for (at, layer) in self.layers.data_only.iter().enumerate() {
            let (parent, name) = path.as_path().split_last().unwrap_or_default();
            let Some(dir) = layer.find_dir(parent)? else { continue };
            if let Some(node) = dir.lookup(name)?
                && matches!(node.kind, NodeKind::File { .. })
            {
                let part = Part { layer: self.layers.merged.len() + at, dir };
                return Ok(Data::Found(Box::new(Hit { part, name: name.into(), node })));
            }
        }
        Ok(Data::Late)
    }

    /// What is shown of the nearest share of an entry.
    fn shown(&self, name: &[u8], mut node: Node) -> Result<Node> {
        if node.markers.metacopy.is_some() {
            node.data = match self.data_of(name)? {
                Data::Found(hit) => hit.node.content_id(),
                Data::Late => None,
                Data::Nowhere => return Err(no_data(name)),
            };
        }
        node.markers = Markers::default();
        Ok(node)
    }
}

/// Where the data of a metacopy file is.
enum Data {
    Found(Box<Hit>),
    /// It belongs into a data-only layer, but is not there: the kernel says so when the file is opened.
    Late,
    /// No layer has it: the kernel fails the look-up.
    Nowhere,
}

fn no_data(name: &[u8]) -> Error {
    Error::new(ErrorKind::UnsupportedMarker { marker: "metacopy" }, "no layer has the data").entry(name)
}

impl LayerDir for MergedDir {
    fn node(&self) -> Result<Node> {
        let mut node = self.parts[0].dir.node()?;
        node.markers = Markers::default();
        Ok(node)
    }

    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        self.nearest(name)?.map(|hit| self.shown(name, hit.node)).transpose()
    }

    fn names(&self) -> Result<Vec<Box<[u8]>>> {
        Ok(self.entries()?.into_iter().map(|(name, _)| name).collect())
    }

    fn entries(&self) -> Result<Vec<(Box<[u8]>, Node)>> {
        let mut entries: BTreeMap<Box<[u8]>, Option<Node>> = BTreeMap::new();
        for part in &self.parts {
            for (name, node) in part.dir.entries()? {
                if let btree_map::Entry::Vacant(place) = entries.entry(name) {
                    place.insert((!node.is_whiteout()).then_some(node));
                }
            }
        }
        let shown = entries.into_iter().filter_map(|(name, node)| Some((name, node?)));
        shown.map(|(name, node)| self.shown(&name, node).map(|node| (name, node))).collect()
    }

    fn open_dir(&self, name: &[u8]) -> Result<Arc<dyn LayerDir>> {
        let parts = self.merge(name)?;
        if parts.is_empty() {
            return Err(match self.nearest(name)? {
                Some(_) => Error::new(ErrorKind::NotDirectory, "not a directory"),
                None => Error::new(ErrorKind::NotFound, "no such directory"),
            }
            .entry(name));
        }
        Ok(Arc::new(Self { layers: self.layers.clone(), parts }))
    }

    fn open_file(&self, name: &[u8]) -> Result<Box<dyn ReadAt>> {
        let missing = || Error::new(ErrorKind::NotFound, "no such file").entry(name);
        let mut hit = self.nearest(name)?.ok_or_else(missing)?;
        if hit.node.markers.metacopy.is_some() {
            hit = match self.data_of(name)? {
                Data::Found(hit) => *hit,
                Data::Late | Data::Nowhere => return Err(no_data(name)),
            };
        }
        hit.part.dir.open_file(&hit.name)
    }
}
