//! Where the data of AUFS's hard-link store waits for the links into it.

use std::{collections::HashMap, fs::File, io::Write, path::Path};

use layer_model::{Content, Device, IoContext, LayerPathBuf, Metadata, Result, Xattrs};

/// The entries of the store, with their data in one unnamed file: nothing of it can be left behind.
#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    len: u64,
    entries: HashMap<LayerPathBuf, Stored>,
}

/// An entry of the store.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) kind: StoredKind,
    pub(crate) metadata: Metadata,
    pub(crate) xattrs: Xattrs,
    /// The name in the layer under which the data was given out.
    pub(crate) first_name: Option<LayerPathBuf>,
}

#[derive(Debug)]
pub(crate) enum StoredKind {
    File { offset: u64, len: u64 },
    Symlink(Vec<u8>),
    Char(Device),
    Block(Device),
    Fifo,
}

impl Spool {
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(dir).during("make the spool for the store of AUFS")?;
        Ok(Self { file, len: 0, entries: HashMap::new() })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn append(&mut self, content: Content<'_>) -> Result<StoredKind> {
        let (offset, len) = (self.len, content.len());
        content.read_into(&mut |bytes| self.file.write_all(bytes).during("write the spool"))?;
        self.len += len;
        Ok(StoredKind::File { offset, len })
    }

    pub(crate) fn insert(
        &mut self,
        path: LayerPathBuf,
        kind: StoredKind,
        metadata: Metadata,
        xattrs: Xattrs,
    ) {
        self.entries.insert(path, Stored { kind, metadata, xattrs, first_name: None });
    }

    pub(crate) fn get(&self, path: &LayerPathBuf) -> Option<&Stored> {
        self.entries.get(path)
    }

    pub(crate) fn get_mut(&mut self, path: &LayerPathBuf) -> Option<&mut Stored> {
        self.entries.get_mut(path)
    }
}
