//! The Win32 interface, over the emulator: what is documented about it, and what happens when a call fails.

use std::sync::Arc;

use cim_writer_abstraction::{
    Attributes, CimKind, CimName, CimOp, CimPath, CimSink, FileMeta, FileTime, Guid, StreamName,
    caps::OsVersion,
    emu::{Emulator, Fault},
    hive::HiveMerger,
    journal::JournalSink,
    model::Rules,
    op::{CreateFlags, MergeFlags, MountFlags},
    table::{CimApi, CimTable, HResult, HostFiles, ImageRef, Mount, TableSink, Trust},
};
use layer_model::{ErrorKind, Result};
use sha2::{Digest as _, Sha256};

fn path(text: &str) -> CimPath {
    CimPath::new(text).expect("a path")
}

fn name(text: &str) -> CimName {
    CimName::new(text).expect("a name")
}

fn emulator() -> Emulator {
    Emulator::new().expect("a world is free")
}

fn file() -> FileMeta {
    FileMeta::new(Attributes::ARCHIVE)
}

fn dir() -> FileMeta {
    FileMeta::new(Attributes::DIRECTORY)
}

const DIR: &str = "C:\\cims";
const BLOCK: CreateFlags = CreateFlags::SINGLE_FILE.union(CreateFlags::CONSISTENT);
const VERIFIED: CreateFlags = BLOCK.union(CreateFlags::VERIFIED);

/// Everything that an import does, in some order that works.
fn import(sink: &mut dyn CimSink, container: &str, flags: CreateFlags) -> Result<()> {
    let layer = name("layer.cim");
    sink.op(&CimOp::CreateImage { kind: CimKind::Block, container, name: &layer, parent: None, flags })?;
    let meta = FileMeta {
        creation: FileTime(1),
        write: FileTime(2),
        change: FileTime(3),
        access: FileTime(4),
        ea: b"\0\0\0\0\0\x01\x03\0A\0xyz\0\0\0".as_slice().into(),
        ..file()
    };
    for (at, meta, bytes) in
        [("Files", &dir(), b"".as_slice()), ("Files\\a", &meta, b"hello cim"), ("Files\\empty", &file(), b"")]
    {
        sink.op(&CimOp::CreateFile { path: &path(at), meta, size: bytes.len() as u64 })?;
        for piece in bytes.chunks(4) {
            sink.write(piece)?;
        }
        sink.op(&CimOp::EndStream)?;
    }
    let stream = StreamName::new("Zone.Identifier").expect("a name");
    sink.op(&CimOp::CreateStream { of: &path("Files\\a"), name: &stream, size: 4 })?;
    sink.write(b"zone")?;
    sink.op(&CimOp::EndStream)?;
    sink.op(&CimOp::HardLink { path: &path("Files\\b"), target: &path("Files\\a") })?;
    sink.op(&CimOp::MergeLink { path: &path("Files\\m"), target: &path("Files\\below") })?;
    sink.op(&CimOp::Tombstone { path: &path("Files\\gone") })?;
    sink.op(&CimOp::Commit)?;
    sink.op(&CimOp::Close)?;
    if flags.contains(CreateFlags::VERIFIED) {
        sink.op(&CimOp::Seal { container })?;
        sink.root_digest()?;
        let size = sink.container_len()?.unwrap_or(0);
        sink.op(&CimOp::VhdFooter { size, unique_id: [7; 16] })?;
        sink.op(&CimOp::Sidecar { name: "integrity_checksum", text: "00" })?;
    }
    Ok(())
}

#[test]
fn everything_about_a_file_arrives_as_it_was_given() {
    let emulator = emulator();
    let container = "C:\\s\\1\\layer.vhd";
    import(&mut TableSink::new(emulator.api()), container, BLOCK).expect("it works");
    let mut expected = JournalSink::new(Vec::new());
    import(&mut expected, "", BLOCK).expect("it works");
    let expected = String::from_utf8(expected.finish().expect("written")).expect("text");
    let journal = emulator.journal(container, &name("layer.cim")).expect("committed");
    let journal = String::from_utf8(journal).expect("text");
    // The emulator's ends with the commit.
    assert_eq!(journal, expected.replace("{\"op\":\"close\"}\n", ""));
    assert!(journal.contains("\"sd\":\"AQAEgAAAAAAAAAAAAAAAAAAAAAA=\""), "{journal}");
}

#[test]
fn the_root_digest_is_that_of_the_journal_and_the_container_gets_what_is_beside_it() {
    let emulator = emulator();
    let container = "C:\\s\\1\\layer.vhd";
    let mut sink = TableSink::new(emulator.api());
    import(&mut sink, container, VERIFIED).expect("it works");
    let journal = emulator.journal(container, &name("layer.cim")).expect("committed");
    let root: [u8; 32] = Sha256::digest(journal).into();
    assert_eq!(sink.root_digest().expect("sealed"), Some(root));
    assert_eq!(emulator.beside(container, "integrity_checksum").as_deref(), Some("00"));
    let size = sink.container_len().expect("it is there").expect("it has a size");
    assert_eq!(size % 4096, 512, "with the footer");
    let again = sink.op(&CimOp::VhdFooter { size, unique_id: [7; 16] }).expect_err("one is enough");
    assert_eq!(again.kind(), &ErrorKind::AlreadyExists);
}

#[test]
fn a_failure_of_any_call_leaves_no_image_and_no_handle() {
    let container = "C:\\s\\1\\layer.vhd";
    let whole = emulator();
    import(&mut TableSink::new(whole.api()), container, VERIFIED).expect("it works");
    assert!(whole.calls() >= 15, "{}", whole.calls());
    let commit = (0..whole.calls()).filter(|failing| {
        let emulator = emulator();
        emulator.inject(*failing, Fault::Fail(HResult::win32(1117))); // ERROR_IO_DEVICE
        let mut sink = TableSink::new(emulator.api());
        let error = import(&mut sink, container, VERIFIED).expect_err("a call fails");
        assert_eq!(error.kind(), &ErrorKind::Io(Some(1117)), "call {failing}: {}", error.chain());
        assert!(error.chain().contains("failed: Windows error 1117"), "{}", error.chain());
        // After that, nothing brings an image about.
        let late = sink.op(&CimOp::Commit).expect_err("it is spent");
        assert_eq!(late.kind(), &ErrorKind::FailedPrecondition);
        let committed = !emulator.images().is_empty();
        if !committed {
            sink.op(&CimOp::Discard).expect("that always works");
            assert_eq!(emulator.open_handles(), 0, "call {failing}");
        }
        drop(sink);
        assert_eq!(emulator.open_handles(), 0, "call {failing}");
        committed
    });
    // What fails behind the commit is the seal and the reading of the digest.
    assert_eq!(commit.count(), 2);
}

#[test]
fn a_short_write_is_a_size_that_is_wrong() {
    let emulator = emulator();
    let mut sink = TableSink::new(emulator.api());
    emulator.inject(3, Fault::ShortWrite(2)); // create image, create "Files", create "Files\a", write
    let error = import(&mut sink, "C:\\s\\1\\layer.vhd", BLOCK).expect_err("two bytes of four were taken");
    assert!(matches!(error.kind(), ErrorKind::SizeMismatch { expected: 9, .. }), "{error:?}");
    drop(sink);
    assert!(emulator.images().is_empty());
}

#[test]
fn a_function_that_is_missing_is_not_supported_and_named() {
    for missing in CimTable::NAMES {
        let emulator = emulator();
        let api = emulator.api().without(missing);
        let done = import(&mut TableSink::new(api), "C:\\s\\1\\layer.vhd", VERIFIED);
        let needed = [
            c"CimCreateImage2",
            c"CimCloseImage",
            c"CimCommitImage",
            c"CimCreateFile",
            c"CimCreateAlternateStream",
            c"CimWriteStream",
            c"CimCloseStream",
            c"CimCreateHardLink",
            c"CimTombstoneFile",
            c"CimCreateMergeLink",
            c"CimSealImage",
            c"CimGetVerificationInformation",
        ];
        match done {
            Ok(()) => assert!(!needed.contains(missing), "{missing:?}"),
            Err(error) => {
                assert!(needed.contains(missing), "{missing:?}: {}", error.chain());
                assert_eq!(error.kind(), &ErrorKind::NotSupported, "{missing:?}");
                assert!(error.message().ends_with(missing.to_str().expect("ASCII")), "{}", error.message());
            }
        }
        assert_eq!(emulator.open_handles(), 0, "{missing:?}");
    }
}

#[test]
fn an_empty_table_can_do_nothing() {
    // SAFETY: there is no function that could misbehave.
    let api = unsafe { CimApi::new(CimTable::default(), |_| None, Arc::new(HostFiles)) };
    let error = api.create_image(DIR, None, Some(&name("1.cim"))).expect_err("there is no function");
    assert_eq!(error.kind(), &ErrorKind::NotSupported);
}

#[test]
fn standard_images_are_named_as_documented() {
    let emulator = emulator();
    let api = emulator.api();
    let (one, two) = (name("1.cim"), name("2.cim"));
    let kind = |existing, new| api.create_image(DIR, existing, new).expect_err("refused").kind().clone();
    assert_eq!(kind(None, None), ErrorKind::InvalidArgument);
    assert_eq!(kind(Some(&one), None), ErrorKind::NotFound);
    assert_eq!(kind(Some(&one), Some(&two)), ErrorKind::NotFound);
    let write = |existing: Option<&CimName>, new: Option<&CimName>, at: &str| {
        let image = api.create_image(DIR, existing, new).expect("named as documented");
        image.create_file(&path(at), &file(), 0).expect("created").finish().expect("empty");
        image.commit().expect("committed");
    };
    write(None, Some(&one), "a");
    assert_eq!(kind(None, Some(&one)), ErrorKind::AlreadyExists);
    write(Some(&one), Some(&two), "b");
    assert_eq!(kind(Some(&one), Some(&two)), ErrorKind::AlreadyExists);
    write(Some(&one), None, "c"); // extended in place
    write(Some(&one), Some(&name("1.CIM")), "d"); // and so, spelled otherwise
    let paths = |image| {
        let dump = emulator.dump(DIR, image).expect("committed");
        dump.lines().map(|line| line.split('"').nth(3).unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(paths(&one), ["a", "c", "d"]);
    assert_eq!(paths(&two), ["a", "b"], "the fork does not see what came later");
}

#[test]
fn one_handle_of_a_directory_is_open_at_a_time() {
    let emulator = emulator();
    let api = emulator.api();
    let image = api.create_image(DIR, None, Some(&name("1.cim"))).expect("created");
    let second = api.create_image("c:\\CIMS\\", None, Some(&name("2.cim"))).expect_err("the first is open");
    assert_eq!(second.kind(), &ErrorKind::Busy);
    api.create_image("C:\\others", None, Some(&name("2.cim"))).expect("another directory");
    drop(image);
    api.create_image(DIR, None, Some(&name("2.cim"))).expect("it is closed");
}

#[test]
fn an_image_is_closed_after_its_streams() {
    let emulator = emulator();
    let image = emulator.api().create_image(DIR, None, Some(&name("1.cim"))).expect("created");
    let stream = image.create_file(&path("f"), &file(), 0).expect("created");
    assert_eq!(image.commit().expect_err("a stream is open").kind(), &ErrorKind::Busy);
    drop(image);
    assert_eq!(emulator.open_handles(), 2, "the stream keeps its image");
    drop(stream);
    assert_eq!(emulator.open_handles(), 0);
}

#[test]
fn ranges_that_were_never_written_read_as_zeros() {
    let emulator = emulator();
    let api = emulator.api();
    let image = api.create_image(DIR, None, Some(&name("1.cim"))).expect("created");
    let mut stream = image.create_file(&path("f"), &file(), 5).expect("created");
    stream.write(b"12").expect("there is room");
    let mut long = [0; 4];
    drop(stream); // as the function itself has it; `finish` would have refused
    image.commit().expect("committed");
    drop(image);
    let at = "C:\\cims\\1.cim";
    assert_eq!(api.read_file(at, &path("F"), 1, &mut long).expect("it is there"), (4, 0));
    assert_eq!(long, *b"2\0\0\0");
    assert_eq!(api.read_file(at, &path("f"), 0, &mut long[..2]).expect("it is there"), (2, 3));
    let stat = api.file_stat(at, &path("f")).expect("it is there");
    assert_eq!((stat.end_of_file, stat.file_attributes, stat.number_of_links), (5, 0x20, 1));
    assert_eq!(api.file_stat(at, &path("g")).expect_err("nothing there").kind(), &ErrorKind::NotFound);
}

#[test]
fn handles_of_a_world_are_nothing_in_another() {
    let (one, other) = (emulator(), emulator());
    let image = one.api().create_image(DIR, None, Some(&name("1.cim"))).expect("created");
    let commit = other.table().commit_image.expect("it is there");
    let handle = 0x1010 as *mut std::ffi::c_void;
    // SAFETY: the emulator takes any handle.
    assert_eq!(HResult(unsafe { commit(handle) }), HResult::INVALID_ARGUMENT);
    image.commit().expect("the right one does");
}

#[test]
fn paths_are_refused_as_documented() {
    let emulator = emulator();
    let table = emulator.table();
    let api = emulator.api();
    let _image = api.create_image("C:\\other", None, Some(&name("1.cim"))).expect("created");
    let (create, delete) = (table.create_file.expect("there"), table.delete_path.expect("there"));
    let open = table.create_image.expect("there");
    let wide = |text: &str| text.encode_utf16().chain([0]).collect::<Vec<u16>>();
    let metadata = cim_writer_abstraction::table::raw::FileMetadata::default();
    let (mut image, mut stream) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: strings end in a NUL, metadata and results have their places; NULL is given on purpose.
    unsafe {
        assert_eq!(open(wide(DIR).as_ptr(), std::ptr::null(), wide("1.cim").as_ptr(), &mut image), 0);
        for bad in ["a\\", "a:b", "a\\\\b", "..", "a\\..\\b", "a*"] {
            let code = HResult(create(image, wide(bad).as_ptr(), &metadata, &mut stream));
            assert_eq!(code, HResult::INVALID_ARGUMENT, "{bad}");
        }
        let null = std::ptr::null();
        assert_eq!(HResult(create(image, null, &metadata, &mut stream)), HResult::INVALID_ARGUMENT);
        assert_eq!(HResult(create(image, wide("a").as_ptr(), null.cast(), &mut stream)), HResult::POINTER);
        assert_eq!(HResult(delete(image, wide("a").as_ptr())), HResult::PATH_NOT_FOUND);
        assert_eq!(HResult(delete(std::ptr::null_mut(), wide("a").as_ptr())), HResult::INVALID_ARGUMENT);
        // One leading backslash is no matter.
        assert_eq!(create(image, wide("\\a").as_ptr(), &metadata, &mut stream), 0);
        table.close_image.expect("there")(image);
    }
}

/// A merged image of two others, verified or not.
fn merged(emulator: &Emulator, flags: CreateFlags) -> (String, Vec<String>) {
    let sources: Vec<_> = (0..2).map(|n| format!("C:\\s\\{n}\\layer.vhd")).collect();
    for source in &sources {
        let mut sink = TableSink::new(emulator.api());
        let layer = name("layer.cim");
        let ops = [
            CimOp::CreateImage { kind: CimKind::Block, container: source, name: &layer, parent: None, flags },
            CimOp::CreateFile { path: &path(&format!("f{}", &source[5..6])), meta: &file(), size: 0 },
            CimOp::EndStream,
            CimOp::Commit,
            CimOp::Close,
        ];
        ops.iter().for_each(|op| sink.op(op).expect("it works"));
        if flags.contains(CreateFlags::VERIFIED) {
            sink.op(&CimOp::Seal { container: source }).expect("sealed");
        }
    }
    let into = "C:\\s\\m\\merged.vhd".to_owned();
    let mut sink = TableSink::new(emulator.api());
    let (layer, merged) = (name("layer.cim"), name("merged.cim"));
    let mut add = MergeFlags::SINGLE_FILE;
    add.set(MergeFlags::VERIFIED, flags.contains(CreateFlags::VERIFIED));
    let make =
        CimOp::CreateImage { kind: CimKind::Block, container: &into, name: &merged, parent: None, flags };
    sink.op(&make).expect("created");
    for source in &sources {
        sink.op(&CimOp::AddSource { container: source, name: &layer, flags: add }).expect("added");
    }
    sink.op(&CimOp::Commit).expect("committed");
    sink.op(&CimOp::Close).expect("closed");
    if flags.contains(CreateFlags::VERIFIED) {
        sink.op(&CimOp::Seal { container: &into }).expect("sealed");
    }
    (into, sources)
}

#[test]
fn a_merged_image_is_mounted_with_its_sources_in_their_order() {
    let emulator = emulator();
    let (into, sources) = merged(&emulator, BLOCK);
    let api = emulator.api();
    let (layer, merged, volume) = (name("layer.cim"), name("merged.cim"), Guid::from_rfc([9; 16]));
    let top = ImageRef { container: &into, name: &merged };
    let below: Vec<_> = sources.iter().map(|container| ImageRef { container, name: &layer }).collect();
    let mount = |sources: &[ImageRef<'_>], flags| {
        api.mount(volume, &Mount::merged(top, sources.iter().copied(), flags))
    };
    let reversed = [below[1], below[0]];
    let wrong = mount(&reversed, MountFlags::SINGLE_FILE).expect_err("another order");
    assert_eq!(wrong.kind(), &ErrorKind::CorruptImage);
    for flags in [
        MountFlags::empty(),
        MountFlags::SINGLE_FILE | MountFlags::BLOCK_DEVICE,
        MountFlags::SINGLE_FILE | MountFlags::VERIFIED,
        MountFlags::SINGLE_FILE | MountFlags::CHILD_ONLY,
        MountFlags::BLOCK_DEVICE,
    ] {
        let refused = mount(&below, flags).expect_err("it is in a file, and not verified");
        assert_eq!(refused.kind(), &ErrorKind::InvalidArgument, "{flags:?}");
    }
    mount(&below, MountFlags::SINGLE_FILE | MountFlags::CACHE_FILES).expect("mounted");
    let twice = mount(&below, MountFlags::SINGLE_FILE).expect_err("the volume is there");
    assert_eq!(twice.kind(), &ErrorKind::AlreadyExists);
    let dump = emulator.volume_dump(volume).expect("mounted");
    assert!(dump.lines().count() == 2 && dump.contains("\"source\":1}"), "{dump}");
    api.dismount(volume).expect("it is there");
    assert_eq!(api.dismount(volume).expect_err("it is gone").kind(), &ErrorKind::NotFound);
}

#[test]
fn verified_images_are_mounted_by_their_root_digest() {
    let emulator = emulator();
    let (into, sources) = merged(&emulator, VERIFIED);
    let api = emulator.api();
    let (layer, merged, volume) = (name("layer.cim"), name("merged.cim"), Guid::from_rfc([9; 16]));
    let below: Vec<_> = sources.iter().map(|container| ImageRef { container, name: &layer }).collect();
    let root =
        |container: &str| api.verification(container).expect("it is there").root.expect("it is sealed");
    let all = Mount::merged(
        ImageRef { container: &into, name: &merged },
        below.iter().copied(),
        MountFlags::SINGLE_FILE,
    );
    let one = Mount::one(below[0], MountFlags::SINGLE_FILE);
    for (mount, container) in [(&all, &into), (&one, &sources[0])] {
        let right = mount.clone().trust(Trust::Root(root(container)));
        api.mount(volume, &right).expect("the digest is right");
        api.dismount(volume).expect("mounted");
        let wrong = mount.clone().trust(Trust::Root([0; 32]));
        let error = api.mount(volume, &wrong).expect_err("the digest is wrong");
        assert!(matches!(error.kind(), ErrorKind::DigestMismatch { .. }), "{}", error.chain());
        assert!(error.to_string().contains("expected sha256:0000"), "{error}");
        // Without the digest it is not verified, which the plain call refuses.
        assert_eq!(api.mount(volume, mount).expect_err("it is").kind(), &ErrorKind::InvalidArgument);
    }
    // The plain call takes a verified image when it is told that it is one.
    api.mount(volume, &one.clone().trust(Trust::Verified)).expect("whatever its digest is");
    api.dismount(volume).expect("mounted");
    let refused =
        api.mount(volume, &all.clone().trust(Trust::Verified)).expect_err("the merging one does not");
    assert_eq!(refused.kind(), &ErrorKind::InvalidArgument);
    emulator.tamper(&into);
    let error = api.mount(volume, &all.trust(Trust::Root(root(&into)))).expect_err("it was damaged");
    assert_eq!(error.kind(), &ErrorKind::CorruptImage, "{}", error.chain());
}

#[test]
fn nothing_is_committed_over_a_mounted_image() {
    let emulator = emulator();
    let api = emulator.api();
    let (one, volume) = (name("1.cim"), Guid::from_rfc([1; 16]));
    api.create_image(DIR, None, Some(&one)).expect("created").commit().expect("committed");
    api.mount(volume, &Mount::one(ImageRef { container: DIR, name: &one }, MountFlags::empty()))
        .expect("mounted");
    let image = api.create_image(DIR, Some(&one), None).expect("opened");
    assert_eq!(image.commit().expect_err("it is mounted").kind(), &ErrorKind::Busy);
    api.dismount(volume).expect("mounted");
    image.commit().expect("now it can be");
}

#[test]
fn hives_are_merged_through_the_offline_registry() {
    let emulator = emulator();
    let os = OsVersion { major: 10, minor: 0, build: 26_100, revision: 1 };
    let registry = emulator.offline_registry(os);
    let place = tempfile::tempdir().expect("a directory");
    let at = |name: &str| place.path().join(name);
    std::fs::write(at("SYSTEM_BASE"), "base ").expect("written");
    let missing = registry.merge(&at("SYSTEM_BASE"), &at("SYSTEM_DELTA"), &at("out")).expect_err("no delta");
    assert_eq!(missing.kind(), &ErrorKind::NotFound);
    assert!(missing.to_string().contains("SYSTEM_DELTA"), "{missing}");
    std::fs::write(at("SYSTEM_DELTA"), "delta").expect("written");
    registry.merge(&at("SYSTEM_BASE"), &at("SYSTEM_DELTA"), &at("out")).expect("merged");
    let merged = std::fs::read_to_string(at("out")).expect("it is there");
    assert_eq!(merged, "merged by the emulator for 10.0\nbase delta");
    let again = registry.merge(&at("SYSTEM_BASE"), &at("SYSTEM_DELTA"), &at("out")).expect_err("it is there");
    assert_eq!(again.kind(), &ErrorKind::AlreadyExists);
    for call in 0..4 {
        emulator.inject(call, Fault::Fail(HResult::win32(1009))); // ERROR_BADDB
        let error =
            registry.merge(&at("SYSTEM_BASE"), &at("SYSTEM_DELTA"), &at("other")).expect_err("it fails");
        assert_eq!(error.kind(), &ErrorKind::Io(Some(1009)), "call {call}");
    }
    assert_eq!(emulator.open_handles(), 0, "every hive is closed, whatever failed");
}

#[test]
fn what_is_only_said_of_windows_can_be_turned_off() {
    let rules = Rules::default().strict_parents(false).fork_delete_noop(false);
    let emulator = Emulator::with_rules(rules).expect("a world is free");
    let api = emulator.api();
    let (one, two) = (name("1.cim"), name("2.cim"));
    let image = api.create_image(DIR, None, Some(&one)).expect("created");
    image.create_file(&path("d\\f"), &file(), 0).expect("parents are implied").finish().expect("empty");
    image.commit().expect("committed");
    drop(image);
    let fork = api.create_image(DIR, Some(&one), Some(&two)).expect("forked");
    fork.delete(&path("d\\f")).expect("it is there");
    fork.commit().expect("committed");
    assert_eq!(emulator.dump(DIR, &one).expect("committed").lines().count(), 2);
    assert_eq!(emulator.dump(DIR, &two).expect("committed").lines().count(), 1);
}

#[test]
fn worlds_are_given_back() {
    for _ in 0..100 {
        let emulator = emulator();
        let api = emulator.api();
        drop(emulator);
        api.create_image(DIR, None, Some(&name("1.cim"))).expect("the functions keep their world");
    }
}
