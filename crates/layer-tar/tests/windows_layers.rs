//! What entries mean in a layer of Windows, and what cannot be written into one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Mutex;

use layer_model::{
    Action, Change, Device, Entry, EntryKind, ErrorKind, LayerPath, LayerSink, LayerSource, Metadata,
    Monitor, Result, Silent, Timestamp, Warning, WarningKind, Xattrs, road::Content, testing::MemoryChanges,
    windows,
};
use layer_tar::{ReadOptions, TarSink, TarSource, WriteOptions};
use support::{END, Raw, changes, extension, file, padded, pax};

fn options() -> ReadOptions {
    ReadOptions::default().windows(true)
}

fn lines(parts: &[Vec<u8>]) -> Result<Vec<String>> {
    changes(&[&parts.concat()[..], &END].concat(), options())
}

fn kind(parts: &[Vec<u8>]) -> ErrorKind {
    let error = lines(parts).unwrap_err();
    assert!(error.byte_offset().is_some(), "{error:?}");
    error.kind().clone()
}

/// The only entry's metadata and records.
fn entry(parts: &[Vec<u8>]) -> (Metadata, Xattrs) {
    let tar = [&parts.concat()[..], &END].concat();
    let mut source = TarSource::new(&tar[..], options(), &Silent);
    let Action::Upsert(entry) = source.next_change().unwrap().unwrap().action else { panic!("no entry") };
    (entry.metadata, entry.xattrs.clone())
}

#[derive(Default)]
struct Heard(Mutex<Vec<(WarningKind, String)>>);

impl Monitor for Heard {
    fn warn(&self, warning: &Warning<'_>) {
        self.0.lock().unwrap().push((warning.kind, warning.path.display().to_string()));
    }
}

#[test]
fn backslashes_separate_and_the_root_is_left_out() {
    let tar = [
        Raw::new(b'5', b"./", 0).block(),
        Raw::new(b'5', b".", 0).block(),
        Raw::new(b'5', b"./Files\\", 0).block(),
        file(".\\Files\\Windows\\f", b"1"),
        Raw::new(b'1', b"Files\\l", 0).link(b".\\Files\\Windows\\f").block(),
        Raw::new(b'2', b"Files/s", 0).link(b"..\\a/b").block(),
        file("Files\\.wh.gone", b""),
    ];
    let expected = [
        "d Files/ 644",
        "f Files/Windows/f 644 \"1\"",
        "h Files/l=Files/Windows/f",
        "l Files/s>..\\a/b",
        "wh Files/gone",
    ];
    assert_eq!(lines(&tar).unwrap(), expected);
}

#[test]
fn names_that_lead_elsewhere_are_refused_not_clamped() {
    for name in ["/Files/a", "\\Files", "C:\\a", "C:", "../a", "Files\\..\\a"] {
        assert_eq!(kind(&[file(name, b"")]), ErrorKind::PathEscape, "{name}");
        let link = Raw::new(b'1', b"l", 0).link(name.as_bytes()).block();
        assert_eq!(kind(&[link]), ErrorKind::PathEscape, "link to {name}");
    }
    for name in ["", ".", "./", "a/./b", ".wh.", "d/.wh.", "d\\.wh..."] {
        assert_eq!(kind(&[file(name, b"")]), ErrorKind::InvalidArchive, "{name}");
    }
    for target in ["", ".", "l", ".\\l"] {
        let link = Raw::new(b'1', b"l", 0).link(target.as_bytes()).block();
        assert_eq!(kind(&[link]), ErrorKind::InvalidArchive, "link to {target}");
    }
}

#[test]
fn whiteouts_remove_and_the_bookkeeping_of_aufs_is_ignored_at_any_depth() {
    let heard = Heard::default();
    let tar = [
        file(".wh.a", b""),
        file("d\\.wh..wh..opq", b""),
        file("d/.wh..wh.plnk", b""),
        Raw::new(b'5', b"d/.wh..wh.orph", 0).block(),
        file("d/.wh..wh.orph/x", b"1"),
        file(".wh..wh.aufs", b""),
        END.to_vec(),
    ]
    .concat();
    let mut source = TarSource::new(&tar[..], options(), &heard);
    assert_eq!(MemoryChanges::collect(&mut source).unwrap().lines(), ["wh a", "opq d"]);
    let ignored = ["d/.wh..wh.plnk", "d/.wh..wh.orph", "d/.wh..wh.orph/x", ".wh..wh.aufs"];
    let expected = ignored.map(|path| (WarningKind::AufsMetadata, path.to_owned()));
    assert_eq!(*heard.0.lock().unwrap(), expected);
}

#[test]
fn types_of_files_are_expanded_and_others_are_given_as_they_are_or_refused() {
    let sparse = [
        &Raw::new(b'S', b"s", 3)
            .gnu()
            .with(386, b"00000000002\x0000000000003\0")
            .with(483, b"00000000007\0")
            .block()[..],
        &padded(b"abc"),
    ]
    .concat();
    let contiguous = [&Raw::new(b'7', b"c", 2).block()[..], &padded(b"xy")].concat();
    let v7 = [&Raw::new(0, b"v", 1).block()[..], &padded(b"v")].concat();
    let tar = [
        extension(b'g', b"14 path=other\n"),
        sparse,
        contiguous,
        v7,
        Raw::new(b'3', b"n", 0).block(),
        Raw::new(b'4', b"b", 0).block(),
        Raw::new(b'6', b"p", 0).block(),
    ];
    let expected =
        ["f s 644 \"\\0\\0abc\\0\\0\"", "f c 644 \"xy\"", "f v 644 \"v\"", "c n 0:0", "b b 0:0", "p p"];
    assert_eq!(lines(&tar).unwrap(), expected);
    assert_eq!(kind(&[Raw::new(b'V', b"volume", 0).block()]), ErrorKind::InvalidArchive);
}

#[test]
fn records_of_windows_are_attributes_and_no_others() {
    let records = pax(&[
        ("MSWINDOWS.fileattr", "32"),
        ("MSWINDOWS.rawsd", "AQAEgAAAAAAAAAAAAAAAAAAAAAA="),
        ("MSWINDOWS.xattr.B", "eA=="),
        ("MSWINDOWS.sd", ""),
        ("MSWINDOWS.mountpoint", "1"),
        ("MSWINDOWS.mountpoint", ""),
        ("LIBARCHIVE.creationtime", "5.123"),
        ("ctime", "-1.5"),
        ("atime", "7"),
        ("mtime", "-3.25"),
        ("SCHILY.xattr.MSWINDOWS.fileattr", "16"),
        ("LIBARCHIVE.xattr.user.a", "x"),
    ]);
    let (metadata, xattrs) = entry(&[records, file("f", b"")]);
    let expected: Xattrs = [
        (windows::FILE_ATTRIBUTES, &b"32"[..]),
        (windows::SECURITY_DESCRIPTOR, b"AQAEgAAAAAAAAAAAAAAAAAAAAAA="),
        (b"MSWINDOWS.xattr.B", b"eA=="),
        (windows::CREATION_TIME, b"5.123"),
        (windows::CHANGE_TIME, b"-1.5"),
    ]
    .into_iter()
    .collect();
    assert_eq!(xattrs, expected);
    assert_eq!(metadata.mtime, Timestamp { secs: -4, nanos: 750_000_000 });
    assert_eq!(metadata.atime, Some(Timestamp::from_secs(7)));

    assert_eq!(kind(&[pax(&[("MSWINDOWS.xattr.", "eA==")]), file("f", b"")]), ErrorKind::InvalidArchive);
}

#[test]
fn times_stay_as_they_are_also_before_the_time_of_writing() {
    let old = [pax(&[("mtime", "1600000000"), ("atime", "-11644473600")]), file("f", b"")];
    let (metadata, xattrs) = entry(&old);
    assert_eq!(metadata.atime, Some(Timestamp::from_secs(-11_644_473_600)));
    assert!(xattrs.is_empty());

    // GNU's headers have times of their own.
    let gnu = Raw::new(b'0', b"f", 0).gnu().with(345, b"00000000005\0").with(357, b"00000000006\0").block();
    let (metadata, xattrs) = entry(&[gnu]);
    assert_eq!(metadata.atime, Some(Timestamp::from_secs(5)));
    assert_eq!(xattrs.get(windows::CHANGE_TIME), Some(&b"6"[..]));
}

#[test]
fn owners_that_no_linux_has_do_not_matter() {
    let owner = pax(&[("uid", "-5"), ("gid", "99999999999")]);
    let (metadata, _) = entry(&[owner, file("f", b"")]);
    assert_eq!((metadata.uid, metadata.gid), (0, 0));
}

#[test]
fn streams_come_as_files_behind_their_entry() {
    let tar = [
        file("Files/f", b"main"),
        file("Files/f:Zone.Identifier", b"zone"),
        file("Files/f:other:$DATA", b"x"),
        Raw::new(b'5', b"Files/d/", 0).block(),
        file("Files/d:s", b"y"),
    ];
    let expected = [
        "f Files/f 644 \"main\"",
        "f Files/f:Zone.Identifier 644 \"zone\"",
        "f Files/f:other:$DATA 644 \"x\"",
        "d Files/d/ 644",
        "f Files/d:s 644 \"y\"",
    ];
    assert_eq!(lines(&tar).unwrap(), expected);
}

#[test]
fn names_are_as_long_as_windows_takes_them() {
    let long = "\u{2603}".repeat(255);
    let name = format!("{long}/{long}/.wh.{long}");
    let taken = lines(&[pax(&[("path", &name)]), file("short", b"")]).unwrap();
    assert_eq!(taken, [format!("wh {long}/{long}/{long}")]);
    let name = "a/".repeat(40_000) + "b";
    let refused = kind(&[pax(&[("path", &name)]), file("short", b"")]);
    assert!(matches!(refused, ErrorKind::LimitExceeded { .. }));
}

#[test]
fn other_layers_are_read_as_before() {
    let records = pax(&[("MSWINDOWS.fileattr", "32"), ("ctime", "5"), ("mtime", "-3"), ("atime", "-9")]);
    let tar = [&records[..], &file("/a\\b/../../c:d", b""), &END].concat();
    let mut source = TarSource::new(&tar[..], ReadOptions::default(), &Silent);
    let change = source.next_change().unwrap().unwrap();
    assert_eq!(change.path.as_bytes(), b"c:d");
    let Action::Upsert(entry) = change.action else { panic!("no entry") };
    assert!(entry.xattrs.is_empty());
    assert_eq!(entry.metadata.mtime, Timestamp::EPOCH);
}

/// What the sink says to one change.
fn written<'a>(
    path: &'a [u8],
    kind: EntryKind<'a>,
    xattrs: &'a Xattrs,
    options: WriteOptions,
) -> Result<Vec<u8>> {
    let mut sink = TarSink::new(Vec::new(), options.windows(true), &Silent);
    let entry = Entry::new(kind, Metadata::file(0o644)).with_xattrs(xattrs);
    sink.change(Change::upsert(LayerPath::new(path).unwrap(), entry))?;
    Ok(sink.finish()?.0)
}

fn records(pairs: &[(&[u8], &[u8])]) -> Xattrs {
    pairs.iter().copied().collect()
}

fn empty<'a>() -> EntryKind<'a> {
    EntryKind::File(Content::empty())
}

#[test]
fn what_no_layer_of_windows_holds_is_not_written() {
    fn refused<'a>(path: &'a [u8], kind: EntryKind<'a>, xattrs: &'a Xattrs) {
        let error = written(path, kind, xattrs, WriteOptions::default()).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Unrepresentable, "{}", path.escape_ascii());
    }
    let none = Xattrs::EMPTY;
    refused(b"d", EntryKind::CharDevice(Device::new(1, 3)), none);
    refused(b"d", EntryKind::BlockDevice(Device::new(1, 3)), none);
    refused(b"d", EntryKind::Fifo, none);
    refused(b"", empty(), none);
    refused(b"a\\b", empty(), none);
    refused(b"C:/a", empty(), none);
    refused(b"d/.wh.a", empty(), none);
    refused(b"l", EntryKind::HardLink { target: LayerPath::new(b"a\\b").unwrap() }, none);
    refused(b"l", EntryKind::Symlink { target: b"" }, none);
    refused(b"f", empty(), &records(&[(b"user.a", b"1")]));
    refused(b"f", empty(), &records(&[(b"MSWINDOWS.xattr.a=b", b"eA==")]));
    refused(b"f", empty(), &records(&[(windows::CHANGE_TIME, b"yesterday")]));

    let mut sink = TarSink::new(Vec::new(), WriteOptions::default().windows(true), &Silent);
    for path in [&b"a\\b"[..], b"d/.wh.x", b".wh.a/x", b"d/.wh..opq"] {
        assert!(
            sink.change(Change::remove(LayerPath::new(path).unwrap())).is_err(),
            "{}",
            path.escape_ascii()
        );
    }
    assert!(sink.change(Change::opaque(LayerPath::new(b"a\\b").unwrap())).is_err());

    let lossy = WriteOptions::default().lossy(true);
    let xattrs = records(&[(b"user.a", b"1"), (b"MSWINDOWS.xattr.E", b"")]);
    let tar = written(b"f", empty(), &xattrs, lossy).unwrap();
    assert_eq!(tar.len(), 1536, "neither of the attributes is there");
}

#[test]
fn no_time_is_later_than_the_epoch_of_the_source() {
    let times = records(&[(windows::CHANGE_TIME, b"9.5"), (windows::CREATION_TIME, b"8.123")]);
    let options = WriteOptions::default().source_date_epoch(Some(5));
    let tar = written(b"f", empty(), &times, options).unwrap();
    let (_, xattrs) = entry(&[tar]);
    assert_eq!(xattrs.get(windows::CHANGE_TIME), Some(&b"5"[..]));
    assert_eq!(xattrs.get(windows::CREATION_TIME), Some(&b"5"[..]));
    let options = WriteOptions::default().source_date_epoch(Some(50));
    let (_, xattrs) = entry(&[written(b"f", empty(), &times, options).unwrap()]);
    assert_eq!(xattrs.get(windows::CREATION_TIME), Some(&b"8.123"[..]));
}
