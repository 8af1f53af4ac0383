//! EROFS layers made here, in a real containerd: its EROFS snapshotter mounts them and runs containers from them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use layerkit::kernel::{ErofsOptions, erofs};
use support::{
    Mounted, SharedDir,
    containerd::{Containerd, archive_of},
    layerkit_ok,
    overlay::{change, overlay},
    snapshot,
};

/// What containerd 2.1 takes for a native EROFS layer.
const EROFS_TYPE: &str = "application/vnd.oci.image.layer.v1.erofs";

/// Runs a Python program in a container of the image, whose layers are EROFS.
fn python(containerd: &Containerd<'_>, image: &str, program: &str) -> String {
    containerd.ctr(&["run", "--rm", "--snapshotter", "erofs", image, "case", "python3", "-c", program])
}

/// Mounts the image `case:TAG`, as the EROFS snapshotter has it.
fn view(containerd: &Containerd<'_>, share: &SharedDir, tag: &str) -> layer_model::testing::Snapshot {
    let (view, image) = (share.inside.join("view").display().to_string(), format!("case:{tag}"));
    fs::create_dir_all(share.outside.join("view")).unwrap();
    containerd.ctr(&["images", "mount", "--snapshotter", "erofs", &image, &view]);
    let seen = snapshot(&share.outside.join("view"));
    containerd.ctr(&["images", "unmount", "--snapshotter", "erofs", &view]);
    containerd.ctr(&["snapshots", "--snapshotter", "erofs", "rm", &view]);
    seen
}

#[test]
fn a_converted_image_is_unpacked_and_run() {
    let test = "a_converted_image_is_unpacked_and_run";
    need!(test, support::kernel_erofs());
    let (inputs, peers) = (need!(test, support::inputs()), need!(test, support::peers()));
    let share = SharedDir::new(&peers, "convert");
    let layout = share.outside.join("image");
    let (from, to) =
        (format!("oci:{}:v1", inputs.join("image").display()), format!("oci:{}", layout.display()));
    let made = layerkit_ok(["convert", &from, &to, "--to", "erofs", "--erofs-type", EROFS_TYPE]);
    assert_eq!((made["tag"].as_str(), made["layers"].as_array().unwrap().len()), (Some("v1"), 3));

    let containerd = Containerd::start(&peers, &share);
    archive_of(&layout, "v1", &share.outside.join("image.tar"));
    containerd.import(&share.inside.join("image.tar"), "erofs");
    assert_eq!(python(&containerd, "case:v1", "print(6*7)"), "42\n");
    snapshot(&inputs.join("rootfs-v1")).assert_same(&view(&containerd, &share, "v1"));
}

#[test]
fn images_made_here_take_the_place_of_containerds_own() {
    let test = "images_made_here_take_the_place_of_containerds_own";
    need!(test, support::kernel_erofs());
    let (inputs, peers) = (need!(test, support::inputs()), need!(test, support::peers()));
    let share = SharedDir::new(&peers, "swap");
    let dest = share.outside.join("unpacked");
    let image = format!("oci:{}:v1", inputs.join("image").display());
    let stack = layerkit_ok([
        "unpack".as_ref(),
        image.as_ref(),
        dest.as_os_str(),
        "--format".as_ref(),
        "erofs".as_ref(),
    ]);

    let containerd = Containerd::start(&peers, &share);
    copy(&inputs.join("image"), &share.outside.join("image"));
    archive_of(&share.outside.join("image"), "v1", &share.outside.join("image.tar"));
    containerd.import(&share.inside.join("image.tar"), "erofs");
    // Snapshots have rising numbers, as they were made: the lowest layer first.
    let snapshots = share.outside.join("ctrd-root/io.containerd.snapshotter.v1.erofs/snapshots");
    let mut theirs: Vec<(u64, PathBuf)> = fs::read_dir(&snapshots)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|dir| dir.join("layer.erofs").exists())
        .map(|dir| (dir.file_name().unwrap().to_str().unwrap().parse().unwrap(), dir.join("layer.erofs")))
        .collect();
    theirs.sort();
    let layers = stack["layers"].as_array().unwrap();
    assert_eq!(theirs.len(), layers.len());
    for ((_, theirs), layer) in theirs.iter().zip(layers) {
        let ours = dest.join(layer["path"].as_str().unwrap()).join("layer.erofs");
        assert!(fs::read(theirs).unwrap() != fs::read(&ours).unwrap(), "containerd's is another one");
        // Where it is mounted already, it would stay.
        let _ = umount(theirs.parent().unwrap().join("fs"));
        fs::remove_file(theirs).unwrap();
        fs::copy(ours, theirs).unwrap();
    }
    assert_eq!(python(&containerd, "case:v1", "print(6*7)"), "42\n");
    snapshot(&inputs.join("rootfs-v1")).assert_same(&view(&containerd, &share, "v1"));
}

#[test]
fn changes_committed_as_tar_and_as_erofs_run_alike() {
    let test = "changes_committed_as_tar_and_as_erofs_run_alike";
    need!(test, support::kernel_erofs());
    let (inputs, peers) = (need!(test, support::inputs()), need!(test, support::peers()));
    let share = SharedDir::new(&peers, "both");
    let layout = share.outside.join("image");
    let image = |tag: &str| format!("oci:{}:{tag}", layout.display());
    let from = format!("oci:{}:v1", inputs.join("image").display());
    layerkit_ok(["convert", &from, &image("base"), "--to", "erofs", "--erofs-type", EROFS_TYPE]);
    let [dest, upper, work, below, merged] =
        ["dest", "upper", "work", "below", "merged"].map(|name| share.outside.join(name));
    let stack = layerkit_ok([
        "unpack".as_ref(),
        image("base").as_ref(),
        dest.as_os_str(),
        "--format".as_ref(),
        "erofs".as_ref(),
    ]);
    // Each layer by itself, so that files of different layers keep different numbers.
    let mut lowers: Vec<Mounted> = Vec::new();
    for layer in stack["layers"].as_array().unwrap() {
        let at = below.join(lowers.len().to_string());
        fs::create_dir_all(&at).unwrap();
        let image = dest.join(layer["path"].as_str().unwrap()).join("layer.erofs");
        erofs(&image, &[], &ErofsOptions::new()).unwrap().attach(&at).unwrap();
        lowers.push(Mounted(at));
    }
    let nearest_first: Vec<PathBuf> = lowers.iter().rev().map(|lower| lower.0.clone()).collect();
    let mounted = overlay(&nearest_first, &upper, &work, &merged);
    change(&mounted.0);
    let want = snapshot(&mounted.0);
    drop(mounted);
    drop(lowers);

    for (format, tag) in [("tar+gzip", "tar"), ("erofs", "native")] {
        let mut args =
            vec!["commit".to_owned(), image("base"), "--upper".to_owned(), upper.display().to_string()];
        for layer in stack["layers"].as_array().unwrap().iter().rev() {
            args.extend([
                "--lower".to_owned(),
                dest.join(layer["path"].as_str().unwrap()).display().to_string(),
            ]);
        }
        args.extend(["--tag", tag, "--format", format].map(str::to_owned));
        if format == "erofs" {
            args.extend(["--erofs-type", EROFS_TYPE].map(str::to_owned));
        }
        layerkit_ok(args);
    }

    let containerd = Containerd::start(&peers, &share);
    for tag in ["tar", "native"] {
        let packed = share.outside.join("packed");
        let _ = fs::remove_dir_all(&packed);
        copy(&layout, &packed);
        archive_of(&packed, tag, &share.outside.join("image.tar"));
        containerd.import(&share.inside.join("image.tar"), "erofs");
        let printed = python(&containerd, &format!("case:{tag}"), "print(open('/srv/case/added').read())");
        assert_eq!(printed, "new file\n", "{tag}");
        let seen = view(&containerd, &share, tag);
        // A tar carries whole seconds and nothing about the root, and is converted by containerd.
        let strip = |s: layer_model::testing::Snapshot| match tag {
            "tar" => s.in_whole_seconds().without_root(),
            _ => s.without_root(),
        };
        strip(want.clone()).assert_same(&strip(seen));
    }
}

fn umount(at: PathBuf) -> rustix::io::Result<()> {
    rustix::mount::unmount(at, rustix::mount::UnmountFlags::NOFOLLOW)
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}
