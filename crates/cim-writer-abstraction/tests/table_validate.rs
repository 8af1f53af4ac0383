//! What is refused in front of an image is what the image refuses.

use cim_writer_abstraction::{
    Attributes, CimKind, CimName, CimOp, CimPath, CimSink, FileMeta, StreamName, Validate,
    emu::Emulator,
    op::{CreateFlags, MergeFlags},
    table::TableSink,
    validate::Names,
};
use layer_model::{ErrorKind, Result};
use proptest::prelude::*;

/// A sink that takes everything.
#[derive(Debug, Default)]
struct Anything;

impl CimSink for Anything {
    fn op(&mut self, _: &CimOp<'_>) -> Result<()> {
        Ok(())
    }

    fn write(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// One call, as it can be made up. Paths are few, so that they meet.
#[derive(Clone, Debug)]
enum Call {
    Create { at: &'static str, what: u8, size: u8 },
    Stream { of: &'static str, size: u8 },
    Write(u8),
    End,
    Link(&'static str, &'static str),
    Merged(&'static str, &'static str),
    Delete(&'static str),
    Tombstone(&'static str),
    Source(u32),
    Commit,
    Close,
    Seal,
    Discard,
    CreateImage,
}

const PATHS: &[&str] = &["", "a", "A", "b", "a\\b", "a\\B\\c", "b\\x", "a b", "a\\b\\d"];

fn at() -> impl Strategy<Value = &'static str> {
    prop::sample::select(PATHS)
}

/// Most calls are such that something comes of them: a stream that is opened is mostly ended.
fn calls() -> impl Strategy<Value = Vec<Call>> {
    let created = || (at(), 0_u8..4, 0_u8..3);
    let whole = |first: Call, size: u8| vec![first, Call::Write(size), Call::End];
    let step = prop_oneof![
        8 => created().prop_map(move |(at, what, size)| whole(Call::Create { at, what, size }, size)),
        3 => (at(), 0_u8..3).prop_map(move |(of, size)| whole(Call::Stream { of, size }, size)),
        4 => (at(), at()).prop_map(|(path, target)| vec![Call::Link(path, target)]),
        2 => (at(), at()).prop_map(|(path, target)| vec![Call::Merged(path, target)]),
        4 => at().prop_map(|path| vec![Call::Delete(path)]),
        2 => at().prop_map(|path| vec![Call::Tombstone(path)]),
        1 => created().prop_map(|(at, what, size)| vec![Call::Create { at, what, size }]),
        1 => prop::sample::select(vec![
            Call::Write(1), Call::End, Call::Commit, Call::Close, Call::Seal, Call::Discard, Call::CreateImage,
            Call::Source(1), Call::Source(0), Call::Source(5),
        ]).prop_map(|call| vec![call]),
    ];
    prop::collection::vec(step, 0..14).prop_map(|steps| steps.concat())
}

/// The kinds of files: a directory, a file, a link to a directory, a link to a file.
fn meta(what: u8) -> FileMeta {
    let symlink = b"\x0c\0\0\xa0\x14\0\0\0\0\0\x02\0\x04\0\x02\0\x01\0\0\0b\0\0\0b\0\0\0".as_slice();
    match what {
        0 => FileMeta::new(Attributes::DIRECTORY),
        1 => FileMeta::new(Attributes::ARCHIVE),
        2 => FileMeta {
            reparse: symlink.into(),
            ..FileMeta::new(Attributes::DIRECTORY | Attributes::REPARSE_POINT)
        },
        _ => FileMeta { reparse: symlink.into(), ..FileMeta::new(Attributes::REPARSE_POINT) },
    }
}

/// Where and as what the image is made.
struct Setup<'a> {
    kind: CimKind,
    container: &'a str,
    name: &'a CimName,
    parent: Option<&'a CimName>,
    flags: CreateFlags,
}

fn make(sink: &mut dyn CimSink, setup: &Setup<'_>, call: &Call) -> Result<()> {
    let path = |text: &str| CimPath::new(text).expect("a path");
    let stream = StreamName::new("s").expect("a name");
    let layer = CimName::new("layer.cim").expect("a name");
    match call {
        Call::Create { at, what, size } => {
            let meta = meta(*what);
            sink.op(&CimOp::CreateFile { path: &path(at), meta: &meta, size: u64::from(*size) })
        }
        Call::Stream { of, size } => {
            sink.op(&CimOp::CreateStream { of: &path(of), name: &stream, size: u64::from(*size) })
        }
        Call::Write(size) => sink.write(&[1, 2, 3][..usize::from(*size)]),
        Call::End => sink.op(&CimOp::EndStream),
        Call::Link(new, target) => sink.op(&CimOp::HardLink { path: &path(new), target: &path(target) }),
        Call::Merged(new, target) => sink.op(&CimOp::MergeLink { path: &path(new), target: &path(target) }),
        Call::Delete(at) => sink.op(&CimOp::Delete { path: &path(at) }),
        Call::Tombstone(at) => sink.op(&CimOp::Tombstone { path: &path(at) }),
        Call::Source(flags) => sink.op(&CimOp::AddSource {
            container: "C:\\source.vhd",
            name: &layer,
            flags: MergeFlags::from_bits_retain(*flags),
        }),
        Call::Commit => sink.op(&CimOp::Commit),
        Call::Close => sink.op(&CimOp::Close),
        Call::Seal => sink.op(&CimOp::Seal { container: setup.container }),
        Call::Discard => sink.op(&CimOp::Discard),
        Call::CreateImage => sink.op(&CimOp::CreateImage {
            kind: setup.kind,
            container: setup.container,
            name: setup.name,
            parent: setup.parent,
            flags: setup.flags,
        }),
    }
}

/// Makes every call of both; both have to say the same. Gives the names of the image.
fn agree(
    emulator: &Emulator,
    setup: &Setup<'_>,
    inherited: Names,
    calls: &[Call],
) -> Result<Names, TestCaseError> {
    let mut checked = Validate::over(Anything, inherited);
    let mut real = TableSink::new(emulator.api());
    for (n, call) in calls.iter().enumerate() {
        let (said, done) = (make(&mut checked, setup, call), make(&mut real, setup, call));
        prop_assert_eq!(
            said.is_ok(),
            done.is_ok(),
            "call {}, {:?}: checked {:?}, done {:?}",
            n,
            call,
            said.as_ref().err().map(layer_model::Error::chain),
            done.as_ref().err().map(layer_model::Error::chain)
        );
        if let (Err(said), Err(done)) = (said, done) {
            let (said, done) = (said.kind(), done.kind());
            // The interface has one code for both, and does not say which.
            let alike = *said == ErrorKind::ConflictingEntries && *done == ErrorKind::AlreadyExists;
            prop_assert!(alike || said == done, "call {n}, {call:?}: checked {said:?}, done {done:?}");
        }
    }
    Ok(checked.names().clone())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]

    #[test]
    fn a_block_image_takes_what_passes_the_check(calls in calls(), verified: bool) {
        let emulator = Emulator::new().expect("a world is free");
        let (name, layer) = (CimName::new("i.cim").expect("a name"), CimName::new("layer.cim").expect("a name"));
        let mut flags = CreateFlags::SINGLE_FILE;
        flags.set(CreateFlags::VERIFIED, verified);
        let source = Setup { kind: CimKind::Block, container: "C:\\source.vhd", name: &layer, parent: None, flags };
        agree(&emulator, &source, Names::new(), &[Call::CreateImage, Call::Commit, Call::Close])?;
        let setup = Setup { container: "C:\\i.vhd", name: &name, ..source };
        let all = [vec![Call::CreateImage], calls].concat();
        agree(&emulator, &setup, Names::new(), &all)?;
    }

    #[test]
    fn a_fork_takes_what_passes_the_check(first in calls(), second in calls()) {
        let emulator = Emulator::new().expect("a world is free");
        let (one, two) = (CimName::new("1.cim").expect("a name"), CimName::new("2.cim").expect("a name"));
        let (kind, flags) = (CimKind::Forked, CreateFlags::empty());
        let setup = Setup { kind, container: "C:\\cims", name: &one, parent: None, flags };
        let all = [vec![Call::CreateImage], first, vec![Call::Commit, Call::Close]].concat();
        let names = agree(&emulator, &setup, Names::new(), &all)?;
        // Only what was committed can be forked.
        if !emulator.images().is_empty() {
            let setup = Setup { name: &two, parent: Some(&one), ..setup };
            let all = [vec![Call::CreateImage], second, vec![Call::Commit, Call::Close]].concat();
            agree(&emulator, &setup, names, &all)?;
        }
    }
}

#[test]
fn a_fork_of_something_unknown_may_have_anything() {
    let name = CimName::new("2.cim").expect("a name");
    let (kind, flags) = (CimKind::Forked, CreateFlags::empty());
    let setup = Setup { kind, container: "C:\\cims", name: &name, parent: Some(&name), flags };
    let mut sink = Validate::new(Anything);
    for call in [Call::CreateImage, Call::Link("b\\x", "a\\b"), Call::Delete("a")] {
        make(&mut sink, &setup, &call).expect("it may be there");
    }
    let gone = make(&mut sink, &setup, &Call::Link("b", "a\\b")).expect_err("it was deleted");
    assert_eq!(gone.kind(), &ErrorKind::NotFound);
}

#[test]
fn an_error_of_the_sink_spends_the_check_as_well() {
    let emulator = Emulator::new().expect("a world is free");
    emulator.inject(
        1,
        cim_writer_abstraction::emu::Fault::Fail(cim_writer_abstraction::table::HResult::win32(112)),
    );
    let name = CimName::new("1.cim").expect("a name");
    let (kind, flags) = (CimKind::Forked, CreateFlags::empty());
    let setup = Setup { kind, container: "C:\\cims", name: &name, parent: None, flags };
    let mut sink = Validate::new(TableSink::new(emulator.api()));
    make(&mut sink, &setup, &Call::CreateImage).expect("created");
    let create = Call::Create { at: "a", what: 0, size: 0 };
    let error = make(&mut sink, &setup, &create).expect_err("the disk is full");
    assert_eq!(error.kind(), &ErrorKind::Io(Some(112)));
    let spent = make(&mut sink, &setup, &Call::Commit).expect_err("it is spent");
    assert_eq!(spent.kind(), &ErrorKind::FailedPrecondition);
    make(&mut sink, &setup, &Call::Discard).expect("that always works");
}
