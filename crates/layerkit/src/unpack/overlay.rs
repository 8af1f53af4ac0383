//! A directory in overlayfs's form for each layer.

use std::path::{Path, PathBuf};

use layer_apply::{OverlayApplier, Pending, reconcile};
use layer_model::{Applier, Base, IoContext, Monitor, Result, Stack};
use layer_tar::BlobSummary;
use overlay_dir::{Namespace, OverlayDir};

use super::{UnpackOptions, layer_path, stack_layer};
use crate::{
    Image, LayerInput,
    parallel::{Group, in_layer, in_parallel},
    stack_file::StackLayer,
};

/// Layers go to directories of their own, so they are applied at the same time. What a layer needs to know of its parents is put right when all are there.
pub(super) fn unpack(
    image: &Image,
    root: &Path,
    namespace: Namespace,
    options: &UnpackOptions,
    monitor: &dyn Monitor,
) -> Result<Vec<StackLayer>> {
    let applier = OverlayApplier::<OverlayDir>::new(options.apply.clone().namespace(namespace));
    let paths: Vec<PathBuf> = (0..image.layers().len()).map(|n| layer_path(image, n)).collect();
    let group = Group::new(monitor);
    let apply = |n: usize| -> Result<Done> {
        let dir = root.join(&paths[n]);
        std::fs::create_dir_all(&dir).during("make the directory of a layer")?;
        let mut source = LayerInput::of_image(image, n)?.changes(options.read.clone(), &group)?;
        let target = dir.join("fs");
        let (applied, pending) = match n {
            0 => (applier.apply(&mut source, Base::Empty, target, &group)?, Pending::default()),
            _ => applier.apply_detached(&mut source, &target, &group)?,
        };
        Ok(Done { layer: applied.layer, pending, summary: source.summary()? })
    };
    let done = in_parallel(image, options.jobs, &group, apply)?;

    let mut parents: Option<Stack<OverlayDir>> = None;
    let mut layers = Vec::with_capacity(done.len());
    for (n, (Done { layer, pending, summary }, path)) in done.into_iter().zip(paths).enumerate() {
        let base = Base::from_stack(parents.as_ref());
        reconcile(&layer, &pending, base, &options.apply, monitor).map_err(|e| in_layer(e, image, n))?;
        layers.push(stack_layer(path, summary));
        parents = Some(match parents {
            Some(stack) => stack.with_nearest(layer),
            None => Stack::of(layer),
        });
    }
    Ok(layers)
}

/// A layer that was applied without looking at its parents.
struct Done {
    layer: OverlayDir,
    pending: Pending,
    summary: BlobSummary,
}
