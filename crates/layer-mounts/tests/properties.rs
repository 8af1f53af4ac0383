//! What holds for every list of mounts.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use layer_mounts::{Activated, Mount, MountShape, Template, from_mounts, overlay};
use proptest::prelude::*;

/// Texts of the pieces that lists of mounts are made of, so that many of them mean something.
fn text() -> impl Strategy<Value = String> {
    let pieces = [
        "/a",
        "b",
        ":",
        "::",
        "\\",
        ",",
        "=",
        " ",
        "{{",
        "}}",
        "{{ mount 0 }}",
        "{{ overlay 0 1 }}",
        "lowerdir=",
        "lowerdir+=",
        "datadir+=",
        "upperdir=",
        "workdir=",
        "device=",
        "ro",
        "rw",
        "X-containerd.mkdir.path=",
        "X-containerd.mkfs.size=",
        "uidmap=",
        "0",
        "7",
        "755",
        "GiB",
        "é",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..6).prop_map(|parts| parts.concat())
}

fn kind() -> impl Strategy<Value = String> {
    let kinds =
        ["bind", "overlay", "erofs", "mkfs/ext4", "format/bind", "format/mkdir/overlay", "CimFS", "x"];
    prop::sample::select(kinds.to_vec()).prop_map(String::from)
}

fn mounts() -> impl Strategy<Value = Vec<Mount>> {
    let options = prop::collection::vec(text(), 0..5);
    let mount = (kind(), text(), text(), options).prop_map(|(kind, source, target, options)| Mount {
        kind,
        source,
        target,
        options,
    });
    prop::collection::vec(mount, 0..4)
}

proptest! {
    #[test]
    fn a_list_that_is_understood_comes_back_byte_for_byte(mounts in mounts()) {
        if let Ok(shape) = from_mounts(&mounts) {
            prop_assert_eq!(shape.to_mounts(), mounts);
            let _ = shape.parents();
            if let MountShape::Unresolved(unresolved) = &shape {
                let earlier = vec![Activated::at("/m:"); unresolved.mounts().len() - 1];
                let _ = unresolved.activated(&earlier);
            }
        }
    }

    #[test]
    fn paths_survive_escapes(paths in prop::collection::vec("[a/:,\\\\é]{1,6}", 1..5)) {
        let list: Vec<_> = paths.iter().map(|path| overlay::escape(path)).collect();
        prop_assert_eq!(overlay::split_lowerdir(&list.join(":")).unwrap(), (paths.clone(), vec![]));
        for path in &paths {
            prop_assert_eq!(&overlay::unescape(&overlay::escape(path)), path);
        }
    }

    #[test]
    fn texts_without_double_braces_are_no_templates(text in "[^{]*") {
        let template = Template::parse(&text).unwrap();
        prop_assert!(template.is_text());
        prop_assert_eq!(template.expand(&[]).unwrap(), text);
    }
}
