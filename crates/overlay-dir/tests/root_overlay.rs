//! Layers that the kernel's overlayfs made, looked at by this crate. Needs root.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use layer_model::{
    ErrorKind, LayerPath, LayerPathBuf, Node, NodeKind,
    tree::{LayerTreeExt, NlinkDelta, Redirect},
};
use overlay_dir::{Namespace, OverlayDir, OverlayDirOptions, OverlayUpper, OverlayUpperOptions};
use support::{Bench, can_run, open, overlay_missing, set_xattr, write};

const ALL: &str = "redirect_dir=on,metacopy=on";

fn node(dir: &OverlayDir, path: &str) -> Node {
    let path = LayerPath::new(path.as_bytes()).unwrap();
    dir.lookup_path(path).unwrap().unwrap_or_else(|| panic!("{path:?} is there"))
}

fn absolute(path: &str) -> Option<Redirect> {
    Some(Redirect::Absolute(LayerPathBuf::clean(path.as_bytes()).unwrap()))
}

fn sibling(name: &str) -> Option<Redirect> {
    Some(Redirect::Sibling(name.as_bytes().into()))
}

fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn deleted_names_are_whiteouts_and_recreated_directories_opaque() {
    if !can_run("deleted_names", overlay_missing()) {
        return;
    }
    let mut bench = Bench::new();
    let lower = bench.layer();
    write(lower.join("gone"), "x");
    write(lower.join("also"), "x");
    write(lower.join("dir/old"), "x");
    let upper = bench.change(ALL, |m| {
        fs::remove_file(m.path("gone")).unwrap();
        fs::remove_file(m.path("also")).unwrap();
        fs::remove_dir_all(m.path("dir")).unwrap();
        write(m.path("dir/new"), "y");
    });
    let upper = open(&upper);
    assert!(node(&upper, "gone").is_whiteout() && node(&upper, "also").is_whiteout());
    assert!(node(&upper, "dir").markers.opaque);
    assert_eq!(support::names(&upper).unwrap(), ["also", "dir", "gone"]);
    bench.assert_same_as_kernel(ALL);
}

#[test]
fn the_kernels_own_attributes_are_not_shown() {
    if !can_run("own_attributes", overlay_missing()) {
        return;
    }
    let mut bench = Bench::new();
    let lower = bench.layer();
    write(lower.join("f"), "x");
    set_xattr(&lower.join("f"), "user.kept", b"1");
    set_xattr(&lower.join("f"), "user.overlay.opaque", b"data");
    let upper = bench.change("redirect_dir=on,metacopy=off", |m| {
        fs::write(m.path("f"), "changed").unwrap();
        fs::create_dir(m.path("d")).unwrap();
    });
    let raw = overlay_dir::PlainDir::open(&upper, Default::default()).unwrap();
    let has = |path: &[u8]| raw.lookup_path(LayerPath::new(path).unwrap()).unwrap().unwrap().xattrs;
    assert!(has(b"f").get(b"trusted.overlay.origin").is_some(), "the kernel left something to hide");
    assert!(has(b"").get(b"trusted.overlay.impure").is_some());

    let shown = node(&open(&upper), "f").xattrs;
    let shown: Vec<_> = shown.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
    assert_eq!(shown, ["user.kept", "user.overlay.opaque"], "the other namespace is data");
    assert!(node(&open(&upper), "").xattrs.is_empty());

    let found = OverlayDir::open(&upper, OverlayDirOptions::default()).unwrap();
    assert_eq!(found.namespace(), Namespace::Trusted);
}

#[test]
fn renamed_directories_say_where_they_came_from() {
    if !can_run("renamed_directories", overlay_missing()) {
        return;
    }
    let mut bench = Bench::new();
    let lower = bench.layer();
    write(lower.join("a/b/c/file"), "x");
    write(lower.join("same/f"), "x");
    let upper = bench.change(ALL, |m| {
        for (from, to) in [("a", "r"), ("r/b", "q"), ("q/c", "r/c2"), ("same", "away"), ("away", "same")] {
            fs::rename(m.path(from), m.path(to)).unwrap();
        }
    });
    let layer = open(&upper);
    assert_eq!(node(&layer, "r").markers.redirect, sibling("a"));
    assert_eq!(node(&layer, "q").markers.redirect, absolute("a/b"));
    assert_eq!(node(&layer, "r/c2").markers.redirect, absolute("a/b/c"));
    assert_eq!(node(&layer, "same").markers.redirect, sibling("same"));
    assert!(node(&layer, "a").is_whiteout());
    bench.assert_same_as_kernel(ALL);
}

#[test]
fn metadata_copies_have_the_size_but_no_data() {
    if !can_run("metadata_copies", overlay_missing()) {
        return;
    }
    let mut bench = Bench::new();
    let lower = bench.layer();
    write(lower.join("f"), "hello");
    write(lower.join("d/g"), "moved");
    let upper = bench.change(ALL, |m| {
        chmod(m.path("f"), 0o600);
        chmod(m.path("d/g"), 0o600);
        fs::rename(m.path("d/g"), m.path("h")).unwrap();
    });
    let layer = open(&upper);
    let f = node(&layer, "f");
    assert_eq!((f.kind, f.metadata.mode), (NodeKind::File { size: 5 }, 0o600));
    assert!(f.markers.metacopy.is_some() && f.markers.redirect.is_none());
    assert_eq!(node(&layer, "h").markers.redirect, absolute("d/g"));
    let path = LayerPath::new(b"f").unwrap();
    let error = layer.open_path(path).err().unwrap();
    assert_eq!(error.kind(), &ErrorKind::UnsupportedMarker { marker: "metacopy" });

    let merged = bench.merged();
    let mut data = [0; 5];
    merged.open_path(path).unwrap().read_exact_at(&mut data, 0).unwrap();
    assert_eq!(&data, b"hello");
    let lower_file = node(&open(&lower), "f").inode;
    assert_eq!(merged.lookup_path(path).unwrap().unwrap().content_id(), lower_file);
    bench.assert_same_as_kernel(ALL);
}

#[test]
fn indexed_hard_links_carry_the_merged_count() {
    if !can_run("indexed_hard_links", overlay_missing()) {
        return;
    }
    let mut bench = Bench::new();
    let lower = bench.layer();
    write(lower.join("p"), "1234");
    fs::hard_link(lower.join("p"), lower.join("q")).unwrap();
    fs::hard_link(lower.join("p"), lower.join("r")).unwrap();
    let upper = bench.change("index=on", |m| fs::write(m.path("p"), "CHANGED").unwrap());
    let p = node(&open(&upper), "p");
    assert_eq!(p.nlink, 2, "the name, and the one in the index");
    assert_eq!(p.markers.nlink, Some(NlinkDelta::Upper(1)));
    bench.assert_same_as_kernel(ALL);
}

#[test]
fn attributes_of_a_nested_overlay_are_unescaped_once() {
    if !can_run("nested_overlay", overlay_missing()) {
        return;
    }
    let mut bench = Bench::new();
    bench.layer();
    let upper = bench.change(ALL, |m| {
        fs::create_dir(m.path("d")).unwrap();
        set_xattr(&m.path("d"), "trusted.overlay.opaque", b"y");
        set_xattr(&m.path("d"), "trusted.overlay.overlay.redirect", b"/x");
        write(m.path("w"), "");
        set_xattr(&m.path("w"), "trusted.overlay.whiteout", b"y");
    });
    let layer = open(&upper);
    let d = node(&layer, "d");
    assert!(d.markers.redirect.is_none());
    assert_eq!(d.xattrs.get(b"trusted.overlay.opaque"), Some(&b"y"[..]));
    assert_eq!(d.xattrs.get(b"trusted.overlay.overlay.redirect"), Some(&b"/x"[..]));
    let w = node(&layer, "w");
    assert_eq!((w.kind, w.xattrs.len()), (NodeKind::File { size: 0 }, 1));
    bench.assert_same_as_kernel(ALL);
}

#[test]
fn whiteouts_in_attribute_form_hide_as_the_kernel_says() {
    if !can_run("xattr_whiteouts", overlay_missing()) {
        return;
    }
    let mut bench = Bench::new();
    let lower = bench.layer();
    for name in ["p/gone", "p/kept", "q/gone", "o/gone", "o/kept"] {
        write(lower.join(name), "x");
    }
    let upper = bench.layer();
    for (name, content) in [("p/gone", ""), ("p/kept", "not empty"), ("q/gone", ""), ("o/gone", "")] {
        write(upper.join(name), content);
        set_xattr(&upper.join(name), "trusted.overlay.whiteout", b"");
    }
    set_xattr(&upper.join("p"), "trusted.overlay.opaque", b"x");
    set_xattr(&upper.join("o"), "trusted.overlay.opaque", b"y");
    let layer = open(&upper);
    assert!(node(&layer, "p/gone").is_whiteout());
    assert_eq!(node(&layer, "p/kept").kind, NodeKind::File { size: 9 });
    assert!(!node(&layer, "p").markers.opaque && node(&layer, "o").markers.opaque);
    bench.assert_same_as_kernel(ALL);
}

#[test]
fn whiteouts_made_here_are_whiteouts_to_the_kernel() {
    if !can_run("whiteouts_made_here", overlay_missing()) {
        return;
    }
    let mut bench = Bench::new();
    let lower = bench.layer();
    for name in ["a/one", "a/two", "b/hidden", "c"] {
        write(lower.join(name), "x");
    }
    let upper = bench.layer();
    for name in ["a", "b"] {
        fs::create_dir(upper.join(name)).unwrap();
    }
    // An `O_PATH` descriptor is all that a handle has.
    let dir = |name: &str| open(&upper.join(name));
    let form = overlay_dir::marker::make_whiteout(dir("."), b"c", Namespace::Trusted).unwrap();
    assert_eq!(form, overlay_dir::marker::WhiteoutForm::CharDevice);
    overlay_dir::marker::make_xattr_whiteout(dir("a"), b"one", Namespace::Trusted).unwrap();
    overlay_dir::marker::set_opaque(dir("b"), Namespace::Trusted).unwrap();
    let shown = bench.show(ALL).unwrap();
    let listed =
        |path| fs::read_dir(shown.path(path)).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!((listed("a"), listed("b").len()), (vec!["two".into()], 0));
    assert!(!shown.path("c").exists());
    drop(shown);
    bench.assert_same_as_kernel(ALL);
}

#[test]
fn what_the_kernel_refuses_is_an_invalid_layer() {
    if !can_run("refused_layers", overlay_missing()) {
        return;
    }
    for redirect in [&b""[..], b"../x", b"a/b", b"/", b"//x", b"/x/", b"..", b".", b"/x/../y", b"/./y"] {
        let mut bench = Bench::new();
        write(bench.layer().join("x/f"), "1");
        let upper = bench.layer();
        fs::create_dir(upper.join("d")).unwrap();
        set_xattr(&upper.join("d"), "trusted.overlay.redirect", redirect);
        let text = redirect.escape_ascii().to_string();
        let kernel = fs::metadata(bench.show(ALL).unwrap().path("d"));
        assert!(kernel.is_err(), "the kernel takes {text}");
        let error = open(&upper).lookup_path(LayerPath::new(b"d").unwrap()).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::InvalidUpper, "{text}");
        assert_eq!(error.entry_path(), Some(&b"d"[..]));
    }
}

#[test]
fn redirects_to_nothing_are_plain_directories() {
    if !can_run("redirects_to_nothing", overlay_missing()) {
        return;
    }
    let long = [b"/".as_slice(), &[b'n'; 300]].concat();
    let deep = [b"/d".as_slice(); 200].concat();
    for redirect in [&b"nothing"[..], b"/no/thing", b"/x/f", b"x\0/y", &long, &deep] {
        let mut bench = Bench::new();
        write(bench.layer().join("x/f"), "1");
        let upper = bench.layer();
        write(upper.join("d/own"), "2");
        set_xattr(&upper.join("d"), "trusted.overlay.redirect", redirect);
        bench.assert_same_as_kernel(ALL);
    }
}

#[test]
fn a_volatile_mount_is_recognised_by_what_it_leaves() {
    if !can_run("volatile", overlay_missing()) {
        return;
    }
    let mut bench = Bench::new();
    bench.layer();
    let upper = bench.change("volatile", |m| write(m.path("f"), "x"));
    let with_work = || OverlayUpperOptions::default().work(bench.work());
    let error = OverlayUpper::new(open(&upper), with_work()).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::FailedPrecondition);
    let allowed = OverlayUpper::new(open(&upper), with_work().allow_volatile(true)).unwrap();
    assert!(allowed.is_volatile());

    let upper = bench.change("index=off", |m| write(m.path("f"), "y"));
    let calm = OverlayUpper::new(open(&upper), OverlayUpperOptions::default().work(bench.work())).unwrap();
    assert!(!calm.is_volatile());
}
