//! The stages of a blob's way, and the threads between them.

use std::{
    convert::Infallible,
    io::{self, BufRead, Read},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crossbeam_channel::{Receiver, bounded, select};
use layer_model::{Digest, Error, ErrorKind, IoContext, Result, digest::Algorithm};

use super::decode::{Decoder, Step};
use crate::{
    Chunk,
    chunk::Pool,
    hash::{Hasher, give_way},
};

/// How much is read at once. Large enough that queues and system calls do not count, small enough that what
/// is read is still in the cache when it is hashed and inflated.
pub(super) const READ_SIZE: usize = 256 * 1024;

/// How much is decompressed at once. More than is read: who decompresses has a processor for himself at best, and each
/// piece wakes others up that want it.
pub(super) const CONTENT_SIZE: usize = 1024 * 1024;

/// How many chunks wait between two threads.
const QUEUE: usize = 4;

/// Gives the chunks of a stream.
///
/// # Laws
/// All chunks but the last are as long as the stage makes them, so that the first one tells what the stream is.
/// `Ok(None)` means that everything below was read to its end and checked. After `Ok(None)` or an error it is not called again.
pub(super) trait Stage: Send {
    fn next_chunk(&mut self) -> Result<Option<Chunk>>;
}

/// Says stop to everything that waits in a queue: dropping the sender wakes all who hold a clone of this.
pub(super) type StopSignal = Receiver<Infallible>;

/// What the reading stage found.
#[derive(Debug, Default)]
pub(super) struct ReadResult {
    /// How many bytes were read so far.
    pub(super) count: AtomicU64,
    /// The digest, once all was read.
    pub(super) digest: Mutex<Option<Digest>>,
    /// Set when what is read is used as it is, by a thread that has enough to do: hash elsewhere.
    pub(super) hash_apart: AtomicBool,
}

impl ReadResult {
    pub(super) fn digest(&self) -> Option<Digest> {
        self.digest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Reads the blob, hashes it, and compares it with what was announced.
pub(super) struct ReadStage {
    input: Box<dyn Read + Send>,
    pool: Pool,
    hasher: Option<Hasher>,
    count: u64,
    expect_digest: Option<Digest>,
    expect_size: Option<u64>,
    result: Arc<ReadResult>,
}

impl ReadStage {
    pub(super) fn new(
        input: Box<dyn Read + Send>,
        algorithm: Algorithm,
        expect_digest: Option<Digest>,
        expect_size: Option<u64>,
        result: Arc<ReadResult>,
    ) -> Self {
        let hasher = Some(Hasher::new(algorithm, false, READ_SIZE));
        Self { input, pool: Pool::new(READ_SIZE), hasher, count: 0, expect_digest, expect_size, result }
    }

    fn check_end(&mut self) -> Result<()> {
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        let got = self.count;
        if let Some(expected) = self.expect_size.filter(|expected| *expected != got) {
            return Err(Error::new(ErrorKind::SizeMismatch { expected, got }, "blob has another size"));
        }
        let (digest, _) = hasher.finish();
        if let Some(expected) = self.expect_digest.take().filter(|expected| *expected != digest) {
            let kind = ErrorKind::DigestMismatch { expected, got: digest };
            return Err(Error::new(kind, "blob has another digest"));
        }
        *self.result.digest.lock().unwrap_or_else(PoisonError::into_inner) = Some(digest);
        Ok(())
    }
}

impl Stage for ReadStage {
    fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        let mut buffer = self.pool.take();
        let n = read_full(&mut self.input, buffer.as_mut()).during("read blob")?;
        if n == 0 {
            self.check_end()?;
            return Ok(None);
        }
        let chunk = buffer.freeze(n);
        if self.result.hash_apart.swap(false, Ordering::Relaxed) {
            self.hasher = self.hasher.take().map(Hasher::on_thread);
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&chunk);
        }
        self.count += chunk.len() as u64;
        let count = self.count;
        self.result.count.store(count, Ordering::Relaxed);
        match self.expect_size {
            // No need to read, and to inflate, what was not announced.
            Some(expected) if count > expected => {
                let kind = ErrorKind::SizeMismatch { expected, got: count };
                Err(Error::new(kind, "blob is larger than announced"))
            }
            _ => Ok(Some(chunk)),
        }
    }
}

/// Reads until `buf` is full or the input ends.
pub(super) fn read_full(input: &mut (impl Read + ?Sized), buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match read_some(input, &mut buf[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

/// Reads once, again if a signal came between.
pub(super) fn read_some(input: &mut (impl Read + ?Sized), buf: &mut [u8]) -> io::Result<usize> {
    loop {
        match input.read(buf) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A reader that claims more than there is room for is not to be trusted with an index.
            other => return other.map(|n| n.min(buf.len())),
        }
    }
}

/// Takes a compression off.
pub(super) struct DecodeStage<S> {
    input: S,
    decoder: Box<dyn Decoder>,
    pool: Pool,
    current: Option<(Chunk, usize)>,
    input_ended: bool,
    produced: u64,
}

impl<S: Stage> DecodeStage<S> {
    pub(super) fn new(input: S, decoder: Box<dyn Decoder>) -> Self {
        Self { input, decoder, pool: Pool::new(CONTENT_SIZE), current: None, input_ended: false, produced: 0 }
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < out.len() {
            if self.current.is_none() && !self.input_ended {
                self.current = self.input.next_chunk()?.map(|chunk| (chunk, 0));
                self.input_ended = self.current.is_none();
            }
            let input = self.current.as_ref().map_or(&[][..], |(chunk, at)| &chunk[*at..]);
            let Step { consumed, produced } = self
                .decoder
                .decode(input, &mut out[filled..])
                .map_err(|error| error.offset(self.produced + filled as u64))?;
            filled += produced;
            match &mut self.current {
                Some((chunk, at)) => {
                    *at += consumed;
                    if *at == chunk.len() {
                        self.current = None;
                    } else if consumed == 0 && produced == 0 {
                        let error = Error::new(ErrorKind::InvalidArchive, "the decoder makes no progress");
                        return Err(error.offset(self.produced + filled as u64));
                    }
                }
                None if produced == 0 => {
                    self.decoder.end().map_err(|error| error.offset(self.produced + filled as u64))?;
                    break;
                }
                None => {}
            }
        }
        Ok(filled)
    }
}

impl<S: Stage> Stage for DecodeStage<S> {
    fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        let mut buffer = self.pool.take();
        let n = self.fill(buffer.as_mut())?;
        self.produced += n as u64;
        Ok((n > 0).then(|| buffer.freeze(n)))
    }
}

/// A stage of which the first chunk was looked at.
pub(super) struct Peeked {
    pub(super) first: Option<Chunk>,
    pub(super) rest: Box<dyn Stage>,
    pub(super) ended: bool,
}

impl Peeked {
    pub(super) fn new(mut rest: Box<dyn Stage>) -> Result<Self> {
        let first = rest.next_chunk()?;
        Ok(Self { ended: first.is_none(), first, rest })
    }
}

impl Stage for Peeked {
    fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        match self.first.take() {
            Some(chunk) => Ok(Some(chunk)),
            None if self.ended => Ok(None),
            None => self.rest.next_chunk(),
        }
    }
}

impl Stage for Box<dyn Stage> {
    fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        (**self).next_chunk()
    }
}

/// A stage that runs ahead on a thread of its own.
pub(super) struct Threaded {
    chunks: Option<Receiver<Result<Chunk>>>,
    stop: StopSignal,
    thread: Option<JoinHandle<()>>,
}

impl Threaded {
    pub(super) fn start(stage: impl Stage + 'static, stop: StopSignal) -> Self {
        Self::spawn(stage, stop, false)
    }

    /// The same for what is ahead of a decoder, which takes longer: where there are fewer processors than threads, this one
    /// runs when the decoder waits.
    pub(super) fn start_before_decoder(stage: impl Stage + 'static, stop: StopSignal) -> Self {
        Self::spawn(stage, stop, true)
    }

    fn spawn(mut stage: impl Stage + 'static, stop: StopSignal, gives_way: bool) -> Self {
        let (send, chunks) = bounded(QUEUE);
        let thread = thread::spawn(move || {
            if gives_way {
                give_way();
            }
            while let Some(chunk) = stage.next_chunk().transpose() {
                let failed = chunk.is_err();
                if send.send(chunk).is_err() || failed {
                    break;
                }
            }
        });
        Self { chunks: Some(chunks), stop, thread: Some(thread) }
    }
}

impl Stage for Threaded {
    fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        let Some(chunks) = &self.chunks else { return Ok(None) };
        let received = select! {
            recv(chunks) -> received => received,
            recv(self.stop) -> _ => return Err(Error::cancelled()),
        };
        match received {
            Ok(chunk) => chunk.map(Some),
            Err(_) => {
                self.chunks = None;
                let ended = self.thread.take().map_or(Ok(()), JoinHandle::join);
                ended.map_err(|_| {
                    Error::new(ErrorKind::Io(None), "a thread that reads the blob has panicked")
                })?;
                Ok(None)
            }
        }
    }
}

impl Drop for Threaded {
    fn drop(&mut self) {
        // A thread that waits for room in the queue ends now, and one that decodes after this chunk. One that
        // waits for a pipe or a socket may do so for ever: it is left behind, and ends when its read returns.
        self.chunks = None;
        let Some(thread) = self.thread.take() else { return };
        for _ in 0..GRACE_STEPS {
            if thread.is_finished() {
                let _ = thread.join();
                return;
            }
            thread::sleep(GRACE_STEP);
        }
    }
}

/// How often a thread that should end is looked at, before it is left behind: a fifth of a second, which is
/// ample for one that computes or reads a file.
const GRACE_STEPS: u32 = 400;
const GRACE_STEP: Duration = Duration::from_micros(500);

/// A stage as a reader.
pub(super) struct StageReader {
    stage: Box<dyn Stage>,
    current: Option<(Chunk, usize)>,
    ended: bool,
}

impl StageReader {
    pub(super) fn new(stage: Box<dyn Stage>) -> Self {
        Self { stage, current: None, ended: false }
    }
}

impl BufRead for StageReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.current.as_ref().is_none_or(|(chunk, at)| *at == chunk.len()) && !self.ended {
            // Set first: after an error the stage is not called again.
            self.ended = true;
            self.current = self.stage.next_chunk()?.map(|chunk| (chunk, 0));
            self.ended = self.current.is_none();
        }
        Ok(self.current.as_ref().map_or(&[], |(chunk, at)| &chunk[*at..]))
    }

    fn consume(&mut self, amount: usize) {
        if let Some((chunk, at)) = &mut self.current {
            *at = (*at + amount).min(chunk.len());
        }
    }
}

impl Read for StageReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}
