//! Backup streams: the framing, the four forms of sparse files, and what is refused.

mod support;

use std::io::{Cursor, Read};

use cim_writer_abstraction::{
    Attributes, FileMeta, StreamName,
    backup::{
        Header, Layout, Main, NAME_MAX, Part, Parts, Pieces, RecordId, Records, SMALL_MAX, SPARSE, Writer,
    },
};
use layer_model::{Content, ErrorKind, Result, content::Extent};
use proptest::{collection::vec, option, prelude::*, sample};
use support::{digits, hex};

/// A record: its header, and its payload.
fn record(header: Header, payload: &[u8]) -> Vec<u8> {
    [header.to_bytes().expect("a header"), payload.to_vec()].concat()
}

fn data(attributes: u32, bytes: &[u8]) -> Vec<u8> {
    record(Header { attributes, ..Header::new(RecordId::Data, bytes.len() as u64) }, bytes)
}

fn block(offset: u64, bytes: &[u8]) -> Vec<u8> {
    let header = Header::new(RecordId::SparseBlock, bytes.len() as u64);
    record(Header { attributes: SPARSE, offset, ..header }, bytes)
}

fn alternate(name: &str, attributes: u32, bytes: &[u8]) -> Vec<u8> {
    let header = Header::new(RecordId::AlternateData, bytes.len() as u64);
    record(Header { attributes, name: name.encode_utf16().collect(), ..header }, bytes)
}

/// A file, however it came.
#[derive(Debug, Default, PartialEq, Eq)]
struct File {
    security: Vec<u8>,
    ea: Vec<u8>,
    reparse: Vec<u8>,
    main: Vec<u8>,
    streams: Vec<(StreamName, Vec<u8>)>,
}

/// Reads a file in one pass.
fn one_pass(input: &[u8]) -> Result<File> {
    let mut parts = Parts::new(Cursor::new(input));
    let mut file = File::default();
    while let Some(part) = parts.next_part()? {
        let mut bytes = Vec::new();
        parts.read_to_end(&mut bytes).map_err(|error| layer_model::Error::io("read", error))?;
        match part {
            Part::Security(bytes) => file.security = bytes,
            Part::Ea(bytes) => file.ea = bytes,
            Part::Reparse(bytes) => file.reparse = bytes,
            Part::Data { .. } => file.main = bytes,
            Part::Run { offset, .. } => {
                file.main.resize(usize::try_from(offset).expect("small"), 0);
                file.main.extend(bytes);
            }
            Part::End { size } => file.main.resize(usize::try_from(size).expect("small"), 0),
            Part::Stream { name, .. } => file.streams.push((name, bytes)),
        }
    }
    Ok(file)
}

/// Reads a file in two passes.
fn two_passes(input: &[u8]) -> Result<File> {
    // Something in front shows that places are those of the whole input.
    let input = [&[0xee; 4], input].concat();
    let layout = Layout::scan(&input, 4)?;
    let mut main = Vec::new();
    match &layout.main {
        Main::Whole(run) => Content::from_range(&input, run.at, run.len).write_to(&mut main)?,
        Main::Sparse { size, extents, runs } => {
            Content::sparse(extents, &mut Pieces::new(&input, runs.iter().copied()), *size)?
                .write_to(&mut main)?;
        }
    }
    let mut streams = Vec::new();
    for (name, run) in layout.streams {
        let mut bytes = Vec::new();
        Content::from_range(&input, run.at, run.len).write_to(&mut bytes)?;
        streams.push((name, bytes));
    }
    Ok(File { security: layout.security, ea: layout.ea, reparse: layout.reparse, main, streams })
}

/// What both ways of reading say.
fn both(input: &[u8]) -> Result<File> {
    let (one, two) = (one_pass(input), two_passes(input));
    match (one, two) {
        (Ok(one), Ok(two)) => {
            assert_eq!(one, two);
            Ok(one)
        }
        (Err(one), Err(two)) => {
            assert_eq!(one.kind(), two.kind(), "{one} and {two}");
            Err(one)
        }
        (one, two) => panic!("{one:?} and {two:?}"),
    }
}

#[test]
fn headers_are_the_bytes_that_windows_has() {
    assert_eq!(digits(&data(0, b"abc")), "0100000000000000030000000000000000000000616263");
    assert_eq!(
        digits(&alternate(":s:$DATA", 0, b"x")),
        "0400000000000000010000000000000010000000 3a0073003a00240044004100540041 0078".replace(' ', "")
    );
    // The size counts the offset.
    assert_eq!(
        digits(&block(0x1_0000, b"x")),
        "09000000080000000900000000000000000000000000010000000000 78".replace(' ', "")
    );
}

#[test]
fn records_come_with_their_payload_one_after_another() {
    let input = [data(0, b"abc"), record(Header::new(RecordId::ObjectId, 2), b"id"), block(8, b"")].concat();
    let mut records = Records::new(Cursor::new(&input));
    let header = records.next_header().unwrap().unwrap();
    assert_eq!(header, Header::new(RecordId::Data, 3));
    let mut byte = [0];
    records.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"a");
    // What was not read is skipped.
    assert_eq!(records.next_header().unwrap().unwrap().id, RecordId::ObjectId);
    assert_eq!(records.payload().unwrap(), b"id");
    let header = records.next_header().unwrap().unwrap();
    assert_eq!((header.id, header.offset, header.size), (RecordId::SparseBlock, 8, 0));
    assert_eq!(records.next_header().unwrap(), None);
    assert_eq!(records.position(), input.len() as u64);
}

#[test]
fn sparse_files_are_read_in_all_four_forms() {
    let empty = File::default();
    assert_eq!(both(b"").unwrap(), empty, "no record");
    assert_eq!(both(&data(SPARSE, b"")).unwrap(), empty, "an empty record");
    assert_eq!(both(&[data(SPARSE, b""), block(0, b"")].concat()).unwrap(), empty, "and an end");
    assert_eq!(both(&data(SPARSE, b"all of it")).unwrap().main, b"all of it", "fully allocated");
    let blocks =
        [data(SPARSE, b""), block(2, b"ab"), block(4, b"c"), block(7, b"d"), block(10, b"")].concat();
    assert_eq!(both(&blocks).unwrap().main, b"\0\0abc\0\0d\0\0", "blocks");
    let hole = [data(SPARSE, b""), block(5, b"")].concat();
    assert_eq!(both(&hole).unwrap().main, [0; 5], "nothing but a hole");
    // Other records may follow.
    let more = [blocks, alternate(":s:$DATA", 0, b"x")].concat();
    assert_eq!(both(&more).unwrap().streams, [(StreamName::new("s").unwrap(), b"x".to_vec())]);
}

#[test]
fn main_streams_that_contradict_themselves_are_refused() {
    for (what, input) in [
        ("in two places", [data(SPARSE, b"x"), block(0, b"x"), block(1, b"")].concat()),
        ("in two places, not sparse", [data(0, b""), block(0, b"x"), block(1, b"")].concat()),
        ("ends elsewhere", [data(SPARSE, b"x"), block(2, b"")].concat()),
        ("twice", [data(0, b"x"), data(0, b"x")].concat()),
        ("blocks alone", [block(0, b"x"), block(1, b"")].concat()),
        ("out of order", [data(SPARSE, b""), block(4, b"x"), block(0, b"x"), block(9, b"")].concat()),
        ("overlapping", [data(SPARSE, b""), block(0, b"xx"), block(1, b"x"), block(9, b"")].concat()),
        ("ends too early", [data(SPARSE, b""), block(0, b"xx"), block(1, b"")].concat()),
        ("goes on", [data(SPARSE, b""), block(2, b""), block(2, b"x")].concat()),
        ("ends twice", [data(SPARSE, b""), block(2, b""), block(2, b"")].concat()),
        ("nowhere", [data(SPARSE, b""), block(u64::MAX, b"x"), block(u64::MAX, b"")].concat()),
    ] {
        assert_eq!(both(&input).unwrap_err().kind(), &ErrorKind::InvalidArchive, "{what}");
    }
    let open = [data(SPARSE, b""), block(2, b"x")].concat();
    assert_eq!(both(&open).unwrap_err().kind(), &ErrorKind::Truncated);
}

#[test]
fn records_without_a_meaning_for_layers_are_skipped_and_unknown_ones_refused() {
    let skipped = [RecordId::Link, RecordId::Property, RecordId::ObjectId, RecordId::Transaction];
    let skipped: Vec<u8> = skipped.into_iter().flat_map(|id| record(Header::new(id, 3), b"abc")).collect();
    let input = [skipped, data(0, b"x")].concat();
    assert_eq!(both(&input).unwrap().main, b"x");
    for id in [0_u8, 11, 255] {
        let mut unknown = input.clone();
        unknown[0] = id;
        assert_eq!(both(&unknown).unwrap_err().kind(), &ErrorKind::InvalidArchive);
    }
}

#[test]
fn an_alternate_stream_with_holes_is_not_supported() {
    let input = alternate(":s:$DATA", SPARSE, b"x");
    assert_eq!(both(&input).unwrap_err().kind(), &ErrorKind::NotSupported);
    for name in ["", ":", ":s:$INDEX_ALLOCATION", ":a\\b:$DATA"] {
        assert_eq!(both(&alternate(name, 0, b"x")).unwrap_err().kind(), &ErrorKind::InvalidArchive, "{name}");
    }
    assert_eq!(both(&alternate("s", 0, b"x")).unwrap().streams.len(), 1);
}

#[test]
fn what_is_too_long_is_refused_before_it_is_read() {
    let mut name = data(0, b"");
    name[16..20].copy_from_slice(&(NAME_MAX as u32 + 2).to_le_bytes());
    let limit = |limit| ErrorKind::LimitExceeded { limit };
    assert_eq!(both(&name).unwrap_err().kind(), &limit("backup_record_name"));
    for id in [RecordId::Security, RecordId::Ea, RecordId::Reparse] {
        let payload = vec![0; SMALL_MAX as usize + 1];
        let fits = record(Header::new(id, SMALL_MAX), &payload[1..]);
        assert!(both(&fits).is_ok());
        let long = record(Header::new(id, SMALL_MAX + 1), &payload);
        assert_eq!(both(&long).unwrap_err().kind(), &limit("backup_record_size"));
        assert_eq!(both(&[fits.clone(), fits].concat()).unwrap_err().kind(), &ErrorKind::InvalidArchive);
    }
    let long = Header { name: vec![0x61; NAME_MAX / 2 + 1], ..Header::new(RecordId::AlternateData, 0) };
    assert_eq!(long.to_bytes().unwrap_err().kind(), &limit("backup_record_name"));
    // A block has to have room for its offset.
    let mut block = block(0, b"");
    block[8] = 7;
    let block = [data(SPARSE, b""), block].concat();
    assert_eq!(both(&block).unwrap_err().kind(), &ErrorKind::InvalidArchive);
}

#[test]
fn an_input_that_ends_early_is_truncated_wherever_it_ends() {
    let input = [
        record(Header::new(RecordId::Security, 4), b"abcd"),
        data(0, b"xyz"),
        alternate(":s:$DATA", 0, b"12"),
    ];
    let ends: Vec<usize> = vec![0, input[0].len(), input[0].len() + input[1].len()];
    let input = input.concat();
    for cut in 0..input.len() {
        let result = both(&input[..cut]);
        if ends.contains(&cut) {
            assert!(result.is_ok(), "{cut}");
        } else {
            assert_eq!(result.unwrap_err().kind(), &ErrorKind::Truncated, "{cut}");
        }
    }
    // A size that nothing can have costs nothing.
    let mut huge = data(0, b"x");
    huge[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(both(&huge).unwrap_err().kind(), &ErrorKind::Truncated);
}

#[test]
fn files_are_written_in_the_order_of_the_tools() {
    let mut meta = FileMeta::new(Attributes::ARCHIVE);
    meta.security = FileMeta::NULL_DACL.into();
    meta.ea = hex("0000000000010300410078797a000000").into();
    let mut writer = Writer::new(Vec::new());
    writer.file(&meta, Content::empty()).unwrap();
    writer.stream(&StreamName::new("s").unwrap(), Content::from_bytes(b"x")).unwrap();
    let expected = [
        record(Header::new(RecordId::Security, 20), &FileMeta::NULL_DACL),
        record(Header::new(RecordId::Ea, 16), &meta.ea),
        // Even an empty file has its record.
        data(0, b""),
        alternate(":s:$DATA", 0, b"x"),
    ];
    assert_eq!(digits(&writer.into_inner()), digits(&expected.concat()));

    let written = |meta: &FileMeta| {
        let mut writer = Writer::new(Vec::new());
        writer.file(meta, Content::empty()).map(|()| writer.into_inner())
    };
    assert!(written(&FileMeta::new(Attributes::DIRECTORY)).unwrap().is_empty());
    let link = FileMeta { reparse: hex("0102").into(), ..FileMeta::new(Attributes::REPARSE_POINT) };
    assert_eq!(written(&link).unwrap(), record(Header::new(RecordId::Reparse, 2), &[1, 2]));
    let mut writer = Writer::new(Vec::new());
    let error = writer.file(&FileMeta::new(Attributes::DIRECTORY), Content::from_bytes(b"x")).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::InvalidArgument);
}

#[test]
fn holes_stay_holes_when_the_file_is_marked_as_one_with_holes() {
    let extents = [Extent { offset: 2, len: 2 }, Extent { offset: 6, len: 1 }];
    let write = |attributes| {
        let mut packed = &b"abc"[..];
        let content = Content::sparse(&extents, &mut packed, 9).unwrap();
        let mut writer = Writer::new(Vec::new());
        writer.file(&FileMeta::new(attributes), content).unwrap();
        writer.into_inner()
    };
    let blocks = [data(SPARSE, b""), block(2, b"ab"), block(6, b"c"), block(9, b"")].concat();
    assert_eq!(digits(&write(Attributes::SPARSE_FILE)), digits(&blocks));
    assert_eq!(write(Attributes::ARCHIVE), data(0, b"\0\0ab\0\0c\0\0"));
}

prop_compose! {
    fn any_file()(
        security in vec(any::<u8>(), 0..30),
        ea in vec(any::<u8>(), 0..30),
        content in vec((0..20_u64, vec(any::<u8>(), 1..20)), 0..5),
        tail in 0..20_u64,
        is_sparse: bool,
        streams in vec(("[a-zA-Zé\u{1f980}]{1,10}", vec(any::<u8>(), 0..20)), 0..3),
    ) -> (Vec<u8>, File) {
        let mut meta = FileMeta::new(if is_sparse { Attributes::SPARSE_FILE } else { Attributes::ARCHIVE });
        (meta.security, meta.ea) = (security.clone().into(), ea.clone().into());
        let (mut extents, mut packed, mut main) = (Vec::new(), Vec::new(), Vec::new());
        for (hole, bytes) in content {
            main.resize(main.len() + hole as usize, 0);
            extents.push(Extent { offset: main.len() as u64, len: bytes.len() as u64 });
            main.extend_from_slice(&bytes);
            packed.extend(bytes);
        }
        main.resize(main.len() + tail as usize, 0);
        let streams: Vec<_> = streams.into_iter().map(|(name, bytes)| (StreamName::new(name).expect("a name"), bytes)).collect();
        let mut writer = Writer::new(Vec::new());
        let mut packed = &*packed;
        writer.file(&meta, Content::sparse(&extents, &mut packed, main.len() as u64).expect("a map")).expect("written");
        for (name, bytes) in &streams {
            writer.stream(name, Content::from_bytes(bytes)).expect("written");
        }
        (writer.into_inner(), File { security, ea, reparse: Vec::new(), main, streams })
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_in_one_pass_and_in_two((bytes, file) in any_file()) {
        prop_assert_eq!(both(&bytes).unwrap(), file);
    }

    #[test]
    fn both_ways_of_reading_agree_about_damage(
        (mut bytes, _) in any_file(),
        damage in vec((any::<sample::Index>(), prop_oneof![0..12_u8, any::<u8>()]), 1..4),
        cut in option::of(any::<sample::Index>()),
    ) {
        for (at, byte) in damage {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        // Holes may be as large as they like: nobody looks into them here.
        let ends = |input: &[u8]| -> Result<Option<u64>> {
            let mut parts = Parts::new(Cursor::new(input));
            let mut size = None;
            while let Some(part) = parts.next_part()? {
                match part {
                    Part::Data { size: all, .. } => size = Some(all),
                    Part::End { size: all } => size = Some(all),
                    _ => {}
                }
            }
            Ok(size)
        };
        match (ends(&bytes), Layout::scan(&bytes, 0)) {
            (Ok(size), Ok(layout)) => prop_assert_eq!(size.unwrap_or_default(), layout.main.size()),
            (Err(one), Err(two)) => prop_assert_eq!(one.kind(), two.kind()),
            (one, two) => prop_assert!(false, "{:?} and {:?}", one, two),
        }
    }
}
