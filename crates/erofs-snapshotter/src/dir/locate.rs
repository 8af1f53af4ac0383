//! From a list of mounts to the directory of the snapshot that it is of.

use std::path::Path;

use layer_model::{Error, ErrorKind, Result};
use layer_mounts::{LayerRef, Mount, MountShape, Template, UnresolvedMounts, from_mounts};

use super::SnapshotDir;

impl SnapshotDir {
    /// The directory of the snapshot that a list of mounts is of: of one that can be changed its own, of a view
    /// that of the nearest layer.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for an empty or malformed list; [`ErrorKind::NotSupported`] for a list that no
    /// EROFS snapshotter makes, and for a directory that none made ([`SnapshotDir::open`]): somebody else may know
    /// what to do; those of opening it.
    pub fn from_mounts(mounts: &[Mount]) -> Result<Self> {
        let file = path_in_snapshot(&from_mounts(mounts)?)?;
        let unusable =
            || Error::new(ErrorKind::InvalidArgument, "the mounts name a path without a directory");
        let dir = Path::new(&file).parent().filter(|dir| dir.is_absolute());
        Self::open(dir.ok_or_else(|| unusable().entry(file.as_bytes()))?)
    }
}

/// A file or directory in the snapshot's directory.
fn path_in_snapshot(shape: &MountShape) -> Result<String> {
    match shape {
        MountShape::Bind(bind) => Ok(bind.source().to_owned()),
        MountShape::Erofs(image) => Ok(image.image().to_owned()),
        MountShape::BlockImage(block) => Ok(block.image().to_owned()),
        MountShape::Overlay(overlay) => {
            let nearest = overlay.upper().or_else(|| overlay.lowers().first().map(String::as_str));
            nearest.map(str::to_owned).ok_or_else(not_ours)
        }
        MountShape::Unresolved(unresolved) => in_unresolved(shape, unresolved),
        _ => Err(not_ours()),
    }
}

fn in_unresolved(shape: &MountShape, unresolved: &UnresolvedMounts) -> Result<String> {
    if let Some(block) = unresolved.block_image() {
        return Ok(block.source.clone());
    }
    if let Some(upper) = unresolved.upper()?.filter(Template::is_text) {
        return upper.expand(&[]);
    }
    // A template that stands for a mount is no path: what is mounted there is the place.
    match shape.parents()?.first() {
        Some(LayerRef::Image(image)) => Ok(image.image().to_owned()),
        Some(LayerRef::Dir(dir)) => Ok((*dir).to_owned()),
        None => Err(not_ours()),
    }
}

fn not_ours() -> Error {
    Error::new(ErrorKind::NotSupported, "the mounts are none of an EROFS snapshotter")
}
