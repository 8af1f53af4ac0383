//! An EROFS image for each layer.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use erofs_format::{MergeOptions, WriteOptions};
use layer_apply::ErofsImage;
use layer_model::{Base, IoContext, Monitor, Result, Stack};

use super::{
    UnpackOptions, in_layer, layer_path,
    parallel::{Group, in_parallel},
    stack_layer,
};
use crate::{
    Image, LayerInput,
    erofs::{self, Converted, FSMETA, LAYER, MergeForm, make_layer_dir},
    stack_file::StackLayer,
};

/// Layers are converted at the same time, as only the end of each needs its parents: that is done as soon as those are
/// complete.
pub(super) fn unpack(
    image: &Image,
    root: &Path,
    options: &UnpackOptions,
    monitor: &dyn Monitor,
) -> Result<Vec<StackLayer>> {
    let group = Group::new(monitor);
    let layers = Layers { image, root, options, done: Mutex::default() };
    in_parallel(image, options.jobs, &group, |n| layers.convert(n, &group))?;
    let Done { layers, stack, .. } = layers.done.into_inner().unwrap_or_else(PoisonError::into_inner);
    if options.merge
        && let (Some(stack), Some(top)) = (stack, layers.last())
    {
        let images: Vec<ErofsImage> = stack.iter().rev().cloned().collect();
        let out = root.join(&top.path).join(FSMETA);
        let merge = MergeOptions::new().strip_markers(true);
        erofs::merge(&images, &out, MergeForm::OverDevices, &merge, &WriteOptions::new())?;
    }
    Ok(layers)
}

/// Layers on their way.
struct Layers<'a, 'm> {
    image: &'a Image,
    root: &'a Path,
    options: &'a UnpackOptions,
    done: Mutex<Done<'m>>,
}

#[derive(Default)]
struct Done<'m> {
    /// Those that wait for the ones below them, by their number.
    waiting: Vec<Option<Converted<'m>>>,
    /// Those that are complete, bottom first.
    layers: Vec<StackLayer>,
    stack: Option<Stack<ErofsImage>>,
}

impl<'m> Layers<'_, 'm> {
    fn convert(&self, n: usize, group: &'m Group<'_>) -> Result<()> {
        let path = layer_path(self.image, n);
        let dir = self.root.join(&path);
        fs::create_dir_all(&dir).during("make the directory of a layer")?;
        let file = make_layer_dir(&dir)?;
        let input = LayerInput::of_image(self.image, n)?;
        let parents: Base<'_, ErofsImage> = if n == 0 { Base::Empty } else { Base::Unknown };
        let converted = erofs::convert(input, parents, file, &self.options.erofs, group)?;
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.waiting.resize_with(self.image.layers().len(), || None);
        done.waiting[n] = Some(converted);
        loop {
            let n = done.layers.len();
            let Some(next) = done.waiting.get_mut(n).and_then(Option::take) else { return Ok(()) };
            self.finish(&mut done, next).map_err(|error| in_layer(error, self.image, n))?;
        }
    }

    fn finish(&self, done: &mut Done<'_>, converted: Converted<'_>) -> Result<()> {
        let path = layer_path(self.image, done.layers.len());
        let image = self.root.join(&path).join(LAYER);
        let parents = Base::from_stack(done.stack.as_ref());
        let finished = converted.finish(parents, &image, &self.options.erofs)?;
        let mut layer = stack_layer(path, finished.summary);
        layer.verity = finished.verity;
        let image = ErofsImage::open::<PathBuf>(&image, &[])?;
        done.layers.push(layer);
        done.stack = Some(match done.stack.take() {
            Some(below) => below.with_nearest(image),
            None => Stack::of(image),
        });
        Ok(())
    }
}
