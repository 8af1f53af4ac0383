//! Hard links: which names of a file have been given, and which wait for one that changes.
//!
//! The first changed name of a file carries its content and the later ones are links to it. Names that were
//! found unchanged are remembered, as they have to be written again, as links, when another name of the
//! same file changes (containerd `pkg/archive/tar.go`, `inodeSrc` and `inodeRefs`).
//!
//! A file leaves the table when as many names were seen as it has links, so that the table holds only files
//! whose names are still to come.

use std::collections::HashMap;

use layer_model::{LayerPath, LayerPathBuf, Node, tree::InodeId};

/// What is known of one name of a file with several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Linked {
    /// The file.
    pub(crate) inode: InodeId,
    /// How many names it has in the merged tree.
    pub(crate) names: u32,
    /// Whether there can be names that the walk does not meet, and what they look like.
    pub(crate) elsewhere: Option<Elsewhere>,
}

/// Names of a file that an upper directory does not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    /// The overlay keeps an index: a file copied up under one name is seen under all names that the lower
    /// file has. That is the lower file, where the name is known to the base.
    Indexed(Option<InodeId>),
    /// The file is a lower one that a redirected directory shows under a new name; others may be at their
    /// old place.
    Below,
}

/// What to do with a changed name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is the first: it carries the content, and these names follow it as links.
    First(Vec<LayerPathBuf>),
    /// It is a link to this name.
    LinkTo(LayerPathBuf),
}

#[derive(Debug)]
struct Group {
    first: Option<LayerPathBuf>,
    unchanged: Vec<LayerPathBuf>,
    seen: u32,
    linked: Linked,
    /// Where names can be elsewhere: what is at the first name, and all names met.
    node: Option<Box<Node>>,
    met: Vec<LayerPathBuf>,
    /// Whether a link was given.
    counted: bool,
}

/// A file of which names are missing at the end of the walk.
#[derive(Debug)]
pub(crate) struct Incomplete {
    pub(crate) first: LayerPathBuf,
    pub(crate) node: Node,
    pub(crate) linked: Linked,
    /// How many names are missing.
    pub(crate) missing: u32,
    /// Those that are not.
    pub(crate) met: Vec<LayerPathBuf>,
}

/// The files with several names that the walk has met.
#[derive(Debug, Default)]
pub(crate) struct LinkTable {
    groups: HashMap<InodeId, Group>,
    /// Files that were given more than one name.
    pub(crate) linked: u64,
}

impl LinkTable {
    /// A name of `linked` that changed, with what is at it.
    pub(crate) fn changed(&mut self, path: LayerPath<'_>, linked: &Linked, node: &Node) -> Place {
        let group = self.meet(path, linked);
        let place = match &group.first {
            Some(first) => Place::LinkTo(first.clone()),
            None => {
                group.first = Some(path.to_owned());
                group.node = linked.elsewhere.is_some().then(|| Box::new(node.clone()));
                Place::First(std::mem::take(&mut group.unchanged))
            }
        };
        let links = !matches!(&place, Place::First(unchanged) if unchanged.is_empty());
        let first_link = links && !std::mem::replace(&mut group.counted, true);
        self.linked += u64::from(first_link);
        self.forget_when_complete(linked);
        place
    }

    /// A name of `linked` that did not change. The name that it has to be a link to, if there is one.
    pub(crate) fn unchanged(&mut self, path: LayerPath<'_>, linked: &Linked) -> Option<LayerPathBuf> {
        let group = self.meet(path, linked);
        let first = group.first.clone();
        match &first {
            Some(_) => {
                let first_link = !std::mem::replace(&mut group.counted, true);
                self.linked += u64::from(first_link);
            }
            None => group.unchanged.push(path.to_owned()),
        }
        self.forget_when_complete(linked);
        first
    }

    /// The files that were given, and of which names exist that the walk has not met; in path order.
    pub(crate) fn incomplete(&mut self) -> Vec<Incomplete> {
        let groups = std::mem::take(&mut self.groups).into_values();
        let mut list: Vec<_> = groups
            .filter_map(|group| {
                let missing = group.linked.names.saturating_sub(group.seen);
                let Group { first, node, linked, met, .. } = group;
                Some(Incomplete { first: first?, node: *node?, linked, missing, met })
            })
            .filter(|group| group.missing > 0)
            .collect();
        list.sort_by(|a, b| a.first.cmp(&b.first));
        list
    }

    fn meet(&mut self, path: LayerPath<'_>, linked: &Linked) -> &mut Group {
        let group = self.groups.entry(linked.inode).or_insert_with(|| Group {
            first: None,
            unchanged: Vec::new(),
            seen: 0,
            linked: linked.clone(),
            node: None,
            met: Vec::new(),
            counted: false,
        });
        group.seen = group.seen.saturating_add(1);
        if let Some(elsewhere) = linked.elsewhere {
            group.met.push(path.to_owned());
            // Any of the names may be the one that the base knows the lower file by.
            if matches!(group.linked.elsewhere, None | Some(Elsewhere::Indexed(None))) {
                group.linked.elsewhere = Some(elsewhere);
            }
        }
        group
    }

    fn forget_when_complete(&mut self, linked: &Linked) {
        let complete = |group: &Group| group.seen >= group.linked.names;
        if self.groups.get(&linked.inode).is_some_and(complete) {
            self.groups.remove(&linked.inode);
        }
    }
}

#[cfg(test)]
mod tests {
    use layer_model::{Metadata, NodeKind};

    use super::*;

    fn linked(ino: u64, names: u32) -> Linked {
        Linked { inode: InodeId { dev: 1, ino }, names, elsewhere: None }
    }

    fn path(name: &str) -> LayerPathBuf {
        LayerPathBuf::clean(name.as_bytes()).unwrap()
    }

    fn changed(table: &mut LinkTable, name: &str, linked: &Linked) -> Place {
        let node = Node::new(NodeKind::File { size: 0 }, Metadata::file(0o644));
        table.changed(path(name).as_path(), linked, &node)
    }

    #[test]
    fn the_first_changed_name_takes_the_unchanged_ones_with_it() {
        let mut table = LinkTable::default();
        let file = linked(7, 4);
        assert_eq!(table.unchanged(path("a").as_path(), &file), None);
        assert_eq!(changed(&mut table, "b", &file), Place::First(vec![path("a")]));
        assert_eq!(table.unchanged(path("c").as_path(), &file), Some(path("b")));
        assert_eq!(changed(&mut table, "d", &file), Place::LinkTo(path("b")));
        assert_eq!(table.linked, 1);
        assert!(table.groups.is_empty(), "all four names were seen");
    }

    #[test]
    fn a_file_without_a_change_is_never_given() {
        let mut table = LinkTable::default();
        assert_eq!(table.unchanged(path("a").as_path(), &linked(7, 3)), None);
        assert_eq!(table.unchanged(path("b").as_path(), &linked(7, 3)), None);
        assert!(table.incomplete().is_empty());
        assert_eq!(table.linked, 0);
    }

    #[test]
    fn the_device_is_part_of_the_key() {
        let mut table = LinkTable::default();
        let other = Linked { inode: InodeId { dev: 2, ino: 7 }, ..linked(7, 2) };
        assert_eq!(changed(&mut table, "a", &linked(7, 2)), Place::First(vec![]));
        assert_eq!(changed(&mut table, "b", &other), Place::First(vec![]));
    }

    #[test]
    fn names_that_the_walk_cannot_meet_are_missed_at_the_end() {
        let mut table = LinkTable::default();
        let lower = InodeId { dev: 9, ino: 1 };
        let first = Linked { elsewhere: Some(Elsewhere::Indexed(None)), ..linked(7, 3) };
        let second = Linked { elsewhere: Some(Elsewhere::Indexed(Some(lower))), ..first.clone() };
        changed(&mut table, "moved", &first);
        changed(&mut table, "p", &second);
        let missed = table.incomplete();
        assert_eq!((missed.len(), missed[0].missing, &missed[0].first), (1, 1, &path("moved")));
        assert_eq!(missed[0].linked.elsewhere, Some(Elsewhere::Indexed(Some(lower))));
    }
}
