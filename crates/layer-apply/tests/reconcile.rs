//! Layers that are applied before their parents are there, and mended after.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{os::unix::fs::MetadataExt, sync::Arc};

use layer_apply::{ApplyOptions, OverlayApplier, Pending, reconcile};
use layer_model::{Applier, Base, ErrorKind, LayerTree, Silent, merged::Merged, testing::Snapshot};
use overlay_dir::{Namespace, OverlayDir, OverlayDirOptions};
use proptest::prelude::*;
use support::{Place, changes, kind_of, listing, meta, sorted};

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
    for (name, parents, layer) in [
        (
            "metadata of directories",
            &["d/ 0700 mtime 5 user.k=v; d/e/ 0711 mtime 6; ./ 0750 mtime 7"][..],
            "d/e/f/g:\"1\"; x:\"2\"",
        ),
        (
            "the nearest parent counts",
            &["d/ 0700 mtime 5", "d/ 0711 mtime 6; d/e/ 0777 mtime 8"],
            "d/e/f:\"1\"",
        ),
        ("deleted directories", &["wh:d", "d/ 0711 mtime 6"], "d/f:\"1\""),
        (
            "directories of the layer that hide",
            &["d/ 0711 mtime 6; d/e/ 0700 mtime 4"],
            "wh:d; d/e/f:\"1\"; i/ 0755 mtime 3; opq:i; i/j/k:\"2\"",
        ),
        (
            "an opaque mark on a directory without an entry",
            &["d/ 0711 mtime 6; d/e/ 0700 mtime 4"],
            "opq:d; d/e/f:\"1\"",
        ),
        (
            "deletions that hide nothing",
            &["a:\"1\" mtime 4; d/x:\"1\"; d/ mtime 4"],
            "wh:no/such/thing; new/ mtime 5; wh:new/x; wh:d/x; wh:a; wh:b",
        ),
        ("an opaque mark on nothing", &["a:\"1\""], "opq:no/such"),
        (
            "hard links",
            &["s/t:\"data\" mtime 4; s/ mtime 5; l>s"],
            "h=s/t mtime 4; i=l/t mtime 4; j=h mtime 4",
        ),
        ("an opaque root", &["top:\"1\"; d/low:\"2\"; d/ mtime 4"], "n:\"1\"; d/ mtime 8; d/f:\"2\"; opq:."),
        (
            "links of parents",
            &["usr/lib/x:\"1\"; usr/lib/ 0711 mtime 9; usr/ mtime 3; lib>usr/lib; ./ mtime 2"],
            "lib/a:\"1\"; lib/sub/b:\"2\"; usr/lib/sub/c:\"3\"; lib/sub/deep/d:\"4\"; wh:lib/x",
        ),
        (
            "absolute links of parents to what they do not have",
            &["lib>/new/lib; ./ mtime 2"],
            "lib/a:\"1\"; lib/s/b:\"2\"",
        ),
        (
            "links of parents to links",
            &["a>b; b>c/d; c/ mtime 4; c/d/ mtime 5; ./ mtime 2"],
            "a/x:\"1\"; b/y:\"2\"; c/d/z:\"3\"",
        ),
        (
            "deletions through links of parents",
            &["usr/lib/x:\"1\"; usr/lib/d/y:\"2\"; lib>usr/lib; ./ mtime 2; usr/ mtime 2; usr/lib/ mtime 2"],
            "wh:usr/lib/x; lib/x:\"new\"; lib/d/n:\"3\"; wh:lib/d/y; wh:lib/gone",
        ),
        ("no parents at all", &[], "d/e/f:\"1\"; wh:g; wh:h/i; opq:j"),
    ] {
        let fixed = format!("./ mtime 1; {}", parents.first().unwrap_or(&""));
        let fixed: Vec<&str> = parents
            .iter()
            .enumerate()
            .map(|(n, p)| if n == 0 && !p.contains("./") { &*fixed } else { p })
            .collect();
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

/// One entry of a random layer. Links are left out: through a link of a parent the order of entries counts, which
/// is lost when the parents come later.
fn entry() -> impl Strategy<Value = String> {
    let name = || prop::sample::select(vec!["a", "b", "a/x", "a/y", "a/x/p", "b/x", "b/x/q", "b/x/q/r"]);
    let mode = || prop::sample::select(vec!["0755", "0700", "0711"]);
    prop_oneof![
        4 => (name(), 0..9u32, 1..99u32).prop_map(|(n, c, t)| format!("{n}:\"{c}\" mtime {t}")),
        4 => (name(), mode(), 1..99u32).prop_map(|(n, m, t)| format!("{n}/ {m} mtime {t}")),
        3 => name().prop_map(|n| format!("wh:{n}")),
        2 => name().prop_map(|n| format!("opq:{n}")),
    ]
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
