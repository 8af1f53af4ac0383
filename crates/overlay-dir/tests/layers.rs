//! Layers on disk as any user can make them: markers in `user.overlay.*`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::Path,
    time::{Duration, SystemTime},
};

use layer_model::{
    AnyLayer, Device, ErrorKind, Form, Layer, LayerTree, Node, NodeKind, Timestamp,
    idmap::{IdMap, IdRange},
    tree::{Metacopy, Redirect},
};
use overlay_dir::{
    Namespace, OverlayDir, OverlayDirOptions, OverlayFeatures, OverlayUpper, OverlayUpperOptions, Owners,
    PlainDir, PlainDirOptions, RedirectDir, marker,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use support::{open_user, set_xattr, write};

fn lookup(tree: &dyn LayerTree, name: &str) -> Option<Node> {
    tree.root().unwrap().lookup(name.as_bytes()).unwrap()
}

fn found(tree: &dyn LayerTree, name: &str) -> Node {
    lookup(tree, name).unwrap_or_else(|| panic!("{name} is there"))
}

fn kind_of<T>(result: layer_model::Result<T>) -> ErrorKind {
    result.err().expect("an error").kind().clone()
}

fn plain(path: &Path) -> PlainDir {
    PlainDir::open(path, PlainDirOptions::default()).unwrap()
}

#[test]
fn every_marker_in_attributes_is_understood() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    for dir in ["opaque", "merged", "redirect"] {
        fs::create_dir(at(dir)).unwrap();
    }
    set_xattr(&at("opaque"), "user.overlay.opaque", b"y");
    set_xattr(&at("merged"), "user.overlay.opaque", b"x");
    set_xattr(&at("merged"), "user.overlay.impure", b"y");
    set_xattr(&at("redirect"), "user.overlay.redirect", b"/from/here");
    write(at("gone"), "");
    set_xattr(&at("gone"), "user.overlay.whiteout", b"");
    write(at("full"), "not empty");
    set_xattr(&at("full"), "user.overlay.whiteout", b"y");
    write(at("meta"), "12345");
    set_xattr(&at("meta"), "user.overlay.metacopy", &[&[0, 36, 0, 1][..], &[9; 32]].concat());
    set_xattr(&at("meta"), "user.overlay.redirect", b"was");
    set_xattr(&at("meta"), "user.overlay.origin", &[1; 700]);
    set_xattr(&at("meta"), "user.overlay.overlay.origin", b"nested");
    set_xattr(&at("meta"), "user.mine", &[2; 700]);

    let layer = open_user(temp.path());
    assert!(found(&layer, "opaque").markers.opaque);
    let merged = found(&layer, "merged");
    assert!(merged.markers.is_empty() && merged.xattrs.is_empty());
    let Some(Redirect::Absolute(path)) = found(&layer, "redirect").markers.redirect else {
        panic!("absolute")
    };
    assert_eq!(path.into_bytes(), b"from/here");
    assert!(found(&layer, "gone").is_whiteout());
    assert_eq!(found(&layer, "full").kind, NodeKind::File { size: 9 });
    let meta = found(&layer, "meta");
    assert_eq!(meta.markers.metacopy, Some(Metacopy { digest: Some([9; 32]) }));
    assert_eq!(meta.markers.redirect, Some(Redirect::Sibling((*b"was").into())));
    let shown: Vec<_> = meta.xattrs.iter().map(|(name, value)| (name, value.len())).collect();
    assert_eq!(shown, [(&b"user.mine"[..], 700), (b"user.overlay.origin", 6)]);
    let root = layer.root().unwrap();
    assert_eq!(kind_of(root.open_file(b"meta")), ErrorKind::UnsupportedMarker { marker: "metacopy" });
    assert_eq!(kind_of(root.open_file(b"gone")), ErrorKind::NotFound);

    let shown = found(&plain(temp.path()), "meta");
    assert!(shown.markers.is_empty() && shown.xattrs.len() == 5, "a plain tree has no markers");
}

#[test]
fn files_of_all_types_are_told_apart() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    fs::create_dir(at("dir")).unwrap();
    write(at("file"), "hello");
    symlink("../away", at("link")).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let char_zero = mknodat(CWD, at("zero"), FileType::CharacterDevice, Mode::RUSR, 0).is_ok();

    let layer = open_user(temp.path());
    assert_eq!(found(&layer, "dir").kind, NodeKind::Directory);
    assert_eq!(found(&layer, "file").kind, NodeKind::File { size: 5 });
    assert_eq!(found(&layer, "link").kind, NodeKind::Symlink { target: (*b"../away").into() });
    assert_eq!(found(&layer, "socket").kind, NodeKind::Socket);
    assert_eq!(found(&layer, "fifo").kind, NodeKind::Fifo);
    if char_zero {
        assert!(found(&layer, "zero").is_whiteout());
        assert_eq!(found(&plain(temp.path()), "zero").kind, NodeKind::CharDevice(Device::default()));
    }

    let root = layer.root().unwrap();
    for name in [&b"dir"[..], b"link", b"fifo", b"socket"] {
        assert_eq!(kind_of(root.open_file(name)), ErrorKind::InvalidArgument, "{}", name.escape_ascii());
    }
    for name in [&b"file"[..], b"link", b"fifo"] {
        assert_eq!(kind_of(root.open_dir(name)), ErrorKind::NotDirectory, "{}", name.escape_ascii());
    }
    assert_eq!(kind_of(root.open_dir(b"nothing")), ErrorKind::NotFound);
    let error = root.open_dir(b"dir").unwrap().open_file(b"nothing").err().unwrap();
    assert_eq!((error.kind(), error.entry_path()), (&ErrorKind::NotFound, Some(&b"dir/nothing"[..])));
}

#[test]
fn metadata_is_complete_to_the_nanosecond() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("file");
    write(&path, "x");
    fs::hard_link(&path, temp.path().join("other")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4751)).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();

    let layer = open_user(temp.path());
    let (file, stat) = (found(&layer, "file"), fs::metadata(&path).unwrap());
    assert_eq!(file.metadata.mode, 0o4751);
    assert_eq!((file.metadata.uid, file.metadata.gid), (stat.uid(), stat.gid()));
    assert_eq!(file.metadata.mtime, Timestamp::new(1_234_567_890, 123_456_789));
    assert_eq!(file.inode.map(|id| (id.dev, id.ino)), Some((stat.dev(), stat.ino())));
    assert_eq!((file.nlink, found(&layer, "other").inode), (2, file.inode));
    assert_eq!(layer.root().unwrap().node().unwrap().inode, Some(layer.id().unwrap()));
}

#[test]
fn names_are_bytes_in_bytewise_order() {
    let temp = tempfile::tempdir().unwrap();
    let names: [&[u8]; 5] = [b"-a", b"a", b"a-b", b"a\xff", b"\xc3\xa4"];
    for name in names {
        write(temp.path().join(OsStr::from_bytes(name)), "");
    }
    let root = plain(temp.path()).root().unwrap();
    let want: BTreeSet<Box<[u8]>> = names.iter().map(|name| (*name).into()).collect();
    assert_eq!(root.names().unwrap(), want.iter().cloned().collect::<Vec<_>>());
    let entries = root.entries().unwrap();
    assert_eq!(entries.into_iter().map(|(name, _)| name).collect::<BTreeSet<_>>(), want);
    // Nothing but names of entries gets through to the kernel.
    for no_name in [&b""[..], b".", b"..", b"a/b", b"./a", b"a\0", &[b'n'; 300]] {
        assert_eq!(root.lookup(no_name).unwrap(), None, "{}", no_name.escape_ascii());
        assert!(root.open_dir(no_name).is_err() && root.open_file(no_name).is_err());
    }
}

#[test]
fn more_names_than_fit_one_call_are_all_there() {
    let temp = tempfile::tempdir().unwrap();
    let names: Vec<String> =
        (0..3000).map(|n| format!("a-name-that-takes-some-room-in-the-buffer-{n:04}")).collect();
    for name in &names {
        write(temp.path().join(name), "");
    }
    assert_eq!(support::names(&plain(temp.path())).unwrap(), names);
}

#[test]
fn a_directory_swapped_for_a_link_is_not_followed() {
    let temp = tempfile::tempdir().unwrap();
    let (layer, outside) = (temp.path().join("layer"), temp.path().join("outside"));
    write(outside.join("secret"), "x");
    write(layer.join("d/f"), "own");
    let root = plain(&layer).root().unwrap();
    let open = root.open_dir(b"d").unwrap();
    fs::rename(layer.join("d"), layer.join("moved")).unwrap();
    symlink(&outside, layer.join("d")).unwrap();
    assert!(matches!(root.lookup(b"d").unwrap().unwrap().kind, NodeKind::Symlink { .. }));
    assert_eq!(kind_of(root.open_dir(b"d")), ErrorKind::NotDirectory);
    assert!(open.lookup(b"secret").unwrap().is_none() && open.lookup(b"f").unwrap().is_some());

    // The layer as a whole, too, is what was opened and not what its name is.
    fs::rename(&layer, temp.path().join("elsewhere")).unwrap();
    symlink(&outside, &layer).unwrap();
    assert!(root.lookup(b"secret").unwrap().is_none() && root.lookup(b"moved").unwrap().is_some());
}

#[test]
fn an_open_file_can_be_read_at_any_place_and_has_a_descriptor() {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path().join("f"), "0123456789");
    let file = open_user(temp.path()).root().unwrap().open_file(b"f").unwrap();
    let mut data = [0; 4];
    file.read_exact_at(&mut data, 3).unwrap();
    assert_eq!((&data, file.len().unwrap(), file.as_fd().is_some()), (b"3456", 10, true));
}

#[test]
fn owners_are_those_of_the_container() {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path().join("f"), "x");
    let stat = fs::metadata(temp.path().join("f")).unwrap();
    let map = |outside| IdMap::new(vec![IdRange { inside: 7, outside, len: 1 }]).unwrap();
    let open = |owners| PlainDir::open(temp.path(), PlainDirOptions::default().owners(owners)).unwrap();

    let mapped = open(Owners::mapped(map(stat.uid()), map(stat.gid())));
    let node = found(&mapped, "f");
    assert_eq!((node.metadata.uid, node.metadata.gid), (7, 7));

    let foreign = || Owners::mapped(map(stat.uid() + 1), IdMap::identity());
    let error = open(foreign()).root().unwrap().lookup(b"f").unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::UnmappedId { id: stat.uid() });
    assert_eq!(error.entry_path(), Some(&b"f"[..]));
    assert_eq!(found(&open(foreign().overflow(65534)), "f").metadata.uid, 65534);
}

#[test]
fn the_namespace_is_found_by_what_overlayfs_leaves() {
    for (entry, evidence) in [(".", "origin"), ("d", "origin"), ("d/e", "impure")] {
        let temp = tempfile::tempdir().unwrap();
        write(temp.path().join("d/e/f"), "x");
        let default = || OverlayDir::open(temp.path(), OverlayDirOptions::default()).unwrap().namespace();
        let privileged = Namespace::Trusted.check_readable().is_ok();
        assert_eq!(default(), if privileged { Namespace::Trusted } else { Namespace::User });
        set_xattr(&temp.path().join("d"), "user.overlay.opaque", b"y");
        assert_eq!(default() == Namespace::Trusted, privileged, "opaque may be data");
        set_xattr(&temp.path().join(entry), &format!("user.overlay.{evidence}"), b"");
        assert_eq!(default(), Namespace::User, "{evidence} at {entry}");
    }
}

#[test]
fn markers_of_fuse_overlayfs_count_only_when_asked_for() {
    let temp = tempfile::tempdir().unwrap();
    for name in
        [".wh.gone", "d/.wh..wh..opq", "d/f", ".wh.new", "new/g", "x/h", ".wh..wh.plnk/1", ".wh.both", "both"]
    {
        write(temp.path().join(name), "");
    }
    set_xattr(&temp.path().join("x"), "user.fuseoverlayfs.opaque", b"y");
    set_xattr(&temp.path().join("both"), "user.fuseoverlayfs.origin", b"?");

    let options = OverlayDirOptions::default().namespace(Namespace::User);
    let off = OverlayDir::open(temp.path(), options.clone()).unwrap();
    assert_eq!(found(&off, ".wh.gone").kind, NodeKind::File { size: 0 }, "a name like any other");
    assert!(!found(&off, "d").markers.opaque && lookup(&off, "gone").is_none());

    let on = OverlayDir::open(temp.path(), options.fuse_whiteouts(true)).unwrap();
    assert_eq!(support::names(&on).unwrap(), ["both", "d", "gone", "new", "x"]);
    assert!(found(&on, "gone").is_whiteout() && lookup(&on, ".wh.gone").is_none());
    for opaque in ["d", "new", "x"] {
        assert!(found(&on, opaque).markers.opaque, "{opaque}");
    }
    assert!(
        found(&on, "both").xattrs.is_empty(),
        "what the layer adds is there, without fuse-overlayfs's notes"
    );
    let root = on.root().unwrap();
    assert!(root.open_dir(b"d").unwrap().node().unwrap().markers.opaque);
    assert_eq!(kind_of(root.open_file(b".wh.gone")), ErrorKind::NotFound);
    assert_eq!(kind_of(root.open_dir(b".wh..wh.plnk")), ErrorKind::NotFound);
}

#[test]
fn markers_are_written_as_they_are_read() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("d")).unwrap();
    fs::create_dir(temp.path().join("o")).unwrap();
    let layer = open_user(temp.path());
    marker::make_whiteout(&layer, b"gone", Namespace::User).unwrap();
    let below = |name: &str| fs::File::open(temp.path().join(name)).unwrap();
    marker::make_xattr_whiteout(below("d"), b"gone", Namespace::User).unwrap();
    marker::set_opaque(below("o"), Namespace::User).unwrap();
    marker::make_xattr_whiteout(below("o"), b"gone", Namespace::User).unwrap();

    assert!(found(&layer, "gone").is_whiteout());
    assert!(!found(&layer, "d").markers.opaque && found(&layer, "o").markers.opaque);
    let d = layer.root().unwrap().open_dir(b"d").unwrap();
    assert!(d.lookup(b"gone").unwrap().unwrap().is_whiteout());
    assert_eq!(kind_of(marker::make_whiteout(&layer, b"gone", Namespace::User)), ErrorKind::Exists);
    assert_eq!(kind_of(marker::make_xattr_whiteout(below("d"), b"gone", Namespace::User)), ErrorKind::Exists);
}

#[test]
fn handles_are_layers_of_their_form() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, tree) = (open_user(temp.path()), plain(temp.path()));
    assert_eq!((OverlayDir::FORM, PlainDir::FORM), (Form::OVERLAY_DIR, Form::PLAIN_DIR));
    assert_eq!(dir.id().unwrap(), tree.id().unwrap());
    assert!(dir.as_tree().is_some() && AnyLayer::new(tree).downcast::<OverlayDir>().is_err());

    let features = OverlayFeatures::default().redirect(RedirectDir::On).metacopy(true);
    let upper = OverlayUpper::new(dir.clone(), OverlayUpperOptions::default().features(features)).unwrap();
    assert_eq!(
        (OverlayUpper::FORM, upper.features(), upper.is_volatile()),
        (Form::OVERLAY_UPPER, features, false)
    );
    let volatile = || OverlayUpperOptions::default().features(features.volatile(true));
    assert_eq!(kind_of(OverlayUpper::new(dir.clone(), volatile())), ErrorKind::FailedPrecondition);
    assert!(OverlayUpper::new(dir, volatile().allow_volatile(true)).unwrap().is_volatile());
    assert!(RedirectDir::Off.follows() && !RedirectDir::NoFollow.follows());
    let missing = PlainDir::open(temp.path().join("missing"), PlainDirOptions::default());
    assert_eq!(kind_of(missing), ErrorKind::NotFound);
}

#[test]
fn a_directory_is_listed_by_several_threads_at_once() {
    let temp = tempfile::tempdir().unwrap();
    for n in 0..500 {
        write(temp.path().join(format!("{n}")), "");
    }
    let root = plain(temp.path()).root().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!((0..5).all(|_| root.names().unwrap().len() == 500)));
        }
    });
}
