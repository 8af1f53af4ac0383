//! A real image of many layers, unpacked and mounted, equals what umoci unpacks.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs;

use support::{Mounted, layerkit_ok, snapshot};

/// Unpacks `tag` in overlay form and flat, and compares both with umoci's tree.
fn unpack_equals_umoci(test: &str, tag: &str) {
    need!(test, support::root());
    let inputs = need!(test, support::inputs());
    let scratch = tempfile::tempdir().unwrap();
    let image = format!("oci:{}:{tag}", inputs.join("image").display());
    let want = snapshot(&inputs.join(format!("rootfs-{tag}")));

    let dest = scratch.path().join("overlay");
    let printed = layerkit_ok(["unpack".as_ref(), image.as_ref(), dest.as_os_str()]);
    let stack: serde_json::Value =
        serde_json::from_slice(&fs::read(dest.join("stack.json")).unwrap()).unwrap();
    assert_eq!(printed["layers"], stack["layers"]);
    for layer in stack["layers"].as_array().unwrap() {
        assert!(dest.join(layer["path"].as_str().unwrap()).join("fs").is_dir());
    }
    let mountpoint = Mounted(scratch.path().join("mnt"));
    fs::create_dir(&mountpoint.0).unwrap();
    layerkit_ok(["mount".as_ref(), dest.as_os_str(), mountpoint.0.as_os_str()]);
    want.assert_same(&snapshot(&mountpoint.0));
    drop(mountpoint);

    let dest = scratch.path().join("flat");
    layerkit_ok(["unpack".as_ref(), image.as_ref(), dest.as_os_str(), "--format".as_ref(), "flat".as_ref()]);
    want.assert_same(&snapshot(&dest.join("rootfs")));
}

#[test]
fn three_layers_unpacked_and_mounted_equal_umocis_tree() {
    unpack_equals_umoci("three_layers_unpacked_and_mounted_equal_umocis_tree", "v1");
}

#[test]
fn a_layer_that_makes_a_directory_a_file_equals_umocis_tree() {
    unpack_equals_umoci("a_layer_that_makes_a_directory_a_file_equals_umocis_tree", "v2");
}

#[test]
fn directories_that_layers_only_imply_have_their_parents_metadata() {
    let test = "directories_that_layers_only_imply_have_their_parents_metadata";
    need!(test, support::root());
    let inputs = need!(test, support::inputs());
    let scratch = tempfile::tempdir().unwrap();
    let dest = scratch.path().join("dest");
    let image = format!("oci:{}:v1", inputs.join("image").display());
    layerkit_ok(["unpack".as_ref(), image.as_ref(), dest.as_os_str()]);
    let mountpoint = Mounted(scratch.path().join("mnt"));
    fs::create_dir(&mountpoint.0).unwrap();
    layerkit_ok(["mount".as_ref(), dest.as_os_str(), mountpoint.0.as_os_str()]);
    for dir in ["", "usr", "usr/local"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(mountpoint.0.join(dir)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o755, "/{dir}");
    }
}
