//! Lines into operations.
//!
//! Only the spelling that [`JournalSink`](super::JournalSink) writes is taken: keys in their order, no spaces, the
//! shortest escapes, plain numbers. A reader that took more would give one meaning to journals with different digests,
//! and the digest of a journal stands for what was done. It is also what makes reading fast and short.

use std::io::{self, BufRead};

use layer_model::{Error, ErrorKind, Result};

use super::line::Line;
use crate::{
    Attributes, CimName, CimPath, FileMeta, FileTime, StreamName, base64,
    op::{CimKind, CreateFlags, MergeFlags},
    path::wtf8,
};

/// The longest line that is read unless said otherwise, in bytes: a line with two of the longest paths, all of it
/// escaped, and the largest of each buffer is shorter.
pub const LINE_MAX: usize = 1 << 20;

/// Reads a journal line by line.
///
/// # Errors
/// Whatever is no journal is [`ErrorKind::CorruptImage`], with line and column in the message and the byte offset;
/// names that no path of a CIM can have keep the kind that [`CimPath::new`] gives them.
///
/// # Memory
/// One line.
#[derive(Debug)]
pub struct Parser<R> {
    input: R,
    line_max: usize,
    line: Vec<u8>,
    /// The number of the line in `line`, 1 first, and where it begins.
    number: u64,
    offset: u64,
    /// Where the next line begins.
    next: u64,
}

impl<R: BufRead> Parser<R> {
    /// Reads `input`.
    pub fn new(input: R) -> Self {
        Self { input, line_max: LINE_MAX, line: Vec::new(), number: 0, offset: 0, next: 0 }
    }

    /// Takes lines of up to `max` bytes, [`LINE_MAX`] unless said otherwise.
    #[must_use]
    pub fn line_max(mut self, max: usize) -> Self {
        self.line_max = max;
        self
    }

    /// The number of the line that was given last, 1 first.
    pub fn line_number(&self) -> u64 {
        self.number
    }

    /// The next line, [`None`] at the end.
    ///
    /// # Errors
    /// As the type says; [`ErrorKind::Truncated`] when the last line has no end, [`ErrorKind::LimitExceeded`] for a
    /// line that is too long, errors of the input.
    pub fn next_line(&mut self) -> Result<Option<Line>> {
        self.number += 1;
        self.offset = self.next;
        if !self.fill()? {
            return Ok(None);
        }
        let mut cursor = Cursor { line: &self.line, at: 0 };
        let line = cursor.line();
        let at = cursor.at;
        line.map(Some).map_err(|error| self.place(error, at))
    }

    /// Says where an error is.
    fn place(&self, error: Error, column: usize) -> Error {
        let place = format!("line {} of the journal, column {}", self.number, column + 1);
        error.context(place).offset(self.offset + column as u64)
    }

    /// Reads a line without its end. False at the end of the input.
    fn fill(&mut self) -> Result<bool> {
        self.line.clear();
        loop {
            let bytes = match self.input.fill_buf() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io("read the journal", error)),
            };
            if bytes.is_empty() {
                if self.line.is_empty() {
                    return Ok(false);
                }
                let error = Error::new(ErrorKind::Truncated, "the line has no end");
                return Err(self.place(error, self.line.len()));
            }
            let end = bytes.iter().position(|b| *b == b'\n');
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + part.len() > self.line_max {
                let kind = ErrorKind::LimitExceeded { limit: "line_max" };
                return Err(self.place(Error::new(kind, "the line is too long"), self.line.len()));
            }
            self.line.extend_from_slice(part);
            let used = part.len() + usize::from(end.is_some());
            self.input.consume(used);
            self.next += used as u64;
            if end.is_some() {
                return Ok(true);
            }
        }
    }
}

/// A place in a line.
struct Cursor<'a> {
    line: &'a [u8],
    at: usize,
}

fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::CorruptImage, what)
}

impl<'a> Cursor<'a> {
    fn line(&mut self) -> Result<Line> {
        self.expect("{\"op\":\"")?;
        let start = self.at;
        let rest = &self.line[start..];
        let len = rest.iter().position(|b| *b == b'"').unwrap_or(rest.len());
        let op = &rest[..len];
        self.at += len;
        self.expect("\"")?;
        let line = match op {
            b"create_file" => self.create_file()?,
            b"data" => Line::Data { len: self.unsigned("len")?, sha256: self.sha256()? },
            b"create_stream" => self.create_stream()?,
            b"hard_link" => Line::HardLink { path: self.path("path")?, target: self.path("target")? },
            b"merge_link" => Line::MergeLink { path: self.path("path")?, target: self.path("target")? },
            b"delete" => Line::Delete { path: self.path("path")? },
            b"tombstone" => Line::Tombstone { path: self.path("path")? },
            b"create_image" => self.create_image()?,
            b"spool" => {
                Line::Spool { path: self.path("path")?, len: self.unsigned("len")?, sha256: self.sha256()? }
            }
            b"merge_hive" => Line::MergeHive {
                base: self.text("base")?,
                delta: self.path("delta")?,
                out: self.path("out")?,
            },
            b"add_merged_hive" => {
                let path = self.path("path")?;
                Line::AddMergedHive { path, meta: FileMeta::new(self.attributes()?) }
            }
            b"add_source" => self.add_source()?,
            b"commit" => Line::Commit,
            b"close" => Line::Close,
            b"discard" => Line::Discard,
            b"seal" => Line::Seal { container: self.text("container")? },
            b"vhd_footer" => Line::VhdFooter { size: self.unsigned("size")? },
            b"sidecar" => Line::Sidecar { name: self.text("name")? },
            _ => {
                self.at = start;
                return Err(corrupt("an operation that is not known"));
            }
        };
        self.expect("}")?;
        if self.at < self.line.len() {
            return Err(corrupt("something behind the end of the object"));
        }
        Ok(line)
    }

    fn create_image(&mut self) -> Result<Line> {
        let kind = self.text("kind")?;
        let kind = [CimKind::Forked, CimKind::Block].into_iter().find(|k| k.name() == kind);
        let kind = kind.ok_or_else(|| corrupt("a kind of image that is not known"))?;
        let container = self.text("container")?;
        let name = CimName::new(self.text("name")?)?;
        let parent = self.text("parent")?;
        let parent = if parent.is_empty() { None } else { Some(CimName::new(parent)?) };
        let flags = CreateFlags::from_bits_retain(self.unsigned32("flags")?);
        Ok(Line::CreateImage { kind, container, name, parent, flags })
    }

    fn create_file(&mut self) -> Result<Line> {
        let path = self.path("path")?;
        let attributes = self.attributes()?;
        let size = self.unsigned("size")?;
        if attributes.contains(Attributes::DIRECTORY) && size != 0 {
            return Err(corrupt("a directory that has a size"));
        }
        let meta = FileMeta {
            attributes,
            creation: self.time("creation")?,
            write: self.time("write")?,
            change: self.time("change")?,
            access: self.time("access")?,
            security: self.buffer("sd")?,
            ea: self.buffer("ea")?,
            reparse: self.buffer("reparse")?,
        };
        if meta.security.is_empty() {
            return Err(corrupt("a file without a security descriptor"));
        }
        Ok(Line::CreateFile { path, meta, size })
    }

    fn create_stream(&mut self) -> Result<Line> {
        let whole = self.string("path")?;
        let Some(colon) = whole.iter().position(|b| *b == b':') else {
            return Err(corrupt("a stream without a name"));
        };
        let (of, name) = (&whole[..colon], &whole[colon + 1..]);
        let line = Line::CreateStream { of: path(of)?, name: StreamName::new(name)?, size: 0 };
        match line {
            Line::CreateStream { of, name: checked, .. } if checked.as_bytes() == name => {
                Ok(Line::CreateStream { of, name: checked, size: self.unsigned("size")? })
            }
            _ => Err(corrupt("a stream with its type")),
        }
    }

    fn add_source(&mut self) -> Result<Line> {
        let whole = self.text("path")?;
        let Some((container, name)) = whole.rsplit_once('\\') else {
            return Err(corrupt("a source without a container"));
        };
        let (container, name) = (container.to_owned(), CimName::new(name)?);
        let flags = MergeFlags::from_bits_retain(self.unsigned32("flags")?);
        Ok(Line::AddSource { container, name, flags })
    }

    fn path(&mut self, key: &str) -> Result<CimPath> {
        path(&self.string(key)?)
    }

    fn attributes(&mut self) -> Result<Attributes> {
        self.unsigned32("attrs").map(Attributes::from_bits_retain)
    }

    fn time(&mut self, key: &str) -> Result<FileTime> {
        self.key(key)?;
        let negative = self.line.get(self.at) == Some(&b'-');
        self.at += usize::from(negative);
        let start = self.at;
        let magnitude = self.digits()?;
        let time = if negative { 0_i64.checked_sub_unsigned(magnitude) } else { magnitude.try_into().ok() };
        match time {
            Some(0) if negative => Err(corrupt("a zero with a sign")),
            Some(time) => Ok(FileTime(time)),
            None => {
                self.at = start;
                Err(corrupt("a number that is too large"))
            }
        }
    }

    fn unsigned32(&mut self, key: &str) -> Result<u32> {
        let number = self.unsigned(key)?;
        u32::try_from(number).map_err(|_| corrupt("a number that is too large"))
    }

    fn unsigned(&mut self, key: &str) -> Result<u64> {
        self.key(key)?;
        self.digits()
    }

    /// A number without leading zeros.
    fn digits(&mut self) -> Result<u64> {
        let start = self.at;
        let mut number = 0_u64;
        while let Some(digit @ b'0'..=b'9') = self.line.get(self.at) {
            let more = number.checked_mul(10).and_then(|n| n.checked_add(u64::from(digit - b'0')));
            number = more.ok_or_else(|| corrupt("a number that is too large"))?;
            self.at += 1;
        }
        match &self.line[start..self.at] {
            [] => Err(corrupt("a number is expected")),
            [b'0', _, ..] => Err(corrupt("a number with a leading zero")),
            _ => Ok(number),
        }
    }

    /// Standard base64.
    fn buffer(&mut self, key: &str) -> Result<Box<[u8]>> {
        let bytes = base64::decode(self.plain(key)?).ok_or_else(|| corrupt("no base64"))?;
        Ok(bytes.into())
    }

    fn sha256(&mut self) -> Result<[u8; 32]> {
        let bad = || corrupt("no SHA-256 in lower-case digits");
        let (pairs, []) = self.plain("sha256")?.as_chunks::<2>() else { return Err(bad()) };
        let mut sha256 = [0; 32];
        if pairs.len() != sha256.len() {
            return Err(bad());
        }
        let digit = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        for (byte, [high, low]) in sha256.iter_mut().zip(pairs) {
            *byte = digit(*high).zip(digit(*low)).map(|(high, low)| high << 4 | low).ok_or_else(bad)?;
        }
        Ok(sha256)
    }

    /// A string without escapes.
    fn plain(&mut self, key: &str) -> Result<&'a [u8]> {
        self.key(key)?;
        self.expect("\"")?;
        let rest = &self.line[self.at..];
        let Some(len) = rest.iter().position(|b| matches!(b, b'"' | b'\\')) else {
            return Err(corrupt("a string without an end"));
        };
        self.at += len;
        self.expect("\"")?;
        Ok(&rest[..len])
    }

    /// A string of Unicode, which unpaired surrogates are not.
    fn text(&mut self, key: &str) -> Result<String> {
        String::from_utf8(self.string(key)?)
            .map_err(|_| corrupt("an unpaired surrogate where there can be none"))
    }

    /// A string, as WTF-8.
    fn string(&mut self, key: &str) -> Result<Vec<u8>> {
        self.key(key)?;
        self.expect("\"")?;
        let mut text = Vec::new();
        loop {
            let rest = &self.line[self.at..];
            let Some(len) = rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20)) else {
                return Err(corrupt("a string without an end"));
            };
            if let Err(error) = str::from_utf8(&rest[..len]) {
                self.at += error.valid_up_to();
                return Err(corrupt("bytes that are no UTF-8"));
            }
            text.extend_from_slice(&rest[..len]);
            self.at += len;
            match rest[len] {
                b'"' => {
                    self.at += 1;
                    return Ok(text);
                }
                b'\\' => self.escape(&rest[len + 1..], &mut text)?,
                _ => return Err(corrupt("a control character that is not escaped")),
            }
        }
    }

    /// An escape, behind its backslash: the one that a character has, if it has one.
    fn escape(&mut self, rest: &[u8], text: &mut Vec<u8>) -> Result<()> {
        let byte = match rest.first() {
            Some(byte @ (b'"' | b'\\')) => *byte,
            Some(b'b') => 0x08,
            Some(b't') => b'\t',
            Some(b'n') => b'\n',
            Some(b'f') => 0x0c,
            Some(b'r') => b'\r',
            Some(b'u') => return self.unit(&rest[1..], text),
            _ => return Err(corrupt("an escape that is not known")),
        };
        text.push(byte);
        self.at += 2;
        Ok(())
    }

    /// The digits of a UTF-16 unit.
    fn unit(&mut self, rest: &[u8], text: &mut Vec<u8>) -> Result<()> {
        let digits = rest
            .first_chunk::<4>()
            .filter(|digits| digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
        let unit = digits.and_then(|digits| str::from_utf8(digits).ok());
        let unit = unit.and_then(|digits| u16::from_str_radix(digits, 16).ok());
        match unit {
            Some(0x08..=0x0a | 0x0c | 0x0d) | None => return Err(corrupt("an escape that is not known")),
            Some(unit @ 0..0x20) => text.push(unit as u8),
            Some(unit @ 0xd800..0xe000) => {
                // The second half of a pair: the character would have been written as it is.
                let pair = unit >= 0xdc00 && matches!(text.as_slice(), [.., 0xed, 0xa0..0xb0, _]);
                if pair {
                    return Err(corrupt("a pair of surrogates"));
                }
                text.extend_from_slice(&wtf8(&[unit]));
            }
            Some(_) => return Err(corrupt("an escape of a character that needs none")),
        }
        self.at += 6;
        Ok(())
    }

    /// `,"key":`
    fn key(&mut self, key: &str) -> Result<()> {
        let found = self.line[self.at..]
            .strip_prefix(b",\"")
            .and_then(|rest| rest.strip_prefix(key.as_bytes()))
            .and_then(|rest| rest.strip_prefix(b"\":"));
        match found {
            Some(rest) => {
                self.at = self.line.len() - rest.len();
                Ok(())
            }
            None => Err(corrupt(format!("the key {key:?} is expected"))),
        }
    }

    fn expect(&mut self, text: &str) -> Result<()> {
        if !self.line[self.at..].starts_with(text.as_bytes()) {
            return Err(corrupt(format!("{text:?} is expected")));
        }
        self.at += text.len();
        Ok(())
    }
}

/// A path in the spelling that is written: [`CimPath::new`] takes a leading backslash, too.
fn path(text: &[u8]) -> Result<CimPath> {
    let path = CimPath::new(text)?;
    if path.as_bytes() == text { Ok(path) } else { Err(corrupt("a path with a leading backslash")) }
}
