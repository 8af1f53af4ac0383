//! The mount lists of containerd's snapshotters.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{fs, os::unix::fs::MetadataExt, path::Path, process::Command};

use kernel_mount::{ActivateOptions, Backing, KernelFeatures, activate};
use layer_model::ErrorKind;
use layer_mounts::Mount;
use support::{Place, image, kernels, listing, merged, options};

fn mount(kind: &str, source: impl Into<String>, options: &[&str]) -> Mount {
    Mount::new(kind, source, options.iter().copied())
}

fn with(place: &Place, kernel: KernelFeatures) -> ActivateOptions {
    ActivateOptions::new().kernel_features(kernel).scratch(place.scratch())
}

/// A place with directories `1` (bottom) to `3`, with `upper` and `work`.
fn directories() -> Place {
    let place = Place::new();
    for (dir, file) in [("1", "a"), ("2", "b"), ("3", "c"), ("upper", "u"), ("work", "")] {
        fs::create_dir(place.path(dir)).unwrap();
        if !file.is_empty() {
            fs::write(place.path(dir).join(file), dir).unwrap();
        }
    }
    place
}

/// A place with images `1` (bottom) to `3`, merged metadata `fsmeta` over `1` and `2`, `upper` and `work`.
fn images() -> Place {
    let place = Place::new();
    let (meta, blobs) = merged(&[&["a=1", "b=1"], &["b=2", "c=2"]], &options(4096));
    place.write("fsmeta", &meta);
    place.write("1", &blobs[0]);
    place.write("2", &blobs[1]);
    place.write("3", &image(&["c-", "d=3"], &options(512)));
    for dir in ["upper", "work"] {
        fs::create_dir(place.path(dir)).unwrap();
    }
    place
}

fn layer(place: &Place, name: &str) -> Mount {
    mount("erofs", place.text(name), &["ro", "loop"])
}

fn fsmeta(place: &Place) -> Mount {
    let devices = ["1", "2"].map(|name| format!("device={}", place.text(name)));
    mount("erofs", place.text("fsmeta"), &["ro", "loop", &devices[0], &devices[1]])
}

/// Activates the list on every kernel, lets `check` look at it, and sees that all of it goes away.
fn everywhere(place: &Place, mounts: &[Mount], mut check: impl FnMut(&str, &Path)) {
    for (name, kernel) in kernels() {
        activate(mounts, &place.mnt(), &with(place, kernel))
            .unwrap_or_else(|e| panic!("{name}: {}", e.chain()));
        assert_eq!(place.mounts().len(), 1, "{name}: {:?}", place.mounts());
        check(name, &place.mnt());
        place.unmount();
    }
}

fn is_read_only(dir: &Path) -> bool {
    fs::write(dir.join("new"), "text").is_err_and(|e| e.kind() == std::io::ErrorKind::ReadOnlyFilesystem)
}

#[test]
fn overlay_snapshots_without_a_layer_or_with_one_are_bind_mounts() {
    let test = "overlay_snapshots_without_a_layer_or_with_one_are_bind_mounts";
    need!(test, support::can_mount());
    let place = directories();
    everywhere(&place, &[mount("bind", place.text("1"), &["ro", "rbind"])], |name, mnt| {
        assert_eq!(listing(mnt), ["a=1"], "{name}");
        assert!(is_read_only(mnt), "{name}");
    });
    everywhere(&place, &[mount("bind", place.text("1"), &["rw", "rbind"])], |name, mnt| {
        fs::write(mnt.join("new"), name).unwrap();
        assert_eq!(fs::read_to_string(place.path("1/new")).unwrap(), name);
    });
}

#[test]
fn overlay_snapshots_of_several_layers_are_overlays() {
    let test = "overlay_snapshots_of_several_layers_are_overlays";
    need!(test, support::can_mount());
    let place = directories();
    let dir = |option: &str, name: &str| format!("{option}={}", place.text(name));
    let lowers = format!("lowerdir={}:{}:{}", place.text("3"), place.text("2"), place.text("1"));
    everywhere(&place, &[mount("overlay", "overlay", &[&lowers, "index=off"])], |name, mnt| {
        assert_eq!(listing(mnt), ["a=1", "b=2", "c=3"], "{name}");
        assert!(is_read_only(mnt), "{name}");
    });
    let writable = [dir("workdir", "work"), dir("upperdir", "upper"), lowers, "index=off".into()];
    let writable = Mount::new("overlay", "overlay", writable);
    everywhere(&place, &[writable], |name, mnt| {
        fs::write(mnt.join("new"), name).unwrap();
        assert_eq!(listing(mnt), ["a=1", "b=2", "c=3", &format!("new={name}"), "u=upper"]);
        assert_eq!(fs::read_to_string(place.path("upper/new")).unwrap(), name);
    });
}

#[test]
fn erofs_snapshots_of_one_layer_are_images() {
    let test = "erofs_snapshots_of_one_layer_are_images";
    need!(test, support::can_mount());
    let place = images();
    everywhere(&place, &[layer(&place, "1")], |name, mnt| {
        assert_eq!(listing(mnt), ["a=1", "b=1"], "{name}");
        assert!(is_read_only(mnt), "{name}");
    });
    everywhere(&place, &[fsmeta(&place)], |name, mnt| {
        assert_eq!(listing(mnt), ["a=1", "b=2", "c=2"], "{name}");
    });
    // One fsmeta that covers everything, as a view.
    let view = [fsmeta(&place), mount("format/bind", "{{ mount 0 }}", &["ro", "rbind"])];
    everywhere(&place, &view, |name, mnt| {
        assert_eq!(listing(mnt), ["a=1", "b=2", "c=2"], "{name}");
        assert!(is_read_only(mnt), "{name}");
    });
}

#[test]
fn erofs_snapshots_of_several_layers_are_overlays_of_images() {
    let test = "erofs_snapshots_of_several_layers_are_overlays_of_images";
    need!(test, support::can_mount());
    let place = images();
    let upper = format!("upperdir={}", place.text("upper"));
    let work = format!("workdir={}", place.text("work"));
    let three = || ["3", "2", "1"].map(|name| layer(&place, name)).to_vec();
    let over = |mut mounts: Vec<Mount>, options: &[&str]| {
        mounts.push(mount("format/mkdir/overlay", "overlay", options));
        mounts
    };
    for lowers in ["lowerdir={{ overlay 0 2 }}", "lowerdir={{ mount 0 }}:{{ mount 1 }}:{{ mount 2 }}"] {
        everywhere(&place, &over(three(), &[lowers]), |name, mnt| {
            assert_eq!(listing(mnt), ["a=1", "b=2", "d=3"], "{name}");
            assert!(is_read_only(mnt), "{name}");
        });
    }
    let mixed = over(vec![layer(&place, "3"), fsmeta(&place)], &["lowerdir={{ overlay 0 1 }}"]);
    everywhere(&place, &mixed, |name, mnt| assert_eq!(listing(mnt), ["a=1", "b=2", "d=3"], "{name}"));

    let writable = over(three(), &[&work, &upper, "lowerdir={{ overlay 0 2 }}", "index=off"]);
    everywhere(&place, &writable, |name, mnt| {
        fs::write(mnt.join("new"), name).unwrap();
        assert_eq!(listing(mnt), ["a=1", "b=2", "d=3", &format!("new={name}")], "{name}");
    });
    assert_eq!(listing(&place.path("upper")), ["new=the oldest"]);
    let one = over(vec![layer(&place, "1")], &[&work, &upper, "lowerdir={{ mount 0 }}"]);
    everywhere(&place, &one, |name, mnt| {
        assert_eq!(listing(mnt), ["a=1", "b=1", "new=the oldest"], "{name}");
    });
}

#[test]
fn block_images_are_mounted_where_they_have_a_file_system() {
    let test = "block_images_are_mounted_where_they_have_a_file_system";
    need!(test, support::can_mount());
    let place = images();
    let block = mount(
        "mkfs/ext4",
        place.text("rwlayer.img"),
        &["X-containerd.mkfs.fs=ext4", "X-containerd.mkfs.size=64MiB", "rw", "loop"],
    );
    let upper = "{{ mount 0 }}/upper";
    let alone = [
        block.clone(),
        mount(
            "format/mkdir/bind",
            upper,
            &[&format!("X-containerd.mkdir.path={upper}:0751:5:6"), "rw", "rbind"],
        ),
    ];
    for missing in [None, Some(0), Some(1 << 20)] {
        if let Some(size) = missing {
            fs::File::create(place.path("rwlayer.img")).unwrap().set_len(size).unwrap();
        }
        let error = activate(&alone, &place.mnt(), &with(&place, KernelFeatures::default())).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::NotSupported, "{}", error.chain());
        place.assert_clean();
    }
    let image = place.path("rwlayer.img");
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    match Command::new("mkfs.ext4").arg("-q").arg(&image).status() {
        Ok(status) if status.success() => {}
        _ => return support::skip(test, "there is no mkfs.ext4"),
    }
    everywhere(&place, &alone, |name, mnt| {
        let dir = fs::metadata(mnt).unwrap();
        assert_eq!((dir.mode() & 0o7777, dir.uid(), dir.gid()), (0o751, 5, 6), "{name}");
        fs::write(mnt.join("new"), name).unwrap();
    });
    let over = [
        block,
        layer(&place, "3"),
        layer(&place, "1"),
        mount(
            "format/mkdir/overlay",
            "overlay",
            &[
                "X-containerd.mkdir.path={{ mount 0 }}/upper:0755",
                "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
                "workdir={{ mount 0 }}/work",
                "upperdir={{ mount 0 }}/upper",
                "lowerdir={{ overlay 1 2 }}",
            ],
        ),
    ];
    everywhere(&place, &over, |name, mnt| {
        let want = if name == "everything" { "the oldest" } else { "nobody" };
        assert_eq!(listing(mnt)[3..], [format!("new={want}")], "{name}");
        fs::write(mnt.join("new"), "nobody").unwrap();
    });
}

#[test]
fn a_list_that_fails_in_the_middle_leaves_nothing() {
    let test = "a_list_that_fails_in_the_middle_leaves_nothing";
    need!(test, support::can_mount());
    let place = images();
    place.write("damaged", &[0; 8192]);
    fs::create_dir(place.path("dir")).unwrap();
    let first = layer(&place, "1");
    let overlay =
        |option: &str| mount("format/mkdir/overlay", "overlay", &[option, "lowerdir={{ overlay 0 1 }}"]);
    let id_map = mount("format/overlay", "overlay", &["uidmap=0:1000:10", "lowerdir={{ overlay 0 1 }}"]);
    let verity = mount("erofs", place.text("1"), &["ro", "loop", "X-containerd.dmverity=/sidecar"]);
    let mut inside = first.clone();
    inside.target = "inside".into();
    let io = ErrorKind::Io(Some(22));
    let cases: Vec<(&str, Vec<Mount>, ErrorKind)> = vec![
        ("nothing", vec![], ErrorKind::InvalidArgument),
        ("missing", vec![first.clone(), layer(&place, "missing"), overlay("")], ErrorKind::NotFound),
        ("damaged", vec![first.clone(), layer(&place, "damaged"), overlay("")], io.clone()),
        ("option", vec![first.clone(), layer(&place, "2"), overlay("no_such_option=1")], io),
        (
            "upper alone",
            vec![first.clone(), layer(&place, "2"), overlay("upperdir=/")],
            ErrorKind::InvalidArgument,
        ),
        (
            "upper missing",
            vec![
                first.clone(),
                mount(
                    "format/overlay",
                    "overlay",
                    &["upperdir=/no/u", "workdir=/no/w", "lowerdir={{ mount 0 }}"],
                ),
            ],
            ErrorKind::NotFound,
        ),
        ("template", vec![first.clone(), overlay("")], ErrorKind::InvalidArgument),
        ("verity", vec![verity], ErrorKind::NotSupported),
        ("id map", vec![first.clone(), layer(&place, "2"), id_map], ErrorKind::NotSupported),
        ("target", vec![inside], ErrorKind::NotSupported),
        (
            "not consumed",
            vec![mount("bind", place.text("dir"), &["X-containerd.mkdir.path=/x"])],
            ErrorKind::FailedPrecondition,
        ),
        (
            "tomorrow",
            vec![mount("format/bind", place.text("dir"), &["X-containerd.tomorrow"])],
            ErrorKind::FailedPrecondition,
        ),
        ("windows", vec![mount("windows-layer", "C:\\layer", &["ro"])], ErrorKind::NotSupported),
        ("bind option", vec![mount("bind", place.text("dir"), &["rshared"])], ErrorKind::NotSupported),
        ("ext4", vec![mount("ext4", place.text("1"), &["loop"])], ErrorKind::NotSupported),
    ];
    for (what, mounts, kind) in cases {
        for (name, kernel) in kernels() {
            let options = with(&place, kernel).backing(Backing::Auto);
            let error = activate(&mounts, &place.mnt(), &options).unwrap_err();
            assert_eq!(error.kind(), &kind, "{what}, {name}: {}", error.chain());
            place.assert_clean();
        }
    }
    // A good list without a place to attach it to.
    for (name, kernel) in kernels() {
        let mounts = [first.clone(), layer(&place, "2"), overlay("index=off")];
        let error = activate(&mounts, &place.path("missing"), &with(&place, kernel)).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::NotFound, "{name}: {}", error.chain());
        place.assert_clean();
    }
}

#[test]
fn the_backing_of_images_is_chosen_by_the_caller() {
    let test = "the_backing_of_images_is_chosen_by_the_caller";
    need!(test, support::can_mount_files());
    let place = images();
    for (backing, loops) in [(Backing::Auto, 0), (Backing::File, 0), (Backing::Loop, 3)] {
        let options = with(&place, KernelFeatures::default()).backing(backing);
        activate(&[fsmeta(&place)], &place.mnt(), &options).unwrap();
        assert_eq!(place.loops().len(), loops, "{backing:?}");
        place.unmount();
    }
}

#[test]
fn only_older_kernels_need_a_scratch_directory() {
    let test = "only_older_kernels_need_a_scratch_directory";
    need!(test, support::can_mount_since((6, 15)));
    let place = images();
    let lowers = mount("format/mkdir/overlay", "overlay", &["lowerdir={{ overlay 0 1 }}"]);
    let view = mount("format/bind", "{{ mount 0 }}", &["ro", "rbind"]);
    for mounts in [vec![layer(&place, "2"), layer(&place, "1"), lowers], vec![fsmeta(&place), view]] {
        for (name, kernel) in kernels() {
            let options = ActivateOptions::new().kernel_features(kernel).scratch(place.path("missing"));
            let made = activate(&mounts, &place.mnt(), &options);
            if kernel.detached_layers && (kernel.layer_by_layer || mounts.len() == 2) {
                made.unwrap();
                place.unmount();
            } else {
                assert_eq!(made.unwrap_err().kind(), &ErrorKind::NotFound, "{name}");
            }
        }
    }
}
