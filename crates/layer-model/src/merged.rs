//! A stack of layers, seen as one tree: overlayfs's look-up rules, in process.
//!
//! The rules are those of the kernel's `fs/overlayfs/namei.c`: the nearest layer that has a name decides
//! what it is; directories of the same name merge until one is opaque, a whiteout or no directory; a
//! redirect changes where the layers below are looked into; a metacopy file takes its data from the first
//! layer below that has some, data-only layers last.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    Error, ErrorKind, LayerPath, ReadAt, Result,
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
        Ok(Self { layers: Arc::new(Layers { merged: layers, data_only: Vec::new(), follow_redirects: true }) })
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
    /// Nearest first, never empty; each with the number of its layer.
    parts: Vec<Part>,
}

#[derive(Clone)]
struct Part {
    layer: usize,
    dir: Arc<dyn LayerDir>,
}

impl MergedDir {
    /// The root of the layers from number `from` on. `opaque` on a root has no effect, as in the kernel.
    fn root(layers: &Arc<Layers>, from: usize) -> Result<Self> {
        let parts = layers.merged.iter().enumerate().skip(from);
        let parts = parts.map(|(layer, tree)| Ok(Part { layer, dir: tree.root()? })).collect::<Result<_>>()?;
        Ok(Self { layers: layers.clone(), parts })
    }

    /// The directories that make up the directory `name`, nearest first; none where there is no directory.
    fn merge(&self, name: &[u8]) -> Result<Vec<Part>> {
        let mut found = Vec::new();
        let mut name = name.to_vec();
        for part in &self.parts {
            let Some(node) = part.dir.lookup(&name)? else { continue };
            if !node.is_dir() {
                break;
            }
            found.push(Part { layer: part.layer, dir: part.dir.open_dir(&name)? });
            if node.markers.opaque {
                break;
            }
            match node.markers.redirect {
                Some(_) if !self.layers.follow_redirects => break,
                Some(Redirect::Sibling(sibling)) => name = sibling.into_vec(),
                Some(Redirect::Absolute(path)) => {
                    found.extend(self.merge_path(part.layer + 1, path.as_path())?);
                    break;
                }
                None => {}
            }
        }
        Ok(found)
    }

    /// The directories that make up `path` in the layers from number `from` on.
    fn merge_path(&self, from: usize, path: LayerPath<'_>) -> Result<Vec<Part>> {
        if from >= self.layers.merged.len() {
            return Ok(Vec::new());
        }
        let mut dir = Self::root(&self.layers, from)?;
        for name in path.components() {
            dir.parts = dir.merge(name)?;
            if dir.parts.is_empty() {
                break;
            }
        }
        Ok(dir.parts)
    }

    /// The nearest node of that name, with the place of its part.
    fn nearest(&self, name: &[u8]) -> Result<Option<(usize, Node)>> {
        for (at, part) in self.parts.iter().enumerate() {
            match part.dir.lookup(name)? {
                None => {}
                Some(node) if node.is_whiteout() => return Ok(None),
                Some(node) => return Ok(Some((at, node))),
            }
        }
        Ok(None)
    }

    /// Where the data of the metacopy file `name` is, that `node` of part `at` stands for.
    fn data_below(&self, at: usize, name: &[u8], node: &Node) -> Result<(Arc<dyn LayerDir>, Vec<u8>, Node)> {
        let lost = || Error::new(ErrorKind::UnsupportedMarker { marker: "metacopy" }, "no layer has the data").entry(name);
        let mut name = name.to_vec();
        let mut markers = node.markers.clone();
        let mut rest = self.parts[at + 1..].to_vec();
        let mut below = self.parts[at].layer + 1;
        // Each turn goes down at least one layer.
        loop {
            match markers.redirect.take() {
                Some(_) if !self.layers.follow_redirects => return Err(lost()),
                Some(Redirect::Sibling(sibling)) => name = sibling.into_vec(),
                Some(Redirect::Absolute(path)) => {
                    let (parent, last) = path.as_path().split_last().ok_or_else(lost)?;
                    name = last.to_vec();
                    rest = self.merge_path(below, parent)?;
                    let found = rest.iter().try_fold(None, |seen: Option<()>, part| match seen {
                        Some(()) => Ok(seen),
                        None => part.dir.lookup(&name).map(|node| node.map(|_| ())),
                    })?;
                    if found.is_none() {
                        return self.data_only(parent, &name)?.ok_or_else(lost);
                    }
                }
                None => {}
            }
            let mut hit = None;
            for (at, part) in rest.iter().enumerate() {
                if let Some(node) = part.dir.lookup(&name)? {
                    hit = Some((at, node));
                    break;
                }
            }
            let (at, node) = hit.ok_or_else(lost)?;
            if !matches!(node.kind, NodeKind::File { .. }) {
                return Err(lost());
            }
            if node.markers.metacopy.is_none() {
                return Ok((rest[at].dir.clone(), name, node));
            }
            below = rest[at].layer + 1;
            rest = rest[at + 1..].to_vec();
            markers = node.markers;
        }
    }

    fn data_only(&self, parent: LayerPath<'_>, name: &[u8]) -> Result<Option<(Arc<dyn LayerDir>, Vec<u8>, Node)>> {
        for layer in &self.layers.data_only {
            let Some(dir) = layer.find_dir(parent)? else { continue };
            if let Some(node) = dir.lookup(name)?
                && matches!(node.kind, NodeKind::File { .. })
            {
                return Ok(Some((dir, name.to_vec(), node)));
            }
        }
        Ok(None)
    }
}

impl LayerDir for MergedDir {
    fn node(&self) -> Result<Node> {
        let mut node = self.parts[0].dir.node()?;
        node.markers = Markers::default();
        Ok(node)
    }

    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let Some((at, mut node)) = self.nearest(name)? else { return Ok(None) };
        if node.markers.metacopy.is_some() {
            // Where no layer has the data, the name still exists: the kernel fails on open, not on stat.
            match self.data_below(at, name, &node) {
                Ok((_, _, below)) => node.data = below.content_id(),
                Err(error) if matches!(error.kind(), ErrorKind::UnsupportedMarker { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        node.markers = Markers::default();
        Ok(Some(node))
    }

    fn names(&self) -> Result<Vec<Box<[u8]>>> {
        if let [only] = &self.parts[..] {
            let mut names = only.dir.names()?;
            let mut failed = None;
            names.retain(|name| match only.dir.lookup(name) {
                Ok(node) => node.is_some_and(|node| !node.is_whiteout()),
                Err(error) => {
                    failed.get_or_insert(error);
                    false
                }
            });
            return failed.map_or(Ok(names), Err);
        }
        let mut hidden: BTreeSet<Box<[u8]>> = BTreeSet::new();
        let mut shown: BTreeSet<Box<[u8]>> = BTreeSet::new();
        for part in &self.parts {
            for name in part.dir.names()? {
                if shown.contains(&name) || hidden.contains(&name) {
                    continue;
                }
                let whiteout = part.dir.lookup(&name)?.is_none_or(|node| node.is_whiteout());
                if whiteout { &mut hidden } else { &mut shown }.insert(name);
            }
        }
        Ok(shown.into_iter().collect())
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
        let (at, node) =
            self.nearest(name)?.ok_or_else(|| Error::new(ErrorKind::NotFound, "no such file").entry(name))?;
        if node.markers.metacopy.is_none() {
            return self.parts[at].dir.open_file(name);
        }
        let (dir, name, _) = self.data_below(at, name, &node)?;
        dir.open_file(&name)
    }
}
