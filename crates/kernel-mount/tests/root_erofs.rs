//! EROFS images, from files and by loop devices.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use kernel_mount::{Backing, ErofsOptions, KernelFeatures, erofs, umount};
use layer_model::ErrorKind;
use rustix::fs::{Mode, OFlags};
use support::{Place, image, listing, long_dir, merged, options};

const BACKINGS: [Backing; 3] = [Backing::Auto, Backing::File, Backing::Loop];

fn by(backing: Backing) -> ErofsOptions {
    ErofsOptions::new().backing(backing)
}

#[test]
fn an_image_is_mounted_from_its_file_and_by_loop_device() {
    let test = "an_image_is_mounted_from_its_file_and_by_loop_device";
    need!(test, support::can_mount_files());
    for block_size in [4096, 512] {
        let place = Place::new();
        let path = place.write("a.erofs", &image(&["f=text", "d/"], &options(block_size)));
        for backing in BACKINGS {
            erofs(&path, &[], &by(backing)).unwrap().attach(&place.mnt()).unwrap();
            assert_eq!(listing(&place.mnt()), ["d", "f=text"], "{backing:?}, {block_size}");
            assert_eq!(place.loops().len(), usize::from(backing == Backing::Loop), "{backing:?}");
            assert!(fs::write(place.mnt().join("new"), "").is_err());
            let line = &place.mounts()[0];
            assert!(line.contains(" ro,") && line.contains(" - erofs "), "{line}");
            place.unmount();
        }
    }
}

#[test]
fn further_devices_are_mounted_both_ways() {
    let test = "further_devices_are_mounted_both_ways";
    need!(test, support::can_mount_files());
    for block_size in [4096, 512] {
        let place = Place::new();
        let (meta, blobs) = merged(&[&["a=1", "b=1"], &["b=2", "c=2"], &["c-", "d=3"]], &options(block_size));
        let meta = place.write("meta", &meta);
        let devices: Vec<PathBuf> =
            blobs.iter().enumerate().map(|(n, blob)| place.write(&n.to_string(), blob)).collect();
        for backing in BACKINGS {
            erofs(&meta, &devices, &by(backing)).unwrap().attach(&place.mnt()).unwrap();
            assert_eq!(listing(&place.mnt()), ["a=1", "b=2", "d=3"], "{backing:?}, {block_size}");
            assert_eq!(place.loops().len(), if backing == Backing::Loop { 4 } else { 0 }, "{backing:?}");
            place.unmount();
        }
    }
}

#[test]
fn a_detached_mount_is_seen_by_nobody_and_gone_when_dropped() {
    let test = "a_detached_mount_is_seen_by_nobody_and_gone_when_dropped";
    need!(test, support::can_mount());
    let place = Place::new();
    let path = place.write("a.erofs", &image(&["f=text"], &options(4096)));
    let mount = erofs(&path, &[], &by(Backing::Loop)).unwrap();
    assert_eq!(place.mounts(), [""; 0]);
    assert_eq!(place.loops().len(), 1);
    let file =
        rustix::fs::openat(mount.as_fd(), "f", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    assert_eq!(std::io::read_to_string(fs::File::from(file)).unwrap(), "text");
    drop(mount);
    place.assert_clean();
}

#[test]
fn long_and_odd_paths_and_links_are_taken() {
    let test = "long_and_odd_paths_and_links_are_taken";
    need!(test, support::can_mount_files());
    let place = Place::new();
    let long = long_dir(&place);
    let (meta, blobs) = merged(&[&["a=1"], &["b=2"]], &options(4096));
    let devices = [long.join("device:0,a\\b"), long.join("device 1")];
    for (device, blob) in devices.iter().zip(&blobs) {
        fs::write(device, blob).unwrap();
    }
    let file = place.write("meta\\ ,:data", &meta);
    let paths = [long.join("meta"), place.path("link")];
    for path in &paths {
        support::link(&file, path);
    }
    for path in paths.iter().chain([&file]) {
        for backing in BACKINGS {
            erofs(path, &devices, &by(backing)).unwrap().attach(&place.mnt()).unwrap();
            assert_eq!(listing(&place.mnt()), ["a=1", "b=2"], "{backing:?}");
            place.unmount();
        }
    }
}

#[test]
fn a_kernel_that_mounts_no_files_gets_loop_devices() {
    let test = "a_kernel_that_mounts_no_files_gets_loop_devices";
    need!(test, support::can_mount());
    let place = Place::new();
    let path = place.write("a.erofs", &image(&["f=text"], &options(4096)));
    let options = ErofsOptions::new().kernel_features(KernelFeatures::oldest());
    erofs(&path, &[], &options).unwrap().attach(&place.mnt()).unwrap();
    assert_eq!(place.loops().len(), 1);
    assert_eq!(listing(&place.mnt()), ["f=text"]);
    place.unmount();
}

#[test]
fn a_file_that_the_kernel_cannot_mount_is_tried_by_loop_device() {
    let test = "a_file_that_the_kernel_cannot_mount_is_tried_by_loop_device";
    need!(test, support::can_mount_files());
    // A file of /proc is a regular file that EROFS cannot read through: the kernel says ENOTBLK itself.
    let file = Path::new("/proc/self/mountinfo");
    let error = erofs(file, &[], &by(Backing::File)).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotSupported, "{}", error.chain());
    // A loop device can have such a file, but there is no image in it.
    let error = erofs(file, &[], &by(Backing::Auto)).unwrap_err();
    assert_eq!(error.os_error(), Some(rustix::io::Errno::INVAL.raw_os_error()), "{}", error.chain());
}

#[test]
fn a_block_device_is_taken_as_it_is_and_mixes_with_files() {
    let test = "a_block_device_is_taken_as_it_is_and_mixes_with_files";
    need!(test, support::can_mount());
    let place = Place::new();
    let (meta, blobs) = merged(&[&["a=1"], &["b=2"]], &options(4096));
    let meta = place.write("meta", &meta);
    let devices = [place.write("0", &blobs[0]), place.write("1", &blobs[1])];
    // A device that somebody else made: that of a mount of the same file.
    let holder = erofs(&meta, &devices, &by(Backing::Loop)).unwrap();
    let device = fs::read_dir("/sys/block").unwrap().find_map(|entry| {
        let entry = entry.unwrap();
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        (file.trim_end() == meta.to_str().unwrap()).then(|| Path::new("/dev").join(entry.file_name()))
    });
    let device = device.unwrap();
    for backing in [Backing::Auto, Backing::Loop] {
        erofs(&device, &devices, &by(backing)).unwrap().attach(&place.mnt()).unwrap();
        assert_eq!(listing(&place.mnt()), ["a=1", "b=2"], "{backing:?}");
        umount(&place.mnt()).unwrap();
    }
    drop(holder);
    place.assert_clean();
}

#[test]
fn what_is_no_sound_image_is_refused_and_leaves_nothing() {
    let test = "what_is_no_sound_image_is_refused_and_leaves_nothing";
    need!(test, support::can_mount_files());
    let place = Place::new();
    let good = image(&["f=text"], &options(4096));
    let mut damaged = good.clone();
    damaged[1024 + 4] ^= 1; // the checksum
    let damaged = place.write("damaged", &damaged);
    let zeros = place.write("zeros", &[0; 8192]);
    let short = place.write("short", &good[..1024]);
    let empty = place.write("empty", b"");
    let (meta, blobs) = merged(&[&["a=1"], &["b=2"]], &options(4096));
    let meta = place.write("meta", &meta);
    let blob = place.write("blob", &blobs[0]);
    let missing = place.path("missing");
    for backing in BACKINGS {
        for image in [&damaged, &zeros, &short, &empty] {
            let error = erofs(image, &[], &by(backing)).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Io(Some(_))), "{backing:?}: {}", error.chain());
            assert_eq!(error.entry_path(), Some(image.as_os_str().as_encoded_bytes()), "{}", error.chain());
            place.assert_clean();
        }
        let kind = |image: &Path, devices: &[PathBuf]| {
            let kind = erofs(image, devices, &by(backing)).unwrap_err().kind().clone();
            place.assert_clean();
            kind
        };
        assert_eq!(kind(&missing, &[]), ErrorKind::NotFound);
        assert_eq!(kind(&place.mnt(), &[]), ErrorKind::InvalidArgument);
        assert_eq!(kind(&meta, &[blob.clone(), missing.clone()]), ErrorKind::NotFound);
        // One device too few.
        assert!(matches!(kind(&meta, std::slice::from_ref(&blob)), ErrorKind::Io(Some(_))));
        let option = by(backing).option("no-such-option=1");
        let error = erofs(&blob, &[], &option).unwrap_err();
        assert!(error.to_string().contains("no-such-option"), "{}", error.chain());
        place.assert_clean();
    }
}

#[test]
fn a_mount_without_a_mount_point_leaves_nothing() {
    let test = "a_mount_without_a_mount_point_leaves_nothing";
    need!(test, support::can_mount());
    let place = Place::new();
    let path = place.write("a.erofs", &image(&["f=text"], &options(4096)));
    support::link(&place.mnt(), &place.path("link"));
    for (target, kind) in [
        (place.path("missing"), ErrorKind::NotFound),
        (path.clone(), ErrorKind::NotDirectory),
        (place.path("link"), ErrorKind::NotDirectory),
    ] {
        let error = erofs(&path, &[], &by(Backing::Loop)).unwrap().attach(&target).unwrap_err();
        assert_eq!(error.kind(), &kind, "{}", error.chain());
        assert_eq!(error.entry_path(), Some(target.as_os_str().as_encoded_bytes()));
        place.assert_clean();
    }
}

#[test]
fn unmounting_what_is_used_or_not_mounted_fails() {
    let test = "unmounting_what_is_used_or_not_mounted_fails";
    need!(test, support::can_mount());
    let place = Place::new();
    let path = place.write("a.erofs", &image(&["f=text"], &options(4096)));
    erofs(&path, &[], &by(Backing::Loop)).unwrap().attach(&place.mnt()).unwrap();
    let used = fs::File::open(place.mnt().join("f")).unwrap();
    let error = umount(&place.mnt()).unwrap_err();
    assert_eq!(error.os_error(), Some(rustix::io::Errno::BUSY.raw_os_error()), "{}", error.chain());
    assert_eq!(place.mounts().len(), 1);
    drop(used);
    place.unmount();
    assert_eq!(umount(&place.mnt()).unwrap_err().kind(), &ErrorKind::InvalidArgument);
    assert_eq!(umount(&place.path("missing")).unwrap_err().kind(), &ErrorKind::NotFound);
}

#[test]
fn many_take_loop_devices_at_the_same_time() {
    let test = "many_take_loop_devices_at_the_same_time";
    need!(test, support::can_mount());
    let place = Place::new();
    let path = place.write("a.erofs", &image(&["f=text"], &options(4096)));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..4 {
                    drop(erofs(&path, &[], &by(Backing::Loop)).unwrap());
                }
            });
        }
    });
    place.assert_clean();
}
