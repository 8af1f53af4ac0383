//! What is written and read again is what a tree in memory holds after the same operations, and what independent
//! readers find.
#![cfg(feature = "ondisk")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{path::Path, process::Command};

use cim_writer_abstraction::{
    Attributes, CimKind, CimName, CimOp, CimPath, CimSink, FileMeta, FileTime, StreamName,
    content::MemoryBlobs,
    model::{EntryRef, ImageTree, ModelSink, Rules, Stream, View},
    op::CreateFlags,
    stdcim::{File, Image, Major, StdCimSink, WriteOptions},
};
use layer_model::{ReadAt, Result};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

/// The attributes that an image has bits for, or shows.
const STORED: u32 = 0x1 | 0x2 | 0x4 | 0x10 | 0x20 | 0x200 | 0x400;

#[derive(Clone, Debug)]
enum Step {
    File(CimPath, FileMeta, Vec<u8>),
    Stream(CimPath, StreamName, Vec<u8>),
    Link(CimPath, CimPath),
    Delete(CimPath),
}

fn path() -> impl Strategy<Value = CimPath> {
    let names = vec!["a", "A", "b", "name", "NaMe", "\u{e4}", "\u{c4}", "\u{1f600}", "_", "x y"];
    prop::collection::vec(prop::sample::select(names), 1..4)
        .prop_map(|names| CimPath::new(names.join("\\")).unwrap())
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20),
        (4090usize..4100).prop_map(|len| vec![7; len]),
        (0usize..5000).prop_map(|len| vec![0; len]),
    ]
}

fn meta() -> impl Strategy<Value = FileMeta> {
    let buffer = || prop_oneof![Just(Vec::new()), prop::collection::vec(any::<u8>(), 4..30)];
    (any::<u32>(), any::<[i64; 4]>(), buffer(), buffer(), buffer(), any::<bool>()).prop_map(
        |(attributes, times, security, ea, reparse, is_dir)| {
            let [creation, write, change, access] = times.map(FileTime);
            let reparse = if attributes & 0x400 != 0 { reparse } else { Vec::new() };
            let mut attributes = Attributes::from_bits_retain(attributes);
            attributes.set(Attributes::DIRECTORY, is_dir);
            attributes.set(Attributes::REPARSE_POINT, !reparse.is_empty());
            let (security, ea, reparse) = (security.into(), ea.into(), reparse.into());
            FileMeta { attributes, creation, write, change, access, security, ea, reparse }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let stream = prop::sample::select(vec!["s", "S", "Zone.Identifier", "\u{e4}"])
        .prop_map(|name| StreamName::new(name).unwrap());
    prop_oneof![
        6 => (path(), meta(), data()).prop_map(|(path, meta, data)| {
            let data = if meta.is_dir() { Vec::new() } else { data };
            Step::File(path, meta, data)
        }),
        2 => (path(), stream, data()).prop_map(|(path, name, data)| Step::Stream(path, name, data)),
        2 => (path(), path()).prop_map(|(path, target)| Step::Link(path, target)),
        1 => path().prop_map(Step::Delete),
    ]
}

fn apply(sink: &mut dyn CimSink, step: &Step) -> Result<()> {
    let data = match step {
        Step::File(path, meta, data) => {
            sink.op(&CimOp::CreateFile { path, meta, size: data.len() as u64 })?;
            data
        }
        Step::Stream(of, name, data) => {
            sink.op(&CimOp::CreateStream { of, name, size: data.len() as u64 })?;
            data
        }
        Step::Link(path, target) => return sink.op(&CimOp::HardLink { path, target }),
        Step::Delete(path) => return sink.op(&CimOp::Delete { path }),
    };
    sink.write(data)?;
    sink.op(&CimOp::EndStream)
}

/// Applies the steps to both sinks, which take and refuse the same, for the same reason.
fn apply_all(
    model: &mut ModelSink<MemoryBlobs>,
    disk: &mut StdCimSink,
    image: &CimName,
    parent: Option<&CimName>,
    steps: &[Step],
) {
    let flags = CreateFlags::empty();
    let create = CimOp::CreateImage { kind: CimKind::Forked, container: "", name: image, parent, flags };
    model.op(&create).unwrap();
    disk.op(&create).unwrap();
    for step in steps {
        let (want, got) = (apply(model, step), apply(disk, step));
        let kind = |result: &Result<()>| result.as_ref().err().map(|error| error.kind().name());
        assert_eq!(kind(&want), kind(&got), "{step:?}: {want:?} {got:?}");
    }
    model.op(&CimOp::Commit).unwrap();
    disk.op(&CimOp::Commit).unwrap();
}

/// One path: everything that is to be known about it. Names of one file have the same group.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    path: CimPath,
    attributes: u32,
    times: [i64; 4],
    buffers: [Box<[u8]>; 3],
    data: (u64, [u8; 32]),
    streams: Vec<(String, u64, [u8; 32])>,
    group: CimPath,
}

fn line(path: CimPath, meta: &FileMeta, data: (u64, [u8; 32])) -> Line {
    Line {
        group: path.clone(),
        path,
        attributes: meta.attributes.bits() & STORED,
        times: [meta.creation.0, meta.write.0, meta.change.0, meta.access.0],
        buffers: [meta.security_or_default().into(), meta.ea.clone(), meta.reparse.clone()],
        data,
        streams: Vec::new(),
    }
}

fn of_model(tree: &ImageTree) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut groups = std::collections::HashMap::new();
    let known = |stream: &Stream| (stream.size, stream.sha256.unwrap());
    for entry in View::of(tree).entries() {
        let main = entry.entry.main().filter(|_| !entry.entry.meta().unwrap().is_dir());
        let data = main.map_or((0, Sha256::digest(b"").into()), known);
        let mut line = line(entry.path.clone(), entry.entry.meta().unwrap(), data);
        line.streams = entry
            .entry
            .streams()
            .map(|(name, stream)| (name.to_string(), stream.size, stream.sha256.unwrap()))
            .collect();
        if let EntryRef::File(_, id) = entry.entry {
            line.group = groups.entry(id).or_insert(entry.path).clone();
        }
        lines.push(line);
    }
    sorted(lines)
}

fn of_disk(image: &Image) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut groups = std::collections::HashMap::new();
    for entry in image.walk().skip(1) {
        let entry = entry.unwrap();
        let file: &File = &entry.file;
        let data = if file.is_dir() { digest(&Vec::new()) } else { digest(&file.open().unwrap()) };
        let mut line = line(entry.path.clone(), &file.meta().unwrap(), data);
        for stream in file.streams().unwrap() {
            let (size, sha256) = digest(&file.open_entry(&stream).unwrap());
            assert_eq!(size, stream.size);
            line.streams.push((stream.name.to_string(), size, sha256));
        }
        line.group = groups.entry(file.id()).or_insert(entry.path).clone();
        lines.push(line);
    }
    sorted(lines)
}

/// The two orders differ, and so which name of a file comes first: groups are named by the least.
fn sorted(mut lines: Vec<Line>) -> Vec<Line> {
    let mut least = std::collections::HashMap::new();
    for line in &lines {
        let name = least.entry(line.group.clone()).or_insert_with(|| line.path.clone());
        *name = name.clone().min(line.path.clone());
    }
    for line in &mut lines {
        line.group = least[&line.group].clone();
    }
    lines.sort();
    lines
}

fn digest(file: &dyn ReadAt) -> (u64, [u8; 32]) {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    (bytes.len() as u64, Sha256::digest(&bytes).into())
}

fn open(dir: &Path, name: &CimName) -> Image {
    Image::open(dir, name).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn an_image_reads_as_the_tree_that_the_same_operations_make(
        steps in prop::collection::vec(step(), 0..40),
        more in prop::collection::vec(step(), 0..20),
        major in prop::sample::select(vec![Major::V1, Major::V2, Major::V3]),
    ) {
        let temp = tempfile::tempdir().unwrap();
        let disk = || StdCimSink::new(major, WriteOptions::default().directory(temp.path()));
        let rules = Rules::default().fork_delete_noop(false);
        let (base, fork) = (CimName::new("base.cim").unwrap(), CimName::new("fork.cim").unwrap());

        let tree = ImageTree::with_rules(CimKind::Forked, rules);
        let mut model = ModelSink::on(tree, MemoryBlobs::default());
        apply_all(&mut model, &mut disk(), &base, None, &steps);
        let (tree, _) = model.finish().unwrap();
        prop_assert_eq!(of_disk(&open(temp.path(), &base)), of_model(&tree));

        let mut model = ModelSink::on(tree.fork(), MemoryBlobs::default());
        apply_all(&mut model, &mut disk(), &fork, Some(&base), &more);
        let (forked, _) = model.finish().unwrap();
        prop_assert_eq!(of_disk(&open(temp.path(), &fork)), of_model(&forked));
        prop_assert_eq!(of_disk(&open(temp.path(), &base)), of_model(&tree));
    }
}

/// An image of more than two file tables, with one of everything, and a fork of it.
fn write_many(dir: &Path, major: Major) -> [CimName; 2] {
    let names = ["many.cim", "more.cim"].map(|name| CimName::new(name).unwrap());
    for (at, name) in names.iter().enumerate() {
        let mut sink = StdCimSink::new(major, WriteOptions::default().directory(dir));
        let parent = (at > 0).then(|| &names[0]);
        let flags = CreateFlags::empty();
        sink.op(&CimOp::CreateImage { kind: CimKind::Forked, container: "", name, parent, flags }).unwrap();
        let path = |text: String| CimPath::new(text).unwrap();
        let numbers = if at == 0 { 0..3500_i64 } else { 3000..3700 };
        for number in numbers {
            let dir = number % 50 / 5;
            let meta = |attributes, reparse: &[u8]| FileMeta {
                creation: FileTime(number),
                write: FileTime(-number),
                change: FileTime(i64::MAX),
                access: FileTime(0),
                ea: vec![1; number as usize % 40].into(),
                reparse: reparse.into(),
                ..FileMeta::new(attributes)
            };
            let step = match number % 50 {
                n if n % 5 == 0 => {
                    Step::File(path(format!("Dir {dir}")), meta(Attributes::DIRECTORY, b""), vec![])
                }
                1 => Step::File(
                    path(format!("Dir {dir}\\s{number}")),
                    meta(Attributes::empty(), b"\x0c\0\0\xa0\0\0\0\0"),
                    vec![],
                ),
                2 => {
                    Step::Link(path(format!("Dir {dir}\\l{number}")), path(format!("dir 0\\S{}", number - 1)))
                }
                3 => Step::Stream(
                    path(format!("Dir {dir}")),
                    StreamName::new(format!("n{number}")).unwrap(),
                    vec![3; number as usize],
                ),
                4 => Step::File(
                    path(format!("Dir {dir}\\z{number}")),
                    meta(Attributes::SPARSE_FILE, b""),
                    vec![0; 5000],
                ),
                _ => {
                    let data = vec![(number % 251) as u8; (number * 37) as usize % 9000];
                    let name = format!("Dir {dir}\\\u{1f600} f\u{fc}r {number}");
                    Step::File(path(name), meta(Attributes::from_bits_retain(number as u32 & 7), b""), data)
                }
            };
            apply(&mut sink, &step).unwrap();
        }
        sink.op(&CimOp::Commit).unwrap();
    }
    names
}

/// The lines that the independent reader prints.
fn listing(image: &Image) -> Vec<String> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut lines = Vec::new();
    for entry in image.walk() {
        let entry = entry.unwrap();
        let file = &entry.file;
        let meta = file.meta().unwrap();
        let (size, sha256) = if file.is_dir() { digest(&Vec::new()) } else { digest(&file.open().unwrap()) };
        let path = if entry.path.is_root() { String::new() } else { entry.path.to_string() };
        let times = [meta.creation, meta.write, meta.change, meta.access].map(|time| time.0.to_string());
        let buffers = [&meta.security, &meta.ea, &meta.reparse].map(|buffer| hex(buffer));
        lines.push(format!(
            "{path}|{}|{}|{size}|{}|{}|{}",
            file.id().0,
            meta.attributes.bits(),
            times.join("|"),
            buffers.join("|"),
            hex(&sha256),
        ));
        for stream in file.streams().unwrap() {
            let (size, sha256) = digest(&file.open_entry(&stream).unwrap());
            lines.push(format!("{path}:{}|{size}|{}", stream.name, hex(&sha256)));
        }
    }
    lines
}

#[test]
fn an_independent_reader_finds_the_same() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/read_cim.py");
    for major in [Major::V1, Major::V2, Major::V3] {
        let temp = tempfile::tempdir().unwrap();
        for name in write_many(temp.path(), major) {
            let run = Command::new("python3").arg(script).arg(temp.path()).arg(name.as_str()).output();
            let output = match run {
                Ok(output) => output,
                Err(error) => {
                    let required = std::env::var_os("LAYERKIT_REQUIRE").is_some_and(|v| v == "1");
                    assert!(!required, "the independent reader cannot run: {error}");
                    eprintln!("SKIP an_independent_reader_finds_the_same: {error}");
                    return;
                }
            };
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            let found: Vec<_> = str::from_utf8(&output.stdout).unwrap().lines().map(str::to_owned).collect();
            let expected = listing(&open(temp.path(), &name));
            assert!(expected.len() > 2300, "{} lines", expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found, expected);
            }
            assert_eq!(found.len(), expected.len());
        }
    }
}
