//! Counts what a layer demands against [`Limits`].

use layer_model::{Content, Error, ErrorKind, LayerPath, Result, content::Body};

use crate::options::Limits;

/// What was taken so far.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    holes: u64,
}

fn exceeded(limit: &'static str, message: &str) -> Error {
    Error::new(ErrorKind::LimitExceeded { limit }, message)
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, entries: 0, bytes: 0, holes: 0 }
    }

    /// One more entry, at `path`.
    pub(crate) fn entry(&mut self, path: LayerPath<'_>) -> Result<()> {
        self.entries += 1;
        if self.entries > self.limits.max_entries {
            return Err(exceeded("max_entries", "the layer has too many entries"));
        }
        self.path(path)
    }

    /// A path of the layer, or one that links led to.
    pub(crate) fn path(&self, path: LayerPath<'_>) -> Result<()> {
        if path.as_bytes().len() > self.limits.max_path_len {
            return Err(exceeded("max_path_len", "the path is too long"));
        }
        // A path shorter than that cannot have too many components.
        if path.as_bytes().len() >= self.limits.max_depth && path.depth() > self.limits.max_depth {
            return Err(exceeded("max_depth", "the path has too many components"));
        }
        Ok(())
    }

    /// The content of a file, before any of it is written.
    pub(crate) fn content(&mut self, content: &mut Content<'_>) -> Result<()> {
        let len = content.len();
        if len > self.limits.max_entry_size {
            return Err(exceeded("max_entry_size", "the file is too large"));
        }
        self.bytes = self.bytes.saturating_add(len);
        if self.bytes > self.limits.max_total_size {
            return Err(exceeded("max_total_size", "the files of the layer are too large"));
        }
        if let Body::Sparse { extents, .. } = content.body() {
            let data: u64 = extents.iter().map(|extent| extent.len).sum();
            self.holes = self.holes.saturating_add(len.saturating_sub(data));
            if self.holes > self.limits.max_sparse_expansion {
                return Err(exceeded("max_sparse_expansion", "the holes of the layer are too large"));
            }
        }
        Ok(())
    }
}
