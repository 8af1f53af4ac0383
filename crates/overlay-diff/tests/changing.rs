//! Files that change while they are read.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;

use layer_model::{
    Action, Base, Change, EntryKind, Error, ErrorKind, LayerSource, Monitor, NodeKind, Silent,
    testing::MemoryLayer,
};
use overlay_diff::{TreeDiffer, TreeOptions, UpperOptions};
use overlay_dir::{PlainDir, PlainDirOptions};
use support::{layer, upper};

#[test]
fn a_file_of_another_size_than_announced_is_an_error_that_names_it() {
    for (announced, small_file) in [(3, 64), (3, 0), (9, 64), (9, 0)] {
        let layer =
            layer().file("d/f", "hello").edit("d/f", |node| node.kind = NodeKind::File { size: announced });
        let options = UpperOptions::new().small_file(small_file);
        let error = upper(options, Base::<MemoryLayer>::Empty, &layer).map(|o| o.lines()).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::FileChanged, "{announced} bytes, read ahead up to {small_file}");
        assert_eq!(error.entry_path(), Some(&b"d/f"[..]));
    }
}

/// Walks a directory with one file of 200 bytes; `meddle` may change the file once its change is given.
fn walk(meddle: impl Fn(&std::path::Path)) -> Result<usize, Error> {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("f");
    fs::write(&path, [7; 200]).unwrap();
    let tree = PlainDir::open(temp.path(), PlainDirOptions::default()).unwrap();
    let differ = TreeDiffer::new(TreeOptions::new().small_file(100));
    let mut source = differ.between(None, &tree, &Silent)?;
    let mut read = Vec::new();
    let change = source.next_change()?.unwrap();
    assert_eq!(change.path.as_bytes(), b"f");
    let Action::Upsert(entry) = change.action else { panic!("an upsert") };
    let EntryKind::File(content) = entry.kind else { panic!("a file") };
    meddle(&path);
    content.write_to(&mut read)?;
    assert!(source.next_change()?.is_none());
    assert!(source.next_change()?.is_none());
    Ok(read.len())
}

#[test]
fn a_file_that_changes_its_size_while_it_is_read_is_an_error_that_names_it() {
    assert_eq!(walk(|_| {}).unwrap(), 200);
    let truncate =
        |path: &std::path::Path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(150).unwrap();
    let append = |path: &std::path::Path| fs::write(path, [7; 300]).unwrap();
    for (what, error) in [("shrinks", walk(truncate).unwrap_err()), ("grows", walk(append).unwrap_err())] {
        assert_eq!(error.kind(), &ErrorKind::FileChanged, "{what}");
        assert_eq!(error.entry_path(), Some(&b"f"[..]), "{what}");
    }
}

#[test]
fn a_source_that_failed_gives_no_more_changes() {
    let layer = layer().file("a", "1").socket("b").file(".wh.c", "x").file("d", "2");
    let differ = overlay_diff::UpperDiffer::new(UpperOptions::new());
    let mut source = differ.changes_of(&layer, Base::<MemoryLayer>::Empty, &Silent).unwrap();
    let mut failed = 0;
    for _ in 0..5 {
        match source.next_change() {
            Ok(Some(change)) => assert_eq!((change.path.as_bytes(), failed), (&b"a"[..], 0)),
            Ok(None) => assert_eq!(failed, 1),
            Err(_) => failed += 1,
        }
    }
    assert_eq!(failed, 1);
}

#[test]
fn a_cancelled_walk_says_so_and_ends_its_threads() {
    struct After(std::sync::atomic::AtomicUsize);
    impl Monitor for After {
        fn should_stop(&self) -> bool {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 50
        }
    }
    let mut layer = layer();
    for at in 0..200 {
        layer = layer.file(&format!("{}/{at}", at % 20), "x");
    }
    let monitor = After(Default::default());
    let differ = overlay_diff::UpperDiffer::new(UpperOptions::new());
    let mut source = differ.changes_of(&layer, Base::<MemoryLayer>::Empty, &monitor).unwrap();
    let error = loop {
        match source.next_change().map(|change: Option<Change<'_>>| change.is_some()) {
            Ok(true) => {}
            Ok(false) => panic!("the walk came to its end"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), &ErrorKind::Cancelled);
}
