//! Layers of overlayfs, judged by the kernel: what a mount shows is what was meant.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use layer_apply::{ApplyOptions, FlatApplier, OverlayApplier, OverlayXattrs, WhiteoutForm};
use layer_model::{
    Applier, Base, Silent, Stack,
    testing::{MemoryChanges, Snapshot},
};
use overlay_dir::{Namespace, OverlayDir, PlainDir, PlainDirOptions};
use proptest::prelude::*;
use support::{Mount, can, changes, is_root, listing, meta, sorted, xattr};

/// Applies layers, bottom first, each into a directory of its own in `folder`.
fn stack(folder: &Path, options: &ApplyOptions, layers: &[MemoryChanges]) -> Stack<OverlayDir> {
    let applier = OverlayApplier::<OverlayDir>::new(options.clone());
    let mut stack: Option<Stack<OverlayDir>> = None;
    for (n, layer) in layers.iter().enumerate() {
        let target = folder.join(format!("l{n}"));
        let made = applier.apply(&mut layer.clone(), Base::from_stack(stack.as_ref()), target, &Silent);
        let made = made.unwrap_or_else(|e| panic!("layer {n}: {}\n{:?}", e.chain(), layer.lines()));
        stack = Some(match stack {
            Some(stack) => stack.with_nearest(made.layer),
            None => Stack::of(made.layer),
        });
    }
    stack.unwrap()
}

/// Mounts the layers read-only over an empty one, so that the lowest is merged, too.
fn mount(folder: &Path, count: usize, namespace: Namespace) -> Option<Mount> {
    let bottom = folder.join("empty");
    fs::create_dir_all(&bottom).unwrap();
    let mut lower: Vec<String> =
        (0..count).rev().map(|n| folder.join(format!("l{n}")).display().to_string()).collect();
    lower.push(bottom.display().to_string());
    let extra = if namespace == Namespace::User { ",userxattr" } else { "" };
    Mount::new("overlay", &folder.join("m"), &format!("ro,lowerdir={}{extra}", lower.join(":")))
}

fn can_mount(test: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("l0")).unwrap();
    can(test, "overlay mounts", is_root() && mount(folder.path(), 1, Namespace::Trusted).is_some())
}

#[test]
fn the_kernel_shows_what_was_meant() {
    if !can_mount("the_kernel_shows_what_was_meant") {
        return;
    }
    for (name, layers, want) in [
        ("a deletion", &["a:\"x\"; b:\"y\"", "wh:a"][..], "b:\"y\""),
        ("an opaque directory", &["d/x:\"1\"", "d/; opq:d; d/n:\"2\""], "d/; d/n:\"2\""),
        ("a directory in the place of a deleted one", &["d/x:\"1\"", "wh:d; d/; d/n:\"2\""], "d/; d/n:\"2\""),
        ("without an entry", &["d/x:\"1\"", "wh:d; d/n:\"2\""], "d/; d/n:\"2\""),
        ("a deletion in a deletion", &["d/x:\"1\"", "wh:d; wh:d/x"], ""),
        ("a file, then its deletion", &["f:\"x\"", "f:\"y\"; wh:f"], "f:\"y\""),
        ("an opaque root", &["top:\"x\"; d/low:\"1\"", "n:\"1\"; d/; opq:."], "d/; n:\"1\""),
        (
            "deletions in opaque directories",
            &["d/x:\"1\"; d/e/y:\"2\"", "d/; opq:d; wh:d/x; d/e/; wh:d/e/y"],
            "d/; d/e/",
        ),
        ("a device 0:0", &["w:\"x\"", "C w 0:0"], ""),
        ("a deletion through a link", &["real/x:\"1\"; link>real", "wh:link/x"], "link>real; real/"),
        (
            "a file in the place of a directory and back",
            &["d/x:\"1\"", "d:\"f\"", "d/; d/y:\"2\""],
            "d/; d/y:\"2\"",
        ),
        (
            "deletions in a bottom layer are not listed",
            &["d/; wh:d/x; wh:y; e/f/; opq:e/f; wh:e/f/g"],
            "d/; e/; e/f/",
        ),
        ("a hard link to a lower name", &["t:\"data\"", "h=t"], "h:\"data\"; t:\"data\""),
        ("a hard link to a lower name that is deleted then", &["t:\"data\"", "h=t", "wh:t"], "h:\"data\""),
    ] {
        for (namespace, form) in [
            (Namespace::Trusted, WhiteoutForm::Auto),
            (Namespace::User, WhiteoutForm::Auto),
            (Namespace::Trusted, WhiteoutForm::Xattr),
            (Namespace::User, WhiteoutForm::Xattr),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let options = ApplyOptions::new().namespace(namespace).whiteout_form(form);
            let layers: Vec<_> = layers.iter().map(|layer| changes(layer)).collect();
            stack(folder.path(), &options, &layers);
            let mount = mount(folder.path(), layers.len(), namespace).unwrap();
            assert_eq!(listing(&mount.0), sorted(want), "{name}, {namespace:?}, {form:?}");
        }
    }
}

#[test]
fn the_kernel_shows_directories_of_parents_through_layers_without_an_entry() {
    if !can_mount("the_kernel_shows_directories_of_parents_through_layers_without_an_entry") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let layers = [
        changes("./ 0711; d/ 0750 uid 7 gid 8 mtime 50 user.k=v"),
        changes("d/sub/f:\"1\""),
        changes("d/sub/g:\"2\""),
    ];
    let options = ApplyOptions::new().apply_root_metadata(true);
    stack(folder.path(), &options, &layers);
    let mount = mount(folder.path(), 3, Namespace::Trusted).unwrap();
    let d = meta(mount.0.join("d"));
    assert_eq!((d.mode() & 0o7777, d.uid(), d.gid(), d.mtime()), (0o750, 7, 8, 50));
    assert_eq!(xattr(&mount.0.join("d"), "user.k").as_deref(), Some(&b"v"[..]));
    assert_eq!(meta(&mount.0).mode() & 0o7777, 0o711);
}

#[test]
fn escaped_attributes_are_the_merged_file_s() {
    if !can_mount("escaped_attributes_are_the_merged_file_s") {
        return;
    }
    for (namespace, name) in
        [(Namespace::Trusted, "trusted.overlay.opaque"), (Namespace::User, "user.overlay.opaque")]
    {
        let folder = tempfile::tempdir().unwrap();
        let options = ApplyOptions::new()
            .namespace(namespace)
            .keep_trusted_xattrs(true)
            .overlay_xattrs(OverlayXattrs::Escape);
        let layers = [changes("d/x:\"1\""), changes(&format!("d/ {name}=y; d/y:\"2\""))];
        stack(folder.path(), &options, &layers);
        let mount = mount(folder.path(), 2, namespace).unwrap();
        assert_eq!(listing(&mount.0).replace("; opq:d", ""), sorted("d/; d/x:\"1\"; d/y:\"2\""), "no marker");
        assert_eq!(xattr(&mount.0.join("d"), name).as_deref(), Some(&b"y"[..]));
    }
}

#[test]
fn a_user_namespace_makes_layers_of_its_own() {
    if !can_mount("a_user_namespace_makes_layers_of_its_own") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tar = folder.path().join("layer.tar");
    let top = folder.path().join("top.tar");
    fs::write(&tar, support::tar("a:\"1\"; d/x:\"1\"; C null 1:3")).unwrap();
    fs::write(&top, support::tar("wh:a; opq:d; d/n:\"2\" trusted.k=v")).unwrap();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    std::os::unix::fs::chown(&out, Some(65534), Some(65534)).unwrap();
    for at in [folder.path(), &out] {
        rustix::fs::chmod(at, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    }
    let program = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "--user", "--map-root-user"])
        .arg(support::example("apply_tars"))
        .args(["overlay".as_ref(), out.as_os_str(), tar.as_os_str(), top.as_os_str()])
        .output();
    let Ok(program) = program else {
        can("a_user_namespace_makes_layers_of_its_own", "setpriv and unshare", false);
        return;
    };
    let errors = String::from_utf8_lossy(&program.stderr).into_owned();
    if errors.contains("Operation not permitted") && errors.contains("unshare") {
        can("a_user_namespace_makes_layers_of_its_own", "unprivileged user namespaces", false);
        return;
    }
    assert!(program.status.success(), "{errors}");
    assert!(errors.contains("null: device node not made"), "{errors}");
    for (from, to) in [("0", "l0"), ("1", "l1")] {
        fs::rename(out.join(from), folder.path().join(to)).unwrap();
    }
    assert_eq!(listing(&folder.path().join("l1")), sorted("wh:a; d/; opq:d; d/n:\"2\""));
    assert!(xattr(&folder.path().join("l1/d"), "user.overlay.opaque").is_some());
    let mount = mount(folder.path(), 2, Namespace::User).unwrap();
    assert_eq!(listing(&mount.0), sorted("d/; d/n:\"2\""));
}

/// One entry of a random layer, over few names so that layers meet.
fn entry() -> impl Strategy<Value = String> {
    let name =
        || prop::sample::select(vec!["a", "b", "c", "a/x", "a/y", "a/x/p", "b/x", "b/x/q", "c/z", "c/z/r"]);
    let mode = || prop::sample::select(vec!["0755", "0700", "0711"]);
    prop_oneof![
        4 => (name(), 0..9u32, 1..99u32).prop_map(|(n, c, t)| format!("{n}:\"{c}\" mtime {t}")),
        4 => (name(), mode(), 1..99u32).prop_map(|(n, m, t)| format!("{n}/ {m} mtime {t}")),
        3 => name().prop_map(|n| format!("wh:{n}")),
        2 => name().prop_map(|n| format!("opq:{n}")),
        1 => (name(), name()).prop_map(|(n, t)| format!("{n}>/{t}")),
        1 => (name(), name()).prop_map(|(n, t)| format!("{n}={t}")),
        1 => name().prop_map(|n| format!("P {n}")),
    ]
}

/// A layer whose entries can all be applied over what is there: others are left out, one by one.
fn applicable(flat: &Path, entries: Vec<String>) -> Vec<String> {
    let mut taken: Vec<String> = Vec::new();
    for entry in entries {
        let mut tried = taken.clone();
        tried.push(entry);
        let copy = tempfile::tempdir().unwrap();
        let tree = copy.path().join("t");
        let copied = std::process::Command::new("cp")
            .args(["-a".as_ref(), flat.as_os_str(), tree.as_os_str()])
            .status();
        assert!(copied.unwrap().success());
        let result =
            FlatApplier::default().apply(&mut changes(&tried.join(";")), Base::Unknown, tree, &Silent);
        if result.is_ok() {
            taken = tried;
        }
    }
    taken
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn flattened_layers_equal_the_mount_of_overlay_layers(
        layers in prop::collection::vec(prop::collection::vec(entry(), 1..8), 2..6)
    ) {
        if !can_mount("flattened_layers_equal_the_mount_of_overlay_layers") {
            return Ok(());
        }
        let folder = tempfile::tempdir().unwrap();
        let flat = folder.path().join("flat");
        fs::create_dir(&flat).unwrap();
        let mut lines = Vec::new();
        let options = ApplyOptions::new();
        for entries in layers {
            let line = applicable(&flat, entries).join("; ");
            let applier = FlatApplier::new(options.clone().exact_xattrs(true));
            applier.apply(&mut changes(&line), Base::Unknown, flat.clone(), &Silent).unwrap();
            lines.push(line);
        }
        let list: Vec<_> = lines.iter().map(|line| changes(line)).collect();
        stack(folder.path(), &options, &list);
        let mount = mount(folder.path(), list.len(), Namespace::Trusted).unwrap();
        prop_assert_eq!(listing(&mount.0), listing(&flat), "{:#?}", lines);
        let look = |dir: &Path| {
            let tree = PlainDir::open(dir, PlainDirOptions::default()).unwrap();
            Snapshot::of(&tree).unwrap().without_root().without_access_times().without_dir_times()
        };
        let difference = look(&flat).difference(&look(&mount.0));
        prop_assert!(difference.is_empty(), "flattened (-), mounted (+)\n{}\n{:#?}", difference.join("\n"), lines);
    }
}
