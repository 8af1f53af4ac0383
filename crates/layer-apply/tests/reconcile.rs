//! Layers that are applied before their parents are there, and mended after.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{os::unix::fs::MetadataExt, sync::Arc};

use layer_apply::{ApplyOptions, OverlayApplier, Pending, reconcile};
use layer_model::{Applier, Base, ErrorKind, LayerTree, Silent, merged::Merged, testing::Snapshot};
use overlay_dir::{Namespace, OverlayDir, OverlayDirOptions};
use proptest::prelude::*;
use support::{
    Place, changes, kind_of,
    late_parents::{LATE_PARENTS, entry, with_root_time},
    listing, meta, sorted,
};

fn options() -> ApplyOptions {
    ApplyOptions::new().namespace(Namespace::User)
}

fn applier() -> OverlayApplier<OverlayDir> {
    OverlayApplier::new(options())
}

fn open(place: &Place, name: &str) -> OverlayDir {
    let open = OverlayDirOptions::default().namespace(Namespace::User);
    OverlayDir::open(place.temp.path().join(name), open).unwrap()
}

#[test]
fn a_mended_layer_is_the_one_that_its_parents_would_have_given() {
    for (name, parents, layer) in LATE_PARENTS {
        let fixed = with_root_time(parents);
        let fixed: Vec<&str> = fixed.iter().map(String::as_str).collect();
        let place = Place::new();
        let stack = place.parents(&fixed);
        applier()
            .apply(&mut changes(layer), Base::from_stack(stack.as_ref()), place.root(), &Silent)
            .unwrap_or_else(|e| panic!("{name}: {}", e.chain()));
        let detached = place.temp.path().join("upper");
        let (made, pending) = applier()
            .apply_detached(&mut changes(layer), &detached, &Silent)
            .unwrap_or_else(|e| panic!("{name}: {}", e.chain()));
        assert_eq!(made.implied_dirs, pending.implied_dirs);
        reconcile(&made.layer, &pending, Base::from_stack(stack.as_ref()), &options(), &Silent)
            .unwrap_or_else(|e| panic!("{name}: {}", e.chain()));

        assert_eq!(sorted(&listing(&detached)), sorted(&listing(&place.root())), "{name}");
        let look = |dir: &str| Snapshot::of(&open(&place, dir)).unwrap().without_access_times();
        let difference = look("root").difference(&look("upper"));
        assert!(difference.is_empty(), "{name}: parents known (-), mended (+)\n{}", difference.join("\n"));
    }
}

#[test]
fn layers_applied_in_any_order_make_the_same_stack() {
    let place = Place::new();
    let lower = changes("d/ 0700; d/x:\"1\"");
    let upper = "d/f:\"1\"";
    let (second, pending) =
        applier().apply_detached(&mut changes(upper), place.temp.path().join("upper"), &Silent).unwrap();
    assert_eq!(meta(place.temp.path().join("upper/d")).mode() & 0o777, 0o755);
    let first = applier().apply(&mut lower.clone(), Base::Empty, place.root(), &Silent).unwrap();
    let stack = layer_model::Stack::of(first.layer);
    reconcile(&second.layer, &pending, Base::Layers(&stack), &options(), &Silent).unwrap();
    assert_eq!(meta(place.temp.path().join("upper/d")).mode() & 0o777, 0o700);
}

#[test]
fn the_trait_reports_directories_and_refuses_what_needs_more() {
    let place = Place::new();
    let applied = applier()
        .apply(&mut changes("d/e/f:\"1\"; g/; g/h/i:\"2\""), Base::Unknown, place.root(), &Silent)
        .unwrap();
    let implied: Vec<_> = applied.implied_dirs.iter().map(|p| p.as_path().as_bytes().to_vec()).collect();
    assert_eq!(implied, [&b""[..], b"d", b"d/e", b"g/h"]);
    let stack = place.parents(&["d/ 0700"]);
    let pending = Pending::from_implied_dirs(applied.implied_dirs);
    reconcile(&applied.layer, &pending, Base::from_stack(stack.as_ref()), &options(), &Silent).unwrap();
    assert_eq!(meta(place.path("d")).mode() & 0o777, 0o700);

    for (layer, want) in [
        ("h=elsewhere", ErrorKind::NotFound),
        ("opq:.", ErrorKind::UnsupportedMarker { marker: "root opaque" }),
    ] {
        let place = Place::new();
        let result = applier().apply(&mut changes(layer), Base::Unknown, place.root(), &Silent);
        assert_eq!(kind_of(result), want, "{layer}");
        assert!(!place.root().exists());
    }
    let place = Place::new();
    applier().apply(&mut changes("opq:."), Base::Empty, place.root(), &Silent).unwrap();
}

#[test]
fn what_cannot_be_mended_is_said() {
    for (layer, parent, want) in [
        ("a/b:\"1\"", "a:\"file\"", ErrorKind::NotDirectory),
        ("h=nothing", "a:\"file\"", ErrorKind::NotFound),
        ("lib/x:\"1\"; usr/lib/x:\"2\"", "lib>usr/lib; usr/lib/", ErrorKind::Exists),
    ] {
        let place = Place::new();
        let stack = place.parents(&[parent]);
        let (made, pending) = applier().apply_detached(&mut changes(layer), place.root(), &Silent).unwrap();
        let result = reconcile(&made.layer, &pending, Base::from_stack(stack.as_ref()), &options(), &Silent);
        assert_eq!(kind_of(result), want, "{layer}");
    }
    let place = Place::new();
    let (made, pending) = applier().apply_detached(&mut changes("a:\"1\""), place.root(), &Silent).unwrap();
    let result = reconcile::<OverlayDir>(&made.layer, &pending, Base::Unknown, &options(), &Silent);
    assert_eq!(kind_of(result), ErrorKind::InvalidArgument);
}

#[test]
fn pending_says_what_is_open() {
    let place = Place::new();
    let layer = "d/f:\"1\"; h=t; wh:w/x; w/ mtime 1; opq:.";
    let (_, pending) = applier().apply_detached(&mut changes(layer), place.root(), &Silent).unwrap();
    let links: Vec<_> = pending.links().map(|(path, target)| (path.as_bytes(), target.as_bytes())).collect();
    assert_eq!(links, [(&b"h"[..], &b"t"[..])]);
    assert!(pending.root_opaque && !pending.is_empty());
    assert!(Pending::default().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_layers_are_mended_to_what_their_parents_would_have_given(
        parent in prop::collection::vec(entry(), 1..8),
        layer in prop::collection::vec(entry(), 1..8),
    ) {
        let place = Place::new();
        let (parent, layer) = (format!("./ mtime 1; {}", parent.join("; ")), layer.join("; "));
        let below = place.temp.path().join("parents");
        let options = options().apply_root_metadata(true);
        let applier = OverlayApplier::<OverlayDir>::new(options.clone());
        let Ok(made) = applier.apply(&mut changes(&parent), Base::Empty, below, &Silent) else { return Ok(()) };
        let stack = layer_model::Stack::of(made.layer);
        let direct = applier.apply(&mut changes(&layer), Base::Layers(&stack), place.root(), &Silent);
        let upper = place.temp.path().join("upper");
        let detached = applier.apply_detached(&mut changes(&layer), &upper, &Silent);
        let mended = detached.and_then(|(made, pending)| {
            reconcile(&made.layer, &pending, Base::Layers(&stack), &options, &Silent)
        });
        match direct {
            Ok(_) => mended.unwrap(),
            Err(_) => return Ok(()),
        }
        // A mark that hides nothing may be left: what counts is the view.
        let look = |name: &str| {
            let layers: Vec<Arc<dyn LayerTree>> = vec![Arc::new(open(&place, name)), Arc::new(open(&place, "parents"))];
            Snapshot::of(&Merged::new(layers).unwrap()).unwrap().without_access_times()
        };
        let difference = look("root").difference(&look("upper"));
        prop_assert!(difference.is_empty(), "{parent} | {layer}: known (-), mended (+)\n{}", difference.join("\n"));
    }
}
