//! One entry, in the archive's own terms.

use layer_model::{Error, ErrorKind, Result, Timestamp, content::Extent};

use crate::{
    header::{Dialect, Field, Header, field, typeflag},
    pax::{self, PaxRecords},
    sparse,
};

/// What an archive says about one entry: header, extension headers and sparse map merged, nothing interpreted.
///
/// Numbers are as the archive has them and may make no sense; names may be absolute, climb, or be empty.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RawEntry {
    /// The number of the entry, 0 first. Global extended headers count.
    pub index: u64,
    /// Where its first header begins: that of its extension headers, if it has any.
    pub header_offset: u64,
    /// Where its data begins, behind headers and sparse map.
    pub data_offset: u64,
    /// How many bytes of data follow there, padding not counted.
    pub stored_size: u64,
    /// How large the file is, holes included. 0 for types without content.
    pub size: u64,
    /// The type; NUL is resolved to a file or a directory.
    pub typeflag: u8,
    /// The name, as it stands in the header or in an extension header.
    pub name: Vec<u8>,
    /// The target of a link.
    pub link_name: Vec<u8>,
    /// The mode; some archives have type bits in it.
    pub mode: i64,
    /// The owner.
    pub uid: i64,
    /// The group.
    pub gid: i64,
    /// The modification time.
    pub mtime: Timestamp,
    /// The access time, where the archive has one.
    pub atime: Option<Timestamp>,
    /// When anything of the entry last changed, where the header has that: GNU's and star's. A PAX record `ctime` is
    /// among [`Self::pax`].
    pub ctime: Option<Timestamp>,
    /// The device's major number.
    pub dev_major: i64,
    /// The device's minor number.
    pub dev_minor: i64,
    /// Whether the archive stores the file without its holes.
    pub is_sparse: bool,
    /// Where the data of a sparse file goes; nothing else's.
    pub extents: Vec<Extent>,
    /// The records of its extended header; for a global extended header, its own.
    pub pax: PaxRecords,
    /// The size field of the header, or the PAX record that overrides it.
    pub(super) header_size: i64,
}

/// The keys of records that override header fields, each with its bit.
mod basic {
    pub(super) const PATH: u8 = 1;
    pub(super) const LINKPATH: u8 = 2;
    pub(super) const UID: u8 = 4;
    pub(super) const GID: u8 = 8;
    pub(super) const SIZE: u8 = 16;
    pub(super) const MTIME: u8 = 32;
    pub(super) const ATIME: u8 = 64;
}

impl RawEntry {
    /// Whether entries of this type have a payload. For the others the size means nothing, also not for where
    /// the next header is.
    pub fn has_payload(&self) -> bool {
        use typeflag::{BLOCK, CHAR, DIRECTORY, FIFO, HARD_LINK, SYMLINK};
        !matches!(self.typeflag, HARD_LINK | SYMLINK | CHAR | BLOCK | DIRECTORY | FIFO)
    }

    /// Replaces everything by what `header` says.
    pub(super) fn set_header(&mut self, header: Header<'_>) -> Result<()> {
        self.typeflag = header.typeflag();
        self.stored_size = 0;
        self.size = 0;
        self.is_sparse = false;
        self.extents.clear();
        self.pax.clear();
        (self.atime, self.ctime) = (None, None);
        (self.dev_major, self.dev_minor) = (0, 0);
        self.name.clear();
        self.name.extend_from_slice(header.text(field::NAME));
        self.link_name.clear();
        self.link_name.extend_from_slice(header.text(field::LINKNAME));
        self.header_size = header.number(field::SIZE)?;
        self.mode = header.number(field::MODE)?;
        self.uid = header.number(field::UID)?;
        self.gid = header.number(field::GID)?;
        self.mtime = Timestamp::from_secs(header.number(field::MTIME)?);
        if header.dialect() == Dialect::V7 {
            return Ok(());
        }
        self.dev_major = header.number(field::DEVMAJOR)?;
        self.dev_minor = header.number(field::DEVMINOR)?;
        let prefix = match header.dialect() {
            Dialect::Gnu => match gnu_times(header) {
                Ok(times) => {
                    [self.atime, self.ctime] = times;
                    &[]
                }
                // Go before 1.8 put a prefix where GNU tar has times. It is taken for one if it is text.
                Err(_) => Some(header.text(field::PREFIX)).filter(|text| text.is_ascii()).unwrap_or_default(),
            },
            Dialect::Star => {
                self.atime = Some(Timestamp::from_secs(header.number(field::STAR_ATIME)?));
                // A field that was never read: an odd one is no reason to refuse the archive.
                self.ctime = header.number(field::STAR_CTIME).ok().map(Timestamp::from_secs);
                header.text(field::STAR_PREFIX)
            }
            Dialect::Ustar | Dialect::V7 => header.text(field::PREFIX),
        };
        if !prefix.is_empty() {
            self.name.splice(..0, prefix.iter().copied().chain([b'/']));
        }
        Ok(())
    }

    /// Lets the PAX records override the header. The last record of a key counts; when that is empty, the
    /// header does.
    pub(super) fn merge_pax(&mut self, plus_allowed: bool) -> Result<()> {
        let mut seen = 0;
        for (key, value) in self.pax.iter().rev() {
            let bit = match key {
                b"path" => basic::PATH,
                b"linkpath" => basic::LINKPATH,
                b"uid" => basic::UID,
                b"gid" => basic::GID,
                b"size" => basic::SIZE,
                b"mtime" => basic::MTIME,
                b"atime" => basic::ATIME,
                _ => continue,
            };
            if seen & bit != 0 {
                continue;
            }
            seen |= bit;
            if value.is_empty() {
                continue;
            }
            // Go's number parser takes a plus sign, so containerd does.
            let unsigned = value.strip_prefix(b"+").filter(|rest| plus_allowed && !rest.starts_with(b"-"));
            let number = unsigned.unwrap_or(value);
            match bit {
                basic::PATH => value.clone_into(&mut self.name),
                basic::LINKPATH => value.clone_into(&mut self.link_name),
                basic::UID => self.uid = pax::integer(number)?,
                basic::GID => self.gid = pax::integer(number)?,
                basic::SIZE => self.header_size = pax::integer(number)?,
                basic::MTIME => self.mtime = pax::time(number)?,
                _ => self.atime = Some(pax::time(number)?),
            }
        }
        Ok(())
    }

    /// The size of a sparse file by its PAX records, which may also rename it.
    pub(super) fn pax_sparse_size(&mut self, stored: u64) -> Result<u64> {
        if let Some(name) = self.pax.get(b"GNU.sparse.name").filter(|name| !name.is_empty()) {
            name.clone_into(&mut self.name);
        }
        let value = |key| self.pax.get(key).filter(|value: &&[u8]| !value.is_empty());
        let Some(size) = value(b"GNU.sparse.size").or_else(|| value(b"GNU.sparse.realsize")) else {
            return Ok(stored);
        };
        let size = pax::integer(size).ok().and_then(|size| u64::try_from(size).ok());
        size.ok_or_else(|| Error::new(ErrorKind::InvalidArchive, "size of the sparse file is malformed"))
    }

    /// Makes this a sparse file of `size` bytes, of which the archive holds `stored`.
    pub(super) fn set_sparse(&mut self, size: u64, stored: u64) -> Result<()> {
        if !self.has_payload() {
            return Err(Error::new(ErrorKind::InvalidArchive, "sparse entry of a type without content"));
        }
        sparse::check(&mut self.extents, size, stored)?;
        self.size = size;
        self.is_sparse = true;
        Ok(())
    }
}

/// The times of access and of change of a GNU header, where it has them.
fn gnu_times(header: Header<'_>) -> Result<[Option<Timestamp>; 2]> {
    let time = |at: Field| {
        let present = header.block()[at.at] != 0;
        present.then(|| header.number(at).map(Timestamp::from_secs)).transpose()
    };
    Ok([time(field::GNU_ATIME)?, time(field::GNU_CTIME)?])
}
