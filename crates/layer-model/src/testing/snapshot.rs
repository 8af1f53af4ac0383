//! What a tree holds, as a list that can be compared.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Digest, LayerPath, LayerPathBuf, LayerTree, Metadata, Node, NodeKind, Result, Xattrs,
    content::Content,
    tree::{InodeId, LayerDir},
};

/// Everything that a tree shows: types, metadata, attributes, link groups, contents by digest.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Snapshot {
    entries: BTreeMap<LayerPathBuf, Seen>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    kind: NodeKind,
    metadata: Metadata,
    xattrs: Xattrs,
    digest: Option<Digest>,
    links: Vec<LayerPathBuf>,
}

impl Snapshot {
    /// Reads the whole of `tree`, the root included.
    ///
    /// # Errors
    /// Those of the tree.
    pub fn of(tree: &dyn LayerTree) -> Result<Self> {
        let mut snapshot = Self::default();
        let mut groups: BTreeMap<InodeId, BTreeSet<LayerPathBuf>> = BTreeMap::new();
        let root = tree.root()?;
        snapshot.add(LayerPath::ROOT, root.node()?, None);
        snapshot.walk(&*root, LayerPath::ROOT, &mut groups)?;
        for names in groups.values().filter(|names| names.len() > 1) {
            for name in names {
                if let Some(seen) = snapshot.entries.get_mut(name) {
                    seen.links = names.iter().cloned().collect();
                }
            }
        }
        Ok(snapshot)
    }

    /// The same list without the times of directories: they depend on what else happened in there.
    #[must_use]
    pub fn without_dir_times(mut self) -> Self {
        for seen in self.entries.values_mut().filter(|seen| seen.kind == NodeKind::Directory) {
            seen.metadata.mtime = Default::default();
        }
        self
    }

    /// The same list without access times, as reading changes them.
    #[must_use]
    pub fn without_access_times(mut self) -> Self {
        for seen in self.entries.values_mut() {
            seen.metadata.atime = None;
        }
        self
    }

    /// The same list with times cut to whole seconds, as most layer tars carry them.
    #[must_use]
    pub fn in_whole_seconds(mut self) -> Self {
        for seen in self.entries.values_mut() {
            seen.metadata.mtime = seen.metadata.mtime.truncated();
        }
        self
    }

    /// The same list without the extended attributes whose names begin with `prefix`.
    #[must_use]
    pub fn without_xattrs(mut self, prefix: &str) -> Self {
        for seen in self.entries.values_mut() {
            seen.xattrs.retain(|name, _| !name.starts_with(prefix.as_bytes()));
        }
        self
    }

    /// The same list without the root.
    #[must_use]
    pub fn without_root(mut self) -> Self {
        self.entries.remove(&LayerPathBuf::root());
        self
    }

    /// How `self` (`-`) and `other` (`+`) differ, a line for each difference; empty when they do not.
    pub fn difference(&self, other: &Self) -> Vec<String> {
        let paths: BTreeSet<_> = self.entries.keys().chain(other.entries.keys()).collect();
        let mut lines = Vec::new();
        for path in paths {
            let [a, b] = [self, other].map(|s| s.entries.get(path));
            if a != b {
                for (sign, seen) in [('-', a), ('+', b)] {
                    if let Some(seen) = seen {
                        lines.push(format!("{sign} {}: {seen:?}", path.as_path().display()));
                    }
                }
            }
        }
        lines
    }

    /// Fails the test with the difference, when there is one.
    ///
    /// # Panics
    /// When the two differ.
    #[track_caller]
    pub fn assert_same(&self, other: &Self) {
        let difference = self.difference(other);
        assert!(difference.is_empty(), "trees differ:\n{}", difference.join("\n"));
    }

    /// The paths, in layer order.
    pub fn paths(&self) -> impl Iterator<Item = LayerPath<'_>> {
        self.entries.keys().map(LayerPathBuf::as_path)
    }

    fn walk(
        &mut self,
        dir: &dyn LayerDir,
        path: LayerPath<'_>,
        groups: &mut BTreeMap<InodeId, BTreeSet<LayerPathBuf>>,
    ) -> Result<()> {
        for name in dir.names()? {
            let Some(node) = dir.lookup(&name)? else { continue };
            let path = path.join(&name)?;
            if let (Some(inode), false) = (node.inode, node.is_dir()) {
                groups.entry(inode).or_default().insert(path.clone());
            }
            let digest = match node.kind {
                NodeKind::File { size } if node.markers.metacopy.is_none() => {
                    let file = dir.open_file(&name)?;
                    let mut digester = crate::Digester::default();
                    Content::from_range(&*file, 0, size).write_to(&mut digester)?;
                    Some(digester.finish())
                }
                _ => None,
            };
            let is_dir = node.is_dir();
            self.add(path.as_path(), node, digest);
            if is_dir {
                self.walk(&*dir.open_dir(&name)?, path.as_path(), groups)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: LayerPath<'_>, node: Node, digest: Option<Digest>) {
        let Node { kind, metadata, xattrs, .. } = node;
        self.entries.insert(path.to_owned(), Seen { kind, metadata, xattrs, digest, links: Vec::new() });
    }
}
