//! Several images as one: what is to be seen, and what cannot be merged.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod model_support;

use cim_writer_abstraction::{
    Attributes, CimKind, FileMeta, FileTime,
    model::{EntryRef, ImageTree, Rules, View, merge},
};
use layer_model::{ErrorKind, LayerTree, NodeKind, tree::LayerTreeExt};
use model_support::{Ops, dir, dump, path};

fn image(work: impl FnOnce(&mut Ops)) -> ImageTree {
    let mut ops = Ops::block();
    work(&mut ops);
    ops.commit()
}

fn merged(images: &[&ImageTree]) -> String {
    dump(&merge(images.iter().copied()).unwrap())
}

fn refused(images: &[&ImageTree]) -> ErrorKind {
    merge(images.iter().copied()).unwrap_err().kind().clone()
}

/// The paths of a dump, each with its source.
fn paths(dump: &str) -> Vec<String> {
    let lines = dump.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.map(|line| format!("{} {}", line["path"].as_str().unwrap(), line["source"])).collect()
}

fn bytes(view: &View, at: &str) -> Vec<u8> {
    let entry = view.lookup(&path(at)).unwrap();
    let mut bytes = Vec::new();
    view.open(entry, entry.main().unwrap()).unwrap().content().write_to(&mut bytes).unwrap();
    bytes
}

#[test]
fn the_topmost_file_is_seen() {
    let top = image(|ops| ops.file("foo", b"foo1"));
    let middle = image(|ops| ops.file("bar", b"bar"));
    let base = image(|ops| ops.file("foo", b"foo2"));
    let view = merge([&top, &middle, &base]).unwrap();
    assert_eq!(paths(&dump(&view)), ["bar 1", "foo 0"]);
    assert_eq!(bytes(&view, "FOO"), b"foo1");
    assert_eq!(bytes(&view, "bar"), b"bar");
}

#[test]
fn merged_links_resolve_in_chains() {
    let top = image(|ops| {
        ops.merge_link("b", "foobar.txt");
        ops.merge_link("a", "B");
    });
    let base = image(|ops| ops.file("foobar.txt", b"one"));
    let dump = merged(&[&top, &base]);
    let line = |name: &str| {
        format!(
            "{{\"path\":\"{name}\",\"type\":\"file\",\"attrs\":32,\"size\":3,\"sha256\":\"{}\",\"nlink\":3,\"source\":1}}\n",
            "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
        )
    };
    assert_eq!(dump, ["a", "b", "foobar.txt"].map(line).concat());
}

#[test]
fn a_dump_has_everything_in_the_order_of_the_paths() {
    let top = image(|ops| {
        ops.dir("A");
        ops.create("a\\x", &FileMeta::new(Attributes::ARCHIVE), b"x1");
        ops.stream("a\\x", "s", b"s");
        ops.create("A B", &FileMeta::new(Attributes::empty()), b"");
        ops.create("a_", &FileMeta::new(Attributes::empty()), b"");
        let reparse = Box::from(*b"\x0c\0\0\xa0\0\0\0\0");
        let link = FileMeta { reparse, ..FileMeta::new(Attributes::REPARSE_POINT) };
        ops.create("z", &link, b"");
        ops.tombstone("gone");
    });
    let base = image(|ops| {
        ops.dir("a");
        ops.file("a\\one", b"1");
        ops.link("a\\two", "a\\one");
        ops.file("gone", b"gone");
    });
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let s = "043a718774c572bd8a25adbeb1bfcd5c0256ae11cecf9f9c3f925d0e52beaf89";
    let one = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b";
    let x1 = "ec31682fde561917952ff78a7a8adeffd0febc372dd26871916c46c630381b45";
    let dump = merged(&[&top, &base]);
    let expected = [
        r#"{"path":"A","type":"dir","attrs":16,"size":0,"sha256":"","nlink":1,"source":0}"#.to_owned(),
        format!(
            r#"{{"path":"A B","type":"file","attrs":0,"size":0,"sha256":"{empty}","nlink":1,"source":0}}"#
        ),
        format!(
            r#"{{"path":"A\\one","type":"file","attrs":32,"size":1,"sha256":"{one}","nlink":2,"source":1}}"#
        ),
        format!(
            r#"{{"path":"A\\two","type":"file","attrs":32,"size":1,"sha256":"{one}","nlink":2,"source":1}}"#
        ),
        format!(
            r#"{{"path":"A\\x","type":"file","attrs":32,"size":2,"sha256":"{x1}","nlink":1,"source":0}}"#
        ),
        format!(
            r#"{{"path":"A\\x:s","type":"stream","attrs":0,"size":1,"sha256":"{s}","nlink":1,"source":0}}"#
        ),
        format!(
            r#"{{"path":"a_","type":"file","attrs":0,"size":0,"sha256":"{empty}","nlink":1,"source":0}}"#
        ),
        r#"{"path":"z","type":"symlink","attrs":1024,"size":0,"sha256":"","nlink":1,"source":0}"#.to_owned(),
    ];
    assert_eq!(dump.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn directories_merge_with_the_metadata_of_the_topmost() {
    let meta = |time| FileMeta { write: FileTime(time), ..dir() };
    let top = image(|ops| {
        ops.create("D", &meta(3), b"");
        ops.file("d\\top", b"");
        ops.stream("d", "of top", b"");
    });
    let base = image(|ops| {
        ops.create("d", &meta(1), b"");
        ops.file("d\\base", b"");
        ops.stream("d", "of base", b"");
    });
    let view = merge([&top, &base]).unwrap();
    assert_eq!(paths(&dump(&view)), ["D 0", "D:of top 0", "D\\base 1", "D\\top 0"]);
    assert_eq!(view.lookup(&path("d")).unwrap().meta().unwrap().write, FileTime(3));
}

#[test]
fn implied_directories_take_the_metadata_from_below() {
    let mut ops = Ops::on(ImageTree::with_rules(CimKind::Block, Rules::default().strict_parents(false)));
    ops.file("D\\e\\x", b"");
    let top = ops.commit();
    let base = image(|ops| ops.create("d", &FileMeta { write: FileTime(7), ..dir() }, b""));
    let view = merge([&top, &base]).unwrap();
    assert_eq!(view.lookup(&path("d")).unwrap().meta().unwrap().write, FileTime(7));
    let Some(EntryRef::Dir(implied)) = view.lookup(&path("d\\e")) else { panic!("a directory") };
    assert!(implied.is_implied());
}

#[test]
fn files_hide_directories_and_the_reverse() {
    let with_dir = |name: &str| {
        image(|ops| {
            ops.dir("p");
            ops.file(&format!("p\\{name}"), b"");
        })
    };
    let with_file = image(|ops| ops.file("p", b"file"));
    assert_eq!(paths(&merged(&[&with_file, &with_dir("x")])), ["p 0"]);
    assert_eq!(paths(&merged(&[&with_dir("x"), &with_file])), ["p 0", "p\\x 0"]);
    // What a file hides stays hidden for a directory above it.
    assert_eq!(paths(&merged(&[&with_dir("x"), &with_file, &with_dir("y")])), ["p 0", "p\\x 0"]);
}

#[test]
fn tombstones_hide_what_is_below_them_and_nothing_else() {
    let top = image(|ops| {
        ops.dir("d");
        ops.file("d\\new", b"");
    });
    let middle = image(|ops| {
        ops.tombstone("D");
        ops.tombstone("nothing there");
        ops.file("own", b"");
    });
    let base = image(|ops| {
        ops.dir("d");
        ops.file("d\\old", b"");
        ops.file("keep", b"");
    });
    assert_eq!(paths(&merged(&[&top, &middle, &base])), ["d 0", "d\\new 0", "keep 2", "own 1"]);
    assert_eq!(paths(&merged(&[&middle, &base])), ["keep 1", "own 0"]);
    // The same image twice: its own entries are below its own tombstones then.
    let both = image(|ops| {
        ops.tombstone("x");
        ops.file("y", b"");
    });
    assert_eq!(paths(&merged(&[&both, &both])), ["y 0"]);
}

#[test]
fn a_merged_link_sees_its_own_source_and_lower_ones() {
    let top = image(|ops| ops.file("t", b"upper"));
    let middle = image(|ops| ops.merge_link("l", "t"));
    let base = image(|ops| ops.file("t", b"lower"));
    let view = merge([&top, &middle, &base]).unwrap();
    assert_eq!(bytes(&view, "l"), b"lower");
    assert_eq!(bytes(&view, "t"), b"upper");
    assert_eq!(refused(&[&top, &middle]), ErrorKind::DanglingMergedLink);

    let own = image(|ops| {
        ops.file("t", b"own");
        ops.merge_link("l", "t");
    });
    assert_eq!(bytes(&merge([&own, &base]).unwrap(), "l"), b"own");
}

#[test]
fn merged_links_that_lead_nowhere_are_refused() {
    let base = image(|ops| {
        ops.dir("d");
        ops.file("d\\f", b"");
        ops.file("f", b"");
    });
    let link = |target: &str| image(|ops| ops.merge_link("l", target));
    for target in ["missing", "d", "f\\below", "d\\missing", "missing\\f", ""] {
        assert_eq!(refused(&[&link(target), &base]), ErrorKind::DanglingMergedLink, "{target}");
    }
    let hidden = image(|ops| {
        ops.tombstone("d");
        ops.merge_link("l", "d\\f");
    });
    assert_eq!(refused(&[&hidden, &base]), ErrorKind::DanglingMergedLink);
    let replaced = image(|ops| ops.file("d", b""));
    assert_eq!(refused(&[&link("d\\f"), &replaced, &base]), ErrorKind::DanglingMergedLink);
    let circle = image(|ops| {
        ops.merge_link("a", "b");
        ops.merge_link("b", "c");
        ops.merge_link("c", "a");
    });
    assert_eq!(refused(&[&circle, &base]), ErrorKind::DanglingMergedLink);
    assert_eq!(refused(&[&link("l"), &base]), ErrorKind::DanglingMergedLink);
    let junction = image(|ops| {
        let reparse = Box::from(*b"\x03\0\0\xa0\0\0\0\0");
        ops.create("j", &FileMeta { reparse, ..dir() }, b"");
    });
    assert_eq!(refused(&[&link("j"), &junction]), ErrorKind::DanglingMergedLink);
    // A link that is hidden is nobody's business.
    let over = image(|ops| ops.file("l", b""));
    assert_eq!(paths(&merged(&[&over, &link("missing")])), ["l 0"]);
    let error = merge([&link("missing"), &base]).unwrap_err();
    assert!(error.to_string().contains('l') && error.to_string().contains("missing"), "{error}");
}

#[test]
fn a_long_chain_of_merged_links_takes_no_long_time() {
    let top = image(|ops| {
        for n in 0..20_000 {
            ops.merge_link(&format!("l{n}"), &format!("l{}", n + 1));
        }
    });
    let base = image(|ops| ops.file("l20000", b"end"));
    let view = merge([&top, &base]).unwrap();
    assert_eq!(bytes(&view, "l0"), b"end");
    assert_eq!(refused(&[&top]), ErrorKind::DanglingMergedLink);
}

#[test]
fn a_name_that_is_replaced_leaves_the_other_names() {
    let base = image(|ops| {
        ops.file("a", b"old");
        ops.stream("a", "s", b"stream");
        ops.link("b", "a");
        ops.link("c", "a");
    });
    let top = image(|ops| ops.file("a", b"new"));
    let view = merge([&top, &base]).unwrap();
    assert_eq!(bytes(&view, "a"), b"new");
    assert_eq!(bytes(&view, "b"), b"old");
    let dump = dump(&view);
    // The stream went with the name that is hidden, and stays with the others.
    assert_eq!(paths(&dump), ["a 0", "b 1", "b:s 1", "c 1", "c:s 1"]);
    assert_eq!(dump.matches(r#""nlink":2"#).count(), 2);
}

#[test]
fn the_view_of_nothing_is_empty() {
    assert_eq!(merged(&[]), "");
    assert!(merge([]).unwrap().lookup(&path("")).is_some());
}

#[test]
fn an_image_by_itself_shows_its_markers() {
    let layer = image(|ops| {
        ops.dir("d");
        ops.file("d\\f", b"main");
        ops.stream("d\\f", "s", b"stream");
        ops.tombstone("d\\gone");
        ops.link("d\\g", "d\\f");
    });
    let view = View::of(&layer);
    assert_eq!(paths(&dump(&view)), ["d 0", "d\\f 0", "d\\f:s 0", "d\\g 0", "d\\g:s 0"]);
    let at = |text: &'static str| layer_model::LayerPath::new(text.as_bytes()).unwrap();
    let node = |text| view.lookup_path(at(text)).unwrap().unwrap();
    assert_eq!(node("d/gone").kind, NodeKind::Whiteout);
    assert_eq!(node("D/F").kind, NodeKind::File { size: 4 });
    assert_eq!(node("d/F:S").kind, NodeKind::File { size: 6 });
    assert_eq!((node("d/f").nlink, node("d/f").inode), (2, node("d/g").inode));
    assert_eq!(node("d/f").xattrs.get(b"MSWINDOWS.fileattr"), Some(&b"32"[..]));
    let dir = view.find_dir(at("d")).unwrap().unwrap();
    let names: Vec<_> =
        dir.names().unwrap().into_iter().map(|n| String::from_utf8(n.into()).unwrap()).collect();
    assert_eq!(names, ["f", "f:s", "g", "g:s", "gone"]);
    assert_eq!(dir.entries().unwrap().len(), 5);
    let read = |name: &[u8]| {
        let file = dir.open_file(name).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    assert_eq!(read(b"f:s"), b"stream");
    assert_eq!(read(b"g"), b"main");
    let kind = |name: &[u8]| dir.open_file(name).map(drop).unwrap_err().kind().clone();
    assert_eq!(kind(b"gone"), ErrorKind::NotFound);
    assert_eq!(kind(b"nope"), ErrorKind::NotFound);
    let root = view.root().unwrap();
    assert_eq!(root.open_file(b"d").map(drop).unwrap_err().kind(), &ErrorKind::InvalidArgument);
    assert_eq!(dir.open_dir(b"f").map(drop).unwrap_err().kind(), &ErrorKind::NotDirectory);
    assert_eq!(dir.open_dir(b"gone").map(drop).unwrap_err().kind(), &ErrorKind::NotFound);

    let with_link = image(|ops| ops.merge_link("l", "t"));
    let view = View::of(&with_link);
    let error = view.root().unwrap().entries().unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Unrepresentable);
    assert_eq!(view.dump(&mut Vec::new()).unwrap_err().kind(), &ErrorKind::DanglingMergedLink);
}

#[test]
fn links_of_windows_are_links_in_the_tree() {
    use cim_writer_abstraction::reparse::Link;
    let layer = image(|ops| {
        let link = |target: &str, is_junction| Link::new(target.as_bytes(), is_junction).encode().unwrap();
        let junction = Attributes::DIRECTORY | Attributes::REPARSE_POINT;
        let meta = FileMeta { reparse: link("C:\\data", true), ..FileMeta::new(junction) };
        ops.create("j", &meta, b"");
        let meta = FileMeta { reparse: link("..\\b", false), ..FileMeta::new(Attributes::REPARSE_POINT) };
        ops.create("s", &meta, b"");
    });
    let root = View::of(&layer).root().unwrap();
    let node = root.lookup(b"J").unwrap().unwrap();
    assert_eq!(node.kind, NodeKind::Symlink { target: Box::from(*b"C:\\data") });
    assert_eq!(node.xattrs.get(b"MSWINDOWS.mountpoint"), Some(&b"1"[..]));
    let node = root.lookup(b"s").unwrap().unwrap();
    assert_eq!(node.kind, NodeKind::Symlink { target: Box::from(*b"..\\b") });
    assert_eq!(root.open_file(b"s").map(drop).unwrap_err().kind(), &ErrorKind::InvalidArgument);
}
