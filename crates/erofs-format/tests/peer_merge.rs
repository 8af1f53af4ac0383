//! Layers of a real image, made by mkfs.erofs and merged by us, against the unpacked image; and images by composefs.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::{Listing, Mount, Peers, assert_same, can_mount, listing, listing_of_directory, skip};
use erofs_format::{
    FileSource, Image, MergeOptions, OpenOptions, WriteOptions, flatten_layers, merge_layers,
};

/// The folder with `layer-N.tar` and `rootfs-vN`, where peers see it too.
fn inputs(test: &str) -> Option<PathBuf> {
    let inputs = std::env::var_os("LAYERKIT_INPUTS").map(PathBuf::from);
    if inputs.is_none() {
        skip(test, "LAYERKIT_INPUTS does not name a folder with the layers of an image");
    }
    inputs
}

/// What does not differ: times are whole seconds in layers, link counts of directories depend on the file system,
/// and what is left of an overlay has its marks.
fn comparable(mut listing: Listing) -> Listing {
    for seen in listing.values_mut() {
        seen.mtime.1 = 0;
        if seen.mode & 0o170_000 == 0o040_000 {
            seen.nlink = 0;
            seen.mtime.0 = 0;
            // mkfs.erofs lets everyone write to directories that an archive has no entry for.
            seen.mode &= !0o022;
        }
        seen.xattrs.retain(|name, _| !name.starts_with(b"trusted.overlay."));
    }
    // The root is in no layer's archive, and each tool has an opinion on it.
    listing.remove(&b""[..]);
    listing
}

/// The last layer says that there is nothing below a file, which mkfs.erofs refuses.
fn without_odd_whiteouts(tar: &Path, folder: &Path) -> PathBuf {
    let copy = folder.join("layer-3.tar");
    fs::copy(tar, &copy).unwrap();
    let delete = ["--delete", "--wildcards", "usr/share/man/.wh.*", "-f"];
    assert!(std::process::Command::new("tar").args(delete).arg(&copy).status().unwrap().success());
    copy
}

fn make_layer(peers: &Peers, tar: &Path, out: &Path, index: bool) {
    let kind = if index { "--tar=i" } else { "--tar=f" };
    let tar = peers.visible(tar);
    let mut command = vec!["mkfs.erofs", kind, "--aufs", "--quiet", "-T0", "--mkfs-time"];
    if !index {
        command.extend(["--sort=none", "-Enoinline_data"]);
    }
    let out = peers.inside(out);
    command.extend([&out[..], &tar[..]]);
    peers.run(&command);
}

#[test]
fn merged_layers_are_the_unpacked_image() {
    let test = "merged_layers_are_the_unpacked_image";
    let (Some(peers), Some(inputs)) = (Peers::find(test), inputs(test)) else { return };
    if !can_mount(test) {
        return;
    }
    let folder = peers.folder();
    for index in [true, false] {
        let paths: Vec<PathBuf> = (0..4).map(|n| folder.path().join(format!("layer-{n}.{index}"))).collect();
        let mut tars: Vec<PathBuf> = (0..3).map(|n| inputs.join(format!("layer-{n}.tar"))).collect();
        tars.push(without_odd_whiteouts(&inputs.join("layer-3.tar"), folder.path()));
        for (tar, path) in tars.iter().zip(&paths) {
            make_layer(&peers, tar, path, index);
        }
        let images: Vec<Image> =
            paths.iter().map(|path| Image::open(FileSource::open(path).unwrap()).unwrap()).collect();
        for (layers, rootfs) in [(3, "rootfs-v1"), (4, "rootfs-v2")] {
            let strip = MergeOptions::new().strip_markers(true);
            let plan = merge_layers(&images[..layers], &strip, &WriteOptions::new()).unwrap();
            let path = folder.path().join("merged");
            plan.write(fs::File::create(&path).unwrap(), &()).unwrap();
            let devices: Vec<&Path> =
                if index { &tars[..layers] } else { &paths[..layers] }.iter().map(|p| &**p).collect();
            let expected = comparable(listing_of_directory(&inputs.join(rootfs)));
            let mount = Mount::new(&path, &devices);
            assert_same(&comparable(listing_of_directory(mount.path())), &expected);
            let mut open = OpenOptions::new();
            for device in devices {
                open = open.device(FileSource::open(device).unwrap());
            }
            let image = open.open(FileSource::open(&path).unwrap()).unwrap();
            assert_same(&comparable(listing(&image)), &expected);
            assert!(image.check(&Default::default()).unwrap().findings.is_empty());
            if layers == 4 && !index {
                let (plan, contents) = flatten_layers(&images, &strip, &WriteOptions::new()).unwrap();
                let path = folder.path().join("flat");
                plan.write(fs::File::create(&path).unwrap(), &contents).unwrap();
                let mount = Mount::new(&path, &[]);
                assert_same(&comparable(listing_of_directory(mount.path())), &expected);
            }
        }
    }
}

#[test]
fn images_by_composefs_read_as_the_kernel_shows_them() {
    let test = "images_by_composefs_read_as_the_kernel_shows_them";
    let Some(peers) = Peers::find(test) else { return };
    if !can_mount(test) {
        return;
    }
    let folder = peers.folder();
    let tree = folder.path().join("tree");
    common::trees::make_varied_tree(&tree);
    // mkcomposefs does not take sockets.
    fs::remove_file(tree.join("Socket")).unwrap();
    for version in ["0", "1"] {
        let path = folder.path().join(format!("composefs-{version}"));
        let least = format!("--min-version={version}");
        peers.run(&["mkcomposefs", &least, &peers.inside(&tree), &peers.inside(&path)]);
        let image = Image::open(FileSource::open(&path).unwrap()).unwrap();
        let mount = Mount::new(&path, &[]);
        assert_same(&listing(&image), &listing_of_directory(mount.path()));
        let report = image.check(&Default::default()).unwrap();
        assert!(report.is_sound(), "{:?}", report.findings);
        let digest = erofs_format::fsverity_digest(
            &mut fs::File::open(&path).unwrap(),
            erofs_format::FsVerityHash::Sha256,
            &[],
        );
        let digest: String = digest.unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        let printed = peers.run(&["composefs-info", "measure-file", &peers.inside(&path)]);
        assert_eq!(printed.trim(), digest);
    }
}
