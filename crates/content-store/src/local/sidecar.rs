//! The directory beside the image layout, and the labels in it.

use layer_model::{Digest, Error, ErrorKind, Result};

use super::{Inner, dir::Dir};
use crate::{Labels, labels::MAX_LABELS};

/// The name of the directory.
pub(super) const DIR: &str = "content-store";
/// Where files are prepared: nothing in it is missed while no one holds the store-wide lock.
pub(super) const STAGING: &str = "staging";
pub(super) const LABELS: &str = "labels";
pub(super) const LEASES: &str = "leases";

/// JSON takes at most six bytes for one of text, and little more for the rest.
const MAX_LABEL_FILE: u64 = 8 * MAX_LABELS as u64;

/// Makes the directory with what is always in it.
pub(super) fn make(root: &Dir) -> Result<Dir> {
    let dir = root.make_dir(DIR)?;
    dir.make_dir(STAGING)?;
    Ok(dir)
}

impl Inner {
    /// The directory beside the layout, made if it is not there.
    pub(super) fn sidecar(&self) -> Result<&Dir> {
        if let Some(dir) = self.sidecar.get() {
            return Ok(dir);
        }
        let dir = make(&self.root)?;
        Ok(self.sidecar.get_or_init(|| dir))
    }

    /// The directory beside the layout, if it is there.
    pub(super) fn find_sidecar(&self) -> Result<Option<&Dir>> {
        if self.sidecar.get().is_none() && self.root.stat(DIR)?.is_none() {
            return Ok(None);
        }
        self.sidecar().map(Some)
    }

    pub(super) fn staging(&self) -> Result<Dir> {
        self.sidecar()?.make_dir(STAGING)
    }

    fn label_dir(&self, digest: &Digest) -> Result<Option<Dir>> {
        let Some(sidecar) = self.find_sidecar()? else { return Ok(None) };
        let Some(labels) = sidecar.find_dir(LABELS)? else { return Ok(None) };
        labels.find_dir(digest.algorithm_name())
    }

    /// The labels that are stored for a digest, whether or not there is a blob.
    pub(super) fn labels(&self, digest: &Digest) -> Result<Labels> {
        if !self.options.labels {
            return Ok(Labels::new());
        }
        let Some(dir) = self.label_dir(digest)? else { return Ok(Labels::new()) };
        match dir.read(digest.encoded(), MAX_LABEL_FILE)? {
            None => Ok(Labels::new()),
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                Error::new(ErrorKind::InvalidArchive, "the labels of this blob are damaged")
                    .entry(digest.as_str())
                    .cause(error)
            }),
        }
    }

    /// Stores labels for a digest. The caller holds the locks.
    pub(super) fn set_labels(&self, digest: &Digest, labels: &Labels) -> Result<()> {
        if labels.is_empty() {
            if let Some(dir) = self.label_dir(digest)?
                && dir.remove(digest.encoded())?
            {
                dir.sync()?;
            }
            return Ok(());
        }
        let dir = self.sidecar()?.make_dir(LABELS)?.make_dir(digest.algorithm_name())?;
        let bytes = serde_json::to_vec(labels).map_err(|error| {
            Error::new(ErrorKind::InvalidArgument, "labels cannot be written as JSON").cause(error)
        })?;
        dir.replace(&self.staging()?, digest.encoded(), &bytes)
    }

    /// Removes a blob, then its labels. The caller holds the locks. `false`: there was none.
    pub(super) fn remove_blob(&self, digest: &Digest) -> Result<bool> {
        let dir = self.blobs.find_dir(digest.algorithm_name())?;
        let removed = dir.map(|dir| dir.remove(digest.encoded())).transpose()?.unwrap_or(false);
        if let Some(dir) = self.label_dir(digest)? {
            dir.remove(digest.encoded())?;
        }
        Ok(removed)
    }
}
