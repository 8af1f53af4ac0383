//! Layers made in overlayfs's form: the markers on disk, and the merged view as it is computed in process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{fs, os::unix::fs::MetadataExt, sync::Arc};

use layer_apply::{ApplyOptions, KernelFeatures, OverlayXattrs, WhiteoutForm, XattrPolicy};
use layer_model::{ErrorKind, LayerTree, Profile, WarningKind, merged::Merged, testing::Snapshot};
use overlay_dir::{Namespace, OverlayDir, OverlayDirOptions, PlainDir, PlainDirOptions};
use support::{Heard, Place, cases::CASES, changes, kind_of, meta, xattr};

fn spec() -> ApplyOptions {
    ApplyOptions::new()
}

fn containerd() -> ApplyOptions {
    ApplyOptions::new().profile(Profile::Containerd)
}

/// The merged view of the layer at `root` over its parents, as a line.
fn merged_line(place: &Place, parents: usize) -> String {
    let options = || OverlayDirOptions::default().namespace(Namespace::User);
    let mut layers: Vec<Arc<dyn LayerTree>> =
        vec![Arc::new(OverlayDir::open(place.root(), options()).unwrap())];
    for n in 0..parents {
        let dir = place.temp.path().join("parents").join(n.to_string());
        layers.push(Arc::new(OverlayDir::open(dir, options()).unwrap()));
    }
    let merged = Merged::new(layers).unwrap();
    let mut lines = Vec::new();
    view(&*merged.root().unwrap(), "", &mut lines);
    lines.join("; ")
}

fn view(dir: &dyn layer_model::LayerDir, above: &str, lines: &mut Vec<String>) {
    for name in dir.names().unwrap() {
        let node = dir.lookup(&name).unwrap().unwrap();
        let text = String::from_utf8(name.to_vec()).unwrap();
        let path = if above.is_empty() { text } else { format!("{above}/{text}") };
        match node.kind {
            layer_model::NodeKind::Directory => {
                lines.push(format!("{path}/"));
                view(&*dir.open_dir(&name).unwrap(), &path, lines);
            }
            layer_model::NodeKind::File { size } => {
                let mut bytes = vec![0; size as usize];
                dir.open_file(&name).unwrap().read_exact_at(&mut bytes, 0).unwrap();
                lines.push(format!("{path}:\"{}\"", String::from_utf8_lossy(&bytes)));
            }
            layer_model::NodeKind::Symlink { target } => {
                lines.push(format!("{path}>{}", String::from_utf8_lossy(&target)));
            }
            other => lines.push(format!("{other:?} {path}")),
        }
    }
}

#[test]
fn layers_are_what_the_kernel_reads() {
    for case in CASES {
        for features in [KernelFeatures::default(), KernelFeatures::oldest()] {
            let place = Place::new();
            let parents = place.parents(case.parents);
            let (result, _) =
                place.overlay(spec().kernel_features(features), parents.as_ref(), &mut changes(case.layer));
            result.unwrap_or_else(|e| panic!("{}: {}", case.name, e.chain()));
            assert_eq!(support::listing(&place.root()), support::sorted(case.layer_dir), "{}", case.name);
            let merged = merged_line(&place, case.parents.len());
            assert_eq!(support::sorted(&merged), support::sorted(case.merged), "{}", case.name);
        }
    }
}

#[test]
fn a_flattened_tree_is_the_same_as_the_merged_view() {
    for case in CASES
        .iter()
        .filter(|case| !case.parents.iter().any(|p| p.contains("wh:")) && !case.layer.contains("0:0"))
    {
        let place = Place::new();
        // The parents, topmost last, one over the other.
        for parent in case.parents.iter().rev() {
            place.flatten(spec(), parent).0.unwrap();
        }
        place.flatten(spec(), case.layer).0.unwrap_or_else(|e| panic!("{}: {}", case.name, e.chain()));
        assert_eq!(support::listing(&place.root()), support::sorted(case.merged), "{}", case.name);
    }
}

#[test]
fn whiteouts_in_attribute_form_say_the_same() {
    for case in CASES {
        let place = Place::new();
        let parents = place.parents(case.parents);
        let options = spec().whiteout_form(WhiteoutForm::Xattr);
        let (result, _) = place.overlay(options, parents.as_ref(), &mut changes(case.layer));
        result.unwrap_or_else(|e| panic!("{}: {}", case.name, e.chain()));
        let merged = merged_line(&place, case.parents.len());
        assert_eq!(support::sorted(&merged), support::sorted(case.merged), "{}", case.name);
    }
}

#[test]
fn a_denied_whiteout_takes_the_other_form_or_fails() {
    let place = Place::new();
    let parents = place.parents(&["a:\"x\""]);
    let mut features = KernelFeatures::default();
    features.device_whiteouts = false;
    place.overlay(spec().kernel_features(features), parents.as_ref(), &mut changes("wh:a")).0.unwrap();
    assert_eq!((meta(place.path("a")).len(), meta(place.path("a")).is_file()), (0, true));
    assert!(xattr(&place.path("a"), "user.overlay.whiteout").is_some());
    assert_eq!(xattr(&place.root(), "user.overlay.opaque").as_deref(), Some(&b"x"[..]));

    features.xattr_whiteouts = false;
    for options in [
        spec().kernel_features(features),
        spec().kernel_features(features).whiteout_form(WhiteoutForm::Xattr),
    ] {
        let place = Place::new();
        let (result, _) = place.overlay(options, None, &mut changes("wh:a"));
        assert_eq!(kind_of(result), ErrorKind::PermissionDenied);
        assert!(!place.root().exists());
    }
}

#[test]
fn directories_without_an_entry_are_those_of_the_parents() {
    let place = Place::new();
    let parents =
        place.parents(&["other:\"1\"; d/ 0750 mtime 50 user.k=v; d/x:\"1\"", "d/ 0700; e/s/ 01777 mtime 60"]);
    place.overlay(spec(), parents.as_ref(), &mut changes("d/sub/f:\"1\"; e/s/g:\"2\"")).0.unwrap();
    let mode = |name: &str| meta(place.path(name)).mode() & 0o7777;
    assert_eq!((mode("d"), mode("d/sub"), mode("e"), mode("e/s")), (0o750, 0o755, 0o755, 0o1777));
    assert_eq!((meta(place.path("d")).mtime(), meta(place.path("d/sub")).mtime()), (50, 0));
    assert_eq!(meta(place.path("e/s")).mtime(), 60);
    assert_eq!(xattr(&place.path("d"), "user.k").as_deref(), Some(&b"v"[..]));
    assert_eq!(xattr(&place.path("d/sub"), "user.k"), None);
}

#[test]
fn the_search_for_a_directory_ends_where_it_is_deleted() {
    for parents in [&["wh:d", "d/ 0700 mtime 7 user.k=v"][..], &["opq:e; wh:d", "d/ 0700"]] {
        let place = Place::new();
        let stack = place.parents(parents);
        place.overlay(spec(), stack.as_ref(), &mut changes("d/f:\"1\"")).0.unwrap();
        assert_eq!((meta(place.path("d")).mode() & 0o777, meta(place.path("d")).mtime()), (0o755, 0));
        assert_eq!(xattr(&place.path("d"), "user.k"), None);
    }
    let place = Place::new();
    let stack = place.parents(&["opq:d", "d/s/ 0700"]);
    place.overlay(spec(), stack.as_ref(), &mut changes("d/s/f:\"1\"")).0.unwrap();
    assert_eq!(meta(place.path("d/s")).mode() & 0o777, 0o755, "below an opaque directory");
}

#[test]
fn the_root_is_that_of_the_parents_unless_the_layer_describes_it() {
    let place = Place::new();
    let stack = place.parents(&["./ 0711 mtime 9 user.k=v; x:\"1\""]);
    place.overlay(spec(), stack.as_ref(), &mut changes("./ 0700; y:\"1\"")).0.unwrap();
    let root = meta(place.root());
    assert_eq!((root.mode() & 0o777, root.mtime()), (0o711, 9));
    assert_eq!(xattr(&place.root(), "user.k").as_deref(), Some(&b"v"[..]));

    let place = Place::new();
    place
        .overlay(spec().apply_root_metadata(true), None, &mut changes("y:\"1\"; ./ 0700 mtime 8"))
        .0
        .unwrap();
    assert_eq!((meta(place.root()).mode() & 0o777, meta(place.root()).mtime()), (0o700, 8));
    let place = Place::new();
    place.overlay(spec(), None, &mut changes("y:\"1\"")).0.unwrap();
    assert_eq!((meta(place.root()).mode() & 0o777, meta(place.root()).mtime()), (0o755, 0));
}

#[test]
fn a_file_of_a_parent_is_no_directory() {
    let place = Place::new();
    let stack = place.parents(&["a:\"x\"; l>a"]);
    for layer in ["a/b:\"1\"", "l/b:\"1\""] {
        assert_eq!(
            kind_of(place.overlay(spec(), stack.as_ref(), &mut changes(layer)).0),
            ErrorKind::NotDirectory
        );
        assert!(!place.root().exists(), "nothing is left of a failed apply");
    }
}

#[test]
fn what_is_brought_up_for_a_link_is_what_the_parent_has() {
    let place = Place::new();
    let stack = place.parents(&["s/t:\"data\" 0640 mtime 44 user.k=v; s/ 0711 mtime 3; l>nowhere; P p 0600"]);
    place.overlay(spec(), stack.as_ref(), &mut changes("h=s/t 0640 mtime 44; k=l; q=p 0600")).0.unwrap();
    let (t, h) = (meta(place.path("s/t")), meta(place.path("h")));
    assert_eq!((t.ino(), t.nlink(), h.mode() & 0o777, h.mtime()), (h.ino(), 2, 0o640, 44));
    assert_eq!(xattr(&place.path("h"), "user.k").as_deref(), Some(&b"v"[..]));
    assert_eq!((meta(place.path("s")).mode() & 0o777, meta(place.path("s")).mtime()), (0o711, 3));
    assert_eq!(meta(place.path("l")).ino(), meta(place.path("k")).ino());
    assert_eq!(meta(place.path("p")).ino(), meta(place.path("q")).ino());
}

#[test]
fn links_that_the_layers_do_not_allow_fail() {
    for (layer, want) in [
        ("h=nothing", ErrorKind::NotFound),
        ("wh:t; h=t", ErrorKind::NotFound),
        ("d/; opq:d; h=d/x", ErrorKind::NotFound),
        ("wh:d; h=d/x", ErrorKind::NotFound),
        ("h=d", ErrorKind::InvalidArchive),
    ] {
        let place = Place::new();
        let stack = place.parents(&["t:\"data\"; d/x:\"1\""]);
        assert_eq!(kind_of(place.overlay(spec(), stack.as_ref(), &mut changes(layer)).0), want, "{layer}");
    }
}

#[test]
fn containerd_fails_where_its_own_applier_fails() {
    for (layer, want) in [
        ("wh:f; wh:f", ErrorKind::Exists),
        ("f:\"y\"; wh:f", ErrorKind::Exists),
        ("f/; wh:f", ErrorKind::Exists),
        ("wh:f; f/new:\"1\"", ErrorKind::NotDirectory),
        ("wh:f; wh:f/bar", ErrorKind::NotDirectory),
        ("h=f", ErrorKind::NotFound),
    ] {
        let place = Place::new();
        let stack = place.parents(&["f:\"x\""]);
        assert_eq!(
            kind_of(place.overlay(containerd(), stack.as_ref(), &mut changes(layer)).0),
            want,
            "{layer}"
        );
    }
    for (layer, want) in [
        ("link/a:\"1\"", "link/; link/a:\"1\""),
        ("wh:link/x", "link/; wh:link/x"),
        ("wh:real; real/; real/a:\"1\"", "real/; opq:real; real/a:\"1\""),
        ("opq:real; wh:real/x", "opq:real; real/; wh:real/x"),
        ("wh:no/such", "no/; wh:no/such"),
        ("C w 0:0 0600", "wh:w"),
    ] {
        if layer.starts_with('C') && !support::is_root() {
            continue;
        }
        let place = Place::new();
        let stack = place.parents(&["real/x:\"1\"; link>real"]);
        place
            .overlay(containerd(), stack.as_ref(), &mut changes(layer))
            .0
            .unwrap_or_else(|e| panic!("{layer}: {}", e.chain()));
        assert_eq!(support::listing(&place.root()), support::sorted(want), "{layer}");
    }
}

#[test]
fn attributes_of_overlayfs_are_dropped_or_escaped() {
    let layer =
        "d/ user.overlay.opaque=y user.k=v; f:\"\" user.overlay.redirect=/../.. trusted.overlay.metacopy=";
    let place = Place::new();
    let (result, heard) = place.overlay(spec(), None, &mut changes(layer));
    result.unwrap();
    assert_eq!(xattr(&place.path("d"), "user.overlay.opaque"), None);
    assert_eq!(xattr(&place.path("d"), "user.k").as_deref(), Some(&b"v"[..]));
    assert_eq!(heard.kinds(), [WarningKind::XattrDropped; 3]);
    for options in [
        spec().overlay_xattrs(OverlayXattrs::Escape),
        spec().overlay_xattrs(OverlayXattrs::Escape).profile(Profile::Containerd),
    ] {
        let place = Place::new();
        place.overlay(options, None, &mut changes(layer)).0.unwrap();
        assert_eq!(xattr(&place.path("d"), "user.overlay.opaque"), None);
        assert_eq!(xattr(&place.path("d"), "user.overlay.overlay.opaque").as_deref(), Some(&b"y"[..]));
        let dir =
            OverlayDir::open(place.root(), OverlayDirOptions::default().namespace(Namespace::User)).unwrap();
        let node = dir.root().unwrap().lookup(b"d").unwrap().unwrap();
        assert_eq!(node.xattrs.get(b"user.overlay.opaque"), Some(&b"y"[..]), "the merged file has it");
        assert!(!node.markers.opaque);
    }
    let place = Place::new();
    place.overlay(containerd(), None, &mut changes(layer)).0.unwrap();
    assert_eq!(xattr(&place.path("d"), "user.overlay.opaque"), None, "never as it is");
    let place = Place::new();
    place
        .overlay(spec().xattr_policy(XattrPolicy::Verbatim), None, &mut changes("d/ user.overlay.opaque=y"))
        .0
        .unwrap();
    assert_eq!(xattr(&place.path("d"), "user.overlay.opaque"), None, "never as it is");
}

#[test]
fn warnings_say_what_was_not_as_it_should_be() {
    let place = Place::new();
    let stack = place.parents(&["w:\"x\"; d/x:\"1\""]);
    let (result, heard) = place.overlay(spec(), stack.as_ref(), &mut changes("C w 0:0; opq:."));
    result.unwrap();
    assert_eq!(heard.kinds(), [WarningKind::CharZeroDevice, WarningKind::RootOpaque]);
    let (result, _) = Place::new().overlay(spec().strict(true), None, &mut changes("C w 0:0"));
    assert_eq!(kind_of(result), ErrorKind::InvalidArchive);
}

#[test]
fn whiteouts_that_hide_nothing_can_be_left_out() {
    let place = Place::new();
    let stack = place.parents(&["a:\"x\""]);
    let options = spec().whiteout_if_present_in_lowers(true);
    place.overlay(options, stack.as_ref(), &mut changes("wh:a; wh:b")).0.unwrap();
    place.holds("wh:a");
    let place = Place::new();
    let stack = place.parents(&["a:\"x\""]);
    place.overlay(spec(), stack.as_ref(), &mut changes("wh:a; wh:b")).0.unwrap();
    place.holds("wh:a; wh:b");
}

#[test]
fn parents_may_be_of_any_form() {
    use layer_model::{Applier, Base, Stack, testing::MemoryLayer};
    let place = Place::new();
    let heard = Heard::default();
    let memory = Stack::of(MemoryLayer::new().dir("d", 0o700).file("d/t", "data"));
    let applier = layer_apply::OverlayApplier::<MemoryLayer>::new(
        spec().namespace(Namespace::User).no_same_owner(true),
    );
    applier.apply(&mut changes("d/h=d/t"), Base::Layers(&memory), place.root(), &heard).unwrap();
    place.holds("d/; d/h:\"data\"; d/t:\"data\"");
    assert_eq!(meta(place.path("d")).mode() & 0o777, 0o700);

    fs::create_dir(place.temp.path().join("parents")).unwrap();
    support::build(&place.temp.path().join("parents/plain"), "e/ 0711");
    let plain = PlainDir::open(place.temp.path().join("parents/plain"), PlainDirOptions::default()).unwrap();
    let applier = layer_apply::OverlayApplier::<PlainDir>::new(spec().namespace(Namespace::User));
    fs::remove_dir_all(place.root()).unwrap();
    applier.apply(&mut changes("e/f:\"1\""), Base::Layers(&Stack::of(plain)), place.root(), &heard).unwrap();
    assert_eq!(meta(place.path("e")).mode() & 0o777, 0o711);
}

#[test]
fn the_same_layer_gives_the_same_tree() {
    let layer = "b/c:\"1\"; a>b; a/d:\"2\"; h=late; late:\"x\"; wh:gone; opq:b; e/ 0700 user.k=v";
    let mut seen = Vec::new();
    for _ in 0..2 {
        let place = Place::new();
        let stack = place.parents(&["./ mtime 3; gone:\"1\"; b/ mtime 4; b/x:\"2\""]);
        place.overlay(spec(), stack.as_ref(), &mut changes(layer)).0.unwrap();
        let dir =
            OverlayDir::open(place.root(), OverlayDirOptions::default().namespace(Namespace::User)).unwrap();
        seen.push(Snapshot::of(&dir).unwrap());
    }
    seen[0].assert_same(&seen[1]);
}
