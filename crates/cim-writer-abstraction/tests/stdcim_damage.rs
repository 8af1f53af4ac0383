//! Standard CIMs that are odd, and ones that are broken: every rule of the format once, and bytes at random.
#![cfg(feature = "ondisk")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "support/heap.rs"]
mod heap;
#[path = "support/vector.rs"]
mod vector;
#[path = "support/written.rs"]
mod written;

use std::{collections::BTreeMap, io::Write, ops::Range};

use cim_writer_abstraction::{
    CimPath, StreamName,
    stdcim::{File, Image},
};
use layer_model::{ErrorKind, ReadAt, Result};
use proptest::prelude::*;
use vector::{Files, GUID, NAME};

/// The vector, to be changed.
struct Parts {
    image: Vec<u8>,
    regions: [Vec<u8>; 3],
}

/// Where things are in region 0 of the vector.
const ROOT_TABLE: usize = 0x28;
const SECURITY: usize = 0x48;
const D_TABLE: usize = 0x60;
const REPARSE: usize = 0x90;
const TABLE_ENTRY: usize = 0x230;
const FILE_SYSTEM: usize = 0x2_0240;

fn record(id: usize) -> usize {
    0xb0 + (id - 1) * 0x60
}

impl Parts {
    fn new() -> Self {
        let files = vector::files();
        let region = |index| files[&format!("region_{GUID}_{index}")].to_vec();
        Self { image: files[NAME].to_vec(), regions: [region(0), region(1), region(2)] }
    }

    fn files(&self) -> Files {
        let mut files = Files::from([(NAME.to_owned(), self.image.clone().into())]);
        for (index, region) in self.regions.iter().enumerate() {
            files.insert(format!("region_{GUID}_{index}"), region.clone().into());
        }
        files
    }

    /// Overwrites bytes of region 0.
    fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.regions[0][at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn put_image(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.image[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Appends an object, and returns where it is.
    fn append(&mut self, region: usize, bytes: &[u8]) -> u64 {
        let file = &mut self.regions[region];
        file.resize(file.len().next_multiple_of(8), 0);
        let at = file.len() as u64 | (region as u64) << 48;
        file.extend_from_slice(bytes);
        at
    }

    fn open(&self) -> Result<Image> {
        Image::open_in(&self.files(), NAME)
    }

    /// The first error of looking at everything.
    #[track_caller]
    fn error(&self) -> layer_model::Error {
        self.open().and_then(|image| look_at_all(&image)).unwrap_err()
    }

    #[track_caller]
    fn is_corrupt(&self) {
        let error = self.error();
        assert_eq!(error.kind(), &ErrorKind::CorruptImage, "{error}");
    }
}

fn look_at_all(image: &Image) -> Result<()> {
    for entry in image.walk() {
        look_at(&entry?.file)?;
    }
    Ok(())
}

fn look_at(file: &File) -> Result<()> {
    file.meta()?;
    if !file.is_dir() {
        read_ends(&file.open()?)?;
    }
    for stream in file.streams()? {
        read_ends(&file.open_entry(&stream)?)?;
    }
    Ok(())
}

/// Sizes go up to 2^48: what is there matters, not what is claimed.
fn read_ends(stream: &dyn ReadAt) -> Result<()> {
    let mut buf = [0; 1024];
    for at in [0, stream.len().unwrap().saturating_sub(100), u64::MAX] {
        stream.read_at(&mut buf, at).unwrap();
    }
    Ok(())
}

fn content(file: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn hello(image: &Image) -> File {
    image.lookup(&CimPath::new("d\\hello.txt").unwrap()).unwrap().unwrap()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// A link table as it lies on disk.
fn link_table<V: AsRef<[u8]>>(links: &[(&str, V)]) -> Vec<u8> {
    let values: Vec<u8> = links.iter().flat_map(|(_, value)| value.as_ref().to_vec()).collect();
    let begin = 8 + values.len() + 4 * links.len();
    let (mut offsets, mut names) = (Vec::new(), Vec::new());
    for (name, _) in links {
        offsets.extend((begin as u32 + names.len() as u32).to_le_bytes());
        names.extend((name.encode_utf16().count() as u16).to_le_bytes());
        names.extend(utf16(name));
    }
    let length = (begin + names.len()) as u32;
    [&length.to_le_bytes()[..], &(links.len() as u32).to_le_bytes(), &values, &offsets, &names].concat()
}

fn stream_record(at: u64, length: u64, stream_type: u64) -> Vec<u8> {
    [at.to_le_bytes(), (length | stream_type << 48).to_le_bytes()].concat()
}

// What is odd, and fine.

#[test]
fn records_may_be_shorter_or_longer_than_those_known() {
    for size in [0x58_u16, 0x60, 0x68, 0x70, 0x200] {
        let mut parts = Parts::new();
        let records: Vec<u8> = (1..=4)
            .flat_map(|id| {
                let mut one = parts.regions[0][record(id)..record(id) + 0x58].to_vec();
                one.resize(usize::from(size), 0xff);
                one
            })
            .collect();
        let at = parts.append(0, &records);
        parts.put(TABLE_ENTRY, &at.to_le_bytes()).put(TABLE_ENTRY + 10, &size.to_le_bytes());
        let image = parts.open().unwrap();
        assert_eq!(content(&hello(&image).open().unwrap()), b"hello cim");
        let parent = if size == 0x58 { 0 } else { u32::MAX };
        assert_eq!(hello(&image).record().parent.get(), parent);
        look_at_all(&image).unwrap();
    }
}

#[test]
fn versions_one_to_three_are_read_and_others_are_not() {
    for major in 1_u32..=3 {
        let mut parts = Parts::new();
        parts.put_image(16, &major.to_le_bytes());
        assert_eq!(parts.open().unwrap().version().major, major);
    }
    for major in [0_u32, 4, u32::MAX] {
        let mut parts = Parts::new();
        parts.put_image(16, &major.to_le_bytes());
        assert_eq!(parts.error().kind(), &ErrorKind::UnsupportedVersion);
        let mut parts = Parts::new();
        parts.put(16, &major.to_le_bytes());
        assert_eq!(parts.error().kind(), &ErrorKind::UnsupportedVersion, "of a region");
    }
}

#[test]
fn executables_are_read_as_they_were_before_they_were_laid_out() {
    let mut parts = Parts::new();
    // The file is "headcodedata"; in memory, code is at 16 and data at 32.
    let mut laid_out = [b'.'; 36];
    laid_out[..4].copy_from_slice(b"head");
    laid_out[16..20].copy_from_slice(b"code");
    laid_out[32..].copy_from_slice(b"data");
    let data = parts.append(2, &laid_out);
    let header = |mappings: &[(u32, u32)], length: u64| {
        let mut bytes = [data.to_le_bytes(), length.to_le_bytes()].concat();
        bytes.extend(36_u32.to_le_bytes());
        bytes.extend((mappings.len() as u16).to_le_bytes());
        bytes.extend([0; 2]);
        bytes
            .extend(mappings.iter().flat_map(|(at, delta)| [at.to_le_bytes(), delta.to_le_bytes()].concat()));
        bytes
    };
    let mappings = [(4, 12), (8, 24)];
    let at = parts.append(0, &header(&mappings, 36));
    parts.put(record(3) + 40, &stream_record(at, 12, 2));
    let file = hello(&parts.open().unwrap()).open().unwrap();
    assert_eq!(content(&file), b"headcodedata");
    let mut middle = [0; 6];
    file.read_exact_at(&mut middle, 3).unwrap();
    assert_eq!(&middle, b"dcoded");

    for broken in [header(&[(8, 24), (4, 12)], 36), header(&mappings, 35), header(&[(4, 25)], 36)] {
        let at = parts.append(0, &broken);
        parts.put(record(3) + 40, &stream_record(at, 12, 2)).is_corrupt();
    }
}

#[test]
fn sparse_streams_are_zero_and_empty_ones_may_point_anywhere() {
    let mut parts = Parts::new();
    parts.put(record(3) + 40, &stream_record(u64::MAX, 1 << 40 | 1 << 56, 0));
    let stream = hello(&parts.open().unwrap()).open().unwrap();
    let mut end = [1; 8];
    assert_eq!(stream.read_at(&mut end, (1 << 40) - 5).unwrap(), 5);
    assert_eq!(end, [0, 0, 0, 0, 0, 1, 1, 1]);
    for anywhere in [0, u64::MAX, SECURITY as u64] {
        parts.put(record(3) + 40, &stream_record(anywhere, 0, 0));
        assert_eq!(hello(&parts.open().unwrap()).open().unwrap().size(), 0);
        look_at_all(&parts.open().unwrap()).unwrap();
    }
}

#[test]
fn alternate_streams_are_found_with_and_without_the_length_before_their_list() {
    for prefixed in [false, true] {
        let mut parts = Parts::new();
        let data = parts.append(2, b"zone");
        let hello_data = u64::from_le_bytes(parts.regions[0][record(3) + 40..][..8].try_into().unwrap());
        let table = link_table(&[
            ("empty", stream_record(0, 0, 0)),
            ("Main", stream_record(hello_data, 9, 0)),
            ("zone", stream_record(data, 4, 0)),
        ]);
        let prefix = if prefixed { (table.len() as u32).to_le_bytes().to_vec() } else { Vec::new() };
        let at = parts.append(0, &[prefix, table].concat());
        parts.put(record(3) + 80, &at.to_le_bytes());
        let file = hello(&parts.open().unwrap());
        let found: Vec<_> = file
            .streams()
            .unwrap()
            .iter()
            .map(|stream| {
                let data = content(&file.open_entry(stream).unwrap());
                (stream.name.to_string(), stream.size, String::from_utf8(data).unwrap())
            })
            .collect();
        let expected = [("empty", 0, ""), ("Main", 9, "hello cim"), ("zone", 4, "zone")];
        assert_eq!(found, expected.map(|(name, size, data)| (name.to_owned(), size, data.to_owned())));
        let by_name = |name: &str| file.open_stream(&StreamName::new(name).unwrap()).unwrap();
        assert_eq!(content(&by_name("ZONE").unwrap()), b"zone");
        assert!(by_name("zones").is_none());
    }
    let mut parts = Parts::new();
    let bad = link_table(&[("a", stream_record(0, 0, 1))]);
    let at = parts.append(0, &bad);
    parts.put(record(3) + 80, &at.to_le_bytes()).is_corrupt();
}

#[test]
fn lists_too_long_to_be_read_for_one_name_are_searched_in_the_file() {
    let mut parts = Parts::new();
    let names: Vec<String> = (0..9000).map(|number| format!("name {number:05}")).collect();
    let links: Vec<(&str, [u8; 4])> = names.iter().map(|name| (&**name, 3_u32.to_le_bytes())).collect();
    let table = link_table(&links);
    assert!(table.len() > 200_000);
    let at = parts.append(0, &table);
    parts.put(record(2) + 40, &stream_record(at, table.len() as u64, 1));
    let image = parts.open().unwrap();
    for (name, found) in
        [("NAME 00000", true), ("name 04711", true), ("Name 08999", true), ("name 09000", false)]
    {
        let path = CimPath::new(format!("d\\{name}")).unwrap();
        assert_eq!(image.lookup(&path).unwrap().is_some(), found, "{name}");
    }
    assert_eq!(image.walk().filter(|entry| entry.is_ok()).count(), 3 + 9000);

    // In a list out of order, a search may find what is there; it does not say that nothing is.
    let middle = 8 + 9000 * 8 + 4500 * 22 + 2;
    let mut broken = table.clone();
    broken[middle..middle + 2].copy_from_slice(&utf16("a"));
    let at = parts.append(0, &broken);
    parts.put(record(2) + 40, &stream_record(at, broken.len() as u64, 1));
    let image = parts.open().unwrap();
    let lookup = |name: &str| image.lookup(&CimPath::new(format!("d\\{name}")).unwrap());
    assert!(lookup("name 08000").unwrap().is_some());
    assert_eq!(lookup("name 02000").unwrap_err().kind(), &ErrorKind::CorruptImage);
    parts.is_corrupt();
}

#[test]
fn a_set_of_regions_that_is_named_twice_is_opened_once() {
    let mut parts = Parts::new();
    let own = parts.image[32..56].to_vec();
    parts.put_image(70, &2_u16.to_le_bytes());
    parts.image.extend([own.clone(), own].concat());
    // The own regions are 6 to 8 now, and offsets still lead to the parents' 0 to 2.
    look_at_all(&parts.open().unwrap()).unwrap();
}

// What is broken.

#[test]
fn headers_that_are_wrong_are_refused() {
    Parts::new().put_image(0, b"CIMFILE0").is_corrupt();
    Parts::new().put_image(12, &[1]).is_corrupt();
    Parts::new().put(0, b"x").is_corrupt();
    Parts::new().put(12, &[0]).is_corrupt();
    for region in 0..3 {
        let mut parts = Parts::new();
        parts.regions[region].truncate(39);
        parts.is_corrupt();
    }
    for length in [0, 7, 31, 71] {
        let mut parts = Parts::new();
        parts.image.truncate(length);
        parts.is_corrupt();
    }
}

#[test]
fn lists_of_parents_that_are_wrong_are_refused() {
    let mut parts = Parts::new();
    parts.put_image(70, &1_u16.to_le_bytes());
    parts.is_corrupt();
    parts.image.extend([0; 23]);
    parts.is_corrupt();
    parts.image.push(0);
    parts.open().unwrap();
    // No region at all, and one too many.
    Parts::new().put_image(48, &0_u16.to_le_bytes()).is_corrupt();
    parts.image[72 + 16..72 + 18].copy_from_slice(&u16::MAX.to_le_bytes());
    parts.is_corrupt();
}

#[test]
fn regions_that_are_missing_are_named() {
    let mut files = vector::files();
    let region = format!("region_{GUID}_1");
    files.remove(&region);
    let error = Image::open_in(&files, NAME).unwrap_err();
    assert_eq!((error.kind(), error.entry_path()), (&ErrorKind::NotFound, Some(region.as_bytes())));
    // A count that lies fails at the first file that is not there.
    let mut parts = Parts::new();
    parts.put_image(48, &u16::MAX.to_le_bytes());
    let region = format!("region_{GUID}_3");
    assert_eq!(parts.error().entry_path(), Some(region.as_bytes()));
}

#[test]
fn offsets_that_lead_nowhere_are_refused() {
    let offsets = [FILE_SYSTEM, FILE_SYSTEM + 8, TABLE_ENTRY, record(2) + 40, record(3) + 40, record(3) + 56];
    for field in offsets {
        for bad in [1 << 48, 3 << 48 | 0x28, u64::MAX, 0x0000_ffff_ffff_ffff, 2 << 48 | 49] {
            Parts::new().put(field, &u64::to_le_bytes(bad)).is_corrupt();
        }
    }
    for bad in [0, 1 << 48, u64::MAX] {
        Parts::new().put_image(56, &u64::to_le_bytes(bad)).is_corrupt();
    }
    // Byte 0 is not "nothing" for what has to be there.
    for field in [FILE_SYSTEM, FILE_SYSTEM + 8, TABLE_ENTRY, record(2) + 40, record(3) + 40] {
        Parts::new().put(field, &[0; 8]).is_corrupt();
    }
    // Buffers that pass the end: security, extended attributes, reparse data, streams.
    for field in [56, 64, 72, 80] {
        let mut parts = Parts::new();
        let end = parts.regions[0].len() as u64 - 1;
        parts.put(record(3) + field, &end.to_le_bytes()).put(record(3) + 2, &[2, 0]).is_corrupt();
    }
    let mut parts = Parts::new();
    let at = parts.append(0, &[0xff, 0xff, 1]);
    parts.put(record(3) + 56, &at.to_le_bytes()).is_corrupt();
}

#[test]
fn file_tables_that_are_wrong_are_refused() {
    Parts::new().put(TABLE_ENTRY + 10, &0x57_u16.to_le_bytes()).is_corrupt();
    Parts::new().put(TABLE_ENTRY + 10, &0_u16.to_le_bytes()).is_corrupt();
    Parts::new().put(TABLE_ENTRY + 8, &u16::MAX.to_le_bytes()).is_corrupt();
    Parts::new().put(TABLE_ENTRY + 8, &3_u16.to_le_bytes()).is_corrupt();
    Parts::new().put(FILE_SYSTEM + 16, &u32::MAX.to_le_bytes()).is_corrupt();
    Parts::new().put(FILE_SYSTEM + 16, &[0; 4]).is_corrupt();
}

#[test]
fn file_ids_that_are_no_files_are_refused() {
    for bad in [0_u32, 5, 1025, u32::MAX] {
        Parts::new().put(FILE_SYSTEM + 20, &bad.to_le_bytes()).is_corrupt();
        Parts::new().put(D_TABLE + 8, &bad.to_le_bytes()).is_corrupt();
    }
    Parts::new().put(FILE_SYSTEM + 20, &3_u32.to_le_bytes()).is_corrupt(); // a file as root
}

#[test]
fn link_tables_that_are_wrong_are_refused() {
    let with_d = |table: &[u8], length: u64| {
        let mut parts = Parts::new();
        let at = parts.append(0, table);
        parts.put(record(2) + 40, &stream_record(at, length, 1));
        parts
    };
    let good = link_table(&[("a", 3_u32.to_le_bytes()), ("b", 4_u32.to_le_bytes())]);
    look_at_all(&with_d(&good, good.len() as u64).open().unwrap()).unwrap();
    let patched = |at: usize, bytes: &[u8]| {
        let mut table = good.clone();
        table[at..at + bytes.len()].copy_from_slice(bytes);
        with_d(&table, table.len() as u64)
    };
    for length in [0_u32, 7, good.len() as u32 + 1, u32::MAX] {
        patched(0, &length.to_le_bytes()).is_corrupt();
    }
    for count in [3_u32, 5, u32::MAX] {
        patched(4, &count.to_le_bytes()).is_corrupt();
    }
    for offset in [good.len() as u32 - 1, good.len() as u32, u32::MAX] {
        patched(16, &offset.to_le_bytes()).is_corrupt();
    }
    patched(24, &[0xff, 0xff]).is_corrupt(); // a name past the end
    with_d(&good, good.len() as u64 - 1).is_corrupt();
    with_d(&good, 4).is_corrupt();
    with_d(&good, (1 << 48) - 1).is_corrupt();

    let id = 3_u32.to_le_bytes();
    let too_long = "x".repeat(256);
    for names in [["b", "a"], ["a", "a"], ["a", "A"], ["A", "a"], ["Z", "b"]] {
        let table = link_table(&names.map(|name| (name, id)));
        with_d(&table, table.len() as u64).is_corrupt();
    }
    for name in ["", ".", "..", "a\0b", "a\\b", "\\a", "a/b", "a:b", "a\nb", &too_long] {
        let table = link_table(&[(name, id)]);
        with_d(&table, table.len() as u64).is_corrupt();
    }
    // What lies between the letters of ASCII in the table sorts by the table, not by the bytes.
    let table = link_table(&[("a", id), ("_", id)]);
    look_at_all(&with_d(&table, table.len() as u64).open().unwrap()).unwrap();
}

#[test]
fn unknown_types_of_streams_are_refused() {
    for id in [2, 3] {
        for stream_type in [3, 0xff] {
            Parts::new().put(record(id) + 54, &[stream_type]).is_corrupt();
        }
    }
    Parts::new().put(record(1) + 54, &[0]).is_corrupt(); // the root is no directory then
}

#[test]
fn directories_inside_themselves_are_refused() {
    // `d\Hello.txt` is `d`.
    let mut parts = Parts::new();
    parts.put(D_TABLE + 8, &2_u32.to_le_bytes()).is_corrupt();
    let image = parts.open().unwrap();
    let error = image.lookup(&CimPath::new("d\\hello.txt\\hello.txt").unwrap()).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::CorruptImage);
    // The root in itself, and a directory in two places.
    Parts::new().put(D_TABLE + 8, &1_u32.to_le_bytes()).is_corrupt();
    Parts::new().put(ROOT_TABLE + 12, &2_u32.to_le_bytes()).is_corrupt();
}

#[test]
fn directories_that_double_at_each_level_end_soon() {
    // Each of 1000 directories holds the next one twice: 2^1000 ways.
    let mut parts = Parts::new();
    let mut records = Vec::new();
    for id in 1..=1000_u32 {
        let mut record = parts.regions[0][record(2)..record(2) + 0x60].to_vec();
        let table = link_table(&[("a", (id + 1).to_le_bytes()), ("b", (id + 1).to_le_bytes())]);
        let at = parts.append(0, &table);
        record[40..56].copy_from_slice(&stream_record(at, table.len() as u64, 1));
        records.extend(record);
    }
    let at = parts.append(0, &records);
    parts.put(TABLE_ENTRY, &at.to_le_bytes()).put(TABLE_ENTRY + 8, &1000_u16.to_le_bytes());
    let image = parts.open().unwrap();
    assert!(image.walk().count() < 2100);
    parts.is_corrupt();
}

#[test]
fn an_error_names_the_file_and_the_byte() {
    let error = Parts::new().put(D_TABLE + 4, &100_u32.to_le_bytes()).error();
    let region = format!("region_{GUID}_0");
    assert_eq!(error.entry_path(), Some(region.as_bytes()));
    assert_eq!(error.byte_offset(), Some(D_TABLE as u64 + 4));
    assert_eq!(
        error.to_string(),
        format!("{region}: d: a link table with 100 links in 48 bytes (offset 100)")
    );
    let error = Parts::new().put(REPARSE, &[0xff, 0xff]).put(record(4) + 72, &[0xff; 8]).error();
    assert_eq!(error.message(), "reparse data at 65535:0xffffffffffff: there is no such region");
}

// Bytes at random.

type Targets = Vec<(String, Range<usize>)>;

/// Which parts of the files are worth changing: everything but upcase tables.
fn targets(files: &Files) -> Targets {
    let mut targets = Vec::new();
    for (name, bytes) in files {
        let table = vector::ascii_upcase();
        match bytes.windows(table.len()).position(|window| window == table) {
            Some(at) => {
                targets.push((name.clone(), 0..at));
                targets.push((name.clone(), at + table.len()..bytes.iter().len()));
            }
            None => targets.push((name.clone(), 0..bytes.iter().len())),
        }
    }
    targets
}

#[derive(Clone, Debug)]
struct Change {
    target: prop::sample::Index,
    at: prop::sample::Index,
    bytes: Vec<u8>,
}

fn change() -> impl Strategy<Value = Change> {
    let word = prop_oneof![
        Just(0u64),
        Just(u64::MAX),
        Just(1),
        any::<u64>(),
        0u64..0x300,
        (0u64..4).prop_map(|r| r << 48 | 0x28)
    ];
    let bytes = (word, prop::sample::select(vec![1usize, 2, 4, 8]))
        .prop_map(|(word, size)| word.to_le_bytes()[..size].to_vec());
    (any::<prop::sample::Index>(), any::<prop::sample::Index>(), bytes)
        .prop_map(|(target, at, bytes)| Change { target, at, bytes })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn mutated_images_cost_no_more_than_twice_their_size(
        which in 0usize..2,
        changes in prop::collection::vec(change(), 1..6),
        cut in prop::option::of((any::<prop::sample::Index>(), 0usize..300)),
    ) {
        thread_local!(static IMAGES: Vec<(Files, Targets)> =
            [vector::files(), written::files()].into_iter().map(|files| { let targets = targets(&files); (files, targets) }).collect());
        let (files, targets) = IMAGES.with(|images| images[which].clone());
        let mut files: BTreeMap<String, Vec<u8>> =
            files.into_iter().map(|(name, bytes)| (name, bytes.to_vec())).collect();
        for Change { target, at, bytes } in &changes {
            let (name, range) = target.get(&targets);
            let file = files.get_mut(name).unwrap();
            let at = range.start + at.index(range.len().max(1));
            for (to, byte) in file[at.min(range.end)..range.end].iter_mut().zip(bytes) {
                *to = *byte;
            }
        }
        if let Some((file, less)) = cut {
            let names: Vec<String> = files.keys().cloned().collect();
            let file = files.get_mut(file.get(&names)).unwrap();
            file.truncate(file.len().saturating_sub(less));
        }
        let size: usize = files.values().map(Vec::len).sum();
        let files: Files = files.into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
        let (entries, peak) = heap::peak(|| {
            let Ok(image) = Image::open_in(&files, NAME) else { return 0 };
            let mut entries = 0;
            for entry in image.walk().take(10_000) {
                let Ok(entry) = entry else { break };
                let _ = look_at(&entry.file);
                let _ = image.lookup(&entry.path);
                entries += 1;
            }
            entries
        });
        prop_assert!(entries < 10_000);
        prop_assert!(peak <= 2 * size, "{peak} bytes for {size}");
    }
}

#[test]
fn memory_is_measured() {
    let ((), peak) = heap::peak(|| {
        let mut bytes = vec![1; 1 << 20];
        bytes.write_all(b"x").unwrap();
    });
    assert!((1 << 20..4 << 20).contains(&peak), "{peak}");
}
