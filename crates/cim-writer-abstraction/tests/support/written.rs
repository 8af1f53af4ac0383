//! An image that is written here, as files.

use cim_writer_abstraction::{
    Attributes, CimKind, CimName, CimOp, CimPath, CimSink, FileMeta, StreamName,
    op::CreateFlags,
    stdcim::{Major, StdCimSink, UpcaseTable, WriteOptions},
};

use super::vector::{Files, NAME};

/// A fork of an image: directories, many names, extended attributes, an alternate stream. It is called [`NAME`].
pub(crate) fn files() -> Files {
    let temp = tempfile::tempdir().unwrap();
    let name = |text: &str| CimName::new(text).unwrap();
    let path = |text: &str| CimPath::new(text).unwrap();
    let write = |image: &str, parent: Option<&str>, fill: &dyn Fn(&mut StdCimSink)| {
        let options = WriteOptions::default().directory(temp.path()).upcase(UpcaseTable::Ascii);
        let mut sink = StdCimSink::new(Major::V3, options);
        let (image, parent) = (name(image), parent.map(name));
        let create = CimOp::CreateImage {
            kind: CimKind::Forked,
            container: "",
            name: &image,
            parent: parent.as_ref(),
            flags: CreateFlags::empty(),
        };
        sink.op(&create).unwrap();
        fill(&mut sink);
        sink.op(&CimOp::Commit).unwrap();
    };
    let add = |sink: &mut StdCimSink, at: &str, meta: &FileMeta, data: &[u8]| {
        let path = path(at);
        sink.op(&CimOp::CreateFile { path: &path, meta, size: data.len() as u64 }).unwrap();
        sink.write(data).unwrap();
        sink.op(&CimOp::EndStream).unwrap();
    };
    let file = FileMeta { ea: [0; 20].into(), ..FileMeta::new(Attributes::ARCHIVE) };
    write("base", None, &|sink| {
        add(sink, "d", &FileMeta::new(Attributes::DIRECTORY), b"");
        for number in 0..20 {
            add(sink, &format!("d\\file {number}"), &file, &[number; 10]);
        }
        let (of, stream) = (path("d\\file 3"), StreamName::new("stream").unwrap());
        sink.op(&CimOp::CreateStream { of: &of, name: &stream, size: 3 }).unwrap();
        sink.write(b"abc").unwrap();
        sink.op(&CimOp::EndStream).unwrap();
    });
    write(NAME, Some("base"), &|sink| {
        add(sink, "d\\e", &FileMeta::new(Attributes::DIRECTORY), b"");
        add(sink, "d\\e\\new", &file, &[1; 100]);
    });
    let mut written = Files::new();
    for entry in std::fs::read_dir(temp.path()).unwrap() {
        let entry = entry.unwrap();
        let bytes = std::fs::read(entry.path()).unwrap();
        written.insert(entry.file_name().into_string().unwrap(), bytes.into());
    }
    written
}
