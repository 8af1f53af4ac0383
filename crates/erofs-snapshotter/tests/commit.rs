//! What a commit makes of an upper directory, and what it does besides.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::{
    fs,
    num::NonZeroUsize,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    sync::Mutex,
};

use erofs_snapshotter::{DirState, Kind, Labels, SnapshotDir, Snapshotter, SnapshotterOptions};
use layer_model::{
    ErrorKind, LayerTree, Monitor, Silent, Warning, WarningKind,
    merged::Merged,
    testing::Snapshot,
    tree::{LayerTreeExt, NodeKind},
};
use overlay_dir::{Namespace, OverlayDir, OverlayDirOptions};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat};
use support::{labels, names, open, options};

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn whiteout(path: &Path) {
    mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)).unwrap();
}

/// Warnings, as text.
#[derive(Default)]
struct Heard(Mutex<Vec<(WarningKind, String)>>);

impl Monitor for Heard {
    fn warn(&self, warning: &Warning<'_>) {
        self.0.lock().unwrap().push((warning.kind, warning.to_string()));
    }
}

fn upper(snapshots: &Snapshotter, key: &str) -> std::path::PathBuf {
    snapshots.snapshot_dir(key).unwrap().upper_path()
}

fn overlay_dir(path: &Path) -> OverlayDir {
    OverlayDir::open(path, OverlayDirOptions::default().namespace(Namespace::User)).unwrap()
}

/// A layer with all that a layer can have.
fn fill_bottom(dir: &Path) {
    fs::create_dir_all(dir.join("etc/deep/er")).unwrap();
    fs::create_dir(dir.join("opaque")).unwrap();
    fs::write(dir.join("opaque/hidden"), "hidden").unwrap();
    fs::write(dir.join("etc/passwd"), "root").unwrap();
    fs::write(dir.join("etc/gone"), "x").unwrap();
    fs::write(dir.join("etc/deep/er/big"), vec![7; 100_000]).unwrap();
    fs::write(dir.join("empty"), "").unwrap();
    fs::hard_link(dir.join("etc/passwd"), dir.join("etc/link")).unwrap();
    symlink("../etc/passwd", dir.join("etc/soft")).unwrap();
    let sparse = fs::File::create(dir.join("sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    mknodat(CWD, dir.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    fs::set_permissions(dir.join("etc"), fs::Permissions::from_mode(0o1770)).unwrap();
    set_xattr(&dir.join("empty"), "user.note", b"kept");
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).unwrap();
    set_xattr(dir, "user.root", b"too");
}

/// Changes to it, in overlayfs's form.
fn fill_top(dir: &Path) {
    fs::create_dir_all(dir.join("etc/deep")).unwrap();
    fs::set_permissions(dir.join("etc"), fs::Permissions::from_mode(0o755)).unwrap();
    whiteout(&dir.join("etc/gone"));
    whiteout(&dir.join("sparse"));
    fs::write(dir.join("etc/deep/new"), "new").unwrap();
    fs::create_dir(dir.join("opaque")).unwrap();
    fs::write(dir.join("opaque/seen"), "seen").unwrap();
    set_xattr(&dir.join("opaque"), "user.overlay.opaque", b"y");
    fs::write(dir.join("empty"), "not any more").unwrap();
}

#[test]
fn the_image_is_what_a_compare_of_the_directories_says() {
    let temp = tempfile::tempdir().unwrap();
    let snapshots = open(&temp.path().join("root"), options());
    // What is committed, kept beside.
    let kept = temp.path().join("kept");
    let mut dirs = Vec::new();
    let fills: [fn(&Path); 2] = [fill_bottom, fill_top];
    let mut parent = None;
    for (n, fill) in fills.iter().enumerate() {
        snapshots.prepare("k", parent, Labels::new()).unwrap();
        let dir = snapshots.snapshot_dir("k").unwrap();
        fill(&dir.upper_path());
        let copy = kept.join(n.to_string());
        fs::create_dir_all(&kept).unwrap();
        let status = std::process::Command::new("cp").arg("-a").arg(dir.upper_path()).arg(&copy).status();
        assert!(status.unwrap().success());
        dirs.push(copy);
        let name = ["bottom", "top"][n];
        snapshots.commit(name, "k", Labels::new(), &Silent).unwrap();
        assert_eq!((names(&dir.upper_path()), names(&dir.work_path())), (vec![], vec![]));
        parent = Some(name);
    }
    let bottom = snapshots.layer_stack("bottom").unwrap().unwrap();
    // The bottom layer has nothing below: it is the directory, in all.
    Snapshot::of(&overlay_dir(&dirs[0])).unwrap().assert_same(&Snapshot::of(bottom.nearest()).unwrap());
    let root = bottom.nearest().root().unwrap().node().unwrap();
    assert_eq!((root.metadata.mode, root.xattrs.get(b"user.root")), (0o711, Some(&b"too"[..])));
    // The top one shows the same over its parent as the directory over its own.
    let top = snapshots.layer_stack("top").unwrap().unwrap();
    let layers =
        dirs.iter().rev().map(|dir| std::sync::Arc::new(overlay_dir(dir)) as std::sync::Arc<dyn LayerTree>);
    let want = Merged::new(layers.collect()).unwrap();
    Snapshot::of(&want).unwrap().assert_same(&Snapshot::of(&Merged::of_stack(&top)).unwrap());
    // And is in overlay form by itself.
    let look = |path: &str| {
        let path = layer_model::LayerPathBuf::clean(path.as_bytes()).unwrap();
        top.nearest().lookup_path(path.as_path()).unwrap()
    };
    assert!(look("etc/gone").unwrap().is_whiteout() && look("sparse").unwrap().is_whiteout());
    assert!(look("opaque").unwrap().markers.opaque && !look("etc").unwrap().markers.opaque);
    assert!(look("pipe").is_none() && matches!(look("empty").unwrap().kind, NodeKind::File { size: 12 }));
}

#[test]
fn the_same_upper_gives_the_same_image() {
    let images: Vec<_> = (0..2)
        .map(|_| {
            let temp = tempfile::tempdir().unwrap();
            let snapshots = open(temp.path(), options());
            snapshots.prepare("k", None, Labels::new()).unwrap();
            let dir = snapshots.snapshot_dir("k").unwrap();
            for name in ["a", "b", "c"] {
                fs::write(dir.upper_path().join(name), name.repeat(3000)).unwrap();
            }
            let at = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000, 5);
            for name in ["a", "b", "c", "."] {
                fs::File::open(dir.upper_path().join(name)).unwrap().set_modified(at).unwrap();
            }
            snapshots.commit("n", "k", Labels::new(), &Silent).unwrap();
            fs::read(dir.image_path()).unwrap()
        })
        .collect();
    assert!(images[0] == images[1]);
}

#[test]
fn a_failed_commit_leaves_the_snapshot_active() {
    let temp = tempfile::tempdir().unwrap();
    let snapshots = open(temp.path(), options());
    snapshots.prepare("k", None, Labels::new()).unwrap();
    let dir = snapshots.snapshot_dir("k").unwrap();
    fs::write(dir.upper_path().join("f"), "first").unwrap();
    let same = |path: &Path| {
        assert_eq!(names(path), [".erofslayer", "fs", "work"]);
        assert_eq!(snapshots.stat("k").unwrap().kind, Kind::Active);
    };
    // A volatile mount was here.
    fs::create_dir_all(dir.work_path().join("work/incompat/volatile")).unwrap();
    let error = snapshots.commit("n", "k", Labels::new(), &Silent).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::FailedPrecondition);
    same(dir.path());
    fs::remove_dir_all(dir.work_path().join("work")).unwrap();
    // Somebody stops it.
    struct Stop;
    impl Monitor for Stop {
        fn should_stop(&self) -> bool {
            true
        }
    }
    assert_eq!(snapshots.commit("n", "k", Labels::new(), &Stop).unwrap_err().kind(), &ErrorKind::Cancelled);
    same(dir.path());
    // The upper is in a file system in a file.
    fs::write(dir.path().join("rwlayer.img"), "").unwrap();
    assert!(dir.has_block_image().unwrap());
    let error = snapshots.commit("n", "k", Labels::new(), &Silent).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotSupported);
    fs::remove_file(dir.path().join("rwlayer.img")).unwrap();
    // What was written since counts.
    fs::write(dir.upper_path().join("f"), "second").unwrap();
    snapshots.commit("n", "k", Labels::new(), &Silent).unwrap();
    let stack = snapshots.layer_stack("n").unwrap().unwrap();
    let file = stack.nearest().open_path(layer_model::LayerPath::new(b"f").unwrap()).unwrap();
    let mut text = [0; 6];
    file.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"second");
}

#[test]
fn a_volatile_upper_is_committed_where_that_is_allowed() {
    let temp = tempfile::tempdir().unwrap();
    let heard = Heard::default();
    let snapshots = open(
        temp.path(),
        SnapshotterOptions::new().ovl_mount_options(["userxattr", "volatile"]).allow_volatile(true),
    );
    snapshots.prepare("k", None, Labels::new()).unwrap();
    snapshots.commit("n", "k", Labels::new(), &heard).unwrap();
    assert_eq!(heard.0.into_inner().unwrap()[0].0, WarningKind::VolatileUpper);
}

#[test]
fn without_fs_verity_a_commit_that_wants_it_fails() {
    let temp = tempfile::tempdir().unwrap();
    let snapshots = open(temp.path(), options().enable_fsverity(true));
    snapshots.prepare("k", None, Labels::new()).unwrap();
    let dir = snapshots.snapshot_dir("k").unwrap();
    fs::write(dir.upper_path().join("f"), "x").unwrap();
    match snapshots.commit("n", "k", Labels::new(), &Silent) {
        Err(error) => {
            assert_eq!(error.kind(), &ErrorKind::NotSupported);
            assert!(error.to_string().contains("fs-verity"), "{error}");
            assert_eq!(names(dir.path()), [".erofslayer", "fs", "work"]);
            assert_eq!(dir.state().unwrap(), DirState::Active);
        }
        // A file system that has it: then it is checked.
        Ok(()) => {
            snapshots.view("v", Some("n"), Labels::new()).unwrap();
            assert!(fs::OpenOptions::new().write(true).open(dir.image_path()).is_err());
        }
    }
    // Layers that were committed without are not handed out.
    drop(snapshots);
    let other = tempfile::tempdir().unwrap();
    let snapshots = open(other.path(), options());
    snapshots.prepare("k", None, Labels::new()).unwrap();
    snapshots.commit("n", "k", Labels::new(), &Silent).unwrap();
    snapshots.view("v", Some("n"), Labels::new()).unwrap();
    drop(snapshots);
    let snapshots = open(other.path(), options().enable_fsverity(true));
    for result in [snapshots.mounts("v").map(drop), snapshots.layer_stack("n").map(drop)] {
        assert_eq!(result.unwrap_err().kind(), &ErrorKind::FailedPrecondition);
    }
    let failed = snapshots.prepare("k", Some("n"), Labels::new());
    assert_eq!(failed.unwrap_err().kind(), &ErrorKind::FailedPrecondition);
    assert_eq!(names(&other.path().join("snapshots")), ["1", "2"]);
}

#[test]
fn immutable_images_cannot_be_changed_and_are_removed_with_their_snapshot() {
    let temp = tempfile::tempdir().unwrap();
    let heard = Heard::default();
    let snapshots = open(temp.path(), options().set_immutable(true));
    snapshots.prepare("k", None, Labels::new()).unwrap();
    let dir = snapshots.snapshot_dir("k").unwrap();
    snapshots.commit("n", "k", Labels::new(), &heard).unwrap();
    let heard = heard.0.into_inner().unwrap();
    if heard.is_empty() {
        assert!(fs::remove_file(dir.image_path()).is_err());
        assert!(fs::OpenOptions::new().write(true).open(dir.image_path()).is_err());
    } else {
        assert_eq!(heard[0].0, WarningKind::StoreDegraded);
        assert!(heard[0].1.starts_with("snapshots/1/layer.erofs: "), "{}", heard[0].1);
        support::can("immutable images", "a file system with such flags, and root", false);
    }
    snapshots.remove("n").unwrap();
    assert_eq!(names(&temp.path().join("snapshots")), Vec::<String>::new());
}

#[test]
fn the_image_of_a_cache_is_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    let cache = SnapshotDir::create_active(temp.path().join("cache")).unwrap();
    cache
        .apply::<layer_apply::ErofsImage>(
            &mut layer_model::testing::MemoryLayer::new().file("f", "x").changes(),
            layer_model::Base::Empty,
            erofs_snapshotter::layer_image_options(),
            &Silent,
        )
        .unwrap();
    let before = fs::metadata(cache.image_path()).unwrap();
    let snapshots = open(&temp.path().join("root"), options().set_immutable(true));
    snapshots.prepare("k", None, Labels::new()).unwrap();
    let dir = snapshots.snapshot_dir("k").unwrap();
    symlink(cache.image_path(), dir.image_path()).unwrap();
    snapshots.commit("n", "k", labels(&[("a", "b")]), &Silent).unwrap();
    assert!(snapshots.layer_stack("n").unwrap().is_some());
    snapshots.remove("n").unwrap();
    let after = fs::metadata(cache.image_path()).unwrap();
    assert_eq!((after.ctime(), after.ctime_nsec()), (before.ctime(), before.ctime_nsec()));
    fs::remove_file(cache.image_path()).unwrap();
}

#[test]
fn high_stacks_get_merged_metadata() {
    let temp = tempfile::tempdir().unwrap();
    let snapshots = open(temp.path(), options().merge_threshold(NonZeroUsize::new(3)));
    let mut parent: Option<String> = None;
    for n in 1..=4 {
        snapshots.prepare("k", parent.as_deref(), Labels::new()).unwrap();
        fs::write(upper(&snapshots, "k").join(n.to_string()), "x").unwrap();
        let name = format!("n{n}");
        snapshots.commit(&name, "k", Labels::new(), &Silent).unwrap();
        assert_eq!(snapshots.snapshot_dir(&name).unwrap().has_fsmeta().unwrap(), n >= 3, "{n}");
        parent = Some(name);
    }
    let mounts = snapshots.view("v", Some("n4"), Labels::new()).unwrap();
    assert_eq!((mounts.len(), mounts[0].options.len(), mounts[1].kind.as_str()), (2, 2 + 4, "format/bind"));
    // A layer that cannot be merged is committed all the same.
    drop(snapshots);
    let snapshots = open(temp.path(), options().convert_on_commit(false));
    snapshots.prepare("k", Some("n4"), Labels::new()).unwrap();
    snapshots.commit("dir", "k", Labels::new(), &Silent).unwrap();
    drop(snapshots);
    let heard = Heard::default();
    let snapshots = open(temp.path(), options().merge_threshold(NonZeroUsize::new(3)));
    snapshots.prepare("k", Some("dir"), Labels::new()).unwrap();
    snapshots.commit("top", "k", Labels::new(), &heard).unwrap();
    let heard = heard.0.into_inner().unwrap();
    assert!(heard.len() == 1 && heard[0].1.contains("fsmeta.erofs"), "{heard:?}");
    assert!(!snapshots.snapshot_dir("top").unwrap().has_fsmeta().unwrap());
}
