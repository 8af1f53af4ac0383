//! skopeo and umoci read what the store wrote, and the store what they wrote.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;
#[path = "common/require.rs"]
mod require;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use common::{descriptor, digest, has, put_labelled};
use content_store::{
    CommitOptions, ContentStore, ContentStoreExt, Documents, GcOptions, LocalStore, Source,
    document::{CONFIG, MANIFEST},
    oci::Descriptor,
};
use layer_model::{Digest, Silent};
use serde_json::json;

/// A root with the peers, and a directory in it for one test.
struct Peers {
    root: PathBuf,
    work: tempfile::TempDir,
}

impl Peers {
    fn find(test: &str) -> Option<Self> {
        let root = require::peers(test, &["skopeo", "umoci"])?;
        let work = tempfile::tempdir_in(root.join("tmp")).unwrap();
        Some(Self { root, work })
    }

    fn outside(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    fn inside(&self, name: &str) -> String {
        Path::new("/").join(self.outside(name).strip_prefix(&self.root).unwrap()).display().to_string()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new("chroot").arg(&self.root).arg(program).args(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The tags that umoci finds, sorted.
    fn tags(&self, layout: &str) -> Vec<String> {
        let mut tags: Vec<_> =
            self.run("umoci", &["ls", "--layout", layout]).lines().map(str::to_owned).collect();
        tags.sort();
        tags
    }
}

/// A tar with one file, `motd`, that has this text.
fn tar(text: &str) -> Vec<u8> {
    let mut header = [0; 512];
    let mut field = |at: usize, value: &str| header[at..at + value.len()].copy_from_slice(value.as_bytes());
    field(0, "motd");
    for (at, mode) in [(100, "0000644"), (108, "0000000"), (116, "0000000")] {
        field(at, mode);
    }
    field(124, &format!("{:011o}", text.len()));
    field(136, &format!("{:011o}", 0));
    field(148, "        0");
    field(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header.to_vec();
    tar.extend_from_slice(text.as_bytes());
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}

fn tar_image(store: &LocalStore, text: &str) -> Descriptor {
    let tar = tar(text);
    let layer = store.write_blob("layer", Source::At(&tar), &CommitOptions::new(), &Silent).unwrap();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Healthcheck": {"Test": ["NONE"]}},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest.as_str()]},
    });
    let config = store.put_document(CONFIG, &config).unwrap();
    let layer = descriptor("application/vnd.oci.image.layer.v1.tar", &layer.digest, layer.size);
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
    store.put_document(MANIFEST, &manifest).unwrap()
}

#[test]
fn peers_read_and_extend_what_the_store_wrote() {
    let Some(peers) = Peers::find("peers_read_and_extend_what_the_store_wrote") else { return };
    let store = LocalStore::open_or_create(peers.outside("store")).unwrap();
    let manifest = tar_image(&store, "hello from the store");
    store.put_tag("v1", &manifest).unwrap();
    let labelled = put_labelled(&store, b"not part of an image", &[("k", "v")]);
    let inside = peers.inside("store");

    let seen = peers.run("skopeo", &["inspect", "--raw", &format!("oci:{inside}:v1")]);
    assert_eq!(Digest::sha256(&seen), digest(&manifest));
    let copy = peers.inside("copy");
    let (from, to) = (format!("oci:{inside}:v1"), format!("oci:{copy}:v1"));
    peers.run("skopeo", &["--insecure-policy", "copy", "--preserve-digests", &from, &to]);
    let copied = LocalStore::open(peers.outside("copy")).unwrap();
    assert_eq!(copied.resolve("v1").unwrap().digest(), manifest.digest());
    assert!(copied.check(&Default::default(), &Silent).unwrap().problems.is_empty());
    let bundle = peers.inside("bundle");
    peers.run("umoci", &["unpack", "--image", &format!("{inside}:v1"), &bundle]);
    assert_eq!(fs::read_to_string(peers.outside("bundle/rootfs/motd")).unwrap(), "hello from the store");

    // umoci writes into the store itself.
    peers.run("umoci", &["config", "--image", &format!("{inside}:v1"), "--tag", "v2", "--author", "umoci"]);
    assert_eq!(peers.tags(&inside), ["v1", "v2"]);
    let image = store.image("v2", None).unwrap();
    assert_eq!(image.config.author().as_deref(), Some("umoci"));
    assert_eq!(store.info(&labelled).unwrap().labels["k"], "v");
    // Its collector knows no labels, and takes what no tag reaches; ours agrees on the rest.
    peers.run("umoci", &["gc", "--layout", &inside]);
    assert!(!has(&store, &labelled));
    let report = store.gc(&GcOptions::new().grace(Duration::ZERO), &Silent).unwrap();
    assert!(report.removed.is_empty() && report.kept >= 5, "{report:?}");
    assert!(store.check(&Default::default(), &Silent).unwrap().problems.is_empty());
}

#[test]
fn the_store_reads_and_extends_what_peers_wrote() {
    let Some(peers) = Peers::find("the_store_reads_and_extends_what_peers_wrote") else { return };
    let inside = peers.inside("layout");
    peers.run("umoci", &["init", "--layout", &inside]);
    peers.run("umoci", &["new", "--image", &format!("{inside}:theirs")]);
    let store = LocalStore::open(peers.outside("layout")).unwrap();
    let theirs = store.image("theirs", None).unwrap();
    assert!(theirs.manifest.layers().is_empty());
    let ours = tar_image(&store, "ours");
    store.put_tag("ours", &ours).unwrap();
    assert_eq!(peers.tags(&inside), ["ours", "theirs"]);
    peers.run("skopeo", &["inspect", &format!("oci:{inside}:theirs")]);
    // skopeo copies into the store, next to what is there.
    let image = format!("oci:{inside}");
    let (from, to) = (format!("{image}:ours"), format!("{image}:again"));
    peers.run("skopeo", &["--insecure-policy", "copy", "--preserve-digests", &from, &to]);
    assert_eq!(store.resolve("again").unwrap().digest(), ours.digest());
    let report = store.gc(&GcOptions::new().grace(Duration::ZERO), &Silent).unwrap();
    assert!(report.removed.is_empty(), "{report:?}");
    assert!(store.check(&Default::default(), &Silent).unwrap().problems.is_empty());
}

#[test]
fn a_real_image_is_sound_and_can_be_copied() {
    let test = "a_real_image_is_sound_and_can_be_copied";
    let Some(inputs) = std::env::var_os("LAYERKIT_INPUTS").map(PathBuf::from) else {
        return require::skip(test, "LAYERKIT_INPUTS does not name a directory with image/ in it");
    };
    if !inputs.join("image/index.json").exists() {
        return require::skip(test, "there is no image/ in LAYERKIT_INPUTS");
    }
    let source = LocalStore::open(inputs.join("image")).unwrap();
    let image = source.image("v1", None).unwrap();
    let root = tempfile::tempdir().unwrap();
    let store = LocalStore::open_or_create(root.path().join("store")).unwrap();
    let manifest = &image.manifest;
    for part in manifest.layers().iter().chain([manifest.config()]) {
        let options = CommitOptions::new().digest(digest(part)).size(part.size());
        let reader = source.reader(&digest(part)).unwrap();
        store.write_blob(part.digest().as_ref(), Source::At(&*reader), &options, &Silent).unwrap();
    }
    let bytes = source.read_document(&image.descriptor).unwrap().bytes;
    let copied = store.put_document_bytes(image.descriptor.media_type().as_ref(), bytes).unwrap();
    assert_eq!(copied.digest(), image.descriptor.digest());
    store.put_tag("v1", &copied).unwrap();
    let report = store.check(&Default::default(), &Silent).unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
    assert_eq!(store.image("v1", None).unwrap().config, image.config);
}
