//! All layers of an image as EROFS images, side by side.

use std::{
    fs::File,
    num::NonZeroUsize,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use layer_apply::ErofsImage;
use layer_model::{Base, Monitor, Result, Stack};

use super::layer::{Converted, ErofsLayerOptions, Finished, convert};
use crate::{
    Image, LayerInput,
    parallel::{Group, in_layer, in_parallel},
};

/// An image, and how its layers are converted.
pub(crate) struct Conversion<'a> {
    pub(crate) image: &'a Image,
    pub(crate) options: &'a ErofsLayerOptions,
    pub(crate) jobs: Option<NonZeroUsize>,
}

/// Where the images go.
pub(crate) trait Target: Sync {
    /// Makes the file for layer `n`, and says how it can be opened as long as it is open.
    fn create(&self, n: usize) -> Result<(File, PathBuf)>;

    /// Takes layer `n`, which is complete. Layers come bottom first.
    fn complete(&self, n: usize, finished: Finished) -> Result<()>;
}

impl Conversion<'_> {
    /// Layers are converted at the same time, as only the end of each needs its parents: that is done as soon as those
    /// are complete. Gives the images as parents of a next layer.
    pub(crate) fn run(
        &self,
        target: &dyn Target,
        monitor: &dyn Monitor,
    ) -> Result<Option<Stack<ErofsImage>>> {
        let group = Group::new(monitor);
        let run = Run { conversion: self, target, done: Mutex::default() };
        in_parallel(self.image, self.jobs, &group, |n| run.convert(n, &group))?;
        Ok(run.done.into_inner().unwrap_or_else(PoisonError::into_inner).stack)
    }
}

struct Run<'a, 'm> {
    conversion: &'a Conversion<'a>,
    target: &'a dyn Target,
    done: Mutex<Done<'m>>,
}

#[derive(Default)]
struct Done<'m> {
    /// Those that wait for the ones below them, by their number.
    waiting: Vec<Option<(Converted<'m>, PathBuf)>>,
    /// How many are complete.
    count: usize,
    stack: Option<Stack<ErofsImage>>,
}

impl<'m> Run<'_, 'm> {
    fn convert(&self, n: usize, group: &'m Group<'_>) -> Result<()> {
        let Conversion { image, options, .. } = self.conversion;
        let input = LayerInput::of_image(image, n)?;
        let (file, path) = self.target.create(n)?;
        let parents: Base<'_, ErofsImage> = if n == 0 { Base::Empty } else { Base::Unknown };
        let converted = convert(input, parents, file, options, group)?;
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.waiting.resize_with(image.layers().len(), || None);
        done.waiting[n] = Some((converted, path));
        loop {
            let n = done.count;
            let Some(next) = done.waiting.get_mut(n).and_then(Option::take) else { return Ok(()) };
            self.finish(&mut done, next).map_err(|error| in_layer(error, image, n))?;
        }
    }

    fn finish(&self, done: &mut Done<'_>, (converted, path): (Converted<'_>, PathBuf)) -> Result<()> {
        let parents = Base::from_stack(done.stack.as_ref());
        let finished = converted.finish(parents, &path, self.conversion.options)?;
        let image = ErofsImage::open::<PathBuf>(&path, &[])?;
        self.target.complete(done.count, finished)?;
        done.count += 1;
        done.stack = Some(match done.stack.take() {
            Some(below) => below.with_nearest(image),
            None => Stack::of(image),
        });
        Ok(())
    }
}
