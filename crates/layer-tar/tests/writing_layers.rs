//! What the sink writes, refuses, and leaves out.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{io, sync::Mutex};

use layer_model::{
    Change, Device, Entry, EntryKind, ErrorKind, LayerPath, LayerSink, Metadata, Monitor, ReadAt, Result,
    Silent, Timestamp, Warning, Xattrs,
    content::Extent,
    road::{self, Content},
    testing::{MemoryChanges, MemoryLayer},
};
use layer_tar::{ReadOptions, TarSink, TarSource, WriteOptions};
use support::list;

fn path(text: &str) -> LayerPath<'_> {
    LayerPath::new(text.as_bytes()).unwrap()
}

fn write_one(change: Change<'_>, options: WriteOptions) -> Result<Vec<u8>> {
    let mut sink = TarSink::new(Vec::new(), options, &Silent);
    sink.change(change)?;
    Ok(sink.finish()?.0)
}

fn upsert<'a>(name: &'a str, kind: EntryKind<'a>) -> Change<'a> {
    Change::upsert(path(name), Entry::new(kind, Metadata::file(0o644)))
}

fn text(bytes: &[u8]) -> String {
    bytes.split(|b| *b == 0).next().unwrap().escape_ascii().to_string()
}

#[test]
fn no_changes_are_two_zero_blocks() {
    let (tar, summary) = TarSink::new(Vec::new(), WriteOptions::default(), &Silent).finish().unwrap();
    assert_eq!((tar, summary.entries, summary.size), (vec![0; 1024], 0, 1024));
}

#[test]
fn whiteouts_are_empty_files_without_any_metadata() {
    for (change, name) in [
        (Change::remove(path("d/old")), "d/.wh.old"),
        (Change::remove(path("old")), ".wh.old"),
        (Change::opaque(path("d")), "d/.wh..wh..opq"),
        (Change::opaque(LayerPath::ROOT), ".wh..wh..opq"),
        (Change::remove(path("d/.wh.odd")), "d/.wh..wh.odd"),
    ] {
        let tar = write_one(change, WriteOptions::default().source_date_epoch(Some(5))).unwrap();
        assert_eq!((tar.len(), text(&tar)), (1536, name.to_owned()));
        let numbers = [&b"0000000\0".repeat(3)[..], &b"00000000000\0".repeat(2)].concat();
        assert_eq!(&tar[100..148], &numbers[..]);
        assert_eq!(tar[156], b'0');
    }
}

#[test]
fn the_root_directory_is_written_on_demand() {
    let root = || Change::upsert(LayerPath::ROOT, Entry::new(EntryKind::Directory, Metadata::file(0o700)));
    assert_eq!(write_one(root(), WriteOptions::default()).unwrap().len(), 1024);
    let tar = write_one(root(), WriteOptions::default().root(true)).unwrap();
    assert_eq!((tar.len(), text(&tar), tar[156]), (1536, "./".to_owned(), b'5'));
}

#[test]
fn names_and_things_that_a_layer_cannot_hold_are_refused() {
    let file = || EntryKind::File(Content::empty());
    for change in [
        upsert(".wh.real", file()),
        upsert("d/.wh.real", EntryKind::Directory),
        upsert("d/.wh.x/f", file()),
        upsert("d/.wh..wh..opq", file()),
        upsert("dev", EntryKind::CharDevice(Device::new(2_097_152, 0))),
        upsert("dev", EntryKind::BlockDevice(Device::new(0, 2_097_152))),
        upsert("l", EntryKind::Symlink { target: b"" }),
        Change::upsert(LayerPath::ROOT, Entry::new(file(), Metadata::file(0))),
        Change::remove(LayerPath::ROOT),
        // Their whiteouts would be an opaque mark, and bookkeeping of AUFS.
        Change::remove(path("d/.wh..opq")),
        Change::remove(path(".wh.aufs")),
    ] {
        let shown = format!("{change:?}");
        assert_eq!(
            write_one(change, WriteOptions::default()).unwrap_err().kind(),
            &ErrorKind::Unrepresentable,
            "{shown}"
        );
    }
}

#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Monitor for Warnings {
    fn warn(&self, warning: &Warning<'_>) {
        self.0.lock().unwrap().push(format!("{} {}", warning.kind.name(), text(warning.detail)));
    }
}

#[test]
fn attributes_that_do_not_travel_are_left_out_or_refused_as_wanted() {
    let xattrs: Xattrs = [(&b"user.empty"[..], &b""[..]), (b"user.full", b"v")].into_iter().collect();
    let odd: Xattrs = [(&b"user.a=b"[..], &b"v"[..]), (b"user.full", b"v")].into_iter().collect();
    let entry = |xattrs| Entry::new(EntryKind::File(Content::empty()), Metadata::file(0)).with_xattrs(xattrs);
    let write = |xattrs, options: WriteOptions| {
        let warnings = Warnings::default();
        let mut sink = TarSink::new(Vec::new(), options, &warnings);
        let written = sink.change(Change::upsert(path("f"), entry(xattrs)));
        let tar = sink.finish().unwrap().0;
        written.map(|()| (text(&tar[512..1024]), warnings.0.into_inner().unwrap()))
    };
    let only = "31 SCHILY.xattr.user.full=v\\n".replace("31", "28");
    assert_eq!(
        write(&xattrs, WriteOptions::default()).unwrap(),
        (only.clone(), vec!["EmptyXattrDropped user.empty".to_owned()])
    );
    let (both, warned) = write(&xattrs, WriteOptions::default().empty_xattrs(true)).unwrap();
    assert_eq!((both, warned.len()), (format!("28 SCHILY.xattr.user.empty=\\n{only}"), 0));
    assert_eq!(write(&odd, WriteOptions::default()).unwrap_err().kind(), &ErrorKind::Unrepresentable);
    assert_eq!(
        write(&odd, WriteOptions::default().lossy(true)).unwrap(),
        (only, vec!["XattrDropped user.a=b".to_owned()])
    );
}

fn mtime_of(mtime: Timestamp, options: WriteOptions) -> (usize, Timestamp) {
    let metadata = Metadata { mtime, ..Metadata::file(0o644) };
    let tar = write_one(Change::upsert(path("f"), Entry::new(EntryKind::Fifo, metadata)), options).unwrap();
    let mut reader = layer_tar::TarReader::new(&tar[..], ReadOptions::default());
    let read = reader.next_entry().unwrap().unwrap().raw.mtime;
    (tar.len(), read)
}

#[test]
fn times_are_cut_to_seconds_clamped_or_kept() {
    let options = WriteOptions::default;
    let late = Timestamp::new(1_600_000_000, 999_999_999);
    assert_eq!(mtime_of(late, options()), (1536, Timestamp::from_secs(1_600_000_000)));
    assert_eq!(mtime_of(late, options().nanoseconds(true)), (2560, late));
    assert_eq!(mtime_of(Timestamp::new(-2, 500_000_000), options()), (2560, Timestamp::from_secs(-2)));
    let epoch = Timestamp::from_secs(1_500_000_000);
    assert_eq!(mtime_of(late, options().source_date_epoch(Some(epoch.secs))), (1536, epoch));
    assert_eq!(
        mtime_of(late, options().nanoseconds(true).source_date_epoch(Some(epoch.secs))),
        (1536, epoch)
    );
    let early = Timestamp::from_secs(1_000_000_000);
    assert_eq!(mtime_of(early, options().source_date_epoch(Some(epoch.secs))), (1536, early));
}

/// A file that says more than it has.
struct Short;

impl ReadAt for Short {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(buf.len().min(10_usize.saturating_sub(offset as usize)))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(20)
    }
}

#[test]
fn a_file_that_became_shorter_has_changed_and_a_stream_is_truncated() {
    let content = Content::from_range(&Short, 0, 20);
    let error = write_one(upsert("f", EntryKind::File(content)), WriteOptions::default()).unwrap_err();
    assert_eq!((error.kind(), error.entry_path()), (&ErrorKind::FileChanged, Some(&b"f"[..])));
    let mut stream = &b"0123456789"[..];
    let content = Content::from_stream(&mut stream, 20);
    let error = write_one(upsert("f", EntryKind::File(content)), WriteOptions::default()).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Truncated);
}

#[test]
fn all_forms_of_content_are_written_dense() {
    let extents = [Extent { offset: 2, len: 3 }, Extent { offset: 7, len: 1 }];
    let whole = b"\0\0abc\0\0d\0\0".to_vec();
    let (mut packed, mut stream) = (&b"abcd"[..], &whole[..]);
    for content in [
        Content::sparse(&extents, &mut packed, 10).unwrap(),
        Content::from_stream(&mut stream, 10),
        Content::from_bytes(&whole),
        Content::from_range(&whole, 0, 10),
    ] {
        let tar = write_one(upsert("f", EntryKind::File(content)), WriteOptions::default()).unwrap();
        assert_eq!((list(&tar).0, &tar[512..522], tar.len()), (vec!["0 f 10".to_owned()], &whole[..], 2048));
    }
}

#[test]
fn a_layer_survives_being_written_and_read() {
    let layer = MemoryLayer::new()
        .dir("d", 0o1777)
        .owner("d", 3_000_000, 7)
        .file("d/f", "content")
        .mtime("d/f", 1_700_000_000, 123_456_789)
        .xattr("d/f", "security.capability", b"\x01\0\0\x02")
        .file(&format!("d/{}", "long".repeat(40)), "x")
        .link("h", "d/f")
        .symlink("l", &"t/".repeat(90))
        .char_device("null", 1, 3)
        .fifo("p")
        .whiteout("gone")
        .opaque("d");
    let options = WriteOptions::default().nanoseconds(true);
    let sink = TarSink::new(Vec::new(), options, &Silent);
    let (tar, summary) = road::pump(&mut layer.changes(), sink, &Silent).unwrap();
    assert_eq!(summary.size, tar.len() as u64);
    let back =
        MemoryChanges::collect(&mut TarSource::new(&tar[..], ReadOptions::default(), &Silent)).unwrap();
    assert_eq!(back.lines(), layer.changes().lines());
    assert_eq!(back.as_slice().len() as u64, summary.entries);
    let again = road::pump(
        &mut TarSource::new(&tar[..], ReadOptions::default(), &Silent),
        TarSink::new(Vec::new(), WriteOptions::default().nanoseconds(true), &Silent),
        &Silent,
    );
    assert_eq!(again.unwrap().0, tar);
}
