//! The laws of the traits, as checks that an implementation calls from its own tests.

use super::{MemoryChanges, MemoryLayer, Snapshot};
use crate::{
    Applier, Base, Change, Differ, Error, ErrorKind, LayerSource, LayerTree, Monitor, Result, Silent, Stack,
    merged::Merged,
};

/// One case for a differ: what was below, what the upper holds, and what must be seen when the changes are
/// applied to what was below.
#[derive(Debug)]
pub struct DifferCase {
    /// What the case is about.
    pub name: &'static str,
    /// What was below, as a merged tree.
    pub base: MemoryLayer,
    /// What the layer does to it.
    pub upper: MemoryLayer,
}

/// One case for an applier: a layer, and what lies below it.
#[derive(Debug)]
pub struct ApplierCase {
    /// What the case is about.
    pub name: &'static str,
    /// The parents, nearest first.
    pub parents: Vec<MemoryLayer>,
    /// The layer to apply.
    pub layer: MemoryLayer,
}

/// The cases that every differ and applier has to get right: an upper over a base.
fn cases() -> Vec<(&'static str, MemoryLayer, MemoryLayer)> {
    let new = || MemoryLayer::new().on_device(1);
    let base = || {
        MemoryLayer::new()
            .dir("etc", 0o755)
            .file("etc/passwd", "root")
            .file("etc/issue", "old")
            .dir("d", 0o700)
            .file("d/x", "1")
            .file("d/e/y", "2")
            .symlink("link", "etc/passwd")
    };
    vec![
        ("nothing changed", base(), new()),
        ("a file is added", base(), new().dir("etc", 0o755).file("etc/motd", "hi")),
        ("a file is modified", base(), new().dir("etc", 0o755).file("etc/issue", "new")),
        ("a file is removed", base(), new().dir("etc", 0o755).whiteout("etc/issue")),
        ("a directory is removed", base(), new().whiteout("d")),
        ("a directory is emptied and filled", base(), new().opaque("d").mode("d", 0o700).file("d/new", "3")),
        ("a directory becomes a file", base(), new().file("d", "flat")),
        (
            "a file becomes a directory",
            base(),
            new().dir("etc", 0o755).dir("etc/issue", 0o755).file("etc/issue/n", "4"),
        ),
        ("a link becomes a file", base(), new().file("link", "plain")),
        ("modes and owners change", base(), new().dir("d", 0o711).owner("d", 5, 6)),
        (
            "names that sort around the slash",
            base(),
            new().file("a/b/c", "1").file("a/b-", "2").file("a-b", "3"),
        ),
        (
            "hard links are added",
            base(),
            new().file("one", "linked").link("two", "one").link("zz/three", "one"),
        ),
        (
            "special files are added",
            base(),
            new().char_device("null", 1, 3).fifo("pipe").symlink("s", "/abs"),
        ),
        ("set-id bits and times", base(), new().file("su", "x").mode("su", 0o6755).mtime("su", 7, 0)),
    ]
}

/// Runs `differ` over all cases.
///
/// `handles` turns a case into the differ's own handles: the base as a stack, the upper over it. The merged
/// view of upper over base is what the changes, applied to the base, must give; it is computed here, by
/// [`Merged`], and the changes are applied here, in memory.
///
/// # Panics
/// When a law is broken; the message names the case and the law.
pub fn differ_conformance<L, D, F>(differ: &D, mut handles: F)
where
    D: Differ<L>,
    F: FnMut(&DifferCase) -> Result<(Stack<L>, D::Upper)>,
{
    for (name, base, upper) in cases() {
        let case = DifferCase { name, base, upper };
        let (stack, handle) = handles(&case).unwrap_or_else(|e| panic!("{name}: no handles: {}", e.chain()));
        let run = || -> Result<MemoryChanges> {
            let mut source = differ.diff(&handle, Base::Layers(&stack), &Silent)?;
            let changes = MemoryChanges::collect(&mut *source)?;
            assert!(source.next_change()?.is_none(), "{name}: a source that ended gave another change");
            Ok(changes)
        };
        let [first, second] = [run(), run()].map(|r| r.unwrap_or_else(|e| panic!("{name}: {}", e.chain())));
        assert_eq!(first.lines(), second.lines(), "{name}: two runs differ");

        let got = case.base.applied(&first).unwrap_or_else(|e| panic!("{name}: {}", e.chain()));
        let want = merged(&[case.upper.clone(), case.base.clone()]);
        same(name, &want, &snapshot(name, &got));

        let cancelled = differ.diff(&handle, Base::Layers(&stack), &Cancelled).and_then(|mut source| {
            while source.next_change()?.is_some() {}
            Ok(())
        });
        if !first.as_slice().is_empty() {
            let kind = cancelled.expect_err(name).kind().clone();
            assert_eq!(kind, ErrorKind::Cancelled, "{name}: a cancelled diff says so");
        }
    }
}

/// Runs `applier` over all cases.
///
/// `parents` makes the applier's own parent handles of a case, `target` a fresh target, and `gone` says
/// whether the target that was handed out last holds nothing.
///
/// # Panics
/// When a law is broken; the message names the case and the law.
pub fn applier_conformance<A>(
    applier: &A,
    mut parents: impl FnMut(&ApplierCase) -> Result<Option<Stack<A::Parent>>>,
    mut target: impl FnMut() -> A::Target,
    mut gone: impl FnMut() -> bool,
) where
    A: Applier,
    A::Parent: Clone + 'static,
    A::Layer: LayerTree,
{
    for (name, base, upper) in cases() {
        let case = ApplierCase { name, parents: vec![base], layer: upper };
        let stack = parents(&case).unwrap_or_else(|e| panic!("{name}: no parents: {}", e.chain()));
        let below = Base::from_stack(stack.as_ref());
        let applied = applier
            .apply(&mut case.layer.changes(), below, target(), &Silent)
            .unwrap_or_else(|e| panic!("{name}: {}", e.chain()));

        let mut layers: Vec<std::sync::Arc<dyn LayerTree>> = vec![std::sync::Arc::new(applied.layer)];
        if let Some(stack) = &stack {
            layers.extend(
                stack.iter().map(|l| std::sync::Arc::new(l.clone()) as std::sync::Arc<dyn LayerTree>),
            );
        }
        let got = Merged::new(layers).unwrap_or_else(|e| panic!("{name}: {}", e.chain()));
        let want = merged(&[case.layer.clone(), case.parents[0].clone()]);
        same(name, &want, &snapshot(name, &got));

        let error = applier
            .apply(&mut Broken(case.layer.changes()), below, target(), &Silent)
            .expect_err("a source that fails makes the applier fail");
        assert_eq!(error.kind(), &ErrorKind::Truncated, "{name}: the source's error comes out");
        assert!(gone(), "{name}: a failed apply leaves nothing");
    }
}

fn merged(layers: &[MemoryLayer]) -> Merged {
    let stack = Stack::from_nearest(layers.to_vec()).expect("a case has layers");
    Merged::of_stack(&stack)
}

fn snapshot(name: &str, tree: &dyn LayerTree) -> Snapshot {
    Snapshot::of(tree).unwrap_or_else(|e| panic!("{name}: {}", e.chain()))
}

/// Compares what a layer can carry: not the root's metadata, and no times of directories.
#[track_caller]
fn same(name: &str, want: &dyn LayerTree, got: &Snapshot) {
    let strip = |s: Snapshot| s.without_root().without_dir_times().without_access_times();
    let difference = strip(snapshot(name, want)).difference(&strip(got.clone()));
    assert!(difference.is_empty(), "{name}: want (-) and got (+) differ:\n{}", difference.join("\n"));
}

struct Cancelled;

impl Monitor for Cancelled {
    fn should_stop(&self) -> bool {
        true
    }
}

/// Gives all changes, and then an error instead of the end.
struct Broken(MemoryChanges);

impl LayerSource for Broken {
    fn next_change(&mut self) -> Result<Option<Change<'_>>> {
        match self.0.next_change()? {
            Some(change) => Ok(Some(change)),
            None => Err(Error::new(ErrorKind::Truncated, "the source broke off")),
        }
    }
}
