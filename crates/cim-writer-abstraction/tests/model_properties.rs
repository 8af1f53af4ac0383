//! What holds for all sequences of operations, and all stacks of layers.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod model_support;

use std::{collections::BTreeMap, sync::Arc};

use cim_writer_abstraction::{
    Attributes, CimKind, CimOp, CimPath, CimSink, FileMeta, FileTime, Recorder,
    content::MemoryBlobs,
    journal::{JournalSink, Parser, Replay, read_tree},
    model::{ImageTree, ModelSink, Rules, View, merge},
    path::PathKey,
};
use model_support::{Ops, apply, create_image, dump, listing, stream};
use proptest::prelude::*;

/// An operation that may or may not make sense.
#[derive(Clone, Debug)]
enum Op {
    File(CimPath, FileMeta, Vec<u8>),
    Stream(CimPath, u8, Vec<u8>),
    HardLink(CimPath, CimPath),
    MergeLink(CimPath, CimPath),
    Delete(CimPath),
    Tombstone(CimPath),
}

fn some_path() -> impl Strategy<Value = CimPath> {
    let name = prop::sample::select(vec!["a", "A", "b", "ä", "Ä", "a b", "a_", "c\u{1f980}"]);
    prop::collection::vec(name, 1..4).prop_map(|names| CimPath::new(names.join("\\")).unwrap())
}

fn some_meta() -> impl Strategy<Value = FileMeta> {
    let attributes = prop::sample::select(vec![0x10, 0x10, 0x10, 0x20, 0x20, 0x410, 0x400, 0x80]);
    (attributes, -3_i64..3, any::<bool>()).prop_map(|(bits, time, has_sd)| {
        let reparse: Box<[u8]> = match bits {
            0x410 => Box::from(*b"\x03\0\0\xa0"),
            0x400 => Box::from(*b"\x0c\0\0\xa0"),
            _ => Box::default(),
        };
        let security = if has_sd { Box::from([1, 0, 4, 0x80, 9]) } else { Box::default() };
        let write = FileTime(time);
        FileMeta { write, security, reparse, ..FileMeta::new(Attributes::from_bits_retain(bits)) }
    })
}

fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0_u8..3, 0..4)
}

fn some_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (some_path(), some_meta(), some_bytes()).prop_map(|(path, meta, bytes)| {
            let bytes = if meta.is_dir() { Vec::new() } else { bytes };
            Op::File(path, meta, bytes)
        }),
        2 => (some_path(), 0_u8..3, some_bytes()).prop_map(|(path, name, bytes)| Op::Stream(path, name, bytes)),
        3 => (some_path(), some_path()).prop_map(|(path, target)| Op::HardLink(path, target)),
        1 => (some_path(), some_path()).prop_map(|(path, target)| Op::MergeLink(path, target)),
        2 => some_path().prop_map(Op::Delete),
        1 => some_path().prop_map(Op::Tombstone),
    ]
}

/// Does an operation, whatever comes of it.
fn attempt(sink: &mut dyn CimSink, op: &Op) -> bool {
    let done = match op {
        Op::File(path, meta, bytes) => model_support::add(sink, path, meta, bytes),
        Op::Stream(of, name, bytes) => {
            model_support::add_stream(sink, of, &stream(["s", "S", "t"][usize::from(*name)]), bytes)
        }
        Op::HardLink(path, target) => sink.op(&CimOp::HardLink { path, target }),
        Op::MergeLink(path, target) => sink.op(&CimOp::MergeLink { path, target }),
        Op::Delete(path) => sink.op(&CimOp::Delete { path }),
        Op::Tombstone(path) => sink.op(&CimOp::Tombstone { path }),
    };
    done.is_ok()
}

/// Records operations; those that are refused leave no trace.
fn record(tree: ImageTree, ops: &[Op], blobs: &MemoryBlobs) -> (Vec<u8>, ImageTree) {
    let mut sink = Recorder::on(tree, Vec::new(), blobs.clone());
    let kind = sink.tree().kind();
    let (one, name) = (model_support::name("1.cim"), model_support::name("2.cim"));
    let parent = (sink.tree().generation() > 0).then_some(&one);
    let flags = Default::default();
    sink.op(&CimOp::CreateImage { kind, container: "c", name: &name, parent, flags }).unwrap();
    for op in ops {
        let before = listing(&View::of(sink.tree()));
        if !attempt(&mut sink, op) {
            assert_eq!(listing(&View::of(sink.tree())), before, "{op:?} was refused and did something");
        }
    }
    sink.op(&CimOp::Commit).unwrap();
    let recorded = sink.finish().unwrap();
    let mut tree = recorded.tree;
    tree.set_contents(Arc::new(blobs.clone()));
    (recorded.journal, tree)
}

/// What a layer has at a path.
#[derive(Clone, Debug)]
enum Says {
    Dir(FileMeta),
    File(FileMeta, Vec<u8>, bool),
    Link(CimPath),
    Remove,
}

type Layer = BTreeMap<PathKey, (CimPath, Says)>;

fn some_layer() -> impl Strategy<Value = Layer> {
    let says = prop_oneof![
        2 => some_meta().prop_map(|meta| Says::Dir(FileMeta {
            attributes: Attributes::DIRECTORY,
            reparse: Box::default(),
            ..meta
        })),
        4 => (some_meta(), some_bytes(), any::<bool>()).prop_map(|(meta, bytes, has_stream)| {
            let meta = FileMeta { attributes: Attributes::ARCHIVE, reparse: Box::default(), ..meta };
            Says::File(meta, bytes, has_stream)
        }),
        2 => some_path().prop_map(Says::Link),
        2 => Just(Says::Remove),
    ];
    prop::collection::vec((some_path(), says, 0_i64..4), 0..8).prop_map(|wanted| {
        let mut layer = Layer::new();
        for (path, says, time) in wanted {
            add_to(&mut layer, path, says, time);
        }
        layer
    })
}

/// Adds to a layer what does not contradict it, with the directories above, as archives of layers have them.
fn add_to(layer: &mut Layer, path: CimPath, says: Says, time: i64) {
    let key = path.key();
    let mut above = Vec::new();
    let mut at = path.parent();
    while let Some(dir) = at.filter(|dir| !dir.is_root()) {
        match layer.get(&dir.key()) {
            None => above.push(dir.clone()),
            Some((_, Says::Dir(_))) => {}
            Some(_) => return,
        }
        at = dir.parent();
    }
    let has_below = layer.keys().any(|other| *other != key && other.starts_with(&key));
    if layer.contains_key(&key) || (has_below && !matches!(says, Says::Dir(_))) {
        return;
    }
    for dir in above {
        let meta = FileMeta { change: FileTime(time), ..model_support::dir() };
        layer.insert(dir.key(), (dir, Says::Dir(meta)));
    }
    layer.insert(key, (path, says));
}

/// Puts a layer into an image: adds, then links, then removals.
fn put(layer: &Layer, tree: ImageTree, parents: &ImageTree) -> ImageTree {
    let is_block = tree.kind() == CimKind::Block;
    let mut ops = Ops::on(tree);
    for (path, says) in layer.values() {
        match says {
            Says::Dir(meta) => model_support::add(ops.sink(), path, meta, b"").unwrap(),
            Says::File(meta, bytes, has_stream) => {
                model_support::add(ops.sink(), path, meta, bytes).unwrap();
                if *has_stream {
                    model_support::add_stream(ops.sink(), path, &stream("s"), bytes).unwrap();
                }
            }
            Says::Link(_) | Says::Remove => {}
        }
    }
    for (path, says) in layer.values() {
        match says {
            Says::Link(target) => {
                let own = matches!(layer.get(&target.key()), Some((_, Says::File(..))));
                // Inherited, and as it was: no removal and nothing else of this layer is in the way.
                let mut ways = vec![target.key()];
                while let Some(up) = ways.last().and_then(PathKey::parent) {
                    ways.push(up);
                }
                let untouched = ways.iter().all(|at| matches!(layer.get(at), None | Some((_, Says::Dir(_)))));
                let is_file = |tree: &ImageTree| {
                    let found = tree.lookup(target).and_then(|entry| entry.main().map(|_| entry));
                    found.is_some_and(|entry| !entry.meta().unwrap().is_dir())
                };
                let inherited = untouched && layer.get(&target.key()).is_none() && is_file(parents);
                // A link in place of an inherited directory: links replace files only.
                let in_place = matches!(
                    parents.lookup(path),
                    Some(entry) if entry.meta().is_some_and(FileMeta::is_dir)
                );
                if in_place || !(own || inherited) {
                    continue;
                }
                if own || !is_block {
                    ops.try_op(&CimOp::HardLink { path, target }).unwrap();
                } else {
                    ops.try_op(&CimOp::MergeLink { path, target }).unwrap();
                }
            }
            Says::Remove if is_block => ops.try_op(&CimOp::Tombstone { path }).unwrap(),
            Says::Remove if parents.lookup(path).is_some() => {
                ops.try_op(&CimOp::Delete { path }).unwrap();
            }
            _ => {}
        }
    }
    ops.commit()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn a_journal_says_all_that_was_done(
        ops in prop::collection::vec(some_op(), 0..40),
        more in prop::collection::vec(some_op(), 0..20),
        is_forked: bool,
    ) {
        let kind = if is_forked { CimKind::Forked } else { CimKind::Block };
        let blobs = MemoryBlobs::default();
        let (journal, tree) = record(ImageTree::new(kind), &ops, &blobs);
        let mut trees = vec![(journal, None, tree)];
        if is_forked {
            let parent = trees[0].2.clone();
            let (journal, fork) = record(parent.fork(), &more, &blobs);
            trees.push((journal, Some(parent), fork));
        }
        for (journal, parent, tree) in &trees {
            let mut again = Recorder::on(
                parent.as_ref().map_or_else(|| ImageTree::new(kind), ImageTree::fork),
                Vec::new(),
                MemoryBlobs::default(),
            );
            Replay::new(&blobs).run(&journal[..], &mut again).unwrap();
            let again = again.finish().unwrap();
            prop_assert_eq!(&again.journal, journal);
            prop_assert_eq!(listing(&View::of(&again.tree)), listing(&View::of(tree)));
            let mut alone = JournalSink::new(Vec::new());
            Replay::new(&blobs).run(&journal[..], &mut alone).unwrap();
            prop_assert_eq!(&alone.finish().unwrap(), journal);
            let read = read_tree(&journal[..], parent.as_ref(), Rules::default()).unwrap();
            prop_assert_eq!(listing(&View::of(&read)), listing(&View::of(tree)));
        }
    }

    #[test]
    fn merging_layers_is_applying_them_one_over_the_other(layers in prop::collection::vec(some_layer(), 1..5)) {
        let mut blocks: Vec<ImageTree> = Vec::new();
        let mut forked: Option<ImageTree> = None;
        for layer in &layers {
            let empty = ImageTree::new(CimKind::Forked);
            let below = forked.as_ref().unwrap_or(&empty);
            blocks.insert(0, put(layer, ImageTree::new(CimKind::Block), below));
            let tree = forked.as_ref().map_or_else(|| ImageTree::new(CimKind::Forked), ImageTree::fork);
            forked = Some(put(layer, tree, below));
        }
        let merged = merge(&blocks).unwrap();
        let sequential = View::of(&forked.unwrap());
        prop_assert_eq!(listing(&merged), listing(&sequential));
        prop_assert_eq!(dump(&merged), dump(&sequential));
    }

    #[test]
    fn a_dump_is_sorted_by_upper_cased_units(ops in prop::collection::vec(some_op(), 0..60)) {
        let rules = Rules::default().strict_parents(false);
        let tree = ImageTree::with_rules(CimKind::Forked, rules);
        let (_, tree) = record(tree, &ops, &MemoryBlobs::default());
        let view = View::of(&tree);
        let keys: Vec<PathKey> = view.entries().map(|found| found.path.key()).collect();
        prop_assert!(keys.is_sorted_by(|one, other| one < other), "{:?}", keys);
        for found in view.entries() {
            prop_assert!(view.lookup(&found.path).is_some());
        }
    }

    #[test]
    fn the_events_of_a_view_make_it_again(
        ops in prop::collection::vec(some_op(), 0..40),
        more in prop::collection::vec(some_op(), 0..30),
    ) {
        let blobs = MemoryBlobs::default();
        let (_, parent) = record(ImageTree::new(CimKind::Forked), &ops, &blobs);
        let rules = Rules::default().fork_delete_noop(false);
        let (_, child) = record(parent.fork().under(rules), &more, &blobs);

        let mut whole = ModelSink::new(CimKind::Block, MemoryBlobs::default());
        create_image(&mut whole, CimKind::Block);
        apply(&mut View::of(&child).events(), &mut whole);
        prop_assert_eq!(listing(&View::of(whole.tree())), listing(&View::of(&child)));

        let mut layer = ModelSink::on(parent.fork(), MemoryBlobs::default());
        create_image(&mut layer, CimKind::Forked);
        apply(&mut View::of(&child).layer(Some(&parent)).unwrap(), &mut layer);
        prop_assert_eq!(listing(&View::of(layer.tree())), listing(&View::of(&child)));
    }

    #[test]
    fn the_events_of_a_block_image_make_it_again(mut ops in prop::collection::vec(some_op(), 0..40)) {
        // A merged link to what the image has is a hard link the next time: same names, one file.
        ops.retain(|op| !matches!(op, Op::MergeLink(..)));
        let (_, tree) = record(ImageTree::new(CimKind::Block), &ops, &MemoryBlobs::default());
        let view = View::of(&tree);
        let mut again = ModelSink::new(CimKind::Block, MemoryBlobs::default());
        create_image(&mut again, CimKind::Block);
        apply(&mut view.layer(None).unwrap(), &mut again);
        prop_assert_eq!(listing(&View::of(again.tree())), listing(&view));
    }

    #[test]
    fn a_damaged_journal_is_the_one_that_it_says_or_an_error(
        ops in prop::collection::vec(some_op(), 1..10),
        at in any::<prop::sample::Index>(),
        byte: u8,
        what in 0..3,
    ) {
        let (mut journal, _) = record(ImageTree::new(CimKind::Block), &ops, &MemoryBlobs::default());
        let at = at.index(journal.len());
        match what {
            0 => journal[at] = byte,
            1 => journal.insert(at, byte),
            _ => drop(journal.remove(at)),
        }
        let mut parser = Parser::new(&journal[..]);
        let mut lines = Vec::new();
        let complete = loop {
            match parser.next_line() {
                Ok(Some(line)) => lines.push(line),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        // What is taken has one spelling: written again it is the same.
        if complete && !lines.iter().any(|line| line.op().is_none()) {
            let mut sink = JournalSink::new(Vec::new());
            for line in &lines {
                let op = line.op().unwrap();
                if matches!(op, CimOp::CreateFile { size, .. } | CimOp::CreateStream { size, .. } if size > 0) {
                    return Ok(());
                }
                sink.op(&op).unwrap();
                if matches!(op, CimOp::CreateFile { .. } | CimOp::CreateStream { .. }) {
                    sink.op(&CimOp::EndStream).unwrap();
                }
            }
            prop_assert_eq!(String::from_utf8(sink.finish().unwrap()), String::from_utf8(journal.clone()));
        }
        // And no tree comes of a journal that is not wholly understood.
        let tree = read_tree(&journal[..], None, Rules::default());
        prop_assert!(complete || tree.is_err());
    }
}
