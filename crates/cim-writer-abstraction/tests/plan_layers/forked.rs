//! Layers in forked images.

use std::sync::Arc;

use cim_writer_abstraction::{
    Capabilities, Recorder, content::MemoryBlobs, model::ImageTree, op::CimKind, typed::*,
};
use layer_model::{ErrorKind, Silent, Stack};

use super::place::*;

struct Forks {
    place: Place,
    dir: ImageDir,
}

impl Forks {
    fn new() -> Self {
        Self { place: Place::new(), dir: ImageDir::new(r"C:\cims").unwrap() }
    }

    fn base(&self) -> ForkedCim {
        let can = Capabilities::emulated().fork().unwrap();
        let sink = Recorder::new(CimKind::Forked, Vec::new(), MemoryBlobs::default());
        let files = self.place.files("base");
        let options = ImportOptions::default();
        let mut writer =
            Import::<Forked>::base(&self.dir, name("1.cim"), files, sink, can, options, &Silent).unwrap();
        base_set(&mut writer, &HIVES).unwrap();
        file(&mut writer, r"Files\y", b"y").unwrap();
        writer.directory(&path(r"Files\d"), &dir_meta()).unwrap();
        file(&mut writer, r"Files\d\1", b"1").unwrap();
        file(&mut writer, r"Files\d\2", b"2").unwrap();
        let committed = writer.commit().unwrap();
        let tree = committed.sink.finish().unwrap().tree;
        committed.layer.with_tree(Arc::new(tree))
    }

    fn child(&self, parents: &Stack<ForkedCim>) -> Writer<'static, ForkedCim, ChildRole, Sink> {
        let can = Capabilities::emulated().fork().unwrap();
        let tree = match parents.nearest().tree() {
            Some(tree) => tree.fork(),
            None => ImageTree::new(CimKind::Forked),
        };
        let sink = Recorder::on(tree, Vec::new(), MemoryBlobs::default());
        let files = self.place.files("child");
        Import::<Forked>::child(parents, name("2.cim"), files, sink, can, ImportOptions::default(), &Silent)
            .unwrap()
    }
}

fn committed(writer: Writer<'static, ForkedCim, ChildRole, Sink>) -> Vec<String> {
    lines(&writer.commit().unwrap().sink.finish().unwrap().journal)
}

#[test]
fn what_a_fork_takes_away_is_deleted_from_a_directory_of_its_own() {
    let forks = Forks::new();
    let parents = Stack::of(forks.base());
    let mut writer = forks.child(&parents);
    file(&mut writer, r"Files\x", b"xxx").unwrap();
    writer.remove(&path(r"Files\y")).unwrap();
    writer.remove(&path(r"Files\nope")).unwrap();
    assert_eq!(
        committed(writer),
        [
            "create_image 2.cim 1.cim 0",
            r"create_file Files\x 32 3",
            "data 3",
            // Windows deletes nothing from a directory that the fork only inherits
            "create_file Files 16 0",
            r"delete Files\y",
            "commit",
            "close"
        ]
    );
}

#[test]
fn without_a_view_of_the_parents_the_directory_has_to_be_in_the_layer() {
    let forks = Forks::new();
    let base = ForkedCim::new(forks.dir.clone(), name("1.cim"), forks.place.files("base"), 0);
    let mut writer = forks.child(&Stack::of(base));
    let error = writer.remove(&path(r"Files\y")).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::MissingParentEntry);
}

#[test]
fn links_are_made_at_once_where_their_target_is_there() {
    let forks = Forks::new();
    let parents = Stack::of(forks.base());
    let mut writer = forks.child(&parents);
    writer.hard_link(&path(r"Files\inherited"), &path(r"Files\y")).unwrap();
    writer.hard_link(&path(r"Files\later"), &path(r"Files\x")).unwrap();
    file(&mut writer, r"Files\x", b"").unwrap();
    let got = committed(writer);
    assert_eq!(
        got[1..4],
        [r"hard_link Files\inherited Files\y", r"create_file Files\x 32 0", r"hard_link Files\later Files\x"]
    );

    let mut writer = forks.child(&parents);
    writer.hard_link(&path(r"Files\nowhere"), &path(r"Files\nothing")).unwrap();
    assert_eq!(writer.commit().unwrap_err().kind(), &ErrorKind::NotFound);
    let mut writer = forks.child(&parents);
    let error = writer.hard_link(&path(r"Files\nowhere"), &path(r"Files\d")).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::IsDirectory);
}

#[test]
fn an_opaque_directory_loses_each_child() {
    let forks = Forks::new();
    let parents = Stack::of(forks.base());
    let mut writer = forks.child(&parents);
    let opaque = cim_writer_abstraction::LayerEvent::Opaque { path: path(r"Files\d") };
    writer.event(opaque).unwrap();
    let got = committed(writer);
    assert_eq!(
        got[1..5],
        ["create_file Files 16 0", r"create_file Files\d 16 0", r"delete Files\d\1", r"delete Files\d\2"]
    );
}

#[test]
fn one_image_of_a_directory_is_written_at_a_time() {
    let forks = Forks::new();
    let parents = Stack::of(forks.base());
    let first = forks.child(&parents);
    let can = Capabilities::emulated().fork().unwrap();
    let sink = Recorder::new(CimKind::Forked, Vec::new(), MemoryBlobs::default());
    let (files, options) = (forks.place.files("third"), ImportOptions::default());
    let second = Import::<Forked>::child(&parents, name("3.cim"), files, sink, can, options, &Silent);
    assert_eq!(second.unwrap_err().kind(), &ErrorKind::Busy);
    drop(first);
    forks.child(&parents).commit().unwrap();
}
