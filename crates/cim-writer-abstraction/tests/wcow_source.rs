//! What the entries of a Windows layer mean.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Mutex;

use cim_writer_abstraction::{
    Attributes, CimProfile, FileMeta, FileTime, WcowOptions, WcowSource,
    ea::{self, Ea},
    reparse::Link,
    testing::{
        EventList, OwnedEvent, WcowLayer,
        archives::{self, RawArchive},
    },
    wcow::HCSSHIM_MISSING_TIME,
};
use layer_model::{Error, ErrorKind, Monitor, Result, Silent, Warning, WarningKind};
use layer_tar::{ReadOptions, TarSource, header::typeflag};
use support::digits;

fn read_with(tar: &[u8], options: WcowOptions, monitor: &dyn Monitor) -> Result<EventList> {
    let changes = TarSource::new(tar, ReadOptions::default().windows(true), monitor);
    EventList::collect(&mut WcowSource::new(changes, options, monitor))
}

fn read(archive: RawArchive) -> Result<EventList> {
    read_with(&archive.finish(), WcowOptions::default(), &Silent)
}

fn lines(archive: RawArchive) -> Vec<String> {
    read(archive).unwrap().lines()
}

/// The error of an archive, which names the entry.
fn refused(archive: RawArchive, entry: &str) -> Error {
    let error = read(archive).unwrap_err();
    assert_eq!(error.entry_path(), Some(entry.as_bytes()), "{error:?}");
    assert!(error.byte_offset().is_some() && error.entry_index().is_some(), "{error:?}");
    error
}

fn meta_with(archive: RawArchive, options: WcowOptions) -> FileMeta {
    match read_with(&archive.finish(), options, &Silent).unwrap().as_slice() {
        [.., OwnedEvent::Add { meta, .. }] => meta.clone(),
        other => panic!("no entry: {other:?}"),
    }
}

fn meta(archive: RawArchive) -> FileMeta {
    meta_with(archive, WcowOptions::default())
}

fn hcsshim() -> WcowOptions {
    WcowOptions::default().profile(CimProfile::Hcsshim)
}

fn raw() -> RawArchive {
    RawArchive::new()
}

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Monitor for Heard {
    fn warn(&self, warning: &Warning<'_>) {
        self.0.lock().unwrap().push(format!("{} {}", warning.kind.name(), warning.path.display()));
    }
}

fn warnings(archive: RawArchive) -> Vec<String> {
    let heard = Heard::default();
    read_with(&archive.finish(), WcowOptions::default(), &heard).unwrap();
    heard.0.into_inner().unwrap()
}

#[test]
fn a_layer_comes_as_it_is_described() {
    let events = read_with(&WcowLayer::child().tar(), WcowOptions::default(), &Silent).unwrap();
    assert_eq!(events.lines(), WcowLayer::child().events().lines());
    assert_eq!(
        events.lines()[..8],
        [
            "d Hives",
            "f Hives\\SYSTEM_DELTA 5",
            "f Hives\\DEFAULTUSER_DELTA 4",
            "d Files",
            "d Files\\data",
            "s Files\\data:of-a-directory 1",
            "f Files\\data\\a.txt 12",
            "s Files\\data\\a.txt:Zone.Identifier 14",
        ]
    );
}

#[test]
fn names_are_those_of_windows() {
    let archive = raw().dir("./").dir(".\\Files\\").file("Files\\\\a", "1").link("Files/l", ".\\Files\\a");
    assert_eq!(lines(archive), ["d Files", "f Files\\a 1", "h Files\\l=Files\\a"]);

    for name in
        ["Files/a?b", "Files/a*", "Files/<", "Files/a|b", "Files/a\"", "Files/\u{1}", "a:b/c", "Files/x:y/z"]
    {
        assert_eq!(refused(raw().file(name, ""), name).kind(), &ErrorKind::InvalidArchive);
    }
    let long = format!("Files/{}", "x".repeat(256));
    assert_eq!(refused(raw().file(&long, ""), &long).kind(), &ErrorKind::InvalidArchive);
    assert_eq!(lines(raw().file(&long[..long.len() - 1], "")).len(), 1);
    for name in ["../a", "C:\\a", "\\a", "/Files"] {
        assert_eq!(refused(raw().file(name, ""), name).kind(), &ErrorKind::PathEscape);
        assert_eq!(refused(raw().link("Files/l", name), "Files/l").kind(), &ErrorKind::PathEscape);
    }
    for target in ["Files/a?b", "Files/a:s", "", "."] {
        assert_eq!(
            refused(raw().link("Files/l", target), "Files/l").kind(),
            &ErrorKind::InvalidArchive,
            "{target}"
        );
    }
    assert_eq!(refused(raw().link("Files/l", "FILES/L"), "Files/l").kind(), &ErrorKind::InvalidArchive);
    assert_eq!(refused(raw().file("Files/.wh.a?", ""), "Files/a?").kind(), &ErrorKind::InvalidArchive);
}

#[test]
fn unusual_names_are_warned_of() {
    let archive = raw()
        .dir("files")
        .dir("UTILITYVM")
        .dir("Hives")
        .dir("Program Files")
        .dir("Program Files/a")
        .dir("Other")
        .file("Files/space ", "")
        .file("Files/dot.", "")
        .file("Files/dot./inner", "");
    let expected = [
        "UnusualTopLevel Program Files",
        "UnusualTopLevel Other",
        "UntidyName Files/space ",
        "UntidyName Files/dot.",
    ];
    assert_eq!(warnings(archive), expected);
    let archive = raw()
        .link("Files/l", "Files/a")
        .link("Hives/l", "Files/a")
        .file("UtilityVM/.wh.x", "")
        .file("utilityvm/files/.wh.x", "")
        .file(".wh.Files", "")
        .file("UtilityVM/.wh.Files", "");
    let expected = [
        "OutsideFiles Hives/l",
        "OutsideFiles UtilityVM/x",
        "OutsideFiles Files",
        "OutsideFiles UtilityVM/Files",
    ];
    assert_eq!(warnings(archive), expected);
    assert_eq!(
        warnings(raw().with_records("Files/a", &[("MSWINDOWS.later", "1")])),
        ["UnknownRecord Files/a"]
    );
    assert_eq!(WarningKind::UntidyName.name(), "UntidyName");
}

#[test]
fn the_type_of_an_entry_decides_what_it_is() {
    let attributes = |typeflag, bits: &str| {
        let link = if typeflag == typeflag::SYMLINK { "b" } else { "" };
        let records: &[(&str, &str)] = if bits.is_empty() { &[] } else { &[("MSWINDOWS.fileattr", bits)] };
        meta(raw().member(typeflag, "Files/a", link, records, b"")).attributes.bits()
    };
    for (typeflag, given, expected) in [
        (typeflag::REGULAR, "", 0),
        (typeflag::REGULAR, "32", 0x20),
        (typeflag::REGULAR, "1056", 0x20), // a reparse point without data
        (typeflag::REGULAR, "48", 0x20),
        (typeflag::REGULAR, "4294967295", 0xffff_fbef),
        (typeflag::DIRECTORY, "", 0x10),
        (typeflag::DIRECTORY, "32", 0x30),
        (typeflag::DIRECTORY, "1040", 0x10),
        (typeflag::SYMLINK, "", 0x400),
        (typeflag::SYMLINK, "1056", 0x420),
        (typeflag::SYMLINK, "16", 0x410),
    ] {
        assert_eq!(attributes(typeflag, given), expected, "type {}, {given:?}", char::from(typeflag));
    }
    for bad in ["-1", "+1", "0x20", "4294967296", " 32", "32 ", "1_0", "a"] {
        let error = refused(raw().with_records("Files/a", &[("MSWINDOWS.fileattr", bad)]), "Files/a");
        assert_eq!(error.kind(), &ErrorKind::InvalidArchive, "{bad}");
    }
}

#[test]
fn hcsshim_leaves_to_the_attributes_what_is_a_directory() {
    let attributes = |typeflag, bits| {
        let archive = raw().member(typeflag, "Files/a", "", &[("MSWINDOWS.fileattr", bits)], b"");
        meta_with(archive, hcsshim()).attributes.bits()
    };
    assert_eq!(attributes(typeflag::REGULAR, "1072"), 0x30);
    assert_eq!(attributes(typeflag::DIRECTORY, "32"), 0x20);
}

#[test]
fn missing_times_are_the_time_of_writing() {
    let all = raw().with_records("Files/a", &[("LIBARCHIVE.creationtime", "1.123456789")]);
    let written = FileTime(132_444_736_000_000_000);
    let found = meta(all.clone());
    assert_eq!(found.creation, FileTime(116_444_736_011_234_567));
    assert_eq!([found.write, found.change, found.access], [written; 3]);
    let found = meta_with(all, hcsshim());
    assert_eq!(
        [found.write, found.change, found.access],
        [written, HCSSHIM_MISSING_TIME, HCSSHIM_MISSING_TIME]
    );
    assert_eq!(meta(raw().file("Files/a", "")).creation, written);
}

#[test]
fn times_of_creation_are_decimal_text() {
    let creation = |text| meta(raw().with_records("Files/a", &[("LIBARCHIVE.creationtime", text)])).creation;
    for (text, expected) in [
        ("0", 116_444_736_000_000_000),
        ("1577836800", 132_223_104_000_000_000),
        ("1700000000.", 133_444_736_000_000_000),
        ("5.123", 116_444_736_051_230_000),
        ("-1.5", 116_444_735_985_000_000),
        ("-11644473600", 0),
        ("1.99999999999", 116_444_736_019_999_999),
        ("9223372036854775807", i64::MAX),
    ] {
        assert_eq!(creation(text), FileTime(expected), "{text}");
    }
    for bad in ["x", "1.x", "+1", ".5", "1e3", "--1", "1 "] {
        let error = refused(raw().with_records("Files/a", &[("LIBARCHIVE.creationtime", bad)]), "Files/a");
        assert_eq!(error.kind(), &ErrorKind::InvalidArchive, "{bad}");
    }
}

#[test]
fn security_descriptors_are_checked_and_the_binary_one_wins() {
    const NULL_DACL: &str = "AQAEgAAAAAAAAAAAAAAAAAAAAAA=";
    let security = |records: &[(&str, &str)]| digits(&meta(raw().with_records("Files/a", records)).security);
    assert_eq!(security(&[]), "");
    assert_eq!(security(&[("MSWINDOWS.rawsd", "")]), "");
    assert_eq!(security(&[("MSWINDOWS.rawsd", NULL_DACL)]), digits(&FileMeta::NULL_DACL));
    assert_eq!(
        security(&[("MSWINDOWS.rawsd", NULL_DACL), ("MSWINDOWS.sd", "O:BA")]),
        digits(&FileMeta::NULL_DACL)
    );
    let sddl = "O:BAG:SYD:(A;;FA;;;BA)(A;;FA;;;SY)(A;;0x1200a9;;;BU)";
    let of_text = meta(raw().with_records("Files/a", &[("MSWINDOWS.sd", sddl)])).security;
    assert_eq!((of_text.len(), &of_text[..4]), (124, &[1, 0, 4, 0x80][..]));

    for (record, value, kind) in [
        ("MSWINDOWS.rawsd", "AQAE", ErrorKind::InvalidArchive),
        ("MSWINDOWS.rawsd", "no base64", ErrorKind::InvalidArchive),
        ("MSWINDOWS.rawsd", "AQAEgAAAAAAAAAAAAAAAAAAAAAA", ErrorKind::InvalidArchive),
        ("MSWINDOWS.sd", "X:BA", ErrorKind::InvalidArchive),
        ("MSWINDOWS.sd", "O:DA", ErrorKind::NotSupported),
    ] {
        let error = refused(raw().with_records("Files/a", &[(record, value)]), "Files/a");
        assert_eq!(error.kind(), &kind, "{record} {value}");
        assert!(error.message().contains(record), "{error}");
        assert_eq!(error.byte_offset(), Some(0), "the offset is that of the entry");
    }
    let unchecked = meta_with(raw().with_records("Files/a", &[("MSWINDOWS.rawsd", "AQAE")]), hcsshim());
    assert_eq!(digits(&unchecked.security), "010004");
}

#[test]
fn extended_attributes_are_sorted_whatever_their_order() {
    let found = meta(raw().with_records(
        "Files/a",
        &[("MSWINDOWS.xattr.B", "Yg=="), ("MSWINDOWS.xattr.a", "eHl6"), ("MSWINDOWS.xattr.C", "")],
    ));
    let expected = ea::encode(&[Ea::new(b"a", b"xyz"), Ea::new(b"B", b"b")]).unwrap();
    assert_eq!(digits(&found.ea), digits(&expected));
    for (records, kind) in [
        (vec![("MSWINDOWS.xattr.a", "%")], ErrorKind::InvalidArchive),
        (vec![("MSWINDOWS.xattr.", "eA==")], ErrorKind::InvalidArchive),
        (vec![("MSWINDOWS.xattr.a", "eA=="), ("MSWINDOWS.xattr.A", "eA==")], ErrorKind::ConflictingEntries),
    ] {
        assert_eq!(refused(raw().with_records("Files/a", &records), "Files/a").kind(), &kind, "{records:?}");
    }
    let long = format!("MSWINDOWS.xattr.{}", "n".repeat(255));
    let error = refused(raw().with_records("Files/a", &[(&long, "eA==")]), "Files/a");
    assert!(matches!(error.kind(), ErrorKind::LimitExceeded { .. }), "{error:?}");
    let large = "AAAA".repeat(21_846);
    let error = refused(raw().with_records("Files/a", &[("MSWINDOWS.xattr.a", &large)]), "Files/a");
    assert!(matches!(error.kind(), ErrorKind::LimitExceeded { .. }), "{error:?}");
}

#[test]
fn links_become_reparse_buffers() {
    let found =
        meta(raw().member(typeflag::SYMLINK, "Files/s", "../b/c", &[("MSWINDOWS.fileattr", "1056")], b""));
    assert_eq!(found.attributes, Attributes::ARCHIVE | Attributes::REPARSE_POINT);
    assert_eq!(&*Link::parse(&found.reparse).unwrap().target, b"..\\b\\c");
    let found = meta(raw().symlink("Files/s", "b"));
    assert_eq!(digits(&found.reparse), "0c0000a0140000000000020004000200010000006200000062000000");
    let junction =
        raw().member(typeflag::SYMLINK, "Files/j", "C:\\data", &[("MSWINDOWS.mountpoint", "1")], b"");
    assert_eq!(
        digits(&meta(junction).reparse),
        "030000a0300000000000160018000e005c003f003f005c0043003a005c006400610074006100000043003a005c0064006100740061000000"
    );
    assert_eq!(refused(raw().symlink("Files/s", ""), "Files/s").kind(), &ErrorKind::InvalidArchive);
    let long = "x".repeat(9000);
    let error = refused(raw().symlink("Files/s", &long), "Files/s");
    assert!(matches!(error.kind(), ErrorKind::LimitExceeded { .. }), "{error:?}");
}

#[test]
fn streams_belong_to_the_entry_in_front_of_them() {
    let archive = raw()
        .dir("Files/d/")
        .file("Files/d/:one", "1")
        .file("Files/d:two", "22")
        .file("Files/f", "main")
        .file("Files/f:Zone.Identifier", "zone")
        .file("Files\\f:other:$DATA", "other")
        .file("Files/f:empty:$data", "");
    let expected = [
        "d Files\\d",
        "s Files\\d:one 1",
        "s Files\\d:two 2",
        "f Files\\f 4",
        "s Files\\f:Zone.Identifier 4",
        "s Files\\f:other 5",
        "s Files\\f:empty 0",
    ];
    assert_eq!(lines(archive), expected);
}

#[test]
fn streams_elsewhere_are_refused() {
    let file = || raw().file("Files/f", "1").file("Files/g", "2");
    for (archive, entry) in [
        (raw().file("Files/f:s", ""), "Files/f:s"),
        (file().file("Files/f:s", ""), "Files/f:s"),
        (file().file("Files/G:s", ""), "Files/G:s"),
        (file().file("Files/:s", ""), "Files/:s"),
        (file().link("Files/l", "Files/f").file("Files/l:s", ""), "Files/l:s"),
        (file().link("Files/l", "Files/f").file("Files/g:s", ""), "Files/g:s"),
        (file().file("Files/.wh.h", "").file("Files/h:s", ""), "Files/h:s"),
        (file().file("Files/g:", ""), "Files/g:"),
        (file().file("Files/g::$DATA", ""), "Files/g::$DATA"),
        (file().file("Files/g:s:$INDEX_ALLOCATION", ""), "Files/g:s:$INDEX_ALLOCATION"),
        (file().file("Files/g:s:t:$DATA", ""), "Files/g:s:t:$DATA"),
        (file().dir("Files/g:s"), "Files/g:s"),
        (file().symlink("Files/g:s", "x"), "Files/g:s"),
        (file().link("Files/g:s", "Files/f"), "Files/g:s"),
    ] {
        assert_eq!(refused(archive, entry).kind(), &ErrorKind::InvalidArchive, "{entry}");
    }
    for again in ["Files/g:S", "Files/g:s:$DATA"] {
        let error = refused(file().file("Files/g:s", "").file(again, ""), again);
        assert_eq!(error.kind(), &ErrorKind::ConflictingEntries);
    }
    let error = read(file().link("Files/l", "Files/f").file("Files/l:s", "")).unwrap_err();
    assert!(error.message().contains("behind a link"), "{error}");
}

#[test]
fn whiteouts_remove_and_opaque_marks_are_refused_unless_asked_for() {
    let archive = raw().file("Files/.wh.a", "").file("Files/.wh..wh.plnk", "");
    assert_eq!(lines(archive), ["- Files\\a"]);
    assert_eq!(refused(raw().file("Files/.wh.", ""), "Files/.wh.").kind(), &ErrorKind::InvalidArchive);

    let opaque = || raw().dir("Files").file("Files/.wh..wh..opq", "");
    let error = refused(opaque(), "Files");
    assert_eq!(error.kind(), &ErrorKind::UnsupportedMarker { marker: "opaque" });
    let asked = |options: WcowOptions| read_with(&opaque().finish(), options, &Silent).unwrap().lines();
    assert_eq!(asked(WcowOptions::default().expand_opaque(true)), ["d Files", "o Files"]);
    assert_eq!(asked(hcsshim()), ["d Files", "- Files\\.wh..opq"]);
    assert_eq!(asked(hcsshim().expand_opaque(true)), ["d Files", "o Files"]);
}

#[test]
fn types_that_windows_has_none_of_are_refused_and_all_kinds_of_files_are_read() {
    for typeflag in [typeflag::CHAR, typeflag::BLOCK, typeflag::FIFO, b'V', b'D'] {
        let archive = raw().member(typeflag, "Files/x", "", &[], b"");
        assert_eq!(refused(archive, "Files/x").kind(), &ErrorKind::InvalidArchive);
    }
    let archive = raw()
        .member(typeflag::PAX_GLOBAL, "pax_global_header", "", &[], b"13 comment=x\n")
        .member(typeflag::CONTIGUOUS, "Files/c", "", &[], b"cc")
        .gnu_sparse("Files/s", 10, 4, b"data");
    let events = read(archive).unwrap();
    assert_eq!(events.lines(), ["f Files\\c 2", "f Files\\s 10"]);
    let Some(OwnedEvent::Add { content, .. }) = events.as_slice().last() else { panic!("no file") };
    assert_eq!(content.bytes, b"\0\0\0\0data\0\0");
}

#[test]
fn the_size_of_a_layer_is_that_of_its_files() {
    let tar = WcowLayer::child().tar();
    let changes = TarSource::new(&tar[..], ReadOptions::default().windows(true), &Silent);
    let mut source = WcowSource::new(changes, WcowOptions::default(), &Silent);
    while source.next_event().unwrap().is_some() {}
    assert_eq!(source.total_size(), 5 + 4 + 12 + 4 + 10_000 + 1);
}

#[test]
fn layers_of_buildkit_are_read() {
    let events = read_with(&archives::buildkit(), WcowOptions::default(), &Silent).unwrap();
    let expected = [
        "d Hives",
        "d Files",
        "d Files\\app",
        "f Files\\app\\main.exe 2",
        "l Files\\app\\current",
        "l Files\\app\\etc",
        "h Files\\app\\same.exe=Files\\app\\main.exe",
        "- Files\\app\\old.exe",
    ];
    assert_eq!(events.lines(), expected);
    let meta = |at: usize| match &events.as_slice()[at] {
        OwnedEvent::Add { meta, .. } => meta.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(meta(0).creation.0 - meta(0).write.0, 1_230_000, "0.123 s, whatever was meant");
    assert_eq!((meta(2).attributes, meta(2).security.len()), (Attributes::DIRECTORY, 216));
    assert_eq!((meta(3).attributes, meta(3).security.len()), (Attributes::ARCHIVE, 124));
    assert_eq!((meta(4).attributes, meta(4).security.len()), (Attributes::REPARSE_POINT, 0));
    assert_eq!(&*Link::parse(&meta(5).reparse).unwrap().target, b"Files\\\\etc");
}

#[test]
fn an_error_ends_the_layer() {
    let tar = raw().file("Files/a?", "").file("Files/b", "").finish();
    let changes = TarSource::new(&tar[..], ReadOptions::default().windows(true), &Silent);
    let mut source = WcowSource::new(changes, WcowOptions::default(), &Silent);
    assert!(source.next_event().is_err());
    assert_eq!(source.next_event().unwrap_err().kind(), &ErrorKind::FailedPrecondition);
}

#[test]
fn a_cut_archive_is_truncated() {
    let tar = raw().file("Files/a", "0123456789").finish();
    let changes = TarSource::new(&tar[..515], ReadOptions::default().windows(true), &Silent);
    let mut source = WcowSource::new(changes, WcowOptions::default(), &Silent);
    let event = source.next_event().unwrap().unwrap();
    assert_eq!(OwnedEvent::take(event).unwrap_err().kind(), &ErrorKind::Truncated);
    assert_eq!(source.next_event().unwrap_err().kind(), &ErrorKind::Truncated);
}
