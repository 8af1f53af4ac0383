//! A blob, open.

use std::{
    convert::Infallible,
    fmt,
    io::{self, BufRead, Read},
    sync::{Arc, atomic::Ordering},
};

use crossbeam_channel::{Sender, bounded};
use layer_model::{
    Digest, Error, ErrorKind, MediaType, Monitor, Result,
    digest::Algorithm,
    media::{Compression, LayerType},
};

use super::{
    BlobOptions, BlobSource, chain,
    stage::{CONTENT_SIZE, ReadResult, ReadStage, Stage, Threaded},
};
use crate::{BlobSummary, Chunk, ReadOptions, TarSource, hash::Hasher};

/// The uncompressed content of a blob, verified on the way.
///
/// It is read as chunks ([`LayerBlob::next_chunk`]) or as a [`BufRead`] that lends out the same memory. The end
/// of the stream is given only when everything was checked: that all of the blob was there, that it and its
/// content have the digests and sizes announced. Until then, what was read is not to be trusted.
///
/// Progress is told in bytes of the blob as it is stored. Helper threads end with the value. When it is dropped
/// early, a thread that waits for a reader that does not answer (a pipe, a socket) is left behind, and ends as
/// soon as the reader does.
pub struct LayerBlob<'m> {
    // Dropped first: wakes every thread that waits for another.
    stop: Option<Sender<Infallible>>,
    stage: Option<Box<dyn Stage>>,
    current: Option<(Chunk, usize)>,
    media_type: MediaType,
    content_type: MediaType,
    /// None where the content is the blob, whose digest is the reading stage's.
    content_hash: Option<Hasher>,
    expect_diff_id: Option<Digest>,
    max_total_size: u64,
    total: u64,
    read: Arc<ReadResult>,
    reported: u64,
    summary: Option<BlobSummary>,
    tee: Option<Tee<'m>>,
    monitor: &'m dyn Monitor,
}

/// Takes the pieces of the content as they come.
type Tee<'m> = Box<dyn FnMut(&[u8]) -> Result<()> + Send + 'm>;

impl<'m> LayerBlob<'m> {
    /// Opens the blob that `input` gives, of the type `media_type`.
    ///
    /// # Errors
    /// [`ErrorKind::UnsupportedMediaType`] when nothing leads from the type to a layer, naming the suffix that is
    /// not understood; [`ErrorKind::NotSupported`] for an expected digest of an algorithm that is not known here;
    /// what reading the first bytes gives.
    pub fn open(
        input: impl Read + Send + 'static,
        media_type: &MediaType,
        options: BlobOptions,
        monitor: &'m dyn Monitor,
    ) -> Result<Self> {
        let blob_algorithm = algorithm(options.expect_digest.as_ref())?;
        let content_algorithm = algorithm(options.expect_diff_id.as_ref())?;
        let read = Arc::new(ReadResult::default());
        let BlobOptions { expect_digest, expect_size, .. } = &options;
        let stage = ReadStage::new(
            Box::new(input),
            blob_algorithm,
            expect_digest.clone(),
            *expect_size,
            Arc::clone(&read),
        );
        let (stop, stop_signal) = bounded(0);
        let chain = chain::build(Box::new(stage), media_type, &options, &stop_signal, monitor)?;
        let chain::Chain { stage, content_type, is_bare } = chain;
        // What needs no work but the hash is read by the caller's thread, and hashed by another.
        let threaded = options.jobs > 1 && !is_bare;
        read.hash_apart.store(options.jobs > 1 && is_bare, Ordering::Relaxed);
        let stage: Box<dyn Stage> =
            if threaded { Box::new(Threaded::start(stage, stop_signal)) } else { stage };
        let same = is_bare && content_algorithm == blob_algorithm;
        Ok(Self {
            stop: Some(stop),
            stage: Some(stage),
            current: None,
            media_type: media_type.clone(),
            content_type,
            content_hash: (!same)
                .then(|| Hasher::behind_decoder(content_algorithm, options.jobs > 2, CONTENT_SIZE)),
            expect_diff_id: options.expect_diff_id,
            max_total_size: options.max_total_size,
            total: 0,
            read,
            reported: 0,
            summary: None,
            tee: None,
            monitor,
        })
    }

    /// The same blob, of which `tee` gets all of the content, piece by piece, before who reads it does. As with reading,
    /// what it got is not to be trusted before the end was reached. Its errors are those of reading.
    #[must_use]
    pub fn tee(mut self, tee: impl FnMut(&[u8]) -> Result<()> + Send + 'm) -> Self {
        self.tee = Some(Box::new(tee));
        self
    }

    /// The type of the blob as it is stored.
    pub fn media_type(&self) -> &MediaType {
        &self.media_type
    }

    /// The type of the content: a layer tar, or an EROFS image.
    pub fn content_type(&self) -> &MediaType {
        &self.content_type
    }

    /// The next piece of the content, [`None`] when there is no more and all was checked. What was read of a piece
    /// through [`BufRead`] is not given again, nor is the rest of it.
    ///
    /// # Errors
    /// [`ErrorKind::DigestMismatch`], [`ErrorKind::SizeMismatch`], [`ErrorKind::Truncated`],
    /// [`ErrorKind::InvalidArchive`] for data that does not decompress, [`ErrorKind::LimitExceeded`],
    /// [`ErrorKind::Cancelled`], and errors of the reader. Afterwards every call fails.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        self.current = None;
        if self.summary.is_some() {
            return Ok(None);
        }
        // Taken out, so that an error ends all threads and leaves nothing to go on with.
        let Some(mut stage) = self.stage.take() else {
            return Err(Error::new(ErrorKind::FailedPrecondition, "reading the blob has failed before"));
        };
        let next = self.pull(&mut *stage);
        if matches!(next, Ok(Some(_))) {
            self.stage = Some(stage);
        } else {
            self.stop = None;
        }
        next
    }

    fn pull(&mut self, stage: &mut dyn Stage) -> Result<Option<Chunk>> {
        if self.monitor.should_stop() {
            return Err(Error::cancelled());
        }
        let chunk = stage.next_chunk()?;
        let count = self.read.count.load(Ordering::Relaxed);
        if count > self.reported {
            self.monitor.bytes(count - self.reported);
            self.reported = count;
        }
        let Some(chunk) = chunk else {
            self.end(count)?;
            return Ok(None);
        };
        self.total = self.total.saturating_add(chunk.len() as u64);
        if self.total > self.max_total_size {
            let kind = ErrorKind::LimitExceeded { limit: "max_total_size" };
            return Err(Error::new(kind, "content of the blob is too large").offset(self.max_total_size));
        }
        if let Some(hasher) = &mut self.content_hash {
            hasher.update(&chunk);
        }
        if let Some(tee) = &mut self.tee {
            tee(&chunk)?;
        }
        Ok(Some(chunk))
    }

    /// Compares what is left to compare, after the last piece.
    fn end(&mut self, size: u64) -> Result<()> {
        let Some(digest) = self.read.digest() else {
            return Err(Error::new(ErrorKind::Truncated, "the blob was not read to its end"));
        };
        let (diff_id, diff_size) =
            self.content_hash.take().map_or_else(|| (digest.clone(), size), Hasher::finish);
        if let Some(expected) = self.expect_diff_id.take().filter(|expected| *expected != diff_id) {
            let kind = ErrorKind::DigestMismatch { expected, got: diff_id };
            return Err(Error::new(kind, "content of the blob has another digest"));
        }
        let media_type = self.media_type.clone();
        self.summary = Some(BlobSummary { media_type, digest, size, diff_id, diff_size });
        Ok(())
    }

    /// Digests and sizes, once everything was read and checked.
    pub fn summary(&self) -> Option<&BlobSummary> {
        self.summary.as_ref()
    }

    /// Reads and checks what is left.
    ///
    /// # Errors
    /// Those of [`LayerBlob::next_chunk`].
    pub fn finish(mut self) -> Result<BlobSummary> {
        while self.next_chunk()?.is_some() {}
        self.summary
            .take()
            .ok_or_else(|| Error::new(ErrorKind::Truncated, "the blob was not read to its end"))
    }

    /// The changes of the layer tar in the blob.
    ///
    /// # Errors
    /// [`ErrorKind::UnsupportedMediaType`] when the content is no tar.
    pub fn into_source(self, options: ReadOptions) -> Result<BlobSource<'m>> {
        if self.content_type.layer_type() != LayerType::Tar(Compression::None) {
            let message = format!("{} is no layer tar", self.content_type);
            return Err(Error::new(ErrorKind::UnsupportedMediaType, message));
        }
        let monitor = self.monitor;
        Ok(BlobSource::new(TarSource::new(self, options, monitor)))
    }
}

fn algorithm(expected: Option<&Digest>) -> Result<Algorithm> {
    match expected {
        None => Ok(Algorithm::default()),
        Some(digest) => digest.algorithm().ok_or_else(|| {
            let message = format!("digests of {} cannot be checked", digest.algorithm_name());
            Error::new(ErrorKind::NotSupported, message)
        }),
    }
}

impl BufRead for LayerBlob<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.current.as_ref().is_none_or(|(chunk, at)| *at == chunk.len()) {
            self.current = self.next_chunk()?.map(|chunk| (chunk, 0));
        }
        Ok(self.current.as_ref().map_or(&[], |(chunk, at)| &chunk[*at..]))
    }

    fn consume(&mut self, amount: usize) {
        if let Some((chunk, at)) = &mut self.current {
            *at = (*at + amount).min(chunk.len());
        }
    }
}

impl Read for LayerBlob<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

impl fmt::Debug for LayerBlob<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { media_type, content_type, total, summary, .. } = self;
        let mut debug = f.debug_struct("LayerBlob");
        debug.field("media_type", media_type).field("content_type", content_type);
        debug.field("total", total).field("summary", summary).finish_non_exhaustive()
    }
}
