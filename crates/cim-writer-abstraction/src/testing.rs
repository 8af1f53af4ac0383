//! The suite that every sink which makes images should pass.
//!
//! An implementor writes a [`SinkCase`] and calls [`sink_conformance`]; it panics with the name of the rule that is
//! broken and what was found. Sinks that only write things down, such as journals, do not know what is in an image,
//! and are not for this suite.

mod conformance;

pub use conformance::sink_conformance;

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
