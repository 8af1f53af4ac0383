//! What only root can do to a merged tree: owners, devices, capabilities.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{fs, os::unix::fs::MetadataExt};

use layer_apply::{ApplyOptions, KernelFeatures, XattrPolicy};
use layer_model::{
    ErrorKind, Profile, WarningKind,
    idmap::{IdMap, IdRange},
};
use support::{Mount, Place, build, can, changes, is_root, kind_of, meta, xattr};

fn spec() -> ApplyOptions {
    ApplyOptions::new()
}

#[test]
fn owners_modes_and_times_are_those_of_the_last_entry_for_an_inode() {
    if !can("owners_modes_and_times_are_those_of_the_last_entry_for_an_inode", "root", is_root()) {
        return;
    }
    for features in [KernelFeatures::default(), KernelFeatures::oldest()] {
        let place = Place::new();
        let layer = "a:\"x\" 0600 uid 1 mtime 10; b=a 0777 uid 5 mtime 20; s 06755 uid 3 gid 4; t=s 06755 uid 4 gid 4; d/ 02755 uid 3 gid 4; l>x uid 6 gid 7; P p 06640 uid 8 gid 9";
        place.flatten(spec().kernel_features(features), layer).0.unwrap();
        for name in ["a", "b"] {
            let meta = meta(place.path(name));
            assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.mtime()), (0o777, 5, 20), "{name}");
        }
        for (name, want) in
            [("s", (0o6755, 4, 4)), ("d", (0o2755, 3, 4)), ("l", (0o777, 6, 7)), ("p", (0o6640, 8, 9))]
        {
            let meta = meta(place.path(name));
            assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), want, "{name}");
        }
    }
}

#[test]
fn owners_are_right_below_directories_that_pass_their_group_on() {
    if !can("owners_are_right_below_directories_that_pass_their_group_on", "root", is_root()) {
        return;
    }
    let place = Place::new();
    let layer = "d/ 02775 gid 7; d/f:\"\" 0664; d/g:\"\" gid 7; d/s/ 0755; d/s/h:\"\"; d/l>x; P d/p; i/ 0755 gid 8; i/f:\"\"";
    place.flatten(spec(), layer).0.unwrap();
    for (name, gid, mode) in [
        ("d/f", 0, 0o664),
        ("d/g", 7, 0o644),
        ("d/s", 0, 0o755),
        ("d/s/h", 0, 0o644),
        ("d/p", 0, 0o644),
        ("i/f", 0, 0o644),
    ] {
        assert_eq!(
            (meta(place.path(name)).gid(), meta(place.path(name)).mode() & 0o7777),
            (gid, mode),
            "{name}"
        );
    }
    assert_eq!(meta(place.path("d/l")).gid(), 0);
}

#[test]
fn a_directory_over_a_directory_gets_the_owner() {
    if !can("a_directory_over_a_directory_gets_the_owner", "root", is_root()) {
        return;
    }
    let place = Place::with("d/ user.k=v; d/x:\"\"");
    place.flatten(spec(), "d/ 0700 uid 9").0.unwrap();
    assert_eq!((meta(place.path("d")).uid(), meta(place.path("d")).mode() & 0o777), (9, 0o700));
    assert_eq!(xattr(&place.path("d"), "user.k").as_deref(), Some(&b"v"[..]));
}

#[test]
fn devices_are_made_with_their_numbers() {
    if !can("devices_are_made_with_their_numbers", "root", is_root()) {
        return;
    }
    for features in [KernelFeatures::default(), KernelFeatures::oldest()] {
        let place = Place::new();
        let (result, heard) = place.flatten(
            spec().kernel_features(features),
            "P p; C n 1:3 0666 uid 1; B b 8:1 0660 gid 6; C zero 0:0; C max 4095:1048575; h=n 0600",
        );
        result.unwrap();
        place.holds("B b 8:1; C h 1:3; C max 4095:1048575; C n 1:3; P p; wh:zero");
        assert_eq!(heard.kinds(), [WarningKind::CharZeroDevice]);
        assert_eq!((meta(place.path("n")).mode() & 0o777, meta(place.path("b")).gid()), (0o600, 6));
    }
}

#[test]
fn capabilities_survive_and_bad_ones_are_errors() {
    if !can("capabilities_survive_and_bad_ones_are_errors", "root", is_root()) {
        return;
    }
    use layer_model::{
        Applier, Base, Silent,
        testing::{MemoryChanges, OwnedAction},
    };
    let with = |value: &[u8]| {
        let mut list = changes("f:\"\" 0755 uid 3").as_slice().to_vec();
        if let OwnedAction::Upsert { node, .. } = &mut list[0].action {
            node.xattrs.insert(&b"security.capability"[..], value);
        }
        MemoryChanges::new(list)
    };
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let place = Place::new();
    let applier = layer_apply::FlatApplier::default();
    applier.apply(&mut with(&capability), Base::Empty, place.root(), &Silent).unwrap();
    assert_eq!(xattr(&place.path("f"), "security.capability").as_deref(), Some(&capability[..]));
    let result = applier.apply(&mut with(b"x"), Base::Empty, place.root(), &Silent);
    assert_eq!(kind_of(result), ErrorKind::Io(Some(22)), "EINVAL");
}

#[test]
fn trusted_attributes_are_kept_if_asked_for() {
    if !can("trusted_attributes_are_kept_if_asked_for", "root", is_root()) {
        return;
    }
    let layer = "f:\"\" trusted.foo=1 trusted.overlay.opaque=y; l>f trusted.foo=2; P p trusted.foo=3";
    for features in [KernelFeatures::default(), KernelFeatures::oldest()] {
        let place = Place::new();
        let keep = spec().keep_trusted_xattrs(true).kernel_features(features);
        let (result, heard) = place.flatten(keep, layer);
        result.unwrap();
        for (name, want) in [("f", b"1"), ("l", b"2"), ("p", b"3")] {
            assert_eq!(xattr(&place.path(name), "trusted.foo").as_deref(), Some(&want[..]), "{name}");
        }
        assert_eq!(xattr(&place.path("f"), "trusted.overlay.opaque"), None);
        assert_eq!(heard.kinds(), [WarningKind::XattrDropped]);
    }
    let place = Place::new();
    place.flatten(spec().xattr_policy(XattrPolicy::Verbatim), layer).0.unwrap();
    assert_eq!(xattr(&place.path("f"), "trusted.overlay.opaque").as_deref(), Some(&b"y"[..]));
}

#[test]
fn owners_go_through_the_id_maps() {
    if !can("owners_go_through_the_id_maps", "root", is_root()) {
        return;
    }
    let map = || IdMap::new(vec![IdRange { inside: 0, outside: 500_000, len: 1000 }]).unwrap();
    let place = Place::new();
    place.flatten(spec().id_maps(map(), map()), "i/f:\"\" uid 3 gid 4").0.unwrap();
    let owner = |name: &str| (meta(place.path(name)).uid(), meta(place.path(name)).gid());
    assert_eq!((owner("i"), owner("i/f")), ((500_000, 500_000), (500_003, 500_004)));
    let (result, _) = place.flatten(spec().id_maps(map(), map()), "f:\"\" uid 1000");
    assert_eq!(kind_of(result), ErrorKind::UnmappedId { id: 1000 });
}

#[test]
fn the_owner_may_be_left_alone() {
    if !can("the_owner_may_be_left_alone", "root", is_root()) {
        return;
    }
    let place = Place::new();
    let (result, heard) =
        place.flatten(spec().no_same_owner(true), "f:\"\" 04755 uid 1000 user.k=v; g:\"\" uid 1001");
    result.unwrap();
    assert_eq!((meta(place.path("f")).uid(), meta(place.path("f")).mode() & 0o7777), (0, 0o4755));
    assert!(xattr(&place.path("f"), "user.k").is_some());
    assert_eq!(heard.kinds(), [WarningKind::OwnerSkipped], "once");
}

#[test]
fn a_file_system_without_attributes_is_a_warning() {
    let place = Place::new();
    let at = place.temp.path().join("m");
    let mounted = if is_root() { Mount::new("ramfs", &at, "") } else { None };
    let Some(_mount) = mounted.filter(|_| {
        fs::write(at.join("probe"), "").unwrap();
        rustix::fs::setxattr(at.join("probe"), "user.k", b"v", rustix::fs::XattrFlags::empty()).is_err()
    }) else {
        can("a_file_system_without_attributes_is_a_warning", "ramfs", false);
        return;
    };
    use layer_model::{Applier, Base};
    let heard = support::Heard::default();
    layer_apply::FlatApplier::default()
        .apply(&mut changes("f:\"x\" user.k=v; d/ user.k=v"), Base::Empty, at.join("t"), &heard)
        .unwrap();
    assert_eq!(heard.kinds(), [WarningKind::XattrDropped; 2]);
    assert_eq!(fs::read(at.join("t/f")).unwrap(), b"x");
}

#[test]
fn a_mount_point_in_the_way_is_an_error_and_is_not_entered() {
    let place = Place::with("d/m/; d/x:\"1\"; e/bind/; source/keep:\"k\"");
    let tmpfs = if is_root() { Mount::new("tmpfs", &place.path("d/m"), "") } else { None };
    let bind = || {
        rustix::mount::mount_bind(place.path("source"), place.path("e/bind")).ok()?;
        Some(Mount(place.path("e/bind")))
    };
    let (Some(_tmpfs), Some(_bind)) = (tmpfs, bind()) else {
        can("a_mount_point_in_the_way_is_an_error_and_is_not_entered", "mounting", false);
        return;
    };
    fs::write(place.path("d/m/inside"), "keep").unwrap();
    for features in [KernelFeatures::default(), KernelFeatures::oldest()] {
        for layer in ["wh:d", "opq:d", "d:\"file\"", "wh:e", "opq:e", "wh:e/bind", "wh:d/m", "e>x"] {
            let (result, _) = place.flatten(spec().kernel_features(features), layer);
            assert_eq!(kind_of(result), ErrorKind::Io(Some(16)), "{layer}: EBUSY");
            assert_eq!(fs::read(place.path("d/m/inside")).unwrap(), b"keep", "{layer}");
            assert_eq!(fs::read(place.path("source/keep")).unwrap(), b"k", "{layer}");
        }
        let (result, _) = place.flatten(spec().kernel_features(features).no_xdev(true), "d/m/f:\"1\"");
        assert!(result.is_err(), "mount points can be refused as parents");
    }
    place.flatten(spec(), "d/m/f:\"1\"").0.unwrap();
}

#[test]
fn an_immutable_file_is_an_error_that_names_it() {
    let place = Place::with("d/f:\"1\"; d/g:\"1\"");
    let file = fs::File::open(place.path("d/f")).unwrap();
    let set = |on: bool| {
        let flags = if on { rustix::fs::IFlags::IMMUTABLE } else { rustix::fs::IFlags::empty() };
        rustix::fs::ioctl_setflags(&file, flags)
    };
    if !can("an_immutable_file_is_an_error_that_names_it", "immutable files", is_root() && set(true).is_ok())
    {
        return;
    }
    for layer in ["wh:d/f", "wh:d", "d/f:\"2\"", "x=d/g; opq:d"] {
        let (result, _) = place.flatten(spec(), layer);
        let error = result.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::PermissionDenied, "{layer}");
        assert_eq!(error.entry_path(), Some(&b"d/f"[..]), "{layer}");
    }
    set(false).unwrap();
}

#[test]
fn a_full_disk_leaves_no_target() {
    let place = Place::new();
    let at = place.temp.path().join("m");
    let mounted = if is_root() { Mount::new("tmpfs", &at, "size=1m,nr_inodes=100") } else { None };
    let Some(_mount) = mounted else {
        can("a_full_disk_leaves_no_target", "tmpfs", false);
        return;
    };
    use layer_apply::{FlatApplier, OverlayApplier};
    use layer_model::{Applier, Base, Silent};
    let large = format!("a:\"1\"; d/b:\"{}\"; c:\"{}\"", "x".repeat(700 << 10), "y".repeat(700 << 10));
    let prealloc = format!("a:\"{}\"", "x".repeat(3 << 20));
    let inodes: String = (0..200).map(|n| format!("d{n}/f:\"\"; ")).collect();
    for layer in [&large, &prealloc, &inodes] {
        let overlay = OverlayApplier::<overlay_dir::OverlayDir>::default();
        let result = overlay.apply(&mut changes(layer), Base::Empty, at.join("t"), &Silent);
        assert_eq!(kind_of(result), ErrorKind::Io(Some(28)), "ENOSPC");
        let result = FlatApplier::default().apply(&mut changes(layer), Base::Empty, at.join("t"), &Silent);
        assert_eq!(kind_of(result), ErrorKind::Io(Some(28)), "ENOSPC");
        assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
    }
}

#[test]
fn containerd_makes_the_same_of_a_plain_layer() {
    if !can("containerd_makes_the_same_of_a_plain_layer", "root", is_root()) {
        return;
    }
    use layer_model::testing::Snapshot;
    use overlay_dir::{PlainDir, PlainDirOptions};
    let layer = "./ mtime 9; etc/ 0750 uid 1; etc/passwd:\"p\" 0640 gid 3; etc/l>passwd; etc/h=etc/passwd 0640 gid 3; bin/; bin/su:\"x\" 04755; dev/; C dev/null 1:3 0666; wh:old; d/; opq:d; d/n:\"1\"";
    let seen = [Profile::Spec, Profile::Containerd].map(|profile| {
        let place = Place::new();
        build(&place.root(), "old/x:\"1\"; d/ mtime 4; d/low:\"2\"");
        place.flatten(spec().profile(profile), layer).0.unwrap();
        let tree = PlainDir::open(place.root(), PlainDirOptions::default()).unwrap();
        Snapshot::of(&tree).unwrap().without_root().without_access_times()
    });
    seen[0].assert_same(&seen[1]);
}
