//! What a layer says when it is turned back into an archive.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod model_support;

use cim_writer_abstraction::{
    Attributes, CimKind, CimOp, FileMeta, LayerEvent,
    hive::HIVES,
    model::{ImageTree, View},
    wcow::{WcowChanges, WcowEvents},
};
use layer_model::{ErrorKind, LayerSource};
use model_support::{Ops, dir, path};

/// The events as words: `+` added with its bytes, `:` stream, `=` link, `-` removal.
fn words(events: &mut dyn WcowEvents) -> Vec<String> {
    let mut words = Vec::new();
    while let Some(event) = events.next_event().unwrap() {
        let text = |content: layer_model::Content<'_>| {
            let mut bytes = Vec::new();
            content.write_to(&mut bytes).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        words.push(match event {
            LayerEvent::Add { path, meta, content } if meta.is_dir() && content.is_empty() => {
                format!("+{path}")
            }
            LayerEvent::Add { path, content, .. } => format!("+{path} {}", text(content)),
            LayerEvent::Stream { of, name, content } => format!(":{of}:{name} {}", text(content)),
            LayerEvent::Link { path, target } => format!("={path} {target}"),
            LayerEvent::Remove { path } => format!("-{path}"),
            other => panic!("{other:?}"),
        });
    }
    words
}

/// What importing makes of a base layer.
fn base(mut ops: Ops) -> ImageTree {
    fill(&mut ops);
    ops.commit()
}

fn fill(ops: &mut Ops) {
    for at in ["Files", "Files\\Windows", "Files\\Windows\\System32", "Files\\Windows\\System32\\config"] {
        ops.dir(at);
    }
    for hive in HIVES {
        ops.file(&format!("Files\\Windows\\System32\\config\\{}", hive.name), hive.name.as_bytes());
    }
    ops.file("Files\\f", b"f");
    ops.create("Hives", &dir(), b"");
    for hive in HIVES {
        let system = format!("Files\\Windows\\System32\\config\\{}", hive.name);
        ops.link(&format!("Hives\\{}", hive.base), &system);
    }
    ops.create("layout", &FileMeta::new(Attributes::NORMAL), b"vhd-with-hives\n");
}

const BASE: [&str; 10] = [
    "+Files",
    "+Files\\f f",
    "+Files\\Windows",
    "+Files\\Windows\\System32",
    "+Files\\Windows\\System32\\config",
    "+Files\\Windows\\System32\\config\\DEFAULT DEFAULT",
    "+Files\\Windows\\System32\\config\\SAM SAM",
    "+Files\\Windows\\System32\\config\\SECURITY SECURITY",
    "+Files\\Windows\\System32\\config\\SOFTWARE SOFTWARE",
    "+Files\\Windows\\System32\\config\\SYSTEM SYSTEM",
];

#[test]
fn what_importing_makes_is_not_part_of_a_layer() {
    for ops in [Ops::block(), Ops::forked()] {
        let tree = base(ops);
        let view = View::of(&tree);
        assert_eq!(words(&mut view.layer(None).unwrap()), BASE);
        assert_eq!(words(&mut view.base_layer()), BASE);
        assert_eq!(words(&mut view.events()).len(), BASE.len() + 1 + HIVES.len() + 1);
    }
}

#[test]
fn a_forked_layer_says_what_it_changed_and_the_directories_above() {
    let parent = {
        let mut ops = Ops::forked();
        fill(&mut ops);
        ops.dir("Files\\d");
        ops.file("Files\\d\\gone", b"1");
        ops.file("Files\\d\\kept", b"2");
        ops.dir("Files\\all");
        ops.file("Files\\all\\x", b"3");
        ops.dir("Files\\becomes file");
        ops.file("Files\\becomes file\\x", b"4");
        ops.commit()
    };
    let mut ops = Ops::on(parent.fork());
    ops.dir("Files");
    ops.dir("Files\\d");
    ops.delete("Files\\d\\gone");
    ops.delete("Files\\all");
    ops.file("Files\\becomes file", b"5");
    ops.file("Files\\d\\new", b"6");
    ops.stream("Files\\d\\new", "s", b"7");
    ops.link("Files\\d\\link", "Files\\d\\kept");
    ops.link("Files\\d\\again", "Files\\d\\new");
    ops.dir("Hives");
    ops.file("Hives\\SYSTEM_DELTA", b"delta");
    ops.file("Hives\\SYSTEM_BASE", b"SYSTEM+delta");
    let child = ops.commit();
    let view = View::of(&child);
    assert_eq!(
        words(&mut view.layer(Some(&parent)).unwrap()),
        [
            "+Files",
            "+Files\\becomes file 5",
            "+Files\\d",
            "+Files\\d\\again 6",
            ":Files\\d\\again:s 7",
            "=Files\\d\\link Files\\d\\kept",
            "=Files\\d\\new Files\\d\\again",
            "+Hives",
            "+Hives\\SYSTEM_DELTA delta",
            "-Files\\all",
            "-Files\\d\\gone",
        ]
    );
    // As one layer, its system has the registry that this layer has made of it, and there are no deltas.
    let whole = words(&mut view.base_layer());
    assert!(
        whole.contains(&"+Files\\Windows\\System32\\config\\SYSTEM SYSTEM+delta".to_owned()),
        "{whole:?}"
    );
    assert!(whole.contains(&"+Files\\Windows\\System32\\config\\SAM SAM".to_owned()));
    assert!(!whole.iter().any(|word| word.contains("Hives") || word.contains("layout")));

    let kind = |events: layer_model::Result<_>| {
        let events: Option<cim_writer_abstraction::model::ViewEvents<'_>> = match events {
            Ok(events) => Some(events),
            Err(error) => return layer_model::Error::kind(&error).clone(),
        };
        panic!("{events:?}")
    };
    assert_eq!(kind(view.layer(None)), ErrorKind::InvalidArgument);
    assert_eq!(kind(view.layer(Some(&child))), ErrorKind::InvalidArgument);
    assert_eq!(kind(View::of(&parent).layer(Some(&parent))), ErrorKind::InvalidArgument);
}

#[test]
fn a_block_layer_says_its_own_entries_removals_and_links() {
    let mut ops = Ops::block();
    ops.dir("Files");
    ops.file("Files\\x", b"1");
    ops.tombstone("Files\\y");
    ops.merge_link("Files\\l", "Files\\t");
    let tree = ops.commit();
    let words = words(&mut View::of(&tree).layer(None).unwrap());
    assert_eq!(words, ["+Files", "=Files\\l Files\\t", "+Files\\x 1", "-Files\\y"]);
}

#[test]
fn a_hive_that_nobody_has_merged_stops_a_flattening_only() {
    let mut ops = Ops::block();
    fill(&mut ops);
    let meta = FileMeta::new(Attributes::NORMAL);
    ops.try_op(&CimOp::AddMergedHive { path: &path("Hives\\SAM_BASE"), meta: &meta }).unwrap();
    let tree = ops.commit();
    let view = View::of(&tree);
    assert_eq!(words(&mut view.layer(None).unwrap()), BASE);
    let mut events = view.base_layer();
    let error = loop {
        match events.next_event() {
            Ok(event) => assert!(event.is_some(), "no error"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), &ErrorKind::FailedPrecondition);
    assert_eq!(error.entry_path(), Some(&b"Files\\Windows\\System32\\config\\SAM"[..]));
    assert!(events.next_event().is_err());
}

#[test]
fn events_become_changes_of_the_road() {
    let tree = base(Ops::block());
    assert_eq!(tree.kind(), CimKind::Block);
    let view = View::of(&tree);
    let mut changes = WcowChanges::new(view.layer(None).unwrap());
    let mut paths = Vec::new();
    while let Some(change) = changes.next_change().unwrap() {
        paths.push(String::from_utf8(change.path.as_bytes().to_vec()).unwrap());
    }
    let expected = BASE.map(|word| word[1..].split(' ').next().unwrap().replace('\\', "/"));
    assert_eq!(paths, expected);
}
