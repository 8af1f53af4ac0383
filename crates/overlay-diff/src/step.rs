//! What changed in one directory: the work of the helpers.
//!
//! A unit is a directory to open, or a run of names of an open one. Its outcome says for each name what the
//! source has to do; what depends on other names (ancestors, hard links) is left to it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use layer_model::{
    Device, Error, ErrorKind, IoContext, LayerPath, LayerTree, Node, NodeKind, Profile, ReadAt, Result,
    WarningKind,
    change::WHITEOUT_PREFIX,
    merged::Merged,
    tree::{NlinkDelta, Redirect},
};

use crate::{
    links::{Elsewhere, Linked},
    options::OpaqueStyle,
    ordered::{Key, Work},
    pair::{BelowPlan, ChildPlan, Names, OldNode, OldPlan, Pair},
    policy::{Filter, Note},
    same::{self, Verdict},
    topology::Topology,
};

/// How many names a unit has. Enough to make the queue's lock cheap beside the look-ups, and little enough
/// that a directory of large-ish files is spread over the threads.
pub(crate) const RUN: u32 = 32;

/// The rules of one diff.
pub(crate) struct Rules {
    pub(crate) profile: Profile,
    pub(crate) filter: Filter,
    pub(crate) style: OpaqueStyle,
    pub(crate) follow_redirects: bool,
    pub(crate) whiteouts_first: bool,
    pub(crate) small_file: u64,
    /// Whether this is an upper walk, with markers.
    pub(crate) upper_walk: bool,
    /// The lower layers of an upper walk, where they are known.
    pub(crate) lowers: Option<Merged>,
    /// The new side as a whole, merged as far as the lower layers are known.
    pub(crate) view: Arc<dyn LayerTree>,
    pub(crate) topology: Topology,
    /// Set when nobody wants the rest any more.
    pub(crate) stop: Arc<AtomicBool>,
}

/// Something for a helper to do.
pub(crate) enum Unit {
    /// Open the child directory at this position of `parent`, and go through the first names.
    Open { parent: Arc<Pair>, names: Names, at: u32, plan: ChildPlan },
    /// Go through the first names of a directory that is open.
    Root(Pair),
    /// Go through names from this position on.
    Run { pair: Arc<Pair>, names: Names, start: u32 },
}

/// What came of a unit.
pub(crate) struct Out {
    pub(crate) pair: Arc<Pair>,
    pub(crate) names: Names,
    pub(crate) items: Vec<Item>,
    pub(crate) unchanged: u64,
    /// Sockets without anything to remove in their place.
    pub(crate) sockets: Vec<u32>,
}

/// What the source has to do about a name.
pub(crate) struct Item {
    /// The position of the name.
    pub(crate) at: u32,
    pub(crate) what: What,
}

pub(crate) enum What {
    /// The base's entry is gone. A socket may be in its place.
    Remove { socket: bool },
    /// A name of a file with several, that did not change.
    Unchanged(Box<(Linked, Node)>),
    /// This is there now.
    Upsert { entity: Entity, content: Bytes, linked: Option<Linked>, added: bool },
    /// A directory; its children follow.
    Dir { entity: Entity, changed: bool, opaque: bool, added: bool },
}

/// A node as it is emitted, and what has to be said when it is.
#[derive(Clone)]
pub(crate) struct Entity {
    pub(crate) node: Node,
    pub(crate) notes: Vec<Note>,
}

/// The content of a file, as far as a helper has read it.
pub(crate) enum Bytes {
    /// It is no file, or nobody read it yet.
    Unread,
    /// All of it.
    Read(Vec<u8>),
}

impl Work for Rules {
    type Unit = Unit;
    type Out = Result<Out>;

    fn run(&self, key: &[u32], unit: Unit, spawn: &dyn Fn(Key, Unit)) -> Result<Out> {
        let (pair, names, start) = match unit {
            Unit::Run { pair, names, start } => (pair, names, start),
            Unit::Root(pair) => {
                let names = pair.names()?;
                (Arc::new(pair), Arc::new(names), 0)
            }
            Unit::Open { parent, names, at, plan } => {
                let name = &names[position(at, &names)];
                let place = |error: Error| match parent.path.as_path().join(name) {
                    Ok(path) => error.at(path.as_path()),
                    Err(_) => error,
                };
                let pair = parent.open_child(name, plan, self.lowers.as_ref()).map_err(place)?;
                let names = pair.names().map_err(place)?;
                (Arc::new(pair), Arc::new(names), 0)
            }
        };
        let end = start.saturating_add(RUN).min(self.positions(&names));
        let dir_key = &key[..key.len() - 1];
        if end < self.positions(&names) {
            let rest = Unit::Run { pair: pair.clone(), names: names.clone(), start: end };
            spawn([dir_key, &[end]].concat(), rest);
        }
        let mut out = Out {
            pair: pair.clone(),
            names: names.clone(),
            items: Vec::with_capacity((end - start) as usize),
            unchanged: 0,
            sockets: Vec::new(),
        };
        let mut path = pair.path.clone();
        for at in start..end {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::cancelled());
            }
            let name = &names[position(at, &names)];
            path.push(name)?;
            let only_removals = self.whiteouts_first.then(|| at as usize == position(at, &names));
            let spawn = |plan| {
                let unit = Unit::Open { parent: pair.clone(), names: names.clone(), at, plan };
                spawn([dir_key, &[at, 0]].concat(), unit);
            };
            let place = Place { pair: &pair, name, path: path.as_path(), at };
            self.step(&place, only_removals, &mut out, &spawn).map_err(|error| error.at(path.as_path()))?;
            path.pop();
        }
        Ok(out)
    }

    fn weight(out: &Result<Out>) -> usize {
        let Ok(out) = out else { return 0 };
        let read = |item: &Item| match &item.what {
            What::Upsert { content: Bytes::Read(bytes), .. } => bytes.len(),
            _ => 0,
        };
        out.items.iter().map(read).sum()
    }
}

/// The place of a name: with `whiteouts_first` every name has two positions, one for its removal in the
/// first half and one for the rest.
pub(crate) fn position(at: u32, names: &Names) -> usize {
    let at = at as usize;
    if at < names.len() { at } else { at - names.len() }
}

/// One name of one directory.
struct Place<'a> {
    pair: &'a Arc<Pair>,
    name: &'a [u8],
    path: LayerPath<'a>,
    at: u32,
}

impl Rules {
    /// How many positions a directory of these names has.
    pub(crate) fn positions(&self, names: &Names) -> u32 {
        // Pair::names has refused what does not fit.
        let len = u32::try_from(names.len()).unwrap_or(u32::MAX / 2);
        if self.whiteouts_first { len * 2 } else { len }
    }

    /// Looks at one name. With `only_removals` set, either removals or everything else is left out.
    fn step(
        &self,
        place: &Place<'_>,
        only_removals: Option<bool>,
        out: &mut Out,
        spawn: &dyn Fn(ChildPlan),
    ) -> Result<()> {
        let Place { pair, name, at, .. } = *place;
        let new = pair.new_node(name)?;
        let socket = matches!(&new, Some((node, _)) if node.kind == NodeKind::Socket);
        let (mut node, from_upper) = match new {
            Some(found) if !socket => found,
            _ if only_removals == Some(false) => return Ok(()),
            _ => {
                let removed = self.removed(place, new.map(|(node, _)| node))?;
                match removed {
                    true => out.items.push(Item { at, what: What::Remove { socket } }),
                    false if socket => out.sockets.push(at),
                    false => {}
                }
                return Ok(());
            }
        };
        if only_removals == Some(true) {
            return Ok(());
        }
        if node.markers.metacopy.is_some() {
            self.resolve_metacopy(place, &mut node)?;
        }
        let mut old = pair.old_node(name)?;
        if let OldNode::Node(old) = &mut old {
            self.filter.apply_silently(&mut old.xattrs);
        }
        let mut notes = Vec::new();
        self.filter.apply(&mut node.xattrs, &mut notes);
        let changed = self.changed(place, &node, &old)?;
        let added = old.node().is_none();
        if node.is_dir() {
            let (plan, opaque) = self.child_plan(place, &node, from_upper, &old)?;
            let entity = self.entity(place, node, notes)?;
            out.unchanged += u64::from(!changed && from_upper);
            out.items.push(Item { at, what: What::Dir { entity, changed, opaque, added } });
            spawn(plan);
            return Ok(());
        }
        let linked = self.linked(&node, from_upper, &old);
        if !changed {
            out.unchanged += u64::from(from_upper || !self.upper_walk);
            if let Some(linked) = linked {
                out.items.push(Item { at, what: What::Unchanged(Box::new((linked, node))) });
            }
            return Ok(());
        }
        let content = match node.kind {
            NodeKind::File { size } if size > 0 && size <= self.small_file && linked.is_none() => {
                let file = pair.open_new(name, &node, &*self.view)?;
                Bytes::Read(read_small(&*file, size)?)
            }
            _ => Bytes::Unread,
        };
        let entity = self.entity(place, node, notes)?;
        out.items.push(Item { at, what: What::Upsert { entity, content, linked, added } });
        Ok(())
    }

    /// Whether the base may have something here that the new side, with `socket` or nothing at all, does
    /// not show. A socket in place of a socket is no change, and to containerd no socket ever is.
    fn removed(&self, place: &Place<'_>, socket: Option<Node>) -> Result<bool> {
        if socket.is_some() && self.profile == Profile::Containerd {
            return Ok(false);
        }
        let removed = match place.pair.old_node(place.name)? {
            OldNode::Unknown => true,
            OldNode::Absent => false,
            OldNode::Node(old) => socket.is_none() || old.kind != NodeKind::Socket,
        };
        if removed && place.name.starts_with(WHITEOUT_PREFIX) {
            return Err(reserved_name());
        }
        Ok(removed)
    }

    fn changed(&self, place: &Place<'_>, node: &Node, old: &OldNode) -> Result<bool> {
        let OldNode::Node(old) = old else { return Ok(true) };
        let reference = self.upper_walk && self.profile == Profile::Containerd;
        if reference {
            return Ok(!(node.is_dir() && old.is_dir() && same::reference_directories(node, old)));
        }
        let same = match same::compare(node, old, self.profile) {
            Verdict::Different => false,
            Verdict::Same => true,
            Verdict::Content(size) => {
                let new = place.pair.open_new(place.name, node, &*self.view)?;
                let old = place.pair.open_old(place.name)?;
                same::same_content(&*new, &*old, size, &self.stop)?
            }
        };
        Ok(!same || self.topology.changed(place.path, node, old))
    }

    /// Checks what is about to be emitted.
    fn entity(&self, place: &Place<'_>, mut node: Node, mut notes: Vec<Note>) -> Result<Entity> {
        if place.name.starts_with(WHITEOUT_PREFIX) {
            return Err(reserved_name());
        }
        self.filter.check_names(&mut node.xattrs, &mut notes)?;
        if node.kind == NodeKind::CharDevice(Device::new(0, 0)) {
            notes.push(Note { kind: WarningKind::CharZeroDevice, detail: Box::default() });
        }
        Ok(Entity { node, notes })
    }

    /// Finds out where a metacopy file of the upper has its content.
    fn resolve_metacopy(&self, place: &Place<'_>, node: &mut Node) -> Result<()> {
        let unsupported = |why: &str| Error::new(ErrorKind::UnsupportedMarker { marker: "metacopy" }, why);
        if self.lowers.is_none() {
            return Err(unsupported("the data of the file is in a lower layer, and none is known"));
        }
        let seen = place.pair.view(&*self.view)?.lookup(place.name)?;
        let Some(data) = seen.and_then(|node| node.data) else {
            return Err(unsupported("no lower layer has the data of the file"));
        };
        node.data = Some(data);
        Ok(())
    }

    fn linked(&self, node: &Node, from_upper: bool, old: &OldNode) -> Option<Linked> {
        let inode = node.inode?;
        let lower = || old.node().filter(|old| !old.is_dir());
        let (names, elsewhere) = match node.markers.nlink {
            Some(NlinkDelta::Upper(more)) => {
                let id = lower().and_then(|old| old.inode);
                (node.nlink.saturating_add_signed(more), Some(Elsewhere::Indexed(id)))
            }
            // The lower file is the one that knows; without it at hand, the upper's own count has to do.
            Some(NlinkDelta::Lower(more)) => {
                let known = lower().map_or(node.nlink, |old| old.nlink);
                let id = lower().and_then(|old| old.inode);
                (known.saturating_add_signed(more), Some(Elsewhere::Indexed(id)))
            }
            None => (node.nlink, (self.upper_walk && !from_upper).then_some(Elsewhere::Below)),
        };
        (node.nlink > 1 || names > 1).then_some(Linked { inode, names, elsewhere })
    }

    /// How the directory `node` is gone into, and whether it is emitted with an opaque mark.
    fn child_plan(
        &self,
        place: &Place<'_>,
        node: &Node,
        upper: bool,
        old: &OldNode,
    ) -> Result<(ChildPlan, bool)> {
        let below = self.below_plan(place, node, upper)?;
        // Under the marker style nothing below a hiding directory is compared, so this is the outermost one.
        let hides = upper && below != BelowPlan::Base;
        let marker = self.style == OpaqueStyle::Marker;
        let marks = match old {
            OldNode::Unknown => hides,
            OldNode::Node(old) if old.is_dir() => hides && marker,
            // containerd marks every directory that has the attribute, whatever is below it.
            OldNode::Node(_) | OldNode::Absent => {
                upper && marker && self.profile == Profile::Containerd && self.is_opaque(node)
            }
        };
        let base = match old {
            _ if marks => OldPlan::Absent,
            OldNode::Unknown => OldPlan::Unknown,
            OldNode::Node(old) if old.is_dir() => OldPlan::Child,
            OldNode::Node(_) | OldNode::Absent => OldPlan::Absent,
        };
        // Without a directory in the base, there is nothing to share with it.
        let below = match below {
            BelowPlan::Base if base == OldPlan::Absent => BelowPlan::Nothing,
            below => below,
        };
        Ok((ChildPlan { upper, below, base }, marks))
    }

    fn is_opaque(&self, node: &Node) -> bool {
        node.markers.opaque || (node.markers.redirect.is_some() && !self.follow_redirects)
    }

    /// What the directory `node` merges with.
    fn below_plan(&self, place: &Place<'_>, node: &Node, upper: bool) -> Result<BelowPlan> {
        let Place { pair, name, path, .. } = *place;
        if !upper {
            return Ok(BelowPlan::Sibling(name.into()));
        }
        if self.is_opaque(node) {
            return Ok(BelowPlan::Nothing);
        }
        let plain = if pair.shared() { BelowPlan::Base } else { BelowPlan::Sibling(name.into()) };
        let elsewhere = match &node.markers.redirect {
            None => return Ok(plain),
            // Renamed away and back again.
            Some(Redirect::Sibling(sibling)) if **sibling == *name => return Ok(plain),
            Some(Redirect::Absolute(target)) if pair.shared() && target.as_path() == path => {
                return Ok(plain);
            }
            Some(Redirect::Sibling(sibling)) => BelowPlan::Sibling(sibling.clone()),
            Some(Redirect::Absolute(target)) => BelowPlan::Absolute(target.clone()),
        };
        if self.lowers.is_some() {
            return Ok(elsewhere);
        }
        let kind = ErrorKind::UnsupportedMarker { marker: "redirect" };
        Err(Error::new(kind, "what the renamed directory holds is in a lower layer, and none is known"))
    }
}

fn reserved_name() -> Error {
    Error::new(ErrorKind::Unrepresentable, "a name that begins with .wh. means a removal in a layer")
}

/// Reads a file of `size` bytes whole.
fn read_small(file: &dyn ReadAt, size: u64) -> Result<Vec<u8>> {
    let want = usize::try_from(size).unwrap_or(usize::MAX);
    // One byte more than there should be, to see a file that grew.
    let mut bytes = vec![0; want.saturating_add(1)];
    let mut len = 0;
    loop {
        let n = file.read_some_at(&mut bytes[len..], len as u64).during("read file")?;
        len += n;
        // What ends at the announced size, one byte short of what was asked for, has its end there.
        if n == 0 || len >= want {
            break;
        }
    }
    if len != want {
        return Err(Error::changed_size(size));
    }
    bytes.truncate(len);
    Ok(bytes)
}
