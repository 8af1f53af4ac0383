//! Layers applied to a merged tree.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{fs, os::unix::fs::MetadataExt};

use layer_apply::{ApplyOptions, FlatApplier, KernelFeatures, Limits, XattrPolicy};
use layer_model::{
    Applier, Base, Change, Content, Entry, EntryKind, Error, ErrorKind, LayerPath, LayerSink, Metadata,
    Profile, Result, Silent, WarningKind, content::Extent,
};
use support::{Place, kind_of, meta, set_xattr, xattr};

fn spec() -> ApplyOptions {
    ApplyOptions::new()
}

fn containerd() -> ApplyOptions {
    ApplyOptions::new().profile(Profile::Containerd)
}

/// What a layer makes of a tree: name, tree, layer, tree expected under the specification, and under containerd's
/// behaviour where that is another.
const TREES: &[(&str, &str, &str, &str, Option<&str>)] = &[
    (
        "a deletion of a link does not follow it",
        "etc/passwd:\"p\"; localetc>/etc",
        "wh:localetc",
        "etc/; etc/passwd:\"p\"",
        None,
    ),
    (
        "a deletion through a link acts where the link leads",
        "etc/passwd:\"p\"; etc/whitedout:\"w\"; localetc>/etc",
        "wh:localetc/whitedout",
        "etc/; etc/passwd:\"p\"; localetc>/etc",
        None,
    ),
    (
        "only the last component makes a deletion",
        "etc/passwd:\"p\"",
        ".wh.etc/somefile:\"n\"",
        "etc/; etc/passwd:\"p\"; .wh.etc/; .wh.etc/somefile:\"n\"",
        None,
    ),
    (
        "a deletion below a link to nowhere deletes nothing",
        "etc/passwd:\"p\"; localetc>/dne",
        "wh:localetc/etc",
        "etc/; etc/passwd:\"p\"; localetc>/dne",
        Some("dne/; etc/; etc/passwd:\"p\"; localetc>/dne"),
    ),
    ("dots in a deletion are cleaned lexically", "etc/passwd:\"p\"", "wh:dne/../etc", "", None),
    ("a file is deleted", "a:\"old\"; b:\"k\"", "wh:a", "b:\"k\"", None),
    ("a directory is deleted with all in it", "d/x:\"1\"; d/e/y:\"2\"", "wh:d", "", None),
    ("a deletion spares what the layer added before", "", "a:\"1\"; wh:a", "a:\"1\"", Some("")),
    (
        "an opaque mark after the children spares those of the layer",
        "d/sub/low:\"l\"; d/low:\"l\"",
        "d/; d/sub/; d/sub/f:\"n\"; opq:d",
        "d/; d/sub/; d/sub/f:\"n\"",
        None,
    ),
    (
        "also below directories without an entry",
        "d/sub/low:\"l\"; d/low:\"l\"",
        "d/sub/f:\"n\"; opq:d",
        "d/; d/sub/; d/sub/f:\"n\"",
        None,
    ),
    ("an opaque mark first", "d/low:\"l\"", "opq:d; d/new:\"n\"", "d/; d/new:\"n\"", None),
    ("an opaque mark last", "d/low:\"l\"", "d/new:\"n\"; opq:d", "d/; d/new:\"n\"", None),
    ("an opaque mark on nothing", "", "opq:nope", "", Some("nope/")),
    ("an opaque mark on the root", "old/x:\"1\"; top:\"t\"", "new:\"n\"; opq:.", "new:\"n\"", None),
    (
        "a deletion after its directory empties it",
        "d/low:\"l\"",
        "d/; wh:d; d/x:\"1\"",
        "d/; d/x:\"1\"",
        None,
    ),
    ("a deletion before its directory", "d/low:\"l\"", "wh:d; d/; d/x:\"1\"", "d/; d/x:\"1\"", None),
    (
        "a deletion spares children that came before it",
        "d/low:\"l\"; d/e/low:\"l\"",
        "d/new:\"n\"; wh:d",
        "d/; d/new:\"n\"",
        Some(""),
    ),
    ("a directory replaces a file", "a:\"x\"", "a/", "a/", None),
    ("a file replaces a directory with all in it", "d/x:\"\"; d/e/y:\"1\"", "d:\"f\"", "d:\"f\"", None),
    (
        "a directory replaces a link to a directory",
        "real/k:\"k\"; link>real",
        "link/",
        "link/; real/; real/k:\"k\"",
        None,
    ),
    (
        "a file goes through a link to a directory",
        "real/; link>real",
        "link/new:\"n\"",
        "link>real; real/; real/new:\"n\"",
        None,
    ),
    (
        "entries follow a path through what it is at the time",
        "",
        "foo/; foo/tmp/; foo/tmp/b:\"1\"; foo>/; foo/tmp/b:\"2\"; foo/; foo/tmp/; foo/tmp/b:\"3\"",
        "foo/; foo/tmp/; foo/tmp/b:\"3\"; tmp/; tmp/b:\"2\"",
        None,
    ),
    ("a directory that is deleted after its entry stays", "", "d/; wh:d", "d/", Some("")),
    ("a directory that becomes a link", "", "o/ mtime 7; d/ mtime 5; d>o", "o/; d>o", None),
    (
        "absolute and climbing names stay inside",
        "",
        "/abs:\"1\"; ../up:\"2\"; a/../../up2:\"3\"",
        "abs:\"1\"; up:\"2\"; up2:\"3\"",
        None,
    ),
    (
        "a relative link to nowhere as a parent is made",
        "",
        "a>nodir; a/x:\"1\"",
        "a>nodir; nodir/; nodir/x:\"1\"",
        None,
    ),
    (
        "an absolute link to nowhere as a parent is made",
        "",
        "a>/no/dir; a/x:\"1\"",
        "a>/no/dir; no/; no/dir/; no/dir/x:\"1\"",
        None,
    ),
    ("a link to the root as a parent", "", "foo>/; foo/x:\"1\"", "foo>/; x:\"1\"", None),
    (
        "a link that climbs out of a missing directory",
        "",
        "a>gone/../b; a/x:\"1\"",
        "a>gone/../b; b/; b/x:\"1\"",
        None,
    ),
    (
        "an absolute link as a parent, as distributions have it",
        "var/run>/run; run/",
        "var/run/lock/; var/run/x:\"1\"",
        "run/; run/lock/; run/x:\"1\"; var/; var/run>/run",
        None,
    ),
    ("deletions of several kinds of names", "a:\"\"; b>x; c/d:\"\"", "wh:a; wh:b; wh:c", "", None),
    ("a deletion below a file deletes nothing", "a:\"x\"", "a:\"y\"; wh:a/b; opq:a", "a:\"y\"", None),
    ("directories are not made for deletions of nothing", "", "wh:no/such/thing", "", Some("no/; no/such/")),
    (
        "an opaque mark through a link acts where the link leads",
        "real/low:\"l\"; link>real",
        "opq:link; link/n:\"1\"",
        "link>real; real/; real/n:\"1\"",
        None,
    ),
    ("a link replaces a link", "l>a", "l>b", "l>b", None),
    ("a FIFO is replaced by a file without being opened", "P p", "p:\"x\"", "p:\"x\"", None),
];

#[test]
fn trees_are_what_the_layer_says() {
    for (name, tree, layer, want, containerd_want) in TREES {
        for features in [KernelFeatures::default(), KernelFeatures::oldest()] {
            let place = Place::with(tree);
            let (result, _) = place.flatten(spec().kernel_features(features), layer);
            result.unwrap_or_else(|e| panic!("{name}: {}", e.chain()));
            assert_eq!(support::listing(&place.root()), support::sorted(want), "{name}");
        }
        if name.contains("below a file") {
            continue;
        }
        let place = Place::with(tree);
        let (result, _) = place.flatten(containerd(), layer);
        result.unwrap_or_else(|e| panic!("{name}, containerd: {}", e.chain()));
        let want = containerd_want.unwrap_or(want);
        assert_eq!(support::listing(&place.root()), support::sorted(want), "{name}, containerd");
    }
}

#[test]
fn layers_are_applied_one_after_another() {
    for (layers, want) in [
        (&["d/; d/a:\"1\"; d/b:\"2\"", "wh:d/a", "d/a:\"new\""][..], "d/; d/a:\"new\"; d/b:\"2\""),
        (
            &["usr/bin/env>../../bin/busybox; bin/busybox:\"b\"", "usr/bin/env:\"real\""],
            "bin/; bin/busybox:\"b\"; usr/; usr/bin/; usr/bin/env:\"real\"",
        ),
        (&["d/x:\"1\"", "d/y:\"2\"; opq:d", "wh:d"], ""),
    ] {
        let place = Place::new();
        for layer in layers {
            FlatApplier::default()
                .apply(&mut support::changes(layer), Base::Unknown, place.root(), &Silent)
                .unwrap_or_else(|e| panic!("{layer}: {}", e.chain()));
        }
        place.holds(want);
        place.outside_untouched();
    }
}

#[test]
fn what_cannot_be_resolved_is_an_error_and_changes_nothing() {
    let chain =
        |n: usize| -> String { (0..n).map(|i| format!("l{i}>l{}", i + 1)).collect::<Vec<_>>().join("; ") };
    for (name, layer, want) in [
        ("a file as a parent", "a:\"\"; a/b:\"1\"".to_owned(), ErrorKind::NotDirectory),
        ("a link to a file as a parent", "t:\"\"; a>t; a/x:\"1\"".to_owned(), ErrorKind::NotDirectory),
        ("two links to each other", "a>b; b>a; a/x:\"1\"".to_owned(), ErrorKind::TooManyLinks),
        ("300 links in a chain", format!("{}; l300/; l0/x:\"1\"", chain(300)), ErrorKind::TooManyLinks),
        ("a deletion of the root", "wh:.".to_owned(), ErrorKind::InvalidArchive),
        ("a link without a target", "l>".to_owned(), ErrorKind::InvalidArchive),
        ("a hard link to a directory", "d/; h=d".to_owned(), ErrorKind::InvalidArchive),
        ("a hard link to the root", "h=/".to_owned(), ErrorKind::InvalidArchive),
        ("a hard link to nothing", "b=a".to_owned(), ErrorKind::NotFound),
    ] {
        for options in [spec(), containerd(), spec().kernel_features(KernelFeatures::oldest())] {
            let (result, _) = Place::new().flatten(options, &layer);
            assert_eq!(kind_of(result), want, "{name}");
        }
    }
    let place = Place::new();
    place.flatten(spec(), &format!("{}; l200/; l0/x:\"1\"", chain(200))).0.unwrap();
    assert!(place.path("l200/x").exists(), "200 links in a chain are followed");
}

#[test]
fn an_error_names_the_entry_and_its_place() {
    let place = Place::new();
    let (result, _) = place.flatten_tar(spec(), &support::tar("a:\"1\"; b:\"2\"; b/c:\"3\""));
    let error = result.unwrap_err();
    assert_eq!(error.entry_index(), Some(2));
    assert_eq!(error.byte_offset(), Some(2048));
    assert_eq!(error.entry_path(), Some(&b"b"[..]), "the component that is no directory");
}

#[test]
fn the_last_of_two_entries_counts_with_a_warning() {
    let place = Place::new();
    let (result, heard) = place.flatten(spec(), "a:\"1\" 0600; a:\"22\" 0640");
    result.unwrap();
    place.holds("a:\"22\"");
    assert_eq!(meta(place.path("a")).mode() & 0o7777, 0o640);
    assert_eq!(heard.kinds(), [WarningKind::DuplicateEntry]);

    let (result, heard) = Place::with("a:\"old\"; d/").flatten(spec(), "a:\"1\"; d/; e/f:\"\"; e/");
    result.unwrap();
    assert_eq!(
        heard.kinds(),
        [],
        "what was there before is no duplicate, nor is a directory after its children"
    );
    let (result, heard) = Place::with("d/").flatten(spec(), "d/; d/");
    result.unwrap();
    assert_eq!(heard.kinds(), [WarningKind::DuplicateEntry]);
}

#[test]
fn a_directory_over_a_directory_keeps_children_and_attributes() {
    let place = Place::with("d/ user.k=v; d/x:\"\"");
    place.flatten(spec(), "d/ 0700 user.n=w").0.unwrap();
    place.holds("d/; d/x:\"\"");
    assert_eq!(meta(place.path("d")).mode() & 0o7777, 0o700);
    assert_eq!(xattr(&place.path("d"), "user.k").as_deref(), Some(&b"v"[..]));
    assert_eq!(xattr(&place.path("d"), "user.n").as_deref(), Some(&b"w"[..]));

    place.flatten(spec().exact_xattrs(true), "d/ user.k=2").0.unwrap();
    assert_eq!(xattr(&place.path("d"), "user.k").as_deref(), Some(&b"2"[..]));
    assert_eq!(xattr(&place.path("d"), "user.n"), None, "exact attributes take the others away");
}

#[test]
fn hard_links_are_names_of_one_inode() {
    for (name, tree, layer, one, two) in [
        ("later in the layer", "", "b=a; a:\"x\"", "a", "b"),
        ("two steps later", "", "c=b; b=a; a:\"x\"", "a", "c"),
        ("to a link", "", "t:\"x\"; s>t; h=s", "s", "h"),
        ("with an absolute target", "", "etc/; etc/passwd:\"in\"; local=/etc/passwd", "etc/passwd", "local"),
        (
            "with a climbing target",
            "",
            "etc/; etc/passwd:\"in\"; local=../../../etc/passwd",
            "etc/passwd",
            "local",
        ),
        (
            "through a link that climbs",
            "",
            "etc/; etc/passwd:\"in\"; localetc>../../../../etc; lp=localetc/passwd",
            "etc/passwd",
            "lp",
        ),
        ("to what was there", "a:\"x\"", "b=a", "a", "b"),
        ("over what was there", "a:\"x\"; b:\"y\"", "b=a", "a", "b"),
        ("over a directory", "a:\"x\"; b/c:\"y\"", "b=a", "a", "b"),
        ("again", "a:\"x\"; b=a", "b=a", "a", "b"),
    ] {
        let place = Place::with(tree);
        place.flatten(spec(), layer).0.unwrap_or_else(|e| panic!("{name}: {}", e.chain()));
        let (one, two) = (meta(place.path(one)), meta(place.path(two)));
        assert_eq!((one.ino(), one.nlink() > 1), (two.ino(), true), "{name}");
    }
    let (result, _) = Place::new().flatten(containerd(), "b=a; a:\"x\"");
    assert_eq!(kind_of(result), ErrorKind::NotFound, "containerd wants the target first");
}

#[test]
fn a_link_to_a_link_stays_a_link_when_its_target_is_written() {
    let place = Place::new();
    place.flatten(spec(), "etc/; passwd>/etc/passwd; dup=passwd; etc/passwd:\"after\"").0.unwrap();
    place.holds("dup>/etc/passwd; etc/; etc/passwd:\"after\"; passwd>/etc/passwd");
}

#[test]
fn a_hard_link_to_itself_is_refused_before_anything_is_removed() {
    for layer in ["keep=keep", "keep=/keep", "l>.; keep=l/keep", "d=d/x"] {
        for options in [spec(), containerd()] {
            let place = Place::with("keep:\"x\"; d/x:\"1\"");
            assert_eq!(kind_of(place.flatten(options, layer).0), ErrorKind::InvalidArchive, "{layer}");
            assert_eq!(fs::read(place.path("keep")).unwrap(), b"x");
            assert_eq!(fs::read(place.path("d/x")).unwrap(), b"1");
        }
    }
}

#[test]
fn a_late_link_does_not_replace_what_came_later() {
    let place = Place::with("b:\"old\"");
    let (result, heard) = place.flatten(spec(), "b=a; b:\"later\"; a:\"x\"");
    result.unwrap();
    place.holds("a:\"x\"; b:\"later\"");
    assert_eq!(heard.kinds(), [WarningKind::DuplicateEntry]);
    let place = Place::with("b:\"old\"");
    place.flatten(spec(), "b=a; a:\"x\"").0.unwrap();
    place.holds("a:\"x\"; b:\"x\"");
}

#[test]
fn directories_keep_or_get_their_times() {
    let place = Place::with("d/ mtime 77; d/old:\"\"; e/ mtime 78; e/gone:\"\"; e/f/x:\"\"");
    place.flatten(spec(), "d/new:\"x\" mtime 5; wh:e/gone; i/j:\"1\"; n/ mtime 5; n/x:\"1\" mtime 6; late/c:\"\"; late/ mtime 9").0.unwrap();
    for (name, want) in [("d", 77), ("e", 78), ("i", 0), ("n", 5), ("late", 9), ("d/new", 5), ("n/x", 6)] {
        assert_eq!(meta(place.path(name)).mtime(), want, "{name}");
    }
    // A directory that became a link: its time is not set on where that leads.
    let place = Place::new();
    place.flatten(spec(), "o/ mtime 7; d/ mtime 5; d>o; l>gone; e/ mtime 5; e>gone").0.unwrap();
    assert_eq!(meta(place.path("o")).mtime(), 7);
    let place = Place::with("d/ mtime 77");
    place.flatten(containerd(), "d/new:\"x\" mtime 5; n/ mtime 5; n/x:\"1\"; i/j:\"1\"").0.unwrap();
    assert!(meta(place.path("d")).mtime() > 1000, "containerd leaves it to the work done");
    assert!(meta(place.path("i")).mtime() > 1000);
    assert_eq!(meta(place.path("n")).mtime(), 5, "directories with an entry have its time in every profile");
}

#[test]
fn times_hold_even_when_more_directories_are_open_than_fit() {
    let many: String = (0..300).map(|n| format!("d{n}/ mtime {n}; ")).collect();
    let back: String = (0..300).map(|n| format!("d{n}/f:\"x\"; ")).collect();
    for options in [spec(), containerd()] {
        let place = Place::new();
        place.flatten(options, &format!("{many}{back}")).0.unwrap();
        for n in 0..300 {
            assert_eq!(meta(place.path(&format!("d{n}"))).mtime(), n, "d{n}");
        }
    }
}

#[test]
fn sweeping_keeps_the_times_of_directories_that_stay() {
    let place = Place::with("d/ mtime 70; d/s/ mtime 71; d/s/low:\"l\"; d/low:\"l\"");
    place.flatten(spec(), "d/s/new:\"n\"; opq:d").0.unwrap();
    place.holds("d/; d/s/; d/s/new:\"n\"");
    assert_eq!((meta(place.path("d")).mtime(), meta(place.path("d/s")).mtime()), (70, 71));
}

#[test]
fn times_are_set_as_containerd_sets_them() {
    let place = Place::new();
    let layer = "f:\"\" mtime 400.25 atime 500.5; g:\"\" mtime 400.25 atime 100; old:\"\" mtime -5; far:\"\" mtime 9999999999999; l>x mtime 33.5; d/ mtime -1";
    let (result, heard) = place.flatten(spec(), layer);
    result.unwrap();
    let times = |name: &str| {
        let meta = meta(place.path(name));
        ((meta.atime(), meta.atime_nsec()), (meta.mtime(), meta.mtime_nsec()))
    };
    assert_eq!(times("f"), ((500, 500_000_000), (400, 250_000_000)));
    assert_eq!(times("g"), ((400, 250_000_000), (400, 250_000_000)));
    assert_eq!(times("old").1, (0, 0));
    assert_eq!(times("far").1, (0, 0));
    assert_eq!(times("l").1, (33, 500_000_000));
    assert_eq!(times("d").1, (0, 0));
    assert_eq!(heard.count(WarningKind::TimeClamped), 3);
}

#[test]
fn attributes_that_cannot_be_set_are_warnings_or_errors() {
    let place = Place::new();
    let (result, heard) =
        place.flatten(spec(), "f:\"\" trusted.foo=1 user.bar=2 user.empty=; s>f user.bar=2; g:\"\" foo=A");
    result.unwrap();
    let f = place.path("f");
    assert_eq!(xattr(&f, "user.bar").as_deref(), Some(&b"2"[..]));
    assert_eq!(xattr(&f, "user.empty").as_deref(), Some(&b""[..]));
    assert_eq!(xattr(&f, "trusted.foo"), None);
    assert!(place.path("g").exists() && meta(place.path("s")).is_symlink());
    assert_eq!(heard.kinds(), [WarningKind::XattrDropped; 3]);

    let strict = spec().xattr_policy(XattrPolicy::Strict);
    assert!(Place::new().flatten(strict.clone(), "f:\"\"; s>f user.bar=2").0.is_err());
    assert!(Place::new().flatten(strict, "g:\"\" foo=A").0.is_err());
    let large = format!("f:\"\" user.a={}", "x".repeat(70_000));
    assert_eq!(kind_of(Place::new().flatten(spec(), &large).0), ErrorKind::Io(Some(7)), "E2BIG");

    let drop = spec().xattr_policy(XattrPolicy::Drop(vec![b"user.b".as_slice().into()]));
    let place = Place::new();
    let (result, heard) = place.flatten(drop, "f:\"\" user.bar=2 user.c=3");
    result.unwrap();
    assert_eq!((xattr(&place.path("f"), "user.bar"), heard.kinds()), (None, vec![]));
    assert!(xattr(&place.path("f"), "user.c").is_some());
}

#[test]
fn attributes_of_overlayfs_do_not_become_markers() {
    let layer = "d/ user.overlay.origin= user.overlay.impure=y; d/f:\"\" user.overlay.impure=y";
    let place = Place::new();
    let (result, heard) = place.flatten(spec(), layer);
    result.unwrap();
    assert_eq!(xattr(&place.path("d"), "user.overlay.impure"), None);
    assert_eq!(heard.kinds(), [WarningKind::XattrDropped; 3]);
    for options in [containerd(), spec().xattr_policy(XattrPolicy::Verbatim)] {
        let place = Place::new();
        place.flatten(options, layer).0.unwrap();
        assert_eq!(xattr(&place.path("d"), "user.overlay.origin").as_deref(), Some(&b""[..]));
        assert_eq!(xattr(&place.path("d/f"), "user.overlay.impure").as_deref(), Some(&b"y"[..]));
    }
}

#[test]
fn an_entry_for_the_root_counts_if_it_is_asked_for() {
    let place = Place::with("old:\"\"");
    place.flatten(spec(), "./ 0700; x:\"1\"").0.unwrap();
    assert_eq!(meta(place.root()).mode() & 0o777, 0o755);
    place.flatten(spec().apply_root_metadata(true), "./ 0700 mtime 12; x:\"1\"").0.unwrap();
    assert_eq!((meta(place.root()).mode() & 0o777, meta(place.root()).mtime()), (0o700, 12));
}

#[test]
fn modes_are_exact_whatever_the_umask_is() {
    let place = Place::new();
    place.flatten(spec(), "a:\"\" 0666; b:\"\" 0777; c:\"\" 01644; d/ 0777; e/ 01777; f:\"\" 0; P p 0666; g/ 02755; g/sub/; g/x:\"\"").0.unwrap();
    for (name, want) in [
        ("a", 0o666),
        ("b", 0o777),
        ("c", 0o1644),
        ("d", 0o777),
        ("e", 0o1777),
        ("f", 0),
        ("p", 0o666),
        ("g", 0o2755),
        ("g/sub", 0o755),
        ("g/x", 0o644),
    ] {
        assert_eq!(meta(place.path(name)).mode() & 0o7777, want, "{name}");
    }
}

#[test]
fn inherited_access_control_lists_are_taken_away() {
    // Version 2; user::rwx, user:1:rwx, group::r-x, mask::rwx, other::r-x.
    let mut acl = vec![2, 0, 0, 0];
    for (tag, permissions, id) in
        [(1u16, 7u16, u32::MAX), (2, 7, 1), (4, 5, u32::MAX), (0x10, 7, u32::MAX), (0x20, 5, u32::MAX)]
    {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&permissions.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    let layer = "d/f:\"\" 0640; d/sub/ 0750; d/sub/g:\"\" 0600; P d/p 0600; d/i/j:\"\"";
    for (options, inherited) in [(spec(), false), (containerd(), true)] {
        let place = Place::with("d/");
        set_xattr(&place.path("d"), "system.posix_acl_default", &acl);
        place.flatten(options, layer).0.unwrap();
        for name in ["d/f", "d/sub", "d/sub/g", "d/p", "d/i", "d/i/j"] {
            assert_eq!(xattr(&place.path(name), "system.posix_acl_access").is_some(), inherited, "{name}");
        }
        assert_eq!(xattr(&place.path("d/sub"), "system.posix_acl_default").is_some(), inherited);
        assert!(xattr(&place.path("d"), "system.posix_acl_default").is_some(), "what was there stays");
        for (name, mode) in [("d/f", 0o640), ("d/sub", 0o750), ("d/sub/g", 0o600), ("d/p", 0o600)] {
            assert_eq!(meta(place.path(name)).mode() & 0o777, mode, "{name}");
        }
    }
}

fn write_one(options: ApplyOptions, content: Content<'_>) -> (Place, Result<(), Error>) {
    let place = Place::new();
    let write = || -> Result<()> {
        let mut sink = FlatApplier::new(options).sink(place.root(), &Silent)?;
        let entry = Entry::new(EntryKind::File(content), Metadata::file(0o644));
        sink.change(Change::upsert(LayerPath::new(b"f")?, entry))?;
        sink.finish().map(|_| ())
    };
    let result = write();
    (place, result)
}

#[test]
fn holes_stay_holes() {
    let mut packed = &b"abc"[..];
    let extents = [Extent { offset: 1_000_000, len: 3 }];
    let (place, result) = write_one(spec(), Content::sparse(&extents, &mut packed, 20_000_000).unwrap());
    result.unwrap();
    let bytes = fs::read(place.path("f")).unwrap();
    assert_eq!((bytes.len(), &bytes[1_000_000..1_000_003]), (20_000_000, &b"abc"[..]));
    assert!(bytes.iter().filter(|b| **b != 0).count() == 3);
    assert!(meta(place.path("f")).blocks() * 512 < 1_000_000, "the gaps take no room");
}

#[test]
fn content_is_written_in_every_form() {
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("source"), &bytes).unwrap();
    let file = fs::File::open(temp.path().join("source")).unwrap();
    for features in [KernelFeatures::default(), KernelFeatures::oldest()] {
        let options = spec().kernel_features(features);
        let (place, result) = write_one(options.clone(), Content::from_range(&file, 1000, 2_500_000));
        result.unwrap();
        assert_eq!(fs::read(place.path("f")).unwrap(), bytes[1000..2_501_000]);
        let (place, result) = write_one(options.clone(), Content::from_range(&bytes, 1000, 2_500_000));
        result.unwrap();
        assert_eq!(fs::read(place.path("f")).unwrap(), bytes[1000..2_501_000]);
        let mut stream = std::io::BufReader::with_capacity(777, &bytes[..]);
        let (place, result) = write_one(options.clone(), Content::from_stream(&mut stream, 3_000_000));
        result.unwrap();
        assert_eq!(fs::read(place.path("f")).unwrap(), bytes);
        let (_, result) = write_one(options, Content::from_range(&file, 2_900_000, 200_000));
        assert_eq!(kind_of(result), ErrorKind::Truncated, "a range that ends early");
    }
    let mut short = &b"abc"[..];
    assert_eq!(kind_of(write_one(spec(), Content::from_stream(&mut short, 5)).1), ErrorKind::Truncated);
}

#[test]
fn limits_hold_before_anything_is_written() {
    let limits = |limits: Limits| spec().limits(limits);
    fn of<T: std::fmt::Debug>(result: Result<T>) -> &'static str {
        match kind_of(result) {
            ErrorKind::LimitExceeded { limit } => limit,
            other => panic!("{other:?}"),
        }
    }
    let deep = "a/".repeat(600) + "f:\"\"";
    let long = format!("{}:\"\"", "abcdefghi/".repeat(500));
    for (want, options, layer) in [
        ("max_entries", limits(Limits::default().max_entries(2)), "a:\"\"; b:\"\"; c:\"\""),
        ("max_entry_size", limits(Limits::default().max_entry_size(3)), "a:\"1234\""),
        ("max_total_size", limits(Limits::default().max_total_size(5)), "a:\"123\"; b:\"456\""),
        ("max_depth", spec(), &*deep),
        ("max_path_len", spec(), &*long),
        ("max_depth", limits(Limits::default().max_depth(3)), "l>a/b/c/d; l/x:\"\""),
    ] {
        assert_eq!(of(Place::new().flatten(options, layer).0), want);
    }
    let mut packed = &b"abc"[..];
    let extents = [Extent { offset: 1 << 50, len: 3 }];
    let content = Content::sparse(&extents, &mut packed, (1 << 50) + 3).unwrap();
    assert_eq!(of(write_one(spec(), content).1), "max_entry_size");
    let content = Content::sparse(&extents, &mut packed, (1 << 50) + 3).unwrap();
    let options = limits(Limits::default().max_entry_size(u64::MAX).max_total_size(u64::MAX));
    assert_eq!(of(write_one(options, content).1), "max_sparse_expansion");
    // A petabyte that is announced and not there takes no memory and no time.
    let mut nothing = std::io::empty();
    assert_eq!(of(write_one(spec(), Content::from_stream(&mut nothing, 1 << 50)).1), "max_entry_size");
}

#[test]
fn an_applier_in_place_takes_no_parents() {
    let place = Place::with("x/");
    let parent = overlay_dir::PlainDir::open(place.root(), overlay_dir::PlainDirOptions::default()).unwrap();
    let stack = layer_model::Stack::of(parent);
    let result =
        FlatApplier::default().apply(&mut support::changes(""), Base::Layers(&stack), place.root(), &Silent);
    assert_eq!(kind_of(result), ErrorKind::InvalidArgument);
}
