//! Several layers at once.

use std::{
    num::NonZeroUsize,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use layer_model::{Error, ErrorKind, LayerPath, Monitor, Result, Warning};

use crate::Image;

/// Runs `work` for every layer, on as many threads as may run, the largest first: it is the one that all wait for. Gives
/// the results bottom first. The first error stops the others, through the `group`'s monitor.
pub(crate) fn in_parallel<T: Send>(
    image: &Image,
    jobs: Option<NonZeroUsize>,
    group: &Group<'_>,
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let count = image.layers().len();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|n| std::cmp::Reverse(image.layers()[*n].size));
    let jobs = jobs.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get).min(count);

    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let results: Vec<Mutex<Option<T>>> = (0..count).map(|_| Mutex::new(None)).collect();
    let worker = || {
        while let Some(n) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            if group.should_stop() {
                return;
            }
            match work(*n) {
                Ok(result) => *results[*n].lock().unwrap_or_else(PoisonError::into_inner) = Some(result),
                Err(error) => {
                    group.failed.store(true, Ordering::Relaxed);
                    // Layers that were stopped because of the first error report that they were.
                    let mut first = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    if first.as_ref().is_none_or(|e| e.kind() == &ErrorKind::Cancelled) {
                        *first = Some(in_layer(error, image, *n));
                    }
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..jobs {
            scope.spawn(worker);
        }
        worker();
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let results = results.into_iter().map(|r| r.into_inner().unwrap_or_else(PoisonError::into_inner));
    results.map(|r| r.ok_or_else(Error::cancelled)).collect()
}

/// The caller's monitor, for several workers of which one may fail.
pub(crate) struct Group<'a> {
    monitor: &'a dyn Monitor,
    failed: AtomicBool,
}

impl<'a> Group<'a> {
    pub(crate) fn new(monitor: &'a dyn Monitor) -> Self {
        Self { monitor, failed: AtomicBool::new(false) }
    }
}

impl Monitor for Group<'_> {
    fn bytes(&self, n: u64) {
        self.monitor.bytes(n);
    }

    fn entry(&self, path: LayerPath<'_>) {
        self.monitor.entry(path);
    }

    fn warn(&self, warning: &Warning<'_>) {
        self.monitor.warn(warning);
    }

    fn should_stop(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.monitor.should_stop()
    }
}

/// Says which layer an error is about; the kind and the coordinates stay those of the error.
pub(crate) fn in_layer(error: Error, image: &Image, n: usize) -> Error {
    error.context(format!("layer {n} ({})", image.layers()[n].diff_id))
}
