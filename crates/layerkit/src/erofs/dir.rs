//! The directory of a layer, as containerd's EROFS snapshotter has it.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use layer_model::{IoContext, Result};

/// The image of the layer.
pub(crate) const LAYER: &str = "layer.erofs";
/// The merged metadata of the layer and all below it.
pub(crate) const FSMETA: &str = "fsmeta.erofs";
/// Says that the directory is for an EROFS layer.
const MARKER: &str = ".erofslayer";

/// Fills the directory `dir`, which is there and empty, but for the image: that is given to be written.
pub(crate) fn make_layer_dir(dir: &Path) -> Result<File> {
    let make = || {
        for (name, mode) in [("fs", 0o755), ("work", 0o711)] {
            DirBuilder::new().mode(mode).create(dir.join(name))?;
            // The umask has its say in the first.
            fs::set_permissions(dir.join(name), Permissions::from_mode(mode))?;
        }
        File::create_new(dir.join(MARKER))?;
        File::options().read(true).write(true).create_new(true).open(dir.join(LAYER))
    };
    make().during("make the directory of a layer")
}
