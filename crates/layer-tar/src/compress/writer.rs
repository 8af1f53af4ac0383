//! The writer of blobs.

use std::{
    fmt,
    io::{self, Write},
    num::NonZeroUsize,
    thread,
};

use layer_model::{Error, ErrorKind, IoContext, MediaType, Result, digest::Algorithm};

use super::{BlockEncoder, Codec, workers::Workers};
use crate::{
    BlobSummary, Chunk,
    chunk::{Buffer, Pool},
    hash::Hasher,
    options::setters,
};

/// How a blob is written. Nothing here changes the bytes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BlobWriterOptions {
    /// How many threads compress. Two more hash: the input and the output. With 1, all is done on the
    /// caller's thread. Default: as many as the machine runs at once.
    pub jobs: usize,
    /// The algorithm of both digests.
    pub algorithm: Algorithm,
    /// The type to tell, in place of the codec's: for Docker's types, or for content that is no tar.
    pub media_type: Option<MediaType>,
}

impl Default for BlobWriterOptions {
    fn default() -> Self {
        let jobs = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self { jobs, algorithm: Algorithm::default(), media_type: None }
    }
}

impl BlobWriterOptions {
    setters! {
        /// Sets [`Self::jobs`].
        jobs: usize,
        /// Sets [`Self::algorithm`].
        algorithm: Algorithm,
        /// Sets [`Self::media_type`].
        media_type: Option<MediaType>,
    }
}

/// Writes a blob: what is written to it comes out compressed, and both sides are hashed.
///
/// The output is a function of the input and the codec: not of the number of threads, and not of how the input
/// was cut into calls; [`flush`](Write::flush) does nothing for that reason. Output is written by the
/// caller's thread, so that `W` need not be [`Send`]; threads compress and hash meanwhile.
///
/// Memory is bounded: a few blocks for each thread. Without [`BlobWriter::finish`] the output is cut off.
pub struct BlobWriter<W> {
    out: W,
    media_type: MediaType,
    engine: Engine,
    block_len: usize,
    pool: Pool,
    block: Option<Buffer>,
    filled: usize,
    content_hash: Option<Hasher>,
    /// None where the content is the blob.
    blob_hash: Option<Hasher>,
    failed: bool,
}

/// Who compresses.
enum Engine {
    Nobody,
    Here { encoder: Box<dyn BlockEncoder>, pool: Pool, any: bool },
    Threads { workers: Workers, any: bool },
}

impl<W: Write> BlobWriter<W> {
    /// Writes to `out`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the codec's level does not exist.
    pub fn new(out: W, codec: impl Codec, options: BlobWriterOptions) -> Result<Self> {
        let threaded = options.jobs > 1;
        let engine = match codec.encoder()? {
            None => Engine::Nobody,
            Some(_) if threaded => {
                Engine::Threads { workers: Workers::start(&codec, options.jobs)?, any: false }
            }
            Some(encoder) => Engine::Here { encoder, pool: Pool::new(0), any: false },
        };
        let blob_hash = match engine {
            Engine::Nobody => None,
            _ => Some(Hasher::new(options.algorithm, threaded, codec.block_len())),
        };
        Ok(Self {
            out,
            media_type: options.media_type.unwrap_or_else(|| codec.media_type()),
            engine,
            block_len: codec.block_len().max(1),
            pool: Pool::new(codec.block_len().max(1)),
            block: None,
            filled: 0,
            content_hash: Some(Hasher::new(options.algorithm, threaded, codec.block_len())),
            blob_hash,
            failed: false,
        })
    }

    /// Has `read` put up to `most` bytes of content into the writer's own memory, which spares a copy of them,
    /// and writes as many as it says. Returns that number, which is 0 only where `read` gave 0 or `most` is.
    ///
    /// # Errors
    /// Those of `read`, after which one can go on, of the encoder, and of the writer.
    pub fn fill_with(&mut self, most: usize, read: impl FnOnce(&mut [u8]) -> Result<usize>) -> Result<usize> {
        if self.failed {
            return Err(Error::new(ErrorKind::FailedPrecondition, "writing the blob has failed before"));
        }
        let block = self.block.get_or_insert_with(|| self.pool.take());
        let room = most.min(self.block_len - self.filled);
        let n = read(&mut block.as_mut()[self.filled..][..room])?.min(room);
        self.filled += n;
        if self.filled == self.block_len {
            self.failed = true;
            self.end_block()?;
            self.failed = false;
        }
        Ok(n)
    }

    /// Writes what is left, and gives the writer back with the digests of both sides.
    ///
    /// # Errors
    /// Those of the encoder and of the writer.
    pub fn finish(mut self) -> Result<(W, BlobSummary)> {
        if self.failed {
            return Err(Error::new(ErrorKind::FailedPrecondition, "writing the blob has failed before"));
        }
        // An empty content is an empty member, not an empty file, which no reader takes for gzip.
        let nothing_yet =
            matches!(&self.engine, Engine::Here { any: false, .. } | Engine::Threads { any: false, .. });
        if self.filled > 0 || nothing_yet {
            self.block.get_or_insert_with(|| self.pool.take());
            self.end_block()?;
        }
        if let Engine::Threads { workers, .. } = &mut self.engine {
            while let Some(packed) = workers.next_result() {
                put(&mut self.out, &mut self.blob_hash, &packed?)?;
            }
        }
        self.out.flush().during("write blob")?;
        let finish = |hasher: Option<Hasher>| hasher.map(Hasher::finish);
        let Some((diff_id, diff_size)) = finish(self.content_hash.take()) else {
            return Err(Error::new(ErrorKind::FailedPrecondition, "the blob is finished already"));
        };
        let (digest, size) = finish(self.blob_hash.take()).unwrap_or_else(|| (diff_id.clone(), diff_size));
        Ok((self.out, BlobSummary { media_type: self.media_type, digest, size, diff_id, diff_size }))
    }

    /// Sends the current block on its way.
    fn end_block(&mut self) -> Result<()> {
        let Some(buffer) = self.block.take() else { return Ok(()) };
        let block = buffer.freeze(std::mem::take(&mut self.filled));
        if let Some(hasher) = &mut self.content_hash {
            hasher.update(&block);
        }
        match &mut self.engine {
            Engine::Nobody => put(&mut self.out, &mut self.blob_hash, &block),
            Engine::Here { encoder, pool, any } => {
                *any = true;
                let mut out = pool.take();
                let len = encoder.encode(&block, out.as_mut())?;
                put(&mut self.out, &mut self.blob_hash, &out.freeze(len))
            }
            Engine::Threads { workers, any } => {
                *any = true;
                workers.submit(block)?;
                while let Some(packed) = workers.next_ready() {
                    put(&mut self.out, &mut self.blob_hash, &packed?)?;
                }
                Ok(())
            }
        }
    }
}

fn put(out: &mut impl Write, hasher: &mut Option<Hasher>, bytes: &Chunk) -> Result<()> {
    if let Some(hasher) = hasher {
        hasher.update(bytes);
    }
    out.write_all(bytes).during("write blob")
}

impl<W: Write> Write for BlobWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let copy = |memory: &mut [u8]| {
            memory.copy_from_slice(&bytes[..memory.len()]);
            Ok(memory.len())
        };
        Ok(self.fill_with(bytes.len(), copy)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W> fmt::Debug for BlobWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobWriter").field("media_type", &self.media_type).finish_non_exhaustive()
    }
}
