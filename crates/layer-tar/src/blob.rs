//! Reading blobs: unwrapped by their media type, verified on the way.
//!
//! A blob goes through a row of stages: read and hash, take wrappings off (compression, or whatever a
//! [`LayerProcessor`] knows of), hash the content. Stages pass [`Chunk`](crate::Chunk)s, whose memory is shared
//! and used again, and run on threads of their own with short queues between, so that reading, inflating,
//! hashing and the consumer's writing overlap; with [`BlobOptions::jobs`] of 1 the same stages run one inside
//! the other. An error of any stage ends all of them.
//!
//! What the media type says is a hint about compression, as in containerd: the bytes decide, and a
//! difference is a warning. What it says about other wrappings (`+encrypted`) is law.

mod chain;
#[cfg(all(unix, feature = "command"))]
mod command;
mod decode;
mod detect;
mod layer_blob;
mod processor;
mod source;
mod stage;

use std::{io::Read, sync::Arc};

use layer_model::{Digest, Digester, Error, IoContext, Monitor, Result, digest::Algorithm};

#[cfg(all(unix, feature = "command"))]
pub use self::command::CommandProcessor;
pub use self::{
    detect::detect,
    layer_blob::LayerBlob,
    processor::{LayerProcessor, ProcessorRead},
    source::BlobSource,
};
use crate::options::setters;

/// How a blob is read, and what is known of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BlobOptions {
    /// The digest that the blob must have.
    pub expect_digest: Option<Digest>,
    /// The size that the blob must have, in bytes.
    pub expect_size: Option<u64>,
    /// The digest that the content must have.
    pub expect_diff_id: Option<Digest>,
    /// What takes wrappings off that are not known here. The last is asked first.
    pub processors: Vec<Arc<dyn LayerProcessor>>,
    /// Whether to refuse a blob whose compression is not the one that its media type says.
    pub strict_media_type: bool,
    /// Whether to accept EROFS layers compressed by gzip; containerd only knows zstd.
    pub erofs_gzip: bool,
    /// How large the content may be, in bytes. Default 1 TiB.
    pub max_total_size: u64,
    /// How large a window a zstd frame may ask for, in bytes. Default 128 MiB, as in the zstd tools.
    pub max_window: u64,
    /// How many threads may work at once, the caller's included; more than 4 are not used. Default 4: the stages
    /// wait for each other most of the time, so that this is right for few processors too.
    pub jobs: usize,
}

impl Default for BlobOptions {
    fn default() -> Self {
        Self {
            expect_digest: None,
            expect_size: None,
            expect_diff_id: None,
            processors: Vec::new(),
            strict_media_type: false,
            erofs_gzip: false,
            max_total_size: 1 << 40,
            max_window: 128 << 20,
            jobs: 4,
        }
    }
}

impl BlobOptions {
    setters! {
        /// Sets [`Self::expect_digest`].
        expect_digest: Option<Digest>,
        /// Sets [`Self::expect_size`].
        expect_size: Option<u64>,
        /// Sets [`Self::expect_diff_id`].
        expect_diff_id: Option<Digest>,
        /// Sets [`Self::strict_media_type`].
        strict_media_type: bool,
        /// Sets [`Self::erofs_gzip`].
        erofs_gzip: bool,
        /// Sets [`Self::max_total_size`].
        max_total_size: u64,
        /// Sets [`Self::max_window`].
        max_window: u64,
        /// Sets [`Self::jobs`].
        jobs: usize,
    }

    /// Adds a processor, which is asked before those added earlier.
    #[must_use]
    pub fn processor(mut self, processor: impl LayerProcessor + 'static) -> Self {
        self.processors.push(Arc::new(processor));
        self
    }
}

/// Hashes everything that `input` gives, and counts it: a blob as it is stored, not looked into.
///
/// # Errors
/// Those of the reader, and [`ErrorKind::Cancelled`](layer_model::ErrorKind::Cancelled).
pub fn digest(mut input: impl Read, algorithm: Algorithm, monitor: &dyn Monitor) -> Result<(Digest, u64)> {
    let mut digester = Digester::new(algorithm);
    let mut piece = vec![0; stage::READ_SIZE];
    loop {
        if monitor.should_stop() {
            return Err(Error::cancelled());
        }
        let n = stage::read_some(&mut input, &mut piece).during("read blob")?;
        if n == 0 {
            let size = digester.count();
            return Ok((digester.finish(), size));
        }
        digester.update(&piece[..n]);
        monitor.bytes(n as u64);
    }
}
