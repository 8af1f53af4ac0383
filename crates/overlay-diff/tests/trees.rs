//! What changed between two trees, in memory.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use layer_model::{
    ErrorKind, Profile, Timestamp, WarningKind,
    testing::{MemoryLayer, OwnedAction},
};
use overlay_diff::{DiffMethod, TreeOptions};
use support::trees;

fn tree() -> MemoryLayer {
    MemoryLayer::new()
}

/// The old tree, and the new one: a copy on another device with changes.
fn lines(old: &MemoryLayer, new: &MemoryLayer) -> Vec<String> {
    trees(TreeOptions::new(), Some(old), &new.clone().on_device(1)).unwrap().lines()
}

#[test]
fn two_trees_give_what_differs() {
    let etc =
        || tree().dir("etc", 0o755).file("etc/hosts", "1").file("etc/profile", "p").file("etc/same", "p");
    let farm = || {
        tree().file("d1/f1", "c").file("d2/f1", "c").file("d2/f2", "c").file("d4/f1", "c").file("d5/f1", "c")
    };
    let rows: Vec<(&str, MemoryLayer, MemoryLayer, &[&str])> = vec![
        ("nothing", etc(), etc(), &[]),
        (
            "changes, a removal, a new directory",
            etc().file("etc/unexpected", "x"),
            etc()
                .file("etc/hosts", "2")
                .mode("etc/profile", 0o666)
                .dir("root", 0o700)
                .file("root/.bashrc", "r"),
            &[
                "d etc/ 755",
                "f etc/hosts 644 \"2\"",
                "f etc/profile 666 \"p\"",
                "wh etc/unexpected",
                "d root/ 700",
                "f root/.bashrc 644 \"r\"",
            ],
        ),
        (
            "unchanged parents come with their children",
            tree().dir("d1", 0o755).dir("d2", 0o770),
            tree().dir("d1", 0o755).dir("d1/d", 0o700).dir("d2", 0o770).file("d2/f", "ok"),
            &["d d1/ 755", "d d1/d/ 700", "d d2/ 770", "f d2/f 644 \"ok\""],
        ),
        (
            "a changed parent comes once",
            tree().dir("d1", 0o755),
            tree().dir("d1", 0o777).dir("d1/d", 0o700),
            &["d d1/ 777", "d d1/d/ 700"],
        ),
        (
            "directories that are gone",
            tree().file("d1/d2/f", "x").dir("d2", 0o755),
            tree().dir("d3", 0o755),
            &["wh d1", "wh d2", "d d3/ 755"],
        ),
        (
            "a file in place of a directory",
            tree().file("dir1/f1", "#").file("dir1/f2/f3", "s"),
            tree().file("dir1/f1", "#").file("dir1/f11", "n").file("dir1/f2", "Now").mode("dir1/f2", 0o666),
            &["d dir1/ 755", "f dir1/f11 644 \"n\"", "f dir1/f2 666 \"Now\""],
        ),
        (
            "a directory in place of a file",
            tree().file("dir1", "file"),
            tree().file("dir1/dir2/f1", "x"),
            &["d dir1/ 755", "d dir1/dir2/ 755", "f dir1/dir2/f1 644 \"x\""],
        ),
        (
            "a removed directory beside one of a longer name",
            tree().file("dir1/d/f", "1").file("dir1-before/f2", "2"),
            tree().file("dir1-before/f2", "2"),
            &["wh dir1"],
        ),
        (
            "the slash sorts first",
            tree().file("a/b/c", "1").file("a/b-", "2"),
            tree().file("a/b/c", "3").file("a/b-", "4"),
            &["d a/ 755", "d a/b/ 755", "f a/b/c 644 \"3\"", "f a/b- 644 \"4\""],
        ),
        (
            "removals stand where the name stood",
            farm(),
            tree().dir("d1", 0o755).file("d2/f2", "c").mode("d2/f2", 0o777).file("d4/f0", "c"),
            &[
                "d d1/ 755",
                "wh d1/f1",
                "d d2/ 755",
                "wh d2/f1",
                "f d2/f2 777 \"c\"",
                "d d4/ 755",
                "f d4/f0 644 \"c\"",
                "wh d4/f1",
                "wh d5",
            ],
        ),
        ("a link to somewhere else", tree().symlink("l", "a"), tree().symlink("l", "b"), &["l l>b"]),
        (
            "a link in place of a directory",
            tree().dir("bin/myapp", 0o755),
            tree().symlink("bin/myapp", "actual"),
            &["d bin/ 755", "l bin/myapp>actual"],
        ),
        (
            "targets that climb are data",
            tree().dir("home", 0o755),
            tree().symlink("home/out", "../../../breakout").symlink("up", "../../breakout"),
            &["d home/ 755", "l home/out>../../../breakout", "l up>../../breakout"],
        ),
        ("a new time", tree().file("f", "x"), tree().file("f", "x").mtime("f", 9, 0), &["f f 644 \"x\""]),
        (
            "a device becomes another",
            tree().char_device("c", 1, 3),
            tree().char_device("c", 1, 5),
            &["c c 1:5"],
        ),
        ("an owner", tree().dir("d", 0o755), tree().dir("d", 0o755).owner("d", 5, 0), &["d d/ 755"]),
        (
            "a capability",
            tree().file("f", "x"),
            tree().file("f", "x").xattr("f", "security.capability", b"c"),
            &["f f 644 \"x\""],
        ),
    ];
    for (name, old, new, want) in rows {
        assert_eq!(lines(&old, &new), want, "{name}");
    }
}

#[test]
fn without_an_old_tree_everything_is_an_addition_but_the_root() {
    let new = tree().file("etc/hosts", "a").file("etc/profile", "b").dir("root", 0o700).mode("", 0o711);
    let outcome = trees(TreeOptions::new(), None, &new).unwrap();
    assert_eq!(
        outcome.lines(),
        ["d etc/ 755", "f etc/hosts 644 \"a\"", "f etc/profile 644 \"b\"", "d root/ 700"]
    );
    assert_eq!(outcome.report.method, DiffMethod::SingleWalk);
}

#[test]
fn times_that_were_cut_make_the_content_decide() {
    let old = tree()
        .file("m", "1")
        .mtime("m", 7, 5)
        .file("same", "1")
        .mtime("same", 7, 5)
        .file("sn", "1")
        .mtime("sn", 7, 5)
        .file("tr1", "1")
        .mtime("tr1", 7, 0)
        .file("tr2", "1")
        .mtime("tr2", 7, 0)
        .file("tr3", "1")
        .mtime("tr3", 7, 5)
        .file("empty", "")
        .symlink("lnk", "/foo")
        .mtime("lnk", 0, 42);
    let new = tree()
        .file("m", "2")
        .mtime("m", 7, 6)
        .file("same", "1")
        .mtime("same", 7, 5)
        .file("sn", "2")
        .mtime("sn", 7, 5)
        .file("tr1", "1")
        .mtime("tr1", 7, 5)
        .file("tr2", "2")
        .mtime("tr2", 7, 0)
        .file("tr3", "1")
        .mtime("tr3", 7, 0)
        .file("empty", "")
        .symlink("lnk", "/foo")
        .mtime("lnk", 0, 42);
    let names: Vec<_> =
        lines(&old, &new).iter().map(|line| line[2..].split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(names, ["m", "tr1", "tr2", "tr3"], "and equal nanoseconds make nobody read the content");
}

#[test]
fn names_that_did_not_change_are_linked_to_the_name_that_did() {
    let rows: Vec<(&str, MemoryLayer, MemoryLayer, &[&str])> = vec![
        (
            "later and earlier names",
            tree()
                .file("d1/f1", "link me")
                .file("d2/f1", "link me")
                .dir("d3", 0o755)
                .file("d4/f1", "link me")
                .file("d5/f1", "link me")
                .link("d6/l1", "d1/f1")
                .link("d6/l2", "d5/f1"),
            tree()
                .file("d1/f1", "link me")
                .file("d2/f1", "link me")
                .dir("d3", 0o755)
                .file("d4/f1", "link me")
                .file("d5/f1", "link me")
                .dir("d6", 0o755)
                .link("d2/l1", "d1/f1")
                .link("d3/l1", "d4/f1"),
            &[
                "d d2/ 755",
                "f d2/l1 644 \"link me\"",
                "d d1/ 755",
                "h d1/f1=d2/l1",
                "d d3/ 755",
                "f d3/l1 644 \"link me\"",
                "d d4/ 755",
                "h d4/f1=d3/l1",
                "d d6/ 755",
                "wh d6/l1",
                "wh d6/l2",
            ],
        ),
        (
            "in directories that changed",
            tree().file("d1/f1", "link me").dir("d2", 0o755).file("d3/f1", "link me").dir("d4", 0o755),
            tree()
                .file("d1/f1", "link me")
                .mode("d1", 0o777)
                .dir("d2", 0o755)
                .link("d2/l1", "d1/f1")
                .file("d3/f1", "link me")
                .dir("d4", 0o777)
                .link("d4/l1", "d3/f1"),
            &[
                "d d1/ 777",
                "d d2/ 755",
                "f d2/l1 644 \"link me\"",
                "h d1/f1=d2/l1",
                "d d4/ 777",
                "f d4/l1 644 \"link me\"",
                "d d3/ 755",
                "h d3/f1=d4/l1",
            ],
        ),
        (
            "a third name",
            tree().file("etc/hosts", "x").link("etc/hosts.allow", "etc/hosts"),
            tree()
                .file("etc/hosts", "x")
                .link("etc/hosts.allow", "etc/hosts")
                .link("etc/hosts.deny", "etc/hosts"),
            &[
                "d etc/ 755",
                "f etc/hosts.deny 644 \"x\"",
                "h etc/hosts=etc/hosts.deny",
                "h etc/hosts.allow=etc/hosts.deny",
            ],
        ),
        (
            "linked devices and links",
            tree(),
            tree().symlink("a", "t").link("b", "a").char_device("c", 1, 3).link("d", "c"),
            &["l a>t", "h b=a", "c c 1:3", "h d=c"],
        ),
    ];
    for (name, old, new, want) in rows {
        assert_eq!(lines(&old, &new), want, "{name}");
    }
}

#[test]
fn links_that_were_only_split_or_joined_are_seen_on_request() {
    let joined = || tree().file("x1", "same").link("x2", "x1");
    let split = || tree().file("x1", "same").file("x2", "same");
    let detect = |old: &MemoryLayer, new: MemoryLayer| {
        let options = TreeOptions::new().detect_link_topology(true);
        trees(options, Some(old), &new.on_device(1)).unwrap().lines()
    };
    assert!(lines(&joined(), &split()).is_empty(), "not without the option");
    assert_eq!(detect(&joined(), split()), ["f x2 644 \"same\""]);
    assert_eq!(detect(&split(), joined()), ["f x2 644 \"same\"", "h x1=x2"]);
    assert!(detect(&joined(), joined()).is_empty());
    let swapped = tree().file("a", "1").link("c", "a").file("b", "1");
    let to = tree().file("a", "1").file("b", "1").link("c", "b");
    let changes =
        trees(TreeOptions::new().detect_link_topology(true), Some(&swapped), &to.clone().on_device(1));
    let applied = swapped.applied(&changes.unwrap().changes).unwrap();
    use layer_model::testing::Snapshot;
    Snapshot::of(&applied).unwrap().assert_same(&Snapshot::of(&to).unwrap());
}

#[test]
fn a_character_device_0_0_is_a_device_and_is_mentioned() {
    let new = tree().char_device("n", 0, 0).file("f", "x");
    let outcome = trees(TreeOptions::new(), Some(&tree().file("f", "x")), &new.on_device(1)).unwrap();
    assert_eq!(outcome.lines(), ["c n 0:0"]);
    assert_eq!(outcome.warnings, [(WarningKind::CharZeroDevice, "n".to_owned())]);
}

#[test]
fn opaque_marks_mean_nothing_between_trees() {
    let new = tree().opaque("d").file("d/n", "1");
    let lines = lines(&tree().file("d/n", "1").file("d/o", "2"), &new);
    assert_eq!(lines, ["d d/ 755", "wh d/o"]);
}

#[test]
fn attributes_count_as_the_policy_says() {
    let (old, new) =
        (tree().file("a", "x"), tree().file("a", "x").xattr("a", "user.foo", b"bar").on_device(1));
    let spec = trees(TreeOptions::new(), Some(&old), &new).unwrap();
    assert_eq!(spec.lines(), ["f a 644 \"x\""]);
    let OwnedAction::Upsert { node, .. } = &spec.changes.as_slice()[0].action else { panic!("an upsert") };
    assert_eq!(node.xattrs.get(b"user.foo"), Some(&b"bar"[..]));
    let containerd = TreeOptions::new().profile(Profile::Containerd);
    assert!(trees(containerd, Some(&old), &new).unwrap().lines().is_empty());
}

#[test]
fn nanoseconds_reach_the_sink() {
    let new = tree().file("f", "x").mtime("f", 1_600_000_000, 999_999_999);
    let outcome = trees(TreeOptions::new(), None, &new).unwrap();
    let OwnedAction::Upsert { node, .. } = &outcome.changes.as_slice()[0].action else { panic!("an upsert") };
    assert_eq!(node.metadata.mtime, Timestamp::new(1_600_000_000, 999_999_999));
}

#[test]
fn an_attribute_that_no_archive_can_name_is_refused_or_dropped() {
    let new = tree().file("f", "x").xattr("f", "user.a=b", b"1");
    let error = trees(TreeOptions::new(), None, &new).map(|o| o.lines()).unwrap_err();
    assert_eq!((error.kind(), error.entry_path()), (&ErrorKind::Unrepresentable, Some(&b"f"[..])));
    let outcome = trees(TreeOptions::new().lossy_ok(true), None, &new).unwrap();
    assert_eq!((outcome.lines().len(), outcome.warnings.len()), (1, 1));
}
