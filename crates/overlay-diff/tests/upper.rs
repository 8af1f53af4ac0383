//! What an upper directory changed, marker by marker, in memory.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::sync::Arc;

use layer_model::{
    Base, ErrorKind, LayerPath, LayerSource, LayerTree, Profile, Silent, Stack, WarningKind,
    testing::MemoryLayer,
    tree::{LayerTreeExt, Metacopy, NlinkDelta, Redirect},
};
use overlay_diff::{OpaqueStyle, UpperDiffer, UpperOptions, XattrPolicy};
use support::{layer, upper, upper_over};

fn tree() -> MemoryLayer {
    MemoryLayer::new()
}

fn redirect(layer: MemoryLayer, path: &str, to: &str) -> MemoryLayer {
    let target = match to.strip_prefix('/') {
        Some(path) => Redirect::Absolute(layer_model::LayerPathBuf::clean(path.as_bytes()).unwrap()),
        None => Redirect::Sibling(to.as_bytes().into()),
    };
    layer.edit(path, |node| node.markers.redirect = Some(target))
}

fn metacopy(layer: MemoryLayer, path: &str, size: u64) -> MemoryLayer {
    layer.edit(path, |node| {
        node.markers.metacopy = Some(Metacopy::default());
        node.kind = layer_model::NodeKind::File { size };
    })
}

#[test]
fn a_known_base_gives_exactly_what_changed() {
    let deep = || {
        tree()
            .dir("dir1", 0o700)
            .file("dir1/f", "a")
            .dir("dir1/d", 0o700)
            .file("dir1/d/f", "b")
            .dir("dir2", 0o700)
            .dir("dir2/d", 0o700)
            .file("dir2/d/f", "c")
            .dir("dir3", 0o700)
            .file("dir3/f", "e")
    };
    let rows: Vec<(&str, MemoryLayer, MemoryLayer, &[&str])> = vec![
        ("a whiteout of something", tree().file("a", "x").file("b", "y"), layer().whiteout("a"), &["wh a"]),
        ("a whiteout of nothing", tree().file("b", "y"), layer().whiteout("a"), &[]),
        ("a whiteout of a directory", tree().file("d/f", "x"), layer().whiteout("d"), &["wh d"]),
        (
            "a whiteout of a dangling link",
            tree().symlink("dead", "nowhere"),
            layer().whiteout("dead"),
            &["wh dead"],
        ),
        (
            "a whiteout below what is a file in the base",
            tree().file("d", "x"),
            layer().whiteout("d/f"),
            &["d d/ 755"],
        ),
        (
            "an opaque directory",
            tree().file("d/old", "1").file("d/keep", "2"),
            layer().opaque("d").file("d/keep", "2").file("d/new", "3"),
            &["d d/ 755", "f d/new 644 \"3\"", "wh d/old"],
        ),
        (
            "an opaque directory that the base does not have",
            tree().dir("x", 0o755),
            layer().opaque("d").file("d/new", "3"),
            &["d d/ 755", "f d/new 644 \"3\""],
        ),
        (
            "an opaque directory over a file",
            tree().file("d", "x"),
            layer().opaque("d").file("d/n", "1"),
            &["d d/ 755", "f d/n 644 \"1\""],
        ),
        (
            "directories in an opaque directory are opaque in effect",
            tree().file("d/s/t/old", "1").file("d/s/same", "2"),
            layer().opaque("d").file("d/s/same", "2").dir("d/s/t", 0o755),
            &["d d/ 755", "d d/s/ 755", "d d/s/t/ 755", "wh d/s/t/old"],
        ),
        (
            "a whiteout in an opaque directory",
            tree().file("d/a", "1").file("d/b", "2"),
            layer().opaque("d").whiteout("d/a"),
            &["d d/ 755", "wh d/a", "wh d/b"],
        ),
        (
            "whiteouts, changes and opaque directories together",
            deep(),
            layer()
                .dir("dir1", 0o700)
                .file("dir1/f", "a-diff")
                .whiteout("dir1/d")
                .dir("dir2", 0o700)
                .dir("dir2/d", 0o700)
                .file("dir2/d/f", "c-diff")
                .opaque("dir3")
                .mode("dir3", 0o700),
            &[
                "d dir1/ 700",
                "wh dir1/d",
                "f dir1/f 644 \"a-diff\"",
                "d dir2/ 700",
                "d dir2/d/ 700",
                "f dir2/d/f 644 \"c-diff\"",
                "d dir3/ 700",
                "wh dir3/f",
            ],
        ),
        (
            "an attribute of the other namespace is no marker",
            deep(),
            layer().dir("dir3", 0o700).xattr("dir3", "user.overlay.opaque", b"y"),
            &[],
        ),
        (
            "copied up and put back",
            tree().dir("d", 0o755).file("d/f", "x"),
            layer().dir("d", 0o755).file("d/f", "x"),
            &[],
        ),
        (
            "a directory in place of a file",
            tree().file("d", "was file"),
            layer().dir("d", 0o755).file("d/x", "1").fifo("d/fifo"),
            &["d d/ 755", "p d/fifo", "f d/x 644 \"1\""],
        ),
        (
            "a file in place of a directory",
            tree().file("d/e/f", "1"),
            layer().file("d", "2"),
            &["f d 644 \"2\""],
        ),
        (
            "only the mode",
            tree().file("f", "x").dir("d", 0o755).file("d/f", "y"),
            layer().file("f", "x").mode("f", 0o600).dir("d", 0o711),
            &["d d/ 711", "f f 600 \"x\""],
        ),
        ("a directory's time alone", tree().dir("d", 0o755), layer().dir("d", 0o755).mtime("d", 9, 0), &[]),
        (
            "what is new in directories that did not change",
            tree().dir("a/b", 0o750).file("a/b/c", "1"),
            layer().dir("a/b", 0o750).file("a/b/n", "2").dir("z", 0o755),
            &["d a/ 755", "d a/b/ 750", "f a/b/n 644 \"2\"", "d z/ 755"],
        ),
        (
            "an attribute",
            tree().file("a", "x"),
            layer().file("a", "x").xattr("a", "user.foo", b"bar"),
            &["f a 644 \"x\""],
        ),
        (
            "an attribute that no policy carries",
            tree().file("a", "x"),
            layer().file("a", "x").xattr("a", "security.selinux", b"l"),
            &[],
        ),
    ];
    for (name, lower, layer, want) in rows {
        assert_eq!(upper_over(&lower, &layer), want, "{name}");
    }
}

#[test]
fn opaque_marks_stand_behind_their_directory_and_before_its_children() {
    let base = Stack::of(tree().file("d/old", "1").file("d/keep", "2"));
    let layer = layer().opaque("d").file("d/keep", "2").file("d/new", "3").opaque("fresh");
    let marker = UpperOptions::new().opaque_style(OpaqueStyle::Marker);
    let outcome = upper(marker, Base::Layers(&base), &layer).unwrap();
    let want = ["d d/ 755", "opq d", "f d/keep 644 \"2\"", "f d/new 644 \"3\"", "d fresh/ 755"];
    assert_eq!(outcome.lines(), want);
    assert_eq!((outcome.report.opaques, outcome.report.files, outcome.report.bytes), (1, 2, 2));
}

#[test]
fn containerd_writes_an_opaque_directory_twice_around_its_mark() {
    let base = Stack::of(tree().file("d/old", "1").mtime("d", 3, 0).file("e/old", "1"));
    let layer = layer().opaque("d").file("d/new", "3").opaque("e").mtime("d", 7, 0).opaque("n");
    let options = UpperOptions::new().profile(Profile::Containerd);
    let lines = upper(options, Base::Layers(&base), &layer).unwrap().lines();
    let want = [
        "d d/ 755",
        "opq d",
        "d d/ 755",
        "f d/new 644 \"3\"",
        "d e/ 755",
        "opq e",
        "d n/ 755",
        "opq n",
        "d n/ 755",
    ];
    assert_eq!(lines, want, "and once, where mode and time are those of the base");
}

#[test]
fn containerd_compares_directories_by_mode_and_time_and_files_not_at_all() {
    let base =
        Stack::of(tree().file("d/f", "x").mtime("d", 5, 0).dir("e", 0o755).mtime("e", 5, 6).dir("o", 0o755));
    let layer = layer()
        .file("d/f", "x")
        .mtime("d", 5, 9)
        .dir("e", 0o755)
        .mtime("e", 5, 7)
        .dir("o", 0o755)
        .owner("o", 7, 7);
    let options = UpperOptions::new().profile(Profile::Containerd);
    let lines = upper(options, Base::Layers(&base), &layer).unwrap().lines();
    assert_eq!(lines, ["d d/ 755", "f d/f 644 \"x\"", "d e/ 755"]);
}

#[test]
fn containerd_reports_an_unchanged_directory_again_when_something_is_added_to_it() {
    let base = Stack::of(tree().file("d/a", "x").file("d/z", "x"));
    let layer = layer().file("d/a", "y").file("d/b", "new").whiteout("d/z");
    let options = UpperOptions::new().profile(Profile::Containerd);
    let lines = upper(options, Base::Layers(&base), &layer).unwrap().lines();
    assert_eq!(lines, ["d d/ 755", "f d/a 644 \"y\"", "d d/ 755", "f d/b 644 \"new\"", "wh d/z"]);
}

#[test]
fn an_unknown_base_loses_nothing() {
    let unknown = |layer: &MemoryLayer| upper(UpperOptions::new(), Base::Unknown, layer).unwrap().lines();
    assert_eq!(unknown(&layer().whiteout("a").file("d/f", "x")), ["wh a", "d d/ 755", "f d/f 644 \"x\""]);
    let opaque = layer().opaque("d").file("d/new", "3").whiteout("d/old").opaque("d/e");
    assert_eq!(unknown(&opaque), ["d d/ 755", "opq d", "d d/e/ 755", "f d/new 644 \"3\""]);
    assert_eq!(unknown(&layer().dir("empty", 0o700)), ["d empty/ 700"]);
    let back = redirect(layer().dir("d", 0o755), "d", "d");
    assert_eq!(unknown(&back), ["d d/ 755"], "renamed away and back");
}

#[test]
fn an_empty_base_has_nothing_to_hide() {
    let layer = layer().whiteout("a").opaque("d").file("d/f", "x").link("d/g", "d/f");
    let outcome = upper(UpperOptions::new(), Base::Empty, &layer).unwrap();
    assert_eq!(outcome.lines(), ["d d/ 755", "f d/f 644 \"x\"", "h d/g=d/f"]);
    assert_eq!((outcome.report.hard_links, outcome.report.hard_link_groups), (1, 1));
}

#[test]
fn what_is_opaque_already_in_the_layers_below_is_not_removed_again() {
    let stack = Stack::from_bottom([tree().file("d/1", "a"), tree().on_device(2).whiteout("d")]).unwrap();
    let layer = layer().opaque("d").file("d/2", "b");
    let lines = upper(UpperOptions::new(), Base::Layers(&stack), &layer).unwrap().lines();
    assert_eq!(lines, ["d d/ 755", "f d/2 644 \"b\""]);
}

#[test]
fn a_renamed_directory_comes_with_what_it_holds() {
    let lower = || tree().file("a/f", "1").file("keep/g", "2").file("keep/s/h", "3");
    let moved = || redirect(layer().whiteout("keep").dir("kept2", 0o755), "kept2", "keep");
    let rows: Vec<(&str, MemoryLayer, MemoryLayer, &[&str])> = vec![
        (
            "renamed",
            lower(),
            moved(),
            &["wh keep", "d kept2/ 755", "f kept2/g 644 \"2\"", "d kept2/s/ 755", "f kept2/s/h 644 \"3\""],
        ),
        (
            "renamed and changed",
            lower(),
            moved().file("kept2/new", "4").whiteout("kept2/g").file("kept2/s/h", "5"),
            &["wh keep", "d kept2/ 755", "f kept2/new 644 \"4\"", "d kept2/s/ 755", "f kept2/s/h 644 \"5\""],
        ),
        (
            "renamed over another directory",
            lower().file("kept2/g", "2").file("kept2/old", "9"),
            moved(),
            &["wh keep", "d kept2/ 755", "wh kept2/old", "d kept2/s/ 755", "f kept2/s/h 644 \"3\""],
        ),
        (
            "moved elsewhere",
            lower(),
            redirect(layer().whiteout("keep").dir("a/b", 0o755), "a/b", "/keep"),
            &[
                "d a/ 755",
                "d a/b/ 755",
                "f a/b/g 644 \"2\"",
                "d a/b/s/ 755",
                "f a/b/s/h 644 \"3\"",
                "wh keep",
            ],
        ),
        ("renamed away and back", lower(), redirect(layer().dir("keep", 0o755), "keep", "keep"), &[]),
        (
            "renamed away and back, by path",
            lower(),
            redirect(layer().dir("keep", 0o755), "keep", "/keep"),
            &[],
        ),
        (
            "renamed from what is not there",
            lower(),
            redirect(layer().dir("n", 0o755), "n", "/no/such"),
            &["d n/ 755"],
        ),
        (
            "renamed from what is no directory",
            lower(),
            redirect(layer().dir("n", 0o755), "n", "/a/f"),
            &["d n/ 755"],
        ),
        (
            "renames in renamed directories",
            tree().file("a/b/c/f", "1").file("a/b/g", "2"),
            {
                // a to r, then r/b to q, then q/c to r/c2.
                let layer =
                    layer().whiteout("a").dir("r", 0o755).whiteout("r/b").dir("q", 0o755).whiteout("q/c");
                let layer = redirect(redirect(layer.dir("r/c2", 0o755), "r", "a"), "q", "/a/b");
                redirect(layer, "r/c2", "/a/b/c")
            },
            &["wh a", "d q/ 755", "f q/g 644 \"2\"", "d r/ 755", "d r/c2/ 755", "f r/c2/f 644 \"1\""],
        ),
    ];
    for (name, lower, layer, want) in rows {
        assert_eq!(upper_over(&lower, &layer), want, "{name}");
    }
    let base = Stack::of(lower().file("kept2/old", "9"));
    let marker = UpperOptions::new().opaque_style(OpaqueStyle::Marker);
    let lines = upper(marker, Base::Layers(&base), &moved()).unwrap().lines();
    let want = [
        "wh keep",
        "d kept2/ 755",
        "opq kept2",
        "f kept2/g 644 \"2\"",
        "d kept2/s/ 755",
        "f kept2/s/h 644 \"3\"",
    ];
    assert_eq!(lines, want);
}

#[test]
fn a_redirect_that_the_mount_did_not_follow_hides() {
    let layer = redirect(layer().dir("d", 0o755).file("d/n", "1"), "d", "a");
    let nofollow = || UpperOptions::new().follow_redirects(false);
    let base = Stack::of(tree().file("a/f", "1").file("d/old", "2"));
    let lines = upper(nofollow(), Base::Layers(&base), &layer).unwrap().lines();
    assert_eq!(lines, ["d d/ 755", "f d/n 644 \"1\"", "wh d/old"]);
    let lines = upper(nofollow(), Base::Unknown, &layer).unwrap().lines();
    assert_eq!(lines, ["d d/ 755", "opq d", "f d/n 644 \"1\""]);
}

#[test]
fn metacopy_files_have_the_data_of_the_layers_below() {
    let only_mode = metacopy(layer().file("f", "").mode("f", 0o600), "f", 5);
    assert_eq!(upper_over(&tree().file("f", "hello"), &only_mode), ["f f 600 \"hello\""]);

    let same = metacopy(layer().file("f", ""), "f", 5);
    assert!(
        upper_over(&tree().file("f", "hello"), &same).is_empty(),
        "same metadata, same source of the content"
    );

    let renamed = redirect(metacopy(layer().whiteout("f").file("d/g", ""), "d/g", 5), "d/g", "/f");
    assert_eq!(upper_over(&tree().file("f", "hello"), &renamed), ["d d/ 755", "f d/g 644 \"hello\"", "wh f"]);

    // The kernel gives a metacopy file a redirect when it gets a second name.
    let linked = redirect(metacopy(layer().file("f", "").mode("f", 0o600), "f", 5), "f", "/f").link("g", "f");
    assert_eq!(upper_over(&tree().file("f", "hello"), &linked), ["f f 600 \"hello\"", "h g=f"]);
}

#[test]
fn a_metacopy_with_a_digest_takes_no_other_data() {
    // The fs-verity digest of one byte, an x.
    let mut digest = [0; 32];
    let hex = b"dbbdfa9d606f7adeaa7f16dcfb0d49161c4cfb82d9d51cfb5cb43fa3dacb9e5b";
    for (at, pair) in hex.chunks(2).enumerate() {
        digest[at] = u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    }
    let layer = metacopy(layer().file("f", "").mode("f", 0o600), "f", 1)
        .edit("f", |node| node.markers.metacopy = Some(Metacopy { digest: Some(digest) }));
    assert_eq!(upper_over(&tree().file("f", "x"), &layer), ["f f 600 \"x\""]);
    let other = Stack::of(tree().file("f", "y"));
    let error = upper(UpperOptions::new(), Base::Layers(&other), &layer).map(|o| o.lines()).unwrap_err();
    assert_eq!((error.kind(), error.entry_path()), (&ErrorKind::InvalidUpper, Some(&b"f"[..])));
    // Nor does who reads the content after the walk.
    let later = |options: UpperOptions| {
        let differ = UpperDiffer::new(options.content(false));
        let mut source = differ.changes_of(&layer, Base::Layers(&other), &Silent).unwrap();
        while source.next_change().unwrap().is_some() {}
        source.tree().open_path(LayerPath::new(b"f").unwrap()).map(|file| file.len().unwrap())
    };
    assert_eq!(later(UpperOptions::new()).unwrap_err().kind(), &ErrorKind::InvalidUpper);
    assert_eq!(later(UpperOptions::new().verify_metacopy(false)).unwrap(), 1);
    let trusting = UpperOptions::new().verify_metacopy(false);
    assert_eq!(upper(trusting, Base::Layers(&other), &layer).unwrap().lines(), ["f f 600 \"y\""]);
}

#[test]
fn data_only_layers_are_looked_into_last() {
    let lower = redirect(metacopy(tree().file("f", ""), "f", 7), "f", "/objs/1");
    let data: Arc<dyn LayerTree> = Arc::new(tree().on_device(3).file("objs/1", "payload"));
    let layer = metacopy(layer().file("f", "").mode("f", 0o640), "f", 7);
    let base = Stack::of(lower);
    let options = UpperOptions::new().data_only(vec![data]);
    let lines = upper(options, Base::Layers(&base), &layer).unwrap().lines();
    assert_eq!(lines, ["f f 640 \"payload\""]);
}

#[test]
fn markers_that_need_layers_which_are_not_known_are_refused() {
    let renamed = redirect(layer().whiteout("a").dir("b", 0o755), "b", "a");
    let moved = redirect(layer().whiteout("a").dir("b", 0o755), "b", "/a");
    let meta = metacopy(layer().file("f", ""), "f", 5);
    let indexed = layer().file("p", "x").edit("p", |node| {
        node.nlink = 2;
        node.markers.nlink = Some(NlinkDelta::Upper(1));
    });
    for (marker, layer) in
        [("redirect", renamed), ("redirect", moved), ("metacopy", meta), ("index", indexed)]
    {
        for base in [Base::Unknown, Base::Empty] {
            let error = upper(UpperOptions::new(), base, &layer).map(|o| o.lines()).unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::UnsupportedMarker { marker }, "{marker} {base:?}");
            assert!(error.entry_path().is_some(), "{marker}: the error names the entry");
        }
    }
    let orphan = metacopy(layer().file("f", ""), "f", 5);
    let base = Stack::of(tree().file("g", "hello"));
    let error = upper(UpperOptions::new(), Base::Layers(&base), &orphan).map(|o| o.lines()).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::UnsupportedMarker { marker: "metacopy" });
}

#[test]
fn an_indexed_file_takes_its_other_names_with_it() {
    let base = Stack::of(tree().file("d/p", "1234").link("d/q", "d/p").link("zz", "d/p"));
    let copied_up = |layer: MemoryLayer, more| {
        layer.edit("d/p", |node| {
            node.nlink += 1;
            node.markers.nlink = Some(NlinkDelta::Upper(more));
        })
    };
    let one = copied_up(layer().file("d/p", "CHANGED"), 1);
    let lines = upper(UpperOptions::new(), Base::Layers(&base), &one).unwrap().lines();
    assert_eq!(lines, ["d d/ 755", "f d/p 644 \"CHANGED\"", "h d/q=d/p", "h zz=d/p"]);

    let two = copied_up(layer().file("d/p", "CHANGED"), 0).whiteout("zz");
    let lines = upper(UpperOptions::new(), Base::Layers(&base), &two).unwrap().lines();
    assert_eq!(
        lines,
        ["d d/ 755", "f d/p 644 \"CHANGED\"", "wh zz", "h d/q=d/p"],
        "a name that is gone stays so"
    );

    let unchanged = copied_up(layer().file("d/p", "1234"), 1);
    assert!(upper(UpperOptions::new(), Base::Layers(&base), &unchanged).unwrap().lines().is_empty());

    let lenient = UpperOptions::new().allow_incomplete_links(true);
    let outcome = upper(lenient, Base::Unknown, &one).unwrap();
    assert_eq!(outcome.lines(), ["d d/ 755", "f d/p 644 \"CHANGED\""]);
    assert_eq!(outcome.warnings, [(WarningKind::IncompleteLinks, "d/p".to_owned())]);
}

#[test]
fn a_linked_file_in_a_renamed_directory_keeps_its_name_outside() {
    let lower = tree().file("a/x", "1").link("zz", "a/x");
    let layer = redirect(layer().whiteout("a").dir("r", 0o755), "r", "a");
    assert_eq!(upper_over(&lower, &layer), ["wh a", "d r/ 755", "f r/x 644 \"1\"", "h zz=r/x"]);
}

#[test]
fn unchanged_names_of_a_file_follow_a_new_name() {
    let linked = layer().file("f", "x").link("g", "f");
    assert_eq!(upper_over(&tree().file("f", "x"), &linked), ["f g 644 \"x\"", "h f=g"]);

    let elsewhere = layer().file("a/b/f", "x").dir("c", 0o755).link("c/g", "a/b/f").link("d", "a/b/f");
    let lines = upper_over(&tree().file("a/b/f", "x"), &elsewhere);
    let want = ["d c/ 755", "f c/g 644 \"x\"", "d a/ 755", "d a/b/ 755", "h a/b/f=c/g", "h d=c/g"];
    assert_eq!(lines, want, "the directories of a remembered name come with it");
}

#[test]
fn a_broken_link_is_a_file_of_its_own() {
    let lower = tree().file("p", "1").link("q", "p");
    assert_eq!(upper_over(&lower, &layer().file("p", "2")), ["f p 644 \"2\""]);
}

#[test]
fn whiteouts_that_share_an_inode_are_no_links() {
    let lower = tree().file("a", "1").file("b", "2").file("c", "3");
    let layer = layer().whiteout("a").link("b", "a").link("c", "a");
    assert_eq!(upper_over(&lower, &layer), ["wh a", "wh b", "wh c"]);
}

#[test]
fn whiteouts_can_come_first() {
    let lower = tree().file("d/old", "1").file("d/sub/gone", "2").file("z", "3");
    let layer =
        layer().file("d/new", "4").whiteout("d/old").file("d/a/x", "5").whiteout("d/sub/gone").whiteout("z");
    let base = Stack::of(lower);
    let options = UpperOptions::new().whiteouts_first(true);
    let lines = upper(options, Base::Layers(&base), &layer).unwrap().lines();
    let want = [
        "wh z",
        "d d/ 755",
        "wh d/old",
        "d d/a/ 755",
        "f d/a/x 644 \"5\"",
        "f d/new 644 \"4\"",
        "d d/sub/ 755",
        "wh d/sub/gone",
    ];
    assert_eq!(lines, want);
}

#[test]
fn sockets_are_left_out_with_a_word() {
    let base = Stack::of(tree().file("was", "file").socket("still"));
    let layer = layer().socket("new").socket("was").socket("still").file("f", "x");
    let outcome = upper(UpperOptions::new(), Base::Layers(&base), &layer).unwrap();
    assert_eq!(
        outcome.lines(),
        ["f f 644 \"x\"", "wh was"],
        "the file under the socket is not seen any more"
    );
    assert_eq!(outcome.report.dropped_sockets, 3);
    assert_eq!(outcome.warnings.len(), 3);
    assert!(outcome.warnings.iter().all(|(kind, _)| *kind == WarningKind::SocketDropped));
    let options = UpperOptions::new().profile(Profile::Containerd);
    let outcome = upper(options, Base::Layers(&base), &layer).unwrap();
    assert_eq!((outcome.lines(), outcome.warnings.len()), (vec!["f f 644 \"x\"".to_owned()], 0));
}

#[test]
fn names_that_mean_removals_are_refused() {
    for (layer, path) in [
        (layer().file(".wh.foo", "x"), ".wh.foo"),
        (layer().dir("d/.wh.", 0o755), "d/.wh."),
        (layer().file("d/.wh..wh..opq", ""), "d/.wh..wh..opq"),
    ] {
        for profile in [Profile::Spec, Profile::Containerd] {
            let options = UpperOptions::new().profile(profile);
            let error = upper(options, Base::Empty, &layer).map(|o| o.lines()).unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::Unrepresentable, "{path}");
            assert_eq!(error.entry_path(), Some(path.as_bytes()));
        }
    }
}

#[test]
fn attributes_are_carried_by_policy_and_markers_never() {
    let every = |policy| {
        let layer = layer()
            .dir("d", 0o755)
            .xattr("d", "trusted.overlay.opaque", b"y")
            .xattr("d", "user.foo", b"1")
            .xattr("d", "security.capability", b"cap");
        let options = UpperOptions::new().xattrs(policy).keep_trusted(policy == XattrPolicy::All);
        let base = Stack::of(tree().dir("d", 0o755));
        let outcome = upper(options, Base::Layers(&base), &layer).unwrap();
        let node = match &outcome.changes.as_slice()[0].action {
            layer_model::testing::OwnedAction::Upsert { node, .. } => node.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(outcome.lines(), ["d d/ 755"], "an attribute that the container set makes nothing opaque");
        node.xattrs.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(every(XattrPolicy::CapabilityOnly), ["security.capability"]);
    assert_eq!(every(XattrPolicy::Portable), ["security.capability", "user.foo"]);
    assert_eq!(every(XattrPolicy::All), ["security.capability", "trusted.overlay.opaque", "user.foo"]);
}

#[test]
fn dropped_attributes_are_counted_by_name() {
    let layer =
        layer().file("a", "1").xattr("a", "trusted.x", b"1").file("b", "2").xattr("b", "trusted.x", b"1");
    let outcome = upper(UpperOptions::new(), Base::Empty, &layer).unwrap();
    assert_eq!(outcome.report.dropped_xattrs.get(&b"trusted.x"[..]), Some(&2));
    assert_eq!(outcome.warnings.len(), 2);
}

#[test]
fn an_opaque_root_means_nothing_and_is_mentioned() {
    let layer = layer().edit("", |node| node.markers.opaque = true).file("n", "1");
    let base = Stack::of(tree().file("old", "2"));
    let outcome = upper(UpperOptions::new(), Base::Layers(&base), &layer).unwrap();
    assert_eq!(outcome.lines(), ["f n 644 \"1\""]);
    assert_eq!(outcome.warnings, [(WarningKind::RootOpaque, "/".to_owned())]);
}

#[test]
fn the_report_counts_what_was_given() {
    let base = Stack::of(tree().file("same", "1").file("gone", "2"));
    let layer = layer()
        .file("same", "1")
        .whiteout("gone")
        .file("f", "four")
        .link("g", "f")
        .symlink("l", "f")
        .char_device("c", 1, 3)
        .fifo("p")
        .dir("d", 0o755);
    let report = upper(UpperOptions::new(), Base::Layers(&base), &layer).unwrap().report;
    let counts = (report.directories, report.files, report.bytes, report.symlinks, report.hard_links);
    assert_eq!(counts, (1, 1, 4, 1, 1));
    let counts = (report.devices, report.fifos, report.removals, report.unchanged, report.hard_link_groups);
    assert_eq!(counts, (1, 1, 1, 1, 1));
    assert_eq!((report.changes(), report.method.name()), (7, "UpperWalk"));
}
