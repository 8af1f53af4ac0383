//! Layers made in overlayfs's form: the markers on disk, and the merged view as it is computed in process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{fs, os::unix::fs::MetadataExt, sync::Arc};

use layer_apply::{ApplyOptions, KernelFeatures, OverlayXattrs, WhiteoutForm, XattrPolicy};
use layer_model::{ErrorKind, LayerTree, Profile, WarningKind, merged::Merged, testing::Snapshot};
use overlay_dir::{Namespace, OverlayDir, OverlayDirOptions, PlainDir, PlainDirOptions};
use support::{Heard, Place, changes, kind_of, meta, xattr};

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

struct Case {
    name: &'static str,
    parents: &'static [&'static str],
    layer: &'static str,
    /// What is on disk.
    layer_dir: &'static str,
    /// What is seen over the parents.
    merged: &'static str,
}

const CASES: &[Case] = &[
    Case { name: "a deletion", parents: &["a:\"x\""], layer: "wh:a", layer_dir: "wh:a", merged: "" },
    Case {
        name: "an opaque directory",
        parents: &["d/x:\"1\""],
        layer: "d/; opq:d; d/n:\"2\"",
        layer_dir: "d/; opq:d; d/n:\"2\"",
        merged: "d/; d/n:\"2\"",
    },
    Case {
        name: "a directory in the place of a deleted one hides its children",
        parents: &["d/x:\"1\""],
        layer: "wh:d; d/; d/n:\"2\"",
        layer_dir: "d/; opq:d; d/n:\"2\"",
        merged: "d/; d/n:\"2\"",
    },
    Case {
        name: "so does one without an entry",
        parents: &["d/ 0700; d/x:\"1\""],
        layer: "wh:d; d/n:\"2\"",
        layer_dir: "d/; opq:d; d/n:\"2\"",
        merged: "d/; d/n:\"2\"",
    },
    Case {
        name: "a deletion below a deletion says nothing new",
        parents: &["d/x:\"1\""],
        layer: "wh:d; wh:d/x; wh:d/y/z; opq:d; opq:d/e",
        layer_dir: "wh:d",
        merged: "",
    },
    Case {
        name: "a deletion after deletions below it is the sum of them",
        parents: &["d/x:\"1\"; d/e/y:\"2\""],
        layer: "wh:d/e/y; wh:d/x; wh:d",
        layer_dir: "wh:d",
        merged: "",
    },
    Case {
        name: "an opaque mark after deletions below it",
        parents: &["d/e/f/y:\"2\""],
        layer: "wh:d/e/f/y; wh:d/e/x; opq:d",
        layer_dir: "d/; opq:d",
        merged: "d/",
    },
    Case {
        name: "a deletion after an opaque mark",
        parents: &["d/x:\"1\"; d/e/y:\"2\""],
        layer: "opq:d; wh:d",
        layer_dir: "wh:d",
        merged: "",
    },
    Case {
        name: "a deletion after the file of the same layer",
        parents: &["f:\"x\""],
        layer: "f:\"y\"; wh:f",
        layer_dir: "f:\"y\"",
        merged: "f:\"y\"",
    },
    Case {
        name: "a deletion after the directory of the same layer makes it opaque",
        parents: &["f/x:\"x\""],
        layer: "f/; f/y:\"y\"; wh:f",
        layer_dir: "f/; opq:f; f/y:\"y\"",
        merged: "f/; f/y:\"y\"",
    },
    Case {
        name: "a deletion twice",
        parents: &["f:\"x\""],
        layer: "wh:f; wh:f",
        layer_dir: "wh:f",
        merged: "",
    },
    Case {
        name: "a deletion, then a file",
        parents: &["f/x:\"x\""],
        layer: "wh:f; f:\"y\"",
        layer_dir: "f:\"y\"",
        merged: "f:\"y\"",
    },
    Case {
        name: "a file, then a directory, of one layer",
        parents: &["f/x:\"x\""],
        layer: "f:\"y\"; f/; f/z:\"z\"",
        layer_dir: "f/; opq:f; f/z:\"z\"",
        merged: "f/; f/z:\"z\"",
    },
    Case {
        name: "no deletions in opaque directories",
        parents: &["d/x:\"1\"; d/e/y:\"2\""],
        layer: "d/; opq:d; wh:d/x; d/e/; wh:d/e/y",
        layer_dir: "d/; opq:d; d/e/",
        merged: "d/; d/e/",
    },
    Case {
        name: "nor where the mark comes after them",
        parents: &["d/x:\"1\"; d/e/y:\"2\""],
        layer: "d/; wh:d/x; d/e/; wh:d/e/y; opq:d; wh:d/z",
        layer_dir: "d/; opq:d; d/e/",
        merged: "d/; d/e/",
    },
    Case {
        name: "an opaque mark twice",
        parents: &["d/x:\"1\""],
        layer: "opq:d; opq:d",
        layer_dir: "d/; opq:d",
        merged: "d/",
    },
    Case {
        name: "a deletion through a link of a parent acts where the link leads",
        parents: &["real/x:\"1\"; link>real"],
        layer: "wh:link/x",
        layer_dir: "real/; wh:real/x",
        merged: "link>real; real/",
    },
    Case {
        name: "so does a file, also through an absolute link of a parent further down",
        parents: &["top:\"t\"", "usr/lib/x:\"1\"; lib>/usr/lib"],
        layer: "lib/y:\"2\"; lib/sub/z:\"3\"; opq:lib/sub",
        layer_dir: "usr/; usr/lib/; usr/lib/y:\"2\"; usr/lib/sub/; opq:usr/lib/sub; usr/lib/sub/z:\"3\"",
        merged: "lib>/usr/lib; top:\"t\"; usr/; usr/lib/; usr/lib/sub/; usr/lib/sub/z:\"3\"; usr/lib/x:\"1\"; usr/lib/y:\"2\"",
    },
    Case {
        name: "a new directory hides the link of a parent from then on",
        parents: &["real/x:\"1\"; link>real"],
        layer: "link/a:\"1\"; link/; link/b:\"2\"",
        layer_dir: "link/; link/b:\"2\"; real/; real/a:\"1\"",
        merged: "link/; link/b:\"2\"; real/; real/a:\"1\"; real/x:\"1\"",
    },
    Case {
        name: "links of the layer and of a parent in one path",
        parents: &["b>c; c/d>../e; e/x:\"1\""],
        layer: "a>b; a/d/y:\"2\"",
        layer_dir: "a>b; e/; e/y:\"2\"",
        merged: "a>b; b>c; c/; c/d>../e; e/; e/x:\"1\"; e/y:\"2\"",
    },
    Case {
        name: "an opaque root, written as deletions",
        parents: &["top:\"x\"; d/low:\"l\"; e/low:\"l\"", "f:\"y\"; wh:gone"],
        layer: "e/; e/n:\"1\"; opq:.; n:\"1\"; wh:e/low",
        layer_dir: "wh:d; e/; opq:e; e/n:\"1\"; wh:f; n:\"1\"; wh:top",
        merged: "e/; e/n:\"1\"; n:\"1\"",
    },
    Case {
        name: "only one of two directories is opaque",
        parents: &["d/a:\"1\"; d/e/b:\"2\""],
        layer: "d/; d/e/; opq:d/e; d/e/c:\"3\"",
        layer_dir: "d/; d/e/; opq:d/e; d/e/c:\"3\"",
        merged: "d/; d/a:\"1\"; d/e/; d/e/c:\"3\"",
    },
    Case {
        name: "opaque directories in each other",
        parents: &[],
        layer: "d/; opq:d; d/sub/; opq:d/sub; d/sub/f:\"1\"",
        layer_dir: "d/; opq:d; d/sub/; opq:d/sub; d/sub/f:\"1\"",
        merged: "d/; d/sub/; d/sub/f:\"1\"",
    },
    Case {
        name: "a device 0:0 is a deletion",
        parents: &["w:\"x\""],
        layer: "C w 0:0",
        layer_dir: "wh:w",
        merged: "",
    },
    Case {
        name: "deletions where the parents have no directory would be listed",
        parents: &["a:\"x\""],
        layer: "wh:no/such; new/; wh:new/x; opq:none; a:\"y\"; wh:a/b",
        layer_dir: "a:\"y\"; new/",
        merged: "a:\"y\"; new/",
    },
    Case {
        name: "a deletion that a parent made already is no directory",
        parents: &["wh:d", "d/x:\"1\""],
        layer: "d/f:\"1\"",
        layer_dir: "d/; d/f:\"1\"",
        merged: "d/; d/f:\"1\"",
    },
    Case {
        name: "a link to a name of a parent brings that up",
        parents: &["sub/t:\"data\""],
        layer: "h=sub/t; i=h",
        layer_dir: "h:\"data\"; i:\"data\"; sub/; sub/t:\"data\"",
        merged: "h:\"data\"; i:\"data\"; sub/; sub/t:\"data\"",
    },
    Case {
        name: "what was brought up for a link goes with a deletion",
        parents: &["a/y:\"0\"; b/y:\"1\"; c:\"2\""],
        layer: "a/x/p=a/y; wh:a; q=b/y; wh:b; r=c; wh:c",
        layer_dir: "a/; opq:a; a/x/; a/x/p:\"0\"; wh:b; wh:c; q:\"1\"; r:\"2\"",
        merged: "a/; a/x/; a/x/p:\"0\"; q:\"1\"; r:\"2\"",
    },
    Case {
        name: "also through a link of a parent",
        parents: &["sub/t:\"data\"; l>sub"],
        layer: "h=l/t",
        layer_dir: "h:\"data\"; sub/; sub/t:\"data\"",
        merged: "h:\"data\"; l>sub; sub/; sub/t:\"data\"",
    },
];

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
