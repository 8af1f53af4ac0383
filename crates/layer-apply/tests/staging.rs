//! A target appears whole or not at all.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use layer_apply::{ApplyOptions, FlatApplier, OverlayApplier, STAGING_PREFIX};
use layer_model::{Applier, Base, ErrorKind, LayerSink, Monitor, Silent, road};
use overlay_dir::{Namespace, OverlayDir};
use support::{Place, build, changes, kind_of};

fn applier() -> OverlayApplier<OverlayDir> {
    OverlayApplier::new(ApplyOptions::new().namespace(Namespace::User))
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn nothing_is_left_of_an_apply_that_fails_or_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t");
    // With modes that keep everyone out, and deep.
    let layer = format!("a/ 0; b/ 0500; b/c:\"\" 0; {} 0; b/d/e/f:\"1\"", "x/".repeat(200));
    for bad in ["l>", "h=nothing", "b/c/d:\"1\""] {
        let layer = format!("{layer}; {bad}");
        assert!(applier().apply(&mut changes(&layer), Base::Empty, target.clone(), &Silent).is_err());
        assert!(
            FlatApplier::default().apply(&mut changes(&layer), Base::Empty, target.clone(), &Silent).is_err()
        );
        assert_eq!(names(folder.path()), [""; 0], "{bad}");
    }
    let mut sink = applier().sink(Base::Empty, &target, &Silent).unwrap();
    road::drive(&mut changes(&layer), &mut sink, &Silent).unwrap();
    let inside = names(folder.path());
    assert!(inside.len() == 1 && inside[0].starts_with(STAGING_PREFIX), "{inside:?}");
    assert_eq!(fs::metadata(folder.path().join(&inside[0])).unwrap().permissions().mode() & 0o777, 0o700);
    drop(sink);
    assert_eq!(names(folder.path()), [""; 0]);
}

/// Says stop after some questions.
struct StopAfter(AtomicU32);

impl Monitor for StopAfter {
    fn should_stop(&self) -> bool {
        self.0.fetch_sub(1, Ordering::Relaxed) == 0
    }
}

#[test]
fn a_cancelled_apply_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t");
    let large = format!("a:\"1\"; b:\"{}\"; c:\"3\"", "x".repeat(3 << 20));
    for after in 0..6 {
        let stop = StopAfter(AtomicU32::new(after));
        let result = applier().apply(&mut changes(&large), Base::Empty, target.clone(), &stop);
        assert_eq!(kind_of(result), ErrorKind::Cancelled, "after {after}");
        assert_eq!(names(folder.path()), [""; 0]);
    }
}

#[test]
fn the_target_is_new_or_an_empty_directory() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    build(folder.path(), "full/x:\"1\"; empty/; file:\"1\"");
    symlink("empty", at("link")).unwrap();
    for name in ["full", "file", "link"] {
        let result = applier().apply(&mut changes("a:\"1\""), Base::Empty, at(name), &Silent);
        assert_eq!(kind_of(result), ErrorKind::Exists, "{name}");
    }
    for name in ["empty", "new"] {
        let made =
            applier().apply(&mut changes("a:\"1\"; b:\"22\""), Base::Empty, at(name), &Silent).unwrap();
        assert_eq!((made.entries, made.bytes), (2, 3));
        assert_eq!(names(&at(name)), ["a", "b"]);
    }
    assert_eq!(
        kind_of(applier().apply(&mut changes(""), Base::Empty, at("no/such"), &Silent)),
        ErrorKind::NotFound
    );
    assert_eq!(
        kind_of(applier().apply(&mut changes(""), Base::Empty, "..".into(), &Silent)),
        ErrorKind::InvalidArgument
    );
    assert_eq!(names(folder.path()), ["empty", "file", "full", "link", "new"]);
}

#[test]
fn a_target_that_was_filled_meanwhile_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t");
    let mut sink = applier().sink(Base::Empty, &target, &Silent).unwrap();
    road::drive(&mut changes("a:\"1\""), &mut sink, &Silent).unwrap();
    build(&target, "theirs:\"1\"");
    assert_eq!(kind_of(sink.finish()), ErrorKind::Exists);
    assert_eq!(names(folder.path()), ["t"]);
    assert_eq!(names(&target), ["theirs"]);
}

#[test]
fn what_a_killed_process_left_is_removed_and_what_is_in_use_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let left = folder.path().join(format!("{STAGING_PREFIX}1-2"));
    build(&left, "d/e/f:\"1\" 0; d/ 0500");
    fs::write(folder.path().join(format!("{STAGING_PREFIX}a-file")), "theirs").unwrap();
    let sink = applier().sink(Base::Empty, folder.path().join("first"), &Silent).unwrap();
    assert!(!left.exists(), "removed when the next apply begins");
    let second = applier().sink(Base::Empty, folder.path().join("second"), &Silent).unwrap();
    assert_eq!(names(folder.path()).len(), 3, "that of an apply that goes on is left alone");
    second.finish().unwrap();
    sink.finish().unwrap();
    assert_eq!(names(folder.path()), [".layerkit-apply-a-file", "first", "second"]);
}

#[test]
fn applies_into_one_folder_at_once_do_not_meet() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let target = folder.path().join(n.to_string());
            scope.spawn(move || {
                let layer: String = (0..50).map(|f| format!("d{f}/f:\"{n}\"; ")).collect();
                applier().apply(&mut changes(&layer), Base::Empty, target, &Silent).unwrap();
            });
        }
    });
    assert_eq!(names(folder.path()), ["0", "1", "2", "3", "4", "5", "6", "7"]);
    for n in 0..8 {
        assert_eq!(fs::read_to_string(folder.path().join(format!("{n}/d49/f"))).unwrap(), n.to_string());
    }
}

#[test]
fn a_synced_apply_gives_the_same() {
    let place = Place::new();
    let options = ApplyOptions::new().sync(true);
    FlatApplier::new(options.clone())
        .apply(&mut changes("a:\"1\""), Base::Empty, place.root(), &Silent)
        .unwrap();
    FlatApplier::new(options).apply(&mut changes("b:\"2\""), Base::Empty, place.root(), &Silent).unwrap();
    place.holds("a:\"1\"; b:\"2\"");
}
