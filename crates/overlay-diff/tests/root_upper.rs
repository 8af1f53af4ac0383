//! Uppers on disk: what the kernel writes there, and what else can stand there. Needs root, for devices,
//! `trusted.*` attributes and mounts.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![cfg(target_os = "linux")]

mod support;

use std::{fs, os::unix::net::UnixListener, process::Command};

use layer_model::{
    Base, ErrorKind, Profile, WarningKind,
    idmap::{IdMap, IdRange},
    testing::OwnedAction,
};
use overlay_diff::{TreeDiffer, TreeOptions, UpperDiffer, UpperOptions, XattrPolicy};
use overlay_dir::{Namespace, OverlayDir, OverlayDirOptions, OverlayUpper, OverlayUpperOptions, Owners};
use support::{
    Heard, Outcome,
    disk::{Disk, skip},
    random::{Random, age, operate},
};

/// Whether this process may mount overlays with these options.
fn can_mount(test: &str, options: &str) -> bool {
    let mut disk = Disk::new();
    disk.lower();
    match disk.mount(options) {
        Ok(_) => true,
        Err(error) => {
            skip(test, &format!("no overlay mount with `{options}`: {error}"));
            false
        }
    }
}

macro_rules! needs_mount {
    ($options:expr) => {
        let name = std::thread::current().name().unwrap_or("test").to_owned();
        if !can_mount(&name, $options) {
            return;
        }
    };
}

macro_rules! needs_root {
    () => {
        if !rustix::process::geteuid().is_root() {
            return skip(std::thread::current().name().unwrap_or("test"), "not root");
        }
    };
}

#[test]
fn a_directory_renamed_by_the_kernel_comes_with_what_it_holds() {
    needs_mount!("redirect_dir=on");
    let mut disk = Disk::new();
    disk.lower().file("a/f", "1").file("keep/g", "2");
    let want = disk.change("redirect_dir=on", |m| {
        m.rename("keep", "kept2");
    });
    let lines = disk.check("renamed", &want).lines();
    assert_eq!(lines, ["wh keep", "d kept2/ 755", "f kept2/g 644 \"2\""]);
    for base in [Base::Unknown, Base::Empty] {
        let error = disk.diff_over(UpperOptions::new(), base).map(|o| o.lines()).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::UnsupportedMarker { marker: "redirect" });
        assert_eq!(error.entry_path(), Some(&b"kept2"[..]));
    }
}

#[test]
fn renames_in_renamed_directories_and_back_again() {
    needs_mount!("redirect_dir=on");
    let mut disk = Disk::new();
    disk.lower().file("a/b/c/f", "1").file("a/b/g", "2").file("d/x", "3").dir("o", 0o755);
    let want = disk.change("redirect_dir=on", |m| {
        m.rename("a", "r").rename("r/b", "q").rename("q/c", "r/c2").rename("d", "e").rename("e", "d");
        m.rename("r/c2", "o/deep").write("o/deep/f", "changed").remove("q/g");
    });
    disk.check("nested renames", &want);
}

#[test]
fn a_metadata_copy_has_the_data_of_the_lower_file() {
    needs_mount!("metacopy=on");
    let mut disk = Disk::new();
    disk.lower().file("f", "hello").file("g", "there").file("h", "same").link("l", "h");
    let want = disk.change("metacopy=on", |m| {
        m.mode("f", 0o600).rename("g", "g2").mode("g2", 0o640).mode("h", 0o600).mode("h", 0o644);
    });
    let lines = disk.check("metacopy", &want).lines();
    assert_eq!(lines[0], "f f 600 \"hello\"");
    assert!(lines.contains(&"f g2 640 \"there\"".to_owned()), "{lines:?}");
    let error = disk.diff_over(UpperOptions::new(), Base::Unknown).map(|o| o.lines()).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::UnsupportedMarker { marker: "metacopy" });
}

#[test]
fn what_was_touched_and_put_back_is_no_change() {
    needs_mount!("");
    let mut disk = Disk::new();
    disk.lower().file("d/f", "x").file("d/g", "y").dir("moved", 0o755);
    let want = disk.change("", |m| {
        let (secs, nanos) = m.mtime("d/f");
        m.write("d/f", "x").time("d/f", secs, nanos).mode("d/f", 0o600).mode("d/f", 0o644);
        m.rename("d/g", "d/h").rename("d/h", "d/g");
    });
    let outcome = disk.check("noise", &want);
    assert!(outcome.lines().is_empty(), "{:?}", outcome.lines());
    assert!(outcome.report.unchanged >= 2);
}

#[test]
fn removed_files_share_a_whiteout_and_are_no_links() {
    needs_mount!("");
    let mut disk = Disk::new();
    disk.lower().file("a", "1").file("b", "2").file("c", "3").file("d/e", "4");
    let want = disk.change("", |m| {
        m.remove("a").remove("b").remove("c").remove("d");
    });
    assert_eq!(disk.check("removals", &want).lines(), ["wh a", "wh b", "wh c", "wh d"]);
}

#[test]
fn a_new_name_of_a_lower_file_is_one_file_with_it() {
    needs_mount!("");
    let mut disk = Disk::new();
    disk.lower().file("f", "x");
    let want = disk.change("", |m| {
        m.link("g", "f");
    });
    let outcome = disk.diff(UpperOptions::new()).unwrap();
    assert_eq!(outcome.lines(), ["f g 644 \"x\"", "h f=g"]);
    disk.check("linked", &want);
}

#[test]
fn without_an_index_a_written_link_parts_from_the_others() {
    needs_mount!("index=off");
    let mut disk = Disk::new();
    disk.lower().file("p", "1").link("q", "p");
    let want = disk.change("index=off", |m| {
        m.write("p", "22");
    });
    assert_eq!(disk.check("parted", &want).lines(), ["f p 644 \"22\""]);
}

#[test]
fn with_an_index_all_names_of_a_file_change() {
    needs_mount!("index=on");
    let mut disk = Disk::new();
    disk.lower().file("d/p", "1234").link("d/q", "d/p").link("zz", "d/p").file("other", "x");
    let want = disk.change("index=on", |m| {
        m.write("d/p", "CHANGED");
    });
    let lines = disk.check("indexed", &want).lines();
    assert_eq!(lines, ["d d/ 755", "f d/p 644 \"CHANGED\"", "h d/q=d/p", "h zz=d/p"]);
    let error = disk.diff_over(UpperOptions::new(), Base::Unknown).map(|o| o.lines()).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::UnsupportedMarker { marker: "index" });
    assert_eq!(error.entry_path(), Some(&b"d/p"[..]));

    let want = disk.change("index=on", |m| {
        m.remove("zz").link("new", "d/q").write("d/q", "AGAIN");
    });
    disk.check("indexed, a name less and one more", &want);
}

#[test]
fn recreated_directories_hide_what_was_in_them() {
    needs_mount!("");
    let mut disk = Disk::new();
    disk.lower().file("d/old", "1").file("d/s/deep", "2").file("e/x", "3");
    disk.lower().file("d/mid", "4");
    let want = disk.change("", |m| {
        m.remove("d").dir("d", 0o755).file("d/new", "5").dir("d/s", 0o755).remove("e/x").dir("n/m", 0o700);
    });
    let lines = disk.check("recreated", &want).lines();
    let expected = [
        "d d/ 755",
        "wh d/mid",
        "f d/new 644 \"5\"",
        "wh d/old",
        "d d/s/ 755",
        "wh d/s/deep",
        "d e/ 755",
        "wh e/x",
    ];
    assert_eq!(lines[..8], expected);
}

#[test]
fn markers_in_the_users_namespace_count_when_the_mount_used_it() {
    needs_root!();
    let rows = |disk: &mut Disk| {
        let lower = disk.lower();
        lower.file("dir3/f", "e").mode("dir3", 0o700);
        disk.upper().dir("dir3", 0o700).xattr("dir3", "user.overlay.opaque", b"y");
    };
    let mut disk = Disk::new();
    rows(&mut disk);
    assert!(disk.diff(UpperOptions::new()).unwrap().lines().is_empty(), "under `trusted` it is data");
    let mut disk = Disk::of(Namespace::User);
    rows(&mut disk);
    assert_eq!(disk.diff(UpperOptions::new()).unwrap().lines(), ["d dir3/ 700", "wh dir3/f"]);
}

#[test]
fn whiteouts_in_attribute_form_remove() {
    needs_root!();
    let mut disk = Disk::new();
    disk.lower().file("a", "x").file("p/b", "y");
    let upper = disk.upper();
    upper.dir("p", 0o755).xattr("p", "trusted.overlay.opaque", b"x");
    upper.file("p/b", "").xattr("p/b", "trusted.overlay.whiteout", b"y");
    assert_eq!(disk.diff(UpperOptions::new()).unwrap().lines(), ["d p/ 755", "wh p/b"]);
}

#[test]
fn overlays_own_attributes_never_come_out() {
    needs_root!();
    let mut disk = Disk::new();
    disk.lower().dir("d", 0o755).file("d/f", "x");
    let upper = disk.upper();
    upper.dir("d", 0o755).file("d/f", "changed").xattr(".", "trusted.overlay.uuid", &[7; 16]);
    for path in [".", "d", "d/f"] {
        upper.xattr(path, "trusted.overlay.origin", b"\0\xfb handle").xattr(
            path,
            "trusted.overlay.impure",
            b"y",
        );
    }
    upper.xattr("d/f", "trusted.overlay.nlink", b"U+0").xattr("d/f", "trusted.overlay.protattr", b"i");
    for policy in [XattrPolicy::CapabilityOnly, XattrPolicy::Portable, XattrPolicy::All] {
        let options = UpperOptions::new().xattrs(policy).keep_trusted(true).keep_selinux(true);
        let outcome = disk.diff(options).unwrap();
        assert_eq!(outcome.lines(), ["d d/ 755", "f d/f 644 \"changed\""]);
        for change in outcome.changes.as_slice() {
            let OwnedAction::Upsert { node, .. } = &change.action else { panic!("{change:?}") };
            assert!(node.xattrs.is_empty(), "{policy:?}: {:?}", node.xattrs);
        }
    }
}

#[test]
fn an_escaped_marker_is_the_containers_own_attribute() {
    needs_root!();
    let mut disk = Disk::new();
    disk.lower().file("d/f", "x");
    disk.upper().dir("d", 0o755).xattr("d", "trusted.overlay.overlay.opaque", b"y");
    assert!(disk.diff(UpperOptions::new()).unwrap().lines().is_empty());
    let all = UpperOptions::new().xattrs(XattrPolicy::All).keep_trusted(true);
    let outcome = disk.diff(all).unwrap();
    assert_eq!(outcome.lines(), ["d d/ 755"], "and makes nothing opaque");
    let OwnedAction::Upsert { node, .. } = &outcome.changes.as_slice()[0].action else { panic!("an upsert") };
    assert_eq!(node.xattrs.get(b"trusted.overlay.opaque"), Some(&b"y"[..]));
}

#[test]
fn owners_are_those_of_the_container() {
    needs_root!();
    let disk = Disk::new();
    disk.upper().file("f", "x").owner("f", 524_288).file("g", "y").owner("g", 7);
    let open = |overflow| {
        let range = IdRange { inside: 0, outside: 524_288, len: 65_536 };
        let map = IdMap::new(vec![range]).unwrap();
        let mut owners = Owners::mapped(map.clone(), map);
        owners.overflow = overflow;
        let options = OverlayDirOptions::default().namespace(Namespace::Trusted).owners(owners);
        let dir = OverlayDir::open(disk.upper().0, options).unwrap();
        OverlayUpper::new(dir, OverlayUpperOptions::default()).unwrap()
    };
    let owners = |overflow| {
        let heard = Heard::default();
        let upper = open(overflow);
        let differ = UpperDiffer::new(UpperOptions::new());
        let mut source = differ.changes(&upper, Base::<OverlayDir>::Empty, &heard).unwrap();
        Outcome::of(&mut source, &heard).map(|outcome| {
            let uid = |change: &layer_model::testing::OwnedChange| match &change.action {
                OwnedAction::Upsert { node, .. } => node.metadata.uid,
                other => panic!("{other:?}"),
            };
            outcome.changes.as_slice().iter().map(uid).collect::<Vec<_>>()
        })
    };
    let error = owners(None).unwrap_err();
    assert_eq!((error.kind(), error.entry_path()), (&ErrorKind::UnmappedId { id: 7 }, Some(&b"g"[..])));
    assert_eq!(owners(Some(65_534)).unwrap(), [0, 65_534]);
}

#[test]
fn a_name_that_means_a_removal_is_refused() {
    needs_root!();
    let disk = Disk::new();
    disk.upper().file("d/.wh.foo", "x");
    let error = disk.diff_over(UpperOptions::new(), Base::Empty).map(|o| o.lines()).unwrap_err();
    assert_eq!((error.kind(), error.entry_path()), (&ErrorKind::Unrepresentable, Some(&b"d/.wh.foo"[..])));
}

#[test]
fn a_volatile_upper_needs_permission() {
    needs_root!();
    let mut disk = Disk::new();
    disk.lower();
    disk.work().dir("work/incompat/volatile", 0o755);
    let options = || OverlayUpperOptions::default().work(disk.work().0);
    let error = disk.handle_with(options()).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::FailedPrecondition);
    let upper = disk.handle_with(options().allow_volatile(true)).unwrap();
    let heard = Heard::default();
    let run =
        |options| UpperDiffer::new(options).changes(&upper, Base::Layers(&disk.stack()), &heard).map(drop);
    assert_eq!(run(UpperOptions::new()).unwrap_err().kind(), &ErrorKind::FailedPrecondition);
    run(UpperOptions::new().allow_volatile(true)).unwrap();
    assert_eq!(heard.warnings(), [(WarningKind::VolatileUpper, "/".to_owned())]);
}

#[test]
fn a_move_without_redirects_is_a_copy() {
    needs_mount!("redirect_dir=off");
    let mut disk = Disk::new();
    disk.lower().file("d/f", "x");
    let want = disk.change("redirect_dir=off", |m| {
        assert!(fs::rename(m.at("d"), m.at("e")).is_err(), "the kernel refuses");
        let status = Command::new("mv").arg(m.at("d")).arg(m.at("e")).status().unwrap();
        assert!(status.success());
    });
    assert_eq!(disk.check("moved", &want).lines(), ["wh d", "d e/ 755", "f e/f 644 \"x\""]);
}

#[test]
fn protected_files_change_like_others() {
    needs_mount!("");
    let chattr = |flag: &str, path: std::path::PathBuf| {
        Command::new("chattr").arg(flag).arg(path).status().is_ok_and(|status| status.success())
    };
    let mut disk = Disk::new();
    let lower = disk.lower();
    lower.file("f", "x");
    if !chattr("+a", lower.at("f")) {
        return skip("protected_files_change_like_others", "no append-only files here");
    }
    // An append-only file can be appended to, and is copied up for it.
    let changed = disk.mount("").map(|_| ()).is_ok();
    assert!(changed);
    let want = disk.change("", |m| {
        use std::io::Write;
        let mut file = fs::OpenOptions::new().append(true).open(m.at("f")).unwrap();
        file.write_all(b"y").unwrap();
    });
    let lines = disk.diff(UpperOptions::new()).map(|o| o.lines());
    let _ = (chattr("-a", lower.at("f")), chattr("-a", disk.upper().at("f")));
    assert_eq!(lines.unwrap(), ["f f 644 \"xy\""]);
    assert_eq!(want.snapshot.paths().count(), 1);
}

#[test]
fn devices_of_a_merged_tree_are_devices() {
    needs_root!();
    let disk = Disk::new();
    disk.upper().file("f", "x").device("n", 0, 0);
    let listener = UnixListener::bind(disk.upper().at("sock")).unwrap();
    let heard = Heard::default();
    let tree = disk.upper().plain();
    let mut source = TreeDiffer::new(TreeOptions::new()).between(None, &tree, &heard).unwrap();
    let outcome = Outcome::of(&mut source, &heard).unwrap();
    drop(listener);
    assert_eq!(outcome.lines(), ["f f 644 \"x\"", "c n 0:0"]);
    let kinds: Vec<_> = outcome.warnings.iter().map(|(kind, _)| *kind).collect();
    assert!(kinds.contains(&WarningKind::CharZeroDevice) && kinds.contains(&WarningKind::SocketDropped));
}

#[test]
fn three_steps_on_stacked_mounts_give_the_tree_of_each_step() {
    needs_mount!("");
    let steps: [fn(&support::disk::Dir); 3] = [
        |m| {
            m.dir("test/somedir", 0o755).dir("lib", 0o700).file("lib/hidden", "");
        },
        |m| {
            m.file("test/a", "").file("test/b", "").file("test/otherdir/.empty", "");
            m.remove("lib").dir("lib", 0o700).file("lib/not-hidden", "");
        },
        |m| {
            m.remove("test/a").remove("test/b").remove("test/otherdir").file("lib/newfile", "");
        },
    ];
    let mut base = layer_model::testing::MemoryLayer::new();
    let root = Disk::new();
    let mut lowers: Vec<std::path::PathBuf> = vec![root.work().at("bottom")];
    fs::create_dir(&lowers[0]).unwrap();
    for step in steps {
        let mut disk = Disk::new();
        for lower in &lowers {
            // Bind the earlier uppers in as lower layers of this mount.
            let at = disk.lower();
            rustix::mount::mount_bind(lower, &at.0).unwrap();
        }
        let want = disk.change("", step);
        let outcome = disk.diff(UpperOptions::new()).unwrap();
        support::disk::same("step", &base, &outcome, &want.snapshot);
        base = base.applied(&outcome.changes).unwrap();
        let kept = root.work().at(&format!("step{}", lowers.len()));
        assert!(Command::new("cp").arg("-a").arg(disk.upper().0).arg(&kept).status().unwrap().success());
        for at in 0..lowers.len() {
            let path = disk.upper().0.with_file_name(format!("l{at}"));
            rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
        lowers.push(kept);
    }
}

#[test]
fn any_sequence_of_operations_on_a_mount_comes_out_right() {
    let rounds: u64 = std::env::var("LAYERKIT_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let variants = [
        ("", true),
        ("redirect_dir=on", false),
        ("redirect_dir=on,metacopy=on", false),
        ("index=on", false),
        ("redirect_dir=on,metacopy=on,index=on", false),
        ("userxattr", true),
    ];
    for (options, unknown_works) in variants {
        if !can_mount("any_sequence_of_operations_on_a_mount_comes_out_right", options) {
            continue;
        }
        for seed in 1..=rounds {
            let name = format!("`{options}`, seed {seed}");
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let namespace = if options == "userxattr" { Namespace::User } else { Namespace::Trusted };
            let mut disk = Disk::of(namespace);
            let lower = disk.lower();
            (0..40).for_each(|_| operate(&lower, &mut random));
            age(&lower, &mut random);
            let want = disk.change(options, |m| (0..25).for_each(|_| operate(m, &mut random)));
            disk.check(&name, &want);
            if unknown_works {
                let unknown = disk.diff_over(UpperOptions::new(), Base::Unknown);
                let unknown = unknown.unwrap_or_else(|e| panic!("{name}: {}", e.chain()));
                support::disk::same(&format!("{name}, unknown base"), &disk.base(), &unknown, &want.snapshot);
            }
        }
    }
}

#[test]
fn an_empty_upper_changes_nothing() {
    needs_root!();
    let mut disk = Disk::new();
    disk.lower().file("a/b", "x");
    for base in [Base::Layers(&disk.stack()), Base::Unknown, Base::Empty] {
        for profile in [Profile::Spec, Profile::Containerd] {
            assert!(disk.diff_over(UpperOptions::new().profile(profile), base).unwrap().lines().is_empty());
        }
    }
}
