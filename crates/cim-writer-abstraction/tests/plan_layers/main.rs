//! What layers become: the operations, in their order, and what is refused.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod forked;
mod place;

use std::path::Path;

use cim_writer_abstraction::{
    Capabilities, FileMeta, Recorder, StreamName,
    content::MemoryBlobs,
    hive::{HiveMerger, HivePolicy},
    model::{self, View},
    op::CimKind,
    plan::PlanOptions,
    profile::CimProfile,
    typed::*,
    vhd::UniqueId,
};
use layer_model::{Error, ErrorKind, Result, Silent, Stack};

use place::*;

#[test]
fn an_empty_image_is_created_and_committed() {
    let place = Place::new();
    let parents = place.parents();
    let got = committed(place.child(&parents));
    assert_eq!(got, ["create_image layer.cim 24", "commit", "close"]);
}

#[test]
fn a_base_layer_gets_second_names_for_its_hives_and_a_layout() {
    let place = Place::new();
    let mut writer = place.base();
    base_set(&mut writer, &HIVES).unwrap();
    let (_, got) = kept(writer.commit().unwrap());
    let config = r"Files\Windows\System32\config";
    let mut expected = vec!["create_image layer.cim 24".to_owned()];
    for dir in ["Files", r"Files\Windows", r"Files\Windows\System32", config] {
        expected.push(format!("create_file {dir} 16 0"));
    }
    expected.extend(HIVES.map(|hive| format!(r"spool {config}\{hive}")));
    for hive in HIVES {
        expected.push(format!(r"create_file {config}\{hive} 32 1"));
        expected.push("data 1".to_owned());
    }
    expected.push("create_file Hives 16 0".to_owned());
    for hive in HIVES {
        let base = if hive == "DEFAULT" { "DEFAULTUSER" } else { hive };
        expected.push(format!(r"hard_link Hives\{base}_BASE {config}\{hive}"));
    }
    expected.extend(["create_file layout 128 15", "data 15", "commit", "close"].map(str::to_owned));
    assert_eq!(got, expected);
    let host = |file: &str| std::fs::read(place.temp.path().join("base").join(file)).unwrap();
    assert_eq!(host("layout"), b"vhd-with-hives\n");
    assert_eq!(host("Hives/DEFAULTUSER_BASE"), b"h");
}

#[test]
fn a_base_layer_without_a_hive_is_refused_and_discarded() {
    let place = Place::new();
    let mut writer = place.base();
    base_set(&mut writer, &["SYSTEM", "SOFTWARE", "SAM", "DEFAULT"]).unwrap();
    let error = writer.commit().unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotFound);
    assert_eq!(error.entry_path(), Some(&br"Files\Windows\System32\config\SECURITY"[..]));
}

#[test]
fn deltas_in_a_base_layer_and_hives_that_come_twice_are_refused() {
    let place = Place::new();
    let mut writer = place.base();
    writer.directory(&path("Hives"), &dir_meta()).unwrap();
    let error = file(&mut writer, r"Hives\SYSTEM_DELTA", b"d").unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::InvalidArchive);

    let place = Place::new();
    let mut writer = place.base();
    base_set(&mut writer, &["SYSTEM"]).unwrap();
    let again = file(&mut writer, r"Files\Windows\System32\config\SYSTEM", b"h").unwrap_err();
    assert_eq!(again.kind(), &ErrorKind::ConflictingEntries);
}

#[test]
fn leftovers_in_the_layer_directory_are_not_taken_for_the_layers() {
    let place = Place::new();
    let config = place.temp.path().join("base/Files/Windows/System32/config");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("SYSTEM"), "old").unwrap();
    let error = base_set(&mut place.base(), &HIVES).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(config.join("SYSTEM")).unwrap(), b"old");
}

#[test]
fn a_child_has_files_and_tombstones() {
    let place = Place::new();
    let parents = place.parents();
    let mut writer = place.child(&parents);
    writer.directory(&path("Files"), &dir_meta()).unwrap();
    file(&mut writer, r"Files\x", b"xxx").unwrap();
    writer.remove(&path(r"Files\y")).unwrap();
    let got = committed(writer);
    assert_eq!(
        got[1..5],
        ["create_file Files 16 0", r"create_file Files\x 32 3", "data 3", r"tombstone Files\y"]
    );
}

#[test]
fn a_directory_that_the_layer_leaves_out_is_that_of_the_parents() {
    let place = Place::new();
    let mut writer = place.base();
    let meta = FileMeta { write: cim_writer_abstraction::FileTime(7), ..dir_meta() };
    writer.directory(&path("Files"), &meta).unwrap();
    base_set(&mut writer, &HIVES).unwrap();
    writer.directory(&path("Files"), &meta).unwrap();
    let (base, _) = kept(writer.commit().unwrap());

    let mut writer = place.child(&Stack::of(base));
    file(&mut writer, r"files\deep\x", b"x").unwrap();
    let committed = writer.commit().unwrap();
    assert!(committed.planned.implied.is_empty());
    let (layer, got) = kept(committed);
    assert_eq!(
        got[1..4],
        ["create_file files 16 0", r"create_file files\deep 16 0", r"create_file files\deep\x 32 1"]
    );
    let view = View::of(layer.tree().unwrap());
    let found = view.lookup(&path("Files")).unwrap();
    assert_eq!(found.meta().unwrap().write.0, 7);
}

#[test]
fn links_of_a_block_image_wait_for_their_targets() {
    let place = Place::new();
    let parents = place.parents();
    let mut writer = place.child(&parents);
    writer.directory(&path("Files"), &dir_meta()).unwrap();
    writer.hard_link(&path(r"Files\l"), &path(r"Files\t")).unwrap();
    writer.hard_link(&path(r"Files\a"), &path(r"Files\b")).unwrap();
    writer.hard_link(&path(r"Files\b"), &path(r"Files\c")).unwrap();
    file(&mut writer, r"Files\c", b"c").unwrap();
    writer.hard_link(&path(r"Files\m"), &path(r"Files\l")).unwrap();
    let got = committed(writer);
    assert_eq!(
        got[2..],
        [
            r"create_file Files\c 32 1",
            "data 1",
            r"merge_link Files\l Files\t",
            r"hard_link Files\b Files\c",
            r"hard_link Files\a Files\b",
            r"merge_link Files\m Files\l",
            "commit",
            "close"
        ]
    );
}

#[test]
fn in_one_pass_as_hcsshim_links_before_their_targets_become_merged_links() {
    let place = Place::new();
    let parents = place.parents();
    let plan = PlanOptions::default().profile(CimProfile::Hcsshim);
    let mut writer = place.child_with(&parents, "child", plan);
    writer.directory(&path("Files"), &dir_meta()).unwrap();
    writer.hard_link(&path(r"Files\a"), &path(r"Files\b")).unwrap();
    writer.hard_link(&path(r"Files\b"), &path(r"Files\c")).unwrap();
    file(&mut writer, r"Files\c", b"c").unwrap();
    let got = committed(writer);
    assert_eq!(got[4..6], [r"merge_link Files\a Files\b", r"hard_link Files\b Files\c"]);
}

#[test]
fn links_that_lead_nowhere_or_to_the_wrong_thing_are_refused() {
    type Step = fn(&mut Block<ChildRole>) -> Result<()>;
    let cases: [(Step, ErrorKind); 8] = [
        // in a circle
        (
            |w| {
                w.hard_link(&path(r"Files\a"), &path(r"Files\b"))?;
                w.hard_link(&path(r"Files\b"), &path(r"Files\a"))
            },
            ErrorKind::InvalidArchive,
        ),
        (|w| w.hard_link(&path(r"Files\a"), &path(r"files\A")), ErrorKind::InvalidArchive),
        // to a directory
        (|w| w.hard_link(&path(r"Files\a"), &path("Files")), ErrorKind::IsDirectory),
        // to what the layer takes away
        (
            |w| {
                w.remove(&path(r"Files\t"))?;
                w.hard_link(&path(r"Files\a"), &path(r"Files\t"))
            },
            ErrorKind::ConflictingEntries,
        ),
        // in the place of something else
        (
            |w| {
                file(w, r"Files\x", b"")?;
                w.hard_link(&path(r"Files\x"), &path(r"Files\t"))
            },
            ErrorKind::ConflictingEntries,
        ),
        (|w| w.hard_link(&path(r"Hives\SAM_DELTA"), &path(r"Files\t")), ErrorKind::InvalidArchive),
        (
            |w| {
                w.hard_link(&path(r"Files\x"), &path(r"Files\t"))?;
                w.hard_link(&path(r"Files\x"), &path(r"Files\y"))
            },
            ErrorKind::ConflictingEntries,
        ),
        (
            |w| {
                file(w, r"Files\x", b"")?;
                w.hard_link(&path(r"Files\x\y"), &path(r"Files\t"))
            },
            ErrorKind::NotDirectory,
        ),
    ];
    for (number, (step, expected)) in cases.into_iter().enumerate() {
        let place = Place::new();
        let parents = place.parents();
        let mut writer = place.child(&parents);
        writer.directory(&path("Files"), &dir_meta()).unwrap();
        let error = step(&mut writer).err().or_else(|| writer.commit().err()).unwrap();
        assert_eq!(error.kind(), &expected, "case {number}: {error}");
    }
    // A base layer has nothing below it that could have the target.
    let place = Place::new();
    let mut writer = place.base();
    base_set(&mut writer, &HIVES).unwrap();
    writer.hard_link(&path(r"Files\a"), &path(r"Files\nothing")).unwrap();
    let error = writer.commit().unwrap_err();
    assert_eq!((error.kind(), error.entry_path()), (&ErrorKind::NotFound, Some(&br"Files\a"[..])));
}

#[test]
fn links_to_files_of_the_layer_directory_come_after_them() {
    let place = Place::new();
    let mut writer = place.base();
    writer.directory(&path("Files"), &dir_meta()).unwrap();
    writer.hard_link(&path(r"Files\copy"), &path(r"files\windows\system32\config\system")).unwrap();
    base_set(&mut writer, &HIVES).unwrap();
    let (_, got) = kept(writer.commit().unwrap());
    let at = |line: &str| {
        got.iter().position(|l| l.starts_with(line)).unwrap_or_else(|| panic!("{line}: {got:#?}"))
    };
    assert!(at(r"create_file Files\Windows\System32\config\SYSTEM") < at(r"hard_link Files\copy"));
}

#[test]
fn what_a_layer_says_twice_in_different_ways_is_refused() {
    type Step = fn(&mut Block<ChildRole>) -> Result<()>;
    let cases: [Step; 6] = [
        |w| {
            file(w, r"Files\x", b"")?;
            file(w, r"Files\X", b"")
        },
        |w| {
            file(w, r"Files\x", b"")?;
            w.directory(&path(r"Files\x"), &dir_meta())
        },
        |w| {
            file(w, r"Files\x", b"")?;
            w.remove(&path(r"Files\x"))
        },
        |w| {
            w.remove(&path(r"Files\x"))?;
            file(w, r"Files\x", b"")
        },
        |w| {
            w.remove(&path(r"Files\d"))?;
            file(w, r"Files\d\x", b"")
        },
        |w| {
            w.hard_link(&path(r"Files\x"), &path(r"Files\t"))?;
            file(w, r"Files\x", b"")
        },
    ];
    for (number, step) in cases.into_iter().enumerate() {
        let place = Place::new();
        let parents = place.parents();
        let mut writer = place.child(&parents);
        writer.directory(&path("Files"), &dir_meta()).unwrap();
        let error = step(&mut writer).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::ConflictingEntries, "case {number}: {error}");
        assert!(writer.commit().is_err(), "a layer that failed makes no image");
    }
}

#[test]
fn streams_follow_their_file_and_no_other() {
    let place = Place::new();
    let parents = place.parents();
    let mut writer = place.child(&parents);
    writer.directory(&path("Files"), &dir_meta()).unwrap();
    file(&mut writer, r"Files\f", b"12345").unwrap();
    let zone = StreamName::new("Zone.Identifier").unwrap();
    let mut stream = writer.stream(&path(r"Files\f"), &zone, 7).unwrap();
    stream.push(b"1234567").unwrap();
    stream.finish().unwrap();
    let got = committed(writer);
    assert_eq!(
        got[2..6],
        [r"create_file Files\f 32 5", "data 5", r"create_stream Files\f:Zone.Identifier 7", "data 7"]
    );

    let mut writer = place.child_with(&parents, "other", PlanOptions::default());
    writer.directory(&path("Hives"), &dir_meta()).unwrap();
    file(&mut writer, r"Hives\SYSTEM_DELTA", b"d").unwrap();
    let error = writer.stream(&path(r"Hives\SYSTEM_DELTA"), &zone, 1).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::InvalidArchive);
}

#[test]
fn streams_that_are_short_long_or_left_fail_the_layer() {
    let place = Place::new();
    let parents = place.parents();
    for (number, bytes) in [&b"1"[..], b"123"].into_iter().enumerate() {
        let mut writer = place.child_with(&parents, &format!("sized{number}"), PlanOptions::default());
        let mut stream = writer.file(&path("x"), &FileMeta::default(), 2).unwrap();
        let error = stream.push(bytes).and_then(|()| stream.finish()).unwrap_err();
        let got = bytes.len() as u64;
        assert_eq!(error.kind(), &ErrorKind::SizeMismatch { expected: 2, got });
        assert!(writer.commit().is_err());
    }
    let mut writer = place.child(&parents);
    drop(writer.file(&path("x"), &FileMeta::default(), 0).unwrap());
    assert_eq!(writer.commit().unwrap_err().kind(), &ErrorKind::FailedPrecondition);
}

/// Joins the two.
struct Joiner;

impl HiveMerger for Joiner {
    fn merge(&self, base: &Path, delta: &Path, out: &Path) -> Result<()> {
        let bytes =
            [std::fs::read(base), std::fs::read(delta)].map(Result::<_, std::io::Error>::unwrap).concat();
        std::fs::write(out, bytes).map_err(|error| Error::io("write", error))
    }
}

#[test]
fn hives_are_recorded_or_merged_with_the_nearest_that_is_whole() {
    let place = Place::new();
    let base = place.parents();
    // A layer without deltas has no hives of its own ...
    let (between, _) = kept(place.child_with(&base, "between", PlanOptions::default()).commit().unwrap());
    let stack = base.clone().with_nearest(between);
    let delta = |layer: &str, stack: &Stack<_>, plan: PlanOptions<'static>| {
        let mut writer = place.child_with(stack, layer, plan);
        writer.directory(&path("Hives"), &dir_meta()).unwrap();
        file(&mut writer, r"Hives\SYSTEM_DELTA", b"d").unwrap();
        writer.commit()
    };
    // ... so that of the layer below counts.
    let recorded = delta("recorded", &stack, PlanOptions::default()).unwrap();
    assert_eq!(recorded.planned.recorded_hives, ["SYSTEM_BASE"]);
    let (recorded, got) = kept(recorded);
    assert_eq!(
        got[2..],
        [
            r"spool Hives\SYSTEM_DELTA",
            r"merge_hive Hives\SYSTEM_BASE",
            r"create_file Hives\SYSTEM_DELTA 32 1",
            "data 1",
            r"add_merged_hive Hives\SYSTEM_BASE",
            "commit",
            "close"
        ]
    );
    let merging = PlanOptions::default().hives(HivePolicy::Merge(&Joiner));
    let (_, got) = kept(delta("merged", &stack, merging).unwrap());
    assert_eq!(got[6..8], [r"create_file Hives\SYSTEM_BASE 128 2", "data 2"]);
    // What is only recorded counts as there, but cannot be merged with.
    let higher = stack.clone().with_nearest(recorded);
    assert!(delta("higher", &higher, PlanOptions::default()).is_ok());
    let error = delta("unmergeable", &higher, merging).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::FailedPrecondition);
    // hcsshim looks into the nearest parent only.
    let error =
        delta("like-hcsshim", &stack, PlanOptions::default().profile(CimProfile::Hcsshim)).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotFound);
    assert!(error.to_string().contains("SYSTEM_BASE"), "{error}");
}

#[test]
fn verified_images_are_sealed_then_get_their_footer_then_their_digest() {
    let place = Place::new();
    let can = Capabilities::emulated().verify().unwrap();
    let sink = Recorder::new(CimKind::Block, Vec::new(), MemoryBlobs::default());
    let options = ImportOptions::default().footer(UniqueId::Fixed([7; 16]));
    let mut writer =
        Import::<SingleFile>::base::<Verified, _>(place.target("base"), sink, can, options, &Silent).unwrap();
    base_set(&mut writer, &HIVES).unwrap();
    let (layer, got) = kept(writer.commit().unwrap());
    assert_eq!(got[0], "create_image layer.cim 88");
    assert_eq!(
        got[got.len() - 5..],
        ["commit", "close", "seal", "vhd_footer 0", "sidecar integrity_checksum"]
    );
    assert_eq!(layer.root_digest(), None, "Windows alone makes digests");
}

#[test]
fn merging_adds_the_topmost_first_and_mounting_keeps_the_order() {
    let place = Place::new();
    let base = place.parents();
    let (top, _) = kept(place.child(&base).commit().unwrap());
    let stack = base.with_nearest(top);
    let caps = Capabilities::emulated();
    let can = (caps.merge().unwrap(), caps.write_blocks().unwrap());
    let sink = Recorder::new(CimKind::Block, Vec::new(), MemoryBlobs::default());
    let into =
        Target::new(Container::new(r"C:\s\3\merged.vhd").unwrap(), name("merged.cim"), place.files("merged"));
    let sources = AtLeastTwo::new(&stack).unwrap();
    let (merged, sink) = merge(into, sources, sink, can, None, &Silent).unwrap();
    assert_eq!(
        lines(&sink.finish().unwrap().journal),
        [
            "create_image merged.cim 24",
            r"add_source C:\s\child\layer.vhd\layer.cim",
            r"add_source C:\s\base\layer.vhd\layer.cim",
            "commit",
            "close"
        ]
    );
    let arguments = merged.mount_arguments();
    let images: Vec<_> = arguments.images.iter().map(|(container, _)| *container).collect();
    assert_eq!(images, [r"C:\s\3\merged.vhd", r"C:\s\child\layer.vhd", r"C:\s\base\layer.vhd"]);
    let view = model::merge(stack.iter().map(|layer| &**layer.tree().unwrap())).unwrap();
    assert!(view.lookup(&path(r"Files\y")).is_some());
}

#[test]
fn the_same_layer_gives_the_same_journal() {
    let journal = || {
        let place = Place::new();
        let mut writer = place.base();
        base_set(&mut writer, &HIVES).unwrap();
        writer.commit().unwrap().sink.finish().unwrap().journal
    };
    assert_eq!(journal(), journal());
}
