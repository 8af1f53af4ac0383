//! Reading standard CIMs.

mod file;
mod links;
mod regions;
mod stream;
mod walk;

use std::{
    collections::HashMap,
    fmt,
    path::Path,
    sync::{Arc, OnceLock},
};

use layer_model::{Error, ErrorKind, IoContext, ReadAt, Result};
use zerocopy::{FromZeros, IntoBytes};

pub(super) use self::{
    file::FLAGS,
    links::Upcase,
    walk::{ROOT_AT, Visits},
};
pub use self::{
    file::{DirEntry, Entries, File, StreamEntry},
    stream::Stream,
    walk::{Walk, WalkEntry},
};
use self::{regions::Regions, regions::check_header, regions::read_header};
use super::{
    ImageDir, ImageFiles,
    raw::{self, FILES_PER_TABLE, FileRecord, FileTableEntry, ImageHeader, RegionOffset, RegionSet},
};
use crate::{CimName, CimPath};

/// A standard CIM, open for reading. Cheap to clone.
#[derive(Clone)]
pub struct Image(Arc<Inner>);

/// The number of a file in its image. Names with the same number are hard links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// The version of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// 1, 2 or 3.
    pub major: u32,
    /// Whatever the image says.
    pub minor: u32,
}

struct Inner {
    name: String,
    version: Version,
    /// Those of the parents, then the image's own.
    sets: Vec<RegionSet>,
    regions: Regions,
    upcase: Upcase,
    upcase_at: RegionOffset,
    tables: Box<[FileTableEntry]>,
    root: (FileId, FileRecord),
    link_counts: OnceLock<HashMap<FileId, u32>>,
}

impl Image {
    /// Opens the image `name` in the directory `dir`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], which names the file that is missing: the image, or a region;
    /// [`ErrorKind::UnsupportedVersion`]; [`ErrorKind::CorruptImage`]; errors of the operating system.
    pub fn open(dir: impl AsRef<Path>, name: &CimName) -> Result<Self> {
        Self::open_in(&ImageDir::new(dir.as_ref()), name.as_str())
    }

    /// Opens the image `name` among `files`.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn open_in(files: &dyn ImageFiles, name: &str) -> Result<Self> {
        let (header, sets) = read_region_sets(files, name)?;
        let regions = Regions::open(files, &sets)?;
        let file_system: raw::FileSystem = regions.read(header.file_system, "the file-system object")?;
        let size = size_of::<u16>() * raw::UPCASE_LENGTH;
        let upcase = Upcase::read(&regions.object(file_system.upcase, size as u64, "the upcase table")?)?;
        let count = u64::from(file_system.file_table_count.get());
        let size = count * size_of::<FileTableEntry>() as u64;
        let object = regions.object(file_system.file_tables, size, "the directory of file tables")?;
        let mut tables = vec![FileTableEntry::default(); count as usize].into_boxed_slice();
        object.read_exact(0, tables.as_mut_bytes())?;

        let id = FileId(file_system.root.get());
        let root = read_record(&regions, &tables, id).map_err(|error| error.context("the root"))?;
        if root.stream.stream_type() != raw::STREAM_LINK_TABLE {
            return Err(Error::new(ErrorKind::CorruptImage, "the root is no directory").entry(name));
        }
        let common = header.common;
        Ok(Self(Arc::new(Inner {
            name: name.into(),
            version: Version { major: common.major.get(), minor: common.minor.get() },
            sets,
            regions,
            upcase,
            upcase_at: file_system.upcase,
            tables,
            root: (id, root),
            link_counts: OnceLock::new(),
        })))
    }

    /// The version of the format that the image is written in.
    pub fn version(&self) -> Version {
        self.0.version
    }

    /// The region sets of the parents, in the order that they are listed, which is that of their regions.
    pub fn parent_sets(&self) -> &[RegionSet] {
        &self.0.sets[..self.0.sets.len() - 1]
    }

    /// The regions that were made with this image.
    pub fn own_set(&self) -> RegionSet {
        self.0.sets[self.0.sets.len() - 1]
    }

    /// The root directory.
    pub fn root(&self) -> File {
        File::new(self, self.0.root.0, self.0.root.1)
    }

    /// The file of this number.
    ///
    /// # Errors
    /// [`ErrorKind::CorruptImage`] where there is none; errors of the operating system.
    pub fn file(&self, id: FileId) -> Result<File> {
        Ok(File::new(self, id, read_record(&self.0.regions, &self.0.tables, id)?))
    }

    /// What is at `path`, compared as the image's own upcase table says. [`None`] where there is nothing, or an ancestor
    /// is no directory.
    ///
    /// # Errors
    /// [`ErrorKind::CorruptImage`] for what is malformed on the way; errors of the operating system.
    pub fn lookup(&self, path: &CimPath) -> Result<Option<File>> {
        let mut file = self.root();
        let mut above = Vec::new();
        for name in path.components() {
            if !file.is_dir() {
                return Ok(None);
            }
            above.push(file.id());
            match file.lookup(name).map_err(|error| error.context(path))? {
                Some(child) if above.contains(&child.id()) => {
                    let error = Error::new(ErrorKind::CorruptImage, "a directory is inside itself");
                    return Err(error.entry(path.as_bytes()));
                }
                Some(child) => file = child,
                None => return Ok(None),
            }
        }
        Ok(Some(file))
    }

    /// Everything in the image: the root first, each directory before what is in it, siblings in the order of their
    /// upper-cased names.
    pub fn walk(&self) -> Walk {
        Walk::new(self)
    }

    /// The upper-case form of a UTF-16 unit, by the image's own table.
    pub fn upcase(&self, unit: u16) -> u16 {
        self.0.upcase.unit(unit)
    }

    /// Where the upcase table is.
    pub(super) fn upcase_at(&self) -> RegionOffset {
        self.0.upcase_at
    }

    /// How many bytes the region files have together.
    pub fn region_bytes(&self) -> u64 {
        self.0.regions.bytes()
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image").field("name", &self.0.name).finish_non_exhaustive()
    }
}

/// The header of a file-system file.
pub(super) fn read_image_header(files: &dyn ImageFiles, name: &str) -> Result<ImageHeader> {
    open_image_file(files, name).map(|(_, _, header)| header)
}

fn open_image_file(files: &dyn ImageFiles, name: &str) -> Result<(Box<dyn ReadAt>, u64, ImageHeader)> {
    let file = files.open(name).map_err(|error| Error::io("open image", error).entry(name))?;
    let size = file.len().during("size of image").map_err(|error| error.entry(name))?;
    let mut header = ImageHeader::new_zeroed();
    read_header(&*file, size, name, &mut header)?;
    check_header(&header.common, raw::FILE_TYPE_IMAGE, name)?;
    Ok((file, size, header))
}

/// The header of a file-system file, and all its region sets, the image's own last.
fn read_region_sets(files: &dyn ImageFiles, name: &str) -> Result<(ImageHeader, Vec<RegionSet>)> {
    let (file, size, header) = open_image_file(files, name)?;
    let corrupt = |what: String, at| Error::new(ErrorKind::CorruptImage, what).entry(name).offset(at);
    let parents = usize::from(header.parent_count.get());
    let begin = size_of::<ImageHeader>() as u64;
    if size < begin + (parents * size_of::<RegionSet>()) as u64 {
        return Err(corrupt(format!("the file ends in the list of its {parents} parents"), size));
    }
    let mut sets = vec![RegionSet::default(); parents];
    let read = file.read_exact_at(sets.as_mut_bytes(), begin).during("read list of parents");
    read.map_err(|error| error.entry(name))?;
    sets.push(header.regions);
    let regions: u64 = sets.iter().map(|set| u64::from(set.count.get())).sum();
    if regions == 0 || regions > u64::from(raw::REGIONS_MAX) {
        return Err(corrupt(format!("an image of {regions} regions"), 48));
    }
    Ok((header, sets))
}

/// The record of a file, fields that are not there zero.
fn read_record(regions: &Regions, tables: &[FileTableEntry], id: FileId) -> Result<FileRecord> {
    let missing = || Error::new(ErrorKind::CorruptImage, format!("there is no file {}", id.0));
    let index = id.0.checked_sub(1).ok_or_else(missing)?;
    let table = tables.get((index / FILES_PER_TABLE) as usize).ok_or_else(missing)?;
    let slot = (index % FILES_PER_TABLE) as u16;
    let (count, size) = (table.count.get(), table.record_size.get());
    if slot >= count {
        return Err(missing());
    }
    let records = regions.object(table.table, u64::from(count) * u64::from(size), "a file table")?;
    if size < FileRecord::V1_SIZE {
        return Err(records.corrupt(0, format!("file records of {size} bytes")));
    }
    let mut record = FileRecord::new_zeroed();
    let known = usize::from(size).min(size_of::<FileRecord>());
    let at = u64::from(slot) * u64::from(size);
    records.read_exact(at, &mut record.as_mut_bytes()[..known])?;
    match record.stream.stream_type() {
        raw::STREAM_DATA | raw::STREAM_LINK_TABLE | raw::STREAM_PE_IMAGE => Ok(record),
        other => Err(records.corrupt(at + 40, format!("a stream of type {other}"))),
    }
}
