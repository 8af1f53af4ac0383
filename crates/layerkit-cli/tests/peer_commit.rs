//! Changes made in a real overlay mount, committed, and unpacked by others: umoci and containerd must show the
//! merged view that the kernel showed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use support::{
    SharedDir,
    containerd::{Containerd, archive_of},
    layerkit_ok,
    overlay::{change, overlay},
    peer_ok, snapshot,
};

/// Unpacks `v1` of the real image, changes it in an overlay mount, and commits the change as `changed`. Gives the
/// merged view.
fn commit_changes(share: &SharedDir, inputs: &Path) -> layer_model::testing::Snapshot {
    let layout = share.outside.join("image");
    let copied = Command::new("cp").arg("-a").arg(inputs.join("image")).arg(&layout).status().unwrap();
    assert!(copied.success());
    let image = format!("oci:{}:v1", layout.display());
    let dest = share.outside.join("unpacked");
    let stack = layerkit_ok(["unpack".as_ref(), image.as_ref(), dest.as_os_str()]);
    let mut lowers: Vec<PathBuf> = stack["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| dest.join(l["path"].as_str().unwrap()).join("fs"))
        .collect();
    lowers.reverse();

    let [upper, work, merged] = ["upper", "work", "merged"].map(|n| share.outside.join(n));
    let mounted = overlay(&lowers, &upper, &work, &merged);
    change(&mounted.0);
    let want = snapshot(&mounted.0);
    drop(mounted);

    let mut args: Vec<std::ffi::OsString> =
        vec!["commit".into(), image.into(), "--upper".into(), upper.into()];
    for lower in lowers {
        args.extend(["--lower".into(), lower.into()]);
    }
    args.extend(["--tag".into(), "changed".into()]);
    let descriptor = layerkit_ok(args);
    assert_eq!(descriptor["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    want
}

#[test]
fn a_committed_change_unpacked_by_umoci_equals_the_merged_mount() {
    let test = "a_committed_change_unpacked_by_umoci_equals_the_merged_mount";
    need!(test, support::root());
    let (inputs, peers) = (need!(test, support::inputs()), need!(test, support::peers()));
    let share = SharedDir::new(&peers, "umoci");
    let want = commit_changes(&share, &inputs);

    let image = format!("{}:changed", share.inside.join("image").display());
    let bundle = share.inside.join("bundle");
    peer_ok(&peers, ["umoci", "unpack", "--image", &image, &bundle.display().to_string()]);
    let got = snapshot(&share.outside.join("bundle/rootfs"));
    // The layer carries whole seconds, and nothing about the root.
    let strip = |s: layer_model::testing::Snapshot| s.in_whole_seconds().without_root();
    strip(want).assert_same(&strip(got));
}

#[test]
fn a_committed_change_unpacked_by_containerd_equals_the_merged_mount() {
    let test = "a_committed_change_unpacked_by_containerd_equals_the_merged_mount";
    need!(test, support::root());
    let (inputs, peers) = (need!(test, support::inputs()), need!(test, support::peers()));
    let share = SharedDir::new(&peers, "containerd");
    let want = commit_changes(&share, &inputs);

    let containerd = Containerd::start(&peers, &share);
    archive_of(&share.outside.join("image"), "changed", &share.outside.join("image.tar"));
    containerd.import(&share.inside.join("image.tar"), "overlayfs");
    fs::create_dir(share.outside.join("view")).unwrap();
    let view = share.inside.join("view").display().to_string();
    containerd.ctr(&["images", "mount", "--snapshotter", "overlayfs", "case:changed", &view]);
    let got = snapshot(&share.outside.join("view"));
    containerd.ctr(&["images", "unmount", "--snapshotter", "overlayfs", &view]);

    // containerd never sets trusted attributes, nor does it keep times of directories that a layer implies.
    let strip = |s: layer_model::testing::Snapshot| {
        s.in_whole_seconds().without_root().without_dir_times().without_xattrs("trusted.")
    };
    strip(want).assert_same(&strip(got));
}
