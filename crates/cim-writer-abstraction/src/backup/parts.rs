//! What the records of a backup stream mean.

use std::io::{self, Read};

use layer_model::{Error, ErrorKind, Result};

use super::{Header, RecordId, Records};
use crate::{StreamName, path};

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The security descriptor, as it is: [`SecurityDescriptor::from_bytes`](crate::SecurityDescriptor::from_bytes)
    /// checks it.
    Security(Vec<u8>),
    /// Extended attributes: [`ea::entries`](crate::ea::entries) takes them apart.
    Ea(Vec<u8>),
    /// Reparse data: [`reparse::Link`](crate::reparse::Link) takes it apart.
    Reparse(Vec<u8>),
    /// The whole main stream follows, this many bytes. There may be none.
    Data {
        /// How many bytes follow.
        size: u64,
        /// Whether the file is marked as one with holes.
        is_sparse: bool,
    },
    /// A run of the main stream follows. What lies between runs is zero.
    Run {
        /// Where it goes.
        offset: u64,
        /// How many bytes follow.
        len: u64,
    },
    /// The runs are over, and the main stream has this size.
    End {
        /// The size.
        size: u64,
    },
    /// An alternate stream follows.
    Stream {
        /// Its name.
        name: StreamName,
        /// How many bytes follow.
        size: u64,
    },
}

/// Reads a file out of a backup stream in one pass. As a [`Read`] it gives the bytes of the part that came last.
#[derive(Debug)]
pub struct Parts<R> {
    records: Records<R>,
    meaning: Meaning,
}

/// What has been said about the file, and thus may be said yet.
#[derive(Debug, Default)]
pub(super) struct Meaning {
    security: bool,
    ea: bool,
    reparse: bool,
    main: Main,
}

#[derive(Clone, Copy, Debug, Default)]
enum Main {
    /// Nothing yet.
    #[default]
    None,
    /// All of it, this many bytes.
    Whole(u64),
    /// An empty record for a file with holes: runs may follow, the next one from here on.
    Runs { at: u64, any: bool },
    /// The end of the runs.
    Ended,
}

/// What a record means, before its payload is read.
pub(super) enum Meant {
    Security,
    Ea,
    Reparse,
    Data { size: u64, is_sparse: bool },
    Run { offset: u64, len: u64 },
    End { size: u64 },
    Stream { name: StreamName, size: u64 },
    Nothing,
}

impl Meaning {
    /// Takes the next record, whose payload begins at `at`.
    pub(super) fn record(&mut self, header: &Header, at: u64) -> Result<Meant> {
        let refuse =
            |what: &str| Error::new(ErrorKind::InvalidArchive, format!("backup stream: {what}")).offset(at);
        let invalid = |what: &str| Err(refuse(what));
        let once = |seen: &mut bool, meant, what: &str| match std::mem::replace(seen, true) {
            false => Ok(meant),
            true => invalid(what),
        };
        match header.id {
            RecordId::Security => once(&mut self.security, Meant::Security, "a second security descriptor"),
            RecordId::Ea => once(&mut self.ea, Meant::Ea, "extended attributes a second time"),
            RecordId::Reparse => once(&mut self.reparse, Meant::Reparse, "reparse data a second time"),
            RecordId::Data => {
                let Main::None = self.main else { return invalid("a second main stream") };
                let (size, is_sparse) = (header.size, header.is_sparse());
                let runs = Main::Runs { at: 0, any: false };
                self.main = if is_sparse && size == 0 { runs } else { Main::Whole(size) };
                Ok(Meant::Data { size, is_sparse })
            }
            RecordId::SparseBlock => self.block(header).or_else(invalid),
            RecordId::AlternateData => {
                if header.is_sparse() {
                    let what = "an alternate stream with holes in a backup stream";
                    return Err(Error::new(ErrorKind::NotSupported, what).offset(at));
                }
                let text = path::wtf8(&header.name);
                let name = text.strip_prefix(b":").unwrap_or(&text);
                let name = StreamName::new(name)
                    .map_err(|error| refuse(&format!("an alternate stream: {}", error.message())))?;
                Ok(Meant::Stream { name, size: header.size })
            }
            RecordId::Link | RecordId::Property | RecordId::ObjectId | RecordId::Transaction => {
                Ok(Meant::Nothing)
            }
        }
    }

    fn block(&mut self, header: &Header) -> Result<Meant, &'static str> {
        let (offset, len) = (header.offset, header.size);
        if i64::try_from(offset).is_err() {
            return Err("a block where no file has one");
        }
        match &mut self.main {
            // A complete record may be ended like any other.
            Main::Whole(size) if len == 0 && offset == *size => {
                self.main = Main::Ended;
                Ok(Meant::End { size: offset })
            }
            Main::Runs { at, .. } if len == 0 && offset >= *at => {
                self.main = Main::Ended;
                Ok(Meant::End { size: offset })
            }
            Main::Runs { at, any } if len > 0 && offset >= *at => {
                *at = offset.checked_add(len).ok_or("a block that ends nowhere")?;
                *any = true;
                Ok(Meant::Run { offset, len })
            }
            Main::None => Err("a block without a main stream"),
            Main::Whole(_) => Err("the main stream is in two places"),
            Main::Runs { .. } => Err("blocks that are out of order"),
            Main::Ended => Err("a block behind the last one"),
        }
    }

    /// Makes sure that nothing is missing at the end of the input.
    pub(super) fn finish(&self, at: u64) -> Result<()> {
        match self.main {
            Main::Runs { any: true, .. } => {
                let what = "the backup stream ends before its blocks do";
                Err(Error::new(ErrorKind::Truncated, what).offset(at))
            }
            _ => Ok(()),
        }
    }
}

impl<R: Read> Parts<R> {
    /// Reads from `input`, which stands at the first record.
    pub fn new(input: R) -> Self {
        Self { records: Records::new(input), meaning: Meaning::default() }
    }

    /// The next part, [`None`] after the last. Records that say nothing for a layer are skipped, and so is what is left
    /// of the part before.
    ///
    /// # Errors
    /// As [`Records::next_header`] and [`Records::payload`]; [`ErrorKind::InvalidArchive`] for records that contradict
    /// each other, [`ErrorKind::Truncated`] for runs without an end, [`ErrorKind::NotSupported`] for an alternate
    /// stream with holes.
    pub fn next_part(&mut self) -> Result<Option<Part>> {
        loop {
            let Some(header) = self.records.next_header()? else {
                self.meaning.finish(self.records.position())?;
                return Ok(None);
            };
            return Ok(Some(match self.meaning.record(&header, self.records.position())? {
                Meant::Security => Part::Security(self.records.payload()?),
                Meant::Ea => Part::Ea(self.records.payload()?),
                Meant::Reparse => Part::Reparse(self.records.payload()?),
                Meant::Data { size, is_sparse } => Part::Data { size, is_sparse },
                Meant::Run { offset, len } => Part::Run { offset, len },
                Meant::End { size } => Part::End { size },
                Meant::Stream { name, size } => Part::Stream { name, size },
                Meant::Nothing => continue,
            }));
        }
    }
}

/// The bytes of the part that came last.
impl<R: Read> Read for Parts<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.records.read(buf)
    }
}
