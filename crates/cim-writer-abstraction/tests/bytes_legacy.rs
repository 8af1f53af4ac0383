//! Layer directories of older tools: their form, their order, and back.

mod support;

use std::{fs, path::Path};

use cim_writer_abstraction::{
    Attributes, CimPath, FileMeta, FileTime, LayerEvent, StreamName,
    ea::{self, Ea},
    legacy::{LegacyOptions, LegacySource, LegacyWriter, tombstones},
    reparse::Link,
    security::sddl,
    wcow::{WcowChanges, WcowOptions, WcowSource},
};
use layer_model::{Content, Error, ErrorKind, Result, Silent, content::Extent};
use proptest::{collection::vec, option, prelude::*, sample};
use support::digits;

/// An event with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Add(CimPath, FileMeta, Vec<u8>),
    Stream(CimPath, StreamName, Vec<u8>),
    Link(CimPath, CimPath),
    Remove(CimPath),
}

fn path(text: &str) -> CimPath {
    CimPath::new(text).expect("a path")
}

/// A time that every host has: 2023-11-14.
const TIME: FileTime = FileTime(133_444_736_000_000_000);

fn meta(attributes: Attributes) -> FileMeta {
    FileMeta { creation: TIME, write: TIME, change: TIME, access: TIME, ..FileMeta::new(attributes) }
}

fn dir(at: &str) -> Said {
    Said::Add(path(at), meta(Attributes::DIRECTORY), Vec::new())
}

fn file(at: &str, bytes: &[u8]) -> Said {
    Said::Add(path(at), meta(Attributes::ARCHIVE), bytes.to_vec())
}

fn stream(of: &str, name: &str, bytes: &[u8]) -> Said {
    Said::Stream(path(of), StreamName::new(name).expect("a name"), bytes.to_vec())
}

fn link(at: &str, to: &str) -> Said {
    Said::Link(path(at), path(to))
}

fn remove(at: &str) -> Said {
    Said::Remove(path(at))
}

fn bytes(content: Content<'_>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    content.write_to(&mut bytes)?;
    Ok(bytes)
}

fn said(event: LayerEvent<'_>) -> Result<Said> {
    Ok(match event {
        LayerEvent::Add { path, meta, content } => Said::Add(path, meta, bytes(content)?),
        LayerEvent::Stream { of, name, content } => Said::Stream(of, name, bytes(content)?),
        LayerEvent::Link { path, target } => Said::Link(path, target),
        LayerEvent::Remove { path } => Said::Remove(path),
        other => panic!("{other:?}"),
    })
}

fn read(dir: &Path) -> Result<Vec<Said>> {
    let mut source = LegacySource::open(dir, LegacyOptions::default())?;
    let mut events = Vec::new();
    while let Some(event) = source.next_event()? {
        events.push(said(event)?);
    }
    assert!(source.next_event()?.is_none());
    Ok(events)
}

fn write(dir: &Path, events: &[Said]) -> Result<()> {
    let mut writer = LegacyWriter::create(dir)?;
    for event in events {
        match event {
            Said::Add(path, meta, bytes) => writer.event(LayerEvent::Add {
                path: path.clone(),
                meta: meta.clone(),
                content: Content::from_bytes(bytes),
            }),
            Said::Stream(of, name, bytes) => writer.event(LayerEvent::Stream {
                of: of.clone(),
                name: name.clone(),
                content: Content::from_bytes(bytes),
            }),
            Said::Link(path, target) => {
                writer.event(LayerEvent::Link { path: path.clone(), target: target.clone() })
            }
            Said::Remove(path) => writer.event(LayerEvent::Remove { path: path.clone() }),
        }?;
    }
    writer.finish()
}

fn refused(events: &[Said]) -> Error {
    let temp = tempfile::tempdir().expect("a directory");
    let layer = temp.path().join("layer");
    let error = write(&layer, events).expect_err("refused");
    assert!(!layer.exists(), "traces of what failed");
    error
}

/// Everything that a layer directory can say.
fn everything() -> Vec<Said> {
    let mut full = meta(Attributes::ARCHIVE | Attributes::HIDDEN);
    full.security = sddl::parse("O:BAG:SYD:(A;;FA;;;BA)").expect("SDDL").into_bytes();
    full.ea = ea::encode(&[Ea::new(b"A", b"1"), Ea::new(b"b", b"2")]).expect("attributes").into();
    let reparse = |junction| Link::new(br"C:\x", junction).encode().expect("a link");
    let link_dir =
        FileMeta { reparse: reparse(true), ..meta(Attributes::DIRECTORY | Attributes::REPARSE_POINT) };
    let link_file = FileMeta { reparse: reparse(false), ..meta(Attributes::REPARSE_POINT) };
    vec![
        dir("Files"),
        remove(r"Files\gone"),
        remove(r"Files\Gone too"),
        Said::Add(path(r"Files\all"), full, b"content".to_vec()),
        stream(r"Files\all", "s", b"stream"),
        stream(r"Files\all", "t", b""),
        dir(r"Files\d"),
        stream(r"Files\d", "of a directory", b"x"),
        remove(r"Files\d\x"),
        file(r"Files\d\y", b"y"),
        file(r"Files\empty", b""),
        Said::Add(path(r"Files\junction"), link_dir, Vec::new()),
        Said::Add(path(r"Files\symlink"), link_file, Vec::new()),
        dir("Hives"),
        file(r"Hives\System_Delta", b"regf"),
        dir("UtilityVM"),
        dir(r"UtilityVM\Files"),
        file(r"UtilityVM\Files\u", b"u"),
    ]
}

#[test]
fn what_is_written_is_read_in_export_order() {
    let temp = tempfile::tempdir().unwrap();
    let layer = temp.path().join("layer");
    write(&layer, &everything()).unwrap();
    let read = read(&layer).unwrap();
    for (read, written) in read.iter().zip(&everything()) {
        assert_eq!(read, written);
    }
    assert_eq!(read.len(), everything().len());
}

#[test]
fn files_and_directories_have_the_form_of_the_tools() {
    let temp = tempfile::tempdir().unwrap();
    let layer = temp.path().join("layer");
    write(&layer, &everything()).unwrap();
    let hex = |name: &str| digits(&fs::read(layer.join(name)).unwrap());
    assert_eq!(hex("Files/empty"), "20000000 0100000000000000000000000000000000000000".replace(' ', ""));
    assert_eq!(hex("Files/d/y"), "20000000 010000000000000001000000000000000000000079".replace(' ', ""));
    // A directory has no main stream.
    assert_eq!(hex("Files.$wcidirs$"), "10000000");
    assert_eq!(hex("Hives/System_Delta"), digits(b"regf"));
    assert_eq!(
        fs::read_to_string(layer.join("tombstones.txt")).unwrap(),
        "\u{feff}Version 1.0\n\\gone\n\\Gone too\n\\d\\x\n"
    );
    assert!(layer.join("Files/junction").is_dir());
}

#[test]
fn a_layer_directory_says_the_same_as_the_archive_made_of_it() {
    let temp = tempfile::tempdir().unwrap();
    let layer = temp.path().join("layer");
    write(&layer, &everything()).unwrap();
    let source = LegacySource::open(&layer, LegacyOptions::default()).unwrap();
    let mut events = WcowSource::new(WcowChanges::new(source), WcowOptions::default(), &Silent);
    for expected in everything() {
        let mut event = said(events.next_event().unwrap().unwrap()).unwrap();
        // An empty descriptor is one without a DACL; an archive is free to say so.
        if let (Said::Add(_, meta, _), Said::Add(_, expected, _)) = (&mut event, &expected)
            && expected.security.is_empty()
        {
            meta.security = Box::default();
        }
        assert_eq!(event, expected);
    }
    assert!(events.next_event().unwrap().is_none());
}

#[test]
fn an_export_without_side_files_for_its_tops_is_read() {
    let temp = tempfile::tempdir().unwrap();
    let layer = temp.path();
    fs::create_dir_all(layer.join("Files/a")).unwrap();
    fs::create_dir_all(layer.join("Hives")).unwrap();
    fs::create_dir_all(layer.join("UtilityVM/Files")).unwrap();
    fs::write(layer.join("Files/a.$wcidirs$"), 0x12_u32.to_le_bytes()).unwrap();
    fs::write(layer.join("Files/f"), 0x21_u32.to_le_bytes()).unwrap();
    fs::write(layer.join("Hives/SYSTEM_Delta"), b"regf").unwrap();
    fs::write(layer.join("UtilityVM/Files/u"), b"as it is").unwrap();
    fs::write(layer.join("tombstones.txt"), "\u{feff}Version 1.0\r\n\\A\\x\r\n\\nowhere\\y\n").unwrap();
    let hive = fs::File::options().write(true).open(layer.join("Hives/SYSTEM_Delta")).unwrap();
    let second = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
    hive.set_times(fs::FileTimes::new().set_modified(second).set_accessed(second)).unwrap();

    let events = read(layer).unwrap();
    let named: Vec<_> = events
        .iter()
        .map(|event| match event {
            Said::Add(path, meta, bytes) => {
                format!("{path} {:#x} {}", meta.attributes.bits(), String::from_utf8_lossy(bytes))
            }
            Said::Remove(path) => format!("-{path}"),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        named,
        [
            "Files 0x10 ",
            r"Files\a 0x12 ",
            r"-Files\A\x",
            r"Files\f 0x21 ",
            "Hives 0x10 ",
            r"Hives\SYSTEM_Delta 0x20 regf",
            "UtilityVM 0x10 ",
            r"UtilityVM\Files 0x10 ",
            r"UtilityVM\Files\u 0x20 as it is",
            r"-Files\nowhere\y",
        ]
    );
    // Conversions make these two anew, so that their own times would never be the same.
    for event in &events {
        if let Said::Add(path, meta, _) = event
            && ["Files", "Hives"].contains(&path.to_string().as_str())
        {
            assert_eq!(meta.write, FileTime(116_444_736_010_000_000), "{path}");
        }
    }
}

#[cfg(unix)]
#[test]
fn names_of_one_file_are_links() {
    let temp = tempfile::tempdir().unwrap();
    let layer = temp.path().join("layer");
    let events = vec![
        dir("Files"),
        file(r"Files\a", b"x"),
        stream(r"Files\a", "s", b"y"),
        link(r"Files\b", r"FILES\A"),
        link(r"Files\c", r"Files\b"),
        dir("UtilityVM"),
        dir(r"UtilityVM\Files"),
        link(r"UtilityVM\Files\d", r"Files\a"),
    ];
    write(&layer, &events).unwrap();
    let mut expected = events;
    expected[3] = link(r"Files\b", r"Files\a");
    expected[4] = link(r"Files\c", r"Files\a");
    assert_eq!(read(&layer).unwrap(), expected);
}

#[cfg(unix)]
#[test]
fn links_may_come_before_their_targets() {
    let temp = tempfile::tempdir().unwrap();
    let layer = temp.path().join("layer");
    let ahead = [link(r"Files\a", r"Files\b"), link(r"Files\b", r"Files\c"), file(r"Files\c", b"x")];
    write(&layer, &[&[dir("Files")], &ahead[..]].concat()).unwrap();
    let links: Vec<_> = read(&layer).unwrap().into_iter().skip(1).collect();
    assert_eq!(links, [file(r"Files\a", b"x"), link(r"Files\b", r"Files\a"), link(r"Files\c", r"Files\a")]);
}

#[test]
fn what_a_layer_directory_cannot_say_is_refused_and_leaves_nothing() {
    let link_hive = FileMeta { reparse: Box::new([1]), ..meta(Attributes::REPARSE_POINT) };
    for (what, more, kind) in [
        ("no directory", vec![file(r"Files\d\x", b"")], ErrorKind::MissingParentEntry),
        ("below a file", vec![file(r"Files\d", b""), file(r"Files\d\x", b"")], ErrorKind::NotDirectory),
        ("twice", vec![file(r"Files\x", b""), dir(r"files\X")], ErrorKind::ConflictingEntries),
        ("side file", vec![file(r"Files\x.$wcidirs$", b"")], ErrorKind::Unrepresentable),
        ("list", vec![file("Tombstones.txt", b"")], ErrorKind::Unrepresentable),
        ("removal outside", vec![remove(r"Hives\x")], ErrorKind::InvalidArchive),
        ("removal of all", vec![remove("Files")], ErrorKind::InvalidArchive),
        ("removal in the VM", vec![remove(r"UtilityVM\Files\x")], ErrorKind::Unrepresentable),
        ("link outside", vec![link(r"Hives\x", r"Files\x")], ErrorKind::InvalidArchive),
        ("link to outside", vec![link(r"Files\x", r"Hives\x")], ErrorKind::InvalidArchive),
        ("link to a parent's file", vec![link(r"Files\x", r"Files\y")], ErrorKind::Unrepresentable),
        ("link to a directory", vec![dir(r"Files\d"), link(r"Files\x", r"Files\d")], ErrorKind::IsDirectory),
        (
            "link over a file",
            vec![file(r"Files\x", b""), link(r"Files\x", r"Files\x")],
            ErrorKind::ConflictingEntries,
        ),
        (
            "links in a circle",
            vec![link(r"Files\x", r"Files\y"), link(r"Files\y", r"Files\x")],
            ErrorKind::TooManyLinks,
        ),
        ("stream alone", vec![stream(r"Files\x", "s", b"")], ErrorKind::InvalidArchive),
        (
            "stream too late",
            vec![file(r"Files\x", b""), file(r"Files\y", b""), stream(r"Files\x", "s", b"")],
            ErrorKind::InvalidArchive,
        ),
        (
            "stream of a hive",
            vec![dir("Hives"), file(r"Hives\x", b""), stream(r"Hives\x", "s", b"")],
            ErrorKind::InvalidArchive,
        ),
        (
            "hive that is a link",
            vec![dir("Hives"), Said::Add(path(r"Hives\x"), link_hive, vec![])],
            ErrorKind::InvalidArchive,
        ),
        ("root", vec![dir("")], ErrorKind::InvalidArgument),
    ] {
        let error = refused(&[vec![dir("Files")], more].concat());
        assert_eq!(error.kind(), &kind, "{what}: {error}");
    }
    let temp = tempfile::tempdir().unwrap();
    let mut writer = LegacyWriter::create(&temp.path().join("layer")).unwrap();
    let error = writer.event(LayerEvent::Opaque { path: path("Files") }).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::UnsupportedMarker { marker: "opaque" });
}

#[test]
fn a_directory_that_is_there_is_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("x"), b"x").unwrap();
    let error = LegacyWriter::create(temp.path()).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::AlreadyExists);
    assert!(temp.path().join("x").exists());
}

/// A layer with one file of these bytes below `Files`.
fn layer_with(name: &str, bytes: &[u8]) -> tempfile::TempDir {
    let temp = tempfile::tempdir().expect("a directory");
    fs::create_dir(temp.path().join("Files")).expect("made");
    fs::write(temp.path().join("Files").join(name), bytes).expect("written");
    temp
}

#[test]
fn directories_that_are_no_layer_are_refused() {
    let kind = |layer: &Path| read(layer).unwrap_err().kind().clone();
    assert_eq!(kind(layer_with("f", b"").path()), ErrorKind::Truncated);
    assert_eq!(kind(layer_with("f", b"\x20\0\0\0no stream").path()), ErrorKind::Truncated);
    assert_eq!(kind(layer_with("f", &[0xff; 40]).path()), ErrorKind::InvalidArchive);

    let unlisted = layer_with("f", b"\x20\0\0\0");
    fs::create_dir(unlisted.path().join("Files/d")).unwrap();
    let error = read(unlisted.path()).unwrap_err();
    assert_eq!((error.kind(), error.entry_path()), (&ErrorKind::InvalidArchive, Some(&br"Files\d"[..])));

    for list in ["", "Version 1.0\n", "\u{feff}Version 2.0\n"] {
        fs::write(unlisted.path().join("tombstones.txt"), list).unwrap();
        assert_eq!(kind(unlisted.path()), ErrorKind::InvalidArchive);
    }
    assert_eq!(kind(&unlisted.path().join("nowhere")), ErrorKind::NotFound);

    let mut linked = meta(Attributes::ARCHIVE);
    linked.reparse = Link::new(b"x", false).encode().unwrap();
    let mut bytes = 0x400_u32.to_le_bytes().to_vec();
    let mut writer = cim_writer_abstraction::backup::Writer::new(Vec::new());
    writer.file(&linked, Content::empty()).unwrap();
    bytes.extend(writer.into_inner());
    // A link that has content, too.
    bytes.extend([1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'x']);
    assert_eq!(kind(layer_with("f", &bytes).path()), ErrorKind::InvalidArchive);
}

#[cfg(unix)]
#[test]
fn links_and_spellings_of_the_host_are_refused() {
    let kind = |layer: &Path| read(layer).unwrap_err().kind().clone();
    let linked = layer_with("f", b"\x20\0\0\0");
    std::os::unix::fs::symlink("/etc/passwd", linked.path().join("Files/link")).unwrap();
    assert_eq!(kind(linked.path()), ErrorKind::InvalidArchive);

    let side = layer_with("f", b"\x20\0\0\0");
    std::os::unix::fs::symlink("/etc/passwd", side.path().join("Files.$wcidirs$")).unwrap();
    assert_eq!(kind(side.path()), ErrorKind::InvalidArchive);

    let list = layer_with("f", b"\x20\0\0\0");
    std::os::unix::fs::symlink("/etc/passwd", list.path().join("tombstones.txt")).unwrap();
    assert_eq!(kind(list.path()), ErrorKind::InvalidArchive);

    let twice = layer_with("f", b"\x20\0\0\0");
    fs::write(twice.path().join("Files/F"), b"\x20\0\0\0").unwrap();
    assert_eq!(kind(twice.path()), ErrorKind::ConflictingEntries);

    let name = layer_with("a:b", b"\x20\0\0\0");
    assert_eq!(kind(name.path()), ErrorKind::InvalidArgument);
}

#[test]
fn holes_stay_holes_and_have_a_limit() {
    let temp = tempfile::tempdir().unwrap();
    let layer = temp.path().join("layer");
    let mut writer = LegacyWriter::create(&layer).unwrap();
    let add = |path, meta, content| LayerEvent::Add { path, meta, content };
    writer.event(add(path("Files"), meta(Attributes::DIRECTORY), Content::empty())).unwrap();
    let extents = [Extent { offset: 3, len: 1 }, Extent { offset: 1 << 20, len: 2 }];
    let mut packed = &b"abc"[..];
    let content = Content::sparse(&extents, &mut packed, 1 << 30).unwrap();
    writer.event(add(path(r"Files\sparse"), meta(Attributes::SPARSE_FILE), content)).unwrap();
    writer.finish().unwrap();
    assert!(fs::metadata(layer.join("Files/sparse")).unwrap().len() < 200);

    let mut source = LegacySource::open(&layer, LegacyOptions::default()).unwrap();
    source.next_event().unwrap();
    let Some(LayerEvent::Add { mut content, .. }) = source.next_event().unwrap() else { panic!("a file") };
    assert_eq!(content.len(), 1 << 30);
    let layer_model::content::Body::Sparse { extents: found, packed } = content.body() else {
        panic!("holes")
    };
    assert_eq!(*found, extents);
    let mut data = Vec::new();
    packed.read_to_end(&mut data).unwrap();
    assert_eq!(data, b"abc");

    let few = LegacyOptions::default().max_sparse_expansion((1 << 30) - 4);
    let mut source = LegacySource::open(&layer, few).unwrap();
    source.next_event().unwrap();
    let limit = ErrorKind::LimitExceeded { limit: "max_sparse_expansion" };
    assert_eq!(source.next_event().unwrap_err().kind(), &limit);
    assert_eq!(source.next_event().unwrap_err().kind(), &ErrorKind::FailedPrecondition);
}

#[test]
fn lists_of_removals_are_read_and_written() {
    let paths = [path(r"Files\a"), path(r"Files\ä\b c"), path(r"files\x")];
    let text = tombstones::to_bytes(&paths).unwrap();
    assert_eq!(text, "\u{feff}Version 1.0\n\\a\n\\ä\\b c\n\\x\n".as_bytes());
    assert_eq!(tombstones::parse(&text).unwrap(), [path(r"Files\a"), path(r"Files\ä\b c"), path(r"Files\x")]);
    // Without a line feed at the end, and with those of Windows.
    let windows = "\u{feff}Version 1.0\r\n\\a\r\n\\b";
    assert_eq!(tombstones::parse(windows.as_bytes()).unwrap(), [path(r"Files\a"), path(r"Files\b")]);
    for (bad, at) in [("a", 15), ("\\", 15), ("", 15), ("\\a\\..\\b", 15), ("\\a\n\\b\\", 18), ("\\a:b", 15)]
    {
        let error = tombstones::parse(format!("\u{feff}Version 1.0\n{bad}\n").as_bytes()).unwrap_err();
        assert_eq!((error.kind(), error.byte_offset()), (&ErrorKind::InvalidArchive, Some(at)), "{bad:?}");
    }
    let units = [0x46, 0x69, 0x6c, 0x65, 0x73, 0x5c, 0xd800];
    let unpaired = CimPath::from_utf16(&units).unwrap();
    assert_eq!(tombstones::to_bytes(&[unpaired]).unwrap_err().kind(), &ErrorKind::Unrepresentable);
}

/// A layer in export order: names are sorted, and what is removed has no entry.
fn any_layer() -> impl Strategy<Value = Vec<Said>> {
    let leaf = (vec(any::<u8>(), 0..30), any::<u32>(), option::of("[a-z]{1,5}"), any::<bool>());
    let entry = ("[a-zé]{1,4}", option::of("[a-z]{1,3}"), leaf);
    vec(entry, 0..12).prop_map(|entries| {
        let mut tree = std::collections::BTreeMap::new();
        for (top, below, leaf) in entries {
            let top_dir: &mut std::collections::BTreeMap<_, _> = tree.entry(top).or_default();
            top_dir.insert(below.unwrap_or_else(|| "zzzz".to_owned()), leaf);
        }
        let mut events = vec![dir("Files")];
        for (top, below) in tree {
            let top = format!(r"Files\{top}");
            events.push(dir(&top));
            let (removed, kept): (Vec<_>, Vec<_>) =
                below.into_iter().partition(|(_, (.., removed))| *removed);
            events.extend(removed.iter().map(|(name, _)| remove(&format!(r"{top}\{name}"))));
            for (name, (bytes, attributes, stream_name, _)) in kept {
                let at = format!(r"{top}\{name}");
                // Bits that say what else there is are not free.
                let attributes = Attributes::from_bits_retain(attributes)
                    - Attributes::DIRECTORY
                    - Attributes::REPARSE_POINT;
                events.push(Said::Add(path(&at), meta(attributes), bytes.clone()));
                events.extend(stream_name.map(|name| stream(&at, &name, &bytes)));
            }
        }
        events
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn layers_come_back(events in any_layer()) {
        let temp = tempfile::tempdir().unwrap();
        let layer = temp.path().join("layer");
        write(&layer, &events).unwrap();
        prop_assert_eq!(read(&layer).unwrap(), events);
    }

    #[test]
    fn damaged_files_are_an_error_or_a_file(
        damage in vec((any::<sample::Index>(), any::<u8>()), 1..4), which in sample::select(vec!["Files/all", "Files.$wcidirs$", "Files/junction.$wcidirs$", "tombstones.txt"]),
    ) {
        let temp = tempfile::tempdir().unwrap();
        let layer = temp.path().join("layer");
        write(&layer, &everything()).unwrap();
        let mut bytes = fs::read(layer.join(which)).unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        fs::write(layer.join(which), bytes).unwrap();
        if let Ok(mut source) = LegacySource::open(&layer, LegacyOptions::default()) {
            let mut events = 0;
            while let Ok(Some(_)) = source.next_event() {
                events += 1;
            }
            prop_assert!(events < 100);
        }
    }
}
