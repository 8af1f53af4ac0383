//! Where an image is written until it is complete: a directory beside it, whose files are then renamed.

use std::{
    collections::HashMap,
    fs,
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use layer_model::{Error, ErrorKind, IoContext, Result};
use sha2::{Digest, Sha256};
use zerocopy::IntoBytes;

use super::{
    super::raw::{self, LENGTH_MAX, OBJECT_ALIGN, PAGE_SIZE, RegionHeader, RegionOffset, StreamRecord},
    Major, layout,
};

/// Data of this size and more goes to the page-aligned region. Where Windows draws the line is not public.
const LARGE: u64 = PAGE_SIZE;

/// The directory beside the images in which one is made.
const STAGING: &str = ".stdcim-staging";
/// The file-system file in there.
const STAGED_IMAGE: &str = "image";

/// An image in the making. Dropped, it is gone.
pub(super) struct Stage {
    dir: PathBuf,
    staging: PathBuf,
    /// Page-aligned data, data of small files.
    regions: [DataRegion; 2],
    /// Data that is there already, by its digest.
    known: HashMap<[u8; 32], RegionOffset>,
    /// Over the digests of all data that was kept.
    content: Sha256,
    /// Held as long as the image is made.
    lock: Option<fs::File>,
}

/// A region file of data, which is appended to.
struct DataRegion {
    file: fs::File,
    index: u16,
    align: u64,
    end: u64,
}

/// A stream that is being written.
pub(super) struct OpenStream {
    region: usize,
    at: u64,
    size: u64,
    written: u64,
    hash: Sha256,
    zero: bool,
}

impl Stage {
    /// Begins an image in `dir`, whose own regions are numbered from `first` on.
    ///
    /// One image at a time is made in a directory, as on Windows. What a writer left behind that did not get to its end
    /// is taken away.
    pub(super) fn new(dir: &Path, major: Major, first: u16) -> Result<Self> {
        let lock = lock(dir)?;
        let staging = dir.join(STAGING);
        match fs::remove_dir_all(&staging) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove what an earlier writer left", error));
            }
            _ => {}
        }
        fs::create_dir(&staging).during("create staging directory")?;
        let open = |index: u16, region_type, align| -> Result<DataRegion> {
            let mut file = fs::File::create_new(staging.join(staged(index))).during("create region file")?;
            let header = layout::region_header(major, index, region_type);
            file.write_all(header.as_bytes()).during("write region file")?;
            let end = size_of::<RegionHeader>() as u64;
            Ok(DataRegion { file, index: first + index, align, end })
        };
        let regions = open(1, raw::REGION_DATA, PAGE_SIZE)
            .and_then(|data| Ok([data, open(2, raw::REGION_SMALL_DATA, OBJECT_ALIGN)?]));
        let regions = regions.inspect_err(|_| drop(fs::remove_dir_all(&staging)))?;
        Ok(Self {
            dir: dir.to_owned(),
            staging,
            regions,
            known: HashMap::new(),
            content: Sha256::new(),
            lock,
        })
    }

    /// Begins a stream of `size` bytes.
    pub(super) fn begin(&mut self, size: u64) -> Result<OpenStream> {
        let region = usize::from(size < LARGE);
        let DataRegion { end, align, .. } = self.regions[region];
        let at = end.next_multiple_of(align);
        if size > LENGTH_MAX - at {
            return Err(Error::new(
                ErrorKind::LimitExceeded { limit: "48-bit offset" },
                "more data than a region takes",
            ));
        }
        Ok(OpenStream { region, at, size, written: 0, hash: Sha256::new(), zero: true })
    }

    /// Takes the next bytes of a stream.
    pub(super) fn write(&mut self, stream: &mut OpenStream, bytes: &[u8]) -> Result<()> {
        let written = stream.written + bytes.len() as u64;
        if written > stream.size {
            let kind = ErrorKind::SizeMismatch { expected: stream.size, got: written };
            return Err(Error::new(kind, "more bytes than announced"));
        }
        let region = &mut self.regions[stream.region];
        if stream.written == 0 {
            region.file.seek(SeekFrom::Start(stream.at)).during("write region file")?;
        }
        region.file.write_all(bytes).during("write region file")?;
        stream.hash.update(bytes);
        stream.zero &= bytes.iter().all(|byte| *byte == 0);
        stream.written = written;
        Ok(())
    }

    /// Ends a stream. Data that is there already is not kept twice; data that is all zero is not kept where `sparse` says
    /// that the file may have holes.
    pub(super) fn end(&mut self, stream: OpenStream, sparse: bool) -> Result<StreamRecord> {
        if stream.written != stream.size {
            let kind = ErrorKind::SizeMismatch { expected: stream.size, got: stream.written };
            return Err(Error::new(kind, "fewer bytes than announced"));
        }
        let record = |data, sparse| Ok(StreamRecord::new(data, stream.size, raw::STREAM_DATA, sparse));
        if stream.size == 0 {
            return record(RegionOffset::NULL, false);
        }
        let region = &mut self.regions[stream.region];
        let digest = stream.hash.finalize().into();
        let hole = sparse && stream.zero;
        if hole || self.known.contains_key(&digest) {
            region.file.set_len(region.end).during("shorten region file")?;
            return match self.known.get(&digest) {
                Some(data) if !hole => record(*data, false),
                _ => record(RegionOffset::NULL, true),
            };
        }
        let data = RegionOffset::new(region.index, stream.at);
        region.end = stream.at + stream.size;
        self.known.insert(digest, data);
        self.content.update(digest);
        record(data, false)
    }

    /// A digest over all data.
    pub(super) fn content(&self) -> [u8; 32] {
        self.content.clone().finalize().into()
    }

    /// Puts the image in its place: the regions first, then the file that makes them an image.
    ///
    /// With `replace`, regions of these names that are there already are the same ones.
    pub(super) fn publish(
        self,
        name: &str,
        set: raw::RegionSet,
        metadata: &[u8],
        image: &[u8],
        replace: bool,
    ) -> Result<()> {
        self.store(&staged(0), metadata)?;
        self.store(STAGED_IMAGE, image)?;
        for region in &self.regions {
            region.file.sync_all().during("write region file")?;
        }
        let mut moves: Vec<(PathBuf, PathBuf)> = (0..set.count.get())
            .map(|index| (self.staging.join(staged(index)), self.dir.join(set.region_name(index))))
            .collect();
        moves.push((self.staging.join(STAGED_IMAGE), self.dir.join(name)));
        let last = moves.len() - 1;
        for (at, (_, to)) in moves.iter().enumerate() {
            if (at == last || !replace) && fs::symlink_metadata(to).is_ok() {
                let name = to.file_name().unwrap_or_default().as_encoded_bytes();
                return Err(Error::new(ErrorKind::AlreadyExists, "there is a file of this name").entry(name));
            }
        }
        for (at, (from, to)) in moves.iter().enumerate() {
            if let Err(error) = fs::rename(from, to) {
                // Those that were there before had the same bytes; without the image, nobody needs them.
                for (_, placed) in &moves[..at] {
                    let _ = fs::remove_file(placed);
                }
                return Err(Error::io("rename into the image directory", error));
            }
        }
        sync_dir(&self.dir)
    }

    fn store(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let store = || {
            let mut file = fs::File::create_new(self.staging.join(name))?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        store().during("write image")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What stays is taken away by the next writer.
        let _ = fs::remove_dir_all(&self.staging);
        // Closing is not enough: a program that another thread is starting has a copy of the descriptor for a moment.
        if let Some(lock) = &self.lock {
            let _ = lock.unlock();
        }
    }
}

/// The name of a region file before its GUID is known.
fn staged(index: u16) -> String {
    index.to_string()
}

/// One writer a directory.
#[cfg(unix)]
fn lock(dir: &Path) -> Result<Option<fs::File>> {
    let file = fs::File::open(dir).during("open image directory")?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => {
            Err(Error::new(ErrorKind::Busy, "another image is being made in the directory"))
        }
        Err(fs::TryLockError::Error(error)) => Err(Error::io("lock image directory", error)),
    }
}

/// Directories cannot be locked there; images are made by Windows itself.
#[cfg(not(unix))]
fn lock(_: &Path) -> Result<Option<fs::File>> {
    Ok(None)
}

#[cfg(unix)]
fn sync_dir(dir: &Path) -> Result<()> {
    fs::File::open(dir).and_then(|dir| dir.sync_all()).during("write image directory")
}

#[cfg(not(unix))]
fn sync_dir(_: &Path) -> Result<()> {
    Ok(())
}
