//! The journal: every line as it has to be, back again, and what is refused.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod model_support;

use cim_writer_abstraction::{
    Attributes, CimKind, CimOp, CimPath, CimSink, FileMeta, FileTime, Recorder,
    content::{Blob, Blobs, HashOnly, MemoryBlobs},
    journal::{JournalSink, Line, MergedHives, Parser, Replay, read_tree},
    model::{EntryRef, Rules, View},
    op::{CreateFlags, MergeFlags},
};
use layer_model::{Error, ErrorKind, Result};
use model_support::{add, add_stream, dump, name, path, stream};
use std::sync::Arc;

const XYZ: &str = "3608bca1e44ea6c4d268eb6db02260269892c0b42b86bbf1e77a6fa16c3c9282";

/// Every operation once, and the journal of it.
fn every_operation(sink: &mut dyn CimSink) {
    let (one, two) = (name("1.cim"), name("2.cim"));
    let forked = CimOp::CreateImage {
        kind: CimKind::Forked,
        container: "C:\\cims",
        name: &two,
        parent: Some(&one),
        flags: CreateFlags::empty(),
    };
    sink.op(&forked).unwrap();
    let block = CimOp::CreateImage {
        kind: CimKind::Block,
        container: "C:\\s\\2\\layer.vhd",
        name: &name("layer.cim"),
        parent: None,
        flags: CreateFlags::SINGLE_FILE | CreateFlags::CONSISTENT,
    };
    sink.op(&block).unwrap();
    let meta = FileMeta {
        creation: FileTime(-5),
        write: FileTime(116_444_736_000_000_000),
        change: FileTime(i64::MAX),
        access: FileTime(i64::MIN),
        ea: Box::from(*b"\0\0\0\0\0\x01\x03\0A\0xyz\0\0\0"),
        reparse: Box::from(*b"\x0c\0\0\xa0"),
        ..FileMeta::new(Attributes::ARCHIVE)
    };
    add(sink, &path("Files\\a"), &meta, b"xyz").unwrap();
    add_stream(sink, &path("Files\\a"), &stream("s"), b"xyz").unwrap();
    add_stream(sink, &path("Files\\a"), &stream("empty"), b"").unwrap();
    add(sink, &path("d"), &FileMeta::new(Attributes::DIRECTORY), b"").unwrap();
    sink.op(&CimOp::HardLink { path: &path("new"), target: &path("existing") }).unwrap();
    sink.op(&CimOp::MergeLink { path: &path("new"), target: &path("existing") }).unwrap();
    sink.op(&CimOp::Delete { path: &path("p") }).unwrap();
    sink.op(&CimOp::Tombstone { path: &CimPath::from_utf16(&[0x47, 0xf6, 0xd800, 0x78]).unwrap() }).unwrap();
    sink.op(&CimOp::Spool { path: &path("std file"), len: 7, sha256: [0xab; 32] }).unwrap();
    let merge = CimOp::MergeHive {
        base: "C:\\parent\\Hives\\SYSTEM_BASE",
        delta: &path("Hives\\SYSTEM_DELTA"),
        out: &path("Hives\\SYSTEM_BASE"),
    };
    sink.op(&merge).unwrap();
    let normal = FileMeta::new(Attributes::NORMAL);
    sink.op(&CimOp::AddMergedHive { path: &path("Hives\\SYSTEM_BASE"), meta: &normal }).unwrap();
    let source = CimOp::AddSource {
        container: "C:\\s\\1\\layer.vhd",
        name: &name("layer.cim"),
        flags: MergeFlags::SINGLE_FILE,
    };
    sink.op(&source).unwrap();
    sink.op(&CimOp::Commit).unwrap();
    sink.op(&CimOp::Close).unwrap();
    sink.op(&CimOp::Discard).unwrap();
    sink.op(&CimOp::Seal { container: "C:\\s\\2\\layer.vhd" }).unwrap();
    sink.op(&CimOp::VhdFooter { size: 1_048_576, unique_id: [0; 16] }).unwrap();
    sink.op(&CimOp::Sidecar { name: "integrity_checksum", text: "" }).unwrap();
}

fn every_line() -> String {
    [
        r#"{"op":"create_image","kind":"forked","container":"C:\\cims","name":"2.cim","parent":"1.cim","flags":0}"#,
        r#"{"op":"create_image","kind":"block","container":"C:\\s\\2\\layer.vhd","name":"layer.cim","parent":"","flags":24}"#,
        r#"{"op":"create_file","path":"Files\\a","attrs":32,"size":3,"creation":-5,"write":116444736000000000,"change":9223372036854775807,"access":-9223372036854775808,"sd":"AQAEgAAAAAAAAAAAAAAAAAAAAAA=","ea":"AAAAAAABAwBBAHh5egAAAA==","reparse":"DAAAoA=="}"#,
        &format!(r#"{{"op":"data","len":3,"sha256":"{XYZ}"}}"#),
        r#"{"op":"create_stream","path":"Files\\a:s","size":3}"#,
        &format!(r#"{{"op":"data","len":3,"sha256":"{XYZ}"}}"#),
        r#"{"op":"create_stream","path":"Files\\a:empty","size":0}"#,
        r#"{"op":"create_file","path":"d","attrs":16,"size":0,"creation":0,"write":0,"change":0,"access":0,"sd":"AQAEgAAAAAAAAAAAAAAAAAAAAAA=","ea":"","reparse":""}"#,
        r#"{"op":"hard_link","path":"new","target":"existing"}"#,
        r#"{"op":"merge_link","path":"new","target":"existing"}"#,
        r#"{"op":"delete","path":"p"}"#,
        r#"{"op":"tombstone","path":"Gö\ud800x"}"#,
        &format!(r#"{{"op":"spool","path":"std file","len":7,"sha256":"{}"}}"#, "ab".repeat(32)),
        r#"{"op":"merge_hive","base":"C:\\parent\\Hives\\SYSTEM_BASE","delta":"Hives\\SYSTEM_DELTA","out":"Hives\\SYSTEM_BASE"}"#,
        r#"{"op":"add_merged_hive","path":"Hives\\SYSTEM_BASE","attrs":128}"#,
        r#"{"op":"add_source","path":"C:\\s\\1\\layer.vhd\\layer.cim","flags":1}"#,
        r#"{"op":"commit"}"#,
        r#"{"op":"close"}"#,
        r#"{"op":"discard"}"#,
        r#"{"op":"seal","container":"C:\\s\\2\\layer.vhd"}"#,
        r#"{"op":"vhd_footer","size":1048576}"#,
        r#"{"op":"sidecar","name":"integrity_checksum"}"#,
        "",
    ]
    .join("\n")
}

fn journal_of(work: impl FnOnce(&mut dyn CimSink)) -> String {
    let mut sink = JournalSink::new(Vec::new());
    work(&mut sink);
    String::from_utf8(sink.finish().unwrap()).unwrap()
}

fn xyz() -> MemoryBlobs {
    let mut blobs = MemoryBlobs::default();
    blobs.insert(*b"xyz");
    blobs
}

fn lines(journal: &str) -> Result<Vec<Line>> {
    let mut parser = Parser::new(journal.as_bytes());
    std::iter::from_fn(|| parser.next_line().transpose()).collect()
}

fn refused(journal: &str) -> Error {
    lines(journal).expect_err(journal)
}

#[test]
fn every_operation_has_its_line() {
    assert_eq!(journal_of(every_operation), every_line());
}

#[test]
fn every_line_is_read_back_as_it_was_written() {
    let again = journal_of(|sink| {
        let replayed = Replay::new(&xyz()).beside(true).run(every_line().as_bytes(), sink).unwrap();
        assert_eq!((replayed.lines, replayed.bytes), (22, 6));
        assert!(replayed.committed && replayed.discarded);
    });
    assert_eq!(again, every_line());
}

#[test]
fn footers_and_sidecars_are_left_out_of_a_replay_unless_they_are_asked_for() {
    let again = journal_of(|sink| {
        Replay::new(&xyz()).run(every_line().as_bytes(), sink).unwrap();
    });
    let end = every_line().find(r#"{"op":"vhd_footer""#).unwrap();
    assert_eq!(again, every_line()[..end]);
}

#[test]
fn an_empty_image_is_three_lines() {
    let journal = journal_of(|sink| {
        model_support::create_image(sink, CimKind::Block);
        sink.op(&CimOp::Commit).unwrap();
        sink.op(&CimOp::Close).unwrap();
    });
    assert_eq!(
        journal,
        concat!(
            r#"{"op":"create_image","kind":"block","container":"C:\\s\\1\\layer.vhd","name":"layer.cim","parent":"","flags":24}"#,
            "\n{\"op\":\"commit\"}\n{\"op\":\"close\"}\n"
        )
    );
}

#[test]
fn a_stream_has_to_have_the_bytes_that_were_announced() {
    let create = CimOp::CreateFile { path: &path("f"), meta: &FileMeta::default(), size: 2 };
    let mut sink = JournalSink::new(Vec::new());
    sink.op(&create).unwrap();
    sink.write(b"a").unwrap();
    let error = sink.op(&CimOp::EndStream).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::SizeMismatch { expected: 2, got: 1 });

    let mut sink = JournalSink::new(Vec::new());
    sink.op(&create).unwrap();
    assert_eq!(sink.op(&CimOp::Commit).unwrap_err().kind(), &ErrorKind::Busy);
    let error = sink.write(b"abc").unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::SizeMismatch { expected: 2, got: 3 });

    let mut sink = JournalSink::new(Vec::new());
    assert_eq!(sink.write(b"a").unwrap_err().kind(), &ErrorKind::FailedPrecondition);
    assert_eq!(sink.op(&CimOp::EndStream).unwrap_err().kind(), &ErrorKind::FailedPrecondition);
}

#[test]
fn an_import_that_fails_within_a_stream_ends_with_its_discard() {
    let mut sink = Recorder::new(CimKind::Block, Vec::new(), HashOnly::default());
    model_support::create_image(&mut sink, CimKind::Block);
    sink.op(&CimOp::CreateFile { path: &path("f"), meta: &FileMeta::default(), size: 2 }).unwrap();
    sink.write(b"a").unwrap();
    sink.op(&CimOp::Discard).unwrap();
    let journal = String::from_utf8(sink.into_journal().unwrap()).unwrap();
    assert!(journal.ends_with("\"reparse\":\"\"}\n{\"op\":\"discard\"}\n"), "{journal}");
    let again = journal_of(|sink| {
        let replayed = Replay::new(&xyz()).run(journal.as_bytes(), sink).unwrap();
        assert!(replayed.discarded && !replayed.committed);
    });
    assert_eq!(again, journal);
    let error = read_tree(journal.as_bytes(), None, Rules::default()).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::FailedPrecondition);
}

#[test]
fn a_merged_hive_has_attributes_only() {
    let mut sink = JournalSink::new(Vec::new());
    let meta = FileMeta { write: FileTime(1), ..FileMeta::new(Attributes::NORMAL) };
    let error = sink.op(&CimOp::AddMergedHive { path: &path("h"), meta: &meta }).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Unrepresentable);
    let meta = FileMeta { security: FileMeta::NULL_DACL.into(), ..FileMeta::new(Attributes::NORMAL) };
    sink.op(&CimOp::AddMergedHive { path: &path("h"), meta: &meta }).unwrap();
}

/// Merges a hive by putting base and delta behind one another.
struct Concatenate;

impl MergedHives for Concatenate {
    fn merged_hive(&mut self, base: &str, delta: &CimPath, out: &CimPath) -> Result<Option<Blob>> {
        if !out.same(&path("Hives\\SYSTEM_BASE")) {
            return Ok(None);
        }
        let bytes = format!("{base}+{delta}").into_bytes();
        let len = bytes.len() as u64;
        Ok(Some(Blob::new(Arc::new(bytes), 0, len)))
    }
}

#[test]
fn merged_hives_become_files_where_somebody_can_merge_them() {
    let journal = concat!(
        r#"{"op":"create_image","kind":"block","container":"c","name":"n","parent":"","flags":24}"#,
        "\n",
        r#"{"op":"create_file","path":"Hives","attrs":16,"size":0,"creation":0,"write":0,"change":0,"access":0,"sd":"AQAEgAAAAAAAAAAAAAAAAAAAAAA=","ea":"","reparse":""}"#,
        "\n",
        r#"{"op":"merge_hive","base":"P","delta":"Hives\\SYSTEM_DELTA","out":"Hives\\SYSTEM_BASE"}"#,
        "\n",
        r#"{"op":"merge_hive","base":"P","delta":"Hives\\SAM_DELTA","out":"Hives\\SAM_BASE"}"#,
        "\n",
        r#"{"op":"add_merged_hive","path":"Hives\\SYSTEM_BASE","attrs":128}"#,
        "\n",
        r#"{"op":"add_merged_hive","path":"Hives\\SAM_BASE","attrs":128}"#,
        "\n{\"op\":\"commit\"}\n{\"op\":\"close\"}\n",
    );
    let blobs = MemoryBlobs::default();
    let mut sink = Recorder::new(CimKind::Block, Vec::new(), blobs.clone());
    Replay::new(&blobs).hives(&mut Concatenate).run(journal.as_bytes(), &mut sink).unwrap();
    let recorded = sink.finish().unwrap();
    let written = String::from_utf8(recorded.journal).unwrap();
    assert!(
        written.contains(
            r#"{"op":"create_file","path":"Hives\\SYSTEM_BASE","attrs":128,"size":20,"creation":0,"#
        ),
        "{written}"
    );
    assert!(written.contains(r#"{"op":"data","len":20,"#));
    assert!(written.contains(r#"{"op":"add_merged_hive","path":"Hives\\SAM_BASE","attrs":128}"#));

    let mut tree = recorded.tree;
    tree.set_contents(Arc::new(blobs));
    let stream = |at: &str| *tree.lookup(&path(at)).unwrap().main().unwrap();
    let mut merged = Vec::new();
    tree.open(&stream("Hives\\SYSTEM_BASE")).unwrap().content().write_to(&mut merged).unwrap();
    assert_eq!(merged, b"P+Hives\\SYSTEM_DELTA");
    let waiting = stream("Hives\\SAM_BASE");
    assert_eq!(waiting.sha256, None);
    assert_eq!(tree.open(&waiting).unwrap_err().kind(), &ErrorKind::FailedPrecondition);
    assert!(dump(&View::of(&tree)).contains(
        r#"{"path":"Hives\\SAM_BASE","type":"file","attrs":128,"size":0,"sha256":"","nlink":1,"source":0}"#
    ));

    let missing = journal.replace("\\\\SYSTEM_BASE\"}", "\\\\OTHER\"}");
    let error = Replay::new(&MemoryBlobs::default())
        .hives(&mut Concatenate)
        .run(missing.as_bytes(), &mut JournalSink::new(Vec::new()))
        .unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::CorruptImage);
}

#[test]
fn only_one_spelling_is_taken() {
    for bad in [
        // Order, spaces, missing and other keys.
        r#"{"path":"p","op":"delete"}"#,
        r#"{"op": "delete","path":"p"}"#,
        r#"{"op":"delete","path":"p" }"#,
        r#" {"op":"delete","path":"p"}"#,
        r#"{"op":"delete"}"#,
        r#"{"op":"delete","path":"p","path":"q"}"#,
        r#"{"op":"delete","path":"p"}}"#,
        r#"{"op":"delete","path":"p"}{"op":"commit"}"#,
        r#"{"op":"delete","path":7}"#,
        r#"{"op":"delete","path":"p"#,
        r#"{"op":"create_stream","size":4,"path":"a:s"}"#,
        r#"{"op":"rename","path":"p"}"#,
        r#"{"op":"Delete","path":"p"}"#,
        "",
        "[]",
        "null",
        "\u{feff}{\"op\":\"commit\"}",
        "{\"op\":\"commit\"}\r",
        // Numbers.
        r#"{"op":"vhd_footer","size":01}"#,
        r#"{"op":"vhd_footer","size":+1}"#,
        r#"{"op":"vhd_footer","size":-1}"#,
        r#"{"op":"vhd_footer","size":1.0}"#,
        r#"{"op":"vhd_footer","size":1e3}"#,
        r#"{"op":"vhd_footer","size":}"#,
        r#"{"op":"vhd_footer","size":18446744073709551616}"#,
        r#"{"op":"add_merged_hive","path":"h","attrs":4294967296}"#,
        // Strings.
        r#"{"op":"delete","path":"\u0061"}"#,
        r#"{"op":"delete","path":"a\/b"}"#,
        r#"{"op":"seal","container":"\u000a"}"#,
        r#"{"op":"seal","container":"\u001F"}"#,
        r#"{"op":"seal","container":"\u00"}"#,
        r#"{"op":"seal","container":"\"#,
        r#"{"op":"seal","container":"\ud800"}"#,
        "{\"op\":\"seal\",\"container\":\"a\tb\"}",
        r#"{"op":"delete","path":"\ud83e\udd80"}"#,
        r#"{"op":"delete","path":"\uD800"}"#,
        r#"{"op":"delete","path":"\\a"}"#,
        // Digests and buffers.
        r#"{"op":"data","len":3,"sha256":"3608"}"#,
        r#"{"op":"data","len":3,"sha256":"3608BCA1E44EA6C4D268EB6DB02260269892C0B42B86BBF1E77A6FA16C3C9282"}"#,
        r#"{"op":"data","len":3,"sha256":"3608bca1e44ea6c4d268eb6db02260269892c0b42b86bbf1e77a6fa16c3c928200"}"#,
        r#"{"op":"create_file","path":"a","attrs":32,"size":3,"creation":0,"write":0,"change":0,"access":0,"sd":"","ea":"","reparse":""}"#,
        r#"{"op":"create_file","path":"a","attrs":32,"size":3,"creation":0,"write":0,"change":0,"access":0,"sd":"AQAEgAAAAAAAAAAAAAAAAAAAAAA","ea":"","reparse":""}"#,
        r#"{"op":"create_file","path":"a","attrs":32,"size":3,"creation":-0,"write":0,"change":0,"access":0,"sd":"AQAEgAAAAAAAAAAAAAAAAAAAAAA=","ea":"","reparse":""}"#,
        r#"{"op":"create_file","path":"a","attrs":32,"size":3,"creation":9223372036854775808,"write":0,"change":0,"access":0,"sd":"AQAEgAAAAAAAAAAAAAAAAAAAAAA=","ea":"","reparse":""}"#,
        r#"{"op":"create_file","path":"d","attrs":16,"size":3,"creation":0,"write":0,"change":0,"access":0,"sd":"AQAEgAAAAAAAAAAAAAAAAAAAAAA=","ea":"","reparse":""}"#,
        // What the image could not have.
        r#"{"op":"create_image","kind":"merged","container":"c","name":"n","parent":"","flags":0}"#,
        r#"{"op":"create_stream","path":"a","size":4}"#,
        r#"{"op":"create_stream","path":"a:s:$DATA","size":4}"#,
        r#"{"op":"add_source","path":"layer.cim","flags":1}"#,
    ] {
        let error = refused(&format!("{{\"op\":\"close\"}}\n{bad}\n"));
        assert_eq!(error.kind(), &ErrorKind::CorruptImage, "{bad}: {error}");
        assert!(error.message().starts_with("line 2 of the journal, column "), "{error}");
        assert!(error.byte_offset().is_some_and(|at| at >= 15), "{error}");
    }
    for (bad, kind) in [
        (r#"{"op":"delete","path":"a\\..\\b"}"#, ErrorKind::PathEscape),
        (r#"{"op":"delete","path":"a\u0000"}"#, ErrorKind::InvalidArgument),
        (r#"{"op":"delete","path":"a\\"}"#, ErrorKind::InvalidArgument),
        (r#"{"op":"create_stream","path":"a:","size":4}"#, ErrorKind::InvalidArgument),
        (r#"{"op":"create_stream","path":"a:b:c","size":4}"#, ErrorKind::InvalidArgument),
        (r#"{"op":"add_source","path":"c\\","flags":1}"#, ErrorKind::InvalidArgument),
    ] {
        assert_eq!(refused(&format!("{bad}\n")).kind(), &kind, "{bad}");
    }
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let mut parser = Parser::new(&b"{\"op\":\"delete\",\"path\":\"a\xff\"}\n"[..]);
    let error = parser.next_line().unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::CorruptImage);
    assert_eq!(error.byte_offset(), Some(24));
    // A surrogate as bytes is no UTF-8 either.
    let mut parser = Parser::new(&b"{\"op\":\"delete\",\"path\":\"\xed\xa0\x80\"}\n"[..]);
    assert_eq!(parser.next_line().unwrap_err().kind(), &ErrorKind::CorruptImage);
}

#[test]
fn surrogates_that_are_no_pair_survive() {
    for escaped in [r"\ud800", r"\udc00\ud800", r"\ud800\ud800", r"\udfffx\ud83e", r"\ud83e🦀"] {
        let line = format!("{{\"op\":\"delete\",\"path\":\"{escaped}\"}}\n");
        let again = journal_of(|sink| {
            for line in lines(&line).unwrap() {
                sink.op(&line.op().unwrap()).unwrap();
            }
        });
        assert_eq!(again, line);
    }
}

#[test]
fn a_journal_that_is_cut_off_is_truncated_in_its_last_line_only() {
    let whole = every_line();
    for len in 0..whole.len() {
        if !whole.is_char_boundary(len) {
            continue;
        }
        let part = &whole[..len];
        match lines(part) {
            Ok(_) => assert!(part.is_empty() || part.ends_with('\n')),
            Err(error) => assert_eq!(error.kind(), &ErrorKind::Truncated, "{part}"),
        }
    }
}

#[test]
fn a_line_without_end_is_not_read_into_memory() {
    struct Endless;
    impl std::io::Read for Endless {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            buf.fill(b'x');
            Ok(buf.len())
        }
    }
    let mut parser = Parser::new(std::io::BufReader::new(Endless));
    let error = parser.next_line().unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::LimitExceeded { limit: "line_max" });
    let short = "{\"op\":\"commit\"}\n";
    assert!(Parser::new(short.as_bytes()).line_max(15).next_line().is_ok());
    let error = Parser::new(short.as_bytes()).line_max(14).next_line().unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::LimitExceeded { limit: "line_max" });
}

#[test]
fn the_longest_paths_fit_in_a_line() {
    let component: String = "\u{ffff}".repeat(255);
    let long = vec![component; 127].join("\\");
    let lone: Vec<u16> = (0..32_767).map(|n| if n % 256 == 255 { 0x5c } else { 0xd800 }).collect();
    for at in [path(&long), CimPath::from_utf16(&lone[..32_766]).unwrap()] {
        let journal = journal_of(|sink| {
            sink.op(&CimOp::HardLink { path: &at, target: &at }).unwrap();
        });
        assert_eq!(lines(&journal).unwrap(), [Line::HardLink { path: at.clone(), target: at }]);
    }
}

#[test]
fn data_has_to_belong_to_the_stream_before_it() {
    let image = r#"{"op":"create_image","kind":"block","container":"c","name":"n","parent":"","flags":24}"#;
    let file = r#"{"op":"create_file","path":"a","attrs":32,"size":3,"creation":0,"write":0,"change":0,"access":0,"sd":"AQAEgAAAAAAAAAAAAAAAAAAAAAA=","ea":"","reparse":""}"#;
    let data = |len: u32| format!(r#"{{"op":"data","len":{len},"sha256":"{XYZ}"}}"#);
    let run = |lines: &[&str]| {
        let journal: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        let blobs = xyz();
        let mut sink = Recorder::new(CimKind::Block, Vec::new(), HashOnly::default());
        let replayed = Replay::new(&blobs).run(journal.as_bytes(), &mut sink).map_err(|e| e.kind().clone());
        let tree = read_tree(journal.as_bytes(), None, Rules::default()).map_err(|e| e.kind().clone());
        if let (Err(replayed), Err(tree)) = (&replayed, &tree) {
            assert_eq!(replayed, tree);
        }
        replayed
    };
    assert_eq!(run(&[image, &data(3)]), Err(ErrorKind::CorruptImage));
    assert_eq!(run(&[image, file, r#"{"op":"commit"}"#]), Err(ErrorKind::CorruptImage));
    assert_eq!(run(&[image, file, &data(3), &data(3)]), Err(ErrorKind::CorruptImage));
    assert_eq!(run(&[image, file, &data(4)]), Err(ErrorKind::SizeMismatch { expected: 3, got: 4 }));
    let done = run(&[image, file, &data(3), r#"{"op":"commit"}"#]).unwrap();
    assert!(done.committed && done.bytes == 3);
    // The journal of an import that was cut off is read, and says so.
    assert!(!run(&[image, file]).unwrap().committed);
}

#[test]
fn content_that_is_missing_or_damaged_stops_a_replay() {
    #[derive(Debug)]
    struct Wrong(&'static [u8]);
    impl Blobs for Wrong {
        fn find(&self, _: &[u8; 32]) -> Result<Option<Blob>> {
            Ok(Some(Blob::new(Arc::new(self.0.to_vec()), 0, self.0.len() as u64)))
        }
    }
    let journal = every_line();
    let run = |blobs: &dyn Blobs, verify| {
        let mut sink = JournalSink::new(Vec::new());
        Replay::new(blobs).verify(verify).run(journal.as_bytes(), &mut sink).map_err(|error| {
            assert!(error.message().starts_with("line 4 of the journal: "), "{error}");
            error.kind().clone()
        })
    };
    assert_eq!(run(&MemoryBlobs::default(), true), Err(ErrorKind::NotFound));
    assert!(matches!(run(&Wrong(b"xyy"), true), Err(ErrorKind::DigestMismatch { .. })));
    assert_eq!(run(&Wrong(b"xy"), false), Err(ErrorKind::SizeMismatch { expected: 3, got: 2 }));
    run(&Wrong(b"xyy"), false).unwrap();
}

#[test]
fn the_tree_of_a_fork_needs_the_tree_of_its_parent() {
    let parent = {
        let mut ops = model_support::Ops::forked();
        ops.file("below", b"x");
        ops.commit()
    };
    let forked = concat!(
        r#"{"op":"create_image","kind":"forked","container":"c","name":"2.cim","parent":"1.cim","flags":0}"#,
        "\n{\"op\":\"commit\"}\n"
    );
    let alone = forked.replace(r#""parent":"1.cim""#, r#""parent":"""#);
    let tree = read_tree(forked.as_bytes(), Some(&parent), Rules::default()).unwrap();
    assert!(matches!(tree.lookup(&path("below")), Some(EntryRef::File(..))));
    assert_eq!(tree.generation(), 1);
    let kind = |journal: &str, parent| {
        read_tree(journal.as_bytes(), parent, Rules::default()).unwrap_err().kind().clone()
    };
    assert_eq!(kind(forked, None), ErrorKind::InvalidArgument);
    assert_eq!(kind(&alone, Some(&parent)), ErrorKind::InvalidArgument);
    assert_eq!(kind("", None), ErrorKind::FailedPrecondition);
    assert_eq!(kind("{\"op\":\"commit\"}\n", None), ErrorKind::CorruptImage);
}
