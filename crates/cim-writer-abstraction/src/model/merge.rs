//! Several images as one.

use std::collections::{BTreeMap, HashMap};

use layer_model::{Error, ErrorKind, Result};

use super::{
    ImageTree, View,
    arena::Arena,
    entry::{Child, Dir, EntryRef, FileId, Node},
    tree::ROOT,
};
use crate::{CimPath, path::key_of};

/// The view of `sources`, topmost first, as merging shows them. None gives an empty root.
///
/// # Rules
/// - A path of an upper source hides the same path of lower ones; directories merge, and the topmost that somebody
///   described gives the metadata. Paths are the same when they are so but for case; the topmost spelling is shown.
/// - A file over a directory, and the reverse, hides it with all that is in it.
/// - A tombstone hides its path with all below it in lower sources, not in upper ones. Without anything to hide it does
///   nothing.
/// - A merged link is another name of the file that its target is in its own source and lower ones; the target may be a
///   merged link itself. Links that are hidden are not looked at.
/// - Hard links stay names of one file; a name that is replaced leaves the others as they are. Alternate streams belong
///   to their file.
///
/// # Errors
/// [`ErrorKind::DanglingMergedLink`] for a merged link whose target is missing, hidden, a directory, or a link in a
/// circle.
pub fn merge<'a>(sources: impl IntoIterator<Item = &'a ImageTree>) -> Result<View> {
    let images: Vec<ImageTree> = sources.into_iter().cloned().collect();
    if images.is_empty() {
        let empty = ImageTree::new(crate::op::CimKind::Block);
        return Ok(View::of(&empty));
    }
    let mut merger = Merger { images: &images, dirs: Arena::default(), links: HashMap::new() };
    merger.run()?;
    let Merger { dirs, .. } = merger;
    Ok(View::from_parts(images, dirs))
}

/// The same directory in several sources, topmost first: number of the source, number of the directory.
type Parts = Vec<(u32, u32)>;

struct Merger<'a> {
    images: &'a [ImageTree],
    dirs: Arena<Dir>,
    /// What merged links lead to, by source and number.
    links: HashMap<(u32, u32), Option<FileId>>,
}

/// What the sources have at one name, from the topmost to as far as something can be seen.
struct Found {
    name: Box<[u8]>,
    seen: Seen,
    /// Nothing of lower sources can be seen any more.
    closed: bool,
}

enum Seen {
    /// A tombstone.
    Nothing,
    Leaf(u32, Node),
    Dirs(Parts),
}

impl Found {
    fn new(name: &[u8], source: u32, node: Node) -> Self {
        let (seen, closed) = match node {
            Node::Dir(id) => (Seen::Dirs(vec![(source, id)]), false),
            Node::Tombstone => (Seen::Nothing, true),
            Node::File(_) | Node::Link(_) => (Seen::Leaf(source, node), true),
        };
        Self { name: name.into(), seen, closed }
    }

    /// Takes what a lower source has.
    fn below(&mut self, source: u32, node: Node) {
        match (&mut self.seen, node) {
            _ if self.closed => {}
            (Seen::Dirs(parts), Node::Dir(id)) => parts.push((source, id)),
            _ => self.closed = true,
        }
    }
}

impl Merger<'_> {
    fn run(&mut self) -> Result<()> {
        let roots: Parts = (0..self.images.len() as u32).map(|source| (source, ROOT)).collect();
        let root = self.merged_dir(&roots);
        let mut rest = vec![(root, roots, CimPath::root())];
        while let Some((into, parts, path)) = rest.pop() {
            for (key, found) in self.children(&parts) {
                let node = match found.seen {
                    Seen::Nothing => continue,
                    Seen::Dirs(parts) => {
                        let id = self.merged_dir(&parts);
                        rest.push((id, parts, path.join_known(&found.name)));
                        Node::Dir(id)
                    }
                    Seen::Leaf(source, Node::Link(link)) => {
                        let Some(file) = self.resolve(source, link) else {
                            let target = self.images[source as usize].links.get(link);
                            let what = format!("the merged link leads to no file at {target}");
                            let path = path.join_known(&found.name);
                            return Err(Error::new(ErrorKind::DanglingMergedLink, what).entry(path));
                        };
                        Node::File(file)
                    }
                    Seen::Leaf(source, Node::File(file)) => Node::File(FileId { source, ..file }),
                    Seen::Leaf(..) => continue,
                };
                let child = Child { name: found.name, node };
                self.dirs.get_mut(into).children.insert(key, child);
            }
        }
        Ok(())
    }

    /// What the sources have in the directory of `parts`.
    fn children(&self, parts: &Parts) -> BTreeMap<Box<[u16]>, Found> {
        let mut children: BTreeMap<Box<[u16]>, Found> = BTreeMap::new();
        for (source, dir) in parts {
            for (key, child) in &self.images[*source as usize].dirs.get(*dir).children {
                match children.get_mut(key) {
                    Some(found) => found.below(*source, child.node),
                    None => {
                        children.insert(key.clone(), Found::new(&child.name, *source, child.node));
                    }
                }
            }
        }
        children
    }

    /// The directory of `parts`, without what is in it.
    fn merged_dir(&mut self, parts: &Parts) -> u32 {
        let dirs = parts.iter().map(|(source, id)| (*source, self.images[*source as usize].dirs.get(*id)));
        let topmost =
            parts.first().map(|(source, id)| (*source, self.images[*source as usize].dirs.get(*id)));
        let described = dirs.clone().find(|(_, dir)| !dir.implied).or(topmost);
        let (source, dir) = described.expect("a merged directory has a part");
        let dir = Dir {
            meta: dir.meta.clone(),
            streams: dir.streams.clone(),
            generation: dir.generation,
            source,
            implied: dir.implied,
            children: BTreeMap::new(),
        };
        self.dirs.push(dir)
    }

    /// The file that a merged link leads to.
    fn resolve(&mut self, source: u32, link: u32) -> Option<FileId> {
        let mut at = (source, link);
        let mut way = Vec::new();
        let file = loop {
            if let Some(known) = self.links.get(&at) {
                break *known;
            }
            // Until it is known, it leads nowhere: a circle ends here.
            self.links.insert(at, None);
            way.push(at);
            match self.find(at.0, self.images[at.0 as usize].links.get(at.1)) {
                Some((source, Node::Link(next))) => at = (source, next),
                Some((source, Node::File(file))) => {
                    let file = FileId { source, ..file };
                    let entry = self.images[source as usize].entry(Node::File(FileId { source: 0, ..file }));
                    break matches!(entry, EntryRef::File(file, _) if !file.meta.is_dir()).then_some(file);
                }
                _ => break None,
            }
        };
        for step in way {
            self.links.insert(step, file);
        }
        file
    }

    /// What `path` is in the sources from `top` on downwards, where that is no directory.
    fn find(&self, top: u32, path: &CimPath) -> Option<(u32, Node)> {
        let mut parts: Parts = (top..self.images.len() as u32).map(|source| (source, ROOT)).collect();
        let mut leaf = None;
        for name in path.components() {
            if leaf.is_some() {
                return None;
            }
            let key = key_of(name);
            let mut found: Option<Found> = None;
            for (source, dir) in &parts {
                let Some(child) = self.images[*source as usize].dirs.get(*dir).children.get(&*key) else {
                    continue;
                };
                match &mut found {
                    Some(found) => found.below(*source, child.node),
                    None => found = Some(Found::new(&[], *source, child.node)),
                }
            }
            match found?.seen {
                Seen::Nothing => return None,
                Seen::Leaf(source, node) => leaf = Some((source, node)),
                Seen::Dirs(dirs) => parts = dirs,
            }
        }
        leaf
    }
}
