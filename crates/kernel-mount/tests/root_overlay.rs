//! Overlays of images and directories, in each way that kernels have.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::PathBuf,
};

use kernel_mount::{BindOptions, ErofsOptions, KernelFeatures, Lower, Upper, bind, erofs, overlay, umount};
use layer_model::ErrorKind;
use support::{Place, image, kernels, listing, long_dir, options};

/// Images of layers, nearest first, mounted.
fn lowers(images: &[PathBuf], kernel: KernelFeatures) -> Vec<Lower> {
    let options = ErofsOptions::new().kernel_features(kernel);
    images.iter().map(|image| Lower::Mount(erofs(image, &[], &options).unwrap())).collect()
}

fn three(place: &Place) -> [PathBuf; 3] {
    [
        place.write("top.erofs", &image(&["c-", "d=3"], &options(4096))),
        place.write("middle.erofs", &image(&["b=2", "c=2"], &options(512))),
        place.write("base.erofs", &image(&["a=1", "b=1"], &options(4096))),
    ]
}

#[test]
fn three_images_are_one_view_in_every_way() {
    let test = "three_images_are_one_view_in_every_way";
    need!(test, support::can_mount());
    for (name, kernel) in kernels() {
        let place = Place::new();
        let images = three(&place);
        let mount = overlay(lowers(&images, kernel), None, &place.overlay_options(kernel)).unwrap();
        assert_eq!(place.mounts(), [""; 0], "{name}");
        mount.attach(&place.mnt()).unwrap();
        assert_eq!(listing(&place.mnt()), ["a=1", "b=2", "d=3"], "{name}");
        assert!(fs::write(place.mnt().join("new"), "").is_err(), "{name}");
        assert_eq!(place.mounts().len(), 1, "{name}: {:?}", place.mounts());
        place.unmount();
    }
}

#[test]
fn changes_go_to_the_upper_directory() {
    let test = "changes_go_to_the_upper_directory";
    need!(test, support::can_mount());
    for (name, kernel) in kernels() {
        let place = Place::new();
        let images = three(&place);
        let upper = Upper::new(place.path("new/upper"));
        let options = place.overlay_options(kernel).option("volatile");
        overlay(lowers(&images, kernel), Some(&upper), &options).unwrap().attach(&place.mnt()).unwrap();
        // The root is that of the nearest layer.
        let root = fs::metadata(&upper.dir).unwrap();
        assert_eq!((root.mode() & 0o7777, root.uid(), root.gid()), (0o751, 7, 8), "{name}");
        assert_eq!((root.mtime(), root.mtime_nsec()), (1_000_000, 0), "{name}");
        fs::write(place.mnt().join("new"), "text").unwrap();
        fs::remove_file(place.mnt().join("a")).unwrap();
        assert_eq!(listing(&place.mnt()), ["b=2", "d=3", "new=text"], "{name}");
        assert!(place.mounts()[0].contains("volatile"), "{name}");
        place.unmount();
        assert_eq!(listing(&upper.dir), ["a", "new=text"], "{name}");
        assert!(fs::symlink_metadata(upper.dir.join("a")).unwrap().file_type().is_char_device());
        fs::remove_dir_all(place.path("new/upper.work/work/incompat")).unwrap();
        // The same upper again: what it has stays.
        fs::set_permissions(&upper.dir, fs::Permissions::from_mode(0o700)).unwrap();
        overlay(lowers(&images, kernel), Some(&upper), &place.overlay_options(kernel))
            .unwrap()
            .attach(&place.mnt())
            .unwrap();
        assert_eq!(listing(&place.mnt()), ["b=2", "d=3", "new=text"], "{name}");
        assert_eq!(fs::metadata(place.mnt()).unwrap().mode() & 0o7777, 0o700);
        place.unmount();
    }
}

#[test]
fn sixty_layers_with_long_paths_are_mounted() {
    let test = "sixty_layers_with_long_paths_are_mounted";
    need!(test, support::can_mount_files());
    for (name, kernel) in kernels() {
        if !kernel.file_backed_erofs {
            continue; // Sixty loop devices at once are too many for some machines.
        }
        let place = Place::new();
        let long = long_dir(&place);
        let mut images = Vec::new();
        let mut dirs = Vec::new();
        let mut want = Vec::new();
        for n in 0..60 {
            let path = long.join(format!("layer-{n:02}.erofs"));
            let file = format!("f{n:02}={n}");
            fs::write(&path, image(&[&file, &format!("same={n}")], &options(4096))).unwrap();
            images.push(path);
            want.push(file);
            let dir = long.join(format!("dir:{n:02},\\"));
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join(format!("f{n:02}")), n.to_string()).unwrap();
            fs::write(dir.join("same"), n.to_string()).unwrap();
            dirs.push(dir);
        }
        want.push("same=0".into());
        let upper = Upper::new(long.join("up\\per:,"));
        overlay(lowers(&images, kernel), Some(&upper), &place.overlay_options(kernel))
            .unwrap()
            .attach(&place.mnt())
            .unwrap();
        assert_eq!(listing(&place.mnt()), want, "{name}");
        place.unmount();
        let dirs: Vec<Lower> = dirs.into_iter().map(Lower::Dir).collect();
        overlay(dirs, Some(&upper), &place.overlay_options(kernel)).unwrap().attach(&place.mnt()).unwrap();
        assert_eq!(listing(&place.mnt()), want, "{name}");
        place.unmount();
    }
}

#[test]
fn directories_and_images_mix() {
    let test = "directories_and_images_mix";
    need!(test, support::can_mount());
    for (name, kernel) in kernels() {
        let place = Place::new();
        let images = three(&place);
        for (dir, file) in [("top", "a"), ("bottom", "z")] {
            fs::create_dir(place.path(dir)).unwrap();
            fs::write(place.path(dir).join(file), dir).unwrap();
        }
        let mut layers = lowers(&images, kernel);
        layers.insert(0, Lower::Dir(place.path("top")));
        layers.push(Lower::Dir(place.path("bottom")));
        overlay(layers, None, &place.overlay_options(kernel)).unwrap().attach(&place.mnt()).unwrap();
        assert_eq!(listing(&place.mnt()), ["a=top", "b=2", "d=3", "z=bottom"], "{name}");
        place.unmount();
    }
}

#[test]
fn one_layer_is_its_own_view() {
    let test = "one_layer_is_its_own_view";
    need!(test, support::can_mount());
    let place = Place::new();
    let kernel = KernelFeatures::default();
    let path = place.write("a.erofs", &image(&["f=text"], &options(4096)));
    let options = place.overlay_options(kernel);
    overlay(lowers(&[path], kernel), None, &options).unwrap().attach(&place.mnt()).unwrap();
    assert_eq!(listing(&place.mnt()), ["f=text"]);
    place.unmount();
    fs::create_dir(place.path("dir")).unwrap();
    fs::write(place.path("dir/f"), "text").unwrap();
    overlay(vec![Lower::Dir(place.path("dir"))], None, &options).unwrap().attach(&place.mnt()).unwrap();
    assert_eq!(listing(&place.mnt()), ["f=text"]);
    assert!(fs::write(place.mnt().join("new"), "").is_err());
    place.unmount();
}

#[test]
fn what_cannot_be_an_overlay_is_refused_and_leaves_nothing() {
    let test = "what_cannot_be_an_overlay_is_refused_and_leaves_nothing";
    need!(test, support::can_mount());
    for (name, kernel) in kernels() {
        let place = Place::new();
        let images = three(&place);
        let file = place.write("file", b"");
        let options = place.overlay_options(kernel);
        let with = |lower: PathBuf| {
            let mut layers = lowers(&images, kernel);
            layers.push(Lower::Dir(lower));
            let error = overlay(layers, None, &options).unwrap_err();
            place.assert_clean();
            error
        };
        assert_eq!(with(place.path("missing")).kind(), &ErrorKind::NotFound, "{name}");
        assert_eq!(with(file.clone()).kind(), &ErrorKind::NotDirectory, "{name}");
        assert_eq!(with(file.clone()).entry_path(), Some(file.as_os_str().as_encoded_bytes()));

        let kind = |error: layer_model::Error| {
            place.assert_clean();
            error.kind().clone()
        };
        let none = overlay(Vec::new(), None, &options).unwrap_err();
        assert_eq!(kind(none), ErrorKind::InvalidArgument);
        let layer = options.clone().option("lowerdir+=/");
        let named = overlay(lowers(&images, kernel), None, &layer).unwrap_err();
        assert_eq!(kind(named), ErrorKind::InvalidArgument);
        let unknown = options.clone().option("no_such_option=1");
        let unknown = overlay(lowers(&images, kernel), None, &unknown).unwrap_err();
        assert!(matches!(kind(unknown), ErrorKind::Io(Some(22))), "{name}");

        // An upper on a file system that is read-only.
        let held = erofs(&images[0], &[], &ErofsOptions::new()).unwrap();
        held.attach(&place.mnt()).unwrap();
        let upper = Upper { dir: place.mnt(), work: place.path("work") };
        let error = overlay(lowers(&images, kernel), Some(&upper), &options).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Io(Some(_))), "{name}: {}", error.chain());
        umount(&place.mnt()).unwrap();
        place.assert_clean();
    }
}

#[test]
fn a_directory_is_shown_elsewhere_and_keeps_its_restrictions() {
    let test = "a_directory_is_shown_elsewhere_and_keeps_its_restrictions";
    need!(test, support::can_mount());
    let place = Place::new();
    fs::create_dir(place.path("dir")).unwrap();
    let new = || BindOptions::new().scratch(place.scratch());
    bind(&place.path("dir"), &new()).unwrap().attach(&place.mnt()).unwrap();
    fs::write(place.mnt().join("f"), "text").unwrap();
    place.unmount();
    bind(&place.path("dir"), &new().read_only(true).recursive(true)).unwrap().attach(&place.mnt()).unwrap();
    assert_eq!(listing(&place.mnt()), ["f=text"]);
    assert_eq!(
        fs::write(place.mnt().join("g"), "").unwrap_err().kind(),
        std::io::ErrorKind::ReadOnlyFilesystem
    );
    place.unmount();
    // What is below comes along only when asked for, and stays as it was.
    fs::create_dir(place.path("dir/below")).unwrap();
    let path = place.write("a.erofs", &image(&["f=text"], &options(4096)));
    erofs(&path, &[], &ErofsOptions::new()).unwrap().attach(&place.path("dir/below")).unwrap();
    for recursive in [true, false] {
        let options = new().read_only(true).recursive(recursive);
        bind(&place.path("dir"), &options).unwrap().attach(&place.mnt()).unwrap();
        let shown = listing(&place.mnt().join("below"));
        assert_eq!(shown.len(), usize::from(recursive));
        rustix::mount::unmount(place.mnt(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
    umount(&place.path("dir/below")).unwrap();
    place.assert_clean();
    for (from, kind) in [("missing", ErrorKind::NotFound), ("a.erofs", ErrorKind::NotDirectory)] {
        assert_eq!(bind(&place.path(from), &new().read_only(true)).unwrap_err().kind(), &kind);
    }
}

#[test]
fn a_bind_mount_keeps_what_restricts_its_original() {
    let test = "a_bind_mount_keeps_what_restricts_its_original";
    need!(test, support::can_mount());
    let place = Place::new();
    fs::create_dir(place.path("dir")).unwrap();
    let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
    rustix::mount::mount("tmpfs", place.mnt(), "tmpfs", flags, None::<&std::ffi::CStr>).unwrap();
    fs::create_dir(place.mnt().join("inside")).unwrap();
    let options = BindOptions::new().read_only(true).scratch(place.scratch());
    bind(&place.mnt().join("inside"), &options).unwrap().attach(&place.path("dir")).unwrap();
    let line = place.mounts().into_iter().find(|line| line.contains("/dir ")).unwrap();
    assert!(line.contains(" ro,nosuid,nodev"), "{line}");
    umount(&place.path("dir")).unwrap();
    place.unmount();
}

#[test]
fn images_on_an_overlay_are_layers_too() {
    let test = "images_on_an_overlay_are_layers_too";
    need!(test, support::can_mount());
    let place = Place::new();
    for dir in ["lower", "view"] {
        fs::create_dir(place.path(dir)).unwrap();
    }
    let options = place.overlay_options(KernelFeatures::default());
    let upper = Upper::new(place.path("upper"));
    overlay(vec![Lower::Dir(place.path("lower"))], Some(&upper), &options)
        .unwrap()
        .attach(&place.path("view"))
        .unwrap();
    // Some kernels mount no files there, and say so: the fallback that they ask for themselves.
    let images = ["view/top=1", "view/base=2"].map(|file| {
        let (path, text) = file.split_once('=').unwrap();
        place.write(path, &image(&[&format!("{text}=text")], &support::options(4096)))
    });
    overlay(lowers(&images, KernelFeatures::default()), None, &options)
        .unwrap()
        .attach(&place.mnt())
        .unwrap();
    assert_eq!(listing(&place.mnt()), ["1=text", "2=text"]);
    umount(&place.mnt()).unwrap();
    place.settle();
    umount(&place.path("view")).unwrap();
    place.assert_clean();
}

#[test]
fn only_older_kernels_need_a_scratch_directory() {
    let test = "only_older_kernels_need_a_scratch_directory";
    need!(test, support::can_mount_since((6, 15)));
    let place = Place::new();
    let images = three(&place);
    for (name, kernel) in kernels() {
        let options = place.overlay_options(kernel).scratch(place.path("missing"));
        let made = overlay(lowers(&images, kernel), None, &options);
        if kernel.detached_layers && kernel.layer_by_layer {
            made.unwrap().attach(&place.mnt()).unwrap();
            place.unmount();
        } else {
            let error = made.unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::NotFound, "{name}: {}", error.chain());
            assert!(error.to_string().contains("/missing: make a directory to mount on"), "{error}");
        }
    }
}
