//! The rules, one function each.

use layer_model::ErrorKind;

use super::SinkCase;
use crate::{
    Attributes, CimKind, CimName, CimOp, CimPath, CimSink, FileMeta, FileTime, StreamName,
    op::{CreateFlags, MergeFlags},
};

/// Runs every rule.
///
/// # Panics
/// When one is broken.
pub fn sink_conformance(case: &mut dyn SinkCase) {
    for (rule, test) in RULES {
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(case)));
        if let Err(panic) = run {
            let what = panic.downcast_ref::<String>().map(String::as_str);
            let what = what.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            panic!("broken rule: {rule}: {what}");
        }
    }
}

type Rule = fn(&mut dyn SinkCase);

const RULES: &[(&str, Rule)] = &[
    ("what is committed is there", what_is_committed_is_there),
    ("what is not committed is not there", what_is_not_committed_is_not_there),
    ("operations come in order", operations_come_in_order),
    ("a stream gets exactly its bytes", a_stream_gets_exactly_its_bytes),
    ("one stream is open at a time", one_stream_is_open_at_a_time),
    ("parents are never made on the way", parents_are_never_made_on_the_way),
    ("what is created replaces what was there", what_is_created_replaces_what_was_there),
    ("links are to files", links_are_to_files),
    ("streams belong to their file", streams_belong_to_their_file),
    ("a directory is deleted with all in it", a_directory_is_deleted_with_all_in_it),
    ("a fork shows its parent and what changed", a_fork_shows_its_parent_and_what_changed),
    ("an unwritten parent makes a deletion in a fork do nothing", deletions_need_a_written_parent),
    ("images are named once", images_are_named_once),
    ("one image of a place is written at a time", one_image_of_a_place_is_written_at_a_time),
    ("only block images have tombstones and merged links", only_block_images_are_merged),
    ("sources are merged topmost first", sources_are_merged_topmost_first),
    ("merged links lead to files", merged_links_lead_to_files),
    ("only images of one kind are merged", only_images_of_one_kind_are_merged),
    ("only sealed images have a root digest", only_sealed_images_have_a_root_digest),
    ("the same operations give the same image", the_same_operations_give_the_same_image),
];

fn path(text: &str) -> CimPath {
    CimPath::new(text).expect("the suite's paths are paths")
}

fn name(text: &str) -> CimName {
    CimName::new(text).expect("the suite's names are names")
}

fn dir_meta() -> FileMeta {
    FileMeta::new(Attributes::DIRECTORY)
}

fn file_meta() -> FileMeta {
    let at = FileTime(133_444_736_000_000_000);
    FileMeta { creation: at, write: at, change: at, access: at, ..FileMeta::new(Attributes::ARCHIVE) }
}

const BLOCK: CreateFlags = CreateFlags::SINGLE_FILE.union(CreateFlags::CONSISTENT);

/// An image while it is made; every step has to go well.
struct Making<'s>(Box<dyn CimSink + 's>);

impl<'s> Making<'s> {
    fn new(case: &'s mut dyn SinkCase, place: &str, image: &str) -> Self {
        Self::create(case, CimKind::Block, place, image, None, BLOCK)
    }

    fn forked(case: &'s mut dyn SinkCase, place: &str, image: &str, parent: Option<&str>) -> Self {
        Self::create(case, CimKind::Forked, place, image, parent, CreateFlags::empty())
    }

    fn create(
        case: &'s mut dyn SinkCase,
        kind: CimKind,
        place: &str,
        image: &str,
        parent: Option<&str>,
        flags: CreateFlags,
    ) -> Self {
        let mut making = Self(case.sink());
        let parent = parent.map(name);
        making.ok(&CimOp::CreateImage {
            kind,
            container: place,
            name: &name(image),
            parent: parent.as_ref(),
            flags,
        });
        making
    }

    fn ok(&mut self, op: &CimOp<'_>) {
        if let Err(error) = self.0.op(op) {
            panic!("{op:?} failed: {}", error.chain());
        }
    }

    fn fails(mut self, op: &CimOp<'_>) -> ErrorKind {
        match self.0.op(op) {
            Ok(()) => panic!("{op:?} should have failed"),
            Err(error) => {
                self.ok(&CimOp::Discard);
                error.kind().clone()
            }
        }
    }

    fn dir(&mut self, at: &str) {
        self.ok(&CimOp::CreateFile { path: &path(at), meta: &dir_meta(), size: 0 });
        self.ok(&CimOp::EndStream);
    }

    fn file(&mut self, at: &str, bytes: &[u8]) {
        self.ok(&CimOp::CreateFile { path: &path(at), meta: &file_meta(), size: bytes.len() as u64 });
        self.bytes(bytes);
    }

    fn stream(&mut self, of: &str, stream: &str, bytes: &[u8]) {
        let stream = StreamName::new(stream).expect("a name");
        self.ok(&CimOp::CreateStream { of: &path(of), name: &stream, size: bytes.len() as u64 });
        self.bytes(bytes);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(3) {
            if let Err(error) = self.0.write(piece) {
                panic!("writing failed: {}", error.chain());
            }
        }
        self.ok(&CimOp::EndStream);
    }

    fn link(&mut self, at: &str, target: &str) {
        self.ok(&CimOp::HardLink { path: &path(at), target: &path(target) });
    }

    fn delete(&mut self, at: &str) {
        self.ok(&CimOp::Delete { path: &path(at) });
    }

    fn commit(mut self) {
        self.ok(&CimOp::Commit);
        self.ok(&CimOp::Close);
    }
}

fn dump(case: &mut dyn SinkCase, place: &str, image: &str) -> Vec<String> {
    let dump = case.dump(place, &name(image)).unwrap_or_else(|| panic!("there is no image {image}"));
    dump.lines().map(ToOwned::to_owned).collect()
}

/// The paths of a dump.
fn paths(case: &mut dyn SinkCase, place: &str, image: &str) -> Vec<String> {
    let lines = dump(case, place, image);
    let path = |line: &String| line.split('"').nth(3).unwrap_or_default().replace("\\\\", "\\");
    lines.iter().map(path).collect()
}

fn what_is_committed_is_there(case: &mut dyn SinkCase) {
    let place = case.place(CimKind::Block);
    let mut image = Making::new(case, &place, "i.cim");
    image.dir("d");
    image.file("d\\f", b"hello cim");
    image.file("d\\Empty", b"");
    image.link("d\\g", "D\\F");
    image.commit();
    let lines = dump(case, &place, "i.cim");
    let expected = [
        r#"{"path":"d","type":"dir","attrs":16,"size":0,"sha256":"","nlink":1,"source":0}"#.to_owned(),
        concat!(
            r#"{"path":"d\\Empty","type":"file","attrs":32,"size":0,"#,
            r#""sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","nlink":1,"source":0}"#
        )
        .to_owned(),
    ];
    assert_eq!(lines[..2], expected);
    assert_eq!(lines.len(), 4);
    assert!(lines[2].starts_with(r#"{"path":"d\\f","type":"file","attrs":32,"size":9,"#), "{}", lines[2]);
    assert!(lines[2].ends_with(r#""nlink":2,"source":0}"#), "{}", lines[2]);
    assert_eq!(lines[3], lines[2].replace("d\\\\f", "d\\\\g"));
}

fn what_is_not_committed_is_not_there(case: &mut dyn SinkCase) {
    let place = case.place(CimKind::Block);
    let mut image = Making::new(case, &place, "dropped.cim");
    image.file("f", b"1");
    drop(image);
    assert_eq!(case.dump(&place, &name("dropped.cim")), None);
    let mut image = Making::new(case, &place, "discarded.cim");
    image.file("f", b"1");
    image.ok(&CimOp::Discard);
    drop(image);
    assert_eq!(case.dump(&place, &name("discarded.cim")), None);
    let mut image = Making::new(case, &place, "cut.cim");
    image.ok(&CimOp::CreateFile { path: &path("f"), meta: &file_meta(), size: 5 });
    drop(image);
    assert_eq!(case.dump(&place, &name("cut.cim")), None);
    // All of it is as if it had never been.
    let mut image = Making::new(case, &place, "dropped.cim");
    image.file("g", b"1");
    image.commit();
    assert_eq!(paths(case, &place, "dropped.cim"), ["g"]);
}

fn operations_come_in_order(case: &mut dyn SinkCase) {
    let early = CimOp::Delete { path: &path("f") };
    assert_eq!(Making(case.sink()).fails(&early), ErrorKind::FailedPrecondition);
    let place = case.place(CimKind::Block);
    let again = CimOp::CreateImage {
        kind: CimKind::Block,
        container: &place,
        name: &name("b.cim"),
        parent: None,
        flags: BLOCK,
    };
    assert_eq!(Making::new(case, &place, "a.cim").fails(&again), ErrorKind::FailedPrecondition);
    assert_eq!(Making::new(case, &place, "a.cim").fails(&CimOp::Close), ErrorKind::FailedPrecondition);
    assert_eq!(Making::new(case, &place, "a.cim").fails(&CimOp::EndStream), ErrorKind::FailedPrecondition);
    let mut image = Making::new(case, &place, "a.cim");
    let write = image.0.write(b"x").expect_err("no stream is open");
    assert_eq!(write.kind(), &ErrorKind::FailedPrecondition);
    drop(image);
    let mut image = Making::new(case, &place, "a.cim");
    image.file("f", b"1");
    image.ok(&CimOp::Commit);
    for late in [&early, &CimOp::Commit, &CimOp::Discard] {
        let error = image.0.op(late).expect_err("the image is committed");
        assert_eq!(error.kind(), &ErrorKind::FailedPrecondition, "{late:?}");
    }
    image.ok(&CimOp::Close);
    drop(image);
    assert_eq!(paths(case, &place, "a.cim"), ["f"]);
}

fn a_stream_gets_exactly_its_bytes(case: &mut dyn SinkCase) {
    let place = case.place(CimKind::Block);
    let meta = file_meta();
    let file = path("f");
    let open = CimOp::CreateFile { path: &file, meta: &meta, size: 3 };
    let mut image = Making::new(case, &place, "long.cim");
    image.ok(&open);
    image.0.write(b"12").expect("there is room");
    let error = image.0.write(b"34").expect_err("there is no room");
    assert!(matches!(error.kind(), ErrorKind::SizeMismatch { expected: 3, .. }), "{error:?}");
    drop(image);
    let mut image = Making::new(case, &place, "short.cim");
    image.ok(&open);
    image.0.write(b"12").expect("there is room");
    let kind = image.fails(&CimOp::EndStream);
    assert!(matches!(kind, ErrorKind::SizeMismatch { expected: 3, got: 2 }), "{kind:?}");
}

fn one_stream_is_open_at_a_time(case: &mut dyn SinkCase) {
    let place = case.place(CimKind::Block);
    let (meta, f, g) = (file_meta(), path("f"), path("g"));
    let stream = StreamName::new("s").expect("a name");
    for second in [
        CimOp::CreateFile { path: &g, meta: &meta, size: 0 },
        CimOp::CreateStream { of: &f, name: &stream, size: 0 },
        CimOp::HardLink { path: &g, target: &f },
        CimOp::Delete { path: &f },
        CimOp::Commit,
    ] {
        let mut image = Making::new(case, &place, "i.cim");
        image.ok(&CimOp::CreateFile { path: &f, meta: &meta, size: 0 });
        assert_eq!(image.fails(&second), ErrorKind::Busy, "{second:?}");
    }
}

fn parents_are_never_made_on_the_way(case: &mut dyn SinkCase) {
    let place = case.place(CimKind::Block);
    let (meta, below) = (file_meta(), path("d\\f"));
    let create = CimOp::CreateFile { path: &below, meta: &meta, size: 0 };
    assert_eq!(Making::new(case, &place, "i.cim").fails(&create), ErrorKind::NotFound);
    let mut image = Making::new(case, &place, "i.cim");
    image.file("d", b"a file is no parent");
    assert_eq!(image.fails(&create), ErrorKind::NotFound);
    let mut image = Making::new(case, &place, "i.cim");
    image.file("f", b"");
    let link = CimOp::HardLink { path: &below, target: &path("f") };
    assert_eq!(image.fails(&link), ErrorKind::NotFound);
}

fn what_is_created_replaces_what_was_there(case: &mut dyn SinkCase) {
    let place = case.place(CimKind::Block);
    let mut image = Making::new(case, &place, "i.cim");
    image.file("f", b"old");
    image.link("kept", "f");
    image.file("F", b"newer");
    image.dir("d");
    image.file("d\\gone", b"x");
    image.file("d", b"a file now");
    image.dir("e");
    image.file("e\\stays", b"x");
    image.dir("E");
    image.commit();
    assert_eq!(paths(case, &place, "i.cim"), ["d", "E", "E\\stays", "F", "kept"]);
    let lines = dump(case, &place, "i.cim");
    assert!(lines[3].contains(r#""size":5,"#) && lines[3].contains(r#""nlink":1,"#), "{}", lines[3]);
    assert!(lines[4].contains(r#""size":3,"#) && lines[4].contains(r#""nlink":1,"#), "{}", lines[4]);
}

fn linkable<'s>(case: &'s mut dyn SinkCase, place: &str) -> Making<'s> {
    let mut image = Making::new(case, place, "i.cim");
    image.dir("d");
    image.file("f", b"1");
    image.file("g", b"22");
    image
}

fn links_are_to_files(case: &mut dyn SinkCase) {
    let place = case.place(CimKind::Block);
    let (d, f, g, x) = (path("d"), path("f"), path("g"), path("x"));
    for (op, kind) in [
        (CimOp::HardLink { path: &x, target: &d }, ErrorKind::IsDirectory),
        (CimOp::HardLink { path: &d, target: &f }, ErrorKind::IsDirectory),
        (CimOp::HardLink { path: &g, target: &x }, ErrorKind::NotFound),
    ] {
        assert_eq!(linkable(&mut *case, &place).fails(&op), kind, "{op:?}");
    }
    let mut image = linkable(&mut *case, &place);
    image.link("g", "f");
    image.link("f", "F");
    image.commit();
    let lines = dump(case, &place, "i.cim");
    assert_eq!(lines[2], lines[1].replace("\"f\"", "\"g\""), "one file has replaced the other");
}

fn streams_belong_to_their_file(case: &mut dyn SinkCase) {
    let place = case.place(CimKind::Block);
    let mut image = Making::new(case, &place, "i.cim");
    image.dir("d");
    image.stream("d", "of", b"a directory");
    image.file("f", b"main");
    image.stream("F", "empty", b"");
    image.stream("f", "zone:$DATA", b"[Zone]");
    image.file("gone", b"");
    image.stream("gone", "s", b"1");
    image.delete("gone");
    image.commit();
    assert_eq!(paths(case, &place, "i.cim"), ["d", "d:of", "f", "f:empty", "f:zone"]);
    let stream = StreamName::new("s").expect("a name");
    let of_nothing = CimOp::CreateStream { of: &path("x"), name: &stream, size: 0 };
    let other = Making::new(case, &place, "j.cim").fails(&of_nothing);
    assert_eq!(other, ErrorKind::NotFound);
}

fn a_directory_is_deleted_with_all_in_it(case: &mut dyn SinkCase) {
    let place = case.place(CimKind::Forked);
    let mut image = Making::forked(case, &place, "1.cim", None);
    for dir in ["a", "a\\b", "ab"] {
        image.dir(dir);
    }
    image.file("a\\b\\f", b"1");
    image.link("l", "a\\b\\f");
    image.delete("A");
    let nothing = CimOp::Delete { path: &path("a") };
    let error = image.0.op(&nothing).expect_err("it is gone");
    assert_eq!(error.kind(), &ErrorKind::NotFound);
    // Nothing has happened, so that it goes on.
    image.commit();
    assert_eq!(paths(case, &place, "1.cim"), ["ab", "l"]);
    let lines = dump(case, &place, "1.cim");
    assert!(lines[1].contains(r#""nlink":1,"#), "{}", lines[1]);
}

fn a_fork_shows_its_parent_and_what_changed(case: &mut dyn SinkCase) {
    let place = case.place(CimKind::Forked);
    let mut image = Making::forked(case, &place, "1.cim", None);
    image.dir("d");
    image.file("d\\f", b"1");
    image.file("d\\g", b"1");
    image.file("x", b"1");
    image.commit();
    let before = dump(case, &place, "1.cim");
    let mut image = Making::forked(case, &place, "2.cim", Some("1.cim"));
    image.dir("d");
    image.file("d\\f", b"changed");
    image.link("d\\h", "d\\g");
    image.delete("x");
    image.commit();
    assert_eq!(paths(case, &place, "2.cim"), ["d", "d\\f", "d\\g", "d\\h"]);
    let lines = dump(case, &place, "2.cim");
    for (line, source) in lines.iter().zip([0, 0, 1, 1]) {
        assert!(line.ends_with(&format!("\"source\":{source}}}")), "{line}");
    }
    assert_eq!(dump(case, &place, "1.cim"), before, "the parent is as it was");
}

fn deletions_need_a_written_parent(case: &mut dyn SinkCase) {
    let place = case.place(CimKind::Forked);
    let mut image = Making::forked(case, &place, "1.cim", None);
    image.dir("d");
    image.file("d\\f", b"1");
    image.commit();
    let mut image = Making::forked(case, &place, "2.cim", Some("1.cim"));
    image.delete("d\\f");
    image.commit();
    assert_eq!(paths(case, &place, "2.cim"), ["d", "d\\f"]);
    let mut image = Making::forked(case, &place, "3.cim", Some("1.cim"));
    image.dir("d");
    image.delete("d\\f");
    image.commit();
    assert_eq!(paths(case, &place, "3.cim"), ["d"]);
}

fn images_are_named_once(case: &mut dyn SinkCase) {
    let place = case.place(CimKind::Forked);
    Making::forked(case, &place, "1.cim", None).commit();
    let (one, two, none) = (name("1.cim"), name("2.cim"), name("none.cim"));
    for (new, parent, kind) in
        [(&one, None, ErrorKind::AlreadyExists), (&two, Some(&none), ErrorKind::NotFound)]
    {
        let op = CimOp::CreateImage {
            kind: CimKind::Forked,
            container: &place,
            name: new,
            parent,
            flags: CreateFlags::empty(),
        };
        assert_eq!(Making(case.sink()).fails(&op), kind);
    }
    let container = case.place(CimKind::Block);
    for (kind, parent, flags) in [
        (CimKind::Block, Some(&one), BLOCK),
        (CimKind::Block, None, CreateFlags::CONSISTENT),
        (CimKind::Block, None, CreateFlags::SINGLE_FILE | CreateFlags::BLOCK_DEVICE),
        (CimKind::Forked, None, BLOCK),
        (CimKind::Forked, None, CreateFlags::VERIFIED),
    ] {
        let op = CimOp::CreateImage { kind, container: &container, name: &two, parent, flags };
        assert_eq!(Making(case.sink()).fails(&op), ErrorKind::InvalidArgument, "{op:?}");
    }
    let op =
        CimOp::CreateImage { kind: CimKind::Block, container: "", name: &one, parent: None, flags: BLOCK };
    assert_eq!(Making(case.sink()).fails(&op), ErrorKind::InvalidArgument);
}

fn one_image_of_a_place_is_written_at_a_time(case: &mut dyn SinkCase) {
    let place = case.place(CimKind::Forked);
    let mut image = Making::forked(case, &place, "1.cim", None);
    image.file("f", b"1");
    // A sink that is spent, but not dropped, keeps its place no longer.
    image.ok(&CimOp::Discard);
    drop(image);
    Making::forked(case, &place, "2.cim", None).commit();
    assert_eq!(case.dump(&place, &name("1.cim")), None);
    assert_eq!(dump(case, &place, "2.cim"), [""; 0]);
}

fn only_block_images_are_merged(case: &mut dyn SinkCase) {
    let place = case.place(CimKind::Forked);
    let (f, g) = (path("f"), path("g"));
    for op in [
        CimOp::Tombstone { path: &f },
        CimOp::MergeLink { path: &f, target: &g },
        CimOp::AddSource { container: "C:\\x", name: &name("x.cim"), flags: MergeFlags::SINGLE_FILE },
    ] {
        let kind = Making::forked(case, &place, "i.cim", None).fails(&op);
        // A source that is not there may be found out first.
        let is_source = matches!(op, CimOp::AddSource { .. });
        let other = is_source && kind == ErrorKind::NotFound;
        assert!(
            other || matches!(kind, ErrorKind::InvalidArgument | ErrorKind::NotSupported),
            "{op:?}: {kind:?}"
        );
    }
}

/// Merges images, topmost first.
fn merge(case: &mut dyn SinkCase, into: &str, sources: &[&str]) {
    let mut image = Making::new(case, into, "merged.cim");
    for container in sources {
        let (name, flags) = (name("layer.cim"), MergeFlags::SINGLE_FILE);
        image.ok(&CimOp::AddSource { container, name: &name, flags });
    }
    image.commit();
}

fn sources_are_merged_topmost_first(case: &mut dyn SinkCase) {
    let places: Vec<_> = (0..4).map(|_| case.place(CimKind::Block)).collect();
    let [top, middle, base, merged] = &places[..] else { unreachable!("there are four") };
    let mut image = Making::new(case, base, "layer.cim");
    image.dir("d");
    image.file("d\\foo", b"foo2");
    image.file("d\\hidden", b"1");
    image.file("replaced", b"1");
    image.commit();
    let mut image = Making::new(case, middle, "layer.cim");
    image.file("bar", b"1");
    image.dir("replaced");
    image.commit();
    let mut image = Making::new(case, top, "layer.cim");
    image.dir("D");
    image.file("D\\FOO", b"foo1");
    image.ok(&CimOp::Tombstone { path: &path("d\\hidden") });
    image.ok(&CimOp::Tombstone { path: &path("nowhere") });
    image.commit();
    merge(case, merged, &[top, middle, base]);
    let lines = dump(case, merged, "merged.cim");
    assert_eq!(paths(case, merged, "merged.cim"), ["bar", "D", "D\\FOO", "replaced"]);
    for (line, source) in lines.iter().zip([1, 0, 0, 1]) {
        assert!(line.ends_with(&format!("\"source\":{source}}}")), "{line}");
    }
    // A tombstone and an entry of one path in one image cannot both hold.
    let place = case.place(CimKind::Block);
    let mut image = Making::new(case, &place, "layer.cim");
    image.file("f", b"");
    let kind = image.fails(&CimOp::Tombstone { path: &path("F") });
    assert!(matches!(kind, ErrorKind::ConflictingEntries | ErrorKind::AlreadyExists), "{kind:?}");
}

fn merged_links_lead_to_files(case: &mut dyn SinkCase) {
    let places: Vec<_> = (0..4).map(|_| case.place(CimKind::Block)).collect();
    let [top, base, merged, dangling] = &places[..] else { unreachable!("there are four") };
    let mut image = Making::new(case, base, "layer.cim");
    image.file("foobar.txt", b"1");
    image.commit();
    let mut image = Making::new(case, top, "layer.cim");
    image.ok(&CimOp::MergeLink { path: &path("b"), target: &path("foobar.txt") });
    image.ok(&CimOp::MergeLink { path: &path("a"), target: &path("b") });
    image.commit();
    merge(case, merged, &[top, base]);
    let lines = dump(case, merged, "merged.cim");
    assert_eq!(lines.len(), 3);
    for line in &lines {
        assert!(line.ends_with(r#""nlink":3,"source":1}"#), "{line}");
    }
    let mut image = Making::new(case, dangling, "merged.cim");
    for container in [base, top] {
        let (name, flags) = (name("layer.cim"), MergeFlags::SINGLE_FILE);
        image.ok(&CimOp::AddSource { container, name: &name, flags });
    }
    // A merged link sees what is below it, not what is above.
    assert_eq!(image.fails(&CimOp::Commit), ErrorKind::DanglingMergedLink);
    assert_eq!(case.dump(dangling, &name("merged.cim")), None);
}

fn only_images_of_one_kind_are_merged(case: &mut dyn SinkCase) {
    let source = case.place(CimKind::Block);
    let merged = case.place(CimKind::Block);
    Making::new(case, &source, "layer.cim").commit();
    let layer = name("layer.cim");
    for flags in
        [MergeFlags::BLOCK_DEVICE, MergeFlags::SINGLE_FILE | MergeFlags::VERIFIED, MergeFlags::empty()]
    {
        let op = CimOp::AddSource { container: &source, name: &layer, flags };
        assert_eq!(Making::new(case, &merged, "m.cim").fails(&op), ErrorKind::InvalidArgument, "{flags:?}");
    }
    let add = CimOp::AddSource { container: &source, name: &layer, flags: MergeFlags::SINGLE_FILE };
    let mut image = Making::new(case, &merged, "m.cim");
    image.ok(&add);
    assert_eq!(image.fails(&CimOp::Commit), ErrorKind::InvalidArgument, "one source is nothing to merge");
    let nowhere = CimOp::AddSource { container: "C:\\nowhere", name: &layer, flags: MergeFlags::SINGLE_FILE };
    assert_eq!(Making::new(case, &merged, "m.cim").fails(&nowhere), ErrorKind::NotFound);
}

fn only_sealed_images_have_a_root_digest(case: &mut dyn SinkCase) {
    let seals = case.seals();
    let plain = case.place(CimKind::Block);
    let mut image = Making::new(case, &plain, "layer.cim");
    image.ok(&CimOp::Commit);
    image.ok(&CimOp::Close);
    let error = image.0.op(&CimOp::Seal { container: &plain }).expect_err("it is not verified");
    assert_eq!(error.kind(), &ErrorKind::FailedPrecondition);
    assert_eq!(image.0.root_digest().expect("there is none to read"), None);
    drop(image);
    let mut digests = Vec::new();
    for content in [b"1", b"1", b"2"] {
        let place = case.place(CimKind::Block);
        let flags = BLOCK | CreateFlags::VERIFIED;
        let mut image = Making::create(case, CimKind::Block, &place, "layer.cim", None, flags);
        image.file("f", content);
        image.ok(&CimOp::Commit);
        image.ok(&CimOp::Close);
        assert_eq!(image.0.root_digest().expect("there is none yet"), None);
        image.ok(&CimOp::Seal { container: &place });
        digests.push(image.0.root_digest().expect("the image is sealed"));
    }
    assert_eq!(digests.iter().all(Option::is_some), seals);
    assert_eq!(digests[0], digests[1], "the same content has the same digest");
    assert!(!seals || digests[1] != digests[2], "other content has another");
}

fn the_same_operations_give_the_same_image(case: &mut dyn SinkCase) {
    let mut dumps = Vec::new();
    for _ in 0..2 {
        let place = case.place(CimKind::Forked);
        let mut image = Making::forked(case, &place, "1.cim", None);
        image.dir("Files");
        for n in 0..20 {
            image.file(&format!("Files\\f{n}"), &vec![n; usize::from(n)]);
            image.stream(&format!("files\\F{n}"), "s", b"x");
            image.link(&format!("Files\\l{n}"), &format!("Files\\f{}", n / 2));
        }
        image.commit();
        dumps.push(dump(case, &place, "1.cim"));
    }
    assert_eq!(dumps[0], dumps[1]);
    assert_eq!(dumps[0].len(), 81);
}
