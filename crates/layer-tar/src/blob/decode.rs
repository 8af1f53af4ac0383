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

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes a stream that comes in pieces of `piece` bytes, into room for `room`.
    fn decode(mut decoder: Box<dyn Decoder>, stream: &[u8], piece: usize, room: usize) -> Result<Vec<u8>> {
        let (mut out, mut buf) = (Vec::new(), vec![0; room]);
        for mut piece in stream.chunks(piece).chain([&[][..]]) {
            loop {
                let step = decoder.decode(piece, &mut buf)?;
                out.extend_from_slice(&buf[..step.produced]);
                piece = &piece[step.consumed..];
                if step.produced == 0 && (piece.is_empty() || step.consumed == 0) {
                    assert!(piece.is_empty(), "the decoder makes no progress");
                    break;
                }
            }
        }
        decoder.end()?;
        Ok(out)
    }

    fn text() -> Vec<u8> {
        (0..60_000_u32).flat_map(|n| format!("{:x} ", n.wrapping_mul(n) % 9973).into_bytes()).collect()
    }

    #[test]
    fn gzip_is_decoded_in_pieces_of_any_size() {
        use crate::compress::{Codec, Gzip};
        let text = text();
        let mut encoder = Gzip::default().encoder().unwrap().unwrap();
        let mut out = Vec::new();
        let len = encoder.encode(&text, &mut out).unwrap();
        let stream = [&out[..len], &out[..len], &[0; 100]].concat();
        for (piece, room) in [(1, 1), (1, 100_000), (7, 13), (100_000, 1), (1 << 20, 1 << 20)] {
            let decoded = decode(Box::new(gzip::Gunzip::new()), &stream, piece, room).unwrap();
            assert!(decoded == text.repeat(2), "{piece} {room}");
        }
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn both_zstd_decoders_agree_on_streams_in_pieces_of_any_size() {
        use crate::compress::{Codec, Zstd};
        let text = text();
        for level in [-5, 1, 3, 19] {
            let mut encoder = Zstd::new(level).encoder().unwrap().unwrap();
            let mut out = Vec::new();
            let mut stream = Vec::new();
            for part in [&text[..], b"", &vec![7; 300_000], &text[..1000]] {
                let len = encoder.encode(part, &mut out).unwrap();
                stream.extend_from_slice(&out[..len]);
            }
            let want = [&text[..], &vec![7; 300_000], &text[..1000]].concat();
            for (piece, room) in [(1, 1000), (7, 100_000), (100_000, 13), (1 << 20, 1 << 20)] {
                let rust: Box<dyn Decoder> = Box::new(zstd::Unzstd::new(128 << 20));
                let library: Box<dyn Decoder> = Box::new(libzstd::Unzstd::new(128 << 20).unwrap());
                for decoder in [rust, library] {
                    assert!(decode(decoder, &stream, piece, room).unwrap() == want, "{level} {piece} {room}");
                }
            }
            for end in [1, 4, 5, 10, 100, stream.len() - 1] {
                let rust: Box<dyn Decoder> = Box::new(zstd::Unzstd::new(128 << 20));
                let library: Box<dyn Decoder> = Box::new(libzstd::Unzstd::new(128 << 20).unwrap());
                for decoder in [rust, library] {
                    let error = decode(decoder, &stream[..end], 1 << 20, 1 << 20).unwrap_err();
                    assert_eq!(error.kind(), &layer_model::ErrorKind::Truncated);
                }
            }
        }
    }
}
