//! The archive's bytes: where the reader stands, and how much of the payload is left.

use std::io::{self, BufRead, Read};

use layer_model::{Error, ErrorKind, Result};

use crate::header::{BLOCK, Block, padding};

/// A reader that knows its offset in the archive. As a [`BufRead`] it is the payload of the current entry: it
/// hands out the buffer of the reader below, and stops where the payload ends.
#[derive(Debug)]
pub(super) struct Input<R> {
    reader: R,
    offset: u64,
    left: u64,
    padding: u64,
}

impl<R: BufRead> Input<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, offset: 0, left: 0, padding: 0 }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes of the payload have not been read.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    pub(super) fn get_ref(&self) -> &R {
        &self.reader
    }

    pub(super) fn into_inner(self) -> R {
        self.reader
    }

    /// Says that a payload of `len` bytes begins here.
    pub(super) fn begin_payload(&mut self, len: u64) {
        self.left = len;
        self.padding = padding(len);
    }

    /// Skips what is left of the payload, and its padding. Archives that end inside the padding are met in
    /// practice; what is missing there is not missed.
    pub(super) fn skip_payload(&mut self) -> Result<()> {
        while self.left > 0 {
            let n = self.fill_buf().map_err(|error| Error::io("read archive", error))?.len();
            self.consume(n);
        }
        while self.padding > 0 {
            let n = self.available()?.len().min(self.padding as usize);
            if n == 0 {
                self.padding = 0;
            }
            self.reader.consume(n);
            self.offset += n as u64;
            self.padding -= n as u64;
        }
        Ok(())
    }

    /// Appends the whole payload to `out`, and skips its padding. The caller has bounded its length.
    pub(super) fn read_payload(&mut self, out: &mut Vec<u8>) -> Result<()> {
        while self.left > 0 {
            let bytes = self.fill_buf().map_err(|error| Error::io("read archive", error))?;
            out.extend_from_slice(bytes);
            let n = bytes.len();
            self.consume(n);
        }
        self.skip_payload()
    }

    /// The next block of the payload.
    pub(super) fn read_payload_block(&mut self) -> Result<Block> {
        let mut block = [0; BLOCK];
        if self.left < BLOCK as u64 {
            return Err(Error::new(ErrorKind::InvalidArchive, "payload ends inside its sparse map"));
        }
        self.read_exact(&mut block).map_err(|error| Error::io("read archive", error))?;
        Ok(block)
    }

    /// Reads the next block of the archive; false when the archive ends in front of it.
    pub(super) fn read_block(&mut self, block: &mut Block) -> Result<bool> {
        self.skip_payload()?;
        let mut filled = 0;
        while filled < BLOCK {
            let bytes = self.available()?;
            let n = bytes.len().min(BLOCK - filled);
            if n == 0 {
                break;
            }
            block[filled..filled + n].copy_from_slice(&bytes[..n]);
            self.reader.consume(n);
            self.offset += n as u64;
            filled += n;
        }
        match filled {
            0 => Ok(false),
            BLOCK => Ok(true),
            _ => Err(Error::new(ErrorKind::Truncated, "archive ends inside a header").offset(self.offset)),
        }
    }

    /// Reads to the end of the input.
    pub(super) fn drain(&mut self) -> Result<()> {
        loop {
            let n = self.available()?.len();
            if n == 0 {
                return Ok(());
            }
            self.reader.consume(n);
            self.offset += n as u64;
        }
    }

    fn available(&mut self) -> Result<&[u8]> {
        loop {
            match self.reader.fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read archive", error)),
            }
        }
        // Asked a second time because the borrow checker cannot return the first answer out of the loop; a
        // filled buffer is handed out again at no cost.
        self.reader.fill_buf().map_err(|error| Error::io("read archive", error))
    }
}

impl<R: BufRead> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let (left, offset) = (self.left, self.offset);
        let bytes = self.available().map_err(io::Error::from)?;
        if bytes.is_empty() {
            let error = Error::new(
                ErrorKind::Truncated,
                format!("archive ends {left} bytes before its payload does"),
            );
            return Err(error.offset(offset).into());
        }
        let n = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        Ok(&bytes[..n])
    }

    fn consume(&mut self, amount: usize) {
        let amount = amount.min(usize::try_from(self.left).unwrap_or(amount));
        self.reader.consume(amount);
        self.offset += amount as u64;
        self.left -= amount as u64;
    }
}

impl<R: BufRead> Read for Input<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let n = bytes.len().min(buf.len());
        buf[..n].copy_from_slice(&bytes[..n]);
        self.consume(n);
        Ok(n)
    }
}
