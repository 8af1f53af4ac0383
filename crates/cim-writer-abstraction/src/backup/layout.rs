//! Where everything of a file is in a backup stream, found out in a first pass that skips the bytes themselves.

use std::{
    fmt,
    io::{self, BufReader, Read},
};

use layer_model::{Error, ErrorKind, IoContext, ReadAt, Result, content::Extent};

use super::{
    Records,
    parts::{Meaning, Meant},
};
use crate::StreamName;

/// Where everything of a file is in a backup stream.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Layout {
    /// The security descriptor, empty where there is none.
    pub security: Vec<u8>,
    /// Extended attributes, empty where there are none.
    pub ea: Vec<u8>,
    /// Reparse data, empty where there is none.
    pub reparse: Vec<u8>,
    /// The main stream.
    pub main: Main,
    /// Alternate streams, in their order.
    pub streams: Vec<(StreamName, Run)>,
}

/// A run of bytes of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where it begins.
    pub at: u64,
    /// How many bytes.
    pub len: u64,
}

/// Where the main stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Main {
    /// In one run.
    Whole(Run),
    /// In several, with zeros between.
    Sparse {
        /// The size of the file.
        size: u64,
        /// Where in the file the runs go: ascending, none empty.
        extents: Vec<Extent>,
        /// Where in the input they are.
        runs: Vec<Run>,
    },
}

/// No bytes: a file without a data record is empty.
impl Default for Main {
    fn default() -> Self {
        Self::Whole(Run { at: 0, len: 0 })
    }
}

impl Main {
    /// The size of the file.
    pub fn size(&self) -> u64 {
        match self {
            Self::Whole(run) => run.len,
            Self::Sparse { size, .. } => *size,
        }
    }
}

impl Layout {
    /// Finds out where everything is in the part of `input` from `start` on.
    ///
    /// # Errors
    /// As [`Parts::next_part`](super::Parts::next_part), with offsets in `input`.
    pub fn scan(input: &dyn ReadAt, start: u64) -> Result<Self> {
        let end = input.len().during("measure a backup stream")?;
        let mut records = Records { input: From { input, at: start, end }, at: start, left: 0 };
        let mut meaning = Meaning::default();
        let mut layout = Self::default();
        loop {
            // What the last record holds is skipped without a look at it.
            if end.checked_sub(records.at).is_none_or(|rest| rest < records.left) {
                let what = "the backup stream ends inside a record";
                return Err(Error::new(ErrorKind::Truncated, what).offset(records.at));
            }
            records.at += std::mem::take(&mut records.left);
            records.input.at = records.at;
            let Some(header) = records.next_header()? else {
                meaning.finish(records.at)?;
                return Ok(layout);
            };
            let at = records.at;
            match meaning.record(&header, at)? {
                Meant::Security => layout.security = records.payload()?,
                Meant::Ea => layout.ea = records.payload()?,
                Meant::Reparse => layout.reparse = records.payload()?,
                Meant::Data { size, .. } => layout.main = Main::Whole(Run { at, len: size }),
                Meant::Run { offset, len } => {
                    if let Main::Whole(_) = layout.main {
                        layout.main = Main::Sparse { size: 0, extents: Vec::new(), runs: Vec::new() };
                    }
                    if let Main::Sparse { extents, runs, .. } = &mut layout.main {
                        extents.push(Extent { offset, len });
                        runs.push(Run { at, len });
                    }
                }
                Meant::End { size: end } => match &mut layout.main {
                    Main::Sparse { size, .. } => *size = end,
                    Main::Whole(run) if run.len == end => {}
                    whole => *whole = Main::Sparse { size: end, extents: Vec::new(), runs: Vec::new() },
                },
                Meant::Stream { name, size } => layout.streams.push((name, Run { at, len: size })),
                Meant::Nothing => {}
            }
        }
    }
}

/// Reads from a place of the input on.
struct From<'a> {
    input: &'a dyn ReadAt,
    at: u64,
    end: u64,
}

impl Read for From<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_sub(self.at);
        let want = buf.len().min(usize::try_from(left).unwrap_or(buf.len()));
        let n = self.input.read_at(&mut buf[..want], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// The bytes of several runs, one after another: what [`Content::sparse`](layer_model::Content::sparse) takes.
pub struct Pieces<F, I> {
    input: F,
    runs: I,
    current: Run,
}

impl<F: ReadAt, I: Iterator<Item = Run>> Pieces<F, I> {
    /// The bytes of `runs` in `input`.
    pub fn new(input: F, runs: impl IntoIterator<IntoIter = I>) -> BufReader<Self> {
        BufReader::new(Self { input, runs: runs.into_iter(), current: Run { at: 0, len: 0 } })
    }
}

impl<F, I> fmt::Debug for Pieces<F, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces").field("current", &self.current).finish_non_exhaustive()
    }
}

impl<F: ReadAt, I: Iterator<Item = Run>> Read for Pieces<F, I> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.len == 0 {
            match self.runs.next() {
                Some(run) => self.current = run,
                None => return Ok(0),
            }
        }
        let want = buf.len().min(usize::try_from(self.current.len).unwrap_or(buf.len()));
        let n = self.input.read_at(&mut buf[..want], self.current.at)?;
        if n == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.current.at += n as u64;
        self.current.len -= n as u64;
        Ok(n)
    }
}
