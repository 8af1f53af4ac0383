//! What holds for any bytes that are taken for a layer.

use layer_model::{ErrorKind, Result, Silent, road};
use layer_tar::{ReadOptions, TarSink, TarSource, WriteOptions};

use super::{EventList, OwnedEvent};
use crate::{
    CimProfile, SecurityDescriptor, ea,
    reparse::Link,
    wcow::{WcowChanges, WcowEvents, WcowOptions, WcowSource},
};

/// Limits that keep a run short.
fn small() -> ReadOptions {
    let options = ReadOptions::default().windows(true);
    options.max_entries(1000).max_total_size(1 << 20).max_sparse_expansion(1 << 20)
}

fn read(tar: &[u8], options: WcowOptions) -> Result<EventList> {
    let mut source = WcowSource::new(TarSource::new(tar, small(), &Silent), options, &Silent);
    let mut list = Vec::new();
    loop {
        match source.next_event() {
            Ok(Some(event)) => list.push(OwnedEvent::take(event)?),
            Ok(None) => break,
            Err(error) => {
                assert!(source.next_event().is_err(), "an event after an error");
                return Err(error);
            }
        }
    }
    let sizes = list.iter().map(|event| match event {
        OwnedEvent::Add { content, .. } => content.bytes.len() as u64,
        _ => 0,
    });
    assert_eq!(source.total_size(), sizes.sum::<u64>());
    assert!(source.next_event().is_ok_and(|event| event.is_none()), "an event after the end");
    Ok(EventList::new(list))
}

/// `data` as a layer in an archive: nothing panics, errors say where, what is read holds together, and comes out the
/// same again when it is written and read.
///
/// # Panics
/// When one of that is not so.
pub fn check_layer(data: &[u8]) {
    for profile in [CimProfile::Spec, CimProfile::Hcsshim] {
        for expand_opaque in [false, true] {
            let options = WcowOptions::default().profile(profile).expand_opaque(expand_opaque);
            match read(data, options) {
                Ok(events) => {
                    check_events(&events, options);
                    if profile == CimProfile::Spec {
                        check_again(events, options);
                    }
                }
                Err(error) => assert!(
                    error.entry_path().is_some() || error.byte_offset().is_some(),
                    "an error without a place: {error:?}"
                ),
            }
        }
    }
}

fn check_events(events: &EventList, options: WcowOptions) {
    let mut added = None;
    for event in events.as_slice() {
        match event {
            OwnedEvent::Add { path, meta, content } => {
                assert!(!path.is_root(), "the root is not given");
                assert!(ea::entries(&meta.ea).all(|ea| ea.is_ok()), "extended attributes hold together");
                assert!(meta.reparse.is_empty() || Link::parse(&meta.reparse).is_ok(), "links hold together");
                assert!(meta.reparse.is_empty() || content.bytes.is_empty(), "links have no content");
                if options.profile == CimProfile::Spec {
                    let sound = SecurityDescriptor::from_bytes(meta.security.clone());
                    assert!(meta.security.is_empty() || sound.is_ok(), "descriptors hold together");
                    assert!(!meta.is_dir() || content.bytes.is_empty(), "directories have no content");
                }
                added = Some(path.clone());
            }
            OwnedEvent::Stream { of, .. } => {
                assert_eq!(added.as_ref(), Some(of), "streams stand behind their file")
            }
            OwnedEvent::Opaque { .. } => {
                assert!(options.expand_opaque, "opaque marks are asked for");
                added = None;
            }
            OwnedEvent::Link { path, target } => {
                assert!(!path.is_root() && !target.is_root() && !path.same(target), "links lead elsewhere");
                added = None;
            }
            OwnedEvent::Remove { path } => {
                assert!(!path.is_root(), "the root stays");
                added = None;
            }
        }
    }
}

fn check_again(events: EventList, options: WcowOptions) {
    let mut again = WcowSource::new(WcowChanges::new(events.clone()), options, &Silent);
    let direct =
        EventList::collect(&mut again as &mut dyn WcowEvents).expect("what was read can be read again");
    assert_eq!(events.as_slice(), direct.as_slice(), "without an archive between");

    let sink = TarSink::new(Vec::new(), WriteOptions::default().windows(true), &Silent);
    match road::pump(&mut WcowChanges::new(events.clone()), sink, &Silent) {
        Ok((tar, _)) => {
            let again = read(&tar, options).expect("what was written can be read");
            assert_eq!(events.as_slice(), again.as_slice(), "with an archive between");
        }
        // Names and times that no archive gives back.
        Err(error) => assert_eq!(error.kind(), &ErrorKind::Unrepresentable, "{error:?}"),
    }
}
