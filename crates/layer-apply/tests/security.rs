//! Attacks, each of which has to fail: archives that try to reach out of the target, by the order and the names
//! of their entries, through what an earlier layer planted, or by exhausting what the machine has.
//!
//! Every case is run as an archive, in both forms, with the newest and the oldest kernel's calls. A canary beside
//! the target shows whether anything outside was touched: names, metadata, contents.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    time::{Duration, Instant},
};

use layer_apply::{ApplyOptions, FlatApplier, KernelFeatures, Limits, OverlayApplier};
use layer_model::{Applier, Base, ErrorKind, Profile, Silent, WarningKind};
use layer_tar::{ReadOptions, TarSource};
use overlay_dir::{Namespace, OverlayDir};
use support::{Heard, Place, build, kind_of, meta, push_header, sorted, tar};

/// An attack, and what the tree has to look like after it: name, advisories of the same shape, tree, archive, tree
/// wanted. `CANARY` in an archive is the absolute path of the canary.
const ATTACKS: &[(&str, &str, &str, &str, &str)] = &[
    (
        "an absolute link as a parent",
        "CVE-2014-6407, CVE-2014-9356",
        "",
        "etc/; localetc>/etc; /localetc/unbroken:\"u\"",
        "etc/; etc/unbroken:\"u\"; localetc>/etc",
    ),
    (
        "a climbing link as a parent",
        "CVE-2014-6407",
        "",
        "etc/; dummy/; localetc>/dummy/../etc; /localetc/unbroken:\"u\"",
        "dummy/; etc/; etc/unbroken:\"u\"; localetc>/dummy/../etc",
    ),
    (
        "links through links",
        "CVE-2014-9356",
        "",
        "dummy/etc>/etc; localetc>dummy/etc; dummy/etc/unbroken:\"u\"",
        "dummy/; dummy/etc>/etc; etc/; etc/unbroken:\"u\"; localetc>dummy/etc",
    ),
    ("a hard link named ..", "containerd's own tests", "", "..=/etc/; x:\"1\"", "x:\"1\""),
    ("a hard link without a name", "containerd's own tests", "", "=/etc/; x:\"1\"", "x:\"1\""),
    (
        "a link to the root's parent, and a file below",
        "CVE-2018-20990 and many",
        "",
        "up>..; up/x:\"1\"",
        "up>..; x:\"1\"",
    ),
    (
        "an absolute link to the canary",
        "CVE-2021-38511, CVE-2026-42574, CVE-2026-20613",
        "",
        "d>CANARY; d/sub/; d/sub/file:\"owned\"; d/perm400:\"owned\"",
        "",
    ),
    (
        "a mode change through a hard link to a link",
        "CVE-2021-32760, CVE-2021-41089",
        "",
        "l>../canary/perm400 0777; h=l 0777",
        "h>../canary/perm400; l>../canary/perm400",
    ),
    (
        "a write through a link that took a directory's place",
        "CVE-2025-47290, CVE-2025-59825",
        "",
        "d/; d/x:\"1\"; d>../canary; d/x:\"2\"",
        "canary/; canary/x:\"2\"; d>../canary",
    ),
    (
        "a directory entry over a link",
        "CVE-2026-33056, RUSTSEC-2026-0113",
        "",
        "foo>../canary; foo/ 0777",
        "foo/",
    ),
    (
        "links that each look harmless",
        "CVE-2026-17106",
        "",
        "inner/go_up>..; inner/go_up/escape>../canary; inner/go_up/escape/newfile:\"x\"",
        "canary/; canary/newfile:\"x\"; escape>../canary; inner/; inner/go_up>..",
    ),
    (
        "a file entry with a trailing slash over a link",
        "CVE-2026-39822",
        "",
        "link>../canary/perm400; link/:\"mine\"",
        "link:\"mine\"",
    ),
    (
        "a hard link, then a write through it",
        "CVE-2018-20990",
        "etc/target:\"t\"",
        "x=../../etc/target; x:\"new\"",
        "etc/; etc/target:\"t\"; x:\"new\"",
    ),
    (
        "a link that an earlier layer planted",
        "CVE-2025-45582",
        "x>../canary",
        "x/file:\"1\"",
        "canary/; canary/file:\"1\"; x>../canary",
    ),
    (
        "names that climb",
        "CVE-2007-4559, CVE-2021-25",
        "",
        "../../canary/a:\"1\"; a/../../../canary/b:\"2\"",
        "canary/; canary/a:\"1\"; canary/b:\"2\"",
    ),
    (
        "deletions that climb",
        "",
        "sub/x:\"1\"",
        "wh:../canary/perm400; up>../canary; wh:up/perm400; opq:up; opq:../canary",
        "sub/; sub/x:\"1\"; up>../canary",
    ),
    ("a deletion of the planted link", "", "l>../canary", "wh:l", ""),
    ("an opaque mark on a planted link", "", "l>../canary", "opq:l; opq:l/sub", "l>../canary"),
    (
        "a directory replaced by a link, then deleted through",
        "",
        "d/x:\"1\"",
        "d>../canary; wh:d/perm400; wh:d/sub",
        "d>../canary",
    ),
    (
        "a link cut off by a file in the middle of a path",
        "node-tar 2021",
        "",
        "a/b/; a/b/c:\"1\"; a>../canary; a/b/c:\"2\"",
        "a>../canary; canary/; canary/b/; canary/b/c:\"2\"",
    ),
    (
        "a hard link to a link that is then written to",
        "CVE-2026-26960",
        "",
        "s>../canary/perm400; h=s; h:\"mine\"",
        "h:\"mine\"; s>../canary/perm400",
    ),
    ("a FIFO in the way of a file", "CVE-2024-9676", "", "P p; p:\"x\"", "p:\"x\""),
    (
        "links with many components in a row",
        "",
        "",
        "a>b/../b/../b/../c; c/; a/x:\"1\"",
        "a>b/../b/../b/../c; c/; c/x:\"1\"",
    ),
    (
        "a prefix of the target's name",
        "CVE-2025-48387",
        "",
        "l>../root-evil; l/x:\"1\"",
        "l>../root-evil; root-evil/; root-evil/x:\"1\"",
    ),
];

fn options(features: KernelFeatures) -> ApplyOptions {
    ApplyOptions::new().kernel_features(features).namespace(Namespace::User)
}

#[test]
fn archives_do_not_reach_out_of_the_target() {
    for features in [KernelFeatures::default(), KernelFeatures::oldest()] {
        for profile in [Profile::Spec, Profile::Containerd] {
            for (name, _, tree, archive, want) in ATTACKS {
                let place = Place::with(tree);
                let canary = place.temp.path().join("canary");
                let bytes = tar(&archive.replace("CANARY", canary.to_str().unwrap()));
                let options = options(features).profile(profile);
                let (result, _) = place.flatten_tar(options, &bytes);
                result.unwrap_or_else(|e| panic!("{name}: {}", e.chain()));
                if !want.is_empty() || archive.starts_with("wh:l") {
                    let mut have = support::listing(&place.root());
                    if profile == Profile::Containerd {
                        // Directories above deletions of nothing are made there; inside.
                        have = have.replace("canary/; ", "").replace("canary/sub/; ", "");
                    }
                    let want = sorted(want);
                    let want =
                        if profile == Profile::Containerd { want.replace("canary/; ", "") } else { want };
                    assert_eq!(have, want, "{name}");
                }
            }
        }
    }
}

#[test]
fn nor_do_they_in_overlay_form() {
    for features in [KernelFeatures::default(), KernelFeatures::oldest()] {
        for (name, _, tree, archive, _) in ATTACKS {
            let place = Place::new();
            let canary = place.temp.path().join("canary");
            let bytes = tar(&archive.replace("CANARY", canary.to_str().unwrap()));
            for parents in [place.parents(&[tree]), None] {
                let mut source = TarSource::new(&bytes[..], ReadOptions::default(), &Silent);
                let (result, _) = place.overlay(options(features), parents.as_ref(), &mut source);
                // Without its parents a link may have no target.
                if let (Err(error), true) = (&result, parents.is_some()) {
                    panic!("{name}: {}", error.chain());
                }
                let _ = fs::remove_dir_all(place.root());
            }
        }
    }
}

#[test]
fn attacks_over_two_layers_of_overlay_form_stay_inside() {
    let place = Place::new();
    let target = |n: u32| place.temp.path().join("parents").join(n.to_string());
    fs::create_dir(place.temp.path().join("parents")).unwrap();
    let applier = OverlayApplier::<OverlayDir>::new(options(KernelFeatures::default()));
    let first = tar("x>../canary; abs>/../../canary; loop>loop2; loop2>loop; deep>x/../x/../x");
    let mut source = TarSource::new(&first[..], ReadOptions::default(), &Silent);
    let made = applier.apply(&mut source, Base::Empty, target(0), &Silent).unwrap();
    let stack = layer_model::Stack::of(made.layer);
    for (n, (layer, want)) in [
        ("x/file:\"1\"; wh:x/perm400; opq:abs/sub", Ok("canary/; canary/file:\"1\"")),
        ("loop/f:\"1\"", Err(ErrorKind::TooManyLinks)),
        ("h=x/perm400", Err(ErrorKind::NotFound)),
    ]
    .into_iter()
    .enumerate()
    {
        let target = target(n as u32 + 1);
        let bytes = tar(layer);
        let mut source = TarSource::new(&bytes[..], ReadOptions::default(), &Silent);
        let result = applier.apply(&mut source, Base::Layers(&stack), target.clone(), &Silent);
        place.outside_untouched();
        match want {
            Ok(want) => {
                result.unwrap_or_else(|e| panic!("{layer}: {}", e.chain()));
                assert_eq!(support::listing(&target), sorted(want), "{layer}");
            }
            Err(kind) => assert_eq!(kind_of(result), kind, "{layer}"),
        }
    }
}

#[test]
fn a_hard_link_cannot_name_a_neighbour_whose_name_begins_alike() {
    for target in ["../dest-evil/secret", "/../dest-evil/secret", "../canary/perm400"] {
        let place = Place::new();
        let (result, _) = place.flatten_tar(ApplyOptions::new(), &tar(&format!("h={target}")));
        assert_eq!(kind_of(result), ErrorKind::NotFound, "{target}");
    }
}

#[test]
fn what_would_replace_the_root_is_refused() {
    // CVE-2021-29136: later entries would go to where the link leads.
    for layer in ["..>/etc/", ">/etc", "/.>/canary", ".:\"file\"", "P /"] {
        let place = Place::with("x:\"1\"");
        let (result, _) = place.flatten_tar(ApplyOptions::new(), &tar(layer));
        assert_eq!(kind_of(result), ErrorKind::InvalidArchive, "{layer}");
        assert_eq!(
            kind_of(place.flatten(ApplyOptions::new(), layer).0),
            ErrorKind::InvalidArchive,
            "{layer}"
        );
        let (result, heard) = place.flatten(ApplyOptions::new().profile(Profile::Containerd), layer);
        result.unwrap_or_else(|e| panic!("{layer}: {}", e.chain()));
        assert_eq!(heard.kinds(), [WarningKind::RootIgnored], "containerd leaves it out");
        place.holds("x:\"1\"");
    }
    let place = Place::with("x:\"1\"");
    let (result, heard) = place.flatten(ApplyOptions::new(), "/=x");
    result.unwrap();
    assert_eq!(heard.kinds(), [WarningKind::RootIgnored]);
    assert_eq!(kind_of(place.flatten(ApplyOptions::new().strict(true), "/=x").0), ErrorKind::InvalidArchive);
    place.holds("x:\"1\"");
}

#[test]
fn deletions_with_names_that_are_none_are_refused_and_delete_nothing() {
    for name in [".wh...", "etc/.wh...", ".wh..", "etc/.wh..", ".wh."] {
        let place = Place::with("etc/passwd:\"p\"");
        let mut archive = Vec::new();
        push_header(&mut archive, name.as_bytes(), b'0', 0, |_| {});
        archive.resize(archive.len() + 1024, 0);
        let (result, _) = place.flatten_tar(ApplyOptions::new(), &archive);
        assert_eq!(kind_of(result), ErrorKind::InvalidArchive, "{name}");
        place.holds("etc/; etc/passwd:\"p\"");
    }
}

#[test]
fn deletions_are_recognised_by_their_name_alone() {
    let place = Place::with("a:\"\"; b:\"\"; c:\"\"; d:\"\"");
    let mut archive = Vec::new();
    push_header(&mut archive, b".wh.a", b'5', 0, |_| {});
    push_header(&mut archive, b".wh.b", b'2', 0, |h| h[157..158].copy_from_slice(b"x"));
    push_header(&mut archive, b".wh.c", b'1', 0, |h| h[157..158].copy_from_slice(b"x"));
    push_header(&mut archive, b".wh.d", b'0', 4, |_| {});
    archive.extend_from_slice(&[b"body".as_slice(), &[0; 508]].concat());
    archive.extend_from_slice(&tar("z:\"x\""));
    place.flatten_tar(ApplyOptions::new(), &archive).0.unwrap();
    place.holds("z:\"x\"");
}

#[test]
fn a_global_header_names_nothing() {
    let place = Place::with("keep/x:\"1\"");
    let mut archive = Vec::new();
    push_header(&mut archive, b"keep", b'g', 0, |_| {});
    archive.extend_from_slice(&tar("f:\"1\""));
    place.flatten_tar(ApplyOptions::new(), &archive).0.unwrap();
    place.holds("f:\"1\"; keep/; keep/x:\"1\"");
}

#[test]
fn a_smuggled_archive_stays_data() {
    // A PAX size that hides a second archive in the payload of the first.
    let inner = tar("pwned>../canary");
    let mut archive = Vec::new();
    support::push_pax(&mut archive, &[(b"size".to_vec(), inner.len().to_string().into_bytes())]);
    push_header(&mut archive, b"f", b'0', 0, |_| {});
    archive.extend_from_slice(&inner);
    archive.extend_from_slice(&tar("after:\"x\""));
    let place = Place::new();
    place.flatten_tar(ApplyOptions::new(), &archive).0.unwrap();
    assert!(place.path("after").exists() && place.path("f").exists() && !place.path("pwned").exists());
    assert_eq!(fs::read(place.path("f")).unwrap(), inner);
}

#[test]
fn ids_that_do_not_fit_are_refused() {
    for id in ["99999999999", "-1", "4294967295"] {
        let mut archive = Vec::new();
        support::push_pax(&mut archive, &[(b"uid".to_vec(), id.as_bytes().to_vec())]);
        push_header(&mut archive, b"f", b'0', 0, |_| {});
        archive.resize(archive.len() + 1024, 0);
        let (result, _) = Place::new().flatten_tar(ApplyOptions::new(), &archive);
        assert_eq!(kind_of(result), ErrorKind::InvalidArchive, "{id}");
    }
}

#[test]
fn device_numbers_that_the_kernel_would_cut_are_refused() {
    for layer in ["C x 8192:0", "B x 1:1048579", "C x 4096:0", "C x 0:1048576"] {
        for profile in [Profile::Spec, Profile::Containerd] {
            let place = Place::new();
            let (result, _) = place.flatten(ApplyOptions::new().profile(profile), layer);
            assert_eq!(kind_of(result), ErrorKind::InvalidArchive, "{layer}");
            place.holds("");
        }
    }
}

#[test]
fn a_device_can_be_refused_before_anything_is_made() {
    let place = Place::new();
    let options = ApplyOptions::new().device_policy(layer_apply::DevicePolicy::Fail);
    assert_eq!(kind_of(place.flatten(options, "B sda 8:0").0), ErrorKind::NotSupported);
    place.holds("");
    let placeholder = ApplyOptions::new().device_policy(layer_apply::DevicePolicy::Placeholder);
    let (result, heard) = place.flatten(placeholder, "B sda 8:0 0660");
    result.unwrap();
    assert_eq!(heard.kinds(), [WarningKind::DeviceSkipped]);
    assert_eq!((meta(place.path("sda")).is_file(), meta(place.path("sda")).mode() & 0o7777), (true, 0));
    let place = Place::new();
    let skip = ApplyOptions::new().device_policy(layer_apply::DevicePolicy::Skip);
    let (result, heard) = place.flatten(skip, "B sda 8:0; h=sda; i=h");
    result.unwrap();
    assert_eq!(heard.kinds(), [WarningKind::DeviceSkipped; 3], "links to it are left out with it");
    place.holds("");
}

#[test]
fn a_tree_of_any_depth_is_refused_and_can_be_removed() {
    // Twenty thousand directories in each other, by one name and by steps.
    let name = "a/".repeat(20_000);
    let (result, _) = Place::new().flatten(ApplyOptions::new(), &name);
    assert!(matches!(kind_of(result), ErrorKind::LimitExceeded { .. }));

    // A lower layer may hold one all the same: it is removed without a stack that grows with it.
    let place = Place::with("top/");
    let mut dir = fs::File::open(place.path("top")).unwrap();
    for _ in 0..5_000 {
        rustix::fs::mkdirat(&dir, "d", rustix::fs::Mode::RWXU).unwrap();
        dir = rustix::fs::openat(&dir, "d", rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty())
            .unwrap()
            .into();
    }
    drop(dir);
    place.flatten(ApplyOptions::new(), "wh:top").0.unwrap();
    place.holds("");
}

#[test]
fn steps_through_links_cannot_build_a_deeper_tree() {
    // Each link adds ten levels to where the last one led.
    let step = "d/d/d/d/d/d/d/d/d/d";
    let mut layer = String::new();
    let mut at = String::from("l0");
    layer.push_str(&format!("l0>{step}; l0/x:\"\"; "));
    for n in 1..80 {
        layer.push_str(&format!("l{n}>{at}/{step}; l{n}/x:\"\"; "));
        at = format!("l{n}");
    }
    let (result, _) = Place::new().flatten(ApplyOptions::new(), &layer);
    assert_eq!(kind_of(result), ErrorKind::LimitExceeded { limit: "max_depth" });
}

#[test]
fn many_links_in_many_components_are_bounded() {
    // 40 components, each a chain of 20 links: more than the budget of one resolution.
    let mut layer = String::from("l20/; ");
    for n in 0..20 {
        layer.push_str(&format!("l{n}>l{}; ", n + 1));
    }
    layer.push_str("l20/up>..; ");
    let path = "l0/up/".repeat(40);
    layer.push_str(&format!("{path}x:\"1\""));
    let start = Instant::now();
    let (result, _) = Place::new().flatten(ApplyOptions::new(), &layer);
    assert_eq!(kind_of(result), ErrorKind::TooManyLinks);
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn many_empty_entries_take_linear_time_and_a_limit_ends_them() {
    let place = Place::new();
    let limits = Limits::default().max_entries(2_000);
    let layer: String = (0..2_001).map(|n| format!("f{n}; ")).collect();
    let (result, _) = place.flatten(ApplyOptions::new().limits(limits), &layer);
    assert_eq!(kind_of(result), ErrorKind::LimitExceeded { limit: "max_entries" });
}

#[test]
fn names_of_any_bytes_are_names() {
    let place = Place::new();
    let mut archive = Vec::new();
    push_header(&mut archive, b"a\xff\xfe\x01b", b'0', 0, |_| {});
    push_header(&mut archive, b"d\\..\\x", b'0', 0, |_| {});
    archive.resize(archive.len() + 1024, 0);
    place.flatten_tar(ApplyOptions::new(), &archive).0.unwrap();
    let mut names: Vec<_> =
        fs::read_dir(place.root()).unwrap().map(|e| e.unwrap().file_name().into_encoded_bytes()).collect();
    names.sort();
    assert_eq!(names, [b"a\xff\xfe\x01b".to_vec(), b"d\\..\\x".to_vec()]);

    let long = "n".repeat(256);
    let (result, _) = place.flatten(ApplyOptions::new(), &format!("{long}:\"\""));
    assert_eq!(kind_of(result), ErrorKind::Io(Some(36)), "ENAMETOOLONG");
}

#[test]
fn the_work_goes_on_in_the_directory_that_was_opened() {
    let place = Place::with("");
    let mut sink = FlatApplier::default().sink(place.root(), &Silent).unwrap();
    let moved = place.temp.path().join("m");
    fs::rename(place.root(), &moved).unwrap();
    symlink("canary", place.root()).unwrap();
    let mut source = support::changes("perm400:\"owned\"; d/x:\"1\"");
    layer_model::road::drive(&mut source, &mut sink, &Silent).unwrap();
    layer_model::LayerSink::finish(sink).unwrap();
    assert_eq!(support::listing(&moved), sorted("d/; d/x:\"1\"; perm400:\"owned\""));
    place.outside_untouched();
}

#[test]
fn a_set_id_file_of_a_lower_layer_is_not_changed_through_a_link() {
    let place = Place::new();
    let parents = place.parents(&["su:\"x\" 04755"]);
    place.overlay(ApplyOptions::new(), parents.as_ref(), &mut support::changes("h=su 0777")).0.unwrap();
    assert_eq!(meta(place.temp.path().join("parents/0/su")).mode() & 0o7777, 0o4755);
    assert_eq!(meta(place.path("su")).mode() & 0o7777, 0o777, "the copy is the layer's own");
}

#[test]
fn a_cut_archive_leaves_nothing_half_made() {
    let whole = tar("d/; d/a:\"12345\"; l>d; h=d/a; wh:old; e/f:\"x\" user.k=v");
    for cut in (0..whole.len() - 1024).step_by(97) {
        let place = Place::new();
        let mut source = TarSource::new(&whole[..cut], ReadOptions::default(), &Silent);
        let applier = OverlayApplier::<OverlayDir>::new(options(KernelFeatures::default()));
        let result = applier.apply(&mut source, Base::Empty, place.root(), &Heard::default());
        // A cut between two entries, or in padding, looks like an archive without its end mark, which readers accept.
        assert_eq!(result.is_ok(), place.root().exists(), "cut at {cut}");
        place.outside_untouched();
    }
}

#[test]
fn a_file_of_the_target_is_not_written_through() {
    // A hard link from the target to the outside, as an operator may have made: a new file takes its place.
    let place = Place::with("d/");
    let outside = place.temp.path().join("m");
    build(&outside, "precious:\"keep\"");
    fs::hard_link(outside.join("precious"), place.path("d/f")).unwrap();
    place.flatten(ApplyOptions::new(), "d/f:\"new\"").0.unwrap();
    assert_eq!(fs::read(outside.join("precious")).unwrap(), b"keep");
    assert_eq!(fs::read(place.path("d/f")).unwrap(), b"new");
}

#[test]
fn a_directory_that_others_swap_for_a_link_is_not_left_through_it() {
    // CVE-2018-15664: between a look and the work somebody exchanges the directory and a link to the outside.
    let place = Place::with("d/sub/x:\"1\"; link>../canary; canary2/");
    let root = place.root();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let stopped = || stop.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let dir = fs::File::open(&root).unwrap();
            while !stopped() {
                let swap = rustix::fs::RenameFlags::EXCHANGE;
                let _ = rustix::fs::renameat_with(&dir, "d", &dir, "link", swap);
            }
        });
        let end = Instant::now() + Duration::from_secs(2);
        let mut rounds = 0;
        while Instant::now() < end {
            for layer in [
                "d/perm400:\"owned\" 0666; d/sub/file:\"owned\"; d/sub/ 0700",
                "wh:d/perm400; opq:d; h=d/perm400; h:\"x\"",
                "d/sub/a/b/c:\"1\"; wh:d/sub; wh:d/etc",
                "link/sub/file:\"owned\"; link/sub/ 0777; wh:link/etc/passwd",
            ] {
                for features in [KernelFeatures::default(), KernelFeatures::oldest()] {
                    // Errors are fine: the tree changes under the work.
                    let applier = FlatApplier::new(ApplyOptions::new().kernel_features(features));
                    let _ = applier.apply(&mut support::changes(layer), Base::Unknown, root.clone(), &Silent);
                    rounds += 1;
                }
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(rounds > 8);
    });
    place.outside_untouched();
}
