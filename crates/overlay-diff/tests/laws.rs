//! The laws of a differ: the conformance suite, and what has to hold for any upper over any base.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{num::NonZeroUsize, sync::Arc};

use layer_model::{
    Base, Differ, LayerPathBuf, LayerSource, LayerTree, Monitor, Result, Stack,
    merged::Merged,
    testing::{MemoryLayer, Snapshot, differ_conformance},
    tree::Redirect,
};
use overlay_diff::{OpaqueStyle, TreeDiffer, TreeOptions, UpperDiffer, UpperOptions};
use proptest::prelude::*;
use support::{trees, upper};

/// The upper walk over an upper in memory.
struct InMemory(UpperDiffer);

impl Differ<MemoryLayer> for InMemory {
    type Upper = MemoryLayer;

    fn diff<'a>(
        &'a self,
        upper: &'a MemoryLayer,
        base: Base<'a, MemoryLayer>,
        monitor: &'a dyn Monitor,
    ) -> Result<Box<dyn LayerSource + 'a>> {
        Ok(Box::new(self.0.changes_of(upper, base, monitor)?))
    }
}

#[test]
fn the_upper_walk_conforms() {
    let options = [
        UpperOptions::new(),
        UpperOptions::new().opaque_style(OpaqueStyle::Marker),
        UpperOptions::new().whiteouts_first(true),
        UpperOptions::new().jobs(NonZeroUsize::MIN),
        UpperOptions::new().small_file(0),
    ];
    for options in options {
        let differ = InMemory(UpperDiffer::new(options));
        differ_conformance(&differ, |case| Ok((Stack::of(case.base.clone()), case.upper.clone())));
    }
}

#[test]
fn the_double_walk_conforms() {
    for options in [TreeOptions::new(), TreeOptions::new().detect_link_topology(true)] {
        differ_conformance(&TreeDiffer::new(options), |case| {
            let base = Stack::of(case.base.clone());
            let merged = Merged::of_stack(&base.clone().with_nearest(case.upper.clone()));
            Ok((base, Arc::new(merged) as Arc<dyn LayerTree>))
        });
    }
}

/// Something that is put into a layer.
#[derive(Clone, Debug)]
enum Put {
    File { path: String, content: u8, mode: u32 },
    Dir { path: String, mode: u32 },
    Symlink { path: String, target: u8 },
    Link { path: String, to: prop::sample::Index },
    Device { path: String },
    Xattr { path: prop::sample::Index, value: u8 },
    Whiteout { path: String },
    Opaque { path: String },
    Rename { from: String, to: String },
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "a-", "b", "c"]), 1..4)
        .prop_map(|names| names.join("/"))
}

fn put(markers: bool) -> impl Strategy<Value = Put> {
    let mode = prop::sample::select(vec![0o644, 0o755]);
    let tree = prop_oneof![
        4 => (path(), 0..3u8, mode.clone()).prop_map(|(path, content, mode)| Put::File { path, content, mode }),
        3 => (path(), mode).prop_map(|(path, mode)| Put::Dir { path, mode }),
        1 => (path(), 0..2u8).prop_map(|(path, target)| Put::Symlink { path, target }),
        2 => (path(), any::<prop::sample::Index>()).prop_map(|(path, to)| Put::Link { path, to }),
        1 => path().prop_map(|path| Put::Device { path }),
        1 => (any::<prop::sample::Index>(), 0..2u8).prop_map(|(path, value)| Put::Xattr { path, value }),
    ];
    let marker = prop_oneof![
        3 => path().prop_map(|path| Put::Whiteout { path }),
        2 => path().prop_map(|path| Put::Opaque { path }),
        1 => (path(), path()).prop_map(|(from, to)| Put::Rename { from, to }),
    ];
    if markers { prop_oneof![2 => tree, 1 => marker].boxed() } else { tree.boxed() }
}

/// A layer of these; what does not fit is skipped. Uppers get renames as the kernel records them.
fn build(device: u64, puts: &[Put], renames: bool) -> MemoryLayer {
    let mut layer = MemoryLayer::new().on_device(device);
    let mut renamed: Vec<(String, String)> = Vec::new();
    let apart = |a: &str, b: &str| {
        let inside = |a: &str, b: &str| a == b || a.starts_with(&format!("{b}/"));
        !inside(a, b) && !inside(b, a)
    };
    for put in puts {
        let free = |path: &str| {
            renamed
                .iter()
                .all(|(from, to)| apart(path, from) && !to.starts_with(&format!("{path}/")) && path != to)
        };
        let paths: Vec<_> = layer
            .iter()
            .map(|(p, n, _)| (String::from_utf8(p.as_bytes().to_vec()).unwrap(), n.clone()))
            .collect();
        match put {
            Put::File { path, content, mode } if free(path) => {
                layer = layer.without(path).file(path, &content.to_string()).mode(path, *mode);
            }
            Put::Dir { path, mode } if free(path) => {
                let is_dir = paths.iter().any(|(p, n)| p == path && n.is_dir());
                layer = if is_dir { layer.mode(path, *mode) } else { layer.without(path).dir(path, *mode) };
            }
            Put::Symlink { path, target } if free(path) => {
                layer = layer.without(path).symlink(path, &format!("t{target}"));
            }
            Put::Device { path } if free(path) => layer = layer.without(path).char_device(path, 1, 3),
            Put::Link { path, to } if free(path) => {
                let files: Vec<_> =
                    paths.iter().filter(|(p, n)| !n.is_dir() && !n.is_whiteout() && apart(p, path)).collect();
                if !files.is_empty() {
                    let target = &to.get(&files).0;
                    layer = layer.without(path);
                    // Taking the path away may have taken the target with it.
                    if layer.iter().any(|(p, ..)| p.as_bytes() == target.as_bytes()) {
                        layer = layer.link(path, target);
                    }
                }
            }
            Put::Xattr { path, value } => {
                let (path, node) = path.get(&paths);
                if !path.is_empty() && !node.is_whiteout() && node.nlink == 1 {
                    layer = layer.xattr(path, "user.x", &[*value]);
                }
            }
            Put::Whiteout { path } if free(path) => layer = layer.without(path).whiteout(path),
            Put::Opaque { path } if free(path) => {
                layer = if paths.iter().any(|(p, n)| p == path && n.is_dir()) {
                    layer
                } else {
                    layer.without(path)
                };
                layer = layer.opaque(path);
            }
            Put::Rename { from, to } if renames && apart(from, to) && free(from) && free(to) => {
                layer = layer.without(from).whiteout(from).without(to).dir(to, 0o755);
                let redirect = Redirect::Absolute(LayerPathBuf::clean(from.as_bytes()).unwrap());
                layer = layer.edit(to, |node| {
                    node.markers.opaque = false;
                    node.markers.redirect = Some(redirect);
                });
                renamed.push((from.clone(), to.clone()));
            }
            _ => {}
        }
    }
    // A link count is what the tree has, and a directory under a name that became a file is not reachable.
    let mut counts = std::collections::HashMap::new();
    let reachable: Vec<_> = layer.iter().map(|(p, ..)| p.to_owned()).collect();
    for (_, node, _) in layer.iter() {
        *counts.entry(node.inode).or_insert(0u32) += 1;
    }
    for path in reachable {
        let path = String::from_utf8(path.into_bytes()).unwrap();
        layer = layer.edit(&path, |node| node.nlink = counts[&node.inode]);
    }
    layer
}

fn stack(puts: impl Strategy<Value = Put>) -> impl Strategy<Value = Vec<Put>> {
    prop::collection::vec(puts, 0..14)
}

fn comparable(tree: &dyn LayerTree) -> Snapshot {
    Snapshot::of(tree).unwrap().without_root().without_dir_times().without_access_times()
}

/// The merged tree as one layer in memory.
fn flat(lowers: &Stack<MemoryLayer>) -> MemoryLayer {
    let all = trees(TreeOptions::new(), None, &Merged::of_stack(lowers)).unwrap();
    MemoryLayer::new().applied(&all.changes).unwrap()
}

#[track_caller]
fn applies(name: &str, base: &MemoryLayer, changes: &support::Outcome, want: &Snapshot) {
    let got = base.applied(&changes.changes).unwrap_or_else(|e| panic!("{name}: {}", e.chain()));
    let difference = want.difference(&comparable(&got));
    assert!(difference.is_empty(), "{name}:\n{}\n{:#?}", difference.join("\n"), changes.lines());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn applying_the_changes_gives_the_merged_view(
        bottom in stack(put(false)),
        middle in stack(put(true)),
        top in stack(put(true)),
    ) {
        let lowers = Stack::from_bottom([build(10, &bottom, false), build(11, &middle, false)]).unwrap();
        let base = flat(&lowers);
        let layer = build(12, &top, true);
        let want = comparable(&Merged::of_stack(&lowers.clone().with_nearest(layer.clone())));

        let exact = || UpperOptions::new().detect_link_topology(true);
        let run = |options| upper(options, Base::Layers(&lowers), &layer).unwrap();
        applies("explicit", &base, &run(exact()), &want);
        applies("marker", &base, &run(exact().opaque_style(OpaqueStyle::Marker)), &want);
        applies("whiteouts first", &base, &run(exact().whiteouts_first(true)), &want);
        let merged = Merged::of_stack(&lowers.clone().with_nearest(layer.clone()));
        let walked = trees(TreeOptions::new().detect_link_topology(true), Some(&Merged::of_stack(&lowers)), &merged);
        applies("double walk", &base, &walked.unwrap(), &want);
    }

    #[test]
    fn an_unknown_base_is_any_base(
        bottom in stack(put(false)),
        top in stack(put(true)),
    ) {
        let lowers = Stack::of(build(10, &bottom, false));
        let base = flat(&lowers);
        let layer = build(12, &top, false);
        let want = comparable(&Merged::of_stack(&lowers.clone().with_nearest(layer.clone())));
        let unknown = upper(UpperOptions::new(), Base::Unknown, &layer).unwrap();
        applies("unknown", &base, &unknown, &want);
    }

    #[test]
    fn the_upper_walk_and_the_double_walk_find_the_same(
        bottom in stack(put(false)),
        top in stack(put(true)),
    ) {
        let no_links = |puts: &[Put]| puts.iter().filter(|p| !matches!(p, Put::Link { .. })).cloned().collect::<Vec<_>>();
        let lowers = Stack::of(build(10, &no_links(&bottom), false));
        let layer = build(12, &no_links(&top), true);
        let merged = Merged::of_stack(&lowers.clone().with_nearest(layer.clone()));
        let walked = trees(TreeOptions::new(), Some(&Merged::of_stack(&lowers)), &merged).unwrap();
        let looked_up = upper(UpperOptions::new(), Base::Layers(&lowers), &layer).unwrap();
        prop_assert_eq!(looked_up.lines(), walked.lines());
    }

    #[test]
    fn threads_change_nothing(
        bottom in stack(put(false)),
        top in stack(put(true)),
        jobs in 2..6usize,
    ) {
        let lowers = Stack::of(build(10, &bottom, false));
        let layer = build(12, &top, true);
        let run = |jobs: usize| {
            let options = UpperOptions::new().jobs(NonZeroUsize::new(jobs).unwrap());
            upper(options, Base::Layers(&lowers), &layer).unwrap().lines()
        };
        prop_assert_eq!(run(1), run(jobs));
    }
}

#[test]
fn a_directory_of_many_names_comes_in_order_for_any_number_of_threads() {
    let mut layer = MemoryLayer::new().on_device(1);
    for at in 0..150 {
        layer = layer.file(&format!("big/{at:03}"), "x");
        if at % 7 == 0 {
            layer = layer.file(&format!("big/{at:03}-d/{at}"), "y");
        }
    }
    let run = |jobs, first| {
        let options = UpperOptions::new().jobs(NonZeroUsize::new(jobs).unwrap()).whiteouts_first(first);
        upper(options, Base::<MemoryLayer>::Empty, &layer).unwrap()
    };
    let alone = run(1, false);
    let paths: Vec<_> = alone.changes.as_slice().iter().map(|change| change.path.clone()).collect();
    assert_eq!(paths.len(), 1 + 150 + 2 * 22);
    assert!(paths.is_sorted());
    for jobs in 2..5 {
        assert_eq!(run(jobs, false).lines(), alone.lines());
        assert_eq!(run(jobs, true).lines(), alone.lines(), "there are no removals");
    }
}
