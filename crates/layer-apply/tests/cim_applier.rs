//! Layers of Windows through the applier: parents, failures at every step, and nothing left behind.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    cell::Cell,
    fs,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use cim_writer_abstraction::{
    CimOp, CimPath, CimSink,
    model::View,
    testing::WcowLayer,
    typed::{BlockCim, ForkedCim, SingleFile, Unverified},
};
use layer_apply::{CimApplier, cim::CimOptions};
use layer_model::{Applier, Base, Error, ErrorKind, LayerSource, LayerTree, Monitor, Result, Silent, Stack};
use layer_tar::{ReadOptions, TarSource};

type Block = BlockCim<SingleFile, Unverified>;

fn source(tar: &[u8]) -> impl LayerSource + '_ {
    TarSource::new(tar, ReadOptions::default().windows(true), &Silent)
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[test]
fn a_child_is_applied_on_top_of_typed_parents_of_either_kind() {
    let temp = tempfile::tempdir().unwrap();
    let (base, child) = (WcowLayer::base_with_utility_vm().tar(), WcowLayer::child().tar());

    let forked = CimApplier::<ForkedCim>::default();
    let bottom = forked.apply(&mut source(&base), Base::Empty, temp.path().join("f0"), &Silent).unwrap();
    let parents = Stack::of(bottom.layer);
    let top =
        forked.apply(&mut source(&child), Base::Layers(&parents), temp.path().join("f1"), &Silent).unwrap();
    assert!(top.entries > 10 && top.implied_dirs.is_empty());
    assert_eq!((top.layer.name().as_str(), top.layer.depth()), ("2.cim", 1));
    let inherited = CimPath::new(r"Files\Windows\System32\config\SAM").unwrap();
    assert!(View::of(top.layer.tree().unwrap()).lookup(&inherited).is_some());
    // A handle is a tree to look into, like that of any other form.
    assert!(top.layer.root().unwrap().names().unwrap().contains(&b"Files"[..].into()));

    let block = CimApplier::<Block>::default();
    let bottom = block.apply(&mut source(&base), Base::Empty, temp.path().join("b0"), &Silent).unwrap();
    let parents = Stack::of(bottom.layer);
    let top =
        block.apply(&mut source(&child), Base::Layers(&parents), temp.path().join("b1"), &Silent).unwrap();
    assert!(
        View::of(top.layer.tree().unwrap()).lookup(&inherited).is_none(),
        "a block CIM has its own layer alone"
    );
    assert_eq!(entries(temp.path()), 4);
}

#[test]
fn parents_that_are_not_known_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let tar = WcowLayer::base().tar();
    let error = CimApplier::<Block>::default()
        .apply(&mut source(&tar), Base::Unknown, temp.path().join("x"), &Silent)
        .unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotSupported);
    assert_eq!(entries(temp.path()), 0);
}

/// An image that fails at the operation of this number, and knows whether it was committed.
struct Failing<'c> {
    left: &'c Cell<u64>,
    committed: &'c Cell<bool>,
}

impl Failing<'_> {
    fn step(&self) -> Result<()> {
        match self.left.get().checked_sub(1) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => Err(Error::new(ErrorKind::Io(None), "the image failed")),
        }
    }
}

impl CimSink for Failing<'_> {
    fn op(&mut self, op: &CimOp<'_>) -> Result<()> {
        self.step()?;
        if matches!(op, CimOp::Commit) {
            self.committed.set(true);
        }
        Ok(())
    }

    fn write(&mut self, _: &[u8]) -> Result<()> {
        self.step()
    }
}

#[test]
fn a_failure_at_any_operation_leaves_no_image_and_no_record() {
    let temp = tempfile::tempdir().unwrap();
    let tar = WcowLayer::base().tar();
    for failing_at in 0.. {
        // Leaked, as the sink that is made has to live as long as any.
        let left: &'static Cell<u64> = Box::leak(Box::new(Cell::new(failing_at)));
        let committed: &'static Cell<bool> = Box::leak(Box::new(Cell::new(false)));
        let make = move || Ok(Box::new(Failing { left, committed }) as Box<dyn CimSink>);
        let mut options = CimOptions::default();
        options.image = Some(&make);
        let dest = temp.path().join("layer");
        match CimApplier::<Block>::new(options).apply(&mut source(&tar), Base::Empty, dest.clone(), &Silent) {
            Err(error) => {
                assert_eq!(error.kind(), &ErrorKind::Io(None), "{error}");
                assert_eq!(entries(temp.path()), 0, "after operation {failing_at}");
            }
            Ok(_) => {
                assert!(committed.get() && failing_at > 40 && dest.exists());
                return;
            }
        }
    }
}

/// Stops when it was asked so many times.
struct Stopping(AtomicU64);

impl Monitor for Stopping {
    fn should_stop(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
    }
}

#[test]
fn cancelling_at_any_moment_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let tar = WcowLayer::base().tar();
    for moment in 0.. {
        let stopping = Stopping(AtomicU64::new(moment));
        let dest = temp.path().join("layer");
        match CimApplier::<ForkedCim>::default().apply(&mut source(&tar), Base::Empty, dest, &stopping) {
            Err(error) => {
                assert_eq!(error.kind(), &ErrorKind::Cancelled, "{error}");
                assert_eq!(entries(temp.path()), 0, "after {moment} questions");
            }
            Ok(_) => {
                assert!(moment > 10);
                return;
            }
        }
    }
}

#[test]
fn a_layer_that_is_cut_anywhere_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let tar = WcowLayer::base().tar();
    // The padding of the last file and the end of the archive are missed by nobody.
    for cut in (0..tar.len() - 1024 - 512).step_by(777) {
        let dest = temp.path().join("layer");
        let error = CimApplier::<Block>::default()
            .apply(&mut source(&tar[..cut]), Base::Empty, dest, &Silent)
            .expect_err("a base layer that lacks hives");
        assert!(matches!(error.kind(), ErrorKind::Truncated | ErrorKind::NotFound), "{cut}: {error}");
        assert_eq!(entries(temp.path()), 0);
    }
}
