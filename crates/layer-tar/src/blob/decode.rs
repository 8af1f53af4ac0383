//! Decompression: formats as state machines over byte slices.

mod gzip;
#[cfg(feature = "zstd")]
mod libzstd;
// Built beside the library, too, so that tests can compare the two.
#[cfg(any(test, not(feature = "zstd")))]
mod zstd;

use layer_model::{Result, media::Compression};

/// Decodes one stream, in whatever pieces it comes.
///
/// # Laws
/// - A call with input and room makes progress on either side, or fails.
/// - With no input it gives what it still has; when that is nothing, nothing is produced.
/// - Memory is bounded by the format and the options, not by the input.
pub(super) trait Decoder: Send {
    /// Decodes from `input` into `out`.
    fn decode(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step>;

    /// Says that the input has ended, after all output was taken.
    ///
    /// # Errors
    /// [`ErrorKind::Truncated`](layer_model::ErrorKind::Truncated) when that is too early.
    fn end(&mut self) -> Result<()>;
}

/// How far a call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) consumed: usize,
    pub(super) produced: usize,
}

/// The decoder for a compression; [`None`] when there is nothing to decode.
pub(super) fn decoder(compression: Compression, max_window: u64) -> Result<Option<Box<dyn Decoder>>> {
    Ok(match compression {
        Compression::None | Compression::Detect => None,
        Compression::Gzip => Some(Box::new(gzip::Gunzip::new())),
        #[cfg(feature = "zstd")]
        Compression::Zstd => Some(Box::new(libzstd::Unzstd::new(max_window)?)),
        #[cfg(not(feature = "zstd"))]
        Compression::Zstd => Some(Box::new(zstd::Unzstd::new(max_window))),
    })
}
