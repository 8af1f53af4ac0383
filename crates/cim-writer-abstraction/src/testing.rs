//! The suite that every sink which makes images should pass, and Windows layers to test with.
//!
//! An implementor writes a [`SinkCase`] and calls [`sink_conformance`]; it panics with the name of the rule that is
//! broken and what was found. Sinks that only write things down, such as journals, do not know what is in an image,
//! and are not for this suite.
//!
//! [`WcowLayer`] is a layer in memory, made entry by entry or one of those ready (a base layer with its hives, a child
//! with everything that a layer can have); it comes as events, as changes on the road, and as the bytes of an archive.
//! [`archives`] are archives that the crate's own writer would not make: what other tools write, and what nobody
//! should. [`check_layer`] holds the properties that are fuzzed.

pub mod archives;
mod conformance;
mod events;
mod layer;
mod properties;

pub use conformance::sink_conformance;
pub use events::{EventList, OwnedContent, OwnedEvent};
pub use layer::WcowLayer;
pub use properties::check_layer;

use crate::{CimKind, CimName, CimSink};

/// An implementation under test.
pub trait SinkCase {
    /// A directory, or a path for a container, that no image has been in.
    fn place(&mut self, kind: CimKind) -> String;

    /// A sink for a new image.
    fn sink(&mut self) -> Box<dyn CimSink + '_>;

    /// What is to be seen of the committed image, as the view dump
    /// ([`View::dump`](crate::model::View::dump)). [`None`] without such an image.
    fn dump(&mut self, place: &str, name: &CimName) -> Option<String>;

    /// Whether the root digest of sealed images can be had.
    fn seals(&self) -> bool {
        true
    }
}
