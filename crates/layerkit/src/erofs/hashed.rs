//! An image whose hash tree grows while it is written.
//!
//! A thread reads what was written, a little behind, and digests it block by block. What is written once more (inodes that
//! change, the superblock at the end) is digested once more when all is there.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    os::unix::fs::FileExt,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
};

use erofs_format::{VerityBlocks, VerityOptions, VerityTree};
use layer_apply::erofs_error;
use layer_model::{Error, ErrorKind, IoContext, Result};

/// How much the thread reads at once, in bytes.
const PIECE: u64 = 256 << 10;

/// A file, and the digests of its blocks if it is to have a hash tree.
pub(crate) struct HashedFile {
    file: File,
    at: u64,
    blocks: Option<Arc<Blocks>>,
}

/// The blocks of a file on their way into a hash tree.
pub(crate) struct Blocks {
    block: u64,
    written: Mutex<Written>,
}

struct Written {
    /// Nothing was written from here on.
    end: u64,
    /// How many blocks the thread was told of.
    told: u64,
    /// Blocks that changed, or may have, after it was told.
    stale: BTreeSet<u64>,
    queue: Option<Sender<Range<u64>>>,
    thread: Option<JoinHandle<io::Result<VerityBlocks>>>,
}

impl HashedFile {
    /// A new and empty file, to be written; with `verity` its blocks are digested on the way.
    pub(crate) fn new(file: File, verity: Option<&VerityOptions>) -> Result<Self> {
        let blocks = verity.map(|options| Blocks::start(&file, options)).transpose()?;
        Ok(Self { file, at: 0, blocks: blocks.map(Arc::new) })
    }

    /// The digests, for others that write to the file, and for the end.
    pub(crate) fn blocks(&self) -> Option<Arc<Blocks>> {
        self.blocks.clone()
    }
}

impl Read for HashedFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Write for HashedFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.file.write_at(buf, self.at)?;
        if let Some(blocks) = &self.blocks {
            blocks.wrote(self.at, n as u64);
        }
        self.at += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for HashedFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let from = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.file.metadata()?.len().checked_add_signed(by),
        };
        self.at = from.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl Blocks {
    fn start(file: &File, options: &VerityOptions) -> Result<Self> {
        let block = options.block();
        let file = file.try_clone().during("duplicate descriptor")?;
        let blocks = VerityBlocks::new(options);
        let (queue, ranges) = channel();
        let thread = thread::spawn(move || digest(&file, blocks, block, &ranges));
        let (queue, thread) = (Some(queue), Some(thread));
        let written = Written { end: 0, told: 0, stale: BTreeSet::new(), queue, thread };
        Ok(Self { block, written: Mutex::new(written) })
    }

    /// Takes note of bytes that were written at `at`.
    pub(crate) fn wrote(&self, at: u64, len: u64) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let (end, told) = (written.end, written.told);
        // What was left out is written later.
        if at > end {
            written.stale.extend(end / self.block..at.div_ceil(self.block));
        }
        if at < told * self.block {
            written.stale.extend(at / self.block..(at + len).div_ceil(self.block).min(told));
        }
        written.end = end.max(at + len);
        let whole = written.end / self.block;
        if (whole - told) * self.block >= PIECE {
            written.told = whole;
            if let Some(queue) = &written.queue {
                // A thread that has failed says so when it is joined.
                let _ = queue.send(told..whole);
            }
        }
    }

    /// The tree of the file, which is complete.
    pub(crate) fn finish(&self, file: &File) -> Result<VerityTree> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.queue = None;
        let failed = || Error::new(ErrorKind::FailedPrecondition, "the hash tree is finished already");
        let thread = written.thread.take().ok_or_else(failed)?;
        let panicked = |_| Error::new(ErrorKind::Io(None), "the thread that digests the image has panicked");
        let mut blocks = thread.join().map_err(panicked)?.during("read the image")?;
        let size = file.metadata().during("look at the image")?.len();
        let rest = written.told..size.div_ceil(self.block);
        let stale = std::mem::take(&mut written.stale);
        for range in stale.into_iter().map(|block| block..block + 1).chain([rest]) {
            set(file, &mut blocks, self.block, range).during("read the image")?;
        }
        blocks.finish(size).map_err(erofs_error)
    }
}

impl Drop for Blocks {
    /// Of an image that failed: the thread ends before the call does that wanted it.
    fn drop(&mut self) {
        let written = self.written.get_mut().unwrap_or_else(PoisonError::into_inner);
        written.queue = None;
        if let Some(thread) = written.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Digests the blocks that it is told of.
fn digest(
    file: &File,
    mut blocks: VerityBlocks,
    block: u64,
    ranges: &Receiver<Range<u64>>,
) -> io::Result<VerityBlocks> {
    for range in ranges {
        set(file, &mut blocks, block, range)?;
    }
    Ok(blocks)
}

fn set(file: &File, blocks: &mut VerityBlocks, block: u64, range: Range<u64>) -> io::Result<()> {
    let mut at = range.start;
    let mut buffer = Vec::new();
    while at < range.end {
        let count = (PIECE / block).max(1).min(range.end - at);
        buffer.resize((count * block) as usize, 0);
        let mut filled = 0;
        // The last block of a file may not be whole.
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], at * block + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        blocks.set(at, &buffer[..filled]);
        at += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_that_of_the_file_in_whatever_order_it_was_written() {
        let options = VerityOptions::new();
        let file = || tempfile::tempfile().unwrap();
        for (seed, tail) in [(1u64, 0), (2, 1), (3, 4095), (4, 700_001)] {
            let plain = file();
            let mut hashed = HashedFile::new(plain.try_clone().unwrap(), Some(&options)).unwrap();
            let mut state = seed;
            let mut next = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            let mut end = 0;
            for n in 0..200 {
                // Mostly on and on, sometimes with a gap, sometimes back.
                let at = match n % 7 {
                    5 => end + next(300_000),
                    6 => next(end),
                    _ => end,
                };
                let len = 1 + next(60_000);
                hashed.seek(SeekFrom::Start(at)).unwrap();
                hashed.write_all(&vec![n as u8 + 1; len as usize]).unwrap();
                end = end.max(at + len);
            }
            // As others write to the file.
            plain.write_all_at(&vec![9; tail], end).unwrap();
            let blocks = hashed.blocks().unwrap();
            blocks.wrote(end, tail as u64);
            let made = blocks.finish(&plain).unwrap();
            let mut all = plain;
            all.rewind().unwrap();
            let want = erofs_format::verity_tree(&mut all, &options).unwrap();
            assert_eq!((made.root(), made.offset()), (want.root(), want.offset()), "{seed}");
            let bytes = |tree: &VerityTree| {
                let mut out = Vec::new();
                tree.append_to(&mut out).unwrap();
                out
            };
            assert!(bytes(&made) == bytes(&want));
        }
    }
}
