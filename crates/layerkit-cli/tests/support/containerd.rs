//! A real containerd.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{SharedDir, peer_ok};

/// Leaves one image in a layout's index: `ctr` unpacks all that it imports, and refuses some of the others.
fn only_tag(index: &Path, tag: &str) {
    let mut value: serde_json::Value = serde_json::from_slice(&fs::read(index).unwrap()).unwrap();
    let manifests = value["manifests"].as_array_mut().unwrap();
    manifests.retain(|m| m["annotations"]["org.opencontainers.image.ref.name"] == tag);
    assert_eq!(manifests.len(), 1);
    fs::write(index, value.to_string()).unwrap();
}

/// Packs the image `tag` of a layout, for `ctr` to import.
pub(crate) fn archive_of(layout: &Path, tag: &str, to: &Path) {
    only_tag(&layout.join("index.json"), tag);
    let tar = Command::new("tar").arg("-C").arg(layout).arg("-cf").arg(to).arg(".").status();
    assert!(tar.unwrap().success());
}

/// A containerd of the test's own, with its state in the shared directory.
pub(crate) struct Containerd<'a> {
    peers: &'a Path,
    socket: String,
    child: Child,
}

impl<'a> Containerd<'a> {
    pub(crate) fn start(peers: &'a Path, share: &SharedDir) -> Self {
        let inside = |name: &str| share.inside.join(name).display().to_string();
        // A Unix socket's path is short, the shared directory's may not be.
        let socket = format!("/run/layerkit-{}.sock", share.inside.file_name().unwrap().display());
        let config = format!(
            "version = 3\nroot = '{}'\nstate = '{}'\ndisabled_plugins = ['io.containerd.snapshotter.v1.btrfs', \
             'io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime']\n\
             [grpc]\n  address = '{socket}'\n\
             [plugins.'io.containerd.service.v1.diff-service']\n  default = ['erofs', 'walking']\n",
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
            if super::peer(peers, ["ctr", "-a", &containerd.socket, "version"]).status.success() {
                return containerd;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!(
            "containerd did not start: {}",
            fs::read_to_string(share.outside.join("containerd.log")).unwrap()
        );
    }

    /// Runs `ctr`, and gives what it prints.
    #[track_caller]
    pub(crate) fn ctr(&self, args: &[&str]) -> String {
        let args = ["ctr", "-a", &self.socket].into_iter().chain(args.iter().copied());
        String::from_utf8(peer_ok(self.peers, args)).unwrap()
    }

    /// Imports and unpacks the images of an archive; their names are `case:TAG`.
    #[track_caller]
    pub(crate) fn import(&self, archive: &Path, snapshotter: &str) {
        let archive = archive.display().to_string();
        let what = ["images", "import", "--local", "--base-name", "case", "--snapshotter", snapshotter];
        self.ctr(&[&what[..], &[&archive]].concat());
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
