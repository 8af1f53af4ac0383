//! Where images are put.

use std::{
    fmt,
    marker::PhantomData,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use layer_model::{Error, ErrorKind, Result};

use super::{BlockStorage, SingleFile};
use crate::{CimName, plan::LayerDir};

/// A directory of standard CIMs, of which one can be written at a time.
///
/// Clones are the same directory. Windows knows of other processes' writers as well, and refuses.
#[derive(Clone)]
pub struct ImageDir(Arc<DirState>);

struct DirState {
    path: Box<str>,
    written: AtomicBool,
}

impl ImageDir {
    /// The directory at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the path is empty.
    pub fn new(path: impl Into<Box<str>>) -> Result<Self> {
        let path = named(path.into(), "the image directory has no path")?;
        Ok(Self(Arc::new(DirState { path, written: AtomicBool::new(false) })))
    }

    /// Its path.
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// The right to write in it, held until it is dropped.
    pub(super) fn lock(&self) -> Result<DirLock> {
        if self.0.written.swap(true, Ordering::Acquire) {
            let what = format!("another image is being written in {}", self.path());
            return Err(Error::new(ErrorKind::Busy, what));
        }
        Ok(DirLock(self.clone()))
    }
}

impl PartialEq for ImageDir {
    fn eq(&self, other: &Self) -> bool {
        self.path() == other.path()
    }
}

impl fmt::Debug for ImageDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ImageDir").field(&self.path()).finish()
    }
}

/// The right to write in an [`ImageDir`].
#[derive(Debug)]
pub(super) struct DirLock(ImageDir);

impl Drop for DirLock {
    fn drop(&mut self) {
        self.0.0.written.store(false, Ordering::Release);
    }
}

/// What holds a block CIM: a file, or a device.
pub struct Container<S> {
    path: Arc<str>,
    storage: PhantomData<S>,
}

impl<S> Clone for Container<S> {
    fn clone(&self) -> Self {
        Self { path: Arc::clone(&self.path), storage: PhantomData }
    }
}

impl<S> PartialEq for Container<S> {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl<S> fmt::Debug for Container<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Container").field(&self.path).finish()
    }
}

impl<S: BlockStorage> Container<S> {
    /// The container at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the path is empty.
    pub fn new(path: impl Into<Box<str>>) -> Result<Self> {
        let path = named(path.into(), "the container has no path")?;
        Ok(Self { path: path.into(), storage: PhantomData })
    }

    /// Its path.
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// Where a block CIM is to be made: a container, a name in it, and a directory for what is kept outside.
pub struct Target<S> {
    pub(super) container: Container<S>,
    pub(super) name: CimName,
    pub(super) files: LayerDir,
}

impl<S: BlockStorage> Target<S> {
    /// The image `name` in `container`, with the layer directory `files`.
    pub fn new(container: Container<S>, name: CimName, files: LayerDir) -> Self {
        Self { container, name, files }
    }
}

impl Target<SingleFile> {
    /// The image `name` in `container`; the directory that the container is in is the layer directory.
    pub fn beside(container: Container<SingleFile>, name: CimName) -> Self {
        let files = LayerDir::new(Path::new(container.path()).parent().unwrap_or(Path::new("")));
        Self { container, name, files }
    }
}

impl<S> fmt::Debug for Target<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { container, name, files } = self;
        f.debug_struct("Target")
            .field("container", container)
            .field("name", name)
            .field("files", files)
            .finish()
    }
}

fn named(path: Box<str>, what: &str) -> Result<Box<str>> {
    if path.is_empty() { Err(Error::new(ErrorKind::InvalidArgument, what)) } else { Ok(path) }
}
