//! What a compression is to the writer.

use std::fmt;

use layer_model::{MediaType, Result};

/// A compression, with its level: a value that the application passes in, so that one that is not used is
/// not linked, and so that bytes change only where the application changes them.
///
/// # Laws
/// - The output of a block is a function of the block and of the value alone.
/// - The outputs of consecutive blocks, one after the other, are one stream of the format.
pub trait Codec: fmt::Debug + Send + Sync {
    /// The type of a layer blob that is so compressed.
    fn media_type(&self) -> MediaType;

    /// How many bytes go into a block.
    fn block_len(&self) -> usize;

    /// An encoder for one thread; [`None`] when bytes stay as they are.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](layer_model::ErrorKind::InvalidArgument) for a level that there is not.
    fn encoder(&self) -> Result<Option<Box<dyn BlockEncoder>>>;
}

/// Compresses blocks, one at a time.
pub trait BlockEncoder: Send {
    /// Compresses `block`, and puts the result into the first bytes of `out`, which is made longer where that
    /// is needed. Returns how many bytes those are.
    ///
    /// `out` comes with whatever it held before: its memory is used again.
    ///
    /// # Errors
    /// Those of the encoder.
    fn encode(&mut self, block: &[u8], out: &mut Vec<u8>) -> Result<usize>;
}

impl<C: Codec + ?Sized> Codec for Box<C> {
    fn media_type(&self) -> MediaType {
        (**self).media_type()
    }

    fn block_len(&self) -> usize {
        (**self).block_len()
    }

    fn encoder(&self) -> Result<Option<Box<dyn BlockEncoder>>> {
        (**self).encoder()
    }
}

impl<C: Codec + ?Sized> Codec for std::sync::Arc<C> {
    fn media_type(&self) -> MediaType {
        (**self).media_type()
    }

    fn block_len(&self) -> usize {
        (**self).block_len()
    }

    fn encoder(&self) -> Result<Option<Box<dyn BlockEncoder>>> {
        (**self).encoder()
    }
}

/// No compression.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plain;

impl Codec for Plain {
    fn media_type(&self) -> MediaType {
        MediaType::layer_tar()
    }

    /// As much as a system call moves well.
    fn block_len(&self) -> usize {
        256 * 1024
    }

    fn encoder(&self) -> Result<Option<Box<dyn BlockEncoder>>> {
        Ok(None)
    }
}
