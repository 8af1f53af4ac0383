//! Layers as EROFS images: the same as in a directory, in every respect that a layer has.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{fs, io::Cursor, path::Path, sync::Arc};

use erofs_format::{CheckOptions, Memory, OpenOptions, WriteOptions};
use layer_apply::{ErofsApplier, ErofsImage, ErofsOptions, ErofsSink, OverlayXattrs, Whiteouts};
use layer_model::{
    Action, Applier, Base, Change, Content, Digest, Entry, EntryKind, ErrorKind, LayerPath, LayerSink,
    LayerTree, Metadata, Origin, Silent, Stack, Timestamp, TreeSource, WarningKind, Xattrs,
    merged::Merged,
    road,
    testing::{MemoryChanges, MemoryLayer, Snapshot, applier_conformance},
    tree::LayerTreeExt,
};
use layer_tar::{ReadOptions, TarSink, TarSource, WriteOptions as TarOptions};
use overlay_dir::{Namespace, OverlayDir};
use support::{Heard, Place, cases::CASES, changes, kind_of};

/// The layer as an image in memory, checked.
fn image(
    options: ErofsOptions,
    parents: Base<'_, OverlayDir>,
    layer: &mut MemoryChanges,
) -> (layer_model::Result<ErofsImage>, Heard) {
    let heard = Heard::default();
    let made = ErofsSink::new(Cursor::new(Vec::new()), parents, options, &heard)
        .and_then(|sink| road::pump(layer, sink, &heard))
        .map(|(out, _)| opened(out.into_inner()));
    (made, heard)
}

fn opened(bytes: Vec<u8>) -> ErofsImage {
    let image = erofs_format::Image::open(Memory(bytes)).unwrap();
    let report = image.check(&CheckOptions::new()).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
    ErofsImage::new(image, "test")
}

fn made(text: &str) -> ErofsImage {
    image(ErofsOptions::new(), Base::Empty, &mut changes(text)).0.unwrap()
}

fn listing(image: &dyn LayerTree) -> Vec<String> {
    let snapshot = Snapshot::of(image).unwrap();
    snapshot.paths().filter(|path| !path.is_root()).map(|path| path.display().to_string()).collect()
}

/// What must be the same of a layer in a directory and in an image. The root's owner is the caller's there.
fn seen(tree: &dyn LayerTree) -> Snapshot {
    Snapshot::of(tree).unwrap().without_access_times().without_root()
}

#[test]
fn every_layer_is_what_it_is_in_a_directory() {
    for case in CASES {
        let place = Place::new();
        let parents = place.parents(case.parents);
        let (directory, said) =
            place.overlay(layer_apply::ApplyOptions::new(), parents.as_ref(), &mut changes(case.layer));
        let directory = directory.unwrap_or_else(|e| panic!("{}: {}", case.name, e.chain())).layer;
        let (image, heard) =
            image(ErofsOptions::new(), Base::from_stack(parents.as_ref()), &mut changes(case.layer));
        let image = image.unwrap_or_else(|e| panic!("{}: {}", case.name, e.chain()));

        let difference = seen(&directory).difference(&seen(&image));
        assert!(difference.is_empty(), "{}: {difference:#?}", case.name);
        assert_eq!(said.kinds(), heard.kinds(), "{}", case.name);
        let merged = |layer: Arc<dyn LayerTree>| {
            let below =
                parents.iter().flat_map(Stack::iter).map(|p| Arc::new(p.clone()) as Arc<dyn LayerTree>);
            seen(&Merged::new([layer].into_iter().chain(below).collect()).unwrap())
        };
        let difference = merged(Arc::new(directory)).difference(&merged(Arc::new(image)));
        assert!(difference.is_empty(), "{}, merged: {difference:#?}", case.name);
    }
}

#[test]
fn the_applier_keeps_the_laws() {
    let folder = tempfile::tempdir().unwrap();
    let next = std::cell::Cell::new(0);
    let last = || folder.path().join(next.get().to_string());
    applier_conformance(
        &ErofsApplier::<MemoryLayer>::new(ErofsOptions::new()),
        |case| Ok(Stack::from_nearest(case.parents.clone())),
        || {
            next.set(next.get() + 1);
            last()
        },
        || fs::read_dir(folder.path()).unwrap().all(|entry| entry.unwrap().path() != last()),
    );
}

#[test]
fn images_are_parents_too() {
    let folder = tempfile::tempdir().unwrap();
    let applier = ErofsApplier::<ErofsImage>::new(ErofsOptions::new());
    let at = |name: &str| folder.path().join(name);
    let apply = |text: &str, parents: Base<'_, ErofsImage>, name: &str| {
        applier.apply(&mut changes(text), parents, at(name), &Silent).unwrap().layer
    };
    let bottom = apply("d/ 0700 mtime 5; d/x:\"1\" user.k=v; l>d", Base::Empty, "bottom");
    let parents = Stack::of(bottom.clone());
    let top = apply("d/y:\"2\"; l/z:\"3\"; h=d/x", Base::Layers(&parents), "top");
    assert_eq!(listing(&top), ["d", "d/x", "d/y", "d/z", "h"]);
    let dir = top.lookup_path(LayerPath::new(b"d").unwrap()).unwrap().unwrap();
    assert_eq!(
        (dir.metadata.mode, dir.metadata.mtime),
        (0o700, Timestamp::from_secs(5)),
        "as the parent has it"
    );
    let link = top.lookup_path(LayerPath::new(b"h").unwrap()).unwrap().unwrap();
    assert_eq!((link.nlink, link.xattrs.get(b"user.k")), (2, Some(&b"v"[..])), "the target was brought up");
}

#[test]
fn the_same_layer_is_the_same_bytes() {
    let text = "a/; a/f:\"x\" user.k=v; a/g=a/f; s>a; wh:gone; opq:a; P p; C n 1:3";
    let bytes = || {
        let sink = ErofsSink::new::<OverlayDir>(
            Cursor::new(Vec::new()),
            Base::Unknown,
            ErofsOptions::new(),
            &Silent,
        );
        road::pump(&mut changes(text), sink.unwrap(), &Silent).unwrap().0.into_inner()
    };
    assert_eq!(bytes(), bytes());
}

#[test]
fn a_name_that_describes_its_file_anew_counts_also_when_the_inode_is_written() {
    // With so many files between, the inode is not in memory any more.
    let filler: String = (0..4000).map(|n| format!("; fill/{n:05}:\"{n}\"")).collect();
    let long = "v".repeat(3900);
    for (what, last) in [("mode", String::new()), ("room", format!(" user.long={long}"))] {
        let text = format!("f:\"content\" 0644 mtime 7; fill/{filler}; g=f 0600 uid 70000 mtime 9.5{last}");
        let layer = made(&text);
        for name in ["f", "g"] {
            let node = layer.lookup_path(LayerPath::new(name.as_bytes()).unwrap()).unwrap().unwrap();
            assert_eq!((node.metadata.mode, node.metadata.uid, node.nlink), (0o600, 70_000, 2), "{what}");
            assert_eq!(node.metadata.mtime, Timestamp::new(9, 500_000_000));
            let mut content = [0; 7];
            let file = layer.open_path(LayerPath::new(name.as_bytes()).unwrap()).unwrap();
            file.read_exact_at(&mut content, 0).unwrap();
            assert_eq!(&content, b"content");
        }
    }
}

#[test]
fn a_large_file_keeps_its_blocks_when_its_inode_is_written_again() {
    let content: Vec<u8> = (0..50_003_u32).map(|n| (n % 251) as u8).collect();
    let xattrs = |len: usize| {
        let mut xattrs = Xattrs::new();
        xattrs.insert(*b"user.x", vec![7; len]);
        xattrs
    };
    for len in [10, 4000] {
        let xattrs = xattrs(len);
        let mut sink =
            ErofsSink::new::<OverlayDir>(Cursor::new(Vec::new()), Base::Empty, ErofsOptions::new(), &Silent)
                .unwrap();
        let path = |name: &'static str| LayerPath::new(name.as_bytes()).unwrap();
        let file = EntryKind::File(Content::from_bytes(&content));
        sink.change(Change::upsert(path("f"), Entry::new(file, Metadata::file(0o644)))).unwrap();
        let link = EntryKind::HardLink { target: path("f") };
        let entry = Entry::new(link, Metadata::file(0o640)).with_xattrs(&xattrs);
        sink.change(Change::upsert(path("g"), entry)).unwrap();
        let layer = opened(sink.finish().unwrap().0.into_inner());
        let node = layer.lookup_path(path("f")).unwrap().unwrap();
        assert_eq!((node.metadata.mode, node.xattrs.get(b"user.x").map(<[u8]>::len)), (0o640, Some(len)));
        let mut read = vec![0; content.len()];
        layer.open_path(path("g")).unwrap().read_exact_at(&mut read, 0).unwrap();
        assert_eq!(read, content);
    }
}

#[test]
fn a_file_may_have_more_names_than_a_compact_inode_counts() {
    let options = WriteOptions::new().epoch(Metadata::file(0).mtime.secs);
    let path = |name: &str| layer_model::LayerPathBuf::clean(name.as_bytes()).unwrap();
    let mut sink = ErofsSink::new::<OverlayDir>(
        Cursor::new(Vec::new()),
        Base::Empty,
        ErofsOptions::new().write(options),
        &Silent,
    )
    .unwrap();
    let file = EntryKind::File(Content::from_bytes(b"one"));
    sink.change(Change::upsert(path("f").as_path(), Entry::new(file, Metadata::file(0o644)))).unwrap();
    for n in 0..70_000 {
        let (name, target) = (path(&format!("l/{n}")), path("f"));
        let link = EntryKind::HardLink { target: target.as_path() };
        sink.change(Change::upsert(name.as_path(), Entry::new(link, Metadata::file(0o644)))).unwrap();
    }
    let layer = opened(sink.finish().unwrap().0.into_inner());
    let node = layer.lookup_path(path("l/69999").as_path()).unwrap().unwrap();
    assert_eq!(node.nlink, 70_001);
}

#[test]
fn an_image_for_itself_has_no_deletions() {
    let options = ErofsOptions::new().whiteouts(Whiteouts::Leave);
    let (layer, _) =
        image(options, Base::Unknown, &mut changes("wh:a; d/; opq:d; d/f:\"x\"; wh:d/g; C n 0:0"));
    let layer = layer.unwrap();
    assert_eq!(listing(&layer.plain()), ["d", "d/f", "n"]);
    let xattrs = layer.plain().lookup_path(LayerPath::new(b"d").unwrap()).unwrap().unwrap().xattrs;
    assert!(xattrs.is_empty(), "{xattrs:?}");
}

#[test]
fn an_image_for_itself_has_no_marks_on_what_replaced_something_or_was_opaque() {
    let options = || ErofsOptions::new().whiteouts(Whiteouts::Leave);
    let unmarked = |layer: &ErofsImage| {
        let node = layer.plain().lookup_path(LayerPath::new(b"d").unwrap()).unwrap().unwrap();
        assert!(node.is_dir() && node.xattrs.is_empty(), "{node:?}");
    };
    unmarked(&image(options(), Base::Unknown, &mut changes("d:\"x\"; d/; d/f:\"y\"")).0.unwrap());
    let layer = image(ErofsOptions::new(), Base::Unknown, &mut changes("d/; opq:d; d/f:\"y\"")).0.unwrap();
    let mut sink =
        ErofsSink::new::<OverlayDir>(Cursor::new(Vec::new()), Base::Unknown, options(), &Silent).unwrap();
    sink.add_tree(&layer).unwrap();
    unmarked(&opened(sink.finish().unwrap().0.into_inner()));
}

#[test]
fn deletions_carry_what_overlayfs_looks_for() {
    let layer = image(ErofsOptions::new(), Base::Unknown, &mut changes("wh:d/a; o/; opq:o")).0.unwrap();
    let xattrs = |path: &str| {
        layer.plain().lookup_path(LayerPath::new(path.as_bytes()).unwrap()).unwrap().unwrap().xattrs
    };
    assert_eq!(xattrs("d").get(b"trusted.overlay.origin"), Some(&b""[..]));
    assert_eq!(xattrs("o").get(b"trusted.overlay.opaque"), Some(&b"y"[..]));
    let (user, _) =
        image(ErofsOptions::new().namespace(Namespace::User), Base::Unknown, &mut changes("o/; opq:o"));
    let node = user.unwrap().namespace(Namespace::User).lookup_path(LayerPath::new(b"o").unwrap());
    assert!(node.unwrap().unwrap().markers.opaque);
}

#[test]
fn an_opaque_root_is_a_whiteout_for_each_name_below() {
    let place = Place::new();
    let parents = place.parents(&["a:\"1\"; d/x:\"2\""]);
    let (layer, heard) =
        image(ErofsOptions::new(), Base::from_stack(parents.as_ref()), &mut changes("opq:.; d/; n:\"3\""));
    assert_eq!(listing(&layer.unwrap()), ["a", "d", "n"]);
    assert_eq!(heard.count(WarningKind::RootOpaque), 1);
}

#[test]
fn what_is_asked_to_be_left_out_is() {
    let text = "a/; a/b/; a/b/c:\"1\"; a/d:\"2\" user.k=v security.x=y; e:\"3\" trusted.overlay.x=z user.overlay.y=w";
    let options = ErofsOptions::new()
        .exclude(|path| path.as_bytes() == b"a/b")
        .drop_xattrs("security.")
        .owner(Some(3), None);
    let (layer, heard) = image(options, Base::Empty, &mut changes(text));
    let layer = layer.unwrap();
    assert_eq!(listing(&layer), ["a", "a/d", "e"]);
    let node = layer.lookup_path(LayerPath::new(b"a/d").unwrap()).unwrap().unwrap();
    assert_eq!((node.metadata.uid, node.metadata.gid), (3, support::own_gid()));
    assert_eq!(node.xattrs.iter().map(|(name, _)| name.to_vec()).collect::<Vec<_>>(), [b"user.k".to_vec()]);
    assert_eq!(heard.count(WarningKind::XattrDropped), 2, "those that overlayfs would take for its own");

    let kept = image(
        ErofsOptions::new().overlay_xattrs(OverlayXattrs::Escape),
        Base::Empty,
        &mut changes("e:\"3\" trusted.overlay.x=z"),
    );
    let node = kept.0.unwrap().lookup_path(LayerPath::new(b"e").unwrap()).unwrap().unwrap();
    assert_eq!(node.xattrs.get(b"trusted.overlay.x"), Some(&b"z"[..]), "as the merged file has it");
    let none =
        image(ErofsOptions::new().no_xattrs(true), Base::Unknown, &mut changes(&format!("{text}; opq:a")));
    let root = none.0.unwrap().plain();
    let names = |path: &[u8]| root.lookup_path(LayerPath::new(path).unwrap()).unwrap().unwrap().xattrs.len();
    assert_eq!((names(b"a"), names(b"a/d")), (1, 0), "markers are no attributes");
}

#[test]
fn a_layer_that_makes_no_sense_is_an_error_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("image");
    for (text, kind) in [
        ("f:\"x\"; f/g:\"y\"", ErrorKind::NotDirectory),
        ("a>b; b>a; a/x:\"1\"", ErrorKind::TooManyLinks),
        ("h=none", ErrorKind::NotFound),
        ("d/; h=d", ErrorKind::InvalidArchive),
        ("h=h", ErrorKind::InvalidArchive),
        ("C c 5000:1", ErrorKind::InvalidArchive),
    ] {
        let result = ErofsApplier::<OverlayDir>::new(ErofsOptions::new()).apply(
            &mut changes(text),
            Base::Empty,
            target.clone(),
            &Silent,
        );
        assert_eq!(kind_of(result), kind, "{text}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{text}");
    }
}

#[test]
fn content_that_ends_early_is_said_so() {
    let tar = support::tar("a:\"0123456789\"");
    let mut source = TarSource::new(&tar[..515], ReadOptions::default(), &Silent);
    let sink =
        ErofsSink::new::<OverlayDir>(Cursor::new(Vec::new()), Base::Empty, ErofsOptions::new(), &Silent);
    let error = road::pump(&mut source, sink.unwrap(), &Silent).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Truncated, "{}", error.chain());
    assert_eq!(error.entry_path(), Some(&b"a"[..]));
}

#[test]
fn an_image_becomes_the_tar_that_it_came_from() {
    let text = "d/ 0700 mtime 3; d/f:\"x\" user.k=v; d/g=d/f; s>d; wh:gone; o/; opq:o; o/n:\"y\"; P p; C n 1:3; \
                B b 8:1 mtime 1.25";
    let layer = image(ErofsOptions::new(), Base::Unknown, &mut changes(text)).0.unwrap();
    let tar = |layer: &ErofsImage| {
        let sink = TarSink::new(Vec::new(), TarOptions::default().nanoseconds(true), &Silent);
        road::pump(&mut TreeSource::new(layer, &Silent), sink, &Silent).unwrap().0
    };
    let first = tar(&layer);
    let mut source = TarSource::new(&first[..], ReadOptions::default(), &Silent);
    let sink =
        ErofsSink::new::<OverlayDir>(Cursor::new(Vec::new()), Base::Unknown, ErofsOptions::new(), &Silent);
    let again = opened(road::pump(&mut source, sink.unwrap(), &Silent).unwrap().0.into_inner());
    seen(&layer).assert_same(&seen(&again));
    assert_eq!(first, tar(&again));
}

#[test]
fn a_tree_is_taken_as_it_is_sockets_too() {
    let folder = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    fs::create_dir(folder.path().join("d")).unwrap();
    fs::write(folder.path().join("d/f"), vec![b'x'; 5000]).unwrap();
    fs::hard_link(folder.path().join("d/f"), folder.path().join("g")).unwrap();
    std::os::unix::fs::symlink("d", folder.path().join("s")).unwrap();
    let tree = overlay_dir::PlainDir::open(folder.path(), overlay_dir::PlainDirOptions::default()).unwrap();
    let mut sink =
        ErofsSink::new::<OverlayDir>(Cursor::new(Vec::new()), Base::Unknown, ErofsOptions::new(), &Silent)
            .unwrap();
    sink.add_tree(&tree).unwrap();
    let image = opened(sink.finish().unwrap().0.into_inner());
    Snapshot::of(&tree).unwrap().assert_same(&Snapshot::of(&image.plain()).unwrap());
}

/// An archive whose files are content of an index.
#[test]
fn an_index_points_into_the_archive() {
    let tar = support::tar("d/; d/f:\"hello\"; d/e; g=d/f; big:\"0123456789\" user.k=v; wh:gone");
    let mut source = TarSource::new(&tar[..], ReadOptions::default(), &Silent);
    let mut sink = ErofsSink::beside_archive::<OverlayDir>(
        Cursor::new(Vec::new()),
        Base::Unknown,
        ErofsOptions::new(),
        &Silent,
    )
    .unwrap();
    road::drive(&mut source, &mut sink, &Silent).unwrap();
    let digest: Digest = format!("sha256:{}", "5".repeat(64)).parse().unwrap();
    sink.set_archive(tar.len() as u64, digest);
    let index = sink.finish().unwrap().0.into_inner();

    let beside = OpenOptions::new().device(Memory(tar.clone())).open(Memory(index.clone())).unwrap();
    assert_eq!(beside.superblock().block_bits, 9);
    assert_eq!(beside.devices()[0].tag, "5".repeat(64).into_bytes());
    assert_eq!(beside.devices()[0].blocks, (tar.len() as u64).div_ceil(512));
    let behind = erofs_format::Image::open(Memory([index, tar].concat())).unwrap();
    for image in [beside, behind] {
        assert!(image.check(&CheckOptions::new()).unwrap().is_sound());
        let read = |path: &str| std::io::read_to_string(image.file(image.lookup(path).unwrap())).unwrap();
        assert_eq!((read("d/f"), read("g"), read("big"), read("d/e")), {
            let text = |text: &str| text.to_owned();
            (text("hello"), text("hello"), text("0123456789"), text(""))
        });
        assert!(image.lookup("gone").unwrap().is_whiteout());
    }
}

#[test]
fn an_index_knows_holes_and_refuses_what_is_not_in_the_archive() {
    use layer_model::content::Extent;
    let mut sink = ErofsSink::beside_archive::<OverlayDir>(
        Cursor::new(Vec::new()),
        Base::Unknown,
        ErofsOptions::new(),
        &Silent,
    )
    .unwrap();
    let extents = [Extent { offset: 1024, len: 512 }, Extent { offset: 4096, len: 100 }];
    let archive = [vec![0; 1024], vec![b'a'; 512], vec![b'b'; 512]].concat();
    let mut packed = &archive[1024..1024 + 612];
    let content = Content::sparse(&extents, &mut packed, 4196).unwrap();
    let at = |offset| Origin { data_offset: offset, ..Origin::default() };
    let path = LayerPath::new(b"sparse").unwrap();
    let entry = |content| Action::Upsert(Entry::new(EntryKind::File(content), Metadata::file(0o644)));
    sink.change(Change::new(path, entry(content)).from_origin(at(Some(1024)))).unwrap();
    for (offset, content) in [(None, Content::from_bytes(b"x")), (Some(100), Content::from_bytes(b"x"))] {
        let other = LayerPath::new(b"other").unwrap();
        let error = sink.change(Change::new(other, entry(content)).from_origin(at(offset))).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Unrepresentable);
    }
    let index = sink.finish().unwrap().0.into_inner();
    let image = OpenOptions::new().device(Memory(archive)).open(Memory(index)).unwrap();
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut image.file(image.lookup("sparse").unwrap()), &mut content).unwrap();
    let mut expected = vec![0; 4196];
    expected[1024..1536].fill(b'a');
    expected[4096..].fill(b'b');
    assert_eq!(content, expected);
}

#[test]
fn content_may_go_to_a_blob() {
    let (mut blob, folder) = (Vec::new(), tempfile::tempdir().unwrap());
    let path = folder.path().join("blob");
    let file = fs::File::create(&path).unwrap();
    let sink = ErofsSink::beside_blob::<OverlayDir>(
        Cursor::new(Vec::new()),
        Box::new(file),
        Base::Unknown,
        ErofsOptions::new(),
        &Silent,
    );
    let (out, _) = road::pump(&mut changes("a:\"1\"; b:\"22\""), sink.unwrap(), &Silent).unwrap();
    std::io::Read::read_to_end(&mut fs::File::open(&path).unwrap(), &mut blob).unwrap();
    assert_eq!(blob.len(), 8192);
    let image = OpenOptions::new().device(Memory(blob)).open(Memory(out.into_inner())).unwrap();
    assert_eq!(std::io::read_to_string(image.file(image.lookup("b").unwrap())).unwrap(), "22");
    assert!(ErofsImage::open(Path::new("/nowhere/image"), &[&path]).is_err());
}
