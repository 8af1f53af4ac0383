//! What the entries of a layer mean: whiteouts, roots, links, owners, AUFS.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Mutex;

use layer_model::{
    Action, EntryKind, ErrorKind, LayerSource, Monitor, Profile, Silent, Timestamp, Warning, WarningKind,
    testing::MemoryChanges,
};
use layer_tar::{AufsStore, ReadOptions, TarSource};
use support::{END, Raw, changes, drain, extension, file, padded, pax, record};

fn tar(parts: &[Vec<u8>]) -> Vec<u8> {
    [&parts.concat()[..], &END].concat()
}

fn entry(typeflag: u8, name: &str) -> Vec<u8> {
    Raw::new(typeflag, name.as_bytes(), 0).block()
}

fn link(typeflag: u8, name: &str, target: &str) -> Vec<u8> {
    Raw::new(typeflag, name.as_bytes(), 0).link(target.as_bytes()).block()
}

fn spec(parts: &[Vec<u8>]) -> Result<Vec<String>, ErrorKind> {
    changes(&tar(parts), ReadOptions::default()).map_err(|error| error.kind().clone())
}

fn containerd(parts: &[Vec<u8>]) -> Result<Vec<String>, ErrorKind> {
    let options = ReadOptions::default().profile(Profile::Containerd);
    changes(&tar(parts), options).map_err(|error| error.kind().clone())
}

#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Monitor for Warnings {
    fn warn(&self, warning: &Warning<'_>) {
        self.0.lock().unwrap().push(format!("{} {}", warning.kind.name(), warning.path.display()));
    }
}

fn warnings(parts: &[Vec<u8>], options: ReadOptions) -> Vec<String> {
    let warnings = Warnings::default();
    let archive = tar(parts);
    drain(&mut TarSource::new(&archive[..], options, &warnings)).unwrap();
    warnings.0.into_inner().unwrap()
}

#[test]
fn every_type_of_a_layer_becomes_its_change() {
    let device = |typeflag| Raw::new(typeflag, b"dev", 0).with(329, b"0000010\x000000003\0").block();
    let parts = [
        entry(b'5', "d/"),
        file("f", b"hi"),
        link(b'2', "l", "../x"),
        link(b'1', "h", "/f"),
        device(b'3'),
        device(b'4'),
        entry(b'6', "p"),
    ];
    let want = ["d d/ 644", "f f 644 \"hi\"", "l l>../x", "h h=f", "c dev 8:3", "b dev 8:3", "p p"];
    assert_eq!(spec(&parts).unwrap(), want);
    assert_eq!(containerd(&parts).unwrap(), want);
}

#[test]
fn names_are_cleaned_and_cannot_climb() {
    let parts = ["/abs", "../up", "a/../../b", "./c//d"].map(|name| file(name, b""));
    assert_eq!(spec(&parts).unwrap(), ["f abs 644 \"\"", "f up 644 \"\"", "f b 644 \"\"", "f c/d 644 \"\""]);
    assert_eq!(spec(&[link(b'1', "h", "../../etc/passwd")]).unwrap(), ["h h=etc/passwd"]);
}

#[test]
fn whiteouts_are_told_by_their_name_alone() {
    let parts = [
        file("a/.wh.gone", b"with content"),
        link(b'1', "a/.wh.linked", "elsewhere"),
        entry(b'5', "a/.wh.dir/"),
        file("a/.wh..wh..opq", b""),
        file(".wh..wh..opq", b""),
        file("dne/../.wh.etc", b""),
        file("a/.wh..wh.odd", b""),
        file("a/.wh.b/c", b""),
    ];
    let want = [
        "wh a/gone",
        "wh a/linked",
        "wh a/dir",
        "opq a",
        "opq /",
        "wh etc",
        "wh a/.wh.odd",
        "f a/.wh.b/c 644 \"\"",
    ];
    assert_eq!(spec(&parts).unwrap(), want);
    assert_eq!(containerd(&parts).unwrap(), want);
}

#[test]
fn whiteouts_of_nothing_are_refused() {
    for name in [".wh.", "a/.wh.", ".wh..", "a/.wh..", ".wh...", "a/.wh..."] {
        for result in [spec(&[file(name, b"")]), containerd(&[file(name, b"")])] {
            assert_eq!(result.unwrap_err(), ErrorKind::InvalidArchive, "{name}");
        }
    }
}

#[test]
fn the_root_is_a_directory_or_nothing() {
    for name in ["./", "/", "", "a/.."] {
        assert_eq!(spec(&[entry(b'5', name)]).unwrap(), ["d // 644"], "{name}");
        assert_eq!(spec(&[link(b'1', name, "/etc/")]).unwrap(), [""; 0], "{name}");
        for typeflag in [b'0', b'2', b'3', b'Z'] {
            assert_eq!(spec(&[link(typeflag, name, "/canary")]).unwrap_err(), ErrorKind::InvalidArchive);
            assert_eq!(containerd(&[link(typeflag, name, "/canary")]).unwrap(), [""; 0]);
        }
    }
}

#[test]
fn links_to_nothing_and_to_themselves_are_refused() {
    for part in [
        link(b'1', "h", ""),
        link(b'1', "h", "h"),
        link(b'1', "d/h", "../d//h"),
        link(b'1', "h", "/"),
        link(b'1', "h", ".."),
        link(b'2', "l", ""),
    ] {
        for result in [spec(&[file("before", b""), part.clone()]), containerd(&[part])] {
            assert_eq!(result.unwrap_err(), ErrorKind::InvalidArchive);
        }
    }
}

#[test]
fn owners_and_devices_out_of_range_are_refused_by_both_profiles() {
    for (key, value) in [("uid", "4294967295"), ("uid", "99999999999"), ("gid", "-1"), ("gid", "4294967296")]
    {
        let parts = [pax(&[(key, value)]), entry(b'0', "f")];
        assert_eq!(spec(&parts).unwrap_err(), ErrorKind::InvalidArchive, "{key}={value}");
        assert_eq!(containerd(&parts).unwrap_err(), ErrorKind::InvalidArchive, "{key}={value}");
    }
    assert!(spec(&[pax(&[("uid", "4294967294")]), entry(b'0', "f")]).is_ok());
    let device = Raw::new(b'3', b"c", 0).gnu().with(329, b"\x80\0\0\x01\0\0\0\0").block();
    assert_eq!(spec(&[device]).unwrap_err(), ErrorKind::InvalidArchive);
}

#[test]
fn types_that_no_layer_has_are_refused_with_their_place() {
    for typeflag in [b'V', b'M', b'N', b'X', b'A', b'z', 0xff] {
        let archive = tar(&[file("before", b"x"), entry(typeflag, "odd")]);
        let error = changes(&archive, ReadOptions::default()).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::InvalidArchive);
        assert_eq!(
            (error.entry_path(), error.entry_index(), error.byte_offset()),
            (Some(&b"odd"[..]), Some(1), Some(1024))
        );
    }
    assert_eq!(spec(&[entry(b'7', "c")]).unwrap(), ["f c 644 \"\""]);
    assert_eq!(containerd(&[entry(b'7', "c")]).unwrap_err(), ErrorKind::InvalidArchive);
}

#[test]
fn global_headers_touch_nothing() {
    for name in ["etc", ".wh.x", "../up"] {
        let mut global = extension(b'g', &record("path", b"p"));
        let named = Raw::new(b'g', name.as_bytes(), 9).block();
        global[..512].copy_from_slice(&named);
        let payload = record("path", b"p");
        global = [Raw::new(b'g', name.as_bytes(), payload.len() as u64).block(), padded(&payload)].concat();
        assert_eq!(spec(&[global.clone()]).unwrap(), [""; 0], "{name}");
        assert_eq!(containerd(&[global]).unwrap(), [""; 0], "{name}");
    }
}

#[test]
fn times_out_of_range_are_the_epoch_and_access_is_never_before_modification() {
    let time = |records: &[(&str, &str)]| {
        let archive = tar(&[pax(records), entry(b'0', "f")]);
        let mut source = TarSource::new(&archive[..], ReadOptions::default(), &Silent);
        match source.next_change().unwrap().unwrap().action {
            Action::Upsert(entry) => (entry.metadata.mtime, entry.metadata.atime),
            _ => unreachable!("the entry is a file"),
        }
    };
    let at = Timestamp::new;
    assert_eq!(time(&[("mtime", "5.25")]), (at(5, 250_000_000), None));
    assert_eq!(time(&[("mtime", "-0.5")]), (Timestamp::EPOCH, None));
    assert_eq!(time(&[("mtime", "9223372036.854775807")]), (at(9_223_372_036, 854_775_807), None));
    assert_eq!(time(&[("mtime", "9223372036.854775808")]), (Timestamp::EPOCH, None));
    assert_eq!(time(&[("mtime", "5"), ("atime", "7.5")]), (at(5, 0), Some(at(7, 500_000_000))));
    assert_eq!(time(&[("mtime", "5"), ("atime", "3")]), (at(5, 0), Some(at(5, 0))));
    let clamped = warnings(&[pax(&[("mtime", "-1")]), entry(b'0', "f")], ReadOptions::default());
    assert_eq!(clamped, ["TimeClamped f"]);
}

#[test]
fn attributes_come_from_schily_records_only_and_may_be_empty() {
    let payload = [
        record("SCHILY.xattr.user.b", b"one"),
        record("SCHILY.xattr.user.a", b"\0binary\n"),
        record("SCHILY.xattr.user.b", b"two"),
        record("SCHILY.xattr.user.empty", b""),
        record("LIBARCHIVE.xattr.user.c", b"b25l"),
    ]
    .concat();
    let archive = tar(&[extension(b'x', &payload), entry(b'0', "f"), entry(b'0', "plain")]);
    let list =
        MemoryChanges::collect(&mut TarSource::new(&archive[..], ReadOptions::default(), &Silent)).unwrap();
    let xattrs: Vec<String> = list
        .as_slice()
        .iter()
        .map(|change| match &change.action {
            layer_model::testing::OwnedAction::Upsert { node, .. } => format!("{:?}", node.xattrs),
            _ => String::new(),
        })
        .collect();
    assert_eq!(
        xattrs,
        [r#"{"user.a": "\\u{0}binary\\n", "user.b": "two", "user.empty": ""}"#, "{}"]
            .map(|s| s.replace("\\\\", "\\"))
    );
    assert_eq!(
        spec(&[extension(b'x', &record("SCHILY.xattr.", b"v")), entry(b'0', "f")]).unwrap_err(),
        ErrorKind::InvalidArchive
    );
}

#[test]
fn a_path_that_comes_twice_is_reported() {
    let parts = [file("a", b"1"), file("./a", b"2"), file(".wh.a", b"")];
    assert_eq!(warnings(&parts, ReadOptions::default()), ["DuplicateEntry a"]);
    assert_eq!(warnings(&parts, ReadOptions::default().report_duplicates(false)), [""; 0]);
    assert_eq!(spec(&parts).unwrap(), ["f a 644 \"1\"", "f a 644 \"2\"", "wh a"]);
}

#[test]
fn extension_headers_without_an_entry_are_reported_or_refused() {
    let parts = [file("a", b""), pax(&[("path", "b")])];
    assert_eq!(warnings(&parts, ReadOptions::default()), ["DanglingExtension /"]);
    let error = changes(&tar(&parts), ReadOptions::default().strict(true)).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::InvalidArchive);
    assert_eq!(warnings(&[file("a", b"")], ReadOptions::default().strict(true)), [""; 0]);
}

fn aufs() -> Vec<Vec<u8>> {
    vec![
        file(".wh..wh.aufs", b""),
        entry(b'5', ".wh..wh.orph/"),
        entry(b'5', ".wh..wh.plnk/"),
        file(".wh..wh.plnk/12.34", b"shared"),
        link(b'2', ".wh..wh.plnk/56.78", "target"),
        link(b'1', "d/one", ".wh..wh.plnk/12.34"),
        link(b'1', "d/two", "/d/../.wh..wh.plnk/12.34"),
        link(b'1', "three", ".wh..wh.plnk/56.78"),
    ]
}

#[test]
fn the_bookkeeping_of_aufs_is_left_out() {
    let parts = &aufs()[..5];
    assert_eq!(spec(parts).unwrap(), [""; 0]);
    assert_eq!(warnings(parts, ReadOptions::default()).len(), 5);
    assert_eq!(spec(&aufs()).unwrap_err(), ErrorKind::InvalidArchive);
}

#[test]
fn the_store_of_aufs_can_be_resolved() {
    let dir = tempfile::tempdir().unwrap();
    let options = ReadOptions::default().aufs_store(AufsStore::Resolve { spool: dir.path().to_owned() });
    let list = changes(&tar(&aufs()), options.clone()).unwrap();
    assert_eq!(list, ["f d/one 644 \"shared\"", "h d/two=d/one", "l three>target"]);
    for target in [".wh..wh.plnk/99", ".wh..wh.plnk", ".wh..wh.plnk/../.wh..wh.plnk/x"] {
        let error = changes(&tar(&[link(b'1', "h", target)]), options.clone()).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::InvalidArchive, "{target}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn paths_have_limits() {
    let long = |path: String| [extension(b'x', &record("path", path.as_bytes())), entry(b'0', "f")].concat();
    for (path, limit) in [
        ("a/".repeat(20_000), "max_path_len"),
        ("a/".repeat(1000), "max_depth"),
        ("n".repeat(256), "max_name_len"),
    ] {
        let archive = tar(&[long(path)]);
        let error = changes(&archive, ReadOptions::default()).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::LimitExceeded { limit });
    }
    assert!(spec(&[long(format!("{}{}", "a/".repeat(511), "n".repeat(255)))]).is_ok());
    let target = [extension(b'K', &[b't'; 5000]), link(b'2', "l", "x")].concat();
    assert_eq!(spec(&[target]).unwrap_err(), ErrorKind::LimitExceeded { limit: "max_path_len" });
}

#[test]
fn content_that_is_not_read_is_skipped() {
    let archive = tar(&[file("a", &[b'x'; 3000]), file("b", b"yes")]);
    let mut source = TarSource::new(&archive[..], ReadOptions::default(), &Silent);
    assert_eq!(source.next_change().unwrap().unwrap().origin.offset, Some(0));
    let second = source.next_change().unwrap().unwrap();
    assert_eq!((second.origin.index, second.origin.offset), (1, Some(512 + 3072)));
    let Action::Upsert(entry) = second.action else { unreachable!("the entry is a file") };
    let EntryKind::File(content) = entry.kind else { unreachable!("the entry is a file") };
    let mut read = Vec::new();
    content.write_to(&mut read).unwrap();
    assert_eq!(read, b"yes");
    assert!(source.next_change().unwrap().is_none());
    assert!(source.next_change().unwrap().is_none());
}

#[test]
fn after_an_error_there_are_no_changes() {
    let archive = tar(&[file(".wh.", b""), file("a", b"")]);
    let mut source = TarSource::new(&archive[..], ReadOptions::default(), &Silent);
    assert_eq!(source.next_change().unwrap_err().kind(), &ErrorKind::InvalidArchive);
    assert_eq!(source.next_change().unwrap_err().kind(), &ErrorKind::FailedPrecondition);
}

#[test]
fn a_header_of_fifty_thousand_attributes_takes_no_time() {
    let payload: Vec<u8> =
        (0..45_000).rev().flat_map(|n| record(&format!("SCHILY.xattr.{n:x}"), b"")).collect();
    assert!(payload.len() > 900_000);
    let start = std::time::Instant::now();
    assert_eq!(spec(&[extension(b'x', &payload), entry(b'0', "f")]).unwrap().len(), 1);
    assert!(start.elapsed().as_secs() < 5);
}

#[test]
fn warnings_have_a_kind_and_a_path() {
    let seen = warnings(&[file(".wh..wh.aufs", b"")], ReadOptions::default());
    assert_eq!(seen, [format!("{} .wh..wh.aufs", WarningKind::AufsMetadata.name())]);
}
