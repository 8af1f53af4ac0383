//! The region files of an image, and objects in them.

use std::{collections::HashMap, sync::Arc};

use layer_model::{Error, ErrorKind, IoContext, ReadAt, Result};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::super::{
    ImageFiles,
    raw::{self, RegionOffset, RegionSet},
};

/// One region file.
pub(super) struct Region {
    name: Box<str>,
    file: Box<dyn ReadAt>,
    size: u64,
}

/// All regions, in the order that offsets count them.
pub(super) struct Regions {
    sets: Vec<Set>,
    bytes: u64,
}

struct Set {
    /// The index of the first region.
    first: u32,
    /// Shared between sets with the same files: a header can name one set many times.
    files: Arc<[Arc<Region>]>,
}

/// Some bytes of a region, all of which are there.
#[derive(Clone)]
pub(super) struct Object {
    region: Arc<Region>,
    at: u64,
    len: u64,
}

impl Regions {
    /// Opens the regions of all sets.
    pub(super) fn open(files: &dyn ImageFiles, sets: &[RegionSet]) -> Result<Self> {
        let mut all = Self { sets: Vec::with_capacity(sets.len()), bytes: 0 };
        let mut known: HashMap<RegionSet, Arc<[Arc<Region>]>> = HashMap::new();
        let mut first = 0;
        for set in sets {
            let opened = match known.get(set) {
                Some(opened) => opened.clone(),
                None => {
                    let mut opened = Vec::new();
                    for index in 0..set.count.get() {
                        let region = Region::open(files, &set.region_name(index))?;
                        all.bytes = all.bytes.saturating_add(region.size);
                        opened.push(Arc::new(region));
                    }
                    let opened: Arc<[Arc<Region>]> = opened.into();
                    known.insert(*set, opened.clone());
                    opened
                }
            };
            all.sets.push(Set { first, files: opened });
            first += u32::from(set.count.get());
        }
        Ok(all)
    }

    /// How many bytes all region files have.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What begins at `offset`: everything up to the end of the region, at least `min` bytes. `what` is for messages.
    pub(super) fn rest(&self, offset: RegionOffset, min: u64, what: &str) -> Result<Object> {
        let index = u32::from(offset.region());
        let refuse = |why: &str| {
            let message = format!("{what} at {offset:?}: {why}");
            Error::new(ErrorKind::CorruptImage, message)
        };
        let after = self.sets.partition_point(|set| set.first <= index);
        let set = after.checked_sub(1).map(|at| &self.sets[at]);
        let region = set
            .and_then(|set| set.files.get((index - set.first) as usize))
            .ok_or_else(|| refuse("there is no such region"))?;
        if offset.byte() == 0 {
            return Err(refuse("an object at byte 0").entry(&*region.name));
        }
        let left = region.size.saturating_sub(offset.byte());
        if offset.byte() > region.size || left < min {
            let error = refuse("it passes the end of the region");
            return Err(error.entry(&*region.name).offset(offset.byte()));
        }
        Ok(Object { region: region.clone(), at: offset.byte(), len: left })
    }

    /// The `len` bytes at `offset`.
    pub(super) fn object(&self, offset: RegionOffset, len: u64, what: &str) -> Result<Object> {
        Ok(Object { len, ..self.rest(offset, len, what)? })
    }

    /// The structure at `offset`.
    pub(super) fn read<T: FromBytes + IntoBytes>(&self, offset: RegionOffset, what: &str) -> Result<T> {
        self.object(offset, size_of::<T>() as u64, what)?.get(0)
    }

    /// The bytes at `offset` that follow their length, of 16 bits.
    pub(super) fn counted(&self, offset: RegionOffset, what: &str) -> Result<Box<[u8]>> {
        let object = self.rest(offset, 2, what)?;
        let len: zerocopy::little_endian::U16 = object.get(0)?;
        object.part(2, u64::from(len.get()), what)?.bytes()
    }
}

impl Region {
    fn open(files: &dyn ImageFiles, name: &str) -> Result<Self> {
        let file = files.open(name).map_err(|error| Error::io("open region file", error).entry(name))?;
        let size = file.len().during("size of region file").map_err(|error| error.entry(name))?;
        let mut header = raw::RegionHeader::new_zeroed();
        read_header(&*file, size, name, &mut header)?;
        check_header(&header.common, raw::FILE_TYPE_REGION, name)?;
        Ok(Self { name: name.into(), file, size })
    }
}

impl Object {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// `len` bytes of this, from `at` on.
    pub(super) fn part(&self, at: u64, len: u64, what: &str) -> Result<Object> {
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(self.corrupt(0, format!("{what} passes its end")));
        }
        Ok(Object { region: self.region.clone(), at: self.at + at, len })
    }

    /// Fills `buf` from byte `at` of the object on.
    pub(super) fn read_exact(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        if at.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
            return Err(self.corrupt(at, "an object ends early"));
        }
        let read = self.region.file.read_exact_at(buf, self.at + at).during("read region file");
        read.map_err(|error| error.entry(&*self.region.name).offset(self.at + at))
    }

    /// Reads as `pread` does; `at` and the length are inside the object.
    pub(super) fn read_some(&self, at: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        self.region.file.read_at(buf, self.at + at)
    }

    /// The structure at byte `at` of the object.
    pub(super) fn get<T: FromBytes + IntoBytes>(&self, at: u64) -> Result<T> {
        let mut value = T::new_zeroed();
        self.read_exact(at, value.as_mut_bytes())?;
        Ok(value)
    }

    /// All bytes: no more than the region file has.
    pub(super) fn bytes(&self) -> Result<Box<[u8]>> {
        let Ok(len) = usize::try_from(self.len) else {
            return Err(self.corrupt(0, "an object is larger than memory"));
        };
        let mut bytes = vec![0; len].into_boxed_slice();
        self.read_exact(0, &mut bytes)?;
        Ok(bytes)
    }

    /// What to say about a malformed byte `at` of the object.
    pub(super) fn corrupt(&self, at: u64, what: impl Into<String>) -> Error {
        Error::new(ErrorKind::CorruptImage, what).entry(&*self.region.name).offset(self.at.saturating_add(at))
    }
}

/// Reads the header that a file begins with, as far as the file goes, and checks the magic number first: that is what
/// to say about a file that is something else.
pub(super) fn read_header<T: IntoBytes + FromBytes>(
    file: &dyn ReadAt,
    size: u64,
    name: &str,
    header: &mut T,
) -> Result<()> {
    let bytes = header.as_mut_bytes();
    let have = bytes.len().min(usize::try_from(size).unwrap_or(usize::MAX));
    file.read_exact_at(&mut bytes[..have], 0).during("read header").map_err(|error| error.entry(name))?;
    if !bytes.starts_with(&raw::MAGIC) {
        return Err(Error::new(ErrorKind::CorruptImage, "not a file of a CIM").entry(name).offset(0));
    }
    if have < bytes.len() {
        return Err(Error::new(ErrorKind::CorruptImage, "the file ends in its header")
            .entry(name)
            .offset(size));
    }
    Ok(())
}

/// Checks type and version.
pub(super) fn check_header(header: &raw::CommonHeader, file_type: u8, name: &str) -> Result<()> {
    if header.file_type != file_type {
        let what = format!("a file of type {} where type {file_type} has to be", header.file_type);
        return Err(Error::new(ErrorKind::CorruptImage, what).entry(name).offset(12));
    }
    let major = header.major.get();
    if !(1..=3).contains(&major) {
        let what = format!("version {major} of the format is not known");
        return Err(Error::new(ErrorKind::UnsupportedVersion, what).entry(name).offset(16));
    }
    Ok(())
}
