//! Layers written and read again: what comes out is what went in.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use cim_writer_abstraction::{
    Attributes, CimPath, FileMeta, FileTime, StreamName, WcowOptions, WcowSource,
    ea::{self, Ea},
    reparse::Link,
    testing::{EventList, OwnedEvent, WcowLayer, archives, check_layer},
    wcow::WcowChanges,
};
use layer_model::{ErrorKind, LayerSource, Silent, testing::MemoryChanges};
use layer_tar::{ReadOptions, TarSink, TarSource, WriteOptions};
use proptest::prelude::*;

fn options() -> WcowOptions {
    WcowOptions::default().expand_opaque(true)
}

fn again(tar: &[u8]) -> EventList {
    let changes = TarSource::new(tar, ReadOptions::default().windows(true), &Silent);
    EventList::collect(&mut WcowSource::new(changes, options(), &Silent)).unwrap()
}

#[test]
fn ready_made_layers_survive_an_archive() {
    for layer in [WcowLayer::base(), WcowLayer::base_with_utility_vm(), WcowLayer::child()] {
        let events = layer.events();
        let tar = layer.tar();
        assert_eq!(again(&tar).as_slice(), events.as_slice());
        let direct = EventList::collect(&mut WcowSource::new(layer.changes(), options(), &Silent)).unwrap();
        assert_eq!(direct.as_slice(), events.as_slice());
        assert_eq!(layer.tar(), tar, "the same layer has the same bytes");
    }
}

#[test]
fn changes_and_the_changes_of_their_archive_are_the_same() {
    let layer = WcowLayer::child();
    let tar = layer.tar();
    let ours = MemoryChanges::collect(&mut layer.changes()).unwrap();
    let theirs =
        MemoryChanges::collect(&mut TarSource::new(&tar[..], ReadOptions::default().windows(true), &Silent))
            .unwrap();
    let names = |changes: &MemoryChanges| -> Vec<_> {
        changes.as_slice().iter().map(|change| change.path.clone()).collect()
    };
    assert_eq!(names(&ours), names(&theirs));
}

#[test]
fn what_no_archive_holds_is_said() {
    let refused = |layer: WcowLayer| {
        let mut changes = layer.changes();
        let error = loop {
            match changes.next_change() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("nothing was wrong"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), &ErrorKind::Unrepresentable, "{error:?}");
        assert_eq!(error.entry_path(), Some(&b"Files\\a"[..]));
        assert_eq!(changes.next_change().unwrap_err().kind(), &ErrorKind::FailedPrecondition);
    };
    let file = || WcowLayer::new().file("Files/a", "1");
    refused(file().edit(|meta| meta.reparse = b"\x17\0\0\x80\0\0\0\0".as_slice().into()));
    refused(file().edit(|meta| meta.reparse = Link::new(b"b", false).encode().unwrap()));
    refused(file().attributes(Attributes::DIRECTORY));
    let flagged = ea::encode(&[Ea { flags: 0x80, name: b"A", value: b"1" }]).unwrap();
    refused(file().edit(|meta| meta.ea = flagged.into()));
    let stream = OwnedEvent::Stream {
        of: CimPath::new("Files\\a").unwrap(),
        name: StreamName::new("s").unwrap(),
        content: b"".into(),
    };
    refused(file().remove("Files/b").event(stream));
}

#[test]
fn archives_of_all_kinds_keep_the_properties() {
    for (_, tar) in archives::all() {
        check_layer(&tar);
        for end in (0..tar.len()).step_by(512) {
            check_layer(&tar[..end]);
        }
    }
}

#[test]
fn findings_stay_mended() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/findings");
    for finding in std::fs::read_dir(dir).unwrap() {
        let path = finding.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "wcow") {
            check_layer(&std::fs::read(path).unwrap());
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    let plain = "[a-zA-Z0-9 ._$#\u{e4}\u{2603}\u{1f980}-]{1,40}";
    plain.prop_filter("no name of Windows", |name| {
        !matches!(name.as_str(), "." | "..") && !name.starts_with(".wh.")
    })
}

fn path() -> impl Strategy<Value = CimPath> {
    (prop::collection::vec(name(), 0..4)).prop_map(|names| {
        let mut path = CimPath::new("Files").unwrap();
        for name in names {
            path = path.join(name).unwrap();
        }
        path
    })
}

prop_compose! {
    fn any_meta()(
        attributes in any::<u32>(),
        times in prop::array::uniform4(0_i64..i64::MAX),
        has_security in any::<bool>(),
        eas in prop::collection::btree_map("[A-Z$.]{1,20}", prop::collection::vec(any::<u8>(), 1..50), 0..4),
        link in prop::option::of(("[a-z.\\\\]{1,60}", any::<bool>())),
        is_dir in any::<bool>(),
    ) -> FileMeta {
        let mut meta = FileMeta::new(Attributes::from_bits_retain(attributes));
        [meta.creation, meta.write, meta.change, meta.access] = times.map(FileTime);
        let eas: Vec<Ea<'_>> = eas.iter().map(|(name, value)| Ea::new(name.as_bytes(), value)).collect();
        meta.ea = ea::encode(&eas).unwrap().into();
        if has_security {
            meta.security = FileMeta::NULL_DACL.into();
        }
        meta.attributes.set(Attributes::REPARSE_POINT, link.is_some());
        match link {
            Some((target, junction)) => meta.reparse = Link::new(target.as_bytes(), junction).encode().unwrap(),
            None => meta.attributes.set(Attributes::DIRECTORY, is_dir),
        }
        meta
    }
}

fn entry() -> impl Strategy<Value = Vec<OwnedEvent>> {
    let content = || prop::collection::vec(any::<u8>(), 0..1500);
    let streams = prop::collection::btree_map("[a-z][a-z.]{0,20}", content(), 0..3);
    let added = (path(), any_meta(), content(), streams).prop_map(|(path, meta, content, streams)| {
        let plain = meta.reparse.is_empty() && !meta.is_dir();
        let content = if plain { content.into() } else { Vec::new().into() };
        let mut events = vec![OwnedEvent::Add { path: path.clone(), meta, content }];
        events.extend(streams.into_iter().map(|(name, content)| OwnedEvent::Stream {
            of: path.clone(),
            name: StreamName::new(name).unwrap(),
            content: content.into(),
        }));
        events
    });
    prop_oneof![
        4 => added,
        1 => (path(), path())
            .prop_filter("a link to itself", |(path, target)| !path.same(target))
            .prop_map(|(path, target)| vec![OwnedEvent::Link { path, target }]),
        1 => path().prop_map(|path| vec![OwnedEvent::Remove { path }]),
        1 => path().prop_map(|path| vec![OwnedEvent::Opaque { path }]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn any_layer_survives_an_archive(entries in prop::collection::vec(entry(), 0..12)) {
        let events = EventList::new(entries.concat());
        let direct = WcowSource::new(WcowChanges::new(events.clone()), options(), &Silent);
        let direct = EventList::collect(&mut { direct }).unwrap();
        prop_assert_eq!(direct.as_slice(), events.as_slice());

        let sink = TarSink::new(Vec::new(), WriteOptions::default().windows(true), &Silent);
        let (tar, _) = layer_model::road::pump(&mut WcowChanges::new(events.clone()), sink, &Silent).unwrap();
        let read = again(&tar);
        prop_assert_eq!(read.as_slice(), events.as_slice());
        let sink = TarSink::new(Vec::new(), WriteOptions::default().windows(true), &Silent);
        let (tar_again, _) = layer_model::road::pump(&mut WcowChanges::new(read), sink, &Silent).unwrap();
        prop_assert!(tar == tar_again, "writing what was read changed it");
    }

    #[test]
    fn damaged_archives_keep_the_properties(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        fix_checksums in any::<bool>(),
    ) {
        let mut tars = archives::all();
        let (_, mut tar) = tars.swap_remove(which.index(tars.len()));
        for (at, byte) in damage {
            let at = at.index(tar.len());
            tar[at] = byte;
        }
        if fix_checksums {
            for block in tar.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        check_layer(&tar);
    }
}
