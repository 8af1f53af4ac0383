//! The boot CIM of a utility VM.

mod support;

use cim_writer_abstraction::{
    Attributes, CimKind, CimPath, FileMeta, LayerEvent, Recorder, StreamName,
    boot::{self, BootPlanner, Booted},
    content::MemoryBlobs,
    reparse::Link,
    vhd::UniqueId,
    wcow::WcowEvents,
};
use layer_model::{Content, Digest, ErrorKind, Monitor, Result, Silent};

/// An entry of a layer.
#[derive(Clone, Debug)]
enum Entry {
    Dir(&'static str),
    File(&'static str, &'static str),
    Link(&'static str, &'static str),
    Symlink(&'static str),
    Stream(&'static str),
    Remove(&'static str),
    Opaque(&'static str),
}

use Entry::{Dir, File, Opaque, Remove, Stream, Symlink};

fn path(text: &str) -> CimPath {
    CimPath::new(text).expect("a path")
}

impl Entry {
    fn event<'a>(&self) -> Result<LayerEvent<'a>> {
        let add = |text: &str, meta, content| LayerEvent::Add { path: path(text), meta, content };
        Ok(match self {
            Dir(at) => {
                let meta = FileMeta::new(Attributes::DIRECTORY | Attributes::HIDDEN);
                add(at, meta, Content::empty())
            }
            File(at, bytes) => {
                add(at, FileMeta::new(Attributes::ARCHIVE), Content::from_bytes(bytes.as_bytes()))
            }
            Self::Link(at, to) => LayerEvent::Link { path: path(at), target: path(to) },
            Symlink(at) => {
                let reparse = Link::new(b"x", false).encode()?;
                let meta = FileMeta { reparse, ..FileMeta::new(Attributes::REPARSE_POINT) };
                add(at, meta, Content::empty())
            }
            Stream(at) => {
                LayerEvent::Stream { of: path(at), name: StreamName::new("s")?, content: Content::empty() }
            }
            Remove(at) => LayerEvent::Remove { path: path(at) },
            Opaque(at) => LayerEvent::Opaque { path: path(at) },
        })
    }
}

/// A reading of a layer.
struct Reading<'a>(std::slice::Iter<'a, Entry>);

impl WcowEvents for Reading<'_> {
    fn next_event(&mut self) -> Result<Option<LayerEvent<'_>>> {
        self.0.next().map(|entry| entry.event()).transpose()
    }
}

type Recording = Recorder<Vec<u8>, MemoryBlobs>;

fn recorder() -> Recording {
    Recorder::new(CimKind::Block, Vec::new(), MemoryBlobs::default())
}

/// Builds the boot CIM of a layer: its journal, what it came to, and how often the layer was read.
fn build(layer: &[Entry]) -> Result<(Vec<String>, Booted, usize)> {
    let mut readings = 0;
    let (booted, recorder) =
        boot::build(recorder(), r"C:\s\1\boot.bcim", UniqueId::Fixed([7; 16]), &Silent, || {
            readings += 1;
            Ok(Reading(layer.iter()))
        })?;
    let journal = recorder.finish()?.journal;
    let journal = String::from_utf8(journal).expect("text").lines().map(str::to_owned).collect();
    Ok((journal, booted, readings))
}

/// A line of the journal, shortened: what is done, to what.
fn short(line: &str) -> String {
    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    match text("op").as_str() {
        "create_file" => format!("file {} {} {}", text("path"), line["attrs"], line["size"]),
        "data" => format!("data {}", text("sha256")),
        "hard_link" => format!("link {} {}", text("path"), text("target")),
        other => other.to_owned(),
    }
}

fn data(bytes: &str) -> String {
    format!("data {}", Digest::sha256(bytes.as_bytes()).to_string().trim_start_matches("sha256:"))
}

/// The operations between the creation of the image and its commitment.
fn operations(layer: &[Entry]) -> Vec<String> {
    let (journal, ..) = build(layer).expect("built");
    let end = journal.len() - 4;
    journal[1..end].iter().map(|line| short(line)).collect()
}

const BASE: [Entry; 7] = [
    Dir("Files"),
    File(r"Files\f1.txt", "F1"),
    File(r"Files\f2.txt", "F2"),
    Dir("UtilityVM"),
    Dir(r"UtilityVM\Files"),
    File(r"UtilityVM\Files\u.txt", "U"),
    Entry::Link(r"UtilityVM\Files\ul1.txt", r"Files\f1.txt"),
];

fn base(more: &[Entry]) -> Vec<Entry> {
    [&BASE[..], more].concat()
}

#[test]
fn links_of_the_vm_become_copies_and_links_of_its_own() {
    let layer = base(&[Entry::Link(r"UtilityVM\Files\ul2.txt", r"UtilityVM\Files\u.txt")]);
    let (journal, booted, readings) = build(&layer).unwrap();
    assert_eq!(
        journal[0],
        r#"{"op":"create_image","kind":"block","container":"C:\\s\\1\\boot.bcim","name":"boot.cim","parent":"","flags":72}"#
    );
    let operations: Vec<_> = journal[1..].iter().map(|line| short(line)).collect();
    let u = data("U");
    let f1 = data("F1");
    assert_eq!(
        operations,
        [
            "file u.txt 32 1",
            &u,
            "file ul1.txt 32 2",
            &f1,
            "link ul2.txt u.txt",
            "commit",
            "close",
            "seal",
            "vhd_footer",
        ]
    );
    assert_eq!((booted.files, booted.bytes, readings), (3, 3, 2));
    assert_eq!(build(&layer).unwrap().0, journal);
}

#[test]
fn a_layer_is_read_once_when_nothing_has_to_be_copied() {
    let (_, booted, readings) = build(&BASE[..6]).unwrap();
    assert_eq!((booted.files, readings), (1, 1));
}

#[test]
fn a_file_is_copied_once_and_linked_to_its_further_names() {
    let layer = base(&[
        Entry::Link(r"UtilityVM\Files\new\deep\a.txt", r"files\F1.TXT"),
        Entry::Link(r"UtilityVM\Files\b.txt", r"Files\f1.txt"),
        Entry::Link(r"UtilityVM\Files\c.txt", r"UtilityVM\Files\b.txt"),
    ]);
    let (u, f1) = (data("U"), data("F1"));
    assert_eq!(
        operations(&layer),
        [
            "file u.txt 32 1",
            &u,
            "file ul1.txt 32 2",
            &f1,
            "file new 16 0",
            r"file new\deep 16 0",
            r"link new\deep\a.txt ul1.txt",
            "link b.txt ul1.txt",
            "link c.txt b.txt",
        ]
    );
}

#[test]
fn a_directory_of_the_layer_is_not_made_again_for_a_copy() {
    let layer = base(&[Dir(r"UtilityVM\Files\d"), Entry::Link(r"UtilityVM\Files\D\x", r"Files\f2.txt")]);
    let made: Vec<_> = operations(&layer).into_iter().filter(|op| op.contains(" d ")).collect();
    assert_eq!(made, ["file d 18 0"], "with its own attributes");
}

#[test]
fn links_lead_through_earlier_links_of_the_container() {
    let layer = base(&[
        Entry::Link(r"Files\l1", r"Files\f2.txt"),
        Entry::Link(r"Files\l2", r"Files\l1"),
        Entry::Link(r"UtilityVM\Files\x", r"Files\l2"),
    ]);
    let operations = operations(&layer);
    let at = operations.iter().position(|op| op == "file x 32 2").unwrap();
    assert_eq!(operations[at + 1], data("F2"));
}

#[test]
fn what_is_not_the_vms_is_left_out() {
    let layer = base(&[
        Dir("Hives"),
        File(r"UtilityVM\other", "x"),
        File(r"UtilityVM\Filesystem", "x"),
        Dir("Files"),
    ]);
    assert!(!operations(&layer).iter().any(|op| op.contains("other") || op.contains("Filesystem")));
}

#[test]
fn layers_that_are_no_base_of_a_vm_are_refused() {
    let link = |at, to| Entry::Link(at, to);
    for (what, entry, kind) in [
        ("whiteout", Remove(r"Files\x"), ErrorKind::InvalidArchive),
        ("opaque directory", Opaque("Files"), ErrorKind::InvalidArchive),
        ("alternate stream", Stream(r"Files\f1.txt"), ErrorKind::InvalidArchive),
        ("symbolic link", Symlink(r"Files\s"), ErrorKind::InvalidArchive),
        ("target nowhere", link(r"UtilityVM\Files\x", r"Files\nope"), ErrorKind::NotFound),
        (
            "target nowhere in the VM",
            link(r"UtilityVM\Files\x", r"UtilityVM\Files\nope"),
            ErrorKind::NotFound,
        ),
        ("target is a directory", link(r"UtilityVM\Files\x", "Files"), ErrorKind::IsDirectory),
        ("twice", File(r"Files\F1.txt", "x"), ErrorKind::ConflictingEntries),
        ("twice in the VM", Dir(r"UtilityVM\Files\u.txt"), ErrorKind::ConflictingEntries),
        ("link over a file", link(r"UtilityVM\Files\u.txt", r"Files\f1.txt"), ErrorKind::ConflictingEntries),
        ("no directory", File(r"UtilityVM\Files\d\x", "x"), ErrorKind::MissingParentEntry),
        ("below a file", File(r"UtilityVM\Files\u.txt\x", "x"), ErrorKind::NotDirectory),
    ] {
        let error = build(&base(std::slice::from_ref(&entry))).unwrap_err();
        assert_eq!(error.kind(), &kind, "{what}: {error}");
        assert!(error.entry_path().is_some(), "{what}");
    }
    // A file that is neither the VM's nor the container's.
    let layer = base(&[File("layout", "x"), link(r"UtilityVM\Files\x", "layout")]);
    assert_eq!(build(&layer).unwrap_err().kind(), &ErrorKind::InvalidArchive);
    let below = base(&[link(r"UtilityVM\Files\u.txt\x", r"Files\f2.txt")]);
    assert_eq!(build(&below).unwrap_err().kind(), &ErrorKind::NotDirectory);
}

/// The journal of a build that fails.
fn failed(build: impl FnOnce(&mut Recording) -> Result<()>) -> (ErrorKind, String) {
    let mut recorder = recorder();
    let error = build(&mut recorder).expect_err("failed");
    (error.kind().clone(), String::from_utf8(recorder.into_journal().expect("a journal")).expect("text"))
}

#[test]
fn a_failure_discards_the_image() {
    let layer = base(&[Remove(r"Files\x")]);
    let (kind, journal) = failed(|sink| {
        let open = || Ok(Reading(layer.iter()));
        boot::build(sink, "boot.bcim", UniqueId::Fixed([0; 16]), &Silent, open).map(|_| ())
    });
    assert_eq!(kind, ErrorKind::InvalidArchive);
    assert!(journal.ends_with("{\"op\":\"discard\"}\n"), "{journal}");
}

#[test]
fn a_layer_that_is_another_the_second_time_is_noticed() {
    let mut readings = 0;
    let (kind, journal) = failed(|sink| {
        let open = || {
            readings += 1;
            let layer = if readings == 1 { &BASE[..] } else { &BASE[2..] };
            Ok(Reading(layer.iter()))
        };
        boot::build(sink, "boot.bcim", UniqueId::Fixed([0; 16]), &Silent, open).map(|_| ())
    });
    assert_eq!(kind, ErrorKind::FileChanged);
    assert!(journal.ends_with("{\"op\":\"discard\"}\n"), "{journal}");
}

#[test]
fn the_build_can_be_cancelled_in_both_readings() {
    struct After(std::sync::atomic::AtomicUsize);
    impl Monitor for After {
        fn should_stop(&self) -> bool {
            self.0.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) == 0
        }
    }
    for events in 0..2 * BASE.len() {
        let (kind, journal) = failed(|sink| {
            let open = || Ok(Reading(BASE.iter()));
            let monitor = After(events.into());
            boot::build(sink, "boot.bcim", UniqueId::Fixed([0; 16]), &monitor, open).map(|_| ())
        });
        assert_eq!(kind, ErrorKind::Cancelled);
        assert!(journal.ends_with("{\"op\":\"discard\"}\n"), "{events}: {journal}");
    }
}

#[test]
fn the_container_has_to_be_somewhere() {
    assert_eq!(BootPlanner::new(recorder(), "").unwrap_err().kind(), &ErrorKind::InvalidArgument);
}
