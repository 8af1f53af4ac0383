//! EROFS layers of a real image: unpacked, mounted, changed, diffed, and what goes wrong on the way.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    ffi::OsString,
    fs::{self, Permissions},
    io::{Seek, SeekFrom, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use layerkit::kernel::{ErofsOptions, erofs};
use rustix::fs::{XattrFlags, setxattr};
use support::{
    Mounted, layerkit_fails, layerkit_ok,
    overlay::{change, overlay},
    snapshot,
};

/// The layers below an unpacked directory, bottom first.
fn layers(dest: &Path) -> Vec<PathBuf> {
    let stack: serde_json::Value =
        serde_json::from_slice(&fs::read(dest.join("stack.json")).unwrap()).unwrap();
    let layers = stack["layers"].as_array().unwrap().iter();
    layers.map(|layer| dest.join(layer["path"].as_str().unwrap())).collect()
}

fn unpack(image: &str, dest: &Path, options: &[&str]) -> serde_json::Value {
    let mut args: Vec<OsString> = vec!["unpack".into(), image.into(), dest.into()];
    args.extend(["--format", "erofs"].iter().chain(options).map(Into::into));
    layerkit_ok(args)
}

fn mounted(dest: &Path, at: PathBuf) -> Mounted {
    fs::create_dir_all(&at).unwrap();
    layerkit_ok(["mount".as_ref(), dest.as_os_str(), at.as_os_str()]);
    Mounted(at)
}

fn unpacked_and_mounted(test: &str, tag: &str) {
    need!(test, support::kernel_erofs());
    let inputs = need!(test, support::inputs());
    let scratch = tempfile::tempdir().unwrap();
    let image = format!("oci:{}:{tag}", inputs.join("image").display());
    let want = snapshot(&inputs.join(format!("rootfs-{tag}")));
    for options in
        [&[][..], &["--tar-index"], &["--verity"], &["--merge"], &["--tar-index", "--verity", "--merge"]]
    {
        let dest = scratch.path().join(format!("dest{}", options.concat()));
        let said = unpack(&image, &dest, options);
        for (layer, said) in layers(&dest).iter().zip(said["layers"].as_array().unwrap()) {
            let sidecar = fs::read(layer.join("layer.erofs.dmverity")).ok();
            assert_eq!(sidecar.is_some(), options.contains(&"--verity"));
            assert_eq!(said["verity"].is_string(), sidecar.is_some());
            assert!(layer.join(".erofslayer").is_file() && layer.join("fs").is_dir());
        }
        let mount = mounted(&dest, scratch.path().join("mnt"));
        want.assert_same(&snapshot(&mount.0));
        drop(mount);
        fs::remove_dir_all(dest).unwrap();
    }
}

#[test]
fn every_way_to_unpack_v1_shows_umocis_tree() {
    unpacked_and_mounted("every_way_to_unpack_v1_shows_umocis_tree", "v1");
}

#[test]
fn every_way_to_unpack_v2_shows_umocis_tree() {
    unpacked_and_mounted("every_way_to_unpack_v2_shows_umocis_tree", "v2");
}

#[test]
fn an_archive_inside_its_image_is_the_layers_tar() {
    let test = "an_archive_inside_its_image_is_the_layers_tar";
    let inputs = need!(test, support::inputs());
    let scratch = tempfile::tempdir().unwrap();
    let dest = scratch.path().join("dest");
    let image = format!("oci:{}:v1#2", inputs.join("image").display());
    let args = ["apply", &image, dest.to_str().unwrap(), "--format", "erofs", "--tar-index"];
    layerkit_ok(args);
    let tar = fs::read(inputs.join("layer-2.tar")).unwrap();
    let made = fs::read(dest.join("layer.erofs")).unwrap();
    assert!(made[1536..][..tar.len()] == tar, "right behind the first blocks");
}

#[test]
fn changes_diffed_to_erofs_and_to_tar_are_one_layer() {
    let test = "changes_diffed_to_erofs_and_to_tar_are_one_layer";
    need!(test, support::kernel_erofs());
    let inputs = need!(test, support::inputs());
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    unpack(&format!("oci:{}:v1", inputs.join("image").display()), &at("dest"), &[]);
    let below = layers(&at("dest"));
    let mut lowers: Vec<Mounted> = Vec::new();
    for (n, layer) in below.iter().enumerate() {
        let dir = at(&format!("lower-{n}"));
        fs::create_dir(&dir).unwrap();
        erofs(&layer.join("layer.erofs"), &[], &ErofsOptions::new()).unwrap().attach(&dir).unwrap();
        lowers.push(Mounted(dir));
    }
    let nearest_first: Vec<PathBuf> = lowers.iter().rev().map(|lower| lower.0.clone()).collect();
    let mount = overlay(&nearest_first, &at("upper"), &at("work"), &at("merged"));
    change(&mount.0);
    let want = snapshot(&mount.0);
    drop(mount);

    // Through a tar and applied, and as the blob that diff wrote.
    let parents: Vec<OsString> = below.iter().rev().map(|layer| layer.clone().into_os_string()).collect();
    let with = |flag: &str, args: &[OsString]| -> Vec<OsString> {
        let parents = parents.iter().flat_map(|parent| [flag.into(), parent.clone()]);
        args.iter().cloned().chain(parents).collect()
    };
    for format in ["tar", "erofs"] {
        let out = at(&format!("layer.{format}")).into_os_string();
        let upper = at("upper").into_os_string();
        let args =
            ["diff".into(), "--upper".into(), upper, "--format".into(), format.into(), "-o".into(), out];
        layerkit_ok(with("--lower", &args));
    }
    let (tar, applied) = (at("layer.tar").into_os_string(), at("applied").into_os_string());
    layerkit_ok(with("--parent", &["apply".into(), tar, applied, "--format".into(), "erofs".into()]));
    for image in [at("applied/layer.erofs"), at("layer.erofs")] {
        let checked = layerkit_ok(["erofs".as_ref(), "check".as_ref(), image.as_os_str()]);
        assert_eq!(checked["sound"], true, "{checked}");
        fs::create_dir_all(at("top")).unwrap();
        erofs(&image, &[], &ErofsOptions::new()).unwrap().attach(&at("top")).unwrap();
        let top = Mounted(at("top"));
        let stack: Vec<PathBuf> =
            std::iter::once(top.0.clone()).chain(nearest_first.iter().cloned()).collect();
        let joined: Vec<String> = stack.iter().map(|dir| dir.display().to_string()).collect();
        fs::create_dir_all(at("seen")).unwrap();
        let options = format!("ro,lowerdir={}", joined.join(":"));
        let mut mount = Command::new("mount");
        mount.args(["-t", "overlay", "overlay", "-o", &options]).arg(at("seen"));
        assert!(mount.status().unwrap().success());
        let seen = Mounted(at("seen"));
        // The tar carries whole seconds, and neither says anything about the root.
        let strip = |s: layer_model::testing::Snapshot| s.in_whole_seconds().without_root();
        strip(want.clone()).assert_same(&strip(snapshot(&seen.0)));
        drop(seen);
        drop(top);
    }
}

/// What is mounted now below `dir`, or from there.
fn mounts(dir: &Path) -> Vec<String> {
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let dir = dir.to_str().unwrap();
    all.lines().filter(|line| line.contains(dir)).map(str::to_owned).collect()
}

#[test]
fn damaged_layers_leave_nothing() {
    let test = "damaged_layers_leave_nothing";
    need!(test, support::kernel_erofs());
    let inputs = need!(test, support::inputs());
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let fails = |layout: &Path, kind: &str| {
        let image = format!("oci:{}:case", layout.display());
        let error = layerkit_fails(["unpack", &image, at("dest").to_str().unwrap(), "--format", "erofs"]);
        assert_eq!(error["kind"], kind, "{error}");
        assert!(!at("dest").exists());
    };
    let from = format!("oci:{}:v1", inputs.join("image").display());
    for (to, kind) in
        [("gzip", "DigestMismatch"), ("erofs", "DigestMismatch"), ("erofs+zstd", "DigestMismatch")]
    {
        let layout = at(to);
        let made = layerkit_ok(["convert", &from, &format!("oci:{}:case", layout.display()), "--to", to]);
        let digest =
            made["layers"][2]["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
        let blob = layout.join("blobs/sha256").join(digest);
        let mut file = fs::File::options().write(true).open(&blob).unwrap();
        let len = file.metadata().unwrap().len();
        file.seek(SeekFrom::Start(len / 2)).unwrap();
        file.write_all(b"damaged").unwrap();
        drop(file);
        let image = format!("oci:{}:case", layout.display());
        let error = layerkit_fails(["unpack", &image, at("dest").to_str().unwrap(), "--format", "erofs"]);
        // Compressed data that is damaged often does not decompress: either is right.
        assert!([kind, "InvalidArchive"].contains(&error["kind"].as_str().unwrap()), "{error}");
        assert!(error["message"].as_str().unwrap().contains("layer 2"), "{error}");
        assert!(!at("dest").exists());
    }
    // A config that says another diff id.
    let layout = at("erofs");
    let _ = fs::remove_dir_all(&layout);
    let made = layerkit_ok(["convert", &from, &format!("oci:{}:case", layout.display()), "--to", "gzip"]);
    swap_diff_ids(&layout, made["manifest"].as_str().unwrap());
    fails(&layout, "DigestMismatch");
}

#[test]
fn the_data_below_a_metacopy_is_checked_in_every_form() {
    let test = "the_data_below_a_metacopy_is_checked_in_every_form";
    need!(test, support::root());
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    // As a mount with `verity=on` leaves a file whose mode changed: the digest of one byte, an x, behind a header.
    let digest = "dbbdfa9d606f7adeaa7f16dcfb0d49161c4cfb82d9d51cfb5cb43fa3dacb9e5b";
    let digest = (0..64).step_by(2).map(|n| u8::from_str_radix(&digest[n..n + 2], 16).unwrap());
    let marker: Vec<u8> = [0, 36, 0, 1].into_iter().chain(digest).collect();
    fs::create_dir(at("upper")).unwrap();
    let file = fs::File::create_new(at("upper/f")).unwrap();
    file.set_len(1).unwrap();
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    let [impure, metacopy] = ["trusted.overlay.impure", "trusted.overlay.metacopy"];
    setxattr(at("upper"), impure, b"y", XattrFlags::empty()).unwrap();
    setxattr(at("upper/f"), metacopy, &marker, XattrFlags::empty()).unwrap();
    for (content, right) in [("x", true), ("y", false)] {
        fs::create_dir(at(content)).unwrap();
        fs::write(at(content).join("f"), content).unwrap();
        for format in ["tar", "erofs"] {
            let [upper, lower, out] = [at("upper"), at(content), at("blob")].map(PathBuf::into_os_string);
            let words = ["diff", "--format", format, "--upper"].map(OsString::from);
            let args = words.into_iter().chain([upper, "--lower".into(), lower, "-o".into(), out]);
            match right {
                true => drop(layerkit_ok(args)),
                false => assert_eq!(layerkit_fails(args)["kind"], "InvalidUpper", "{format}"),
            }
        }
    }
}

/// Makes the config of the only image say the diff ids in another order.
fn swap_diff_ids(layout: &Path, manifest: &str) {
    let blob = |digest: &str| layout.join("blobs").join(digest.replace(':', "/"));
    let read = |digest: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(blob(digest)).unwrap()).unwrap()
    };
    let put = |value: &serde_json::Value| -> (String, usize) {
        let bytes = value.to_string().into_bytes();
        let digest = layer_model::Digest::sha256(&bytes).to_string();
        fs::write(blob(&digest), &bytes).unwrap();
        (digest, bytes.len())
    };
    let mut manifest_value = read(manifest);
    let mut config = read(manifest_value["config"]["digest"].as_str().unwrap());
    config["rootfs"]["diff_ids"].as_array_mut().unwrap().swap(0, 1);
    let (digest, size) = put(&config);
    manifest_value["config"]["digest"] = digest.into();
    manifest_value["config"]["size"] = size.into();
    let (digest, size) = put(&manifest_value);
    let mut index: serde_json::Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    index["manifests"][0]["digest"] = digest.into();
    index["manifests"][0]["size"] = size.into();
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
}

#[test]
fn a_full_disk_and_a_broken_image_leave_nothing_behind() {
    let test = "a_full_disk_and_a_broken_image_leave_nothing_behind";
    need!(test, support::kernel_erofs());
    let inputs = need!(test, support::inputs());
    let scratch = tempfile::tempdir().unwrap();
    let small = scratch.path().join("small");
    fs::create_dir(&small).unwrap();
    let options = ["-t", "tmpfs", "-o", "size=300m", "tmpfs"];
    assert!(Command::new("mount").args(options).arg(&small).status().unwrap().success());
    let disk = Mounted(small.clone());
    let image = format!("oci:{}:v1", inputs.join("image").display());
    for options in [&[][..], &["--tar-index"], &["--verity"]] {
        let dest = small.join("dest");
        let args = ["unpack", &image, dest.to_str().unwrap(), "--format", "erofs"];
        let error = layerkit_fails(args.iter().chain(options));
        assert!(error["message"].as_str().unwrap().contains("No space left"), "{error}");
        assert_eq!(fs::read_dir(&small).unwrap().count(), 0);
    }
    drop(disk);

    // An image that was damaged after it was unpacked: nothing is mounted.
    let dest = scratch.path().join("dest");
    unpack(&image, &dest, &["--verity"]);
    let mnt = scratch.path().join("mnt");
    fs::create_dir(&mnt).unwrap();
    let victim = layers(&dest)[1].join("layer.erofs");
    let mut file = fs::File::options().write(true).open(&victim).unwrap();
    file.seek(SeekFrom::Start(1 << 20)).unwrap();
    file.write_all(b"damaged").unwrap();
    drop(file);
    let error = layerkit_fails(["mount", dest.to_str().unwrap(), mnt.to_str().unwrap()]);
    assert!(error["message"].as_str().unwrap().contains("layer.erofs"), "{error}");
    assert!(mounts(scratch.path()).is_empty());
    // And one that is no image at all, without a hash tree to tell.
    fs::write(&victim, b"nothing").unwrap();
    let text = fs::read_to_string(dest.join("stack.json")).unwrap();
    let mut stack: serde_json::Value = serde_json::from_str(&text).unwrap();
    for layer in stack["layers"].as_array_mut().unwrap() {
        layer.as_object_mut().unwrap().remove("verity");
    }
    fs::write(dest.join("stack.json"), stack.to_string()).unwrap();
    layerkit_fails(["mount", dest.to_str().unwrap(), mnt.to_str().unwrap()]);
    assert!(mounts(scratch.path()).is_empty());
}
