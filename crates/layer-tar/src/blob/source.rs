//! A layer blob as changes.

use layer_model::{Change, LayerSource, Result};

use super::LayerBlob;
use crate::{BlobSummary, TarSource};

/// The changes of the layer tar in a blob. `Ok(None)` means that the blob was read to its end and that all its
/// digests were checked; [`BlobSource::summary`] then has them.
#[derive(Debug)]
pub struct BlobSource<'m> {
    tar: TarSource<'m, LayerBlob<'m>>,
}

impl<'m> BlobSource<'m> {
    pub(super) fn new(tar: TarSource<'m, LayerBlob<'m>>) -> Self {
        Self { tar }
    }

    /// Digests and sizes, after the source gave `Ok(None)`.
    pub fn summary(&self) -> Option<&BlobSummary> {
        self.tar.get_ref().summary()
    }

    /// How many bytes of the tar were read.
    pub fn position(&self) -> u64 {
        self.tar.position()
    }
}

impl LayerSource for BlobSource<'_> {
    fn next_change(&mut self) -> Result<Option<Change<'_>>> {
        self.tar.next_change()
    }
}
