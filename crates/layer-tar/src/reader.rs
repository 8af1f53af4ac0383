//! The archive level: entries one after the other, with their offsets, records and payload.

mod entry;
mod input;

use std::io::BufRead;

use layer_model::{Content, Error, ErrorKind, Profile, Result, content::Extent};

pub use entry::RawEntry;

use self::input::Input;
use crate::{
    ReadOptions,
    header::{BLOCK, Block, Dialect, Header, field, typeflag, until_nul},
    pax::PaxRecords,
    sparse::{self, LineMap, PaxSparse},
};

/// Reads the entries of a tar, whatever they mean.
///
/// This is the listing: it delivers what the archive holds, also entries that no layer may have (unknown types,
/// climbing names), in the archive's own terms. [`TarSource`](crate::TarSource) is built on it, so that what
/// is listed and what is applied cannot differ.
///
/// Memory is bounded: one set of buffers is used for all entries, and extension headers have a limit.
#[derive(Debug)]
pub struct TarReader<R> {
    input: Input<R>,
    options: ReadOptions,
    entry: RawEntry,
    extensions: Extensions,
    state: State,
    next_index: u64,
    total_size: u64,
    total_holes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reading,
    Ended,
    Failed,
}

/// What extension headers said about the entry behind them. Forgotten at each entry delivered: state that
/// outlives its entry hides or invents others (RUSTSEC-2026-0112).
#[derive(Debug, Default)]
struct Extensions {
    pax: PaxRecords,
    long_name: Vec<u8>,
    long_link: Vec<u8>,
    seen: bool,
}

impl Extensions {
    fn clear(&mut self) {
        self.pax.clear();
        self.long_name.clear();
        self.long_link.clear();
        self.seen = false;
    }
}

/// An entry and its payload.
pub struct TarEntry<'a> {
    /// What the archive says about the entry.
    pub raw: &'a RawEntry,
    payload: &'a mut dyn BufRead,
}

impl<'a> TarEntry<'a> {
    /// The payload as the content of a file, holes included.
    ///
    /// # Errors
    /// None in practice: the sparse map has been checked.
    pub fn into_content(self) -> Result<Content<'a>> {
        content(self.raw, self.payload)
    }
}

impl std::fmt::Debug for TarEntry<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.raw.fmt(f)
    }
}

fn content<'a>(entry: &'a RawEntry, payload: &'a mut dyn BufRead) -> Result<Content<'a>> {
    if entry.is_sparse {
        Content::sparse(&entry.extents, payload, entry.size)
    } else {
        Ok(Content::from_stream(payload, entry.size))
    }
}

impl<R: BufRead> TarReader<R> {
    /// Reads a tar from its first byte on.
    pub fn new(reader: R, options: ReadOptions) -> Self {
        Self {
            input: Input::new(reader),
            options,
            entry: RawEntry::default(),
            extensions: Extensions::default(),
            state: State::Reading,
            next_index: 0,
            total_size: 0,
            total_holes: 0,
        }
    }

    /// The next entry, [`None`] at the end of the archive. What was left of the payload of the entry before is
    /// skipped.
    ///
    /// Bytes after the end of the archive stay in the reader; see [`TarReader::drain`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`], [`ErrorKind::Truncated`] and [`ErrorKind::LimitExceeded`], each with the
    /// number of the entry and an offset; errors of the reader. Afterwards every call fails.
    pub fn next_entry(&mut self) -> Result<Option<TarEntry<'_>>> {
        Ok(if self.advance()? { Some(TarEntry { raw: &self.entry, payload: &mut self.input }) } else { None })
    }

    /// Goes to the next entry; false at the end. [`TarReader::entry`] and [`TarReader::content`] then speak of it.
    pub(crate) fn advance(&mut self) -> Result<bool> {
        match self.state {
            State::Reading => {}
            State::Ended => return Ok(false),
            State::Failed => {
                return Err(Error::new(
                    ErrorKind::FailedPrecondition,
                    "reading the archive has failed before",
                ));
            }
        }
        self.state = State::Failed;
        let more = self.step()?;
        self.state = if more { State::Reading } else { State::Ended };
        Ok(more)
    }

    /// Lets every further call fail: what the entries mean turned out to be wrong.
    pub(crate) fn fail(&mut self) {
        self.state = State::Failed;
    }

    /// The entry that [`TarReader::advance`] went to.
    pub(crate) fn entry(&self) -> &RawEntry {
        &self.entry
    }

    /// The entry and its content.
    pub(crate) fn entry_and_content(&mut self) -> Result<(&RawEntry, Content<'_>)> {
        Ok((&self.entry, content(&self.entry, &mut self.input)?))
    }

    /// Whether the archive ended after extension headers that belong to no entry.
    pub fn has_dangling_extension(&self) -> bool {
        self.state == State::Ended && self.extensions.seen
    }

    /// How many bytes of the archive were read.
    pub fn position(&self) -> u64 {
        self.input.offset()
    }

    /// The options given.
    pub fn options(&self) -> &ReadOptions {
        &self.options
    }

    /// Reads to the end of the reader: padding, and whatever stands behind the end of the archive. Digests
    /// count those bytes too.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn drain(&mut self) -> Result<()> {
        self.input.drain()
    }

    /// The reader.
    pub fn get_ref(&self) -> &R {
        self.input.get_ref()
    }

    /// The reader, wherever it stands.
    pub fn into_inner(self) -> R {
        self.input.into_inner()
    }

    fn step(&mut self) -> Result<bool> {
        if let Err(error) = self.input.skip_payload() {
            // An archive cut inside a payload: the entry was delivered, its data is not there.
            return Err(error.entry(&self.entry.name).index(self.entry.index));
        }
        let start = self.input.offset();
        let index = self.next_index;
        let mut block = [0; BLOCK];
        if index >= self.options.max_entries {
            let kind = ErrorKind::LimitExceeded { limit: "max_entries" };
            // The end of the archive is not an entry too many.
            return match self.read_extensions(&mut block) {
                Ok(None) => Ok(false),
                _ => Err(Error::new(kind, "too many entries").index(index).offset(start)),
            };
        }
        self.extensions.clear();
        let Some(offset) = self.read_extensions(&mut block).map_err(|error| error.index(index))? else {
            if self.extensions.seen && self.options.strict {
                let error = Error::new(ErrorKind::InvalidArchive, "extension headers belong to no entry");
                return Err(error.index(index).offset(start));
            }
            return Ok(false);
        };
        self.entry.index = index;
        self.entry.header_offset = start;
        self.read_entry(&block).map_err(|error| error.entry(&self.entry.name).index(index).offset(offset))?;
        self.next_index += 1;
        Ok(true)
    }

    /// Reads headers up to one that is an entry, and gives its own offset; [`None`] at the end.
    fn read_extensions(&mut self, block: &mut Block) -> Result<Option<u64>> {
        loop {
            let offset = self.input.offset();
            if !self.read_header(block)? {
                return Ok(None);
            }
            let header = Header::parse(block).map_err(|error| error.offset(offset))?;
            let kind = header.typeflag();
            if !matches!(kind, typeflag::PAX | typeflag::GNU_LONG_NAME | typeflag::GNU_LONG_LINK) {
                return Ok(Some(offset));
            }
            self.extensions.seen = true;
            self.read_extension(header).map_err(|error| error.offset(offset))?;
        }
    }

    /// Reads the next header; false when two zero blocks or the end of the input say that there is none.
    fn read_header(&mut self, block: &mut Block) -> Result<bool> {
        if !self.input.read_block(block)? {
            return Ok(false);
        }
        if *block != [0; BLOCK] {
            return Ok(true);
        }
        let offset = self.input.offset();
        if !self.input.read_block(block)? || *block == [0; BLOCK] {
            return Ok(false);
        }
        Err(Error::new(ErrorKind::InvalidArchive, "a single zero block between headers").offset(offset))
    }

    fn read_extension(&mut self, header: Header<'_>) -> Result<()> {
        // Its own fields have to be sound too, though only the size is used.
        self.entry.set_header(header)?;
        self.input.begin_payload(self.extension_size()?);
        let input = &mut self.input;
        // The last header of a kind counts alone: the second of two `x` headers replaces the first.
        let text = match header.typeflag() {
            typeflag::PAX => return self.extensions.pax.refill(|text| input.read_payload(text)),
            typeflag::GNU_LONG_NAME => &mut self.extensions.long_name,
            _ => &mut self.extensions.long_link,
        };
        text.clear();
        input.read_payload(text)?;
        let len = until_nul(text).len();
        text.truncate(len);
        Ok(())
    }

    fn extension_size(&self) -> Result<u64> {
        let size = u64::try_from(self.entry.header_size).map_err(|_| negative_size())?;
        if size > u64::from(self.options.max_extension_size) {
            let kind = ErrorKind::LimitExceeded { limit: "max_extension_size" };
            return Err(Error::new(kind, format!("extension header of {size} bytes")));
        }
        Ok(size)
    }

    fn read_entry(&mut self, block: &Block) -> Result<()> {
        let header = Header::of_checked(block);
        let Self { entry, extensions, input, .. } = self;
        entry.set_header(header)?;
        if entry.typeflag == typeflag::PAX_GLOBAL {
            // Its records concern no entry here, and neither do those of an `x` in front of it; as in Go.
            extensions.clear();
            let size = self.extension_size()?;
            self.input.begin_payload(size);
            let input = &mut self.input;
            self.entry.pax.refill(|text| input.read_payload(text))?;
            self.entry.data_offset = self.input.offset();
            return Ok(());
        }
        std::mem::swap(&mut entry.pax, &mut extensions.pax);
        entry.merge_pax(self.options.profile == Profile::Containerd)?;
        for (long, short) in
            [(&extensions.long_name, &mut entry.name), (&extensions.long_link, &mut entry.link_name)]
        {
            if !long.is_empty() {
                short.clone_from(long);
            }
        }
        if entry.typeflag == typeflag::REGULAR_V7 {
            let is_dir = entry.name.ends_with(b"/");
            entry.typeflag = if is_dir { typeflag::DIRECTORY } else { typeflag::REGULAR };
        }
        let stored = if entry.has_payload() {
            u64::try_from(entry.header_size).map_err(|_| negative_size())?
        } else {
            0
        };
        entry.size = stored;
        let pax_sparse = sparse::pax_sparse(&entry.pax);
        if entry.typeflag == typeflag::GNU_SPARSE {
            let real_size = old_gnu_map(input, header, &mut entry.extents)?;
            input.begin_payload(stored);
            entry.set_sparse(real_size, stored)?;
        } else if let Some(form) = pax_sparse {
            let real_size = entry.pax_sparse_size(stored)?;
            input.begin_payload(stored);
            match form {
                PaxSparse::InRecords => sparse::map_in_records(&entry.pax, &mut entry.extents)?,
                PaxSparse::BeforeData => read_line_map(input, &mut entry.extents)?,
            }
            entry.set_sparse(real_size, input.left())?;
        } else {
            input.begin_payload(stored);
        }
        entry.data_offset = input.offset();
        entry.stored_size = input.left();
        self.count_size()
    }

    fn count_size(&mut self) -> Result<()> {
        let size = self.entry.size;
        let holes = size.saturating_sub(self.entry.stored_size);
        self.total_size = self.total_size.saturating_add(size);
        self.total_holes = self.total_holes.saturating_add(holes);
        for (value, max, limit) in [
            (size, self.options.max_entry_size, "max_entry_size"),
            (self.total_size, self.options.max_total_size, "max_total_size"),
            (self.total_holes, self.options.max_sparse_expansion, "max_sparse_expansion"),
        ] {
            if value > max {
                let message = format!("{value} bytes of content are announced, {max} are allowed");
                return Err(Error::new(ErrorKind::LimitExceeded { limit }, message));
            }
        }
        Ok(())
    }
}

fn old_gnu_map<R: BufRead>(
    input: &mut Input<R>,
    header: Header<'_>,
    extents: &mut Vec<Extent>,
) -> Result<u64> {
    // star uses the same flag with another layout.
    if header.dialect() != Dialect::Gnu {
        return Err(Error::new(ErrorKind::InvalidArchive, "sparse entry in an archive that is not GNU"));
    }
    let real_size = u64::try_from(header.number(field::GNU_REAL_SIZE)?).map_err(|_| negative_size())?;
    let mut more = sparse::map_in_header(header.block(), extents)?;
    let mut extensions = 0;
    let mut block = [0; BLOCK];
    while more {
        if !input.read_block(&mut block)? {
            return Err(Error::new(ErrorKind::Truncated, "archive ends inside a sparse map"));
        }
        extensions += 1;
        more = sparse::map_in_extension(&block, extensions, extents)?;
    }
    Ok(real_size)
}

fn read_line_map<R: BufRead>(input: &mut Input<R>, extents: &mut Vec<Extent>) -> Result<()> {
    let mut map = LineMap::default();
    loop {
        let block = input.read_payload_block()?;
        if map.push(&block, extents)? {
            return Ok(());
        }
    }
}

fn negative_size() -> Error {
    Error::new(ErrorKind::InvalidArchive, "negative size")
}
