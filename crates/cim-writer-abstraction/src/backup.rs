//! Backup streams: a file with everything about it in one sequence of records, as `BackupRead` gives it.
//!
//! Tools for layer directories keep files in this form ([`legacy`](crate::legacy)). Records are little-endian with
//! nothing between them: a header ([`Header`]), then its payload. Three levels read them: [`Records`] takes records one
//! after another, [`Parts`] says what they mean, in one pass, and [`Layout`] finds out beforehand where everything is,
//! when the input can be read twice. [`Writer`] makes them.
//!
//! Windows says in four ways that a file is sparse, which depends on its version and on the file: without a data
//! record, with an empty one, with a complete one, and with an empty one and blocks behind it, the last of which is
//! empty and stands at the end of the file. All are read.

mod layout;
mod parts;
mod write;

use std::io::{self, Read};

use layer_model::{Error, ErrorKind, IoContext, Result};

pub use layout::{Layout, Main, Pieces, Run};
pub use parts::{Part, Parts};
pub use write::Writer;

use crate::{le, path};

/// `STREAM_SPARSE_ATTRIBUTE`: the record is about a file with holes.
pub const SPARSE: u32 = 0x8;

/// The longest name of a record, in bytes: twice the longest path of Windows.
pub const NAME_MAX: usize = 2 * path::PATH_MAX;
/// The longest record that is kept in memory: descriptors, extended attributes and reparse data are shorter.
pub const SMALL_MAX: u64 = 0xffff;

/// Identifier, attributes, size, length of the name.
const HEADER_LEN: usize = 20;
/// The offset in front of a sparse block, which its size counts.
const OFFSET_LEN: u64 = 8;

/// What a record holds: `WIN32_STREAM_ID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum RecordId {
    /// The main stream.
    Data = 1,
    /// Extended attributes.
    Ea = 2,
    /// The security descriptor.
    Security = 3,
    /// An alternate stream.
    AlternateData = 4,
    /// Names of the file.
    Link = 5,
    /// Properties.
    Property = 6,
    /// The identifier by which links find the file.
    ObjectId = 7,
    /// Reparse data.
    Reparse = 8,
    /// A piece of a sparse file.
    SparseBlock = 9,
    /// What a transaction needs.
    Transaction = 10,
}

impl RecordId {
    const ALL: [RecordId; 10] = [
        Self::Data,
        Self::Ea,
        Self::Security,
        Self::AlternateData,
        Self::Link,
        Self::Property,
        Self::ObjectId,
        Self::Reparse,
        Self::SparseBlock,
        Self::Transaction,
    ];
}

/// The header of one record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// What the record holds.
    pub id: RecordId,
    /// Flags, mostly [`SPARSE`] or none.
    pub attributes: u32,
    /// How many bytes of payload follow, without the offset of a block.
    pub size: u64,
    /// The name, in UTF-16 units: of an alternate stream `:name:$DATA`.
    pub name: Vec<u16>,
    /// Where in the file a block goes; 0 for other records.
    pub offset: u64,
}

impl Header {
    /// The header of a record without flags and name.
    pub fn new(id: RecordId, size: u64) -> Self {
        Self { id, attributes: 0, size, name: Vec::new(), offset: 0 }
    }

    /// Whether the record is about a file with holes.
    pub fn is_sparse(&self) -> bool {
        self.attributes & SPARSE != 0
    }

    /// The bytes of the header.
    ///
    /// # Errors
    /// [`ErrorKind::LimitExceeded`] for a name of more than [`NAME_MAX`] bytes, and a block too large to count.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let too_long = |limit| Error::new(ErrorKind::LimitExceeded { limit }, "a record of a backup stream");
        let is_block = self.id == RecordId::SparseBlock;
        let size = self.size.checked_add(if is_block { OFFSET_LEN } else { 0 });
        let size = size.ok_or_else(|| too_long("backup_record_size"))?;
        let name_len = 2 * self.name.len();
        if name_len > NAME_MAX {
            return Err(too_long("backup_record_name"));
        }
        let mut bytes = Vec::with_capacity(HEADER_LEN + name_len + 8);
        bytes.extend_from_slice(&(self.id as u32).to_le_bytes());
        bytes.extend_from_slice(&self.attributes.to_le_bytes());
        bytes.extend_from_slice(&size.to_le_bytes());
        bytes.extend_from_slice(&(name_len as u32).to_le_bytes()); // at most NAME_MAX
        bytes.extend(self.name.iter().flat_map(|unit| unit.to_le_bytes()));
        if is_block {
            bytes.extend_from_slice(&self.offset.to_le_bytes());
        }
        Ok(bytes)
    }

    /// Reads a header, [`None`] at the end of the input. `at` is where it begins, and is moved behind it.
    fn read(input: &mut impl Read, at: &mut u64) -> Result<Option<Self>> {
        let mut head = [0; HEADER_LEN];
        if !fill(input, &mut head, *at, true)? {
            return Ok(None);
        }
        let invalid = |what: &str| {
            Err(Error::new(ErrorKind::InvalidArchive, format!("backup stream: {what}")).offset(*at))
        };
        let number = le::u32(&head, 0).unwrap_or_default();
        let Some(id) = RecordId::ALL.into_iter().find(|id| *id as u32 == number) else {
            return invalid(&format!("a record of the unknown kind {number:#x}"));
        };
        let mut size = le::array(&head, 8).map_or(0, u64::from_le_bytes);
        let name_len = le::u32(&head, 16).unwrap_or_default() as usize;
        if name_len > NAME_MAX {
            let kind = ErrorKind::LimitExceeded { limit: "backup_record_name" };
            return Err(Error::new(kind, "the name of a record of a backup stream").offset(*at));
        }
        if !name_len.is_multiple_of(2) {
            return invalid("a name that ends in half a unit");
        }
        let mut name = vec![0; name_len];
        fill(input, &mut name, *at, false)?;
        let mut offset = [0; OFFSET_LEN as usize];
        let mut len = (HEADER_LEN + name_len) as u64;
        if id == RecordId::SparseBlock {
            let Some(without) = size.checked_sub(OFFSET_LEN) else {
                return invalid("a block that has no room for its offset");
            };
            fill(input, &mut offset, *at, false)?;
            (size, len) = (without, len + OFFSET_LEN);
        }
        *at += len;
        let name = name.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
        let attributes = le::u32(&head, 4).unwrap_or_default();
        Ok(Some(Self { id, attributes, size, name, offset: u64::from_le_bytes(offset) }))
    }
}

/// Fills the buffer; whether it did: at the very end of the input it need not where `may_end`.
fn fill(input: &mut impl Read, buf: &mut [u8], at: u64, may_end: bool) -> Result<bool> {
    let mut done = 0;
    while done < buf.len() {
        match input.read(&mut buf[done..]) {
            Ok(0) if done == 0 && may_end => return Ok(false),
            Ok(0) => {
                let what = "the backup stream ends in a header";
                return Err(Error::new(ErrorKind::Truncated, what).offset(at));
            }
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read a backup stream", error).offset(at)),
        }
    }
    Ok(true)
}

/// Reads records one after another, whatever they mean. As a [`Read`] it gives the payload of the last one.
#[derive(Debug)]
pub struct Records<R> {
    input: R,
    /// How far the input has been read.
    at: u64,
    /// What is left of the payload.
    left: u64,
}

impl<R: Read> Records<R> {
    /// Reads from `input`, which stands at the first record.
    pub fn new(input: R) -> Self {
        Self { input, at: 0, left: 0 }
    }

    /// The next header, [`None`] after the last record. What is left of the payload is skipped.
    ///
    /// # Errors
    /// [`ErrorKind::Truncated`] for an input that ends inside a record, [`ErrorKind::InvalidArchive`] for one of an
    /// unknown kind or with a malformed header, [`ErrorKind::LimitExceeded`] for a name that is too long.
    pub fn next_header(&mut self) -> Result<Option<Header>> {
        io::copy(&mut *self, &mut io::sink()).during("skip a record of a backup stream")?;
        let header = Header::read(&mut self.input, &mut self.at)?;
        self.left = header.as_ref().map_or(0, |header| header.size);
        Ok(header)
    }

    /// Where the input stands.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The whole payload of a small record.
    ///
    /// # Errors
    /// [`ErrorKind::LimitExceeded`] for more than [`SMALL_MAX`] bytes, and errors of reading.
    pub fn payload(&mut self) -> Result<Vec<u8>> {
        if self.left > SMALL_MAX {
            let kind = ErrorKind::LimitExceeded { limit: "backup_record_size" };
            return Err(Error::new(kind, "a record of metadata in a backup stream").offset(self.at));
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).during("read a backup stream")?;
        Ok(bytes)
    }
}

/// The payload of the record whose header came last.
impl<R: Read> Read for Records<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = buf.len().min(usize::try_from(self.left).unwrap_or(buf.len()));
        if want == 0 {
            return Ok(0);
        }
        let n = self.input.read(&mut buf[..want])?;
        if n == 0 {
            let what = format!("the backup stream ends {} bytes before its record does", self.left);
            return Err(Error::new(ErrorKind::Truncated, what).offset(self.at).into());
        }
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}
