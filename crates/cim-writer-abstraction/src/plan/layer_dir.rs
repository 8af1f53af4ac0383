//! The layer directory: files that a layer keeps outside its image.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use layer_model::{Error, ErrorKind, IoContext, Result};
use sha2::{Digest, Sha256};

use crate::CimPath;

/// How much of a file is in memory while it is copied into the image, in bytes.
const COPY_BUFFER: usize = 256 << 10;

/// The directory that belongs to a layer, next to its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerDir {
    path: PathBuf,
}

impl LayerDir {
    /// The directory at `path`, which is made when something is put into it.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the file `path` of the layer is in there.
    ///
    /// # Errors
    /// [`ErrorKind::Unrepresentable`] for a path that is no Unicode text.
    pub fn host_path(&self, path: &CimPath) -> Result<PathBuf> {
        let mut host = self.path.clone();
        for name in path.components() {
            let unrepresentable = |_| {
                Error::new(ErrorKind::Unrepresentable, "the name is no Unicode text").entry(path.as_bytes())
            };
            host.push(str::from_utf8(name).map_err(unrepresentable)?);
        }
        Ok(host)
    }

    /// Makes the file `path`, and the directories above it.
    pub(super) fn create(&self, path: &CimPath) -> Result<Spool> {
        let host = self.host_path(path)?;
        if let Some(parent) = host.parent() {
            fs::create_dir_all(parent).during("create a directory of the layer")?;
        }
        // Anything left from an earlier attempt must not be taken for this layer's.
        let file = OpenOptions::new().write(true).create_new(true).open(&host);
        let file = file.during("create a file of the layer directory").map_err(|e| already(e, path))?;
        Ok(Spool { file: BufWriter::new(file), hash: Sha256::new() })
    }

    /// Makes the directory `path`, which must not be there.
    pub(super) fn create_dir(&self, path: &CimPath) -> Result<()> {
        let host = self.host_path(path)?;
        fs::create_dir_all(&self.path).during("create the layer directory")?;
        fs::create_dir(host).during("create a directory of the layer").map_err(|e| already(e, path))
    }

    /// Gives the file `target` the name `path`, too.
    pub(super) fn link(&self, path: &CimPath, target: &CimPath) -> Result<()> {
        let (new, existing) = (self.host_path(path)?, self.host_path(target)?);
        fs::hard_link(existing, new).during("link a hive").map_err(|error| already(error, path))
    }

    /// Gives the bytes of the file `path` to `take`, and its size before.
    pub(super) fn read(&self, path: &CimPath, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let at = |error: Error| error.entry(path.as_bytes());
        let mut file = self.open(path)?;
        let mut buffer = vec![0; COPY_BUFFER];
        loop {
            match file.read(&mut buffer).during("read a file of the layer directory").map_err(at)? {
                0 => return Ok(()),
                n => take(&buffer[..n])?,
            }
        }
    }

    /// The size of the file `path`.
    pub(super) fn len(&self, path: &CimPath) -> Result<u64> {
        let metadata = self.open(path)?.metadata().during("look at a file of the layer directory");
        Ok(metadata.map_err(|error| error.entry(path.as_bytes()))?.len())
    }

    fn open(&self, path: &CimPath) -> Result<File> {
        let file = File::open(self.host_path(path)?).during("open a file of the layer directory");
        file.map_err(|error| error.entry(path.as_bytes()))
    }
}

/// `Exists` of the file system, as what it means here: leftovers.
fn already(error: Error, path: &CimPath) -> Error {
    match error.kind() {
        ErrorKind::Exists => {
            Error::new(ErrorKind::AlreadyExists, "the layer directory has this file from before").cause(error)
        }
        _ => error,
    }
    .entry(path.as_bytes())
}

/// A file of the layer directory while it is written.
#[derive(Debug)]
pub(super) struct Spool {
    file: BufWriter<File>,
    hash: Sha256,
}

impl Spool {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.file.write_all(bytes).during("write a file of the layer directory")
    }

    /// The SHA-256 of what was written.
    pub(super) fn finish(mut self) -> Result<[u8; 32]> {
        self.file.flush().during("write a file of the layer directory")?;
        Ok(self.hash.finalize().into())
    }
}
