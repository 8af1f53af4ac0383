//! The road: sources give changes one at a time, sinks take them.

use crate::{Change, Error, Monitor, Result};

pub use crate::{
    change::{Action, Entry, EntryKind},
    content::Content,
};

/// A stream of the changes of one layer.
///
/// # Laws
/// - Changes come in a fixed order: the same source state gives the same sequence.
/// - A change borrows from the source until the next call; content that was not consumed is skipped.
/// - After `Ok(None)` or an error, every further call gives `Ok(None)` or an error, and no change.
/// - `Ok(None)` means that the input was read to its end and that all that can be verified was: a source
///   over an archive has by then checked trailers and digests.
/// - Paths are [`LayerPath`](crate::LayerPath)s and metadata is checked; what the layer does not say is
///   not invented (no implied parents).
pub trait LayerSource {
    /// The next change, [`None`] after the last.
    ///
    /// # Errors
    /// Whatever is wrong with the input, with the entry and the offset.
    fn next_change(&mut self) -> Result<Option<Change<'_>>>;
}

/// Writes the changes of one layer down in some form.
///
/// # Laws
/// - `change` is called in the source's order. After an error the sink is spent: it is only dropped.
/// - Nothing is visible as complete before `finish` returns `Ok`. Dropping a sink that was not finished
///   leaves no result, and takes away what it can of its traces.
/// - The outcome is a function of the changes and the options alone.
pub trait LayerSink {
    /// The evidence of what was written: a handle, digests, counts.
    type Output;

    /// Takes one change.
    ///
    /// # Errors
    /// What cannot be written down in this form, and errors of the target.
    fn change(&mut self, change: Change<'_>) -> Result<()>;

    /// Completes the layer.
    ///
    /// # Errors
    /// What could only be seen at the end, and errors of the target.
    fn finish(self) -> Result<Self::Output>
    where
        Self: Sized;
}

impl<S: LayerSource + ?Sized> LayerSource for &mut S {
    fn next_change(&mut self) -> Result<Option<Change<'_>>> {
        (**self).next_change()
    }
}

impl<S: LayerSource + ?Sized> LayerSource for Box<S> {
    fn next_change(&mut self) -> Result<Option<Change<'_>>> {
        (**self).next_change()
    }
}

/// Moves every change from `source` into `sink`, and completes it.
///
/// An error of the sink that has no coordinates gets those of the change.
///
/// # Errors
/// Those of the two sides, and [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) when `monitor` says stop.
pub fn pump<S, K>(source: &mut S, mut sink: K, monitor: &dyn Monitor) -> Result<K::Output>
where
    S: LayerSource + ?Sized,
    K: LayerSink,
{
    drive(source, &mut sink, monitor)?;
    sink.finish()
}

/// Moves every change from `source` into `sink`, and leaves it to the caller to complete it.
///
/// # Errors
/// As [`pump`].
pub fn drive<S, K>(source: &mut S, sink: &mut K, monitor: &dyn Monitor) -> Result<()>
where
    S: LayerSource + ?Sized,
    K: LayerSink + ?Sized,
{
    loop {
        if monitor.should_stop() {
            return Err(Error::cancelled());
        }
        let Some(change) = source.next_change()? else { return Ok(()) };
        let (path, origin) = (change.path, change.origin);
        monitor.entry(path);
        sink.change(change).map_err(|error| {
            let error = error.at(path).index(origin.index);
            match origin.offset {
                Some(offset) => error.offset(offset),
                None => error,
            }
        })?;
    }
}
