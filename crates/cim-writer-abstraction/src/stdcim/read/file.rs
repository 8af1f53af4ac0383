//! Files and directories of an image.

use std::fmt;

use layer_model::{Error, ErrorKind, Result};
use zerocopy::little_endian::U32;

use super::{
    super::raw::{self, FileRecord, StreamRecord, file_flags},
    FileId, Image, Stream,
    links::LinkTable,
};
use crate::{
    Attributes, FileMeta, FileTime, StreamName,
    path::{utf16, wtf8},
};

/// A file or directory of an image.
#[derive(Clone)]
pub struct File {
    image: Image,
    id: FileId,
    record: FileRecord,
}

/// What a directory says about one name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirEntry {
    /// The name, in WTF-8.
    pub name: Box<[u8]>,
    /// The file.
    pub id: FileId,
}

/// An alternate data stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamEntry {
    /// The name.
    pub name: StreamName,
    /// How many bytes it has.
    pub size: u64,
    record: StreamRecord,
}

/// The names in a directory, in the order of their upper-cased units.
pub struct Entries {
    table: Option<LinkTable<U32>>,
    at: u32,
}

impl File {
    pub(super) fn new(image: &Image, id: FileId, record: FileRecord) -> Self {
        Self { image: image.clone(), id, record }
    }

    /// The number of the file.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// The image that it is in.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// What the image says about it.
    pub fn record(&self) -> &FileRecord {
        &self.record
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.record.stream.stream_type() == raw::STREAM_LINK_TABLE
    }

    /// How many bytes its main stream has; 0 for directories.
    pub fn size(&self) -> u64 {
        if self.is_dir() { 0 } else { self.record.stream.length() }
    }

    /// Its attributes: of some the image has bits, of directories and reparse points it shows. Others are not stored.
    pub fn attributes(&self) -> Attributes {
        let flags = self.record.flags.get();
        let mut attributes = Attributes::empty();
        for (flag, attribute) in FLAGS {
            attributes.set(attribute, flags & flag != 0);
        }
        attributes.set(Attributes::DIRECTORY, self.is_dir());
        attributes.set(Attributes::REPARSE_POINT, !self.record.reparse.is_null());
        attributes
    }

    /// All its metadata.
    ///
    /// # Errors
    /// [`ErrorKind::CorruptImage`] for buffers that are not there; errors of the operating system.
    pub fn meta(&self) -> Result<FileMeta> {
        let record = &self.record;
        let regions = &self.image.0.regions;
        let time = |time: zerocopy::little_endian::I64| FileTime(time.get());
        let mut meta = FileMeta {
            attributes: self.attributes(),
            creation: time(record.creation_time),
            write: time(record.last_write_time),
            change: time(record.change_time),
            access: time(record.last_access_time),
            ..FileMeta::default()
        };
        if !record.security.is_null() {
            meta.security = regions.counted(record.security, "a security descriptor")?;
        }
        if !record.ea.is_null() {
            let len = u64::from(record.ea_length.get());
            meta.ea = regions.object(record.ea, len, "extended attributes")?.bytes()?;
        }
        if !record.reparse.is_null() {
            meta.reparse = regions.counted(record.reparse, "reparse data")?;
        }
        Ok(meta)
    }

    /// Its main stream.
    ///
    /// # Errors
    /// [`ErrorKind::IsDirectory`]; [`ErrorKind::CorruptImage`] for data that is not there; errors of the operating
    /// system.
    pub fn open(&self) -> Result<Stream> {
        if self.is_dir() {
            return Err(Error::new(ErrorKind::IsDirectory, "a directory has no main stream"));
        }
        Stream::open(&self.image.0.regions, &self.record.stream)
    }

    /// What is in the directory; nothing for everything else.
    ///
    /// The list is checked whole: it is in memory as long as the iterator is.
    ///
    /// # Errors
    /// [`ErrorKind::CorruptImage`] when the list is malformed; errors of the operating system.
    pub fn entries(&self) -> Result<Entries> {
        let table = match self.table_bytes() {
            0 => None,
            len => {
                let object = self.image.0.regions.object(self.record.stream.data, len, "a directory")?;
                Some(LinkTable::load(&object, &self.image.0.upcase)?)
            }
        };
        Ok(Entries { table, at: 0 })
    }

    /// What `name` is in the directory, compared as the image's own upcase table says; [`None`] where there is nothing,
    /// and where this is no directory.
    ///
    /// # Errors
    /// [`ErrorKind::CorruptImage`] when what is looked at is malformed; errors of the operating system.
    pub fn lookup(&self, name: &[u8]) -> Result<Option<File>> {
        let image = &self.image.0;
        let len = self.table_bytes();
        if len == 0 {
            return Ok(None);
        }
        let object = image.regions.object(self.record.stream.data, len, "a directory")?;
        let table = LinkTable::<U32>::open(&object)?;
        match table.find(&utf16(name), &image.upcase)? {
            Some(id) => self.image.file(FileId(id.get())).map(Some),
            // In a list out of order, a search misses what is there: nothing is there only where the list is sound.
            None => self.entries().map(|_| None),
        }
    }

    /// How many bytes the list of the directory has.
    pub(in crate::stdcim) fn table_bytes(&self) -> u64 {
        if self.is_dir() { self.record.stream.length() } else { 0 }
    }

    /// The alternate streams, in the order of their upper-cased names.
    ///
    /// # Errors
    /// [`ErrorKind::CorruptImage`] when the list is malformed; errors of the operating system.
    pub fn streams(&self) -> Result<Vec<StreamEntry>> {
        let Some(table) = self.stream_table()? else { return Ok(Vec::new()) };
        let mut streams = Vec::new();
        for at in 0..table.count() {
            let record = table.value(at)?;
            streams.push(StreamEntry {
                name: StreamName::new(wtf8(&table.name(at)?))?,
                size: record.length(),
                record,
            });
        }
        Ok(streams)
    }

    /// Opens an alternate stream by its name, compared as the image's own upcase table says.
    ///
    /// # Errors
    /// [`ErrorKind::CorruptImage`] when the list is malformed or the data is not there; errors of the operating system.
    pub fn open_stream(&self, name: &StreamName) -> Result<Option<Stream>> {
        let Some(table) = self.stream_table()? else { return Ok(None) };
        let record = table.find(&name.to_utf16(), &self.image.0.upcase)?;
        record.map(|record| self.open_record(&record)).transpose()
    }

    /// Opens an alternate stream that [`File::streams`] listed.
    ///
    /// # Errors
    /// As [`File::open_stream`].
    pub fn open_entry(&self, stream: &StreamEntry) -> Result<Stream> {
        self.open_record(&stream.record)
    }

    fn open_record(&self, record: &StreamRecord) -> Result<Stream> {
        match record.stream_type() {
            raw::STREAM_DATA | raw::STREAM_PE_IMAGE => Stream::open(&self.image.0.regions, record),
            other => Err(Error::new(ErrorKind::CorruptImage, format!("an alternate stream of type {other}"))),
        }
    }

    /// The table of alternate streams. The only published reader wants the length of the table in front of it, where the
    /// driver's demand for alignment speaks against that: either is taken.
    fn stream_table(&self) -> Result<Option<LinkTable<StreamRecord>>> {
        const WHAT: &str = "the list of alternate streams";
        if self.record.streams.is_null() {
            return Ok(None);
        }
        let image = &self.image.0;
        let rest = image.regions.rest(self.record.streams, 8, WHAT)?;
        LinkTable::load(&rest, &image.upcase)
            .or_else(|error| {
                if error.kind() != &ErrorKind::CorruptImage {
                    return Err(error);
                }
                let prefixed = rest
                    .get::<U32>(0)
                    .and_then(|len| rest.part(4, u64::from(len.get()), WHAT))
                    .and_then(|table| LinkTable::load(&table, &image.upcase));
                prefixed.map_err(|_| error)
            })
            .map(Some)
    }
}

/// The bits of a record, and the attributes that they stand for.
pub(in crate::stdcim) const FLAGS: [(u16, Attributes); 5] = [
    (file_flags::READONLY, Attributes::READONLY),
    (file_flags::HIDDEN, Attributes::HIDDEN),
    (file_flags::SYSTEM, Attributes::SYSTEM),
    (file_flags::ARCHIVE, Attributes::ARCHIVE),
    (file_flags::SPARSE, Attributes::SPARSE_FILE),
];

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("id", &self.id.0).finish_non_exhaustive()
    }
}

impl StreamEntry {
    pub(in crate::stdcim) fn record(&self) -> &StreamRecord {
        &self.record
    }
}

impl Entries {
    /// Which entry has this name, and which file that is.
    pub(in crate::stdcim) fn find(&self, image: &Image, name: &[u8]) -> Result<Option<(u32, FileId)>> {
        let Some(table) = &self.table else { return Ok(None) };
        match table.position(&utf16(name), &image.0.upcase)? {
            Some(at) => Ok(Some((at, FileId(table.value(at)?.get())))),
            None => Ok(None),
        }
    }

    /// All entries, from the first on.
    pub(in crate::stdcim) fn iter(&self) -> impl Iterator<Item = Result<DirEntry>> {
        let table = self.table.as_ref();
        table.into_iter().flat_map(|table| (0..table.count()).map(|at| entry_at(table, at)))
    }

    /// How many bytes the list has.
    pub(super) fn bytes(&self) -> u64 {
        self.table.as_ref().map_or(0, LinkTable::len)
    }
}

impl Iterator for Entries {
    type Item = Result<DirEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        let table = self.table.as_ref().filter(|table| self.at < table.count())?;
        let at = self.at;
        self.at += 1;
        let entry = table
            .name(at)
            .and_then(|name| Ok(DirEntry { name: wtf8(&name).into(), id: FileId(table.value(at)?.get()) }));
        Some(entry)
    }
}

fn entry_at(table: &LinkTable<U32>, at: u32) -> Result<DirEntry> {
    Ok(DirEntry { name: wtf8(&table.name(at)?).into(), id: FileId(table.value(at)?.get()) })
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").field("at", &self.at).finish_non_exhaustive()
    }
}
