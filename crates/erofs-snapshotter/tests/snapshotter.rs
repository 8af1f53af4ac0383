//! The life of snapshots, and what is refused.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use erofs_snapshotter::{
    DirState, Filters, Kind, Labels, SnapshotDir, Snapshotter, SnapshotterOptions, layer_image_options,
};
use layer_apply::ErofsImage;
use layer_model::{Base, ErrorKind, LayerTree, Result, Silent, testing::MemoryLayer};
use support::{kind_of, labels, names, open, options};

fn none() -> Labels {
    Labels::new()
}

/// A committed `base` with the file `f`, and `mid` over it.
fn with_layers(root: &Path) -> Snapshotter {
    let snapshots = open(root, options());
    for (name, parent) in [("base", None), ("mid", Some("base"))] {
        snapshots.prepare("k", parent, none()).unwrap();
        fs::write(snapshots.snapshot_dir("k").unwrap().upper_path().join("f"), name).unwrap();
        snapshots.commit(name, "k", none(), &Silent).unwrap();
    }
    snapshots
}

#[test]
fn a_snapshot_is_prepared_committed_viewed_and_removed() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("root");
    let snapshots = open(&root, options());
    assert_eq!(names(&root), ["snapshots", "snapshots.redb"]);

    let mounts = snapshots.prepare("a", None, labels(&[("x", "1")])).unwrap();
    assert_eq!((mounts.len(), mounts[0].kind.as_str()), (1, "bind"));
    assert_eq!(snapshots.mounts("a").unwrap(), mounts);
    let dir = SnapshotDir::from_mounts(&mounts).unwrap();
    assert_eq!(dir.state().unwrap(), DirState::Active);
    fs::create_dir(dir.upper_path().join("etc")).unwrap();
    fs::write(dir.upper_path().join("etc/motd"), "hello").unwrap();
    let active = snapshots.stat("a").unwrap();
    assert_eq!((active.kind, active.name.as_str(), active.parent.as_deref()), (Kind::Active, "a", None));
    assert_eq!(active.labels, labels(&[("x", "1")]));
    let usage = snapshots.usage("a").unwrap();
    assert_eq!(usage.inodes, 3);

    snapshots.commit("one", "a", labels(&[("y", "2"), ("empty", "")]), &Silent).unwrap();
    assert_eq!(kind_of(snapshots.stat("a")), ErrorKind::NotFound);
    let one = snapshots.stat("one").unwrap();
    assert_eq!((one.kind, one.labels.clone()), (Kind::Committed, labels(&[("y", "2")])));
    assert!(one.created >= active.created && one.created == one.updated);
    assert_eq!((names(&dir.upper_path()), names(&dir.work_path())), (vec![], vec![]), "it is in the image");
    let used = snapshots.usage("one").unwrap();
    assert_eq!((used.inodes, used.size), (1, fs::metadata(dir.image_path()).unwrap().blocks() * 512));

    let view = snapshots.view("v", Some("one"), none()).unwrap();
    assert_eq!((view.len(), view[0].kind.as_str()), (1, "erofs"));
    assert_eq!(SnapshotDir::from_mounts(&view).unwrap().path(), dir.path());
    assert_eq!(names(snapshots.snapshot_dir("v").unwrap().path()), ["fs"]);
    let over = snapshots.prepare("b", Some("one"), none()).unwrap();
    assert_eq!(over.last().unwrap().kind, "format/mkdir/overlay");
    assert_eq!(snapshots.usage("v").unwrap().inodes, 0);

    let stack = snapshots.layer_stack("b").unwrap().unwrap();
    assert_eq!(stack.len(), 1);
    assert!(stack.nearest().root().unwrap().lookup(b"etc").unwrap().is_some());
    assert!(snapshots.layer_stack("one").unwrap().is_some());

    for key in ["v", "b", "one"] {
        snapshots.remove(key).unwrap();
    }
    assert_eq!(names(&root.join("snapshots")), Vec::<String>::new());
    assert_eq!(kind_of(snapshots.stat("one")), ErrorKind::NotFound);
}

#[test]
fn what_containerd_refuses_is_refused_and_changes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let snapshots = with_layers(temp.path());
    snapshots.prepare("active", Some("mid"), none()).unwrap();
    snapshots.view("view", Some("mid"), none()).unwrap();
    let long = || labels(&[("k", &"v".repeat(5000))]);
    let s = &snapshots;
    let info = |name: &str| {
        let mut info = s.stat("mid").unwrap();
        info.name = name.to_owned();
        info
    };
    type Try<'a> = Box<dyn Fn() -> Result<()> + 'a>;
    let rules: Vec<(&str, ErrorKind, Try<'_>)> = vec![
        (
            "prepare a key twice",
            ErrorKind::AlreadyExists,
            Box::new(|| s.prepare("active", None, none()).map(drop)),
        ),
        ("prepare a name", ErrorKind::AlreadyExists, Box::new(|| s.prepare("mid", None, none()).map(drop))),
        (
            "view a key twice",
            ErrorKind::AlreadyExists,
            Box::new(|| s.view("active", Some("mid"), none()).map(drop)),
        ),
        (
            "prepare without a key",
            ErrorKind::InvalidArgument,
            Box::new(|| s.prepare("", None, none()).map(drop)),
        ),
        (
            "over nothing known",
            ErrorKind::NotFound,
            Box::new(|| s.prepare("n", Some("nope"), none()).map(drop)),
        ),
        (
            "over an active one",
            ErrorKind::InvalidArgument,
            Box::new(|| s.prepare("n", Some("active"), none()).map(drop)),
        ),
        ("over a view", ErrorKind::InvalidArgument, Box::new(|| s.view("n", Some("view"), none()).map(drop))),
        ("with long labels", ErrorKind::InvalidArgument, Box::new(|| s.prepare("n", None, long()).map(drop))),
        ("commit nothing", ErrorKind::NotFound, Box::new(|| s.commit("n", "nope", none(), &Silent))),
        (
            "commit to a name that is",
            ErrorKind::AlreadyExists,
            Box::new(|| s.commit("mid", "active", none(), &Silent)),
        ),
        (
            "commit to itself",
            ErrorKind::AlreadyExists,
            Box::new(|| s.commit("active", "active", none(), &Silent)),
        ),
        (
            "commit to no name",
            ErrorKind::InvalidArgument,
            Box::new(|| s.commit("", "active", none(), &Silent)),
        ),
        ("commit a view", ErrorKind::FailedPrecondition, Box::new(|| s.commit("n", "view", none(), &Silent))),
        ("commit twice", ErrorKind::FailedPrecondition, Box::new(|| s.commit("n", "mid", none(), &Silent))),
        (
            "commit with long labels",
            ErrorKind::InvalidArgument,
            Box::new(|| s.commit("n", "active", long(), &Silent)),
        ),
        ("mounts of nothing", ErrorKind::NotFound, Box::new(|| s.mounts("nope").map(drop))),
        ("mounts of a layer", ErrorKind::FailedPrecondition, Box::new(|| s.mounts("mid").map(drop))),
        ("remove nothing", ErrorKind::NotFound, Box::new(|| s.remove("nope"))),
        ("remove a parent", ErrorKind::FailedPrecondition, Box::new(|| s.remove("base"))),
        ("remove a parent of a view", ErrorKind::FailedPrecondition, Box::new(|| s.remove("mid"))),
        ("stat nothing", ErrorKind::NotFound, Box::new(|| s.stat("nope").map(drop))),
        ("usage of nothing", ErrorKind::NotFound, Box::new(|| s.usage("nope").map(drop))),
        ("layers of nothing", ErrorKind::NotFound, Box::new(|| s.layer_stack("nope").map(drop))),
        ("update nothing", ErrorKind::NotFound, Box::new(|| s.update(&info("nope"), &[]).map(drop))),
        (
            "update what is fixed",
            ErrorKind::InvalidArgument,
            Box::new(|| s.update(&info("mid"), &["parent"]).map(drop)),
        ),
        (
            "open it again",
            ErrorKind::Unavailable,
            Box::new(|| Snapshotter::open(temp.path(), options()).map(drop)),
        ),
    ];
    let state = || {
        let mut all = Vec::new();
        s.walk(&Filters::all(), |info| {
            all.push(info);
            Ok(())
        })
        .unwrap();
        let dirs: Vec<_> = names(&temp.path().join("snapshots"));
        (all, dirs)
    };
    let before = state();
    for (rule, want, attempt) in rules {
        let error = attempt().expect_err(rule);
        assert_eq!(error.kind(), &want, "{rule}: {error:?}");
        assert_eq!(state(), before, "{rule}");
    }
    assert_eq!(s.cleanup().unwrap().removed, 0);
}

#[test]
fn errors_name_the_snapshot() {
    let temp = tempfile::tempdir().unwrap();
    let snapshots = with_layers(temp.path());
    let error = snapshots.remove("base").unwrap_err();
    assert_eq!(error.to_string(), r#"base: the snapshot "mid" is made over it"#);
    assert_eq!(snapshots.stat("x y").unwrap_err().to_string(), "x y: there is no such snapshot");
}

#[test]
fn labels_change_and_times_with_them() {
    let temp = tempfile::tempdir().unwrap();
    let snapshots = with_layers(temp.path());
    let mut info = snapshots.stat("mid").unwrap();
    let before = info.clone();
    info.labels = labels(&[("a", "1"), ("containerd.io/snapshot.ref", "sha256:0"), ("gone", "")]);
    info.kind = Kind::View;
    let after = snapshots.update(&info, &[]).unwrap();
    assert_eq!(after.labels, labels(&[("a", "1"), ("containerd.io/snapshot.ref", "sha256:0")]));
    assert_eq!((after.kind, after.created), (Kind::Committed, before.created));
    assert!(after.updated >= before.updated);
    info.labels = labels(&[("a", "9"), ("b", "2")]);
    let after = snapshots.update(&info, &["labels.b"]).unwrap();
    assert_eq!(after.labels.get("a").map(String::as_str), Some("1"));
    assert_eq!(snapshots.stat("mid").unwrap(), after);
}

#[test]
fn walks_go_through_filters() {
    let temp = tempfile::tempdir().unwrap();
    let snapshots = with_layers(temp.path());
    snapshots.prepare("act", Some("mid"), labels(&[("a.b/c", "1")])).unwrap();
    snapshots.view("see", Some("base"), none()).unwrap();
    let found = |filters: &[&str]| {
        let mut keys = Vec::new();
        snapshots
            .walk(&Filters::parse(filters).unwrap(), |info| {
                // Whoever walks may ask.
                assert_eq!(snapshots.stat(&info.name)?, info);
                keys.push(info.name);
                Ok(())
            })
            .unwrap();
        keys.join(" ")
    };
    assert_eq!(found(&[]), "act base mid see");
    assert_eq!(found(&["kind==committed"]), "base mid");
    assert_eq!(found(&["kind==active", "kind==view"]), "act see");
    assert_eq!(found(&["parent==base"]), "mid see");
    assert_eq!(found(&[r#"labels."a.b/c"==1"#]), "act");
    assert_eq!(found(&["name~=^.i,kind==committed"]), "mid");
    let stop = snapshots.walk(&Filters::all(), |_| Err(layer_model::Error::cancelled()));
    assert_eq!(kind_of(stop), ErrorKind::Cancelled);
}

#[test]
fn images_that_are_put_in_place_are_the_layer() {
    let temp = tempfile::tempdir().unwrap();
    let snapshots = with_layers(temp.path());
    let mounts = snapshots.prepare("k", Some("mid"), none()).unwrap();
    let parents = snapshots.layer_stack("k").unwrap();
    let dir = SnapshotDir::from_mounts(&mounts).unwrap();
    let mut layer = MemoryLayer::new().file("applied", "x").changes();
    let base = Base::from_stack(parents.as_ref());
    dir.apply::<ErofsImage>(&mut layer, base, layer_image_options(), &Silent).unwrap();
    snapshots.commit("applied", "k", none(), &Silent).unwrap();
    let stack = snapshots.layer_stack("applied").unwrap().unwrap();
    assert_eq!(stack.len(), 3);
    assert!(stack.nearest().root().unwrap().lookup(b"applied").unwrap().is_some());
    // Without parents, what is applied is what the snapshot shows.
    snapshots.prepare("alone", None, none()).unwrap();
    let dir = snapshots.snapshot_dir("alone").unwrap();
    let mut layer = MemoryLayer::new().file("f", "x").changes();
    dir.apply::<ErofsImage>(&mut layer, Base::Empty, layer_image_options(), &Silent).unwrap();
    assert_eq!(snapshots.mounts("alone").unwrap()[0].kind, "erofs");
}

#[test]
fn a_torn_image_is_not_committed() {
    let temp = tempfile::tempdir().unwrap();
    let snapshots = open(temp.path(), options());
    snapshots.prepare("k", None, none()).unwrap();
    let dir = snapshots.snapshot_dir("k").unwrap();
    fs::write(dir.image_path(), [0; 5000]).unwrap();
    let error = snapshots.commit("n", "k", none(), &Silent).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::InvalidArchive);
    assert!(error.to_string().contains("layer.erofs"), "{error}");
    assert_eq!(snapshots.stat("k").unwrap().kind, Kind::Active);
}

#[test]
fn the_owner_of_the_upper_is_the_parents_or_the_mapped_root() {
    let temp = tempfile::tempdir().unwrap();
    let snapshots = with_layers(temp.path());
    let own = fs::metadata(temp.path()).unwrap();
    let owner = |key: &str| snapshots.snapshot_dir(key).unwrap().upper_owner().unwrap();
    snapshots.prepare("plain", Some("mid"), none()).unwrap();
    assert_eq!(owner("plain"), (own.uid(), own.gid()));
    let maps = |user: &str| {
        let group = format!("0:{}:1", own.gid());
        labels(&[("containerd.io/snapshot/uidmapping", user), ("containerd.io/snapshot/gidmapping", &group)])
    };
    snapshots.prepare("mapped", None, maps(&format!("5:7:1,0:{}:1", own.uid()))).unwrap();
    assert_eq!(owner("mapped"), (own.uid(), own.gid()));
    assert_eq!(kind_of(snapshots.prepare("bad", None, maps("0:1"))), ErrorKind::InvalidArgument);
    assert_eq!(kind_of(snapshots.stat("bad")), ErrorKind::NotFound);
    let left = names(&temp.path().join("snapshots"));
    assert_eq!(left, ["1", "2", "3", "4"]);
}

#[test]
fn what_was_left_is_removed_and_what_is_not_ours_is_not_opened() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("snapshots");
    let snapshots = with_layers(temp.path());
    let leave = || {
        for name in ["new-1", "rm-7-x", "77"] {
            fs::create_dir_all(folder.join(name).join("fs/deep/er")).unwrap();
            fs::write(folder.join(name).join("fs/deep/er/f"), "x").unwrap();
        }
    };
    leave();
    assert_eq!(snapshots.cleanup().unwrap().removed, 3);
    assert_eq!(names(&folder), ["1", "2"]);
    leave();
    drop(snapshots);
    let snapshots = open(temp.path(), options());
    assert_eq!(names(&folder), ["1", "2"]);
    // A commit that was cut off before it had emptied the upper directory.
    let dir = snapshots.snapshot_dir("mid").unwrap();
    fs::write(dir.upper_path().join("left"), "x").unwrap();
    drop(snapshots);
    drop(open(temp.path(), options()));
    assert_eq!(names(&dir.upper_path()), Vec::<String>::new());

    let refused = |root: &Path, kind: ErrorKind| {
        let before = names(root);
        assert_eq!(kind_of(Snapshotter::open(root, options())), kind);
        assert_eq!(names(root), before);
    };
    let other = temp.path().join("other");
    fs::create_dir_all(other.join("snapshots/1/fs")).unwrap();
    refused(&other, ErrorKind::FailedPrecondition);
    fs::write(other.join("metadata.db"), "").unwrap();
    refused(&other, ErrorKind::FailedPrecondition);
    fs::remove_file(temp.path().join("snapshots.redb")).unwrap();
    refused(temp.path(), ErrorKind::FailedPrecondition);
    fs::write(temp.path().join("snapshots.redb"), [1; 10_000]).unwrap();
    assert!(Snapshotter::open(temp.path(), options()).is_err());
    assert_eq!(names(&folder), ["1", "2"]);
}

#[test]
fn layers_can_stay_directories() {
    let temp = tempfile::tempdir().unwrap();
    let snapshots = with_layers(temp.path());
    drop(snapshots);
    let snapshots = open(temp.path(), options().convert_on_commit(false));
    snapshots.prepare("k", Some("mid"), none()).unwrap();
    let dir = snapshots.snapshot_dir("k").unwrap();
    fs::write(dir.upper_path().join("f"), "directory").unwrap();
    snapshots.commit("dir", "k", none(), &Silent).unwrap();
    assert_eq!(names(dir.path()), ["fs", "work"]);
    assert_eq!(snapshots.usage("dir").unwrap().inodes, 2);

    let error = snapshots.layer_stack("dir").unwrap_err();
    assert_eq!(
        error.to_string(),
        "dir: a layer of another form is needed (expected EROFS image, got overlay directory)"
    );
    assert_eq!(snapshots.layers("dir").unwrap().unwrap().len(), 3);
    assert_eq!(snapshots.view("all", Some("dir"), none()).unwrap().len(), 3);
    snapshots.prepare("k", None, none()).unwrap();
    let dir = snapshots.snapshot_dir("k").unwrap();
    snapshots.commit("alone", "k", none(), &Silent).unwrap();
    let view = snapshots.view("v", Some("alone"), none()).unwrap();
    assert_eq!(
        (view[0].kind.as_str(), view[0].source.as_str()),
        ("bind", dir.upper_path().to_str().unwrap())
    );
    // A view of a directory is nothing to put an image into.
    assert_eq!(kind_of(SnapshotDir::from_mounts(&view)), ErrorKind::NotSupported);
    let mounts = snapshots.prepare("k", Some("dir"), none()).unwrap();
    assert_eq!(mounts.len(), 3);

    // An image over a mixed stack.
    drop(snapshots);
    let snapshots = open(temp.path(), options());
    let dir = snapshots.snapshot_dir("k").unwrap();
    fs::write(dir.upper_path().join("g"), "new").unwrap();
    snapshots.commit("top", "k", none(), &Silent).unwrap();
    assert!(dir.image().unwrap().unwrap().root().unwrap().lookup(b"g").unwrap().is_some());
}

#[test]
fn several_threads_work_at_once() {
    let temp = tempfile::tempdir().unwrap();
    let snapshots = with_layers(temp.path());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let snapshots = &snapshots;
            scope.spawn(move || {
                for n in 0..5 {
                    let (key, name) = (format!("k{thread}-{n}"), format!("n{thread}-{n}"));
                    snapshots.prepare(&key, Some("mid"), none()).unwrap();
                    fs::write(snapshots.snapshot_dir(&key).unwrap().upper_path().join("f"), &key).unwrap();
                    snapshots.cleanup().unwrap();
                    snapshots.commit(&name, &key, none(), &Silent).unwrap();
                    if n % 2 == 0 {
                        snapshots.remove(&name).unwrap();
                    }
                }
            });
        }
        // All want the same one: one has it.
        let won: usize = scope
            .spawn(|| {
                snapshots.prepare("same", None, none()).unwrap();
                std::thread::scope(|scope| {
                    let all: Vec<_> = (0..4)
                        .map(|n| {
                            let snapshots = &snapshots;
                            scope.spawn(move || {
                                snapshots.commit(&format!("same-{n}"), "same", none(), &Silent)
                            })
                        })
                        .collect();
                    all.into_iter().map(|t| usize::from(t.join().unwrap().is_ok())).sum()
                })
            })
            .join()
            .unwrap();
        assert_eq!(won, 1);
    });
    let mut left = 0;
    snapshots
        .walk(&Filters::parse(["kind==committed"]).unwrap(), |info| {
            left += 1;
            snapshots.layer_stack(&info.name).map(drop)
        })
        .unwrap();
    assert_eq!(left, 2 + 4 * 2 + 1);
    assert_eq!(names(&temp.path().join("snapshots")).len(), left);
}

#[test]
fn a_snapshotter_can_be_shared() {
    fn shared<T: Send + Sync>() {}
    shared::<Snapshotter>();
    assert!(format!("{:?}", SnapshotterOptions::new()).contains("convert_on_commit: true"));
}
