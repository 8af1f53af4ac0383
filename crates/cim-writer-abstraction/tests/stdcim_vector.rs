//! The published test image, read, and read again with every rule broken once.
#![cfg(feature = "ondisk")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "support/vector.rs"]
mod vector;

use cim_writer_abstraction::{
    Attributes, CimName, CimPath, FileMeta, FileTime, StreamName,
    stdcim::{FileId, Image, Version},
};
use layer_model::{ErrorKind, ReadAt, Result};
use sha2::{Digest, Sha256};
use vector::{Files, GUID, NAME, TIME};

fn open(files: &Files) -> Result<Image> {
    Image::open_in(files, NAME)
}

fn content(file: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn path(text: &str) -> CimPath {
    CimPath::new(text).unwrap()
}

#[test]
fn the_vector_has_the_published_sizes_and_digest() {
    let files = vector::files();
    let sizes: Vec<usize> = files.values().map(|bytes| bytes[..].len()).collect();
    assert_eq!(sizes, [72, 131_672, 40, 49]);
    let digest = Sha256::digest(&files[&format!("region_{GUID}_0")]);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "8d13c326ddd5308f4ceacabb7f2c4a30415f002828a5acde81b0615e04fbebcc");
}

#[test]
fn the_vector_lists_as_published() {
    let image = open(&vector::files()).unwrap();
    assert_eq!(image.version(), Version { major: 2, minor: 0 });
    assert_eq!(image.own_set().guid().to_string(), GUID);
    assert!(image.parent_sets().is_empty());

    let mut listing = Vec::new();
    for entry in image.walk() {
        let entry = entry.unwrap();
        let meta = entry.file.meta().unwrap();
        assert_eq!(&*meta.security, FileMeta::NULL_DACL);
        if entry.file.id() != FileId(1) {
            let times = [meta.creation, meta.write, meta.change, meta.access];
            assert_eq!(times, [0, 1, 2, 3].map(|tick| FileTime(TIME + tick)));
        }
        let data = if entry.file.is_dir() { Vec::new() } else { content(&entry.file.open().unwrap()) };
        listing.push((
            entry.path.to_string(),
            entry.file.id().0,
            meta.attributes.bits(),
            entry.file.size(),
            String::from_utf8(data).unwrap(),
        ));
    }
    let expected = [
        ("\\", 1, 0x10, 0, ""),
        ("d", 2, 0x10, 0, ""),
        ("d\\Hello.txt", 3, 0x21, 9, "hello cim"),
        ("d\\z", 3, 0x21, 9, "hello cim"),
        ("s", 4, 0x400, 0, ""),
    ];
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(path, id, attributes, size, data)| (path.to_owned(), id, attributes, size, data.to_owned()))
        .collect();
    assert_eq!(listing, expected);

    let link = image.lookup(&path("s")).unwrap().unwrap();
    let reparse = link.meta().unwrap().reparse;
    let hex: String = reparse.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "0c0000a0140000000000020004000200010000006200000062000000");
    assert!(link.attributes().contains(Attributes::REPARSE_POINT));
}

#[test]
fn paths_are_looked_up_by_the_image_s_own_table() {
    let image = open(&vector::files()).unwrap();
    for (text, id) in
        [("", Some(1)), ("D", Some(2)), ("D\\hELLO.TXT", Some(3)), ("d\\Z", Some(3)), ("S", Some(4))]
            .into_iter()
            .chain([("t", None), ("d\\hello", None), ("s\\x", None), ("d\\z\\x", None), ("\u{e4}", None)])
    {
        let found = image.lookup(&path(text)).unwrap().map(|file| file.id().0);
        assert_eq!(found, id, "{text}");
    }
    let file = image.lookup(&path("d\\z")).unwrap().unwrap();
    assert!(file.open_stream(&StreamName::new("none").unwrap()).unwrap().is_none());
    let mut middle = [0; 3];
    assert_eq!(file.open().unwrap().read_at(&mut middle, 6).unwrap(), 3);
    assert_eq!(&middle, b"cim");
    let root = image.root();
    assert_eq!(root.open().unwrap_err().kind(), &ErrorKind::IsDirectory);
}

#[test]
fn an_image_is_opened_from_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in vector::files() {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let image = Image::open(dir.path(), &CimName::new(NAME).unwrap()).unwrap();
    assert_eq!(image.walk().map(Result::unwrap).count(), 5);
    let error = Image::open(dir.path(), &CimName::new("b.cim").unwrap()).unwrap_err();
    assert_eq!((error.kind(), error.entry_path()), (&ErrorKind::NotFound, Some(&b"b.cim"[..])));
}
