//! An EROFS image for each layer.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use erofs_format::{MergeOptions, WriteOptions};
use layer_apply::ErofsImage;
use layer_model::{IoContext, Monitor, Result};

use super::{UnpackOptions, layer_path, stack_layer};
use crate::{
    Image,
    erofs::{Conversion, FSMETA, Finished, LAYER, MergeForm, Target, make_layer_dir, merge},
    stack_file::StackLayer,
};

pub(super) fn unpack(
    image: &Image,
    root: &Path,
    options: &UnpackOptions,
    monitor: &dyn Monitor,
) -> Result<Vec<StackLayer>> {
    let target = Directories { image, root, done: Mutex::default() };
    let conversion = Conversion { image, options: &options.erofs, jobs: options.jobs };
    let stack = conversion.run(&target, monitor)?;
    let layers = target.done.into_inner().unwrap_or_else(PoisonError::into_inner);
    if options.merge
        && let (Some(stack), Some(top)) = (stack, layers.last())
    {
        let images: Vec<ErofsImage> = stack.iter().rev().cloned().collect();
        let out = root.join(&top.path).join(FSMETA);
        let strip = MergeOptions::new().strip_markers(true);
        merge(&images, &out, MergeForm::OverDevices, &strip, &WriteOptions::new())?;
    }
    Ok(layers)
}

/// A directory for each layer, as containerd's EROFS snapshotter has it.
struct Directories<'a> {
    image: &'a Image,
    root: &'a Path,
    /// The layers that are complete, bottom first.
    done: Mutex<Vec<StackLayer>>,
}

impl Target for Directories<'_> {
    fn create(&self, n: usize) -> Result<(File, PathBuf)> {
        let dir = self.root.join(layer_path(self.image, n));
        fs::create_dir_all(&dir).during("make the directory of a layer")?;
        Ok((make_layer_dir(&dir)?, dir.join(LAYER)))
    }

    fn complete(&self, n: usize, finished: Finished) -> Result<()> {
        let mut layer = stack_layer(layer_path(self.image, n), finished.summary);
        layer.verity = finished.verity;
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push(layer);
        Ok(())
    }
}
