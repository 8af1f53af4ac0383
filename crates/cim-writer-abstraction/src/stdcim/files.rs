//! Where the files of an image come from.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use layer_model::ReadAt;

/// The files of an image directory, by name.
///
/// Implemented by [`ImageDir`], and by a map for images in memory.
pub trait ImageFiles: Send + Sync {
    /// Opens a file. `name` is one component.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where there is none; those of the operating system.
    fn open(&self, name: &str) -> io::Result<Box<dyn ReadAt>>;
}

/// A directory that holds images.
#[derive(Clone, Debug)]
pub struct ImageDir(PathBuf);

impl ImageDir {
    /// The directory at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl ImageFiles for ImageDir {
    fn open(&self, name: &str) -> io::Result<Box<dyn ReadAt>> {
        let path = self.0.join(name);
        // Opening a FIFO would wait for whoever writes to it.
        if !fs::metadata(&path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Box::new(fs::File::open(path)?))
    }
}

impl ImageFiles for BTreeMap<String, Arc<[u8]>> {
    fn open(&self, name: &str) -> io::Result<Box<dyn ReadAt>> {
        let file = self.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(file.clone()))
    }
}
