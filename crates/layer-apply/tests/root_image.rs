//! A real image: its layers, applied in both forms, give the tree that another unpacker made of it.
//!
//! `LAYERKIT_INPUTS` names a folder with `layer-0.tar` to `layer-3.tar`, bottom first, and with what umoci made of the
//! first three (`rootfs-v1`) and of all four (`rootfs-v2`).
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use layer_apply::{ApplyOptions, FlatApplier, OverlayApplier, Pending, reconcile};
use layer_model::{Applier, Base, LayerTree, Silent, Stack, merged::Merged, testing::Snapshot};
use layer_tar::{ReadOptions, TarSource};
use overlay_dir::{OverlayDir, PlainDir, PlainDirOptions};
use support::{can, is_root};

fn inputs(test: &str) -> Option<PathBuf> {
    let folder =
        std::env::var_os("LAYERKIT_INPUTS").map(PathBuf::from).filter(|f| f.join("layer-3.tar").exists());
    can(test, "root and LAYERKIT_INPUTS", is_root() && folder.is_some()).then_some(folder).flatten()
}

fn source(inputs: &Path, n: usize) -> TarSource<'static, BufReader<File>> {
    let file = File::open(inputs.join(format!("layer-{n}.tar"))).unwrap();
    TarSource::new(BufReader::with_capacity(1 << 20, file), ReadOptions::default(), &Silent)
}

/// As umoci does it.
fn options() -> ApplyOptions {
    ApplyOptions::new().apply_root_metadata(true).keep_trusted_xattrs(true)
}

#[track_caller]
fn same_as(rootfs: &Path, tree: &dyn LayerTree) {
    let want = PlainDir::open(rootfs, PlainDirOptions::default()).unwrap();
    let look = |tree: &dyn LayerTree| Snapshot::of(tree).unwrap().without_access_times();
    look(&want).assert_same(&look(tree));
}

#[test]
fn a_real_image_flattens_to_what_umoci_unpacks() {
    let Some(inputs) = inputs("a_real_image_flattens_to_what_umoci_unpacks") else { return };
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("flat");
    for n in 0..4 {
        let made = FlatApplier::new(options()).apply(
            &mut source(&inputs, n),
            Base::Unknown,
            target.clone(),
            &Silent,
        );
        let made = made.unwrap_or_else(|e| panic!("layer {n}: {}", e.chain()));
        match n {
            2 => same_as(&inputs.join("rootfs-v1"), &made.layer),
            3 => same_as(&inputs.join("rootfs-v2"), &made.layer),
            _ => {}
        }
    }
}

#[test]
fn a_real_image_stacks_to_what_umoci_unpacks_in_whatever_order_layers_are_made() {
    let test = "a_real_image_stacks_to_what_umoci_unpacks_in_whatever_order_layers_are_made";
    let Some(inputs) = inputs(test) else { return };
    let folder = tempfile::tempdir().unwrap();
    let applier = OverlayApplier::<OverlayDir>::new(options());
    // All at once, before any of them has its parents.
    let made: Vec<(OverlayDir, Pending)> = std::thread::scope(|scope| {
        let (applier, inputs, folder) = (&applier, &inputs, &folder);
        let apply = move |n: usize| {
            let target = folder.path().join(n.to_string());
            let (made, pending) = applier.apply_detached(&mut source(inputs, n), target, &Silent).unwrap();
            (made.layer, pending)
        };
        let running: Vec<_> = (0..4).map(|n| scope.spawn(move || apply(n))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut stack: Option<Stack<OverlayDir>> = None;
    for (n, (layer, pending)) in made.into_iter().enumerate() {
        let parents = Base::from_stack(stack.as_ref());
        reconcile(&layer, &pending, parents, &options(), &Silent)
            .unwrap_or_else(|e| panic!("layer {n}: {}", e.chain()));
        stack = Some(match stack {
            Some(stack) => stack.with_nearest(layer),
            None => Stack::of(layer),
        });
        let view = Merged::of_stack(stack.as_ref().unwrap());
        match n {
            2 => same_as(&inputs.join("rootfs-v1"), &view),
            3 => same_as(&inputs.join("rootfs-v2"), &view),
            _ => {}
        }
    }
}
