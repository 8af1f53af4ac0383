//! One image: what the operations of the API do to it.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod model_support;

use cim_writer_abstraction::{
    Attributes, CimOp, CimSink, FileMeta,
    content::{EMPTY_SHA256, HashOnly, MemoryBlobs},
    model::{EntryRef, ImageTree, ModelSink, Rules, View},
    op::CimKind,
};
use layer_model::{Error, ErrorKind};
use model_support::{Ops, dir, dump, file, name, path, stream};

fn kind<T>(result: Result<T, Error>) -> ErrorKind {
    match result {
        Ok(_) => panic!("no error"),
        Err(error) => error.kind().clone(),
    }
}

fn lookup<'a>(tree: &'a ImageTree, at: &str) -> Option<EntryRef<'a>> {
    tree.lookup(&path(at))
}

fn size(tree: &ImageTree, at: &str) -> u64 {
    lookup(tree, at).unwrap().main().unwrap().size
}

#[test]
fn an_entry_needs_its_parent_directory() {
    let mut ops = Ops::block();
    assert_eq!(kind(ops.try_file("a\\b", b"x")), ErrorKind::NotFound);
    ops.file("f", b"x");
    assert_eq!(kind(ops.try_file("f\\b", b"x")), ErrorKind::NotFound);
    assert_eq!(kind(ops.try_op(&CimOp::Tombstone { path: &path("a\\b") })), ErrorKind::NotFound);
    ops.dir("a");
    ops.file("a\\b", b"x");
}

#[test]
fn without_strict_parents_missing_directories_are_implied() {
    let rules = Rules::default().strict_parents(false);
    let mut ops = Ops::on(ImageTree::with_rules(CimKind::Block, rules));
    ops.file("a\\b\\c", b"x");
    let tree = ops.commit();
    let Some(EntryRef::Dir(implied)) = lookup(&tree, "A\\B") else { panic!("a directory") };
    assert!(implied.is_implied());
    assert_eq!(implied.meta().attributes, Attributes::DIRECTORY);
}

#[test]
fn lookups_do_not_count_case_and_spelling_is_kept() {
    let mut ops = Ops::block();
    ops.dir("Größe");
    ops.file("grÖße\\ReadMe.TXT", b"x");
    let tree = ops.commit();
    assert!(matches!(lookup(&tree, "GRÖßE\\README.txt"), Some(EntryRef::File(..))));
    assert!(dump(&View::of(&tree)).contains(r#""path":"Größe\\ReadMe.TXT""#));
}

#[test]
fn creating_over_a_file_overwrites_it_and_leaves_its_other_names() {
    let mut ops = Ops::block();
    ops.file("a", b"one");
    ops.link("b", "a");
    ops.file("A", b"other");
    let tree = ops.commit();
    assert_eq!((size(&tree, "a"), size(&tree, "b")), (5, 3));
    let EntryRef::File(_, a) = lookup(&tree, "a").unwrap() else { panic!() };
    let EntryRef::File(_, b) = lookup(&tree, "b").unwrap() else { panic!() };
    assert_ne!(a, b);
    let dump = dump(&View::of(&tree));
    assert!(dump.starts_with(r#"{"path":"A","type":"file""#), "{dump}");
    assert_eq!(dump.matches(r#""nlink":1"#).count(), 2);
}

#[test]
fn a_file_that_is_written_again_is_not_mixed_up_with_its_links() {
    let mut ops = Ops::block();
    ops.file("a", b"1");
    ops.link("b", "a");
    ops.file("b", b"22");
    ops.link("a", "a");
    ops.file("a", b"333");
    ops.file("a", b"4444");
    ops.link("c", "b");
    ops.file("b", b"55555");
    let tree = ops.commit();
    assert_eq!((size(&tree, "a"), size(&tree, "b"), size(&tree, "c")), (4, 5, 2));
}

#[test]
fn a_directory_over_a_directory_keeps_what_is_in_it_and_takes_the_new_metadata() {
    let mut ops = Ops::block();
    ops.dir("d");
    ops.file("d\\x", b"x");
    ops.stream("d", "s", b"y");
    ops.create("D", &FileMeta::new(Attributes::DIRECTORY | Attributes::HIDDEN), b"");
    let tree = ops.commit();
    let found = lookup(&tree, "d").unwrap();
    assert_eq!(found.meta().unwrap().attributes, Attributes::DIRECTORY | Attributes::HIDDEN);
    assert_eq!(found.streams().len(), 0);
    assert!(lookup(&tree, "d\\x").is_some());
}

#[test]
fn a_file_over_a_directory_removes_what_is_in_it_and_the_reverse() {
    let mut ops = Ops::block();
    ops.dir("d");
    ops.file("d\\x", b"x");
    ops.file("d", b"file");
    assert_eq!(kind(ops.try_file("d\\y", b"y")), ErrorKind::NotFound);
    let mut ops = Ops::block();
    ops.dir("d");
    ops.file("d\\x", b"x");
    ops.file("d", b"file");
    ops.dir("d");
    ops.file("d\\z", b"z");
    let tree = ops.commit();
    assert!(lookup(&tree, "d\\x").is_none());
    assert!(lookup(&tree, "d\\z").is_some());
}

#[test]
fn unwritten_ranges_read_as_zeros() {
    let mut blobs = MemoryBlobs::default();
    let mut sink = ModelSink::new(CimKind::Block, blobs.clone());
    model_support::create_image(&mut sink, CimKind::Block);
    let (at, meta) = (path("f"), FileMeta::default());
    sink.op(&CimOp::CreateFile { path: &at, meta: &meta, size: 5 }).unwrap();
    sink.write(b"ab").unwrap();
    sink.op(&CimOp::EndStream).unwrap();
    sink.op(&CimOp::Commit).unwrap();
    let (tree, _) = sink.finish().unwrap();
    assert_eq!(tree.lookup(&at).unwrap().main().unwrap().sha256, Some(blobs.insert(*b"ab\0\0\0")));
}

#[test]
fn a_size_that_only_zeros_could_fill_is_not_filled() {
    let mut sink = ModelSink::new(CimKind::Block, HashOnly::default());
    model_support::create_image(&mut sink, CimKind::Block);
    let op = CimOp::CreateFile { path: &path("f"), meta: &FileMeta::default(), size: u64::MAX };
    sink.op(&op).unwrap();
    sink.write(b"ab").unwrap();
    let kind = kind(sink.op(&CimOp::EndStream));
    assert_eq!(kind, ErrorKind::SizeMismatch { expected: u64::MAX, got: 2 });
}

#[test]
fn more_bytes_than_announced_are_refused() {
    let mut ops = Ops::block();
    let op = CimOp::CreateFile { path: &path("f"), meta: &FileMeta::default(), size: 1 };
    ops.try_op(&op).unwrap();
    assert_eq!(kind(ops.sink().write(b"ab")), ErrorKind::SizeMismatch { expected: 1, got: 2 });
    let op = CimOp::CreateFile { path: &path("d"), meta: &dir(), size: 7 };
    let mut ops = Ops::block();
    ops.try_op(&op).unwrap();
    assert_eq!(kind(ops.sink().write(b"a")), ErrorKind::SizeMismatch { expected: 0, got: 1 });
}

#[test]
fn one_stream_is_open_at_a_time() {
    let mut ops = Ops::block();
    assert_eq!(kind(ops.sink().write(b"x")), ErrorKind::FailedPrecondition);
    assert_eq!(kind(ops.try_op(&CimOp::EndStream)), ErrorKind::FailedPrecondition);
    let op = CimOp::CreateFile { path: &path("f"), meta: &FileMeta::default(), size: 1 };
    ops.try_op(&op).unwrap();
    for second in [&op, &CimOp::Commit, &CimOp::Delete { path: &path("f") }] {
        assert_eq!(kind(ops.try_op(second)), ErrorKind::Busy);
    }
}

#[test]
fn streams_belong_to_a_file_or_directory_that_is_there() {
    let mut ops = Ops::block();
    let op = CimOp::CreateStream { of: &path("f"), name: &stream("s"), size: 0 };
    assert_eq!(kind(ops.try_op(&op)), ErrorKind::NotFound);
    ops.file("f", b"main");
    ops.link("g", "f");
    ops.stream("F", "s", b"bytes");
    ops.stream("g", "S", b"again");
    ops.stream("g", "empty", b"");
    ops.dir("d");
    ops.stream("d", "s", b"of a directory");
    let tree = ops.commit();
    let streams: Vec<_> = lookup(&tree, "f").unwrap().streams().collect();
    assert_eq!(streams.len(), 2);
    assert_eq!((streams[0].0, streams[0].1.size), (&stream("empty"), 0));
    assert_eq!(streams[0].1.sha256, Some(EMPTY_SHA256));
    // The same stream by another spelling was written last.
    assert_eq!((streams[1].0, streams[1].1.size), (&stream("S"), 5));
    assert_eq!(lookup(&tree, "d").unwrap().streams().len(), 1);
}

#[test]
fn hard_links_replace_files_and_never_touch_directories() {
    let mut ops = Ops::block();
    ops.file("f", b"main");
    ops.file("old", b"old");
    ops.dir("d");
    ops.link("OLD", "F");
    let missing = CimOp::HardLink { path: &path("x"), target: &path("nope") };
    assert_eq!(kind(ops.try_op(&missing)), ErrorKind::NotFound);
    let over = CimOp::HardLink { path: &path("d"), target: &path("f") };
    assert_eq!(kind(ops.try_op(&over)), ErrorKind::IsDirectory);
    let to = CimOp::HardLink { path: &path("x"), target: &path("d") };
    assert_eq!(kind(ops.try_op(&to)), ErrorKind::IsDirectory);
    let nowhere = CimOp::HardLink { path: &path("no\\x"), target: &path("f") };
    assert_eq!(kind(ops.try_op(&nowhere)), ErrorKind::NotFound);
    let tree = ops.commit();
    assert_eq!(size(&tree, "old"), 4);
    assert_eq!(dump(&View::of(&tree)).matches(r#""nlink":2"#).count(), 2);
}

#[test]
fn a_junction_is_a_leaf_and_no_target_of_hard_links() {
    let mut ops = Ops::block();
    let reparse = Box::from(*b"\x03\x00\x00\xa0\x00\x00\x00\x00");
    let meta = FileMeta { reparse, ..FileMeta::new(Attributes::DIRECTORY | Attributes::REPARSE_POINT) };
    ops.create("j", &meta, b"");
    assert_eq!(kind(ops.try_file("j\\x", b"x")), ErrorKind::NotFound);
    let link = CimOp::HardLink { path: &path("l"), target: &path("j") };
    assert_eq!(kind(ops.try_op(&link)), ErrorKind::IsDirectory);
    let tree = ops.commit();
    assert_eq!(
        dump(&View::of(&tree)),
        "{\"path\":\"j\",\"type\":\"junction\",\"attrs\":1040,\"size\":0,\"sha256\":\"\",\"nlink\":1,\"source\":0}\n"
    );
}

#[test]
fn deleting_takes_what_is_below_and_leaves_other_names() {
    let mut ops = Ops::block();
    ops.dir("d");
    ops.dir("d\\e");
    ops.file("d\\e\\f", b"main");
    ops.link("g", "d\\e\\f");
    ops.delete("D");
    assert_eq!(kind(ops.try_op(&CimOp::Delete { path: &path("d") })), ErrorKind::NotFound);
    assert_eq!(kind(ops.try_op(&CimOp::Delete { path: &path("") })), ErrorKind::InvalidArgument);
    assert_eq!(kind(ops.try_file("d\\x", b"")), ErrorKind::NotFound);
    let tree = ops.commit();
    assert!(lookup(&tree, "d\\e\\f").is_none());
    assert_eq!(size(&tree, "g"), 4);
}

#[test]
fn a_fork_shows_its_parent_until_it_is_changed() {
    let mut ops = Ops::forked();
    ops.dir("d");
    ops.file("d\\keep", b"keep");
    ops.file("d\\change", b"change");
    ops.file("gone", b"gone");
    let parent = ops.commit();
    let before = dump(&View::of(&parent));

    let mut ops = Ops::on(parent.fork());
    ops.dir("d");
    ops.file("d\\change", b"changed");
    ops.file("d\\new", b"new");
    ops.stream("d\\keep", "s", b"s");
    ops.link("d\\linked", "d\\keep");
    ops.delete("gone");
    let child = ops.commit();
    assert_eq!(dump(&View::of(&parent)), before);
    let dump = dump(&View::of(&child));
    let line = |at: &str| {
        let start = format!("{{\"path\":\"{}\"", at.replace('\\', "\\\\"));
        dump.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("{at} in {dump}"))
    };
    assert!(line("d").ends_with(r#""source":0}"#));
    assert!(line("d\\keep").ends_with(r#""nlink":2,"source":1}"#));
    assert!(line("d\\keep:s").ends_with(r#""nlink":1,"source":0}"#));
    assert!(line("d\\linked:s").ends_with(r#""source":0}"#));
    assert!(line("d\\change").ends_with(r#""nlink":1,"source":0}"#));
    assert!(!dump.contains("gone"));
}

#[test]
fn a_fork_does_not_delete_below_a_directory_that_it_has_not_written() {
    let mut ops = Ops::forked();
    ops.dir("d");
    ops.file("d\\x", b"x");
    ops.file("top", b"x");
    let parent = ops.commit();

    let mut ops = Ops::on(parent.fork());
    ops.delete("d\\x");
    ops.delete("top");
    assert_eq!(kind(ops.try_op(&CimOp::Delete { path: &path("d\\nope") })), ErrorKind::NotFound);
    let child = ops.commit();
    assert!(lookup(&child, "d\\x").is_some());
    assert!(lookup(&child, "top").is_none());

    let rules = Rules::default().fork_delete_noop(false);
    let mut ops = Ops::on(parent.fork().under(rules));
    ops.delete("d\\x");
    assert!(lookup(&ops.commit(), "d\\x").is_none());

    let mut ops = Ops::on(parent.fork());
    ops.dir("d");
    ops.delete("d\\x");
    assert!(lookup(&ops.commit(), "d\\x").is_none());
}

#[test]
fn tombstones_and_merged_links_are_for_block_images() {
    let mut ops = Ops::forked();
    assert_eq!(kind(ops.try_op(&CimOp::Tombstone { path: &path("x") })), ErrorKind::NotSupported);
    let link = CimOp::MergeLink { path: &path("x"), target: &path("y") };
    assert_eq!(kind(ops.try_op(&link)), ErrorKind::NotSupported);
}

#[test]
fn a_tombstone_and_an_entry_of_one_path_are_a_conflict() {
    let mut ops = Ops::block();
    ops.file("f", b"");
    ops.dir("d");
    for at in ["F", "d"] {
        assert_eq!(kind(ops.try_op(&CimOp::Tombstone { path: &path(at) })), ErrorKind::ConflictingEntries);
    }
    ops.tombstone("x");
    ops.tombstone("X");
    assert_eq!(kind(ops.try_file("x", b"")), ErrorKind::ConflictingEntries);
    let mut ops = Ops::block();
    ops.tombstone("x");
    let link = CimOp::MergeLink { path: &path("x"), target: &path("y") };
    assert_eq!(kind(ops.try_op(&link)), ErrorKind::ConflictingEntries);
}

#[test]
fn nothing_comes_before_the_image_and_little_after_the_commit() {
    let mut sink = ModelSink::new(CimKind::Block, HashOnly::default());
    assert_eq!(kind(sink.op(&CimOp::Delete { path: &path("x") })), ErrorKind::FailedPrecondition);
    assert_eq!(kind(sink.op(&CimOp::Close)), ErrorKind::FailedPrecondition);
    assert_eq!(kind(sink.finish()), ErrorKind::FailedPrecondition);

    let mut sink = ModelSink::new(CimKind::Block, HashOnly::default());
    model_support::create_image(&mut sink, CimKind::Block);
    sink.op(&CimOp::Commit).unwrap();
    assert_eq!(kind(sink.op(&CimOp::Tombstone { path: &path("x") })), ErrorKind::FailedPrecondition);
    assert_eq!(kind(sink.op(&CimOp::Discard)), ErrorKind::FailedPrecondition);
    sink.op(&CimOp::Close).unwrap();
    sink.finish().unwrap();

    let mut sink = ModelSink::new(CimKind::Block, HashOnly::default());
    model_support::create_image(&mut sink, CimKind::Block);
    sink.op(&CimOp::Discard).unwrap();
    assert_eq!(kind(sink.op(&CimOp::Commit)), ErrorKind::FailedPrecondition);
    assert_eq!(kind(sink.finish()), ErrorKind::FailedPrecondition);

    let mut sink = ModelSink::new(CimKind::Forked, HashOnly::default());
    let wrong = CimOp::CreateImage {
        kind: CimKind::Block,
        container: "c",
        name: &name("n"),
        parent: None,
        flags: Default::default(),
    };
    assert!(matches!(kind(sink.op(&wrong)), ErrorKind::WrongForm { .. }));
}

#[test]
fn the_number_of_entries_is_limited() {
    let rules = Rules::default().max_entries(3);
    let mut ops = Ops::on(ImageTree::with_rules(CimKind::Block, rules));
    ops.file("a", b"");
    ops.stream("a", "s", b"");
    ops.tombstone("b");
    assert_eq!(kind(ops.try_file("c", b"")), ErrorKind::LimitExceeded { limit: "max_entries" });
}

#[test]
fn metadata_is_kept_with_the_descriptor_that_the_api_gets() {
    let mut ops = Ops::block();
    let mut meta = file();
    meta.ea = Box::from(*b"ea");
    ops.create("f", &meta, b"");
    let tree = ops.commit();
    let expected = FileMeta { security: FileMeta::NULL_DACL.into(), ..meta };
    assert_eq!(lookup(&tree, "f").unwrap().meta(), Some(&expected));
}

#[test]
fn directories_nested_as_deep_as_paths_go_are_no_danger() {
    let mut ops = Ops::block();
    let mut at = String::new();
    for _ in 0..16_383 {
        at.push_str(if at.is_empty() { "a" } else { "\\a" });
        ops.dir(&at);
    }
    let tree = ops.commit();
    let view = cim_writer_abstraction::model::merge([&tree, &tree]).unwrap();
    assert_eq!(view.entries().count(), 16_383);
}
