//! Windows layers as events: from the changes that an archive has, and back.
//!
//! [`WcowSource`] reads a layer on the road, in the form that [`layer_model::windows`] describes, and says what it
//! means: names that Windows takes, metadata in the form of the API, streams with the file that they belong to. What
//! makes no sense is an error that names the entry, not a guess. [`WcowChanges`] is the way back, for a sink that
//! writes an archive; what comes out of it is what went in, with times in units of 100 ns.
//!
//! ```
//! use cim_writer_abstraction::{LayerEvent, wcow::{WcowOptions, WcowSource}};
//! use layer_model::{Change, Entry, EntryKind, LayerPath, LayerSource, Metadata, Result, Silent, road::Content};
//!
//! struct Hello(bool);
//!
//! impl LayerSource for Hello {
//!     fn next_change(&mut self) -> Result<Option<Change<'_>>> {
//!         if std::mem::replace(&mut self.0, true) {
//!             return Ok(None);
//!         }
//!         let file = EntryKind::File(Content::from_bytes(b"hello"));
//!         let path = LayerPath::new(b"Files/hello.txt")?;
//!         Ok(Some(Change::upsert(path, Entry::new(file, Metadata::file(0o644)))))
//!     }
//! }
//!
//! let mut layer = WcowSource::new(Hello(false), WcowOptions::default(), &Silent);
//! while let Some(event) = layer.next_event()? {
//!     let LayerEvent::Add { path, content, .. } = event else { panic!("the layer has one file") };
//!     assert_eq!((path.to_string().as_str(), content.len()), ("Files\\hello.txt", 5));
//! }
//! assert_eq!(layer.total_size(), 5);
//! # Ok::<(), layer_model::Error>(())
//! ```

mod changes;
mod records;
mod source;

use std::fmt::Write as _;

use layer_model::{Error, ErrorKind, Result, path::Printable};

pub use changes::WcowChanges;
pub(crate) use changes::{describe, keep_for_stream};
pub use source::WcowSource;

use crate::{CimProfile, LayerEvent};

/// What hcsshim gives a file whose archive has no time of access or of change: Go's zero time, after an overflow
/// (1754-08-30).
pub const HCSSHIM_MISSING_TIME: crate::FileTime = crate::FileTime(48_491_090_211_286_549);

/// How a layer is understood.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct WcowOptions {
    /// Whose behaviour to follow. [`CimProfile::Hcsshim`] differs in this: a missing time of access or of change is
    /// [`HCSSHIM_MISSING_TIME`] instead of the time of writing; whether something is a directory is left as the
    /// attributes say, also where the type of the entry says otherwise; security descriptors are not looked into; an
    /// opaque mark removes a file named `.wh..opq`.
    pub profile: CimProfile,
    /// Whether opaque marks are events. Windows has nothing of the kind, so that somebody has to turn them into
    /// removals; they are refused by default.
    pub expand_opaque: bool,
}

impl WcowOptions {
    /// Sets [`Self::profile`].
    #[must_use]
    pub fn profile(mut self, profile: CimProfile) -> Self {
        self.profile = profile;
        self
    }

    /// Sets [`Self::expand_opaque`].
    #[must_use]
    pub fn expand_opaque(mut self, expand: bool) -> Self {
        self.expand_opaque = expand;
        self
    }
}

/// The error of a part of an entry, as an error of the entry: the part's name and its offset within that part become
/// words, so that they are not taken for those of the entry.
fn about(part: &str, error: &Error) -> Error {
    let kind = match error.kind() {
        // No caller gave it, an archive did.
        ErrorKind::InvalidArgument => ErrorKind::InvalidArchive,
        kind => kind.clone(),
    };
    let mut message = format!("{part}: {}", error.message());
    if let Some(name) = error.entry_path() {
        let _ = write!(message, ": {}", Printable(name)); // a string takes everything
    }
    if let Some(offset) = error.byte_offset() {
        let _ = write!(message, ", at its byte {offset}");
    }
    Error::new(kind, message)
}

/// A stream of the events of one layer.
///
/// # Laws
/// - Events come in a fixed order: the same source gives the same sequence.
/// - A [`LayerEvent::Stream`] stands behind the [`LayerEvent::Add`] of its file, with nothing but streams of the same
///   file between.
/// - An event borrows from the source until the next call; content that was not consumed is skipped.
/// - After `Ok(None)` or an error, every further call gives `Ok(None)` or an error, and no event.
pub trait WcowEvents {
    /// The next event, [`None`] after the last.
    ///
    /// # Errors
    /// Whatever is wrong with the layer, with the entry.
    fn next_event(&mut self) -> Result<Option<LayerEvent<'_>>>;
}

impl<E: WcowEvents + ?Sized> WcowEvents for &mut E {
    fn next_event(&mut self) -> Result<Option<LayerEvent<'_>>> {
        (**self).next_event()
    }
}

impl<E: WcowEvents + ?Sized> WcowEvents for Box<E> {
    fn next_event(&mut self) -> Result<Option<LayerEvent<'_>>> {
        (**self).next_event()
    }
}
