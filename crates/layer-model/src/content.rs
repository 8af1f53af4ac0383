//! The bytes of a file, as what they are: in memory, a range of a file, or a stream.

use std::{
    fmt,
    io::{self, BufRead, Read, Write},
};

use crate::{Error, ErrorKind, IoContext, Result};

/// Positioned reads, so that threads can share one open file.
///
/// # Laws
/// `read_at` returns 0 only at or after the end or for an empty buffer. It has no position to move.
/// `len` is the size when the handle was made; a file that changed since shows in what `read_at` returns.
pub trait ReadAt: Send + Sync {
    /// Reads some bytes from `offset` on, as `pread` does.
    ///
    /// # Errors
    /// Those of the operating system.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// How many bytes there are.
    ///
    /// # Errors
    /// Those of the operating system.
    fn len(&self) -> io::Result<u64>;

    /// Whether there are no bytes.
    ///
    /// # Errors
    /// Those of the operating system.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The descriptor behind it, where byte `n` of this is byte `n` of that file: for copies inside the
    /// kernel, reflinks and hole detection.
    #[cfg(unix)]
    fn as_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }

    /// Reads as [`ReadAt::read_at`] does, again if a signal came between.
    ///
    /// # Errors
    /// Those of the operating system but for [`io::ErrorKind::Interrupted`].
    fn read_some_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.read_at(buf, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    /// Fills the whole buffer from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when there are fewer bytes; else those of the operating system.
    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_some_at(buf, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => {
                    buf = &mut buf[n..];
                    offset += n as u64;
                }
            }
        }
        Ok(())
    }
}

#[cfg(unix)]
impl ReadAt for std::fs::File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buf, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn as_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        Some(std::os::fd::AsFd::as_fd(self))
    }
}

#[cfg(windows)]
impl ReadAt for std::fs::File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(self, buf, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(<[u8]>::len(self) as u64)
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.as_slice().read_at(buf, offset)
    }

    fn len(&self) -> io::Result<u64> {
        ReadAt::len(self.as_slice())
    }
}

macro_rules! forward_read_at {
    ($($pointer:ty),*) => {$(
        impl<T: ReadAt + ?Sized> ReadAt for $pointer {
            fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
                (**self).read_at(buf, offset)
            }

            fn len(&self) -> io::Result<u64> {
                (**self).len()
            }

            #[cfg(unix)]
            fn as_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
                (**self).as_fd()
            }
        }
    )*};
}

forward_read_at!(&T, Box<T>, std::sync::Arc<T>);

/// A run of bytes in a file: from `offset`, `len` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// The first byte.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
}

impl Extent {
    /// The first byte after the run.
    ///
    /// Saturates; whoever takes extents from an input has checked them ([`Content::sparse`]).
    pub fn end(self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// The content of one file on the road.
///
/// A sink looks at [`Content::body`] when it can do better with a form (clone a range, write a slice,
/// leave holes), and else uses [`Content::read_into`] or [`Content::into_reader`]. It need not consume the
/// content: the source skips what is left.
#[derive(Debug)]
pub struct Content<'a> {
    len: u64,
    body: Body<'a>,
}

/// The forms that content has.
#[non_exhaustive]
pub enum Body<'a> {
    /// All of it, in memory.
    Bytes(&'a [u8]),
    /// A range of something with positioned reads, from `offset` on.
    Range {
        /// What holds the bytes.
        file: &'a dyn ReadAt,
        /// Where the first byte is.
        offset: u64,
    },
    /// A stream that gives exactly the length, or an error; it is `BufRead` so that bytes can go from the
    /// source's own buffer to their place without a copy.
    Stream(&'a mut dyn BufRead),
    /// Runs of data with holes between: the stream gives the data of the runs one after another.
    Sparse {
        /// Where the data goes: sorted, not overlapping, inside the length, none empty.
        extents: &'a [Extent],
        /// The data of all runs, and nothing else.
        packed: &'a mut dyn BufRead,
    },
}

impl fmt::Debug for Body<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(_) => f.write_str("Bytes"),
            Self::Range { offset, .. } => write!(f, "Range {{ offset: {offset} }}"),
            Self::Stream(_) => f.write_str("Stream"),
            Self::Sparse { extents, .. } => f.debug_struct("Sparse").field("extents", extents).finish(),
        }
    }
}

impl<'a> Content<'a> {
    /// No bytes.
    pub const fn empty() -> Self {
        Self::from_bytes(&[])
    }

    /// Bytes in memory.
    pub const fn from_bytes(bytes: &'a [u8]) -> Self {
        Self { len: bytes.len() as u64, body: Body::Bytes(bytes) }
    }

    /// `len` bytes of `file` from `offset` on.
    pub const fn from_range(file: &'a dyn ReadAt, offset: u64, len: u64) -> Self {
        Self { len, body: Body::Range { file, offset } }
    }

    /// A stream of exactly `len` bytes.
    pub const fn from_stream(stream: &'a mut dyn BufRead, len: u64) -> Self {
        Self { len, body: Body::Stream(stream) }
    }

    /// `len` bytes, all zero but for the runs of `extents`, whose data `packed` gives.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] when runs are empty, unsorted, overlap or pass `len`.
    pub fn sparse(extents: &'a [Extent], packed: &'a mut dyn BufRead, len: u64) -> Result<Self> {
        let mut at = 0;
        for extent in extents {
            let end = extent.offset.checked_add(extent.len);
            if extent.offset < at || extent.len == 0 || end.is_none_or(|end| end > len) {
                return Err(Error::new(
                    ErrorKind::InvalidArchive,
                    format!("unusable sparse map at {extent:?}"),
                ));
            }
            at = extent.end();
        }
        Ok(Self { len, body: Body::Sparse { extents, packed } })
    }

    /// How many bytes the file has, holes included.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The form of the bytes.
    pub fn body(&mut self) -> &mut Body<'a> {
        &mut self.body
    }

    /// The length and the form.
    pub fn into_parts(self) -> (u64, Body<'a>) {
        (self.len, self.body)
    }

    /// A reader of the whole file, holes as zeros.
    pub fn into_reader(self) -> ContentReader<'a> {
        ContentReader { at: 0, content: self }
    }

    /// Hands all bytes to `take`, holes as zeros, in pieces as they come.
    ///
    /// # Errors
    /// [`ErrorKind::Truncated`] when the source has fewer bytes than announced; errors of the source and
    /// of `take`.
    pub fn read_into(self, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (len, body) = self.into_parts();
        match body {
            Body::Bytes(bytes) => take(bytes),
            Body::Stream(stream) => drain(stream, len, take),
            Body::Range { file, offset } => {
                let mut buf = vec![0; PIECE.min(usize::try_from(len).unwrap_or(PIECE))];
                let mut done = 0;
                while done < len {
                    let want = buf.len().min(usize::try_from(len - done).unwrap_or(buf.len()));
                    file.read_exact_at(&mut buf[..want], offset + done).during("read content")?;
                    take(&buf[..want])?;
                    done += want as u64;
                }
                Ok(())
            }
            Body::Sparse { extents, packed } => {
                let mut at = 0;
                for extent in extents {
                    zeros(extent.offset - at, take)?;
                    drain(packed, extent.len, take)?;
                    at = extent.end();
                }
                zeros(len - at, take)
            }
        }
    }

    /// Writes all bytes to `out`, holes as zeros.
    ///
    /// # Errors
    /// As [`Content::read_into`], and those of `out`.
    pub fn write_to(self, out: &mut dyn Write) -> Result<()> {
        self.read_into(&mut |bytes| out.write_all(bytes).during("write content"))
    }
}

/// How much is read at once where the source has no buffer of its own.
const PIECE: usize = 256 * 1024;

/// Takes exactly `len` bytes from `stream`, in the pieces that it has buffered.
fn drain(stream: &mut dyn BufRead, mut len: u64, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    while len > 0 {
        let bytes = match stream.fill_buf() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::io("read content", error)),
        };
        if bytes.is_empty() {
            return Err(Error::new(ErrorKind::Truncated, format!("content ends {len} bytes early")));
        }
        let n = bytes.len().min(usize::try_from(len).unwrap_or(usize::MAX));
        take(&bytes[..n])?;
        stream.consume(n);
        len -= n as u64;
    }
    Ok(())
}

fn zeros(mut len: u64, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    const ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];
    while len > 0 {
        let n = ZEROS.len().min(usize::try_from(len).unwrap_or(ZEROS.len()));
        take(&ZEROS[..n])?;
        len -= n as u64;
    }
    Ok(())
}

/// Reads a [`Content`] from its first byte to its last, holes as zeros.
#[derive(Debug)]
pub struct ContentReader<'a> {
    content: Content<'a>,
    at: u64,
}

impl Read for ContentReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.content.len - self.at;
        let want = buf.len().min(usize::try_from(left).unwrap_or(buf.len()));
        if want == 0 {
            return Ok(0);
        }
        let buf = &mut buf[..want];
        let n = match &mut self.content.body {
            Body::Bytes(bytes) => (*bytes).read_at(buf, self.at)?,
            Body::Range { file, offset } => file.read_at(buf, *offset + self.at)?,
            Body::Stream(stream) => stream.read(buf)?,
            Body::Sparse { extents, packed } => {
                while extents.first().is_some_and(|e| e.end() <= self.at) {
                    *extents = &extents[1..];
                }
                let until = match extents.first() {
                    Some(e) if e.offset <= self.at => {
                        let n = buf.len().min(usize::try_from(e.end() - self.at).unwrap_or(usize::MAX));
                        let n = packed.read(&mut buf[..n])?;
                        self.at += n as u64;
                        return if n == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(n) };
                    }
                    Some(e) => e.offset,
                    None => self.content.len,
                };
                let n = buf.len().min(usize::try_from(until - self.at).unwrap_or(usize::MAX));
                buf[..n].fill(0);
                n
            }
        };
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTENTS: [Extent; 2] = [Extent { offset: 2, len: 3 }, Extent { offset: 5, len: 1 }];

    #[test]
    fn sparse_content_reads_as_dense_bytes_both_ways() {
        let mut out = Vec::new();
        let mut packed = &b"abcd"[..];
        Content::sparse(&EXTENTS, &mut packed, 8).unwrap().write_to(&mut out).unwrap();
        assert_eq!(out, b"\0\0abcd\0\0");

        let mut read = Vec::new();
        let mut packed = &b"abcd"[..];
        Content::sparse(&EXTENTS, &mut packed, 8).unwrap().into_reader().read_to_end(&mut read).unwrap();
        assert_eq!(read, out);
    }

    #[test]
    fn sparse_maps_that_lie_are_refused() {
        for bad in [
            vec![Extent { offset: 6, len: 3 }],
            vec![Extent { offset: 4, len: 1 }, Extent { offset: 4, len: 1 }],
            vec![Extent { offset: 1, len: 0 }],
            vec![Extent { offset: u64::MAX, len: 2 }],
        ] {
            let mut packed = &b""[..];
            assert!(Content::sparse(&bad, &mut packed, 8).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_stream_that_ends_early_is_truncated() {
        let mut stream = &b"abc"[..];
        let error = Content::from_stream(&mut stream, 5).write_to(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Truncated);
        let mut stream = &b"abc"[..];
        let mut reader = Content::from_stream(&mut stream, 5).into_reader();
        assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_range_gives_the_bytes_of_the_range() {
        let file = b"0123456789".to_vec();
        let mut out = Vec::new();
        Content::from_range(&file, 2, 5).write_to(&mut out).unwrap();
        assert_eq!(out, b"23456");
    }
}
