//! EROFS images that are planned first and then written from start to end, and images around their archive.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::io::{Cursor, Read, Write};

use erofs_format::{CheckOptions, Image, Memory};
use layer_apply::{ErofsImage, ErofsOptions, ErofsPlanner, ErofsSink, ImageWrite};
use layer_model::{
    Action, Base, Change, Content, Entry, EntryKind, ErrorKind, LayerPath, LayerSink, LayerSource, LayerTree,
    Metadata, Result, Silent, Stack, content::Extent, road, testing::Snapshot,
};
use layer_tar::{ReadOptions, TarSource};
use overlay_dir::OverlayDir;
use support::{Place, cases::CASES, changes};

/// An output that takes a few bytes at a time, and cannot go back.
#[derive(Default)]
struct Pipe(Vec<u8>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = bytes.len().min(1000);
        self.0.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl ImageWrite for Pipe {
    fn fill_with(&mut self, most: u64, read: &mut dyn FnMut(&mut [u8]) -> Result<usize>) -> Result<usize> {
        let mut memory = [0; 777];
        let most = memory.len().min(usize::try_from(most).unwrap());
        let n = read(&mut memory[..most])?;
        self.0.extend_from_slice(&memory[..n]);
        Ok(n)
    }
}

/// The image that changes give when the content of their files comes from `tree`.
fn planned(
    source: &mut dyn LayerSource,
    tree: &dyn LayerTree,
    parents: Base<'_, OverlayDir>,
) -> Result<Vec<u8>> {
    let planner = ErofsPlanner::new(parents, ErofsOptions::new(), &Silent)?;
    let plan = road::pump(source, planner, &Silent)?;
    let (out, written) = plan.write(tree, Pipe::default(), &Silent)?;
    assert_eq!((written.image.size, plan.size()), (out.0.len() as u64, out.0.len() as u64));
    Ok(out.0)
}

/// The image that changes give when it is written as they come.
fn streamed(source: &mut dyn LayerSource, parents: Base<'_, OverlayDir>) -> Vec<u8> {
    let sink = ErofsSink::new(Cursor::new(Vec::new()), parents, ErofsOptions::new(), &Silent).unwrap();
    road::pump(source, sink, &Silent).unwrap().0.into_inner()
}

fn opened(bytes: Vec<u8>) -> Image {
    let image = Image::open(Memory(bytes)).unwrap();
    let report = image.check(&CheckOptions::new()).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
    image
}

#[test]
fn a_planned_image_is_the_one_that_is_written_as_files_come() {
    for case in CASES {
        let place = Place::new();
        let parents = place.parents(case.parents);
        let base = Base::from_stack(parents.as_ref());
        let has_links = [case.layer].iter().chain(case.parents).any(|text| text.contains('>'));
        let streamed = ErofsImage::new(opened(streamed(&mut changes(case.layer), base)), "streamed");
        let planned = match planned(&mut changes(case.layer), &streamed, base) {
            // Content of another layer would have to come, too.
            Err(error) if error.kind() == &ErrorKind::NotFound => continue,
            // A path through a link: no walk gives such a one.
            Err(error) if error.kind() == &ErrorKind::FileChanged && has_links => continue,
            made => made.unwrap_or_else(|e| panic!("{}: {}", case.name, e.chain())),
        };
        let planned = ErofsImage::new(opened(planned), "planned");
        let difference = Snapshot::of(&streamed).unwrap().difference(&Snapshot::of(&planned).unwrap());
        assert!(difference.is_empty(), "{}: {difference:#?}", case.name);
    }
}

/// One sparse file, and one that replaces another.
struct Sparse(Vec<u8>, u8);

const EXTENTS: [Extent; 3] = [
    Extent { offset: 5000, len: 100 },
    Extent { offset: 8192, len: 9000 },
    Extent { offset: 1 << 30, len: 3 },
];

impl LayerSource for Sparse {
    fn next_change(&mut self) -> Result<Option<Change<'_>>> {
        self.1 += 1;
        let content = match self.1 {
            1 | 2 => Content::from_bytes(b"the first is replaced"),
            3 => {
                let packed: &mut dyn std::io::BufRead = Box::leak(Box::new(Cursor::new(self.0.clone())));
                Content::sparse(&EXTENTS, packed, (1 << 30) + 3)?
            }
            _ => return Ok(None),
        };
        let path = LayerPath::new(if self.1 == 3 { b"sparse" } else { b"twice" })?;
        let entry = Entry::new(EntryKind::File(content), Metadata::file(0o644));
        Ok(Some(Change::new(path, Action::Upsert(entry))))
    }
}

#[test]
fn holes_stay_holes_and_what_is_replaced_is_left_out() {
    let packed: Vec<u8> = (0..9103u32).map(|n| (n % 251) as u8 + 1).collect();
    let source = || Sparse(packed.clone(), 0);
    let tree = ErofsImage::new(opened(streamed(&mut source(), Base::Empty)), "tree");
    let bytes = planned(&mut source(), &tree, Base::Empty).unwrap();
    assert!(bytes.len() < 1 << 20, "{} bytes for a gigabyte of holes", bytes.len());
    let image = opened(bytes);
    let file = image.lookup("sparse").unwrap();
    let read = |offset: u64, len: usize| {
        let mut content = image.file(file.clone());
        std::io::Seek::seek(&mut content, std::io::SeekFrom::Start(offset)).unwrap();
        let mut bytes = vec![0; len];
        content.read_exact(&mut bytes).unwrap();
        bytes
    };
    assert_eq!(read(5000, 100), packed[..100]);
    assert_eq!(read(8192, 9000), packed[100..9100]);
    assert_eq!(read(1 << 30, 3), packed[9100..]);
    assert_eq!((read(0, 5000), read(1 << 20, 8192)), (vec![0; 5000], vec![0; 8192]));
    let twice = std::io::read_to_string(image.file(image.lookup("twice").unwrap())).unwrap();
    assert_eq!(twice, "the first is replaced");
}

#[test]
fn files_that_are_not_what_they_were_are_an_error() {
    for (before, after) in [
        ("a:\"1\"; b:\"2\"", "a:\"1\""),
        ("a:\"1\"", "a:\"12\""),
        ("a:\"12\"", "a:\"1\""),
        ("a:\"1\"", "a"),
        ("a:\"1\"", "a/"),
        ("a:\"1\"", "a>b; b:\"1\""),
        ("d/; d/a:\"1\"", "d:\"1\""),
        ("a:\"1\"", ""),
    ] {
        let tree = ErofsImage::new(opened(streamed(&mut changes(after), Base::Empty)), "after");
        let error = planned(&mut changes(before), &tree, Base::Empty).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::FileChanged, "{before} | {after}");
        assert!(error.entry_path().is_some(), "{before} | {after}: {error}");
    }
}

#[test]
fn an_image_around_its_archive_needs_nothing_else() {
    let tar = support::tar("d/; d/f:\"hello\"; d/e; g=d/f; big:\"0123456789\" user.k=v; wh:gone; l>d");
    let parents = Place::new();
    let parents: Stack<OverlayDir> = parents.parents(&["low:\"lower\"; ./ 0711 mtime 1"]).unwrap();
    for late in [true, false] {
        let base = Base::Layers(&parents);
        let mut image = Cursor::new(Vec::new());
        let first = if late { Base::Unknown } else { base };
        let mut sink = ErofsSink::around_archive(&mut image, first, ErofsOptions::new(), &Silent).unwrap();
        let start = sink.archive_start().unwrap();
        let mut source = TarSource::new(&tar[..], ReadOptions::default(), &Silent);
        road::drive(&mut source, &mut sink, &Silent).unwrap();
        // A link to another layer, whose content the archive does not have.
        let link = EntryKind::HardLink { target: LayerPath::new(b"low").unwrap() };
        let entry = Action::Upsert(Entry::new(link, Metadata::file(0o600)));
        sink.change(Change::new(LayerPath::new(b"up").unwrap(), entry)).unwrap();
        sink.set_archive(tar.len() as u64, layer_model::Digest::sha256(&tar));
        if late {
            sink.adopt(base).unwrap();
        }
        sink.finish().unwrap();
        let mut bytes = image.into_inner();
        bytes[usize::try_from(start).unwrap()..][..tar.len()].copy_from_slice(&tar);
        let image = Image::open(Memory(bytes)).unwrap();
        let check = CheckOptions::new().unused_space(false);
        assert!(image.check(&check).unwrap().findings.is_empty());
        assert_eq!((image.superblock().block_bits, image.devices().len()), (9, 0));
        let read = |path: &str| std::io::read_to_string(image.file(image.lookup(path).unwrap())).unwrap();
        assert_eq!([read("d/f"), read("g"), read("big"), read("d/e")], ["hello", "hello", "0123456789", ""]);
        assert_eq!([read("up"), read("low")], ["lower", "lower"]);
        let layer = ErofsImage::new(image, "test");
        assert_eq!(layer.root().unwrap().node().unwrap().metadata.mode, 0o711, "as the parent has it");
    }
}
