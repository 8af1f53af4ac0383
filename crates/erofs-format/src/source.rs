//! Where the bytes of an image come from: a file by positioned reads, memory, a part of something else.

use std::{fs::File, io, sync::Arc};

/// Bytes that can be read at any position, from any thread.
///
/// Implemented by [`FileSource`], [`Memory`] (a buffer, or a map of a file: anything that is `AsRef<[u8]>`)
/// and [`Section`]. The content must not change while an image is open; if it does, results are unspecified
/// but still bounded.
pub trait ReadAt: Send + Sync {
    /// How many bytes there are.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the source ends before; whatever the source fails with.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// The bytes themselves, if they lie in memory and within the source. Saves the copy.
    fn slice(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let _ = (offset, len);
        None
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buf, offset)
    }

    fn slice(&self, offset: u64, len: usize) -> Option<&[u8]> {
        (**self).slice(offset, len)
    }
}

/// A file or a block device, read by position.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    size: u64,
}

impl FileSource {
    /// Takes an open file. The size is what it is now.
    ///
    /// # Errors
    /// Finding the size failed.
    pub fn new(mut file: File) -> io::Result<Self> {
        // Not the metadata: a block device has its size only here.
        let size = io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
        Ok(Self { file, size })
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// Opening failed.
    pub fn open(path: impl AsRef<std::path::Path>) -> io::Result<Self> {
        Self::new(File::open(path)?)
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl ReadAt for FileSource {
    fn size(&self) -> u64 {
        self.size
    }

    #[cfg(unix)]
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, buf, offset)
    }

    #[cfg(windows)]
    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(&self.file, buf, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    buf = &mut buf[n..];
                    offset += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Bytes in memory: a `Vec`, a slice, or a map of a file.
#[derive(Clone, Debug)]
pub struct Memory<T>(pub T);

impl<T: AsRef<[u8]> + Send + Sync> ReadAt for Memory<T> {
    fn size(&self) -> u64 {
        self.0.as_ref().len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        buf.copy_from_slice(self.slice(offset, buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn slice(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        self.0.as_ref().get(start..start.checked_add(len)?)
    }
}

/// A part of another source: an image at an offset, or one of several that were concatenated.
#[derive(Clone, Debug)]
pub struct Section<S> {
    source: S,
    start: u64,
    size: u64,
}

impl<S: ReadAt> Section<S> {
    /// The `size` bytes of `source` from `start`, cut where the source ends.
    pub fn new(source: S, start: u64, size: u64) -> Self {
        let start = start.min(source.size());
        let size = size.min(source.size() - start);
        Self { source, start, size }
    }
}

impl<S: ReadAt> ReadAt for Section<S> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match offset.checked_add(buf.len() as u64) {
            Some(end) if end <= self.size => self.source.read_exact_at(buf, self.start + offset),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn slice(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let end = offset.checked_add(len as u64)?;
        (end <= self.size).then(|| self.source.slice(self.start + offset, len))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_does_not_reach_beyond_itself() {
        let section = Section::new(Memory(b"0123456789".to_vec()), 2, 4);
        let mut buf = [0; 3];
        section.read_exact_at(&mut buf, 1).unwrap();
        assert_eq!(&buf, b"345");
        assert!(section.read_exact_at(&mut buf, 2).is_err());
        assert!(section.read_exact_at(&mut buf, u64::MAX).is_err());
        assert_eq!((section.slice(0, 4), section.slice(1, 4)), (Some(&b"2345"[..]), None));
        assert_eq!(Section::new(Memory(b"01"), 7, 7).size(), 0);
    }
}
