//! Layers of Windows against Go's `archive/tar` with the headers of go-winio's `backuptar`: written byte by byte, read
//! entry by entry.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fmt::Write as _;

use layer_model::{
    Action, Change, Entry, EntryKind, LayerPath, LayerSink, LayerSource, Metadata, Silent, Timestamp, Xattrs,
    road::Content, windows,
};
use layer_tar::{ReadOptions, TarSink, TarSource, WriteOptions};
use proptest::prelude::*;
use support::{go_windows_peer, run, skip};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Add,
    Stream,
    Link,
    Remove,
}

/// An entry for both writers.
#[derive(Clone, Debug)]
struct Case {
    what: What,
    name: String,
    size: usize,
    attributes: u32,
    /// Written, accessed, changed, made.
    times: [Timestamp; 4],
    descriptor: Vec<u8>,
    eas: Vec<(String, Vec<u8>)>,
    target: String,
    junction: bool,
}

const DIRECTORY: u32 = 0x10;
const REPARSE: u32 = 0x400;

impl Case {
    fn new(what: What, name: impl Into<String>) -> Self {
        Self {
            what,
            name: name.into(),
            size: 0,
            attributes: 0x20,
            times: [Timestamp::new(1_600_000_000, 123_456_700); 4],
            descriptor: Vec::new(),
            eas: Vec::new(),
            target: String::new(),
            junction: false,
        }
    }

    fn file(name: impl Into<String>, size: usize) -> Self {
        Self { size, ..Self::new(What::Add, name) }
    }

    fn dir(name: impl Into<String>) -> Self {
        Self { attributes: DIRECTORY, ..Self::new(What::Add, name) }
    }

    fn symlink(name: impl Into<String>, target: &str, attributes: u32) -> Self {
        Self { target: target.into(), attributes: attributes | REPARSE, ..Self::new(What::Add, name) }
    }

    fn line(&self) -> String {
        let what = match self.what {
            What::Add => "add",
            What::Stream => "stream",
            What::Link => "link",
            What::Remove => "remove",
        };
        let name = match (self.what, self.name.rsplit_once('/')) {
            (What::Remove, Some((dir, name))) => format!("{dir}/.wh.{name}"),
            (What::Remove, None) => format!(".wh.{}", self.name),
            _ => self.name.clone(),
        };
        let mut line = format!("{what} {} {} {}", hex(name.as_bytes()), self.size, self.attributes);
        for time in self.times {
            write!(line, " {}:{}", time.secs, time.nanos).unwrap();
        }
        let eas: Vec<_> =
            self.eas.iter().map(|(name, value)| format!("{}:{}", hex(name.as_bytes()), hex(value))).collect();
        let eas = if eas.is_empty() { "-".to_owned() } else { eas.join(",") };
        let (descriptor, target) = (hex(&self.descriptor), hex(self.target.as_bytes()));
        line + &format!(" {descriptor} {eas} {target} {}\n", u8::from(self.junction))
    }

    fn xattrs(&self) -> Xattrs {
        let mut xattrs = Xattrs::new();
        xattrs.insert(windows::CHANGE_TIME, self.times[2].to_string().into_bytes());
        if self.what == What::Stream {
            return xattrs;
        }
        xattrs.insert(windows::FILE_ATTRIBUTES, self.attributes.to_string().into_bytes());
        xattrs.insert(windows::CREATION_TIME, self.times[3].to_string().into_bytes());
        if !self.descriptor.is_empty() {
            xattrs.insert(windows::SECURITY_DESCRIPTOR, base64(&self.descriptor));
        }
        for (name, value) in &self.eas {
            xattrs.insert([windows::EXTENDED_ATTRIBUTE_PREFIX, name.as_bytes()].concat(), base64(value));
        }
        if self.junction {
            xattrs.insert(windows::MOUNT_POINT, &b"1"[..]);
        }
        xattrs
    }

    fn write(&self, sink: &mut TarSink<'_, Vec<u8>>) {
        let path = LayerPath::new(self.name.as_bytes()).unwrap();
        let content = vec![b'x'; self.size];
        let kind = match self.what {
            What::Remove => return sink.change(Change::remove(path)).unwrap(),
            What::Link => EntryKind::HardLink { target: LayerPath::new(self.target.as_bytes()).unwrap() },
            What::Add if !self.target.is_empty() => EntryKind::Symlink { target: self.target.as_bytes() },
            What::Add if self.attributes & DIRECTORY != 0 => EntryKind::Directory,
            What::Add | What::Stream => EntryKind::File(Content::from_bytes(&content)),
        };
        let mut metadata = Metadata::file(0o755);
        (metadata.uid, metadata.gid) = (1000, 1000);
        metadata.mtime = self.times[0];
        metadata.atime = Some(self.times[1]);
        sink.change(Change::upsert(path, Entry::new(kind, metadata).with_xattrs(&self.xattrs()))).unwrap();
    }
}

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() { "-".to_owned() } else { bytes.iter().map(|b| format!("{b:02x}")).collect() }
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= chunk.len() { digit } else { b'=' });
        }
    }
    text
}

/// A layer as hcsshim exports it.
fn layer() -> Vec<Case> {
    let descriptor: Vec<u8> = [&[1, 0, 4, 0x80][..], &[0; 16]].concat();
    let eas = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), vec![b'x', b'y', 0])).collect();
    let long = "d".repeat(60);
    let mut cases = vec![
        Case::dir("Files"),
        Case { descriptor: descriptor.clone(), ..Case::dir("Files/Windows") },
        Case {
            descriptor,
            eas: eas(&["B", "$KERNEL.PURGE.ESBCACHE", "a"]),
            ..Case::file("Files/Windows/f", 700)
        },
        Case { size: 7, ..Case::new(What::Stream, "Files/Windows/f:Zone.Identifier") },
        Case { size: 0, ..Case::new(What::Stream, "Files/Windows/f:empty") },
        Case::file("Files/empty", 0),
        Case { target: "Files/Windows/f".into(), ..Case::new(What::Link, "Files/hard") },
        Case::symlink("Files/rel", "..\\Windows\\f", 0x20),
        Case::symlink("Files/abs", "C:\\Windows", DIRECTORY),
        Case { junction: true, ..Case::symlink("Files/junction", "C:\\data", DIRECTORY) },
        Case { size: 3, ..Case::new(What::Stream, "Files/junction:s") },
        Case::new(What::Remove, "Files/gone"),
        Case::new(What::Remove, format!("Files/{long}/{long}/gone")),
        Case::new(What::Remove, "Files/gr\u{fc}n"),
        Case::file("Files/gr\u{fc}n", 5),
        Case::file(format!("Files/{long}/{long}"), 5),
        Case::dir(format!("Files/{long}/{long}/{long}")),
        Case { size: 9, ..Case::new(What::Stream, format!("Files/{long}/{long}/{long}:s")) },
        Case { target: format!("Files/{long}/{long}"), ..Case::new(What::Link, "Files/\u{2603}") },
        Case::symlink("Files/long", &format!("{long}\\{long}"), 0),
    ];
    for secs in [-11_644_473_600, -2, -1, 0, 1, (1 << 33) - 1, 1 << 33, 1 << 36] {
        for nanos in [0, 100, 500_000_000, 999_999_900] {
            let time = Timestamp { secs, nanos };
            let other = Timestamp { secs: 5, nanos: 0 };
            for times in [[time, other, other, other], [other, time, time, time], [time, time, time, other]] {
                cases.push(Case { times, ..Case::file("Files/time", 1) });
                cases.push(Case { times, size: 2, ..Case::new(What::Stream, "Files/time:s") });
            }
        }
    }
    cases
}

fn written(cases: &[Case], options: WriteOptions) -> Vec<u8> {
    let mut sink = TarSink::new(Vec::new(), options, &Silent);
    for case in cases {
        case.write(&mut sink);
    }
    sink.finish().unwrap().0
}

fn go_write(cases: &[Case]) -> Vec<u8> {
    let lines: String = cases.iter().map(Case::line).collect();
    run(go_windows_peer().unwrap().arg("write"), lines.as_bytes()).unwrap()
}

/// The layer in the form of the Go peer's listing.
fn our_list(tar: &[u8]) -> String {
    let mut source = TarSource::new(tar, ReadOptions::default().windows(true), &Silent);
    let mut out = String::new();
    while let Some(change) = source.next_change().unwrap() {
        let path = change.path;
        let entry = match change.action {
            Action::Upsert(entry) => entry,
            Action::Remove => {
                let name = layer_model::change::whiteout_path(path).unwrap().into_bytes();
                writeln!(out, "0 {} - 0 0:0 - - ", hex(&name)).unwrap();
                continue;
            }
            Action::Opaque => unreachable!("no test writes one"),
        };
        let (typeflag, link, size) = match &entry.kind {
            EntryKind::Directory => ('5', &b""[..], 0),
            EntryKind::File(content) => ('0', &b""[..], content.len()),
            EntryKind::Symlink { target } => ('2', *target, 0),
            EntryKind::HardLink { target } => ('1', target.as_bytes(), 0),
            other => unreachable!("no test writes {}", other.name()),
        };
        let time = |time: Option<Timestamp>| time.map_or("-".into(), |t| format!("{}:{}", t.secs, t.nanos));
        let ctime = entry.xattrs.get(windows::CHANGE_TIME).map(|text| Timestamp::parse(text).unwrap());
        let mut records: Vec<_> = entry
            .xattrs
            .iter()
            .filter(|(name, _)| *name != windows::CHANGE_TIME)
            .map(|(name, value)| format!("{}:{}", name.escape_ascii(), hex(value)))
            .collect();
        records.sort();
        let metadata = entry.metadata;
        let times = format!("{} {} {}", time(Some(metadata.mtime)), time(metadata.atime), time(ctime));
        let (name, link) = (hex(path.as_bytes()), hex(link));
        writeln!(out, "{typeflag} {name} {link} {size} {times} {}", records.join(",")).unwrap();
    }
    out + "end\n"
}

fn same(theirs: &[u8], ours: &[u8], cases: &[Case]) {
    if let Some(at) = theirs.iter().zip(ours).position(|(a, b)| a != b) {
        let block = at / 512 * 512;
        let piece = |tar: &[u8]| tar[block..tar.len().min(block + 1024)].escape_ascii().to_string();
        panic!("{cases:?}\nbyte {at}\ntheirs {}\nours   {}", piece(theirs), piece(ours));
    }
    assert_eq!(theirs.len(), ours.len());
}

#[test]
fn a_layer_of_windows_has_the_bytes_of_backuptar() {
    if let Err(reason) = go_windows_peer() {
        return skip("a_layer_of_windows_has_the_bytes_of_backuptar", &reason);
    }
    let cases = layer();
    same(&go_write(&cases), &written(&cases, WriteOptions::default().windows(true)), &cases);
}

#[test]
fn what_backuptar_writes_is_read_as_go_reads_it_and_written_back_the_same() {
    if let Err(reason) = go_windows_peer() {
        return skip("what_backuptar_writes_is_read_as_go_reads_it_and_written_back_the_same", &reason);
    }
    let tar = go_write(&layer());
    let theirs = run(go_windows_peer().unwrap().arg("list"), &tar).unwrap();
    assert_eq!(our_list(&tar), String::from_utf8(theirs).unwrap());

    let mut source = TarSource::new(&tar[..], ReadOptions::default().windows(true), &Silent);
    let sink = TarSink::new(Vec::new(), WriteOptions::default().windows(true), &Silent);
    let (again, _) = layer_model::road::pump(&mut source, sink, &Silent).unwrap();
    same(&tar, &again, &[]);
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    (-11_644_473_600_i64..1 << 36, 0_u32..10_000_000)
        .prop_map(|(secs, ticks)| Timestamp { secs, nanos: ticks * 100 })
}

prop_compose! {
    fn any_case()(
        name in "Files/[a-zA-Z \u{e4}\u{2603}._-]{1,120}(/[a-z]{1,120})?",
        kind in 0_u8..4,
        attributes in any::<u32>(),
        times in [any_time(), any_time(), any_time(), any_time()],
        descriptor in prop::collection::vec(any::<u8>(), 0..40),
        eas in prop::collection::btree_map("[A-Z.$a-z]{1,30}", prop::collection::vec(any::<u8>(), 1..30), 0..4),
        target in "[a-z\\\\/.\u{e4}]{1,130}",
        size in 0_usize..2000,
        junction in any::<bool>(),
    ) -> Case {
        let eas = eas.into_iter().collect();
        let base = Case { times, descriptor, eas, ..Case::file(name, size) };
        match kind {
            0 => Case { attributes: attributes & !DIRECTORY, ..base },
            1 => Case { attributes: attributes | DIRECTORY, size: 0, ..base },
            2 => Case { attributes, size: 0, target, junction, ..base },
            _ => Case { what: What::Remove, ..base },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn any_layer_of_windows_has_the_bytes_of_backuptar(cases in prop::collection::vec(any_case(), 1..30)) {
        if let Err(reason) = go_windows_peer() {
            skip("any_layer_of_windows_has_the_bytes_of_backuptar", &reason);
            return Ok(());
        }
        let cases: Vec<_> = cases.into_iter().filter(|case| !case.name.contains("/.wh.")).collect();
        let clean = |case: &Case| LayerPath::new(case.name.as_bytes()).is_ok();
        let cases: Vec<_> = cases.into_iter().filter(clean).collect();
        let tar = go_write(&cases);
        same(&tar, &written(&cases, WriteOptions::default().windows(true)), &cases);
        let theirs = run(go_windows_peer().unwrap().arg("list"), &tar).unwrap();
        prop_assert_eq!(our_list(&tar), String::from_utf8(theirs).unwrap());
    }
}
