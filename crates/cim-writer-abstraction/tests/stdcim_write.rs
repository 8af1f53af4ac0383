//! Standard CIMs as they are written: the published vector, forks, what is refused, what is left behind.
#![cfg(feature = "ondisk")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "support/vector.rs"]
mod vector;

use std::{fs, path::Path};

use cim_writer_abstraction::{
    Attributes, CimKind, CimName, CimOp, CimPath, CimSink, FileMeta, FileTime, Guid, StreamName,
    op::CreateFlags,
    stdcim::{Image, Major, OwnFiles, StdCimSink, UpcaseTable, WriteOptions, destroy},
};
use layer_model::{ErrorKind, ReadAt, Result};
use vector::{GUID, TIME};

fn path(text: &str) -> CimPath {
    CimPath::new(text).unwrap()
}

fn name(text: &str) -> CimName {
    CimName::new(text).unwrap()
}

fn create(sink: &mut StdCimSink, image: &str, parent: Option<&str>) -> Result<()> {
    let parent = parent.map(name);
    sink.op(&CimOp::CreateImage {
        kind: CimKind::Forked,
        container: "nowhere",
        name: &name(image),
        parent: parent.as_ref(),
        flags: CreateFlags::empty(),
    })
}

fn sink(dir: &Path, image: &str, parent: Option<&str>) -> StdCimSink {
    let mut sink = StdCimSink::new(Major::V2, WriteOptions::default().directory(dir));
    create(&mut sink, image, parent).unwrap();
    sink
}

fn add(sink: &mut dyn CimSink, at: &str, meta: &FileMeta, data: &[u8]) -> Result<()> {
    sink.op(&CimOp::CreateFile { path: &path(at), meta, size: data.len() as u64 })?;
    sink.write(data)?;
    sink.op(&CimOp::EndStream)
}

fn file(sink: &mut dyn CimSink, at: &str, data: &[u8]) {
    add(sink, at, &FileMeta::new(Attributes::ARCHIVE), data).unwrap();
}

fn dir(sink: &mut dyn CimSink, at: &str) {
    add(sink, at, &FileMeta::new(Attributes::DIRECTORY), b"").unwrap();
}

fn stream(sink: &mut dyn CimSink, of: &str, name: &str, data: &[u8]) -> Result<()> {
    let name = StreamName::new(name).unwrap();
    sink.op(&CimOp::CreateStream { of: &path(of), name: &name, size: data.len() as u64 })?;
    sink.write(data)?;
    sink.op(&CimOp::EndStream)
}

fn link(sink: &mut dyn CimSink, at: &str, target: &str) -> Result<()> {
    sink.op(&CimOp::HardLink { path: &path(at), target: &path(target) })
}

fn commit(mut sink: StdCimSink) {
    sink.op(&CimOp::Commit).unwrap();
    sink.op(&CimOp::Close).unwrap();
}

fn open(dir: &Path, image: &str) -> Image {
    Image::open(dir, &name(image)).unwrap()
}

fn content(file: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Everything in an image, a line for each path and stream.
fn listing(image: &Image) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in image.walk() {
        let entry = entry.unwrap();
        let file = &entry.file;
        let data = if file.is_dir() { String::new() } else { text(&file.open().unwrap()) };
        lines.push(format!("{} {} {:#x} {data:?}", entry.path, file.id().0, file.attributes().bits()));
        for stream in file.streams().unwrap() {
            let data = text(&file.open_entry(&stream).unwrap());
            lines.push(format!("{}:{} {data:?}", entry.path, stream.name));
        }
    }
    lines
}

fn text(file: &dyn ReadAt) -> String {
    String::from_utf8(content(file)).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_tree_of_the_vector_is_written_as_the_vector() {
    let temp = tempfile::tempdir().unwrap();
    let options = WriteOptions::default()
        .directory(temp.path())
        .upcase(UpcaseTable::Ascii)
        .guid(GUID.parse::<Guid>().unwrap());
    let mut sink = StdCimSink::new(Major::V2, options);
    create(&mut sink, "a.cim", None).unwrap();
    let meta = |attributes| FileMeta {
        creation: FileTime(TIME),
        write: FileTime(TIME + 1),
        change: FileTime(TIME + 2),
        access: FileTime(TIME + 3),
        ..FileMeta::new(attributes)
    };
    add(&mut sink, "d", &meta(Attributes::DIRECTORY), b"").unwrap();
    add(&mut sink, "d\\Hello.txt", &meta(Attributes::READONLY | Attributes::ARCHIVE), b"hello cim").unwrap();
    link(&mut sink, "d\\z", "d\\Hello.txt").unwrap();
    let symlink = Image::open_in(&vector::files(), "a.cim").unwrap().lookup(&path("s")).unwrap().unwrap();
    let symlink = FileMeta { reparse: symlink.meta().unwrap().reparse, ..meta(Attributes::REPARSE_POINT) };
    add(&mut sink, "s", &symlink, b"").unwrap();
    commit(sink);

    let expected = vector::files();
    assert_eq!(names(temp.path()), expected.keys().map(String::as_str).collect::<Vec<_>>());
    for (name, expected) in expected {
        let mut got = fs::read(temp.path().join(&name)).unwrap();
        if name.ends_with("_0") {
            // One thing differs: the stream of `s`, which has no data, points somewhere.
            let stream_of_s = 0xb0 + 3 * 0x60 + 40;
            assert_eq!(got[stream_of_s], 0x48, "it is the security descriptor");
            got[stream_of_s] = 0;
        }
        assert!(got == *expected, "{name}");
    }
}

#[test]
fn the_same_operations_give_the_same_files() {
    let write = |dir_path: &Path| {
        let mut sink = sink(dir_path, "1.cim", None);
        dir(&mut sink, "Files");
        file(&mut sink, "Files\\a", b"one");
        file(&mut sink, "Files\\b", &[7; 10_000]);
        commit(sink);
    };
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(one.path());
    write(two.path());
    assert_eq!(names(one.path()), names(two.path()));
    for name in names(one.path()) {
        assert_eq!(fs::read(one.path().join(&name)).unwrap(), fs::read(two.path().join(&name)).unwrap());
    }
    // Under another name, it has files of its own.
    let mut sink = sink(one.path(), "2.cim", None);
    dir(&mut sink, "Files");
    file(&mut sink, "Files\\a", b"one");
    file(&mut sink, "Files\\b", &[7; 10_000]);
    commit(sink);
    assert_eq!(names(one.path()).len(), 8);
}

#[test]
fn every_version_is_read_back() {
    for (major, number) in [(Major::V1, 1), (Major::V2, 2), (Major::V3, 3)] {
        let temp = tempfile::tempdir().unwrap();
        let mut sink = StdCimSink::new(major, WriteOptions::default().directory(temp.path()));
        create(&mut sink, "1.cim", None).unwrap();
        dir(&mut sink, "d");
        file(&mut sink, "d\\f", b"data");
        commit(sink);
        let image = open(temp.path(), "1.cim");
        assert_eq!((image.version().major, image.version().minor), (number, 0));
        assert_eq!(listing(&image), ["\\ 1 0x10 \"\"", "d 2 0x10 \"\"", "d\\f 3 0x20 \"data\""]);
    }
}

#[test]
fn streams_links_and_buffers_come_back() {
    let temp = tempfile::tempdir().unwrap();
    let mut sink = sink(temp.path(), "1.cim", None);
    dir(&mut sink, "D");
    let meta = FileMeta {
        security: FileMeta::NULL_DACL.iter().copied().chain([1, 2, 3, 4]).collect(),
        ea: (*b"\0\0\0\0\0\x01\x03\0A\0xyz\0\0\0").into(),
        ..FileMeta::new(Attributes::HIDDEN | Attributes::SYSTEM)
    };
    add(&mut sink, "D\\File", &meta, b"main").unwrap();
    stream(&mut sink, "d\\file", "Zone.Identifier", b"[ZoneTransfer]").unwrap();
    stream(&mut sink, "d\\file", "a", b"").unwrap();
    stream(&mut sink, "d", "of a directory", b"too").unwrap();
    link(&mut sink, "d\\Other", "D\\FILE").unwrap();
    commit(sink);

    let image = open(temp.path(), "1.cim");
    let streams = |at: &str| [format!("{at}:a \"\""), format!("{at}:Zone.Identifier \"[ZoneTransfer]\"")];
    let mut expected =
        vec!["\\ 1 0x10 \"\"".to_owned(), "D 2 0x10 \"\"".into(), "D:of a directory \"too\"".into()];
    for at in ["D\\File", "D\\Other"] {
        expected.push(format!("{at} 3 0x6 \"main\""));
        expected.extend(streams(at));
    }
    assert_eq!(listing(&image), expected);
    let file = image.lookup(&path("d\\other")).unwrap().unwrap();
    assert_eq!(file.meta().unwrap(), meta);
    let stream = file.open_stream(&StreamName::new("ZONE.identifier").unwrap()).unwrap().unwrap();
    assert_eq!(text(&stream), "[ZoneTransfer]");
}

#[test]
fn equal_data_is_stored_once_and_zeros_of_sparse_files_not_at_all() {
    let temp = tempfile::tempdir().unwrap();
    let large = vec![9; 5000];
    let mut sink = sink(temp.path(), "1.cim", None);
    file(&mut sink, "a", &large);
    file(&mut sink, "b", &large);
    file(&mut sink, "c", b"small");
    stream(&mut sink, "c", "again", b"small").unwrap();
    add(&mut sink, "holes", &FileMeta::new(Attributes::SPARSE_FILE), &[0; 100_000]).unwrap();
    file(&mut sink, "zeros", &[0; 100]);
    commit(sink);
    let image = open(temp.path(), "1.cim");
    let own = OwnFiles::of(temp.path(), &name("1.cim")).unwrap();
    let sizes: Vec<u64> = own.regions.iter().skip(1).map(|file| file.size).collect();
    // Headers, then 5000 bytes at a page; 5 bytes, and 100 at the next multiple of 8.
    assert_eq!(sizes, [4096 + 5000, 48 + 100]);
    let read = |at| content(&image.lookup(&path(at)).unwrap().unwrap().open().unwrap());
    assert_eq!((read("a"), read("b")), (large.clone(), large));
    assert_eq!((read("holes"), read("zeros")), (vec![0; 100_000], vec![0; 100]));
    assert!(image.lookup(&path("holes")).unwrap().unwrap().open().unwrap().is_hole());
}

#[test]
fn a_fork_keeps_what_its_parent_has_and_writes_only_what_is_new() {
    let temp = tempfile::tempdir().unwrap();
    let mut base = sink(temp.path(), "1.cim", None);
    dir(&mut base, "Files");
    file(&mut base, "Files\\kept", &[b'k'; 6000]);
    file(&mut base, "Files\\gone", b"gone");
    file(&mut base, "Files\\changed", b"old");
    link(&mut base, "Files\\linked", "Files\\kept").unwrap();
    stream(&mut base, "Files\\kept", "s", b"stream").unwrap();
    commit(base);
    let before = listing(&open(temp.path(), "1.cim"));

    let mut fork = sink(temp.path(), "2.cim", Some("1.cim"));
    add(&mut fork, "FILES", &FileMeta::new(Attributes::DIRECTORY | Attributes::HIDDEN), b"").unwrap();
    fork.op(&CimOp::Delete { path: &path("files\\GONE") }).unwrap();
    file(&mut fork, "Files\\CHANGED", b"new");
    link(&mut fork, "Files\\more", "Files\\LINKED").unwrap();
    commit(fork);
    let mut third = sink(temp.path(), "3.cim", Some("2.cim"));
    file(&mut third, "Files\\third", b"3");
    commit(third);

    assert_eq!(listing(&open(temp.path(), "1.cim")), before);
    let image = open(temp.path(), "3.cim");
    let parents: Vec<_> = [open(temp.path(), "1.cim").own_set(), open(temp.path(), "2.cim").own_set()].into();
    assert_eq!(image.parent_sets(), parents);
    let kept = "k".repeat(6000);
    let expected = [
        "\\ 1 0x10 \"\"".to_owned(),
        "FILES 2 0x12 \"\"".into(),
        "FILES\\CHANGED 3 0x20 \"new\"".into(),
        format!("FILES\\kept 4 0x20 {kept:?}"),
        "FILES\\kept:s \"stream\"".into(),
        format!("FILES\\linked 4 0x20 {kept:?}"),
        "FILES\\linked:s \"stream\"".into(),
        format!("FILES\\more 4 0x20 {kept:?}"),
        "FILES\\more:s \"stream\"".into(),
        "FILES\\third 5 0x20 \"3\"".into(),
    ];
    assert_eq!(listing(&image), expected);
    let own = OwnFiles::of(temp.path(), &name("3.cim")).unwrap();
    assert_eq!((own.regions[1].size, own.regions[2].size), (40, 41), "only its own data");
    assert!(own.regions[0].size < 2000, "and no second upcase table: {own:?}");
}

#[test]
fn operations_follow_the_rules_of_the_api() {
    let temp = tempfile::tempdir().unwrap();
    let mut sink = sink(temp.path(), "1.cim", None);
    dir(&mut sink, "d");
    file(&mut sink, "d\\f", b"1");
    file(&mut sink, "g", b"2");
    let kind = |result: Result<()>| result.unwrap_err().kind().clone();
    let meta = FileMeta::default();
    assert_eq!(kind(add(&mut sink, "none\\f", &meta, b"")), ErrorKind::NotFound);
    assert_eq!(kind(add(&mut sink, "g\\f", &meta, b"")), ErrorKind::NotFound);
    assert_eq!(kind(stream(&mut sink, "none", "s", b"")), ErrorKind::NotFound);
    assert_eq!(kind(link(&mut sink, "l", "none")), ErrorKind::NotFound);
    assert_eq!(kind(link(&mut sink, "l", "d")), ErrorKind::IsDirectory);
    assert_eq!(kind(link(&mut sink, "d", "g")), ErrorKind::IsDirectory);
    assert_eq!(kind(sink.op(&CimOp::Delete { path: &path("none") })), ErrorKind::NotFound);
    assert_eq!(kind(sink.op(&CimOp::Delete { path: &CimPath::root() })), ErrorKind::InvalidArgument);
    assert_eq!(kind(sink.op(&CimOp::Tombstone { path: &path("g") })), ErrorKind::NotSupported);
    let directory = FileMeta::new(Attributes::DIRECTORY);
    let data = kind(add(&mut sink, "x", &directory, b"data"));
    assert_eq!(data, ErrorKind::SizeMismatch { expected: 0, got: 4 });
    sink.op(&CimOp::EndStream).unwrap();
    sink.op(&CimOp::Delete { path: &path("x") }).unwrap();
    let large = FileMeta { ea: vec![0; 65_536].into(), ..FileMeta::default() };
    assert_eq!(kind(add(&mut sink, "x", &large, b"")), ErrorKind::LimitExceeded { limit: "16-bit length" });

    // A directory that stands for another one has nothing in it, and is replaced by one that does not.
    let junction = FileMeta { reparse: [3, 0, 0, 0xa0, 0, 0, 0, 0].into(), ..directory.clone() };
    add(&mut sink, "j", &junction, b"").unwrap();
    assert_eq!(kind(add(&mut sink, "j\\f", &meta, b"")), ErrorKind::NotFound);
    add(&mut sink, "j", &directory, b"").unwrap();
    add(&mut sink, "j\\f", &meta, b"").unwrap();
    add(&mut sink, "j", &junction, b"").unwrap();
    assert_eq!(kind(sink.op(&CimOp::Delete { path: &path("j\\f") })), ErrorKind::NotFound);
    sink.op(&CimOp::Delete { path: &path("j") }).unwrap();

    // One name of a file is replaced, the other keeps the file.
    link(&mut sink, "h", "g").unwrap();
    file(&mut sink, "g", b"3");
    // A link replaces a file; a file replaces a directory, with all in it.
    link(&mut sink, "d\\f", "g").unwrap();
    dir(&mut sink, "e");
    file(&mut sink, "e\\below", b"4");
    file(&mut sink, "e", b"5");
    // A directory that is described again keeps what is in it, the root, too.
    add(&mut sink, "d", &FileMeta::new(Attributes::DIRECTORY | Attributes::SYSTEM), b"").unwrap();
    add(&mut sink, "", &FileMeta::new(Attributes::DIRECTORY | Attributes::HIDDEN), b"").unwrap();

    sink.op(&CimOp::CreateFile { path: &path("open"), meta: &meta, size: 2 }).unwrap();
    assert_eq!(kind(sink.op(&CimOp::Commit)), ErrorKind::Busy);
    assert_eq!(kind(link(&mut sink, "l", "g")), ErrorKind::Busy);
    assert_eq!(kind(sink.write(b"123")), ErrorKind::SizeMismatch { expected: 2, got: 3 });
    sink.write(b"12").unwrap();
    sink.op(&CimOp::EndStream).unwrap();
    assert_eq!(kind(sink.write(b"1")), ErrorKind::FailedPrecondition);
    commit(sink);
    let expected = [
        "\\ 1 0x12 \"\"",
        "d 2 0x14 \"\"",
        "d\\f 3 0x20 \"3\"",
        "e 4 0x20 \"5\"",
        "g 3 0x20 \"3\"",
        "h 5 0x20 \"2\"",
        "open 6 0x0 \"12\"",
    ];
    assert_eq!(listing(&open(temp.path(), "1.cim")), expected);
}

#[test]
fn too_few_bytes_spoil_the_stream() {
    let temp = tempfile::tempdir().unwrap();
    let mut sink = sink(temp.path(), "1.cim", None);
    sink.op(&CimOp::CreateFile { path: &path("f"), meta: &FileMeta::default(), size: 2 }).unwrap();
    sink.write(b"1").unwrap();
    let error = sink.op(&CimOp::EndStream).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::SizeMismatch { expected: 2, got: 1 });
}

#[test]
fn nothing_is_there_before_the_commit_and_nothing_after_a_discard() {
    let temp = tempfile::tempdir().unwrap();
    let mut first = sink(temp.path(), "1.cim", None);
    file(&mut first, "f", b"data");
    assert_eq!(names(temp.path()), [".stdcim-staging"]);
    let mut second = StdCimSink::new(Major::V2, WriteOptions::default().directory(temp.path()));
    let error = create(&mut second, "2.cim", None).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Busy, "one image at a time");
    assert_eq!(names(temp.path()), [".stdcim-staging"]);
    first.op(&CimOp::Discard).unwrap();
    assert!(names(temp.path()).is_empty());
    assert_eq!(first.op(&CimOp::Commit).unwrap_err().kind(), &ErrorKind::FailedPrecondition);

    let mut dropped = sink(temp.path(), "1.cim", None);
    file(&mut dropped, "f", b"data");
    drop(dropped);
    assert!(names(temp.path()).is_empty());

    let mut closed = sink(temp.path(), "1.cim", None);
    closed.op(&CimOp::Close).unwrap();
    assert!(names(temp.path()).is_empty(), "closing does not commit");

    // What a writer left that was killed does not stop the next one.
    fs::create_dir(temp.path().join(".stdcim-staging")).unwrap();
    fs::write(temp.path().join(".stdcim-staging/1"), b"half").unwrap();
    commit(sink(temp.path(), "1.cim", None));
    assert_eq!(names(temp.path()).len(), 4);
}

#[test]
fn names_that_are_taken_and_parents_that_are_missing_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    commit(sink(temp.path(), "1.cim", None));
    let create = |image, parent| {
        let mut sink = StdCimSink::new(Major::V2, WriteOptions::default().directory(temp.path()));
        create(&mut sink, image, parent).unwrap_err()
    };
    assert_eq!(create("1.cim", None).kind(), &ErrorKind::AlreadyExists);
    assert_eq!(create("1.cim", Some("1.cim")).kind(), &ErrorKind::AlreadyExists);
    let error = create("2.cim", Some("0.cim"));
    assert_eq!((error.kind(), error.entry_path()), (&ErrorKind::NotFound, Some(&b"0.cim"[..])));
    assert_eq!(names(temp.path()).len(), 4);

    // A GUID that was given is not taken twice, as its files may be those of another image.
    let guid: Guid = GUID.parse().unwrap();
    let write = |image| {
        let mut sink = StdCimSink::new(Major::V2, WriteOptions::default().directory(temp.path()).guid(guid));
        self::create(&mut sink, image, None).unwrap();
        sink.op(&CimOp::Commit)
    };
    write("3.cim").unwrap();
    assert_eq!(write("4.cim").unwrap_err().kind(), &ErrorKind::AlreadyExists);
    assert_eq!(names(temp.path()).len(), 8);

    let mut sink = StdCimSink::new(Major::V2, WriteOptions::default().directory(temp.path()));
    let block = CimOp::CreateImage {
        kind: CimKind::Block,
        container: "c.vhd",
        name: &name("5.cim"),
        parent: None,
        flags: CreateFlags::SINGLE_FILE,
    };
    assert_eq!(sink.op(&block).unwrap_err().kind(), &ErrorKind::NotSupported);
    assert_eq!(sink.op(&CimOp::Commit).unwrap_err().kind(), &ErrorKind::FailedPrecondition);
}

#[test]
fn an_image_is_as_large_as_its_own_files_and_goes_with_them() {
    let temp = tempfile::tempdir().unwrap();
    let mut base = sink(temp.path(), "1.cim", None);
    file(&mut base, "f", b"data");
    commit(base);
    commit(sink(temp.path(), "2.cim", Some("1.cim")));
    let set = open(temp.path(), "1.cim").own_set();
    fs::write(temp.path().join(set.object_id_name(2)), [0; 48]).unwrap();

    let one = OwnFiles::of(temp.path(), &name("1.cim")).unwrap();
    let on_disk = |name: &str| fs::metadata(temp.path().join(name)).unwrap().len();
    let expected: u64 = (0..3).map(|index| on_disk(&set.region_name(index))).sum::<u64>() + 48;
    assert_eq!((one.bytes(), one.regions.len(), one.object_ids.len()), (expected, 3, 1));

    assert_eq!(destroy(temp.path(), &name("1.cim")).unwrap(), one);
    let left = names(temp.path());
    assert_eq!(left.len(), 4);
    let error = Image::open(temp.path(), &name("2.cim")).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotFound);
    assert_eq!(error.entry_path(), Some(set.region_name(0).as_bytes()));

    // Missing regions are skipped.
    let two = OwnFiles::of(temp.path(), &name("2.cim")).unwrap();
    fs::remove_file(temp.path().join(&two.regions[1].name)).unwrap();
    assert_eq!(OwnFiles::of(temp.path(), &name("2.cim")).unwrap().missing_regions, 1);
    destroy(temp.path(), &name("2.cim")).unwrap();
    assert!(names(temp.path()).is_empty());
    assert_eq!(destroy(temp.path(), &name("2.cim")).unwrap_err().kind(), &ErrorKind::NotFound);
}

#[test]
fn destroying_goes_on_after_errors_and_returns_the_first() {
    let temp = tempfile::tempdir().unwrap();
    commit(sink(temp.path(), "1.cim", None));
    let set = open(temp.path(), "1.cim").own_set();
    // A directory in place of a region cannot be removed as a file.
    fs::remove_file(temp.path().join(set.region_name(1))).unwrap();
    fs::create_dir(temp.path().join(set.region_name(1))).unwrap();
    let error = destroy(temp.path(), &name("1.cim")).unwrap_err();
    assert_eq!(error.entry_path(), Some(set.region_name(1).as_bytes()));
    assert_eq!(names(temp.path()), [set.region_name(1)]);

    // Without a header nobody knows the regions: the image goes, they stay.
    fs::write(temp.path().join("2.cim"), b"no image").unwrap();
    let error = destroy(temp.path(), &name("2.cim")).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::CorruptImage);
    assert_eq!(names(temp.path()), [set.region_name(1)]);
}
