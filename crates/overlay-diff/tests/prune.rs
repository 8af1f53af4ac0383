//! Layers made without their base, cut down to what counts on it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use layer_model::{
    Action, Base, Change, Content, Entry, EntryKind, ErrorKind, LayerPath, LayerSink, Metadata, Node,
    NodeKind, Result, Silent, Stack,
    testing::{MemoryChanges, MemoryLayer, OwnedAction, OwnedChange, Snapshot},
};
use overlay_diff::{Prune, PruneOptions, Pruned, UpperOptions, prune};
use support::{layer, upper};

/// A sink that keeps what it is given.
#[derive(Default)]
struct Collect(Vec<OwnedChange>);

impl LayerSink for Collect {
    type Output = MemoryChanges;

    fn change(&mut self, change: Change<'_>) -> Result<()> {
        let action = match change.action {
            Action::Remove => OwnedAction::Remove,
            Action::Opaque => OwnedAction::Opaque,
            Action::Upsert(entry) => {
                let (mut content, mut link) = (Vec::new(), None);
                let kind = match entry.kind {
                    EntryKind::Directory => NodeKind::Directory,
                    EntryKind::File(data) => {
                        data.write_to(&mut content)?;
                        NodeKind::File { size: content.len() as u64 }
                    }
                    EntryKind::Symlink { target } => NodeKind::Symlink { target: target.into() },
                    EntryKind::HardLink { target } => {
                        link = Some(target.to_owned());
                        NodeKind::File { size: 0 }
                    }
                    EntryKind::CharDevice(device) => NodeKind::CharDevice(device),
                    EntryKind::BlockDevice(device) => NodeKind::BlockDevice(device),
                    EntryKind::Fifo => NodeKind::Fifo,
                };
                let mut node = Node::new(kind, entry.metadata);
                node.xattrs = entry.xattrs.clone();
                OwnedAction::Upsert { node, content, link }
            }
        };
        self.0.push(OwnedChange { path: change.path.to_owned(), action });
        Ok(())
    }

    fn finish(self) -> Result<MemoryChanges> {
        Ok(MemoryChanges::new(self.0))
    }
}

fn run(base: &MemoryLayer, changes: &MemoryChanges) -> (MemoryChanges, Pruned) {
    let stack = Stack::of(base.clone());
    let options = PruneOptions::new();
    prune(&mut changes.clone(), Base::Layers(&stack), Collect::default(), &options, &Silent).unwrap()
}

/// Prunes, and checks that the outcome is as good as the layer on this base.
#[track_caller]
fn lines(base: &MemoryLayer, changes: &MemoryChanges) -> Vec<String> {
    let (pruned, _) = run(base, changes);
    let tree = |changes| Snapshot::of(&base.applied(changes).unwrap()).unwrap().without_dir_times();
    tree(changes).assert_same(&tree(&pruned));
    pruned.lines()
}

fn base() -> MemoryLayer {
    MemoryLayer::new()
        .file("d/same", "1")
        .file("d/old", "2")
        .file("top", "3")
        .link("top2", "top")
        .file("plain", "4")
        .symlink("l", "x")
}

#[test]
fn what_the_unknown_base_made_superfluous_goes() {
    let layer = layer()
        .file("d/same", "1")
        .file("d/old", "changed")
        .whiteout("none")
        .whiteout("l")
        .opaque("fresh")
        .file("fresh/f", "new")
        .file("plain", "4");
    let generous = upper(UpperOptions::new(), Base::Unknown, &layer).unwrap().changes;
    let want = ["d d/ 755", "f d/old 644 \"changed\"", "d fresh/ 755", "f fresh/f 644 \"new\"", "wh l"];
    assert_eq!(lines(&base(), &generous), want);
    let (_, pruned) = run(&base(), &generous);
    assert_eq!((pruned.removals, pruned.opaques, pruned.entries), (1, 1, 2));
}

#[test]
fn what_an_opaque_directory_hides_is_not_taken_from_the_base() {
    let changes = layer().opaque("d").file("d/same", "1").changes();
    assert_eq!(lines(&base(), &changes), ["d d/ 755", "opq d", "f d/same 644 \"1\""]);
}

#[test]
fn marks_that_come_late_bring_back_what_was_left_out() {
    let opaque = |path: &str| OwnedChange {
        path: layer_model::LayerPathBuf::clean(path.as_bytes()).unwrap(),
        action: OwnedAction::Opaque,
    };
    let mut list = layer().file("d/same", "1").changes().as_slice().to_vec();
    list.push(opaque("d"));
    assert_eq!(lines(&base(), &MemoryChanges::new(list)), ["d d/ 755", "opq d", "f d/same 644 \"1\""]);

    let mut list = layer().file("d/same", "1").changes().as_slice().to_vec();
    list.push(OwnedChange { action: OwnedAction::Remove, ..opaque("d") });
    assert_eq!(lines(&base(), &MemoryChanges::new(list)), ["wh d", "d d/ 755", "f d/same 644 \"1\""]);
}

#[test]
fn a_link_brings_its_target_into_the_layer() {
    let changes = layer().file("d/same", "1").link("new", "d/same").changes();
    assert_eq!(lines(&base(), &changes), ["d d/ 755", "f d/same 644 \"1\"", "h new=d/same"]);
    let parted = layer().file("top", "3").changes();
    assert_eq!(lines(&base(), &parted), ["f top 644 \"3\""], "a file that parts from its other name");
}

#[test]
fn a_path_that_came_before_is_given_again() {
    let mut list = layer().file("plain", "other").changes().as_slice().to_vec();
    list.extend(layer().file("plain", "4").changes().as_slice().iter().cloned());
    assert_eq!(lines(&base(), &MemoryChanges::new(list)), ["f plain 644 \"other\"", "f plain 644 \"4\""]);
}

#[test]
fn a_stream_that_differs_late_comes_out_whole() {
    for (at, len) in [(0, 10), (70_000, 200_000), (199_999, 200_000)] {
        let old = "x".repeat(len);
        let mut new = old.clone().into_bytes();
        new[at] = b'y';
        let stack = Stack::of(MemoryLayer::new().file("f", &old));
        for data in [&new, old.as_bytes()] {
            let mut stream = data;
            let content = Content::from_stream(&mut stream, len as u64);
            let entry = Entry::new(EntryKind::File(content), Metadata::file(0o644));
            let mut sink =
                Prune::new(Collect::default(), Base::Layers(&stack), &PruneOptions::new()).unwrap();
            sink.change(Change::upsert(LayerPath::new(b"f").unwrap(), entry)).unwrap();
            let (changes, _) = sink.finish().unwrap();
            let contents: Vec<_> = changes
                .as_slice()
                .iter()
                .map(|change| match &change.action {
                    OwnedAction::Upsert { content, .. } => &content[..],
                    other => panic!("{other:?}"),
                })
                .collect();
            let want: &[&[u8]] = if data == old.as_bytes() { &[] } else { &[&new] };
            assert!(contents == want, "a difference at {at} of {len}");
        }
    }
}

#[test]
fn an_unknown_base_prunes_nothing() {
    let error = Prune::new(Collect::default(), Base::<MemoryLayer>::Unknown, &PruneOptions::new()).map(drop);
    assert_eq!(error.unwrap_err().kind(), &ErrorKind::NotSupported);
    let nothing_below = Prune::new(Collect::default(), Base::<MemoryLayer>::Empty, &PruneOptions::new());
    assert!(nothing_below.is_ok());
}
