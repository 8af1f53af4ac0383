//! Which differ two lists of mounts get. Needs root, as layers keep their markers in `trusted.*`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![cfg(target_os = "linux")]

mod support;

use std::path::Path;

use layer_model::ErrorKind;
use layer_mounts::Mount;
use overlay_diff::{Choice, DiffMethod, TreeOptions, UpperOptions, choose};
use support::{
    Heard, Outcome,
    disk::{Dir, skip},
};

struct Layers {
    temp: tempfile::TempDir,
}

impl Layers {
    /// Directories of these names, with a file of their own name in each; none where root is missing.
    fn new(test: &str, names: &[&str]) -> Option<Self> {
        let temp = tempfile::tempdir().unwrap();
        for name in names {
            Dir(temp.path().to_owned()).file(&format!("{name}/{name}"), name);
        }
        if !rustix::process::geteuid().is_root() {
            skip(test, "not root");
            return None;
        }
        Some(Self { temp })
    }

    fn at(&self, name: &str) -> String {
        self.temp.path().join(name).display().to_string()
    }

    fn bind(&self, name: &str) -> Vec<Mount> {
        vec![Mount::new("bind", self.at(name), ["ro", "rbind"])]
    }

    fn overlay(&self, upper: Option<&str>, lowers: &[&str], more: &[&str]) -> Vec<Mount> {
        let mut options: Vec<String> = more.iter().map(|o| (*o).to_owned()).collect();
        if let Some(upper) = upper {
            options.push(format!("workdir={}", self.at("work")));
            options.push(format!("upperdir={}", self.at(upper)));
        }
        let lowers: Vec<_> = lowers.iter().map(|l| self.at(l)).collect();
        options.push(format!("lowerdir={}", lowers.join(":")));
        vec![Mount::new("overlay", "overlay", options)]
    }
}

fn lines(choice: &Choice) -> (Vec<String>, Option<String>) {
    let heard = Heard::default();
    let mut source = choice.changes(UpperOptions::new(), TreeOptions::new(), &heard).unwrap();
    let outcome = Outcome::of(&mut source, &heard).unwrap();
    assert_eq!(outcome.report.method, choice.method());
    (outcome.lines(), outcome.report.fallback_reason)
}

#[test]
fn an_upper_over_its_parent_is_walked_alone() {
    let Some(layers) = Layers::new("an_upper_over_its_parent_is_walked_alone", &["l1", "l2", "u", "work"])
    else {
        return;
    };
    let choice = choose(&layers.bind("l1"), &layers.overlay(Some("u"), &["l1"], &["index=off"])).unwrap();
    assert_eq!((choice.method(), choice.fallback_reason()), (DiffMethod::UpperWalk, None));
    assert_eq!(lines(&choice), (vec!["f u 644 \"u\"".to_owned()], None));

    let lower = layers.overlay(None, &["l2", "l1"], &[]);
    let choice = choose(&lower, &layers.overlay(Some("u"), &["l2", "l1"], &[])).unwrap();
    assert_eq!(choice.method(), DiffMethod::UpperWalk);

    let committed = layers.overlay(Some("l2"), &["l1"], &[]);
    let choice = choose(&committed, &layers.overlay(Some("u"), &["l2", "l1"], &[])).unwrap();
    assert_eq!(choice.method(), DiffMethod::UpperWalk, "a parent's upper is the nearest layer of its child");
}

#[test]
fn layers_are_compared_as_directories_not_as_names() {
    let Some(layers) = Layers::new("layers_are_compared_as_directories_not_as_names", &["l1", "u", "work"])
    else {
        return;
    };
    std::os::unix::fs::symlink(Path::new("l1"), layers.at("alias")).unwrap();
    let choice = choose(&layers.bind("alias"), &layers.overlay(Some("u"), &["l1"], &[])).unwrap();
    assert_eq!(choice.method(), DiffMethod::UpperWalk);
}

#[test]
fn other_layers_make_both_trees_be_walked_and_say_so() {
    let names = ["l1", "l2", "l3", "u", "work"];
    let Some(layers) = Layers::new("other_layers_make_both_trees_be_walked_and_say_so", &names) else {
        return;
    };
    let lower = layers.overlay(None, &["l2", "l1"], &[]);
    let choice = choose(&lower, &layers.overlay(Some("u"), &["l3", "l1"], &[])).unwrap();
    assert_eq!(choice.method(), DiffMethod::DoubleWalk);
    let (lines, reason) = lines(&choice);
    assert_eq!(lines, ["wh l2", "f l3 644 \"l3\"", "f u 644 \"u\""]);
    assert!(reason.unwrap().contains("l3"), "the report names the layer");

    let choice = choose(&layers.bind("l1"), &layers.overlay(Some("u"), &["l2", "l1"], &[])).unwrap();
    assert!(choice.fallback_reason().unwrap().contains("2 layers"));
    let error = choose(&lower, &layers.overlay(Some("u"), &["l3", "l1"], &["index=on"])).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotSupported, "an index shows in the mount only");
}

#[test]
fn directories_are_walked() {
    let Some(layers) = Layers::new("directories_are_walked", &["a", "b"]) else { return };
    let choice = choose(&[], &layers.bind("a")).unwrap();
    assert_eq!(
        (choice.method(), lines(&choice).0),
        (DiffMethod::SingleWalk, vec!["f a 644 \"a\"".to_owned()])
    );
    let choice = choose(&layers.bind("a"), &layers.bind("b")).unwrap();
    assert_eq!((choice.method(), choice.fallback_reason()), (DiffMethod::DoubleWalk, None));
    assert_eq!(lines(&choice).0, ["wh a", "f b 644 \"b\""]);
    let view = choose(&layers.bind("a"), &layers.overlay(None, &["b", "a"], &[])).unwrap();
    assert_eq!(lines(&view).0, ["f b 644 \"b\""]);
}

#[test]
fn what_is_not_supported_is_left_to_the_next_differ() {
    let Some(layers) = Layers::new("what_is_not_supported_is_left_to_the_next_differ", &["l1", "u", "work"])
    else {
        return;
    };
    let erofs = vec![Mount::new("erofs", "/layer.erofs", ["ro", "loop"])];
    let template = vec![erofs[0].clone(), Mount::new("format/bind", "{{ mount 0 }}", ["ro", "rbind"])];
    let odd = layers.overlay(Some("u"), &["l1"], &["from_the_future=on"]);
    let rows = [
        (layers.bind("l1"), erofs.clone()),
        (erofs, layers.overlay(Some("u"), &["l1"], &[])),
        (layers.bind("l1"), template),
        (layers.bind("l1"), odd),
        (layers.bind("l1"), vec![Mount::new("nfs", "host:/", ["rw"])]),
    ];
    for (lower, upper) in rows {
        let error = choose(&lower, &upper).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::NotSupported, "{lower:?} {upper:?}: {error}");
    }
    let missing = choose(&layers.bind("none"), &layers.overlay(Some("u"), &["l1"], &[])).unwrap_err();
    assert_eq!(missing.kind(), &ErrorKind::NotFound, "a layer that is not there is no reason to try another");
}

#[test]
fn ids_of_the_mount_are_taken_back_from_the_upper() {
    let Some(layers) = Layers::new("ids_of_the_mount_are_taken_back_from_the_upper", &["l1", "u", "work"])
    else {
        return;
    };
    let upper = Dir(layers.temp.path().join("u"));
    upper.owner("u", 524_288).owner(".", 524_288);
    let maps = ["uidmap=0:524288:65536", "gidmap=0:524288:65536"];
    let choice = choose(&layers.bind("l1"), &layers.overlay(Some("u"), &["l1"], &maps)).unwrap();
    let Choice::Upper(inputs) = &choice else { panic!("an upper walk") };
    assert_eq!(inputs.container_root, Some(524_288));
    let heard = Heard::default();
    let mut source = choice.changes(UpperOptions::new(), TreeOptions::new(), &heard).unwrap();
    let outcome = Outcome::of(&mut source, &heard).unwrap();
    let layer_model::testing::OwnedAction::Upsert { node, .. } = &outcome.changes.as_slice()[0].action else {
        panic!("an upsert")
    };
    assert_eq!((node.metadata.uid, node.metadata.gid), (0, 0));
}

#[test]
fn a_volatile_upper_needs_permission_whatever_the_method() {
    let names = ["l1", "l2", "u", "work/work/incompat/volatile"];
    let Some(layers) = Layers::new("a_volatile_upper_needs_permission_whatever_the_method", &names) else {
        return;
    };
    for lower in ["l1", "l2"] {
        let choice = choose(&layers.bind(lower), &layers.overlay(Some("u"), &["l1"], &[])).unwrap();
        let heard = Heard::default();
        let error = choice.changes(UpperOptions::new(), TreeOptions::new(), &heard).map(drop).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::FailedPrecondition);
        choice.changes(UpperOptions::new().allow_volatile(true), TreeOptions::new(), &heard).unwrap();
    }
}
