//! The lists, mounted for real: what a snapshot shows, and what its layer shows once it is committed.
//!
//! Needs root, and a kernel that mounts EROFS and overlayfs.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::{
    fs,
    num::NonZeroUsize,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
};

use erofs_snapshotter::{Filters, Labels, MountForm, Snapshotter, SnapshotterOptions};
use kernel_mount::{ActivateOptions, activate, umount};
use layer_model::{ErrorKind, LayerTree, Silent, merged::Merged, testing::Snapshot};
use layer_mounts::Mount;
use overlay_dir::{PlainDir, PlainDirOptions};
use support::can;

fn can_mount(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if root {
        drop(std::process::Command::new("modprobe").args(["-qa", "erofs", "loop", "overlay"]).status());
    }
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let known = ["erofs", "overlay"].iter().all(|name| known.split_whitespace().any(|word| word == *name));
    can(test, "root, and a kernel with EROFS and overlayfs", root && known)
}

/// Something mounted, until this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(mounts: &[Mount], at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        activate(mounts, at, &ActivateOptions::new()).unwrap_or_else(|e| panic!("{mounts:#?}: {e:?}"));
        Self(at.to_owned())
    }

    fn seen(&self) -> Snapshot {
        Snapshot::of(&PlainDir::open(&self.0, PlainDirOptions::default()).unwrap()).unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount(&self.0);
    }
}

/// What a container does, layer by layer.
fn work(layer: usize, root: &Path) {
    let at = |name: &str| root.join(name);
    match layer {
        0 => {
            fs::create_dir_all(at("usr/lib/deep")).unwrap();
            fs::create_dir_all(at("var/cache/a/b")).unwrap();
            fs::write(at("usr/lib/one"), vec![1; 70_000]).unwrap();
            fs::write(at("usr/lib/deep/two"), "two").unwrap();
            fs::write(at("var/cache/a/b/c"), "c").unwrap();
            fs::write(at("both"), "both").unwrap();
            fs::hard_link(at("both"), at("usr/both")).unwrap();
            symlink("usr/lib", at("lib")).unwrap();
            fs::set_permissions(root, fs::Permissions::from_mode(0o751)).unwrap();
        }
        1 => {
            fs::remove_file(at("usr/lib/deep/two")).unwrap();
            fs::remove_dir_all(at("var/cache")).unwrap();
            fs::create_dir_all(at("var/cache/new")).unwrap();
            fs::write(at("var/cache/new/n"), "n").unwrap();
            fs::write(at("lib/three"), "three").unwrap();
            chown(at("usr"), Some(12), Some(34)).unwrap();
        }
        2 => {
            fs::rename(at("usr/lib/one"), at("usr/eins")).unwrap();
            fs::remove_file(at("lib")).unwrap();
            fs::create_dir(at("lib")).unwrap();
            fs::write(at("lib/one"), "another").unwrap();
            fs::write(at("both"), "changed").unwrap();
            fs::set_permissions(at("usr/lib"), fs::Permissions::from_mode(0o700)).unwrap();
        }
        _ => {
            fs::remove_dir_all(at("usr/lib")).unwrap();
            fs::write(at("usr/lib"), "a file now").unwrap();
            fs::write(at("var/cache/new/m"), "m").unwrap();
        }
    }
}

const LAYERS: usize = 4;

/// Makes the layers, each in its own way, and compares what is seen at every step.
fn run(root: &Path, ways: &[&SnapshotterOptions]) {
    let folder = root.join("root");
    let target = root.join("m");
    let mut parent: Option<String> = None;
    for layer in 0..LAYERS {
        let snapshots = Snapshotter::open(&folder, ways[layer % ways.len()].clone()).unwrap();
        let mounts = snapshots.prepare("k", parent.as_deref(), Labels::new()).unwrap();
        let before = {
            let mounted = Mounted::new(&mounts, &target);
            work(layer, &target);
            mounted.seen()
        };
        let again = Mounted::new(&snapshots.mounts("k").unwrap(), &target).seen();
        before.assert_same(&again);

        let name = format!("layer-{layer}");
        snapshots.commit(&name, "k", Labels::new(), &Silent).unwrap();
        let view = snapshots.view("v", Some(&name), Labels::new()).unwrap();
        {
            let mounted = Mounted::new(&view, &target);
            before.assert_same(&mounted.seen());
            let error = fs::write(target.join("x"), "x").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        }
        // The same without any mount.
        let layers = snapshots.layers(&name).unwrap().unwrap();
        let trees = layers.iter().map(|layer| std::sync::Arc::new(Tree(layer.clone())) as _);
        before.assert_same(&Snapshot::of(&Merged::new(trees.collect()).unwrap()).unwrap());
        snapshots.remove("v").unwrap();
        parent = Some(name);
    }
    let snapshots = Snapshotter::open(&folder, SnapshotterOptions::new()).unwrap();
    for layer in (0..LAYERS).rev() {
        snapshots.remove(&format!("layer-{layer}")).unwrap();
    }
    assert_eq!(support::names(&folder.join("snapshots")), Vec::<String>::new());
}

struct Tree(layer_model::AnyLayer);

impl LayerTree for Tree {
    fn root(&self) -> layer_model::Result<std::sync::Arc<dyn layer_model::LayerDir>> {
        self.0.as_tree().unwrap().root()
    }
}

#[test]
fn layers_of_every_form_show_what_the_container_saw() {
    if !can_mount("layers_of_every_form_show_what_the_container_saw") {
        return;
    }
    let images = SnapshotterOptions::new();
    let merged = SnapshotterOptions::new().merge_threshold(NonZeroUsize::new(2));
    let dirs = SnapshotterOptions::new().convert_on_commit(false);
    let all: [&[&SnapshotterOptions]; 6] = [
        &[&images],
        &[&merged],
        &[&images, &images, &merged, &images],
        &[&dirs],
        &[&images, &dirs],
        &[&dirs, &images, &merged, &dirs],
    ];
    for (at, ways) in all.iter().enumerate() {
        eprintln!("way {at}");
        let temp = tempfile::tempdir().unwrap();
        run(temp.path(), ways);
    }
}

#[test]
fn overlay_options_count_in_mounts_and_in_commits() {
    if !can_mount("overlay_options_count_in_mounts_and_in_commits") {
        return;
    }
    let options =
        SnapshotterOptions::new().ovl_mount_options(["redirect_dir=on", "metacopy=on", "index=off"]);
    let temp = tempfile::tempdir().unwrap();
    let snapshots = Snapshotter::open(temp.path().join("root"), options).unwrap();
    let target = temp.path().join("m");
    let mut shown = None;
    for (layer, parent) in [(0, None), (1, Some("layer-0")), (2, Some("layer-1"))] {
        let mounts = snapshots.prepare("k", parent, Labels::new()).unwrap();
        let mounted = Mounted::new(&mounts, &target);
        match layer {
            0 => work(0, &target),
            // A directory of a lower layer moves, and a file changes in its metadata alone.
            1 => {
                fs::rename(target.join("usr/lib"), target.join("moved")).unwrap();
                fs::set_permissions(target.join("both"), fs::Permissions::from_mode(0o600)).unwrap();
            }
            _ => fs::write(target.join("moved/four"), "four").unwrap(),
        }
        shown = Some(mounted.seen());
        drop(mounted);
        snapshots.commit(&format!("layer-{layer}"), "k", Labels::new(), &Silent).unwrap();
    }
    let view = snapshots.view("v", Some("layer-2"), Labels::new()).unwrap();
    shown.unwrap().assert_same(&Mounted::new(&view, &target).seen());
}

#[test]
fn images_can_be_mounted_by_whoever_asks() {
    if !can_mount("images_can_be_mounted_by_whoever_asks") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let options = SnapshotterOptions::new().mount_form(MountForm::Premounted);
    let snapshots = Snapshotter::open(temp.path().join("root"), options).unwrap();
    let target = temp.path().join("m");
    let mut premounted: Vec<Mounted> = Vec::new();
    let mut shown = None;
    for layer in 0..LAYERS {
        let parent = layer.checked_sub(1).map(|below| format!("layer-{below}"));
        let mounts = snapshots.prepare("k", parent.as_deref(), Labels::new()).unwrap();
        assert_eq!(mounts.len(), 1);
        for (mount, at) in snapshots.premounts("k").unwrap() {
            if !premounted.iter().any(|mounted| mounted.0 == at) {
                premounted.push(Mounted::new(&[mount], &at));
            }
        }
        let mounted = Mounted::new(&mounts, &target);
        work(layer, &target);
        shown = Some(mounted.seen());
        drop(mounted);
        snapshots.commit(&format!("layer-{layer}"), "k", Labels::new(), &Silent).unwrap();
    }
    let view = snapshots.view("v", Some("layer-3"), Labels::new()).unwrap();
    for (mount, at) in snapshots.premounts("v").unwrap() {
        if !premounted.iter().any(|mounted| mounted.0 == at) {
            premounted.push(Mounted::new(&[mount], &at));
        }
    }
    shown.unwrap().assert_same(&Mounted::new(&view, &target).seen());
    // What is mounted is left alone, and removed once it is not.
    assert!(snapshots.cleanup().unwrap().failed.is_empty());
    assert!(premounted[0].0.join("usr").exists());
    snapshots.remove("v").unwrap();
    snapshots.remove("layer-3").unwrap();
    assert_eq!(snapshots.stat("layer-3").unwrap_err().kind(), &ErrorKind::NotFound);
    let cleaned = snapshots.cleanup().unwrap();
    assert_eq!((cleaned.removed, cleaned.failed.len()), (0, 1), "{cleaned:?}");
    let left = cleaned.failed[0].0.join("fs");
    assert!(left.join("usr").exists(), "what is mounted was not touched");
    umount(&left).unwrap();
    assert_eq!(snapshots.cleanup().unwrap().removed, 1);
    drop(premounted);
    let mut count = 0;
    snapshots
        .walk(&Filters::all(), |_| {
            count += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(count, 3);
}
