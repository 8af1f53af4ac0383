//! Operations by hand, for the tests of journal, content and model.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "every test file uses some of it")]

use cim_writer_abstraction::{
    Attributes, CimName, CimOp, CimPath, CimSink, FileMeta, FileTime, LayerEvent, StreamName,
    content::MemoryBlobs,
    model::{EntryRef, ImageTree, ModelSink, View, ViewEntry},
    op::{CimKind, CreateFlags},
    wcow::WcowEvents,
};
use layer_model::Result;

pub fn path(text: &str) -> CimPath {
    CimPath::new(text).unwrap()
}

pub fn name(text: &str) -> CimName {
    CimName::new(text).unwrap()
}

pub fn stream(text: &str) -> StreamName {
    StreamName::new(text).unwrap()
}

pub fn dir() -> FileMeta {
    FileMeta::new(Attributes::DIRECTORY)
}

pub fn file() -> FileMeta {
    let time = FileTime(133_444_736_000_000_000);
    FileMeta { creation: time, write: time, change: time, access: time, ..FileMeta::new(Attributes::ARCHIVE) }
}

pub fn dump(view: &View) -> String {
    let mut out = Vec::new();
    view.dump(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// All that can be known about what a view shows, but for where it comes from: names of one file have the same number.
pub fn listing(view: &View) -> Vec<String> {
    let mut numbers = std::collections::HashMap::new();
    let describe = |found: ViewEntry<'_>| {
        let streams = |entry: EntryRef<'_>| -> Vec<_> {
            entry.streams().map(|(name, stream)| (name.to_string(), stream.size, stream.sha256)).collect()
        };
        let path = found.path.to_string();
        match found.entry {
            EntryRef::Dir(dir) => format!("{path} {:?} {:?}", dir.meta(), streams(found.entry)),
            EntryRef::File(file, id) => {
                let next = numbers.len();
                let number = *numbers.entry(id).or_insert(next);
                let (size, sha256) = (file.main().size, file.main().sha256);
                format!("{path} {number} {:?} {size} {sha256:?} {:?}", file.meta(), streams(found.entry))
            }
            other => format!("{path} {other:?}"),
        }
    };
    view.entries().map(describe).collect()
}

/// Does what events say: as a layer does, links and removals last.
pub fn apply(events: &mut dyn WcowEvents, sink: &mut ModelSink<MemoryBlobs>) {
    let mut last = Vec::new();
    while let Some(event) = events.next_event().unwrap() {
        match event {
            LayerEvent::Add { path, meta, content } => {
                sink.op(&CimOp::CreateFile { path: &path, meta: &meta, size: content.len() }).unwrap();
                content.read_into(&mut |bytes| sink.write(bytes)).unwrap();
                sink.op(&CimOp::EndStream).unwrap();
            }
            LayerEvent::Stream { of, name, content } => {
                sink.op(&CimOp::CreateStream { of: &of, name: &name, size: content.len() }).unwrap();
                content.read_into(&mut |bytes| sink.write(bytes)).unwrap();
                sink.op(&CimOp::EndStream).unwrap();
            }
            LayerEvent::Link { path, target } => last.push((path, Some(target))),
            LayerEvent::Remove { path } => last.push((path, None)),
            other => panic!("{other:?}"),
        }
    }
    let is_block = sink.tree().kind() == CimKind::Block;
    for (path, target) in last {
        let op = match &target {
            Some(target) if is_block && sink.tree().lookup(target).is_none() => {
                CimOp::MergeLink { path: &path, target }
            }
            Some(target) => CimOp::HardLink { path: &path, target },
            None if is_block => CimOp::Tombstone { path: &path },
            None => CimOp::Delete { path: &path },
        };
        sink.op(&op).unwrap();
    }
}

pub fn create_image(sink: &mut dyn CimSink, kind: CimKind) {
    let flags = match kind {
        CimKind::Forked => CreateFlags::empty(),
        CimKind::Block => CreateFlags::SINGLE_FILE | CreateFlags::CONSISTENT,
    };
    let name = name("layer.cim");
    let op = CimOp::CreateImage { kind, container: "C:\\s\\1\\layer.vhd", name: &name, parent: None, flags };
    sink.op(&op).unwrap();
}

/// Does operations on a tree, whose content is kept in memory.
pub struct Ops {
    sink: ModelSink<MemoryBlobs>,
}

impl Ops {
    pub fn block() -> Self {
        Self::on(ImageTree::new(CimKind::Block))
    }

    pub fn forked() -> Self {
        Self::on(ImageTree::new(CimKind::Forked))
    }

    pub fn on(tree: ImageTree) -> Self {
        let kind = tree.kind();
        let mut sink = ModelSink::on(tree, MemoryBlobs::default());
        create_image(&mut sink, kind);
        Self { sink }
    }

    pub fn sink(&mut self) -> &mut ModelSink<MemoryBlobs> {
        &mut self.sink
    }

    pub fn try_op(&mut self, op: &CimOp<'_>) -> Result<()> {
        self.sink.op(op)
    }

    pub fn try_file(&mut self, at: &str, bytes: &[u8]) -> Result<()> {
        add(&mut self.sink, &path(at), &file(), bytes)
    }

    pub fn create(&mut self, at: &str, meta: &FileMeta, bytes: &[u8]) {
        add(&mut self.sink, &path(at), meta, bytes).unwrap();
    }

    pub fn file(&mut self, at: &str, bytes: &[u8]) {
        self.create(at, &file(), bytes);
    }

    pub fn dir(&mut self, at: &str) {
        self.create(at, &dir(), b"");
    }

    pub fn stream(&mut self, of: &str, name: &str, bytes: &[u8]) {
        add_stream(&mut self.sink, &path(of), &stream(name), bytes).unwrap();
    }

    pub fn link(&mut self, at: &str, target: &str) {
        self.sink.op(&CimOp::HardLink { path: &path(at), target: &path(target) }).unwrap();
    }

    pub fn merge_link(&mut self, at: &str, target: &str) {
        self.sink.op(&CimOp::MergeLink { path: &path(at), target: &path(target) }).unwrap();
    }

    pub fn tombstone(&mut self, at: &str) {
        self.sink.op(&CimOp::Tombstone { path: &path(at) }).unwrap();
    }

    pub fn delete(&mut self, at: &str) {
        self.sink.op(&CimOp::Delete { path: &path(at) }).unwrap();
    }

    /// The tree, which knows where its content is.
    pub fn commit(mut self) -> ImageTree {
        self.sink.op(&CimOp::Commit).unwrap();
        let (mut tree, blobs) = self.sink.finish().unwrap();
        tree.set_contents(std::sync::Arc::new(blobs));
        tree
    }
}

pub fn add(sink: &mut dyn CimSink, path: &CimPath, meta: &FileMeta, bytes: &[u8]) -> Result<()> {
    sink.op(&CimOp::CreateFile { path, meta, size: bytes.len() as u64 })?;
    sink.write(bytes)?;
    sink.op(&CimOp::EndStream)
}

pub fn add_stream(sink: &mut dyn CimSink, of: &CimPath, name: &StreamName, bytes: &[u8]) -> Result<()> {
    sink.op(&CimOp::CreateStream { of, name, size: bytes.len() as u64 })?;
    sink.write(bytes)?;
    sink.op(&CimOp::EndStream)
}
