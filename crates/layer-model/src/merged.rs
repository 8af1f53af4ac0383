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

#[derive(Clone)]
struct Layers {
    /// Nearest first.
    merged: Vec<Arc<dyn LayerTree>>,
    /// Layers that are only asked for the data of metacopy files with an absolute redirect.
    data_only: Vec<Arc<dyn LayerTree>>,
    follow_redirects: bool,
    verify: Option<VerifyData>,
}

/// Fails unless the data of a metacopy file, of this length, has this digest.
pub type VerifyData = fn(&dyn ReadAt, u64, &[u8; 32]) -> Result<()>;

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
        Ok(Self::of_layers(layers))
    }

    /// The view of a stack.
    pub fn of_stack<L: LayerTree + Clone + 'static>(stack: &Stack<L>) -> Self {
        Self::of_layers(stack.iter().map(|layer| Arc::new(layer.clone()) as Arc<dyn LayerTree>).collect())
    }

    fn of_layers(merged: Vec<Arc<dyn LayerTree>>) -> Self {
        let layers = Layers { merged, data_only: Vec::new(), follow_redirects: true, verify: None };
        Self { layers: Arc::new(layers) }
    }

    /// The same view with another set of rules.
    fn with(&self, change: impl FnOnce(&mut Layers)) -> Self {
        let mut layers = Layers::clone(&self.layers);
        change(&mut layers);
        Self { layers: Arc::new(layers) }
    }

    /// The same view with data-only layers below, nearest first (overlay's `::` layers).
    #[must_use]
    pub fn with_data_only(self, data_only: Vec<Arc<dyn LayerTree>>) -> Self {
        self.with(|layers| layers.data_only = data_only)
    }

    /// The same view as a mount with `redirect_dir=nofollow` gives it: where a redirect would have to be
    /// followed into a layer below, a look-up fails with [`ErrorKind::UnsupportedMarker`], as the kernel
    /// refuses it (`EPERM`, KERNEL(6.18); what the directory was made of cannot be told without).
    #[must_use]
    pub fn without_redirects(self) -> Self {
        self.with(|layers| layers.follow_redirects = false)
    }

    /// The same view as a mount with `verity=on` gives it: the data of a metacopy file whose marker carries a digest is
    /// checked by `verify` when it is opened (`ovl_validate_verity` in the kernel's `fs/overlayfs/util.c`).
    #[must_use]
    pub fn with_verified_data(self, verify: VerifyData) -> Self {
        self.with(|layers| layers.verify = Some(verify))
    }

    /// The view of the layers below the nearest `skip` ones; [`None`] when nothing is left.
    pub fn below(&self, skip: usize) -> Option<Merged> {
        let merged = self.layers.merged.get(skip..).filter(|rest| !rest.is_empty())?.to_vec();
        Some(self.with(|layers| layers.merged = merged))
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
        if !self.layers.follow_redirects {
            // What the bottom layer says is never looked at.
            if self.done == self.parts.len() {
                return Ok(());
            }
            let kind = ErrorKind::UnsupportedMarker { marker: "redirect" };
            return Err(Error::new(kind, "a redirect where none is to be followed").entry(&self.name));
        }
        match redirect {
            Redirect::Sibling(sibling) => self.name = sibling,
            Redirect::Absolute(path) => {
                let Some((parent, name)) = path.as_path().split_last() else {
                    // To the root: no overlay makes such a redirect, and the kernel refuses it.
                    self.done = self.parts.len();
                    return Ok(());
                };
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
        // KERNEL(6.5): layers below `::`. Only there the file may be missing and still be shown. The kernel
        // (6.18) gives up when a merged layer has a directory of the redirect's path; there is no reason to.
        let path = descent.absolute.filter(|_| !self.layers.data_only.is_empty());
        let Some((parent, name)) = path.as_ref().and_then(|path| path.as_path().split_last()) else {
            return Ok(Data::Nowhere);
        };
        for (at, layer) in self.layers.data_only.iter().enumerate() {
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
        if node.markers.redirect.is_some() && !self.layers.follow_redirects {
            self.merge(name)?;
        }
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
        // What is a file with data in the nearest layer hides all below; of that no more needs to be known.
        if let Ok(file) = self.parts[0].dir.open_file(name) {
            return Ok(file);
        }
        let missing = || Error::new(ErrorKind::NotFound, "no such file").entry(name);
        let hit = self.nearest(name)?.ok_or_else(missing)?;
        let Some(metacopy) = &hit.node.markers.metacopy else { return hit.part.dir.open_file(&hit.name) };
        let Data::Found(data) = self.data_of(name)? else { return Err(no_data(name)) };
        let file = data.part.dir.open_file(&data.name)?;
        if let (Some(verify), Some(digest), NodeKind::File { size }) =
            (self.layers.verify, &metacopy.digest, &hit.node.kind)
        {
            verify(&*file, *size, digest)?;
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{testing::MemoryLayer, tree::Metacopy};

    fn layer() -> MemoryLayer {
        MemoryLayer::new()
    }

    /// The view of layers, nearest first, each on a device of its own.
    fn view<const N: usize>(layers: [MemoryLayer; N]) -> Merged {
        let numbered = (1..).zip(layers).map(|(dev, layer)| layer.on_device(dev));
        Merged::new(numbered.map(|layer| Arc::new(layer) as Arc<dyn LayerTree>).collect()).unwrap()
    }

    fn sibling(name: &str) -> Option<Redirect> {
        Some(Redirect::Sibling(name.as_bytes().into()))
    }

    fn absolute(path: &str) -> Option<Redirect> {
        Some(Redirect::Absolute(LayerPathBuf::clean(path.as_bytes()).unwrap()))
    }

    trait Build {
        fn redirected(self, path: &str, redirect: Option<Redirect>) -> Self;
        fn metacopy(self, path: &str, redirect: Option<Redirect>) -> Self;
    }

    impl Build for MemoryLayer {
        fn redirected(self, path: &str, redirect: Option<Redirect>) -> Self {
            self.dir(path, 0o755).edit(path, |node| node.markers.redirect = redirect)
        }

        fn metacopy(self, path: &str, redirect: Option<Redirect>) -> Self {
            self.file(path, "").edit(path, |node| {
                node.markers.redirect = redirect;
                node.markers.metacopy = Some(Metacopy::default());
            })
        }
    }

    /// All of a view as lines: `d/`, `d/f=content`.
    fn lines(tree: &dyn LayerTree) -> Vec<String> {
        fn walk(dir: &dyn LayerDir, above: &str, lines: &mut Vec<String>) {
            let entries = dir.entries().unwrap();
            assert_eq!(
                dir.names().unwrap(),
                entries.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
            );
            for (name, node) in entries {
                assert_eq!(dir.lookup(&name).unwrap().as_ref(), Some(&node));
                assert!(node.markers.is_empty(), "a merged view has no markers");
                let path = format!("{above}{}", str::from_utf8(&name).unwrap());
                if node.is_dir() {
                    lines.push(format!("{path}/"));
                    walk(&*dir.open_dir(&name).unwrap(), &format!("{path}/"), lines);
                } else {
                    let file = dir.open_file(&name).unwrap();
                    let mut data = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
                    file.read_exact_at(&mut data, 0).unwrap();
                    lines.push(format!("{path}={}", str::from_utf8(&data).unwrap()));
                }
            }
        }
        let mut lines = Vec::new();
        walk(&*tree.root().unwrap(), "", &mut lines);
        lines
    }

    fn kind_of<T>(result: Result<T>) -> ErrorKind {
        result.err().expect("an error").kind().clone()
    }

    #[test]
    fn directories_merge_until_something_stops_them() {
        let bottom = || layer().file("d/low", "0");
        let top = || layer().file("d/top", "2");
        assert_eq!(lines(&view([top(), bottom()])), ["d/", "d/low=0", "d/top=2"]);
        for stop in [layer().whiteout("d"), layer().file("d", "no directory")] {
            assert_eq!(lines(&view([top(), stop, bottom()])), ["d/", "d/top=2"]);
        }
        let opaque = layer().opaque("d").file("d/mid", "1");
        assert_eq!(lines(&view([top(), opaque, bottom()])), ["d/", "d/mid=1", "d/top=2"]);
        let opaque_root = layer().opaque("").file("own", "1");
        assert_eq!(lines(&view([opaque_root, bottom()])), ["d/", "d/low=0", "own=1"]);
    }

    #[test]
    fn the_nearest_layer_decides() {
        let merged = view([
            layer().file("f", "new").mode("f", 0o600).whiteout("gone"),
            layer().file("f", "old").file("gone", "x").file("back", "1"),
            layer().whiteout("back").file("gone", "y"),
        ]);
        assert_eq!(lines(&merged), ["back=1", "f=new"]);
        let f = merged.lookup_path(LayerPath::new(b"f").unwrap()).unwrap().unwrap();
        assert_eq!((f.metadata.mode, f.inode.unwrap().dev), (0o600, 1));
        let root = merged.root().unwrap();
        assert_eq!(root.lookup(b"gone").unwrap(), None);
        assert_eq!(kind_of(root.open_dir(b"f")), ErrorKind::NotDirectory);
        assert_eq!(kind_of(root.open_dir(b"gone")), ErrorKind::NotFound);
        assert_eq!(kind_of(root.open_file(b"gone")), ErrorKind::NotFound);
        assert_eq!(lines(&merged.below(1).unwrap()), ["back=1", "f=old", "gone=x"]);
        assert!(merged.below(3).is_none());
    }

    #[test]
    fn a_redirect_leads_to_a_sibling_or_to_a_path_in_the_layers_below() {
        let bottom = || layer().file("x/y/f", "1").file("other/g", "2");
        let up = layer().redirected("r", sibling("x")).whiteout("x");
        assert_eq!(lines(&view([up, bottom()])), ["other/", "other/g=2", "r/", "r/y/", "r/y/f=1"]);
        let up = layer().redirected("other/deep", absolute("x/y")).whiteout("x");
        let want = ["other/", "other/deep/", "other/deep/f=1", "other/g=2"];
        assert_eq!(lines(&view([up, bottom()])), want);
        for nothing in [sibling("no"), absolute("x/no"), absolute("x/y/f"), absolute("")] {
            let up = layer().redirected("r", nothing).file("r/own", "3").opaque("x").opaque("other");
            assert_eq!(lines(&view([up, bottom()])), ["other/", "r/", "r/own=3", "x/"]);
        }
    }

    /// What the kernel leaves after `mv a r; mv r/b q; mv q/c r/c2`.
    #[test]
    fn redirects_inside_of_redirected_directories_name_the_paths_of_before() {
        let bottom = layer().file("a/f", "1").file("a/b/g", "2").file("a/b/c/h", "3");
        let up = layer()
            .whiteout("a")
            .redirected("r", sibling("a"))
            .whiteout("r/b")
            .redirected("q", absolute("a/b"))
            .whiteout("q/c")
            .redirected("r/c2", absolute("a/b/c"));
        assert_eq!(lines(&view([up, bottom])), ["q/", "q/g=2", "r/", "r/c2/", "r/c2/h=3", "r/f=1"]);
    }

    #[test]
    fn redirects_go_on_from_layer_to_layer() {
        let bottom = layer().file("one/f", "1").file("wrong/f", "no");
        let middle = layer().whiteout("one").redirected("two", sibling("one")).file("two/g", "2");
        let top = layer().whiteout("two").redirected("d/three", absolute("two")).opaque("wrong");
        let want = ["d/", "d/three/", "d/three/f=1", "d/three/g=2", "wrong/"];
        assert_eq!(lines(&view([top, middle, bottom])), want);
        // The directory of the redirect's path is itself opaque, and still leads on by a redirect below it.
        let bottom = layer().file("x/y/f", "1").file("o/d/hidden", "2");
        let middle = layer().opaque("o").redirected("o/d", absolute("x/y")).opaque("x");
        let top = layer().redirected("t", absolute("o/d")).opaque("o");
        assert_eq!(lines(&view([top, middle, bottom])), ["o/", "t/", "t/f=1", "x/"]);
    }

    #[test]
    fn redirects_that_are_not_to_be_followed_are_refused() {
        let up = || layer().redirected("r", sibling("x"));
        let merged = view([up(), layer().dir("x", 0o755)]).without_redirects();
        let root = merged.root().unwrap();
        let refused = ErrorKind::UnsupportedMarker { marker: "redirect" };
        assert_eq!(kind_of(root.lookup(b"r")), refused);
        assert_eq!(kind_of(root.open_dir(b"r")), refused);
        assert_eq!(kind_of(root.names()), refused);
        assert_eq!(lines(&view([up()]).without_redirects()), ["r/"], "there is nothing to follow it into");
    }

    #[test]
    fn a_metadata_copy_takes_its_data_from_the_first_layer_below_that_has_some() {
        let bottom = || layer().file("f", "data").file("e/g", "other");
        let shows = |line: &str, top: MemoryLayer, rest: MemoryLayer| {
            let lines = lines(&view([top, rest, bottom()]));
            assert!(lines.iter().any(|have| have == line), "{line} in {lines:?}");
        };
        shows("f=data", layer().metacopy("f", None), layer().metacopy("f", None));
        shows("f=mid", layer().metacopy("f", None), layer().file("f", "mid"));
        shows("a=data", layer().metacopy("a", sibling("f")), layer());
        let twice = layer().metacopy("b", absolute("e/g")).metacopy("c", sibling("f"));
        shows("a=other", layer().metacopy("a", sibling("b")), twice.clone().whiteout("f"));
        shows("a=data", layer().metacopy("a", absolute("c")), twice);

        let merged = view([layer().metacopy("f", None).mode("f", 0o600), bottom()]);
        let f = merged.lookup_path(LayerPath::new(b"f").unwrap()).unwrap().unwrap();
        assert_eq!((f.metadata.mode, f.inode.unwrap().dev, f.content_id().unwrap().dev), (0o600, 1, 2));
    }

    #[test]
    fn a_metadata_copy_without_data_is_refused() {
        let lost = ErrorKind::UnsupportedMarker { marker: "metacopy" };
        for below in [
            layer(),
            layer().dir("f", 0o755),
            layer().whiteout("f"),
            layer().symlink("f", "x"),
            layer().metacopy("f", None),
        ] {
            let merged = view([layer().metacopy("f", None), below]);
            let root = merged.root().unwrap();
            assert_eq!(kind_of(root.lookup(b"f")), lost);
            assert_eq!(kind_of(root.entries()), lost);
            assert_eq!(kind_of(root.open_file(b"f")), lost);
        }
    }

    #[test]
    fn data_only_layers_are_asked_last_and_by_absolute_redirects_only() {
        let data = |content| Arc::new(layer().on_device(9).file("objs/1", content)) as Arc<dyn LayerTree>;
        let upper = layer().metacopy("f", None);
        let lower = layer().metacopy("f", absolute("objs/1"));
        let merged = view([upper.clone(), lower.clone()]).with_data_only(vec![data("near"), data("far")]);
        assert_eq!(lines(&merged), ["f=near"]);
        let f = merged.lookup_path(LayerPath::new(b"f").unwrap()).unwrap().unwrap();
        assert_eq!(f.content_id().unwrap().dev, 9);

        let own = lower.clone().file("objs/1", "merged layers come first");
        let shown = lines(
            &view([upper.clone(), layer().metacopy("f", absolute("objs/1")), own])
                .with_data_only(vec![data("x")]),
        );
        assert_eq!(shown[0], "f=merged layers come first");

        let missing = view([upper, lower]).with_data_only(vec![Arc::new(layer())]);
        let root = missing.root().unwrap();
        assert_eq!(root.lookup(b"f").unwrap().unwrap().data, None, "it is shown");
        let lost = ErrorKind::UnsupportedMarker { marker: "metacopy" };
        assert_eq!(kind_of(root.open_file(b"f")), lost, "but cannot be read");
        let relative = layer().metacopy("f", sibling("1"));
        assert_eq!(
            kind_of(view([relative]).with_data_only(vec![data("x")]).root().unwrap().lookup(b"f")),
            lost
        );
    }
}
