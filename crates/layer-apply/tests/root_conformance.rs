//! The laws that every applier keeps.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{cell::RefCell, fs, path::PathBuf};

use layer_apply::{ApplyOptions, FlatApplier, OverlayApplier};
use layer_model::{
    Applier, Base, Silent, Stack,
    testing::{MemoryLayer, applier_conformance},
};
use overlay_dir::{Namespace, OverlayDir};

mod support;

fn options() -> ApplyOptions {
    ApplyOptions::new().namespace(Namespace::User)
}

/// Hands out targets in a folder, and knows whether the last one is gone.
struct Targets {
    folder: tempfile::TempDir,
    next: RefCell<u32>,
}

impl Targets {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), next: RefCell::new(0) }
    }

    fn next(&self) -> PathBuf {
        *self.next.borrow_mut() += 1;
        self.last()
    }

    fn last(&self) -> PathBuf {
        self.folder.path().join(self.next.borrow().to_string())
    }

    fn gone(&self) -> bool {
        let hidden = fs::read_dir(self.folder.path())
            .unwrap()
            .any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with('.'));
        !self.last().exists() && !hidden
    }
}

#[test]
fn the_overlay_applier_keeps_the_laws_over_layers_in_memory() {
    if !support::can("the_overlay_applier_keeps_the_laws_over_layers_in_memory", "root", support::is_root()) {
        return;
    }
    let targets = Targets::new();
    applier_conformance(
        &OverlayApplier::<MemoryLayer>::new(options()),
        |case| Ok(Stack::from_nearest(case.parents.clone())),
        || targets.next(),
        || targets.gone(),
    );
}

#[test]
fn the_overlay_applier_keeps_the_laws_over_its_own_layers() {
    if !support::can("the_overlay_applier_keeps_the_laws_over_its_own_layers", "root", support::is_root()) {
        return;
    }
    let (targets, lowers) = (Targets::new(), Targets::new());
    let applier = OverlayApplier::<OverlayDir>::new(options());
    applier_conformance(
        &applier,
        |case| {
            let made = applier.apply(&mut case.parents[0].changes(), Base::Empty, lowers.next(), &Silent)?;
            Ok(Some(Stack::of(made.layer)))
        },
        || targets.next(),
        || targets.gone(),
    );
}

/// The parents of the flat applier are in its target; a change in place that fails is not taken back.
#[test]
fn the_flat_applier_gives_the_merged_tree() {
    if !support::can("the_flat_applier_gives_the_merged_tree", "root", support::is_root()) {
        return;
    }
    let targets = Targets::new();
    let applier = FlatApplier::new(options().exact_xattrs(true));
    let base = RefCell::new(MemoryLayer::new());
    applier_conformance(
        &applier,
        |case| {
            *base.borrow_mut() = case.parents[0].clone();
            Ok(None)
        },
        || {
            let target = targets.next();
            applier.apply(&mut base.borrow().changes(), Base::Empty, target.clone(), &Silent).unwrap();
            target
        },
        || true,
    );
}
