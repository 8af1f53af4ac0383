//! Walking through an image.

use std::{collections::HashMap, fmt};

use layer_model::{Error, ErrorKind, Result};

use super::{Entries, File, FileId, Image};
use crate::CimPath;

/// Everything in an image, see [`Image::walk`]. After an error, nothing more.
///
/// # Memory
/// The lists of the directories on the way, which together are no larger than the image, and a few bytes for each
/// directory.
pub struct Walk {
    image: Image,
    open: Vec<Frame>,
    visits: Visits,
    /// The lists of all open directories.
    bytes: u64,
    begun: bool,
}

/// One file or directory, and where it is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WalkEntry {
    /// The path, spelled as in the image.
    pub path: CimPath,
    /// What is there.
    pub file: File,
}

struct Frame {
    path: CimPath,
    id: FileId,
    entries: Entries,
    at: u32,
}

/// Where each directory was met: each is in one place only, so that no way leads through it for ever, and none of a
/// thousand ways is gone twice.
#[derive(Default)]
pub(in crate::stdcim) struct Visits {
    met: HashMap<FileId, (FileId, u32)>,
    /// The lists of the directories that were charged.
    bytes: u64,
}

impl Visits {
    /// The same for whoever keeps the lists of all directories, or goes through them to no other end: together they are
    /// not much larger than the image.
    pub(in crate::stdcim) fn enter_charged(&mut self, dir: &File, parent: FileId, at: u32) -> Result<()> {
        let known = self.met.contains_key(&dir.id());
        self.enter(dir.id(), parent, at)?;
        if !known {
            self.bytes = self.bytes.saturating_add(dir.table_bytes());
        }
        if self.bytes > dir.image().region_bytes().saturating_mul(SHARED) {
            return Err(Error::new(ErrorKind::CorruptImage, "the directories are larger than the image"));
        }
        Ok(())
    }

    /// Notes that the directory `dir` is entry `at` of `parent`.
    fn enter(&mut self, dir: FileId, parent: FileId, at: u32) -> Result<()> {
        if *self.met.entry(dir).or_insert((parent, at)) == (parent, at) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::CorruptImage,
            format!("directory {} is in two places, or in itself", dir.0),
        ))
    }
}

/// How many times as large as the image all directories are that a tree is made of. Directories with the same names of
/// the same files can share a list; more than a few do not.
const SHARED: u64 = 4;

impl Image {
    /// How many names the files have that have more than one.
    ///
    /// Goes through the whole image, the first time that it is asked.
    ///
    /// # Errors
    /// [`ErrorKind::CorruptImage`] when a directory is malformed; errors of the operating system.
    pub fn link_counts(&self) -> Result<&HashMap<FileId, u32>> {
        if let Some(counts) = self.0.link_counts.get() {
            return Ok(counts);
        }
        let mut counts = HashMap::new();
        let mut visits = Visits::default();
        let root = self.root();
        visits.enter_charged(&root, root.id(), ROOT_AT)?;
        let mut open = vec![root];
        while let Some(dir) = open.pop() {
            for (at, entry) in (0..).zip(dir.entries()?) {
                let file = self.file(entry?.id)?;
                if file.is_dir() {
                    visits.enter_charged(&file, dir.id(), at)?;
                    open.push(file);
                } else {
                    *counts.entry(file.id()).or_insert(0) += 1;
                }
            }
        }
        counts.retain(|_, count| *count > 1);
        counts.shrink_to_fit();
        Ok(self.0.link_counts.get_or_init(|| counts))
    }
}

/// The root is where no entry of a directory is.
pub(in crate::stdcim) const ROOT_AT: u32 = u32::MAX;

impl Walk {
    pub(super) fn new(image: &Image) -> Self {
        Self { image: image.clone(), open: Vec::new(), visits: Visits::default(), bytes: 0, begun: false }
    }

    fn advance(&mut self) -> Result<Option<WalkEntry>> {
        if !self.begun {
            self.begun = true;
            let root = self.image.root();
            self.visits.enter(root.id(), root.id(), ROOT_AT)?;
            self.enter(CimPath::root(), &root)?;
            return Ok(Some(WalkEntry { path: CimPath::root(), file: root }));
        }
        loop {
            let Some(frame) = self.open.last_mut() else { return Ok(None) };
            let Some(entry) = frame.entries.next() else {
                self.bytes -= frame.entries.bytes();
                self.open.pop();
                continue;
            };
            let entry = entry?;
            let path = path_of(&frame.path, &entry.name)?;
            let (parent, at) = (frame.id, frame.at);
            frame.at += 1;
            let file = self.image.file(entry.id).map_err(|error| error.context(&path))?;
            if file.is_dir() {
                let entered = self.visits.enter(entry.id, parent, at);
                entered
                    .and_then(|()| self.enter(path.clone(), &file))
                    .map_err(|error| error.context(&path))?;
            }
            return Ok(Some(WalkEntry { path, file }));
        }
    }

    fn enter(&mut self, path: CimPath, dir: &File) -> Result<()> {
        // Lists that lie in one another are no larger than the image, unless they are the same bytes.
        let bytes = self.bytes.saturating_add(dir.table_bytes());
        if bytes > self.image.region_bytes() {
            return Err(Error::new(ErrorKind::CorruptImage, "the directories are larger than the image"));
        }
        let entries = dir.entries()?;
        self.bytes += entries.bytes();
        self.open.push(Frame { path, id: dir.id(), entries, at: 0 });
        Ok(())
    }
}

/// The path of `name` in `dir`. Each name has been checked, so this is about the length of the whole.
fn path_of(dir: &CimPath, name: &[u8]) -> Result<CimPath> {
    dir.join(name).map_err(|error| Error::new(ErrorKind::CorruptImage, error.message()).entry(name))
}

impl Iterator for Walk {
    type Item = Result<WalkEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.advance().transpose();
        if matches!(entry, Some(Err(_))) {
            self.open.clear();
        }
        entry
    }
}

impl fmt::Debug for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Walk").field("depth", &self.open.len()).finish_non_exhaustive()
    }
}
