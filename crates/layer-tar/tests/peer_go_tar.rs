//! The writer against Go's `archive/tar`, byte by byte; the reader against it, entry by entry.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use layer_model::{
    Change, Device, Entry, EntryKind, LayerPath, LayerSink, Metadata, Silent, Timestamp, Xattrs,
    road::Content,
};
use layer_tar::{ReadOptions, TarReader, TarSink, WriteOptions, encode::EntryHeader};
use proptest::prelude::*;
use support::{go_peer, run, skip};

/// An entry for both writers.
#[derive(Clone, Debug)]
struct Case {
    typeflag: u8,
    name: Vec<u8>,
    link: Vec<u8>,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: Timestamp,
    device: Device,
    xattrs: Xattrs,
}

impl Case {
    fn file(name: impl Into<Vec<u8>>) -> Self {
        Self {
            typeflag: b'0',
            name: name.into(),
            link: Vec::new(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Timestamp::from_secs(1_600_000_000),
            device: Device::default(),
            xattrs: Xattrs::new(),
        }
    }

    fn typed(typeflag: u8, name: impl Into<Vec<u8>>, link: impl Into<Vec<u8>>) -> Self {
        Self { typeflag, link: link.into(), ..Self::file(name) }
    }

    fn line(&self) -> String {
        let xattrs: Vec<_> =
            self.xattrs.iter().map(|(name, value)| format!("{}:{}", hex(name), hex(value))).collect();
        format!(
            "{} {} {} {} {} {} {} {} {} {} {} {}\n",
            char::from(self.typeflag),
            hex(&self.name),
            hex(&self.link),
            self.mode,
            self.uid,
            self.gid,
            self.size,
            self.mtime.secs,
            self.mtime.nanos,
            self.device.major,
            self.device.minor,
            if xattrs.is_empty() { "-".to_owned() } else { xattrs.join(",") },
        )
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let header = EntryHeader {
            name: &self.name,
            link_name: &self.link,
            typeflag: self.typeflag,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            size: self.size,
            mtime: self.mtime,
            device: self.device,
            atime: None,
            ctime: None,
            xattrs: &self.xattrs,
            records: Xattrs::EMPTY,
        };
        header.encode(out).unwrap();
        if self.size <= 1 << 20 {
            out.extend(std::iter::repeat_n(b'x', self.size as usize));
            out.resize(out.len().next_multiple_of(512), 0);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() { "-".to_owned() } else { bytes.iter().map(|b| format!("{b:02x}")).collect() }
}

/// Names at every boundary of the header's fields, of the split between them, and of ASCII.
fn names() -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    for total in [1, 99, 100, 101, 102, 154, 155, 156, 157, 200, 254, 255, 256, 257, 258, 300] {
        names.push(vec![b'f'; total]);
        for slash in [1, 50, 99, 100, 101, 153, 154, 155, 156, 157, 158] {
            if slash + 1 < total {
                let mut name = vec![b'd'; total];
                name[slash] = b'/';
                names.push(name);
            }
        }
    }
    names.push(b"gr\xc3\xbc\xc3\x9fe".to_vec());
    names.push(b"\xff\xfe".to_vec());
    names.push(b"a=b\nc".to_vec());
    names.push([&[b'd'; 98][..], "/\u{e9}/".as_bytes(), &[b'x'; 40]].concat());
    names.push([&[b'd'; 97][..], "/\u{e9}/".as_bytes(), &[b'x'; 140]].concat());
    names.push(["\u{e9}".repeat(60).as_bytes(), b"/", "\u{fc}".repeat(60).as_bytes()].concat());
    names
}

fn table() -> Vec<Case> {
    let mut cases = Vec::new();
    for name in names() {
        cases.push(Case { size: 5, ..Case::file(name.clone()) });
        cases.push(Case { uid: 2_097_152, ..Case::file(name.clone()) });
        cases.push(Case::typed(b'5', [&name[..], b"/"].concat(), ""));
        cases.push(Case { gid: 3_000_000, ..Case::typed(b'5', [&name[..], b"/"].concat(), "") });
        cases.push(Case::typed(b'2', "link", name.clone()));
        cases.push(Case::typed(b'1', name.clone(), name.clone()));
    }
    for id in [2_097_151, 2_097_152, u32::MAX - 1] {
        cases.push(Case { uid: id, ..Case::file("f") });
        cases.push(Case { gid: id, ..Case::file("f") });
    }
    for secs in [-62_135_596_801, -62_135_596_800, -2, -1, 0, 1, (1 << 33) - 1, 1 << 33, 1 << 40] {
        for nanos in [0, 1, 500_000_000, 999_999_999, 120_000_000] {
            cases.push(Case { mtime: Timestamp { secs, nanos }, ..Case::file("f") });
        }
    }
    for mode in [0, 0o4755, 0o1777, 0o2755, 0o7777] {
        cases.push(Case { mode, ..Case::file("f") });
    }
    for (typeflag, major, minor) in [(b'3', 1, 3), (b'4', 8, 0), (b'3', 2_097_151, 2_097_151), (b'6', 0, 0)] {
        cases.push(Case { device: Device::new(major, minor), ..Case::typed(typeflag, "dev/x", "") });
    }
    for (name, value) in [
        ("security.capability", &b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..]),
        ("user.newline", b"a\nb\0c"),
        ("user.long", &[7; 3000]),
        ("user.\u{e9}", b"1"),
    ] {
        let mut case = Case { size: 3, ..Case::file("x") };
        case.xattrs.insert(name.as_bytes(), value);
        cases.push(case.clone());
        case.xattrs.insert(&b"user.second"[..], &b"2"[..]);
        case.name = [&[b'd'; 80][..], b"/", &[b'f'; 80]].concat();
        case.uid = 1 << 22;
        case.gid = 1 << 23;
        case.mtime = Timestamp::from_secs(-5);
        cases.push(case);
    }
    cases
}

fn go_write(cases: &[Case]) -> Vec<u8> {
    let lines: String = cases.iter().map(Case::line).collect();
    run(go_peer().unwrap().arg("write"), lines.as_bytes()).unwrap()
}

#[test]
fn headers_at_every_boundary_have_the_bytes_of_go() {
    if let Err(reason) = go_peer() {
        return skip("headers_at_every_boundary_have_the_bytes_of_go", &reason);
    }
    let cases = table();
    let theirs = go_write(&cases);
    let mut ours = Vec::new();
    for case in &cases {
        let start = ours.len();
        case.encode(&mut ours);
        let same = theirs.get(start..ours.len()) == Some(&ours[start..]);
        assert!(
            same,
            "{case:?}\n{}\n{}",
            ours[start..].escape_ascii(),
            theirs[start..start + 1536].escape_ascii()
        );
    }
    ours.extend_from_slice(&[0; 1024]);
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn sizes_past_eight_gibibytes_have_the_bytes_of_go() {
    if let Err(reason) = go_peer() {
        return skip("sizes_past_eight_gibibytes_have_the_bytes_of_go", &reason);
    }
    for size in [(1 << 33) - 1, 1 << 33, 1 << 40] {
        let case = Case { size, ..Case::file("large") };
        let mut ours = Vec::new();
        case.encode(&mut ours);
        assert_eq!(ours, go_write(&[case]), "{size}");
    }
}

#[test]
fn a_layer_written_by_the_sink_has_the_bytes_of_go() {
    if let Err(reason) = go_peer() {
        return skip("a_layer_written_by_the_sink_has_the_bytes_of_go", &reason);
    }
    let mut sink = TarSink::new(Vec::new(), WriteOptions::default(), &Silent);
    let mut metadata = Metadata::file(0o755);
    metadata.mtime = Timestamp { secs: 1_600_000_000, nanos: 999_999_999 };
    for (path, kind) in [
        ("etc", EntryKind::Directory),
        ("etc/f", EntryKind::File(Content::from_bytes(b"xxxxx"))),
        ("etc/h", EntryKind::HardLink { target: LayerPath::new(b"etc/f").unwrap() }),
        ("etc/l", EntryKind::Symlink { target: b"../f" }),
        ("etc/null", EntryKind::CharDevice(Device::new(1, 3))),
        ("etc/pipe", EntryKind::Fifo),
    ] {
        let path = LayerPath::new(path.as_bytes()).unwrap();
        sink.change(Change::upsert(path, Entry::new(kind, metadata))).unwrap();
    }
    sink.change(Change::remove(LayerPath::new(b"etc/gone").unwrap())).unwrap();
    sink.change(Change::opaque(LayerPath::new(b"etc").unwrap())).unwrap();
    let (ours, summary) = sink.finish().unwrap();
    assert_eq!((summary.entries, summary.size), (8, ours.len() as u64));

    let entry = |typeflag, name: &str, link: &str| Case { mode: 0o755, ..Case::typed(typeflag, name, link) };
    let marker = |name| Case { mode: 0, mtime: Timestamp::EPOCH, ..Case::file(name) };
    let theirs = go_write(&[
        entry(b'5', "etc/", ""),
        Case { size: 5, ..entry(b'0', "etc/f", "") },
        entry(b'1', "etc/h", "etc/f"),
        entry(b'2', "etc/l", "../f"),
        Case { device: Device::new(1, 3), ..entry(b'3', "etc/null", "") },
        entry(b'6', "etc/pipe", ""),
        marker("etc/.wh.gone"),
        marker("etc/.wh..wh..opq"),
    ]);
    assert_eq!(ours, theirs);
}

/// The listing in the form of the Go peer.
fn our_list(tar: &[u8]) -> String {
    let mut reader = TarReader::new(tar, ReadOptions::default());
    let mut out = String::new();
    loop {
        let entry = match reader.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => return out + "end\n",
            Err(_) => return out + "error\n",
        };
        let raw = entry.raw.clone();
        let mut sum = layer_model::Digester::default();
        let read = entry.into_content().unwrap().write_to(&mut sum);
        let digest = sum.finish();
        let digest = if read.is_ok() { digest.encoded() } else { "error" };
        // A global header has nothing but its name in Go.
        let global = raw.typeflag == b'g';
        let mut xattrs: std::collections::BTreeMap<String, String> = Default::default();
        for (key, value) in raw.pax.iter().filter(|_| !global) {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                xattrs.insert(hex(name), hex(value));
            }
        }
        let xattrs: Vec<_> = xattrs.iter().map(|(name, value)| format!("{name}:{value}")).collect();
        let xattrs = if xattrs.is_empty() { "-".to_owned() } else { xattrs.join(",") };
        let (major, minor) = (raw.dev_major, raw.dev_minor);
        if global {
            let (name, empty) = (hex(&raw.name), layer_model::Digest::sha256(b""));
            out += &format!("g {name} - 0 0 0 0 -62135596800 0 0 0 - {}\n", empty.encoded());
            continue;
        }
        out += &format!(
            "{} {} {} {} {} {} {} {} {} {major} {minor} {xattrs} {digest}\n",
            char::from(raw.typeflag),
            hex(&raw.name),
            hex(&raw.link_name),
            raw.mode,
            raw.uid,
            raw.gid,
            raw.size,
            raw.mtime.secs,
            raw.mtime.nanos,
        );
    }
}

#[test]
fn what_go_writes_is_read_as_go_reads_it() {
    if let Err(reason) = go_peer() {
        return skip("what_go_writes_is_read_as_go_reads_it", &reason);
    }
    let tar = go_write(&table());
    let theirs = run(go_peer().unwrap().arg("list"), &tar).unwrap();
    assert_eq!(our_list(&tar), String::from_utf8(theirs).unwrap());
}

/// Bytes that a mutation puts somewhere: numbers, magics and flags of every kind.
fn splinter() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<u8>().prop_map(|b| vec![b]),
        prop::sample::select(vec![
            &b"ustar\0"[..],
            b"ustar  \0",
            b"tar\0",
            b"\x80",
            b"\xff\xff",
            b"00000000000\0",
            b"7777777\0",
            b"        ",
            b"path=",
            b"size=",
            b"GNU.sparse.map=0,1",
            b"12 ",
            b"\n",
            b"x",
            b"g",
            b"L",
            b"K",
            b"S",
            b"5",
            b"/",
            b"-1",
            b"+1",
        ])
        .prop_map(<[u8]>::to_vec),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn damaged_archives_are_read_as_go_reads_them(
        pick in prop::collection::vec(any::<prop::sample::Index>(), 1..5),
        damage in prop::collection::vec((any::<prop::sample::Index>(), splinter()), 0..4),
        fix_checksums in any::<bool>(),
    ) {
        if let Err(reason) = go_peer() {
            skip("damaged_archives_are_read_as_go_reads_them", &reason);
            return Ok(());
        }
        let table = table();
        let mut tar = Vec::new();
        for index in pick {
            index.get(&table).encode(&mut tar);
        }
        tar.extend_from_slice(&[0; 1024]);
        for (at, bytes) in damage {
            let at = at.index(tar.len());
            let n = bytes.len().min(tar.len() - at);
            tar[at..at + n].copy_from_slice(&bytes[..n]);
        }
        if fix_checksums {
            for block in tar.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let theirs = run(go_peer().unwrap().arg("list"), &tar).unwrap();
        prop_assert_eq!(our_list(&tar), String::from_utf8(theirs).unwrap());
    }
}
