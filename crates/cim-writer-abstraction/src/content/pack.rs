//! Content in one file of a directory, with an index.
//!
//! A layer has tens of thousands of files, most of them small. A file for each blob would cost more than the bytes in
//! it; here they are appended to one file, and found by an index:
//!
//! | file | holds |
//! |---|---|
//! | `content.pack` | 16 bytes that say so, then the blobs one after another |
//! | `content.index` | 16 bytes that say so, the size of the pack, the number of blobs; for each, ascending: SHA-256, offset, size; the SHA-256 of all that |
//!
//! Numbers are 64 bits, the lowest byte first. The order of the blobs is the order in which they came, so that the
//! same streams give the same files.
//!
//! [`PackWriter`] makes both in a new directory. The index is written last: a directory without one was never
//! finished. To publish a directory at once, make it below a name that nobody looks for, and rename it.

use std::{
    collections::HashMap,
    fmt,
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use layer_model::{Error, ErrorKind, IoContext, ReadAt, Result};
use sha2::{Digest as _, Sha256};

use super::{Blob, BlobSink, Blobs, digest};

const PACK: &str = "content.pack";
const INDEX: &str = "content.index";
const PACK_MAGIC: [u8; 16] = *b"layerkit pack 1\n";
const INDEX_MAGIC: [u8; 16] = *b"layerkit pidx 1\n";

/// Index: magic, size of the pack, number of blobs.
const INDEX_HEADER: usize = 32;
/// Index: SHA-256, offset, size.
const INDEX_ENTRY: usize = 48;

/// How much is gathered before it is written: enough that a system call costs nothing beside the copy.
const BUFFER: usize = 256 * 1024;

/// Where a blob is in the pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    offset: u64,
    len: u64,
}

/// Writes a pack into a directory of its own.
///
/// Dropping it unfinished removes the directory.
///
/// # Memory
/// A buffer, and about a hundred bytes for each different blob.
pub struct PackWriter {
    /// What is removed when the pack is not finished.
    dir: Option<PathBuf>,
    file: File,
    /// Bytes that are not in the file yet, and where they go.
    buffer: Vec<u8>,
    buffer_at: u64,
    /// Where the next write goes without a seek.
    cursor: u64,
    /// Where the open blob begins.
    start: u64,
    hash: Sha256,
    places: HashMap<[u8; 32], Place>,
}

impl PackWriter {
    /// Makes the directory `dir` and an empty pack in it.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`] when it is there already, other errors of the operating system.
    pub fn create(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        fs::create_dir(&dir).map_err(|error| failed("make the directory of a pack", &dir, error))?;
        let path = dir.join(PACK);
        let file = match File::create_new(&path) {
            Ok(file) => file,
            Err(error) => {
                let _ = fs::remove_dir(&dir);
                return Err(failed("make a pack", &path, error));
            }
        };
        let mut buffer = Vec::with_capacity(BUFFER);
        buffer.extend_from_slice(&PACK_MAGIC);
        Ok(Self {
            dir: Some(dir),
            file,
            buffer,
            buffer_at: 0,
            cursor: 0,
            start: PACK_MAGIC.len() as u64,
            hash: Sha256::new(),
            places: HashMap::new(),
        })
    }

    /// How many different blobs there are.
    pub fn blobs(&self) -> usize {
        self.places.len()
    }

    /// How many bytes the pack has.
    pub fn size(&self) -> u64 {
        self.buffer_at + self.buffer.len() as u64
    }

    /// Writes the index, and opens the pack for reading. With `durable`, both files and their directory are on disk
    /// when this returns.
    ///
    /// # Errors
    /// Those of the operating system. The directory is removed then.
    pub fn finish(mut self, durable: bool) -> Result<ContentPack> {
        self.rewind()?;
        self.flush()?;
        let size = self.size();
        self.file.set_len(size).during("set the size of a pack")?;
        if durable {
            self.file.sync_all().during("write a pack to disk")?;
        }
        let dir = self.dir.clone().expect("it is taken at the end of this only");
        let index = index_of(&self.places, size);
        let path = dir.join(INDEX);
        let written = File::create_new(&path).and_then(|mut file| {
            file.write_all(&index)?;
            if durable { file.sync_all() } else { Ok(()) }
        });
        written.map_err(|error| failed("write the index of a pack", &path, error))?;
        if durable {
            sync_dir(&dir)?;
        }
        let pack = ContentPack::open(&dir)?;
        self.dir = None;
        Ok(pack)
    }

    /// Forgets what came since the last blob.
    fn rewind(&mut self) -> Result<()> {
        if self.start >= self.buffer_at {
            let kept = usize::try_from(self.start - self.buffer_at).unwrap_or(usize::MAX);
            self.buffer.truncate(kept);
        } else {
            // What is in the file is overwritten by what comes, or cut off at the end.
            self.buffer.clear();
            self.buffer_at = self.start;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        let result = self.write_out(&buffer);
        self.buffer = buffer;
        self.buffer.clear();
        result
    }

    /// Writes bytes where the buffer would go.
    fn write_out(&mut self, bytes: &[u8]) -> Result<()> {
        if self.cursor != self.buffer_at {
            self.file.seek(SeekFrom::Start(self.buffer_at)).during("seek in a pack")?;
        }
        self.file.write_all(bytes).during("write a pack")?;
        self.buffer_at += bytes.len() as u64;
        self.cursor = self.buffer_at;
        Ok(())
    }
}

impl BlobSink for PackWriter {
    fn begin(&mut self, _size: u64) -> Result<()> {
        self.rewind()?;
        self.hash.reset();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
            if bytes.len() >= BUFFER {
                return self.write_out(bytes);
            }
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<[u8; 32]> {
        let sha256 = self.hash.finalize_reset().into();
        let place = Place { offset: self.start, len: self.size() - self.start };
        if place.len == 0 || self.places.contains_key(&sha256) {
            self.rewind()?;
        } else {
            self.places.insert(sha256, place);
            self.start = self.size();
        }
        Ok(sha256)
    }

    fn cancel(&mut self) -> Result<()> {
        self.rewind()
    }
}

impl Drop for PackWriter {
    fn drop(&mut self) {
        if let Some(dir) = self.dir.take() {
            // Nobody is told: there is nobody left to tell. What stays behind has no index.
            for name in [INDEX, PACK] {
                let _ = fs::remove_file(dir.join(name));
            }
            let _ = fs::remove_dir(dir);
        }
    }
}

impl fmt::Debug for PackWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackWriter")
            .field("dir", &self.dir)
            .field("blobs", &self.places.len())
            .finish_non_exhaustive()
    }
}

/// The index as it is on disk.
fn index_of(places: &HashMap<[u8; 32], Place>, pack_len: u64) -> Vec<u8> {
    let mut sorted: Vec<_> = places.iter().collect();
    sorted.sort_unstable_by_key(|(sha256, _)| **sha256);
    let mut index = Vec::with_capacity(INDEX_HEADER + sorted.len() * INDEX_ENTRY + 32);
    index.extend_from_slice(&INDEX_MAGIC);
    index.extend_from_slice(&pack_len.to_le_bytes());
    index.extend_from_slice(&(sorted.len() as u64).to_le_bytes());
    for (sha256, place) in sorted {
        index.extend_from_slice(sha256);
        index.extend_from_slice(&place.offset.to_le_bytes());
        index.extend_from_slice(&place.len.to_le_bytes());
    }
    let check: [u8; 32] = Sha256::digest(&index).into();
    index.extend_from_slice(&check);
    index
}

/// A pack that is finished, open for reading. Clones share it.
#[derive(Clone)]
pub struct ContentPack {
    file: Arc<dyn ReadAt>,
    /// The entries of the index, as they are on disk.
    entries: Arc<Vec<[u8; INDEX_ENTRY]>>,
}

impl ContentPack {
    /// Opens the pack in the directory `dir`, and checks its index.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none or it was never finished; [`ErrorKind::CorruptImage`],
    /// [`ErrorKind::Truncated`] and [`ErrorKind::DigestMismatch`] when it is damaged; other errors of the operating
    /// system.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join(INDEX);
        let index = fs::read(&path).map_err(|error| failed("read the index of a pack", &path, error))?;
        let (entries, pack_len) = check_index(&index).map_err(|error| name(error, &path))?;
        let path = dir.join(PACK);
        let file = File::open(&path).map_err(|error| failed("open a pack", &path, error))?;
        check_pack(&file, pack_len).map_err(|error| name(error, &path))?;
        Ok(Self { file: Arc::new(file), entries: Arc::new(entries) })
    }

    /// How many blobs there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Reads every blob, and checks its digest.
    ///
    /// # Errors
    /// [`ErrorKind::DigestMismatch`] for the first that is damaged, and those of reading.
    pub fn verify(&self) -> Result<()> {
        for (sha256, place) in self.entries.iter().map(entry) {
            Blob::new(self.file.clone(), place.offset, place.len)
                .read_verified(&sha256, &mut |_| Ok(()))
                .map_err(|error| error.offset(place.offset).context("in a pack"))?;
        }
        Ok(())
    }
}

impl Blobs for ContentPack {
    fn find(&self, sha256: &[u8; 32]) -> Result<Option<Blob>> {
        let found = self.entries.binary_search_by(|bytes| bytes[..32].cmp(sha256));
        Ok(found.ok().map(|at| {
            let (_, place) = entry(&self.entries[at]);
            Blob::new(self.file.clone(), place.offset, place.len)
        }))
    }
}

impl fmt::Debug for ContentPack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentPack").field("blobs", &self.len()).finish_non_exhaustive()
    }
}

fn entry(bytes: &[u8; INDEX_ENTRY]) -> ([u8; 32], Place) {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let sha256 = bytes[..32].try_into().expect("32 bytes");
    (sha256, Place { offset: number(32), len: number(40) })
}

/// The entries of the index, and the size of the pack.
fn check_index(index: &[u8]) -> Result<(Vec<[u8; INDEX_ENTRY]>, u64)> {
    let corrupt = |what: &str| Err(Error::new(ErrorKind::CorruptImage, what));
    let Some((checked, check)) = index.split_last_chunk::<32>() else {
        return Err(Error::new(ErrorKind::Truncated, "the index of a pack is cut off"));
    };
    if checked.len() < INDEX_HEADER {
        return Err(Error::new(ErrorKind::Truncated, "the index of a pack is cut off"));
    }
    let (header, entries) = checked.split_at(INDEX_HEADER);
    if header[..16] != INDEX_MAGIC {
        return corrupt("no index of a pack");
    }
    let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let (pack_len, count) = (number(16), number(24));
    match (entries.len() as u64).cmp(&count.saturating_mul(INDEX_ENTRY as u64)) {
        std::cmp::Ordering::Less => {
            return Err(Error::new(ErrorKind::Truncated, "the index of a pack is cut off"));
        }
        std::cmp::Ordering::Greater => return corrupt("the index of a pack is longer than it says"),
        std::cmp::Ordering::Equal => {}
    }
    let got: [u8; 32] = Sha256::digest(checked).into();
    if got != *check {
        let kind = ErrorKind::DigestMismatch { expected: digest(check), got: digest(&got) };
        return Err(Error::new(kind, "the index of a pack is damaged"));
    }
    let mut last: Option<[u8; 32]> = None;
    let entries = entries.as_chunks().0;
    for (sha256, place) in entries.iter().map(entry) {
        if last.is_some_and(|last| last >= sha256) {
            return corrupt("the index of a pack is not sorted");
        }
        let end = place.offset.checked_add(place.len);
        if place.offset < PACK_MAGIC.len() as u64 || end.is_none_or(|end| end > pack_len) {
            return corrupt("a blob outside its pack");
        }
        last = Some(sha256);
    }
    Ok((entries.to_vec(), pack_len))
}

fn check_pack(file: &File, expected: u64) -> Result<()> {
    let got = file.metadata().during("look at a pack")?.len();
    if got < expected {
        return Err(Error::new(ErrorKind::Truncated, format!("the pack has {got} bytes of {expected}")));
    }
    if got > expected {
        let kind = ErrorKind::SizeMismatch { expected, got };
        return Err(Error::new(kind, "the pack is longer than its index says"));
    }
    let mut magic = [0; 16];
    file.read_exact_at(&mut magic, 0).during("read a pack")?;
    if magic != PACK_MAGIC {
        return Err(Error::new(ErrorKind::CorruptImage, "no pack"));
    }
    Ok(())
}

/// Makes the names in a directory durable. Windows has no such operation, and does it by itself.
fn sync_dir(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(|error| failed("write a directory to disk", dir, error))?;
    }
    Ok(())
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    name(Error::io(what, error), path)
}

fn name(error: Error, path: &Path) -> Error {
    error.entry(path.as_os_str().as_encoded_bytes())
}
