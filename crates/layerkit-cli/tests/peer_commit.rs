//! Changes made in a real overlay mount, committed, and unpacked by others: umoci and containerd must show the
//! merged view that the kernel showed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};
use support::{Mounted, SharedDir, layerkit_ok, peer_ok, snapshot};

/// Mounts `lowers` (nearest first) with `upper` on top, and with the features that make an upper directory hard
/// to read.
fn overlay(lowers: &[PathBuf], upper: &Path, work: &Path, mountpoint: &Path) -> Mounted {
    for dir in [upper, work, mountpoint] {
        fs::create_dir_all(dir).unwrap();
    }
    let lowers: Vec<_> = lowers.iter().map(|l| l.display().to_string()).collect();
    let options = format!(
        "redirect_dir=on,metacopy=on,index=off,lowerdir={},upperdir={},workdir={}",
        lowers.join(":"),
        upper.display(),
        work.display()
    );
    let status =
        Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(mountpoint).status();
    assert!(status.unwrap().success(), "overlay mount with {options}");
    Mounted(mountpoint.to_owned())
}

/// Every kind of change, made as a container would make it.
fn change(root: &Path) {
    let at = |path: &str| root.join(path);
    // add, modify, change the mode only (a metacopy), delete
    fs::write(at("srv/case/added"), "new file").unwrap();
    fs::create_dir(at("srv/new")).unwrap();
    fs::write(at("srv/new/inner"), "in a new directory").unwrap();
    fs::write(at("etc/hostname"), "changed").unwrap();
    fs::set_permissions(at("etc/debian_version"), fs::Permissions::from_mode(0o600)).unwrap();
    chown(at("etc/os-release"), Some(7), Some(8)).ok();
    chown(at("usr/lib/os-release"), Some(7), Some(8)).unwrap();
    fs::remove_file(at("etc/fstab")).unwrap();
    fs::remove_dir_all(at("usr/share/zoneinfo")).ok();
    fs::remove_dir_all(at("usr/share/bash-completion")).unwrap();
    // delete and make again: opaque
    fs::remove_dir_all(at("etc/apt")).unwrap();
    fs::create_dir(at("etc/apt")).unwrap();
    fs::write(at("etc/apt/only"), "nothing of the old directory").unwrap();
    // rename a directory of a lower layer: a redirect; and one inside it
    fs::rename(at("usr/share/perl5"), at("usr/share/perl-moved")).unwrap();
    fs::rename(at("usr/lib/git-core/mergetools"), at("usr/share/perl-moved/mergetools")).unwrap();
    fs::write(at("usr/share/perl-moved/added"), "into a renamed directory").unwrap();
    // type changes
    fs::remove_file(at("etc/issue.net")).unwrap();
    fs::create_dir(at("etc/issue.net")).unwrap();
    fs::write(at("etc/issue.net/x"), "was a file").unwrap();
    fs::remove_dir_all(at("etc/init.d")).unwrap();
    fs::write(at("etc/init.d"), "was a directory").unwrap();
    // hard links, attributes, special files, links
    fs::hard_link(at("srv/case/added"), at("srv/case/added-too")).unwrap();
    fs::hard_link(at("srv/case/attrs"), at("srv/case/attrs-too")).unwrap();
    setxattr(at("srv/case/added"), "user.note", b"kept", XattrFlags::empty()).unwrap();
    mknodat(CWD, at("srv/case/zero"), FileType::CharacterDevice, Mode::from(0o640), makedev(1, 5)).unwrap();
    mknodat(CWD, at("srv/case/queue"), FileType::Fifo, Mode::from(0o600), 0).unwrap();
    symlink("../absent", at("srv/case/dangling")).unwrap();
    fs::DirBuilder::new().mode(0o1777).create(at("srv/sticky")).unwrap();
    fs::write(at("srv/case/grüße \n"), "an odd name").unwrap();
    let long = at("srv").join("l".repeat(180)).join("m".repeat(180));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("deep"), "a long path").unwrap();
}

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
    only_tag(&share.outside.join("image/index.json"), "changed");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(share.outside.join("image")).arg("-cf").arg(share.outside.join("image.tar")).arg(".");
    assert!(tar.status().unwrap().success());
    containerd.ctr(&[
        "images",
        "import",
        "--local",
        "--base-name",
        "case",
        "--snapshotter",
        "overlayfs",
        &share.inside.join("image.tar").display().to_string(),
    ]);
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

/// Leaves one image in a layout's index: `ctr` unpacks all that it imports, and refuses some of the others.
fn only_tag(index: &Path, tag: &str) {
    let mut value: serde_json::Value = serde_json::from_slice(&fs::read(index).unwrap()).unwrap();
    let manifests = value["manifests"].as_array_mut().unwrap();
    manifests.retain(|m| m["annotations"]["org.opencontainers.image.ref.name"] == tag);
    assert_eq!(manifests.len(), 1);
    fs::write(index, value.to_string()).unwrap();
}

/// A containerd of the test's own, with its state in the shared directory.
struct Containerd<'a> {
    peers: &'a Path,
    socket: String,
    child: Child,
}

impl<'a> Containerd<'a> {
    fn start(peers: &'a Path, share: &SharedDir) -> Self {
        let inside = |name: &str| share.inside.join(name).display().to_string();
        // A Unix socket's path is short, the shared directory's may not be.
        let socket = format!("/run/layerkit-{}.sock", std::process::id());
        let config = format!(
            "version = 3\nroot = '{}'\nstate = '{}'\ndisabled_plugins = ['io.containerd.snapshotter.v1.btrfs', \
             'io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime']\n\
             [grpc]\n  address = '{socket}'\n",
            inside("ctrd-root"),
            inside("ctrd-state"),
        );
        fs::write(share.outside.join("config.toml"), config).unwrap();
        let child = Command::new("chroot")
            .arg(peers)
            .args(["containerd", "-c", &inside("config.toml")])
            .stdout(Stdio::null())
            .stderr(fs::File::create(share.outside.join("containerd.log")).unwrap())
            .spawn()
            .unwrap();
        let containerd = Self { peers, socket, child };
        for _ in 0..200 {
            if support::peer(peers, ["ctr", "-a", &containerd.socket, "version"]).status.success() {
                return containerd;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!(
            "containerd did not start: {}",
            fs::read_to_string(share.outside.join("containerd.log")).unwrap()
        );
    }

    #[track_caller]
    fn ctr(&self, args: &[&str]) {
        let args = ["ctr", "-a", &self.socket].into_iter().chain(args.iter().copied());
        peer_ok(self.peers, args);
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
