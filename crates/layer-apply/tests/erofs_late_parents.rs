//! EROFS images whose parents are told only after the last change.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{io::Cursor, sync::Arc};

use erofs_format::{CheckOptions, Memory};
use layer_apply::{ErofsImage, ErofsOptions, ErofsSink};
use layer_model::{
    Base, ErrorKind, LayerSink, LayerTree, Result, Silent, Stack, merged::Merged, road, testing::Snapshot,
};
use proptest::prelude::*;
use support::{
    changes,
    late_parents::{LATE_PARENTS, entry, with_root_time},
};

/// The layer over parents that are known before the first change, or after the last.
fn image(layer: &str, parents: Option<&Stack<ErofsImage>>, late: bool) -> Result<ErofsImage> {
    let known = Base::from_stack(parents);
    let first = if late { Base::Unknown } else { known };
    let mut sink = ErofsSink::new(Cursor::new(Vec::new()), first, ErofsOptions::new(), &Silent)?;
    road::drive(&mut changes(layer), &mut sink, &Silent)?;
    if late {
        sink.adopt(known)?;
    }
    let image = erofs_format::Image::open(Memory(sink.finish()?.0.into_inner())).unwrap();
    let report = image.check(&CheckOptions::new()).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
    Ok(ErofsImage::new(image, "test"))
}

/// The parents, each over those below it.
fn stack(parents: &[String]) -> Option<Stack<ErofsImage>> {
    let mut stack: Option<Stack<ErofsImage>> = None;
    for parent in parents {
        let made = image(parent, stack.as_ref(), false).unwrap();
        stack = Some(match stack {
            Some(below) => below.with_nearest(made),
            None => Stack::of(made),
        });
    }
    stack
}

#[test]
fn an_image_whose_parents_come_last_is_the_one_over_parents_that_came_first() {
    for (name, parents, layer) in LATE_PARENTS {
        let parents = stack(&with_root_time(parents));
        let look = |late| {
            let image =
                image(layer, parents.as_ref(), late).unwrap_or_else(|e| panic!("{name}: {}", e.chain()));
            Snapshot::of(&image).unwrap()
        };
        let difference = look(false).difference(&look(true));
        assert!(difference.is_empty(), "{name}: known first (-), last (+)\n{}", difference.join("\n"));
    }
}

#[test]
fn what_no_parent_can_mend_is_said() {
    for (parent, layer, kind) in [
        ("f:\"1\"", "f/x:\"2\"", ErrorKind::NotDirectory),
        ("b/; a>b", "a/x:\"1\"; b/x:\"2\"", ErrorKind::Exists),
        ("d/", "h=d/gone", ErrorKind::NotFound),
    ] {
        let parents = stack(&with_root_time(&[parent]));
        assert_eq!(image(layer, parents.as_ref(), true).unwrap_err().kind(), &kind, "{parent} | {layer}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_layers_look_the_same_whenever_their_parents_come(
        parent in prop::collection::vec(entry(), 1..8),
        layer in prop::collection::vec(entry(), 1..8),
    ) {
        let (parent, layer) = (format!("./ mtime 1; {}", parent.join("; ")), layer.join("; "));
        let Ok(below) = image(&parent, None, false) else { return Ok(()) };
        let stack = Stack::of(below.clone());
        let Ok(known) = image(&layer, Some(&stack), false) else { return Ok(()) };
        let late = image(&layer, Some(&stack), true).unwrap();
        // A mark that hides nothing may be left: what counts is the view.
        let look = |image: ErofsImage| {
            let layers: Vec<Arc<dyn LayerTree>> = vec![Arc::new(image), Arc::new(below.clone())];
            Snapshot::of(&Merged::new(layers).unwrap()).unwrap()
        };
        let difference = look(known).difference(&look(late));
        prop_assert!(difference.is_empty(), "{parent} | {layer}: first (-), last (+)\n{}", difference.join("\n"));
    }
}
