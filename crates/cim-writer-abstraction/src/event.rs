//! What a layer says about one path, in the terms of Windows.

use layer_model::Content;

use crate::{CimPath, FileMeta, StreamName};

/// One thing that a Windows layer says.
#[derive(Debug)]
#[non_exhaustive]
pub enum LayerEvent<'a> {
    /// A file or directory is at `path` now.
    Add {
        /// Where.
        path: CimPath,
        /// What it is, and everything about it but its content.
        meta: FileMeta,
        /// Its main stream; empty for directories and reparse points.
        content: Content<'a>,
    },
    /// The file added just before has an alternate data stream.
    Stream {
        /// The file.
        of: CimPath,
        /// The stream.
        name: StreamName,
        /// What is in it.
        content: Content<'a>,
    },
    /// Another name of a file.
    Link {
        /// The new name.
        path: CimPath,
        /// The name that is there.
        target: CimPath,
    },
    /// What parents have there is gone.
    Remove {
        /// Where.
        path: CimPath,
    },
    /// The directory hides what parents have below it.
    Opaque {
        /// The directory.
        path: CimPath,
    },
}

impl LayerEvent<'_> {
    /// The path that the event is about.
    pub fn path(&self) -> &CimPath {
        match self {
            Self::Add { path, .. }
            | Self::Link { path, .. }
            | Self::Remove { path }
            | Self::Opaque { path } => path,
            Self::Stream { of, .. } => of,
        }
    }
}
