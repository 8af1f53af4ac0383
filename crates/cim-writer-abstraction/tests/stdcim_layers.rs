//! Standard CIMs as layers and as trees of layers.
#![cfg(feature = "ondisk")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "support/vector.rs"]
mod vector;

use std::path::Path;

use cim_writer_abstraction::{
    Attributes, CimKind, CimName, CimOp, CimPath, CimSink, FileMeta, FileTime, LayerEvent, StreamName,
    op::CreateFlags,
    stdcim::{Image, ImageEvents, Major, StdCimSink, WriteOptions},
    wcow::{WcowChanges, WcowEvents, WcowOptions, WcowSource},
};
use layer_model::{
    ErrorKind, LayerSource, LayerTree, Node, NodeKind, Result, Silent, testing::MemoryChanges,
    tree::LayerTreeExt, walk::TreeSource, windows,
};
use vector::NAME;

fn path(text: &str) -> CimPath {
    CimPath::new(text).unwrap()
}

fn sink(dir: &Path, name: &str) -> StdCimSink {
    let mut sink = StdCimSink::new(Major::V2, WriteOptions::default().directory(dir));
    let create = CimOp::CreateImage {
        kind: CimKind::Forked,
        container: "",
        name: &CimName::new(name).unwrap(),
        parent: None,
        flags: CreateFlags::empty(),
    };
    sink.op(&create).unwrap();
    sink
}

fn add(sink: &mut StdCimSink, at: &str, meta: &FileMeta, data: &[u8]) {
    sink.op(&CimOp::CreateFile { path: &path(at), meta, size: data.len() as u64 }).unwrap();
    sink.write(data).unwrap();
    sink.op(&CimOp::EndStream).unwrap();
}

fn stream(sink: &mut StdCimSink, of: &str, name: &str, data: &[u8]) {
    let name = StreamName::new(name).unwrap();
    sink.op(&CimOp::CreateStream { of: &path(of), name: &name, size: data.len() as u64 }).unwrap();
    sink.write(data).unwrap();
    sink.op(&CimOp::EndStream).unwrap();
}

/// A directory, a file of two names with streams, a symbolic link, a file that is one hole.
fn image(dir: &Path) -> Image {
    let mut sink = sink(dir, "1.cim");
    let time = |n: i64| FileTime(133_444_736_000_000_000 + n);
    let meta = |attributes| FileMeta {
        creation: time(1),
        write: time(2),
        change: time(3),
        access: time(4),
        security: FileMeta::NULL_DACL.into(),
        ..FileMeta::new(attributes)
    };
    add(&mut sink, "Files", &meta(Attributes::DIRECTORY), b"");
    stream(&mut sink, "Files", "of the directory", b"d");
    let mut file = meta(Attributes::ARCHIVE | Attributes::HIDDEN);
    file.ea = (*b"\0\0\0\0\0\x01\x03\0A\0xyz\0\0\0").into();
    add(&mut sink, "Files\\file", &file, b"content");
    stream(&mut sink, "Files\\file", "b", b"second");
    stream(&mut sink, "Files\\file", "A", b"first");
    add(&mut sink, "Files\\file-2", &meta(Attributes::ARCHIVE), b"");
    sink.op(&CimOp::HardLink { path: &path("Files\\Link"), target: &path("Files\\file") }).unwrap();
    let symlink = Image::open_in(&vector::files(), NAME).unwrap().lookup(&path("s")).unwrap().unwrap();
    let symlink = FileMeta { reparse: symlink.meta().unwrap().reparse, ..meta(Attributes::REPARSE_POINT) };
    add(&mut sink, "Files\\symlink", &symlink, b"");
    add(&mut sink, "Files\\zeros", &meta(Attributes::SPARSE_FILE), &[0; 10_000]);
    sink.op(&CimOp::Commit).unwrap();
    Image::open(dir, &CimName::new("1.cim").unwrap()).unwrap()
}

/// A line for each event.
fn lines(events: &mut dyn FnMut() -> Option<String>) -> Vec<String> {
    std::iter::from_fn(events).collect()
}

fn line(event: LayerEvent<'_>) -> String {
    let read = |content: layer_model::Content<'_>| {
        let mut bytes = Vec::new();
        content.write_to(&mut bytes).unwrap();
        bytes
    };
    match event {
        LayerEvent::Add { path, meta, content } => format!("add {path} {meta:?} {:?}", read(content)),
        LayerEvent::Stream { of, name, content } => format!("stream {of}:{name} {:?}", read(content)),
        LayerEvent::Link { path, target } => format!("link {path} {target}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_events_of_an_image_come_in_the_order_of_a_layer() {
    let temp = tempfile::tempdir().unwrap();
    let mut events = ImageEvents::new(&image(temp.path()));
    let mut short = Vec::new();
    while let Some(event) = events.next_event().unwrap() {
        let text = line(event);
        short.push(text.split(' ').take(2).collect::<Vec<_>>().join(" "));
    }
    let expected = [
        "add Files",
        "stream Files:of",
        "add Files\\file",
        "stream Files\\file:A",
        "stream Files\\file:b",
        "add Files\\file-2",
        "link Files\\Link",
        "add Files\\symlink",
        "add Files\\zeros",
    ];
    assert_eq!(short, expected);
    assert!(events.next_event().unwrap().is_none());
}

#[test]
fn an_image_travels_on_the_road_and_means_the_same_after_it() {
    let temp = tempfile::tempdir().unwrap();
    let image = image(temp.path());
    let mut events = ImageEvents::new(&image);
    let before = lines(&mut || events.next_event().unwrap().map(line));
    let changes = WcowChanges::new(ImageEvents::new(&image));
    let mut source = WcowSource::new(changes, WcowOptions::default(), &Silent);
    let after = lines(&mut || source.next_event().unwrap().map(line));
    assert_eq!(before, after);
}

#[test]
fn the_events_of_an_image_make_it_again() {
    let temp = tempfile::tempdir().unwrap();
    let first = image(temp.path());
    let mut copy = sink(temp.path(), "2.cim");
    let mut events = ImageEvents::new(&first);
    while let Some(event) = events.next_event().unwrap() {
        let content = match event {
            LayerEvent::Add { path, meta, content } => {
                copy.op(&CimOp::CreateFile { path: &path, meta: &meta, size: content.len() }).unwrap();
                content
            }
            LayerEvent::Stream { of, name, content } => {
                copy.op(&CimOp::CreateStream { of: &of, name: &name, size: content.len() }).unwrap();
                content
            }
            LayerEvent::Link { path, target } => {
                copy.op(&CimOp::HardLink { path: &path, target: &target }).unwrap();
                continue;
            }
            other => panic!("{other:?}"),
        };
        content.read_into(&mut |bytes| copy.write(bytes)).unwrap();
        copy.op(&CimOp::EndStream).unwrap();
    }
    copy.op(&CimOp::Commit).unwrap();
    let second = Image::open(temp.path(), &CimName::new("2.cim").unwrap()).unwrap();
    let all = |image: &Image| {
        let mut events = ImageEvents::new(image);
        lines(&mut || events.next_event().unwrap().map(line))
    };
    assert_eq!(all(&first), all(&second));
}

fn lookup(image: &Image, at: &str) -> Option<Node> {
    image.lookup_path(layer_model::LayerPath::new(at.as_bytes()).unwrap()).unwrap()
}

#[test]
fn an_image_is_a_tree_with_streams_beside_their_files() {
    let temp = tempfile::tempdir().unwrap();
    let image = image(temp.path());
    let root = LayerTree::root(&image).unwrap();
    let names = |dir: &dyn layer_model::LayerDir| -> Vec<String> {
        let names = dir.names().unwrap();
        let entries: Vec<_> = dir.entries().unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, entries);
        names.into_iter().map(|name| String::from_utf8(name.into()).unwrap()).collect()
    };
    assert_eq!(names(&*root), ["Files", "Files:of the directory"]);
    let files = root.open_dir(b"FILES").unwrap();
    let expected = ["Link", "Link:A", "Link:b", "file", "file-2", "file:A", "file:b", "symlink", "zeros"];
    assert_eq!(names(&*files), expected);

    let file = lookup(&image, "files/FILE").unwrap();
    assert_eq!((file.kind.clone(), file.nlink, file.metadata.mode), (NodeKind::File { size: 7 }, 2, 0o644));
    assert_eq!(file.inode, lookup(&image, "Files/Link").unwrap().inode);
    assert_eq!(file.xattrs.get(windows::FILE_ATTRIBUTES), Some(&b"34"[..]));
    assert_eq!(file.xattrs.get(windows::SECURITY_DESCRIPTOR), Some(&b"AQAEgAAAAAAAAAAAAAAAAAAAAAA="[..]));
    assert_eq!(file.xattrs.get(b"MSWINDOWS.xattr.A"), Some(&b"eHl6"[..]));
    let stream = lookup(&image, "Files/file:a").unwrap();
    assert_eq!((stream.kind.clone(), stream.nlink), (NodeKind::File { size: 5 }, 2));
    assert_ne!(stream.inode, file.inode);
    assert_eq!(stream.inode, lookup(&image, "Files/link:A").unwrap().inode);
    let symlink = lookup(&image, "Files/symlink").unwrap();
    assert_eq!(symlink.kind, NodeKind::Symlink { target: (*b"b").into() });
    for missing in ["Files/none", "Files/file:none", "Files/file:", "Files/file/x", "none:A"] {
        assert_eq!(lookup(&image, missing), None, "{missing}");
    }

    let read = |name: &[u8]| -> Result<Vec<u8>> {
        let file = files.open_file(name)?;
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        Ok(bytes)
    };
    assert_eq!(read(b"LINK").unwrap(), b"content");
    assert_eq!(read(b"file:B").unwrap(), b"second");
    assert_eq!(read(b"none").unwrap_err().kind(), &ErrorKind::NotFound);
    assert_eq!(read(b"file:none").unwrap_err().kind(), &ErrorKind::NotFound);
    assert_eq!(read(b"symlink").unwrap_err().kind(), &ErrorKind::InvalidArgument);
    let open = |name: &[u8]| files.open_dir(name).map(drop).unwrap_err().kind().clone();
    assert_eq!((open(b"file"), open(b"none")), (ErrorKind::NotDirectory, ErrorKind::NotFound));

    let changes = MemoryChanges::collect(&mut TreeSource::new(&image, &Silent)).unwrap();
    assert_eq!(changes.as_slice().len(), 12, "the root, and all of the above");
}

#[test]
fn trees_of_directories_inside_themselves_end() {
    const D_TABLE: usize = 0x60;
    let mut files = vector::files();
    let region = format!("region_{}_0", vector::GUID);
    for (id, at) in [(1_u32, D_TABLE + 8), (2, D_TABLE + 8), (2, 0x28 + 12)] {
        let mut bytes = vector::files()[&region].to_vec();
        bytes[at..at + 4].copy_from_slice(&id.to_le_bytes());
        files.insert(region.clone(), bytes.into());
        let image = Image::open_in(&files, NAME).unwrap();
        assert_eq!(image.link_counts().unwrap_err().kind(), &ErrorKind::CorruptImage);
        let mut source = TreeSource::new(&image, &Silent);
        let error = loop {
            match source.next_change() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the tree has an end"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), &ErrorKind::CorruptImage);
        let mut events = ImageEvents::new(&image);
        let failed = loop {
            match events.next_event() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the image has an end"),
                Err(error) => break error,
            }
        };
        assert_eq!(failed.kind(), &ErrorKind::CorruptImage);
        assert!(events.next_event().is_err(), "and no event after an error");
    }
}
