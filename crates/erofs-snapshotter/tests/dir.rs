//! Snapshot directories by themselves.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::{fs, io::Write, os::unix::fs::MetadataExt, path::Path};

use erofs_snapshotter::{DirState, SnapshotDir, layer_image_options};
use layer_apply::ErofsImage;
use layer_model::{
    Base, ErrorKind, LayerTree, Silent, Stack,
    testing::{MemoryLayer, Snapshot},
};
use layer_mounts::Mount;
use support::kind_of;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn put(dir: &SnapshotDir, layer: &MemoryLayer, parents: Option<&Stack<ErofsImage>>) -> ErofsImage {
    let base = Base::from_stack(parents);
    dir.apply(&mut layer.changes(), base, layer_image_options(), &Silent).unwrap().layer
}

#[test]
fn directories_are_laid_out_as_containerd_has_them() {
    let temp = tempfile::tempdir().unwrap();
    let active = SnapshotDir::create_active(temp.path().join("1")).unwrap();
    assert_eq!(names(active.path()), [".erofslayer", "fs", "work"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(
        (mode(active.path()), mode(&active.upper_path()), mode(&active.work_path())),
        (0o700, 0o755, 0o711)
    );
    assert_eq!(fs::metadata(active.path().join(".erofslayer")).unwrap().len(), 0);
    assert_eq!(active.state().unwrap(), DirState::Active);
    let view = SnapshotDir::create_view(temp.path().join("2")).unwrap();
    assert_eq!((names(view.path()), view.state().unwrap()), (vec!["fs".to_owned()], DirState::Unmarked));
    assert_eq!(names(temp.path()), ["1", "2"]);
    assert_eq!(kind_of(SnapshotDir::create_view(active.path())), ErrorKind::Exists);
    assert_eq!(names(temp.path()), ["1", "2"], "what could not be made is gone");
    assert_eq!(kind_of(SnapshotDir::open(view.path())), ErrorKind::NotSupported);
    assert_eq!(kind_of(SnapshotDir::open(temp.path().join("3"))), ErrorKind::NotFound);
}

#[test]
fn an_image_is_put_in_place_whole_and_once() {
    let temp = tempfile::tempdir().unwrap();
    let dir = SnapshotDir::create_active(temp.path().join("1")).unwrap();
    let failed = dir.put_image(|file| {
        file.write_all(b"half").unwrap();
        Err::<(), _>(layer_model::Error::cancelled())
    });
    assert_eq!(kind_of(failed), ErrorKind::Cancelled);
    let junk = dir.put_image(|file| {
        file.write_all(&[7; 8192]).unwrap();
        Ok(())
    });
    assert_eq!(kind_of(junk), ErrorKind::InvalidArchive);
    assert_eq!(names(dir.path()), [".erofslayer", "fs", "work"]);
    // Somebody was killed while he wrote.
    fs::write(dir.path().join("layer.erofs.tmp-0"), "left").unwrap();

    let layer = MemoryLayer::new().dir("etc", 0o755).file("etc/motd", "hello");
    let image = put(&dir, &layer, None);
    Snapshot::of(&layer).unwrap().assert_same(&Snapshot::of(&image).unwrap());
    assert_eq!(names(dir.path()), [".erofslayer", "fs", "layer.erofs", "work"]);
    assert_eq!(SnapshotDir::open(dir.path()).unwrap().state().unwrap(), DirState::Committed);
    assert_eq!(kind_of(dir.put_image(|_| Ok(()))), ErrorKind::Exists);
    let usage = dir.usage().unwrap();
    assert!(usage.inodes == 2 && usage.size >= 4096, "{usage:?}");
}

#[test]
fn a_link_into_a_cache_is_read_and_never_written_through() {
    let temp = tempfile::tempdir().unwrap();
    let cached = SnapshotDir::create_active(temp.path().join("cache")).unwrap();
    put(&cached, &MemoryLayer::new().file("f", "x"), None);
    let dir = SnapshotDir::create_active(temp.path().join("1")).unwrap();
    std::os::unix::fs::symlink(cached.image_path(), dir.image_path()).unwrap();
    assert_eq!(dir.state().unwrap(), DirState::Committed);
    assert!(dir.image().unwrap().unwrap().root().unwrap().lookup(b"f").unwrap().is_some());
    assert_eq!(kind_of(dir.put_image(|_| Ok(()))), ErrorKind::FailedPrecondition);
    fs::remove_file(cached.image_path()).unwrap();
    assert_eq!(kind_of(dir.image()), ErrorKind::NotFound);
    assert_eq!(kind_of(dir.put_image(|_| Ok(()))), ErrorKind::FailedPrecondition);
}

#[test]
fn a_torn_image_is_neither_active_nor_committed() {
    let temp = tempfile::tempdir().unwrap();
    let dir = SnapshotDir::create_active(temp.path().join("1")).unwrap();
    let whole = SnapshotDir::create_active(temp.path().join("2")).unwrap();
    put(&whole, &MemoryLayer::new().file("big", &"x".repeat(50_000)), None);
    let whole = fs::read(whole.image_path()).unwrap();
    for torn in [&b""[..], &[0; 4096], &whole[..8192], &whole[..whole.len() - 4096]] {
        fs::write(dir.image_path(), torn).unwrap();
        let error = dir.state().unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::InvalidArchive);
        assert!(error.to_string().contains("/1/layer.erofs"), "{error}");
    }
    fs::remove_file(dir.image_path()).unwrap();
    fs::create_dir(dir.image_path()).unwrap();
    assert_eq!(kind_of(dir.state()), ErrorKind::InvalidArchive);
}

#[test]
fn merged_metadata_shows_the_whole_stack() {
    let temp = tempfile::tempdir().unwrap();
    let dirs: Vec<_> =
        (0..3).map(|n| SnapshotDir::create_active(temp.path().join(n.to_string())).unwrap()).collect();
    let layers = [
        MemoryLayer::new().dir("d", 0o755).file("d/a", "1").file("gone", "x"),
        MemoryLayer::new().dir("d", 0o755).file("d/b", "2").whiteout("gone"),
        MemoryLayer::new().dir("d", 0o700).file("d/a", "3"),
    ];
    let mut stack: Option<Stack<ErofsImage>> = None;
    for (dir, layer) in dirs.iter().zip(&layers) {
        let image = put(dir, layer, stack.as_ref());
        stack = Some(match stack.take() {
            Some(stack) => stack.with_nearest(image),
            None => Stack::of(image),
        });
    }
    let parents = Stack::from_bottom(dirs[..2].iter().map(|dir| dir.image().unwrap().unwrap())).unwrap();
    let top = &dirs[2];
    assert!(!top.has_fsmeta().unwrap());
    fs::write(top.fsmeta_path(), "").unwrap();
    assert!(!top.has_fsmeta().unwrap(), "an empty file is none");
    top.merge_fsmeta(&parents).unwrap();
    let first = fs::read(top.fsmeta_path()).unwrap();
    top.merge_fsmeta(&parents).unwrap();
    assert!(top.has_fsmeta().unwrap() && fs::read(top.fsmeta_path()).unwrap() == first);

    let devices = [0, 1, 2].map(|n: usize| dirs[n].image_path());
    let merged = ErofsImage::open(top.fsmeta_path(), &devices).unwrap();
    let want = layer_model::merged::Merged::of_stack(&stack.unwrap());
    Snapshot::of(&want).unwrap().assert_same(&Snapshot::of(&merged.plain()).unwrap());
}

#[test]
fn mount_lists_lead_to_their_directory() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name).to_str().unwrap().to_owned();
    let layer = SnapshotDir::create_active(at("1")).unwrap();
    put(&layer, &MemoryLayer::new().file("f", "x"), None);
    SnapshotDir::create_active(at("2")).unwrap();
    SnapshotDir::create_view(at("3")).unwrap();
    let mount =
        |kind: &str, source: &str, options: &[&str]| Mount::new(kind, source, options.iter().copied());
    let image = || mount("erofs", &at("1/layer.erofs"), &["ro", "loop"]);
    let (upper, work) = (format!("upperdir={}", at("2/fs")), format!("workdir={}", at("2/work")));
    let (fs1, low1) = (at("1/fs"), format!("lowerdir={}", at("1/fs")));
    let block = || mount("mkfs/ext4", &at("2/rwlayer.img"), &["X-containerd.mkfs.size=1", "rw", "loop"]);
    for (want, mounts) in [
        ("2", vec![mount("bind", &at("2/fs"), &["rw", "rbind"])]),
        ("1", vec![image()]),
        ("1", vec![mount("overlay", "overlay", &[&low1])]),
        ("2", vec![mount("overlay", "overlay", &[&work, &upper, &low1])]),
        (
            "2",
            vec![
                image(),
                mount("format/mkdir/overlay", "overlay", &[&work, &upper, "lowerdir={{ mount 0 }}"]),
            ],
        ),
        ("1", vec![image(), mount("format/bind", "{{ mount 0 }}", &["ro", "rbind"])]),
        (
            "1",
            vec![image(), image(), mount("format/mkdir/overlay", "overlay", &["lowerdir={{ overlay 0 1 }}"])],
        ),
        (
            "1",
            vec![
                image(),
                mount("format/mkdir/overlay", "overlay", &[&format!("lowerdir={fs1}:{{{{ mount 0 }}}}")]),
            ],
        ),
        ("2", vec![block(), mount("format/mkdir/bind", "{{ mount 0 }}/upper", &["rw", "rbind"])]),
        (
            "2",
            vec![
                block(),
                image(),
                mount(
                    "format/mkdir/overlay",
                    "overlay",
                    &["upperdir={{ mount 0 }}/upper", "lowerdir={{ mount 1 }}"],
                ),
            ],
        ),
    ] {
        let dir = SnapshotDir::from_mounts(&mounts).unwrap_or_else(|e| panic!("{mounts:?}: {e:?}"));
        assert_eq!(dir.path(), Path::new(&at(want)), "{mounts:?}");
    }
    for (want, mounts) in [
        (ErrorKind::InvalidArgument, vec![]),
        (ErrorKind::NotSupported, vec![mount("ext4", &at("1/fs"), &[])]),
        (ErrorKind::NotSupported, vec![mount("bind", &at("3/fs"), &["ro", "rbind"])]),
        (ErrorKind::NotFound, vec![mount("bind", &at("4/fs"), &["ro", "rbind"])]),
        (ErrorKind::InvalidArgument, vec![mount("bind", "fs", &["rw", "rbind"])]),
        (ErrorKind::InvalidArgument, vec![mount("bind", "2/fs", &["rw", "rbind"])]),
    ] {
        assert_eq!(kind_of(SnapshotDir::from_mounts(&mounts)), want, "{mounts:?}");
    }
}
