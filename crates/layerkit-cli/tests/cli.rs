//! The command line as scripts rely on it: exit statuses, JSON on standard output, nothing left behind.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{fs, path::Path};

use serde_json::Value;
use support::{layerkit, layerkit_fails, layerkit_ok, snapshot};

/// A small tree.
fn tree(at: &Path) {
    fs::create_dir_all(at.join("etc")).unwrap();
    fs::write(at.join("etc/hosts"), "127.0.0.1\n").unwrap();
    fs::write(at.join("etc/motd"), "hello\n").unwrap();
    fs::hard_link(at.join("etc/motd"), at.join("etc/motd-too")).unwrap();
    std::os::unix::fs::symlink("etc/motd", at.join("link")).unwrap();
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn an_image_is_made_changed_and_unpacked_again() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    tree(&at("tree"));
    let layout = text(&at("image"));
    let made = layerkit_ok([
        "commit",
        &layout,
        "--upper",
        &text(&at("tree")),
        "--walk",
        "--no-lower",
        "--tag",
        "v1",
    ]);
    assert_eq!(made["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");

    let image = format!("oci:{layout}:v1");
    let stack = layerkit_ok(["unpack", &image, &text(&at("flat")), "--format", "flat"]);
    assert_eq!(stack["layers"][0]["diff_id"], made["diff_id"]);
    let same = |a: &Path, b: &Path| {
        snapshot(a)
            .without_root()
            .in_whole_seconds()
            .assert_same(&snapshot(b).without_root().in_whole_seconds());
    };
    same(&at("tree"), &at("flat/rootfs"));

    fs::write(at("flat/rootfs/etc/new"), "added").unwrap();
    fs::remove_file(at("flat/rootfs/etc/hosts")).unwrap();
    let [upper, lower] = [text(&at("flat/rootfs")), text(&at("tree"))];
    layerkit_ok(["commit", &image, "--upper", &upper, "--walk", "--lower", &lower, "--tag", "v2"]);
    layerkit_ok(["unpack", &format!("oci:{layout}:v2"), &text(&at("again")), "--format", "flat"]);
    same(&at("flat/rootfs"), &at("again/rootfs"));

    let inspected = layerkit_ok(["inspect", &format!("oci:{layout}:v2")]);
    assert_eq!(inspected["layers"].as_array().unwrap().len(), 2);
    assert_eq!(inspected["layers"][0]["diff_id"], made["diff_id"]);
}

#[test]
fn a_diff_prints_its_descriptor_and_is_the_same_each_time() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    tree(&at("tree"));
    for format in ["tar", "tar+gzip"] {
        let diff = |out: &str, jobs: &str| {
            layerkit_ok([
                "diff",
                "--walk",
                "--no-lower",
                "--upper",
                &text(&at("tree")),
                "--format",
                format,
                "--jobs",
                jobs,
                "-o",
                &text(&at(out)),
            ])
        };
        let (one, two) = (diff("one", "1"), diff("two", "4"));
        assert_eq!((&one["digest"], &one["size"]), (&two["digest"], &two["size"]));
        assert_eq!(fs::read(at("one")).unwrap(), fs::read(at("two")).unwrap());
        assert_eq!(one["size"], fs::metadata(at("one")).unwrap().len());
        if format == "tar" {
            assert_eq!(one["digest"], one["diff_id"]);
        }
        let stored = layerkit_ok([
            "diff",
            "--walk",
            "--no-lower",
            "--upper",
            &text(&at("tree")),
            "--format",
            format,
            "--store",
            &text(&at("store")),
        ]);
        assert_eq!(stored["digest"], one["digest"]);
        let info = layerkit_ok([
            "store",
            "info",
            stored["digest"].as_str().unwrap(),
            "--store",
            &text(&at("store")),
        ]);
        let label = &info["labels"]["containerd.io/uncompressed"];
        if format == "tar" { assert!(label.is_null()) } else { assert_eq!(*label, one["diff_id"]) }
    }
}

#[test]
fn layers_are_known_by_whatever_algorithm_is_asked_for() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&scratch.path().join(name));
    tree(&scratch.path().join("tree"));
    for (algorithm, digits) in [("sha256", 64), ("sha384", 96), ("sha512", 128), ("blake3", 64)] {
        for format in ["tar+gzip", "erofs"] {
            let diff = |to: &str, place: &str| {
                let what = ["diff", "--walk", "--no-lower", "--upper", &at("tree"), "--format", format];
                layerkit_ok([&what[..], &["--digest-algorithm", algorithm, to, place]].concat())
            };
            let stored = diff("--store", &at("store"));
            let digest = stored["digest"].as_str().unwrap();
            assert!(
                digest.starts_with(algorithm) && digest.len() == algorithm.len() + 1 + digits,
                "{digest}"
            );
            assert_eq!(diff("-o", &at("blob"))["digest"], digest);
            // The store finds it, and checks whoever brings it again.
            layerkit_ok(["store", "get", digest, "--store", &at("store"), "-o", &at("got")]);
            assert_eq!(fs::read(at("got")).unwrap(), fs::read(at("blob")).unwrap());
            layerkit_ok(["store", "put", &at("blob"), "--digest", digest, "--store", &at("other")]);
            layerkit_fails([
                "store",
                "put",
                &at("tree/etc/motd"),
                "--digest",
                digest,
                "--store",
                &at("third"),
            ]);
        }
    }
}

#[test]
fn a_layer_is_applied_from_a_file_from_standard_input_and_from_an_image() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    tree(&at("tree"));
    let blob = text(&at("layer.tar.gz"));
    layerkit_ok([
        "diff",
        "--walk",
        "--no-lower",
        "--upper",
        &text(&at("tree")),
        "--format",
        "tar+gzip",
        "-o",
        &blob,
    ]);
    layerkit_ok([
        "commit",
        &text(&at("image")),
        "--upper",
        &text(&at("tree")),
        "--walk",
        "--no-lower",
        "--tag",
        "v1",
    ]);

    let first = layerkit_ok(["apply", &blob, &text(&at("a"))]);
    let output = layerkit()
        .args(["--json", "apply", "-", &text(&at("b"))])
        .stdin(fs::File::open(&blob).unwrap())
        .output();
    let second: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    let third = layerkit_ok(["apply", &format!("oci:{}:v1#0", text(&at("image"))), &text(&at("c"))]);
    let fourth = layerkit_ok(["apply", "--format", "overlay", &blob, &text(&at("d"))]);
    for other in [second, third, fourth] {
        assert_eq!(first["diff_id"], other["diff_id"]);
    }
    for dir in ["b", "c", "d"] {
        snapshot(&at("a")).without_root().assert_same(&snapshot(&at(dir)).without_root());
    }
}

#[test]
fn blobs_are_put_labelled_collected_and_checked() {
    let scratch = tempfile::tempdir().unwrap();
    let store = text(&scratch.path().join("store"));
    let file = scratch.path().join("blob");
    fs::write(&file, "some bytes").unwrap();
    let run = |args: &[&str]| layerkit_ok(["store", "--store", &store].iter().chain(args).copied());
    let put = run(&["put", &text(&file), "--label", "example.org/a=1", "--size", "10"]);
    let digest = put["digest"].as_str().unwrap();
    assert_eq!(run(&["info", digest])["labels"]["example.org/a"], "1");
    assert_eq!(
        run(&["label", digest, "example.org/a=", "example.org/b=2"])["labels"],
        serde_json::json!({"example.org/b": "2"})
    );
    run(&["get", digest, "-o", &text(&scratch.path().join("out"))]);
    assert_eq!(fs::read(scratch.path().join("out")).unwrap(), b"some bytes");
    assert_eq!(run(&["ls"])["blobs"].as_array().unwrap().len(), 1);
    assert_eq!(run(&["check"])["ok"], true);
    run(&["label", digest, "containerd.io/gc.root=yes"]);
    assert_eq!(run(&["gc"])["kept"], 1);
    run(&["label", digest, "containerd.io/gc.root="]);
    assert_eq!(run(&["gc"])["removed"], serde_json::json!([digest]));
    let error = layerkit_fails(["store", "--store", &store, "info", digest]);
    assert_eq!(error["kind"], "NotFound");
}

#[test]
fn unusable_arguments_are_status_2() {
    for args in [
        &["frobnicate"][..],
        &["unpack"],
        &["diff", "--upper", "x"],
        &["diff", "--upper", "x", "--lower", "y", "--no-lower", "-o", "z"],
        &["unpack", "a", "b", "--format", "zip"],
        &["unpack", "a", "b", "--jobs", "0"],
    ] {
        let output = layerkit().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn failures_name_what_and_where_and_leave_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let (missing, dest) = (text(&at("missing")), text(&at("dest")));
    assert_eq!(layerkit_fails(["unpack", &missing, &dest])["kind"], "NotFound");
    assert_eq!(layerkit_fails(["apply", &missing, &dest])["kind"], "NotFound");
    assert_eq!(layerkit_fails(["diff", "--upper", &missing, "-o", &dest])["kind"], "NotFound");
    assert_eq!(layerkit_fails(["store", "ls", "--store", &missing])["kind"], "NotFound");
    assert_eq!(
        layerkit_fails(["store", "--store", &missing, "info", "sha256:../../etc/passwd"])["kind"],
        "NotFound"
    );

    tree(&at("tree"));
    let blob = at("layer.tar");
    layerkit_ok(["diff", "--walk", "--no-lower", "--upper", &text(&at("tree")), "-o", &text(&blob)]);
    let whole = fs::read(&blob).unwrap();
    fs::write(&blob, &whole[..whole.len() - 1024 - 300]).unwrap();
    let error = layerkit_fails(["apply", "--format", "overlay", &text(&blob), &dest]);
    assert_eq!(error["kind"], "Truncated");
    assert!(error["offset"].is_u64(), "{error}");
    assert!(!at("dest").exists());
    fs::create_dir(at("flat")).unwrap();
    let error = layerkit_fails(["apply", &text(&blob), &text(&at("flat"))]);
    assert!(error["message"].as_str().unwrap().contains("may be partly changed"), "{error}");

    fs::create_dir(at("full")).unwrap();
    fs::write(at("full/file"), "in the way").unwrap();
    fs::write(&blob, &whole).unwrap();
    assert_eq!(
        layerkit_fails(["apply", "--format", "overlay", &text(&blob), &text(&at("full"))])["kind"],
        "Exists"
    );
    assert_eq!(fs::read_dir(at("full")).unwrap().count(), 1);

    // A blob of the image is not what the manifest says.
    layerkit_ok([
        "commit",
        &text(&at("image")),
        "--upper",
        &text(&at("tree")),
        "--walk",
        "--no-lower",
        "--tag",
        "v1",
    ]);
    let layer =
        layerkit_ok(["inspect", &text(&at("image"))])["layers"][0]["digest"].as_str().unwrap().to_owned();
    let path = at("image/blobs/sha256").join(layer.strip_prefix("sha256:").unwrap());
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 6;
    bytes[last] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    let error = layerkit_fails(["unpack", &text(&at("image")), &dest]);
    assert!(["DigestMismatch", "InvalidArchive"].contains(&error["kind"].as_str().unwrap()), "{error}");
    assert!(!at("dest").exists());
    let output = layerkit().args(["store", "check", "--store", &text(&at("image"))]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}
