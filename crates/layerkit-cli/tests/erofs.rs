//! `layerkit erofs` as scripts rely on it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
};

use support::{layerkit, layerkit_fails, layerkit_ok, snapshot};

struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A folder with a small tree, and a layer tar with a deletion.
    fn new() -> Self {
        let scratch = Self(tempfile::tempdir().unwrap());
        let tree = scratch.at("tree");
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::write(tree.join("etc/motd"), "hello\n").unwrap();
        fs::write(tree.join("etc/large"), vec![b'x'; 10_000]).unwrap();
        fs::hard_link(tree.join("etc/motd"), tree.join("motd")).unwrap();
        std::os::unix::fs::symlink("etc/motd", tree.join("link")).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in [("etc/motd", "hello\n"), ("etc/.wh.issue", ""), ("usr/bin/x", "#!/bin/sh\n")]
        {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(1_700_000_000);
            header.set_cksum();
            tar.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        fs::write(scratch.at("layer.tar"), tar.into_inner().unwrap()).unwrap();
        scratch
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }
}

/// Runs the command, and expects this kind of error.
#[track_caller]
fn fails<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>, kind: &str) {
    let error = layerkit_fails(args);
    assert_eq!(error["kind"], kind, "{error}");
}

fn paths(listing: &serde_json::Value) -> Vec<String> {
    let entries = listing["entries"].as_array().unwrap();
    entries.iter().map(|entry| entry["path"].as_str().unwrap().to_owned()).collect()
}

fn cat(image: &Path, path: &str) -> Vec<u8> {
    let output = layerkit().args(["erofs", "cat"]).arg(image).arg(path).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[test]
fn a_directory_becomes_an_image_and_a_directory_again() {
    let scratch = Scratch::new();
    let image = scratch.text("image");
    let built = layerkit_ok(["erofs", "build", "--dir", &scratch.text("tree"), &image]);
    assert_eq!(built["inodes"], 5);
    let listing = layerkit_ok(["erofs", "ls", &image]);
    assert_eq!(paths(&listing), ["", "etc", "etc/large", "etc/motd", "link", "motd"]);
    let motd = &listing["entries"][5];
    assert_eq!(
        (&motd["type"], &motd["nlink"], &motd["hard_link_to"]),
        (&"file".into(), &2.into(), &"etc/motd".into())
    );
    assert_eq!(paths(&layerkit_ok(["erofs", "ls", &image, "/etc"])), ["etc", "etc/large", "etc/motd"]);
    assert_eq!(cat(&scratch.at("image"), "link"), b"hello\n", "links are followed");
    assert_eq!(layerkit_ok(["erofs", "check", &image])["sound"], true);
    let info = layerkit_ok(["erofs", "info", &image]);
    assert_eq!((&info["block_size"], &info["inodes"]), (&4096.into(), &5.into()));

    layerkit_ok(["erofs", "extract", &image, &scratch.text("out")]);
    snapshot(&scratch.at("tree")).assert_same(&snapshot(&scratch.at("out")));
    fails(["erofs", "extract", &image, &scratch.text("out")], "Exists");
}

#[test]
fn a_wide_tree_takes_few_descriptors() {
    let scratch = Scratch::new();
    for n in 0..200 {
        fs::create_dir(scratch.at(&format!("tree/{n}"))).unwrap();
    }
    let (tree, image) = (scratch.text("tree"), scratch.text("image"));
    let script = "ulimit -n 64 && exec \"$@\"";
    let output = std::process::Command::new("sh")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_layerkit"), "erofs", "build", "--dir", &tree, &image])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(layerkit_ok(["erofs", "check", &image])["directories"], 202);
}

#[test]
fn a_layer_becomes_an_image_and_a_layer_again() {
    let scratch = Scratch::new();
    let (image, tar) = (scratch.text("image"), scratch.text("layer.tar"));
    let built = layerkit_ok(["erofs", "build", "--tar", &tar, &image]);
    assert_eq!(built["layer"]["size"], fs::metadata(&tar).unwrap().len());
    let listing = layerkit_ok(["erofs", "ls", &image, "etc/issue"]);
    assert_eq!(
        (&listing["entries"][0]["type"], &listing["entries"][0]["device"]),
        (&"char".into(), &"0:0".into())
    );

    let made = layerkit_ok(["erofs", "to-tar", &image, &scratch.text("again.tar")]);
    assert_eq!(made["mediaType"], "application/vnd.oci.image.layer.v1.tar");
    let mut again = tar::Archive::new(fs::File::open(scratch.at("again.tar")).unwrap());
    let names = again.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string());
    let names: Vec<String> = names.collect();
    assert_eq!(names, ["etc/", "etc/.wh.issue", "etc/motd", "usr/", "usr/bin/", "usr/bin/x"]);

    layerkit_ok(["erofs", "build", "--tar", &scratch.text("again.tar"), &scratch.text("image2")]);
    let second = layerkit_ok(["erofs", "to-tar", &scratch.text("image2"), &scratch.text("third.tar")]);
    assert_eq!(made["digest"], second["digest"], "the same layer is the same tar");
    let strip = scratch.text("strip");
    layerkit_ok(["erofs", "build", "--tar", &tar, "--strip", &strip]);
    assert_eq!(paths(&layerkit_ok(["erofs", "ls", &strip, "etc"])), ["etc", "etc/motd"]);
}

#[test]
fn a_layer_may_come_from_standard_input() {
    let scratch = Scratch::new();
    let mut child = layerkit()
        .args(["erofs", "build", "--tar", "-", "--json"])
        .arg(scratch.at("image"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&fs::read(scratch.at("layer.tar")).unwrap()).unwrap();
    assert!(child.wait().unwrap().success());
    layerkit_ok(["erofs", "build", "--tar", &scratch.text("layer.tar"), &scratch.text("other")]);
    assert_eq!(fs::read(scratch.at("image")).unwrap(), fs::read(scratch.at("other")).unwrap());
}

#[test]
fn an_index_finds_its_files_in_the_tar_or_behind_itself() {
    let scratch = Scratch::new();
    let (tar, index, both) = (scratch.text("layer.tar"), scratch.text("index"), scratch.text("both"));
    layerkit_ok(["erofs", "build", "--tar", &tar, "--tar-index", &index]);
    let read = layerkit().args(["erofs", "cat", &index, "usr/bin/x", "--device", &tar]).output().unwrap();
    assert_eq!(read.stdout, b"#!/bin/sh\n");
    layerkit_ok(["erofs", "build", "--tar", &tar, "--tar-index=append", &both]);
    assert_eq!(cat(&scratch.at("both"), "usr/bin/x"), b"#!/bin/sh\n");
    let whole = fs::read(&both).unwrap();
    assert!(whole.ends_with(&fs::read(&tar).unwrap()) && whole.starts_with(&fs::read(&index).unwrap()));
    let info = layerkit_ok(["erofs", "info", &index]);
    assert_eq!(info["devices"][0]["tag"].as_str().unwrap().len(), 64);
    fails(["erofs", "build", "--tar", "-", "--tar-index=append", &both], "InvalidArgument");
}

#[test]
fn options_change_what_they_say() {
    let scratch = Scratch::new();
    let (tree, image, blob) = (scratch.text("tree"), scratch.text("image"), scratch.text("blob"));
    layerkit_ok(["erofs", "build", "--dir", &tree, &image, "--blob-dev", &blob, "--block-size", "512"]);
    let read = layerkit().args(["erofs", "cat", &image, "etc/motd", "--device", &blob]).output().unwrap();
    assert_eq!(read.stdout, b"hello\n");
    assert_eq!(layerkit_ok(["erofs", "info", &image])["block_size"], 512);
    layerkit_ok([
        "erofs",
        "build",
        "--dir",
        &tree,
        &image,
        "--exclude-path",
        "/etc/large",
        "--exclude-regex",
        "^l",
        "--all-root",
        "--uuid",
        "00112233-4455-6677-8899-aabbccddeeff",
        "--label",
        "name",
        "--all-time",
        "5",
    ]);
    let listing = layerkit_ok(["erofs", "ls", &image]);
    assert_eq!(paths(&listing), ["", "etc", "etc/motd", "motd"]);
    assert!(listing["entries"].as_array().unwrap().iter().all(|e| e["uid"] == 0 && e["mtime"] == 5));
    let info = layerkit_ok(["erofs", "info", &image]);
    assert_eq!(
        (&info["uuid"], &info["label"]),
        (&"00112233-4455-6677-8899-aabbccddeeff".into(), &"name".into())
    );
    layerkit_ok([
        "erofs",
        "build",
        "--dir",
        &tree,
        &image,
        "--source-date-epoch",
        "7",
        "--chunk-size",
        "4096",
    ]);
    let listing = layerkit_ok(["erofs", "ls", &image, "etc/large"]);
    assert_eq!(
        (&listing["entries"][0]["mtime"], &listing["entries"][0]["layout"]),
        (&7.into(), &"chunked".into())
    );
}

#[test]
fn merged_layers_show_the_last_word() {
    let scratch = Scratch::new();
    let at = |name: &str| scratch.text(name);
    layerkit_ok(["erofs", "build", "--dir", &at("tree"), &at("0"), "--no-inline"]);
    layerkit_ok(["erofs", "build", "--tar", &at("layer.tar"), &at("1"), "--no-inline"]);
    layerkit_ok(["erofs", "merge", &at("merged"), &at("0"), &at("1"), "--strip"]);
    let args = ["erofs", "cat", &at("merged"), "usr/bin/x", "--device", &at("0"), "--device", &at("1")];
    assert_eq!(layerkit().args(args).output().unwrap().stdout, b"#!/bin/sh\n");
    layerkit_ok(["erofs", "merge", &at("flat"), &at("0"), &at("1"), "--strip", "--flat"]);
    assert_eq!(cat(&scratch.at("flat"), "etc/motd"), b"hello\n");
    assert_eq!(
        paths(&layerkit_ok(["erofs", "ls", &at("flat")])),
        ["", "etc", "etc/large", "etc/motd", "link", "motd", "usr", "usr/bin", "usr/bin/x"]
    );
    layerkit_ok(["erofs", "build", "--dir", &at("tree"), &at("2")]);
    fails(["erofs", "merge", &at("none"), &at("2"), &at("1")], "NotSupported");
    assert!(!scratch.at("none").exists());
}

#[test]
fn a_protected_image_is_checked_against_its_root_hash() {
    let scratch = Scratch::new();
    let image = scratch.text("image");
    layerkit_ok(["erofs", "build", "--dir", &scratch.text("tree"), &image]);
    let size = fs::metadata(&image).unwrap().len();
    let done = layerkit_ok(["erofs", "verity", &image]);
    assert_eq!(done["hash_offset"], size);
    let sidecar: serde_json::Value =
        serde_json::from_slice(&fs::read(format!("{image}.dmverity")).unwrap()).unwrap();
    assert_eq!((&sidecar["roothash"], &sidecar["hashoffset"]), (&done["root_hash"], &done["hash_offset"]));
    assert_eq!(layerkit_ok(["erofs", "check", &image])["sound"], true, "the tree is behind the file system");
    let (root, offset) = (done["root_hash"].as_str().unwrap().to_owned(), size.to_string());
    let verify = ["erofs", "verity", &image, "--verify", &root, "--hash-offset", &offset];
    layerkit_ok(verify);
    fails(["erofs", "verity", &image], "Exists");
    let mut bytes = fs::read(&image).unwrap();
    bytes[5000] ^= 1;
    fs::write(&image, bytes).unwrap();
    fails(verify, "InvalidArchive");
}

#[test]
fn bad_input_is_refused_and_leaves_nothing() {
    let scratch = Scratch::new();
    let at = |name: &str| scratch.text(name);
    fs::write(scratch.at("junk"), vec![0x55; 9000]).unwrap();
    let before = fs::read_dir(scratch.0.path()).unwrap().count();
    fails(["erofs", "build", "--tar", &at("junk"), &at("image")], "InvalidArchive");
    fails(["erofs", "build", "--dir", &at("none"), &at("image")], "NotFound");
    fails(["erofs", "build", "--dir", &at("tree"), &at("image"), "--block-size", "1000"], "Unrepresentable");
    fails(["erofs", "build", "--dir", &at("tree"), &at("image"), "--uuid", "12"], "InvalidArgument");
    fails(["erofs", "build", "--dir", &at("tree"), &at("image"), "--exclude-regex", "("], "InvalidArgument");
    for verb in ["ls", "info", "check"] {
        fails(["erofs", verb, &at("junk")], "InvalidArchive");
    }
    layerkit_ok(["erofs", "build", "--dir", &at("tree"), &at("image")]);
    fails(["erofs", "cat", &at("image"), "etc"], "InvalidArgument");
    fails(["erofs", "cat", &at("image"), "none"], "NotFound");
    fails(["erofs", "ls", &at("image"), "none"], "NotFound");
    fails(["erofs", "info", &at("none")], "NotFound");
    let mut bytes = fs::read(at("image")).unwrap();
    bytes[1024 + 20] ^= 0xff;
    fs::write(scratch.at("damaged"), bytes).unwrap();
    fails(["erofs", "ls", &at("damaged")], "InvalidArchive");
    assert_eq!(fs::read_dir(scratch.0.path()).unwrap().count(), before + 2, "image and damaged");
}
