//! Writes the bytes of a file.

use std::{io::BufRead, os::fd::AsFd};

use layer_model::{Content, Error, ErrorKind, IoContext, Monitor, ReadAt, Result, content::Body};
use rustix::{
    fs::{FallocateFlags, copy_file_range, fallocate, ftruncate},
    io::{Errno, pwrite, write},
};

use crate::fs::kernel::Kernel;

/// The most that is written between two looks at whether to stop.
const PIECE: usize = 1 << 20;

/// Files from this size on get their blocks before they are written, so that they lie together and a full disk
/// shows at once.
const PREALLOCATE: u64 = 1 << 20;

/// The buffer for content that has no buffer of its own.
const BUFFER: usize = 256 * 1024;

/// Writes all of `content` into `file`, which is new and empty.
pub(crate) fn write_content(
    file: impl AsFd,
    content: Content<'_>,
    kernel: &Kernel,
    monitor: &dyn Monitor,
) -> Result<()> {
    let (len, body) = content.into_parts();
    if len == 0 {
        return Ok(());
    }
    let mut out = Out { file: file.as_fd(), at: 0, monitor };
    match body {
        Body::Bytes(bytes) => {
            out.preallocate(len)?;
            out.write(bytes)
        }
        Body::Stream(stream) => {
            out.preallocate(len)?;
            out.drain(stream, len)
        }
        Body::Range { file: source, offset } => out.copy(source, offset, len, kernel),
        Body::Sparse { extents, packed } => {
            // The size first: what lies between the runs and after them is a hole then.
            ftruncate(out.file, len).during("set size of file")?;
            for extent in extents {
                out.at = extent.offset;
                out.drain(packed, extent.len)?;
            }
            Ok(())
        }
        other => Err(Error::new(ErrorKind::NotSupported, format!("content in an unknown form: {other:?}"))),
    }
}

struct Out<'a> {
    file: rustix::fd::BorrowedFd<'a>,
    at: u64,
    monitor: &'a dyn Monitor,
}

impl Out<'_> {
    fn preallocate(&self, len: u64) -> Result<()> {
        if len < PREALLOCATE {
            return Ok(());
        }
        match fallocate(self.file, FallocateFlags::empty(), 0, len) {
            Err(error @ (Errno::NOSPC | Errno::FBIG | Errno::DQUOT)) => {
                Err(Error::io("allocate file", error))
            }
            // A file system without the call does without.
            _ => Ok(()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        for piece in bytes.chunks(PIECE) {
            if self.at > 0 && self.monitor.should_stop() {
                return Err(Error::cancelled());
            }
            let mut rest = piece;
            while !rest.is_empty() {
                // The first write of most files is their only one: it needs no position.
                let written =
                    if self.at == 0 { write(self.file, rest) } else { pwrite(self.file, rest, self.at) };
                match written {
                    Ok(0) => return Err(Error::io("write file", Errno::NOSPC)),
                    Ok(n) => {
                        rest = &rest[n..];
                        self.at += n as u64;
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(Error::io("write file", error)),
                }
            }
        }
        Ok(())
    }

    /// Writes exactly `len` bytes, straight from the stream's own buffer.
    fn drain(&mut self, stream: &mut dyn BufRead, mut len: u64) -> Result<()> {
        while len > 0 {
            let bytes = match stream.fill_buf() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io("read content", error)),
            };
            if bytes.is_empty() {
                return Err(Error::new(ErrorKind::Truncated, format!("content ends {len} bytes early")));
            }
            let n = bytes.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            self.write(&bytes[..n])?;
            stream.consume(n);
            len -= n as u64;
        }
        Ok(())
    }

    /// Copies a range, inside the kernel where that is possible: that shares the blocks on file systems that can
    /// (btrfs, XFS), which a separate `FICLONERANGE` would do for aligned ranges only, too.
    fn copy(&mut self, source: &dyn ReadAt, offset: u64, len: u64, kernel: &Kernel) -> Result<()> {
        if let (Some(fd), true) = (source.as_fd(), kernel.copies_ranges()) {
            while self.at < len {
                if self.monitor.should_stop() {
                    return Err(Error::cancelled());
                }
                // Large steps, as sharing takes no time; a copy of so much takes a fraction of a second.
                let step = usize::try_from((len - self.at).min(1 << 28)).unwrap_or(1 << 28);
                let (mut from, mut to) = (offset.saturating_add(self.at), self.at);
                match copy_file_range(fd, Some(&mut from), self.file, Some(&mut to), step) {
                    // Nothing copied: the end, or a file that only read() knows the content of.
                    Ok(0) => break,
                    Ok(n) => self.at += n as u64,
                    Err(Errno::INTR) => {}
                    Err(error @ (Errno::NOSPC | Errno::IO | Errno::DQUOT | Errno::FBIG)) => {
                        return Err(Error::io("copy file", error));
                    }
                    Err(_) => break,
                }
            }
        }
        let mut buffer = Vec::new();
        while self.at < len {
            buffer.resize(BUFFER.min(usize::try_from(len - self.at).unwrap_or(BUFFER)), 0);
            source.read_exact_at(&mut buffer, offset.saturating_add(self.at)).during("read content")?;
            self.write(&buffer)?;
        }
        Ok(())
    }
}
