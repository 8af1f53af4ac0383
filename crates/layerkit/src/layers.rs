//! Layers by the paths where they are, of whatever form.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use layer_apply::ErofsImage;
use layer_model::{LayerTree, Result, Stack};
use overlay_dir::{Namespace, OverlayDir, OverlayDirOptions};

use crate::erofs::LAYER;

/// A layer that can be looked into, whatever its form.
pub(crate) type AnyTree = Arc<dyn LayerTree>;

/// Opens layers, nearest first. [`None`] when there are none.
pub(crate) fn open_layers(paths: &[PathBuf], namespace: Option<Namespace>) -> Result<Option<Stack<AnyTree>>> {
    let layers = paths.iter().map(|path| open_layer(path, namespace)).collect::<Result<Vec<_>>>()?;
    Ok(Stack::from_nearest(layers))
}

/// Opens a layer: an EROFS image, a directory that holds a `layer.erofs`, or one in overlay form whose markers are in
/// `namespace`, where that is known.
fn open_layer(path: &Path, namespace: Option<Namespace>) -> Result<AnyTree> {
    if path.is_file() {
        return Ok(Arc::new(ErofsImage::open::<&Path>(path, &[])?));
    }
    if is_image(path) {
        return Ok(Arc::new(ErofsImage::open::<&Path>(path.join(LAYER), &[])?));
    }
    Ok(Arc::new(open_overlay(path, namespace)?))
}

/// Whether a layer is an EROFS image, not a directory with its files.
pub(crate) fn is_image(path: &Path) -> bool {
    path.is_file() || path.join(LAYER).is_file()
}

/// Opens a directory in overlay form.
pub(crate) fn open_overlay(dir: &Path, namespace: Option<Namespace>) -> Result<OverlayDir> {
    let mut options = OverlayDirOptions::default();
    options.namespace = namespace;
    OverlayDir::open(dir, options).map_err(|error| error.entry(dir.as_os_str().as_encoded_bytes()))
}
