//! The files of a plan: remembered in few bytes each, and opened again one after the other.

use std::sync::Arc;

use layer_model::{Error, ErrorKind, LayerDir, LayerPath, LayerTree, ReadAt, Result};

/// Paths and sizes of files.
///
/// Of each path only what differs from the one before is kept: of a walk, some 20 bytes a file.
#[derive(Debug, Default)]
pub(super) struct FileList {
    /// Of each file: how long the part is that it shares with the path before, how long the rest is, the rest, the size.
    coded: Vec<u8>,
    last: Vec<u8>,
    len: u64,
}

/// A file of a [`FileList`].
pub(super) struct ListedFile<'a> {
    pub(super) path: LayerPath<'a>,
    pub(super) size: u64,
}

impl FileList {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn push(&mut self, path: LayerPath<'_>, size: u64) {
        let path = path.as_bytes();
        let shared = self.last.iter().zip(path).take_while(|(a, b)| a == b).count();
        let rest = &path[shared..];
        put(&mut self.coded, shared as u64);
        put(&mut self.coded, rest.len() as u64);
        self.coded.extend_from_slice(rest);
        put(&mut self.coded, size);
        self.last.truncate(shared);
        self.last.extend_from_slice(rest);
        self.len += 1;
    }

    pub(super) fn reader(&self) -> FileListReader<'_> {
        FileListReader { coded: &self.coded, path: Vec::new() }
    }
}

/// Gives the files of a list in their order.
pub(super) struct FileListReader<'a> {
    coded: &'a [u8],
    path: Vec<u8>,
}

impl FileListReader<'_> {
    pub(super) fn next_file(&mut self) -> Result<Option<ListedFile<'_>>> {
        if self.coded.is_empty() {
            return Ok(None);
        }
        let (shared, len) = (self.take() as usize, self.take() as usize);
        let (rest, coded) = self.coded.split_at(len);
        self.coded = coded;
        self.path.truncate(shared);
        self.path.extend_from_slice(rest);
        let size = self.take();
        Ok(Some(ListedFile { path: LayerPath::new(&self.path)?, size }))
    }

    fn take(&mut self) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let Some((&byte, rest)) = self.coded.split_first() else { break };
            self.coded = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    }
}

/// Appends a number, seven bits a byte, lowest first.
fn put(to: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// Opens files of a tree; the directories on the way to the last one stay open for the next.
pub(super) struct Opener<'t> {
    tree: &'t dyn LayerTree,
    root: Option<Arc<dyn LayerDir>>,
    /// The directories below the root.
    way: Vec<Open>,
}

struct Open {
    name: Box<[u8]>,
    dir: Arc<dyn LayerDir>,
}

impl<'t> Opener<'t> {
    pub(super) fn new(tree: &'t dyn LayerTree) -> Self {
        Self { tree, root: None, way: Vec::new() }
    }

    /// Opens the regular file at `path`, which was there before.
    pub(super) fn open(&mut self, path: LayerPath<'_>) -> Result<Box<dyn ReadAt>> {
        self.find(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotDirectory | ErrorKind::InvalidArgument => {
                Error::new(ErrorKind::FileChanged, "the file is gone since it was planned").at(path)
            }
            _ => error.at(path),
        })
    }

    fn find(&mut self, path: LayerPath<'_>) -> Result<Box<dyn ReadAt>> {
        let gone = || Error::new(ErrorKind::NotFound, "no such file");
        let (parent, name) = path.split_last().ok_or_else(gone)?;
        let known =
            parent.components().zip(&self.way).take_while(|(name, open)| *open.name == **name).count();
        self.way.truncate(known);
        let mut dir = match (self.way.last(), &self.root) {
            (Some(Open { dir, .. }), _) | (None, Some(dir)) => dir.clone(),
            (None, None) => self.root.insert(self.tree.root()?).clone(),
        };
        for name in parent.components().skip(known) {
            dir = dir.open_dir(name)?;
            self.way.push(Open { name: name.into(), dir: dir.clone() });
        }
        dir.open_file(name)
    }
}

#[cfg(test)]
mod tests {
    use layer_model::testing::MemoryLayer;

    use super::*;

    #[test]
    fn a_list_gives_what_was_pushed() {
        let long = format!("usr/{}", "x".repeat(3000));
        let files = [
            ("a", 1),
            ("a/b/c", 0),
            ("a/b/d", 127),
            ("a/bb", 128),
            (&*long, u64::MAX),
            ("z", 1 << 40),
            ("a", 16384),
        ];
        let mut list = FileList::default();
        for (path, size) in files {
            list.push(LayerPath::new(path.as_bytes()).unwrap(), size);
        }
        assert_eq!(list.len(), files.len() as u64);
        let mut reader = list.reader();
        for (path, size) in files {
            let found = reader.next_file().unwrap().unwrap();
            assert_eq!((found.path.as_bytes(), found.size), (path.as_bytes(), size));
        }
        assert!(reader.next_file().unwrap().is_none());
    }

    #[test]
    fn files_are_found_wherever_the_last_one_was() {
        let mut tree = MemoryLayer::new().file("top", "0");
        for dir in ["a", "a/b", "a/b/c", "b"] {
            tree = tree.dir(dir, 0o755).file(&format!("{dir}/f"), dir);
        }
        let mut opener = Opener::new(&tree);
        for dir in ["a/b/c", "a/b/c", "a", "b", "a/b"] {
            let file = opener.open(LayerPath::new(format!("{dir}/f").as_bytes()).unwrap()).unwrap();
            let mut data = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
            file.read_exact_at(&mut data, 0).unwrap();
            assert_eq!(data, dir.as_bytes());
        }
        for gone in ["a/b/none", "none/f", "a/f/g", "a"] {
            let error = opener.open(LayerPath::new(gone.as_bytes()).unwrap()).err().unwrap();
            assert_eq!(error.kind(), &ErrorKind::FileChanged, "{gone}");
        }
        assert!(opener.open(LayerPath::new(b"top").unwrap()).is_ok());
    }
}
